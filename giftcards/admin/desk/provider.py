"""The provider's page, which shows whether gift cards can be sold now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Min, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.utils.html import conditional_escape, format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.extensions import called
from giftcards.admin.frame.forms import token
from giftcards.admin.frame.rows import (
    ReadOnlyRows,
    framed,
    order_link,
    sees_orders,
    unhidden_orders,
    visible_orders,
    with_hint,
)
from giftcards.admin.frame.sections import Fact, Section
from giftcards.conf import conf
from giftcards.engine.task_queue import Backlog, explain_schedule, next_tick, wake_worker
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Order, ProviderState, StatusChange
from giftcards.models.order_queries import leaves_some_out
from giftcards.models.provider import configured_key
from giftcards.rules.problems import ASK_DEVELOPER, Explanation
from giftcards.rules.states import Status
from giftcards.text.display import (
    bdi,
    count_text,
    distance_text,
    exact_moment,
    filled,
    moment,
    money,
    status_badge,
)
from giftcards.watch.conditions import CONDITIONS, Condition, Finding, Standing
from giftcards.watch.overview import (
    KeyInUse,
    KnownKey,
    Requests,
    Waiting,
    encryption_keys,
    try_keys,
)
from giftcards.watch.overview import api_keys as known_keys
from giftcards.watch.overview import versions as running_versions


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on whether gift cards can be sold now, with reasons as HTML."""

    is_yes: bool
    #: The answer in one sentence. If the answer is "no", the sentence gives the reason and the time
    #: since when it has applied.
    answer: str
    #: Sentences with details and advice.
    advice: tuple[str, ...]


def _verdict(standing: Standing, orders: QuerySet[Order], *, shows_costs: bool) -> Verdict:
    findings: list[Finding | None] = []
    for condition in CONDITIONS.values():
        finding = condition.judge(standing) if condition.stops_sales else None
        if finding and not finding.allows_sales:
            return _no(condition, finding, orders)
        findings.append(finding)
    low = (each for each in CONDITIONS.values() if each.limits_sales and shows_costs)
    findings += (condition.find(standing, orders) for condition in low)
    advice = tuple(finding.explain() for finding in findings if finding)
    return Verdict(is_yes=True, answer=gettext("Gift cards can be sold now."), advice=advice)


def _no(condition: Condition, finding: Finding, orders: QuerySet[Order]) -> Verdict:
    # A condition without a headline gets the headline of "access_refused", because it has the same
    # cause.
    why = condition.headline or CONDITIONS["access_refused"].headline
    text, moment = gettext("Gift cards cannot be sold now: %(why)s."), ""
    if finding.since:
        text = gettext(
            "Gift cards cannot be sold now: %(why)s. The problem has existed since %(moment)s."
        )
        moment = since(finding.since)
    advice = [bdi(finding.explain()), condition.remedy]
    # The "encryption_keys" condition does not prevent orders from being sent, so sentences about
    # waiting orders are not needed.
    if condition.code != "encryption_keys":
        advice += at_stake(orders)
    return Verdict(
        is_yes=False,
        answer=filled(text, why=conditional_escape(why), moment=moment),
        advice=tuple(filter(None, advice)),
    )


def at_stake(orders: QuerySet[Order]) -> Iterator[str]:
    """Yield HTML sentences about orders that are waiting to be sent.

    The sentences contain the number of these orders, the total of their payments, and the earliest
    deadline.
    """
    now, span = timezone.now(), timedelta(seconds=conf.send_timeout)
    waiting = orders.filter(
        finalized_at=None, status=Status.PENDING, due_at__isnull=False
    ).order_by()
    # Python adds the amounts, because SQLite would use binary floating point.
    amounts = waiting.values_list("sale_amount")
    found = list(amounts.annotate(Count("pk"), Min("queued_at")))
    number, paid = 0, Decimal(0)
    for amount, count, _first in found:
        number += count
        paid += (amount or 0) * count
    if number:
        yield _waiting_in_words(number, paid)
        first = min(first for *_line, first in found) + span
        if first > now:
            text = ngettext(
                "The order will be rejected if it cannot be sent by %(at)s.",
                "The oldest order will be rejected if it cannot be sent by %(at)s.",
                number,
            )
            yield filled(text, at=since(first))
        else:
            over = waiting.filter(queued_at__lte=now - span).count()
            text = ngettext(
                "%(count)s order has waited too long and will be rejected when background work"
                " resumes.",
                "%(count)s orders have waited too long and will be rejected when background work"
                " resumes.",
                over,
            )
            yield filled(text, count=count_text(over))
    text = gettext(
        "A new order will be rejected if it cannot be sent by %(at)s. You will then owe the"
        " customer what they paid."
    )
    yield filled(text, at=moment(now + span))


