"""The reason why nothing is done automatically about an open order, for the page of that order."""

from __future__ import annotations

from django.utils import timezone
from django.utils.translation import gettext

from giftcards.display import filled, when
from giftcards.keys.keyring import configured_key
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.rules.states import Status


def why_at_a_standstill(order: Order) -> str:
    """The sentence, as HTML; "" if work goes on, or a person has to decide about ``order``.

    Takes no query for an order that is not due by itself.
    """
    if order.is_final or order.due_at is None or order.status == Status.PLACING:
        return ""
    now, state = timezone.now(), ProviderState.objects.current()
    if ApiKey.objects.holding_up(configured_key(), now):
        return gettext(
            "Nothing is sent or checked until the provider accepts the shop's key again."
        )
    if state.is_paused(now):
        text = gettext(
            "Requests to the provider are paused: nothing is sent or checked until the pause ends,"
            " %(when)s at the earliest."
        )
        return filled(text, when=when(state.pause_end(now)))
    if state.worker_problem(now):
        return gettext("Nothing is sent or checked until background work runs again.")
    return ""
