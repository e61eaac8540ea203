"""Find, export and erase personal data in messages and links to cards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from giftcards.delivery.conf import TO_RECIPIENT, WITH_CARDS
from giftcards.delivery.models import (
    OPEN,
    CardLink,
    CardLinkQuerySet,
    Delivery,
    DeliveryQuerySet,
    DeliveryStatus,
    LinkVisit,
    key_of,
    stored_contact,
)
from giftcards.models import Order
from giftcards.models.order_queries import batches
from giftcards.privacy.export import described, heading, rows, several
from giftcards.privacy.person import CUSTOMER, ERASED, RECIPIENT, Person, Role, Traces, is_staff

_MESSAGE = ("kind", "channel", "address", "language", "status", "created_at", "sent_at", "reason")
_LINK = ("origin", "reason", "created_at", "expires_at", "revoked_at", "reveals")
_VISIT = ("at", "what", "address", "agent", "user")


class Messages:
    """The personal data in messages to customers or recipients, and in links."""

    app_label = "giftcards_delivery"
    prefetched = ("deliveries", "card_links__visits")

    def __init__(self, role: Role = CUSTOMER) -> None:
        self._is_of_recipients = role == RECIPIENT

    def orders(self, person: Person) -> Iterator[int]:
        for contacts in batches(map(stored_contact, (*person.emails, *person.phones))):
            found = self._of(Delivery.objects.filter(contact__in=contacts)).order_by()
            yield from found.values_list("order_id", flat=True)

    def addresses(self, order: Order) -> Iterator[str]:
        # The address of an erased message is empty.
        rows = self._of(order.deliveries.all()).exclude(address="").order_by()
        return rows.values_list("address", flat=True).iterator()

    def describe(self, order: Order) -> dict[str, Any]:
        messages = [
            message
            for message in rows(order.deliveries)
            if (message.kind in TO_RECIPIENT) == self._is_of_recipients
        ]
        links = rows(order.card_links) if self._has_links(order) else []
        return {
            heading(Delivery): several(messages, *_MESSAGE),
            heading(CardLink): [
                described(link, *_LINK) | {heading(LinkVisit): several(rows(link.visits), *_VISIT)}
                for link in links
            ],
        }

    def erase(self, order: Order, traces: Traces) -> None:
        messages = self._of(Delivery.objects.filter(order=order)).order_by()
        # If a process is sending one of these messages, it loses its claim, and so records nothing.
        messages.filter(status__in=OPEN).update(
            status=DeliveryStatus.CANCELLED, next_attempt_at=None
        )
        for message in messages:
            # The old key is a hash that includes the address, so it would confirm a guess.
            key = key_of(uuid.uuid4().hex, message.channel, "")
            by = traces.erased_name(message.requested_by)
            Delivery.objects.filter(pk=message.pk).update(
                address="",
                contact="",
                language="",
                message_id="",
                key=key,
                requested_by=by,
            )
        # Staff write the reasons, so each reason might contain the name of the customer or the
        # recipient.
        order.deliveries.exclude(reason="").update(reason=ERASED)
        order.card_links.exclude(reason="").update(reason=ERASED)
        links = self._links(order).order_by()
        links.filter(revoked_at=None).update(revoked_at=timezone.now())
        for link in links:
            names = {
                name: traces.erased_name(getattr(link, name))
                for name in ("created_by", "revoked_by")
            }
            CardLink.objects.filter(pk=link.pk).update(**names)
        visits = LinkVisit.objects.filter(link__in=[link.pk for link in links])
        users = visits.order_by().values_list("user", flat=True).distinct()
        of_staff = list(filter(is_staff, users))
        visits.update(address=None, agent="")
        visits.exclude(user__in=of_staff).update(user="")

    def _of(self, messages: DeliveryQuerySet) -> DeliveryQuerySet:
        return messages.to(recipient=self._is_of_recipients)

    def _links(self, order: Order) -> CardLinkQuerySet:
        links = CardLink.objects.filter(order=order)
        return links if self._has_links(order) else links.none()

    def _has_links(self, order: Order) -> bool:
        """True if people in this role receive the links to the cards."""
        return self._is_of_recipients or not order.is_gift


def untold() -> Q:
    """Return a filter for orders whose cards have not reached the customer."""
    messages = Delivery.objects.filter(order=OuterRef("pk"))
    waiting = messages.filter(status__in=OPEN, kind__in=sorted(WITH_CARDS))
    return Q(Exists(messages.unreceived())) | Q(Exists(waiting))
