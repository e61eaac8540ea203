"""Small actions about an order: check, tick off, complaint, note, held order, missing cards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.actions import (
    LATE,
    Answer,
    Attempt,
    OrderAction,
    Outcome,
    Page,
    may,
    state_token,
    token,
)
from giftcards.admin.pages import OrderPages, column_label, customer_of, facts, recorded
from giftcards.display import explained, filled, isolated, moment, money
from giftcards.engine.holding import (
    approve_price,
    approve_review,
    held_objection,
    held_price,
    reject_held,
    send_at_once,
)
from giftcards.engine.reordering import check_reorderable, missing_part, reorder_missing, repetition
from giftcards.exceptions import ReorderError
from giftcards.models import Note, Order
from giftcards.problems import Problem
from giftcards.statuses import FOLLOWED, Status

# Check now.


def _check(attempt: Attempt) -> Outcome:
    order = attempt.order
    if attempt.pages.ask_for_checks(attempt.request, Order.objects.filter(pk=order.pk)):
        return Outcome(gettext("The order will be checked in a moment."))
    order.refresh_from_db()
    return Outcome(_why_not(order), level=messages.WARNING)


def _why_not(order: Order) -> str:
    """The reason, in a sentence, why the provider is not asked about ``order`` now."""
    if order.is_final:
        return gettext("The order is final: there is nothing left to ask the provider.")
    if order.status == Status.UNCONFIRMED:
        return gettext("The order is unconfirmed, and is looked for automatically.")
    if order.status not in FOLLOWED:
        return gettext("The order has not been sent yet: there is nothing to ask about.")
    return gettext("The order was checked a moment ago. It is checked again automatically.")


CHECK = OrderAction(
    name="order_check",
    route="<key>/check/",
    label=_("Check now"),
    permission=may("giftcards.check_order"),
    is_offered=lambda order: order.status in FOLLOWED,
    token=None,
    act=_check,
)


def fingerprint(order: Order) -> str:
    """A hash that changes once the page of ``order`` has something new to say.

    A check that finds nothing new does not change it.
    """
    return token("fingerprint", [state_token(order), order.problems, order.fulfilled_quantity])


def _show_fingerprint(pages: OrderPages, request: HttpRequest, key: str) -> HttpResponse:
    order = pages.order_for(request, key, allowed=True)
    return JsonResponse({"fingerprint": fingerprint(order)})


FINGERPRINT = Page("order_fingerprint", "<path:key>/fingerprint/", _show_fingerprint)

# A problem is ticked off.


def _tick_off(attempt: Attempt) -> Outcome:
    order = attempt.order
    problems = {problem.key: problem for problem in map(Problem.of, order.problems)}
    problem = problems.get(attempt.request.POST.get("problem", ""))
    if problem is None:
        text = gettext("This problem is over: the page shows what holds now.")
        return Outcome(text, level=messages.WARNING)
    # False for the second request of a double click.
    is_new = order.tick_off(problem, by=attempt.by)
    log = f"Ticked off: {problem.discreet}" if is_new else ""
    return Outcome(gettext("Ticked off."), log)


TICK_OFF = OrderAction(
    name="order_tick_off",
    route="<key>/tick-off/",
    label=_("Tick off"),
    permission=may("giftcards.check_order"),
    place="",
    # A held order keeps its problem until somebody decides about it.
    before=lambda attempt: LATE if attempt.order.is_held else None,
    act=_tick_off,
)

# A customer complains about a code; the order then needs a person.


def _dispute(attempt: Attempt) -> Outcome:
    # False for the second request of a double click.
    is_new = attempt.order.dispute(by=attempt.by)
    return Outcome(
        gettext("The complaint was noted. The codes are kept until it is ticked off."),
        "Noted that the customer complains about a code." if is_new else "",
    )


DISPUTE = OrderAction(
    name="order_dispute",
    route="<key>/dispute/",
    label=_("The customer complains about a code"),
    permission=may("giftcards.check_order"),
    is_offered=lambda order: order.may_be_disputed and not order.is_disputed,
    before=lambda attempt: None if attempt.order.may_be_disputed else LATE,
    act=_dispute,
)

# Notes: added under the timeline, and never changed.


class NoteForm(forms.Form):
    # Not a CharField: the model checks the text, and says what is wrong with it.
    note = forms.Field(required=False)


def may_note(pages: OrderPages, request: HttpRequest) -> bool:
    """True if the person may write notes: anybody who may check, resolve or add orders."""
    may_decide = map(request.user.has_perm, ("giftcards.check_order", "giftcards.resolve_order"))
    return any(may_decide) or pages.has_add_permission(request)


def _note(attempt: Attempt) -> Answer:
    typed = attempt.form.cleaned_data["note"]
    try:
        is_new = Note.objects.add(attempt.order, typed, by=attempt.by)
    except ValidationError as error:
        # A page of its own, so that the typed text is not lost.
        return attempt.page(typed=typed, errors=[*error.messages])
    return Outcome(gettext("The note was added."), "Added a note." if is_new else "")


NOTE = OrderAction(
    name="order_note",
    route="<key>/note/",
    label=_("Add the note"),
    permission=may_note,
    place="",
    token=None,
    form=lambda _attempt, data: NoteForm(data),
    title=_("A note for your colleagues"),
    template="note",
    act=_note,
)

# A held order is bought, or rejected.


class HeldForm(forms.Form):
    """The decision whether to buy a held order; ``buying`` says what that means."""

    APPROVE = "approve"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("Your decision"), widget=forms.RadioSelect)

    def __init__(self, buying: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            (self.APPROVE, buying),
            (self.REJECT, _("Do not buy it: reject the order.")),
        ]


def _price_form(attempt: Attempt, data: QueryDict | None) -> HeldForm:
    price = _price_of(attempt.order)
    text = gettext("Buy it: at most %(price)s a card, %(total)s in all.")
    total = price * attempt.order.quantity
    return HeldForm(filled(text, price=money(price), total=money(total)), data)


def _price_of(order: Order) -> Decimal:
    return held_price(order) or Decimal(0)


def _decide_price(attempt: Attempt) -> Outcome:
    return decided(_decide(attempt, partial(approve_price, price=_price_of(attempt.order))))


def _decide(attempt: Attempt, approve: Callable[..., Problem | None]) -> Problem | None:
    is_approved = attempt.form.cleaned_data["outcome"] == HeldForm.APPROVE
    return (approve if is_approved else reject_held)(attempt.order, by=attempt.by)


def decided(decision: Problem | None, log: str = "") -> Outcome:
    """The outcome of a decision that the timeline shows; ``None``: it came too late.

    ``log`` replaces the decision's own text in the order's history.
    """
    if decision is None:
        return LATE
    # Discreet, because everybody who may see the order can read the log.
    return Outcome(gettext("Recorded."), log or decision.discreet, wakes=True)


def _price_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    consequence = gettext(
        "A card of this order costs more than your limit. Nothing has been bought; the order waits"
        " until you decide."
    )
    costs = {
        gettext("highest price"): order.price_ceiling,
        gettext("price at the provider"): _price_of(order),
    }
    return _held_context(order, consequence, _known(costs))


def _held_context(
    order: Order, consequence: str, more: Iterable[tuple[str, object]]
) -> Mapping[str, Any]:
    sale = {gettext("sale price"): order.sale_price, gettext("sale amount"): order.sale_amount}
    problems = [explained(problem, shows_costs=True) for problem in order.open_problems]
    return {
        "consequence": consequence,
        "facts": [*facts(order), *_known(sale), *more],
        "problems": problems,
    }


def _known(amounts: Mapping[str, Decimal | None]) -> list[tuple[str, object]]:
    return [(label, money(amount)) for label, amount in amounts.items() if amount is not None]


PRICE = OrderAction(
    name="order_price",
    route="<key>/price/",
    label=_("What may a card cost?"),
    permission=may("giftcards.resolve_order", "giftcards.view_cost"),
    is_offered=lambda order: held_price(order) is not None,
    before=lambda attempt: LATE if held_price(attempt.order) is None else None,
    form=_price_form,
    template="held",
    context=_price_context,
    act=_decide_price,
)


def _review_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    consequence = gettext(
        "Your shop's own rule wants a person to look at this order. Nothing has been bought; the"
        " order waits until you decide."
    )
    customer = {
        column_label(name): getattr(order, name)
        for name in ("customer_name", "customer_email", "customer_phone")
    }
    known = [(label, value) for label, value in customer.items() if value]
    return _held_context(order, consequence, known)


def _decide_review(attempt: Attempt) -> Outcome:
    # Without the reason for the review, which may name the customer.
    log = f"Decided about the review: {attempt.form.cleaned_data['outcome']}."
    return decided(_decide(attempt, approve_review), log=log)


REVIEW = OrderAction(
    name="order_review",
    route="<key>/review/",
    label=_("Approve or reject this order"),
    permission=may("giftcards.resolve_order"),
    is_offered=lambda order: held_objection(order) is not None,
    before=lambda attempt: LATE if held_objection(attempt.order) is None else None,
    form=lambda _attempt, data: HeldForm(gettext("Buy it."), data),
    template="held",
    context=_review_context,
    act=_decide_review,
)


def _wait_context(attempt: Attempt) -> Mapping[str, Any]:
    order = attempt.order
    text = gettext(
        "The order waits until %(at)s, and is sent automatically then. Nothing has been bought yet."
    )
    at = moment(order.send_after) if order.send_after else gettext("unknown")
    return _held_context(order, filled(text, at=at), ())


WAIT = OrderAction(
    name="order_wait",
    route="<key>/wait/",
    label=_("Do not wait any longer"),
    permission=may("giftcards.resolve_order"),
    is_offered=lambda order: order.is_waiting,
    is_minor=True,
    before=lambda attempt: None if attempt.order.is_waiting else LATE,
    form=lambda _attempt, data: HeldForm(gettext("Buy it now."), data),
    template="held",
    context=_wait_context,
    act=lambda attempt: decided(_decide(attempt, send_at_once)),
)

# The missing cards are ordered again.


def _may_repeat(order: Order) -> bool:
    is_untouched = order.reordered_amount is None and not order.is_being_paid_back
    return is_untouched and bool(order.missing_quantity)


def _repeated_already(attempt: Attempt) -> Outcome | None:
    known = repetition(attempt.order)
    if known is not None:
        return _known_repetition(attempt, known)
    if attempt.request.method != "POST" and not missing_part(attempt.order).quantity:
        return Outcome(_obstacle(attempt.order), level=messages.ERROR)
    return None


def _known_repetition(attempt: Attempt, new: Order) -> Outcome:
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
        return _known_repetition(attempt, new)
    attempt.pages.log_addition(
        attempt.request, new, f"Replaces missing cards of the missing cards of {order}."
    )
    return Outcome(
        recorded(new),
        str(Problem("staff_reordered", {"by": by, "order": new.reference})),
        level=messages.INFO,
        shows=_first_seen(attempt, new),
    )


def _repeat_context(attempt: Attempt) -> Mapping[str, Any]:
    new = missing_part(attempt.order)
    consequence = ngettext(
        "%(count)s card of this order did not come. It is bought in a new order, once; the two"
        " orders are linked.",
        "%(count)s cards of this order did not come. They are bought in a new order, once; the two"
        " orders are linked.",
        new.quantity,
    )
    action = ngettext("Order %(count)s card", "Order %(count)s cards", new.quantity)
    return {
        "consequence": consequence % {"count": new.quantity},
        "facts": _facts_of_repetition(attempt, new),
        "has_ceiling": new.price_ceiling is not None,
        "is_owed": bool(new.sale_amount),
        "obstacle": _obstacle(attempt.order),
        "action": action % {"count": new.quantity},
    }


def _facts_of_repetition(attempt: Attempt, new: Order) -> list[tuple[str, object]]:
    order = attempt.order
    last = order.price_per_card
    texts = {
        # Also for themes that show no breadcrumbs.
        gettext("replaces missing cards of"): order.reference,
        gettext("product"): new.product_name or new.product_id,
        gettext("type"): new.type_name or new.type_id,
        gettext("quantity"): new.quantity,
        # The old order's: that of the key in use, which buys the new one, may not be known.
        gettext("environment"): order.get_environment_display(),
        gettext("customer"): customer_of(new),
        gettext("recipient"): new.recipient_name or new.recipient_email,
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


REPEAT = OrderAction(
    name="order_repeat",
    route="<key>/repeat/",
    label=_("Order the missing cards again"),
    permission=lambda pages, request: pages.has_add_permission(request),
    is_offered=_may_repeat,
    before=_repeated_already,
    form=lambda _attempt, data: forms.Form(data),
    template="repeat",
    context=_repeat_context,
    act=_repeat,
)
