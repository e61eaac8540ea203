"""An app that kills its process at one step, and that writes down what the shop is told."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import AppConfig


class CrashConfig(AppConfig):
    name = "tests.crash"

    def ready(self) -> None:
        if step := os.environ.get("CRASH_AT"):
            die_at(step, signal.Signals(int(os.environ.get("CRASH_SIGNAL", signal.SIGKILL))))
        from giftcards.engine.tuning import tuning

        for name, value in json.loads(os.environ.get("CRASH_TUNING", "{}")).items():
            setattr(tuning, name, value)
        if told := os.environ.get("CRASH_TOLD"):
            write_down(Path(told))


def write_down(told: Path) -> Callable[..., None]:
    """Connect a receiver that adds a line to the file ``told`` for each status change."""
    from giftcards.signals import order_status_changed

    def a_shops_receiver(order: Any, change: Any, **named: object) -> None:
        write_line(told, f"{order.reference} {change.to_status}")

    order_status_changed.connect(a_shops_receiver, weak=False)
    return a_shops_receiver


def write_line(told: Path, line: str) -> None:
    with told.open("a") as file:
        file.write(f"{line}\n")


def die_at(step: str, how: signal.Signals) -> None:
    """Kill this process ``before`` or ``after`` the n-th call of a function, like a power cut.

    An example is ``after giftcards.models.orders:Order.move 2``. ``SIGSTOP`` only halts the
    process.
    """
    when, place, number = step.split()
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    owner: Any = functools.reduce(getattr, parents, importlib.import_module(module))
    original = getattr(owner, name)
    left = iter(range(int(number) - 1, -1, -1))

    @functools.wraps(original)
    def dying(*args: Any, **kwargs: Any) -> Any:
        is_time = next(left, None) == 0
        if is_time and when == "before":
            os.kill(os.getpid(), how)
        result = original(*args, **kwargs)
        if is_time and when == "after":
            os.kill(os.getpid(), how)
        return result

    setattr(owner, name, dying)
