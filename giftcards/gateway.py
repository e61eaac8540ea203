"""The way to the provider that the processes of a shop share: a client, and the memory of trouble.

Everything that talks to the provider goes through a :class:`Gateway`, so that the first answer that
refuses the key stops every process, and a request for patience is kept by all of them.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self

from django.utils import timezone

from giftcards.conf import conf
from giftcards.crypto import key_fingerprint
from giftcards.exceptions import AccessDenied, OutcomeUnknown, ProviderError, RateLimited, Refused
from giftcards.models import ProviderState
from giftcards.provider import Client

logger = logging.getLogger(__name__)

# A blocked address is let in again after this long (the provider's documentation).
_BLOCK = timedelta(minutes=15)
# 429: the pause where the provider names none, and the longest that is believed.
_PAUSE = timedelta(minutes=1)
LONGEST_PAUSE = timedelta(minutes=15)


class Gateway:
    """A client for one piece of work, as a context manager.

    ``is_proven`` says whether the key has been accepted since the gateway was opened. Until then
    callers send one request at a time: wrong keys are counted, and five get the address blocked.
    """

    def __init__(self) -> None:
        self._key = key_fingerprint(conf.api_key)
        self._check_path = ProviderState.objects.current().check_path or "check-order"
        self.client = Client(
            base_url=conf.base_url,
            api_key=conf.api_key,
            timeout=conf.request_timeout,
            check_path=self._check_path,
        )
        self.is_proven = False
        self._prices: dict[str, dict[str, Decimal | None]] = {}
        self._has_succeeded = False
        self._failure: ProviderError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.close()

    def is_open(self) -> bool:
        """Whether calls may be made at present: looks at what the other processes have learnt."""
        return not ProviderState.objects.current().is_paused(key=self._key, now=timezone.now())

    def may_reopen(self) -> bool:
        """Whether calls may be made within minutes, by themselves: not after a refused key."""
        state = ProviderState.objects.current()
        return state.pause != ProviderState.Pause.ACCESS or self.is_open()

    def heard(self, error: ProviderError | None) -> bool:
        """Take note of how a call ended (``None``: well); false if calls have to stop now."""
        match error:
            case None:
                self.is_proven = self._has_succeeded = True
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
                if self._pause(ProviderState.Pause.RATE, error, timezone.now() + wait):
                    logger.warning("%s Calls go on in %d s.", error, wait.total_seconds())
            case _:
                self._failure = error
        return not isinstance(error, AccessDenied | RateLimited)

    def _pause(
        self, reason: ProviderState.Pause, error: ProviderError, until: datetime | None
    ) -> bool:
        self._failure = error
        return ProviderState.objects.pause(reason, detail=str(error), until=until, key=self._key)

    def price(self, product_id: str, type_id: str) -> Decimal | None:
        """What a card of the type costs at present; ``None`` if the provider doesn't tell.

        Asked once a product until the next :meth:`note`. Raises :exc:`AccessDenied` and
        :exc:`TryLater`, after which nothing else would work either.
        """
        if product_id not in self._prices:
            self._prices[product_id] = {}
            try:
                product = self.client.product(product_id)
            except (OutcomeUnknown, Refused):
                # A price that is not known keeps nobody from buying.
                return None
            self._prices[product_id] = {
                # A price below zero is not believed; no row could hold it.
                kind.type_id: None if kind.price is None or kind.price < 0 else kind.price
                for kind in product.types
            }
        return self._prices[product_id].get(type_id)

    def note(self) -> None:
        """Write down, for staff and for the other processes, how the calls have gone lately."""
        self._prices.clear()
        now = timezone.now()
        values: dict[str, object] = {"swept_at": now}
        if self._has_succeeded:
            self._end_stale_pause(now)
            values["succeeded_at"] = now
            self._has_succeeded = False
        if self._failure is not None:
            values |= {"failed_at": now, "failure": str(self._failure)}
            self._failure = None
        if self.client.check_path != self._check_path:
            self._check_path = values["check_path"] = self.client.check_path
        ProviderState.objects.filter(pk=1).update(**values)

    def _end_stale_pause(self, now: datetime) -> None:
        """Forget a pause that no longer holds: one that ran out, or of a key that was replaced."""
        state = ProviderState.objects.current()
        if state.pause and not state.is_paused(key=self._key, now=now):
            # Not one that another process has begun in the meantime.
            ProviderState.objects.filter(pk=1, paused_at=state.paused_at).update(
                pause="", paused_until=None
            )
