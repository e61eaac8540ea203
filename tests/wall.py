"""A wall clock that can be set, and a steady clock that only moves forward."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from django.utils import timezone

from giftcards.simulator import Simulator


class Wall:
    """Sets the clock behind ``django.utils.timezone.now``, and lets time pass on both clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # In seconds: how far the clock was set ahead, and how much extra time has passed.
        self._ahead = self._passed = 0.0
        # The real time at which both clocks were stopped.
        self._stopped: tuple[datetime, float] | None = None
        self._monotonic = time.monotonic
        monkeypatch.setattr(timezone, "datetime", self._shifted(timezone.datetime))
        # Only `giftcards.engine.clock` reads this clock.
        if hasattr(time, "CLOCK_BOOTTIME"):
            read = time.clock_gettime
            monkeypatch.setattr(
                time, "clock_gettime", lambda clock: read(clock) + self._ahead_steadily()
            )
        else:
            monkeypatch.setattr(
                time, "monotonic", lambda: self._monotonic() + self._ahead_steadily()
            )

    def _shifted(self, real: type[datetime]) -> type[datetime]:
        wall = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                moment = wall._stopped[0] if wall._stopped else real.now(UTC)
                moment += wall._shift()
                local = moment.astimezone(tz)
                return local if tz else local.replace(tzinfo=None)

        return Shifted

    def _shift(self) -> timedelta:
        return timedelta(seconds=self._ahead + self._passed)

    def _ahead_steadily(self) -> float:
        standing = self._monotonic() - self._stopped[1] if self._stopped else 0
        return self._passed - standing

    @contextmanager
    def still(self) -> Iterator[None]:
        """Stop both clocks."""
        self._stopped = datetime.now(UTC), self._monotonic()
        yield
        self._passed -= self._monotonic() - self._stopped[1]
        self._stopped = None

    def step(self, seconds: float) -> None:
        """Set the wall clock ahead or back."""
        self._ahead += seconds

    def let_pass(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._passed += seconds

    def drive(self, simulator: Simulator) -> None:
        """Let the provider's clock follow the time that passes; it is never set."""
        simulator.clock = lambda: time.perf_counter() + self._passed
        simulator.reset()
