"""Contents of messages about an invented order, one of each kind."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone

from giftcards.delivery.conf import WITH_CARDS, Kind, Mode
from giftcards.delivery.facts import Facts, Gift, PaidBack
from giftcards.delivery.links import expiry
from giftcards.delivery.messages import Content
from giftcards.delivery.revealing import Code
from giftcards.models import Order
from giftcards.settlement import promised_day

# The example is the provider's own order of five cards at 490.
_PRICE = Decimal(490)
_QUANTITY = 5
# The number of delivered cards, for the kinds that concern a final order.
_DELIVERED = {
    Kind.DELIVERED: 5,
    Kind.PARTLY_DELIVERED: 3,
    Kind.NOT_DELIVERED: 0,
    Kind.PAID_BACK: 3,
    Kind.GIFT: 5,
    Kind.RECEIPT: 5,
}
INSTRUCTIONS = (
    "Open https://redeem.example/?game=pubg&lang=en and enter the code."
    "\nYour account has to be of this region."
)
_GIFT = Gift("lina@example.com", "Lina", "Happy birthday!\nYours, Amina")


def example(kind: str, mode: str) -> Content:
    """Return the content of a message of this kind about an invented order."""
    now = timezone.now()
    facts = _facts(kind, now)
    is_gift = kind in {Kind.GIFT, Kind.RECEIPT}
    content = Content(
        kind=kind,
        facts=facts,
        customer_name="Amina" if is_gift else "Lina",
        gift=replace(_GIFT, deliver_at=now + timedelta(days=2)) if is_gift else None,
        refund=facts.paid_back[0] if facts.paid_back else None,
    )
    if kind not in WITH_CARDS:
        return content
    if mode == Mode.CODES:
        return replace(content, codes=tuple(map(_code, range(1, facts.delivered + 1))))
    link = "https://shop.example/cards/example/"
    return replace(content, link=link, link_until=expiry())


def _facts(kind: str, now: datetime) -> Facts:
    is_final = kind in _DELIVERED
    delivered = _DELIVERED.get(Kind(kind), 0)
    missing = _QUANTITY - delivered if is_final else 0
    owed = missing * _PRICE if is_final else None
    is_paid_back = kind == Kind.PAID_BACK
    return Facts(
        reference="web-1042",
        known_as="web-1042",
        product="PUBG Mobile",
        type="325 UC",
        region="Turkey",
        instructions=INSTRUCTIONS,
        quantity=_QUANTITY,
        delivered=delivered,
        missing=missing,
        kind=kind,
        ordered_at=now - timedelta(minutes=7),
        paid=_QUANTITY * _PRICE if is_final else None,
        owed=owed,
        paid_back=(PaidBack(missing * _PRICE, now, "CCP"),) if is_paid_back else (),
        is_reordered=False,
        promised_day=promised_day(Order(finalized_at=now)) if is_final else None,
    )


def _code(position: int) -> Code:
    letter = "ABCDE"[position - 1]
    return Code(position, "-".join([letter * 4] * 4), str(position) * 9)
