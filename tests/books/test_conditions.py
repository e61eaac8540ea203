"""Findings of the nightly reading: monitoring reports them until the missing entry appears."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.books.models import LedgerEntry, MonthClosing
from giftcards.books.months import days_before_in_open_months
from giftcards.books.reading import read_if_due
from giftcards.models import Order, ProviderState
from giftcards.rules.problems import Problem
from giftcards.rules.times import begin_of, day_of, today
from giftcards.statuses import Status
from tests.books.wire import (
    NOON,
    Books,
    at,
    ledger_state,
    note_ledger,
    ordered,
    partly_delivered,
)
from tests.builders import problems
from tests.conftest import Call
from tests.pages import START, listed, read, tiles
from tests.stage import ago, refill_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

BALANCES = ("oldBalance", "newBalance")
LACKING = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})


@pytest.fixture
def books(books: Books) -> Books:
    """A ledger with a known balance of 10,000 DA and an order of 2,450 DA without discrepancies."""
    ordered(Status.HANDLING, reference="web-1", provider_order_id="ab12")
    book(books, "DEPOSIT", 10_000, -60)
    book(books, "ORDER", 2450, 1, objid="ab12")
    return books


def book(books: Books, kind: str, amount: int, seconds: float, **values: str) -> None:
    """Book an entry whose balances continue those of the entry before it."""
    before = books.rows[-1][BALANCES[1]] if books.rows else 0
    after = before + (-amount if kind == "ORDER" else amount)
    balances = dict(zip(BALANCES, (before, after), strict=True))
    books.book(kind, amount, at(seconds), name=f"e{len(books.rows)}", **values, **balances)


def partly_delivered_and_charged(books: Books) -> Order:
    book(books, "ORDER", 2450, 2, objid="cd34")
    return partly_delivered(reference="web-2", provider_order_id="cd34")


def let_a_night_pass() -> None:
    ProviderState.objects.current()
    note_ledger(due_at=ago(1))
    refill_budget()
    read_if_due(lambda: True)


@pytest.fixture
def told(call: Call) -> Callable[[], str]:
    def told() -> str:
        out, err, code = call(
            "giftcards_status", "--fail-on", "credits_missing,ledger_unmatched,ledger_gap", "-v0"
        )
        assert (out, code) == ("", 1 if err else 0)
        return err.rstrip()

    return told


def test_a_missing_refund_is_told_and_needs_a_person_until_it_comes(
    books: Books, told: Callable[[], str]
) -> None:
    let_a_night_pass()
    assert told() == ""
    assert Order.objects.needing_attention().count() == 0
    order = partly_delivered_and_charged(books)
    for credited in (0, 490):
        if credited:
            book(books, "REFUND-ORDER", credited, 20, objid="cd34")
        let_a_night_pass()
        expected = {"expected": "980.00", "amount": f"{credited}.00"}
        assert problems(order) == [Problem("credit_differs", expected)]
        assert told() == f"1 refund promised but not credited, {980 - credited}.00 DZD."
    book(books, "REFUND-ORDER", 490, 30, objid="cd34")
    let_a_night_pass()
    assert problems(order) == []
    assert told() == ""


def test_a_missing_refund_that_was_acknowledged_is_told_no_more(
    books: Books, told: Callable[[], str]
) -> None:
    order = partly_delivered_and_charged(books)
    let_a_night_pass()
    order.refresh_from_db()
    assert order.acknowledge(LACKING, by="amina")
    for _night in range(2):
        assert told() == ""
        assert [each.get("acknowledged_by") for each in order.problems] == ["amina"]
        let_a_night_pass()
        order.refresh_from_db()
        assert order.is_credited is False
    # Another problem of the order is not reported as a missing refund.
    Order.objects.filter(pk=order.pk).update(**order.problem_columns(new=[Problem("watch_ended")]))
    assert told() == ""


def test_too_much_credited_needs_a_person_and_is_not_missing(
    books: Books, told: Callable[[], str]
) -> None:
    order = partly_delivered_and_charged(books)
    book(books, "REFUND-ORDER", 1470, 20, objid="cd34")
    let_a_night_pass()
    assert problems(order) == [
        Problem("credit_differs", {"expected": "980.00", "amount": "1470.00"})
    ]
    assert told() == ""


@pytest.mark.parametrize("name", ["", "ff00"])
def test_a_charge_of_no_order_is_told_until_its_order_is_found(
    books: Books, told: Callable[[], str], name: str
) -> None:
    book(books, "ORDER", 490, 60, objid=name)
    let_a_night_pass()
    assert told() == "1 charge without a matching order, 490.00 DZD."
    ordered(Status.HANDLING, quantity=1, provider_order_id="ff00", sent_at=at(59))
    let_a_night_pass()
    assert told() == ""


def test_a_refund_of_no_order_is_told_once_its_order_cannot_settle_any_more(
    books: Books, told: Callable[[], str]
) -> None:
    book(books, "REFUND-ORDER", 490, 60, objid="ff00")
    let_a_night_pass()
    assert told() == "1 refund without a matching order, 490.00 DZD."
    note_ledger(read_until=at(60) + timedelta(hours=11))
    assert told() == ""


def test_what_nobody_can_acknowledge_is_told_for_a_week(
    books: Books, told: Callable[[], str]
) -> None:
    book(books, "ORDER", 490, 60)
    let_a_night_pass()
    LedgerEntry.objects.filter(order=None, type="ORDER").update(time=ago(5.9 * 86_400))
    assert told() != ""
    LedgerEntry.objects.filter(order=None, type="ORDER").update(time=ago(7.1 * 86_400))
    assert told() == ""


def test_a_gap_is_told_until_the_entry_comes(books: Books, told: Callable[[], str]) -> None:
    book(books, "FLEXY", -100, 60)
    book(books, "DEPOSIT", 20, 90)
    late = books.rows.pop(-2)
    late["amount"] = abs(late["amount"])
    let_a_night_pass()
    assert told() == "The ledger does not explain the balance: the gap is -100.00 DZD."
    books.rows.append(late)
    let_a_night_pass()
    assert told() == ""


def test_entries_missing_on_two_days_are_told_if_they_make_up_for_each_other(
    books: Books, told: Callable[[], str]
) -> None:
    # 100 came in, and went out again before the entries of the fixture, which begin with a balance
    # of 0.
    for days, before in ((2, 20), (1, 110)):
        LedgerEntry.objects.create(
            provider_id=f"old{days}",
            type="FLEXY",
            amount=Decimal(-10),
            time=NOON - timedelta(days=days),
            balance_before=before,
            balance_after=before - 10,
        )
    let_a_night_pass()
    assert told() == "The ledger does not explain the balance: the gap is 0.00 DZD."
    assert ledger_state().breaks == 2


def test_a_gap_of_today_is_told_the_night_after(books: Books, told: Callable[[], str]) -> None:
    let_a_night_pass()
    LedgerEntry.objects.create(
        provider_id="odd",
        type="DEPOSIT",
        amount=Decimal(1),
        time=begin_of(today()),
        balance_before=5,
        balance_after=6,
    )
    let_a_night_pass()
    assert told() == ""


@pytest.mark.parametrize(
    ("closed", "first"),
    [
        ([], date(2026, 9, 1)),
        ([date(2026, 5, 1)], date(2026, 9, 1)),
        ([date(2026, 9, 1)], date(2026, 10, 1)),
        ([date(2026, 10, 1), date(2026, 9, 1)], date(2026, 11, 1)),
        ([date(2026, 11, 1)], date(2026, 12, 1)),
    ],
)
def test_the_months_that_are_not_closed_are_the_last_three_at_most(
    closed: list[date], first: date
) -> None:
    for month in closed:
        MonthClosing.objects.create(month=month, number=1, closed_by="amina", figures={})
    found = days_before_in_open_months(date(2026, 11, 24), MonthClosing.objects.last_month())
    assert found == (first, date(2026, 11, 23))


def test_an_older_charge_of_no_order_is_on_the_start_page_until_its_month_is_closed(
    boss: Client,
) -> None:
    note_ledger(read_until=timezone.now())
    entry = {"type": "ORDER", "amount": -490}
    for days in (1, 8):
        LedgerEntry.objects.create(provider_id=f"{days}", time=ago(days * 86_400), **entry)
    title = "1 older charge in an open month without a matching order"
    _shown, address = tiles(read(boss.get(START)))[title]
    assert listed(boss, address) == 1
    assert listed(boss, f"{address}&type=ORDER") == 1
    month = day_of(ago(8 * 86_400)).replace(day=1)
    MonthClosing.objects.create(month=month, number=1, closed_by="amina", figures={})
    assert title not in tiles(read(boss.get(START)))
