"""Prices when a cost and a margin change at the same moment, and when a process dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from giftcards.catalogue import keep_prices
from giftcards.models import Category, Product, ProductType, Shelf
from giftcards.rules.prices import find_price
from tests.builders import PRODUCT, TYPE, category, make_offer, set_shelf
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)


class Died(BaseException):
    """The simulated death of a process."""


def read(cost: Decimal) -> None:
    types = [{"type_id": TYPE, "cost": cost}, {"type_id": "other", "cost": cost}]
    Product.objects.keep_types(PRODUCT, types, at=timezone.now())


def edit_shop(margin: Decimal) -> None:
    set_shelf(margin_percent=margin)


def edit_category(margin: Decimal) -> None:
    row = Category.objects.get(title="")
    row.margin_fixed = margin
    row.save()


def edit_type(margin: Decimal) -> None:
    row = ProductType.objects.get(type_id=TYPE)
    row.margin_fixed = margin
    row.save()


def move(_margin: Decimal) -> None:
    """Record a list of the provider that has the product in a different category."""
    Product.objects.keep(
        [{"product_id": PRODUCT, "name": "P", "category": "Dear"}], at=timezone.now()
    )


def wrong_prices() -> list[ProductType]:
    shelf = Shelf.objects.current().terms
    kinds = ProductType.objects.select_related("product__category")
    return [kind for kind in kinds if kind.price != find_price(kind.terms, shelf).price]


@pytest.fixture
def shop() -> None:
    dear = category("Dear")
    dear.margin_percent = Decimal(50)
    dear.save()
    set_shelf(margin_percent=10)
    make_offer()
    make_offer("other")


EDITS: dict[str, Callable[[Decimal], None]] = {
    "the shop": edit_shop,
    "the category": edit_category,
    "the type": edit_type,
    "the provider's list": move,
}


@pytest.mark.usefixtures("shared_database", "shop")
@pytest.mark.parametrize("name", EDITS)
def test_a_cost_and_a_margin_at_the_same_moment_end_in_the_price_of_both(name: str) -> None:
    starts = Barrier(4, timeout=60)
    turns = iter(range(4))

    def change() -> None:
        turn = next(turns)
        starts.wait()
        for number in range(5):
            amount = Decimal(100 * turn + number)
            (EDITS[name] if turn % 2 else read)(amount + 10)

    assert in_threads(4, change) == [None] * 4
    assert wrong_prices() == []
    kind = ProductType.objects.get(type_id=TYPE)
    # No edit has replaced the cost with an older one.
    assert kind.cost in {Decimal(14), Decimal(214)}


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize("name", [*EDITS, "a reading"])
def test_whoever_dies_while_prices_are_stored_leaves_them_as_they_were(name: str) -> None:
    happen = EDITS.get(name, read)
    died_at = 0
    while True:
        left = died_at

        def die(execute: Callable[..., Any], *statement: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Died
            left -= 1
            return execute(*statement)

        try:
            with connection.execute_wrapper(die):
                happen(Decimal(20 + died_at))
        except Died:
            connection.close()
            assert wrong_prices() == []
            died_at += 1
        else:
            break
    assert died_at > 3
    assert wrong_prices() == []
    keep_prices()
    assert wrong_prices() == []
