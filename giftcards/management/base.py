"""The base class of commands, and helpers for JSON, errors and orders."""

from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar, TypeVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management.base import (
    CommandError,
)
from django.db import Error, connections, router
from django.utils import translation

from giftcards.conf import CURRENCY, conf, require
from giftcards.engine.database import is_there
from giftcards.exceptions import ConfigurationError, GiftcardsError
from giftcards.management.output import COULD_NOT_START, UNFINISHED, ConsoleCommand, Progress, iso
from giftcards.models import CustomerRefund, Order, ProviderState
from giftcards.rules.money import customer_breakdown, refund_breakdown
from giftcards.rules.problems import Entry, Problem, in_english
from giftcards.rules.states import STATES, Status
from giftcards.text.display import read_amount

T = TypeVar("T")

# A product in the provider's examples.
PRODUCT = "507f1f77bcf86cd799439011"
WORKING_SETTINGS = tuple(key for key, setting in conf.declared.items() if setting.is_working)


class GiftcardsCommand(ConsoleCommand):
    """A command that needs valid settings and a working database.

    The exit code is 0 if the command succeeded, 1 if it failed or did not finish, and 2 if it could
    not start. Before it starts, the command checks the database and the settings that ``needs``
    names. Therefore exit code 2 means that nothing was changed.
    """

    needs: ClassVar[Sequence[str]] = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="Print the result as JSON (default: as text)."
        )

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            require(*self.needs)
            try:
                self.find_database(options)
            except Error as error:
                raise refuse(_why_no_database(error)) from error
            return super().execute(*args, **options)
        except ConfigurationError as error:
            raise refuse(str(error)) from None
        except Error as error:
            raise database_failure(
                error,
                "The command may have completed only a part of its work. `manage.py"
                " giftcards_status` shows the current state.",
            ) from error

    def find_database(self, options: dict[str, Any]) -> None:  # noqa: ARG002 (for subclasses)
        """Fail if the database or a table is missing.

        Checks the tables of the core and of the command's app.
        """
        core = apps.get_app_config("giftcards")
        own = apps.get_containing_app_config(type(self).__module__) or core
        for app in {core, own}:
            for model in app.get_models():
                model._default_manager.order_by("pk").first()  # noqa: SLF001

    def say(self, text: str, options: dict[str, Any]) -> None:
        """Print ``text`` unless ``-v0`` or ``--json`` was given."""
        if _is_for_people(options):
            self.put(text)

    def progress(self, options: dict[str, Any]) -> Progress:
        """Return a progress display, which is silent with ``-v0`` or ``--json``."""
        is_live = self.stdout.isatty() and os.environ.get("TERM") != "dumb"
        put = self.put if _is_for_people(options) else lambda *_args, **_options: None
        return Progress(put, is_live=is_live)

    def write_json(self, result: Any) -> None:
        """Print ``result`` as JSON.

        Amounts are strings with two decimals, and times are in ISO 8601 format.
        """
        self.put(json.dumps(result, indent=2, default=_as_json))

    def show(self, result: Any, text: str, options: dict[str, Any]) -> None:
        """Print ``result`` as JSON if ``--json`` was given, or else ``text``.

        With ``-v0``, ``text`` is not printed.
        """
        if options["json"]:
            self.write_json(result)
        self.say(text, options)

    def show_order(self, order: Order, options: dict[str, Any]) -> None:
        """Print an order with the customer's payment and the cost of the cards."""
        told = order_as_dict(order)
        self.show(told, "\n".join(_describe(order, told)), options)


def _is_for_people(options: dict[str, Any]) -> bool:
    return options["verbosity"] > 0 and not options.get("json")


def _as_json(value: Decimal | datetime) -> str | None:
    return f"{value:.2f}" if isinstance(value, Decimal) else iso(value)


def _why_no_database(error: Error) -> str:
    name = connections[router.db_for_write(Order)].settings_dict["NAME"]
    kind = type(error).__name__
    if is_there():
        return (
            f"The database {name} failed ({kind}). Check that `manage.py migrate` has been"
            " run for this database."
        )
    return (
        f"The database {name} could not be reached ({kind}). Check that the database is running and"
        " that DATABASES is correct."
    )


def database_failure(error: Error, what_now: str) -> CommandError:
    """Return an error with exit code 1 for a database failure during the work.

    ``what_now`` is the advice for the person who ran the command.
    """
    return unfinished(f"The database failed ({type(error).__name__}). {what_now}")


