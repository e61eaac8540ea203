"""Smaller staff actions, such as checking an order or adding a note."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse, QueryDict
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import (
    LATE,
    Answer,
    Attempt,
    OrderAction,
    Outcome,
    Page,
    Pages,
    may,
)
from giftcards.admin.frame.forms import state_token, token
from giftcards.admin.frame.pages import about, customer_of, recorded
from giftcards.engine.reordering import check_reorderable, missing_part, reorder_missing, reorder_of
from giftcards.exceptions import ReorderError
from giftcards.models import Note, Order
from giftcards.models.fields import tidied_lines
from giftcards.rules.problems import Problem
from giftcards.rules.states import FOLLOWED, STATES, NotChecked
from giftcards.text.display import explained, isolated, money, named

_LEFT_ALONE = {
    NotChecked.UNSENT: ngettext_lazy(
        "%(count)d order was skipped because it has not been sent yet.",
        "%(count)d orders were skipped because they have not been sent yet.",
        "count",
    ),
    NotChecked.SEARCHED: ngettext_lazy(
        "%(count)d order was skipped because it is unconfirmed. The app automatically searches"
        " for it at the provider.",
        "%(count)d orders were skipped because they are unconfirmed. The app automatically"
        " searches for them at the provider.",
        "count",
    ),
    NotChecked.FINAL: ngettext_lazy(
        "%(count)d order was skipped because its status is final.",
        "%(count)d orders were skipped because their status is final.",
        "count",
    ),
    NotChecked.JUST_CHECKED: ngettext_lazy(
        "%(count)d order was skipped because it was checked a moment ago.",
        "%(count)d orders were skipped because they were checked a moment ago.",
        "count",
    ),
}


def left_alone(reason: NotChecked, count: int) -> str:
    """Return a sentence that says how many orders were skipped, and why."""
    return str(_LEFT_ALONE[reason] % {"count": count})


def _check(attempt: Attempt) -> Outcome:
    order = attempt.order
    if attempt.pages.ask_for_checks(attempt.request, Order.objects.filter(pk=order.pk)):
        return Outcome(gettext("The order will be checked in a moment."))
    order.refresh_from_db()
    return Outcome(left_alone(STATES[order.status].not_checked, 1), level=messages.WARNING)


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
    """Return a hash that changes when the page of ``order`` changes."""
    seen = [state_token(order), order.problems, order.fulfilled_quantity]
    return token("fingerprint", seen)


def _show_fingerprint(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    order = pages.order_for(request, key, allowed=True)
    return JsonResponse({"fingerprint": fingerprint(order)})


FINGERPRINT = Page("order_fingerprint", "<path:key>/fingerprint/", _show_fingerprint)


def _acknowledge(attempt: Attempt) -> Outcome:
    order, problem = attempt.order, _problem_of(attempt, attempt.request.POST)
    if problem is None:
        return _OVER
    # ``is_new`` is False for the second request of a double click.
    is_new = order.acknowledge(problem, by=attempt.by)
    log = f"Acknowledged: {problem.discreet}" if is_new else ""
    return Outcome(gettext("Acknowledged."), log)


_OVER = Outcome(
    _("This problem no longer exists. The page shows the current state."), level=messages.WARNING
)


def _problem_of(attempt: Attempt, given: QueryDict) -> Problem | None:
    problems = {problem.key: problem for problem in map(Problem.of, attempt.order.problems)}
    return problems.get(given.get("problem", ""))


def _why_not(attempt: Attempt) -> Outcome | None:
    if attempt.order.is_on_hold:
        # An order on hold keeps its problem until a person approves or cancels the order.
        return LATE
    is_asking = attempt.request.method != "POST"
    return _OVER if is_asking and _problem_of(attempt, attempt.request.GET) is None else None


class AcknowledgeForm(forms.Form):
    # The key of the problem to acknowledge. By the time the form is posted, the order may no longer
    # have this problem.
    problem = forms.CharField(required=False, widget=forms.HiddenInput)


def _acknowledge_context(attempt: Attempt) -> Mapping[str, Any]:
    shows_costs = attempt.pages.may_see_costs(attempt.request)
    problem = _problem_of(attempt, attempt.request.GET)
    return {
        "warnings": [explained(problem, shows_costs=shows_costs).text] if problem else [],
        "consequence": gettext(
            "If you acknowledge this problem, the order will no longer need attention. The problem"
            " and your name will stay in the timeline."
        ),
        "heading": gettext("The order"),
        "facts": about(attempt.order),
        "action": attempt.action.label,
    }


ACKNOWLEDGE = OrderAction(
    name="order_acknowledge",
    route="<key>/acknowledge/",
    label=_("Acknowledge"),
    permission=may("giftcards.check_order"),
    is_final=True,
    place="",
    before=_why_not,
    form=lambda attempt, data: AcknowledgeForm(
        data, initial=attempt.request.GET.dict(), auto_id=False
    ),
    title=_("Has this problem been dealt with?"),
    template="ask",
    context=_acknowledge_context,
    act=_acknowledge,
)


class DisputeForm(forms.Form):
    cards = forms.TypedMultipleChoiceField(
        label=_("Which cards"), coerce=int, widget=forms.CheckboxSelectMultiple
    )
    words = forms.CharField(
        label=_("What the customer says"),
        help_text=_("This text will be added to the notes of the order. Never enter a code here."),
        required=False,
        widget=forms.Textarea({"rows": 3, "dir": "auto"}),
    )

    def __init__(self, order: Order, data: QueryDict | None) -> None:
        super().__init__(data, auto_id="giftcards-dispute-%s", label_suffix="")
        positions = list(order.cards.order_by("position").values_list("position", flat=True))
        texts = [(each, gettext("Card %(position)s") % {"position": each}) for each in positions]
        self.fields["cards"].choices = texts  # type: ignore[attr-defined]
        if len(positions) == 1:
            self.fields["cards"].initial = positions

    def clean_words(self) -> str:
        words = tidied_lines(self.cleaned_data["words"])
        Note(text=words).clean()
        return words


def _dispute(attempt: Attempt) -> Outcome:
    given = attempt.form.cleaned_data
    # ``is_new`` is False for the second request of a double click.
    is_new = attempt.order.dispute(by=attempt.by, cards=given["cards"])
    if is_new and given["words"]:
        Note.objects.add(attempt.order, given["words"], by=attempt.by)
    return Outcome(
        gettext(
            "The complaint was recorded. The codes are kept until staff acknowledge this problem."
        ),
        "Recorded a complaint about a code." if is_new else "",
    )


def _dispute_context(attempt: Attempt) -> Mapping[str, Any]:
    consequence = gettext(
        "The complaint will be recorded with your name. The order will need attention, and its"
        " codes will be kept, until staff acknowledge this problem. The customer will not be"
        " notified."
    )
    return {
        "consequence": consequence,
        "heading": gettext("The order"),
        "facts": about(attempt.order),
        "action": gettext("Record the complaint"),
    }


DISPUTE = OrderAction(
    name="order_dispute",
    help_topic="complaints",
    route="<key>/dispute/",
    label=_("Record a complaint about a code"),
    permission=may("giftcards.check_order"),
    is_offered=lambda order: order.may_be_disputed and not order.is_disputed,
    is_minor=True,
    is_final=True,
    before=lambda attempt: None if attempt.order.may_be_disputed else LATE,
    form=lambda attempt, data: DisputeForm(attempt.order, data),
    template="ask",
    context=_dispute_context,
    act=_dispute,
)


class NoteForm(forms.Form):
    # The field is not a CharField, because the model checks the text and reports errors.
    note = forms.Field(required=False)


def may_note(pages: Pages, request: HttpRequest) -> bool:
    """Return True if the person is allowed to write notes.

    Writing notes requires at least one of the permissions to check, resolve and add orders.
    """
    may_decide = map(request.user.has_perm, ("giftcards.check_order", "giftcards.resolve_order"))
    return any(may_decide) or pages.has_add_permission(request)


def _note(attempt: Attempt) -> Answer:
    typed = attempt.form.cleaned_data["note"] or ""
    try:
        is_new = Note.objects.add(attempt.order, typed, by=attempt.by)
    except ValidationError as error:
        # The page with the form keeps the typed text.
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


def decided(decision: Problem | None, log: str = "") -> Outcome:
    """Return the outcome of a decision by staff.

    ``decision`` is ``None`` if the decision could not be carried out because the order had changed.
    ``log`` is the entry in the history of the order. The default entry is ``decision.discreet``.
    """
    if decision is None:
        return LATE
    # All people who may see the order can read the log, so the entry does not name the customer.
    return Outcome(gettext("Recorded."), log or decision.discreet, wakes=True)


def _may_reorder(order: Order) -> bool:
    is_untouched = order.reordered_amount is None and not order.paid_back_amount
    return is_untouched and bool(order.missing_quantity)


def _reordered_already(attempt: Attempt) -> Outcome | None:
    known = reorder_of(attempt.order)
    if known is not None:
        return _known_reorder(attempt, known)
    if attempt.request.method != "POST" and not missing_part(attempt.order).quantity:
        return Outcome(_obstacle(attempt.order), level=messages.ERROR)
    return None


def _known_reorder(attempt: Attempt, new: Order) -> Outcome:
    text = gettext(
        "The missing cards of %(order)s have already been ordered again. They will not be ordered"
        " twice."
    )
    text %= {"order": isolated(attempt.order)}
    return Outcome(text, level=messages.INFO, shows=_first_seen(attempt, new))


def _first_seen(attempt: Attempt, new: Order) -> Order:
    return new if attempt.pages.may_see(attempt.request, new) else attempt.order


def _reorder(attempt: Attempt) -> Outcome:
    order, by = attempt.order, attempt.by
    new = reorder_missing(order, by=by)
    if not new.is_new:
        return _known_reorder(attempt, new)
    attempt.pages.log_addition(attempt.request, new, f"Replaces missing cards of {order}.")
    return Outcome(
        recorded(new),
        str(Problem("staff_reordered", {"by": by, "order": new.reference})),
        level=messages.INFO,
        shows=_first_seen(attempt, new),
    )


def _reorder_context(attempt: Attempt) -> Mapping[str, Any]:
    new = missing_part(attempt.order)
    consequence = ngettext(
        "%(count)s card of this order was not delivered. It will be bought once, in a new order."
        " The two orders will be linked.",
        "%(count)s cards of this order were not delivered. They will be bought once, in a new"
        " order. The two orders will be linked.",
        new.quantity,
    )
    action = ngettext("Order %(count)s card", "Order %(count)s cards", new.quantity)
    return {
        "consequence": consequence % {"count": new.quantity},
        "facts": _facts_of_reorder(attempt, new),
        "has_ceiling": new.price_ceiling is not None,
        "is_owed": bool(new.sale_amount),
        "obstacle": _obstacle(attempt.order),
        "action": action % {"count": new.quantity},
    }


def _facts_of_reorder(attempt: Attempt, new: Order) -> list[tuple[str, object]]:
    order, names = attempt.order, new.line_names()
    last = order.price_per_card
    texts = {
        # The breadcrumbs also name the old order, but some themes do not show breadcrumbs.
        gettext("replaces missing cards of"): order.reference,
        gettext("product"): named(names.product, new.product_id),
        gettext("type"): named(names.type, new.type_id),
        gettext("quantity"): new.quantity,
        # This is the environment of the old order, because this process may not have the API key
        # that will be used to buy the new order.
        gettext("environment"): order.get_environment_display(),
        gettext("customer"): customer_of(new),
        gettext("recipient"): new.recipient_name or new.recipient_email,
    }
    amounts = {gettext("paid by the customer"): new.sale_amount}
    if attempt.pages.may_see_costs(attempt.request):
        amounts |= {
            gettext("previous price per card"): last,
            gettext("total at the previous price"): last and last * new.quantity,
            gettext("highest price"): new.price_ceiling,
        }
    shown = {label: money(amount) for label, amount in amounts.items() if amount is not None}
    return [*((label, text) for label, text in texts.items() if text), *shown.items()]


def _obstacle(order: Order) -> str:
    try:
        check_reorderable(order)
    except ReorderError as error:
        return str(error)
    return ""


REORDER = OrderAction(
    name="order_reorder",
    help_topic="reordering",
    route="<key>/reorder/",
    label=_("Order the missing cards again"),
    permission=lambda pages, request: pages.has_add_permission(request),
    takes=("giftcards.add_order",),
    is_offered=_may_reorder,
    is_final=True,
    before=_reordered_already,
    form=lambda _attempt, data: forms.Form(data),
    template="reorder",
    context=_reorder_context,
    act=_reorder,
)
