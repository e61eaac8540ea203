"""The pool of requests: how many run at once, which are repeated, and when calls have to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import requests

from giftcards.engine.gateway import Gateway
from giftcards.engine.pool import Pulse, fan_out
from giftcards.engine.sweep import Swept
from giftcards.exceptions import AccessDenied, OutcomeUnknown, ProviderError
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.rules.problems import Problem
from giftcards.rules.purposes import Purpose
from giftcards.simulator import Request, Simulator
from giftcards.statuses import Status
from tests.builders import make_order, problems
from tests.stage import (
    LIST,
    Setter,
    Wire,
    ago,
    buy_many,
    check_url,
    fresh,
    leave_questions,
    list_page,
    list_row,
    prove_key,
    provider_state,
    run_sweep,
    settled_answer,
    without_list,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def take_questions() -> int:
    """Use up the checks that the request quota has left, and return their number."""
    with Gateway() as gateway:
        return sum(1 for _slot in iter(partial(gateway.begin, Purpose.CHECKING), None))


def test_at_most_four_requests_are_under_way_at_a_time(
    simulator: Simulator, shorten: Setter
) -> None:
    """If the key suddenly becomes wrong, a fifth request would block the IP address."""
    shorten(sweep_renewal=0)
    buy_many(simulator, 20, type_id="SIM_NEVER")
    without_list()
    changed, seen, most = threading.Condition(), 0, 0

    def hold(request: Request) -> None:
        nonlocal seen, most
        with changed:
            seen += 1
            most = max(most, seen)
            changed.notify_all()
            # The very first request is alone. The others follow as soon as the machine has time.
            changed.wait_for(lambda: most >= 3, 1)
        time.sleep(0.05)
        with changed:
            seen -= 1

    def should_continue() -> bool:
        if Order.objects.count() < 26:
            make_order()
        return True

    simulator.on_request = hold
    done = run_sweep(should_continue=should_continue)
    assert (done.sent, done.checked) == (6, 20)
    assert 3 <= most <= 4


class TestRepetition:
    """A repeated request needs a free slot of the request quota, like any other request."""

    @pytest.fixture(autouse=True)
    def _four_questions(self, small_budget: None) -> None:
        prove_key()
        without_list()
        leave_questions(4)

    def drop(self, wire: Wire, order: Order, *, times: int) -> Any:
        for _time in range(times):
            wire.get(check_url(order), body=requests.ConnectionError("stale"))
        return wire.get(check_url(order), json=settled_answer(order))

    def test_a_check_whose_connection_broke_is_repeated(self, wire: Wire) -> None:
        orders = [make_order(Status.HANDLING) for _order in range(2)]
        for order in orders:
            self.drop(wire, order, times=1)
        assert run_sweep() == Swept(checked=2, settled=2)
        assert (len(wire.calls), take_questions()) == (4, 0)
        state = ProviderState.objects.get()
        # The repeated checks are not failures.
        assert (state.pause, state.failure) == ("", "")

    def test_a_check_whose_connection_broke_is_repeated_only_once(self, wire: Wire) -> None:
        order = make_order(Status.HANDLING)
        self.drop(wire, order, times=2)
        assert run_sweep() == Swept(checked=1, failed=1, is_paused=True)
        assert len(wire.calls) == 2

    def test_a_dropped_check_is_repeated_only_if_the_budget_affords_it_at_once(
        self, wire: Wire
    ) -> None:
        orders = [make_order(Status.HANDLING) for _order in range(3)]
        for order in orders:
            self.drop(wire, order, times=1)
        # Three checks are under way, which leaves one slot.
        done = run_sweep()
        assert (done.checked, done.settled, done.failed) == (3, 1, 2)
        assert (len(wire.calls), take_questions()) == (4, 0)

    def test_a_repeated_check_goes_before_the_others(self, wire: Wire) -> None:
        leave_questions(6)
        orders = [make_order(Status.HANDLING) for _order in range(5)]
        self.drop(wire, orders[0], times=1)
        for order in orders[1:]:
            self.drop(wire, order, times=0)
        # The unproven key allows one request at a time.
        ApiKey.objects.doubt()
        assert run_sweep().settled == 5
        first, second, *_others = [call.request.url for call in wire.calls]
        assert first == second == check_url(orders[0])

    def test_a_page_of_the_list_whose_connection_broke_is_repeated(self, wire: Wire) -> None:
        ProviderState.objects.update(list_usable_at=None)
        orders = [make_order(Status.HANDLING, sent_at=ago(5)) for _order in range(4)]
        wire.get(LIST, body=requests.ConnectionError("stale"))
        wire.get(LIST, json=list_page(*map(list_row, orders)))
        assert run_sweep() == Swept(checked=4, settled=4)
        assert (len(wire.calls), provider_state().list_usable_at) == (2, None)

    def test_a_dropped_check_is_not_repeated_once_calls_have_to_stop(self, wire: Wire) -> None:
        """In this case, the check does not count as made, so the order is due as before."""
        order = make_order(Status.HANDLING)
        self.drop(wire, order, times=1)
        assert run_sweep(should_continue=lambda: not wire.calls).postponed == 1
        assert len(wire.calls) == 1
        assert (fresh(order).failures, order.claimed_until) == (0, None)

    @pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
    def test_a_check_is_repeated_under_the_other_spelling_of_the_path(
        self, spelling: Any, simulator: Simulator
    ) -> None:
        """This also works for the very first order."""
        buy_many(simulator, 1)
        leave_questions(4)
        simulator.spelling = spelling
        assert run_sweep() == Swept(checked=1, settled=1)
        asked = len(simulator.requests)
        assert asked == 1 + (spelling == "checkOrder")
        assert take_questions() == 4 - asked
        state = ProviderState.objects.get()
        assert (state.check_path, state.failure) == (spelling, "")

    @pytest.mark.parametrize("spelling", ["check-order", "checkOrder"])
    def test_an_order_that_the_provider_does_not_know_is_a_failed_check(
        self, spelling: Any, simulator: Simulator
    ) -> None:
        simulator.spelling = spelling
        order = make_order(Status.HANDLING)
        assert run_sweep() == Swept(checked=1, failed=1)
        assert problems(order) == [Problem("not_known")]

    def test_each_spelling_is_tried_once_if_neither_is_routed(self, wire: Wire) -> None:
        order = make_order(Status.HANDLING)
        nothing = {"message": "Route not found", "error": "Not Found", "statusCode": 404}
        asked = [
            wire.get(check_url(order).replace("check-order", spelling), json=nothing, status=404)
            for spelling in ("check-order", "checkOrder")
        ]
        assert run_sweep() == Swept(checked=1, failed=1)
        assert [each.call_count for each in asked] == [1, 1]

    def test_the_other_spelling_is_tried_in_the_next_sweep_if_the_budget_is_short(
        self, simulator: Simulator
    ) -> None:
        """In this test, the budget never has slots for two requests at once."""
        buy_many(simulator, 1)
        simulator.spelling = "checkOrder"
        settled = []
        for _sweep in range(2):
            leave_questions(1)
            Order.objects.update(due_at=ago(1))
            settled.append(run_sweep().settled)
        assert settled == [0, 1]


class TestWaitingForAnotherProcess:
    """Waiting for a process that has begun the first call with the key."""

    @pytest.fixture
    def hear(self, simulator: Simulator) -> Iterator[Callable[[ProviderError | None], None]]:
        """End the call of the other process."""
        buy_many(simulator, 5)
        ApiKey.objects.doubt()
        with Gateway() as other:
            slot = other.begin(Purpose.CHECKING)
            assert slot is not None
            yield partial(other.finish, slot)

    @pytest.mark.parametrize("error", [None, AccessDenied("No."), OutcomeUnknown("What?")])
    def test_calls_with_an_unproven_key_wait_for_the_result_of_another_process(
        self,
        error: ProviderError | None,
        hear: Callable[[ProviderError | None], None],
        simulator: Simulator,
    ) -> None:
        asked: list[int] = []

        def look() -> bool:
            if look_count() == 3:
                asked.append(len(simulator.requests))
                hear(error)
            return True

        look_count = iter(range(1, 99)).__next__
        with Gateway() as gateway:
            jobs = [(number, gateway.client.balance) for number in range(3)]
            began = time.monotonic()
            answers = list(fan_out(jobs, gateway, Pulse(look)))
        assert asked == [0]
        made = 0 if isinstance(error, AccessDenied) else 3
        assert len(answers) == len(simulator.requests) == made
        assert time.monotonic() - began < 10

    def test_a_sweep_postpones_its_checks_while_another_process_tries_the_key(
        self, hear: Callable[[ProviderError | None], None], simulator: Simulator
    ) -> None:
        without_list()
        assert run_sweep() == Swept(postponed=5)
        assert simulator.requests == []
        assert not Order.objects.exclude(claimed_until=None).exists()
        hear(None)
        assert run_sweep() == Swept(checked=5, settled=5)
