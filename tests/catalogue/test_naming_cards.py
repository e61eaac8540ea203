"""Cards that are named by a row of the catalogue, or by the provider's ids."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ValidationError
from django.utils import timezone

from giftcards.catalogue import check_offer, quote, reserve
from giftcards.exceptions import NotForSale
from giftcards.fulfilment import aplace_order, place_order
from giftcards.models import Order, Product, ProductType
from tests.builders import PRODUCT, TYPE, make_offer
from tests.stage import ago

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

IDS = {"product_id": PRODUCT, "type_id": TYPE}
ONE_WAY = "Pass the card as product_type, or as product_id and type_id."
BOTH = "Pass either product_type, or product_id and type_id, but not both."
# The arguments that name the card (``True`` stands for the type itself), and the error.
NAMED_WRONGLY: list[tuple[dict[str, Any], str]] = [
    ({}, ONE_WAY),
    ({"product_id": PRODUCT}, ONE_WAY),
    ({"type_id": TYPE}, ONE_WAY),
    ({**IDS, "product_type": True}, BOTH),
    ({"product_id": PRODUCT, "product_type": True}, BOTH),
    ({"product_type": 1}, "product_type must be a ProductType, not int."),
    ({"product_type": "type_001"}, "product_type must be a ProductType, not str."),
]
TAKING_A_CARD: dict[str, Callable[..., Any]] = {
    "place_order": place_order,
    "aplace_order": async_to_sync(aplace_order),
    "check_offer": check_offer,
    "quote": quote,
    "reserve": partial(reserve, reference="cart-1"),
}


def test_a_type_is_the_same_card_as_its_ids() -> None:
    make_offer("type_002")
    kind = make_offer(stock=1, fixed_price=600)
    with pytest.raises(NotForSale, match="reservations leave only"):
        check_offer(product_type=kind, quantity=2)
    check_offer(product_type=kind, quantity=1, sale_price=600)
    kept = reserve(reference="cart-1", product_type=kind, quantity=1)
    assert {name: getattr(kept, name) for name in IDS} == IDS
    order = place_order(reference="cart-1", product_type=kind, quantity=1)
    assert {name: getattr(order, name) for name in IDS} == IDS
    assert place_order(reference="cart-1", quantity=1, **IDS) == order


def test_a_type_that_is_gone_keeps_its_row_and_cannot_be_sold() -> None:
    kind = make_offer(missing_since=ago(2 * 3600))
    Product.objects.keep_types(PRODUCT, [], at=timezone.now())
    assert ProductType.objects.get() == kind
    with pytest.raises(NotForSale) as caught:
        check_offer(product_type=kind, quantity=1)
    assert caught.value.code == "delisted"


def test_a_check_of_no_quantity_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        check_offer(product_type=make_offer())


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("function", TAKING_A_CARD)
@pytest.mark.parametrize(("named", "error"), NAMED_WRONGLY)
def test_a_card_that_is_not_named_in_one_way_is_refused(
    function: str, named: dict[str, Any], error: str
) -> None:
    if named.get("product_type") is True:
        named = {**named, "product_type": make_offer()}
    with pytest.raises(TypeError, match=f"^{error}$"):
        TAKING_A_CARD[function](quantity=1, **named)
    assert not Order.objects.exists()
