"""The basket is checked with its discounts before the customer pays, and its cards are reserved."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.urls import reverse
from oscar.apps.payment.exceptions import RedirectRequired, UnableToTakePayment
from oscar.core.loading import get_class, get_model

from giftcards.engine.tuning import tuning
from giftcards.models import Order, Reservation
from giftcards.oscar.checkout import (
    BasketRefused,
    GiftCardsCheckout,
    check_cards,
    release_cards,
    reserve_cards,
)
from giftcards.simulator import Denomination, Product, Simulator
from tests.builders import PRODUCT, TYPE
from tests.oscar.guide import block_of
from tests.oscar.shop import (
    PRICE,
    Basket,
    Customer,
    OscarOrder,
    StockRecord,
    age,
    book,
    card,
    give_voucher,
    paths,
    payment_view,
    record_of,
    status_of,
    work,
)

BASKET = "/basket/"
NAME = f"PlayStation – {TYPE}"
NOT_AT_THIS_PRICE = (
    f"{NAME}: The price of this card has changed, or a discount is too large. Please reload the"
    " page and check the price."
)
NOT_FOR_SALE = f"{NAME}: This card is no longer for sale."
SOLD_OUT = f"{NAME}: This card is sold out at the moment."
NOT_NOW = f"{NAME}: This card cannot be bought at the moment. Please try again later."
QUESTION = f"checkProduct/{PRODUCT}"


def sell(simulator: Simulator, price: int = 490, *, stock: int = 100) -> None:
    """Make the provider sell the card at ``price`` from now on, with ``stock`` cards left."""
    kinds = {TYPE: Denomination(TYPE, Decimal(price), stock)}
    simulator.catalogue = {PRODUCT: Product("PlayStation", "DZ", kinds)}


def basket_of(customer: Customer) -> Any:
    """Return the basket with its discounts, as the shop computes them for a page."""
    return customer.browser.get(BASKET).context["basket"]


def assert_nothing_is_sold(till: list[Decimal]) -> None:
    assert (till, Order.objects.count(), Reservation.objects.count()) == ([], 0, 0)


@pytest.mark.parametrize(
    ("percent", "amount"), [(0, "1060.00"), (7, "985.80"), (8, None), (20, None), (100, None)]
)
def test_a_voucher_may_cost_the_margin_and_no_more(
    shop: Simulator, till: list[Decimal], percent: int, amount: str | None
) -> None:
    customer = Customer()
    voucher = give_voucher(percent) if percent else ""
    order = customer.buy(card(), 2, voucher=voucher)
    if amount is not None:
        assert order is not None
        assert till == [order.total_incl_tax] == [Decimal(amount)]
        assert Order.objects.get().sale_amount == Decimal(amount)
        assert not Reservation.objects.exists()
        return
    assert order is None
    assert NOT_AT_THIS_PRICE in customer.told
    assert_nothing_is_sold(till)


def test_the_way_to_the_payment_ends_in_the_basket_without_a_request(
    shop: Simulator, till: list[Decimal]
) -> None:
    customer = Customer()
    customer.put(card())
    customer.use_voucher(give_voucher(20))
    assert customer.go_to_pay() == BASKET
    assert NOT_AT_THIS_PRICE in customer.told
    assert paths(shop) == []


CHANGES: dict[str, tuple[Callable[[Simulator], None], list[str], Decimal, int]] = {
    "dearer than its price": (lambda it: sell(it, 540), [NOT_AT_THIS_PRICE], Decimal(590), 100),
    "dearer": (lambda it: sell(it, 520), [], PRICE, 100),
    "sold out": (lambda it: sell(it, stock=0), [SOLD_OUT], PRICE, 0),
    "too few": (
        lambda it: sell(it, stock=1),
        [f"{NAME}: Only 1 of these cards is left."],
        PRICE,
        1,
    ),
    "away": (lambda it: setattr(it, "outage", True), [NOT_NOW], PRICE, 100),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_between_basket_and_payment_is_noticed(
    shop: Simulator, till: list[Decimal], change: str
) -> None:
    happens, told, price, left = CHANGES[change]
    customer = Customer()
    customer.put(card(), 2)
    customer.go_to_pay()
    age(3_600)
    happens(shop)
    order = customer.press()
    assert paths(shop) == [QUESTION]
    assert [sentence for sentence in customer.told if sentence.startswith(NAME)] == told
    if told:
        assert order is None
        assert_nothing_is_sold(till)
        # The stock record is up to date, so the basket now shows the right price and stock.
        assert (record_of().price, record_of().net_stock_level) == (price, left)
    else:
        assert order is not None
        assert till == [2 * PRICE]


def test_several_cards_of_a_product_take_one_request(shop: Simulator, till: list[Decimal]) -> None:
    customer = Customer()
    customer.put(card())
    customer.put(card("TEST_PARTIAL"))
    age(3_600)
    assert customer.pay()
    assert paths(shop) == [QUESTION]
    assert till == [2 * PRICE]


def test_two_lines_with_the_same_card_do_not_share_the_last_ones(
    shop: Simulator, till: list[Decimal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "cards_of_customer", 120)
    customer = Customer()
    customer.put(card(), 60)
    option = get_model("catalogue", "Option").objects.create(name="For", code="for")
    basket = Basket.open.get(owner=customer.user)
    basket.strategy = get_class("partner.strategy", "Selector")().strategy()
    basket.add_product(card(), 60, options=[{"option": option, "value": "Amina"}])
    assert customer.pay() is None
    assert f"{NAME}: Only 40 of these cards are left." in customer.told
    assert_nothing_is_sold(till)


def test_cards_are_reserved_while_the_customer_pays_on_another_site(
    shop: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirect(*_: Any, **__: Any) -> None:
        raise RedirectRequired("/basket/")

    monkeypatch.setattr(payment_view(), "handle_payment", redirect)
    customer, other = Customer(), Customer()
    customer.put(card(), 99)
    customer.pay()
    assert Reservation.objects.get().quantity == 99
    work()
    assert record_of().net_stock_level == 1
    other.put(card())
    # Simulate a basket that was filled before the other customer reserved the cards.
    StockRecord.objects.update(num_in_stock=100)
    Basket.open.get(owner=other.user).lines.update(quantity=2)
    assert other.pay() is None
    assert f"{NAME}: Only 1 of these cards is left." in other.told
    release_cards(Basket.objects.get(owner=customer.user, status="Frozen"))
    assert not Reservation.objects.exists()
    assert record_of().net_stock_level == 100


@pytest.mark.parametrize(
    ("quantity", "is_guest", "most"),
    [(2, True, 5), (1, True, 6), (2, False, 6), (3, True, 0)],
    ids=["guests of a network in full", "guests with room", "accounts", "one guest"],
)
def test_guests_who_do_not_pay_reserve_so_many_cards_each_and_for_each_network(
    shop: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    quantity: int,
    is_guest: bool,
    most: int,
) -> None:
    monkeypatch.setattr(tuning, "cards_of_customer", 2)
    monkeypatch.setattr(tuning, "customers_of_network", 5)

    def redirect(*_: Any, **__: Any) -> None:
        raise RedirectRequired("/basket/")

    monkeypatch.setattr(payment_view(), "handle_payment", redirect)
    for _guest in range(6):
        customer = Customer(is_guest=is_guest)
        customer.browser.defaults["REMOTE_ADDR"] = "41.100.0.1"
        customer.buy(card(), quantity)
    assert Reservation.objects.count() == most


@pytest.mark.parametrize("is_paid", [True, False])
def test_an_order_that_is_paid_on_another_site_keeps_its_price(
    shop: Simulator, monkeypatch: pytest.MonkeyPatch, is_paid: bool
) -> None:
    view = payment_view()
    names: dict[str, Any] = {
        "GiftCardsCheckout": GiftCardsCheckout,
        "CorePaymentDetailsView": view.__mro__[2],
        "start_payment": lambda order: f"/bank/{order.number}/",
    }
    exec(block_of("oscar", "from django.shortcuts import redirect"), names)
    exec(block_of("oscar", "from giftcards.oscar.checkout import release_cards"), names)

    def handle_successful_order(self: Any, order: Any) -> Any:
        other = names["PaymentDetailsView"]()
        vars(other).update(vars(self))
        return other.handle_successful_order(order)

    monkeypatch.setattr(view, "handle_successful_order", handle_successful_order)
    customer = Customer()
    customer.put(card(), 2)
    customer.go_to_pay()
    sent = customer.browser.post(reverse("checkout:preview"), {"action": "place_order"})
    order = OscarOrder.objects.get()
    assert sent["Location"] == f"/bank/{order.number}/"
    assert (order.status, Reservation.objects.get().quantity) == ("Pending", 2)
    StockRecord.objects.update(price=PRICE + 100)
    if is_paid:
        names["payment_succeeded"](order)
        assert Order.objects.get().sale_amount == 2 * PRICE
    else:
        names["payment_failed"](order)
        assert not Order.objects.exists()
    assert not Reservation.objects.exists()


def test_a_payment_that_fails_ends_the_reservation(
    shop: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        assert Reservation.objects.get().quantity == 2
        # The worker runs during the payment.
        work()
        assert record_of().net_stock_level == 98
        raise UnableToTakePayment("The bank says no.")

    monkeypatch.setattr(payment_view(), "handle_payment", refuse)
    customer = Customer()
    assert customer.buy(card(), 2) is None
    assert not Reservation.objects.exists()
    assert record_of().net_stock_level == 100
    assert basket_of(customer).num_items == 2


def test_two_suppliers_sell_from_one_basket(shop: Simulator, till: list[Decimal]) -> None:
    customer = Customer()
    customer.put(book(900))
    customer.put(card(), 2)
    order = customer.pay()
    assert order is not None
    assert till == [900 + 2 * PRICE]
    book_line, card_line = order.lines.all()
    assert [it.reference for it in Order.objects.all()] == [f"oscar-line-{card_line.pk}"]
    work()
    assert (status_of(book_line), status_of(card_line)) == ("Pending", "Delivered")


def test_the_basket_of_another_supplier_is_none_of_our_business(
    shop: Simulator, till: list[Decimal], django_assert_num_queries: Any
) -> None:
    customer = Customer()
    customer.put(book())
    customer.use_voucher(give_voucher(100))
    basket = basket_of(customer)
    with django_assert_num_queries(1):
        reserve_cards(basket)
    assert customer.pay()
    assert (paths(shop), Order.objects.count()) == ([], 0)


def test_a_guest_buys(shop: Simulator, till: list[Decimal]) -> None:
    customer = Customer(is_guest=True)
    assert customer.buy(card())
    assert Order.objects.get().customer_email == customer.email


def test_a_basket_in_another_currency_is_refused(shop: Simulator, till: list[Decimal]) -> None:
    StockRecord.objects.update(price_currency="EUR")
    customer = Customer()
    customer.put(card())
    assert customer.pay() is None
    assert NOT_FOR_SALE in customer.told
    assert_nothing_is_sold(till)


@pytest.mark.parametrize(
    ("strategy", "price", "told"),
    [
        ("Default", 490, ""),
        ("Default", None, NOT_FOR_SALE),
        # This strategy adds a fifth for taxes.
        ("UK", 409, ""),
        ("UK", 408, NOT_AT_THIS_PRICE),
        # This strategy does not know the taxes yet.
        ("US", 490, ""),
        ("US", 489, NOT_AT_THIS_PRICE),
    ],
)
def test_what_counts_is_what_the_customer_pays_by_the_strategy_of_the_shop(
    shop: Simulator, strategy: str, price: int | None, told: str
) -> None:
    customer = Customer()
    customer.put(card())
    StockRecord.objects.update(price=price)
    basket = Basket.open.get(owner=customer.user)
    basket.strategy = get_class("partner.strategy", strategy)()
    if not told:
        check_cards(basket)
        return
    with pytest.raises(BasketRefused, match=re.escape(told)):
        check_cards(basket)


def test_values_that_no_order_can_have_are_refused_with_their_reasons(
    shop: Simulator, till: list[Decimal]
) -> None:
    customer = Customer()
    customer.put(card(), 2)
    Basket.open.get(owner=customer.user).lines.update(quantity=2_001)
    basket = basket_of(customer)
    with pytest.raises(BasketRefused) as refused:
        check_cards(basket, email="no address")
    assert len(refused.value.sentences) == 2
    assert all(sentence.startswith(f"{NAME}: ") for sentence in refused.value.sentences)
    assert str(refused.value) == " ".join(refused.value.sentences)


def test_the_sentences_are_in_the_language_of_the_customer(
    shop: Simulator, till: list[Decimal]
) -> None:
    customer = Customer(language="fr")
    assert customer.buy(card(), voucher=give_voucher(20)) is None
    [told] = [sentence for sentence in customer.told if sentence.startswith(NAME)]
    assert "Le prix de cette carte a changé" in told
