"""The customer's side: what was paid is kept for delivered cards, and owed for the others."""

from __future__ import annotations

from decimal import Decimal

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
    with pytest.raises(ValueError, match="not those of an order"):
        compute(paid=Decimal(paid), quantity=quantity, fulfilled_quantity=delivered)


class TestOrder:
    @pytest.mark.parametrize("status", FINAL)
    def test_a_final_order_has_a_breakdown_from_the_sale_amount(self, status: Status) -> None:
        order = build_guide_order(status, sale_amount=Decimal(2750))
        found = customer_breakdown(order)
        assert found is not None
        assert found.paid_amount == 2750
        assert found.owed_amount == 550 * (order.quantity - order.fulfilled_quantity)

    def test_an_order_with_a_price_of_one_card_has_the_breakdown_of_all(self) -> None:
        order = build_guide_order(Status.PARTIALLY_FILLED, sale_price=Decimal(550))
        assert customer_breakdown(order) == CustomerBreakdown(
            Decimal(2750), Decimal(1650), Decimal(1100), Decimal(0), Decimal(0), Decimal(1100)
        )

    def test_a_rejected_order_owes_everything(self) -> None:
        order = build_guide_order(Status.REJECTED, sale_amount=Decimal(2750))
        assert customer_breakdown(order) == CustomerBreakdown(
            Decimal(2750), Decimal(0), Decimal(2750), Decimal(0), Decimal(0), Decimal(2750)
        )

    @pytest.mark.parametrize("status", [status for status in Status if status not in FINAL])
    def test_an_open_order_has_no_breakdown(self, status: Status) -> None:
        assert customer_breakdown(build_guide_order(status, sale_amount=Decimal(2750))) is None

    def test_an_order_without_a_sale_amount_has_no_breakdown(self) -> None:
        assert customer_breakdown(build_guide_order(Status.FULFILLED)) is None