def _waiting_in_words(number: int, paid: Decimal) -> str:
    if not paid:
        text = ngettext(
            "%(count)s order is waiting to be sent.",
            "%(count)s orders are waiting to be sent.",
            number,
        )
        return filled(text, count=count_text(number))
    text = ngettext(
        "%(count)s order, for which %(amount)s was paid, is waiting to be sent.",
        "%(count)s orders, for which %(amount)s was paid, are waiting to be sent.",
        number,
    )
    return filled(text, count=count_text(number), amount=money(paid))


# A function that returns the name of an order as HTML. The name is a link for people who may see
# the order.
OrderName = Callable[[Order], str]


def connection(standing: Standing, *, shows_balance: bool) -> Section:
    state, requests = standing.state, Requests.read()
    is_paused = bool(state.why_paused())
    used = gettext("%(used)d of %(limit)d") % {"used": requests.used, "limit": requests.limit}
    facts = [
        # The top of the page says why requests are paused.
        Fact(
            _("Requests to the provider"), gettext("paused") if is_paused else gettext("in service")
        ),
        Fact(_("Last answer"), since(state.succeeded_at)),
        Fact(_("Last failure"), since(state.failed_at)),
        Fact(_("Requests in the last minute"), used),
    ]
    if shows_balance:
        low = CONDITIONS["balance"].judge(standing)
        text = _balance(state)
        shown = format_html("{}. {}", text, low.explain()) if low else text
        facts.append(Fact(_("Balance"), shown, is_wrong=low is not None))
    return Section("connection", _("Connection"), facts)


def waiting(name: OrderName, *, order_list: str) -> Section:
    """Return the section about pending tasks, orders and announcements.

    ``order_list`` is the URL of the list of orders, or "" if the section does not link to the list.
    """
    found = Waiting.read()
    facts = [Fact(_("Tasks in the queue"), _backlog(found.tasks))] if conf.uses_django_q else []
    facts.append(Fact(_("Notifications not yet sent to the shop"), _backlog(found.changes)))
    if found.given_up:
        text = ngettext(
            "The app could not notify the shop of %(count)d change within a day and will not try"
            " again.",
            "The app could not notify the shop of %(count)d changes within a day and will not try"
            " again.",
            found.given_up,
        )
        facts.append(Fact(_("Given up"), text % {"count": found.given_up}, is_wrong=True))
    facts += [
        Fact(_orders(status, order_list), _backlog(backlog))
        for status, backlog in found.orders.items()
    ]
    facts.append(Fact(_("Orders that need attention"), str(found.needing_attention)))
    if found.oldest_order:
        facts.append(Fact(_("Oldest open order"), _oldest(found.oldest_order, name)))
    return Section("waiting", _("Waiting"), facts)


def _orders(status: Status, order_list: str) -> SafeString:
    badge = status_badge(status)
    if not order_list:
        return badge
    return format_html('<a href="{}?status__exact={}">{}</a>', order_list, status.value, badge)


def _oldest(recorded_at: datetime, name: OrderName) -> str:
    order = Order.objects.open().filter(created_at=recorded_at).order_by().first()
    if order is None:
        return gettext("none")  # the order has just settled
    text = gettext("%(order)s, since %(moment)s")
    return filled(text, order=name(order), moment=since(recorded_at))


def versions() -> Section:
    facts = [Fact(bdi(name), bdi(number)) for name, number in running_versions().items()]
    return Section("versions", _("Versions"), facts, is_for_developer=True)


