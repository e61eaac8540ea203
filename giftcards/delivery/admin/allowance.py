"""How many ways to codes a person may hand out in an hour: as many as codes.

A link that is handed over, and a message with cards to another address than the customer's, show
codes to whoever gets them. So they are limited like revealing one, by ``REVEALS_PER_HOUR``.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db.models import F, Q
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import ngettext

from giftcards.admin.revealing import take_turn
from giftcards.conf import conf as core
from giftcards.delivery.kinds import WITH_CARDS
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models.traces import REFUSED_REVEAL

logger = logging.getLogger(__name__)


class TooMany(Exception):
    """The person has handed out as many as they may."""


def count(request: HttpRequest) -> None:
    """Raise :exc:`TooMany` if the one that the transaction has just made is one too many."""
    take_turn(request)
    since = _an_hour_ago()
    name = request.user.get_username()
    links = CardLink.objects.filter(
        created_by=name, created_at__gt=since, origin=CardLink.Origin.STAFF
    )
    sent = Delivery.objects.filter(requested_by=name, created_at__gt=since, kind__in=WITH_CARDS)
    is_own = Q(address=F("order__customer_email")) | Q(address=F("order__customer_phone"))
    number = links.order_by().count() + sent.exclude(is_own).order_by().count()
    if number > core.reveals_per_hour:
        raise TooMany


def refuse(request: HttpRequest) -> str:
    """What to tell the person; it leaves a trace, once an hour, which the digests tell of."""
    limit = core.reveals_per_hour
    kind = ContentType.objects.get_for_model(CardLink)
    trace = {"user_id": request.user.pk, "content_type": kind, "object_repr": REFUSED_REVEAL}
    if not LogEntry.objects.filter(**trace, action_time__gt=_an_hour_ago()).exists():
        text = f"Wanted to hand out more than {limit} links to cards within an hour."
        LogEntry.objects.create(**trace, action_flag=CHANGE, change_message=text)
        logger.warning(
            "%s wanted to hand out more than %s links to cards within an hour.",
            request.user.get_username(),
            limit,
        )
    text = ngettext(
        "You have handed out %(count)d link to cards within an hour. Try again later.",
        "You have handed out %(count)d links to cards within an hour. Try again later.",
        limit,
    )
    return text % {"count": limit}


def _an_hour_ago() -> datetime:
    return timezone.now() - timedelta(hours=1)
