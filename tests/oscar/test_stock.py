"""Stock records follow the shelf: price, stock, and whether the card can be bought."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db.models.signals import post_save
from oscar.core.loading import get_model

from giftcards.catalogue import release, reserve
from giftcards.engine import outbox
from giftcards.fulfilment import place_order
from giftcards.models import ApiKey, Category, Lease, ProductType, Reservation, Shelf
from giftcards.models import Product as ProviderProduct
from giftcards.models.catalogue import OfferChange, changes_between
from giftcards.oscar.stock import follow_changes, follow_offers
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE, category, make_offer, make_order, set_shelf
from tests.conftest import Call
from tests.oscar.shop import (
    PRICE,
    Customer,
    ProductClass,
    StockRecord,
    book,
    bought,
    card,
    record_of,
    work,
)
from tests.stage import ago, prove_key

OTHER = "507f1f77bcf86cd799439012"


def offered(**values: Any) -> None:
    """Change the provider's offer to these values, and announce the change to the shop."""
    kind = ProductType.objects.get(type_id=TYPE)
    before = kind.offer
    for name, value in values.items():
        setattr(kind, name, value)
    kind.save()
    OfferChange.objects.bulk_create(changes_between(kind, before, at=kind.read_at))
    outbox.announce(outbox=outbox.OFFERS)


def can_buy(type_id: str = TYPE) -> bool:
    """Return True if the page of the card has a form that puts it into the basket."""
    product = card(type_id)
    page = Customer().browser.get(product.get_absolute_url())
    return f"/basket/add/{product.pk}/" in page.content.decode()


class TestCreating:
    def test_products_are_created_if_asked_for_and_once(self, db: None, call: Call) -> None:
        set_shelf(margin_percent=8, round_to=10)
        make_offer(stock=7)
        make_offer("type_101", product_id=OTHER, name="Steam 5 USD")
        make_offer("sold_out", stock=0)
        # Test types are not created, because every customer could buy them.
        make_offer("TEST_PARTIAL")
        make_offer("SIM_SLOW")
        assert (
            call("giftcards_oscar_sync").out
            == "0 products created, 0 of 0 stock records changed.\n"
        )
        done = json.loads(call("giftcards_oscar_sync", "--json", "--create", PRODUCT).out)
        expected = {"created": 1, "changed": 0, "records": 1, "without_price": 0, "untracked": 0}
        assert done == expected
        record = record_of()
        assert (record.price, record.price_currency, record.net_stock_level) == (PRICE, "DZD", 7)
        assert (record.partner.name, record.partner.code) == ("OneClickDz", "oneclickdz")
        assert record.product.title == "PlayStation – PSN 500 DA"
        assert [str(category) for category in record.product.categories.all()] == ["Gift cards"]
        assert not record.product.is_shipping_required
        assert can_buy()
        for number in (1, 0):
            assert (
                json.loads(call("giftcards_oscar_sync", "--json", "--create").out)["created"]
                == number
            )

    def test_a_product_goes_into_the_category_of_the_provider(self, db: None, call: Call) -> None:
        make_offer()
        ProviderProduct.objects.update(category=category("Games"))
        call("giftcards_oscar_sync", "--create")
        assert [str(category) for category in card().categories.all()] == ["Games"]

    def test_without_a_rule_nothing_is_for_sale_until_the_shop_sets_a_price(
        self, db: None, call: Call
    ) -> None:
        make_offer(stock=7)
        told = call("giftcards_oscar_sync", "--create").out
        assert told.endswith("Not for sale because they have no price: 1.\n")
        assert (record_of().price, record_of().net_stock_level) == (None, 0)
        assert not can_buy()
        StockRecord.objects.update(price=600)
        assert follow_offers() == 1
        assert (record_of().price, record_of().net_stock_level) == (600, 7)

    def test_a_product_that_is_never_sold_out_for_oscar_is_told(
        self, shop: Simulator, call: Call
    ) -> None:
        ProductClass.objects.update(track_stock=False)
        assert call("giftcards_oscar_sync").out.endswith(
            "because their product class does not track stock: 4.\n"
        )


