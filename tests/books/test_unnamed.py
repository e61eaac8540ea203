"""A ledger without references to orders: if all entries are correct, none is unexplained."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import responses
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from giftcards.books.models import LedgerEntry
from giftcards.books.summary import ledger_summary
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import sweep
from giftcards.models import Order, ProviderState
from giftcards.rules.times import begin_of, day_of
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.books.wire import NOON, Books, read
from tests.builders import build_guide_order
from tests.conftest import Call
from tests.laws import examples
from tests.stage import buy, refill_budget
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

HOUR = 3600.0

Trade = Callable[..., None]


@pytest.fixture
def trade(simulator: Simulator, wall: Wall) -> Trade:
    """Return a function that buys equal orders at random moments and follows them to the end."""
    wall.drive(simulator)
    simulator.ledger_oddities = ["no-objid"]
    clock = simulator.clock

    def run(count: int, an_hour: int, *, ahead: float = 0, **line: Any) -> None:
        simulator.clock = lambda: clock() + ahead
        chance = random.Random(7)
        with Gateway() as gateway:
            for _order in range(count):
                wall.let_pass(chance.expovariate(an_hour / HOUR))
                refill_budget()
                buy(gateway, **{"type_id": "type_001", "quantity": 1, **line})
            sweep(gateway)
        wall.let_pass(HOUR)
        refill_budget()

    return run


FINDINGS = (
    "promised_not_credited",
    "credited_not_promised",
    "charged_unknown",
    "ordered_not_charged",
)


@pytest.mark.parametrize(("an_hour", "ahead"), [(100, 0), (300, 0), (300, 3), (300, 30), (300, 90)])
def test_equal_honest_orders_leave_nothing_unknown_whatever_the_provider_clock_says(
    call: Call, trade: Trade, an_hour: int, ahead: float
) -> None:
    trade(40, an_hour, ahead=ahead)
    found = json.loads(call("giftcards_ledger", "--json").out)
    assert found["guessed"] == found["matched"] == 40
    assert {name: found[name] for name in FINDINGS} == dict.fromkeys(FINDINGS, 0)
    assert found["gap"] == "0.00"


def found_after(call: Call) -> dict[str, tuple[int, str]]:
    """Run the command, and return the count and amount of each finding."""
    found = json.loads(call("giftcards_ledger", "--json").out)
    for name in FINDINGS:
        assert len(found[f"{name}_references"]) == min(found[name], 20)
    return {name: (found[name], found[f"{name}_amount"]) for name in FINDINGS if found[name]}


def of_type(simulator: Simulator, kind: str) -> list[str]:
    return [entry.id for entry in simulator.transactions if entry.kind == kind]


@pytest.mark.parametrize("ahead", [0, 90])
@pytest.mark.parametrize(("lacking", "foreign"), [(3, 0), (0, 3), (1, 0), (0, 1)])
def test_so_many_charges_as_lack_or_are_foreign_are_named_and_no_more(
    call: Call, trade: Trade, simulator: Simulator, ahead: float, lacking: int, foreign: int
) -> None:
    trade(15, 300, ahead=ahead)
    for entry in of_type(simulator, "ORDER")[4 : 4 + lacking]:
        simulator.hide(entry)
    for _entry in range(foreign):
        simulator.add_transaction("ORDER", 490)
    trade(15, 300, ahead=ahead)
    named = {
        "ordered_not_charged": (lacking, f"{lacking * 490}.00"),
        "charged_unknown": (foreign, f"{foreign * 490}.00"),
    }
    assert found_after(call) == {name: found for name, found in named.items() if found[0]}
    # A second reading gives the same result.
    refill_budget()
    assert found_after(call) == {name: found for name, found in named.items() if found[0]}


@pytest.mark.parametrize("ahead", [0, 90])
def test_so_many_refunds_as_were_not_made_are_named_and_no_more(
    call: Call, trade: Trade, simulator: Simulator, ahead: float
) -> None:
    trade(12, 300, ahead=ahead, type_id="TEST_REFUND")
    for entry in of_type(simulator, "REFUND-ORDER")[3:5]:
        simulator.hide(entry)
    assert found_after(call) == {"promised_not_credited": (2, "980.00")}
    assert Order.objects.filter(is_credited=True).count() == 10
    assert Order.objects.filter(is_credited=False).count() == 2


def test_a_refund_booked_days_late_is_found_if_nothing_else_is_open(
    call: Call, trade: Trade, simulator: Simulator, wall: Wall
) -> None:
    trade(3, 300, type_id="TEST_REFUND")
    trade(2, 300, type_id="TEST_PARTIAL", quantity=4)
    simulator.ledger_oddities = ["no-objid", "uncredited"]
    trade(1, 300, type_id="TEST_REFUND")
    [late] = Order.objects.filter(pk=Order.objects.latest("pk").pk)
    assert found_after(call) == {"promised_not_credited": (1, "490.00")}
    simulator.ledger_oddities = ["no-objid"]
    for _day in range(9):
        wall.let_pass(24 * HOUR)
    simulator.add_transaction("REFUND-ORDER", 490)
    trade(3, 300, type_id="TEST_REFUND")
    assert found_after(call) == {}
    late.refresh_from_db()
    assert late.is_credited
    assert late.ledger_entries.filter(type="REFUND-ORDER", is_guess=True).count() == 1
    # A later reading keeps the match.
    wall.let_pass(24 * HOUR)
    refill_budget()
    assert found_after(call) == {}


def test_orders_of_a_night_are_whose_they_are_on_both_sides_of_midnight(
    call: Call, trade: Trade, wall: Wall, simulator: Simulator
) -> None:
    now = timezone.now()
    midnight = begin_of(day_of(now) + timedelta(days=1))
    wall.let_pass((midnight - now).total_seconds() - 600)
    trade(20, 90, ahead=-30)
    trade(20, 90, ahead=-30)
    assert found_after(call) == {}
    assert LedgerEntry.objects.filter(is_guess=True).count() == 40


@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.lists(
        st.tuples(st.floats(0, 3 * 24 * HOUR), st.integers(1, 3)), min_size=1, max_size=25
    ),
    lags=st.lists(st.floats(0, 20), min_size=25, max_size=25),
    ahead=st.integers(-270, 270),
    lacking=st.integers(0, 3),
    foreign=st.lists(st.tuples(st.floats(0, 3 * 24 * HOUR), st.integers(1, 3)), max_size=3),
    in_parts=st.booleans(),
)
def test_whenever_orders_are_sent_exactly_what_lacks_or_is_foreign_is_named(
    wire: responses.RequestsMock,
    call: Call,
    sent: list[tuple[float, int]],
    lags: list[float],
    ahead: int,
    lacking: int,
    foreign: list[tuple[float, int]],
    in_parts: bool,
) -> None:
    for model in (LedgerEntry, Order, ProviderState):
        model.objects.all().delete()
    wire.reset()
    books = Books()
    books.open(wire)
    begin = NOON - timedelta(days=3)
    books.book("DEPOSIT", 1_000, begin, name="from here on")
    orders = []
    for (seconds, quantity), lag in zip(sent, lags, strict=False):
        moment = begin + timedelta(seconds=seconds)
        times = {"sent_at": moment, "created_at": moment}
        orders.append(build_guide_order(Status.HANDLING, quantity=quantity, **times))
        booked = moment + timedelta(seconds=lag + ahead)
        books.book("ORDER", 490 * quantity, booked, name=f"c{len(books.rows)}")
    Order.objects.bulk_create(orders)
    # Either entries are missing or there are foreign ones. With equal amounts, the two cannot be
    # told apart.
    lacking = 0 if foreign else min(lacking, len(sent))
    gone = [books.rows.pop() for _entry in range(lacking)]
    for seconds, quantity in foreign:
        booked = begin + timedelta(seconds=seconds + ahead)
        books.book("ORDER", 490 * quantity, booked, name=f"f{len(books.rows)}")
    day = day_of(begin)
    refill_budget()
    while not read(
        day if not LedgerEntry.objects.exists() else None, should_continue=lambda: not in_parts
    ).is_whole:
        refill_budget()
    found = ledger_summary(day, day_of(timezone.now()))
    assert found.charged_unknown.amount == 490 * sum(quantity for _seconds, quantity in foreign)
    assert found.charged_unknown.count == len(foreign)
    assert found.ordered_not_charged.count == len(gone)
    assert found.ordered_not_charged.amount == sum(one["amount"] for one in gone)
    assert found.guessed == len(sent) - len(gone)
