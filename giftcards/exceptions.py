"""All errors that this package raises on purpose.

Error messages never contain an API key, a card code or the body of a response, because they are
logged, stored and shown to staff unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal


class GiftcardsError(Exception):
    """The base class of all errors of this app."""


class ConfigurationError(GiftcardsError):
    """A setting is missing or invalid. The message says how to fix it."""


class ReferenceConflict(GiftcardsError):
    """The reference is already in use.

    Either the reference belongs to another order, or the same order was recorded with different
    values.
    """


class CustomerConflict(GiftcardsError):
    """The customer was corrected or erased after the order was read."""

    def __init__(self) -> None:
        super().__init__(
            "The customer of the order was changed after the order was read. Read the order again."
        )


class ReorderError(GiftcardsError):
    """The missing cards of an order cannot be reordered.

    The message gives the reason.
    """


class SaleError(GiftcardsError):
    """A sale amount cannot be recorded.

    The message gives the reason in the active language.
    """


class RefundError(GiftcardsError):
    """A refund to a customer cannot be recorded or paid.

    The message gives the reason. To format the amounts and references in the message yourself, call
    the :meth:`shown` method.
    """

    def __init__(self, template: str, **parts: Decimal | str) -> None:
        self._template, self._parts = template, parts
        super().__init__(self.shown(_plainly))

    def shown(self, show: Callable[[Decimal | str], str]) -> str:
        """Return the message with amounts and references formatted by ``show``."""
        if not self._parts:
            return self._template
        return self._template % {name: show(part) for name, part in self._parts.items()}


def _plainly(part: Decimal | str) -> str:
    return part if isinstance(part, str) else f"{part:.2f}"


class NotForSale(GiftcardsError):
    """A card cannot be sold now, or cannot be sold at this price.

    The message gives the reason for staff. ``for_customer`` is a sentence that you can show to the
    customer. ``code`` is one of ``delisted``, ``out_of_stock``, ``above_ceiling``, ``below_cost``,
    ``balance``, ``paused``, ``stale``, ``busy``, ``too_many_reserved``, ``network_busy`` and
    ``reserved_too_long``.
    """

    def __init__(self, code: str, *, for_customer: str, for_staff: str) -> None:
        super().__init__(for_staff)
        self.code = code
        self.for_customer = for_customer


class DecryptionError(GiftcardsError):
    """A card could not be decrypted.

    Either no key in ``ENCRYPTION_KEYS`` fits, or the stored data is damaged or belongs to another
    card.
    """


class CodeDestroyed(DecryptionError):
    """The code of a card was destroyed on purpose.

    The code was older than ``CODES_KEPT_DAYS``, or the data of its customer was erased.
    """


class ProviderError(GiftcardsError):
    """A request to the provider failed.

    - ``status`` is the HTTP status, or ``None`` if there was no answer.
    - ``code`` is the provider's own error code, or ``""`` if there is none or it cannot be read.
    - ``request_id`` is the provider's id of the request, or ``""``.
    - ``retry_after`` is the pause that the provider requested, in seconds and never negative.
      ``retry_after`` is ``None`` if the provider did not request a pause, or if the value cannot be
      read.
    - ``is_worth_repeating`` is True if a retry is likely to receive an answer.

    The message is in English, for logs. Staff see a :class:`~giftcards.rules.problems.Problem`
    instead, with these ``parameters``: ``reason`` (one of ``REASONS``), ``message`` (the provider's
    own words) and ``detail`` (the failure in technical terms, for developers). A missing parameter
    is "".
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
        """The non-empty parameters for the problem that this error causes."""
        told = {
            "reason": self.reason,
            "message": self.message,
            "provider_code": self.code,
            "detail": self.detail,
        }
        return {name: value for name, value in told.items() if value}


class TryLater(ProviderError):
    """The request had no effect, and can be retried later.

    The request was not sent, or the provider did not start to process it.
    """

    reason = "not_started"


class Withheld(TryLater):
    """The request was not sent, because the process was delayed for too long."""

    reason = "held_up"


class RateLimited(TryLater):
    """HTTP 429: the provider asks for fewer requests.

    The request had no effect. All other requests must wait, too.
    """

    reason = "too_many_requests"


class OutcomeUnknown(ProviderError):
    """The provider might have processed the request.

    Read-only requests are retried. A purchase is never retried.
    """


class AccessDenied(ProviderError):
    """The provider refuses the API key or the IP address.

    The request had no effect. If refused requests are repeated, the provider blocks the IP address.
    """

    reason = "key_refused"


class Refused(ProviderError):
    """The provider refused this request. A retry would not help."""


class AlreadyPlaced(Refused):
    """The provider already has an order with this reference.

    An earlier request with this reference placed the order.
    """


class NotFound(Refused):
    """The provider does not know the order or the product."""


class NotListed(NotFound):
    """The provider knows the product, but does not list this product type."""

    reason = "no_price"
