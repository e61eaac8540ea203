"""Paying customers back: in parts, once, and never more than is owed, even concurrently."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, ProtectedError
from django.utils import timezone, translation
from hypothesis import given
from hypothesis import strategies as st

from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import RefundError, ReorderError
from giftcards.fulfilment import reorder_missing
from giftcards.models import CustomerRefund, Order
from giftcards.settlement import (
    cancel_refund,
    customer_breakdown,
    is_past,
    promised_day,
    record_refund,
)
from giftcards.signals import customer_refund_changed
from giftcards.statuses import FINAL, Status
from tests.builders import CARDS, make_guide_order
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

REORDERED = (
    "The missing cards were ordered again, and the customer's payment for these cards was"
    " transferred to the new order."
)
NOTHING_LEFT = "There is no more money to pay back for this order."


# In the time zone of the site, this is the first of April.
LATE = datetime(2026, 3, 31, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Etc/GMT+12", "UTC", "Pacific/Kiritimati"])
class TestPromise:
    """Dates are in the time zone of the site, whatever the visitor's time zone is."""

    @pytest.mark.parametrize(
        ("days", "finalized_at", "expected"),
        [
            (7, LATE, date(2026, 4, 8)),
            (1, LATE, date(2026, 4, 2)),
            (7, None, None),
            (None, LATE, None),
        ],
    )
    def test_the_money_is_promised_some_days_after_the_order_became_final(
        self,
        settings: Any,
        zone: str,
        days: int | None,
        finalized_at: datetime | None,
        expected: date | None,
    ) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "REFUND_DAYS": days}
        with timezone.override(zone):
            assert promised_day(Order(finalized_at=finalized_at)) == expected

    def test_a_day_is_past_when_the_next_has_begun(self, zone: str) -> None:
        today = timezone.localdate(timezone=timezone.get_default_timezone())
        with timezone.override(zone):
            assert [is_past(today - timedelta(days=1)), is_past(today)] == [True, False]


def sold(**values: Any) -> Order:
    """Return an order with 1,000 paid for three cards, of which two came: 333.33 are owed."""
    three = {"quantity": 3, "fulfilled_quantity": 2, "sale_amount": Decimal(1000)}
    named = {"reference": "cart-1042"}
    return make_guide_order(Status.PARTIALLY_FILLED, **named | three | values)


@pytest.fixture
def order() -> Order:
    return sold()


def pay(order: Order, amount: Any = Decimal("333.33"), reference: str = "R1", **values: Any) -> Any:
    return record_refund(order, amount=amount, reference=reference, **values)


def left(order: Order) -> Decimal:
    """Return the amount still owed, and check that the columns and the refunds agree."""
    row = Order.objects.get(pk=order.pk)
    breakdown = customer_breakdown(row)
    assert breakdown is not None
    assert breakdown.open_amount == row.open_amount
    amounts = dict.fromkeys(CustomerRefund.State, Decimal(0))
    for refund in row.refunds.all():
        amounts[CustomerRefund.State(refund.state)] += refund.amount
    assert row.paid_back_amount == breakdown.paid_back_amount == amounts["done"]
    assert breakdown.owed_amount == breakdown.paid_back_amount + breakdown.open_amount
    return breakdown.open_amount


@contextmanager
def heard() -> Iterator[list[tuple[str, str]]]:
    """Yield the reference and the state of each refund that receivers are notified of."""
    told: list[tuple[str, str]] = []

    def hear(refund: CustomerRefund, **_named: Any) -> None:
        told.append((refund.reference, refund.state))

    customer_refund_changed.connect(hear, sender=CustomerRefund)
    try:
        yield told
    finally:
        customer_refund_changed.disconnect(hear, sender=CustomerRefund)


