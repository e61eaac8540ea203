"""Show cards to their customer.

Each reveal is counted and recorded before a card is shown.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self

from django.db import IntegrityError, transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone

from giftcards.conf import conf
from giftcards.delivery.facts import cards_of
from giftcards.delivery.models import SAME_REVEAL, CardLink, LinkVisit
from giftcards.exceptions import ConfigurationError, DecryptionError
from giftcards.keys.keyring import Keyring
from giftcards.keys.secrecy import apart, contained
from giftcards.models import Card, Order
from giftcards.rules.times import is_recent
from giftcards.text.addresses import ip_address

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Code:
    """The code and the serial number of a card.

    ``value`` is "" if the card cannot be decrypted. ``serial`` is also "" if the card does not have
    a serial number.
    """

    position: int
    value: str = field(default="", repr=False)
    serial: str = field(default="", repr=False)

    @property
    def is_readable(self) -> bool:
        return bool(self.value)


#: The maximum number of codes in a message or on a page. If an order has more codes, the page
#: offers them as a file.
MOST_CODES = 100


@contained
def open_codes(order: Order) -> list[Code]:
    """Return the codes of the delivered cards, sorted by position.

    If a card is missing or cannot be decrypted, its code is empty, and an error is logged. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if the encryption keys are unusable.
    """
    keyring = conf.keyring()
    cards = {card.position: card for card in cards_of(order).order_by()}
    codes: list[Code] = []
    troubles: list[str] = []
    for position in range(1, order.fulfilled_quantity + 1):
        code, trouble = _opened(position, cards.get(position), keyring)
        codes.append(code)
        if trouble:
            troubles.append(f"Card {position}: {trouble}")
    if troubles:
        apart(
            logger.error,
            "Of %s cards of order %s, %s cannot be shown to the customer. %s",
            len(codes),
            order.reference,
            len(troubles),
            troubles[0],
        )
    return codes


def _opened(position: int, card: Card | None, keyring: Keyring) -> tuple[Code, str]:
    """Return a card's code, and the reason why it cannot be decrypted, if any."""
    if card is None:
        return Code(position), "It is not in the database."
    try:
        secret = card.open(keyring)
    except DecryptionError as error:
        return Code(position), str(error)
    return Code(position, secret.value, secret.serial), ""


_LONGEST_AGENT = 300


@dataclass(frozen=True, slots=True)
class Visitor:
    """The IP address, the browser and the user name of a visitor.

    The user name is "" if the visitor opened a link that does not require a login.
    """

    address: str | None
    agent: str
    user: str = ""

    @classmethod
    def of(cls, request: HttpRequest, user: object = "") -> Self:
        agent = "".join(filter(str.isprintable, request.headers.get("User-Agent", "")))
        # A user name may be a number, so it is converted to a string.
        return cls(ip_address(request), agent[:_LONGEST_AGENT], str(user)[:254])

    def visit(self, link: CardLink, what: LinkVisit.What, **values: object) -> LinkVisit:
        """Return an unsaved row for a visit to ``link``."""
        told = {"address": self.address, "agent": self.agent, "user": self.user}
        return LinkVisit(link=link, what=what, **told, **values)


#: The maximum number of recorded openings per link. Simultaneous openings can exceed it slightly.
MOST_OPENED = 100
# Another opening by the same visitor within this time is not recorded.
_SAME_OPENING = timedelta(minutes=10)


def note_opening(link: CardLink, visitor: Visitor) -> None:
    """Record that a visitor has opened the link.

    An opening is not recorded if the same visitor opened the link within the last ten minutes, or
    if :data:`MOST_OPENED` openings have already been recorded.
    """
    opened = link.visits.filter(what=LinkVisit.What.OPENED).order_by()
    rows = opened.values_list("at", "address", "agent")[:MOST_OPENED]
    now, same = timezone.now(), (visitor.address, visitor.agent)
    earlier = [at for at, *who in rows if tuple(who) == same]
    if len(rows) < MOST_OPENED and not any(
        is_recent(at, now, period=_SAME_OPENING) for at in earlier
    ):
        with transaction.atomic():
            visitor.visit(link, LinkVisit.What.OPENED).save()


def shown_at(link: CardLink, key: str) -> datetime | None:
    """Return when the page with this key first showed the cards.

    The result is ``None`` if the page has not shown the cards.
    """
    return link.visits.filter(key=key).values_list("at", flat=True).first()


def is_spent(link: CardLink, key: str) -> bool:
    """True if the page with this key can no longer show the cards.

    For ten minutes after the page has first shown the cards, a reload shows them again.
    """
    at = shown_at(link, key)
    return at is not None and not is_recent(at, timezone.now(), period=SAME_REVEAL)


@contained
def reveal(link: CardLink, key: str, visitor: Visitor) -> list[Code] | None:
    """Record a reveal, and return the cards.

    Requests with the same ``key`` come from one page, and count as one reveal. Never call this
    function inside a transaction, because the reveal must be committed before the cards are
    returned. Returns ``None`` if the link can no longer be used.
    """
    if shown_at(link, key) is None:
        try:
            shown = _reveal_first(link, key, visitor)
        except IntegrityError:
            shown = None  # the button was pressed twice at once
        if shown is not None:
            return shown
        if shown_at(link, key) is None:
            return None
    return open_cards(link.order)


def _reveal_first(link: CardLink, key: str, visitor: Visitor) -> list[Code] | None:
    row = CardLink.objects.filter(pk=link.pk)
    with transaction.atomic(durable=True):
        # The write comes first: in SQLite, a transaction may fail if it reads before it writes.
        usable = row.usable(timezone.now())
        if not usable.update(reveals=F("reveals") + 1):
            return None
        shown = open_cards(link.order)
        unreadable = sum(not card.is_readable for card in shown)
        is_any_shown = unreadable < len(shown)
        if not is_any_shown:
            row.filter(reveals__gt=0).update(reveals=F("reveals") - 1)
        if is_any_shown or not _was_in_vain(link):
            visitor.visit(
                link,
                LinkVisit.What.REVEALED,
                unreadable=unreadable,
                key=key if is_any_shown else None,
            ).save()
    return shown


def _was_in_vain(link: CardLink) -> bool:
    """True if a reveal in the last ten minutes showed none of the cards."""
    since = timezone.now() - SAME_REVEAL
    rows = link.visits.filter(what=LinkVisit.What.REVEALED, key=None, at__gt=since)
    return rows.exists()


@contained
def open_cards(order: Order) -> list[Code]:
    """Return the delivered cards of ``order``.

    If the encryption keys are unusable, an error is logged, and all codes are empty.
    """
    try:
        return open_codes(order)
    except ConfigurationError as error:
        # No traceback is logged, because the text of the error is sufficient.
        text = "No card was shown to the customer of order %s. %s"
        apart(logger.error, text, order.reference, error)
        return [Code(position) for position in range(1, order.fulfilled_quantity + 1)]


_MOST_TIMES = 10


def earlier_reveals(order: Order, *, except_page: str) -> list[datetime]:
    """Return the times of the last ten reveals of ``order``, newest first.

    Reveals on the page with the key ``except_page`` are left out.
    """
    # A reveal has a key only if it showed cards.
    rows = LinkVisit.objects.filter(
        link__order=order, what=LinkVisit.What.REVEALED, key__isnull=False
    )
    times = rows.order_by("-at", "-pk").values_list("at", "key")[: _MOST_TIMES + 1]
    return [at for at, key in times if key != except_page][:_MOST_TIMES]
