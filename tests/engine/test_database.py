"""If the database fails for one order or for all, the other orders and the loop continue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    connection,
)

from giftcards.engine.database import isolate_failures, surviving, tolerating, write_together
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import follow
from giftcards.models import Order, ProviderState
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_order
from tests.stage import (
    Log,
    Setter,
    ago,
    buy,
    buy_many,
    failing,
    fresh,
    messages,
    posts,
    refill_budget,
    run_sweep,
    statuses,
    without_list,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)

FAILURES = (
    DatabaseError, DataError, IntegrityError, InterfaceError, InternalError, NotSupportedError,
    OperationalError, ProgrammingError,
)  # fmt: skip
# This is the wording of PostgreSQL.
TEXT = "null value violates not-null constraint. Failing row contains (CANARY)."
# No other number in the queries equals this key.
BROKEN = 987_654


def concerns(pk: int, params: Any) -> bool:
    """Return True if the parameters contain the order's key, for PostgreSQL also in a list."""
    return any(pk in param if isinstance(param, list) else pk == param for param in params or ())


def refusing(
    pk: int = BROKEN, *, error: type[Error] = IntegrityError, column: str = ""
) -> Callable[..., Any]:
    """Make the database refuse every write of this order, or only of ``column`` if given."""

    def wrapper(execute: Any, sql: str, params: Any, *args: Any) -> Any:
        is_write = sql.startswith(("UPDATE", "INSERT")) and "giftcards_request" not in sql
        if is_write and column in sql and concerns(pk, params):
            raise error(TEXT)
        return execute(sql, params, *args)

    return wrapper


def status(pk: int = BROKEN) -> str:
    return str(Order.objects.get(pk=pk).status)


@pytest.fixture(autouse=True)
def quickly(set_conf: Setter, shorten: Setter) -> None:
    set_conf(POLL_INTERVAL=0.1)
    shorten(database_pause=0.1)


