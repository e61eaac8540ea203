"""Every error this package raises on purpose.

None of them carries an API key, a card's code or the body of an answer: their texts are logged,
stored and shown to staff as they are.
"""

from __future__ import annotations


class GiftcardsError(Exception):
    """Base of everything below."""


class ConfigurationError(GiftcardsError):
    """The settings are missing something or hold something unusable; the text names the fix."""


class ReferenceConflict(GiftcardsError):
    """The reference already names an order for another product, type or quantity."""


class DecryptionError(GiftcardsError):
    """A sealed card could not be opened: wrong key, damaged token, or another order's token."""


class ProviderError(GiftcardsError):
    """A call to the provider failed. The subclasses say what the caller does next.

    ``status`` is the HTTP status (``None``: there was no answer), ``code`` the provider's own
    error code (``""``: none or unreadable), ``request_id`` the provider's name for the request
    (``""``: none), ``retry_after`` the pause in seconds that the provider asked for (``None``:
    none or unreadable; never negative). ``is_worth_repeating`` is true of a question that may well
    be answered if it is asked again at once.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.is_worth_repeating = False


class TryLater(ProviderError):
    """Nothing was done: the request never left, or the provider said it did not start on it."""


class RateLimited(TryLater):
    """429: nothing was done, and every other call has to wait as well."""


class OutcomeUnknown(ProviderError):
    """The request may have been carried out. A question is asked again; an order never is."""


class AccessDenied(ProviderError):
    """The key or the address is refused. Nothing was done, and asking on would get it blocked."""


class Refused(ProviderError):
    """The provider said no to this request; saying it again would not help."""


class NotFound(Refused):
    """The provider knows no such order or product."""
