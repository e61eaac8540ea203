"""Classifying the errors of channels: whether the message went out, and whether to retry."""

from __future__ import annotations

import enum
import smtplib
import ssl
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from traceback import walk_tb

from requests import exceptions as http
from urllib3.exceptions import NewConnectionError

from giftcards.delivery.channels import AddressRefused, OutcomeUnknown
from giftcards.keys.secrecy import place_of

# Codes of replies that complain about the sender's login, not about the address.
_LOGIN_REPLIES = range(530, 540)
# Second parts of "enhanced" codes, such as 5.7.1, that stand for mail system, network and policy.
_NOT_OF_THE_ADDRESS = {b"3", b"4", b"7"}
# HTTP statuses after which the request may have been carried out all the same.
_HTTP_UNCLEAR = {500, 502, 504}
# HTTP statuses that do not complain about the content of the request.
_HTTP_OF_THE_SERVER = {401, 403, 407, 408, 425, 429}
# Errors that code raises for values that it cannot use.
_OF_THE_CONTENT = (ValueError, TypeError, LookupError, AttributeError)


class Meaning(enum.Enum):
    #: The address takes no messages: a retry is useless.
    REFUSED = "refused"
    #: Nobody knows whether the message went out.
    UNANSWERED = "unanswered"
    #: The message did not go out, and other messages would not either.
    SERVER_AWAY = "server away"
    #: The message did not go out, for a reason that concerns no other message.
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of an attempt; ``error`` is the error's class and place, never its text."""

    meaning: Meaning
    error: str


def failure_of(error: BaseException) -> Failure:
    """Classify ``error``, which a channel raised while it was sending a message.

    An unknown error means that the message did not go out: channels raise :exc:`OutcomeUnknown`
    where that is not certain.
    """
    return Failure(_meaning(list(_chain(error))), describe(error))


def describe(error: BaseException) -> str:
    """The class of ``error``, the codes of the server's replies if there are any, and the place."""
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
    """The error, and those that it was raised from or while handling."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _replies(error: BaseException) -> list[tuple[int, bytes]]:
    """The mail server's replies as code and text: one for each recipient, or one for all."""
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
    # Some servers check the address only after they got the message.
    is_data = isinstance(error, smtplib.SMTPDataError)
    return is_data and any(500 <= code < 600 and text[:4] == b"5.1." for code, text in replies)


def _is_final(code: int, text: bytes) -> bool:
    """True if a reply about a recipient rejects the address for good."""
    _class, _, rest = text.partition(b".")
    is_elsewhere = _class == b"5" and rest[:1] in _NOT_OF_THE_ADDRESS and rest[1:2] == b"."
    return 500 <= code < 600 and code not in _LOGIN_REPLIES and not is_elsewhere


def _anymail_refusals() -> type[BaseException]:
    """The error of anymail for a recipient that is invalid or on the provider's list of refusals.

    If anymail was not imported, its error cannot occur: :exc:`AddressRefused` takes its place.
    """
    module = sys.modules.get("anymail.exceptions")
    refusal: type[BaseException] = getattr(module, "AnymailRecipientsRefused", AddressRefused)
    return refusal


def _may_be_sent_by_smtp(error: BaseException) -> bool:
    """True if a mail server may have taken the message: it got the data, and did not refuse."""
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


def _may_be_sent_by_http(errors: Sequence[BaseException]) -> bool:
    """True if the server may have carried out the request with the message."""
    # The innermost error, from which anymail raises others of the same classes.
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


def _is_of_the_message(error: BaseException) -> bool:
    """True if the failure concerns this message only, so that the next one may go out."""
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _HTTP_OF_THE_SERVER
    kinds = (smtplib.SMTPRecipientsRefused, smtplib.SMTPDataError, *_OF_THE_CONTENT)
    return isinstance(error, kinds)
