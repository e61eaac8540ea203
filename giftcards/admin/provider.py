"""The provider's page: whether gift cards can be bought and delivered now, and if not, why not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.html import conditional_escape
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin import provider_sections
from giftcards.admin.form_tokens import token
from giftcards.admin.provider_sections import Section
from giftcards.admin.rows import ReadOnlyRows, order_link, unhidden_orders, visible_orders
from giftcards.conditions import CONDITIONS, Condition, Finding, Standing
from giftcards.display import bdi, filled
from giftcards.engine.health import api_keys as known_keys
from giftcards.engine.task_queue import wake_worker
from giftcards.keys.keyring import configured_key
from giftcards.models import ApiKey, Order, ProviderState, StatusChange
from giftcards.models.order_queries import leaves_some_out

# The effect of resuming, by the kind of pause that it ends.
_RESUMING = {
    "key": _(
        "The refused key is tried again with a single request. If the provider refuses it once"
        " more, everything stops again; after five wrong attempts it blocks this server. So ask"
        " your developer for a working key first."
    ),
    ProviderState.Pause.ACCESS: _(
        "The provider is asked again with a single request, although it may still block this"
        " server. If it does, requests are paused again."
    ),
    ProviderState.Pause.RATE: _(
        "Requests go on at once, sooner than the provider has asked for: it may refuse them."
    ),
    ProviderState.Pause.OUTAGE: _("The provider is asked again at once."),
}


# The sections that count all orders, or all cards.
_OF_ALL_ORDERS = {"waiting", "encryption"}


@admin.register(ProviderState)
class ProviderStateAdmin(ReadOnlyRows):
    """One page about the single row. To use a subclass, unregister this class first."""

    change_list_template = "admin/giftcards/provider.html"

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.resume_provider")

    def may_see_costs(self, request: HttpRequest) -> bool:
        """True if the person may see the balance of the account."""
        return request.user.has_perm("giftcards.view_cost")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.resume_view)
        return [path("resume/", view, name="giftcards_providerstate_resume"), *super().get_urls()]

    def _to_page(self) -> HttpResponseRedirect:
        return HttpResponseRedirect(self._address("providerstate_changelist"))

    def _address(self, page: str, *args: Any) -> str:
        return reverse(f"admin:giftcards_{page}", args=args, current_app=self.admin_site.name)

    # The page. There is a single row, so there is neither a list nor a page for a row.

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        request.current_app = self.admin_site.name
        standing = Standing()
        state = standing.state
        pause = state.explain_pause()
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("The provider"),
            "media": self.media,
            "has_view_permission": True,
            "verdict": _verdict(
                standing,
                visible_orders(request, self.admin_site),
                shows_costs=self.may_see_costs(request),
            ),
            "is_paused": bool(pause.text),
            "hint": pause.hint,
            "state_token": _state_token(state),
            "resuming": _what_resuming_does(state) if pause.text else [],
            "may_resume": self.has_resume_permission(request),
            "sections": self.get_sections(request, standing),
            "counts_all": "cards" in request.GET,
            **(extra_context or {}),
        }
        return TemplateResponse(request, self.change_list_template, context)

    def change_view(self, request: HttpRequest, *args: Any, **named: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self._to_page()

    def get_sections(self, request: HttpRequest, standing: Standing) -> list[Section]:
        keys = known_keys()
        # Hints for developers are for those who may resume requests, as on an order's page.
        may_resume = self.has_resume_permission(request)
        shows_costs = self.may_see_costs(request)
        name = partial(self._name, request)
        orders = unhidden_orders(request, self.admin_site)
        changes = StatusChange.objects.all()
        if is_partial := leaves_some_out(orders):
            changes = changes.filter(order__in=orders.order_by().values("pk"))
        sections = [
            provider_sections.connection(standing, shows_balance=shows_costs),
            provider_sections.waiting(name, order_list=self._order_list(request)),
            provider_sections.worker(standing, shows_hints=may_resume),
            provider_sections.failures(
                standing.state,
                keys,
                changes,
                name,
                shows_costs=shows_costs,
                shows_hints=may_resume,
            ),
            provider_sections.encryption(counts_all="cards" in request.GET, shows_hints=may_resume),
            provider_sections.api_keys(keys),
            provider_sections.versions(),
        ]
        hidden = _OF_ALL_ORDERS if is_partial else ()
        return [section for section in sections if section.name not in hidden]

    def _order_list(self, request: HttpRequest) -> str:
        """The address of the list of orders; "" for a person who may not open it."""
        sees_none = visible_orders(request, self.admin_site).query.is_empty()
        return "" if sees_none else self._address("order_changelist")

    def _name(self, request: HttpRequest, order: Order) -> str:
        """A link to ``order``; "an order" for a person who may not see it."""
        if not visible_orders(request, self.admin_site).filter(pk=order.pk).exists():
            return gettext("an order")
        return order_link(self.admin_site, order)

    def resume_view(self, request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and self.has_resume_permission(request)):
            raise PermissionDenied
        state = ProviderState.objects.current()
        if state.why_paused() and not constant_time_compare(
            request.POST.get("state_token", ""), _state_token(state)
        ):
            text = gettext("There is another pause meanwhile. Nothing was done: look at it.")
            self.message_user(request, text, messages.ERROR)
        elif self._resume(request, state):
            wake_worker()
            self.message_user(request, gettext("Requests to the provider go on."), messages.SUCCESS)
        else:
            text = gettext("Requests to the provider were not paused.")
            self.message_user(request, text, messages.WARNING)
        return self._to_page()

    def _resume(self, request: HttpRequest, state: ProviderState) -> bool:
        """End the pause, with a trace; False if there is none any more, as after a double click."""
        with transaction.atomic():
            # Both or neither: no request goes on without a trace.
            is_resumed = ProviderState.objects.resume()
            if is_resumed:
                self.log_change(request, state, "Resumed requests to the provider.")
        return is_resumed


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to the question whether cards can be sold now, as HTML."""

    is_yes: bool
    #: In a sentence: the answer and, for a no, why and since when.
    answer: str
    #: Sentences on the details and on what to do.
    advice: tuple[str, ...]


