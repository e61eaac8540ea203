"""Probing with single calls whether the provider accepts an API key."""

from __future__ import annotations

from datetime import timedelta

from giftcards.conf import conf
from giftcards.models import Lease


class KeyProbe:
    """A lease that limits calls with an unproven key to one at a time, across all processes.

    The provider blocks the address after five calls with a wrong key. ``is_proven`` is True if the
    provider has accepted the key recently, from this process or another.
    """

    def __init__(self) -> None:
        self.is_proven = False
        self._token: str | None = None

    @property
    def is_ours(self) -> bool:
        """True if this process holds the lease."""
        return self._token is not None

    def hold(self) -> bool:
        """Take or renew the lease; False if another process holds it."""
        # Long enough for two requests: a price and an order.
        length = timedelta(seconds=2 * conf.request_timeout + 5)
        if self._token and Lease.objects.keep(Lease.KEY_PROBE, self._token, length):
            return True
        self._token = Lease.objects.take(Lease.KEY_PROBE, length)
        return self.is_ours

    def end(self) -> None:
        """Release the lease."""
        if self._token:
            Lease.objects.release(Lease.KEY_PROBE, self._token)
            self._token = None
