"""Decisions about lost orders.

The provider may or may not have accepted a lost order. Staff compare a lost order with one of the
provider's orders.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import messages
from django.core import signing
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import (
    LATE,
    Answer,
    Attempt,
    OrderAction,
    Outcome,
    Page,
    Pages,
    begin,
    end,
    may,
)
from giftcards.admin.frame.forms import state_token
from giftcards.admin.frame.pages import column_label, facts, line
from giftcards.admin.orders.follow_up import decided
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.engine.resolving import (
    Fit,
    NoAnswer,
    Row,
    compare,
    look_up,
    may_release,
    overall,
    release,
)
from giftcards.models import Order, Product, StatusChange
from giftcards.provider.answers import IDENTIFIER
from giftcards.rules.problems import Problem
from giftcards.rules.states import Status
from giftcards.text.display import (
    bdi,
    explained,
    filled,
    isolated,
    moment_text,
    named,
    zoned_moment,
)

_STAFF = StatusChange.Source.STAFF
_SALT = "giftcards.admin.adopt"
# The longest time between the comparison with the provider's order and the confirmation (seconds).
_COMPARISON_HOLDS = 15 * 60

_NO_ANSWER = {
    NoAnswer.NOT_FOUND: _("The provider has no order with this ID. Nothing was done."),
    NoAnswer.PAUSED: _("Requests to the provider are paused. Nothing was done."),
    NoAnswer.BUSY: _("There are too many other requests to the provider. Try again in a minute."),
    NoAnswer.UNREACHABLE: _("The provider could not be reached. Nothing was done."),
    NoAnswer.NOT_CONFIGURED: _(
        "This server has no API key and cannot look up the ID at the provider. Nothing was done."
    ),
}


def _candidate(order: Order, row: dict[str, Any]) -> str:
    created_at = row["created_at"] and datetime.fromisoformat(row["created_at"])
    shown = {
        "id": bdi(row["id"]),
        "time": bdi(moment_text(created_at) if created_at else "?"),
        "quantity": bdi(row["quantity"]),
        "type": _named_at_provider(order, row)["type"],
    }
    text = gettext("This is the provider's order %(id)s from %(time)s: %(quantity)s × %(type)s.")
    return filled(text, **shown)


def _named_at_provider(order: Order, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the display texts of the product and the type in ``row``.

    ``row`` describes one of the provider's orders. Each text consists of a name and an id, or is ""
    if ``row`` does not contain the id.
    """
    product, kind = row["product"] or "", row["type"] or ""
    is_same = (product, kind) == (order.product_id, order.type_id)
    names = order.line_names() if is_same else Product.objects.names(product, kind)
    return {
        "product": named(names.product, product) if product else "",
        "type": named(names.type, kind) if kind else "",
    }


_FITS = {Fit.FITS: "", Fit.DIFFERS: _("different"), Fit.NOT_TOLD: _("not reported")}


def _facts_at_provider(order: Order, row: Row) -> list[tuple[str, object, object, Any]]:
    """Return the facts to compare.

    Each fact consists of a name, the value in ``order``, the value in ``row`` and the difference.
    """
    fits = compare(order, row)
    created_at = row["created_at"] and datetime.fromisoformat(row["created_at"])
    names = _named_at_provider(order, row)
    theirs = {
        "product_id": (names["product"], fits["product"]),
        "type_id": (names["type"], fits["type"]),
        "quantity": (row["quantity"], fits["quantity"]),
        "sent_at": (created_at and zoned_moment(created_at), fits["created_at"]),
    }
    compared = [
        (column_label(name), ours, theirs[name][0] or "", _FITS[theirs[name][1]])
        for name, ours in line(order).items()
    ]
    if fits["key"] is Fit.DIFFERS:
        ours, theirs_too = (
            gettext("the key that the order was sent with"),
            gettext("the key in use now"),
        )
        compared.append((gettext("API key"), ours, theirs_too, _FITS[Fit.DIFFERS]))
    return [
        *compared,
        (column_label("status"), order.get_status_display(), row["status"] or "", ""),
    ]


class ResolveForm(forms.Form):
    """A form for the decision about a lost order."""

    ADOPT_OTHER = "adopt-other"
    SEND_AGAIN = "send-again"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("Your decision"), widget=forms.RadioSelect)
    # A CharField would check the id, even for an outcome that does not need an id.
    provider_order_id = forms.Field(
        label=_("provider's order ID"),
        required=False,
        # There is no maxlength, because a browser would truncate a long id, and post a different
        # id.
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "ltr"}),
    )
    is_sure = forms.BooleanField(label=_("I have checked this in the provider's dashboard."))

    def __init__(self, order: Order, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        outcomes = [(f"adopt:{row['id']}", _candidate(order, row)) for row in order.candidates]
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            *outcomes,
            (self.ADOPT_OTHER, _("This is the provider's order with the following ID:")),
            (self.SEND_AGAIN, _("The order was not placed. Send it again.")),
            (self.REJECT, _("The order was not placed. Reject it.")),
        ]

    def clean_provider_order_id(self) -> str:
        """Return the typed id, or "" if the chosen outcome does not need an id."""
        if self.cleaned_data.get("outcome") != self.ADOPT_OTHER:
            return ""
        typed: str = (self.cleaned_data["provider_order_id"] or "").strip()
        if not typed:
            raise ValidationError(self.fields["provider_order_id"].error_messages["required"])
        if not IDENTIFIER.fullmatch(typed):
            raise ValidationError(_("Use at most 100 characters: letters, digits, “_” and “-”."))
        return typed

    @property
    def adopted(self) -> str:
        """The provider's id of this order.

        The id is "" if staff say that the order was not placed.
        """
        typed: str = self.cleaned_data["provider_order_id"]
        action, _colon, candidate = self.cleaned_data["outcome"].partition(":")
        return candidate if action == "adopt" else typed


