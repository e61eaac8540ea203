"""The shop's prices by the rule in PRICING, computed here and by the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.catalogue import (
    check_offer,
    keep_current,
    keep_prices,
    offers,
    price_of,
    quote,
    reserve,
)
from giftcards.exceptions import NotForSale
from giftcards.models import ProductType
from giftcards.simulator import Simulator
from tests.builders import PRODUCT, make_offer
from tests.laws import examples

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Conf = Callable[..., None]
TWENTY = {"margin_percent": 20}


def by_category(kind: ProductType) -> Decimal | None:
    """A rule of a shop: no Steam, and 60 DA for the rest."""
    return None if kind.product.name == "Steam" else kind.cost + 60


def at_a_loss(kind: ProductType) -> int:
    return 1


class Rule:
    """A rule of a shop: 60 DA for each card, and for ``ODD`` what a test says."""

    ODD = "type_005"

    def __init__(self) -> None:
        self.says: Any = None
        self.asked: list[str] = []
        self.was_atomic = False

    def __call__(self, kind: ProductType) -> Any:
        self.asked.append(kind.type_id)
        self.was_atomic |= connection.in_atomic_block
        cost, kind.cost = kind.cost, None
        if kind.type_id != self.ODD:
            return cost + 60
        return self.says() if callable(self.says) else self.says


shop = Rule()


@pytest.fixture
def odd(set_conf: Conf) -> Rule:
    """The rule of a shop with thirteen types."""
    shop.__init__()  # type: ignore[misc]
    set_conf(PRICING=f"{__name__}.shop")
    for number in range(13):
        make_offer(f"type_{number:03}")
    return shop


def fail() -> None:
    raise KeyError("4111-CODE")


async def coroutine() -> int:
    return 550


@pytest.mark.parametrize(
    ("rule", "cost", "price"),
    [
        (None, "490", None),
        ({"margin_percent": 10}, "490", "539.00"),
        ({"margin_percent": 10, "round_to": 5}, "490", "540.00"),
        ({"margin_percent": 10, "round_to": 50}, "490", "550.00"),
        ({"margin_percent": 10, "round_to": 10}, "500", "550.00"),
        ({"margin_percent": Decimal("7.5"), "round_to": 10}, "1250.50", "1350.00"),
        ({"margin_percent": Decimal("7.5")}, "1250.50", "1344.29"),
        ({"margin_fixed": 60}, "490", "550.00"),
        ({"margin_fixed": Decimal("0.10")}, "490.05", "490.15"),
        ({"margin_percent": 1, "least_margin": 5}, "490", None),
        ({"margin_percent": 1, "least_margin": 5, "round_to": 10}, "490", "500.00"),
        ({"margin_fixed": 5, "least_margin": 5}, "490", "495.00"),
        ({"margin_percent": 0}, "490", "490.00"),
        (f"{__name__}.by_category", "490", "550.00"),
        (f"{__name__}.at_a_loss", "490", None),
        ({"margin_percent": 10}, None, None),
        ({"margin_percent": 10}, "0", None),
        ({"margin_percent": 10}, "999999999999.99", None),
    ],
)
def test_price_by_rule(set_conf: Conf, rule: Any, cost: str | None, price: str | None) -> None:
    set_conf(PRICING=rule)
    kind = make_offer(cost=None if cost is None else Decimal(cost))
    wanted = None if price is None else Decimal(price)
    kind.refresh_from_db()
    assert price_of(kind) == wanted
    keep_prices()
    is_on_shelf = bool(kind.cost) and (rule is None or wanted is not None)
    assert [offer.price for offer in offers()] == [wanted] * is_on_shelf


def test_rule_of_the_shop_takes_a_product_off_the_shelf(set_conf: Conf) -> None:
    set_conf(PRICING=f"{__name__}.by_category")
    make_offer()
    steam = make_offer("type_101", product_id="steam")
    steam.product.name = "Steam"
    steam.product.save()
    keep_prices()
    assert [offer.type_id for offer in offers()] == ["type_001"]


def test_offers_can_be_sorted_and_chosen_by_price(set_conf: Conf) -> None:
    set_conf(PRICING={"margin_percent": 10, "round_to": 10})
    make_offer("a", cost=Decimal(100))
    make_offer("b", cost=Decimal(900))
    make_offer("c", cost=Decimal(400))
    dearest_first = offers().order_by("-price").values_list("type_id", "price")
    assert list(dearest_first) == [("b", 990), ("c", 440), ("a", 110)]
    assert offers().filter(price__lte=440).count() == 2


FAILURES: dict[str, tuple[Any, str]] = {
    "raises": (fail, "failed: KeyError at "),
    "float": (550.5, "returned no price, but float"),
    "text": ("550", "returned no price, but str"),
    "True": (True, "returned no price, but bool"),
    "coroutine": (coroutine, "returned no price, but coroutine"),
    "NaN": (Decimal("NaN"), "returned no price, but NaN"),
    "signalling NaN": (Decimal("sNaN"), "returned no price, but sNaN"),
    "infinity": (Decimal("Infinity"), "returned no price, but Infinity"),
    "too much": (10**12, "returned no price, but 1E+12"),
    "too little": (Decimal("-1E+31"), "returned no price, but -1E+31"),
    "a huge whole number below zero": (-(10**5_000), "returned no price, but -1E+5000"),
    "None": (None, ""),
    "below the cost": (-1, ""),
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("failure", FAILURES)
def test_a_function_that_fails_for_one_type_takes_that_one_off_the_shelf(
    odd: Rule, caplog: pytest.LogCaptureFixture, failure: str
) -> None:
    odd.says, told = FAILURES[failure]
    keep_prices()
    assert len(odd.asked) == 13
    assert {offer.type_id for offer in offers()} == {*odd.asked} - {odd.ODD}
    sizes = [len(offers()[start : start + 5]) for start in (0, 5, 10)]
    assert (offers().count(), sizes) == (12, [5, 5, 2])
    assert price_of(ProductType.objects.get(type_id=odd.ODD)) is None
    assert quote(PRODUCT, odd.ODD, max_age=60).price is None
    with pytest.raises(NotForSale) as refused:
        check_offer(PRODUCT, odd.ODD, 1)
    assert refused.value.code == "below_cost"
    check_offer(PRODUCT, "type_001", 1)
    assert {line.startswith(f"PRICING {told}") for line in caplog.messages} <= {bool(told)}
    assert all(f"({PRODUCT}/{odd.ODD})" in line for line in caplog.messages)
    assert "4111-CODE" not in caplog.text


def test_offers_have_the_price_that_the_function_has_told_at_this_cost(
    odd: Rule, set_conf: Conf
) -> None:
    def prices() -> list[tuple[str, Decimal]]:
        keep_prices()
        found = offers().filter(type_id__in=["type_004", odd.ODD])
        return list(found.values_list("type_id", "price"))

    before, odd.says = ("type_004", Decimal(550)), 600
    assert not offers().exists()
    assert prices() == [before, (odd.ODD, 600)]
    # It goes by more than the cost, and is asked again after a minute; later if it fails.
    for says, minutes, count, price in (
        (610, 0.5, 0, 600),
        (610, 0.6, 13, 610),
        (fail, 1.1, 13, None),
        (620, 14, 12, None),
        (620, 1.1, 13, 620),
    ):
        odd.says = says
        odd.asked.clear()
        later = timedelta(minutes=minutes)
        ProductType.objects.update(pricing_due_at=F("pricing_due_at") - later)
        assert prices() == [before, (odd.ODD, price)][: 2 if price else 1]
        assert len(odd.asked) == count
    ProductType.objects.filter(type_id=odd.ODD).update(cost=500)
    assert offers().count() == 12
    assert len(prices()) == 2
    # Another function.
    set_conf(PRICING=f"{__name__}.by_category")
    assert not offers().exists()
    assert prices() == [before, (odd.ODD, 560)]


def test_the_worker_prices_what_it_has_read(odd: Rule, simulator: Simulator) -> None:
    odd.says = 550
    keep_current(lambda: True)
    assert offers().count() == 13


def test_a_price_that_comes_too_late_does_not_count(
    odd: Rule, shorten: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    shorten(pricing_slow=0.0)
    assert price_of(ProductType.objects.get(type_id="type_001")) is None
    assert caplog.messages == [f"PRICING took longer than 0 seconds ({PRODUCT}/type_001)"]


@pytest.mark.parametrize(
    ("told", "price"),
    [(Decimal("550.005"), "550.01"), (Decimal("550.0049"), "550.00"), (550, "550.00")],
)
def test_the_price_of_a_function_is_in_centimes(odd: Rule, told: Any, price: str) -> None:
    odd.says = told
    assert str(price_of(ProductType.objects.get(type_id=odd.ODD))) == price


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_a_function_of_the_shop(odd: Rule) -> None:
    reserve(reference="cart-1", product_id=PRODUCT, type_id=odd.ODD, quantity=1)
    check_offer(PRODUCT, odd.ODD, 1, sale_amount=550, reference="cart-1")
    assert odd.asked == []
    quote(PRODUCT, odd.ODD)
    check_offer(PRODUCT, "type_001", 1)
    assert odd.asked == [odd.ODD, "type_001"]
    assert not odd.was_atomic


amounts = st.decimals(0, 1_000, places=2)


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cost=st.decimals("0.01", 10**8, places=2),
    margin=st.one_of(
        st.fixed_dictionaries({"margin_percent": amounts}),
        st.fixed_dictionaries({"margin_fixed": amounts}),
    ),
    round_to=st.sampled_from([0, 1, 5, 10, 50, 10_000]),
    least=amounts,
)
def test_the_database_computes_the_same_price(
    set_conf: Conf, cost: Decimal, margin: dict[str, Decimal], round_to: int, least: Decimal
) -> None:
    set_conf(PRICING={**margin, "round_to": round_to, "least_margin": least})
    kind = ProductType.objects.first() or make_offer()
    kind.cost = cost
    kind.save()
    price = price_of(kind)
    assert [offer.price for offer in offers()] == ([] if price is None else [price])
    if price is not None:
        assert price - cost >= max(least, margin.get("margin_fixed", Decimal(0)))
        assert price % (round_to or Decimal("0.01")) == 0
        assert price - cost <= (
            margin.get("margin_fixed", Decimal(0))
            + cost * margin.get("margin_percent", Decimal(0)) / 100
            + (round_to or Decimal("0.01"))
        )
