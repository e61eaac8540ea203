"""Helpers for command output: help texts, progress, times and pipes.

This module works without models and settings, because the simulator command does not use them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from django.core.management.base import BaseCommand, CommandParser, DjangoHelpFormatter
from django.utils import timezone

from giftcards.engine.threads import start_thread
from giftcards.engine.tuning import tuning

UNFINISHED = 1
COULD_NOT_START = 2

# Seconds after which a log repeats an unchanged line.
_REMIND_AFTER = 60.0
_BAR = 20


class OutputClosed(Exception):
    """The output was closed, for example by ``head`` after ten lines."""


class _HelpFormatter(DjangoHelpFormatter):
    """A help formatter that preserves paragraphs and the lines of examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        *notes, last = text.split("\n\n")
        if not last.startswith("examples:"):
            return super()._fill_text(text, width, indent)
        filled = [textwrap.fill(note, width, break_on_hyphens=False) for note in notes]
        return "\n\n".join([*filled, last])


class ConsoleCommand(BaseCommand):
    """A command whose help has notes and examples.

    The command exits without an error message if its output is closed.
    """

    requires_system_checks = ()
    # Paragraphs below the options in the help.
    notes: ClassVar[Sequence[str]] = ()
    # Each example is a comment, and the arguments that the comment explains.
    examples: ClassVar[Sequence[tuple[str, str]]] = ()

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        lines = [
            f"  # {comment}\n  {Path(prog_name).name} {subcommand} {arguments}".rstrip()
            for comment, arguments in self.examples
        ]
        kwargs = {
            "formatter_class": _HelpFormatter,
            "epilog": "\n\n".join([*self.notes, "\n".join(["examples:", *lines])]),
            **kwargs,
        }
        return super().create_parser(prog_name, subcommand, **kwargs)

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except OutputClosed:
            # Without a new target for the output, Python would try to write the remaining output at
            # exit, and would report an error.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stdout.fileno())
            raise SystemExit(UNFINISHED) from None

    def put(self, text: str, *, ending: str = "\n") -> None:
        """Print ``text`` immediately.

        Raises :exc:`OutputClosed` if the pipe is closed.
        """
        try:
            self.stdout.write(text, ending=ending)
            self.stdout.flush()
        except BrokenPipeError:
            raise OutputClosed from None


class Progress:
    """A context manager that shows what a command is waiting for.

    Each line also shows when the wait began. On a terminal, the same line is updated in place. In a
    log, a line is written when the text changes, and otherwise once a minute.
    """

    def __init__(self, put: Callable[..., object], *, is_live: bool) -> None:
        self._put = put
        self._is_live = is_live
        self._text = self._result = ""
        # The time when a log gets its next line (from the monotonic clock).
        self._next_at = 0.0
        self._since = timezone.now()
        # The line at the cursor, to be redrawn; "" if there is none.
        self._drawn = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        if kind is not OutputClosed:
            self.end()

    def show(
        self,
        text: str,
        *,
        since: datetime | None = None,
        unless_short: bool = False,
        bar: str = "",
    ) -> None:
        """Show a text that says what the command is waiting for.

        If ``unless_short`` is True, a log does not contain the text until the wait has lasted for
        several seconds. ``since`` is the time when the wait began. By default, this is the time of
        the first call with this ``text``. On a terminal, the text is followed by a progress bar,
        which is passed as ``bar``, and is shortened if the line is too long.
        """
        now = time.monotonic()
        if text != self._text:
            self.end()
            self._text, self._since = text, since or timezone.now()
            self._next_at = now + (tuning.short_wait - self._seconds() if unless_short else 0)
        elif since is not None:
            self._since = since
        if self._is_live:
            # The cursor stays at the start of the line, so that a log on the same terminal
            # overwrites it.
            line = self._line(bar, shutil.get_terminal_size().columns - 1)
            if line != self._drawn:
                self._put(f"\r{line}\x1b[K\r", ending="")
            self._drawn = line
        elif now >= self._next_at:
            self._put(self._line())
            self._next_at = now + _REMIND_AFTER

    def advance(self, text: str, done: int, total: int) -> None:
        """Show the progress. On a terminal, the progress is shown as a bar.

        In a log, a line is written for each tenth of the total.
        """
        share = min(done / total, 1) if total else 1
        if self._is_live:
            self.show(text, bar=f" [{'#' * int(share * _BAR):.<{_BAR}}] {int(share * 100)} %")
        else:
            self.show(f"{text}: {int(share * 10) * 10} %")

    def end(self, text: str = "") -> None:
        """End the wait, and print the result if ``text`` is not empty."""
        if self._drawn:
            self._put("")
        self._drawn = self._text = ""
        if text and text != self._result:
            self._put(text)
            self._result = text

    def _seconds(self) -> float:
        return max((timezone.now() - self._since).total_seconds(), 0)

    def _line(self, bar: str = "", width: int | None = None) -> str:
        how_long = f" (since {clock_time(self._since)}, {duration(self._seconds())})"
        rest = bar + how_long
        room = None if width is None else max(width - len(rest), 0)
        return self._text[:room] + rest


def set_by_signals() -> threading.Event:
    """Return an event that is set by Ctrl-C and SIGTERM.

    The signals then no longer end the process.
    """
    stop = threading.Event()

    def end(*_args: object) -> None:
        # The main thread may be in `stop.wait()` and hold the lock that set() needs, so another
        # thread sets the event.
        if start_thread(stop.set) is None:
            signal.signal(signal.SIGALRM, end)
            signal.alarm(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return stop


def clock_time(moment: datetime) -> str:
    """Format ``moment`` as a time of day in the site's time zone.

    The text includes the date, unless it is today's date.
    """
    now = timezone.now()
    if timezone.is_aware(moment):
        moment, now = timezone.localtime(moment), timezone.localtime(now)
    is_today = moment.date() == now.date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%Y-%m-%d %H:%M:%S}"


def duration(seconds: float) -> str:
    """Return ``seconds`` as text, such as ``2 min 5 s`` or ``3 h 10 min``."""
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{minutes} min {rest} s" if hours < 1 else f"{hours} h {minutes} min"


def iso(moment: datetime | None) -> str | None:
    """Return ``moment`` in ISO 8601 format.

    The result contains a time zone even if ``USE_TZ`` is off. Returns ``None`` if ``moment`` is
    ``None``.
    """
    if moment is None:
        return None
    return (moment if timezone.is_aware(moment) else timezone.make_aware(moment)).isoformat()


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in the right form, such as ``2 orders``."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
