from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway, Stopped, ask_when_free
from giftcards.engine.placing import send_now
from giftcards.engine.pool import Pulse, fan_out
from giftcards.engine.sweep import watch
from giftcards.exceptions import AlreadyPlaced, DecryptionError, ProviderError, Refused
from giftcards.management.base import (
    PRODUCT,
    WORKING_SETTINGS,
    GiftcardsCommand,
    ok_or_trouble,
    order_as_dict,
    provider_state,
    reason,
    refuse,
    sentences,
    status_label,
    unfinished,
    what_it_waits_for,
)
from giftcards.management.output import Progress
from giftcards.models import Card, Order, new_reference
from giftcards.rules.identity import CLOCK_SKEW
from giftcards.rules.money import refund_breakdown
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import Status

T = TypeVar("T")
TYPE = "type_001"
_SALE_PRICE = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class Scenario:
    """An order of the self-test, and its expected result.

    If ``type_id`` is "", the value of the ``--type`` option is used.
    """

    name: str
    type_id: str
    quantity: int
    status: Status
    delivered: int


# The quantities are those of the provider's guide; TEST_PARTIAL delivers half of the cards.
SCENARIOS = (
    Scenario("refund", "TEST_REFUND", 2, Status.REFUNDED, 0),
    Scenario("partial delivery", "TEST_PARTIAL", 4, Status.PARTIALLY_FILLED, 2),
    Scenario("ordinary order", "", 2, Status.FULFILLED, 2),
)


@dataclass(frozen=True, slots=True)
class ReferenceTrial:
    """The result of a test that shows how the provider treats references.

    ``is_changed`` is True if the provider shows a reference that differs from the one it received.
    """

    is_accepted: bool
    is_told: bool = False
    is_listed: bool = False
    is_unique: bool = False
    is_changed: bool = False

    @property
    def advice(self) -> str:
        """A sentence with the recommended value of ``SEND_REFERENCE``."""
        if not self.is_accepted:
            return "Leave SEND_REFERENCE off: the provider does not accept references."
        if self.is_changed:
            return "Leave SEND_REFERENCE off: the provider changes references."
        gains = {
            "its list shows references, so lost orders can be found": self.is_listed,
            "it refuses a second purchase with the same reference": self.is_unique,
        }
        found = ", and ".join(gain for gain, is_given in gains.items() if is_given)
        if not found:
            return "Leave SEND_REFERENCE off: the provider ignores references."
        return f"Set SEND_REFERENCE to True for this provider: {found}."


@dataclass(frozen=True, slots=True)
class SelfTestReport:
    """The result of a scenario.

    The scenario passed if the list of ``complaints`` is empty.
    """

    scenario: Scenario
    order: Order
    complaints: list[str]


class Command(GiftcardsCommand):
    help = (
        "Run the provider's test scenarios in its sandbox: a refund, a partial delivery and"
        " an ordinary order. The command costs no money, because it refuses to run with a"
        " production API key."
    )
    notes = (
        "The command creates orders whose references begin with `selftest-`, and your"
        " receivers are called for them. The command also tries to decrypt the newest and"
        " the oldest stored card.",
        "If all scenarios succeed, the command buys up to two more orders without storing"
        " them. These orders show whether the provider stores references: see"
        " SEND_REFERENCE.",
        "Exit code 1 means that a scenario failed, or that a stored card cannot be decrypted.",
    )
    examples = (
        ("Use the product of the provider's guide:", ""),
        ("Use another product type for the ordinary order:", "--type type_002"),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--product",
            default=PRODUCT,
            help="The id of a product in the catalogue (default: %(default)s).",
        )
        parser.add_argument(
            "--type",
            default=TYPE,
            help="The product type of the ordinary order (default: %(default)s).",
        )

    def handle(self, **options: Any) -> None:
        # The keys are tried before the scenarios add cards.
        cards = Card.objects.all().try_keys()
        reports = []
        with Gateway() as gateway, self.progress(options) as progress:
            progress.show("Requesting the environment of the API key", unless_short=True)
            if reason := why_not(gateway):
                raise refuse(reason)
            product, kind = options["product"], options["type"]
            try:
                for report in run(gateway, product, kind, on_wait=partial(_show, progress)):
                    reports.append(report)
                    progress.end()
                    self.say(_line(report), options)
            except ValidationError as error:
                raise refuse(sentences(error)) from None
            complaints = list(_complaints(reports, cards))
            trial = None if complaints else try_reference(gateway, product)
        if options["json"]:
            scenarios = [_as_dict(report) for report in reports]
            cards = ok_or_trouble(cards)
            self.write_json(
                {
                    "passed": not complaints,
                    "cards": cards,
                    "scenarios": scenarios,
                    "references": trial and asdict(trial),
                }
            )
        if complaints:
            raise unfinished(" ".join(complaints))
        advice = trial and trial.advice
        self.say(
            advice or "References were not tested because the provider did not answer.", options
        )
        self.say(f"All {len(reports)} scenarios passed.", options)


def why_not(gateway: Gateway) -> str:
    """Return why the scenarios must not run with the API key, or ""."""
    if not gateway.try_open():
        return provider_state()
    question = [("key", gateway.client.validate)]
    answers = [answer for _name, answer in fan_out(question, gateway, Pulse())]
    if not answers:
        # The provider has just refused the key to another process.
        return provider_state()
    [key] = answers
    if isinstance(key, Exception):
        return f"The app could not determine the environment of the API key: {key}"
    gateway.note_key(key)
    if key.key_type != "SANDBOX":
        return (
            f"The key is for {key.key_type or 'an unknown environment'}, not for SANDBOX, so the"
            " orders would cost money. Set GIFTCARDS['API_KEY'] to a sandbox key."
        )
    if key.scope == "READ-ONLY":
        return (
            "The key is read-only. Set GIFTCARDS['API_KEY'] to a sandbox key that can place orders."
        )
    return ""


