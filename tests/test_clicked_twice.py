"""Every button of the staff's pages decides once, even if it is pressed several times at once."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.db.models import Model
from django.test import Client
from django.urls import resolve, reverse
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.admin.frame.forms import state_token
from giftcards.engine.approvals import put_on_hold_for_price, put_on_hold_for_review
from giftcards.engine.recovering import adopt
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.models import (
    Acknowledgement,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    Note,
    Order,
    ProviderState,
    RedemptionInstructions,
    StatusChange,
)
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    PRODUCT,
    TYPE,
    make_guide_order,
    make_offer,
    make_order,
    settle,
    settled,
)
from tests.pages import ADD, LIST, hidden, plain, read, sign_in
from tests.stage import ago, fill_catalogue, in_threads, refuse_key

pytest_plugins = ["tests.stage_fixtures"]

CLICKS = 4
# The models of the rows that decisions leave behind.
TRACES: tuple[type[Model], ...] = (
    Acknowledgement,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    LogEntry,
    Note,
    Order,
    OrmQ,
    RedemptionInstructions,
    StatusChange,
)
NAME = "web-1042"
AT_PROVIDER = "6901616fe9e88196b4eb64b3"
ASKED = "Requested a check."
RECORDED = "Recorded."


@dataclass
class Button:
    """The form of a button, and everything that one press of it leaves behind."""

    address: str
    form: dict[str, Any]
    #: The lines of the admin's log.
    logged: list[str]
    #: The number of new rows of the other models.
    rows: dict[type[Model], int]
    #: The text that is shown, and the number of answers that show it.
    told: str
    tellings: int = CLICKS
    order: Order | None = None
    becomes: Status | None = None
    status_codes: list[int] = field(default_factory=lambda: [302] * CLICKS)


def to(name: str, *args: Any) -> str:
    return reverse(f"admin:giftcards_{name}", args=args)


def at_rest(reference: str = NAME) -> Order:
    """Return an order that is not due for a while."""
    later = timezone.now() + timedelta(hours=1)
    return make_guide_order(Status.DELAYED, reference=reference, due_at=later)


def lost() -> Order:
    row = {"id": AT_PROVIDER, "created_at": timezone.now().isoformat(), "status": "HANDLING"}
    line = {"quantity": 5, "product": PRODUCT, "type": TYPE}
    return make_guide_order(
        Status.UNCONFIRMED,
        reference=NAME,
        sent_at=timezone.now(),
        claim="first",
        candidates=[{**row, **line}],
        problems=[Problem("answer_lost")],
    )


def held() -> Order:
    order = make_order(reference=NAME)
    put_on_hold_for_price(order, price=Decimal(570), ceiling=Decimal(550))
    order.refresh_from_db()
    return order


def acknowledge(_boss: Client) -> Button:
    problem = Problem("watch_ended")
    order = make_guide_order(Status.DELAYED, problems=[problem])
    return Button(
        to("order_acknowledge", order.pk),
        {"problem": problem.key, "state_token": state_token(order)},
        logged=[f"Acknowledged: {problem}"],
        rows={Acknowledgement: 1},
        told="Acknowledged.",
    )


def check_now(_boss: Client) -> Button:
    return Button(
        to("order_check", at_rest().pk),
        {},
        logged=[ASKED],
        rows={OrmQ: 1},
        told="The order will be checked in a moment.",
    )


def check_selected(_boss: Client) -> Button:
    chosen = [at_rest(f"web-{number}").pk for number in range(2)]
    return Button(
        LIST,
        {"action": "check_now", "_selected_action": chosen},
        logged=[ASKED] * 2,
        rows={OrmQ: 1},
        told="2 orders will be checked in a moment.",
    )


def note(_boss: Client) -> Button:
    return Button(
        to("order_note", at_rest().pk),
        {"note": "Called."},
        logged=["Added a note."],
        rows={Note: 1},
        told="The note was added.",
    )


def correct_customer(boss: Client) -> Button:
    page = to("order_customer", at_rest().pk)
    seen = hidden(read(boss.get(page)))["state_token"]
    return Button(
        page,
        {"customer_email": "lina@example.com", "reason": "She called", "state_token": seen},
        logged=["Corrected the customer."],
        rows={CustomerChange: 1},
        told="The new details were saved.",
    )


def erase_customer(boss: Client) -> Button:
    make_guide_order(Status.FULFILLED, customer_email="lina@example.com")
    page = to("customer_data")
    asked = {"by": "contact", "customer": "lina@example.com", "what": "erase"}
    return Button(
        page,
        {**hidden(read(boss.post(page, asked))), "typed": "lina@example.com"},
        logged=["Erased the customer."],
        rows={},
        told="the person was erased: \u20681\u2069.",
        tellings=1,
        status_codes=[200] * CLICKS,
    )


def dispute(_boss: Client) -> Button:
    order = make_guide_order(Status.PARTIALLY_FILLED)
    store_cards([Arrival(order, CARDS[:3])])
    return Button(
        to("order_dispute", order.pk),
        {"state_token": state_token(order), "cards": ["1"], "words": "It is used."},
        logged=["Recorded a complaint about a code."],
        rows={Note: 1},
        told="The complaint was recorded. The codes are kept until staff acknowledge this problem.",
    )


def decision(
    name: str,
    order: Order,
    form: dict[str, str],
    logged: object,
    becomes: Status,
    trace: type[Model] = StatusChange,
) -> Button:
    """Return the button for a decision about an order on page ``name``; one answer confirms it."""
    return Button(
        to(name, order.pk),
        form,
        logged=[str(logged)],
        rows={trace: 1, OrmQ: 1},
        told=RECORDED,
        tellings=1,
        order=order,
        becomes=becomes,
    )


def resolve_as(outcome: str, code: str, status: Status) -> Button:
    order = lost()
    form = {"outcome": outcome, "is_sure": "on", "state_token": state_token(order)}
    return decision("order_resolve", order, form, Problem(code, {"by": "user0"}), status)


def send_again(_boss: Client) -> Button:
    return resolve_as("send-again", "staff_send_again", Status.PENDING)


def reject(_boss: Client) -> Button:
    return resolve_as("reject", "staff_rejected", Status.REJECTED)


def adopt_candidate(boss: Client) -> Button:
    order = lost()
    form = {"outcome": f"adopt:{AT_PROVIDER}", "is_sure": "on", "state_token": state_token(order)}
    comparison = read(boss.post(to("order_resolve", order.pk), form))
    names = {"by": "user0", "provider_order_id": AT_PROVIDER}
    form = {"seen": hidden(comparison)["seen"], "is_sure": "on"}
    return decision("order_adopt", order, form, Problem("staff_adopted", names), Status.HANDLING)


def release(_boss: Client) -> Button:
    order = lost()
    assert adopt(order, AT_PROVIDER, source=StatusChange.Source.STAFF)
    names = {"by": "user0", "provider_order_id": AT_PROVIDER}
    form = {"is_sure": "on", "state_token": state_token(order)}
    released = Problem("staff_released", names)
    return decision("order_release", order, form, released, Status.UNCONFIRMED)


def approve_price(_boss: Client) -> Button:
    order = held()
    form = {"outcome": "approve", "state_token": state_token(order)}
    approved = "user0 approved the price of a card."
    return decision("order_price", order, form, approved, Status.PENDING, Acknowledgement)


def cancel(name: str, order: Order, form: dict[str, str] | None = None) -> Button:
    button = decision(name, order, form or {}, "Cancelled the order.", Status.REJECTED)
    button.told = "The order was cancelled. Nothing was bought."
    return button


def form_on_hold(order: Order, outcome: str) -> dict[str, str]:
    return {"outcome": outcome, "state_token": state_token(order)}


def decline_price(_boss: Client) -> Button:
    order = held()
    return cancel("order_price", order, form_on_hold(order, "cancel"))


def to_review() -> Order:
    order = make_order(reference=NAME)
    put_on_hold_for_review(order, objection="Third order today")
    order.refresh_from_db()
    return order


def approve_review(_boss: Client) -> Button:
    order = to_review()
    form, logged = form_on_hold(order, "approve"), "Approved the order after a review."
    return decision("order_review", order, form, logged, Status.PENDING, Acknowledgement)


def decline_review(_boss: Client) -> Button:
    order = to_review()
    return cancel("order_review", order, form_on_hold(order, "cancel"))


def put_off() -> Order:
    later = timezone.now() + timedelta(hours=1)
    return make_order(reference=NAME, due_at=None, send_after=later, send_before=later)


def hurry(_boss: Client) -> Button:
    order = put_off()
    form, hurried = form_on_hold(order, "approve"), Problem("staff_hurried", {"by": "user0"})
    return decision("order_wait", order, form, hurried, Status.PENDING, Acknowledgement)


def stop_waiting(_boss: Client) -> Button:
    order = put_off()
    return cancel("order_wait", order, form_on_hold(order, "cancel"))


def cancel_order(_boss: Client) -> Button:
    return cancel("order_cancel", make_order(reference=NAME))


def cancel_selected(_boss: Client) -> Button:
    orders = [make_order(reference=f"web-{number}") for number in range(2)]
    return Button(
        LIST,
        {
            "action": "cancel_selected",
            "_selected_action": [order.pk for order in orders],
            "is_confirmed": "1",
        },
        logged=["Cancelled the order."] * 2,
        rows={StatusChange: 2, OrmQ: 1},
        # Each of the two orders is cancelled by one of the requests, perhaps by different ones.
        told="",
        order=orders[0],
        becomes=Status.REJECTED,
    )


def order_again(_boss: Client) -> Button:
    order = make_guide_order(Status.PARTIALLY_FILLED, reference=NAME)
    return Button(
        to("order_reorder", order.pk),
        {"state_token": state_token(order)},
        logged=[
            "user0 ordered the missing cards again (order NEW).",
            f"Replaces missing cards of {NAME}.",
        ],
        rows={Order: 1, Acknowledgement: 1, OrmQ: 1},
        told="Order NEW was recorded and is being sent.",
        tellings=1,
    )


def owing() -> Order:
    return make_guide_order(
        Status.PARTIALLY_FILLED, reference=str(uuid.uuid4()), sale_price=Decimal(550)
    )


def pay_back(boss: Client) -> Button:
    address = to("order_pay_back", owing().pk)
    asked = hidden(read(boss.get(address)))
    typed = {"amount": "980", "reference": "CCP 12", "method": "", "comment": "", "state": "done"}
    return Button(
        address,
        hidden(read(boss.post(address, {**asked, **typed}))),
        logged=["Recorded a refund to the customer: 980.00, CCP 12."],
        rows={CustomerRefund: 1},
        told="Recorded: the customer was paid back 980\u00a0DA.",
        tellings=1,
    )


def say_sale(_boss: Client) -> Button:
    order = make_guide_order(Status.FULFILLED, reference=NAME)
    return Button(
        to("order_sale", order.pk),
        {"amount": "2750"},
        logged=["Recorded the amount that the customer paid."],
        rows={Note: 1},
        told="Recorded: the customer paid 2,750\u00a0DA.",
        tellings=1,
    )


def cancel_refund(_boss: Client) -> Button:
    refund = record_refund(owing(), amount=980, reference="CCP 12")
    return Button(
        to("refund_cancel", refund.pk),
        {"reason": "The transfer came back."},
        logged=["Cancelled a refund: 980.00, CCP 12."],
        rows={},
        told="The refund was cancelled. You owe the customer this amount again.",
        tellings=1,
    )


def place(boss: Client) -> Button:
    fill_catalogue()
    # The reference is new in each run. Only tests delete orders, and while MariaDB still has to
    # purge a deleted reference, inserts of the same reference may end in a deadlock.
    typed = {"card": f"{PRODUCT} {TYPE}", "quantity": "2", "reference": str(uuid.uuid4())}
    confirmed = hidden(read(boss.post(ADD, typed)))
    assert "confirmed_price" in confirmed
    return Button(
        ADD,
        confirmed,
        logged=["Added."],
        rows={Order: 1, OrmQ: 1},
        told="Order NEW was recorded and is being sent.",
        tellings=1,
    )


def reveal(_boss: Client) -> Button:
    """Return the button that reveals a card; each answer with the code leaves its own trace."""
    order = settle(NAME, settled("FULFILLED", CARDS))
    return Button(
        to("card_reveal", order.cards.get(position=1).pk),
        {"reason": "Lost the e-mail"},
        logged=["Revealed card 1."] * CLICKS,
        rows={CardReveal: CLICKS},
        told=CARDS[0].value,
        status_codes=[200] * CLICKS,
    )


def resume(boss: Client) -> Button:
    refuse_key()
    ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-300))
    return Button(
        to("providerstate_resume"),
        {"state_token": hidden(read(boss.get(to("providerstate_changelist"))))["state_token"]},
        logged=["Resumed requests to the provider."],
        rows={OrmQ: 1},
        told="Requests to the provider have resumed.",
        tellings=1,
    )


def write_texts(boss: Client) -> Button:
    address = to("product_redemption", make_offer().product_id)
    seen = hidden(read(boss.get(address)))["seen"]
    return Button(
        address,
        {"seen": seen, "text_en": "Open https://psn.example"},
        logged=["Changed How to redeem a card (English)."],
        rows={RedemptionInstructions: 1},
        told="The product information was saved.",
    )


BUTTONS: dict[str, list[Callable[[Client], Button]]] = {
    "giftcards_order_acknowledge": [acknowledge],
    "giftcards_order_customer": [correct_customer],
    "giftcards_customer_data": [erase_customer],
    "giftcards_order_dispute": [dispute],
    "giftcards_order_check": [check_now],
    "giftcards_order_changelist": [check_selected, cancel_selected],
    "giftcards_order_note": [note],
    "giftcards_order_resolve": [send_again, reject],
    "giftcards_order_adopt": [adopt_candidate],
    "giftcards_order_release": [release],
    "giftcards_order_price": [approve_price, decline_price],
    "giftcards_order_review": [approve_review, decline_review],
    "giftcards_order_wait": [hurry, stop_waiting],
    "giftcards_order_cancel": [cancel_order],
    "giftcards_order_reorder": [order_again],
    "giftcards_order_pay_back": [pay_back],
    "giftcards_order_sale": [say_sale],
    "giftcards_refund_cancel": [cancel_refund],
    "giftcards_order_add": [place],
    "giftcards_card_reveal": [reveal],
    "giftcards_providerstate_resume": [resume],
    "giftcards_product_redemption": [write_texts],
}
# Pages that do not decide anything, or that are closed to everybody.
UNDECIDING = {
    "giftcards_card_ask",
    # A second click only repeats that the catalogue has to be read.
    "giftcards_catalogue_read",
    "giftcards_order_change",
    # tests/books tests this page with two people.
    "giftcards_order_close_month",
    # This page works like the page of a product.
    "giftcards_category_redemption",
    "giftcards_desk_changelist",
    "giftcards_help",
    # tests/admin/test_shelf.py tests these pages with two people.
    "giftcards_category_changelist",
    "giftcards_shelf_changelist",
    "giftcards_order_delete",
    "giftcards_order_search",
    "giftcards_order_fingerprint",
    "giftcards_order_history",
    "giftcards_order_report",
    "giftcards_order_report_download",
    *(
        f"giftcards_{model}_{page}"
        for model in ("cardreveal", "customerrefund", "product", "producttype", "providerstate")
        for page in ("add", "change", "changelist", "delete", "history")
    ),
}


def press_at_once(boss: Client, button: Button) -> list[Any]:
    """Return the answers to several requests that one person sends at the same moment."""

    def click() -> Any:
        browser = Client()
        browser.cookies = boss.cookies.copy()
        return browser.post(button.address, button.form)

    answers = in_threads(CLICKS, click)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def counts() -> Counter[type[Model]]:
    return Counter({model: model._default_manager.count() for model in TRACES})


def without_made_up_names(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "NEW", plain(text))


def tells(answer: Any, text: str) -> bool:
    """Return True if the answer contains the text, or a message with it for the next page."""
    told = [without_made_up_names(str(message)) for message in get_messages(answer.wsgi_request)]
    return text in told or text in answer.content.decode()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database", "simulator")
@pytest.mark.parametrize(
    ("page", "prepare"),
    [
        pytest.param(page, prepare, id=prepare.__name__)
        for page, ways in BUTTONS.items()
        for prepare in ways
    ],
)
def test_clicks_at_the_same_moment_decide_once(
    page: str, prepare: Callable[[Client], Button]
) -> None:
    boss = sign_in(superuser=True)
    button = prepare(boss)
    assert resolve(button.address).url_name == page
    before = counts()
    latest = LogEntry.objects.order_by("pk").values_list("pk", flat=True).last() or 0
    answers = press_at_once(boss, button)
    assert [answer.status_code for answer in answers] == button.status_codes
    lines = LogEntry.objects.filter(pk__gt=latest)
    logged = [without_made_up_names(line.get_change_message()) for line in lines]
    assert sorted(logged) == sorted(button.logged)
    assert counts() - before == Counter({LogEntry: len(button.logged), **button.rows})
    assert sum(tells(answer, button.told) for answer in answers) == button.tellings
    if button.order is not None:
        button.order.refresh_from_db()
        assert button.order.status == button.becomes


@pytest.mark.all_apps
def test_no_button_is_left_out() -> None:
    pages = {
        pattern.name
        for model, page in admin.site._registry.items()
        if model._meta.app_label == "giftcards"
        for pattern in page.get_urls()
        # The pages of the messages have tests of their own.
        if pattern.name and not pattern.name.startswith("giftcards_delivery")
    }
    assert pages == UNDECIDING | BUTTONS.keys()