class TestLoop:
    @pytest.mark.parametrize("error", FAILURES)
    def test_the_loop_goes_on_after_any_failure_of_the_database(
        self, error: type[Error], simulator: Simulator, caplog: Log
    ) -> None:
        """Such a failure can come, for example, from a new column that may not be NULL."""
        buy_many(simulator, 1)
        caplog.clear()
        with failing("UPDATE", "giftcards_providerstate", error=error(TEXT), most=2):
            assert follow(seconds=30) is not None
        assert statuses() == ["FULFILLED"]
        said = f"A database error occurred in the loop, which pauses for 0.1 s: {error.__name__}"
        assert messages(caplog) == [said] * 2

    def test_the_loop_settles_the_other_orders_if_the_database_refuses_one(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        make_order(pk=BROKEN)
        for _order in range(3):
            make_order()
        began = time.monotonic()
        with connection.execute_wrapper(refusing()):
            follow(seconds=3)
        seconds = time.monotonic() - began
        assert sorted(statuses()) == ["FULFILLED"] * 3 + ["PENDING"]
        # The loop does not retry as fast as it can: it pauses for 0.05 s after each try and between
        # sweeps.
        assert 1 <= len(messages(caplog)) <= seconds / 0.05
        assert posts(simulator) == 3


class TestOneOrder:
    """Each step of a sweep leaves out the order that the database refuses to write."""

    @pytest.fixture(autouse=True)
    def _others(self, simulator: Simulator) -> None:
        simulator.delay = (0, 0)
        # SQLite and MariaDB continue to count from here, so that a key never equals another number.
        make_order(pk=BROKEN).delete()

    def test_a_sweep_postpones_an_order_to_send_that_cannot_be_written(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        make_order(pk=BROKEN, reference="broken", due_at=ago(9))
        make_order()
        with connection.execute_wrapper(refusing(column="sent_at")):
            assert run_sweep().sent == 1
            assert run_sweep().sent == 0
        assert posts(simulator) == 1
        assert messages(caplog) == ["Order broken: writing to the database failed (IntegrityError)"]
        # The order could be postponed, so it is not retried in every sweep.
        due_at = Order.objects.get(pk=BROKEN).due_at
        assert ago(-20) < due_at <= ago(-30)
        Order.objects.filter(pk=BROKEN).update(due_at=ago(1))
        assert run_sweep().sent == 1

    @pytest.mark.parametrize(
        ("origin", "end"), [(Status.PLACING, Status.UNCONFIRMED), (Status.PENDING, Status.REJECTED)]
    )
    def test_a_sweep_skips_an_abandoned_order_or_one_to_give_up_that_cannot_be_written(
        self, origin: Status, end: Status, simulator: Simulator
    ) -> None:
        make_order(origin, pk=BROKEN, queued_at=ago(4000))
        other = make_order(origin, queued_at=ago(4000))
        with connection.execute_wrapper(refusing()):
            run_sweep()
        assert (status(), status(other.pk)) == (origin, end)

    @pytest.mark.parametrize("has_list", [True, False])
    def test_a_sweep_skips_an_order_to_check_that_cannot_be_claimed(
        self, has_list: bool, simulator: Simulator
    ) -> None:
        simulator.has_list = has_list
        with Gateway() as gateway:
            bought = [buy(gateway) for _order in range(4)]
        if not has_list:
            without_list()
        refill_budget()
        broken, *others = [order.pk for order in bought]
        Order.objects.update(due_at=ago(1))
        with connection.execute_wrapper(refuse_claim(broken)):
            run_sweep()
        assert status(broken) == "HANDLING"
        assert [status(pk) for pk in others] == ["FULFILLED"] * 3

    def test_a_sweep_uses_a_page_for_other_orders_if_one_of_them_cannot_be_claimed(
        self, shorten: Setter
    ) -> None:
        """The page shows more orders than one sweep claims."""
        with Gateway() as gateway:
            bought = [buy(gateway) for _order in range(8)]
        refill_budget()
        Order.objects.update(due_at=ago(9))
        broken = bought[-1].pk
        Order.objects.filter(pk=broken).update(due_at=ago(1))
        shorten(sweep_orders=6)
        with connection.execute_wrapper(refuse_claim(broken)):
            run_sweep()
        assert status(broken) == "HANDLING"
        assert statuses().count("FULFILLED") == 7

    def test_a_sweep_records_the_other_failed_checks_if_one_cannot_be_written(
        self, simulator: Simulator
    ) -> None:
        orders = buy_many(simulator, 3)
        without_list()
        broken = orders[0].pk
        simulator.outage = True
        Order.objects.update(due_at=ago(1))
        with connection.execute_wrapper(refusing(broken, column="failures")):
            assert run_sweep().failed == 3
        failures = dict(Order.objects.values_list("pk", "failures"))
        assert failures == {order.pk: int(order.pk != broken) for order in orders}

    def test_a_sweep_makes_the_other_orders_late_if_one_cannot_be_written(
        self, simulator: Simulator
    ) -> None:
        orders = buy_many(simulator, 3, type_id="SIM_NEVER")
        without_list()
        Order.objects.update(accepted_at=ago(400), due_at=ago(1))
        broken = orders[0].pk
        failure = failing(
            "INSERT",
            "statuschange",
            error=DataError(TEXT),
            when=lambda _, params: concerns(broken, params),
        )
        with failure:
            run_sweep()
        found = dict(Order.objects.values_list("pk", "status"))
        assert found == {
            order.pk: "HANDLING" if order.pk == broken else "DELAYED" for order in orders
        }

    @pytest.mark.usefixtures("simulator")
    def test_a_sweep_recovers_the_other_orders_if_one_cannot_be_written(self) -> None:
        """Orders that were sent at different times are searched for separately."""
        make_order(Status.UNCONFIRMED, pk=BROKEN, sent_at=ago(9000), due_at=ago(9))
        other = make_order(Status.UNCONFIRMED, sent_at=ago(300), due_at=ago(1))
        with connection.execute_wrapper(refusing()):
            run_sweep()
        assert Order.objects.get(pk=BROKEN).absent_since is None
        assert Order.objects.get(pk=other.pk).absent_since is not None


def refuse_claim(pk: int) -> Callable[..., Any]:
    """Make the database refuse to claim the order, together with others or alone."""
    return refusing(pk, column='"claim" =' if connection.vendor != "mysql" else "`claim` =")


class TestContained:
    @pytest.fixture(autouse=True)
    def _connected(self) -> None:
        connection.ensure_connection()

    def test_a_tolerated_database_error_is_logged_without_its_text(self, caplog: Log) -> None:
        with tolerating("This"):
            raise IntegrityError(TEXT)
        assert messages(caplog) == ["This: writing to the database failed (IntegrityError)"]

    def test_errors_that_are_not_the_databases_are_not_tolerated(self) -> None:
        with pytest.raises(ZeroDivisionError), tolerating("This"):
            raise ZeroDivisionError

    def test_a_database_that_refuses_every_write_fails_at_once(self, shorten: Setter) -> None:
        """The failure has nothing to do with the order, so the others are not tried one by one."""
        shorten(database_pause=120)
        ProviderState.objects.current()
        order = make_order()
        error = OperationalError("cannot execute UPDATE in a read-only transaction")
        began = time.monotonic()
        with (
            failing("UPDATE", error=error),
            pytest.raises(OperationalError),
            isolate_failures(order),
        ):
            Order.objects.update(failures=1)
        assert time.monotonic() - began < 50

    def test_a_database_error_is_raised_if_the_connection_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection, "is_usable", lambda: False)
        with pytest.raises(OperationalError), tolerating("This"):
            raise OperationalError(TEXT)


class TestSparingOthers:
    def test_an_order_that_can_be_written_stays_due(self) -> None:
        order = make_order(due_at=ago(1))
        with isolate_failures(order):
            pass
        assert fresh(order).due_at < ago(0)

    def test_an_order_that_is_not_due_does_not_become_due_by_a_refused_write(self) -> None:
        order = make_order(Status.PLACING)
        with isolate_failures(order):
            raise IntegrityError(TEXT)
        assert fresh(order).due_at is None


class TestWriteTogether:
    def test_orders_are_written_in_one_go_if_none_is_refused(self) -> None:
        orders = [make_order(), make_order()]
        assert write_together(orders, len) == [2]

    def test_writing_no_orders_writes_nothing(self) -> None:
        assert write_together([], len) == []

    def test_if_one_order_is_refused_the_others_are_written_one_by_one(self) -> None:
        orders = [make_order(), make_order(), make_order()]

        def write(some: Any) -> list[int]:
            if orders[1] in some:
                raise DataError(TEXT)
            return [order.pk for order in some]

        assert write_together(orders, write) == [[orders[0].pk], [orders[2].pk]]


class TestSurviving:
    def test_the_pause_after_a_database_error_ends_at_once_when_stopped(
        self, shorten: Setter
    ) -> None:
        shorten(database_pause=timedelta(hours=1).total_seconds())
        stop = threading.Event()
        stop.set()
        with surviving(stop, "it"):
            raise ProgrammingError(TEXT)
