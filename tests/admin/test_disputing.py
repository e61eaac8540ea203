"""Customer complaints about a code: staff record them on the order's page and acknowledge them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from giftcards.admin.frame.forms import state_token
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.models import Order
from giftcards.privacy.retention import purge
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order
from tests.pages import order_page, plain, read, sign_in, text

pytestmark = pytest.mark.django_db

LABEL = "Record a complaint about a code"


@pytest.fixture
def order() -> Order:
    old = timezone.now() - timedelta(days=400)
    order = make_guide_order(Status.PARTIALLY_FILLED, finalized_at=old)
    store_cards([Arrival(order, CARDS[:3])])
    return order


@pytest.fixture
def support() -> Client:
    return sign_in("view_order", "check_order")


def complain(browser: Client, order: Order, **form: Any) -> Any:
    address = order_page(order, "dispute")
    return browser.post(address, {"state_token": state_token(order), "cards": ["1"], **form})


def acknowledge(browser: Client, order: Order) -> None:
    order.refresh_from_db()
    form = {"state_token": state_token(order), "problem": order.open_problems[0].key}
    browser.post(order_page(order, "acknowledge"), form)
    order.refresh_from_db()


def purged() -> int:
    return purge(settled_before=timezone.now() - timedelta(days=365)).orders


def test_a_complaint_is_shown_with_what_to_do_and_keeps_the_codes_until_it_is_acknowledged(
    order: Order, support: Client
) -> None:
    assert LABEL in read(support.get(order_page(order)))
    words = "She typed it twice.\nIt says: used."
    assert complain(support, order, cards=["3", "1"], words=words).status_code == 302
    html = read(support.get(order_page(order)))
    assert "the customer complained about a code. Cards: 1, 3." in plain(text(html))
    order.refresh_from_db()
    assert order.disputed_cards == {1, 3}
    assert order.notes.get().text == words
    assert "recorded that the customer complained about a code." in html
    assert "what happened to the code, and tell the customer" in html
    assert LABEL not in html
    assert [entry.get_change_message() for entry in LogEntry.objects.all()] == [
        "Recorded a complaint about a code."
    ]
    assert purged() == 0
    acknowledge(support, order)
    # A second complaint disputes the order again.
    complain(support, order)
    order.refresh_from_db()
    assert order.is_disputed
    acknowledge(support, order)
    assert not order.is_disputed
    assert order.acknowledgements.count() == 2
    assert not order.needs_attention
    assert purged() == 1


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"cards": []}, "This field is required."),
        ({"cards": ["4"]}, "4 is not one of the available choices."),
        (
            {"words": "a\u202eb"},
            "Enter text without control characters or characters that change the text direction.",
        ),
    ],
)
def test_a_complaint_about_no_card_or_with_other_than_plain_words_is_not_recorded(
    order: Order, support: Client, form: dict[str, Any], said: str
) -> None:
    assert said in text(read(complain(support, order, **form)))
    order.refresh_from_db()
    assert not order.is_disputed
    assert not order.notes.exists()


def test_the_card_of_an_order_with_one_card_is_ticked_already(support: Client) -> None:
    order = make_guide_order(Status.FULFILLED, quantity=1, fulfilled_quantity=1)
    store_cards([Arrival(order, CARDS[:1])])
    assert "checked" in read(support.get(order_page(order, "dispute")))


def test_a_complaint_beside_another_problem_leaves_that_as_it_is(order: Order) -> None:
    surplus = Problem("surplus_cards", {"received": 4, "announced": 3})
    Order.objects.filter(pk=order.pk).update(**order.problem_columns(new=[surplus]))
    assert order.dispute(by="amina", cards=[1])
    assert not order.dispute(by="karim", cards=[2])
    order.refresh_from_db()
    assert order.open_problems == [surplus, Problem("disputed", {"by": "amina", "positions": "1"})]
    # An answer from the provider does not remove the complaint.
    columns = order.problem_columns(new=[surplus])
    assert {entry["code"] for entry in columns["problems"]} == {"disputed", "surplus_cards"}


@pytest.mark.parametrize("status", [Status.HANDLING, Status.REFUNDED])
def test_nobody_complains_about_an_order_of_which_the_customer_has_no_card(
    status: Status, support: Client
) -> None:
    order = make_guide_order(status)
    assert LABEL not in read(support.get(order_page(order)))
    complain(support, order)
    order.refresh_from_db()
    assert not order.problems


def test_a_complaint_needs_its_permission_a_page_that_asks_and_one_that_still_holds(
    order: Order, support: Client
) -> None:
    viewer = sign_in("view_order", "reveal_card", "find_card")
    assert LABEL not in read(viewer.get(order_page(order)))
    assert complain(viewer, order).status_code == 403
    asked = read(support.get(order_page(order, "dispute")))
    assert "its codes will be kept, until staff acknowledge this problem" in text(asked)
    order.refresh_from_db()
    assert not order.problems
    complain(support, order, state_token="late")
    order.refresh_from_db()
    assert not order.problems
