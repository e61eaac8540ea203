"""Fifty customers press the button for the last ten cards at the same moment."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from oscar.core.loading import get_class

from giftcards.models import Order, ProductType, Reservation
from giftcards.simulator import Denomination, Product, Simulator
from tests.builders import PRODUCT, TYPE
from tests.oscar.shop import (
    PRICE,
    Basket,
    Customer,
    OscarOrder,
    age,
    card,
    open_shop,
    paths,
    record_of,
    work,
)
from tests.stage import in_threads, sharing_database


def ready_to_pay(count: int) -> list[Client]:
    """Return browsers of customers who have a card in their basket and only have to pay."""
    strategy = get_class("partner.strategy", "Selector")().strategy()
    browsers = []
    for _customer in range(count):
        customer = Customer()
        basket = Basket.objects.create(owner=customer.user)
        basket.strategy = strategy
        basket.add_product(card(), 1)
        session = customer.browser.session
        session["checkout_data"] = {"shipping": {"method_code": "no-shipping-required"}}
        session.save()
        browsers.append(customer.browser)
    return browsers


@pytest.mark.django_db(transaction=True)
def test_fifty_carts_at_once_buy_the_last_ten_cards_with_one_question(
    simulator: Simulator, till: list[Decimal], tmp_path: Path
) -> None:
    simulator.catalogue = {
        PRODUCT: Product("PlayStation", "DZ", {TYPE: Denomination(TYPE, Decimal(490), 10)})
    }
    with sharing_database(tmp_path / "shop.sqlite3"):
        open_shop()
        ProductType.objects.update(stock=10)
        waiting = ready_to_pay(50)
        age(3_600)
        simulator.forget_requests()

        def press() -> Any:
            answer = waiting.pop().post("/checkout/preview/", {"action": "place_order"})
            return answer.headers["Location"]

        ends = in_threads(50, press)
        expected = {"/checkout/thank-you/": 10, "/basket/": 40}
        assert {end: ends.count(end) for end in ends} == expected
        assert till == [PRICE] * 10
        assert paths(simulator) == [f"checkProduct/{PRODUCT}"]
        assert OscarOrder.objects.filter(status="Paid").count() == Order.objects.count() == 10
        assert not Reservation.objects.exists()
        work()
        assert paths(simulator).count("placeOrder") == 10
        assert record_of().net_stock_level == 0
