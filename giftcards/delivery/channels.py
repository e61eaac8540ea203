"""Channels, which send messages to customers and staff.

The ``GIFTCARDS_DELIVERY["CHANNELS"]`` setting lists the channels in use. This module also defines
the errors that channels raise.
"""

from __future__ import annotations

import contextlib
import enum
import smtplib
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from email.utils import make_msgid, parseaddr
from math import inf
from traceback import walk_tb
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.db import connections
from django.utils import translation
from django.utils.encoding import punycode
from django.utils.module_loading import import_string
from requests import exceptions as http
from urllib3.exceptions import NewConnectionError

from giftcards.delivery.conf import conf
from giftcards.engine.threads import start_thread
from giftcards.keys.secrecy import contained, place_of
from giftcards.models import Order
from giftcards.text.display import NO_BREAKS, one_line
from giftcards.text.spelling import international_phone


class AddressRefused(Exception):
    """The address does not exist or does not accept messages.

    A retry would not help.
    """


class OutcomeUnknown(Exception):
    """The channel does not know whether the message was sent.

    The app sends the message again after 15 minutes. The app gives up after six attempts whose
    results are unknown.
    """


class SlowDown(Exception):
    """The service temporarily refused the message, and requested a pause.

    ``seconds`` is the length of the pause, which is limited to an hour. If the regular pause before
    the next attempt is longer, the app waits for the regular pause.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        # With 0.0 as first argument, max() returns 0.0 for NaN.
        self.seconds = max(0.0, float(seconds))


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is ready to be sent.

    The ``repr`` of the message does not contain the subject or the text, because they might contain
    codes or links.
    """

    #: The kind of a message to a customer, or "digest" for staff.
    kind: str
    #: The reference of the order; "" in a digest.
    reference: str
    language: str
    address: str = field(repr=False)
    #: The subject, in one line.
    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    #: One or two plain sentences for short messages, and the link if there is one.
    short: str = field(repr=False)
    #: The URL of the customer's page, or of the admin for staff; "" without a link.
    link: str = field(default="", repr=False)
    #: The idempotency key: 32 letters and digits, the same in every attempt. A service that gets
    #: the key can drop repetitions.
    id: str = ""

    @property
    def phone(self) -> str:
        """The phone number in the international E.164 format, or "".

        The value is "" if the address is not a phone number.
        """
        return international_phone(self.address)


class Channel:
    """The base class of channels.

    The app can create new instances at any time, and passes no arguments. A channel that is used
    only for digests to staff needs only a name and the :meth:`send` method.
    """

    #: The name, of up to 40 characters. Rows store the name, so it must not change.
    name: ClassVar[str]

    def address_of(self, order: Order) -> str:  # noqa: ARG002 (for other channels)
        """Return the customer's address on this channel.

        Return "" if the channel cannot reach the customer.
        """
        return ""

    def recipient_address_of(self, order: Order) -> str:  # noqa: ARG002 (for other channels)
        """Return the address of a gift's recipient on this channel.

        Return "" if the channel cannot reach the recipient.
        """
        return ""

    def send(self, message: Message) -> str | None:
        """Send ``message``, and return its id at the service if there is one.

        Raise :exc:`AddressRefused` if a retry would not help. Raise :exc:`OutcomeUnknown` if the
        message might have been sent. Raise :exc:`SlowDown` to set the pause before the next
        attempt. After any other error, the app also retries.

        Set a time-out of at most 20 seconds for requests to the service. The app waits at most one
        minute for an attempt, or for less time if the worker is stopping or out of time. After
        that, the app treats the result as unknown.

        The app calls this method in a separate thread, in which the language of the message is
        active.
        """
        raise NotImplementedError


class Mail(Channel):
    """The channel for e-mail, which uses the mail backend of the site."""

    name = "mail"

    def address_of(self, order: Order) -> str:
        return order.customer_email

    def recipient_address_of(self, order: Order) -> str:
        return order.recipient_email

    def send(self, message: Message) -> str | None:
        try:
            validate_email(message.address)
        except ValidationError:
            raise AddressRefused from None
        subject = _one_line(message.subject)
        mail = html_mail(message.address, subject, message.text, message.html)
        message_id = _message_id(message, mail.from_email)
        mail.extra_headers["Message-ID"] = message_id
        if mail.send() == 0:
            raise NotTaken
        # anymail reports the mail service's own id.
        status = getattr(mail, "anymail_status", None)
        if status is not None and {"rejected", "invalid"}.intersection(status.status or ()):
            raise AddressRefused
        named = getattr(status, "message_id", None)
        return message_id if named is None else str(named)


class NotTaken(Exception):
    """The mail backend did not send the message, and did not give a reason."""


