"""The statuses of an order, and a table of their properties.

Queries, reports and pages use the properties in this table instead of lists of statuses. Only code
that performs one step of an order, such as sending, names individual statuses, because it sets the
new status.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from giftcards.rules.purposes import Purpose


class Status(models.TextChoices):
    # Recorded, and not sent.
    PENDING = "PENDING", _("Waiting to be sent")
    # Claimed by a process, which may have made the request.
    PLACING = "PLACING", _("Being sent")
    # Sent, but no usable answer arrived. Money may have been spent.
    UNCONFIRMED = "UNCONFIRMED", _("Unconfirmed")
    # Refused by the provider or rejected by the shop. No money was spent.
    REJECTED = "REJECTED", _("Rejected")
    # Accepted by the provider.
    HANDLING = "HANDLING", _("In progress")
    # Accepted, but not settled within POLL_TIMEOUT. This is not a failure. The checks continue, but
    # less often.
    DELAYED = "DELAYED", _("Delayed")
    FULFILLED = "FULFILLED", _("Delivered")
    PARTIALLY_FILLED = "PARTIALLY_FILLED", _("Partly delivered")
    REFUNDED = "REFUNDED", _("Not delivered, credited back")


class Review(models.TextChoices):
    """The state of a review by staff.

    The value is "" if no review was requested.
    """

    # REVIEW_ORDER has requested a review. An order keeps this value if staff then reject it.
    WANTED = "wanted"
    # Staff have approved the order, or it repeats an order that staff did not reject.
    APPROVED = "approved"


class Kind(Enum):
    """The kinds of problems, which determine when a problem ends."""

    SENDING = auto()  # ends when the outcome of sending the order is known
    SEARCH = auto()  # ends as SENDING does, or with the next search of the provider's list
    ANSWER = auto()  # ends with the provider's next answer about the order
    LEDGER = auto()  # ends when a reading of the ledger explains the problem
    LASTING = auto()  # ends only when staff acknowledge it
    HISTORY = auto()  # is not a problem, only an entry of the timeline


class Purchase(Enum):
    """Whether the cards of an order were bought from the provider."""

    NONE = auto()
    UNKNOWN = auto()
    MADE = auto()


class Cards(Enum):
    """The share of the cards that was delivered.

    The provider credits back the price of the cards that were not delivered.
    """

    ALL = auto()
    SOME = auto()
    NONE = auto()

    def fits(self, delivered: int, quantity: int) -> bool:
        """Return True if this share matches the number of delivered cards.

        ``quantity`` is the number of ordered cards.
        """
        match self:
            case Cards.ALL:
                return delivered == quantity
            case Cards.SOME:
                return 0 < delivered < quantity
        return delivered == 0


class NotChecked(Enum):
    """The reason why a requested check of an order is not made."""

    UNSENT = auto()
    SEARCHED = auto()
    FINAL = auto()
    JUST_CHECKED = auto()


_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The properties of one status."""

    purchase: Purchase
    #: The statuses that an order can move to. A final status does not have any.
    moves_to: tuple[Status, ...] = ()
    #: The share of the cards that arrived, or ``None`` if the provider has not settled the order.
    cards: Cards | None = None
    #: True if an order normally leaves the status within seconds.
    is_urgent: bool = False
    #: The kinds of problems that end when an order moves to the status.
    ends: tuple[Kind, ...] = (Kind.SENDING, Kind.SEARCH)
    #: The column with the time when the order entered the status, or "" if this time is not needed.
    since: str = ""
    #: The column with the time of the next step, or "" for a final status.
    due: str = ""
    #: The purpose of the next request, or ``None`` if no request follows.
    request: Purpose | None = None
    #: Pairs of a limit and a pause between checks. A pause applies while the order is late by less
    #: than the limit. After the last limit, ``last_pause`` applies.
    pauses: tuple[tuple[timedelta, timedelta], ...] = ()
    #: The longest pause between checks. ``None`` means ``POLL_INTERVAL``, if the status has checks.
    last_pause: timedelta | None = None
    #: The longest pause after failed checks.
    longest_retry: timedelta = _HOUR
    #: The level of the log entry if sending an order led to this status.
    log_level: int = logging.NOTSET
    #: The code of the news for the customer, or "" if there is no news.
    customer_news: str = ""
    #: The sentence about a move without a recorded reason, with the parameters ``delivered`` and
    #: ``count``.
    moved: Any
    #: The sentence about the next automatic step, with the ``when`` parameter, or "" if there is no
    #: step.
    next_step: Any = ""
    #: The reason why a requested check is not made now.
    not_checked: NotChecked
    #: The English phrase that commands use to say what they are waiting for, or "" if commands do
    #: not wait for orders in this status.
    waits_for: str = ""

    @property
    def is_final(self) -> bool:
        return not self.moves_to

    @property
    def is_accepted(self) -> bool:
        """True if the provider has the order and has reported its id."""
        return self.purchase is Purchase.MADE


