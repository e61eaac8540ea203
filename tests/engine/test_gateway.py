"""The shared connection to the provider: calls, pauses, recorded failures, and the list."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
from django.db import DatabaseError, connection
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.exceptions import (
    AccessDenied,
    ConfigurationError,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
)
from giftcards.keys.keyring import key_fingerprint
from giftcards.models import ProviderState
from giftcards.rules.purposes import Purpose
from giftcards.simulator import Simulator
from tests.builders import make_order
from tests.stage import (
    PROVIDER,
    Log,
    Setter,
    Wire,
    ago,
    end_pause,
    failing,
    messages,
    own_key,
    provider_state,
    slots_in_use,
    spend_budget,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

STOPPED = (
    "%s All requests to the provider are paused until the key in the settings changes or you run"
    " `manage.py giftcards_poll --resume`."
)


def once(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Return the wrapper, which then ignores the queries that it makes itself."""
    is_inside = False

    def run(execute: Any, *arguments: Any) -> Any:
        nonlocal is_inside
        if is_inside:
            return execute(*arguments)
        is_inside = True
        try:
            return wrapper(execute, *arguments)
        finally:
            is_inside = False

    return run


def test_a_gateway_cannot_be_made_without_encryption_keys(set_conf: Setter) -> None:
    """Without these keys, the app could buy cards that it cannot store."""
    set_conf(ENCRYPTION_KEYS=[])
    with pytest.raises(ConfigurationError):
        Gateway()


