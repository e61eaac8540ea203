"""Trying an API key with one call of all processes together, to limit the harm of a wrong key."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from giftcards.engine.gateway import Gateway, KeyProbe
from giftcards.engine.placing import send_now
from giftcards.engine.request_budget import Slot
from giftcards.exceptions import AccessDenied, OutcomeUnknown, ProviderError, RateLimited, Refused
from giftcards.keys.keyring import generate_key
from giftcards.models import ApiKey, Lease, ProviderState
from giftcards.rules.purposes import Purpose
from giftcards.simulator import Request, Simulator
from tests.stage import (
    LINE,
    PSN,
    Setter,
    ago,
    end_pause,
    in_threads,
    lease,
    own_key,
    prove_key,
    provider_state,
    record_order,
    spend_budget,
    wrong_calls,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def begin(gateway: Gateway, purpose: Purpose = Purpose.CHECKING) -> Slot:
    """Begin a call that must be possible, and return its slot."""
    slot = gateway.begin(purpose)
    assert slot is not None
    return slot


class TestHolding:
    def test_one_process_at_a_time_holds_the_key_probe(self) -> None:
        one, other = KeyProbe(), KeyProbe()
        assert one.hold()
        assert not other.hold()
        assert (one.is_ours, other.is_ours) == (True, False)
        assert one.hold()
        one.end()
        assert not one.is_ours
        assert other.hold()

    def test_the_key_probe_is_not_ended_by_a_process_that_does_not_hold_it(self) -> None:
        one, other = KeyProbe(), KeyProbe()
        assert one.hold()
        other.end()
        assert not other.hold()

    def test_an_expired_key_probe_is_lost_to_the_process_that_takes_it(self) -> None:
        dead, heir = KeyProbe(), KeyProbe()
        assert dead.hold()
        Lease.objects.update(until=ago(0))
        assert heir.hold()
        assert not dead.hold()
        assert not dead.is_ours
        dead.end()
        assert heir.is_ours
        assert lease(Lease.KEY_PROBE).until is not None

    def test_an_expired_key_probe_is_kept_if_no_other_process_wanted_it(self) -> None:
        slow = KeyProbe()
        assert slow.hold()
        Lease.objects.update(until=ago(0))
        assert slow.hold()


class TestAfterARefusal:
    """At the end of a pause, one careful call finds out whether the key is good now."""

    @pytest.fixture(autouse=True)
    def _blocked(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
        end_pause()

    def test_a_successful_call_after_a_refusal_reopens_the_gateway(
        self, simulator: Simulator
    ) -> None:
        with Gateway() as gateway:
            assert gateway.try_open()
            assert gateway.is_proven
            assert gateway.try_open()
            gateway.flush()
        assert [request.path for request in simulator.requests] == ["/v3/validate"]
        assert not provider_state().is_paused(timezone.now())

    def test_a_refused_call_after_a_refusal_stops_every_process_again(
        self, simulator: Simulator
    ) -> None:
        simulator.keys = ["another"]
        with Gateway() as gateway, Gateway() as other:
            assert not gateway.try_open()
            assert not gateway.try_open()
            assert not other.try_open()
        assert len(simulator.requests) == 1
        assert own_key().is_refused

    def test_a_failed_call_after_a_refusal_opens_the_gateway_unproven(
        self, simulator: Simulator
    ) -> None:
        simulator.outage = True
        with Gateway() as gateway:
            assert gateway.try_open()
            assert not gateway.is_proven

    def test_the_gateway_stays_closed_after_a_refusal_if_no_slot_is_free(
        self, simulator: Simulator
    ) -> None:
        spend_budget()
        with Gateway() as gateway:
            assert not gateway.try_open()
        assert simulator.requests == []


class TestUnprovenKey:
    """All processes together make one call with the key, and the others wait for its outcome."""

    @pytest.mark.parametrize(
        ("error", "is_proven"),
        [(None, True), (Refused("No."), True), (OutcomeUnknown("What?"), False)],
    )
    def test_processes_wait_while_another_one_tries_an_unproven_key(
        self, error: ProviderError | None, is_proven: bool
    ) -> None:
        with Gateway() as one, Gateway() as other:
            price = begin(one)
            assert other.begin(Purpose.CHECKING) is None
            assert 0 < other.wait_for(Purpose.CHECKING) < 1
            # A process makes its own calls one after the other: the price, then the order.
            order = begin(one, Purpose.PLACING)
            one.release(price)
            assert other.begin(Purpose.CHECKING) is None
            one.finish(order, error)
            assert other.wait_for(Purpose.CHECKING) == 0
            begin(other)
            assert (one.is_proven, other.is_proven) == (is_proven, is_proven)
            assert (one.begin(Purpose.CHECKING) is not None) is is_proven

    @pytest.mark.parametrize("error", [AccessDenied("No."), RateLimited("Slower.")])
    def test_a_process_that_waited_for_the_try_of_a_key_sees_the_pause(
        self, error: ProviderError
    ) -> None:
        with Gateway() as one, Gateway() as other:
            slot = begin(one)
            assert other.is_open
            one.finish(slot, error)
            assert other.begin(Purpose.CHECKING) is None
            assert not other.is_open
        assert lease(Lease.KEY_PROBE).until is None

    def test_a_process_without_a_slot_does_not_keep_others_from_trying_the_key(self) -> None:
        spend_budget(but=1)
        with Gateway() as one, Gateway() as other:
            assert one.begin(Purpose.CHECKING) is None
            begin(other, Purpose.PLACING)

    def test_processes_wait_while_an_order_is_sent_with_an_unproven_key(
        self, simulator: Simulator
    ) -> None:
        spend_budget(but=2)
        with Gateway() as one, Gateway() as other:
            begin(one, Purpose.PLACING)
            assert one.prices.price(PSN, "type_001") is None
            assert other.begin(Purpose.PLACING) is None
        assert simulator.requests == []

    @pytest.mark.parametrize("ending", [Gateway.close, Gateway.flush])
    def test_closing_or_flushing_the_gateway_gives_the_key_probe_back(
        self, ending: Callable[[Gateway], None]
    ) -> None:
        with Gateway() as gateway:
            begin(gateway)
            ending(gateway)
            assert lease(Lease.KEY_PROBE).until is None

    def test_the_try_of_a_key_is_taken_over_from_a_dead_process(self) -> None:
        with Gateway() as dead, Gateway() as heir:
            slot = begin(dead)
            Lease.objects.update(until=ago(0))
            assert heir.wait_for(Purpose.CHECKING) == 0
            begin(heir)
            # If the first process was only slow, it does not begin a call in parallel to its
            # successor.
            assert dead.begin(Purpose.CHECKING) is None
            dead.finish(slot, OutcomeUnknown("Late."))
            assert lease(Lease.KEY_PROBE).until is not None


class TestProvenKey:
    """An accepted key counts as good for a while, during which every process makes calls."""

    def test_a_proven_key_stays_proven_for_two_minutes(self) -> None:
        prove_key()
        with Gateway() as gateway, Gateway() as other:
            assert gateway.is_proven
            begin(gateway)
            begin(other)
        ApiKey.objects.update(accepted_at=ago(121))
        with Gateway() as gateway:
            assert not gateway.is_proven

    def test_a_proven_key_stays_proven_while_calls_go_well(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(None)
            ApiKey.objects.update(accepted_at=ago(100))
            begin(gateway)
            gateway.record_outcome(None)
            assert ago(9) < own_key().accepted_at  # type: ignore[operator]
            assert gateway.try_open()
            assert gateway.is_proven

    @pytest.mark.parametrize(
        ("error", "is_proven"),
        [
            (AccessDenied("No."), False),
            (OutcomeUnknown("Failed."), False),
            (RateLimited("Slower."), True),
        ],
    )
    def test_a_refusal_or_an_outage_but_no_rate_limit_ends_the_proof_of_a_key(
        self, error: ProviderError, is_proven: bool
    ) -> None:
        prove_key()
        with Gateway() as gateway:
            gateway.record_outcome(error)
            gateway.flush()
            with Gateway() as other:
                assert other.is_proven is is_proven

    def test_the_proof_of_a_key_ends_when_a_person_resumes(self) -> None:
        prove_key()
        with Gateway() as gateway:
            gateway.record_outcome(RateLimited("Slower."))
            ProviderState.objects.resume()
            assert gateway.try_open()
            assert not gateway.is_proven

    def test_the_proof_of_a_key_does_not_hold_for_another_key(self, set_conf: Setter) -> None:
        prove_key()
        set_conf(API_KEY="another")
        with Gateway() as gateway:
            assert not gateway.is_proven

    def test_a_success_from_before_a_refusal_does_not_prove_the_key(self) -> None:
        with Gateway() as gateway, Gateway() as other:
            other.record_outcome(AccessDenied("Revoked."))
            gateway.record_outcome(None)
            ProviderState.objects.resume()
            with Gateway() as third:
                assert not third.is_proven


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_right", [True, False])
def test_of_many_concurrent_processes_one_finds_out_if_the_key_is_right(
    is_right: bool, simulator: Simulator, shared_database: str
) -> None:
    if not is_right:
        simulator.keys = ["another"]
    came_meanwhile: list[int] = []

    def hold(request: Request) -> None:
        if len(simulator.requests) == 1:
            time.sleep(0.5)
            came_meanwhile.append(len(simulator.requests) - 1)

    simulator.on_request = hold

    def place() -> str:
        with Gateway() as gateway:
            return send_now(record_order(**LINE, reference=None), gateway).status

    assert in_threads(6, place) == ["HANDLING" if is_right else "PENDING"] * 6
    assert came_meanwhile == [0]
    assert is_right or len(simulator.requests) == 1


GOOD, BAD = "good-key", "bad-key"


class TestSeveralKeys:
    """Rolling restarts: processes with the old key and the new one run side by side."""

    @pytest.fixture(autouse=True)
    def _one_of_them_is_good(self, simulator: Simulator) -> None:
        simulator.keys = [GOOD]

    @pytest.fixture
    def use(self, set_conf: Setter) -> Callable[..., str]:
        """Return a function that sends an order with an API key and returns the order's status."""

        def send(api_key: str, **values: object) -> str:
            set_conf(API_KEY=api_key, **values)
            with Gateway() as gateway:
                status = send_now(record_order(**LINE, reference=None), gateway).status
                gateway.flush()
            return str(status)

        return send

    def test_a_good_and_a_bad_key_used_in_turns_cause_one_wrong_call(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        sent = [use(key) for _turn in range(4) for key in (GOOD, BAD)]
        assert sent == ["HANDLING", "PENDING"] * 4
        assert wrong_calls(simulator) == 1

    def test_several_bad_keys_cause_one_wrong_call_each(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        for _turn in range(2):
            for key in ("bad-1", GOOD, "bad-2", GOOD, "bad-3"):
                use(key)
        assert wrong_calls(simulator) == 3
        assert use(GOOD) == "HANDLING"

    def test_a_bad_key_beside_swapped_encryption_keys_causes_one_wrong_call(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        old, new = generate_key(), generate_key()
        for _turn in range(2):
            for keys in ([old], [old, new], [new, old], [new]):
                assert use(BAD, ENCRYPTION_KEYS=keys) == "PENDING"
                assert use(GOOD, ENCRYPTION_KEYS=keys) == "HANDLING"
        assert wrong_calls(simulator) == 1

    def test_a_bad_key_causes_one_more_wrong_call_when_a_person_resumes(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        for resumed in range(1, 3):
            for _turn in range(2):
                use(BAD)
                use(GOOD)
            assert wrong_calls(simulator) == resumed
            assert ProviderState.objects.resume()

    def test_a_refused_key_that_the_provider_has_corrected_is_proven_after_resuming(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        use(BAD)
        simulator.keys = [GOOD, BAD]
        assert use(BAD) == "PENDING"
        ProviderState.objects.resume()
        assert use(BAD) == "HANDLING"
        assert own_key().is_proven(timezone.now())
        assert wrong_calls(simulator) == 1

    def test_a_good_key_waits_out_the_block_that_bad_keys_have_caused(
        self, use: Callable[..., str], simulator: Simulator
    ) -> None:
        for number in range(simulator.lockout):
            use(f"bad-{number}")
        simulator.forget_requests()
        assert [use(GOOD) for _turn in range(3)] == ["PENDING"] * 3
        assert len(simulator.requests) == 1
        assert provider_state().pause == "access"


@pytest.mark.django_db(transaction=True)
def test_of_many_processes_with_two_keys_one_finds_out_that_one_key_is_wrong(
    simulator: Simulator, shared_database: str, settings: Any
) -> None:
    simulator.keys = [GOOD]
    turn = itertools.count()
    opening = threading.Lock()

    def place() -> tuple[str, str]:
        # A gateway has the key that was in the settings when it was made.
        with opening:
            key = (GOOD, BAD)[next(turn) % 2]
            settings.GIFTCARDS = {**settings.GIFTCARDS, "API_KEY": key}
            gateway = Gateway()
        with gateway:
            return key, send_now(record_order(**LINE, reference=None), gateway).status

    assert sorted(in_threads(8, place)) == [(BAD, "PENDING")] * 4 + [(GOOD, "HANDLING")] * 4
    assert wrong_calls(simulator) == 1
