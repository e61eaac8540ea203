"""Current prices are requested rarely, and required only if there is a price limit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
import requests
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.price_cache import PriceCache
from giftcards.exceptions import AccessDenied, NotFound, OutcomeUnknown, ProviderError, RateLimited
from giftcards.models import ProductPrices, RequestSlot
from giftcards.provider.answers import Product, ProductType
from giftcards.rules.purposes import Purpose
from giftcards.simulator import Simulator
from tests.stage import PRICES, PROVIDER, PSN, Setter, Wire, ago, refill_budget, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

URL = f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}"


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time go by for the price list."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr("giftcards.engine.price_cache.time", clock)

    def advance(seconds: float) -> None:
        clock.now += seconds
        for row in ProductPrices.objects.all():
            ProductPrices.objects.filter(pk=row.pk).update(
                asked_at=row.asked_at - timedelta(seconds=seconds)
            )

    return advance


def test_the_price_of_a_product_is_asked_for_once_for_all_its_types(simulator: Simulator) -> None:
    with Gateway() as gateway:
        assert gateway.prices.price(PSN, "type_001") == Decimal(490)
        assert gateway.prices.price(PSN, "type_003") == Decimal(1960)
        assert gateway.prices.price(PSN, "type_101") is None
        gateway.flush()
        assert gateway.prices.price(PSN, "type_001") == Decimal(490)
    assert len(simulator.requests) == 1


def test_a_price_is_asked_for_again_after_ten_minutes(
    simulator: Simulator, pass_time: Callable[[float], None]
) -> None:
    with Gateway() as gateway:
        for seconds, made in [(0, 1), (599, 1), (1, 2)]:
            pass_time(seconds)
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)
            assert len(simulator.requests) == made


def test_a_price_request_whose_connection_broke_is_repeated(wire: Wire) -> None:
    wire.replace("GET", URL, body=requests.ConnectionError("reset"))
    wire.get(URL, json=PRICES)
    with Gateway() as gateway:
        assert gateway.prices.price(PSN, "type_001") == Decimal(490)
    wire.assert_call_count(URL, 2)


class TestUnknown:
    @pytest.fixture(params=["no such product", "outage"])
    def trouble(self, request: pytest.FixtureRequest, simulator: Simulator) -> str:
        simulator.outage = request.param == "outage"
        return "unknown" if request.param == "no such product" else PSN

    def test_an_unknown_price_is_asked_for_again_after_a_minute(
        self, trouble: str, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            for seconds, made in [(0, 1), (59, 1), (1, 2)]:
                pass_time(seconds)
                assert gateway.prices.price(trouble, "type_001") is None
                assert len(simulator.requests) == made

    @pytest.mark.parametrize("price", [-490, None, "soon", 1e20])
    def test_a_price_that_cannot_be_meant_counts_as_unknown(
        self, price: object, wire: Wire
    ) -> None:
        answer = {"success": True, "data": {"types": [{"id": "type_001", "price": price}]}}
        wire.replace("GET", URL, json=answer)
        with Gateway() as gateway:
            assert gateway.prices.price(PSN, "type_001") is None

    def test_a_price_of_another_product_is_not_believed(self, wire: Wire) -> None:
        wire.replace("GET", URL, json={**PRICES, "data": {**PRICES["data"], "productId": "other"}})
        with Gateway() as gateway:
            assert gateway.prices.price(PSN, "type_001") is None
            with pytest.raises(OutcomeUnknown, match="the answer is about another product"):
                gateway.prices.required_price(PSN, "type_001")
        assert not ProductPrices.objects.exists()


class TestBudget:
    """A price is requested only while half of the request slots are free."""

    def test_a_price_is_done_without_while_the_budget_is_short(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=8, POLL_INTERVAL=60)
        with Gateway() as gateway:
            # The list has one slot of its own. Of the other seven, three have to be left.
            spend_budget(but=3)
            assert gateway.prices.price(PSN, "type_001") is None
            assert simulator.requests == []
            # The requests become older, because otherwise the pace would be too high.
            spend_budget(but=4)
            RequestSlot.objects.filter(until__gt=timezone.now()).update(until=ago(-30))
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)

    @pytest.mark.usefixtures("simulator")
    def test_a_price_is_done_without_while_requests_come_at_a_high_pace(self) -> None:
        with Gateway() as gateway:
            busy = RequestSlot.objects.order_by("-number")[: RequestSlot.objects.count() // 8]
            for slot in busy:
                RequestSlot.objects.filter(number=slot.number).update(until=ago(-60))
            assert gateway.prices.price(PSN, "type_001") is None
            refill_budget()
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)

    def test_the_last_known_price_is_taken_while_the_budget_is_spent(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)
            pass_time(600)
            spend_budget()
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)
            assert len(simulator.requests) == 1


class TestCallsHaveToStop:
    """After such an error, other calls have to stop too, and the caller gets the exception."""

    @pytest.mark.parametrize("read", [PriceCache.price, PriceCache.required_price])
    def test_a_price_request_with_a_wrong_key_closes_the_gateway(
        self, read: Callable[..., object], simulator: Simulator
    ) -> None:
        simulator.keys = ["another"]
        with Gateway() as gateway:
            with pytest.raises(AccessDenied):
                read(gateway.prices, PSN, "type_001")
            assert not gateway.is_open

    def test_a_price_request_after_too_many_requests_closes_the_gateway(
        self, simulator: Simulator
    ) -> None:
        simulator.rate_limit = 1
        with Gateway() as gateway:
            gateway.prices.price(PSN, "type_001")
            with pytest.raises(RateLimited):
                gateway.prices.price("other", "type_001")
            assert not gateway.is_open


class TestRequired:
    """The price of a card in an order that has a price limit."""

    @pytest.mark.parametrize("max_age", [60, 600])
    def test_a_required_price_is_never_older_than_the_setting_allows(
        self,
        max_age: int,
        simulator: Simulator,
        pass_time: Callable[[float], None],
        shorten: Setter,
    ) -> None:
        shorten(price_max_age=max_age)
        with Gateway() as gateway:
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)
            simulator.price_factor = 2
            pass_time(max_age - 1)
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)
            pass_time(1)
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(980)

    def test_the_age_of_a_price_counts_from_the_sending_of_the_request(
        self, pass_time: Callable[[float], None]
    ) -> None:
        asked = []

        def read(product_id: str, purpose: Purpose, may_repeat: bool) -> Product:
            asked.append(timezone.now())
            pass_time(100)
            kind = ProductType("type_001", "", Decimal(490), stock=None)
            return Product("", (kind,))

        prices = PriceCache(read, key="k")
        for seconds, made in [(0, 1), (499, 1), (1, 2)]:
            pass_time(seconds)
            assert prices.price(PSN, "type_001") == Decimal(490)
            assert len(asked) == made
            # The same is true of the stored time, which decides whether a required price is too
            # old.
            assert ProductPrices.objects.get().asked_at <= asked[-1]

    def test_a_required_price_is_unknown_if_it_is_too_old_and_no_slot_is_free(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
            pass_time(600)
            spend_budget()
            assert gateway.prices.required_price(PSN, "type_001") is None
            assert gateway.prices.price(PSN, "type_001") == Decimal(490)

    def test_a_required_price_may_take_the_last_slot(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            spend_budget(but=1)
            assert gateway.prices.price(PSN, "type_001") is None
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)

    def test_the_highest_price_of_a_type_that_is_listed_several_times_counts(
        self, wire: Wire
    ) -> None:
        types = [{"id": "type_001", "price": price} for price in (490, 600, 500)]
        wire.replace("GET", URL, json={"success": True, "data": {"types": types}})
        with Gateway() as gateway:
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(600)

    @pytest.mark.usefixtures("simulator")
    def test_a_required_price_that_is_unknown_raises_an_error_that_says_why(self) -> None:
        with Gateway() as gateway:
            with pytest.raises(NotFound) as caught:
                gateway.prices.required_price(PSN, "not-listed")
            assert caught.value.parameters == {"reason": "no_price"}
            with pytest.raises(NotFound) as caught:
                gateway.prices.required_price("unknown", "type_001")
            assert caught.value.code == "NOT_FOUND"

    def test_a_required_price_that_is_unknown_is_asked_for_again_after_5_seconds(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            for seconds, made in [(0, 1), (4, 1), (1, 2), (4, 2), (1, 3)]:
                pass_time(seconds)
                with pytest.raises(NotFound):
                    gateway.prices.required_price(PSN, "not-listed")
                assert len(simulator.requests) == made

    def test_a_required_price_is_asked_for_again_after_a_failure(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            simulator.outage = True
            with pytest.raises(ProviderError):
                gateway.prices.required_price(PSN, "type_001")
            simulator.outage = False
            pass_time(5)
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)


class TestAskedSince:
    """The price for an order after staff have decided on the price that was known until then."""

    @pytest.mark.parametrize(
        ("seconds", "made"),
        [(-60, 2), (0, 2), (4, 2), (10, 1), (60, 1)],
        ids=["before", "just then", "as far as the clocks may differ", "after", "long after"],
    )
    @pytest.mark.parametrize("is_same_process", [True, False])
    def test_only_a_price_that_was_asked_for_since_counts(
        self, seconds: float, made: int, is_same_process: bool, simulator: Simulator
    ) -> None:
        gateway = Gateway()
        with gateway:
            gateway.prices.required_price(PSN, "type_001")
            simulator.price_factor = 2
            decided_at = ago(seconds)
            with nullcontext(gateway) if is_same_process else Gateway() as asking:
                price = asking.prices.required_price(PSN, "type_001", asked_since=decided_at)
        assert price == 490 * made
        assert len(simulator.requests) == made

    def test_without_a_slot_an_earlier_price_is_not_used(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
            spend_budget()
            assert gateway.prices.required_price(PSN, "type_001", asked_since=ago(0)) is None

    def test_a_price_asked_for_since_may_not_be_older_than_the_setting_allows(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
            pass_time(600)
            gateway.prices.required_price(PSN, "type_001", asked_since=ago(3600))
        assert len(simulator.requests) == 2


class TestShared:
    """A price that one process has received is available to the others."""

    def test_a_price_that_one_process_asked_for_is_used_by_the_next(
        self, simulator: Simulator
    ) -> None:
        for _process in range(3):
            with Gateway() as gateway:
                assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)
                assert gateway.prices.price(PSN, "type_001") == Decimal(490)
        assert len(simulator.requests) == 1

    def test_a_price_asked_for_by_either_method_serves_the_other(
        self, simulator: Simulator
    ) -> None:
        for read in (PriceCache.price, PriceCache.required_price):
            with Gateway() as gateway:
                assert read(gateway.prices, PSN, "type_003") == Decimal(1960)
        assert len(simulator.requests) == 1

    @pytest.mark.parametrize("seconds", [600, -1, -3600], ids=["too old", "ahead", "far ahead"])
    def test_a_stored_price_is_not_used_if_it_is_too_old_or_from_the_future(
        self, seconds: float, simulator: Simulator
    ) -> None:
        for _process in range(2):
            with Gateway() as gateway:
                gateway.prices.required_price(PSN, "type_001")
            ProductPrices.objects.update(asked_at=ago(seconds))
        assert len(simulator.requests) == 2

    def test_a_price_of_another_process_keeps_its_age(
        self, simulator: Simulator, pass_time: Callable[[float], None]
    ) -> None:
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
        ProductPrices.objects.update(asked_at=ago(590))
        with Gateway() as gateway:
            gateway.prices.required_price(PSN, "type_001")
            assert len(simulator.requests) == 1
            pass_time(11)
            gateway.prices.required_price(PSN, "type_001")
        assert len(simulator.requests) == 2

    def test_a_price_of_another_account_is_not_used(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        for key in ("sandbox", "production"):
            set_conf(API_KEY=key)
            with Gateway() as gateway:
                gateway.prices.required_price(PSN, "type_001")
        assert len(simulator.requests) == 2
        assert ProductPrices.objects.count() == 1

    def test_a_type_that_the_stored_prices_lack_is_asked_for(self, simulator: Simulator) -> None:
        ProductPrices.objects.keep(
            PSN, {"type_003": Decimal(1)}, key=Gateway()._fingerprint, asked_at=ago(1)
        )
        with Gateway() as gateway:
            assert gateway.prices.required_price(PSN, "type_001") == Decimal(490)
            assert gateway.prices.required_price(PSN, "type_003") == Decimal(1960)
        assert len(simulator.requests) == 1