class TestRefusedKey:
    def test_a_refused_key_stops_every_process_that_has_it(self, caplog: Log) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.record_outcome(None)
            assert gateway.try_open()
            gateway.record_outcome(AccessDenied("No.", status=401))
            assert not gateway.is_proven
            assert not gateway.is_open
            assert not gateway.reopens_by_itself()
            assert other.begin(Purpose.CHECKING) is None
            assert not other.try_open()
            # The refusal is reported once.
            other.record_outcome(AccessDenied("No.", status=401))
        assert (own_key().is_refused, own_key().refusal) == (True, "No.")
        assert provider_state().paused_because == "access"
        assert messages(caplog) == [STOPPED % "No."]

    def test_a_refused_key_does_not_stop_another_key_until_that_is_refused(
        self, set_conf: Setter, caplog: Log
    ) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("First."))
        set_conf(API_KEY="another")
        with Gateway() as renewed:
            assert renewed.try_open()
            assert renewed.reopens_by_itself()
            assert provider_state().paused_because == ""
            renewed.record_outcome(AccessDenied("Second."))
            assert not renewed.try_open()
        assert messages(caplog) == [STOPPED % "First.", STOPPED % "Second."]

    def test_a_refused_key_stays_refused_while_another_key_succeeds(self, set_conf: Setter) -> None:
        with Gateway() as refused:
            refused.record_outcome(AccessDenied("No."))
            set_conf(API_KEY="another")
            with Gateway() as good:
                good.record_outcome(None)
                good.flush()
            assert not refused.try_open()
            assert refused.begin(Purpose.CHECKING) is None

    def test_the_refusal_of_a_key_ends_when_a_person_resumes(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No."))
            assert ProviderState.objects.resume() is True
            assert gateway.try_open()
            assert ProviderState.objects.resume() is False

    def test_the_refusal_of_a_key_outlives_successes_that_came_just_before(self) -> None:
        """Of four requests under way, some may have been answered while the key was still good."""
        with Gateway() as gateway, Gateway() as other:
            gateway.record_outcome(None)
            other.record_outcome(None)
            gateway.record_outcome(AccessDenied("Revoked."))
            gateway.flush()
            other.flush()
            assert not gateway.try_open()
        assert own_key().is_refused
        assert provider_state().succeeded_at is not None

    def test_the_refusal_of_a_key_does_not_end_with_another_pause(self) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.record_outcome(RateLimited("Slower."))
            end_pause()
            assert gateway.try_open()
            gateway.record_outcome(None)
            other.record_outcome(AccessDenied("No.", status=401))
            gateway.flush()
        assert own_key().is_refused
        assert not provider_state().is_paused(timezone.now())

    def test_a_refused_key_is_recorded_as_in_use_while_a_process_has_it(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No."))
            assert own_key().stopped_at is None
            began = timezone.now()
            gateway.flush()
        assert began <= own_key().stopped_at <= timezone.now()  # type: ignore[operator]

    @pytest.mark.django_db(transaction=True)
    def test_the_refusal_of_a_key_counts_even_if_it_cannot_be_stored_at_first(
        self, caplog: Log
    ) -> None:
        error = DatabaseError("no such column: refusal")
        with Gateway() as gateway:
            with failing("UPDATE", "giftcards_apikey", error=error):
                with pytest.raises(DatabaseError):
                    gateway.record_outcome(AccessDenied("No."))
                assert not gateway.is_open
                for attempt in (gateway.try_open, lambda: gateway.begin(Purpose.CHECKING)):
                    with pytest.raises(DatabaseError):
                        attempt()
            assert not own_key().is_refused
            assert gateway.begin(Purpose.CHECKING) is None
        assert own_key().is_refused
        assert messages(caplog) == [STOPPED % "No."]

    def test_the_record_of_a_refused_key_does_not_contain_the_key(self, settings: Any) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No."))
        key = settings.GIFTCARDS["API_KEY"]
        assert own_key().pk == key_fingerprint(key)
        assert key not in str(vars(own_key()))


class TestBlockedAddress:
    BLOCKED = AccessDenied("Blocked.", status=403, code="IP_BLOCKED")

    def test_a_blocked_address_pauses_every_key_for_fifteen_minutes(
        self, set_conf: Setter, caplog: Log
    ) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            gateway.record_outcome(self.BLOCKED)
            until = provider_state().paused_until
            assert began <= until - timedelta(minutes=15) <= timezone.now()
            assert not gateway.try_open()
        set_conf(API_KEY="another")
        with Gateway() as other:
            assert not other.try_open()
            assert other.reopens_by_itself()
            assert other.reopens_within(timedelta(minutes=16))
            assert not other.reopens_within(timedelta(minutes=14))
        assert provider_state().paused_because == "access"
        assert messages(caplog) == ["Blocked. Calls resume in 900 s."]

    def test_a_refused_key_stays_refused_when_the_block_of_the_address_ends(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(AccessDenied("No."))
            gateway.record_outcome(self.BLOCKED)
            end_pause()
            assert not gateway.try_open()

    @pytest.mark.parametrize(
        ("of_another", "seconds", "error"),
        [("rate", 60, BLOCKED), ("access", 900, RateLimited("Slower."))],
    )
    def test_of_a_block_and_a_rate_limit_pause_of_the_same_moment_the_block_stays(
        self, of_another: str, seconds: float, error: ProviderError
    ) -> None:
        def pause(execute: Any, sql: str, *arguments: Any) -> Any:
            """Let another process store its pause while this process is about to store one."""
            if sql.startswith("UPDATE") and provider_state().pause == "":
                until = ago(-seconds)
                values = {"pause": of_another, "paused_at": ago(0), "paused_until": until}
                ProviderState.objects.filter(pk=1).update(**values)
            return execute(sql, *arguments)

        with Gateway() as gateway, connection.execute_wrapper(once(pause)):
            gateway.record_outcome(error)
        assert provider_state().pause == "access"


class TestTooManyRequests:
    @pytest.mark.parametrize(
        ("asked_for", "seconds"), [(None, 60), (0, 5), (7, 7), (900, 900), (86_400, 900)]
    )
    def test_too_many_requests_pause_calls_for_5_to_900_seconds_as_asked(
        self, asked_for: float | None, seconds: int, caplog: Log, set_conf: Setter
    ) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            gateway.record_outcome(None)
            gateway.record_outcome(RateLimited("Slower.", retry_after=asked_for))
            assert gateway.is_proven
            until = provider_state().paused_until
            assert began <= until - timedelta(seconds=seconds) <= timezone.now()
            assert not gateway.try_open()
            assert gateway.reopens_by_itself()
        assert provider_state().pause == "rate"
        assert messages(caplog) == [f"Slower. Calls resume in {seconds} s."]
        # The pause applies to every key.
        set_conf(API_KEY="another")
        with Gateway() as renewed:
            assert not renewed.try_open()

    @pytest.mark.parametrize("error", [RateLimited("Slower."), TestBlockedAddress.BLOCKED])
    def test_a_rate_limit_pause_or_a_block_is_over_by_itself(self, error: ProviderError) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(error)
            end_pause()
            assert gateway.try_open()
            assert gateway.reopens_by_itself()
            gateway.record_outcome(None)
            gateway.flush()
        assert not provider_state().is_paused(timezone.now())
        assert not provider_state().was_blocked

    def test_the_longest_of_several_rate_limit_pauses_counts(self, caplog: Log) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            for seconds in (20, 40, 10):
                gateway.record_outcome(RateLimited("Slower.", retry_after=seconds))
        until = provider_state().paused_until
        assert began <= until - timedelta(seconds=40) <= timezone.now()
        # The pause is reported once, because the problem is the same.
        assert messages(caplog) == ["Slower. Calls resume in 20 s."]


@pytest.mark.parametrize("error", [Refused, NotFound])
def test_a_request_that_is_refused_or_not_found_stops_no_other_calls(
    error: type[ProviderError], caplog: Log
) -> None:
    with Gateway() as gateway:
        gateway.record_outcome(error("Failed."))
        # The provider is available and accepts the key.
        assert gateway.is_proven
        gateway.flush()
        assert gateway.try_open()
    assert provider_state().failure == "Failed."
    assert (provider_state().pause, provider_state().outages) == ("", 0)
    assert messages(caplog) == []


class TestOutage:
    @pytest.mark.parametrize("error", [TryLater, OutcomeUnknown])
    def test_one_failure_among_successes_is_no_outage(
        self, error: type[ProviderError], caplog: Log
    ) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(None)
            gateway.record_outcome(error("Failed."))
            gateway.flush()
            assert gateway.try_open()
            assert gateway.is_proven
        assert provider_state().failure == "Failed."
        assert (provider_state().pause, provider_state().outages) == ("", 0)
        assert messages(caplog) == []

    @pytest.mark.parametrize("error", [TryLater, OutcomeUnknown])
    def test_nothing_but_failures_pauses_every_process_longer_each_time(
        self, error: type[ProviderError]
    ) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.record_outcome(None)
            gateway.flush()
            for number, seconds in enumerate([1, 2, 4, 8, 15, 15], start=1):
                began = timezone.now()
                # The failure of one call alone does not cause a pause, so the sweep continues to
                # its end.
                gateway.record_outcome(error("Failed."))
                assert gateway.try_open()
                gateway.flush()
                assert not gateway.try_open()
                assert not other.try_open()
                assert gateway.reopens_by_itself()
                assert not gateway.is_proven
                until = provider_state().paused_until
                assert 0.75 * seconds <= (until - began).total_seconds() <= 1.25 * seconds + 1
                assert (provider_state().pause, provider_state().outages) == ("outage", number)
                end_pause()
                assert gateway.try_open()

    def test_calls_count_as_paused_since_the_outage_began_until_one_succeeds(self) -> None:
        with Gateway() as gateway:
            began = None
            for error in (OutcomeUnknown("Failed."), TryLater("Away."), OutcomeUnknown("x")):
                gateway.record_outcome(error)
                gateway.flush()
                began = began or provider_state().paused_at
                assert provider_state().paused_since == began
                # A minute passes, and the next try fails as well.
                ProviderState.objects.update(paused_until=ago(60))
            gateway.record_outcome(None)
            gateway.flush()
            gateway.record_outcome(OutcomeUnknown("Failed."))
            gateway.flush()
        since = provider_state().paused_since
        assert since > began

    @pytest.mark.parametrize(
        ("story", "paused", "is_out_of_service"),
        [
            (["web-1 fails"], {"web-1"}, True),
            (["web-1 fails", "web-2 is answered"], {"web-1"}, False),
            # The outage is confirmed: the provider is down.
            (["web-1 fails", "web-2 fails"], {"web-1", "web-2", "web-3"}, True),
            (["web-1 fails", "web-1 fails", "web-2 fails"], {"web-1", "web-2", "web-3"}, True),
            # The outage is not confirmed, because the provider answered between the two failures.
            (["web-1 fails", "web-3 is answered", "web-2 fails"], {"web-2"}, True),
        ],
    )
    def test_an_outage_pauses_the_machine_that_has_it_until_another_machine_has_one_too(
        self,
        story: list[str],
        paused: set[str],
        is_out_of_service: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        gateways: dict[str, Gateway] = {}

        def be(machine: str) -> Gateway:
            monkeypatch.setattr("socket.gethostname", lambda: machine)
            return gateways.setdefault(machine, Gateway())

        for event in story:
            machine, _, what = event.partition(" ")
            gateway = be(machine)
            gateway.record_outcome(OutcomeUnknown("Failed.") if what == "fails" else None)
            gateway.flush()
        machines = ("web-1", "web-2", "web-3")
        assert {machine for machine in machines if not be(machine).try_open()} == paused
        assert provider_state().is_out_of_service(timezone.now()) is is_out_of_service
        for gateway in gateways.values():
            gateway.close()

    def test_the_outage_of_one_machine_goes_on_although_others_are_answered(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(1, 4):
            monkeypatch.setattr("socket.gethostname", lambda: "web-1")
            with Gateway() as gateway:
                gateway.record_outcome(OutcomeUnknown("Failed."))
                gateway.flush()
            assert (provider_state().outages, provider_state().paused_by) == (number, "web-1")
            monkeypatch.setattr("socket.gethostname", lambda: "web-2")
            with Gateway() as gateway:
                gateway.record_outcome(None)
                gateway.flush()
        text = provider_state().explain_pause().text
        assert text == "The server web-1 cannot reach the provider."

    def test_an_outage_is_over_with_the_first_success(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(OutcomeUnknown("Failed."))
            gateway.flush()
            end_pause()
            assert gateway.try_open()
            gateway.record_outcome(None)
            gateway.flush()
        state = provider_state()
        assert (state.is_paused(timezone.now()), state.outages) == (False, 0)

    def test_a_path_that_is_not_routed_is_no_outage(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(OutcomeUnknown("Failed.", status=404))
            gateway.flush()
            assert gateway.try_open()


class TestCalls:
    """Each call takes a slot of the request quota, and the app records its outcome."""

    def test_a_call_that_succeeds_returns_its_result_and_proves_the_key(
        self, simulator: Simulator
    ) -> None:
        with Gateway() as gateway:
            assert gateway.ask(gateway.client.balance, Purpose.CHECKING) is not None
            assert gateway.is_proven
        assert len(simulator.requests) == slots_in_use() == 1

    def test_a_call_that_is_denied_raises_and_closes_the_gateway(
        self, simulator: Simulator
    ) -> None:
        simulator.keys = ["another"]
        with Gateway() as gateway:
            with pytest.raises(AccessDenied):
                gateway.ask(gateway.client.balance, Purpose.CHECKING)
            assert not gateway.is_open
            assert gateway.ask(gateway.client.balance, Purpose.CHECKING) is None
        assert len(simulator.requests) == slots_in_use() == 1

    @pytest.mark.parametrize("times", [1, 2])
    def test_a_call_that_broke_off_is_repeated_once_and_takes_a_slot_each_time(
        self, times: int, wire: Wire
    ) -> None:
        url = f"{PROVIDER}/v3/account/balance"
        for _time in range(times):
            wire.get(url, body=requests.ConnectionError("stale"))
        wire.get(url, json={"success": True, "data": {"balance": 5}})
        with Gateway() as gateway, contextlib.ExitStack() as stack:
            if times == 2:
                stack.enter_context(pytest.raises(OutcomeUnknown))
            gateway.ask(gateway.client.balance, Purpose.CHECKING)
        assert len(wire.calls) == slots_in_use() == 2

    def test_a_call_that_broke_off_is_not_repeated_without_a_slot(self, wire: Wire) -> None:
        wire.get(f"{PROVIDER}/v3/account/balance", body=requests.ConnectionError("stale"))
        spend_budget(but=1)
        with Gateway() as gateway, pytest.raises(OutcomeUnknown):
            gateway.ask(gateway.client.balance, Purpose.PLACING)
        assert len(wire.calls) == 1

    @pytest.mark.parametrize("purpose", Purpose)
    def test_no_call_is_made_when_the_request_budget_is_spent(
        self, purpose: Purpose, simulator: Simulator
    ) -> None:
        spend_budget()
        with Gateway() as gateway:
            assert gateway.begin(purpose) is None
            assert gateway.ask(gateway.client.balance, purpose) is None
            assert gateway.wait_for(purpose) == pytest.approx(60, abs=5)
        assert simulator.requests == []

    def test_a_call_that_was_not_made_leaves_its_slot_and_the_key_to_others(self) -> None:
        spend_budget(but=1)
        with Gateway() as one, Gateway() as other:
            slot = one.begin(Purpose.PLACING)
            assert slot is not None
            assert other.begin(Purpose.PLACING) is None
            one.give_back(slot)
            assert other.begin(Purpose.PLACING) is not None

    def test_a_bug_in_a_call_is_logged_without_its_text(self, caplog: Log) -> None:
        with Gateway() as gateway:
            slot = gateway.begin(Purpose.CHECKING)
            assert slot is not None
            gateway.finish(slot, ValueError("CANARY"))
        assert messages(caplog) == ["A call to the provider failed: ValueError"]


class TestListInUse:
    def test_the_list_is_due_again_one_interval_after_it_was_read(self) -> None:
        with Gateway() as gateway:
            assert (gateway.is_list_read, gateway.list_turn()) == (False, None)
            gateway.note_list_read()
            assert gateway.is_list_read
            turn = gateway.list_turn()
            gateway.flush()
        assert provider_state().list_read_at + timedelta(seconds=conf.poll_interval) == turn  # type: ignore[operator]
        with Gateway() as other:
            assert (other.is_list_read, other.list_turn()) == (True, turn)

    def test_the_list_stays_read_whatever_other_processes_store_meanwhile(self) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.note_list_read()
            assert gateway.try_open()
            assert gateway.is_list_read
            gateway.flush()
            # An earlier state that another process read does not undo it.
            other.flush()
        with Gateway() as third:
            assert third.is_list_read

    def test_the_list_no_longer_counts_as_read_after_two_intervals(self) -> None:
        with Gateway() as gateway:
            gateway.note_list_read()
            gateway.flush()
        ProviderState.objects.update(list_read_at=ago(2 * conf.poll_interval))
        with Gateway() as gateway:
            assert (gateway.is_list_read, gateway.list_turn()) == (False, None)

    def test_the_list_no_longer_counts_as_read_once_it_was_given_up(self) -> None:
        with Gateway() as gateway:
            gateway.note_list_read()
            gateway.give_up_list(timedelta(seconds=30))
            assert not gateway.is_list_useful
            assert (gateway.is_list_read, gateway.list_turn()) == (False, None)
            gateway.flush()
        with Gateway() as other:
            assert not other.is_list_useful
            assert not other.is_list_read
            ProviderState.objects.update(list_usable_at=ago(1))
            other.try_open()
            assert other.is_list_useful


class TestNote:
    def test_a_gateway_without_calls_records_only_the_time_of_the_sweep(self) -> None:
        began = timezone.now()
        with Gateway() as gateway:
            gateway.flush()
        assert began <= provider_state().swept_at <= timezone.now()  # type: ignore[operator]
        state = provider_state()
        assert (state.succeeded_at, state.failed_at, state.failure) == (None, None, "")

    def test_outcomes_of_calls_are_recorded_once(self) -> None:
        with Gateway() as gateway:
            gateway.record_outcome(None)
            gateway.record_outcome(OutcomeUnknown("Failed."))
            gateway.flush()
            assert provider_state().succeeded_at is not None
            assert provider_state().failed_at is not None
            ProviderState.objects.update(succeeded_at=None, failed_at=None)
            gateway.flush()
        assert (provider_state().succeeded_at, provider_state().failed_at) == (None, None)
        assert provider_state().failure == "Failed."

    @pytest.mark.parametrize(
        ("known", "right"), [("", "checkOrder"), ("checkOrder", "check-order")]
    )
    def test_the_spelling_of_the_path_that_works_is_remembered(
        self, known: str, right: Any, simulator: Simulator
    ) -> None:
        ProviderState.objects.create(check_path=known)
        simulator.spelling = right
        for _process in range(2):
            with Gateway() as gateway:
                for _question in range(2):
                    with pytest.raises(ProviderError):
                        gateway.client.check("A1")
                gateway.flush()
        asked = [request.path.split("/")[3] for request in simulator.requests]
        assert asked == [known or "check-order"] + [right] * 3
        assert provider_state().check_path == right

    def test_a_spelling_that_has_answered_before_is_kept_after_a_routing_failure(
        self, simulator: Simulator
    ) -> None:
        """A router may lose the path for a moment, which does not make the other spelling right."""
        with Gateway() as gateway:
            with pytest.raises(NotFound):
                gateway.client.check("A1")
            simulator.spelling = "checkOrder"
            with pytest.raises(OutcomeUnknown):
                gateway.client.check("A1")
            assert gateway.client.check_path == "checkOrder"
            gateway.flush()
        assert provider_state().check_path == "check-order"


def test_the_api_key_is_not_logged_when_a_call_fails(
    simulator: Simulator, caplog: Log, settings: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.keys = ["another"]
    with Gateway() as gateway:
        with pytest.raises(AccessDenied) as caught:
            gateway.client.check(str(make_order().pk))
        gateway.record_outcome(caught.value)
    assert caplog.text
    assert settings.GIFTCARDS["API_KEY"] not in caplog.text
