"""Reading the provider's catalogue in any shape, and the names that orders keep from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.core.exceptions import ValidationError
from django.db.models import F
from django.utils import timezone

from giftcards import catalogue
from giftcards.catalogue import CatalogueReading, offers, read_catalogue
from giftcards.engine.gateway import Gateway
from giftcards.fulfilment import place_order
from giftcards.models import Order, Product, ProductType, ProviderState, RequestSlot
from giftcards.simulator import Denomination, Simulator
from giftcards.simulator import Product as SoldProduct
from tests.builders import hide
from tests.stage import PROVIDER, PSN, ago, own_key, provider_state, refill_budget, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Wire = responses.RequestsMock
CATALOG = f"{PROVIDER}/v3/gift-cards/catalog"
STEAM = "507f1f77bcf86cd799439012"
MOBILIS = "507f1f77bcf86cd799439013"


@pytest.fixture(autouse=True)
def no_waiting(shorten: Callable[..., None]) -> None:
    """End each wait as soon as the test has changed what the reading waits for."""
    shorten(background_wait=0.001)
    hide("Mobile & Internet")


def product_url(product_id: str) -> str:
    return f"{PROVIDER}/v3/gift-cards/checkProduct/{product_id}"


def fail(reading: CatalogueReading) -> None:
    pytest.fail(f"It waits: {reading}")


def run(on_wait: Callable[[CatalogueReading], None] = fail) -> CatalogueReading:
    with Gateway() as gateway:
        return read_catalogue(gateway, on_wait=on_wait)


def paths(simulator: Simulator) -> list[str]:
    return [request.path.rpartition("/")[2] for request in simulator.requests]


def known() -> list[tuple[str, str, bool]]:
    return list(Product.objects.order_by("pk").values_list("product_id", "name", "is_enabled"))


def types(product_id: str = PSN) -> dict[str, tuple[str, Decimal | None, int | None]]:
    rows = ProductType.objects.filter(product__product_id=product_id).order_by("pk")
    return {row.type_id: (row.name, row.cost, row.stock) for row in rows}


def listing(*products: Any, **more: Any) -> dict[str, Any]:
    data = {"categories": [{"title": "Gaming", "products": list(products)}], **more}
    return {"success": True, "data": data}


def types_answer(*kinds: Any, **more: Any) -> dict[str, Any]:
    return {"success": True, "data": {"types": list(kinds), **more}}


class TestReading:
    def test_a_reading_keeps_products_types_prices_and_stock(self, simulator: Simulator) -> None:
        assert run() == CatalogueReading(total=2, read=2)
        assert paths(simulator) == ["catalog", PSN, STEAM]
        assert known() == [
            (PSN, "PlayStation Network", True),
            (STEAM, "Steam", True),
            # The shop does not sell the category of this product.
            (MOBILIS, "Mobilis", True),
        ]
        product = Product.objects.get(product_id=PSN)
        assert (str(product.category), product.region) == ("Gaming", "DZ")
        assert types()["type_001"] == ("PSN 500 DA", Decimal("490.00"), 100_000)
        assert types()["type_003"] == ("PSN 2000 DA", Decimal("1960.00"), 0)
        assert types(STEAM)["type_101"] == ("Steam 5 USD", Decimal("1250.50"), 100_000)
        assert catalogue.counts() == {
            "products": 3,
            "on_sale": 2,
            "types": 2 + 1 + 2 * 9,
            "types_for_sale": 2 + 1 + 2 * 9,
            "hidden": 1,
            "to_read": 0,
        }

    def test_its_prices_are_known_to_the_orders_that_follow(self, simulator: Simulator) -> None:
        run()
        simulator.forget_requests()
        with Gateway() as gateway:
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)
        assert simulator.requests == []

    def test_a_second_reading_replaces_the_first(self, simulator: Simulator) -> None:
        run()
        simulator.price_factor = 2
        psn = SoldProduct("PSN", "DZ", {"type_001": Denomination("PSN 500", Decimal(490), 7)})
        xbox = SoldProduct("Xbox", "FR", {"x1": Denomination("Xbox 10", Decimal(2000))})
        simulator.catalogue = {PSN: psn, "xbox": xbox}
        run()
        # Missing products may have been left out of one answer only. An hour later, they are gone.
        hour = timedelta(hours=1)
        Product.objects.update(
            listed_at=F("listed_at") - hour,
            types_read_at=F("types_read_at") - hour,
            missing_since=F("missing_since") - hour,
        )
        ProductType.objects.update(missing_since=F("missing_since") - hour)
        assert run().is_whole
        assert known() == [
            (PSN, "PSN", True),
            (STEAM, "Steam", False),
            (MOBILIS, "Mobilis", False),
            ("xbox", "Xbox", True),
        ]
        assert types()["type_001"] == ("PSN 500", Decimal(980), 7)
        # The type is no longer sold, but orders were placed for it.
        assert types()["type_003"] == ("PSN 2000 DA", None, 0)
        assert types(STEAM)["type_101"][0] == "Steam 5 USD"
        for_sale = ProductType.objects.for_sale()
        assert not for_sale.filter(product__product_id=STEAM).exists()

    def test_a_reading_that_was_killed_goes_on_where_it_was(self, wire: Wire) -> None:
        def kill(_request: Any) -> Any:
            raise KeyboardInterrupt

        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2"}, {"id": "p3"}))
        wire.get(product_url("p1"), json=types_answer({"id": "t1"}))
        wire.add_callback("GET", product_url("p2"), kill)
        with pytest.raises(KeyboardInterrupt):
            run()
        wire.replace("GET", product_url("p2"), json=types_answer({"id": "t2"}))
        wire.get(product_url("p3"), json=types_answer({"id": "t3"}))
        assert run() == CatalogueReading(total=2, read=2)
        wire.assert_call_count(CATALOG, 1)
        wire.assert_call_count(product_url("p1"), 1)

    def test_a_reading_that_was_broken_off_long_ago_begins_anew(self, simulator: Simulator) -> None:
        run()
        day = timezone.now() - timedelta(days=1)
        Product.objects.update(listed_at=day)
        Product.objects.filter(product_id=STEAM).update(types_read_at=None)
        Product.objects.filter(product_id=PSN).update(types_read_at=day)
        simulator.forget_requests()
        assert run() == CatalogueReading(total=2, read=2)
        # What was never read comes first.
        assert paths(simulator) == ["catalog", STEAM, PSN]

    def test_a_product_that_another_process_has_read_meanwhile_is_not_read_again(
        self, wire: Wire
    ) -> None:
        def answer(_request: Any) -> Any:
            Product.objects.filter(product_id="p2").update(types_read_at=timezone.now())
            return 200, {}, json.dumps(types_answer({"id": "t1"}))

        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2"}))
        wire.add_callback("GET", product_url("p1"), answer)
        assert run() == CatalogueReading(total=1, read=1)


class TestTolerance:
    """The reading tolerates every contradiction in the provider's documentation."""

    @pytest.fixture(autouse=True)
    def products(self, wire: Wire) -> None:
        wire.get(product_url("p1"), json=types_answer({"id": "t1", "price": 5}))
        wire.get(product_url("p2"), json=types_answer({"id": "t2", "price": 5}))

    def test_either_spelling_of_a_name_and_an_id_is_read(self, wire: Wire) -> None:
        categories = [
            {"title": "Gaming", "products": [{"id": "p1", "title": "One", "cost": 1}]},
            {"name": "Music", "products": [{"_id": "p2", "name": "Two", "region": None}]},
        ]
        counts = {"totalCategories": 2, "totalProducts": 2}
        answer = {"success": True, "data": {"categories": categories}, "meta": counts, **counts}
        wire.get(CATALOG, json=answer)
        assert run().is_whole
        rows = Product.objects.order_by("pk").values_list("name", "category__title", "region")
        assert list(rows) == [("One", "Gaming", ""), ("Two", "Music", "")]

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"categories": None},
            {"categories": {"title": "Gaming"}},
            {"categories": []},
            {"categories": [{"title": "Gaming", "products": [{"title": "no id"}]}]},
        ],
    )
    def test_a_catalogue_without_any_usable_product_changes_nothing(
        self, wire: Wire, data: dict[str, Any]
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1", "title": "One"}))
        run()
        before = known()
        wire.replace("GET", CATALOG, json={"success": True, "data": data})
        reading = run()
        assert "no usable answer" in reading.trouble
        assert not reading.is_whole
        assert known() == before

    def test_rows_that_cannot_be_used_are_skipped_and_counted(self, wire: Wire) -> None:
        good = {"id": "p1", "title": "One"}
        rows = [good, 7, None, {"title": "no id"}, {"id": "two words"}, {"id": 12}, good]
        answer = listing(*rows)
        answer["data"]["categories"] += [7, {"title": "No list", "products": 7}, {"title": "Empty"}]
        wire.get(CATALOG, json=answer)
        reading = run()
        assert (reading.read, reading.failed, reading.is_whole) == (1, 5 + 2, False)
        assert known() == [("p1", "One", True)]

    @pytest.mark.parametrize("counted", [2, 3])
    def test_a_list_with_fewer_products_than_it_counts_takes_none_off_sale(
        self, wire: Wire, counted: int
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2"}))
        run()
        answer = {**listing({"id": "p1"}, {"id": "p3"}), "meta": {"totalProducts": counted}}
        wire.replace("GET", CATALOG, json=answer)
        wire.get(product_url("p3"), json=types_answer({"id": "t3", "price": 5}))
        for _hour in range(2):
            Product.objects.update(listed_at=F("listed_at") - timedelta(hours=7))
            Product.objects.update(missing_since=F("missing_since") - timedelta(hours=7))
            reading = run()
        is_whole = counted == 2
        assert known() == [("p1", "", True), ("p2", "", not is_whole), ("p3", "", True)]
        assert (reading.is_whole, reading.failed) == (is_whole, not is_whole)
        told = (
            "The catalogue lists 1 fewer products than it counts, so no product counts as missing."
        )
        assert reading.trouble == ("" if is_whole else told)
        # What was listed was read all the same.
        assert types("p3") == {"t3": ("", Decimal(5), None)}

    def test_a_product_that_is_not_enabled_is_not_read_and_not_on_sale(self, wire: Wire) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2", "enabled": False}))
        assert run() == CatalogueReading(total=1, read=1)
        assert known() == [("p1", "", True), ("p2", "", False)]

    def test_a_name_that_is_missing_now_does_not_replace_an_old_one(self, wire: Wire) -> None:
        named = {"id": "p1", "title": "One", "region": "DZ"}
        wire.get(CATALOG, json=listing(named))
        kind = {"id": "t1", "name": "Five", "price": 5, "quantity": 3}
        wire.replace("GET", product_url("p1"), json=types_answer(kind))
        run()
        wire.replace("GET", CATALOG, json=listing({"id": "p1"}))
        wire.replace("GET", product_url("p1"), json=types_answer({"id": "t1"}))
        run()
        product = Product.objects.get()
        assert (product.name, product.region) == ("One", "DZ")
        assert types("p1") == {"t1": ("Five", None, None)}

    def test_prices_and_stock_that_make_no_sense_are_unknown_and_a_stock_below_zero_is_none_left(
        self, wire: Wire
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}))
        kinds = [
            {"id": "float", "price": 1250.1, "quantity": "3"},
            {"id": "text", "price": "1250.10", "quantity": 3.0},
            {"id": "negative", "price": -5, "quantity": -1},
            {"id": "below", "price": 5, "quantity": -3},
            {"id": "just-below", "price": 5, "quantity": "-0.5"},
            {"id": "far-below", "price": 5, "quantity": -(10**30)},
            {"id": "words", "price": "dear", "quantity": "many"},
            {"id": "huge", "price": 10**30, "quantity": 10**30},
            {"id": "none", "price": 0, "quantity": 1},
            {"id": "twice", "price": 5},
            {"id": "twice", "price": 6},
            {"id": "twice", "price": 4},
            {"id": "two words", "price": 5},
            "nothing",
        ]
        wire.replace("GET", product_url("p1"), json=types_answer(*kinds))
        assert run().is_whole
        found = {name: (price, stock) for name, (_, price, stock) in types("p1").items()}
        assert found == {
            "float": (Decimal("1250.10"), 3),
            "text": (Decimal("1250.10"), 3),
            "negative": (None, 0),
            "below": (Decimal(5), 0),
            "just-below": (Decimal(5), 0),
            "far-below": (Decimal(5), 0),
            "words": (None, None),
            "huge": (None, None),
            "none": (Decimal(0), 1),
            "twice": (Decimal(6), None),
        }
        for_sale = ProductType.objects.for_sale().values_list("type_id", flat=True)
        assert set(for_sale) == {"float", "text", "twice", "below", "just-below", "far-below"}
        assert {offer.type_id for offer in offers()} == {"float", "text", "twice"}

    def test_a_product_that_cannot_be_read_is_skipped_and_read_by_the_next_run(
        self, wire: Wire
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2"}))
        wire.replace("GET", product_url("p1"), json={"success": True, "data": {"types": 7}})
        reading = run()
        assert (reading.total, reading.read, reading.failed) == (2, 1, 1)
        assert reading.trouble == (
            "The product p1 could not be read. The provider gave no usable answer"
            " (HTTP 200, the answer has no list of types)."
        )
        wire.replace("GET", product_url("p1"), json=types_answer({"id": "t1"}))
        assert run() == CatalogueReading(total=1, read=1)
        wire.assert_call_count(CATALOG, 1)

    def test_a_provider_that_is_away_is_not_asked_about_every_product(self, wire: Wire) -> None:
        wire.get(CATALOG, json=listing(*({"id": f"gone{number}"} for number in range(9))))
        for number in range(9):
            wire.get(product_url(f"gone{number}"), status=502)
        reading = run()
        assert (reading.total, reading.read, reading.failed) == (9, 0, 3)
        assert "HTTP 502" in reading.trouble

    def test_products_that_the_provider_refuses_do_not_end_the_reading(self, wire: Wire) -> None:
        wire.get(CATALOG, json=listing(*({"id": f"p{number}"} for number in range(1, 9))))
        refusal = {"success": False, "error": {"code": "NOT_FOUND", "message": "No."}}
        for number in range(3, 9):
            wire.get(product_url(f"p{number}"), json=refusal, status=404)
        reading = run()
        assert (reading.total, reading.read, reading.failed) == (8, 2, 6)

    def test_an_answer_about_another_product_is_skipped_and_changes_nothing(
        self, wire: Wire
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}, {"id": "p2"}))
        kind = {"id": "t1", "name": "Card", "price": 490}
        for asked_for in ("p1", "p2"):
            wire.replace("GET", product_url(asked_for), json=types_answer(kind, productId="p2"))
        reading = run()
        assert (reading.read, reading.failed) == (1, 1)
        assert "the answer is about another product" in reading.trouble
        assert (types("p1"), list(types("p2"))) == ({}, ["t1"])


