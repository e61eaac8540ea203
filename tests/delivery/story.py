"""The story of a customer's order: the purchase, the provider's decision, and the mails."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from django.utils import timezone
from django.utils.module_loading import import_string
from django_q.models import OrmQ

from giftcards import tasks
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.signals import order_status_changed
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE

ADDRESS = "lina@example.com"
#: How many of five cards of each type the provider delivers. Orders of other types stay open until
#: a test settles them.
DELIVERED = {TYPE: 5, "TEST_PARTIAL": 3, "TEST_REFUND": 0}
# The file backend writes this after each mail.
_SEPARATOR = b"\n" + b"-" * 79 + b"\n"


class Mailbox:
    """The folder into which Django's file backend writes mails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: set[str] = set()

    def files(self) -> list[bytes]:
        """Return the contents of the files."""
        return [path.read_bytes() for path in sorted(self.folder.iterdir())]

    def mails(self) -> list[EmailMessage]:
        """Return all mails, in no particular order."""
        return [
            email.message_from_bytes(raw, policy=email.policy.default)
            for content in self.files()
            for raw in content.split(_SEPARATOR)
            if raw.strip()
        ]

    def new(self) -> EmailMessage:
        """Return the one mail that has arrived since the last call."""
        [mail] = [mail for mail in self.mails() if mail["Message-ID"] not in self._known]
        self._known.add(mail["Message-ID"])
        return mail

    def is_read(self) -> bool:
        """Return True if :meth:`new` has returned every mail."""
        return {mail["Message-ID"] for mail in self.mails()} == self._known


def part(mail: EmailMessage, kind: str) -> str:
    """Return the text of the mail as ``kind``, "html" or "plain"."""
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())


def subject(mail: EmailMessage) -> str:
    """Return the subject.

    Django 5.2 begins a long subject on a line of its own, which leaves a space.
    """
    return str(mail["Subject"]).strip()


def links(mail: EmailMessage) -> list[str]:
    """Return the addresses of the links in the HTML of the mail."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name == "href")

    Reader().feed(part(mail, "html"))
    return found


def buy(reference: str, type_id: str = TYPE, *, quantity: int = 5, **values: Any) -> Order:
    """Place an order for which the customer pays 550 for each card, which costs the shop 490."""
    return place_order(
        product_id=PRODUCT,
        type_id=type_id,
        quantity=quantity,
        reference=reference,
        sale_price=550,
        customer_email=ADDRESS,
        customer_name="Lina",
        **values,
    )


@contextmanager
def deciding(simulator: Simulator) -> Iterator[None]:
    """Make the provider settle each order as soon as it has accepted it; see ``DELIVERED``."""
    simulator.delay = (3600, 3600)

    def decide(*, order: Order, **_: Any) -> None:
        if order.status == Status.HANDLING and order.type_id in DELIVERED:
            simulator.settle(order.provider_order_id, delivered=DELIVERED[order.type_id])

    order_status_changed.connect(decide)
    yield
    order_status_changed.disconnect(decide)


def work() -> list[str]:
    """Run django-q2's tasks as a worker does until none is queued; return each as text."""
    known = []
    while (queued := OrmQ.objects.order_by("pk").first()) is not None:
        task = queued.task
        queued.delete()
        result = import_string(task["func"])(*task["args"], **task["kwargs"])
        known.append(repr(task | {"result": result}))
    return known


def settle_late(simulator: Simulator, order: Order) -> list[str]:
    """Let the provider settle a delayed order after all, and run the scheduled task.

    Return the same as :func:`work`.
    """
    order.refresh_from_db()
    simulator.settle(order.provider_order_id)
    Order.objects.filter(pk=order.pk, status=Status.DELAYED).update(
        due_at=timezone.now() - timedelta(seconds=1)
    )
    return [tasks.tick(), *work()]


def codes_bought(simulator: Simulator, order: Order) -> list[str]:
    """Return the codes that the provider has delivered for the order."""
    order.refresh_from_db()
    return [card.value for card in simulator.orders[order.provider_order_id].cards]


def codes_stored(order: Order) -> list[str]:
    return [card.value for card in order.cards.order_by("position").select_related("order")]