_CHECKED_AGAIN = _("The app will check the order again automatically %(when)s.")

STATES: Final[Mapping[str, State]] = {
    Status.PENDING: State(
        purchase=Purchase.NONE,
        # REJECTED: the order was given up or rejected by staff, and was not bought.
        moves_to=(Status.PLACING, Status.REJECTED),
        is_urgent=True,
        since="queued_at",
        # The column is not `due_at`, which moves later with each failure to send.
        due="queued_at",
        request=Purpose.PLACING,
        log_level=logging.INFO,
        moved=_("The cards were not bought. The app will send the order automatically."),
        next_step=_("The app will send the order automatically %(when)s."),
        not_checked=NotChecked.UNSENT,
        waits_for="waiting until it may be sent",
    ),
    Status.PLACING: State(
        purchase=Purchase.UNKNOWN,
        moves_to=(Status.PENDING, Status.UNCONFIRMED, Status.REJECTED, Status.HANDLING),
        is_urgent=True,
        ends=(),
        since="sent_at",
        due="claimed_until",
        moved=_("The order was sent."),
        not_checked=NotChecked.UNSENT,
        waits_for="another process is sending it",
    ),
    Status.UNCONFIRMED: State(
        purchase=Purchase.UNKNOWN,
        moves_to=(Status.PENDING, Status.REJECTED, Status.HANDLING),
        # Problems with answers also end, because those answers were about another order.
        ends=(Kind.SENDING, Kind.SEARCH, Kind.ANSWER),
        due="due_at",
        request=Purpose.SEARCHING,
        log_level=logging.ERROR,
        moved=_("It is not known whether the cards were bought."),
        next_step=_("The app will search for the order at the provider automatically %(when)s."),
        not_checked=NotChecked.SEARCHED,
    ),
    Status.REJECTED: State(
        purchase=Purchase.NONE,
        log_level=logging.WARNING,
        # For the customer, a rejected order is like a refunded order, because no card arrived.
        customer_news="not_delivered",
        moved=_("The order was rejected."),
        not_checked=NotChecked.FINAL,
    ),
    Status.HANDLING: State(
        purchase=Purchase.MADE,
        moves_to=(
            # UNCONFIRMED: the matched order at the provider turned out to be another one.
            Status.UNCONFIRMED,
            Status.DELAYED,
            Status.FULFILLED,
            Status.PARTIALLY_FILLED,
            Status.REFUNDED,
        ),
        is_urgent=True,
        since="accepted_at",
        due="due_at",
        request=Purpose.CHECKING,
        longest_retry=timedelta(seconds=30),
        moved=_("The provider accepted the order."),
        next_step=_CHECKED_AGAIN,
        not_checked=NotChecked.JUST_CHECKED,
        waits_for="waiting for the provider",
    ),
    Status.DELAYED: State(
        purchase=Purchase.MADE,
        moves_to=(
            Status.UNCONFIRMED,
            Status.FULFILLED,
            Status.PARTIALLY_FILLED,
            Status.REFUNDED,
        ),
        due="due_at",
        request=Purpose.CHECKING_LATE,
        # Checks are 1, 2, 5 and 15 minutes after the poll timeout, then hourly.
        pauses=(
            (1 * _MINUTE, 1 * _MINUTE),
            (2 * _MINUTE, 1 * _MINUTE),
            (5 * _MINUTE, 3 * _MINUTE),
            (15 * _MINUTE, 10 * _MINUTE),
        ),
        last_pause=_HOUR,
        customer_news="delayed",
        moved=_("The provider is taking longer than usual."),
        next_step=_CHECKED_AGAIN,
        not_checked=NotChecked.JUST_CHECKED,
    ),
    Status.FULFILLED: State(
        purchase=Purchase.MADE,
        cards=Cards.ALL,
        customer_news="delivered",
        moved=ngettext_lazy(
            "The provider delivered the card.",
            "The provider delivered all %(count)s cards.",
            "count",
        ),
        not_checked=NotChecked.FINAL,
    ),
    Status.PARTIALLY_FILLED: State(
        purchase=Purchase.MADE,
        cards=Cards.SOME,
        customer_news="partly_delivered",
        moved=ngettext_lazy(
            "The provider delivered %(delivered)s of %(count)s card and credited back the price"
            " of the missing cards.",
            "The provider delivered %(delivered)s of %(count)s cards and credited back the"
            " price of the missing cards.",
            "count",
        ),
        not_checked=NotChecked.FINAL,
    ),
    Status.REFUNDED: State(
        purchase=Purchase.MADE,
        cards=Cards.NONE,
        customer_news="not_delivered",
        moved=_("The provider did not deliver any cards and credited back the price."),
        not_checked=NotChecked.FINAL,
    ),
}