class TestSharing:
    """The reading never slows down orders: it uses a tenth of the quota and respects pauses."""

    def test_a_minute_has_a_tenth_of_the_requests_at_most(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        kind = {"t": Denomination("T", Decimal(5))}
        simulator.catalogue = {f"p{number}": SoldProduct("P", "", kind) for number in range(19)}
        made: list[int] = []

        def wait(reading: CatalogueReading) -> None:
            """Let ten seconds pass."""
            assert not reading.is_paused
            made.append(len(simulator.requests))
            simulator.forget_requests()
            RequestSlot.objects.update(until=F("until") - timedelta(seconds=10))

        assert run(wait) == CatalogueReading(total=19, read=19)
        minutes = [sum(made[start : start + 6]) for start in range(len(made) - 5)]
        assert set(minutes) == {4}

    def test_it_waits_while_the_budget_is_used_for_orders(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        spend_budget(but=10)
        waits: list[CatalogueReading] = []

        def wait(reading: CatalogueReading) -> None:
            assert simulator.requests == []
            waits.append(reading)
            if len(waits) == 3:
                refill_budget()

        assert run(wait).is_whole
        assert len(waits) == 3

    def test_the_last_free_requests_of_a_minute_are_left_to_the_orders(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        spend_budget(but=4)
        # The rush was half a minute ago: it is over, and its requests still count.
        RequestSlot.objects.filter(until__gt=timezone.now()).update(
            until=timezone.now() + timedelta(seconds=30)
        )
        waits: list[CatalogueReading] = []

        def wait(reading: CatalogueReading) -> None:
            assert simulator.requests == []
            waits.append(reading)
            refill_budget()

        assert run(wait).is_whole
        assert len(waits) == 1

    def test_a_pause_that_ends_by_itself_is_waited_for(self, simulator: Simulator) -> None:
        until = timezone.now() + timedelta(minutes=5)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slowly.", until=until)
        waits: list[CatalogueReading] = []

        def wait(reading: CatalogueReading) -> None:
            assert simulator.requests == []
            waits.append(reading)
            ProviderState.objects.resume()

        assert run(wait).is_whole
        assert [reading.is_paused for reading in waits] == [True]

    def test_an_answer_to_slow_down_is_obeyed_and_the_product_read_afterwards(
        self, wire: Wire
    ) -> None:
        wire.get(CATALOG, json=listing({"id": "p1"}))
        wire.get(product_url("p1"), status=429)
        wire.get(product_url("p1"), json=types_answer({"id": "t1"}))
        waits: list[CatalogueReading] = []

        def wait(reading: CatalogueReading) -> None:
            assert provider_state().pause == ProviderState.Pause.RATE
            waits.append(reading)
            ProviderState.objects.resume()

        assert run(wait) == CatalogueReading(total=1, read=1)
        assert len(waits) == 1

    def test_a_refused_key_ends_the_reading_at_once(self, simulator: Simulator) -> None:
        simulator.keys = ["another"]
        reading = run()
        assert reading.trouble == "The provider refuses the API key."
        assert own_key().is_refused
        assert len(simulator.requests) == 1
        run()
        assert len(simulator.requests) == 1


class TestNames:
    """Orders keep the names that the catalogue had for their product and type."""

    def test_an_order_keeps_the_names_of_the_time_when_it_was_recorded(
        self, simulator: Simulator
    ) -> None:
        run()
        order = place_order(product_id=PSN, type_id="type_001", quantity=1)
        assert (order.product_name, order.type_name) == ("PlayStation Network", "PSN 500 DA")
        Product.objects.update(name="PS")
        order.refresh_from_db()
        assert (order.product_name, order.type_name) == ("PlayStation Network", "PSN 500 DA")

    def test_names_are_no_part_of_what_a_repeated_call_compares(self, simulator: Simulator) -> None:
        line = {"product_id": PSN, "type_id": "type_001", "quantity": 1, "reference": "web-1"}
        first = place_order(**line)  # type: ignore[arg-type]
        assert (first.product_name, first.type_name) == ("", "")
        run()
        second = place_order(**line)  # type: ignore[arg-type]
        assert (second.pk, second.product_name) == (first.pk, "")

    @pytest.mark.parametrize(
        ("line", "names"),
        [
            ((PSN, "other"), ("PlayStation Network", "")),
            (("other", "type_001"), ("", "")),
            ((PSN.upper(), "type_001"), ("", "")),
            ((PSN, "TYPE_001"), ("PlayStation Network", "")),
        ],
    )
    def test_only_the_very_line_is_named(
        self, simulator: Simulator, line: tuple[str, str], names: tuple[str, str]
    ) -> None:
        run()
        # A freshly read catalogue would refuse products that it does not have.
        Product.objects.update(listed_at=ago(3 * 3600))
        order = place_order(product_id=line[0], type_id=line[1], quantity=1)
        assert (order.product_name, order.type_name) == names

    def test_one_question_is_asked_if_the_catalogue_was_not_read(
        self, django_assert_num_queries: Any
    ) -> None:
        order = Order(product_id=PSN, type_id="type_001", quantity=1)
        # The INSERT statements with their savepoints, and the queries for the names and the
        # product.
        with django_assert_num_queries(8):
            Order.objects.record(order)

    @pytest.mark.parametrize(
        ("product", "hours", "is_accepted"),
        [
            ("the id at the provider", 0, True),
            ("the number of the row", 0, False),
            ("the number of the row", 1.9, False),
            # The product may be newer than the catalogue.
            ("the number of the row", 2.1, True),
        ],
    )
    def test_a_product_that_a_freshly_read_catalogue_lacks_is_refused_before_and_after_payment(
        self, simulator: Simulator, product: str, hours: float, is_accepted: bool
    ) -> None:
        before = place_order(product_id="gone", type_id="type_001", quantity=1, reference="before")
        run()
        Product.objects.update(listed_at=ago(3600 * hours))
        kind = ProductType.objects.get(type_id="type_001")
        ids = {"the id at the provider": PSN, "the number of the row": str(kind.product_id)}
        line = {"product_id": ids[product], "type_id": "type_001", "quantity": 1}
        with nullcontext() if is_accepted else pytest.raises(ValidationError) as caught:
            place_order(**line)
        assert is_accepted or list(caught.value.message_dict) == ["product_id"]
        assert Order.objects.count() == 1 + is_accepted
        # Placing an order that already exists still returns the same order.
        again = place_order(product_id="gone", type_id="type_001", quantity=1, reference="before")
        assert again == before

    def test_placing_makes_no_request(self, simulator: Simulator) -> None:
        place_order(product_id=PSN, type_id="type_001", quantity=1)
        assert simulator.requests == []