def unfinished(reason: str) -> CommandError:
    """Return an error with exit code 1 for failed or unfinished work."""
    return CommandError(reason, returncode=UNFINISHED)


def refuse(reason: str) -> CommandError:
    """Return an error with exit code 2, because the command cannot start.

    The command has not changed anything.
    """
    return CommandError(reason, returncode=COULD_NOT_START)


def sentences(error: ValidationError | GiftcardsError) -> str:
    """Return the message of an error in English, on one line.

    The message includes the names of invalid arguments.
    """
    with translation.override(None):
        if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
            return " ".join(
                f"{name}: {message}"
                for name, messages in error.message_dict.items()
                for message in messages
            )
        return str(error)


def current_pause() -> str:
    """Return why requests to the provider are paused, in English, or "".

    The result is "" if requests are not paused.
    """
    with translation.override(None):
        return ProviderState.objects.current().why_paused()


def provider_state() -> str:
    """Return why requests to the provider are paused, or "In service."."""
    return current_pause() or "In service."


def find_order(reference: str) -> Order:
    order = Order.objects.filter(reference=reference).first()
    if order is None:
        raise refuse(
            f"There is no order {reference!r}. `manage.py giftcards_status` counts the orders,"
            " and the admin lists them."
        )
    return order


def add_fail_on(parser: ArgumentParser, known: Iterable[str]) -> None:
    """Add ``--fail-on``, which names conditions that make the command fail."""
    parser.add_argument(
        "--fail-on",
        metavar="CONDITIONS",
        help="Exit with code 1 if one of these conditions holds, separated by commas:"
        f" {', '.join(known)} (default: none).",
    )


def named_conditions(text: str | None, known: Mapping[str, T]) -> dict[str, T]:
    """Return the known conditions that ``--fail-on`` names.

    If a condition is unknown, the command exits with code 2.
    """
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise refuse(
            f"--fail-on: unknown condition {', '.join(map(repr, unknown))}. Use one or more of"
            f" {', '.join(known)}, separated by commas."
        )
    return {name: condition for name, condition in known.items() if name in names}


def fail_on(sentences: Iterable[str]) -> None:
    """Raise a ``CommandError`` with the non-empty sentences, if any."""
    if wrong := " ".join(filter(None, sentences)):
        raise unfinished(wrong)


def ok_or_trouble(found: Mapping[str, str]) -> dict[str, str]:
    """Copy a mapping for ``--json``, and replace empty strings with "ok"."""
    return {name: trouble or "ok" for name, trouble in found.items()}


def typed_day(name: str, text: str | None) -> date | None:
    """Return the date entered for the ``name`` option, or ``None``.

    The result is ``None`` if no date was entered.
    """
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise refuse(f"{name}: {text!r} is not a day. Use a format such as 2026-11-24.") from None


def typed_amount(name: str, text: str) -> Decimal:
    """Return the amount entered for the ``name`` argument."""
    amount = read_amount(text)
    if amount is None:
        raise refuse(f"{name}: {text!r} is not an amount. Use a format such as 550 or 549.90.")
    return amount


def order_as_dict(order: Order) -> dict[str, Any]:
    """Return the values of ``order`` for ``--json``."""
    breakdown = refund_breakdown(order)
    return {
        "reference": order.reference,
        "provider_order_id": order.provider_order_id,
        "status": order.status,
        "is_final": order.is_final,
        "product_id": order.product_id,
        "type_id": order.type_id,
        "quantity": order.quantity,
        "fulfilled_quantity": order.fulfilled_quantity,
        "price_per_card": order.price_per_card,
        "fulfilled_amount": order.fulfilled_amount,
        "cards": order.cards.count(),
        "refund": None if breakdown is None else asdict(breakdown),
        "customer": customer_as_dict(order),
        "refunds": [refund_as_dict(refund) for refund in order.refunds.order_by("pk")],
        "created_at": order.created_at,
        "finalized_at": order.finalized_at,
        "problems": [_problem_as_dict(entry) for entry in order.problems],
    }


def _problem_as_dict(entry: Entry) -> dict[str, Any]:
    acknowledged = {}
    if "acknowledged_at" in entry:
        # The stored text has no time zone if USE_TZ is off.
        acknowledged = {"acknowledged_at": datetime.fromisoformat(entry["acknowledged_at"])}
    return {**entry, **acknowledged, "text": str(Problem.of(entry))}


