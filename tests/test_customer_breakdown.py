"""The customer's side: what was paid is kept for delivered cards, and owed for the others."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.settlement import CustomerBreakdown, compute, customer_breakdown
from giftcards.statuses import FINAL, Status
from tests.builders import build_guide_order

CENTIME = Decimal("0.01")


@pytest.mark.parametrize(
    ("paid", "quantity", "delivered", "kept", "owed"),
    [
        ("1000", 3, 2, "666.67", "333.33"),
        ("1000", 3, 1, "333.33", "666.67"),
        ("3850", 7, 7, "3850.00", "0"),
        ("1000", 3, 0, "0", "1000"),
        # Half a centime is kept.
        ("0.01", 2, 1, "0.01", "0"),
    ],
)
def test_what_is_kept_is_the_share_of_the_delivered_cards_and_the_rest_is_owed(
    paid: str, quantity: int, delivered: int, kept: str, owed: str
) -> None:
    found = compute(paid=Decimal(paid), quantity=quantity, fulfilled_quantity=delivered)
    assert found == CustomerBreakdown(
        Decimal(paid), Decimal(kept), Decimal(owed), Decimal(0), Decimal(0), Decimal(owed)
    )


@given(
    st.decimals(0, 999_999_999_999, places=2),
    st.integers(1, 2_000).flatmap(lambda most: st.tuples(st.integers(0, most), st.just(most))),
)
def test_kept_and_owed_add_up_to_what_was_paid_and_are_right_to_half_a_centime(
    paid: Decimal, delivered_of: tuple[int, int]
) -> None:
    delivered, quantity = delivered_of
    found = compute(paid=paid, quantity=quantity, fulfilled_quantity=delivered)
    assert found.kept_amount + found.owed_amount == paid
    assert 0 <= found.kept_amount <= paid
    assert abs(found.kept_amount * quantity - paid * delivered) * 2 <= quantity * CENTIME


@pytest.mark.parametrize(("paid", "quantity", "delivered"), [(-1, 1, 0), (1, 0, 0), (1, 2, 3)])
def test_figures_that_are_no_orders_are_refused(paid: int, quantity: int, delivered: int) -> None:
    with pytest.raises(ValueError, match=r"\AThese figures are not those of an order\.\Z"):
        compute(paid=Decimal(paid), quantity=quantity, fulfilled_quantity=delivered)


class TestOrder:
    @pytest.mark.parametrize("status", FINAL)
    def test_a_final_order_has_a_breakdown_from_the_sale_amount(self, status: Status) -> None:
        order = build_guide_order(status, sale_amount=Decimal(2750))
        found = customer_breakdown(order)
        assert found is not None
        assert found.paid_amount == 2750
        assert found.owed_amount == 550 * (order.quantity - order.fulfilled_quantity)

    @pytest.mark.parametrize(
        ("status", "values", "amounts"),
        [
            (Status.REJECTED, {"sale_amount": 2750}, (2750, 0, 2750, 0, 0, 2750)),
            # The price of one card; three of five came.
            (Status.PARTIALLY_FILLED, {"sale_price": 550}, (2750, 1650, 1100, 0, 0, 1100)),
            (
                Status.PARTIALLY_FILLED,
                {"sale_price": 550, "paid_back_amount": 300, "planned_amount": 200},
                (2750, 1650, 1100, 300, 200, 600),
            ),
            # The missing cards were ordered again.
            (
                Status.PARTIALLY_FILLED,
                {"sale_price": 550, "reordered_amount": 1100},
                (2750, 1650, 1100, 0, 0, 0),
            ),
        ],
    )
    def test_what_is_owed_is_paid_back_planned_or_open_until_the_cards_are_ordered_again(
        self, status: Status, values: dict[str, Any], amounts: tuple[int, ...]
    ) -> None:
        order = build_guide_order(status, **values)
        assert customer_breakdown(order) == CustomerBreakdown(*map(Decimal, amounts))

    @pytest.mark.parametrize("status", [status for status in Status if status not in FINAL])
    def test_an_open_order_has_no_breakdown(self, status: Status) -> None:
        assert customer_breakdown(build_guide_order(status, sale_amount=Decimal(2750))) is None

    def test_an_order_without_a_sale_amount_has_no_breakdown(self) -> None:
        assert customer_breakdown(build_guide_order(Status.FULFILLED)) is None
