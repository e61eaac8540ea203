"""Assignments: a person takes an order, gives it back, or takes it from a colleague."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import LATE, Attempt, OrderAction, Outcome, may
from giftcards.admin.frame.forms import token
from giftcards.admin.frame.pages import about
from giftcards.models import Order
from giftcards.models.staff_records import give_back, take
from giftcards.text.display import bdi, brief_moment, filled, isolated


def owner_in_words(order: Order) -> str:
    """Return a sentence, as HTML, on who looks after ``order``; "" if nobody does."""
    if not order.owner or order.looked_after_since is None:
        return ""
    text = gettext("%(name)s has been looking after it since %(time)s.")
    return filled(text, name=bdi(order.owner), time=brief_moment(order.looked_after_since))


def _why_not_taken(attempt: Attempt) -> Outcome | None:
    owner = attempt.order.owner
    if owner == attempt.by:
        return Outcome(_("You are looking after this order."))
    if owner:
        text = gettext("%(name)s is looking after this order already: you can take it over.")
        return Outcome(text % {"name": isolated(owner)}, level=messages.WARNING)
    return None


def _take(attempt: Attempt) -> Outcome:
    if not take(attempt.order, by=attempt.by):
        attempt.order.refresh_from_db()
        return _why_not_taken(attempt) or LATE
    return Outcome(gettext("You are looking after this order."), "Began to look after the order.")


TAKE = OrderAction(
    name="order_take",
    route="<key>/take/",
    label=_("I am looking after it"),
    permission=may("giftcards.check_order"),
    is_offered=lambda order: order.is_unfinished and not order.owner,
    # ``take`` itself compares the owners, and no other change of the order matters.
    token=None,
    before=_why_not_taken,
    act=_take,
)


def _take_over_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    return {
        "warnings": [owner_in_words(order)],
        "consequence": gettext("If you take it over, your name stands there instead of that one."),
        "heading": gettext("The order"),
        "facts": about(order),
        "action": attempt.action.label,
    }


def _why_not_taken_over(attempt: Attempt) -> Outcome | None:
    owner = attempt.order.owner
    return _why_not_taken(attempt) if owner == attempt.by else None if owner else LATE


TAKE_OVER = OrderAction(
    name="order_take_over",
    route="<key>/take-over/",
    label=_("Take it over"),
    permission=may("giftcards.check_order"),
    place="",
    token=lambda order: token("owner", [order.pk, order.looked_after_by]),
    before=_why_not_taken_over,
    form=lambda _attempt, data: forms.Form(data),
    title=_("Take the order over?"),
    template="ask",
    context=_take_over_context,
    act=_take,
)


def _give_back(attempt: Attempt) -> Outcome:
    text = gettext("You do not look after this order any more.")
    # ``is_new`` is False for the second request of a double click.
    is_new = give_back(attempt.order, by=attempt.by)
    return Outcome(text, "Does not look after the order any more." if is_new else "")


GIVE_BACK = OrderAction(
    name="order_give_back",
    route="<key>/give-back/",
    label=_("Give it back"),
    permission=may("giftcards.check_order"),
    place="",
    token=None,
    act=_give_back,
)