def worker(standing: Standing, *, shows_hints: bool) -> Section:
    state = standing.state
    problem = state.explain_worker(standing.now)
    state_of_work = _told(problem, shows_hints) if problem.text else gettext("At work.")
    facts = [Fact(_("State"), state_of_work, is_wrong=bool(problem.text))]
    schedule = explain_schedule()
    if schedule.text:
        facts.append(Fact(_("Schedule"), _told(schedule, shows_hints), is_wrong=True))
    facts.append(Fact(_("Last run"), since(state.last_tick_at)))
    if state.last_tick_by:
        facts.append(Fact(_("Last run by"), bdi(state.last_tick_by)))
    next_run = next_tick(state)
    if next_run is not None or schedule.text:
        is_due = next_run is not None and next_run <= timezone.now()
        facts.append(Fact(_("Next run"), gettext("due now") if is_due else since(next_run)))
    facts.append(_daily_work(standing))
    facts.append(Fact(_("Orders last checked"), since(state.swept_at)))
    return Section("worker", _("Background work"), facts)


def _daily_work(standing: Standing) -> Fact:
    state = standing.state
    return Fact(
        _("Daily work last completed"),
        since(state.chores_ended_at),
        is_wrong=bool(state.overdue_chores(standing.now)),
    )


def _told(problem: Explanation, shows_hints: bool) -> str:
    return with_hint(problem.for_staff, problem.hint, is_shown=shows_hints)


_FAILURES_SHOWN = 5
# Pauses that the shop did not cause, and that end automatically.
_PASSING = (ProviderState.Pause.OUTAGE, ProviderState.Pause.RATE)
# Matches an HTTP status in an error message. This number is not an amount, so it does not have to
# be hidden.
_HTTP_STATUS = re.compile(r"\bHTTP [1-5][0-9]{2}\b")


def _failure(text: str, *, shows_costs: bool) -> str:
    """Return ``text``, or a notice if the text must be hidden.

    The text must be hidden if it might contain an amount that the person is not allowed to see.
    """
    if shows_costs or not any(map(str.isdigit, _HTTP_STATUS.sub("", text))):
        return text
    return gettext("This error message is hidden because it may contain an amount.")


def failures(
    state: ProviderState,
    keys: Sequence[KnownKey],
    changes: QuerySet[StatusChange],
    name: OrderName,
    *,
    shows_costs: bool,
    shows_hints: bool,
) -> Section:
    """Return the section about recent failures.

    The section lists the last failed request to the provider, the refusals of API keys, and failed
    notifications to the shop. ``changes`` contains the status changes whose notifications are
    checked. If ``shows_hints`` is False, error messages are hidden.
    """
    text = _failure(state.failure, shows_costs=shows_costs)
    # An outage ends automatically. If the provider refuses requests, a person has to act.
    is_outage = state.pause in _PASSING and state.failure == state.pause_detail
    what = gettext("Requests will resume automatically.") if is_outage else ""
    found = [(state.failed_at, gettext("Provider"), what, text)]
    found += [
        (known.key.refused_at, gettext("API key"), bdi(known.name), known.key.refusal)
        for known in keys
    ]
    told = changes.filter(announced_at=None).exclude(announce_error="")
    failed = told.order_by("announced_at", "announce_at", "pk").select_related("order")
    found += [
        (change.at, gettext("Notification to the shop"), name(change.order), change.announce_error)
        for change in failed[:_FAILURES_SHOWN]
    ]
    rows = [(at, what, said, text) for at, what, said, text in found if at is not None]
    rows.sort(key=lambda row: row[0], reverse=True)
    return Section(
        "failures",
        _("Last failures"),
        columns=(_("When"), _("What"), _("Text")),
        cells=[
            (since(at), what, with_hint(said or ASK_DEVELOPER, text, is_shown=shows_hints))
            for at, what, said, text in rows
        ],
        note="" if rows else _("None."),
    )