def html_mail(address: str, subject: str, text: str, html: str) -> EmailMultiAlternatives:
    """Return an e-mail from the shop, as plain text and as HTML."""
    mail = EmailMultiAlternatives(subject, text, conf.from_email, [address])
    mail.attach_alternative(html, "text/html")
    # The header tells mail programs not to answer automatically, for example with an out-of-office
    # reply.
    mail.extra_headers["Auto-Submitted"] = "auto-generated"
    return mail


def _one_line(text: str) -> str:
    """Return ``text`` on one line, without control characters.

    Headers must not contain line breaks or control characters.
    """
    printable = (char if char.isprintable() or char in NO_BREAKS else " " for char in text)
    return one_line("".join(printable))


def _message_id(message: Message, from_email: str) -> str:
    """Return a Message-ID that is the same for all attempts.

    Mail servers can recognise duplicates by this id, and drop them. If the message does not have an
    ``id``, each attempt gets a new Message-ID.
    """
    domain = parseaddr(from_email)[1].rpartition("@")[2]
    domain = punycode(domain or urlsplit(conf.shop_url).hostname or "localhost")
    return f"<{message.id}@{domain}>" if message.id else make_msgid(domain=domain)


def make_channels() -> list[Channel]:
    """Return new instances of the channels in the ``CHANNELS`` setting."""
    return [import_string(path)() for path in conf.channels]


#: The longest time that an attempt may take (seconds).
ATTEMPT_SECONDS = 60.0
# The time left for an attempt after the signal to stop (seconds).
_STOPPING_SECONDS = 8.0
# The interval at which an attempt checks whether it has to stop (seconds).
_POLL_EVERY = 0.25


def send_over(channel: Channel, message: Message) -> str | None:
    """Send ``message`` over ``channel``.

    The language of the message is active while the channel sends the message.
    """
    with translation.override(message.language):
        return channel.send(message)


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a message that was sent.

    ``message_id`` is the id of the message on the channel, or "".
    """

    message_id: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for sending messages. Times are :func:`time.monotonic` values."""

    #: This function is called before and during each attempt. After it has returned False, no new
    #: attempt begins, and the current attempt must end soon.
    may_go_on: Callable[[], bool] = lambda: True
    #: Attempts can begin until ``begin_until``. At ``end_at``, the app stops waiting for the result
    #: of an attempt.
    begin_until: float = inf
    end_at: float = inf

    def may_begin(self) -> bool:
        return time.monotonic() < self.begin_until and self.may_go_on()


@contained
def hand_over(
    send: Callable[[], str | None], limits: Limits, *, on_late_result: Callable[[Sent], object]
) -> Sent | Failure:
    """Call ``send`` in a separate thread, and return the result.

    If there is no result after :data:`ATTEMPT_SECONDS`, or if the ``limits`` end the attempt
    earlier, the function returns a failure with ``Meaning.UNANSWERED``. The thread keeps running.
    If the message is sent after all, the thread calls ``on_late_result`` with the result.
    """
    end: Future[Sent | Failure] = Future()
    if start_thread(_send, send, end, on_late_result, name="giftcards: message") is None:
        return Failure(Meaning.SERVER_AWAY, "RuntimeError: no thread left")
    began = time.monotonic()
    give_up_at = min(began + ATTEMPT_SECONDS, limits.end_at)
    is_stopping = False
    while (now := time.monotonic()) < give_up_at:
        with contextlib.suppress(TimeoutError):
            return end.result(min(_POLL_EVERY, give_up_at - now))
        if not (is_stopping or limits.may_go_on()):
            is_stopping = True
            give_up_at = min(give_up_at, time.monotonic() + _STOPPING_SECONDS)
    # cancel() returns False if the result has arrived in the meantime.
    if end.cancel():
        return Failure(Meaning.UNANSWERED, f"No answer within {now - began:.0f} s")
    return end.result()


@contained
def _send(
    send: Callable[[], str | None],
    end: Future[Sent | Failure],
    on_late_result: Callable[[Sent], object],
) -> None:
    try:
        sent = Sent(send() or "")
        try:
            end.set_result(sent)
        except InvalidStateError:  # nobody waits any more
            on_late_result(sent)
    except BaseException as error:  # noqa: BLE001 (whoever sends may raise anything)
        with contextlib.suppress(InvalidStateError):
            end.set_result(failure_of(error))
    finally:
        # Each thread has database connections of its own.
        connections.close_all()


