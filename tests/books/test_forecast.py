"""The forecast: the amount that open orders will use, and how long the balance will last."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.books.conditions import OpenMoney, lasts, money_in_open_orders
from giftcards.engine.balance import add_up
from giftcards.models import ProductPrices, ProviderState
from giftcards.models.lines import Kind, Line
from giftcards.statuses import FINAL, Status
from tests.builders import PRODUCT, TYPE, make_guide_order, make_order
from tests.stage import ago

AMOUNTS = st.decimals(0, 10**11, places=2)


def tell_price(price: str) -> None:
    ProductPrices.objects.keep(PRODUCT, {TYPE: Decimal(price)}, key="k", asked_at=ago(60))


@pytest.mark.django_db
class TestOpenOrders:
    def test_each_open_order_counts_with_its_own_price(self) -> None:
        for status in (Status.HANDLING, Status.DELAYED):
            make_guide_order(status)
        make_order(Status.UNCONFIRMED, price_per_card=Decimal("490.50"))
        tell_price("1000")
        assert money_in_open_orders() == OpenMoney(sent=Decimal("5881.00"))

    def test_an_order_that_is_to_be_sent_counts_with_the_price_of_now(self) -> None:
        make_order(price_per_card=Decimal(490))
        make_guide_order()
        tell_price("500")
        assert money_in_open_orders() == OpenMoney(
            sent=Decimal("2450.00"), unsent=Decimal("1000.00")
        )
        assert money_in_open_orders().total == 3450

    def test_orders_of_which_no_price_is_known_are_counted(self) -> None:
        make_order()
        make_order(Status.HANDLING)
        make_order(Status.HANDLING, type_id="another")
        assert money_in_open_orders() == OpenMoney(unknown=3)
        tell_price("490")
        assert money_in_open_orders() == OpenMoney(
            sent=Decimal(980), unsent=Decimal(980), unknown=1
        )

    def test_orders_that_wait_for_a_decision_or_are_final_are_left_out(self) -> None:
        tell_price("490")
        make_order(due_at=None)
        for status in FINAL:
            make_guide_order(status)
        assert money_in_open_orders() == OpenMoney()

    def test_the_balance_is_short_if_it_does_not_cover_what_is_still_to_be_sent(self) -> None:
        make_guide_order()
        make_order()
        tell_price("490")
        in_orders = money_in_open_orders()
        assert not in_orders.exceeds(None)
        assert not in_orders.exceeds(Decimal(980))
        assert in_orders.exceeds(Decimal("979.99"))


@given(spent=st.none() | AMOUNTS, balance=st.none() | st.decimals(-(10**11), 10**11, places=2))
def test_how_long_it_lasts_is_the_balance_by_what_was_spent_in_a_day(
    spent: Decimal | None, balance: Decimal | None
) -> None:
    span = lasts(ProviderState(balance=balance, spent_lately=spent))
    if balance is None or not spent:
        assert span is None
        return
    assert span is not None
    assert timedelta(0) <= span <= timedelta(days=36_500)
    if 0 <= balance <= 1_000 * spent:
        assert span / timedelta(days=1) == pytest.approx(float(balance / spent), abs=1e-9)


LINES = st.lists(
    st.builds(
        Line,
        kind=st.just(Kind.OPEN),
        status=st.sampled_from([status for status in Status if status not in FINAL]),
        product_id=st.sampled_from("ab"),
        type_id=st.just("t"),
        cost=st.none() | AMOUNTS,
        number=st.integers(1, 10**6),
        cards=st.integers(1, 10**6),
    ),
    max_size=8,
)


@given(lines=LINES, price=AMOUNTS)
def test_every_order_is_in_exactly_one_of_the_sums(lines: list[Line], price: Decimal) -> None:
    told = {("a", "t"): price}
    whole = add_up(lines, told)
    parts = [add_up([line], told) for line in lines]
    assert whole.sent == sum(part.sent for part in parts)
    assert whole.unsent == sum(part.unsent for part in parts)
    assert whole.unknown == sum(part.unknown for part in parts)
    for line, part in zip(lines, parts, strict=True):
        assert (part.unknown == 0) == (line.cost is not None or line.product_id == "a")
        assert part.sent == 0 or part.unsent == 0
