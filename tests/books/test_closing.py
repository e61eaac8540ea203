"""Closing a month: its figures, its steps, its records, and what is noticed afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from django.utils import timezone

from giftcards.books.models import MonthClosing
from giftcards.books.months import (
    CHECKED,
    FIGURES,
    Month,
    StepState,
    as_read,
    as_stored,
    check_closed_month,
    close_month,
    fixed_figures,
    last_finished_month,
    month_figures,
)
from giftcards.books.reports import By, report, settled_between
from giftcards.books.summary import ledger_summary
from giftcards.fulfilment import record_sale_amount, reorder_missing
from giftcards.models import Order
from giftcards.settlement import record_refund
from tests.books.november import NOON, NOVEMBER, enter, partly_delivered
from tests.books.random_shop import add_books
from tests.books.wire import note_ledger
from tests.conftest import Call
from tests.stage import in_threads
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

FIXED = {figure.name for figure in FIGURES if figure.is_fixed}


@pytest.fixture(autouse=True)
def _december(wall: Wall) -> None:
    """It is 3 December 2026, noon in UTC; the ledger was read until then."""
    wall.step((datetime(2026, 12, 3, 12, tzinfo=UTC) - timezone.now()).total_seconds())
    note_ledger(read_until=timezone.now())


def november() -> Month:
    return Month.now(NOVEMBER)


def states() -> dict[str, str]:
    return {step.name: step.state.value for step in november().steps}


def close(**options: Any) -> MonthClosing:
    closing = close_month(november(), **{"by": "amina", "note": "Told by phone.", **options})
    assert closing is not None
    return closing


def changed() -> list[str]:
    return [each.figure.name for each in november().differences]


# Figures.


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_those_of_the_report_and_of_the_ledger(seed: int) -> None:
    random = Random(seed)
    add_books(40, random)
    balance = Decimal(0)
    for number in range(20):
        amount = Decimal(random.randint(-500, 500))
        enter(
            random.choice(["ORDER", "REFUND-ORDER", "DEPOSIT", "FLEXY"]),
            amount,
            time=NOON + timedelta(hours=number * 40 - 300),
            balance_before=balance,
            balance_after=(balance := balance + amount),
        )
    for month in (date(2026, 10, 1), NOVEMBER):
        last = (month + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        figures = month_figures(month)
        total, ledger = report(month, last, By.MONTH).total, ledger_summary(month, last)
        assert total.orders > 5
        of_report = {
            "orders", "rejected", "cards_ordered", "cards_delivered", "ordered_amount",
            "charged_amount", "refunded_amount", "paid_amount", "owed_amount", "unpaid",
            "customer_paid_back_amount", "open_amount",
        }  # fmt: skip
        assert {name: figures[name] for name in of_report} == {
            name: getattr(total, name) for name in of_report
        }
        of_ledger = {
            "entries": ledger.entries,
            "ledger_orders": ledger.orders,
            "ledger_refunds": ledger.refunds,
            "ledger_payments": ledger.payments,
            "top_ups": ledger.top_ups,
            "other_services": ledger.other_services,
            "opening_balance": ledger.opening_balance,
            "closing_balance": ledger.closing_balance,
            "gap": ledger.gap,
            "breaks": len(ledger.breaks),
        }
        assert {name: figures[name] for name in of_ledger} == of_ledger
        orders = settled_between(Order.objects.all(), month, last)
        moved = [order.reordered_amount or 0 for order in orders]
        assert figures["sale_amount"] == total.paid_amount + sum(moved)
        assert figures["owed_at_first"] == total.owed_amount + sum(moved)
        assert as_read(as_stored(figures)) == figures
        assert fixed_figures(month) == {name: figures[name] for name in FIXED}
        assert list(figures) == [figure.name for figure in FIGURES]


def test_the_ledger_of_a_month_is_read_once_however_many_days_it_has(
    django_assert_max_num_queries: Any,
) -> None:
    for day in range(28):
        at = NOVEMBER + timedelta(days=day)
        time = datetime(at.year, at.month, at.day, 12, tzinfo=UTC)
        enter("ORDER", -2450, order=partly_delivered(finalized_at=time), time=time)
    with django_assert_max_num_queries(14):
        assert november().figures["entries"] == 28


# Steps.


def test_a_month_without_anything_needs_nothing_but_to_be_read() -> None:
    nothing = dict.fromkeys(("explained", "sales", "owed"), "nothing")
    assert states() == {"read": "done", **nothing}


@pytest.mark.parametrize(
    ("read_until", "state"),
    [
        (None, "todo"),
        # The first moment of December in Algiers, and the time from which no entry can be late.
        ("2026-11-30T23:00:00+00:00", "todo"),
        ("2026-11-30T23:14:59+00:00", "todo"),
        ("2026-11-30T23:15:00+00:00", "done"),
    ],
)
def test_the_ledger_is_read_to_the_end_once_nothing_is_late_any_more(
    read_until: str | None, state: str, settings: Any
) -> None:
    settings.TIME_ZONE = "Africa/Algiers"
    note_ledger(read_until=read_until and datetime.fromisoformat(read_until))
    assert states()["read"] == state


def add_gap() -> None:
    enter("DEPOSIT", 10, balance_before=0, balance_after=10)
    enter("FLEXY", -1, balance_before=9, balance_after=8, time=NOON + timedelta(hours=1))


def add_compensated_breaks() -> None:
    for day, before in enumerate([1000, 1090, 980]):
        time = NOON + timedelta(days=day)
        enter("FLEXY", -10, balance_before=before, balance_after=before - 10, time=time)


@pytest.mark.parametrize(
    ("plant", "step", "figure", "value"),
    [
        (add_gap, "explained", "gap", Decimal(-1)),
        (add_compensated_breaks, "explained", "breaks", 2),
        (lambda: enter("DEPOSIT", 1), "explained", "gap", None),
        (lambda: enter("ORDER", -490), "explained", "charged_unknown", 1),
        (lambda: enter("REFUND-ORDER", 490), "explained", "credited_unknown", 1),
        (lambda: partly_delivered(is_credited=False), "explained", "not_credited", 1),
        (lambda: enter("ORDER", -2451, order=partly_delivered()), "explained", "charged_unfit", 1),
        (
            lambda: enter("REFUND-ORDER", 981, order=partly_delivered(is_credited=False)),
            "explained",
            "credited_unfit",
            1,
        ),
        (
            lambda: (enter("DEPOSIT", 1, time=NOON - timedelta(days=1)), partly_delivered()),
            "explained",
            "never_charged",
            1,
        ),
        (lambda: partly_delivered(sale_price=None), "sales", "unpaid", 1),
        (partly_delivered, "owed", "owing", 1),
    ],
)
def test_what_is_left_keeps_its_step_open(
    plant: Callable[[], object], step: str, figure: str, value: Any
) -> None:
    plant()
    assert november().figures[figure] == value
    assert states()[step] == "todo"


def test_what_was_owed_and_is_paid_is_done() -> None:
    record_refund(partly_delivered(), amount=1100, reference="R", by="amina")
    assert {states()[name] for name in ("sales", "owed")} == {"done"}


# Closing.


def test_a_closing_records_who_and_the_figures_of_that_moment() -> None:
    partly_delivered()
    month = november()
    closing = close_month(month, by="amina", note="  They are paid in cash.\r\nOn Monday. ")
    assert closing is not None
    stored = MonthClosing.objects.get()
    assert (stored.month, stored.number, stored.closed_by) == (NOVEMBER, 1, "amina")
    assert stored.note == "They are paid in cash.\nOn Monday."
    assert stored.open_steps == ["owed"]
    assert as_read(stored.figures) == month.figures
    assert november().closing == stored
    assert changed() == []


def test_without_a_reason_nothing_is_closed_while_something_is_to_do() -> None:
    partly_delivered()
    with pytest.raises(ValueError, match="Some steps are not done"):
        close_month(november(), by="amina", note=" ")
    assert not MonthClosing.objects.exists()


@pytest.mark.parametrize("zone", ["UTC", "Africa/Algiers"])
def test_a_month_is_over_once_it_is_in_the_zone_of_the_site(
    zone: str, settings: Any, wall: Wall
) -> None:
    settings.TIME_ZONE = zone
    wall.step((datetime(2026, 11, 30, 23, 30, tzinfo=UTC) - timezone.now()).total_seconds())
    is_over = zone != "UTC"
    assert november().is_over is is_over
    assert last_finished_month() == (NOVEMBER if is_over else date(2026, 10, 1))
    if not is_over:
        with pytest.raises(ValueError, match="not over"):
            close_month(november(), by="amina")


def test_closing_again_keeps_the_record_before() -> None:
    first = close()
    enter("FLEXY", -5)
    assert changed() == ["entries", "other_services"]
    second = close()
    assert list(MonthClosing.objects.of(NOVEMBER)) == [second, first]
    assert (first.number, second.number) == (1, 2)
    assert changed() == []


def test_of_two_who_close_what_both_have_seen_the_second_is_told() -> None:
    seen, also_seen = november(), november()
    assert close_month(seen, by="amina") is not None
    assert close_month(also_seen, by="samir") is None
    assert MonthClosing.objects.get().closed_by == "amina"


@pytest.mark.django_db(transaction=True)
def test_of_two_who_close_at_once_one_is_first(shared_database: str) -> None:
    seen = november()
    found = in_threads(2, lambda: close_month(seen, by="amina"))
    assert sorted(closing is None for closing in found) == [False, True]
    assert MonthClosing.objects.count() == 1


# Changes after the closing.


def read_again() -> None:
    """Record the end of a reading, and run the checks of closed months that follow it."""
    note_ledger(read_until=timezone.now())
    for _tick in range(CHECKED + 1):
        check_closed_month(lambda: True)


def test_paying_and_ordering_again_is_the_business_of_a_later_month() -> None:
    owed, again = (partly_delivered(reference=f"web-{number}") for number in range(2))
    lacking = partly_delivered(reference="web-3", is_credited=False)
    close()
    record_refund(owed, amount=1100, reference="S", by="amina")
    reorder_missing(again, by="amina")
    Order.objects.filter(pk=lacking.pk).update(is_credited=True)
    # A refund that the provider books in December.
    enter("REFUND-ORDER", 980, order=lacking, time=NOON + timedelta(days=17))
    assert changed() == []
    read_again()
    assert not MonthClosing.objects.get().has_changed


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        (
            lambda order: record_sale_amount(order, 3000, by="amina"),
            {"sale_amount", "owed_at_first", "unpaid"},
        ),
        (lambda _order: enter("ORDER", -490), {"entries", "ledger_orders"}),
        (
            lambda _order: partly_delivered(reference="late"),
            {"orders", "cards_ordered", "cards_delivered", "ordered_amount", "charged_amount"}
            | {"refunded_amount", "sale_amount", "owed_at_first"},
        ),
        (
            lambda order: Order.objects.filter(pk=order.pk).update(fulfilled_amount=1960),
            {"charged_amount"},
        ),
    ],
)
def test_what_must_not_change_is_told_until_the_month_is_closed_again(
    change: Callable[[Order], object], figures: set[str], call: Call
) -> None:
    order = partly_delivered(sale_price=None)
    close()
    read_again()
    assert told(call) == ""
    change(order)
    assert set(changed()) == figures
    assert told(call) == ""
    read_again()
    assert told(call) == "1 closed month has changed."
    close()
    assert told(call) == ""


def told(call: Call) -> str:
    _out, err, code = call("giftcards_status", "--fail-on", "closed_month_changed", "-v0")
    assert code == (1 if err else 0)
    return err.rstrip()


def test_a_change_that_is_taken_back_ends_by_the_next_reading(call: Call) -> None:
    close()
    entry = enter("FLEXY", -5)
    read_again()
    assert told(call)
    entry.delete()
    read_again()
    assert told(call) == ""


def test_a_month_is_compared_once_after_each_reading_and_one_in_a_tick(
    django_assert_num_queries: Any,
) -> None:
    months = [date(2026, month, 1) for month in (8, 9, 10, 11)]
    for month in months:
        assert close_month(Month.now(month), by="amina")
    MonthClosing.objects.update(checked_at=timezone.now() - timedelta(days=1))
    note_ledger(read_until=timezone.now())
    looked_at = []
    for _tick in range(5):
        check_closed_month(lambda: True)
        rows = MonthClosing.objects.filter(checked_at__gt=timezone.now() - timedelta(hours=1))
        looked_at.append(rows.count())
    assert looked_at == [1, 2, 3, 3, 3]
    assert MonthClosing.objects.of(months[0]).get().checked_at < timezone.now() - timedelta(hours=1)
    with django_assert_num_queries(2):
        check_closed_month(lambda: True)


def test_a_clock_that_was_set_back_stops_no_comparison(wall: Wall, call: Call) -> None:
    close()
    enter("FLEXY", -5)
    wall.step(-86_400)
    read_again()
    assert told(call)


def test_before_the_first_reading_nothing_is_compared() -> None:
    note_ledger(read_until=None)
    close()
    check_closed_month(lambda: True)
    assert not MonthClosing.objects.get().has_changed
    assert StepState.TO_DO in {step.state for step in november().steps}