class Meaning(enum.Enum):
    #: The address does not accept messages, so another attempt would also fail.
    REFUSED = "refused"
    #: It is unknown whether the message was sent.
    UNANSWERED = "unanswered"
    #: The message was not sent, and other messages could not be sent either.
    SERVER_AWAY = "server away"
    #: The message was not sent, for a reason that does not affect other messages.
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt to send a message.

    ``error`` names the class of the error and the place in the code where it was raised, but does
    not contain the text of the error. ``pause`` is the number of seconds that the service
    requested.
    """

    meaning: Meaning
    error: str
    pause: float = 0.0


def failure_of(error: BaseException) -> Failure:
    """Convert an error that a channel raised to a :class:`Failure`.

    After an error that the app does not know, it assumes that the message was not sent. Therefore a
    channel must raise :exc:`OutcomeUnknown` if the message might have been sent.
    """
    pause = error.seconds if isinstance(error, SlowDown) else 0.0
    return Failure(_meaning(list(_chain(error))), describe(error), pause)


def describe(error: BaseException) -> str:
    """Return the error's class, its reply codes and its place in the code.

    The reply codes are the SMTP codes or the HTTP status of the server's answer.
    """
    numbers: list[object] = [code for code, _ in sorted(_replies(error))]
    status = _http_status(error)
    if status is not None:
        numbers.append(status)
    place = place_of(error)
    where = ["at", place] if place else []
    return " ".join(map(str, [type(error).__name__, *numbers, *where]))


def _meaning(errors: Sequence[BaseException]) -> Meaning:
    if any(map(_is_refusal, errors)):
        return Meaning.REFUSED
    if any(map(_may_be_sent_by_smtp, errors)) or _may_be_sent_by_http(errors):
        return Meaning.UNANSWERED
    return Meaning.NOT_SENT if any(map(_is_of_the_message, errors)) else Meaning.SERVER_AWAY


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _replies(error: BaseException) -> list[tuple[int, bytes]]:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return list(error.recipients.values())
    if isinstance(error, smtplib.SMTPResponseException):
        text = error.smtp_error
        return [(error.smtp_code, text.encode() if isinstance(text, str) else text)]
    return []


def _is_refusal(error: BaseException) -> bool:
    if isinstance(error, AddressRefused | _anymail_refusals()):
        return True
    replies = _replies(error)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return bool(replies) and all(_is_final(code, text) for code, text in replies)
    # Some servers check the address only after they have got the message.
    is_data = isinstance(error, smtplib.SMTPDataError)
    return is_data and any(500 <= code < 600 and text[:4] == b"5.1." for code, text in replies)


_LOGIN_REPLIES = range(530, 540)
# The second part of an enhanced code, such as 7 in 5.7.1. These parts blame the mail system, the
# network or a policy.
_NOT_OF_THE_ADDRESS = {b"3", b"4", b"7"}


def _is_final(code: int, text: bytes) -> bool:
    """True if the server's reply permanently rejects the recipient's address."""
    _class, _, rest = text.partition(b".")
    is_elsewhere = _class == b"5" and rest[:1] in _NOT_OF_THE_ADDRESS and rest[1:2] == b"."
    return 500 <= code < 600 and code not in _LOGIN_REPLIES and not is_elsewhere


def _anymail_refusals() -> type[BaseException]:
    """Return the class of anymail's error for a refused recipient.

    Returns :exc:`AddressRefused` if anymail has not been imported.
    """
    module = sys.modules.get("anymail.exceptions")
    refusal: type[BaseException] = getattr(module, "AnymailRecipientsRefused", AddressRefused)
    return refusal


def _may_be_sent_by_smtp(error: BaseException) -> bool:
    if isinstance(error, OutcomeUnknown):
        return True
    if isinstance(error, smtplib.SMTPDataError):
        return not 400 <= error.smtp_code < 600
    functions = {
        frame.f_code.co_name
        for frame, _ in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") == "smtplib"
    }
    return not functions.isdisjoint({"data", "quit"})


# A request may have been carried out even if its answer has one of these HTTP statuses.
_HTTP_UNCLEAR = {500, 502, 504}


def _may_be_sent_by_http(errors: Sequence[BaseException]) -> bool:
    # anymail wraps errors in errors of the same classes, so the innermost error counts.
    error = next((err for err in reversed(errors) if isinstance(err, http.RequestException)), None)
    if error is None:
        return False
    status = _http_status(error)
    if status is not None:
        return status < 400 or status in _HTTP_UNCLEAR
    if isinstance(error, http.ConnectTimeout) or any(
        isinstance(err, NewConnectionError | ssl.SSLCertVerificationError) for err in errors
    ):
        return False
    return isinstance(
        error,
        http.ConnectionError
        | http.Timeout
        | http.ChunkedEncodingError
        | http.ContentDecodingError
        | http.InvalidJSONError
        | http.TooManyRedirects,
    )


def _http_status(error: BaseException) -> int | None:
    response = error.response if isinstance(error, http.RequestException) else None
    return None if response is None else response.status_code


# HTTP statuses from 400 to 499 that are not about the content of the request.
_HTTP_OF_THE_SERVER = {401, 403, 407, 408, 425, 429}
# The errors that Python code raises for unusable values.
_OF_THE_CONTENT = (ValueError, TypeError, LookupError, AttributeError)


def _is_of_the_message(error: BaseException) -> bool:
    """True if the server might accept other messages despite ``error``."""
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _HTTP_OF_THE_SERVER
    kinds = (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError, *_OF_THE_CONTENT)
    return isinstance(error, kinds)
