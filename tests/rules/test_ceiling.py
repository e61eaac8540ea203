"""The choice of the price limit from the amounts that were given."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.rules.ceiling import price_ceiling


def ceiling(**values: Any) -> Decimal | None:
    nothing = {"approved": None, "given": None, "sale_price": None, "sale_amount": None}
    return price_ceiling(**nothing | {"quantity": 3} | values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"sale_price": 550}, 550),
        ({"sale_price": Decimal("0.00")}, 0),
        ({"sale_price": 550, "sale_amount": 1650}, 550),
        ({"sale_amount": 1000}, Decimal("333.33")),
        ({"sale_amount": 2000}, Decimal("666.66")),
        ({"sale_price": 550, "given": 500}, 500),
        ({"sale_price": 550, "given": 600}, 600),
        ({"given": 0, "sale_price": 550}, 0),
        ({"given": 500, "approved": 700}, 700),
        ({"sale_price": 550, "approved": Decimal(0)}, 0),
    ],
)
def test_the_ceiling_is_the_approved_price_else_the_given_one_else_the_sale_price(
    values: dict[str, Any], expected: Any
) -> None:
    assert ceiling(**values) == expected


@given(
    amount=st.decimals(0, 10**9, places=2),
    quantity=st.integers(1, 2000),
    price=st.decimals(0, 10**9, places=2),
)
def test_a_ceiling_from_a_sale_amount_allows_what_costs_no_more_in_all(
    amount: Decimal, quantity: int, price: Decimal
) -> None:
    limit = ceiling(sale_amount=amount, quantity=quantity)
    assert limit is not None
    for card in (price, limit, limit + Decimal("0.01")):
        assert (card <= limit) == (card * quantity <= amount)