def customer_as_dict(order: Order) -> dict[str, Decimal] | None:
    """Return the customer's payment and refund amounts for ``--json``.

    The result is ``None`` if the order is open, or if its sale amount is unknown.
    """
    breakdown = customer_breakdown(order)
    return None if breakdown is None else asdict(breakdown)


def refund_as_dict(refund: CustomerRefund) -> dict[str, Any]:
    """Return the values of a customer refund for ``--json``."""
    return {
        "reference": refund.reference,
        "amount": refund.amount,
        "state": refund.state,
        "method": refund.method,
        "comment": refund.comment,
        "source": refund.source,
        "executed_at": refund.executed_at,
        "created_by": refund.created_by,
        "cancelled_at": refund.cancelled_at,
        "cancelled_by": refund.cancelled_by,
        "cancel_reason": refund.cancel_reason,
    }


def describe_customer(order: Order, customer: Mapping[str, Decimal] | None) -> Iterator[str]:
    """Yield lines about the customer's payment and the amounts that you owe.

    Pass the result of :func:`customer_as_dict` as ``customer``.
    """
    if customer is None:
        return
    yield "  customer"
    for label, amount in (
        ("paid", customer["paid_amount"]),
        ("kept", customer["kept_amount"]),
        ("owed", customer["owed_amount"]),
        ("paid back", customer["paid_back_amount"]),
        ("went along", order.reordered_amount),
        ("still owed", customer["open_amount"]),
    ):
        if amount is not None:
            yield f"    {label:<12}{amount:.2f} {CURRENCY}"
    for refund in order.refunds.order_by("pk"):
        shown = f"{refund.amount:.2f} {CURRENCY}, {refund.state}"
        yield f"    refund {refund.reference}: {shown}"


def status_label(status: str) -> str:
    """Return the status in English, such as "Partly delivered"."""
    with translation.override(None):
        return str(Status(status).label)


def standing(order: Order) -> str:
    """Return a sentence with the reference and status of ``order``."""
    return f"The order {order.reference} is {status_label(order.status).lower()}."


def _describe(order: Order, told: Mapping[str, Any]) -> Iterator[str]:
    yield f"Order {order.reference}"
    yield f"  status      {status_label(order.status)}"
    yield f"  provider    {order.provider_order_id or 'not known yet'}"
    yield f"  line        {order.quantity} × {order.type_id} ({order.product_id})"
    if order.group:
        yield f"  group       {order.group}"
    yield f"  delivered   {order.fulfilled_quantity} of {order.quantity}"
    stored, destroyed = told["cards"], told["cards"] - order.cards.readable().count()
    fate = f"the codes of {destroyed} destroyed" if destroyed else "encrypted"
    yield f"  cards       {stored} stored, {fate}"
    if breakdown := told["refund"]:
        yield "  refund breakdown"
        for label in ("ordered", "charged", "refunded"):
            amount = breakdown[f"{label}_amount"]
            shown = "unknown" if amount is None else f"{amount:.2f} {CURRENCY}"
            yield f"    {label:<10}{shown}"
        if not breakdown["is_consistent"]:
            yield "    The provider's figures contradict each other."
    yield from describe_customer(order, told["customer"])
    for entry in told["problems"]:
        label = (
            f"acknowledged by {entry['acknowledged_by']},"
            if "acknowledged_by" in entry
            else "attention  "
        )
        yield f"  {label} {entry['code']}: {entry['text']}"
    if order.status == Status.REJECTED and (why := reason(order)):
        yield f"  refused     {why}"


def what_it_waits_for(order: Order) -> tuple[str, datetime | None] | None:
    """Return what the order is waiting for, and the start of the wait.

    The first item of the result is a phrase such as "waiting for the provider". The result is
    ``None`` if the order is on hold or is not waiting.
    """
    state = STATES[order.status]
    if order.is_on_hold or not state.waits_for:
        return None
    return state.waits_for, getattr(order, state.since)


def reason(order: Order) -> str:
    """Return the open problems of ``order`` in English.

    If there are no open problems, return the reason for the last status change.
    """
    if order.open_problems:
        return " ".join(map(str, order.open_problems))
    last = order.changes.last()
    return in_english(last.details) if last else ""