class TestPayingBack:
    @pytest.mark.parametrize(
        ("named", "by", "told"),
        [
            ({}, "", ("", "", "code")),
            (
                {"method": "cash", "comment": "At the counter.", "source": "command"},
                "amina",
                ("cash", "At the counter.", "command"),
            ),
        ],
    )
    def test_all_that_is_owed_is_paid_back_at_once(
        self, order: Order, named: dict[str, str], by: str, told: tuple[str, str, str]
    ) -> None:
        refund = pay(order, by=by or None, **named)
        row = CustomerRefund.objects.get()
        assert (row.amount, row.state, row.reference) == (Decimal("333.33"), "done", "R1")
        assert row.created_by == by
        assert (row.method, row.comment, row.source) == told
        assert (row, row.has_changed, refund.has_changed) == (refund, False, True)
        assert left(order) == 0

    def test_parts_add_up_to_what_is_owed_and_not_a_centime_more(self, order: Order) -> None:
        first = pay(order, 200, "R1")
        assert left(order) == order.open_amount == Decimal("133.33")
        pay(order, Decimal("133.33"), "R2")
        assert left(order) == 0
        with pytest.raises(RefundError, match=NOTHING_LEFT):
            pay(order, Decimal("0.01"), "R3")
        cancel_refund(first, by="amina")
        assert left(order) == 200
        with pytest.raises(RefundError) as caught:
            pay(order, Decimal("200.01"), "R3")
        assert str(caught.value) == "Only 200.00 can still be paid back, not 200.01."
        assert CustomerRefund.objects.count() == 2

    @pytest.mark.parametrize(
        ("by_hand", "error"), [(200, "133.33"), (400, "There is no more money")]
    )
    def test_a_refund_that_was_written_by_hand_counts(self, by_hand: int, error: str) -> None:
        order = sold()
        CustomerRefund.objects.create(order=order, amount=by_hand, reference="R0")
        with pytest.raises(RefundError, match=error):
            pay(order, 200)
        cancel_refund(CustomerRefund.objects.get(), by="amina")
        assert left(order) == Decimal("333.33")

    def test_an_order_that_was_read_before_is_read_again(self, order: Order) -> None:
        stale = Order.objects.get(pk=order.pk)
        pay(order)
        with pytest.raises(RefundError, match=NOTHING_LEFT):
            pay(stale, 200, "R2")

    @pytest.mark.parametrize("status", FINAL)
    def test_every_final_order_owes_what_was_paid_for_its_missing_cards(
        self, status: Status
    ) -> None:
        order = make_guide_order(status, sale_price=Decimal(550))
        owed = 550 * (5 - order.fulfilled_quantity)
        assert left(order) == owed
        if owed:
            pay(order, owed)
            assert left(order) == 0

    @pytest.mark.parametrize("status", [status for status in Status if status not in FINAL])
    def test_an_open_order_owes_nothing_yet(self, status: Status) -> None:
        order = make_guide_order(status, sale_price=Decimal(550))
        with pytest.raises(RefundError, match="The order is still open"):
            pay(order, 550)
        assert not CustomerRefund.objects.exists()

    def test_without_a_sale_amount_nothing_is_known_to_be_owed(self) -> None:
        with pytest.raises(RefundError, match="the order has no sale amount"):
            pay(make_guide_order(Status.REFUNDED), 550)

    def test_a_refund_stays_when_its_order_would_be_deleted(self, order: Order) -> None:
        pay(order)
        with pytest.raises(ProtectedError):
            order.delete()

    @given(
        owed=st.integers(1, 500_000),
        steps=st.lists(
            st.tuples(st.integers(1, 500_000), st.booleans()),
            max_size=6,
        ),
    )
    def test_whatever_is_paid_and_taken_back_the_sums_agree(
        self, owed: int, steps: list[tuple[int, bool]]
    ) -> None:
        with transaction.atomic():
            order = make_guide_order(Status.REFUNDED, sale_amount=Decimal(owed) / 100)
            used = 0
            for number, (centimes, is_taken_back) in enumerate(steps):
                try:
                    refund = pay(order, Decimal(centimes) / 100, f"R{number}")
                except RefundError:
                    assert centimes > owed - used
                    continue
                if is_taken_back:
                    cancel_refund(refund, by="amina")
                else:
                    used += centimes
                assert left(order) == Decimal(owed - used) / 100
            transaction.set_rollback(True)


class TestOnce:
    @pytest.mark.parametrize("amount", [200, Decimal("333.33")])
    def test_the_same_reference_pays_once_even_if_nothing_is_left(
        self, order: Order, amount: Any
    ) -> None:
        first = pay(order, amount, method="cash")
        with heard() as told:
            again = pay(order, Decimal(f"{amount:.2f}"), method="cash")
        assert (again, again.has_changed, told) == (first, False, [])
        assert left(order) == Decimal("333.33") - amount

    @pytest.mark.parametrize("other", [{"amount": 100}, {"method": "cash"}])
    def test_the_reference_of_another_refund_is_refused(self, other: dict[str, Any]) -> None:
        order = sold()
        pay(order, 200)
        with pytest.raises(
            RefundError, match=("R1 is already used for another refund of this order")
        ):
            pay(order, **{"amount": 200, **other})
        assert left(order) == Decimal("133.33")

    def test_the_reference_of_a_refund_that_was_taken_back_is_refused(self, order: Order) -> None:
        cancel_refund(pay(order, 200), by="amina")
        with pytest.raises(RefundError, match="R1 was cancelled"):
            pay(order, 200)
        assert left(order) == Decimal("333.33")

    @pytest.mark.parametrize("typed", ["R1 ", " R1", "R1\u00a0"])
    def test_spaces_around_a_reference_pay_nothing_twice(self, order: Order, typed: str) -> None:
        assert pay(order, 100, typed).reference == "R1"
        assert pay(order, 100).pk == pay(order, 100, typed).pk
        assert left(order) == Decimal("233.33")

    def test_references_differ_in_their_case_and_belong_to_their_order(self) -> None:
        order, other = sold(), sold(reference="cart-1043")
        assert len({pay(order, 100, "r1").pk, pay(order, 100).pk, pay(other, 100).pk}) == 3


