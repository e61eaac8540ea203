"""Decisions about orders that are on hold for a decision, or that wait until a later time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import LATE, Attempt, OrderAction, Outcome, may
from giftcards.admin.frame.pages import column_label, facts
from giftcards.admin.orders.breakdown import earned, earned_in_words
from giftcards.admin.orders.follow_up import decided
from giftcards.engine.approvals import (
    approve_price,
    approve_review,
    on_hold_objection,
    on_hold_price,
    reject_order,
    send_at_once,
)
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.text.display import bdi, filled, moment, money


class OnHoldForm(forms.Form):
    """A form that asks whether to buy the cards of an order that is on hold or waits.

    ``buying``: the text of the choice to buy them.
    """

    APPROVE = "approve"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("Your decision"), widget=forms.RadioSelect)

    def __init__(self, buying: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            (self.APPROVE, buying),
            (self.REJECT, _("Do not buy it: reject the order.")),
        ]


def _price_form(attempt: Attempt, data: QueryDict | None) -> OnHoldForm:
    price = _price_of(attempt.order)
    text = gettext("Buy it: at most %(price)s a card, %(total)s in all.")
    total = price * attempt.order.quantity
    return OnHoldForm(filled(text, price=money(price), total=money(total)), data)


def _price_of(order: Order) -> Decimal:
    return on_hold_price(order) or Decimal(0)


def _decide(attempt: Attempt, approve: Callable[..., Problem | None]) -> Problem | None:
    is_approved = attempt.form.cleaned_data["outcome"] == OnHoldForm.APPROVE
    return (approve if is_approved else reject_order)(attempt.order, by=attempt.by)


def _price_context(attempt: Attempt) -> Mapping[str, Any]:
    order, price = attempt.order, _price_of(attempt.order)
    consequence = gettext(
        "A card of this order costs more than your limit. Nothing has been bought; the order waits"
        " until you decide."
    )
    costs = {gettext("highest price"): order.price_ceiling, gettext("price at the provider"): price}
    gain = earned(order, price)
    return {
        **_on_hold_context(order, consequence, _known(costs)),
        "earned": "" if gain is None else earned_in_words(gain),
        "is_loss": gain is not None and gain < 0,
    }


def _on_hold_context(
    order: Order, consequence: str, more: Iterable[tuple[str, object]]
) -> Mapping[str, Any]:
    sale = {gettext("sale price"): order.sale_price, gettext("sale amount"): order.sale_amount}
    return {"consequence": consequence, "facts": [*facts(order), *_known(sale), *more]}


def _known(amounts: Mapping[str, Decimal | None]) -> list[tuple[str, object]]:
    return [(label, money(amount)) for label, amount in amounts.items() if amount is not None]


PRICE = OrderAction(
    name="order_price",
    route="<key>/price/",
    label=_("What may a card cost?"),
    permission=may("giftcards.resolve_order", "giftcards.view_cost"),
    takes=("giftcards.resolve_order", "giftcards.view_cost"),
    is_offered=lambda order: on_hold_price(order) is not None,
    before=lambda attempt: LATE if on_hold_price(attempt.order) is None else None,
    form=_price_form,
    template="on_hold",
    context=_price_context,
    act=lambda attempt: decided(
        _decide(attempt, partial(approve_price, price=_price_of(attempt.order)))
    ),
)


def _review_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    consequence = filled(
        gettext(
            "Your shop's own rule wants a person to look at this order: “%(objection)s”. Nothing"
            " has been bought; the order waits until you decide."
        ),
        objection=bdi(on_hold_objection(order)),
    )
    customer = {
        column_label(name): getattr(order, name)
        for name in ("customer_name", "customer_email", "customer_phone")
    }
    known = [(label, value) for label, value in customer.items() if value]
    return _on_hold_context(order, consequence, known)


def _decide_review(attempt: Attempt) -> Outcome:
    # The log leaves out why the shop wants a decision: the text may name the customer.
    log = f"Decided about the review: {attempt.form.cleaned_data['outcome']}."
    return decided(_decide(attempt, approve_review), log=log)


REVIEW = OrderAction(
    name="order_review",
    route="<key>/review/",
    label=_("Approve or reject this order"),
    permission=may("giftcards.resolve_order"),
    takes=("giftcards.resolve_order",),
    is_offered=lambda order: on_hold_objection(order) is not None,
    before=lambda attempt: LATE if on_hold_objection(attempt.order) is None else None,
    form=lambda _attempt, data: OnHoldForm(gettext("Buy it."), data),
    template="on_hold",
    context=_review_context,
    act=_decide_review,
)


def _wait_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    text = gettext(
        "The order waits until %(at)s, and is sent automatically then. Nothing has been bought yet."
    )
    at = moment(order.send_after) if order.send_after else gettext("unknown")
    return _on_hold_context(order, filled(text, at=at), ())


WAIT = OrderAction(
    name="order_wait",
    route="<key>/wait/",
    label=_("Do not wait any longer"),
    permission=may("giftcards.resolve_order"),
    is_offered=lambda order: order.is_waiting,
    is_minor=True,
    before=lambda attempt: None if attempt.order.is_waiting else LATE,
    form=lambda _attempt, data: OnHoldForm(gettext("Buy it now."), data),
    template="on_hold",
    context=_wait_context,
    act=lambda attempt: decided(_decide(attempt, send_at_once)),
)
