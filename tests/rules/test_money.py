"""The money of both sides, compared with the provider's guide and with integers of centimes."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.rules.money import (
    CustomerBreakdown,
    RefundBreakdown,
    amount_of_missing,
    customer_breakdown,
    final_figures,
    payment_breakdown,
    purchase_breakdown,
    refund_breakdown,
)
from giftcards.rules.states import FINAL, SETTLED, Status
from tests.builders import build_guide_order

PRICE = Decimal(490)


def figures(
    status: Status,
    fulfilled: int,
    charged: Decimal | int | None,
    *,
    price: Decimal | int | None = PRICE,
    quantity: int = 5,
) -> dict[str, Any]:
    """Return arguments for :func:`purchase_breakdown`, which is only called when a test runs."""
    return {
        "status": status,
        "quantity": quantity,
        "fulfilled_quantity": fulfilled,
        "price_per_card": None if price is None else Decimal(price),
        "fulfilled_amount": None if charged is None else Decimal(charged),
    }


def broken_down(*args: Any, **options: Any) -> RefundBreakdown:
    return purchase_breakdown(**figures(*args, **options))


def test_the_breakdown_of_the_guides_example_is_that_of_the_guide() -> None:
    assert broken_down(Status.PARTIALLY_FILLED, 3, 1470) == RefundBreakdown(
        ordered_amount=Decimal(2450),
        charged_amount=Decimal(1470),
        refunded_quantity=2,
        refunded_amount=Decimal(980),
        is_consistent=True,
    )


@pytest.mark.parametrize(
    ("given_figures", "ordered", "charged", "refunded_quantity", "refunded"),
    [
        (figures(Status.FULFILLED, 5, 2450), 2450, 2450, 0, 0),
        (figures(Status.REFUNDED, 0, 0), 2450, 0, 5, 2450),
        (figures(Status.PARTIALLY_FILLED, 1, 490, quantity=2), 980, 490, 1, 490),
        (figures(Status.PARTIALLY_FILLED, 2, 980, quantity=4), 1960, 980, 2, 980),
        # In the sandbox, everything is free.
        (figures(Status.FULFILLED, 5, 0, price=0), 0, 0, 0, 0),
        (figures(Status.REFUNDED, 0, 0, price=0), 0, 0, 5, 0),
        # Amounts in centimes, for which binary fractions would be inexact.
        (
            figures(Status.PARTIALLY_FILLED, 1, Decimal("0.10"), price=Decimal("0.10")),
            Decimal("0.50"),
            Decimal("0.10"),
            4,
            Decimal("0.40"),
        ),
        # A refunded order cost nothing, even if the provider does not say so.
        (figures(Status.REFUNDED, 0, None), 2450, 0, 5, 2450),
        # An unknown amount is None, which is different from 0.
        (figures(Status.REFUNDED, 0, None, price=None), None, 0, 5, None),
        (figures(Status.PARTIALLY_FILLED, 3, 1470, price=None), None, 1470, 2, None),
        (figures(Status.PARTIALLY_FILLED, 1, 490, price=None), None, 490, 4, None),
        (figures(Status.PARTIALLY_FILLED, 3, None), 2450, None, 2, 980),
        (figures(Status.FULFILLED, 5, None), 2450, None, 0, 0),
        # Nothing is refunded, even if the price of a card is unknown.
        (figures(Status.FULFILLED, 5, 2450, price=None), None, 2450, 0, 0),
        (figures(Status.FULFILLED, 5, None, price=None), None, None, 0, 0),
    ],
)
def test_the_breakdown_of_figures_that_fit_is_consistent(
    given_figures: dict[str, Any],
    ordered: Decimal | None,
    charged: Decimal | None,
    refunded_quantity: int,
    refunded: Decimal | None,
) -> None:
    expected = RefundBreakdown(ordered, charged, refunded_quantity, refunded, True)
    assert purchase_breakdown(**given_figures) == expected


@pytest.mark.parametrize(
    "given_figures",
    [
        # The charge is for more or for fewer cards than were delivered.
        figures(Status.PARTIALLY_FILLED, 3, 1960),
        figures(Status.PARTIALLY_FILLED, 3, 980),
        figures(Status.PARTIALLY_FILLED, 3, Decimal("1470.01")),
        figures(Status.FULFILLED, 5, 2449),
        figures(Status.FULFILLED, 5, 0),
        figures(Status.REFUNDED, 0, 490),
        figures(Status.REFUNDED, 0, 490, price=None),
        # The status and the count contradict each other.
        figures(Status.FULFILLED, 3, 2450),
        figures(Status.FULFILLED, 3, 1470),
        figures(Status.FULFILLED, 3, None, price=None),
        figures(Status.REFUNDED, 3, 1470),
        # Impossible refunds: for more than was ordered, or of a negative amount.
        figures(Status.PARTIALLY_FILLED, 6, 2940),
        figures(Status.PARTIALLY_FILLED, -1, -490),
        figures(Status.PARTIALLY_FILLED, 3, -1470, price=-490),
        figures(Status.PARTIALLY_FILLED, 3, None, price=-490),
        figures(Status.PARTIALLY_FILLED, 3, -1470, price=None),
    ],
)
def test_figures_that_contradict_each_other_are_inconsistent(given_figures: dict[str, Any]) -> None:
    assert not purchase_breakdown(**given_figures).is_consistent


def test_contradicting_figures_are_shown_as_they_were_told() -> None:
    breakdown = broken_down(Status.PARTIALLY_FILLED, 3, 1960)
    assert (breakdown.charged_amount, breakdown.refunded_amount) == (1960, 980)
    breakdown = broken_down(Status.PARTIALLY_FILLED, 6, 2940)
    assert (breakdown.refunded_quantity, breakdown.refunded_amount) == (-1, -490)


centimes = st.integers(min_value=-(10**12), max_value=10**12)
statuses = st.sampled_from(SETTLED)


def as_amount(value: int | None) -> Decimal | None:
    return None if value is None else Decimal(value).scaleb(-2)


@given(
    status=statuses,
    quantity=st.integers(1, 2000),
    fulfilled=st.integers(-1, 2001),
    price=st.none() | centimes,
    charged=st.none() | centimes | st.just("exact"),
)
def test_the_breakdown_agrees_with_arithmetic_on_integers_of_centimes(
    status: Status, quantity: int, fulfilled: int, price: int | None, charged: int | str | None
) -> None:
    if charged == "exact":
        charged = None if price is None else price * fulfilled
    assert not isinstance(charged, str)
    found = purchase_breakdown(
        status=status,
        quantity=quantity,
        fulfilled_quantity=fulfilled,
        price_per_card=as_amount(price),
        fulfilled_amount=as_amount(charged),
    )
    back = {
        Status.FULFILLED: 0,
        Status.PARTIALLY_FILLED: quantity - fulfilled,
        Status.REFUNDED: quantity,
    }[status]
    assert found.refunded_quantity == back
    assert found.ordered_amount == (None if price is None else as_amount(quantity * price))
    if price is None:
        assert found.refunded_amount == (Decimal(0) if back == 0 else None)
    else:
        assert found.refunded_amount == as_amount(back * price)
    if charged is None and status is Status.REFUNDED:
        charged = 0
    assert found.charged_amount == as_amount(charged)
    if found.is_consistent:
        assert 0 <= back <= quantity
        assert fulfilled == quantity - back
        if price is not None and charged is not None:
            assert quantity * price == charged + back * price
            assert charged == fulfilled * price
            assert min(price, charged) >= 0


@given(status=statuses, quantity=st.integers(2, 2000), data=st.data(), price=st.integers(0, 10**12))
def test_what_was_ordered_is_charged_plus_refunded_if_the_figures_fit(
    status: Status, quantity: int, data: st.DataObject, price: int
) -> None:
    fulfilled = {Status.FULFILLED: quantity, Status.REFUNDED: 0}.get(status)
    if fulfilled is None:
        fulfilled = data.draw(st.integers(1, quantity - 1))
    found = purchase_breakdown(
        status=status,
        quantity=quantity,
        fulfilled_quantity=fulfilled,
        price_per_card=as_amount(price),
        fulfilled_amount=as_amount(price * fulfilled),
    )
    assert found.is_consistent
    assert found.ordered_amount == found.charged_amount + found.refunded_amount


@pytest.mark.parametrize("status", [status for status in Status if status not in SETTLED])
class TestNothingToBreakDown:
    def test_an_order_that_has_not_settled_has_no_breakdown(self, status: Status) -> None:
        assert refund_breakdown(build_guide_order(status)) is None

    def test_computing_a_breakdown_before_settling_raises_value_error(self, status: Status) -> None:
        with pytest.raises(ValueError, match=rf"\AAn order that is {status} has no refund"):
            broken_down(status, 0, None)


def test_the_breakdown_of_an_order_is_computed_from_its_figures() -> None:
    order = build_guide_order(
        Status.PARTIALLY_FILLED,
        fulfilled_quantity=3,
        price_per_card=PRICE,
        fulfilled_amount=Decimal(1470),
    )
    assert refund_breakdown(order) == broken_down(Status.PARTIALLY_FILLED, 3, 1470)


def test_a_breakdown_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        broken_down(Status.REFUNDED, 0, 0).refunded_amount = Decimal(0)  # type: ignore[misc]


# The customer's side.

CENTIME = Decimal("0.01")


@pytest.mark.parametrize(
    ("paid", "quantity", "delivered", "kept", "owed"),
    [
        ("1000", 3, 2, "666.67", "333.33"),
        ("1000", 3, 1, "333.33", "666.67"),
        ("3850", 7, 7, "3850.00", "0"),
        ("1000", 3, 0, "0", "1000"),
        # Half a centime is rounded in favour of the shop.
        ("0.01", 2, 1, "0.01", "0"),
    ],
)
def test_what_is_kept_is_the_share_of_the_delivered_cards_and_the_rest_is_owed(
    paid: str, quantity: int, delivered: int, kept: str, owed: str
) -> None:
    found = payment_breakdown(paid=Decimal(paid), quantity=quantity, fulfilled_quantity=delivered)
    assert found == CustomerBreakdown(
        Decimal(paid), Decimal(kept), Decimal(owed), Decimal(0), Decimal(owed)
    )


@given(
    st.decimals(0, 999_999_999_999, places=2),
    st.integers(1, 2_000).flatmap(lambda most: st.tuples(st.integers(0, most), st.just(most))),
)
def test_kept_and_owed_add_up_to_what_was_paid_and_are_right_to_half_a_centime(
    paid: Decimal, delivered_of: tuple[int, int]
) -> None:
    delivered, quantity = delivered_of
    found = payment_breakdown(paid=paid, quantity=quantity, fulfilled_quantity=delivered)
    assert found.kept_amount + found.owed_amount == paid
    assert 0 <= found.kept_amount <= paid
    assert abs(found.kept_amount * quantity - paid * delivered) * 2 <= quantity * CENTIME


@pytest.mark.parametrize(("paid", "quantity", "delivered"), [(-1, 1, 0), (1, 0, 0), (1, 2, 3)])
def test_figures_that_are_no_orders_are_refused(paid: int, quantity: int, delivered: int) -> None:
    with pytest.raises(ValueError, match=r"\AThese figures do not belong to an order\.\Z"):
        payment_breakdown(paid=Decimal(paid), quantity=quantity, fulfilled_quantity=delivered)


class TestOrder:
    @pytest.mark.parametrize("status", FINAL)
    def test_a_final_order_has_a_breakdown_from_the_sale_amount(self, status: Status) -> None:
        order = build_guide_order(status, sale_amount=Decimal(2750))
        found = customer_breakdown(order)
        assert found.paid_amount == 2750
        assert found.owed_amount == 550 * (order.quantity - order.fulfilled_quantity)

    @pytest.mark.parametrize(
        ("status", "values", "amounts"),
        [
            (Status.REJECTED, {"sale_amount": 2750}, (2750, 0, 2750, 0, 2750)),
            # The price of one card is given, and three of five cards were delivered.
            (Status.PARTIALLY_FILLED, {"sale_price": 550}, (2750, 1650, 1100, 0, 1100)),
            (
                Status.PARTIALLY_FILLED,
                {"sale_price": 550, "paid_back_amount": 500},
                (2750, 1650, 1100, 500, 600),
            ),
            # The missing cards were ordered again, so the customer is owed nothing.
            (
                Status.PARTIALLY_FILLED,
                {"sale_price": 550, "reordered_amount": 1100},
                (2750, 1650, 1100, 0, 0),
            ),
        ],
    )
    def test_what_is_owed_is_paid_back_or_open_until_the_cards_are_ordered_again(
        self, status: Status, values: dict[str, Any], amounts: tuple[int, ...]
    ) -> None:
        order = build_guide_order(status, **values)
        assert customer_breakdown(order) == CustomerBreakdown(*map(Decimal, amounts))

    @pytest.mark.parametrize("status", [status for status in Status if status not in FINAL])
    def test_an_open_order_has_no_breakdown(self, status: Status) -> None:
        assert customer_breakdown(build_guide_order(status, sale_amount=Decimal(2750))) is None

    def test_an_order_without_a_sale_amount_has_no_breakdown(self) -> None:
        assert customer_breakdown(build_guide_order(Status.FULFILLED)) is None


@pytest.mark.parametrize(
    ("status", "values", "open_amount", "is_consistent"),
    [
        (Status.PARTIALLY_FILLED, {"sale_price": 550}, 1100, True),
        (Status.PARTIALLY_FILLED, {"sale_price": 550, "fulfilled_amount": 490}, 1100, False),
        (Status.REJECTED, {"sale_price": 550}, 2750, None),
        (Status.FULFILLED, {}, None, True),
    ],
)
def test_the_figures_of_a_final_order_are_what_is_owed_and_whether_its_figures_agree(
    status: Status, values: dict[str, Any], open_amount: int | None, is_consistent: bool | None
) -> None:
    expected = {"open_amount": open_amount, "is_consistent": is_consistent}
    assert final_figures(build_guide_order(status, **values)) == expected


@pytest.mark.parametrize(
    ("values", "amount"),
    [({"sale_price": 550}, 1100), ({"sale_amount": Decimal(1000)}, 400), ({}, None)],
)
def test_the_payment_for_missing_cards_is_what_would_be_owed_without_them(
    values: dict[str, Any], amount: int | None
) -> None:
    assert amount_of_missing(build_guide_order(Status.FULFILLED, **values), 2) == amount
