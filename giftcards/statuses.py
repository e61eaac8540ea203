"""The statuses of an order and the one table of moves between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.db import models
from django.utils.translation import gettext_lazy as _


class Status(models.TextChoices):
    # Recorded, nothing sent.
    PENDING = "PENDING", _("Waiting to be sent")
    # Claimed by one process; a request is, or was, on its way.
    PLACING = "PLACING", _("Being sent")
    # The request went out and no usable answer came back: money may be spent.
    UNCONFIRMED = "UNCONFIRMED", _("Unconfirmed")
    # Refused by the provider; no money moved.
    REJECTED = "REJECTED", _("Rejected")
    # Accepted by the provider.
    HANDLING = "HANDLING", _("In progress")
    # Accepted and not settled in time. Not a failure: a slow watch goes on.
    DELAYED = "DELAYED", _("Delayed")
    FULFILLED = "FULFILLED", _("Fulfilled")
    PARTIALLY_FILLED = "PARTIALLY_FILLED", _("Partially filled")
    REFUNDED = "REFUNDED", _("Refunded")


# The provider's own final words; cards and money are settled.
SETTLED: Final = frozenset({Status.FULFILLED, Status.PARTIALLY_FILLED, Status.REFUNDED})
# Final statuses are never left.
FINAL: Final = SETTLED | {Status.REJECTED}
# At the provider, and asked about.
FOLLOWED: Final = frozenset({Status.HANDLING, Status.DELAYED})
# The provider has named these: they carry its order id.
ACCEPTED: Final = FOLLOWED | SETTLED

# These move within seconds, not minutes.
URGENT: Final = frozenset({Status.PENDING, Status.PLACING, Status.HANDLING})

# Where an order may go from each status.
MOVES: Final[Mapping[Status, frozenset[Status]]] = {
    # Given up without having been sent: rejected.
    Status.PENDING: frozenset({Status.PLACING, Status.REJECTED}),
    Status.PLACING: frozenset(
        {Status.HANDLING, Status.REJECTED, Status.PENDING, Status.UNCONFIRMED}
    ),
    Status.UNCONFIRMED: frozenset({Status.HANDLING, Status.PENDING, Status.REJECTED}),
    Status.HANDLING: SETTLED | {Status.DELAYED},
    Status.DELAYED: SETTLED,
    **dict.fromkeys(FINAL, frozenset()),
}


def check_move(origin: str, target: Status) -> None:
    """Raise ``ValueError`` for a move that the table does not allow: a programming error."""
    if target not in MOVES[Status(origin)]:
        raise ValueError(f"An order does not move from {origin} to {target}.")
