"""The statuses of an order and the moves allowed between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    # Recorded, not sent.
    PENDING = "PENDING", _("Waiting to be sent")
    # Claimed by a process, which may have made the request.
    PLACING = "PLACING", _("Being sent")
    # The request was made, but no usable answer arrived: money may have been spent.
    UNCONFIRMED = "UNCONFIRMED", _("Unconfirmed")
    # Refused by the provider; no money moved.
    REJECTED = "REJECTED", _("Rejected")
    # Accepted by the provider.
    HANDLING = "HANDLING", _("In progress")
    # Accepted, but not settled within POLL_TIMEOUT. Not a failure: checks go on, less often.
    DELAYED = "DELAYED", _("Delayed")
    FULFILLED = "FULFILLED", _("Delivered")
    PARTIALLY_FILLED = "PARTIALLY_FILLED", _("Partly delivered")
    REFUNDED = "REFUNDED", _("Not delivered, credited back")


class Review(models.TextChoices):
    """The review of an order by a person; "" if nobody has asked for one."""

    # Asked for by REVIEW_ORDER. It stays so if staff reject the order.
    WANTED = "wanted"
    # By staff; or the order repeats one that was not rejected, so that nobody is asked again.
    APPROVED = "approved"


# Tuples, not sets: queries and the constraints in migrations need a stable order.

# The provider's final statuses: cards and money are settled.
SETTLED: Final = (Status.FULFILLED, Status.PARTIALLY_FILLED, Status.REFUNDED)
# No order leaves these.
FINAL: Final = (Status.REJECTED, *SETTLED)
# Accepted and still open: checked regularly.
FOLLOWED: Final = (Status.HANDLING, Status.DELAYED)
# These have the provider's order id.
ACCEPTED: Final = (*FOLLOWED, *SETTLED)

# These normally change within seconds.
URGENT: Final = (Status.PENDING, Status.PLACING, Status.HANDLING)

# The statuses that an order may move to from each status.
MOVES: Final[Mapping[Status, Sequence[Status]]] = {
    # REJECTED: given up unsent.
    Status.PENDING: (Status.PLACING, Status.REJECTED),
    Status.PLACING: (Status.PENDING, Status.UNCONFIRMED, Status.REJECTED, Status.HANDLING),
    Status.UNCONFIRMED: (Status.PENDING, Status.REJECTED, Status.HANDLING),
    # UNCONFIRMED: it was matched with the wrong order at the provider.
    Status.HANDLING: (Status.UNCONFIRMED, Status.DELAYED, *SETTLED),
    Status.DELAYED: (Status.UNCONFIRMED, *SETTLED),
    **dict.fromkeys(FINAL, ()),
}


def check_move(origin: str, target: Status) -> None:
    """Raise :exc:`ValueError`, for a programming error, if ``MOVES`` does not allow the move."""
    if target not in MOVES[Status(origin)]:
        raise ValueError(f"An order does not move from {origin} to {target}.")
