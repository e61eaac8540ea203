"""Hourly limits: what a person may hand out, and what may go out about one order.

Whoever gets a link, or a message with cards, sees codes, and other messages tell what the customer
bought: so ``REVEALS_PER_HOUR`` is the limit. That of one order is there so that nobody is written
to without end.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import ngettext

from giftcards.admin.actions import Refused, may
from giftcards.admin.reauthentication import take_turn
from giftcards.conf import conf as core
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order
from giftcards.models.records import REFUSED_REVEAL

logger = logging.getLogger(__name__)

#: The permission to have messages sent again, and to make links and withdraw them.
MAY_RESEND = may("giftcards_delivery.resend_delivery")
#: Most messages and links that staff may ask for about one order within an hour.
MOST_OF_AN_ORDER = 10


def count(request: HttpRequest, order: Order, *, is_handed_out: bool) -> None:
    """Raise :exc:`~giftcards.admin.actions.Refused` if what was just created exceeds a limit.

    Call it in the transaction that created it and holds the lock of ``order``. ``is_handed_out`` is
    True for a link, and for a message to another address than the customer's.
    """
    since = _an_hour_ago()
    links = CardLink.objects.filter(created_at__gt=since, origin=CardLink.Origin.STAFF).order_by()
    sent = Delivery.objects.filter(created_at__gt=since).order_by()
    asked = sent.filter(order=order).exclude(requested_by="")
    if links.filter(order=order).count() + asked.count() > MOST_OF_AN_ORDER:
        raise Refused(_too_many_of_order)
    if not is_handed_out:
        return
    take_turn(request)
    name = request.user.get_username()
    elsewhere = sent.filter(requested_by=name, is_elsewhere=True)
    if links.filter(created_by=name).count() + elsewhere.count() > core.reveals_per_hour:
        raise Refused(partial(_too_many, request))


def _too_many_of_order() -> str:
    text = ngettext(
        "About this order, %(count)d message or link was asked for within an hour. Try again"
        " later.",
        "About this order, %(count)d messages and links were asked for within an hour. Try"
        " again later.",
        MOST_OF_AN_ORDER,
    )
    return text % {"count": MOST_OF_AN_ORDER}


def _too_many(request: HttpRequest) -> str:
    """The text that tells the person of their own limit.

    Leaves a trace in the admin's log, once an hour, for the digests.
    """
    limit = core.reveals_per_hour
    kind = ContentType.objects.get_for_model(CardLink)
    trace = {"user_id": request.user.pk, "content_type": kind, "object_repr": REFUSED_REVEAL}
    if not LogEntry.objects.filter(**trace, action_time__gt=_an_hour_ago()).exists():
        text = f"Wanted to hand out more than {limit} links or messages within an hour."
        LogEntry.objects.create(**trace, action_flag=CHANGE, change_message=text)
        logger.warning(
            "%s wanted to hand out more than %s links or messages within an hour.",
            request.user.get_username(),
            limit,
        )
    text = ngettext(
        "You have handed out %(count)d link or message to another address within an hour. Try"
        " again later.",
        "You have handed out %(count)d links or messages to other addresses within an hour. Try"
        " again later.",
        limit,
    )
    return text % {"count": limit}


def _an_hour_ago() -> datetime:
    return timezone.now() - timedelta(hours=1)