def encryption(*, counts_all: bool, shows_hints: bool) -> Section:
    """Return the section about the encryption keys.

    The keys are tested with the newest and the oldest card. If ``shows_hints`` is True, the section
    says which card cannot be decrypted, and why.
    """
    try:
        keys = encryption_keys(counts_all=counts_all)
    except ConfigurationError as error:
        text = gettext(
            "The encryption keys in the settings cannot be used, so cards cannot be decrypted."
        )
        shown = with_hint(text, error, is_shown=shows_hints)
        problem = Fact(_("Encryption keys"), shown, is_wrong=True)
        return Section("encryption", _("Encryption keys"), [problem], is_for_developer=True)
    labels = {"newest": _("Newest card"), "oldest": _("Oldest card")}
    facts = [
        Fact(labels[name], _opens(trouble, shows_hints), is_wrong=bool(trouble))
        for name, trouble in try_keys().items()
    ]
    link = format_html('<a href="?cards=all">{}</a>', gettext("Count all cards"))
    return Section(
        "encryption",
        _("Encryption keys"),
        facts,
        columns=(_("Key"), _("In the settings"), _("Cards")),
        cells=[(bdi(key.fingerprint[:8]), _place(key), _cards(key)) for key in keys],
        note=link if any(key.has_more for key in keys) else "",
        is_for_developer=True,
    )


def _opens(trouble: str, shows_hints: bool) -> str:
    if not trouble:
        return gettext("can be decrypted")
    return with_hint(gettext("cannot be decrypted"), trouble, is_shown=shows_hints)


def _place(key: KeyInUse) -> str:
    if key.position is None:
        return gettext("missing: cards encrypted with this key cannot be decrypted")
    if key.position == 1:
        return gettext("first key: encrypts new cards")
    return gettext("key number %(position)d: only decrypts cards") % {"position": key.position}


def _cards(key: KeyInUse) -> str:
    if key.has_more:
        return gettext("more than %(count)s") % {"count": count_text(key.cards)}
    if not key.cards and key.position != 1:
        return gettext("none, so the key can be removed")
    return count_text(key.cards)


def api_keys(keys: Sequence[KnownKey]) -> Section:
    rows = [
        (
            bdi(known.name),
            gettext("yes") if known.is_own else gettext("no"),
            known.key.get_environment_display() or gettext("unknown"),
            since(known.key.accepted_at),
            since(known.key.refused_at),
            gettext("refused: no requests are sent with this key")
            if known.key.is_refused
            else gettext("in order"),
        )
        for known in keys
    ]
    return Section(
        "api-keys",
        _("API keys"),
        columns=(
            _("Key"),
            _("In the settings"),
            _("Environment"),
            _("Last accepted"),
            _("Last refused"),
            _("State"),
        ),
        cells=rows,
        note=_("These are fingerprints of the keys, not the keys themselves."),
        is_for_developer=True,
    )


def _balance(state: ProviderState) -> str:
    if state.balance is None:
        return gettext("not read yet")
    text = gettext("%(balance)s, read on %(moment)s")
    return filled(text, balance=money(state.balance), moment=since(state.balance_read_at))


def _backlog(backlog: Backlog | None) -> str:
    if backlog is None:
        return gettext("unknown: the django-q2 queue is not in the database")
    if backlog.since is None:
        return count_text(backlog.number)
    text = gettext("%(count)s, the oldest waiting since %(moment)s")
    return filled(text, count=count_text(backlog.number), moment=since(backlog.since))


def since(at: datetime | None) -> str:
    """Return a time, and how far it is from now, as HTML.

    For ``None``, returns "never".
    """
    if at is None:
        return gettext("never")
    return format_html("{} ({})", exact_moment(at), distance_text(at, timezone.now()))


# The effect of the "resume" button on each kind of pause.
_RESUMING = {
    "key": _(
        "The app will test the refused key with a single request. If the provider refuses the key"
        " again, all requests will be paused again. The provider blocks this server after five"
        " failed attempts, so ask your developer for a working key before you continue."
    ),
    ProviderState.Pause.ACCESS: _(
        "The app will send a single request to the provider. If the provider still blocks this"
        " server, requests will be paused again."
    ),
    ProviderState.Pause.RATE: _(
        "Requests will resume immediately. The provider asked for a longer pause, so it may"
        " refuse the requests."
    ),
    ProviderState.Pause.OUTAGE: _("Requests to the provider will resume immediately."),
}


