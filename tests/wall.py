"""A wall clock that is set, beside a steady clock that only goes on."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest
from django.utils import timezone

from giftcards.simulator import Simulator


class Wall:
    """Sets the clock behind ``django.utils.timezone.now``, and lets time pass by both clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # In seconds: by how much the clock was set, and how much time has passed unnoticed.
        self._ahead = self._passed = 0.0
        monkeypatch.setattr(timezone, "datetime", self._shifted(timezone.datetime))
        # What `giftcards.engine.clock` reads; nothing else does.
        if hasattr(time, "CLOCK_BOOTTIME"):
            read = time.clock_gettime
            monkeypatch.setattr(time, "clock_gettime", lambda clock: read(clock) + self._passed)
        else:
            steady = time.monotonic
            monkeypatch.setattr(time, "monotonic", lambda: steady() + self._passed)

    def _shifted(self, real: type[datetime]) -> type[datetime]:
        wall = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return real.now(tz) + timedelta(seconds=wall._ahead + wall._passed)

        return Shifted

    def step(self, seconds: float) -> None:
        """Somebody sets the clock ahead, or back."""
        self._ahead += seconds

    def let_pass(self, seconds: float) -> None:
        """Time passes, by both clocks."""
        self._passed += seconds

    def drive(self, simulator: Simulator) -> None:
        """Let the provider live through the time that passes; its clock is never set."""
        simulator.clock = lambda: time.perf_counter() + self._passed
        simulator.reset()
