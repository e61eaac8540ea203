"""Orders that repeat missing cards by rule: the wait for their turn, and staff who end it."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import PARTIAL, details, settle
from tests.pages import hidden, messages, order_page, plain, read, sign_in, text

pytestmark = pytest.mark.django_db


@pytest.fixture
def order(set_conf: Any) -> Order:
    set_conf(REORDER_MISSING={"times": 2, "hours": 6})
    old = settle("web-1042", PARTIAL, sale_price=550)
    return Order.objects.get(repeats=old)


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "resolve_order")


def page(order: Order) -> str:
    return order_page(order, "wait")


def decide(browser: Client, order: Order, outcome: str) -> Any:
    token = hidden(read(browser.get(page(order))))["state_token"]
    return browser.post(page(order), {"state_token": token, "outcome": outcome}, follow=True)


def test_both_orders_name_each_other_and_nothing_is_owed_by_the_first(
    order: Order, staff: Client
) -> None:
    assert order.repeats is not None
    old = plain(text(read(staff.get(order_page(order.repeats)))))
    assert f"The missing cards were ordered again: {order.reference}." in old
    assert "What the customer paid for them went to the new order." in old
    assert f"The missing cards are ordered again automatically, as {order.reference}." in old
    assert "The customer is owed" not in old
    new = plain(text(read(staff.get(order_page(order)))))
    assert "It replaces missing cards of web-1042." in new
    assert "and is sent automatically then." in new


def test_an_order_is_sent_before_its_turn(order: Order, staff: Client) -> None:
    assert f'href="{page(order)}">Do not wait any longer</a>' in read(staff.get(order_page(order)))
    shown = plain(text(read(staff.get(page(order)))))
    assert "Nothing has been bought yet." in shown
    assert "Sale amount: 1,100 DA" in shown
    assert messages(read(decide(staff, order, "approve"))) == ["Recorded."]
    order.refresh_from_db()
    assert (order.status, order.is_held, order.send_after) == (Status.PENDING, False, None)
    shown = plain(text(read(staff.get(order_page(order)))))
    assert "user0 had the order sent without further waiting." in shown


def test_an_order_is_rejected_before_its_turn_and_the_customer_is_owed(
    order: Order, staff: Client
) -> None:
    decide(staff, order, "reject")
    order.refresh_from_db()
    assert (order.status, order.open_amount) == (Status.REJECTED, 1100)
    assert details(order.changes.get()) == [Problem("staff_stopped", {"by": "user0"})]
