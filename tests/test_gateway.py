"""The shared way to the provider: pauses, the memory of trouble, prices."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import requests
import responses
from django.db import connection
from django.utils import timezone

from giftcards.crypto import key_fingerprint
from giftcards.exceptions import (
    AccessDenied,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
)
from giftcards.fulfilment import record_order, send_now
from giftcards.gateway import Gateway
from giftcards.models import ProviderState
from giftcards.simulator import Request, Simulator
from tests.engine import (
    LINE,
    PRICES,
    PROVIDER,
    PSN,
    ago,
    end_pause,
    in_threads,
    make_order,
    messages,
)

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = pytest.mark.django_db

STOPPED = (
    "%s Every call to the provider is stopped until the key in the settings changes or you run"
    " `manage.py giftcards_poll --resume`."
)


def state() -> ProviderState:
    return ProviderState.objects.get()


def prove() -> None:
    """The provider has accepted the key just now."""
    with Gateway() as gateway:
        gateway.heard(None)


def once(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper of queries without those that it makes itself."""
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


class TestRefusedKey:
    def test_stops_every_process(self, caplog: pytest.LogCaptureFixture) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.heard(None)
            assert gateway.is_open()
            assert gateway.heard(AccessDenied("No.", status=401)) is False
            assert not gateway.is_proven
            assert not gateway.is_open()
            assert not gateway.may_reopen()
            assert not other.is_open()
        assert state().pause == "access"
        assert state().pause_detail == "No."
        assert state().paused_until is None
        assert messages(caplog) == [STOPPED % "No."]

    def test_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with Gateway() as gateway, Gateway() as other:
            for each in (gateway, other, other):
                each.heard(AccessDenied("No.", status=401))
        assert messages(caplog) == [STOPPED % "No."]

    def test_a_blocked_address_is_let_in_again(self) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            gateway.heard(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
            until = state().paused_until
            assert until is not None
            assert began <= until - timedelta(minutes=15) <= timezone.now()
            assert not gateway.is_open()
            ProviderState.objects.update(paused_until=ago(1))
            assert gateway.is_open()
            assert gateway.may_reopen()

    def test_ends_with_another_key(self, set_conf: Callable[..., None]) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("No."))
        set_conf(API_KEY="another")
        with Gateway() as renewed:
            assert renewed.is_open()
            assert renewed.may_reopen()
            assert state().pause == "access"  # it may be refused as well
            renewed.heard(None)
            renewed.note()
        assert state().pause == ""

    def test_another_key_may_be_refused_too(
        self, set_conf: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("First."))
        set_conf(API_KEY="another")
        with Gateway() as renewed:
            renewed.heard(AccessDenied("Second."))
            assert not renewed.is_open()
        assert messages(caplog) == [STOPPED % "First.", STOPPED % "Second."]

    def test_ends_when_a_person_says_so(self) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("No."))
            assert ProviderState.objects.resume() is True
            assert gateway.is_open()
            assert ProviderState.objects.resume() is False

    def test_outlives_the_answers_that_came_just_before(self) -> None:
        """With four requests under way, some may have been answered with the key still good."""
        with Gateway() as gateway, Gateway() as other:
            gateway.heard(None)
            other.heard(None)
            gateway.heard(AccessDenied("Revoked."))
            gateway.note()
            other.note()
            assert not gateway.is_open()
        assert state().pause == "access"
        assert state().succeeded_at is not None

    def test_is_not_ended_with_another_pause(self) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.heard(RateLimited("Slower."))
            end_pause()
            assert gateway.is_open()
            gateway.heard(None)
            other.heard(AccessDenied("No.", status=401))
            gateway.note()
        assert state().pause == "access"

    def test_replaces_another_of_the_same_moment(self) -> None:
        def slow_down(execute: Any, sql: str, *arguments: Any) -> Any:
            """Another process is told to wait while this one writes down that it is refused."""
            if sql.startswith("UPDATE") and state().pause == "":
                until = ago(-60)
                values = {"pause": "rate", "paused_at": ago(0), "paused_until": until}
                ProviderState.objects.filter(pk=1).update(**values)
            return execute(sql, *arguments)

        with Gateway() as gateway, connection.execute_wrapper(once(slow_down)):
            gateway.heard(AccessDenied("No.", status=401))
        assert (state().pause, state().paused_until) == ("access", None)

    def test_is_not_replaced_by_one_of_the_same_moment(self, settings: Any) -> None:
        key = key_fingerprint(settings.GIFTCARDS["API_KEY"])

        def refuse(execute: Any, sql: str, *arguments: Any) -> Any:
            """Another process is refused while this one writes down that it is to wait."""
            if sql.startswith("UPDATE") and state().pause == "":
                values = {"pause": "access", "paused_at": ago(0), "paused_key": key}
                ProviderState.objects.filter(pk=1).update(**values)
            return execute(sql, *arguments)

        with Gateway() as gateway, connection.execute_wrapper(once(refuse)):
            gateway.heard(RateLimited("Slower."))
        assert state().pause == "access"

    def test_leaves_no_trace_of_the_key(self, settings: Any) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("No."))
        key = settings.GIFTCARDS["API_KEY"]
        assert state().paused_key == key_fingerprint(key)
        assert key not in str(vars(state()))


