"""Classify failed replies by whether a retry is safe.

The most important question is whether the provider might have processed the request.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from giftcards.exceptions import (
    AccessDenied,
    AlreadyPlaced,
    NotFound,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    Refused,
    TryLater,
    Withheld,
)
from giftcards.provider.answers import JsonObject
from giftcards.provider.transport import Reply

TEXTS: dict[type[ProviderError], str] = {
    TryLater: "The provider has not processed the request",
    Withheld: "The order was not sent",
    RateLimited: "Too many requests were sent to the provider",
    OutcomeUnknown: "The provider gave no usable answer",
    Refused: "The provider refused the request",
    AlreadyPlaced: "The provider has an order with this reference",
    NotFound: "The provider does not have this order or product",
}
WRONG_KEY = (
    "key_refused",
    "The provider refused the API key",
    "Correct GIFTCARDS['API_KEY'] first: further attempts will block this server.",
)
ACCESS_CODES = {
    "MISSING_ACCESS_TOKEN": WRONG_KEY,
    "INVALID_ACCESS_TOKEN": WRONG_KEY,
    "ERR_AUTH": WRONG_KEY,
    "IP_BLOCKED": (
        "address_blocked",
        "The provider has blocked this server's address",
        "Check GIFTCARDS['API_KEY'], and send no requests for 15 minutes.",
    ),
    "IP_NOT_ALLOWED": (
        "address_not_allowed",
        "The provider does not allow this server's address",
        "Add it to the key's allowed addresses in the provider's dashboard.",
    ),
    "API_DISABLED": (
        "access_disabled",
        "The provider has disabled the API for this account",
        "Enable it in the provider's dashboard.",
    ),
}
# Our codes for the provider's error codes. Staff see any other code as the provider sent it.
REFUSAL_REASONS = {
    "NO_BALANCE": "no_balance",
    "INSUFFICIENT_BALANCE": "no_balance",
    "OUT_OF_STOCK": "out_of_stock",
}
_REFUSAL_CODES = {"ERR_VALIDATION", "NO_BALANCE", "INSUFFICIENT_BALANCE", "NOT_FOUND"}
_REPEATED_REFERENCE = {"DUPLICATED_REF", "DUPLICATED-REF"}


def failure_kind(
    reply: Reply, code: str, missing: type[Refused], *, is_enveloped: bool
) -> type[ProviderError]:
    """Return the class of error for a failed reply.

    ``code`` is the provider's error code.
    """
    status = reply.status
    family = (status or 0) // 100
    # The first rule that holds decides the class of error.
    rules: tuple[tuple[bool, type[ProviderError]], ...] = (
        (reply.is_withheld, Withheld),
        (reply.is_unsent, TryLater),
        (status == 401, AccessDenied),
        (status == 429, RateLimited),
        ((status, code) == (503, "AUTH_UNAVAILABLE"), TryLater),
        # A proxy or a router replied, or the reply was cut off.
        (not is_enveloped or family not in (2, 4), OutcomeUnknown),
        (code in ACCESS_CODES, AccessDenied),
        (code in _REPEATED_REFERENCE, AlreadyPlaced),
        (code == "RATE_LIMIT_EXCEEDED", RateLimited),
        # A proxy that answers with 408 or 425 may have sent the request to the provider.
        (status in (408, 425), OutcomeUnknown),
        # With a 2xx status, an error counts as a refusal only if its code leaves no doubt.
        (family == 2 and code not in _REFUSAL_CODES, OutcomeUnknown),
        (status == 404 or (family == 2 and code == "NOT_FOUND"), missing),
    )
    return next((kind for holds, kind in rules if holds), Refused)


def attempts_left(error: JsonObject) -> str:
    details = error.get("details")
    left = details.get("attemptsLeft") if isinstance(details, dict) else None
    if isinstance(left, bool) or not isinstance(left, int) or not 0 <= left < 1000:
        return ""
    return f", {left} attempt{'' if left == 1 else 's'} left"


def retry_after(header: str | None) -> float | None:
    """Return the seconds in a ``Retry-After`` header, or ``None``.

    The header contains a number of seconds or a date. The result is ``None`` if the header is
    unusable.
    """
    header = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", header):
        return float(header)
    moment = moment_of(header)
    seconds = -1 if moment is None else (moment - datetime.now(UTC)).total_seconds()
    return seconds if seconds >= 0 else None


def moment_of(header: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(header or "")
        return moment.replace(tzinfo=moment.tzinfo or UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
