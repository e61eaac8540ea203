"""How secrets stay out of what others print: error mails, crash reports, debuggers, task rows.

Reports on an exception show the ``repr`` of every local variable of every frame that it passed, and
the same of the exceptions it was raised from. So a secret that travels is :class:`Masked`; and code
that has to take it apart, where it turns into bytes and JSON, is :func:`contained`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from functools import wraps
from traceback import walk_tb
from types import TracebackType
from typing import ParamSpec, TypeVar

from giftcards.exceptions import GiftcardsError

P = ParamSpec("P")
T = TypeVar("T")


class Masked(str):
    """A text like any other, but for its ``repr``, which does not show it.

    What is made from it, such as a slice or the result of :meth:`str.upper`, is an ordinary text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<masked>"


def place_of(error: BaseException) -> str:
    """File and line at which ``error`` was raised; "" if it never was.

    With its class, that is what can be told of an error whose text may hold a secret.
    """
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        place = f"{frame.f_code.co_filename}:{line}"
    return place


def contained(function: Callable[P, T]) -> Callable[P, T]:
    """Let nothing but the exception itself out of ``function``, should it raise.

    The exception loses the frames inside ``function``, and the exceptions that it was raised from
    or while handling. This includes one that strikes from outside at any moment, such as
    :exc:`KeyboardInterrupt` or the timeout of a task. One that is not ours gets a note that names
    the lines of these frames.
    """

    @wraps(function)
    def contain(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        # No function is called in here: another exception could strike inside it, and keep this one
        # as its context.
        except BaseException as error:  # noqa: BLE001 (raised below)
            del args, kwargs
            raised, trace = error, error.__traceback__
            error.__cause__ = error.__context__ = error.__traceback__ = None
        try:
            # Outside the handler, in which it would get its frames back.
            if not (isinstance(raised, GiftcardsError) or hasattr(raised, "__notes__")):
                raised.add_note(_lines(trace))
            trace = None
            raise raised
        finally:
            del raised  # its traceback refers to this frame

    return contain


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``function``, which logs, as if no request was being answered.

    Whoever collects errors adds the request to them, with its address and the form: on a customer's
    page, these are the link to the cards and the PIN.
    """
    return Context().run(function, *args, **kwargs)


def _lines(trace: TracebackType | None) -> str:
    lines = [f"{frame.f_code.co_filename}:{line}" for frame, line in walk_tb(trace)]
    return "\n  ".join(["The last calls, without their variables:", *lines[1:]])
