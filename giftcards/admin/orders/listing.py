"""The list of orders, with its columns, search and actions.

The list remains fast with a million orders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import router, transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join, strip_tags
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame import extensions
from giftcards.admin.frame.extensions import Html
from giftcards.admin.frame.pages import OrderPages, about, customer_of
from giftcards.admin.frame.rows import LongList
from giftcards.admin.orders.approval import CANCELLED
from giftcards.admin.orders.customer_data import may_hand_out
from giftcards.admin.orders.filters import (
    AttentionFilter,
    ChoicesFilter,
    ContradictoryFilter,
    CustomerFilter,
    DateFilter,
    GroupFilter,
    OrderChangeList,
    ProductFilter,
    RefundFilter,
    SaleFilter,
    SettledFilter,
    show_filters,
)
from giftcards.admin.orders.follow_up import left_alone
from giftcards.admin.orders.searching import MOST_FOUND, SearchForm
from giftcards.engine.approvals import cancel_order
from giftcards.models import Order, OrderQuerySet
from giftcards.rules.money import CustomerBreakdown, customer_breakdown, refund_breakdown
from giftcards.rules.states import STATES, NotChecked, Status
from giftcards.text.display import (
    bdi,
    distance_text,
    filled,
    isolated,
    labelled,
    moment,
    money,
    status_badge,
)
from giftcards.watch.conditions import Standing, above_list

# The maximum number of orders that are cancelled in one request.
_MOST_CANCELLED = 100

# Columns that reveal the provider's prices. Some of them are database columns, which the list
# contains only if a subclass adds them.
COSTS = frozenset(
    {
        "cost",
        "credited_back",
        "fulfilled_amount",
        "price_per_card",
        "price_at_placing",
        "approved_price",
        "accepted_loss",
        "max_price",
    }
)


class OrderList(LongList, OrderPages):
    """The list of orders.

    The cells can be understood without the headings.
    """

    list_display = (
        "name",
        "badge",
        "bought",
        "sold_to",
        "delivered",
        "cost",
        "credited_back",
        "owed",
        "when",
    )
    # The list can be sorted only by the column that has an index.
    sortable_by = ("when",)
    list_filter = (
        AttentionFilter,
        ("status", ChoicesFilter),
        RefundFilter,
        SaleFilter,
        ProductFilter,
        GroupFilter,
        CustomerFilter,
        ("environment", ChoicesFilter),
        ("finalized_at", SettledFilter),
        ("created_at", DateFilter),
        ContradictoryFilter,
    )
    # Pages of other apps read this attribute. The search itself is in get_search_results. A second
    # field would break the script of a theme, which does not escape apostrophes in the fields'
    # names.
    search_fields = ("reference",)
    search_help_text = _(
        "Enter a reference (or only the number in it), a group, the provider's order ID, or the"
        " name, phone number or e-mail address of a customer or recipient. The beginning of a"
        " word is enough."
    )
    actions = ("check_now", "cancel_selected")
    # The theme unfold reads this attribute before it shows "Add".
    show_add_link = True
    changelist_mixin = OrderChangeList
    counted = ngettext_lazy("%(count)s order", "%(count)s orders", "count")

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns, sees_costs = super().get_list_display(request), self.may_see_costs(request)
        return [column for column in columns if sees_costs or column not in COSTS]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        filters = list(super().get_list_filter(request))
        if self.may_see_costs(request):
            filters += self._more_filters
        return filters

    @cached_property
    def _more_filters(self) -> list[Any]:
        return [each for extension in extensions.installed() for each in extension.filters]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        name = search_term.strip()
        if not name:
            return queryset, False
        found = Order.objects.search(name, limit=MOST_FOUND)
        if found.has_more:
            text = gettext(
                "Only the newest matching orders are shown. Make your search more specific to see"
                " others."
            )
            self.message_user(request, text, messages.WARNING)
        return queryset.filter(pk__in=found.keys), False

    @admin.action(description=_("Check selected orders now"), permissions=["check"])
    def check_now(self, request: HttpRequest, queryset: OrderQuerySet) -> None:
        selected = queryset.order_by()
        due = self.ask_for_checks(request, selected)
        if due:
            text = ngettext(
                "%(count)d order will be checked in a moment.",
                "%(count)d orders will be checked in a moment.",
                due,
            )
            self.message_user(request, text % {"count": due})
        for text in _reasons_left_alone(selected, due):
            self.message_user(request, text, messages.WARNING)

    @admin.action(description=_("Cancel selected orders"), permissions=["resolve"])
    def cancel_selected(self, request: HttpRequest, queryset: OrderQuerySet) -> HttpResponse | None:
        """Ask for confirmation, and cancel the selected orders that are pending."""
        waiting = list(queryset.filter(status=Status.PENDING).order_by("pk")[:_MOST_CANCELLED])
        if waiting and "is_confirmed" not in request.POST:
            consequence = ngettext(
                "Nothing has been bought yet for this order. If you cancel it, it will never be"
                " sent, and you will owe the customer what they paid. This cannot be undone.",
                "Nothing has been bought yet for these %(count)d orders. If you cancel them, they"
                " will never be sent, and you will owe the customers what they paid. This cannot be"
                " undone.",
                len(waiting),
            )
            return self.render_page(
                request,
                "cancel_selected",
                title=gettext("Cancel the selected orders?"),
                consequence=consequence % {"count": len(waiting)},
                orders=[(order, [value for _label, value in about(order)]) for order in waiting],
                action=gettext("Cancel selected orders"),
                checkbox=ACTION_CHECKBOX_NAME,
                back=request.get_full_path(),
            )
        selected = len(request.POST.getlist(ACTION_CHECKBOX_NAME))
        cancelled = sum(self._cancel(request, order) for order in waiting)
        if cancelled:
            text = ngettext(
                "%(count)d order was cancelled. Nothing was bought.",
                "%(count)d orders were cancelled. Nothing was bought.",
                cancelled,
            )
            self.message_user(request, text % {"count": cancelled})
        if left := selected - cancelled:
            text = ngettext(
                "%(count)d order was not cancelled because its cards are being bought or its"
                " status is final.",
                "%(count)d orders were not cancelled because their cards are being bought or"
                " their status is final.",
                left,
            )
            self.message_user(request, text % {"count": left}, messages.WARNING)
        return None

    def _cancel(self, request: HttpRequest, order: Order) -> bool:
        with transaction.atomic(using=router.db_for_write(Order)):
            is_done = cancel_order(order, by=request.user.get_username())
            if is_done:
                self.log_change(request, order, CANCELLED)
        return is_done

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        standing = Standing()
        context = {
            "pause": standing.state.explain_pause().for_staff,
            "warnings": list(
                above_list(request.user.has_perm, standing, self.get_queryset(request))
            ),
            "has_report_permission": self.has_report_permission(request),
            "may_hand_out": may_hand_out(self, request),
            "search_form": SearchForm(
                initial={"filters": request.GET.urlencode()}, auto_id="giftcards-search-%s"
            ),
            "may_find": request.user.has_perm("giftcards.find_card"),
        }
        response = super().changelist_view(request, context | (extra_context or {}))
        shown = getattr(response, "context_data", None) or {}
        if "cl" in shown:
            shown["notices"] = self._extended(request, standing, shown["cl"])
        return show_filters(response)

    def _extended(self, request: HttpRequest, standing: Standing, rows: Any) -> list[Html]:
        """Mark orders whose cards were not received, and return the notices.

        The optional apps say which orders to mark, and provide the notices.
        """
        rows.result_list = list(rows.result_list)
        more = extensions.called("on_list", self, request, standing, rows.result_list)
        lost = dict(chain.from_iterable(each.not_received.items() for each in more))
        badge = _badge_with(lost)
        rows.list_display = [badge if name == "badge" else name for name in rows.list_display]
        return [each.notice for each in more if each.notice]

    @admin.display(description=_("reference"))
    def name(self, order: Order) -> SafeString:
        return _two_lines(order.reference, order.group)

    @admin.display(description=_("status"))
    def badge(self, order: Order) -> SafeString:
        return _badge(order)

    @admin.display(description=_("product"))
    def bought(self, order: Order) -> SafeString:
        return _two_lines(order.product_name or order.product_id, order.type_name or order.type_id)

    @admin.display(description=_("customer"), empty_value="")
    def sold_to(self, order: Order) -> SafeString | None:
        known = customer_of(order)
        return bdi(known) if known else None

    @admin.display(description=_("delivered"))
    def delivered(self, order: Order) -> SafeString:
        # In right-to-left text, "1/2" would be shown in the wrong direction.
        words = gettext("%(delivered)d of %(ordered)d") % {
            "delivered": order.fulfilled_quantity,
            "ordered": order.quantity,
        }
        return format_html("<span>{}</span>{}", words, _bar(order))

    @admin.display(description=_("cost"), empty_value="")
    def cost(self, order: Order) -> SafeString | None:
        known = refund_breakdown(order)
        return labelled(gettext("cost"), money(known.charged_amount)) if known else None

    @admin.display(description=_("credited back"), empty_value="")
    def credited_back(self, order: Order) -> SafeString | None:
        known = refund_breakdown(order)
        return labelled(gettext("credited back"), money(known.refunded_amount)) if known else None

    @admin.display(description=_("still owed"), empty_value="")
    def owed(self, order: Order) -> SafeString | str | None:
        if order.reordered_amount is not None:
            # The customer's payment for the missing cards is used for the new order, so it is no
            # longer owed.
            return gettext("ordered again")
        breakdown = customer_breakdown(order)
        if breakdown:
            still_owed = labelled(gettext("still owed"), money(breakdown.open_amount))
            return _with_refunds(still_owed, breakdown)
        if order.is_final and order.fulfilled_quantity < order.quantity:
            # Without a sale amount, the owed amount is unknown.
            return labelled(gettext("still owed"), money(None))
        return None

    @admin.display(description=_("when"), ordering="-created_at")
    def when(self, order: Order) -> SafeString:
        age = distance_text(order.created_at, timezone.now())
        return format_html(
            '<span class="giftcards-when" title="{}">{}'
            ' <span class="giftcards-unseen">{}</span></span>',
            age,
            moment(order.created_at),
            age,
        )


def _reasons_left_alone(selected: OrderQuerySet, due: int) -> list[str]:
    """Return sentences that explain why some orders are not checked.

    ``selected`` contains the selected orders. ``due`` is the number of orders that the "Check now"
    action checks.
    """
    counts: Counter[NotChecked] = Counter()
    for status, count in selected.values_list("status").annotate(Count("pk")):
        counts[STATES[status].not_checked] += count
    # The loop has counted the ``due`` orders as just checked, but they will be checked.
    counts[NotChecked.JUST_CHECKED] -= due
    return [left_alone(reason, counts[reason]) for reason in NotChecked if counts[reason] > 0]


def _badge_with(lost: Mapping[int, str]) -> Callable[[Order], SafeString]:
    """Return the ``badge`` column of a list.

    ``lost`` contains the orders whose cards were not received.
    """

    @admin.display(description=_("status"))
    def badge(order: Order) -> SafeString:
        return _badge(order, lost.get(order.pk, ""))

    return badge


def _badge(order: Order, lost: str = "") -> SafeString:
    """Return the status of ``order``, and what staff must do.

    ``lost`` contains sentences about cards that were not received.
    """
    parts = [status_badge(order.status, is_received=not lost)]
    if lost:
        parts.append(_mark(strip_tags(lost).strip(), gettext("correct the address")))
    if problems := order.open_problems:
        texts = (problem.explain(format_value=isolated, shows_costs=False) for problem in problems)
        whole = " ".join(each.text for each in texts)
        parts.append(_mark(whole, problems[0].in_short))
    return format_html_join(" ", "{}", ((part,) for part in parts))


def _mark(whole: str, in_short: str) -> SafeString:
    mark = (
        '<span class="giftcards-mark" title="{}">'
        '<span role="img" aria-label="{}">⚠</span> {}</span>'
    )
    return format_html(mark, whole, _("To do"), in_short)


def _two_lines(first: str, second: str) -> SafeString:
    if not second:
        return bdi(first)
    return format_html('{} <span class="giftcards-second">{}</span>', bdi(first), bdi(second))


def _with_refunds(still_owed: SafeString, breakdown: CustomerBreakdown) -> SafeString:
    if not breakdown.paid_back_amount:
        return still_owed
    paid = filled(gettext("paid back: %(amount)s"), amount=money(breakdown.paid_back_amount))
    return format_html('{} <span class="giftcards-second">{}</span>', still_owed, paid)


def _bar(order: Order) -> SafeString:
    """Return a small bar that shows the share of delivered cards.

    The text beside the bar contains the same information.
    """
    return format_html(
        '<svg class="giftcards-small-bar" viewBox="0 0 100 8" preserveAspectRatio="none"'
        ' aria-hidden="true" focusable="false"><rect width="100" height="8" fill="currentColor"'
        ' fill-opacity="0.3"/><rect width="{}" height="8" fill="currentColor"/></svg>',
        str(100 * order.fulfilled_quantity // order.quantity),
    )
