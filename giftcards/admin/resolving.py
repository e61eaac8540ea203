"""Deciding what became of a lost order: staff compare, decide, and can take an adoption back."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core import signing
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.forms import AdoptForm, ReleaseForm, ResolveForm, facts, facts_at_provider
from giftcards.admin.pages import OrderButton, OrderPages, state_token
from giftcards.display import explained, isolated
from giftcards.engine.recovery import adopt, declare_absent
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
from giftcards.models import Order, StatusChange
from giftcards.problems import Problem
from giftcards.statuses import Status

_STAFF = StatusChange.Source.STAFF
_SALT = "giftcards.admin.adopt"
# The longest time between a comparison and its confirmation (seconds).
_COMPARISON_HOLDS = 15 * 60

_NO_ANSWER = {
    NoAnswer.NOT_FOUND: _("The provider knows no order with this id. Nothing was done."),
    NoAnswer.PAUSED: _("Requests to the provider are paused. Nothing was done."),
    NoAnswer.BUSY: _("The provider is being asked too much else. Try again in a minute."),
    NoAnswer.UNREACHABLE: _("The provider could not be reached. Nothing was done."),
    NoAnswer.NOT_CONFIGURED: _(
        "This server has no key for the provider, and cannot ask about the id. Nothing was done."
    ),
}


class ResolvingPages(OrderPages):
    """The pages for decisions about a lost order; each form carries the state that it is about."""

    def may_resolve(self, request: HttpRequest, order: Order) -> bool:
        return order.status == Status.UNCONFIRMED and self.has_resolve_permission(request)

    def may_release(self, request: HttpRequest, order: Order) -> bool:
        return self.has_resolve_permission(request) and may_release(order)

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        mine = []
        if self.may_resolve(request, order):
            label = gettext("What happened to this order?")
            mine.append(OrderButton(label, self.address("resolve", order.pk)))
        elif self.may_release(request, order):
            label = gettext("Release it from its order at the provider")
            mine.append(OrderButton(label, self.address("release", order.pk), is_minor=True))
        return [*mine, *super().get_order_buttons(request, order)]

    def get_urls(self) -> list[URLPattern]:
        # The provider is asked outside any transaction, whatever ATOMIC_REQUESTS says.
        outside = transaction.non_atomic_requests(using=router.db_for_write(Order))
        views = {
            "resolve": outside(self.admin_site.admin_view(self.resolve_view)),
            "adopt": self.admin_site.admin_view(self.adopt_view),
            "release": self.admin_site.admin_view(self.release_view),
        }
        return [
            path(f"<path:object_id>/{page}/", view, name=f"giftcards_order_{page}")
            for page, view in views.items()
        ] + super().get_urls()

    def _order_to_resolve(self, request: HttpRequest, object_id: str) -> Order:
        return self.order_for(request, object_id, allowed=self.has_resolve_permission(request))

    # What became of it.

    def resolve_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self._order_to_resolve(request, object_id)
        if order.status != Status.UNCONFIRMED:
            return self.refuse_late(request, order)
        form = ResolveForm(order, request.POST or None)
        if form.is_bound and not self.is_current(request, order):
            return self.refuse_late(request, order)
        if form.is_valid():
            answer = self._decide(request, order, form)
            if answer is not None:
                return answer
        return self.render_page(
            request,
            "resolve",
            title=gettext("What happened to this order?"),
            original=order,
            state_token=state_token(order),
            facts=facts(order),
            problems=[
                explained(problem, shows_costs=self.may_see_costs(request))
                for problem in order.open_problems
            ],
            form=form,
            errors=form.errors,
        )

    def _decide(self, request: HttpRequest, order: Order, form: ResolveForm) -> HttpResponse | None:
        """Carry out the choice, or show the comparison; ``None`` if neither was possible."""
        if form.adopted:
            return self._ask_about(request, order, form.adopted)
        send_again = form.cleaned_data["outcome"] == ResolveForm.SEND_AGAIN
        decision = Problem(
            "staff_send_again" if send_again else "staff_rejected",
            {"by": request.user.get_username()},
        )
        if declare_absent(order, send_again=send_again, source=_STAFF, detail=decision):
            return self.conclude(request, order, decision)
        return self.refuse_late(request, order)

    # Which order at the provider it is.

    def _ask_about(
        self, request: HttpRequest, order: Order, provider_order_id: str
    ) -> HttpResponse | None:
        """Ask the provider about the id, and compare; ``None``, with a message, if that fails."""
        if self._warn_if_taken(request, provider_order_id):
            return None
        # Before the request, because it may tell the person of orders that are not the shop's.
        self.log_change(request, order, f"Asked what the provider's order {provider_order_id} is.")
        candidates = {row["id"]: row for row in order.candidates}
        row = _seen(look_up(order, provider_order_id), candidates.get(provider_order_id))
        if isinstance(row, NoAnswer):
            self.message_user(request, _NO_ANSWER[row], messages.ERROR)
            return None
        # Again, because the answer may name another id.
        if self._warn_if_taken(request, row["id"]):
            return None
        fits = compare(order, row)
        if fits["quantity"] is Fit.DIFFERS:
            # Further answers would never fit: cards and amounts are counted by the quantity.
            text = gettext(
                "Its quantity is %(told)s, and yours is %(ordered)d: it is another order."
            )
            counts = {"told": row["quantity"], "ordered": order.quantity}
            self.message_user(request, text % counts, messages.ERROR)
            return None
        seen = {
            "state_token": state_token(order),
            "by": str(request.user.pk),
            "id": provider_order_id,
            "row": dict(row),
        }
        return self._comparison(request, order, seen, AdoptForm(overall(fits)))

    def _warn_if_taken(self, request: HttpRequest, *names: str) -> bool:
        """Show an error, and return True, if one of our orders has one of these ids already."""
        owner = Order.objects.known_as(names).first()
        if owner is None:
            return False
        text = gettext("This is another of your orders already.")
        if self.may_see(request, owner):
            text = gettext("This is your order %(order)s already.") % {"order": isolated(owner)}
        self.message_user(request, text, messages.ERROR)
        return True

    def _comparison(
        self, request: HttpRequest, order: Order, seen: dict[str, Any], form: AdoptForm
    ) -> HttpResponse:
        """The page that shows the provider's facts about the id beside what was sent.

        It carries these facts signed, so that the confirmation is about nothing else.
        """
        return self.render_page(
            request,
            "adopt",
            title=gettext("Is it this order?"),
            original=order,
            seen=signing.dumps(seen, salt=_SALT),
            provider_order_id=seen["id"],
            facts=facts_at_provider(order, seen["row"], compare(order, seen["row"])),
            form=form,
            errors=form.errors,
        )

    def adopt_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self._order_to_resolve(request, object_id)
        seen = self._comparison_seen(request)
        if seen is None:
            text = gettext("Choose again: this page was open for too long. Nothing was done.")
            self.message_user(request, text, messages.ERROR)
            return HttpResponseRedirect(self.address("resolve", order.pk))
        if seen["state_token"] != state_token(order):
            return self.refuse_late(request, order)
        fits = compare(order, seen["row"])
        form = AdoptForm(overall(fits), request.POST)
        if not form.is_valid():
            return self._comparison(request, order, seen, form)
        decision = Problem(
            "staff_insisted" if Fit.DIFFERS in fits.values() else "staff_adopted",
            {"by": request.user.get_username(), "provider_order_id": seen["id"]},
        )
        is_insisted = Fit.DIFFERS in {fits["product"], fits["type"]}
        if adopt(order, seen["id"], source=_STAFF, detail=decision, is_insisted=is_insisted):
            return self.conclude(request, order, decision)
        if self._warn_if_taken(request, seen["id"], seen["row"]["id"]):
            return self.to_order(order)
        return self.refuse_late(request, order)

    def _comparison_seen(self, request: HttpRequest) -> dict[str, Any] | None:
        """The comparison that this person confirms; ``None`` if expired, forged or not theirs."""
        try:
            seen: dict[str, Any] = signing.loads(
                request.POST.get("seen", ""), salt=_SALT, max_age=_COMPARISON_HOLDS
            )
        except signing.BadSignature:
            return None
        return seen if seen["by"] == str(request.user.pk) else None

    # Taking an adoption back.

    def release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self._order_to_resolve(request, object_id)
        form = ReleaseForm(request.POST or None)
        is_late = form.is_bound and not self.is_current(request, order)
        if is_late or not may_release(order):
            return self.refuse_late(request, order)
        if form.is_valid():
            by, provider_order_id = request.user.get_username(), str(order.provider_order_id)
            if not release(order, by=by):
                return self.refuse_late(request, order)
            names = {"by": by, "provider_order_id": provider_order_id}
            return self.conclude(request, order, Problem("staff_released", names))
        return self.render_page(
            request,
            "release",
            title=gettext("Is it another order?"),
            original=order,
            state_token=state_token(order),
            facts=facts(order),
            form=form,
            errors=form.errors,
        )


def _seen(told: Row | NoAnswer, candidate: Row | None) -> Row | NoAnswer:
    """The provider's answer about an order, completed by the ``candidate`` from its list.

    Answers may leave out the line. The provider may not find an id of its own list when asked about
    it; then ``candidate`` alone counts.
    """
    if candidate is None:
        return told
    if isinstance(told, NoAnswer):
        return candidate if told is NoAnswer.NOT_FOUND else told
    return {**candidate, **{name: told[name] for name in told if told[name] not in {None, ""}}}
