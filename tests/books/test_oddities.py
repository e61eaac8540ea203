"""With any kind of provider ledger, the books close or the gap is reported."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.books.models import CHARGE, LedgerEntry
from giftcards.books.summary import Summary, ledger_summary
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import sweep
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.rules.times import day_of
from giftcards.simulator import Simulator
from tests.books.wire import read
from tests.laws import examples
from tests.stage import buy, refill_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

# Oddities that change how entries look, or add entries. No entry is missing.
LOOKS = ["signed", "unsigned", "repeated", "foreign"]


def begin(simulator: Simulator) -> None:
    """Start a new shop and a new account for the next example."""
    for model in (LedgerEntry, Card, StatusChange, Order, ProviderState):
        model.objects.all().delete()
    simulator.reset()
    refill_budget()


def trade(simulator: Simulator, *lines: tuple[str, int]) -> None:
    """Buy these types and quantities, and follow the orders to the end."""
    with Gateway() as gateway:
        for type_id, quantity in lines:
            buy(gateway, type_id=type_id, quantity=quantity)
        sweep(gateway)
    refill_budget()


def total() -> Summary:
    """Return the summary of all entries."""
    first = LedgerEntry.objects.order_by("time").first()
    assert first is not None
    return ledger_summary(day_of(first.time), day_of(timezone.now()))


def check_matches() -> None:
    """Check that no order has more than one guess of a type, and that charges fit their orders."""
    guessed = LedgerEntry.objects.filter(is_guess=True).values_list("order", "type")
    assert all(count == 1 for count in Counter(guessed).values())
    for entry in LedgerEntry.objects.filter(type=CHARGE, order__isnull=False):
        assert entry.order is not None
        assert -entry.amount == entry.order.quantity * entry.order.price_per_card


def test_a_shop_with_books_in_order_has_nothing_to_explain(simulator: Simulator) -> None:
    trade(simulator, ("type_001", 2), ("TEST_PARTIAL", 5), ("TEST_REFUND", 3))
    read()
    found = total()
    assert (found.entries, found.matched, found.guessed) == (6, 5, 0)
    assert (found.opening_balance, found.closing_balance) == (0, simulator.balance)
    assert (found.gap, len(found.breaks)) == (0, 0)
    assert (found.orders, found.refunds) == (-4900, 2940)
    for discrepancies in (
        found.promised_not_credited,
        found.credited_not_promised,
        found.charged_unknown,
    ):
        assert discrepancies.count == 0
    credited = Order.objects.order_by("pk").values_list("is_credited", flat=True)
    assert list(credited) == [None, True, True]


def test_a_credit_that_is_never_shown_is_a_gap_and_one_never_made_is_none(
    simulator: Simulator,
) -> None:
    simulator.ledger_oddities = ["missing"]
    trade(simulator, ("TEST_REFUND", 2))
    simulator.ledger_oddities = []
    trade(simulator, ("type_001", 1))
    simulator.ledger_oddities = ["uncredited"]
    trade(simulator, ("TEST_REFUND", 3))
    simulator.ledger_oddities = []
    simulator.add_transaction("DEPOSIT", 100)
    read()
    found = total()
    assert (found.gap, len(found.breaks)) == (980, 1)


LINES = st.lists(
    st.tuples(st.sampled_from(["type_001", "TEST_PARTIAL", "TEST_REFUND"]), st.integers(1, 4)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(
        st.tuples(LINES, st.sets(st.sampled_from([*LOOKS, "missing"]))), min_size=1, max_size=3
    ),
    in_parts=st.booleans(),
)
def test_the_sum_is_the_change_of_the_balance_or_the_gap_is_named(
    simulator: Simulator, days: list[tuple[list[tuple[str, int]], set[str]]], in_parts: bool
) -> None:
    begin(simulator)
    for lines, oddities in days:
        simulator.ledger_oddities = oddities
        trade(simulator, *lines)
        while not read(should_continue=lambda: not in_parts).is_whole:
            refill_budget()
        refill_budget()
        check_matches()
    simulator.ledger_oddities = []
    simulator.add_transaction("DEPOSIT", 1)
    read()
    found = total()
    shown = [entry for entry in simulator.transactions if entry.shown_at is not None]
    assert (found.entries, found.total) == (len(shown), sum(entry.change for entry in shown))
    assert found.closing_balance == simulator.balance
    assert found.gap == simulator.balance - found.total
    named = {entry.objid for entry in shown} & set(simulator.orders)
    left = LedgerEntry.objects.filter(order=None).values_list("objid", flat=True)
    assert not named & set(left)


@settings(max_examples=examples(10), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, oddities=st.sets(st.sampled_from([*LOOKS, "bare"])))
def test_entries_that_name_no_order_are_guessed_or_left_open(
    simulator: Simulator, lines: list[tuple[str, int]], oddities: set[str]
) -> None:
    begin(simulator)
    simulator.ledger_oddities = {*oddities, "no-objid"}
    trade(simulator, *lines)
    for _run in range(2):
        read()
        refill_budget()
        check_matches()
        # Equal rows without an ID are stored as often as the provider shows them.
        assert LedgerEntry.objects.count() == len(simulator.transactions)
        sums = LedgerEntry.objects.values_list("amount", flat=True)
        assert sum(sums, Decimal(0)) == simulator.balance
    # Refunds that cannot be told apart are not reported as missing.
    assert not Order.objects.filter(is_credited=False).exists()


def test_late_entries_are_found_and_close_the_books(simulator: Simulator) -> None:
    simulator.ledger_oddities = ["late"]
    simulator.ledger_delay = 3600
    trade(simulator, ("TEST_PARTIAL", 4), ("type_001", 1))
    read()
    assert LedgerEntry.objects.count() < len(simulator.transactions)
    ahead = simulator.clock
    simulator.clock = lambda: ahead() + 7200
    reading = read()
    assert sum(reading.changed_days.values()) > 0
    assert total().gap == 0
    assert LedgerEntry.objects.filter(order=None, type=CHARGE).count() == 0
