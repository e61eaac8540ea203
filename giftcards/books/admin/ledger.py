"""The admin page for the provider's ledger.

The page shows the entries of the ledger and the totals of a period. The page requires the
permission to see costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from itertools import islice
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.pages import OrderPages
from giftcards.admin.frame.rows import (
    OrderRows,
    column,
    hides_orders,
    order_link,
    orders_named,
    visible_orders,
)
from giftcards.admin.orders.filters import ConditionFilter, show_filters
from giftcards.books.admin.periods import month_of
from giftcards.books.models import (
    CHARGE,
    CHARGED_UNKNOWN,
    CREDIT,
    CREDITED_UNKNOWN,
    PAYMENT,
    LedgerEntry,
    MonthClosing,
)
from giftcards.books.months import days_before_in_open_months
from giftcards.books.reports import By, first_day, last_day
from giftcards.books.summary import LISTED, Discrepancies, Discrepancy, Summary, ledger_summary
from giftcards.models import Order
from giftcards.rules.times import today, within
from giftcards.text.display import (
    bdi,
    count_text,
    day_text,
    exact_moment,
    filled,
    isolated,
    labelled,
    money,
    period_text,
    signed_money,
)

# The shop's words for the provider's types of entries.
_KINDS: Mapping[str, Any] = {
    CHARGE: _("Gift cards"),
    CREDIT: _("Gift cards credited back"),
    PAYMENT: _("Payment by a customer"),
    "DEPOSIT": _("Account top-up"),
    "WITHDRAW": _("Withdrawal"),
    "SEND": _("Sent to another account"),
    "RECEIVE": _("Received from another account"),
    "POINT-EXCHANGE": _("Points exchanged"),
    "SERVICE": _("Service"),
    "FLEXY": _("Phone credit"),
    "REFUND-FLEXY": _("Phone credit, credited back"),
    "ADSL": _("Internet credit"),
    "REFUND-ADSL": _("Internet credit, credited back"),
}
# The maximum number of types that a filter offers, and of rows that a search shows.
_MOST_KINDS = 30
_MOST_FOUND = 1_000
_MONTHS = 12


class KindFilter(admin.SimpleListFilter):
    title = _("kind")
    parameter_name = "type"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [(kind, _kind_text(kind)) for kind in islice(_known_kinds(), _MOST_KINDS)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(type=self.value()) if self.value() else queryset


class MatchFilter(ConditionFilter):
    title = _("order")
    parameter_name = "order"
    conditions = {
        # For ``is_guess=True``, the condition in SQL would be the column alone, and SQLite would
        # not use an index for it.
        "guessed": (_("Matched by amount and time"), Q(is_guess__in=[True])),
        # A tile of the start page links to the choice "unknown".
        "unknown": (_("Without a matching order"), CHARGED_UNKNOWN | CREDITED_UNKNOWN),
        "charged": (_("Charged, without a matching order"), CHARGED_UNKNOWN),
        "credited": (_("Credited back, without a matching order"), CREDITED_UNKNOWN),
    }


class PeriodFilter(admin.SimpleListFilter):
    """A filter for today, the past 7 days, or one of the last 12 months."""

    title = _("when")
    parameter_name = "period"

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        months = [first_day(today(), By.MONTH)]
        while len(months) < _MONTHS:
            months.append(first_day(months[-1] - timedelta(days=1), By.MONTH))
        asked_for = self.value()
        if asked_for and (month := month_of(asked_for)) and month not in months:
            months.append(month)
        # Only a tile of the start page links to "open".
        before = [("open", _("Earlier months that are not closed"))] if asked_for == "open" else []
        return [
            ("today", _("Today")),
            ("week", _("Past 7 days")),
            *before,
            *((f"{month:%Y-%m}", day_text(month, "F Y")) for month in months),
        ]

    @property
    def period(self) -> tuple[date, date] | None:
        """The first and last day of the selected period.

        The value is ``None`` if the person has not selected a period.
        """
        chosen = self.value()
        if not chosen:
            return None
        day = today()
        if chosen == "open":
            closed = MonthClosing.objects.last_month()
            start, end = days_before_in_open_months(day - timedelta(days=6), closed)
            return start, max(start, end)
        if chosen in {"today", "week"}:
            return (day if chosen == "today" else day - timedelta(days=6)), day
        first = month_of(chosen)
        if first is None:
            raise IncorrectLookupParameters
        return first, last_day(first, By.MONTH)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        period = self.period
        return queryset.filter(within("time", *period)) if period else queryset


@admin.register(LedgerEntry)
class LedgerEntryAdmin(OrderRows):
    """The list of the entries in the provider's ledger, newest first."""

    help_topic = "ledger"
    has_order = False
    list_display = ("when", "kind", "change", "balance", "its_order")
    list_display_links = ("when",)
    list_filter = (PeriodFilter, KindFilter, MatchFilter)
    fields = readonly_fields = (
        "when",
        "kind",
        "change",
        "balance_was",
        "balance",
        "its_order",
        "about",
        "identifier",
        "read",
    )
    # Django shows the search box only if ``search_fields`` is set; search_rows() does the search.
    search_fields = ("provider_id",)
    search_help_text = _("Enter the ID of an entry, the ID of its subject, or an order reference.")
    actions = None

    when = column(LedgerEntry, "time")
    change = column(LedgerEntry, "amount", lambda _entry, amount: signed_money(amount))
    about = column(LedgerEntry, "objid")
    identifier = column(LedgerEntry, "provider_id")
    read = column(LedgerEntry, "read_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LedgerEntry]:
        # Orders are prefetched, because PostgreSQL would read all orders for a join.
        return super().get_queryset(request).prefetch_related("order")

    def has_view_permission(self, request: HttpRequest, obj: LedgerEntry | None = None) -> bool:
        sees_costs = request.user.has_perm("giftcards.view_cost")
        return sees_costs and super().has_view_permission(request, obj)

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        if request.GET.get(MatchFilter.parameter_name) in {"unknown", "charged", "credited"}:
            # The rows are sorted by all columns of the index, because PostgreSQL does not know that
            # ``order_id`` is always NULL here.
            return ("-order_id", "-type", "-time", "-pk")
        return ("-time", "-pk")

    def search_rows(self, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        # Each condition has its own query, because each uses a different index.
        entries = LedgerEntry.objects.order_by()
        found = (
            entries.filter(provider_id=name),
            entries.filter(objid=name),
            self.rows_of(entries, orders_named(name)),
        )
        keys = {key for part in found for key in part.values_list("pk", flat=True)[:_MOST_FOUND]}
        return rows.filter(pk__in=sorted(keys)[-_MOST_FOUND:])

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response = show_filters(super().changelist_view(request, extra_context))
        shown = getattr(response, "context_data", None)
        if shown and "cl" in shown:
            shown |= {"close_month": self._closing(request), **self._summary(request, shown["cl"])}
        return response

    def _closing(self, request: HttpRequest) -> str:
        """Return the URL of the page that closes a month.

        The result is "" if the user may not open the page.
        """
        pages = self.admin_site._registry.get(Order)  # noqa: SLF001
        if not (isinstance(pages, OrderPages) and pages.has_report_permission(request)):
            return ""
        chosen = request.GET.get(PeriodFilter.parameter_name, "")
        query = f"?month={chosen}" if month_of(chosen) else ""
        return pages.url_of("close_month") + query

    def _summary(self, request: HttpRequest, changelist: ChangeList) -> dict[str, Any]:
        """Return the template context with the summary of the chosen period.

        The context is empty if another filter is active, or if some orders are hidden from the
        user. The summary reads every entry of the period.
        """
        chosen = [each for each in changelist.filter_specs if isinstance(each, PeriodFilter)]
        period = chosen[0].period if chosen else None
        if period is None or request.GET.keys() != {PeriodFilter.parameter_name}:
            return {}
        if hides_orders(request, self.admin_site):
            return {}
        summary = ledger_summary(*period)
        named = (*summary.promised_not_credited.first, *summary.ordered_not_charged.first)
        visible = visible_orders(request, self.admin_site)
        orders = visible.in_bulk({item.key for item in named})

        def name_order(item: Discrepancy) -> str:
            order = orders.get(item.key)
            return order_link(self.admin_site, order) if order else gettext("an order")

        return {
            "ledger": {
                "title": period_text(*period),
                "verdict": _verdict(summary),
                "is_warning": bool(summary.gap or summary.breaks),
                "lines": list(_lines(summary)),
                "counts": (
                    (gettext("Entries"), count_text(summary.entries)),
                    (gettext("Entries for known orders"), count_text(summary.matched)),
                    (gettext("Matched by amount and time"), count_text(summary.guessed)),
                ),
                "groups": list(_groups(summary, name_order, self._name_entry)),
                "names_candidates": summary.names_candidates,
            }
        }

    def _name_entry(self, item: Discrepancy) -> SafeString:
        name, site = "admin:giftcards_books_ledgerentry_change", self.admin_site.name
        url = reverse(name, args=[item.key], current_app=site)
        return format_html('<a href="{}">{}</a>', url, bdi(item.reference))

    @admin.display(description=_("kind"))
    def kind(self, entry: LedgerEntry) -> SafeString:
        words = _KINDS.get(entry.type)
        if words is None:
            return bdi(entry.type)
        return format_html(
            '{} <span class="giftcards-second"><bdi>{}</bdi></span>', words, entry.type
        )

    @admin.display(description=_("balance before"))
    def balance_was(self, entry: LedgerEntry) -> str:
        return money(entry.balance_before)

    @admin.display(description=_("balance after"))
    def balance(self, entry: LedgerEntry) -> str:
        return labelled(gettext("balance after"), money(entry.balance_after))

    @admin.display(description=_("order"))
    def its_order(self, entry: LedgerEntry) -> str:
        return labelled(gettext("order"), self._order_text(entry))

    def _order_text(self, entry: LedgerEntry) -> str:
        if entry.order is None:
            return gettext("unknown") if entry.type in {CHARGE, CREDIT} else "-"
        link = order_link(self.admin_site, entry.order)
        if not entry.is_guess:
            return link
        return format_html("{} ({})", link, gettext("matched by amount and time"))


def _kind_text(kind: str) -> str:
    words = _KINDS.get(kind)
    return isolated(kind) if words is None else f"{words} {isolated(kind)}"


def _known_kinds() -> Iterator[str]:
    """Yield each type of entry that the ledger contains.

    The function makes one index lookup for each type.
    """
    kinds = LedgerEntry.objects.order_by("type").values_list("type", flat=True)
    kind: str | None = ""
    while (kind := kinds.filter(type__gt=kind).first()) is not None:
        yield kind


def _verdict(summary: Summary) -> str:
    if summary.gap:
        text = gettext("The balance changed by %(gap)s without an entry that explains it.")
        return filled(text, gap=signed_money(summary.gap))
    if not summary.entries:
        return gettext("The ledger has no entries for this period, or they have not been read yet.")
    if summary.gap is None:
        return gettext(
            "The provider did not report the balances, so the app cannot check whether the"
            " entries explain the change in the balance."
        )
    if summary.breaks:
        return gettext(
            "The entries add up to the total change in the balance, but at some point, the"
            " balance changed without an entry. Find out when this happened."
        )
    return gettext("The entries explain the whole change in the balance.")


def _lines(summary: Summary) -> Iterator[tuple[str, str, bool]]:
    """Yield each label, its amount as HTML, and whether it is a balance."""
    yield gettext("Balance before"), money(summary.opening_balance), True
    yield gettext("Gift cards"), signed_money(summary.orders), False
    yield gettext("Gift cards credited back"), signed_money(summary.refunds), False
    if summary.payments:
        yield gettext("Payments by customers"), signed_money(summary.payments), False
    yield gettext("Top-ups"), signed_money(summary.top_ups), False
    yield gettext("Other services"), signed_money(summary.other_services), False
    if summary.gap:
        yield gettext("Changes without an entry"), signed_money(summary.gap), False
    yield gettext("Balance after"), money(summary.closing_balance), True


# A function that returns the name, as HTML, of the order or entry that a discrepancy is about.
_Name = Callable[[Discrepancy], str]


def _groups(summary: Summary, name_order: _Name, name_entry: _Name) -> Iterator[dict[str, Any]]:
    kinds: tuple[tuple[str, str, Discrepancies, _Name], ...] = (
        (
            "not_credited",
            gettext("Promised but not credited back"),
            summary.promised_not_credited,
            name_order,
        ),
        (
            "credited_unfit",
            gettext("Credited back but not promised"),
            summary.credited_not_promised,
            name_entry,
        ),
        (
            "charged_unfit",
            gettext("Charges for unknown orders, and charges that exceed the price"),
            summary.charged_unknown,
            name_entry,
        ),
        (
            "never_charged",
            gettext("Ordered but never charged"),
            summary.ordered_not_charged,
            name_order,
        ),
    )
    groups = [
        (place, label, each.count, each.amount, _items(each, name))
        for place, label, each, name in kinds
    ]
    days = [
        format_html("{} · {}", day_text(each.day), signed_money(each.amount))
        for each in summary.breaks[:LISTED]
    ]
    label = gettext("Balance changed without an entry")
    groups.append(("breaks", label, len(summary.breaks), summary.breaks_amount, days))
    for place, label, count, amount, items in groups:
        if count:
            yield {
                "place": place,
                "label": label,
                "count": count_text(count),
                "amount": money(amount),
                "items": items,
                "has_more": count > len(items),
            }


def _items(found: Discrepancies, name: _Name) -> list[SafeString]:
    return [
        format_html("{} · {} · {}", name(item), money(item.amount), exact_moment(item.time))
        for item in found.first
    ]
