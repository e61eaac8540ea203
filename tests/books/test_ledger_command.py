"""``giftcards_ledger``: reading the provider's ledger, and reporting discrepancies."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import sweep
from giftcards.models import Order
from giftcards.rules.times import day_of
from giftcards.simulator import Simulator
from tests.conftest import Call
from tests.stage import ago, buy

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LISTS = (
    "promised_not_credited",
    "credited_not_promised",
    "charged_unknown",
    "ordered_not_charged",
    "breaks",
)


@pytest.fixture
def today() -> str:
    return str(day_of(timezone.now()))


def trade() -> None:
    """Buy five cards, of which two are delivered: 2,450 DA are charged, and 1,470 DA come back."""
    with Gateway() as gateway:
        buy(gateway, type_id="TEST_PARTIAL", quantity=5, reference="cart-1042")
        sweep(gateway)


def test_the_command_reads_matches_and_sums_up(
    call: Call, simulator: Simulator, today: str
) -> None:
    trade()
    assert call("giftcards_ledger") == (
        f"The provider's ledger from {today} to {today}:\n"
        "  entries          3, 2 of which belong to orders (0 matched by amount and time)\n"
        "  orders           -2450.00 DZD\n"
        "  refunds          1470.00 DZD\n"
        "  payments         0.00 DZD\n"
        "  top-ups          1000000.00 DZD\n"
        "  other services   0.00 DZD\n"
        "  opening balance  0.00 DZD\n"
        "  closing balance  999020.00 DZD\n"
        "  gap              0.00 DZD\n",
        "",
        0,
    )
    assert Order.objects.get().is_credited


def test_the_summary_can_be_had_as_json(call: Call, simulator: Simulator, today: str) -> None:
    trade()
    out, err, code = call("giftcards_ledger", "--json")
    nothing = {
        key: value
        for name in LISTS
        for key, value in {name: 0, f"{name}_amount": "0.00", f"{name}_references": []}.items()
    }
    assert json.loads(out) == {
        "from": today,
        "to": today,
        "entries": 3,
        "matched": 2,
        "guessed": 0,
        "orders_amount": "-2450.00",
        "refunds_amount": "1470.00",
        "payments_amount": "0.00",
        "top_ups_amount": "1000000.00",
        "other_services_amount": "0.00",
        **nothing,
        "opening_balance": "0.00",
        "closing_balance": "999020.00",
        "gap": "0.00",
        "is_whole": True,
        "new": 3,
        "unreadable": 0,
        "not_shown": 0,
        "changed_days": {},
    }
    assert (err, code) == ("", 0)


@pytest.fixture
def unfitting(simulator: Simulator) -> tuple[str, str]:
    """Create four discrepancies, and return the option that covers their days.

    A refund is not made, a charge and a refund belong to no order, and one entry is never shown.
    The entries may be on two days.
    """
    # All entries but the last are a second old. If an entry is missing among entries of the same
    # moment, it is unclear which of their balances is the last.
    clock = simulator.clock
    simulator.clock = lambda: clock() - 1
    simulator.ledger_oddities = ["uncredited"]
    trade()
    Order.objects.update(finalized_at=ago(1_000), sent_at=ago(1_010))
    simulator.add_transaction("ORDER", 490, objid="f" * 24)
    simulator.add_transaction("REFUND-ORDER", 250, objid="e" * 24)
    simulator.add_transaction("FLEXY", 100, shown_after=None)
    simulator.clock = clock
    simulator.add_transaction("DEPOSIT", 5)
    return "--since", str(day_of(ago(1_010)))


def test_what_does_not_fit_is_listed(call: Call, unfitting: tuple[str, str]) -> None:
    out, err, code = call("giftcards_ledger", *unfitting)
    lines = out.splitlines()
    entries = {entry.type: entry for entry in LedgerEntry.objects.order_by("time", "pk")}
    day = day_of(entries["DEPOSIT"].time)
    assert "  gap              -100.00 DZD" in lines
    for line, start in (
        ("1 refund promised but not credited, 1470.00 DZD:", "  cart-1042  1470.00 DZD  "),
        (
            "1 refund credited but not promised, 250.00 DZD:",
            f"  {entries['REFUND-ORDER'].provider_id}  250.00 DZD  ",
        ),
        (
            "1 charge without a matching order, duplicated or too high, 490.00 DZD:",
            f"  {LedgerEntry.objects.get(type='ORDER', order=None).provider_id}  490.00 DZD  ",
        ),
        (
            "1 day on which the balance changed without an entry, 100.00 DZD:",
            f"  {day}  -100.00 DZD",
        ),
    ):
        assert lines[lines.index(line) + 1].startswith(start)
    # Discrepancies do not make the command fail.
    assert (err, code) == ("", 0)
    found = json.loads(call("giftcards_ledger", "--offline", "--json").out)
    breaks = [found[f"breaks{part}"] for part in ("", "_amount", "_references")]
    assert breaks == [1, "100.00", [str(day)]]


@pytest.mark.parametrize(
    ("conditions", "text"),
    [
        ("ledger_gap", "The ledger does not explain the balance: the gap is -100.00 DZD."),
        ("credits_missing", "1 refund promised but not credited, 1470.00 DZD."),
        (
            "ledger_unmatched",
            "1 charge without a matching order, 490.00 DZD. 1 refund without a matching order,"
            " 250.00 DZD.",
        ),
        (
            "credits_missing, ledger_gap",
            "The ledger does not explain the balance: the gap is -100.00 DZD."
            " 1 refund promised but not credited, 1470.00 DZD.",
        ),
    ],
)
def test_a_monitor_is_told_what_it_asked_about(
    call: Call, unfitting: tuple[str, str], conditions: str, text: str
) -> None:
    expected = ("", f"{text}\n", 1)
    assert call("giftcards_ledger", *unfitting, "--fail-on", conditions, "-v0") == expected


def test_a_monitor_of_books_in_order_is_told_nothing(call: Call, simulator: Simulator) -> None:
    trade()
    assert call(
        "giftcards_ledger", "--fail-on", "ledger_gap,credits_missing,ledger_unmatched", "-v0"
    ) == ("", "", 0)


def test_without_the_provider_the_books_are_incomplete_and_what_is_known_is_shown(
    call: Call, simulator: Simulator
) -> None:
    trade()
    call("giftcards_ledger")
    simulator.outage = True
    out, err, code = call("giftcards_ledger")
    assert "  entries          3, 2 of which belong to orders" in out
    assert err.startswith("The provider ")
    assert err.endswith(" Run the command again to read the rest.\n")
    assert code == 1
    simulator.forget_requests()
    out, err, code = call("giftcards_ledger", "--offline")
    assert "  entries          3, 2 of which belong to orders" in out
    assert (err, code, simulator.requests) == ("", 0, [])


def test_late_entries_and_their_days_are_named(call: Call, simulator: Simulator) -> None:
    trade()
    late = simulator.add_transaction("DEPOSIT", 7, shown_after=3_600)
    call("giftcards_ledger")
    clock = simulator.clock
    simulator.clock = lambda: clock() + 7_200
    out, _err, code = call("giftcards_ledger")
    day = day_of(late.created_at)
    assert f"{day} has changed since it was last read. New or different entries: 1." in out
    assert code == 0


def test_any_period_can_be_chosen(call: Call, simulator: Simulator) -> None:
    trade()
    yesterday = str(day_of(timezone.now()) - timedelta(days=1))
    out, _err, code = call("giftcards_ledger", "--from", yesterday, "--to", yesterday, "--json")
    found = json.loads(out)
    assert (found["from"], found["to"], found["entries"]) == (yesterday, yesterday, 0)
    assert code == 0
    # Other days were read all the same.
    assert found["new"] == 3
    ever = ("--from", date.min.isoformat(), "--to", date.max.isoformat())
    out, _err, code = call("giftcards_ledger", "--offline", *ever, "--json")
    assert (json.loads(out)["entries"], json.loads(out)["gap"], code) == (3, "0.00", 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--since", "yesterday"],
            "--since: 'yesterday' is not a day. Use a format such as 2026-11-24.",
        ),
        (
            ["--to", "2026-02-30"],
            "--to: '2026-02-30' is not a day. Use a format such as 2026-11-24.",
        ),
        (["--since", "2199-01-01"], "--since: this day is in the future."),
        (["--from", "2026-11-02", "--to", "2026-11-01"], "The period ends before it starts."),
        (
            ["--offline", "--since", "2026-11-02"],
            "Use either --offline or --since, because --since reads the ledger.",
        ),
        (
            ["--fail-on", "luck"],
            "--fail-on: unknown condition 'luck'. Use one or more of ledger_gap, credits_missing,"
            " ledger_unmatched, separated by commas.",
        ),
    ],
)
def test_a_mistake_is_named_and_nothing_is_read(
    call: Call, simulator: Simulator, arguments: list[str], text: str
) -> None:
    assert call("giftcards_ledger", *arguments) == ("", f"{text}\n", 2)
    assert simulator.requests == []