def _verdict(standing: Standing, orders: QuerySet[Order], *, shows_costs: bool) -> Verdict:
    for condition in CONDITIONS.values():
        finding = condition.judge(standing) if condition.stops_sales else None
        if finding:
            return _no(condition, finding, orders)
    low = (each for each in CONDITIONS.values() if each.limits_sales and shows_costs)
    findings = (condition.find(standing, orders) for condition in low)
    advice = tuple(finding.explain() for finding in findings if finding)
    return Verdict(is_yes=True, answer=gettext("Gift cards can be sold now."), advice=advice)


def _no(condition: Condition, finding: Finding, orders: QuerySet[Order]) -> Verdict:
    # A pause is told by two conditions with other causes.
    why = condition.headline or CONDITIONS["refused"].headline
    text, moment = gettext("Gift cards cannot be sold now: %(why)s."), ""
    if finding.since:
        text = gettext("Gift cards cannot be sold now: %(why)s, since %(moment)s.")
        moment = provider_sections.since(finding.since)
    advice = [bdi(finding.explain()), condition.remedy]
    # Cards that do not open keep no order from being sent.
    if condition.code != "cards":
        advice += provider_sections.at_stake(orders)
    return Verdict(
        is_yes=False,
        answer=filled(text, why=conditional_escape(why), moment=moment),
        advice=tuple(filter(None, advice)),
    )


def _state_token(state: ProviderState) -> str:
    """A hash that the resume button sends; it changes once another pause or refusal begins."""
    seen: list[Any] = []
    if state.is_pause_told(timezone.now()):
        # A pause for an outage is replaced every few seconds, and nothing is lost by ending it.
        is_outage = state.pause == ProviderState.Pause.OUTAGE
        seen += [state.pause, None if is_outage else str(state.paused_until)]
    refused = ApiKey.objects.filter(is_refused=True).order_by("pk")
    seen += [[key.pk, str(key.refused_at)] for key in refused]
    return token("provider", seen)


def _what_resuming_does(state: ProviderState) -> list[str]:
    """The effects of the button, one text for each pause that it ends."""
    now = timezone.now()
    ends = ["key"] if ApiKey.objects.holding_up(configured_key(), now) else []
    ends += [state.pause] if state.is_pause_told(now) else []
    return [str(_RESUMING[reason]) for reason in ends]
