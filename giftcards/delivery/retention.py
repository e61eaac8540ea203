"""The codes that are kept because their customer could not be told of them."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q

from giftcards.delivery.kinds import WITH_CARDS
from giftcards.delivery.models import CardLink, Delivery, DeliveryStatus


def _untold() -> Q:
    failed = Delivery.objects.untold().filter(order=OuterRef("pk"), kind__in=sorted(WITH_CARDS))
    # Messages about the same status change that were sent, such as over another channel.
    beside = Delivery.objects.filter(change=OuterRef("change"), status=DeliveryStatus.SENT)
    seen = CardLink.objects.filter(order=OuterRef("pk"), reveals__gt=0)
    return Q(Exists(failed.filter(~Exists(beside)))) & ~Q(Exists(seen))


#: A condition on orders, for :func:`giftcards.privacy.retention.leave_alone`: the last message
#: about the cards was given up, and nobody has had them shown over a link or in their account.
UNTOLD = _untold()