def _statuses_where(is_match: Callable[[State], bool]) -> tuple[Status, ...]:
    """Return the statuses whose ``State`` meets the condition ``is_match``.

    The statuses are always in the same order, because migrations contain the returned tuples.
    """
    return tuple(status for status in Status if is_match(STATES[status]))


FINAL: Final = _statuses_where(lambda state: state.is_final)
# The final statuses of orders that the provider accepted. Cards and money are settled.
SETTLED: Final = _statuses_where(lambda state: state.is_final and state.is_accepted)
# Accepted orders that are still open, and checked regularly.
FOLLOWED: Final = _statuses_where(lambda state: not state.is_final and state.is_accepted)
# Orders that have an id at the provider.
ACCEPTED: Final = _statuses_where(lambda state: state.is_accepted)
# Open orders that are not accepted. A worker sends such orders, or sends them again after they were
# proven absent.
UNACCEPTED: Final = _statuses_where(lambda state: not (state.is_final or state.is_accepted))
# Open orders that wait to be sent, or to be found at the provider.
UNSERVED: Final = _statuses_where(lambda state: state.request is not None and not state.is_accepted)
# Orders that the provider certainly does not have.
UNBOUGHT: Final = _statuses_where(lambda state: state.purchase is Purchase.NONE)
# URGENT contains the statuses of open orders that normally change within seconds. PATIENT contains
# the other statuses of open orders.
URGENT: Final = _statuses_where(lambda state: state.is_urgent)
PATIENT: Final = _statuses_where(lambda state: not (state.is_final or state.is_urgent))
# Orders for which the provider credits money back.
CREDITED: Final = _statuses_where(lambda state: state.cards in {Cards.SOME, Cards.NONE})
# Orders for which the provider credits back the whole price.
UNCHARGED: Final = _statuses_where(lambda state: state.cards is Cards.NONE)


def check_move(origin: str, target: Status) -> None:
    """Raise :exc:`ValueError` if ``origin`` cannot change to ``target``.

    Only a bug can cause this error.
    """
    if target not in STATES[Status(origin)].moves_to:
        raise ValueError(f"An order cannot change from {origin} to {target}.")
