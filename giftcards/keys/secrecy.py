"""Keeping secrets out of error mails, crash reports, debuggers and rows of tasks.

An error report shows every local variable of every frame that the exception has passed. It shows
the frames of earlier exceptions that led to this exception, too. So secrets are passed on as
:class:`Masked`, and functions that turn a secret into bytes or JSON are :func:`contained`.
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
    """A text whose ``repr`` does not show the text.

    Texts that are made from a masked text, such as a slice or the result of :meth:`str.upper`, are
    ordinary texts.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<masked>"


@dataclass(frozen=True, slots=True)
class CardSecret:
    """A delivered card: ``value`` is the code that the customer enters, ``serial`` is the serial.

    Code and serial are secret. The ``repr`` of the card leaves them out, and both texts are masked.
    ``serial`` is ``""`` if the provider gave none.
    """

    value: str = field(repr=False)
    serial: str = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("value", "serial"):
            object.__setattr__(self, name, Masked(getattr(self, name)))


def place_of(error: BaseException) -> str:
    """The file and line that raised ``error``; "" if it was never raised.

    Logs and rows name this place instead of the error's text, because the text may hold a secret.
    """
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        place = f"{frame.f_code.co_filename}:{line}"
    return place


def contained(function: Callable[P, T]) -> Callable[P, T]:
    """Strip the frames and the context from an exception that leaves ``function``.

    The exception loses the frames inside ``function``, its cause and its context. The same happens
    to exceptions that can strike at any moment, such as :exc:`KeyboardInterrupt` or the timeout of
    a task. An exception that is not a :exc:`GiftcardsError` gets a note with the lines of the lost
    frames.
    """

    @wraps(function)
    def contain(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        # This handler calls no function: another exception could strike inside that function, and
        # keep this exception as its context.
        except BaseException as error:  # noqa: BLE001 (raised below)
            del args, kwargs
            raised, trace = error, error.__traceback__
            error.__cause__ = error.__context__ = error.__traceback__ = None
        try:
            # The exception is raised outside the handler, because inside the handler it would get
            # its frames back.
            if not (isinstance(raised, GiftcardsError) or hasattr(raised, "__notes__")):
                raised.add_note(_lines(trace))
            trace = None
            raise raised
        finally:
            del raised  # the traceback of ``raised`` refers to this frame

    return contain


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which writes log entries, outside the context of the request.

    Error collectors add the URL and the form data of the request to each log entry. On a customer's
    page, this data contains the link to the cards and the PIN.
    """
    return Context().run(function, *args, **kwargs)


def _lines(trace: TracebackType | None) -> str:
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(trace)]
    return "\n  ".join(["The last calls, without their variables:", *lines[1:]])
