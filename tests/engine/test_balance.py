"""The balance of the account: when it is read, and who is notified when it falls."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from giftcards.engine.balance import BalanceReader
from giftcards.engine.loop import follow
from giftcards.models import Lease, Order, ProviderState
from giftcards.models.provider import BALANCE_EVERY
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_guide_order, make_order
from tests.stage import (
    PLACE,
    PROVIDER,
    Log,
    Setter,
    Wire,
    ago,
    buy_many,
    failing,
    in_threads,
    lease,
    messages,
    own_key,
    provider_state,
    refuse_key,
    spend_budget,
)
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("quickly")]

BALANCE = f"{PROVIDER}/v3/account/balance"
MINUTE = 60


def falls(caplog: Log) -> list[str]:
    """Return the messages in the log that say that the balance is low."""
    return [text for text in messages(caplog) if "below LOW_BALANCE" in text]


def run_loop() -> None:
    """Run the loop, which ends at once if no order is open."""
    assert follow(seconds=20) is not None


def reads(simulator: Simulator) -> int:
    return [request.path for request in simulator.requests].count("/v3/account/balance")


def known() -> Decimal | None:
    return provider_state().balance


def let_turn_come() -> None:
    """Make the balance due, as if five minutes had passed since the last request."""
    ProviderState.objects.update(balance_due_at=ago(0.001))


class TestReading:
    def test_the_balance_is_read_every_five_minutes_at_most(
        self, simulator: Simulator, wall: Wall
    ) -> None:
        run_loop()
        assert (known(), reads(simulator)) == (Decimal(1_000_000), 1)
        read_at = provider_state().balance_read_at
        assert timedelta(0) <= timezone.now() - read_at < timedelta(seconds=20)
        wall.let_pass(4.9 * MINUTE)
        for _tick in range(3):
            run_loop()
        assert reads(simulator) == 1
        wall.let_pass(0.2 * MINUTE)
        for _tick in range(3):
            run_loop()
        assert reads(simulator) == 2

    def test_it_is_read_while_orders_are_followed(self, simulator: Simulator) -> None:
        simulator.delay = (0.4, 0.4)
        buy_many(simulator, 1)
        run_loop()
        assert (known(), reads(simulator)) == (Decimal(1_000_000 - 980), 1)

    @pytest.mark.usefixtures("simulator")
    def test_what_was_spent_in_the_24_hours_before_is_kept_with_it(self) -> None:
        make_guide_order(Status.FULFILLED, fulfilled_amount=2450, finalized_at=ago(86_300))
        make_guide_order(Status.PARTIALLY_FILLED, fulfilled_amount=Decimal("1470.10"))
        make_guide_order(Status.PARTIALLY_FILLED, fulfilled_amount=Decimal("1470.10"))
        make_guide_order(Status.REFUNDED)
        make_guide_order(Status.FULFILLED, fulfilled_amount=2450, finalized_at=ago(86_500))
        assert ProviderState.objects.current().spent_lately is None
        run_loop()
        assert provider_state().spent_lately == Decimal("5390.20")

    def test_no_order_waits_for_the_answer(self, simulator: Simulator) -> None:
        """The balance becomes due while an order is followed, and its answer outlasts the order."""
        buy_many(simulator, 1)
        settled, waits = threading.Event(), []
        simulator.on_request = lambda request: (
            waits.append(settled.wait(5)) if request.path.endswith("balance") else None
        )
        simulator.delay = (0.3, 0.3)
        let_turn_come()
        make_order(due_at=ago(-0.2))
        with connection.execute_wrapper(_noting_settled(settled)):
            run_loop()
        assert waits == [True]
        # When nothing else was left, the loop did wait for the answer, without holding the lease.
        assert known() is not None

    def test_a_failure_leaves_what_is_known_and_waits_for_the_next_turn(
        self, wire: Wire, caplog: Log
    ) -> None:
        wire.get(BALANCE, status=502)
        ProviderState.objects.current()
        ProviderState.objects.update(balance=Decimal("12.50"), balance_read_at=ago(900))
        caplog.clear()
        for _tick in range(3):
            run_loop()
        state = provider_state()
        assert state.balance == Decimal("12.50")
        # The three runs share one turn and one request.
        assert len(wire.calls) == 1
        assert not state.is_balance_due(timezone.now())
        # The failure is not stored as an outage, so no order has to wait.
        assert (state.pause, state.outages, state.failure) == ("", 0, "")
        assert messages(caplog) == []

    @pytest.mark.parametrize("told", [None, "NaN", "12.505", "a lot", {}])
    def test_an_answer_without_a_usable_balance_leaves_what_is_known(
        self, wire: Wire, told: Any
    ) -> None:
        wire.get(BALANCE, json={"success": True, "data": {"balance": told}})
        ProviderState.objects.current()
        ProviderState.objects.update(balance=5, balance_read_at=ago(900))
        run_loop()
        assert known() == 5

    def test_it_is_not_read_while_the_budget_is_short(self, simulator: Simulator) -> None:
        spend_budget(but=3)
        for _tick in range(2):
            run_loop()
        assert reads(simulator) == 0
        # The turn was not used up.
        assert provider_state().is_balance_due(timezone.now())

    @pytest.mark.parametrize("is_refused", [True, False])
    def test_it_is_not_read_while_the_key_is_refused_or_requests_are_paused(
        self, is_refused: bool, simulator: Simulator
    ) -> None:
        if is_refused:
            refuse_key()
        else:
            ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
        run_loop()
        assert simulator.requests == []
        ProviderState.objects.resume()
        run_loop()
        assert reads(simulator) == 1

    def test_a_wrong_key_is_tried_once_and_stops_everything(self, simulator: Simulator) -> None:
        simulator.keys = ["another"]
        for _tick in range(3):
            run_loop()
        assert [request.key_ok for request in simulator.requests] == [False]
        assert own_key().is_refused

    def test_an_answer_leaves_the_key_to_be_used_by_others(self, simulator: Simulator) -> None:
        run_loop()
        assert lease(Lease.KEY_PROBE).until is None
        assert own_key().is_proven(timezone.now())

    # A connection that has failed is closed, and with it any transaction.
    @pytest.mark.django_db(transaction=True)
    def test_a_database_that_fails_when_it_is_stored_leaves_no_key_held(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(database_pause=0)
        ProviderState.objects.current()
        with failing("UPDATE", when=lambda sql, _: re.search(r'[`"]balance[`"] =', sql)):
            run_loop()
        assert known() is None
        assert lease(Lease.KEY_PROBE).until is None

    def test_a_clock_that_was_set_back_does_not_put_it_off(
        self, simulator: Simulator, wall: Wall
    ) -> None:
        run_loop()
        wall.step(-86_400)
        run_loop()
        assert reads(simulator) == 2

    @pytest.mark.parametrize("seconds", [2, 60])
    def test_an_older_answer_does_not_replace_a_newer_one(self, seconds: int) -> None:
        ProviderState.objects.current()
        ProviderState.objects.keep_balance(Decimal(100), asked_at=ago(1))
        ProviderState.objects.keep_balance(Decimal(200), asked_at=ago(seconds))
        assert known() == 100

    def test_a_balance_from_before_the_clock_was_set_back_is_replaced(self) -> None:
        ProviderState.objects.current()
        ProviderState.objects.keep_balance(Decimal(100), asked_at=ago(-3_600))
        ProviderState.objects.keep_balance(Decimal(200), asked_at=ago(1))
        assert known() == 200

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_of_several_processes_one_reads_it(self, simulator: Simulator) -> None:
        ProviderState.objects.current()

        def look() -> None:
            reader = BalanceReader()
            reader.look_after()
            reader.close(seconds=20)

        assert in_threads(4, look) == [None] * 4
        assert (known(), reads(simulator)) == (Decimal(1_000_000), 1)
        assert lease(Lease.KEY_PROBE).until is None


def _noting_settled(settled: threading.Event) -> Callable[..., Any]:
    """Set the event once no order is open."""

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        done = execute(sql, params, many, context)
        if sql.startswith("UPDATE") and not Order.objects.open().exists():
            settled.set()
        return done

    return note


class TestRefusal:
    @pytest.fixture(autouse=True)
    def just_read(self) -> None:
        ProviderState.objects.current()
        due_at = timezone.now() + BALANCE_EVERY
        ProviderState.objects.update(
            balance=980, balance_read_at=timezone.now(), balance_due_at=due_at
        )

    def refuse(self, wire: Wire, code: str) -> None:
        details = {"required": 980, "available": 100}
        error = {"code": code, "message": "No.", "details": details}
        wire.post(PLACE, status=403, json={"success": False, "error": error})
        wire.get(BALANCE, json={"success": True, "data": {"balance": 100}})
        wire.get(f"{PROVIDER}/v3/validate", json={"success": True, "data": {"apiKey": {}}})

    @pytest.mark.parametrize(
        ("code", "quantity", "balance"),
        [
            ("INSUFFICIENT_BALANCE", 2, 100),
            ("NO_BALANCE", 2, 100),
            # It is no news if the known balance is too low, and a different refusal says nothing
            # about it.
            ("INSUFFICIENT_BALANCE", 3, 980),
            ("OUT_OF_STOCK", 2, 980),
        ],
    )
    def test_an_order_that_the_balance_should_have_covered_has_it_read_at_once(
        self, wire: Wire, code: str, quantity: int, balance: int
    ) -> None:
        self.refuse(wire, code)
        make_order(quantity=quantity)
        run_loop()
        run_loop()
        assert known() == balance


class TestFall:
    @pytest.fixture(autouse=True)
    def limit(self, set_conf: Setter) -> None:
        set_conf(LOW_BALANCE=Decimal("999100.50"))

    def read(self) -> None:
        let_turn_come()
        run_loop()

    def test_a_fall_is_logged_once_and_again_only_after_a_recovery(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        run_loop()
        assert falls(caplog) == []
        assert provider_state().low_balance_since is None
        caplog.clear()
        simulator.add_transaction("FLEXY", 980)
        for _turn in range(3):
            self.read()
        assert provider_state().low_balance_since is not None
        assert messages(caplog) == [
            "The account balance is 999020.00 DZD, which is below LOW_BALANCE (999100.50)."
        ]
        simulator.add_transaction("DEPOSIT", 980)
        self.read()
        assert provider_state().low_balance_since is None
        assert len(falls(caplog)) == 1
        simulator.add_transaction("FLEXY", 980)
        self.read()
        assert len(falls(caplog)) == 2

    def test_a_balance_at_the_limit_is_not_low(
        self, simulator: Simulator, caplog: Log, set_conf: Setter
    ) -> None:
        set_conf(LOW_BALANCE=1_000_000)
        run_loop()
        assert falls(caplog) == []

    def test_a_limit_that_is_raised_is_logged_without_another_request(
        self, simulator: Simulator, caplog: Log, set_conf: Setter
    ) -> None:
        run_loop()
        set_conf(LOW_BALANCE=2_000_000)
        run_loop()
        assert (len(falls(caplog)), reads(simulator)) == (1, 1)

    @pytest.mark.usefixtures("simulator")
    def test_without_a_limit_nothing_is_logged(self, caplog: Log, settings: Any) -> None:
        del settings.GIFTCARDS["LOW_BALANCE"]
        ProviderState.objects.current()
        ProviderState.objects.update(low_balance_since=ago(60))
        run_loop()
        assert falls(caplog) == []
        assert provider_state().low_balance_since is None

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database", "simulator")
    def test_of_several_processes_one_logs_the_fall(self, caplog: Log) -> None:
        ProviderState.objects.current()
        ProviderState.objects.update(
            balance=5, balance_read_at=timezone.now(), balance_due_at=timezone.now() + BALANCE_EVERY
        )
        assert in_threads(4, lambda: BalanceReader().look_after()) == [None] * 4
        assert len(falls(caplog)) == 1
        connections.close_all()
