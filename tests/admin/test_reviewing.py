"""Deciding about orders that are held for review, because the shop's own rule objects to them."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.engine.approvals import hold_for_review
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import Review, Status
from tests.builders import details, ended, make_order, problems
from tests.pages import hidden, messages, order_page, plain, read, sign_in, text

pytestmark = pytest.mark.django_db

REASON = "Third <order> today"
WANTED = Problem("review_wanted", {"objection": REASON})


def held_order() -> Order:
    customer = {"customer_name": "Amina", "customer_phone": "+213 555 01 02 03"}
    order = make_order(reference="web-1042", sale_amount=1100, **customer)
    hold_for_review(order, objection=REASON)
    order.refresh_from_db()
    return order


def page(order: Order) -> str:
    return order_page(order, "review")


def decide(browser: Client, order: Order, outcome: str) -> Any:
    token = hidden(read(browser.get(page(order))))["state_token"]
    return browser.post(page(order), {"state_token": token, "outcome": outcome})


@pytest.fixture
def staff() -> Client:
    """Without the permission to see costs: the page tells none."""
    return sign_in("view_order", "resolve_order")


def test_the_page_of_an_order_held_for_review_leads_to_the_decision(staff: Client) -> None:
    order = held_order()
    shown = read(staff.get(order_page(order)))
    assert f'href="{page(order)}">Approve or reject this order</a>' in shown
    assert order_page(order, "price") not in shown
    said = f"The order is held: a person has to look at it, because “{REASON}”."
    assert said in plain(text(shown))
    shown = plain(text(read(staff.get(page(order)))))
    for fact in (
        "Reference: web-1042",
        "Sale amount: 1,100 DA",
        "Customer name: Amina",
        "Customer phone: +213 555 01 02 03",
        f"Your shop's own rule wants a person to look at this order: “{REASON}”. Nothing",
    ):
        assert fact in shown
    assert "Customer e-mail" not in shown


def test_an_approved_review_releases_the_order_and_leaves_a_trace(staff: Client) -> None:
    order = held_order()
    response = decide(staff, order, "approve")
    assert messages(read(staff.get(response.url))) == ["Recorded."]
    assert problems(order) == []
    order.refresh_from_db()
    assert (order.status, order.is_held, order.review) == (Status.PENDING, False, Review.APPROVED)
    trace = order.acknowledgements.get()
    assert (trace.by, trace.parameters) == ("user0", {"by": "user0", "objection": REASON})
    shown = plain(text(read(staff.get(order_page(order)))))
    assert f"user0 looked at the order and approved it. It was held because “{REASON}”." in shown
    # Without the reason, which may name the customer.
    assert LogEntry.objects.get().change_message == "Decided about the review: approve."


def test_an_order_that_fails_its_review_is_rejected(staff: Client) -> None:
    order = held_order()
    decide(staff, order, "reject")
    order.refresh_from_db()
    assert order.status == Status.REJECTED
    change = order.changes.get()
    assert details(change) == [Problem("staff_review_declined", {"by": "user0"})]
    assert ended(change) == [WANTED]
    shown = plain(text(read(staff.get(order_page(order)))))
    assert "user0 looked at the order and rejected it." in shown
    assert f"Until then: {WANTED}" in shown
