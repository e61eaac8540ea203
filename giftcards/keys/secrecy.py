"""Keep secrets out of error mails, crash reports, debuggers and tasks.

An error report shows the local variables of every frame that an exception has passed through.
Therefore secrets are :class:`Masked` strings, and functions that convert a secret to bytes or JSON
use the :func:`contained` decorator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from functools import wraps
from traceback import walk_tb
from types import TracebackType
from typing import ParamSpec, TypeVar

from giftcards.exceptions import GiftcardsError

P = ParamSpec("P")
T = TypeVar("T")


class Masked(str):
    """A string whose ``repr`` does not show its value.

    A slice of such a string, or the result of a method such as :meth:`str.upper`, is an ordinary
    string that shows its value.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<masked>"


@dataclass(frozen=True, slots=True)
class CardSecret:
    """A delivered card: ``value`` is the code, and ``serial`` can be "".

    Both are secret. Both are masked, and are not part of the ``repr`` of the card.
    """

    value: str = field(repr=False)
    serial: str = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("value", "serial"):
            object.__setattr__(self, name, Masked(getattr(self, name)))


def place_of(error: BaseException) -> str:
    """Return the file and line where ``error`` was raised.

    Logs and database rows contain this place instead of the error message, which might contain a
    secret. The result is "" if the error was never raised.
    """
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        place = f"{frame.f_code.co_filename}:{line}"
    return place


def contained(function: Callable[P, T]) -> Callable[P, T]:
    """Remove frames, cause and context from the errors of ``function``.

    This applies to all exceptions, including those that can occur at any time, for example
    :exc:`KeyboardInterrupt` or a task time-out. If an exception is not a :exc:`GiftcardsError` and
    does not have any notes yet, a note with the lines of the removed frames is added to it.
    """

    @wraps(function)
    def contain(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        # The handler does not call any functions, because an exception in a function would keep
        # ``error`` as its context.
        except BaseException as error:  # noqa: BLE001 (raised below)
            del args, kwargs
            raised, trace = error, error.__traceback__
            error.__cause__ = error.__context__ = error.__traceback__ = None
        try:
            # The exception is raised again outside the handler, because raising it inside would
            # restore the removed frames.
            if not (isinstance(raised, GiftcardsError) or hasattr(raised, "__notes__")):
                raised.add_note(_lines(trace))
            trace = None
            raise raised
        finally:
            del raised  # its traceback refers to this frame

    return contain


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function outside the context of the request.

    Use this for functions that write to the log, because error collectors add the request's URL and
    form data to each log entry. On a customer's page, the URL and form data contain the link to the
    cards and the PIN.
    """
    return Context().run(function, *args, **kwargs)


def _lines(trace: TracebackType | None) -> str:
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(trace)]
    return "\n  ".join(["Traceback without variables (most recent call last):", *lines[1:]])
