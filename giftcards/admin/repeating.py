"""Ordering an order's missing cards again: staff see what that means, and do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.actions import Attempt, OrderAction, Outcome
from giftcards.admin.pages import recorded
from giftcards.display import isolated, money
from giftcards.engine.reordering import check_reorderable, missing_part, reorder_missing, repetition
from giftcards.exceptions import ReorderError
from giftcards.models import Order
from giftcards.problems import Problem


def _is_offered(order: Order) -> bool:
    is_untouched = order.reordered_amount is None and not order.is_being_paid_back
    return is_untouched and bool(order.missing_quantity)


def _before(attempt: Attempt) -> Outcome | None:
    known = repetition(attempt.order)
    if known is not None:
        return _known(attempt, known)
    if attempt.request.method != "POST" and not missing_part(attempt.order).quantity:
        return Outcome(_obstacle(attempt.order), level=messages.ERROR)
    return None


def _known(attempt: Attempt, new: Order) -> Outcome:
    text = gettext(
        "The missing cards of %(order)s were ordered again already. They are not ordered twice."
    )
    text %= {"order": isolated(attempt.order)}
    return Outcome(text, level=messages.INFO, shows=_first_seen(attempt, new))


def _first_seen(attempt: Attempt, new: Order) -> Order:
    """The new order, or the old one if the person may not see the new one."""
    return new if attempt.pages.may_see(attempt.request, new) else attempt.order


def _repeat(attempt: Attempt) -> Outcome:
    order, by = attempt.order, attempt.by
    new = reorder_missing(order, by=by)
    if not new.is_new:
        return _known(attempt, new)
    attempt.pages.log_addition(attempt.request, new, f"Orders again the missing cards of {order}.")
    return Outcome(
        recorded(new),
        str(Problem("staff_reordered", {"by": by, "order": new.reference})),
        level=messages.INFO,
        shows=_first_seen(attempt, new),
    )


def _context(attempt: Attempt) -> Mapping[str, Any]:
    new = missing_part(attempt.order)
    return {
        "consequence": _consequence(new.quantity),
        "facts": _facts(attempt, new),
        "has_ceiling": new.price_ceiling is not None,
        "is_owed": bool(new.sale_amount),
        "obstacle": _obstacle(attempt.order),
        "action": _action(new.quantity),
    }


def _facts(attempt: Attempt, new: Order) -> list[tuple[str, object]]:
    """The facts about the new order, with costs for people who may see them."""
    order = attempt.order
    last = order.price_per_card
    texts = {
        # Also for themes that show no breadcrumbs.
        gettext("orders again what is missing from"): order.reference,
        gettext("product"): new.product_name or new.product_id,
        gettext("type"): new.type_name or new.type_id,
        gettext("quantity"): new.quantity,
        # The old order's: that of the key in use, which buys the new one, may not be known.
        gettext("environment"): order.get_environment_display(),
        gettext("customer"): new.customer_name or new.customer_email or new.customer_phone,
    }
    amounts = {gettext("paid by the customer"): new.sale_amount}
    if attempt.pages.may_see_costs(attempt.request):
        amounts |= {
            gettext("price per card, last time"): last,
            gettext("in all, at that price"): last and last * new.quantity,
            gettext("highest price"): new.price_ceiling,
        }
    shown = {label: money(amount) for label, amount in amounts.items() if amount is not None}
    return [*((label, text) for label, text in texts.items() if text), *shown.items()]


def _obstacle(order: Order) -> str:
    """The reason why nothing of ``order`` can be ordered again now; "" if there is none."""
    try:
        check_reorderable(order)
    except ReorderError as error:
        return str(error)
    return ""


def _consequence(missing: int) -> str:
    text = ngettext(
        "%(count)s card of this order did not come. It is bought in a new order, once; the two"
        " orders name each other.",
        "%(count)s cards of this order did not come. They are bought in a new order, once; the two"
        " orders name each other.",
        missing,
    )
    return text % {"count": missing}


def _action(missing: int) -> str:
    text = ngettext("Order %(count)s card", "Order %(count)s cards", missing)
    return text % {"count": missing}


REPEAT = OrderAction(
    name="order_repeat",
    route="<key>/repeat/",
    label=_("Order the missing cards again"),
    permission=lambda pages, request: pages.has_add_permission(request),
    is_offered=_is_offered,
    before=_before,
    form=lambda _attempt, data: forms.Form(data),
    template="repeat",
    context=_context,
    act=_repeat,
)
