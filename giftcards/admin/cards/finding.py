"""The search for cards by code or serial number.

Each search is recorded, and each person can make only a limited number of searches per hour.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.admin.frame.actions import Pages
from giftcards.admin.frame.reauthentication import take_turn
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Card
from giftcards.text.spelling import after_code_labels

# The maximum number of searches by one person. A person who searches more often is probably
# guessing codes.
SEARCHES_PER_HOUR = 30
# The ``object_repr`` of entries in the admin's log.
_SEARCHED = "Search by card code"
_REFUSED = "Search by card code, refused"
_MOST_SHOWN = 20
# The maximum number of codes and serial numbers in one search. A card has one of each.
_MOST_TYPED = 2


def cards_with(pages: Pages, request: HttpRequest, form: forms.Form) -> dict[str, Any]:
    """Search for cards with the typed code, and return the page's context.

    The code is the ``secret`` field of the form. If the person has reached the hourly limit, the
    function adds an error to ``form`` instead of searching, and the context contains only the HTTP
    status 429.
    """
    trace = _begin_search(request)
    if trace is None:
        text = ngettext(
            "You have searched %(count)d time in the last hour. Try again later.",
            "You have searched %(count)d times in the last hour. Try again later.",
            SEARCHES_PER_HOUR,
        )
        form.add_error("secret", text % {"count": SEARCHES_PER_HOUR})
        return {"status": 429}
    found = _unhidden(pages, request, _newest(form.cleaned_data["secret"]))
    cards = found[:_MOST_SHOWN]
    names = ", ".join(dict.fromkeys(card.order.reference for card in cards))
    trace.change_message += f" Found: {names or 'nothing'}."
    trace.save(update_fields=["change_message"])
    return {
        "cards": cards,
        "may_open": pages.has_view_permission(request),
        "has_more": len(found) > len(cards),
    }


def _unhidden(pages: Pages, request: HttpRequest, cards: list[Card]) -> list[Card]:
    orders = pages.get_queryset(request).filter(pk__in={card.order_id for card in cards})
    keys = set(orders.values_list("pk", flat=True))
    return [card for card in cards if card.order_id in keys]


@contained
def typed_codes(text: str) -> list[Masked]:
    """Return the codes and serial numbers in ``text``.

    If ``text`` contains words such as "Code:", the result contains only the parts that follow these
    words. Otherwise, the result contains the whole text.
    """
    return list(map(Masked, after_code_labels(text)[:_MOST_TYPED] or [text]))


def _newest(text: Masked) -> list[Card]:
    """Return the cards that match ``text``, newest first.

    ``text`` is a code, a serial number, or the last four characters of a code. Each query fetches
    at most ``_MOST_SHOWN + 1`` cards, which is enough to know whether there are more cards than the
    page shows.
    """
    most = _MOST_SHOWN + 1
    cards = Card.objects.select_related("order").defer("sealed")
    # Four characters may be the end of a code, or a whole serial number.
    found = {
        card
        for code in typed_codes(text)
        for card in (*cards.newest_with_code(code, most), *cards.with_tail(code)[:most])
    }
    return sorted(found, key=lambda card: -card.pk)


def _begin_search(request: HttpRequest) -> LogEntry | None:
    """Record a search, or return ``None`` if the hourly limit is reached.

    The record does not contain the code. The record is committed before the search, so that every
    search is recorded.
    """
    # The content type is read before the transaction, because SQLite may fail a transaction that
    # reads before it writes.
    kind = ContentType.objects.get_for_model(Card)
    with transaction.atomic(using=router.db_for_write(LogEntry), durable=True):
        take_turn(request)
        return _record(request.user.pk, kind)


def _record(person: Any, kind: ContentType) -> LogEntry | None:
    trace = LogEntry.objects.create(
        user_id=person,
        content_type=kind,
        object_repr=_SEARCHED,
        action_flag=CHANGE,
        change_message="Searched for a card by its code.",
    )
    since = timezone.now() - timedelta(hours=1)
    lately = LogEntry.objects.filter(user_id=person, content_type=kind, action_time__gt=since)
    if lately.filter(object_repr=_SEARCHED).count() <= SEARCHES_PER_HOUR:
        return trace
    if lately.filter(object_repr=_REFUSED).exists():
        # One record of a refusal per hour is enough, because a script may be refused very often.
        trace.delete()
    else:
        trace.object_repr = _REFUSED
        trace.change_message = f"Searched more than {SEARCHES_PER_HOUR} times within an hour."
        trace.save(update_fields=["object_repr", "change_message"])
    return None


# The decorators also wrap the permission check, so that the error report of a failed check does not
# show the code. Even with ATOMIC_REQUESTS, the record is committed before the search, so that a
# search that fails still counts towards the limit.
HIDING = (
    sensitive_post_parameters(),
    transaction.non_atomic_requests(using=router.db_for_write(LogEntry)),
)