class TestTakingBack:
    def test_it_is_owed_again_and_stays_on_record(self, order: Order) -> None:
        refund = pay(order)
        cancel_refund(refund, by="amina", reason="The transfer came back.")
        row = CustomerRefund.objects.get()
        assert (row.state, row.cancelled_by) == ("cancelled", "amina")
        assert row.cancel_reason == "The transfer came back."
        assert row.cancelled_at is not None
        assert left(order) == Decimal("333.33")

    def test_twice_gives_back_once(self, order: Order) -> None:
        pay(order, 100, "R1")
        refund = pay(order, 200, "R2")
        stale = CustomerRefund.objects.get(reference="R2")
        cancel_refund(refund, by="amina")
        assert not cancel_refund(stale, by="karim", reason="again").has_changed
        assert (stale.cancelled_by, stale.cancel_reason) == ("amina", "")
        assert left(order) == Decimal("233.33")


class TestOrderedAgain:
    def test_nothing_is_paid_back_once_the_missing_cards_are_ordered_again(self) -> None:
        order = sold()
        new = reorder_missing(order, by="amina")
        with pytest.raises(RefundError, match=REORDERED):
            pay(order)
        new.move(Status.PLACING, source="staff")
        new.move(Status.REJECTED, source="staff")
        pay(new)
        assert left(new) == 0

    def test_what_was_paid_for_late_cards_is_not_paid_back_either(self) -> None:
        order = make_guide_order(Status.PARTIALLY_FILLED, sale_price=Decimal(550))
        store_cards([Arrival(order, CARDS[:4])])
        reorder_missing(order, by="amina")
        with pytest.raises(RefundError, match=REORDERED):
            pay(order, 550)

    def test_nothing_is_ordered_again_once_a_part_is_paid_back(self) -> None:
        order = sold()
        refund = pay(order, 1)
        with pytest.raises(ReorderError, match="has already been paid back"):
            reorder_missing(order, by="amina")
        cancel_refund(refund, by="amina")
        assert reorder_missing(order, by="amina").sale_amount == Decimal("333.33")


class TestInvalid:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *product(["amount"], ["200", 200.0, True, None, 0, -1, 10**13]),
            *product(["amount"], map(Decimal, ("0.001", "333.333", "NaN", "sNaN", "inf", "1E+30"))),
            *(("reference", text) for text in ("", "   ", "x" * 101, "a\nb", "a\u202eb", 7, None)),
            *(("method", text) for text in ("x" * 51, "a\tb", None)),
            *(("comment", text) for text in ("x" * 501, "a\0b", None)),
            *(("by", text) for text in ("x" * 255, "a\u2066b", 7)),
        ],
    )
    def test_what_is_no_amount_or_a_text_too_long_or_with_unseen_characters_records_nothing(
        self, name: str, value: Any
    ) -> None:
        order = sold()
        with pytest.raises(ValidationError) as caught:
            pay(order, **{"amount": 200, name: value})
        assert list(caught.value.message_dict) == [name]
        assert left(order) == Decimal("333.33")

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("by", {"by": "x" * 255}),
            ("by", {"by": None}),
            ("reason", {"by": "a", "reason": "x" * 201}),
        ],
    )
    def test_a_refund_is_not_taken_back_with_invalid_texts(
        self, name: str, values: dict[str, Any]
    ) -> None:
        refund = pay(sold())
        with pytest.raises(ValidationError) as caught:
            cancel_refund(refund, **values)
        assert list(caught.value.message_dict) == [name]
        assert CustomerRefund.objects.get().state == "done"

    def test_whole_numbers_and_decimals_are_amounts(self, order: Order) -> None:
        assert str(pay(order, 200, "R1").amount) == "200.00"
        assert str(pay(order, Decimal("133.3"), "R2").amount) == "133.30"


