"""Decisions about waiting orders.

Staff can buy the cards of a waiting order, or cancel the order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.http import QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import LATE, Attempt, OrderAction, Outcome, may
from giftcards.admin.frame.pages import about, column_label, facts
from giftcards.admin.orders.breakdown import earned, earned_in_words
from giftcards.admin.orders.follow_up import decided
from giftcards.engine.approvals import (
    approve_price,
    approve_review,
    cancel_order,
    on_hold_objection,
    on_hold_price,
    send_at_once,
)
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.rules.states import Status
from giftcards.text.display import bdi, filled, moment, money, worked_out


class OnHoldForm(forms.Form):
    """A form that asks whether to buy the cards of a waiting order.

    The order is on hold or is waiting to be sent. The label of the choice to buy the cards is
    passed as ``buying``.
    """

    APPROVE = "approve"
    CANCEL = "cancel"

    outcome = forms.ChoiceField(label=_("Your decision"), widget=forms.RadioSelect)

    def __init__(self, buying: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            (self.APPROVE, buying),
            (self.CANCEL, _("Cancel the order without buying the cards.")),
        ]


def _price_form(attempt: Attempt, data: QueryDict | None) -> OnHoldForm:
    price = _price_of(attempt.order)
    text = gettext("Buy the cards for at most %(price)s each, %(total)s in total.")
    total = price * attempt.order.quantity
    return OnHoldForm(filled(text, price=money(price), total=money(total)), data)


def _price_of(order: Order) -> Decimal:
    return on_hold_price(order) or Decimal(0)


def _decide(attempt: Attempt, approve: Callable[..., Problem | None], *, log: str = "") -> Outcome:
    if attempt.form.cleaned_data["outcome"] == OnHoldForm.CANCEL:
        return _cancel(attempt)
    return decided(approve(attempt.order, by=attempt.by), log=log)


def _cancel(attempt: Attempt) -> Outcome:
    if cancel_order(attempt.order, by=attempt.by):
        return Outcome(gettext("The order was cancelled. Nothing was bought."), CANCELLED)
    return _why_too_late(attempt) or LATE


#: The entry in the history of a cancelled order.
CANCELLED = "Cancelled the order."


def _why_too_late(attempt: Attempt) -> Outcome | None:
    """Return an outcome that says why the order can no longer be cancelled.

    Returns ``None`` if the order can still be cancelled.
    """
    if attempt.order.status == Status.PENDING:
        return None
    if attempt.order.is_final:
        return LATE
    text = gettext("The order could not be cancelled because its cards are already being bought.")
    return Outcome(text, level=messages.ERROR)


def _price_context(attempt: Attempt) -> Mapping[str, Any]:
    order, price = attempt.order, _price_of(attempt.order)
    consequence = gettext(
        "A card in this order costs more than your limit. Nothing has been bought yet. The order is"
        " on hold until you decide."
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
    help_topic="holding",
    route="<key>/price/",
    label=_("Approve the price or cancel the order"),
    permission=may("giftcards.resolve_order", "giftcards.view_cost"),
    takes=("giftcards.resolve_order", "giftcards.view_cost"),
    is_offered=lambda order: on_hold_price(order) is not None,
    before=lambda attempt: LATE if on_hold_price(attempt.order) is None else None,
    form=_price_form,
    template="on_hold",
    context=_price_context,
    act=lambda attempt: _decide(attempt, partial(approve_price, price=_price_of(attempt.order))),
)


def _review_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    consequence = filled(
        gettext(
            "Your shop's review rule put this order on hold: “%(objection)s”. Nothing has been"
            " bought yet. The order is on hold until you decide."
        ),
        objection=bdi(on_hold_objection(order)),
    )
    customer = {
        column_label(name): getattr(order, name)
        for name in ("customer_name", "customer_email", "customer_phone")
    }
    known = [(label, value) for label, value in customer.items() if value]
    return _on_hold_context(order, consequence, known)


REVIEW = OrderAction(
    name="order_review",
    help_topic="holding",
    route="<key>/review/",
    label=_("Approve or cancel this order"),
    permission=may("giftcards.resolve_order"),
    takes=("giftcards.resolve_order",),
    is_offered=lambda order: on_hold_objection(order) is not None,
    before=lambda attempt: LATE if on_hold_objection(attempt.order) is None else None,
    form=lambda _attempt, data: OnHoldForm(gettext("Buy the cards."), data),
    template="on_hold",
    context=_review_context,
    # The log does not contain the reason for the review, because the reason may name the customer.
    act=lambda attempt: _decide(attempt, approve_review, log="Approved the order after a review."),
)


def _wait_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    text = gettext("The order will be sent automatically on %(at)s. Nothing has been bought yet.")
    at = moment(order.send_after) if order.send_after else gettext("unknown")
    return _on_hold_context(order, filled(text, at=at), ())


WAIT = OrderAction(
    name="order_wait",
    help_topic="holding",
    route="<key>/wait/",
    label=_("Send or cancel this order"),
    permission=may("giftcards.resolve_order"),
    is_offered=lambda order: order.is_waiting,
    is_minor=True,
    before=lambda attempt: None if attempt.order.is_waiting else LATE,
    form=lambda _attempt, data: OnHoldForm(gettext("Buy the cards now."), data),
    template="on_hold",
    context=_wait_context,
    act=lambda attempt: _decide(attempt, send_at_once),
)


def _cancel_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    paid = worked_out(order.quantity, order.sale_price, order.sale_amount)
    amount = [(gettext("paid by the customer"), paid)] if order.sale_amount is not None else []
    return {
        "consequence": gettext(
            "Nothing has been bought yet. If you cancel the order, it will never be sent, and you"
            " will owe the customer what they paid. This cannot be undone."
        ),
        "heading": gettext("The order"),
        "facts": [*about(order), *amount],
        "action": attempt.action.label,
    }


CANCEL_ORDER = OrderAction(
    name="order_cancel",
    help_topic="cancelling",
    route="<key>/cancel-order/",
    label=_("Cancel the order"),
    permission=may("giftcards.resolve_order"),
    takes=("giftcards.resolve_order",),
    is_offered=lambda order: order.status == Status.PENDING,
    is_minor=True,
    is_final=True,
    # A form that was opened earlier is harmless, because the app does not buy the cards while the
    # order waits.
    token=None,
    before=_why_too_late,
    form=lambda _attempt, data: forms.Form(data),
    template="ask",
    title=_("Cancel the order?"),
    context=_cancel_context,
    act=_cancel,
)