class AdoptForm(forms.Form):
    """A form to confirm that the provider's order is the lost order.

    If a fact differs or was not reported, the form contains a checkbox that the person must tick.
    """

    is_sure = forms.BooleanField()

    _LABELS: ClassVar = {
        Fit.DIFFERS: _(
            "I know that the provider's order does not match the order that was sent, but I am"
            " sure that it is the right one."
        ),
        Fit.NOT_TOLD: _("I have checked in the provider's dashboard that it is the right order."),
    }

    def __init__(self, fit: Fit, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.does_fit = fit is Fit.FITS
        self.differs = fit is Fit.DIFFERS
        if self.does_fit:
            del self.fields["is_sure"]
        else:
            self.fields["is_sure"].label = self._LABELS[fit]


def _concluded(attempt: Attempt, decision: Problem) -> Outcome:
    """Log ``decision``, and return the outcome."""
    outcome = decided(decision)
    attempt.pages.log_change(attempt.request, attempt.order, outcome.log)
    return outcome


# RESOLVE has its own view, because requests to the provider must be made outside any transaction.


def _resolve_view(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    attempt = begin(RESOLVE, pages, request, key)
    return end(attempt, _resolve(attempt))


def _resolve(attempt: Attempt) -> Answer:
    if attempt.order.status != Status.UNCONFIRMED:
        return LATE
    form = attempt.form = ResolveForm(attempt.order, attempt.request.POST or None)
    if form.is_bound and not attempt.is_current:
        return LATE
    answer = _decide(attempt) if form.is_valid() else None
    return attempt.page() if answer is None else answer


# Codes of problems that the first sentence of the page already describes.
_TOLD = {"answer_lost", "sender_died"}


def _resolve_context(attempt: Attempt) -> Mapping[str, Any]:
    order, shows_costs = attempt.order, attempt.pages.may_see_costs(attempt.request)
    problems = [
        explained(problem, shows_costs=shows_costs)
        for problem in order.open_problems
        if problem.code not in _TOLD
    ]
    return {"facts": facts(order), "problems": problems}


def _decide(attempt: Attempt) -> Answer | None:
    """Carry out the decision, or return the page that compares two orders.

    Returns ``None`` if there is no order to compare.
    """
    order, form = attempt.order, attempt.form
    if form.adopted:
        return _ask_about(attempt, form.adopted)
    send_again = form.cleaned_data["outcome"] == ResolveForm.SEND_AGAIN
    decision = Problem("staff_send_again" if send_again else "staff_rejected", {"by": attempt.by})
    if declare_absent(order, send_again=send_again, source=_STAFF, detail=decision):
        return _concluded(attempt, decision)
    return LATE


def _ask_about(attempt: Attempt, provider_order_id: str) -> HttpResponse | None:
    """Request an order from the provider, and return the comparison page.

    The page compares the provider's order with our order. If there is no usable answer, the
    function shows a message and returns ``None``.
    """
    pages, request, order = attempt.pages, attempt.request, attempt.order
    if _warn_if_taken(attempt, provider_order_id):
        return None
    # The log entry is written before the request, because the answer may contain details of an
    # order that does not belong to this shop.
    pages.log_change(request, order, f"Looked up the provider's order {provider_order_id}.")
    candidates = {row["id"]: row for row in order.candidates}
    row = _seen(look_up(order, provider_order_id), candidates.get(provider_order_id))
    if isinstance(row, NoAnswer):
        pages.message_user(request, _NO_ANSWER[row], messages.ERROR)
        return None
    # The id in the answer may differ from the id in the request.
    if _warn_if_taken(attempt, row["id"]):
        return None
    fits = compare(order, row)
    if fits["quantity"] is Fit.DIFFERS:
        # If the quantities differ, later answers about the provider's order would never match our
        # order.
        text = gettext(
            "The provider's order has a quantity of %(told)s, but your order has a quantity of"
            " %(ordered)d, so they are different orders."
        )
        counts = {"told": row["quantity"], "ordered": order.quantity}
        pages.message_user(request, text % counts, messages.ERROR)
        return None
    seen = {
        "state_token": state_token(order),
        "by": str(request.user.pk),
        "id": provider_order_id,
        "row": dict(row),
    }
    attempt.form = AdoptForm(overall(fits))
    return _comparison(attempt, seen)


def _warn_if_taken(attempt: Attempt, *names: str) -> bool:
    """Show an error if an id already belongs to one of the shop's orders.

    The ``names`` are order ids from the provider. Returns True if the error was shown.
    """
    pages, request = attempt.pages, attempt.request
    owner = Order.objects.known_as(names).first()
    if owner is None:
        return False
    text = gettext("This ID already belongs to another of your orders.")
    if pages.may_see(request, owner):
        text = gettext("This ID already belongs to your order %(order)s.") % {
            "order": isolated(owner)
        }
    pages.message_user(request, text, messages.ERROR)
    return True


def _comparison(attempt: Attempt, seen: dict[str, Any]) -> HttpResponse:
    """Return the page that compares our order with the provider's order.

    The facts are signed, so that a person confirms exactly the displayed facts.
    """
    return attempt.page(
        "adopt",
        title=gettext("Is this the right order?"),
        seen=signing.dumps(seen, salt=_SALT),
        provider_order_id=seen["id"],
        facts=_facts_at_provider(attempt.order, seen["row"]),
    )


def _adopt_view(pages: Pages, request: HttpRequest, key: str) -> HttpResponse:
    attempt = begin(RESOLVE, pages, request, key)
    return end(attempt, _adopt(attempt))


def _adopt(attempt: Attempt) -> Answer:
    pages, request, order = attempt.pages, attempt.request, attempt.order
    seen = _comparison_seen(request)
    if seen is None:
        text = gettext("This page was open for too long, so nothing was done. Please choose again.")
        pages.message_user(request, text, messages.ERROR)
        return HttpResponseRedirect(pages.url_of("resolve", order.pk))
    if seen["state_token"] != state_token(order):
        return LATE
    fits = compare(order, seen["row"])
    attempt.form = AdoptForm(overall(fits), request.POST)
    if not attempt.form.is_valid():
        return _comparison(attempt, seen)
    decision = Problem(
        "staff_insisted" if Fit.DIFFERS in fits.values() else "staff_adopted",
        {"by": attempt.by, "provider_order_id": seen["id"]},
    )
    is_insisted = Fit.DIFFERS in {fits["product"], fits["type"]}
    if adopt(order, seen["id"], source=_STAFF, detail=decision, is_insisted=is_insisted):
        return _concluded(attempt, decision)
    if _warn_if_taken(attempt, seen["id"], seen["row"]["id"]):
        return pages.to_order(order)
    return LATE


def _comparison_seen(request: HttpRequest) -> dict[str, Any] | None:
    """Return the facts that the person has compared.

    Returns ``None`` if the facts are too old, were forged, or were shown to another person.
    """
    try:
        seen: dict[str, Any] = signing.loads(
            request.POST.get("seen", ""), salt=_SALT, max_age=_COMPARISON_HOLDS
        )
    except signing.BadSignature:
        return None
    return seen if seen["by"] == str(request.user.pk) else None


def _seen(told: Row | NoAnswer, candidate: Row | None) -> Row | NoAnswer:
    """Return the provider's answer, completed with facts from ``candidate``.

    ``candidate`` is a row of the provider's list, or ``None``. The provider sometimes leaves facts
    out of an answer. If the provider's list contains the id, but a request for this id does not
    find the order, the function returns ``candidate``.
    """
    if candidate is None:
        return told
    if isinstance(told, NoAnswer):
        return candidate if told is NoAnswer.NOT_FOUND else told
    return {**candidate, **{name: told[name] for name in told if told[name] not in {None, ""}}}


class ReleaseForm(forms.Form):
    is_sure = forms.BooleanField(
        label=_("I have checked that the provider's order does not belong to this order.")
    )


def _release(attempt: Attempt) -> Outcome:
    order = attempt.order
    names = {"by": attempt.by, "provider_order_id": str(order.provider_order_id)}
    is_done = release(order, by=attempt.by)
    return decided(Problem("staff_released", names) if is_done else None)


RELEASE = OrderAction(
    name="order_release",
    help_topic="lost",
    route="<key>/release/",
    label=_("Unlink the provider's order"),
    permission=may("giftcards.resolve_order"),
    is_offered=may_release,
    is_minor=True,
    is_final=True,
    before=lambda attempt: None if may_release(attempt.order) else LATE,
    form=lambda _attempt, data: ReleaseForm(data),
    title=_("Is this a different order?"),
    template="release",
    context=lambda attempt: {"facts": facts(attempt.order)},
    act=_release,
)
# The request to the provider is made outside any transaction, even with ATOMIC_REQUESTS.
RESOLVE = OrderAction(
    name="order_resolve",
    help_topic="lost",
    route="<key>/resolve/",
    label=_("What happened to this order?"),
    permission=may("giftcards.resolve_order"),
    takes=("giftcards.resolve_order",),
    is_offered=lambda order: order.status == Status.UNCONFIRMED,
    template="resolve",
    context=_resolve_context,
    view=_resolve_view,
    decorators=(transaction.non_atomic_requests(using=router.db_for_write(Order)),),
)
ADOPT = Page("order_adopt", "<path:key>/adopt/", _adopt_view, help_topic="lost")
