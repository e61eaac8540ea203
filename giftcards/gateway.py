"""The way to the provider that the processes of a shop share: a client, and the memory of trouble.

Everything that talks to the provider goes through a :class:`Gateway`, so that the first answer that
refuses the key stops every process, a request for patience is kept by all of them, and together
they stay within ``REQUESTS_PER_MINUTE``. Each call of the client is one request, and has to be
afforded first.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Self

from django.utils import timezone

from giftcards.conf import conf
from giftcards.crypto import key_fingerprint
from giftcards.exceptions import AccessDenied, ProviderError, RateLimited, Refused
from giftcards.models import ProviderState
from giftcards.provider import Client, Product

logger = logging.getLogger(__name__)

# A blocked address is let in again after this long (the provider's documentation).
_BLOCK = timedelta(minutes=15)
# 429: the pause where the provider names none, the shortest (who asks again at once, as a
# ``Retry-After: 0`` allows, is refused again), and the longest that is believed.
_PAUSE = timedelta(minutes=1)
_SHORTEST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=15)
# The provider does not answer: the pause after the n-th sweep in a row is 2ⁿ⁻¹ s, up to this.
_LONGEST_OUTAGE_PAUSE = timedelta(seconds=15)
# How long a product's prices are taken as known (seconds).
_PRICES_HOLD = 60.0
# How often who waits for another process's first call looks whether it has ended (seconds).
_PROBE_LOOK = 0.2


class Gateway:
    """A client for one piece of work, as a context manager.

    Used by one thread; only ``client`` may be called from others.

    ``is_proven`` says whether the key was accepted lately, by this process or another. Until then
    all processes together send one request at a time: wrong keys are counted, and five get the
    address blocked.
    """

    def __init__(self) -> None:
        self._key = key_fingerprint(conf.api_key)
        # The lease that lets a process make a call with a key that is not proven.
        self._probe: str | None = None
        self._look()
        self.client = Client(
            base_url=conf.base_url,
            api_key=conf.api_key,
            timeout=conf.request_timeout,
            check_path=self._state.check_path or "check-order",
        )
        self._prices: dict[str, tuple[float, dict[str, Decimal]]] = {}
        self._has_succeeded = False
        self._failure: ProviderError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self._end_probe()
        self.client.close()

    def _look(self) -> None:
        """See what the other processes have learnt."""
        self._state = ProviderState.objects.current()
        self.is_proven = self._state.is_proven(key=self._key, now=timezone.now())

    # Pauses.

    def is_open(self) -> bool:
        """Whether calls may be made at present: looks at what the other processes have learnt.

        When a refusal of the key has run out, or the key was changed, one careful call finds out
        first whether it is accepted now.
        """
        self._look()
        if not self.allows_calls:
            return False
        if self._state.pause == ProviderState.Pause.ACCESS and not self.is_proven:
            return self._is_accepted()
        return True

    def _is_accepted(self) -> bool:
        if not self.afford():
            return False
        try:
            self.client.validate()
        except (AccessDenied, RateLimited) as error:
            return self.heard(error)
        except ProviderError as error:
            # Not every stand-in and proxy routes this path: the next call will tell.
            self.heard(error)
        else:
            self.heard(None)
        return True

    @property
    def allows_calls(self) -> bool:
        """:meth:`is_open`, as far as this process knows: without asking the database again."""
        return not self._state.is_paused(key=self._key, now=timezone.now())

    def may_reopen(self) -> bool:
        """Whether calls may be made within minutes, by themselves: not after a refused key."""
        state = ProviderState.objects.current()
        return state.pause != ProviderState.Pause.ACCESS or not state.is_paused(
            key=self._key, now=timezone.now()
        )

    def heard(self, error: ProviderError | None) -> bool:
        """Take note of how a call ended (``None``: well); false if calls have to stop now."""
        match error:
            case None | Refused():
                # Also an answer about one thing: the provider is there, and knows the key.
                self._has_succeeded = True
                self._failure = error or self._failure
                self._prove()
            case AccessDenied():
                self.is_proven = False
                until = timezone.now() + _BLOCK if error.code == "IP_BLOCKED" else None
                if self._pause(ProviderState.Pause.ACCESS, error, until):
                    logger.error(
                        "%s Every call to the provider is stopped until the key in the settings"
                        " changes or you run `manage.py giftcards_poll --resume`.",
                        error,
                    )
            case RateLimited():
                wait = _PAUSE
                if error.retry_after is not None:
                    wait = min(timedelta(seconds=error.retry_after), LONGEST_PAUSE)
                    wait = max(wait, _SHORTEST_PAUSE)
                if self._pause(ProviderState.Pause.RATE, error, timezone.now() + wait):
                    logger.warning("%s Calls go on in %d s.", error, wait.total_seconds())
            case _:
                self._failure = error
        # After the pause, so that whoever begins next sees it.
        self._end_probe()
        return not isinstance(error, AccessDenied | RateLimited)

    def _pause(
        self, reason: ProviderState.Pause, error: ProviderError, until: datetime | None
    ) -> bool:
        self._failure = error
        is_news = ProviderState.objects.pause(reason, detail=str(error), until=until, key=self._key)
        self._state = ProviderState.objects.current()
        return is_news

    # A key that is not proven.

    def may_begin(self) -> bool:
        """Whether a call that was afforded may begin: not if another process is trying the key.

        Once this one may, the others wait until it has heard how the call ended.
        """
        if not self.is_proven:
            self._take_probe()
        return self.allows_calls and (self.is_proven or self._probe is not None)

    def _take_probe(self) -> None:
        states, now = ProviderState.objects, timezone.now()
        # Long enough for a price and the order itself.
        length = timedelta(seconds=2 * conf.request_timeout + 5)
        if self._probe and states.keep_lease("probe", self._probe, now=now, length=length):
            return
        self._probe = states.take_lease("probe", now=now, length=length)
        # Who had it may have found out something.
        self._look()
        if self.is_proven or not self.allows_calls:
            self._end_probe()

    def _prove(self) -> None:
        if not self.is_proven:
            self.is_proven = True
            # Not if another process has been refused in the meantime.
            ProviderState.objects.filter(pk=1, paused_at=self._state.paused_at).update(
                proven_key=self._key, succeeded_at=timezone.now()
            )

    def _end_probe(self) -> None:
        if self._probe:
            ProviderState.objects.release_lease("probe", self._probe)
            self._probe = None

    # The request budget.

    def afford(self, wanted: int = 1, *, for_placing: bool = False) -> int:
        """Take up to ``wanted`` requests from the budget of all processes; return how many.

        Questions leave some for placing. The budget is a leaky bucket, kept as the moment at which
        it will be unspent again: a burst at most, then one request at a time. None while another
        process finds out whether the key is accepted.
        """
        had_probe = self._probe is not None
        granted = self._take(wanted, for_placing=for_placing) if self.may_begin() else 0
        if not (granted or had_probe):
            self._end_probe()
        return granted

    def _take(self, wanted: int, *, for_placing: bool) -> int:
        burst, pace = _shape(conf.requests_per_minute)
        keep = 0 if for_placing else _kept(burst)
        for _attempt in range(10):
            now = timezone.now()
            spent_until = max(self._state.budget_at or now, now)
            granted = min(wanted, int(burst - keep - (spent_until - now) / pace))
            if granted <= 0:
                return 0
            budget_at = spent_until + granted * pace
            # Another process may have taken some at the same moment: then look again.
            if ProviderState.objects.filter(pk=1, budget_at=self._state.budget_at).update(
                budget_at=budget_at
            ):
                self._state.budget_at = budget_at
                return granted
            self._state = ProviderState.objects.current()
        return 0

    def wait_for(self, *, for_placing: bool = False) -> float:
        """Seconds until a request can be afforded, if nobody else takes it."""
        burst, pace = _shape(conf.requests_per_minute)
        keep = 0 if for_placing else _kept(burst)
        least = _PROBE_LOOK if self._is_probed_by_another() else 0.0
        now = timezone.now()
        spent_for = max(self._state.budget_at or now, now) - now
        return max((spent_for - (burst - keep - 1) * pace).total_seconds(), least)

    def _is_probed_by_another(self) -> bool:
        if self.is_proven or self._probe:
            return False
        self._state = ProviderState.objects.current()
        until = self._state.probe_until
        return until is not None and until > timezone.now()

    # The price list and the list of orders.

    def price(self, product_id: str, type_id: str) -> Decimal | None:
        """What a card of the type costs at present; ``None`` if the provider doesn't tell.

        Asked once a minute and product, if the request budget allows. Raises :exc:`AccessDenied`
        and :exc:`RateLimited`, after which nothing else may be asked either.
        """
        asked_at, prices = self._prices.get(product_id, (float("-inf"), {}))
        if time.monotonic() - asked_at < _PRICES_HOLD or not self.afford():
            return prices.get(type_id)
        prices = {}
        try:
            # One below zero is not believed; no row could hold it.
            prices = {
                kind.type_id: kind.price
                for kind in self._ask_for(product_id).types
                if kind.price is not None and kind.price >= 0
            }
            self.heard(None)
        except (AccessDenied, RateLimited):
            raise
        except ProviderError:
            # A price that is not known keeps nobody from buying.
            pass
        self._prices[product_id] = time.monotonic(), prices
        return prices.get(type_id)

    def _ask_for(self, product_id: str) -> Product:
        try:
            return self.client.product(product_id)
        except ProviderError as error:
            if not (error.is_worth_repeating and self.afford()):
                raise
        return self.client.product(product_id)

    @property
    def is_list_useful(self) -> bool:
        return self._state.list_at is None or self._state.list_at <= timezone.now()

    def give_up_list(self, pause: timedelta) -> None:
        """Do without the list for a while: it failed, or shows none of our orders."""
        self._state.list_at = timezone.now() + pause
        ProviderState.objects.filter(pk=1).update(list_at=self._state.list_at)

    def note(self) -> None:
        """Write down, for staff and for the other processes, how the calls have gone lately."""
        now = timezone.now()
        values: dict[str, object] = {"swept_at": now}
        if self._failure is not None:
            values |= {"failed_at": now, "failure": str(self._failure)}
        if self._has_succeeded:
            values |= {"succeeded_at": now, "outages": 0}
            if self._state.pause and self.allows_calls:
                # It no longer holds: its time has run out, or the key was replaced. But not one
                # that another process has begun in the meantime.
                ProviderState.objects.filter(pk=1, paused_at=self._state.paused_at).update(
                    pause="", paused_until=None
                )
        elif self._failure is not None and not (
            isinstance(self._failure, AccessDenied | RateLimited)
            # A path that is not routed is no outage.
            or self._failure.status == 404
        ):
            # Nothing succeeded: everybody waits, longer each time, and begins with one call.
            self.is_proven = False
            wait = min(timedelta(seconds=2 ** min(self._state.outages, 10)), _LONGEST_OUTAGE_PAUSE)
            until = now + wait * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
            self._pause(ProviderState.Pause.OUTAGE, self._failure, until)
            values["outages"] = self._state.outages + 1
        # If none has answered, the one that has not been tried: it may not have been affordable.
        check_path = self.client.known_check_path or self.client.check_path
        if check_path != self._state.check_path:
            values["check_path"] = check_path
        self._has_succeeded, self._failure = False, None
        ProviderState.objects.filter(pk=1).update(**values)
        # A call that was afforded need not have been made.
        self._end_probe()


def _kept(burst: int) -> int:
    """What questions leave of the burst for placing."""
    return max(burst // 4, 1) if burst > 1 else 0


def _shape(requests_per_minute: int) -> tuple[int, timedelta]:
    """The burst and the pace at which no 60 seconds see more than ``requests_per_minute``.

    Worked out for 65 seconds: a request may arrive later than the one before it was sent.
    """
    burst = max(requests_per_minute // 8, 1)
    return burst, timedelta(seconds=65 / (requests_per_minute - burst + 1))
