"""Searches for secrets and personal data in logs, mails, pages, tables and variables."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gc
import json
import logging
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import django
import pytest
from django.apps import apps
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.db import connection
from django.test import override_settings
from django.utils.log import AdminEmailHandler
from sentry_sdk.utils import safe_repr

from giftcards.models import Card

_TESTS = str(Path(__file__).parent)
# The secrets, as they are and as they are normalised for searching.
CANARIES = re.compile(rb"canary-?(code|serial|key)", re.IGNORECASE)


def traces(text: str | bytes, canaries: re.Pattern[bytes] = CANARIES) -> list[bytes]:
    """Return the canaries in ``text``, including those that are packed inside it."""
    return [found.group() for part in _unpacked(text) for found in canaries.finditer(part)]


def _unpacked(text: str | bytes, depth: int = 4) -> Iterator[bytes]:
    """Yield ``text``, and its parts when decoded as base64 or unpacked as zlib."""
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    yield raw
    if not depth:
        return
    with contextlib.suppress(zlib.error):
        yield from _unpacked(zlib.decompress(raw), depth - 1)
    for word in set(re.findall(rb"[A-Za-z0-9+/_-]{12,}", raw)):
        try:
            unpacked = base64.b64decode(word + b"=" * (-len(word) % 4), altchars=b"-_")
        except binascii.Error:
            continue
        yield from _unpacked(unpacked, depth - 1)


def raw_database() -> Iterator[str | bytes]:
    """Yield every value of every column of every table, as the driver returns it."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            for row in cursor.fetchall():
                for value in row:
                    yield value if isinstance(value, str | bytes) else repr(value)


@contextlib.contextmanager
def every_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Enable every log at its lowest level, including SQL with its parameters."""
    connection.force_debug_cursor = True
    with contextlib.ExitStack() as stack:
        for name in ("", "django", "django.db.backends", "django-q", "giftcards", "urllib3"):
            stack.enter_context(caplog.at_level(logging.DEBUG, name or None))
        yield
    connection.force_debug_cursor = False


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return everything that a handler could write: texts, arguments and tracebacks."""
    return [caplog.text, *(repr(vars(entry)) for entry in caplog.records)]


def mailed(error: BaseException) -> str:
    """Return the mail to the site's admins about ``error``, with tracebacks and locals."""
    entry = logging.LogRecord(
        "django.request",
        logging.ERROR,
        __file__,
        1,
        "Internal Server Error",
        (),
        (type(error), error, error.__traceback__),
    )
    mail.outbox.clear()
    admin: Any = "staff@example.com"
    if django.VERSION < (6, 0):
        admin = ("Staff", admin)
    with override_settings(ADMINS=[admin], DEBUG=False):
        AdminEmailHandler(include_html=True).emit(entry)
    [message] = mail.outbox
    assert isinstance(message, mail.EmailMultiAlternatives)
    return "\n".join([message.subject, str(message.body), str(message.alternatives)])


class Strike(BaseException):
    """An exception that comes from outside, like KeyboardInterrupt."""


# Packages that may hold a secret. threading is left out, because a lock might never be released.
STRUCK = {"giftcards", "requests", "urllib3", "http", "json", "cryptography", "hmac", "django"}


def struck(work: Callable[[], object], at: int = -1) -> tuple[Strike | None, int]:
    """Interrupt ``work`` when, for the ``at``-th time, a function is called or returns.

    Return the interruption, and how often functions were called or returned.
    """
    count = 0

    def strike(frame: FrameType, *_: object) -> None:
        nonlocal count
        if frame.f_globals.get("__name__", "").partition(".")[0] not in STRUCK:
            return
        if frame.f_code.co_name == "allow_thread_sharing":
            return  # it takes a lock of Django's, which might never be released
        if frame.f_code.co_name == "<genexpr>":
            return  # it may be thrown away unfinished, where an exception reaches nobody
        count += 1
        if count == at:
            sys.setprofile(None)
            raise Strike

    error = None
    # Garbage collection may call destructors at any moment, and exceptions in them are lost.
    gc.disable()
    sys.setprofile(strike)
    try:
        work()
    except Strike as raised:
        error = raised
    finally:
        sys.setprofile(None)
        gc.enable()
    return error, count


def variables(error: BaseException | None) -> Iterator[str]:
    """Yield the texts that a report of ``error`` could show: its chain, and local variables.

    Variables of the tests are left out.
    """
    while error is not None:
        yield from traceback.format_exception_only(error)
        for frame, _line in traceback.walk_tb(error.__traceback__):
            if not frame.f_code.co_filename.startswith(_TESTS):
                yield from map(safe_repr, frame.f_locals.values())
        error = error.__cause__ or error.__context__


def secrets_on(html: str) -> list[str]:
    """Return the secrets that a page shows.

    The page must not show any. The key and all codes begin with CANARY.
    """
    card = Card.objects.order_by("pk").first()
    hidden = ["canary", "gaaaa"]  # the latter begins every sealed text
    if card is not None:
        hidden += [card.sealed, card.identity, card.value_fingerprint]
        hidden += [card.serial_fingerprint, card.tail_fingerprint]
    return [name for name in hidden if name.casefold() in html.casefold()]


class Mailbox(AdminEmailHandler):
    """A handler that keeps the mails that would be sent to the site's administrators."""

    def __init__(self) -> None:
        super().__init__(include_html=True)
        self.mails: list[str] = []

    def send_mail(self, subject: str, message: str, *args: Any, **options: Any) -> None:
        self.mails.append(f"{subject}\n{message}\n{options.get('html_message')}")


def stored_texts() -> Iterator[tuple[str, str]]:
    """Yield every value of the apps' tables and of the admin's log, as text."""
    models = [*apps.get_app_config("giftcards").get_models()]
    models += [*apps.get_app_config("giftcards_delivery").get_models(), LogEntry]
    for model in models:
        for row in model._default_manager.values():
            for name, value in row.items():
                text = json.dumps(value, default=str, ensure_ascii=False)
                yield f"{model._meta.db_table}.{name}", text.casefold()


def traces_of(*spellings: str) -> set[str]:
    return {
        place
        for place, text in stored_texts()
        if any(spelling.casefold() in text for spelling in spellings)
    }