class TestTooManyRequests:
    @pytest.mark.parametrize(
        ("asked_for", "seconds"), [(None, 60), (0, 5), (7, 7), (900, 900), (86_400, 900)]
    )
    def test_pauses(
        self, asked_for: float | None, seconds: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            assert gateway.heard(RateLimited("Slower.", retry_after=asked_for)) is False
            until = state().paused_until
            assert until is not None
            assert began <= until - timedelta(seconds=seconds) <= timezone.now()
            assert not gateway.is_open()
            assert gateway.may_reopen()
        assert state().pause == "rate"
        assert messages(caplog) == [f"Slower. Calls go on in {seconds} s."]

    def test_is_over_by_itself(self) -> None:
        with Gateway() as gateway:
            gateway.heard(RateLimited("Slower."))
            ProviderState.objects.update(paused_until=ago(1))
            assert gateway.is_open()
            gateway.heard(None)
            gateway.note()
        assert state().pause == ""
        assert state().paused_until is None

    def test_the_longest_of_several_answers_counts(self, caplog: pytest.LogCaptureFixture) -> None:
        with Gateway() as gateway:
            began = timezone.now()
            for seconds in (20, 40, 10):
                gateway.heard(RateLimited("Slower.", retry_after=seconds))
        until = state().paused_until
        assert until is not None
        assert began <= until - timedelta(seconds=40) <= timezone.now()
        # Said once: it is one and the same trouble.
        assert messages(caplog) == ["Slower. Calls go on in 20 s."]

    def test_keeps_the_key_proven(self) -> None:
        with Gateway() as gateway:
            gateway.heard(None)
            gateway.heard(RateLimited("Slower."))
            assert gateway.is_proven

    def test_holds_for_every_key(self, set_conf: Callable[..., None]) -> None:
        with Gateway() as gateway:
            gateway.heard(RateLimited("Slower."))
        set_conf(API_KEY="another")
        with Gateway() as renewed:
            assert not renewed.is_open()


@pytest.mark.parametrize("error", [Refused, NotFound])
def test_a_refusal_of_one_thing_stops_nothing(
    error: type[ProviderError], caplog: pytest.LogCaptureFixture
) -> None:
    with Gateway() as gateway:
        assert gateway.heard(error("Failed.")) is True
        # The provider is there and knows the key.
        assert gateway.is_proven
        gateway.note()
        assert gateway.is_open()
    assert state().failure == "Failed."
    assert (state().pause, state().outages) == ("", 0)
    assert messages(caplog) == []


class TestOutage:
    @pytest.mark.parametrize("error", [TryLater, OutcomeUnknown])
    def test_one_failure_among_successes_stops_nothing(
        self, error: type[ProviderError], caplog: pytest.LogCaptureFixture
    ) -> None:
        with Gateway() as gateway:
            gateway.heard(None)
            assert gateway.heard(error("Failed.")) is True
            gateway.note()
            assert gateway.is_open()
            assert gateway.is_proven
        assert state().failure == "Failed."
        assert (state().pause, state().outages) == ("", 0)
        assert messages(caplog) == []

    @pytest.mark.parametrize("error", [TryLater, OutcomeUnknown])
    def test_nothing_but_failures_pauses_everybody_longer_each_time(
        self, error: type[ProviderError]
    ) -> None:
        with Gateway() as gateway, Gateway() as other:
            gateway.heard(None)
            gateway.note()
            for number, seconds in enumerate([1, 2, 4, 8, 15, 15], start=1):
                began = timezone.now()
                # One call's failure alone does not pause: the sweep goes on to its end.
                assert gateway.heard(error("Failed.")) is True
                assert gateway.is_open()
                gateway.note()
                assert not gateway.is_open()
                assert not other.is_open()
                assert gateway.may_reopen()
                assert not gateway.is_proven
                until = state().paused_until
                assert until is not None
                assert 0.75 * seconds <= (until - began).total_seconds() <= 1.25 * seconds + 1
                assert (state().pause, state().outages) == ("outage", number)
                end_pause()
                assert gateway.is_open()

    def test_is_over_with_the_first_success(self) -> None:
        with Gateway() as gateway:
            gateway.heard(OutcomeUnknown("Failed."))
            gateway.note()
            end_pause()
            assert gateway.is_open()
            gateway.heard(None)
            gateway.note()
        assert (state().pause, state().outages) == ("", 0)

    def test_a_path_that_is_not_routed_is_none(self) -> None:
        with Gateway() as gateway:
            gateway.heard(OutcomeUnknown("Failed.", status=404))
            gateway.note()
            assert gateway.is_open()


class TestProbe:
    """After a pause for a refused key, one careful call finds out whether it is good now."""

    @pytest.fixture(autouse=True)
    def _blocked(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            gateway.heard(AccessDenied("Blocked.", status=403, code="IP_BLOCKED"))
        end_pause()

    def test_that_succeeds(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            assert gateway.is_open()
            assert gateway.is_proven
            assert gateway.is_open()
            gateway.note()
        assert [request.path for request in simulator.requests] == ["/v3/validate"]
        assert state().pause == ""

    def test_that_is_refused(self, simulator: Simulator) -> None:
        simulator.keys = ["another"]
        with Gateway() as gateway, Gateway() as other:
            assert not gateway.is_open()
            assert not gateway.is_open()
            assert not other.is_open()
        assert len(simulator.requests) == 1
        assert (state().pause, state().paused_until) == ("access", None)

    def test_that_says_nothing(self, simulator: Simulator) -> None:
        """The next call tells, and only one is made."""
        simulator.outage = True
        with Gateway() as gateway:
            assert gateway.is_open()
            assert not gateway.is_proven


class TestUnprovenKey:
    """All processes together make one call with it, and the others wait for what it brings."""

    @pytest.mark.parametrize(
        ("error", "is_proven"),
        [(None, True), (Refused("No."), True), (OutcomeUnknown("What?"), False)],
    )
    def test_one_call_at_a_time(self, error: ProviderError | None, is_proven: bool) -> None:
        with Gateway() as one, Gateway() as other:
            assert one.afford() == 1
            assert other.afford() == 0
            assert not other.may_begin()
            assert 0 < other.wait_for() < 1
            # Its own calls follow each other: the price, then the order.
            assert one.afford(2, for_placing=True) == 2
            assert one.may_begin()
            one.heard(error)
            assert other.wait_for() == 0
            assert other.afford() == 1
            assert (one.is_proven, other.is_proven) == (is_proven, is_proven)
            assert one.may_begin() is is_proven

    @pytest.mark.parametrize("error", [AccessDenied("No."), RateLimited("Slower.")])
    def test_who_waited_sees_the_pause(self, error: ProviderError) -> None:
        with Gateway() as one, Gateway() as other:
            assert one.afford() == 1
            assert other.allows_calls
            one.heard(error)
            assert other.afford() == 0
            assert not other.allows_calls
        assert state().probe_until is None

    def test_is_given_back_if_no_call_is_made(self, set_conf: Callable[..., None]) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        with Gateway() as one, Gateway() as other:
            assert one.afford(99) == 4
            one.note()
            # No question can be afforded any more, but an order can.
            assert one.afford() == 0
            assert other.afford(for_placing=True) == 1

    def test_is_kept_without_the_price(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        with Gateway() as one, Gateway() as other:
            assert one.afford(99) == 4
            one.note()
            assert one.afford(for_placing=True) == 1
            ProviderState.objects.update(budget_at=None)
            assert one.price(PSN, "type_001") is None
            assert other.afford(for_placing=True) == 0

    def test_is_given_back_at_the_end(self) -> None:
        with Gateway() as gateway:
            assert gateway.afford() == 1
        assert state().probe_until is None

    def test_of_a_process_that_died(self) -> None:
        with Gateway() as dead, Gateway() as heir:
            assert dead.afford() == 1
            ProviderState.objects.update(probe_until=ago(0))
            assert heir.wait_for() == 0
            assert heir.afford() == 1
            # If it only took its time, it does not begin another call beside it.
            assert dead.afford() == 0
            dead.heard(OutcomeUnknown("Late."))
            assert state().probe_until is not None

    def test_is_good_for_a_while_once_it_was_accepted(self) -> None:
        prove()
        with Gateway() as gateway, Gateway() as other:
            assert gateway.is_proven
            assert (gateway.afford(), other.afford()) == (1, 1)
        ProviderState.objects.update(succeeded_at=ago(121))
        with Gateway() as gateway:
            assert not gateway.is_proven

    def test_long_work_keeps_it_good(self) -> None:
        with Gateway() as gateway:
            gateway.heard(None)
            ProviderState.objects.update(succeeded_at=ago(100))
            gateway.heard(None)
            gateway.note()
            assert ago(9) < state().succeeded_at  # type: ignore[operator]
            assert gateway.is_open()
            assert gateway.is_proven

    @pytest.mark.parametrize(
        ("error", "is_proven"),
        [
            (AccessDenied("No."), False),
            (OutcomeUnknown("Failed."), False),
            (RateLimited("Slower."), True),
        ],
    )
    def test_what_ends_that(self, error: ProviderError, is_proven: bool) -> None:
        prove()
        with Gateway() as gateway:
            gateway.heard(error)
            gateway.note()
            end_pause()
            with Gateway() as other:
                assert other.is_proven is is_proven

    def test_a_person_ends_that(self) -> None:
        prove()
        with Gateway() as gateway:
            gateway.heard(RateLimited("Slower."))
            ProviderState.objects.resume()
            assert gateway.is_open()
            assert not gateway.is_proven

    def test_another_key_ends_that(self, set_conf: Callable[..., None]) -> None:
        prove()
        set_conf(API_KEY="another")
        with Gateway() as gateway:
            assert not gateway.is_proven

    def test_an_answer_from_before_a_refusal_does_not_bring_it_back(self) -> None:
        with Gateway() as gateway, Gateway() as other:
            other.heard(AccessDenied("Revoked."))
            gateway.heard(None)
            ProviderState.objects.update(pause="")
            with Gateway() as third:
                assert not third.is_proven

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize("is_right", [True, False])
    def test_of_many_processes_one_finds_out(
        self, is_right: bool, simulator: Simulator, shared_database: str
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


def taken(gateway: Gateway, moment: datetime, **options: Any) -> list[datetime]:
    """When requests are granted to one who asks five times a second for two minutes."""
    granted = []
    with pytest.MonkeyPatch.context() as patch:
        for step in range(600):
            now = moment + timedelta(seconds=step / 5)
            patch.setattr(timezone, "now", lambda now=now: now)
            granted += [now] * gateway.afford(3, **options)
    return granted


class TestBudget:
    @pytest.mark.parametrize("limit", [1, 7, 8, 60, 120, 600])
    @pytest.mark.parametrize("for_placing", [True, False])
    def test_no_minute_sees_more(
        self, limit: int, for_placing: bool, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=limit)
        with Gateway() as gateway:
            granted = taken(gateway, timezone.now(), for_placing=for_placing)
        minute = timedelta(seconds=60)
        most = max(len([t for t in granted if at <= t < at + minute]) for at in granted)
        # Nor much less: what was paid for is used.
        assert 0.8 * limit - 1 <= most <= limit

    def test_is_shared(self, set_conf: Callable[..., None]) -> None:
        set_conf(REQUESTS_PER_MINUTE=80)
        prove()
        with Gateway() as one, Gateway() as other:
            assert one.afford(6, for_placing=True) == 6
            assert other.afford(9, for_placing=True) == 4
            assert one.afford(for_placing=True) == 0

    @pytest.mark.django_db(transaction=True)
    def test_is_shared_by_processes(
        self, shared_database: str, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=80)
        prove()

        def take() -> int:
            with Gateway() as gateway:
                return sum(gateway.afford(for_placing=True) for _request in range(6))

        assert 9 <= sum(in_threads(4, take)) <= 11

    def test_placing_has_room_when_questions_have_not(self, set_conf: Callable[..., None]) -> None:
        set_conf(REQUESTS_PER_MINUTE=80)
        with Gateway() as gateway:
            assert gateway.afford(99) == 8
            assert gateway.afford() == 0
            assert gateway.wait_for() > 0
            assert gateway.wait_for(for_placing=True) == 0
            assert gateway.afford(99, for_placing=True) == 2

    def test_even_a_small_one_keeps_a_request_for_placing(
        self, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=16)
        with Gateway() as gateway:
            assert gateway.afford(9) == 1
            assert gateway.afford(9, for_placing=True) == 1

    def test_says_how_long_to_wait(self, set_conf: Callable[..., None]) -> None:
        set_conf(REQUESTS_PER_MINUTE=600)
        with Gateway() as gateway:
            assert gateway.wait_for() == 0
            while gateway.afford(99, for_placing=True):
                pass
            wait = gateway.wait_for(for_placing=True)
            assert 0 < wait < 0.2
            time.sleep(wait)
            assert gateway.afford(for_placing=True) == 1

    def test_prices_are_done_without_when_it_is_short(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=1)
        with Gateway() as gateway:
            assert gateway.afford(for_placing=True) == 1
            assert gateway.price(PSN, "type_001") is None
        assert simulator.requests == []


class TestNote:
    def test_nothing_to_say(self) -> None:
        began = timezone.now()
        with Gateway() as gateway:
            gateway.note()
        assert began <= state().swept_at <= timezone.now()  # type: ignore[operator]
        assert (state().succeeded_at, state().failed_at, state().failure) == (None, None, "")

    def test_says_a_thing_once(self) -> None:
        with Gateway() as gateway:
            gateway.heard(None)
            gateway.heard(OutcomeUnknown("Failed."))
            gateway.note()
            assert state().succeeded_at is not None
            assert state().failed_at is not None
            ProviderState.objects.update(succeeded_at=None, failed_at=None)
            gateway.note()
        assert (state().succeeded_at, state().failed_at) == (None, None)
        assert state().failure == "Failed."

    @pytest.mark.parametrize(
        ("known", "right"), [("", "checkOrder"), ("checkOrder", "check-order")]
    )
    def test_remembers_the_spelling_that_works(
        self, known: str, right: Any, simulator: Simulator
    ) -> None:
        ProviderState.objects.create(check_path=known)
        simulator.spelling = right
        for _process in range(2):
            with Gateway() as gateway:
                for _question in range(2):
                    with pytest.raises(ProviderError):
                        gateway.client.check("A1")
                gateway.note()
        asked = [request.path.split("/")[3] for request in simulator.requests]
        assert asked == [known or "check-order"] + [right] * 3
        assert state().check_path == right

    def test_remembers_the_spelling_that_answered(self, simulator: Simulator) -> None:
        """A router may lose its path for a moment; the other spelling is no better for that."""
        with Gateway() as gateway:
            with pytest.raises(NotFound):
                gateway.client.check("A1")
            simulator.spelling = "checkOrder"
            with pytest.raises(OutcomeUnknown):
                gateway.client.check("A1")
            assert gateway.client.check_path == "checkOrder"
            gateway.note()
        assert state().check_path == "check-order"


class TestPrice:
    def test_is_asked_once_a_minute(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            assert gateway.price(PSN, "type_001") == Decimal(490)
            assert gateway.price(PSN, "type_003") == Decimal(1960)
            assert gateway.price(PSN, "TEST_PARTIAL") is None
            assert len(simulator.requests) == 1
            gateway.note()
            assert gateway.price(PSN, "type_001") == Decimal(490)
            assert len(simulator.requests) == 1
            # After a minute it may have changed.
            asked_at, prices = gateway._prices[PSN]
            gateway._prices[PSN] = asked_at - 60, prices
            assert gateway.price(PSN, "type_001") == Decimal(490)
        assert len(simulator.requests) == 2

    def test_over_a_connection_that_has_idled_too_long(self, wire: responses.RequestsMock) -> None:
        url = f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}"
        wire.replace("GET", url, body=requests.ConnectionError("reset"))
        wire.get(url, json=PRICES)
        with Gateway() as gateway:
            assert gateway.price(PSN, "type_001") == Decimal(490)
        wire.assert_call_count(url, 2)

    def test_of_an_unknown_product(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            assert gateway.price("unknown", "type_001") is None
            assert gateway.price("unknown", "type_001") is None
        assert len(simulator.requests) == 1

    def test_during_an_outage(self, simulator: Simulator) -> None:
        simulator.outage = True
        with Gateway() as gateway:
            assert gateway.price(PSN, "type_001") is None
        assert len(simulator.requests) == 1

    @pytest.mark.parametrize("price", [-490, None, "soon", 1e20])
    def test_that_cannot_be_meant(self, price: object, wire: responses.RequestsMock) -> None:
        answer = {"success": True, "data": {"types": [{"id": "type_001", "price": price}]}}
        wire.get(f"{PROVIDER}/v3/gift-cards/checkProduct/other", json=answer)
        with Gateway() as gateway:
            assert gateway.price("other", "type_001") is None

    def test_with_a_wrong_key(self, simulator: Simulator) -> None:
        simulator.keys = ["another"]
        with Gateway() as gateway, pytest.raises(AccessDenied):
            gateway.price(PSN, "type_001")

    def test_too_many_requests(self, simulator: Simulator) -> None:
        simulator.rate_limit = 1
        with Gateway() as gateway:
            gateway.price(PSN, "type_001")
            with pytest.raises(RateLimited):
                gateway.price("other", "type_001")

    def test_without_a_provider(self, closed_port: int, set_conf: Callable[..., None]) -> None:
        set_conf(BASE_URL=f"http://127.0.0.1:{closed_port}")
        with Gateway() as gateway:
            assert gateway.price(PSN, "type_001") is None


def test_nothing_of_it_is_logged(
    simulator: Simulator, caplog: pytest.LogCaptureFixture, settings: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    simulator.keys = ["another"]
    with Gateway() as gateway:
        with pytest.raises(AccessDenied) as caught:
            gateway.client.check(str(make_order().pk))
        gateway.heard(caught.value)
    assert caplog.text
    assert settings.GIFTCARDS["API_KEY"] not in caplog.text