def run(
    gateway: Gateway, product_id: str, type_id: str, *, on_wait: Callable[[Scenario, Order], None]
) -> Iterator[SelfTestReport]:
    """Yield a report for each scenario.

    All orders are placed first, so that they settle in parallel. ``on_wait`` is called repeatedly
    until the order of a scenario has settled.
    """
    with transaction.atomic():
        orders = [
            Order.objects.record(
                Order(
                    product_id=product_id,
                    type_id=scenario.type_id or type_id,
                    quantity=scenario.quantity,
                    # An ordinary type gets no sale price, because it may cost more than any
                    # invented price.
                    sale_price=_SALE_PRICE if scenario.type_id else None,
                    # The shop's receivers recognise these orders by the reference.
                    reference=f"selftest-{new_reference()}",
                )
            )
            for scenario in SCENARIOS
        ]
    orders = [
        send_now(order, gateway, on_wait=partial(on_wait, scenario))
        for scenario, order in zip(SCENARIOS, orders, strict=True)
    ]
    for scenario, placed in zip(SCENARIOS, orders, strict=True):
        order = placed
        on_wait(scenario, order)
        for seen in watch(placed, gateway):
            order = seen
            on_wait(scenario, order)
            # If the price is unknown, the command does not wait for it, because this may take long.
            if any(problem.code == "price_unknown" for problem in order.open_problems):
                break
        yield SelfTestReport(scenario, order, list(_differences(scenario, order)))


def try_reference(gateway: Gateway, product_id: str) -> ReferenceTrial | None:
    """Test how the provider treats references.

    The function buys twice with the same reference, and searches the answers for the reference. If
    the provider refuses the first purchase, the function does not make the second one. The test
    type does not deliver cards. The provider's list of orders is read last, because a new order
    might be missing from the list at first. Returns ``None`` if the provider's answers are
    unusable.
    """

    def ask(call: Callable[[], T]) -> T:
        request = partial(gateway.ask, call, Purpose.BACKGROUND, may_repeat=False)
        return ask_when_free(gateway, request, lambda _is_paused: None)

    # The reference has the same form as the references that are sent with orders.
    [reference, *_] = conf.keyring().sent_references(f"selftest-{new_reference()}")
    place = partial(
        gateway.client.place,
        product_id=product_id,
        type_id=SCENARIOS[0].type_id,
        quantity=1,
        reference=reference,
    )
    began, is_unique = timezone.now(), False
    try:
        try:
            order_id = ask(place)
        except Refused:
            return ReferenceTrial(is_accepted=False)
        answer = ask(partial(gateway.client.check, order_id))
        try:
            ask(place)
        except AlreadyPlaced:
            is_unique = True
        start, end = began - CLOCK_SKEW, timezone.now() + CLOCK_SKEW
        page = ask(partial(gateway.client.list_orders, start=start, end=end))
    except (ProviderError, Stopped):
        return None
    listed = {row.provider_id: row.reference for row in page.items}
    return ReferenceTrial(
        is_accepted=True,
        is_told=answer.reference == reference,
        is_listed=reference in listed.values(),
        is_unique=is_unique,
        is_changed=not {answer.reference, listed.get(order_id, "")} <= {"", reference},
    )


def _differences(scenario: Scenario, order: Order) -> Iterator[str]:
    if order.status != scenario.status:
        why = reason(order)
        expected, found = (status_label(each).lower() for each in (scenario.status, order.status))
        yield f"The order should be {expected}, but is {found}. {why}".strip()
        return
    cards = list(order.cards.select_related("order"))
    if len(cards) != scenario.delivered or order.fulfilled_quantity != scenario.delivered:
        yield (
            f"{scenario.delivered} of {scenario.quantity} cards should have been delivered, but the"
            f" provider reports {order.fulfilled_quantity}, and {len(cards)} are stored."
        )
    try:
        if not all(card.value for card in cards):
            yield "A card has no code."
    except DecryptionError as error:
        yield str(error)
    breakdown = refund_breakdown(order)
    if breakdown is None or not breakdown.is_consistent:
        yield "The provider's figures contradict each other."
    elif breakdown.refunded_quantity != scenario.quantity - scenario.delivered:
        yield f"{breakdown.refunded_quantity} cards were refunded."


def _complaints(reports: Sequence[SelfTestReport], cards: Mapping[str, str]) -> Iterator[str]:
    failed = [report.scenario.name for report in reports if report.complaints]
    if failed:
        yield f"{len(failed)} of {len(reports)} scenarios failed: {', '.join(failed)}."
    troubles = list(dict.fromkeys(filter(None, cards.values())))
    if troubles:
        yield " ".join(
            ["Some of the cards that were stored before cannot be decrypted.", *troubles]
        )


def _show(progress: Progress, scenario: Scenario, order: Order) -> None:
    if wait := what_it_waits_for(order):
        what, since = wait
        text = f"{scenario.name}: {status_label(order.status)}, {what}"
        progress.show(text, since=since, unless_short=True)


def _line(report: SelfTestReport) -> str:
    order = report.order
    result = "FAILED" if report.complaints else "ok"
    status = status_label(order.status).lower()
    line = (
        f"{result:<8}{report.scenario.name}: {order.quantity} × {order.type_id} is {status},"
        f" {order.fulfilled_quantity} delivered"
    )
    return "\n".join([line, *(f"        {complaint}" for complaint in report.complaints)])


def _as_dict(report: SelfTestReport) -> dict[str, Any]:
    return {
        "scenario": report.scenario.name,
        "passed": not report.complaints,
        "complaints": report.complaints,
        "order": order_as_dict(report.order),
    }
