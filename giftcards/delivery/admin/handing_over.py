"""Hand out links to customers, limit them per hour, and withdraw them.

A link, or a message that delivers cards, can show codes. Other messages show only the name of the
product. Therefore each staff member can hand out at most ``REVEALS_PER_HOUR`` links and messages
per hour. Messages to the order's own address do not count. A second limit applies to each order,
and protects customers from receiving too many messages.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import partial

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables

from giftcards.admin.cards.revealing import SHOWN_FOR, RevealForm, other_proof, rendered
from giftcards.admin.frame.actions import (
    Answer,
    Attempt,
    OrderAction,
    Outcome,
    Pages,
    Refused,
    carry_out,
    may,
)
from giftcards.admin.frame.pages import about
from giftcards.admin.frame.reauthentication import take_turn
from giftcards.conf import conf as core
from giftcards.delivery import links
from giftcards.delivery.conf import conf
from giftcards.delivery.facts import has_cards
from giftcards.delivery.models import CardLink, Delivery
from giftcards.delivery.queueing import Withdrawn, withdraw
from giftcards.models import Order
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.text.display import count_text, moment

logger = logging.getLogger(__name__)

#: The permission to have messages sent again, and to make and withdraw links.
MAY_RESEND = may("giftcards_delivery.resend_delivery")
# The maximum number of messages and links, counted together, that staff can request for an order in
# an hour.
MOST_OF_AN_ORDER = 10


def count(request: HttpRequest, order: Order, *, is_handed_out: bool) -> None:
    """Check the hourly limits for messages and links.

    Raises :exc:`~giftcards.admin.frame.actions.Refused` if a limit is exceeded. Call this function
    in the transaction that locked ``order`` and created the link or message. ``is_handed_out`` is
    True for a link, and for a message to an address that is not in the order.
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
        "%(count)d message or link was requested for this order in the last hour. Try again later.",
        "%(count)d messages and links were requested for this order in the last hour. Try again"
        " later.",
        MOST_OF_AN_ORDER,
    )
    return text % {"count": MOST_OF_AN_ORDER}


def _too_many(request: HttpRequest) -> str:
    """Log that the user reached the hourly limit, and return an error text.

    The function writes at most one entry per hour and user to the admin log. Digests report these
    entries.
    """
    limit = core.reveals_per_hour
    kind = ContentType.objects.get_for_model(CardLink)
    trace = {"user_id": request.user.pk, "content_type": kind, "object_repr": REFUSED_REVEAL}
    if not LogEntry.objects.filter(**trace, action_time__gt=_an_hour_ago()).exists():
        text = f"Tried to hand out more than {limit} links or messages within an hour."
        LogEntry.objects.create(**trace, action_flag=CHANGE, change_message=text)
        logger.warning(
            "%s tried to hand out more than %s links or messages within an hour.",
            request.user.get_username(),
            limit,
        )
    text = ngettext(
        "In the last hour, you have created a link or sent a message to another address %(count)d"
        " time. Try again later.",
        "In the last hour, you have created links or sent messages to other addresses %(count)d"
        " times. Try again later.",
        limit,
    )
    return text % {"count": limit}


def _an_hour_ago() -> datetime:
    return timezone.now() - timedelta(hours=1)


def may_have_link(order: Order) -> bool:
    """True if ``order`` has cards and ``SHOP_URL`` is set."""
    return bool(conf.shop_url) and has_cards(order)


class NewLinkForm(RevealForm):
    """The form for a new link.

    The form asks for the same proof of identity as the form to reveal a code.
    """

    withdraws = forms.BooleanField(
        label=_("Withdraw the earlier links"), required=False, initial=True
    )
    # The primary key of the newest link when the form was made. Later links are not withdrawn. So
    # pressing the button twice does not withdraw the link that was just made.
    newest = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, attempt: Attempt, data: QueryDict | None) -> None:
        super().__init__(attempt.request, data)
        known = CardLink.objects.filter(order=attempt.order).order_by("-pk")
        self.fields["newest"].initial = known.values_list("pk", flat=True).first()


