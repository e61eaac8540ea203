"""The worker keeps the catalogue up to date and tells the shop which offers have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.db.models import F
from django.utils import timezone

from giftcards.catalogue import check_offer, keep_current, offers
from giftcards.engine import outbox
from giftcards.exceptions import NotForSale
from giftcards.fulfilment import place_order
from giftcards.models import (
    ApiKey,
    Lease,
    OfferChange,
    Order,
    Product,
    ProductPrices,
    ProductType,
    ProviderState,
    RequestSlot,
)
from giftcards.signals import offer_changed
from giftcards.simulator import Denomination, Simulator
from giftcards.simulator import Product as SoldProduct
from tests.builders import PRODUCT, TYPE, category, hide, make_offer, make_order
from tests.stage import PROVIDER, ago, hold_lease, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Told = list[tuple[str, str, object, object]]
CARD = Denomination("A", Decimal(490), 5)
ONE = {"p": SoldProduct("P", "DZ", {"a": CARD})}


@pytest.fixture(autouse=True)
def hourly(set_conf: Callable[..., None]) -> None:
    set_conf(CATALOGUE_INTERVAL=3600)


def keep() -> None:
    keep_current(lambda: True)
    outbox.announce(outbox=outbox.OFFERS)


@pytest.fixture
def known(simulator: Simulator) -> None:
    """Have the provider sell ``ONE``, and the worker read that."""
    simulator.catalogue = ONE
    keep()


def pass_time(**span: float) -> None:
    """Make everything that was read, ordered or started older, and free all request slots."""
    later = timedelta(**span)
    for table, columns in {
        Product: ("listed_at", "types_read_at", "asked_at", "missing_since"),
        ProductType: ("read_at", "missing_since"),
        OfferChange: ("at", "announced_at", "announce_at"),
        Order: ("created_at",),
        Lease: ("until",),
        ProductPrices: ("asked_at",),
    }.items():
        table.objects.update(**{name: F(name) - later for name in columns})  # type: ignore[attr-defined]
    RequestSlot.objects.all().delete()


def keep_an_hour_later() -> None:
    pass_time(minutes=61)
    keep()


def sell(product_id: str) -> None:
    """Place an order that no worker has to process."""
    order = place_order(product_id=product_id, type_id="a", quantity=1)
    Order.objects.filter(pk=order.pk).update(due_at=None)


def asked(simulator: Simulator) -> list[str]:
    """Return what was requested since the last call: product ids, or "catalog"."""
    paths = [request.path.rpartition("/")[2] for request in simulator.requests]
    simulator.forget_requests()
    return paths


def changes() -> Told:
    """Return the changes of the types of these tests since the last call."""
    found = OfferChange.objects.filter(type__type_id__in="ab").select_related("type")
    told = [(each.type.type_id, each.what, each.old_value, each.new_value) for each in found]
    OfferChange.objects.all().delete()
    return told


class TestReading:
    def test_the_list_is_read_once_a_period_and_then_the_types(self, simulator: Simulator) -> None:
        simulator.catalogue = ONE | {"q": SoldProduct("Q", "DZ", {"b": CARD})}
        keep()
        assert asked(simulator) == ["catalog", "p", "q"]
        pass_time(minutes=59)
        keep()
        assert asked(simulator) == []
        pass_time(minutes=2)
        keep()
        assert asked(simulator) == ["catalog", "p", "q"]

    @pytest.mark.parametrize("minutes", [0, 20])
    def test_its_period_is_a_setting(
        self, simulator: Simulator, set_conf: Callable[..., None], minutes: int
    ) -> None:
        set_conf(CATALOGUE_INTERVAL=60 * minutes)
        simulator.catalogue = ONE
        keep()
        pass_time(minutes=21)
        keep()
        assert asked(simulator) == ["catalog", "p"] * (2 if minutes else 0)

    def test_a_category_that_is_not_sold_is_listed_and_neither_read_nor_gone(
        self, simulator: Simulator
    ) -> None:
        top_ups = SoldProduct("Q", "DZ", {"b": CARD}, category="Mobile & Internet")
        simulator.catalogue = ONE | {"q": top_ups}
        keep()
        assert [kind.type_id for kind in offers().filter(type_id__in="ab")] == ["a", "b"]
        changes()
        hidden = hide("mobile & INTERNET")
        # The type leaves the shelf at once, and the change is recorded for receivers of offer
        # changes.
        assert [kind.type_id for kind in offers().filter(type_id__in="ab")] == ["a"]
        assert changes() == [("b", "gone", Decimal(490), None)]
        sell("q")
        asked(simulator)
        for _hour in range(3):
            keep_an_hour_later()
        assert asked(simulator) == ["catalog", "p"] * 3
        assert changes() == []
        product = Product.objects.get(product_id="q")
        assert (product.is_enabled, product.missing_since) == (True, None)
        # When the category is sold again, the product is read first and is then on the shelf.
        pass_time(hours=24)
        hidden.is_sold = True
        hidden.save()
        assert changes() == [("b", "back", None, Decimal(490))]
        assert not offers().exists()
        keep()
        assert asked(simulator) == ["catalog", "q", "p"]
        assert [kind.type_id for kind in offers().filter(type_id__in="ab")] == ["a", "b"]
        assert changes() == []

    def test_a_product_that_moves_to_a_category_that_is_not_sold_is_gone(
        self, known: None, simulator: Simulator
    ) -> None:
        hide("Mobile & Internet")
        changes()
        simulator.catalogue = {"p": SoldProduct("P", "DZ", {"a": CARD}, "MOBILE & INTERNET")}
        keep_an_hour_later()
        assert changes() == [("a", "gone", Decimal(490), None)]
        simulator.catalogue = ONE
        keep_an_hour_later()
        assert changes() == [("a", "back", None, Decimal(490))]

    def test_what_was_ordered_within_a_day_is_read_four_times_as_often(
        self, simulator: Simulator
    ) -> None:
        simulator.catalogue = ONE | {"q": SoldProduct("Q", "DZ", {"b": CARD})}
        keep()
        sell("q")
        asked(simulator)
        for _quarter in range(3):
            pass_time(minutes=16)
            keep()
        assert asked(simulator) == ["q"] * 3
        pass_time(days=1)
        keep()
        asked(simulator)
        pass_time(minutes=16)
        keep()
        assert asked(simulator) == []

    def test_what_sells_and_what_is_oldest_take_turns(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        simulator.catalogue = {
            name: SoldProduct("P", "", {"a": CARD}) for name in ("p1", "p2", "p3", "p4")
        }
        keep()
        for name in ("p3", "p4"):
            sell(name)
        pass_time(minutes=61)
        # The quota is too small to read all products at once.
        set_conf(REQUESTS_PER_MINUTE=40)
        asked(simulator)
        keep()
        assert asked(simulator) == ["catalog", "p3", "p1"]
        pass_time(minutes=1)
        keep()
        assert asked(simulator) == ["p4", "p2"]

    def test_an_interrupted_reading_goes_on_with_the_next_tick(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        simulator.catalogue = {
            f"p{number}": SoldProduct("P", "", {"a": CARD}) for number in range(6)
        }
        for _minute in range(3):
            keep()
            pass_time(minutes=1)
        assert asked(simulator) == ["catalog", *(f"p{number}" for number in range(6))]

    def test_without_time_one_request_is_made_in_any_case_so_that_a_busy_shop_gets_on(
        self, simulator: Simulator
    ) -> None:
        simulator.catalogue = ONE
        keep_current(lambda: False)
        assert asked(simulator) == ["catalog"]

    def test_a_key_that_is_to_be_probed_is_left_to_an_order_that_the_loop_follows(
        self, simulator: Simulator
    ) -> None:
        simulator.catalogue = ONE
        make_order(product_id="p", type_id="a")
        hold_lease(Lease.LOOP, until=ago(-60))
        keep()
        assert asked(simulator) == []
        ApiKey.objects.update(accepted_at=timezone.now())
        keep()
        assert asked(simulator) == ["catalog", "p"]

    def test_a_list_that_cannot_be_read_is_asked_for_again_after_two_minutes(
        self, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
    ) -> None:
        catalogue = wire.get(f"{PROVIDER}/v3/gift-cards/catalog", status=404)
        keep()
        keep()
        assert catalogue.call_count == 1
        assert "The catalogue could not be read." in caplog.text
        pass_time(minutes=2)
        keep()
        assert catalogue.call_count == 2

    def test_a_product_that_cannot_be_read_is_asked_for_again_with_the_next_list(
        self, known: None, simulator: Simulator
    ) -> None:
        Product.objects.create(product_id="x", category=category(), listed_at=timezone.now())
        asked(simulator)
        for _minute in range(3):
            keep()
            pass_time(minutes=1)
        assert asked(simulator) == ["x"]
        assert not Lease.objects.filter(name=Lease.CATALOGUE_PAUSE).exists()

    def test_pauses_are_kept_without_a_word(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        until = timezone.now() + timedelta(minutes=5)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slowly.", until=until)
        keep()
        assert (asked(simulator), caplog.text) == ([], "")

    def test_two_workers_do_not_read_at_the_same_time(self, simulator: Simulator) -> None:
        assert Lease.objects.take(Lease.CATALOGUE, timedelta(minutes=1))
        keep()
        assert asked(simulator) == []

    def test_a_clock_that_was_set_back_does_not_stop_it(self, simulator: Simulator) -> None:
        simulator.catalogue = ONE
        keep()
        pass_time(hours=-3)
        simulator.catalogue = {"p": SoldProduct("P", "DZ", {"a": Denomination("A", Decimal(500))})}
        keep()
        assert asked(simulator) == ["catalog", "p"] * 2
        keep()
        assert asked(simulator) == []
        assert ProductType.objects.get(type_id="a").cost == Decimal(500)

    def test_each_row_says_when_it_was_read(self, simulator: Simulator) -> None:
        began = timezone.now()
        simulator.catalogue = ONE
        keep()
        simulator.catalogue = {"p": SoldProduct("P", "DZ", {"b": CARD})}
        keep_an_hour_later()
        kinds = {kind.type_id: kind for kind in ProductType.objects.filter(type_id__in="ab")}
        assert kinds["b"].read_at >= began > kinds["a"].read_at
        assert kinds["a"].missing_since >= began


def sold(name: str = "P", **types: Denomination) -> dict[str, SoldProduct]:
    return {"p": SoldProduct(name, "DZ", types)}


class TestChanges:
    @pytest.mark.parametrize(
        ("offered", "expected"),
        [
            (ONE, []),
            (sold(a=Denomination("A", Decimal("500.5"), 5)), [("price", 490, Decimal("500.50"))]),
            (sold(a=Denomination("A", Decimal(490), 0)), [("stock", 5, 0)]),
            (sold(a=Denomination("B", Decimal(490), 5)), [("name", "P – A", "P – B")]),
            (sold("Q", a=CARD), [("name", "P – A", "Q – A")]),
            (sold(a=Denomination("A", Decimal(0), 5)), [("gone", 490, None)]),
            (sold(a=Denomination("A", Decimal(480), 4)), [("price", 490, 480), ("stock", 5, 4)]),
        ],
    )
    def test_a_reading_records_what_has_changed(
        self, known: None, simulator: Simulator, offered: Any, expected: list[Any]
    ) -> None:
        assert changes() == [("a", "new", None, Decimal(490))]
        simulator.catalogue = offered
        keep_an_hour_later()
        assert changes() == [("a", *each) for each in expected]
        simulator.catalogue = ONE
        keep_an_hour_later()
        back = {"gone": "back"}
        assert changes() == [("a", back.get(what, what), new, old) for what, old, new in expected]

    @pytest.mark.parametrize(
        ("left", "expected"),
        [
            (sold(b=CARD), [("b", "new", None, 490)]),
            ({"q": SoldProduct("Q", "DZ", {"b": CARD})}, [("b", "new", None, 490)]),
        ],
        ids=["a type", "a product"],
    )
    def test_what_one_answer_leaves_out_is_gone_if_another_an_hour_later_does_so_too(
        self, known: None, simulator: Simulator, left: Any, expected: Told
    ) -> None:
        changes()
        for_sale = ProductType.objects.for_sale().filter(type_id="a")
        simulator.catalogue = left
        keep_an_hour_later()
        assert (changes(), for_sale.count()) == (expected, 1)
        # An answer in between lists it again, so the answer before that was an exception.
        simulator.catalogue = ONE | left if "q" in left else sold(a=CARD, b=CARD)
        keep_an_hour_later()
        for hours, count in ((1.1, 1), (0.9, 1), (0.2, 0)):
            simulator.catalogue = left
            pass_time(hours=hours)
            Product.objects.update(listed_at=timezone.now() - timedelta(hours=2))
            keep()
            assert for_sale.count() == count
        assert changes() == [("a", "gone", Decimal(490), None)]
        simulator.catalogue = ONE
        keep_an_hour_later()
        assert changes()[0] == ("a", "back", None, Decimal(490))

    def test_a_product_that_was_not_found_for_an_hour_is_gone(
        self, wire: responses.RequestsMock
    ) -> None:
        listed = {"categories": [{"title": "G", "products": [{"id": PRODUCT, "title": "P"}]}]}
        wire.get(f"{PROVIDER}/v3/gift-cards/catalog", json={"success": True, "data": listed})
        refusal = {"success": False, "error": {"code": "NOT_FOUND", "message": "No."}}
        path = f"{PROVIDER}/v3/gift-cards/checkProduct/{PRODUCT}"
        wire.replace("GET", path, json=refusal, status=404)
        make_offer()
        for minutes, is_sold in ((0, True), (59, True), (2, False)):
            pass_time(minutes=minutes)
            Product.objects.update(asked_at=None)
            keep()
            with nullcontext() if is_sold else pytest.raises(NotForSale, match="does not sell"):
                check_offer(PRODUCT, TYPE, 1)
            assert offers().exists() == is_sold
        [gone] = OfferChange.objects.filter(what="gone")
        assert (gone.type.type_id, gone.old_value) == (TYPE, Decimal(490))

    def test_a_product_that_the_provider_has_disabled_is_gone_at_once(self, known: None) -> None:
        changes()
        Product.objects.keep([{"product_id": "p", "is_enabled": False}], at=timezone.now())
        assert changes() == [("a", "gone", Decimal(490), None)]
        # The types of a disabled product are no longer read, but an order may still have requested
        # them.
        kinds = [{"type_id": "a", "name": "A", "cost": Decimal(495), "stock": 5}]
        Product.objects.keep_types("p", kinds, at=timezone.now())
        assert changes() == []
        Product.objects.keep([{"product_id": "p", "is_enabled": True}], at=timezone.now())
        assert changes() == [("a", "back", None, Decimal(495))]

    def test_an_answer_that_was_overtaken_by_a_later_one_changes_nothing(self, known: None) -> None:
        changes()
        earlier = timezone.now() - timedelta(seconds=20)
        kinds = [{"type_id": "a", "name": "old", "cost": Decimal(1), "stock": 0}]
        Product.objects.keep_types("p", kinds, at=earlier)
        Product.objects.keep([{"product_id": "p", "is_enabled": False}], at=earlier)
        assert changes() == []
        assert ProductType.objects.for_sale().get(type_id="a").cost == Decimal(490)

    def test_the_price_that_an_order_is_sent_with_is_the_one_on_the_shelf(
        self, known: None, simulator: Simulator
    ) -> None:
        changes()
        simulator.catalogue = sold(a=Denomination("A", Decimal(495), 5))
        pass_time(minutes=11)
        place_order(product_id="p", type_id="a", quantity=1, max_price=480)
        run_sweep()
        assert changes() == [("a", "price", Decimal(490), Decimal(495))]


class TestTelling:
    @pytest.fixture
    def heard(self) -> Iterator[list[dict[str, Any]]]:
        found: list[dict[str, Any]] = []

        def hear(sender: object, **told: Any) -> None:
            assert sender is ProductType
            told.pop("signal")
            if told["type_id"] == "a":
                found.append(told)
                if len(found) == 1:
                    raise ConnectionError

        offer_changed.connect(hear, dispatch_uid="shelf")
        yield found
        offer_changed.disconnect(dispatch_uid="shelf")

    def test_the_shop_is_told_in_order_until_it_has_taken_each_change(
        self, simulator: Simulator, heard: list[dict[str, Any]]
    ) -> None:
        for price in (490, 500, 495):
            simulator.catalogue = sold(a=Denomination("A", Decimal(price), 5))
            keep_an_hour_later()
        told = [(each["what"], each["old"], each["new"]) for each in heard]
        wanted = [
            ("new", None, Decimal(490)),
            ("price", Decimal(490), Decimal(500)),
            ("price", Decimal(500), Decimal(495)),
        ]
        # The receiver failed the first time, so it is called again.
        assert told == [wanted[0], *wanted]
        assert {(each["product_id"], each["type_id"]) for each in heard} == {("p", "a")}
        assert not OfferChange.objects.filter(announced_at=None).exists()

    def test_without_a_receiver_nothing_waits(self, known: None) -> None:
        assert OfferChange.objects.exists()
        assert not OfferChange.objects.filter(announced_at=None).exists()

    def test_changes_are_deleted_after_thirty_days_unless_somebody_was_not_told(
        self, known: None
    ) -> None:
        kept = OfferChange.objects.filter(type__type_id="a")
        kept.update(announced_at=None, announce_at=None)
        pass_time(days=31)
        keep()
        assert list(OfferChange.objects.values_list("type__type_id", flat=True)) == ["a"]