class TestErrors:
    def error(self) -> RefundError:
        order = make_guide_order(Status.REFUNDED, sale_amount=Decimal("1234.5"))
        with pytest.raises(RefundError) as caught:
            pay(order, Decimal(5000))
        return caught.value

    def test_the_amounts_have_two_decimals_or_are_as_the_reader_writes_them_in_any_process(
        self,
    ) -> None:
        error = self.error()
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert str(one) == "Only 1234.50 can still be paid back, not 5000.00."
            shown = one.shown(lambda part: f"<{part}>")
            assert shown == "Only <1234.50> can still be paid back, not <5000.00>."

    def test_a_reference_with_a_percent_sign_is_told_as_it_is(self, order: Order) -> None:
        pay(order, 100, "10%d")
        with pytest.raises(RefundError, match="10%d is already used"):
            pay(order, 200, "10%d")

    @pytest.mark.parametrize("language", ["en", "fr", "ar"])
    def test_it_tells_the_amounts_in_each_language(self, language: str) -> None:
        with translation.override(language):
            error = self.error()
        assert re.findall(r"[0-9]+\.[0-9]+", str(error)) == ["1234.50", "5000.00"]


class TestReceivers:
    @pytest.mark.django_db(transaction=True)
    def test_they_are_told_of_each_change_after_its_commit_and_of_none_without_one(
        self, order: Order
    ) -> None:
        with heard() as told:
            with transaction.atomic():
                pay(order)
                transaction.set_rollback(True)
            assert left(order) == Decimal("333.33")
            with transaction.atomic():
                refund = pay(order)
                assert told == []
            cancel_refund(refund, by="amina")
            cancel_refund(refund, by="amina")
        assert told == [("R1", "done"), ("R1", "cancelled")]

    @pytest.mark.django_db(transaction=True)
    def test_one_that_fails_disturbs_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(**_named: Any) -> None:
            raise OSError("no mail today")

        customer_refund_changed.connect(fail)
        try:
            with heard() as told, caplog.at_level(logging.INFO):
                assert pay(order := sold()).has_changed
        finally:
            customer_refund_changed.disconnect(fail)
        assert told == [("R1", "done")]
        assert left(order) == 0
        assert "no mail today" in caplog.text
        assert "Refund R1 of order cart-1042 is done." in caplog.messages

    @pytest.mark.django_db(transaction=True)
    def test_a_log_that_fails_disturbs_nothing(self) -> None:
        def fail(_record: logging.LogRecord) -> bool:
            raise OSError("the disk is full")

        order, log = sold(), logging.getLogger("giftcards.settlement")
        log.addFilter(fail)
        try:
            assert pay(order).has_changed
        finally:
            log.removeFilter(fail)
        assert left(order) == 0


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
class TestAtOnce:
    def test_of_many_who_pay_the_last_part_one_wins_and_the_others_are_told(self) -> None:
        order = sold()
        pay(order, 200, "R0")
        references = [f"R{number}" for number in range(1, 7)]
        results = in_threads(6, lambda: pay(order, Decimal("133.33"), references.pop()))
        refused = [result for result in results if isinstance(result, RefundError)]
        assert {str(error) for error in refused} == {NOTHING_LEFT}
        assert len(refused) == 5
        assert left(order) == 0

    def test_of_many_with_one_reference_all_get_the_same_refund(self, order: Order) -> None:
        results = in_threads(6, lambda: pay(order, 200))
        assert {result.pk for result in results} == {CustomerRefund.objects.get().pk}
        assert [result.has_changed for result in results].count(True) == 1
        assert left(order) == Decimal("133.33")

    def test_of_many_who_take_one_back_one_gives_it_back(self, order: Order) -> None:
        pay(order, 100, "R0")
        key = pay(order, 200).pk
        results = in_threads(
            6, lambda: cancel_refund(CustomerRefund.objects.get(pk=key), by="amina")
        )
        assert [result.has_changed for result in results].count(True) == 1
        assert left(order) == Decimal("233.33")

    def test_paying_back_and_ordering_again_exclude_each_other(self, order: Order) -> None:
        ways = [
            *(lambda: reorder_missing(order, by="amina") for _person in range(2)),
            *(lambda: pay(order) for _person in range(2)),
        ]
        results = in_threads(4, lambda: ways.pop()())
        is_ordered = Order.objects.filter(repeats=order).exists()
        refused = RefundError if is_ordered else ReorderError
        assert [type(result) for result in results].count(refused) == 2
        assert CustomerRefund.objects.exists() != is_ordered

    def test_an_overpayment_by_hand_is_refused_by_the_database(self, order: Order) -> None:
        row = Order.objects.filter(pk=order.pk)
        for wrong in (
            {"open_amount": F("open_amount") - 334, "paid_back_amount": 334},
            {"paid_back_amount": -1},
        ):
            with pytest.raises(IntegrityError), transaction.atomic():
                row.update(**wrong)
        with pytest.raises(IntegrityError), transaction.atomic():
            CustomerRefund.objects.create(order=order, amount=-1, reference="R1")
        assert left(order) == Decimal("333.33")