def _withdraw(attempt: Attempt) -> Outcome:
    done = withdraw(attempt.order, by=attempt.by)
    if not any(done):
        return Outcome(gettext("There is no working link."), level=messages.INFO)
    return Outcome(_in_words(done), "Withdrew the links to the cards.")


def _in_words(done: Withdrawn) -> str:
    links_ended = ngettext(
        "%(count)s link was withdrawn and no longer works.",
        "%(count)s links were withdrawn and no longer work.",
        done.links,
    )
    cancelled = ngettext(
        "%(count)s waiting message with a link was cancelled.",
        "%(count)s waiting messages with a link were cancelled.",
        done.messages,
    )
    said = [(links_ended, done.links), (cancelled, done.messages)]
    return " ".join(text % {"count": count_text(count)} for text, count in said if count)


WITHDRAW = OrderAction(
    name="delivery_withdraw",
    help_topic="messages",
    route="<key>/withdraw/",
    label=_("Withdraw all links"),
    permission=MAY_RESEND,
    is_final=True,
    place="messages",
    is_offered=lambda order: (
        CardLink.objects.filter(order=order, revoked_at=None).exclude(token_hash=None).exists()
    ),
    token=None,
    form=lambda _attempt, data: forms.Form(data),
    template="ask",
    context=lambda attempt: {
        "consequence": gettext(
            "Links that were sent or handed over will stop working, and waiting messages with a"
            " link will not be sent. You can send a new link afterwards."
        ),
        "heading": gettext("The order"),
        "facts": about(attempt.order),
        "action": attempt.action.label,
    },
    act=_withdraw,
)


def _before_link(attempt: Attempt) -> Answer | None:
    if not may_have_link(attempt.order):
        return Outcome(
            gettext("No link can be created because the order has no cards."),
            level=messages.WARNING,
        )
    return other_proof(attempt.pages, attempt.request, back_to=attempt.request.path)


@sensitive_variables()
def _make_link(attempt: Attempt) -> HttpResponse:
    pages, request, order = attempt.pages, attempt.request, attempt.order
    given = attempt.form.cleaned_data
    done = "Created a link to the cards."
    order.lock()
    if given["withdraws"]:
        withdraw(order, by=attempt.by, last_link=given["newest"] or 0)
        done = f"Withdrew the earlier links. {done}"
    link, token = links.issue(
        order, origin=CardLink.Origin.STAFF, by=attempt.by, reason=given["reason"]
    )
    count(request, order, is_handed_out=True)
    pages.log_change(request, order, done)
    response = attempt.page(
        "admin/giftcards_delivery/new_link.html",
        address=links.url_of(token),
        seconds=SHOWN_FOR,
        until=moment(link.expires_at) if link.expires_at else "",
    )
    # The page of a code that staff reveal has the same two headers.
    response["Referrer-Policy"] = "same-origin"
    response["Refresh"] = f"{SHOWN_FOR}; url={pages.url_of('change', order.pk)}"
    return response


def _new_link_view(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    # The view runs outside any transaction, even with ATOMIC_REQUESTS. So the new link is committed
    # before the page shows it.
    return rendered(carry_out(NEW_LINK, pages, request, key))


NEW_LINK = OrderAction(
    name="delivery_new_link",
    help_topic="messages",
    route="<key>/new-link/",
    label=_("Create a link to hand over"),
    permission=MAY_RESEND,
    place="messages",
    is_offered=may_have_link,
    token=None,
    before=_before_link,
    form=NewLinkForm,
    template="admin/giftcards_delivery/new_link_ask.html",
    act=_make_link,
    view=_new_link_view,
    decorators=(
        sensitive_post_parameters(),
        transaction.non_atomic_requests(using=router.db_for_write(CardLink)),
    ),
)
