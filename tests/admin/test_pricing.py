"""Deciding about orders that are held because a card costs more than it may."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.engine.approvals import hold_for_price, release_fallen
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import make_order, problems
from tests.pages import LATE, errors, hidden, messages, order_page, plain, read, sign_in, text

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def held_order(price: int = 49_000) -> Order:
    order = make_order(reference="web-1042", sale_price=Decimal(550))
    hold_for_price(order, price=Decimal(price), ceiling=Decimal(550))
    order.refresh_from_db()
    assert order.is_held
    return order


def page(order: Order) -> str:
    return order_page(order, "price")


def decide(browser: Client, order: Order, outcome: str) -> Any:
    token = hidden(read(browser.get(page(order))))["state_token"]
    return browser.post(page(order), {"state_token": token, "outcome": outcome})


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "resolve_order", "view_cost")


def test_the_page_of_a_held_order_leads_to_the_decision(staff: Client) -> None:
    order = held_order()
    shown = read(staff.get(order_page(order)))
    assert f'href="{page(order)}">What may a card cost?</a>' in shown
    html = read(staff.get(page(order)))
    shown = plain(text(html))
    for fact in (
        "Reference: web-1042",
        "Sale price: 550 DA",
        "Highest price: 550 DA",
        "Price at the provider: 49,000 DA",
    ):
        assert fact in shown
    assert "Buy it: at most 49,000 DA a card, 98,000 DA in all." in shown


def test_an_approved_price_releases_the_order_and_leaves_a_trace(staff: Client) -> None:
    order = held_order()
    response = decide(staff, order, "approve")
    assert messages(read(staff.get(response.url))) == ["Recorded."]
    order.refresh_from_db()
    expected = (Status.PENDING, False, Decimal(49_000))
    assert (order.status, order.is_held, order.price_ceiling) == expected
    assert problems(order) == []
    amounts = {"price": "49000.00", "ceiling": "550.00"}
    trace = order.acknowledgements.get()
    assert (trace.by, trace.parameters) == ("user0", {"by": "user0", **amounts})
    shown = plain(text(read(staff.get(order_page(order)))))
    assert "user0 approved a price of 49,000 DA a card, instead of 550 DA." in shown
    assert "Ticked off" not in shown
    # Without amounts: whoever may see the order reads the log.
    assert LogEntry.objects.get().change_message == "user0 approved the price of a card."


@pytest.mark.parametrize("outcome", ["", "approve-all"])
def test_an_unusable_decision_is_refused(staff: Client, outcome: str) -> None:
    order = held_order()
    assert len(errors(read(decide(staff, order, outcome)))) == 1
    order.refresh_from_db()
    assert order.is_held
    assert not LogEntry.objects.exists()


def test_the_trace_names_the_ceiling_for_which_the_order_was_held(
    staff: Client, set_conf: Callable[..., None]
) -> None:
    order = held_order()
    set_conf(HOLD_ABOVE_SALE_PRICE=False)
    decide(staff, order, "approve")
    assert order.acknowledgements.get().parameters["ceiling"] == "550.00"


def test_the_problem_of_a_held_order_cannot_be_ticked_off() -> None:
    order = held_order()
    boss = sign_in(superuser=True)
    assert "Tick off" not in read(boss.get(order_page(order)))


def test_a_page_opened_before_the_price_fell_and_rose_again_decides_nothing(staff: Client) -> None:
    order = held_order()
    token = hidden(read(staff.get(page(order))))["state_token"]
    release_fallen(order.product_id, {order.type_id: Decimal(490)})
    order.refresh_from_db()
    hold_for_price(order, price=Decimal(49_000), ceiling=Decimal(550))
    stale = {"state_token": token, "outcome": "approve"}
    response = staff.post(page(order), stale, follow=True)
    assert messages(read(response)) == [LATE]
    order.refresh_from_db()
    assert order.is_held
    shown = plain(text(read(staff.get(order_page(order)))))
    assert (
        "The price of a card fell to 490 DA; the limit is 550 DA. The order went on automatically."
        in shown
    )


def test_the_pricing_page_of_an_order_that_is_not_held_leads_to_the_order(staff: Client) -> None:
    order = make_order()
    assert page(order) not in read(staff.get(order_page(order)))
    response = staff.post(page(order), {"outcome": "reject"}, follow=True)
    assert messages(read(response)) == [LATE]
    order.refresh_from_db()
    assert order.status == Status.PENDING
