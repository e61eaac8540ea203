"""Every error that this package raises on purpose.

No error has an API key, a card's code or the body of an answer, because the texts of errors are
logged, stored and shown to staff as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal


class GiftcardsError(Exception):
    """Base class of the errors below."""


class ConfigurationError(GiftcardsError):
    """A setting is missing or unusable; the text names the fix."""


class ReferenceConflict(GiftcardsError):
    """The reference already names another order, or the same order with other details."""


class CustomerConflict(GiftcardsError):
    """The customer was corrected or erased after the order was read."""

    def __init__(self) -> None:
        super().__init__(
            "The customer of the order is not the one that was read: read the order again."
        )


class ReorderError(GiftcardsError):
    """The missing cards of an order cannot be ordered again; the text says why."""


class SaleError(GiftcardsError):
    """A sale amount cannot be recorded; the text, in the active language, says why."""


class RefundError(GiftcardsError):
    """A refund to a customer cannot be recorded or paid; the text says why.

    :meth:`shown` formats the amounts and references in the text.
    """

    def __init__(self, template: str, **parts: Decimal | str) -> None:
        self._template, self._parts = template, parts
        super().__init__(self.shown(_plainly))

    def shown(self, show: Callable[[Decimal | str], str]) -> str:
        """Return the text, with amounts and references formatted by ``show``."""
        if not self._parts:
            return self._template
        return self._template % {name: show(part) for name, part in self._parts.items()}


def _plainly(part: Decimal | str) -> str:
    return part if isinstance(part, str) else f"{part:.2f}"


class NotForSale(GiftcardsError):
    """A card cannot be sold now, or not at this price; the text, for staff, says why.

    ``code`` is one of ``delisted``, ``out_of_stock``, ``above_ceiling``, ``below_cost``,
    ``balance``, ``paused``, ``stale``, ``busy``, ``too_many_reserved``, ``network_busy`` and
    ``reserved_too_long``.
    ``for_customer`` is a sentence that may be shown to the customer.
    """

    def __init__(self, code: str, *, for_customer: str, for_staff: str) -> None:
        super().__init__(for_staff)
        self.code = code
        self.for_customer = for_customer


class DecryptionError(GiftcardsError):
    """A card could not be decrypted: no key fits, or the sealed text is damaged or misplaced."""


class CodeDestroyed(DecryptionError):
    """The code of a card was destroyed on purpose: it was old, or its customer was erased."""


class ProviderError(GiftcardsError):
    """A call to the provider failed; the subclass decides what the caller does next.

    - ``status`` is the HTTP status; ``None`` if there was no answer.
    - ``code`` is the provider's own error code; ``""`` if there is none or it is unreadable.
    - ``request_id`` is the provider's name for the request; ``""`` if there is none.
    - ``retry_after`` is the pause that the provider asked for, in seconds, never negative; ``None``
      if there is none or it is unreadable.
    - ``is_worth_repeating`` is True if the same request, made now, is likely to get an answer.

    The text is English, for logs. Staff see a :class:`~giftcards.rules.problems.Problem` instead,
    with ``parameters``: ``reason`` (one of ``REASONS``), ``message`` (the provider's own words) and
    ``detail`` (what failed, for developers). A missing one is "".
    """

    reason = ""

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        reason: str = "",
        message: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.reason = reason or type(self).reason
        self.message = message
        self.detail = detail
        self.is_worth_repeating = False

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters for a problem that this error causes, without empty ones."""
        told = {
            "reason": self.reason,
            "message": self.message,
            "provider_code": self.code,
            "detail": self.detail,
        }
        return {name: value for name, value in told.items() if value}


class TryLater(ProviderError):
    """Nothing was done: the request was not sent, or the provider did not start on it."""

    reason = "not_started"


class Withheld(TryLater):
    """Nothing was done: the shop's process was held up, and did not send the request in time."""

    reason = "held_up"


class RateLimited(TryLater):
    """HTTP 429: nothing was done, and all other calls have to wait, too."""

    reason = "too_many_requests"


class OutcomeUnknown(ProviderError):
    """The request may have been processed. GETs are retried; a purchase never is."""


class AccessDenied(ProviderError):
    """The API key or the IP address is refused. Nothing was done.

    If refused calls are repeated, the provider blocks the IP address.
    """

    reason = "key_refused"


class Refused(ProviderError):
    """The provider refused this request; a retry would not help."""


class AlreadyPlaced(Refused):
    """The provider knows the reference of the purchase: an earlier attempt was bought."""


class NotFound(Refused):
    """The provider knows no such order or product."""


class NotListed(NotFound):
    """The provider knows the product, but does not list this type of it."""

    reason = "no_price"
