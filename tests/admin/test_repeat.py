"""Staff order the missing cards again: what they see, permissions and records."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.admin.frame.forms import state_token
from giftcards.conf import conf
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.fulfilment import reorder_missing
from giftcards.keys.keyring import key_fingerprint
from giftcards.models import ApiKey, Order
from giftcards.rules.problems import Problem
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order
from tests.pages import LATE, hidden, order_page, plain, read, sign_in, text, told

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

NOTHING = (
    "No cards can be ordered again. Either the order is still open, or all of its cards have"
    " arrived."
)
TWICE = (
    "The missing cards of web-1042 have already been ordered again. They will not be ordered twice."
)
OTHER_ENVIRONMENT = (
    "This order was placed in the Sandbox environment, but the current API key is for the"
    " Production environment. The missing cards cannot be ordered again. Place a new order instead."
)
LABEL = "Order the missing cards again"
CAME = Problem("late_cards", {"received": 5, "announced": 3})


def partial(**values: Any) -> Order:
    named = {"reference": "web-1042", "sale_price": Decimal(550), "max_price": Decimal(500)}
    return make_guide_order(Status.PARTIALLY_FILLED, **named | values)


def page(order: Order) -> str:
    return order_page(order, "reorder")


def about(browser: Client, order: Order) -> dict[str, str]:
    return {"state_token": hidden(read(browser.get(page(order))))["state_token"]}


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "add_order")


def test_the_page_of_a_partly_delivered_order_leads_to_ordering_again(staff: Client) -> None:
    order = partial(customer_name="آمنة بن علي", product_name="PSN", type_name="500 DA")
    assert f'href="{page(order)}">{LABEL}</a>' in read(staff.get(order_page(order)))
    html = read(staff.get(page(order)))
    shown = plain(text(html))
    for fact in (
        "2 cards of this order were not delivered. They will be bought once, in a new order.",
        "The customer has already paid for these cards and will receive them, so do not pay the"
        " customer back for them.",
        (
            "If a card costs more than your limit when the new order is sent, the new order will"
            " be put on hold until somebody approves or cancels it."
        ),
        "Replaces missing cards of: web-1042",
        "Product: PSN",
        "Type: 500 DA",
        "Quantity: 2",
        "Customer: آمنة بن علي",
        "Paid by the customer: 1,100 DA",
    ):
        assert fact in shown
    assert 'value="Order 2 cards"' in html
    assert not Order.objects.filter(repeats=order).exists()


def test_costs_are_shown_only_to_who_may_see_them(staff: Client) -> None:
    order = partial()
    # Only the text is checked, because tokens in the page's source can contain any three digits.
    shown = text(read(staff.get(page(order))))
    assert not any(cost in shown for cost in ("490", "980", "500"))
    boss = sign_in("view_order", "add_order", "view_cost")
    shown = plain(text(read(boss.get(page(order)))))
    for fact in (
        "Previous price per card: 490 DA",
        "Total at the previous price: 980 DA",
        "Highest price: 500 DA",
    ):
        assert fact in shown
    Order.objects.update(sale_price=None, sale_amount=None, max_price=None, price_per_card=None)
    shown = text(read(staff.get(page(order))))
    assert "the cards will be bought at any price." in shown
    assert "do not pay the customer back for them." not in shown
    assert "unknown" not in shown
    assert "None" not in shown


def test_a_double_click_orders_once_and_leads_to_the_new_order(staff: Client) -> None:
    order = partial()
    form = about(staff, order)
    staff.post(page(order), form)
    response = staff.post(page(order), form, follow=True)
    new = Order.objects.get(repeats=order)
    assert TWICE in told(response)
    assert response.redirect_chain == [(order_page(new), 302)]
    assert LogEntry.objects.count() == 2


def test_an_order_that_was_repeated_has_no_button_and_its_page_leads_to_the_new_order(
    staff: Client,
) -> None:
    order = partial()
    new = reorder_missing(order, by="karim")
    assert page(order) not in read(staff.get(order_page(order)))
    response = staff.get(page(order), follow=True)
    assert response.redirect_chain == [(order_page(new), 302)]
    assert told(response) == [TWICE]


def test_an_order_whose_customer_was_paid_back_has_no_button_until_that_is_taken_back(
    staff: Client,
) -> None:
    order = make_guide_order(Status.PARTIALLY_FILLED, sale_price=Decimal(550))
    refund = record_refund(order, amount=1, reference="CCP 12")
    assert page(order) not in read(staff.get(order_page(order)))
    cancel_refund(refund, by="karim")
    assert page(order) in read(staff.get(order_page(order)))


@pytest.mark.parametrize("status", [Status.FULFILLED, Status.HANDLING, Status.DELAYED, None])
def test_an_order_that_misses_nothing_has_no_button_and_is_not_ordered_again(
    staff: Client, status: Status | None
) -> None:
    order = make_guide_order(status) if status else partial()
    if status is None:
        # A card that arrived late is no longer missing, so only one card is offered.
        store_cards([Arrival(order, CARDS[:4])])
        html = read(staff.get(page(order)))
        assert "1 card of this order was not delivered." in plain(text(html))
        assert "Paid by the customer: 550 DA" in plain(text(html))
        assert 'value="Order 1 card"' in html
        store_cards([Arrival(order, CARDS)])
    assert page(order) not in read(staff.get(order_page(order)))
    forged = {"state_token": state_token(order)}
    for response in (
        staff.get(page(order), follow=True),
        staff.post(page(order), forged, follow=True),
    ):
        assert told(response) == [NOTHING]
        assert response.redirect_chain == [(order_page(order), 302)]
    assert Order.objects.count() == 1


def test_a_page_opened_before_the_order_changed_orders_nothing(staff: Client) -> None:
    order = partial()
    form = about(staff, order)
    Order.objects.update(provider_order_id="B2")
    assert told(staff.post(page(order), form, follow=True)) == [LATE]
    assert Order.objects.count() == 1


def test_problems_of_the_order_are_looked_at_before_it_is_ordered_again(staff: Client) -> None:
    order = partial()
    form = about(staff, order)
    Order.objects.update(**order.problem_columns(new=[CAME]))
    [message] = told(staff.post(page(order), form, follow=True))
    assert message.startswith("The cards may have arrived after all. Look at the order's problems")
    assert Order.objects.count() == 1
    html = read(staff.get(page(order)))
    assert "problems and acknowledge them before you order" in html
    assert "Order 2 cards" not in html
    order.refresh_from_db()
    assert order.acknowledge(CAME, by="karim")
    assert "Order 2 cards" in read(staff.get(page(order)))


def test_cards_of_the_sandbox_are_not_ordered_again_with_a_real_key(staff: Client) -> None:
    order = partial(environment="SANDBOX")
    form = about(staff, order)
    ApiKey.objects.create(pk=key_fingerprint(conf.api_key), environment="PRODUCTION")
    html = read(staff.get(page(order)))
    assert OTHER_ENVIRONMENT in text(html)
    assert "Environment: Sandbox" in text(html)
    assert "Order 2 cards" not in html
    assert told(staff.post(page(order), form, follow=True)) == [OTHER_ENVIRONMENT]
    assert Order.objects.count() == 1


def test_the_page_asks_few_questions_of_the_database(
    staff: Client, django_assert_max_num_queries: Any
) -> None:
    order = partial(environment="SANDBOX")
    # Queries: the session; the user and the permissions; the order; the order that repeats it; the
    # API key; the number of its cards, once to check whether it can be ordered again and twice for
    # the new order; and the names of the product and type, because the order was recorded without
    # them.
    with django_assert_max_num_queries(11):
        staff.get(page(order))