CHANGES: dict[str, tuple[dict[str, Any], Decimal, int]] = {
    "price": ({"cost": Decimal(500)}, Decimal(540), 100),
    "stock": ({"stock": 3}, PRICE, 3),
    "sold out": ({"stock": 0}, PRICE, 0),
    "unknown stock": ({"stock": None}, PRICE, 2_000),
    "gone": ({"cost": None, "stock": 0}, PRICE, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_stock_record_follows_a_change_of_the_offer(shop: Simulator, change: str) -> None:
    values, price, left = CHANGES[change]
    product = book()
    offered(**values)
    assert (record_of().price, record_of().net_stock_level) == (price, left)
    assert can_buy() == bool(left)
    # The stock records of other cards and of other partners are not changed.
    assert record_of("TEST_PARTIAL").net_stock_level == 100
    assert product.stockrecords.get().net_stock_level == 99
    offered(cost=Decimal(490), stock=100)
    assert (record_of().price, record_of().net_stock_level) == (PRICE, 100)


def test_a_product_that_the_provider_takes_off_sale_cannot_be_bought(shop: Simulator) -> None:
    ProviderProduct.objects.update(is_enabled=False)
    work()
    assert not can_buy()


def test_reservations_and_orders_take_from_the_stock_and_give_back(shop: Simulator) -> None:
    cards = {"product_id": PRODUCT, "type_id": TYPE}
    reserve(reference="cart-1", quantity=10, **cards)
    work()
    assert record_of().net_stock_level == 90
    release("cart-1")
    work()
    assert record_of().net_stock_level == 100
    # Oscar also counts these cards as allocated until the worker updates the record.
    bought(card(), 4)
    assert record_of().net_stock_level == 96
    work()
    # The worker has asked the provider for the price, and the answer also told the stock.
    assert record_of().net_stock_level == ProductType.objects.get(type_id=TYPE).stock - 4
    assert record_of().num_allocated == 0


def test_a_new_margin_reaches_the_stock_records(shop: Simulator) -> None:
    set_shelf(margin_percent=None, margin_fixed=100, least_margin=50)
    work()
    assert record_of().price == 590
    set_shelf(margin_fixed=10)
    work()
    assert (record_of().price, record_of().net_stock_level) == (590, 0)


def start_from(*, minutes: float) -> None:
    """Pretend that the chore last ran ``minutes`` ago and that nothing has changed since then."""
    follow_changes(lambda: True)
    Lease.objects.filter(name="oscar's stock").update(until=ago(60 * minutes))
    StockRecord.objects.update(date_updated=ago(7_200))
    ProductType.objects.update(read_at=ago(7_200), priced_at=ago(7_200))
    # This stock is wrong, but no recorded change points to it.
    StockRecord.objects.filter(partner_sku=f"{PRODUCT}/TEST_PARTIAL").update(num_in_stock=1)


CARD = {"product_id": PRODUCT, "type_id": TYPE}
EVENTS: dict[str, tuple[Callable[[], object], int]] = {
    "an order": (lambda: place_order(quantity=3, **CARD), 92),
    "a reservation": (lambda: reserve(reference="cart-2", quantity=3, **CARD), 92),
    "the end of a reservation": (lambda: Reservation.objects.update(until=ago(60)), 100),
    "a release": (lambda: release("cart-1"), 100),
    "a settled order": (
        lambda: make_order(Status.FULFILLED, quantity=2, accepted_at=ago(30), finalized_at=ago(20)),
        93,
    ),
    "a reading": (
        lambda: ProductType.objects.filter(type_id=TYPE).update(stock=50, read_at=ago(1)),
        45,
    ),
    "too old": (lambda: ProductType.objects.filter(type_id=TYPE).update(read_at=ago(86_430)), 0),
    "a price": (
        lambda: ProductType.objects.filter(type_id=TYPE).update(stock=9, priced_at=ago(1)),
        4,
    ),
    "the dashboard": (
        lambda: StockRecord.objects.filter(partner_sku=f"{PRODUCT}/{TYPE}").update(
            num_in_stock=7, date_updated=ago(1)
        ),
        95,
    ),
}


@pytest.mark.parametrize("event", EVENTS)
def test_the_worker_looks_at_the_records_of_which_something_has_changed(
    shop: Simulator, settings: Any, django_capture_on_commit_callbacks: Any, event: str
) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "CATALOGUE_INTERVAL": 3600}
    reserve(reference="cart-1", quantity=5, **CARD)
    start_from(minutes=2)
    happen, left = EVENTS[event]
    with django_capture_on_commit_callbacks(execute=True):
        happen()
    follow_changes(lambda: True)
    assert record_of().net_stock_level == left
    assert record_of("TEST_PARTIAL").net_stock_level == 1


# Changes that bypass save(), or a day that passes; each with the resulting price and the resulting
# stock of TEST_PARTIAL.
TURNS: dict[str, tuple[Callable[[], object], Decimal | int, int]] = {
    "another day": (lambda: None, PRICE, 100),
    "another buffer": (lambda: Shelf.objects.update(stock_buffer=60), PRICE, 40),
    "a hidden category": (lambda: Category.objects.update(is_sold=False), PRICE, 0),
    "a hidden product": (lambda: ProviderProduct.objects.update(is_sold=False), PRICE, 0),
    "a hidden type": (lambda: ProductType.objects.update(is_sold=False), PRICE, 0),
}


@pytest.mark.parametrize("why", TURNS)
def test_all_records_get_their_turn(shop: Simulator, why: str) -> None:
    start_from(minutes=1_441 if why == "another day" else 2)
    change, price, left = TURNS[why]
    change()
    # The first run has time for no record, the second run for all of them.
    follow_changes(lambda: False)
    assert record_of("TEST_PARTIAL").net_stock_level == 1
    follow_changes(lambda: True)
    assert record_of("TEST_PARTIAL").net_stock_level == left
    assert record_of().price == price


def test_a_price_in_another_currency_is_left_to_the_shop(shop: Simulator) -> None:
    StockRecord.objects.update(price_currency="EUR", price=4)
    offered(cost=Decimal(500), stock=3)
    assert (record_of().price, record_of().net_stock_level) == (4, 3)


@pytest.mark.parametrize(("environment", "left"), [("SANDBOX", 5), ("PRODUCTION", 0)])
def test_a_type_for_tests_need_not_be_on_the_shelf_of_the_sandbox(
    shop: Simulator, environment: str, left: int
) -> None:
    prove_key()
    ApiKey.objects.update(environment=environment)
    StockRecord.objects.filter(partner_sku=f"{PRODUCT}/TEST_PARTIAL").update(num_in_stock=5)
    ProductType.objects.filter(type_id="TEST_PARTIAL").delete()
    follow_offers()
    assert record_of("TEST_PARTIAL").net_stock_level == left


def test_a_record_that_cannot_be_written_holds_up_no_other(
    shop: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(instance: Any, **_: Any) -> None:
        if instance.partner_sku == f"{PRODUCT}/{TYPE}":
            raise ValueError("The mail server is away.")

    ProductType.objects.update(stock=1)
    post_save.connect(fail, sender=StockRecord)
    try:
        assert follow_offers() == 3
    finally:
        post_save.disconnect(fail, sender=StockRecord)
    assert (
        caplog.messages[-1] == f"The stock record of {PRODUCT}/{TYPE} cannot be written: ValueError"
    )


def test_a_rule_that_fails_takes_the_card_off_the_shelf(
    shop: Simulator, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    set_shelf(margin_percent=None)
    settings.GIFTCARDS = {**settings.GIFTCARDS, "PRICING": "tests.oscar.test_stock.broken_rule"}
    work()
    work()
    assert caplog.messages[-1].startswith("PRICING failed: DivisionByZero at ")
    assert record_of().net_stock_level == 0


def broken_rule(kind: ProductType) -> Decimal:
    return Decimal(1) / 0


def test_a_card_that_is_back_is_told_to_those_who_wait_for_it(
    shop: Simulator, mailoutbox: list[Any]
) -> None:
    offered(stock=0)
    customer = Customer()
    get_model("customer", "ProductAlert").objects.create(
        product=card(), user=customer.user, status="Active"
    )
    offered(stock=3)
    assert [message.to for message in mailoutbox] == [[customer.email]]


def test_nothing_is_written_while_nothing_changes(
    shop: Simulator, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(5):
        assert follow_offers() == 0
    for number in range(20):
        make_offer(f"type_{number}", product_id=OTHER)
    with django_assert_max_num_queries(5):
        assert follow_offers() == 0
