"""Gifts in tests: Amina buys, Lina gets the cards."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any

from django.core import mail
from django.utils import timezone
from django.utils.html import strip_tags

from giftcards.delivery.models import Delivery
from giftcards.engine import outbox
from giftcards.models import Order
from giftcards.provider.answers import OrderAnswer
from tests.builders import PARTIAL
from tests.delivery.pages import make_settled

BUYER, RECIPIENT = "amina@example.com", "lina@example.com"
PHONE = "0550 98 76 54"
WORDS = "Happy birthday, dear sister!\n\nعيد ميلاد سعيد"


def make_gift(answer: OrderAnswer = PARTIAL, **values: Any) -> Order:
    """Create a gift of five cards sold at 600 DA, whose cards have come."""
    gift = {
        "customer_email": BUYER,
        "customer_name": "Amina",
        "customer_phone": PHONE,
        "customer_language": "fr",
        "sale_price": 600,
        "recipient_email": RECIPIENT,
        "recipient_name": "Lina",
        "recipient_language": "en",
        "gift_message": WORDS,
    }
    return make_settled(answer=answer, **gift | values)


def told(answer: OrderAnswer = PARTIAL, **values: Any) -> Order:
    """Create a gift and queue the messages to its customer and its recipient."""
    order = make_gift(answer, **values)
    outbox.announce()
    return order


def in_days(days: float) -> datetime:
    return timezone.now() + timedelta(days=days)


def pass_days(days: float) -> None:
    """Let time pass, so that everything planned within these days is due."""
    past = timedelta(days=days)
    for order in Order.objects.exclude(deliver_at=None):
        Order.objects.filter(pk=order.pk).update(deliver_at=order.deliver_at - past)
    for message in Delivery.objects.all():
        times = ("not_before", "next_attempt_at", "created_at", "sent_at")
        known = {name: at for name in times if (at := getattr(message, name)) is not None}
        Delivery.objects.filter(pk=message.pk).update(
            **{name: at - past for name, at in known.items()}
        )


def mails_to(address: str) -> list[Any]:
    return [sent for sent in mail.outbox if sent.to == [address]]


def visible_in(sent: Any) -> str:
    """Return what a mail shows in its subject and both of its texts, without direction marks."""
    [(html, _kind)] = sent.alternatives
    rich = unescape(strip_tags(html.partition("</style>")[2]))
    return re.sub("[\u2066-\u2069]", "", f"{sent.subject}\n{sent.body}\n{rich}")


def link_in(sent: Any) -> str:
    found = re.search(r"https://shop\.example(/cards/[^\s]+/)", str(sent.body))
    return found[1] if found else ""
