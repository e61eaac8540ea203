"""Personal data in this app, and the codes that are kept as their customer could not be told."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from giftcards.delivery.kinds import WITH_CARDS
from giftcards.delivery.models import OPEN, CardLink, Delivery, DeliveryStatus, LinkVisit, key_of
from giftcards.models import Order
from giftcards.models.order_queries import batches
from giftcards.privacy.export import described, heading, several
from giftcards.privacy.person import ERASED, Person, Traces

_MESSAGE = ("kind", "channel", "address", "language", "status", "created_at", "sent_at", "reason")
_LINK = ("origin", "reason", "created_at", "expires_at", "revoked_at", "reveals")
_VISIT = ("at", "what", "address", "agent", "user")


class Messages:
    """The messages and links of customers, for :mod:`giftcards.privacy`."""

    app_label = "giftcards_delivery"

    def orders(self, person: Person) -> Iterator[int]:
        for keys in batches(person.rows(Delivery.objects.all(), "address")):
            rows = Delivery.objects.filter(pk__in=keys).order_by()
            yield from rows.values_list("order_id", flat=True)

    def addresses(self, order: Order) -> Iterator[str]:
        # Empty in a message that was erased.
        rows = order.deliveries.exclude(address="").order_by()
        return rows.values_list("address", flat=True).iterator()

    def describe(self, order: Order) -> dict[str, Any]:
        messages, links = order.deliveries.order_by("pk"), order.card_links.order_by("pk")
        return {
            heading(Delivery): several(messages, *_MESSAGE),
            heading(CardLink): [
                described(link, *_LINK)
                | {heading(LinkVisit): several(link.visits.order_by("pk"), *_VISIT)}
                for link in links
            ],
        }

    def erase(self, order: Order, traces: Traces) -> None:
        messages = Delivery.objects.filter(order=order).order_by()
        # A process that is sending one loses its claim, and records nothing.
        messages.filter(status__in=OPEN).update(
            status=DeliveryStatus.CANCELLED, next_attempt_at=None
        )
        for message in messages:
            # The old key would let somebody verify a guessed address.
            key = key_of(uuid.uuid4().hex, message.channel, "")
            by = traces.erased(message.requested_by)
            reason = ERASED if message.reason else ""
            Delivery.objects.filter(pk=message.pk).update(
                address="",
                language="",
                message_id="",
                key=key,
                requested_by=by,
                reason=reason,
            )
        links = CardLink.objects.filter(order=order).order_by()
        links.filter(revoked_at=None).update(revoked_at=timezone.now())
        for link in links:
            names = {
                name: traces.erased(getattr(link, name)) for name in ("created_by", "revoked_by")
            }
            reason = ERASED if link.reason else ""
            CardLink.objects.filter(pk=link.pk).update(**names, reason=reason)
        visits = LinkVisit.objects.filter(link__order=order)
        visits.update(address=None, agent="", user="")


def untold() -> Q:
    """A condition on orders: the last message about the cards was given up, and nobody saw them.

    That is: nobody has had them shown over a link or in their account.
    """
    failed = Delivery.objects.untold().filter(order=OuterRef("pk"), kind__in=sorted(WITH_CARDS))
    # Messages about the same status change that were sent, such as over another channel.
    beside = Delivery.objects.filter(change=OuterRef("change"), status=DeliveryStatus.SENT)
    seen = CardLink.objects.filter(order=OuterRef("pk"), reveals__gt=0)
    return Q(Exists(failed.filter(~Exists(beside)))) & ~Q(Exists(seen))
