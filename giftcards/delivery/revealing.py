"""Showing cards to their customer: counted and written down before anything is shown."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.utils import timezone

from giftcards.addresses import ip_address
from giftcards.delivery.codes import Code, open_codes
from giftcards.delivery.models import CardLink, LinkVisit
from giftcards.delivery.models.links import SAME_REVEAL
from giftcards.delivery.pins import is_right
from giftcards.exceptions import ConfigurationError
from giftcards.models import Order
from giftcards.models.times import is_recent
from giftcards.secrecy import apart, contained

logger = logging.getLogger(__name__)

_LONGEST_AGENT = 300
#: So many rows of a link say that it was opened, or a few more if they come at once.
MOST_OPENED = 100
# The same visitor does not count again within this time.
_SAME_OPENING = timedelta(minutes=10)
# So many earlier times are told.
_MOST_TIMES = 10


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who fetches a page, as far as that is known."""

    address: str | None
    agent: str
    #: The user name of a customer who is logged in.
    user: str = ""

    @classmethod
    def of(cls, request: HttpRequest, user: object = "") -> Self:
        agent = "".join(filter(str.isprintable, request.headers.get("User-Agent", "")))
        # The name of a user may be a number, or a phone number.
        return cls(ip_address(request), agent[:_LONGEST_AGENT], str(user)[:254])

    def visit(self, link: CardLink, what: LinkVisit.What, **values: object) -> LinkVisit:
        """The row of a visit of ``link``, not saved."""
        told = {"address": self.address, "agent": self.agent, "user": self.user}
        return LinkVisit(link=link, what=what, **told, **values)


def note_opening(link: CardLink, visitor: Visitor) -> None:
    """Write down that the link was opened; not if the visitor just did, or if many have."""
    opened = link.visits.filter(what=LinkVisit.What.OPENED).order_by()
    rows = opened.values_list("at", "address", "agent")[:MOST_OPENED]
    now, same = timezone.now(), (visitor.address, visitor.agent)
    earlier = [at for at, *who in rows if tuple(who) == same]
    if len(rows) < MOST_OPENED and not any(
        is_recent(at, now, within=_SAME_OPENING) for at in earlier
    ):
        with transaction.atomic():
            visitor.visit(link, LinkVisit.What.OPENED).save()


@contained
def guess(link: CardLink, password: str, secret: str, visitor: Visitor) -> bool:
    """Whether ``password`` is the PIN of the link, its ``secret``. The last wrong guess locks it.

    A guess counts as wrong until it is known to be right: so many at once are not more than one
    after the other.
    """
    is_taken = CardLink.objects.take_guess(link)
    if is_taken and is_right(password, secret):
        CardLink.objects.give_guess_back(link)
        return True
    link.refresh_from_db(fields=["wrong_pins"])
    if is_taken and link.is_locked:
        _note_lock(link, visitor)
    return False


def _note_lock(link: CardLink, visitor: Visitor) -> None:
    try:
        with transaction.atomic():
            visitor.visit(link, LinkVisit.What.LOCKED, key=f"locked {link.pk}").save()
    except IntegrityError:
        return  # several wrong guesses at once
    apart(
        logger.warning,
        "A link to the cards of order %s is locked: the PIN was wrong too often.",
        link.order.reference,
    )


def shown_at(link: CardLink, key: str) -> datetime | None:
    """When the page of this key has shown the cards first."""
    return link.visits.filter(key=key).values_list("at", flat=True).first()


def is_same_reveal(at: datetime) -> bool:
    """Whether showing the cards again counts as the same reveal as that ``at``."""
    return is_recent(at, timezone.now(), within=SAME_REVEAL)


@contained
def reveal(link: CardLink, key: str, visitor: Visitor, *, most: int | None) -> list[Code] | None:
    """The cards, after the reveal was committed; ``None`` if none is left, or the link has ended.

    The page that has this ``key`` reveals them once, however often it asks. Must not be called in a
    transaction.
    """
    if shown_at(link, key) is None:
        try:
            shown = _reveal_first(link, key, visitor, most=most)
        except IntegrityError:
            shown = None  # pressed twice at once
        if shown is not None:
            return shown
        if shown_at(link, key) is None:
            return None
    return open_cards(link.order)


def _reveal_first(
    link: CardLink, key: str, visitor: Visitor, *, most: int | None
) -> list[Code] | None:
    with transaction.atomic(durable=True):
        # First, because SQLite may fail a transaction that reads before it writes.
        if not CardLink.objects.take_reveal(link, timezone.now(), most=most):
            return None
        shown = open_cards(link.order)
        unreadable = sum(not card.is_readable for card in shown)
        is_any_shown = unreadable < len(shown)
        if not is_any_shown:
            CardLink.objects.give_reveal_back(link)
        if is_any_shown or not _was_in_vain(link):
            visitor.visit(
                link,
                LinkVisit.What.REVEALED,
                unreadable=unreadable,
                key=key if is_any_shown else None,
            ).save()
    return shown


def _was_in_vain(link: CardLink) -> bool:
    """Whether it is written down already that none of the cards can be opened at present."""
    since = timezone.now() - SAME_REVEAL
    rows = link.visits.filter(what=LinkVisit.What.REVEALED, key=None, at__gt=since)
    return rows.exists()


@contained
def open_cards(order: Order) -> list[Code]:
    """The cards of the order's customer; while the encryption keys are unusable, none opens."""
    try:
        return open_codes(order)
    except ConfigurationError as error:
        # Its text says it all.
        text = "The customer of order %s was shown no card. %s"
        apart(logger.error, text, order.reference, error)
        return [Code(position) for position in range(1, order.fulfilled_quantity + 1)]


def earlier_reveals(order: Order, *, but: str) -> list[datetime]:
    """When the cards of the order were shown, over any link, newest first; at most the last ten.

    Without the reveal that has the key ``but``.
    """
    # Those without a key have shown none, because none could be opened.
    rows = LinkVisit.objects.filter(
        link__order=order, what=LinkVisit.What.REVEALED, key__isnull=False
    )
    times = rows.order_by("-at", "-pk").values_list("at", "key")[: _MOST_TIMES + 1]
    return [at for at, key in times if key != but][:_MOST_TIMES]
