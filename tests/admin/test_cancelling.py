"""Cancelling waiting orders: one on its page, or several in the list."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import FINAL, Status
from tests.builders import make_order
from tests.pages import LATE, LIST, messages, order_page, plain, read, sign_in, text
from tests.stage import ago, claim_to_send

pytestmark = pytest.mark.django_db

TOO_LATE = "The order could not be cancelled because its cards are already being bought."
OWED = "owe the customer what they paid"


@pytest.fixture
def clerk() -> Client:
    return sign_in("view_order", "resolve_order")


def show(browser: Client, address: str) -> str:
    return plain(text(read(browser.get(address))))


def press(browser: Client, order: Order) -> list[str]:
    return messages(read(browser.post(order_page(order, "cancel"), follow=True)))


def select(browser: Client, *chosen: Order, **more: str) -> str:
    form = {"action": "cancel_selected", "_selected_action": [order.pk for order in chosen], **more}
    return read(browser.post(LIST, form, follow=True))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"problems": [Problem("not_sent", {"reason": "not_started"})], "due_at": ago(-600)},
        {"problems": [Problem("price_above", {"price": "9", "ceiling": "8"})], "due_at": None},
    ],
    ids=["queue", "outage", "on hold"],
)
def test_a_clerk_cancels_an_order_that_waits_after_the_page_has_said_what_follows(
    clerk: Client, values: dict[str, Any]
) -> None:
    order = make_order(reference="web-1042", sale_price=550, **values)
    assert "Cancel the order" in show(clerk, order_page(order))
    asked = show(clerk, order_page(order, "cancel"))
    assert [each for each in ("web-1042", OWED, "2 × 550 = 1,100 DA") if each not in asked] == []
    assert press(clerk, order) == ["The order was cancelled. Nothing was bought."]
    order.refresh_from_db()
    assert (order.status, order.open_amount) == (Status.REJECTED, 1100)
    shown = show(clerk, order_page(order))
    assert "user0 cancelled the order. Nothing was bought. The customer is owed" in shown
    assert LogEntry.objects.get().change_message == "Cancelled the order."


@pytest.mark.parametrize("status", [each for each in Status if each != Status.PENDING])
def test_whoever_comes_too_late_reads_so_and_nothing_is_cancelled(
    clerk: Client, status: Status
) -> None:
    order = make_order(status)
    page = order_page(order, "cancel")
    assert page not in read(clerk.get(order_page(order)))
    assert press(clerk, order) == [LATE if status in FINAL else TOO_LATE]
    order.refresh_from_db()
    assert (order.status, LogEntry.objects.count()) == (status, 0)


def test_a_page_that_was_opened_before_an_attempt_to_send_the_order_still_cancels_it(
    clerk: Client,
) -> None:
    order = make_order()
    show(clerk, order_page(order, "cancel"))
    assert claim_to_send(order)
    assert order.move(Status.PENDING, source="placing", due_at=ago(-60))  # type: ignore[arg-type]
    assert press(clerk, order) == ["The order was cancelled. Nothing was bought."]


def test_people_without_the_permission_read_whom_to_ask() -> None:
    order = make_order()
    browser = sign_in("view_order", "check_order")
    shown = read(browser.get(order_page(order)))
    assert order_page(order, "cancel") not in shown
    assert "ask a colleague with this role: Gift card manager" in plain(text(shown))
    assert browser.post(order_page(order, "cancel")).status_code == 403
    assert "cancel_selected" not in read(browser.get(LIST))
    select(browser, order, is_confirmed="1")
    order.refresh_from_db()
    assert order.status == Status.PENDING


def test_many_orders_are_cancelled_after_a_page_has_named_those_that_wait(clerk: Client) -> None:
    waiting = [make_order(reference=f"web-{number}", sale_price=550) for number in range(3)]
    bought = make_order(Status.HANDLING, reference="bought")
    asked = select(clerk, *waiting, bought)
    shown = plain(text(asked))
    assert "Nothing has been bought yet for these 3 orders." in shown
    assert [f"web-{number}" in shown for number in range(3)] == [True] * 3
    assert "bought ·" not in shown
    assert not Order.objects.filter(status=Status.REJECTED).exists()
    # Meanwhile, a worker claims one of them.
    assert claim_to_send(waiting[0])
    assert messages(select(clerk, *waiting, is_confirmed="1")) == [
        "2 orders were cancelled. Nothing was bought.",
        "1 order was not cancelled because its cards are being bought or its status is final.",
    ]
    statuses = Order.objects.order_by("pk").values_list("status", "open_amount")
    assert list(statuses) == [
        ("PLACING", None), ("REJECTED", 1100), ("REJECTED", 1100), ("HANDLING", None),
    ]  # fmt: skip
    logged = LogEntry.objects.values_list("object_id", "change_message")
    names = {(str(order.pk), "Cancelled the order.") for order in waiting[1:]}
    assert set(logged) == names


def test_a_selection_of_which_no_order_waits_is_left_alone(clerk: Client) -> None:
    order = make_order(Status.FULFILLED)
    told = "1 order was not cancelled because its cards are being bought or its status is final."
    assert messages(select(clerk, order)) == [told]


def test_orders_that_a_person_may_not_see_are_not_cancelled(
    clerk: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from giftcards.admin.orders.page import OrderAdmin

    order = make_order()
    monkeypatch.setattr(OrderAdmin, "get_queryset", lambda _self, _request: Order.objects.none())
    select(clerk, order, is_confirmed="1")
    clerk.post(order_page(order, "cancel"))
    order.refresh_from_db()
    assert order.status == Status.PENDING
