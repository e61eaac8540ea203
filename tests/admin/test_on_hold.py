"""Deciding about orders that are on hold for their price, for review, or until their turn comes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.conf import conf
from giftcards.engine.approvals import put_on_hold_for_price, put_on_hold_for_review, release_fallen
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import Review, Status
from tests.builders import PARTIAL, details, ended, make_order, problems, settle
from tests.pages import LATE, errors, hidden, messages, order_page, plain, read, sign_in, text

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

REASON = "Third <order> today"
WANTED = Problem("review_wanted", {"objection": REASON})
AMOUNTS = {"price": "49000.00", "ceiling": "550.00"}
RULE = {"times": 2, "hours": 6}


def on_hold_for_price() -> Order:
    order = make_order(reference="web-1042", sale_price=Decimal(550))
    put_on_hold_for_price(order, price=Decimal(49_000), ceiling=Decimal(550))
    return order


def on_hold_for_review() -> Order:
    customer = {"customer_name": "Amina", "customer_phone": "+213 555 01 02 03"}
    order = make_order(reference="web-1042", sale_amount=1100, **customer)
    put_on_hold_for_review(order, objection=REASON)
    return order


def put_off() -> Order:
    """Return the order that repeats missing cards by the rule, which the test has to set."""
    assert conf.reorder_missing
    return Order.objects.get(repeats=settle("web-1042", PARTIAL, sale_price=550))


class Decision(NamedTuple):
    make: Callable[[], Order]
    button: str
    # The facts that the decision page shows.
    facts: tuple[str, ...]
    # The order after an approval, the message on its page, and the admin's log entry. The log names
    # neither amounts nor reasons, because everyone who may see the order can read it.
    approved: dict[str, Any]
    said: str
    logged: str


HOLDS = {
    "price": Decision(
        on_hold_for_price,
        "Approve the price or cancel the order",
        (
            "Reference: web-1042",
            "Sale price: 550 DA",
            "Highest price: 550 DA",
            "Price at the provider: 49,000 DA",
            "Buy the cards for at most 49,000 DA each, 98,000 DA in total.",
        ),
        {"price_ceiling": Decimal(49_000)},
        "user0 approved a price of 49,000 DA per card instead of 550 DA.",
        "user0 approved the price of a card.",
    ),
    "review": Decision(
        on_hold_for_review,
        "Approve or cancel this order",
        (
            "Reference: web-1042",
            "Sale amount: 1,100 DA",
            "Customer name: Amina",
            "Customer phone: +213 555 01 02 03",
            f"Your shop's review rule put this order on hold: “{REASON}”. Nothing",
        ),
        {"review": Review.APPROVED},
        f"user0 approved the order. Reason why it was on hold: “{REASON}”.",
        "Approved the order after a review.",
    ),
    "wait": Decision(
        put_off,
        "Send or cancel this order",
        ("Nothing has been bought yet.", "Sale amount: 1,100 DA"),
        {"send_after": None},
        "user0 sent the order without waiting any longer.",
        "",
    ),
}
each_hold = pytest.mark.parametrize(("name", "hold"), HOLDS.items(), ids=HOLDS)


def show(browser: Client, order: Order, name: str = "change") -> str:
    return plain(text(read(browser.get(order_page(order, name)))))


def decide(browser: Client, order: Order, name: str, outcome: str) -> Any:
    page = order_page(order, name)
    token = hidden(read(browser.get(page)))["state_token"]
    return browser.post(page, {"state_token": token, "outcome": outcome}, follow=True)


@pytest.fixture
def staff(set_conf: Any) -> Client:
    set_conf(REORDER_MISSING=RULE)
    return sign_in("view_order", "resolve_order", "view_cost")


@each_hold
def test_the_page_of_an_order_on_hold_leads_to_the_decision(
    staff: Client, name: str, hold: Decision
) -> None:
    order = hold.make()
    html = read(staff.get(order_page(order)))
    assert f'href="{order_page(order, name)}">{hold.button}</a>' in html
    assert [each for each in HOLDS if order_page(order, each) in html] == [name]
    shown = show(staff, order, name)
    assert [fact for fact in hold.facts if fact not in shown] == []
    assert "Customer e-mail" not in shown


@each_hold
def test_an_approved_order_goes_on_and_leaves_a_trace(
    staff: Client, name: str, hold: Decision
) -> None:
    order = hold.make()
    assert messages(read(decide(staff, order, name, "approve"))) == ["Recorded."]
    assert problems(order) == []
    order.refresh_from_db()
    assert (order.status, order.is_on_hold) == (Status.PENDING, False)
    assert {value: getattr(order, value) for value in hold.approved} == hold.approved
    shown = show(staff, order)
    assert hold.said in shown
    assert "Acknowledged" not in shown
    if hold.logged:
        assert LogEntry.objects.get().change_message == hold.logged


@pytest.mark.parametrize(
    ("name", "parameters"), [("price", AMOUNTS), ("review", {"objection": REASON})]
)
def test_the_trace_names_why_the_order_was_on_hold(
    staff: Client, name: str, parameters: dict[str, str]
) -> None:
    order = HOLDS[name].make()
    # The trace names the ceiling that applied when the order was put on hold.
    Order.objects.update(sale_price=None, sale_amount=None, max_price=None)
    decide(staff, order, name, "approve")
    trace = order.acknowledgements.get()
    assert (trace.by, trace.parameters) == ("user0", {"by": "user0", **parameters})


@pytest.mark.parametrize(("name", "over"), [("review", [WANTED]), ("wait", [])])
def test_an_order_that_staff_do_not_buy_is_cancelled_and_its_customer_is_owed(
    staff: Client, name: str, over: list[Problem]
) -> None:
    order = HOLDS[name].make()
    told = messages(read(decide(staff, order, name, "cancel")))
    assert told == ["The order was cancelled. Nothing was bought."]
    order.refresh_from_db()
    assert (order.status, order.open_amount) == (Status.REJECTED, 1100)
    change = order.changes.get()
    cancelled = Problem("staff_cancelled", {"by": "user0"})
    assert (details(change), ended(change)) == ([cancelled], over)
    assert LogEntry.objects.get().change_message == "Cancelled the order."
    if name == "review":
        shown = show(staff, order)
        assert "user0 cancelled the order. Nothing was bought." in shown
        assert f"Resolved: {WANTED}" in shown


@pytest.mark.parametrize("outcome", ["", "approve-all"])
def test_an_unusable_decision_is_refused(staff: Client, outcome: str) -> None:
    order = on_hold_for_price()
    assert len(errors(read(decide(staff, order, "price", outcome)))) == 1
    order.refresh_from_db()
    assert order.is_on_hold
    assert not LogEntry.objects.exists()


def test_the_problem_of_an_order_on_hold_cannot_be_acknowledged(boss: Client) -> None:
    assert "Acknowledge" not in show(boss, on_hold_for_price())


def test_a_page_opened_before_the_price_fell_and_rose_again_decides_nothing(staff: Client) -> None:
    order = on_hold_for_price()
    page = order_page(order, "price")
    token = hidden(read(staff.get(page)))["state_token"]
    release_fallen(order.product_id, {order.type_id: Decimal(490)})
    order.refresh_from_db()
    put_on_hold_for_price(order, price=Decimal(49_000), ceiling=Decimal(550))
    response = staff.post(page, {"state_token": token, "outcome": "approve"}, follow=True)
    assert messages(read(response)) == [LATE]
    order.refresh_from_db()
    assert order.is_on_hold
    fell = (
        "The price of a card fell to 490 DA. The price is now within the limit of 550 DA, so the"
        " order continued"
    )
    assert f"{fell} automatically." in show(staff, order)


def test_the_page_about_the_price_of_an_order_that_is_not_on_hold_leads_to_the_order(
    staff: Client,
) -> None:
    order = make_order()
    page = order_page(order, "price")
    assert page not in read(staff.get(order_page(order)))
    response = staff.post(page, {"outcome": "cancel"}, follow=True)
    assert messages(read(response)) == [LATE]
    order.refresh_from_db()
    assert order.status == Status.PENDING


def test_who_may_not_see_costs_decides_about_a_review_and_reads_why() -> None:
    order = on_hold_for_review()
    browser = sign_in("view_order", "resolve_order")
    said = f"The order is on hold until somebody reviews it. Reason: “{REASON}”."
    assert said in show(browser, order)
    assert messages(read(decide(browser, order, "review", "approve"))) == ["Recorded."]


def test_both_orders_name_each_other_and_nothing_is_owed_by_the_first(staff: Client) -> None:
    order = put_off()
    assert order.repeats is not None
    old = show(staff, order.repeats)
    assert f"The missing cards were ordered again: {order.reference}." in old
    assert "The customer's payment for these cards was transferred to the new order." in old
    assert (
        f"The app ordered the missing cards again automatically (order {order.reference})." in old
    )
    assert "The customer is owed" not in old
    new = show(staff, order)
    assert "This order replaces missing cards of web-1042." in new
    assert "The order will be sent automatically on" in new
