"""The only path to the provider, with limits that all processes share.

Every call makes one request and goes through a :class:`Gateway`. If the provider refuses an API
key, all processes that use this key stop calling the provider. All processes observe the pauses
that the provider requests, and together they make at most ``REQUESTS_PER_MINUTE`` requests per
minute.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Self, TypeVar

from django.utils import timezone

from giftcards.conf import conf, require
from giftcards.engine.backoff import pause_after_limit, pause_after_outage
from giftcards.engine.clock import Clock, recall_far_future
from giftcards.engine.price_cache import PriceCache
from giftcards.engine.request_budget import Budget, Slot
from giftcards.engine.tuning import tuning
from giftcards.exceptions import AccessDenied, ProviderError, RateLimited, Refused, Withheld
from giftcards.keys.keyring import key_fingerprint
from giftcards.models import ApiKey, Lease, Order, ProviderState
from giftcards.models.provider import this_machine
from giftcards.provider.answers import KeyInfo, Product
from giftcards.provider.client import Client
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import LONGEST_HOLD, is_ahead, is_recent, with_zone

logger = logging.getLogger(__name__)

T = TypeVar("T")
# The provider's documentation says that an IP address is unblocked after this time.
_BLOCK = timedelta(minutes=15)
_LONGEST_WITHOUT_LIST = timedelta(hours=1)
# Our clock counts as right if it differs from the provider's clock by at most this.
_CLOCK_ERROR = timedelta(minutes=5)
# The clocks of the shop's machines are assumed to differ by less than this.
_CLOCK_MARGIN = timedelta(minutes=1)
# The provider counts as available if a request has succeeded within this time.
_LATELY = timedelta(minutes=1)
# The interval of polling for the end of another process's key probe (seconds).
_PROBE_POLL = 0.2


class KeyProbe:
    """A lease that allows only one call at a time with an unproven key.

    A key is proven when the provider has accepted it. Because the provider blocks the IP address
    after five calls with a wrong key, all processes share this lease.
    """

    def __init__(self) -> None:
        self._token: str | None = None

    @property
    def is_ours(self) -> bool:
        return self._token is not None

    def hold(self) -> bool:
        """Acquire or renew the lease, and return whether this process holds it."""
        # The lease lasts long enough for two requests: for a price, and for an order.
        length = timedelta(seconds=2 * tuning.request_timeout + 5)
        if self._token and Lease.objects.keep(Lease.KEY_PROBE, self._token, length):
            return True
        self._token = Lease.objects.take(Lease.KEY_PROBE, length)
        return self.is_ours

    def end(self) -> None:
        if self._token:
            Lease.objects.release(Lease.KEY_PROBE, self._token)
            self._token = None


class Gateway:
    """A client for the provider's API that enforces all limits.

    The limits are pauses, the key probe and the request quota. A gateway is a context manager, and
    belongs to one thread. Another thread is allowed to use ``client`` only for a call that the
    owning thread has started with :meth:`begin` and later ends with :meth:`finish`.
    """

    def __init__(self) -> None:
        # Without encryption keys, bought cards could not be stored.
        require("ENCRYPTION_KEYS")
        self._fingerprint = key_fingerprint(conf.api_key)
        # A refusal of the key that is not stored in the database yet.
        self._refusal: AccessDenied | None = None
        self._probe = KeyProbe()
        self.clock = Clock()
        recall_far_future()
        self._load_state()
        # The state is loaded before the quota is created, because loading the state corrects the
        # slots if the clock was set.
        self._budget = Budget()
        self.client = Client(
            base_url=conf.base_url,
            api_key=conf.api_key,
            timeout=tuning.request_timeout,
            check_path=self._state.check_path or "check-order",
        )
        self.prices = PriceCache(self._read_product, key=self._fingerprint)
        self._has_succeeded = False
        self._failure: ProviderError | None = None
        # The time of the last request for the list; None once this time is stored.
        self._list_asked_at: datetime | None = None
        # The number of requests after the first page, for each reading of the list in the last
        # minute.
        self._questions = deque([0], maxlen=math.ceil(60 / conf.poll_interval))
        #: The number of orders that were still waiting after orders were last sent. At most 100
        #: orders are counted.
        self.waiting = 0
        #: The page with which the next reading of the list continues after page 1.
        self.next_page = 2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.client.close()
        try:
            self._store_refusal()
        finally:
            self._probe.end()

    def _load_state(self) -> None:
        self._state = self.clock.compare(ProviderState.objects.current())
        self._load_key()

    def _load_key(self) -> None:
        self._store_refusal()
        #: The stored record of the API key, which does not contain the key itself.
        self.key = ApiKey.objects.current(self._fingerprint)
        #: True if the key was accepted recently. If it was not, calls are made one at a time.
        self.is_proven = self.key.is_proven(timezone.now())

    # Pauses.

    @property
    def is_open(self) -> bool:
        """True if calls are allowed, according to the state that was last loaded."""
        return not (self._is_refused or self._state.is_paused(timezone.now()))

    @property
    def is_cut_off(self) -> bool:
        """True if the calls of this machine are paused after an outage."""
        return self._state.is_cut_off(timezone.now())

    @property
    def _is_refused(self) -> bool:
        return self._refusal is not None or self.key.is_refused

    def try_open(self) -> bool:
        """Load the shared state, and return whether calls are allowed.

        If the IP address was blocked, the method first makes a single call to check whether the
        block is over.
        """
        self._load_state()
        if self.is_open and not self.is_proven and self._state.was_blocked:
            # Some proxies do not route this call. A failure that does not pause calls is ignored,
            # because the next call shows whether the block is over.
            with suppress(ProviderError):
                return self._ask_about_key(Purpose.CHECKING)
        return self.is_open

    def _ask_about_key(self, purpose: Purpose) -> bool:
        key = self.ask(self.client.validate, purpose)
        if key is not None:
            self.note_key(key)
        return key is not None

    def note_key(self, key: KeyInfo) -> None:
        """Store the environment that the provider reports for the key."""
        ApiKey.objects.learn(self.key, key.key_type)

    def environment(self) -> str:
        """Return the environment of the key's account, or "" if it is unknown.

        If the environment is unknown, it is requested with low priority, at most every 2 minutes.
        """
        if not self.key.environment:
            self._learn_environment()
        return self.key.environment

    def _learn_environment(self) -> None:
        token = Lease.objects.take(Lease.KEY_ENVIRONMENT, LONGEST_HOLD)
        if token is None:
            return
        # Some proxies do not route this call, so its error is ignored. If the error pauses all
        # calls, the order is not sent.
        with suppress(ProviderError):
            self._ask_about_key(Purpose.PRICING)
        if self.key.environment:
            Lease.objects.release(Lease.KEY_ENVIRONMENT, token)

    def reopens_by_itself(self) -> bool:
        """Return True if calls are allowed now or after the current pause.

        Returns False if the key was refused.
        """
        self._load_key()
        return not self._is_refused

    def reopens_within(self, span: timedelta) -> bool:
        """Return True if calls are allowed now or by the end of the ``span``."""
        self._load_state()
        return not (self._is_refused or self._state.is_paused(timezone.now() + span))

    # Calls.

    def ask(self, call: Callable[[], T], purpose: Purpose, *, may_repeat: bool = True) -> T | None:
        """Make a call, with one retry if the error allows it.

        Returns ``None`` if :meth:`begin` does not allow the call. If the call fails, its
        :exc:`~giftcards.exceptions.ProviderError` is recorded and raised.
        """
        slot = self.begin(purpose)
        if slot is None:
            return None
        while True:
            try:
                result = call()
            except ProviderError as error:
                may_repeat = may_repeat and error.is_worth_repeating
                again = self.repeat(slot, purpose) if may_repeat else None
                if again is None:
                    self.finish(slot, error)
                    raise
                slot, may_repeat = again, False
            else:
                self.finish(slot, None)
                return result

    def begin(self, purpose: Purpose) -> Slot | None:
        """Reserve a slot of the quota for one call, and return the slot.

        The caller then makes the call and passes the slot to :meth:`finish`. Returns ``None`` if
        calls are paused, if another process is probing the key, or if all slots are taken.
        """
        had_probe = self._probe.is_ours
        slot = None
        if self._may_call():
            slot = self._budget.take(
                purpose, has_list=self.is_list_useful, questions=self._list_questions
            )
        if slot is None and not had_probe:
            self._probe.end()
        return slot

    def finish(self, slot: Slot, error: Exception | None) -> None:
        """Record the end and the outcome of a call.

        ``error`` is ``None`` if the call succeeded.
        """
        try:
            self._budget.finish(slot)
        finally:
            # A refusal must be recorded even if the slot cannot be written.
            if error is None or isinstance(error, ProviderError):
                self.record_outcome(error)
            else:
                logger.error("A call to the provider failed: %s", type(error).__name__)

    def repeat(self, slot: Slot, purpose: Purpose) -> Slot | None:
        """Take a new slot for a retry, and release the old slot.

        Returns ``None``, without releasing the old slot, if :meth:`begin` does not allow the retry.
        """
        again = self.begin(purpose)
        if again is not None:
            self.release(slot)
        return again

    def release(self, slot: Slot) -> None:
        """Record that a call has ended, without recording its outcome."""
        self._budget.finish(slot)

    def give_back(self, slot: Slot) -> None:
        """Free the slot of a call that was not made."""
        self._budget.give_back(slot)
        self._probe.end()

    def wait_for(self, purpose: Purpose) -> float:
        """Return the number of seconds to wait before calling :meth:`begin`.

        The call can still fail, because another process might take the slot first.
        """
        is_ours_to_call = self.is_proven or self._probe.is_ours
        is_probed = not is_ours_to_call and Lease.objects.is_taken(Lease.KEY_PROBE)
        wait = self._budget.wait_for(
            purpose, has_list=self.is_list_useful, questions=self._list_questions
        )
        return max(wait, _PROBE_POLL if is_probed else 0.0)

    def _may_call(self) -> bool:
        # Another process with this key may have been refused since the last call.
        self._load_key()
        if self.is_open and not self.is_proven:
            return self._may_probe_key()
        return self.is_open

    def _may_probe_key(self) -> bool:
        if not self._probe.hold():
            return False
        # The previous holder of the probe may have proven the key or started a pause.
        self._load_state()
        if self.is_proven or not self.is_open:
            self._probe.end()
        return self.is_open

    # Outcomes of calls.

    def record_outcome(self, error: ProviderError | None) -> None:
        """Record the outcome of a call.

        ``error`` is ``None`` if the call succeeded. If an error starts a pause, the pause applies
        to all processes.
        """
        match error:
            case None | Refused():
                # If the provider refuses the request for another reason, it has accepted the key.
                self._has_succeeded = True
                self._failure = error or self._failure
                if not (self.is_proven and self.key.is_freshly_proven(timezone.now())):
                    self.is_proven = ApiKey.objects.accept(self.key)
            case AccessDenied():
                self._stop(error)
            case RateLimited():
                wait = pause_after_limit(error.retry_after)
                self._pause(ProviderState.Pause.RATE, error, wait)
            case Withheld():
                pass  # no fault of the provider: this process was too slow to send the request
            case _:
                self._failure = error
        # The probe ends last, because the next process that probes the key has to see the pause.
        self._probe.end()

    def _stop(self, error: AccessDenied) -> None:
        self.is_proven = False
        if error.code == "IP_BLOCKED":
            # The provider blocks the IP address for all keys, so the block does not mean that this
            # key is wrong.
            self._pause(ProviderState.Pause.ACCESS, error, _BLOCK)
        else:
            self._failure = self._refusal = error
            self._store_refusal()

    def _store_refusal(self) -> None:
        """Store a refusal of the key, so that every process with this key stops.

        If the database fails, this process stops its calls anyway, and tries to store the refusal
        again before the next call.
        """
        if self._refusal is None:
            return
        is_new = ApiKey.objects.refuse(self._fingerprint, detail=str(self._refusal))
        self.key = ApiKey.objects.current(self._fingerprint)
        if is_new:
            logger.error(
                "%s All requests to the provider are paused until the key in the settings"
                " changes or you run `manage.py giftcards_poll --resume`.",
                self._refusal,
            )
        self._refusal = None

    def _pause(self, reason: ProviderState.Pause, error: ProviderError, length: timedelta) -> None:
        self._failure = error
        until = timezone.now() + length
        is_new = ProviderState.objects.pause(reason, detail=str(error), until=until)
        self._state = ProviderState.objects.current()
        if is_new and reason != ProviderState.Pause.OUTAGE:
            level = logging.ERROR if reason == ProviderState.Pause.ACCESS else logging.WARNING
            logger.log(level, "%s Calls resume in %d s.", error, length.total_seconds())

    def flush(self) -> None:
        """Store the outcome of all calls since the last flush."""
        now = timezone.now()
        values: dict[str, object] = {"swept_at": now}
        if self._list_asked_at is not None:
            values["list_read_at"] = self._state.list_read_at = self._list_asked_at
            values["list_questions"] = max(self._questions)
        if self._failure is not None:
            values |= {"failed_at": now, "failure": str(self._failure)}
        if self._has_succeeded:
            values |= {"succeeded_at": now, "succeeded_by": this_machine()}
            if self._state.is_of_this_machine or not self._state.is_pause_told(now):
                values["outages"] = 0
        elif self._failure is not None and self.is_outage(self._failure):
            outages = values["outages"] = self._state.outages + 1
            self.is_proven = False
            self._pause(ProviderState.Pause.OUTAGE, self._failure, pause_after_outage(outages))
        # The stored path is the path that worked, or else the path to try next.
        check_path = self.client.known_check_path or self.client.check_path
        if check_path != self._state.check_path:
            values["check_path"] = check_path
        self._has_succeeded, self._failure, self._list_asked_at = False, None, None
        ProviderState.objects.filter(pk=1).update(**values)
        if self.key.is_refused:
            ApiKey.objects.filter(pk=self._fingerprint).update(stopped_at=now)
        self._probe.end()

    @staticmethod
    def is_outage(failure: ProviderError) -> bool:
        """Return True if this failure is a sign of an outage.

        A refusal, a 404 response and a rate limit do not mean an outage.
        """
        is_answer = isinstance(failure, AccessDenied | RateLimited | Refused)
        return failure.status != 404 and not is_answer

    @property
    def has_answered_lately(self) -> bool:
        """True if a request by any process succeeded within the last minute."""
        at = self._state.succeeded_at
        was_recent = at is not None and is_recent(at, timezone.now(), period=_LATELY)
        return self._has_succeeded or was_recent

    def was_clock_right(self, moment: datetime) -> bool:
        """Return True if our clock was close to the provider's at a given time.

        ``moment`` is the time that our clock showed.
        """
        return self.clock_error(moment) <= _CLOCK_ERROR

    def clock_error(self, moment: datetime) -> timedelta:
        """Return how much our clock differed from the provider's at a time.

        ``moment`` is the time that our clock showed. The result is calculated from the ``Date``
        header of the provider's last answer, and from the steps of our clock since ``moment``.
        """
        ahead = self.client.clock_difference
        return max(abs(ahead + span) for span in self.clock.set_since(moment))

    def earliest_there(self, moment: datetime) -> datetime:
        """Return the earliest time that the provider's clock may have shown.

        ``moment`` is the time that our clock showed. The result is a lower limit for the time that
        the provider's clock showed then.
        """
        return with_zone(moment) - self.clock_error(moment) - _CLOCK_MARGIN

    def _read_product(self, product_id: str, purpose: Purpose, may_repeat: bool) -> Product | None:
        return self.ask(lambda: self.client.product(product_id), purpose, may_repeat=may_repeat)

    # The list of orders.

    @property
    def is_list_useful(self) -> bool:
        """True if requests for the provider's list of orders are allowed.

        The list must not be requested for a while after a request for it failed, or after it did
        not contain any of our orders.
        """
        usable_at = self._state.list_usable_at
        return usable_at is None or not is_ahead(
            usable_at, timezone.now(), max_distance=_LONGEST_WITHOUT_LIST
        )

    @property
    def is_list_read(self) -> bool:
        """True if the list was read within the last two poll intervals."""
        return self.list_turn() is not None

    def list_turn(self) -> datetime | None:
        """Return when to read the list next, or ``None`` if it is not in use."""
        interval = timedelta(seconds=conf.poll_interval)
        read_at = self._list_asked_at or self._state.list_read_at
        if read_at is None or not is_recent(read_at, timezone.now(), period=2 * interval):
            return None
        return read_at + interval

    def note_list_read(self) -> None:
        self._list_asked_at = timezone.now()

    def note_questions(self, count: int, *, page_size: int, free_rows: int) -> None:
        """Store how many requests a reading of the list takes after page 1.

        ``count`` is the number of requests for this reading. Requests for orders that are waiting
        to be sent are added, because the list will contain these orders at the next readings. The
        number of these orders is limited to the number of free slots or to a quarter of a page,
        whichever is greater. The orders first fill the last page, up to ``free_rows`` rows, and
        then further pages of ``page_size`` rows.
        """
        coming = self.waiting
        if coming:
            free = self._budget.free_for_placing(self._list_questions)
            coming = min(coming, max(free, page_size // 4))
        self._questions.append(count + max(math.ceil((coming - free_rows) / page_size), 0))

    def pages_at_once(self) -> int:
        return self._budget.pages_at_once(self._list_questions)

    @property
    def _list_questions(self) -> int:
        """The number of requests that a reading of the list needs after page 1.

        This is the highest number in the last minute, because slots of the quota are reserved in
        advance. If the list is not in use, the number is 0.
        """
        if not self.is_list_read:
            return 0
        return max(*self._questions, self._state.list_questions)

    def give_up_list(self, pause: timedelta) -> None:
        """Stop using the list until the ``pause`` is over.

        Call this method if a request for the list failed, or if the list does not contain any of
        our orders.
        """
        self._state.list_usable_at = timezone.now() + pause
        self._state.list_read_at = self._list_asked_at = None
        ProviderState.objects.filter(pk=1).update(
            list_usable_at=self._state.list_usable_at, list_read_at=None
        )


class Stopped(Exception):
    """Raised to stop background calls.

    The message of the exception states why the calls stop, or is empty.
    """


# The shortest wait between two attempts to make a call (seconds).
_SHORTEST_WAIT = 0.2


def ask_when_free(
    gateway: Gateway, call: Callable[[], T | None], on_wait: Callable[[bool], object]
) -> T:
    """Make a background call as soon as the gateway allows it.

    If the gateway does not allow the call, ``call`` must return ``None``, and is called again
    later. ``on_wait`` is called before each wait, with True as its argument if calls are paused. A
    wait lasts at most one second. If the key is unproven and an urgent order is almost due,
    ``call`` is not called yet, so that the first request with this key is for the order.

    Raises :exc:`Stopped` if the provider refuses the API key. ``on_wait`` can raise :exc:`Stopped`
    to end the attempts.
    """
    while True:
        while not gateway.try_open():
            if not gateway.reopens_by_itself():
                raise Stopped("The provider refuses the API key.")
            on_wait(True)
            time.sleep(tuning.background_wait)
        try:
            answer = _try(gateway, call)
        except (AccessDenied, RateLimited):
            # The error has paused all calls.
            continue
        if answer is not None:
            return answer
        if gateway.is_open:
            on_wait(False)
            wait = max(gateway.wait_for(Purpose.BACKGROUND), _SHORTEST_WAIT)
            time.sleep(min(wait, tuning.background_wait))


def _try(gateway: Gateway, call: Callable[[], T | None]) -> T | None:
    if not gateway.is_proven and Lease.objects.is_taken(Lease.LOOP):
        soon = timezone.now() + timedelta(seconds=conf.poll_interval)
        if Order.objects.urgent().filter(due_at__lte=soon).exists():
            return None
    return call()
