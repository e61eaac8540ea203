"""The shop's prices, stored with each cost and margin or set by the shop's function."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.catalogue import (
    check_offer,
    inherited,
    keep_current,
    keep_prices,
    offers,
    preview,
    quote,
    reserve,
    save_rows,
)
from giftcards.exceptions import NotForSale
from giftcards.models import Product, ProductType, Reservation, Shelf, ShelfChange
from giftcards.rules.prices import (
    Margin,
    NoPrice,
    PriceSource,
    ShelfTerms,
    Terms,
    find_price,
)
from giftcards.simulator import Simulator
from tests.builders import PRODUCT, TYPE, make_offer, set_rule, set_shelf
from tests.laws import examples
from tests.stage import ago

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Conf = Callable[..., None]


def by_category(kind: ProductType) -> Decimal | None:
    """Return a price by a rule that does not sell Steam and adds 60 DA to other costs."""
    return None if kind.product.name == "Steam" else kind.cost + 60


def at_a_loss(kind: ProductType) -> int:
    return 1


class Rule:
    """A rule that adds 60 DA to the cost of each card, and returns what a test sets for ``ODD``."""

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
    """Return the pricing rule of a shop with thirteen types."""
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
    set_rule(set_conf, rule)
    kind = make_offer(cost=None if cost is None else Decimal(cost))
    keep_prices()
    kind.refresh_from_db()
    wanted = None if price is None else Decimal(price)
    assert kind.price == wanted
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


def test_offers_can_be_sorted_and_chosen_by_price() -> None:
    set_shelf(margin_percent=10, round_to=10)
    make_offer("a", cost=Decimal(100))
    make_offer("b", cost=Decimal(900))
    make_offer("c", cost=Decimal(400))
    dearest_first = offers().order_by("-price").values_list("type_id", "price")
    assert list(dearest_first) == [("b", 990), ("c", 440), ("a", 110)]
    assert offers().filter(price__lte=440).count() == 2


# The edits of a shop with a margin of 10 %: the values, the price of a card that costs 490 DA, and
# its source.
EDITS: dict[str, tuple[dict[str, dict[str, Any]], Decimal | None, str]] = {
    "nothing": ({}, Decimal(539), "shelf"),
    "the shop": ({"shelf": {"margin_percent": 20}}, Decimal(588), "shelf"),
    "the category": ({"category": {"margin_fixed": 60}}, Decimal(550), "category"),
    "the product": (
        {"category": {"margin_fixed": 60}, "product": {"margin_fixed": 50}},
        Decimal(540),
        "product",
    ),
    "the type": (
        {"product": {"margin_fixed": 50}, "type": {"margin_percent": 0}},
        Decimal(490),
        "type",
    ),
    "a fixed price": (
        {"type": {"fixed_price": Decimal("499.90"), "margin_fixed": 1}},
        Decimal("499.90"),
        "fixed",
    ),
    # The rounding and the least margin do not apply to a fixed price.
    "a fixed price of the cost": (
        {"shelf": {"round_to": 50, "least_margin": 20}, "type": {"fixed_price": 490}},
        Decimal(490),
        "fixed",
    ),
    "a loss": ({"type": {"fixed_price": 480}}, None, "fixed"),
    "a loss that was accepted": (
        {"type": {"fixed_price": 480, "accepted_loss": 10}},
        Decimal(480),
        "fixed",
    ),
    "a larger loss than was accepted": (
        {"type": {"fixed_price": 479, "accepted_loss": 10}},
        None,
        "fixed",
    ),
    "a cost": ({"type": {"cost": Decimal(500)}}, Decimal(550), "shelf"),
    "an unknown cost": ({"type": {"cost": None}}, None, "shelf"),
    "a cost above the fixed price": (
        {"type": {"fixed_price": 495, "cost": Decimal("495.01")}},
        None,
        "fixed",
    ),
}


def rows_of(kind: ProductType) -> dict[str, Any]:
    return {
        "shelf": Shelf.objects.current(),
        "category": kind.product.category,
        "product": kind.product,
        "type": kind,
    }


def assert_priced_alike() -> None:
    """Check that each stored price follows from the stored cost and margins."""
    shelf = Shelf.objects.current().terms
    for kind in ProductType.objects.select_related("product__category"):
        found = find_price(kind.terms, shelf, function_price=kind.told_price)
        assert (kind.price, kind.price_source) == (found.price, found.source)


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("how", ["saved", "updated"])
def test_each_value_reaches_the_price(edit: str, how: str) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    values, price, source = EDITS[edit]
    for name, columns in values.items():
        row = rows_of(ProductType.objects.get())[name]
        if how == "saved":
            for column, value in columns.items():
                setattr(row, column, value)
            row.save()
        else:
            type(row).objects.update(**columns)
    if how == "updated":
        keep_prices()
    kind.refresh_from_db()
    assert (kind.price, kind.price_source) == (price, source)
    is_dear = kind.cost is not None and price is not None and price < kind.cost
    assert offers().exists() == (price is not None)
    if is_dear:
        check_offer(PRODUCT, TYPE, 2, sale_price=price)
        with pytest.raises(NotForSale):
            check_offer(PRODUCT, TYPE, 2, sale_price=price - 1)


WRONG: dict[str, dict[str, dict[str, Any]]] = {
    "a margin below zero": {"category": {"margin_percent": -1}},
    "a huge margin": {"product": {"margin_percent": Decimal("1000.01")}},
    "a huge margin in dinars": {"shelf": {"margin_fixed": 1_000_001}},
    "two margins": {"type": {"margin_percent": 1, "margin_fixed": 1}},
    "a price of 0": {"type": {"fixed_price": 0}},
    "a huge price": {"type": {"fixed_price": 10**12}},
    "a loss below zero": {"type": {"accepted_loss": -1}},
    "a rounding below zero": {"shelf": {"round_to": -1}},
    "a least margin below zero": {"shelf": {"least_margin": -1}},
    "a buffer below zero": {"shelf": {"stock_buffer": -1}},
    "three decimals": {"type": {"fixed_price": Decimal("500.001")}},
}
# The database has no constraints for these values. It would store them, or its types cannot hold
# them.
NOT_CONSTRAINED = {"a huge price", "three decimals"}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_that_cannot_be_meant_is_refused(wrong: str) -> None:
    set_shelf(margin_percent=10)
    [(name, values)] = WRONG[wrong].items()
    row = rows_of(make_offer())[name]
    for column, value in values.items():
        setattr(row, column, value)
    with pytest.raises(ValidationError):
        save_rows([row], by="amina")
    if wrong not in NOT_CONSTRAINED:
        with pytest.raises(IntegrityError), transaction.atomic():
            type(row).objects.update(**values)
    assert ProductType.objects.get().price == 539
    assert ShelfChange.objects.count() == 1


def test_of_two_people_who_edit_the_same_margin_the_second_is_told() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    mine, theirs = (Product.objects.get(), Product.objects.get())
    theirs.margin_fixed = Decimal(20)
    save_rows([theirs], by="karim")
    mine.margin_fixed = Decimal(30)
    with pytest.raises(ValidationError, match="Somebody else has changed this"):
        save_rows([kind.product.category, mine], by="amina")
    # Saving one value does not overwrite another value of the same row.
    again = Product.objects.get()
    Product.objects.update(name="Other")
    again.margin_fixed = Decimal(40)
    save_rows([again], by="amina")
    assert Product.objects.get().name == "Other"
    assert ProductType.objects.get().price == 530


def test_each_change_is_recorded_with_who_and_what() -> None:
    kind = make_offer()
    kind.fixed_price = Decimal(600)
    kind.save(by="amina")
    kind.fixed_price, kind.is_sold = Decimal(610), False
    kind.save(by="karim")
    # Costs are set by the provider and not recorded.
    kind.cost = Decimal(500)
    kind.save()
    set_shelf(stock_buffer=3)
    changes = ShelfChange.objects.values_list("type", "what", "old", "new", "by")
    assert [*changes] == [
        (kind.pk, "fixed_price", None, "600.00", "amina"),
        (kind.pk, "is_sold", None, False, "karim"),
        (kind.pk, "fixed_price", "600.00", "610.00", "karim"),
        (None, "stock_buffer", 0, 3, ""),
    ]


def test_a_preview_says_what_a_change_would_do_and_saves_nothing() -> None:
    set_shelf(margin_percent=10, least_margin=30)
    cheap, dear = make_offer("cheap", cost=Decimal(400)), make_offer("dear", cost=Decimal(900))
    make_offer("fixed", fixed_price=500)
    make_offer("unknown", cost=None)
    make_offer("other", product_id="other")
    games = dear.product
    games.margin_percent = Decimal(5)
    dear.fixed_price = Decimal(890)
    found = preview([games, dear])
    assert [(each.kind.type_id, each.old_price, *each[2:5]) for each in found] == [
        ("cheap", Decimal(440), None, PriceSource.PRODUCT, NoPrice.MARGIN),
        ("dear", Decimal(990), None, PriceSource.FIXED, NoPrice.LOSS),
    ]
    assert [(each.was_on_shelf, each.is_on_shelf, each.loss) for each in found] == [
        (True, False, None),
        (True, False, None),
    ]
    dear.accepted_loss = Decimal(10)
    [lossy] = preview([dear])
    assert (lossy.new_price, lossy.is_on_shelf, lossy.loss) == (890, True, 10)
    dear.is_sold = False
    assert [(each.was_sold, each.is_sold) for each in preview([dear])] == [(True, False)]
    shelf = Shelf.objects.current()
    shelf.margin_percent = Decimal(20)
    assert [each.new_price for each in preview([shelf])] == [480, 1_080, 588]
    assert preview([]) == preview([cheap]) == []
    assert ProductType.objects.get(type_id="dear").price == 990


def test_what_an_empty_field_inherits_is_told_with_its_source(set_conf: Conf) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    kind.product.margin_fixed = Decimal(5)
    kind.product.save()
    kind = ProductType.objects.get()
    assert inherited(kind) == (PriceSource.PRODUCT, Margin(None, Decimal(5)))
    assert inherited(kind.product) == (PriceSource.SHELF, Margin(Decimal(10), None))
    set_conf(PRICING=f"{__name__}.at_a_loss")
    assert inherited(kind.product.category)[0] == PriceSource.FUNCTION


def test_a_reservation_keeps_its_price() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    cart = {"product_id": PRODUCT, "type_id": TYPE}
    reserve(reference="cart-1", quantity=1, **cart)
    set_shelf(margin_percent=20)
    kind.fixed_price = Decimal(400)
    for price in (588, None):
        assert quote(**cart).price == price
        assert quote(**cart, reference="cart-1").price == 539
        check_offer(**cart, quantity=1, reference="cart-1")
        # The reservation can be changed and still has this price.
        assert reserve(reference="cart-1", quantity=2, **cart).price == 539
        kind.save()
    # A sale below the cost is refused.
    kind.cost = Decimal(600)
    kind.save()
    with pytest.raises(NotForSale):
        check_offer(**cart, quantity=2, reference="cart-1", sale_price=539)
    Reservation.objects.update(until=ago(1))
    assert quote(**cart, reference="cart-1").price is None


def test_who_sells_at_prices_of_their_own_has_none_here() -> None:
    kind = make_offer()
    assert (kind.price, kind.price_source) == (None, PriceSource.OWN)
    assert offers().get().price is None
    check_offer(PRODUCT, TYPE, 1)
    kind.margin_fixed = Decimal(60)
    kind.save()
    assert offers().get().price == 550


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
    assert ProductType.objects.get(type_id=odd.ODD).price is None
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
    # The function may use more than the cost, so it is asked again after a minute, or later if it
    # failed.
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
    dearer = ProductType.objects.get(type_id=odd.ODD)
    dearer.cost = Decimal(500)
    dearer.save()
    assert offers().count() == 12
    assert len(prices()) == 2
    # A price below the cost is never sold, however the cost has risen.
    ProductType.objects.filter(type_id=odd.ODD).update(cost=700)
    assert prices() == [before]
    ProductType.objects.filter(type_id=odd.ODD).update(cost=500)
    # A different function is called when the next call is due.
    set_conf(PRICING=f"{__name__}.by_category")
    ProductType.objects.update(pricing_due_at=F("pricing_due_at") - timedelta(minutes=1.1))
    assert prices() == [before, (odd.ODD, 560)]
    # A margin comes first. When it is removed, the function is asked again.
    for margin, price in ((Decimal(1), 501), (None, None)):
        dearer.margin_fixed = margin
        dearer.save()
        assert dearer.price == price
    assert prices() == [before, (odd.ODD, 560)]
    set_rule(set_conf, {"margin_fixed": 70})
    assert prices() == [("type_004", 560), (odd.ODD, 570)]


def test_the_worker_prices_what_it_has_read(odd: Rule, simulator: Simulator) -> None:
    odd.says = 550
    keep_current(lambda: True)
    assert offers().count() == 13


def test_a_price_that_comes_too_late_does_not_count(
    odd: Rule, shorten: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    ProductType.objects.exclude(type_id="type_001").delete()
    shorten(pricing_slow=0.0)
    keep_prices()
    assert ProductType.objects.get().price is None
    assert caplog.messages == [f"PRICING took longer than 0 seconds ({PRODUCT}/type_001)"]


@pytest.mark.parametrize(
    ("told", "price"),
    [(Decimal("550.005"), "550.01"), (Decimal("550.0049"), "550.00"), (550, "550.00")],
)
def test_the_price_of_a_function_is_in_centimes(odd: Rule, told: Any, price: str) -> None:
    odd.says = told
    keep_prices()
    assert str(ProductType.objects.get(type_id=odd.ODD).price) == price


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_a_function_of_the_shop(odd: Rule) -> None:
    reserve(reference="cart-1", product_id=PRODUCT, type_id=odd.ODD, quantity=1)
    quote(PRODUCT, odd.ODD)
    with pytest.raises(NotForSale):
        check_offer(PRODUCT, "type_001", 1)
    set_shelf(round_to=5)
    assert odd.asked == []
    keep_prices()
    assert len(odd.asked) == 13
    assert not odd.was_atomic


def test_a_margin_that_is_saved_while_the_function_is_asked_wins(odd: Rule) -> None:
    def save_margin() -> int:
        kind = ProductType.objects.get(type_id=odd.ODD)
        kind.margin_fixed = Decimal(7)
        kind.save()
        return 600

    odd.says = save_margin
    keep_prices()
    assert ProductType.objects.get(type_id=odd.ODD).price == 497
    assert_priced_alike()


amounts = st.decimals(0, 1_000, places=2, allow_nan=False)
margins = st.one_of(
    st.just(Margin()),
    st.builds(Margin, percent=amounts, fixed=st.none()),
    st.builds(Margin, percent=st.none(), fixed=amounts),
)
everything = settings(
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@everything
@given(
    terms=st.builds(
        Terms,
        cost=st.decimals("0.01", 10**11, places=2, allow_nan=False),
        fixed_price=st.none(),
        accepted_loss=st.just(Decimal(0)),
        of_type=margins,
        of_product=margins,
        of_category=margins,
    ),
    shelf=st.builds(
        ShelfTerms,
        margin=margins,
        round_to=st.sampled_from([0, 1, 3, 5, 10, 50, 10_000]),
        least_margin=amounts,
        has_function=st.just(False),
    ),
)
def test_a_price_earns_the_margin_and_at_most_the_rounding_more(
    terms: Terms, shelf: ShelfTerms
) -> None:
    found = find_price(terms, shelf)
    decisive = next(filter(None, (*terms[3:], shelf.margin)), Margin())
    if found.price is None:
        assert found.why_not in {NoPrice.OWN, NoPrice.MARGIN, NoPrice.LARGE}
        assert (found.why_not == NoPrice.OWN) == (not decisive)
        return
    assert terms.cost is not None
    wanted = (decisive.fixed or 0) + terms.cost * (decisive.percent or 0) / 100
    earned, step = found.price - terms.cost, shelf.round_to or Decimal("0.01")
    assert earned >= shelf.least_margin
    assert 0 <= earned - wanted < step
    assert found.price % step == 0


values = {
    "cost": st.none() | amounts,
    "margin": margins,
    "fixed_price": st.none() | st.decimals("0.01", 1_000, places=2, allow_nan=False),
    "accepted_loss": amounts,
    "round_to": st.sampled_from([0, 10]),
    "least_margin": amounts,
}
edits = st.lists(
    st.tuples(
        st.sampled_from(["shelf", "category", "product", "type", "reading", "other reading"]),
        st.sampled_from([*values]).flatmap(lambda name: st.tuples(st.just(name), values[name])),
        st.booleans(),
    ),
    max_size=12,
)


@everything
@given(edits=edits)
def test_whatever_was_edited_and_read_the_stored_price_follows_from_the_rule(edits: Any) -> None:
    ProductType.objects.all().delete()
    make_offer()
    make_offer("other")
    for name, (what, value), is_saved in edits:
        if name.endswith("reading"):
            read(name, value if what == "cost" else Decimal(490))
            assert_priced_alike()
            continue
        row = rows_of(ProductType.objects.get(type_id=TYPE))[name]
        changes = (
            {"margin_percent": value[0], "margin_fixed": value[1]}
            if what == "margin"
            else {what: value}
        )
        columns = {column: it for column, it in changes.items() if hasattr(row, column)}
        if is_saved:
            for column, it in columns.items():
                setattr(row, column, it)
            row.save()
        elif columns:
            type(row).objects.filter(pk=row.pk).update(**columns)
            keep_prices()
        assert_priced_alike()


def read(name: str, cost: Decimal | None) -> None:
    """Record an answer of the provider with this cost for one of the two types."""
    at = timezone.now()
    types = [{"type_id": TYPE, "cost": Decimal(490)}, {"type_id": "other", "cost": Decimal(490)}]
    types[name == "other reading"]["cost"] = cost
    Product.objects.keep_types(PRODUCT, types, at=at)
