"""The customer's cards, as one of the pages of their account."""

from __future__ import annotations

from django.test import Client, override_settings
from django.urls import clear_url_caches

from giftcards.fulfilment import reorder_missing
from giftcards.models import Card, Order
from giftcards.simulator import Simulator
from tests.oscar.shop import Customer, bought, card, order_for, work

PAGE, TAB = "/accounts/gift-cards/", 'href="/accounts/gift-cards/"'


def test_customers_find_their_cards_in_their_account(shop: Simulator) -> None:
    customer, other = Customer(), Customer()
    for somebody in (customer, other):
        assert somebody.buy(card(), 2)
    work()
    account = customer.browser.get("/accounts/orders/").content.decode()
    assert TAB in account
    page = customer.browser.get(PAGE)
    assert [it.order.customer_email for it in page.context["orders"]] == [customer.email]
    html = page.content.decode()
    codes = [one.value for one in Card.objects.select_related("order")]
    assert not any(code in html for code in codes)
    # The button leads to the cards.
    [owned] = page.context["orders"]
    form = {"order": owned.order.pk, "token": owned.page}
    shown = customer.browser.post("/cards/", form).content.decode()
    assert [code in shown for code in codes] == [
        one.order.customer_email == customer.email for one in Card.objects.select_related("order")
    ]
    assert other.browser.post("/cards/", form).status_code == 404


def test_a_customer_without_cards_is_told_so(shop: Simulator) -> None:
    html = Customer(language="fr").browser.get(PAGE).content.decode()
    assert "pas encore commandé de cartes cadeaux." in html


def test_who_is_not_logged_in_is_sent_to_the_login(shop: Simulator) -> None:
    answer = Client().get(PAGE)
    expected = (302, f"/accounts/login/?next={PAGE}")
    assert (answer.status_code, answer.headers["Location"]) == expected


def test_a_shop_without_the_page_has_no_tab(shop: Simulator) -> None:
    with override_settings(ROOT_URLCONF="tests.oscar.plain_urls"):
        clear_url_caches()
        assert TAB not in Customer().browser.get("/accounts/orders/").content.decode()
    clear_url_caches()


def test_cards_that_are_ordered_again_are_the_customers_too(shop: Simulator) -> None:
    line = bought(card("TEST_PARTIAL"), 5)
    work()
    again = reorder_missing(order_for(line), by="amina")
    work()
    third = reorder_missing(again, by="amina")
    user = line.order.user
    assert {*Order.objects.of_user(user)} == {order_for(line), again, third}
    assert not Order.objects.of_user(Customer().user).exists()