def _state_token(state: ProviderState) -> str:
    """Return a hash of the current pause and refusals, to detect changes.

    The "resume" button posts the hash, and does nothing if the hash is outdated.
    """
    seen: list[Any] = []
    if state.is_pause_told(timezone.now()):
        # In an outage, each failed request starts a new pause with a different end. The hash does
        # not contain the end, so that the button on an open page still works.
        is_outage = state.pause == ProviderState.Pause.OUTAGE
        seen += [state.pause, None if is_outage else str(state.paused_until)]
    refused = ApiKey.objects.filter(is_refused=True).order_by("pk")
    seen += [[key.pk, str(key.refused_at)] for key in refused]
    return token("provider", seen)


def _what_resuming_does(state: ProviderState) -> list[str]:
    now = timezone.now()
    ends = ["key"] if ApiKey.objects.holding_up(configured_key(), now) else []
    ends += [state.pause] if state.is_pause_told(now) else []
    return [str(_RESUMING[reason]) for reason in ends]


# The names of the sections that count all orders, or all cards.
_OF_ALL_ORDERS = {"waiting", "encryption"}


@admin.register(ProviderState)
class ProviderStateAdmin(ReadOnlyRows):
    """The provider's page in the admin.

    To use a subclass, unregister this class first.
    """

    change_list_template = "admin/giftcards/provider.html"
    help_topic = "provider"

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("giftcards.resume_provider")

    def may_see_costs(self, request: HttpRequest) -> bool:
        """Return True if the person is allowed to see the balance of the account."""
        return request.user.has_perm("giftcards.view_cost")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.resume_view)
        return [path("resume/", view, name="giftcards_providerstate_resume"), *super().get_urls()]

    def _to_page(self) -> HttpResponseRedirect:
        return HttpResponseRedirect(self._url("providerstate_changelist"))

    def _url(self, page: str) -> str:
        return reverse(f"admin:giftcards_{page}", current_app=self.admin_site.name)

    # The state is a single row, so this page replaces the list and the page of the row.
    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        standing = Standing()
        state = standing.state
        pause = state.explain_pause()
        context = {
            "title": gettext("The provider"),
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
        return framed(self, request, self.change_list_template, **context)

    def change_view(self, request: HttpRequest, *args: Any, **named: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return self._to_page()

    def get_sections(self, request: HttpRequest, standing: Standing) -> list[Section]:
        keys = known_keys()
        # Hints for developers are shown to people who may resume requests, as on the page of an
        # order.
        may_resume = self.has_resume_permission(request)
        shows_costs = self.may_see_costs(request)
        name = partial(self._name, request)
        may_list = sees_orders(request, self.admin_site)
        order_list = self._url("order_changelist") if may_list else ""
        orders = unhidden_orders(request, self.admin_site)
        changes = StatusChange.objects.all()
        if is_partial := leaves_some_out(orders):
            changes = changes.filter(order__in=orders.order_by().values("pk"))
        sections = [
            connection(standing, shows_balance=shows_costs),
            waiting(name, order_list=order_list),
            worker(standing, shows_hints=may_resume),
            failures(
                standing.state,
                keys,
                changes,
                name,
                shows_costs=shows_costs,
                shows_hints=may_resume,
            ),
            *(more for found in called("provider_sections", request) for more in found),
            encryption(counts_all="cards" in request.GET, shows_hints=may_resume),
            api_keys(keys),
            versions(),
        ]
        hidden = _OF_ALL_ORDERS if is_partial else ()
        return [section for section in sections if section.name not in hidden]

    def _name(self, request: HttpRequest, order: Order) -> str:
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
            text = gettext(
                "Requests did not resume because a new pause started in the meantime. Check the new"
                " pause first."
            )
            self.message_user(request, text, messages.ERROR)
        elif self._resume(request, state):
            wake_worker()
            self.message_user(
                request, gettext("Requests to the provider have resumed."), messages.SUCCESS
            )
        else:
            text = gettext("Requests to the provider were not paused.")
            self.message_user(request, text, messages.WARNING)
        return self._to_page()

    def _resume(self, request: HttpRequest, state: ProviderState) -> bool:
        """End the pause in requests, and log that it has ended.

        Returns False if requests are not paused.
        """
        with transaction.atomic():
            # The transaction ensures that requests do not resume without a log entry.
            is_resumed = ProviderState.objects.resume()
            if is_resumed:
                self.log_change(request, state, "Resumed requests to the provider.")
        return is_resumed
