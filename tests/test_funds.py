"""What open orders take of the balance, and how long it will last."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.funds import MOST_CHARGES, Funds, OpenMoney, Pace, add_up
from giftcards.models import Order, ProductPrices, ProviderState
from giftcards.models.order_queries import OpenLine
from giftcards.statuses import FINAL, Status
from tests.builders import PRODUCT, TYPE, build_guide_order, make_guide_order, make_order
from tests.stage import ago

DAY = timedelta(days=1)
AMOUNTS = st.decimals(0, 10**11, places=2)


def read(**state: object) -> Funds:
    return Funds.read(ProviderState(**state))


def tell_price(price: str) -> None:
    ProductPrices.objects.keep(PRODUCT, {TYPE: Decimal(price)}, key="k", asked_at=ago(60))


@pytest.mark.django_db
class TestOpenOrders:
    def test_each_open_order_counts_with_its_own_price(self) -> None:
        for status in (Status.HANDLING, Status.DELAYED):
            make_guide_order(status)
        make_order(Status.UNCONFIRMED, price_per_card=Decimal("490.50"))
        tell_price("1000")
        assert read().in_orders == OpenMoney(sent=Decimal("5881.00"))

    def test_an_order_that_is_to_be_sent_counts_with_the_price_of_now(self) -> None:
        make_order(price_per_card=Decimal(490))
        make_guide_order()
        tell_price("500")
        assert read().in_orders == OpenMoney(sent=Decimal("2450.00"), unsent=Decimal("1000.00"))
        assert read().in_orders.total == 3450

    def test_orders_of_which_no_price_is_known_are_counted(self) -> None:
        make_order()
        make_order(Status.HANDLING)
        make_order(Status.HANDLING, type_id="another")
        assert read().in_orders == OpenMoney(unknown=3)
        tell_price("490")
        assert read().in_orders == OpenMoney(sent=Decimal(980), unsent=Decimal(980), unknown=1)

    def test_orders_that_wait_for_a_decision_or_are_final_are_left_out(self) -> None:
        tell_price("490")
        make_order(due_at=None)
        for status in FINAL:
            make_guide_order(status)
        assert read().in_orders == OpenMoney()

    def test_the_balance_is_short_if_it_does_not_cover_what_is_still_to_be_sent(self) -> None:
        make_guide_order()
        make_order()
        tell_price("490")
        assert not read(balance=None).is_short
        assert not read(balance=Decimal(980)).is_short
        assert read(balance=Decimal("979.99")).is_short


@pytest.mark.django_db
class TestPace:
    def test_it_is_what_the_orders_of_the_last_24_hours_were_charged(self) -> None:
        make_guide_order(Status.FULFILLED, fulfilled_amount=2450, settled_at=ago(86_300))
        make_guide_order(Status.PARTIALLY_FILLED, fulfilled_amount=Decimal("1470.50"))
        make_guide_order(Status.REFUNDED)
        make_guide_order(Status.FULFILLED, fulfilled_amount=2450, settled_at=ago(86_500))
        funds = read(balance=Decimal("7841.00"))
        assert funds.pace == Pace(Decimal("3920.50"), DAY)
        assert funds.lasts == timedelta(days=2)

    def test_of_very_many_orders_only_the_last_count_and_their_time(self) -> None:
        Order.objects.bulk_create(
            build_guide_order(Status.FULFILLED, fulfilled_amount=10, settled_at=ago(7200 - number))
            for number in range(MOST_CHARGES + 200)
        )
        pace = read().pace
        assert pace.spent == 10 * MOST_CHARGES
        assert timedelta(seconds=6999) < pace.span < timedelta(seconds=7030)
        assert not pace.is_of_a_day

    def test_nothing_is_said_if_nothing_was_spent_or_the_balance_is_unknown(self) -> None:
        assert read(balance=Decimal(5)).lasts is None
        make_guide_order(Status.FULFILLED, fulfilled_amount=2450)
        assert read(balance=None).lasts is None

    def test_a_balance_below_zero_lasts_no_time(self) -> None:
        assert Pace(Decimal(100), DAY).lasts(Decimal(-5)) == timedelta(0)


@given(spent=AMOUNTS, balance=st.decimals(-(10**11), 10**11, places=2))
def test_how_long_it_lasts_is_never_negative_and_never_overflows(
    spent: Decimal, balance: Decimal
) -> None:
    lasts = Pace(spent, DAY).lasts(balance)
    assert (lasts is None) == (spent == 0)
    assert lasts is None or timedelta(0) <= lasts <= timedelta(days=36_500)


LINES = st.lists(
    st.builds(
        OpenLine,
        status=st.sampled_from([status for status in Status if status not in FINAL]),
        product_id=st.sampled_from("ab"),
        type_id=st.just("t"),
        price=st.none() | AMOUNTS,
        orders=st.integers(1, 10**6),
        cards=st.integers(1, 10**6),
    )
)


@given(lines=LINES, price=AMOUNTS)
def test_every_order_is_in_exactly_one_of_the_sums(lines: list[OpenLine], price: Decimal) -> None:
    told = {("a", "t"): price}
    whole = add_up(lines, told)
    parts = [add_up([line], told) for line in lines]
    assert whole.sent == sum(part.sent for part in parts)
    assert whole.unsent == sum(part.unsent for part in parts)
    assert whole.unknown == sum(part.unknown for part in parts)
    for line, part in zip(lines, parts, strict=True):
        assert (part.unknown == 0) == (line.price is not None or line.product_id == "a")
        assert part.sent == 0 or part.unsent == 0
