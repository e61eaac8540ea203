"""The admin pages for messages, links and digests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import buttons
from giftcards.admin.frame.pages import OrderPages
from giftcards.admin.frame.rows import (
    SEES_HINTS,
    OrderRows,
    ReadOnlyRows,
    column,
    for_developer,
    hides_orders,
)
from giftcards.admin.orders.filters import ChoicesFilter, OrderChangeList, show_filters
from giftcards.delivery.admin.labels import (
    doubts,
    newest,
    origin_of,
    state_of,
    status_badge,
    what_became,
    who_asked,
)
from giftcards.delivery.admin.resending import SEND_AGAIN
from giftcards.delivery.admin.section import ABOUT_MESSAGE
from giftcards.delivery.channels import make_channels
from giftcards.delivery.conf import conf
from giftcards.delivery.digests import last_digest
from giftcards.delivery.models import (
    CardLink,
    Delivery,
    DeliveryQuerySet,
    DeliveryStatus,
    LinkVisit,
    StaffDigest,
)
from giftcards.delivery.staff import failing_text
from giftcards.models import Order
from giftcards.text.display import bdi, count_text, exact_moment, filled, labelled, moment
from giftcards.watch.conditions import Standing

# The maximum number of visits on the page of a link. The number must be limited, because programs
# may open a link any number of times.
_MOST_VISITS = 200


class DeliveryRows(OrderRows):
    """The base class for lists of rows about orders, newest first."""

    list_display_links = ("when",)
    list_select_related = ("order",)
    # Makes Django show the search box; search_rows() does the search.
    search_fields = ("order__reference",)

    class Media:
        css = {"all": ("giftcards_delivery/admin.css",)}

    when = column(Delivery, "created_at")


class ChannelFilter(ChoicesFilter):
    """A filter by channel, which is hidden if only one channel is in use."""

    def has_output(self) -> bool:
        return len(conf.channels) > 1

    def choices(self, changelist: ChangeList) -> Any:
        names = [channel.name for channel in make_channels()]
        chosen = self.lookup_val and self.lookup_val[0]
        for name in (None, *names):
            changes = {self.lookup_kwarg: name} if name else {}
            yield {
                "selected": (name or None) == (chosen or None),
                "query_string": changelist.get_query_string(changes, [self.lookup_kwarg]),
                "display": name or _("All"),
            }


class CustomersFilter(admin.SimpleListFilter):
    title = _("customers")
    parameter_name = "customers"

    # Tiles of the start page link to the last two choices.
    _rows: ClassVar[Mapping[str, tuple[Any, Callable[[DeliveryQuerySet], DeliveryQuerySet]]]] = {
        "untold": (_("Not notified"), lambda rows: rows.untold()),
        "untold-lately": (
            _("Not notified (recent only)"),
            lambda rows: rows.untold_since(Standing().lately),
        ),
        "late": (
            _("Waiting for more than 5 minutes"),
            lambda rows: rows.late(timezone.now()).order_by(),
        ),
    }

    def lookups(self, *_args: Any) -> list[tuple[str, Any]]:
        return [(name, label) for name, (label, _choose) in self._rows.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self._rows.get(self.value() or "")
        return chosen[1](cast("DeliveryQuerySet", queryset)) if chosen else queryset


class ErrorsForDevelopers(admin.ModelAdmin):  # type: ignore[type-arg]
    """A mixin that hides ``last_error`` from people without ``SEES_HINTS``.

    The error is meant for developers.
    """

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        return self._seen(request, super().get_list_display(request))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self._seen(request, super().get_fields(request, obj))

    def _seen(self, request: HttpRequest, names: Iterable[Any]) -> list[Any]:
        sees_hints = request.user.has_perm(SEES_HINTS)
        return [name for name in names if sees_hints or name != "last_error"]


@admin.register(Delivery)
class DeliveryAdmin(ErrorsForDevelopers, DeliveryRows):
    help_topic = "messages"
    list_display = ("when", "its_kind", "its_status", "its_order", "to", "tries", "last_error")
    list_filter = (
        CustomersFilter,
        ("status", ChoicesFilter),
        ("kind", ChoicesFilter),
        ("channel", ChannelFilter),
    )
    fields = readonly_fields = (
        "its_kind",
        "its_status",
        "became",
        "its_order",
        "its_channel",
        "to",
        "when",
        "tries",
        "was_sent",
        "last_error",
        "asked_for",
    )
    search_help_text = _("Enter an order reference.")
    changelist_mixin = OrderChangeList
    counted = ngettext_lazy("%(count)s message", "%(count)s messages", "count")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return show_filters(super().changelist_view(request, extra_context))

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **named: Any
    ) -> HttpResponse:
        message = context["original"]
        pages = self.admin_site.get_model_admin(Order)
        assert isinstance(pages, OrderPages)  # noqa: S101 (who sees a message sees its order)
        context["buttons"] = [
            *buttons(pages, request, message, ABOUT_MESSAGE),
            *buttons(pages, request, message.order, [SEND_AGAIN]),
        ]
        return super().render_change_form(request, context, *args, **named)

    its_kind = column(Delivery, "kind", lambda message, _kind: message.get_kind_display())
    its_status = column(Delivery, "status", lambda message, _status: status_badge(message))
    its_channel = column(Delivery, "channel")
    was_sent = column(Delivery, "sent_at")

    @admin.display(description=_("attempts"))
    def tries(self, message: Delivery) -> SafeString | str:
        text = ngettext("%(count)s attempt", "%(count)s attempts", message.attempts)
        made = text % {"count": count_text(message.attempts)}
        if message.status != DeliveryStatus.RETRYING or not message.next_attempt_at:
            return made
        following = filled(gettext("next attempt on %(at)s"), at=moment(message.next_attempt_at))
        return format_html('{} <span class="giftcards-second">{}</span>', made, following)

    @admin.display(description=_("error"))
    def last_error(self, message: Delivery) -> str:
        return for_developer(message.error)

    @admin.display(description=_("address"))
    def to(self, message: Delivery) -> str:
        second = '{} <span class="giftcards-second">{}</span>'
        return format_html(second, bdi(message.address), bdi(message.language))

    @admin.display(description=_("Result"))
    def became(self, message: Delivery) -> SafeString | str:
        parts = (what_became(message), doubts(message))
        return format_html_join(" ", "{}", ((part,) for part in parts if part))

    @admin.display(description=_("sent again"))
    def asked_for(self, message: Delivery) -> SafeString | str:
        return who_asked(message) or "-"


@admin.register(CardLink)
class CardLinkAdmin(DeliveryRows):
    help_topic = "messages"
    list_display = ("when", "its_order", "made", "its_state", "times_shown")
    fields = readonly_fields = (
        "its_order",
        "made",
        "its_message",
        "why",
        "when",
        "expires",
        "its_state",
        "times_shown",
        "wrong_pins",
    )
    search_help_text = _("Enter an order reference.")

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **named: Any
    ) -> HttpResponse:
        link = context["original"]
        if request.user.has_perm("giftcards_delivery.view_linkvisit"):
            visits, has_more = newest(LinkVisit.objects.filter(link=link), _MOST_VISITS)
            context |= {
                "visits": visits,
                "has_more_visits": has_more,
                "may_see_visits": True,
            }
        return super().render_change_form(request, context, *args, **named)

    made = column(CardLink, "origin", lambda link, _origin: origin_of(link))
    why = column(CardLink, "reason")
    expires = column(CardLink, "expires_at")

    @admin.display(description=_("message"))
    def its_message(self, link: CardLink) -> str:
        return link.delivery.get_kind_display() if link.delivery else "-"

    @admin.display(description=_("state"))
    def its_state(self, link: CardLink) -> SafeString | str:
        return state_of(link, timezone.now())[0]

    @admin.display(description=_("cards shown"))
    def times_shown(self, link: CardLink) -> SafeString:
        return labelled(gettext("cards shown"), str(link.reveals))


@admin.register(StaffDigest)
class StaffDigestAdmin(ErrorsForDevelopers, ReadOnlyRows):
    """The list of digests, with one row per person."""

    help_topic = "messages"
    list_display = ("whose", "last_sent", "what_it_said", "how_it_stands", "last_error", "next_try")
    list_display_links = None
    fields = readonly_fields = list_display
    sortable_by = ()
    # On a phone, a dash for an empty value would take up a whole line.
    empty_value_display = ""

    class Media:
        css = {"all": ("giftcards_delivery/admin.css",)}

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        # A digest also counts orders that the logged-in person may not see.
        hidden = {"what_it_said"} if hides_orders(request, self.admin_site) else set()
        return [name for name in super().get_list_display(request) if name not in hidden]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self.get_list_display(request)

    @admin.display(description=_("address"))
    def whose(self, digest: StaffDigest) -> SafeString:
        return bdi(digest.address)

    @admin.display(description=_("last digest"))
    def last_sent(self, digest: StaffDigest) -> str:
        return exact_moment(digest.sent_at) if digest.sent_at else gettext("none yet")

    @admin.display(description=_("contents of the last digest"))
    def what_it_said(self, digest: StaffDigest) -> str:
        lines = ((item.headline,) for item in last_digest(digest))
        return format_html_join(SafeString("<br>"), "{}", lines)

    @admin.display(description=_("state"))
    def how_it_stands(self, digest: StaffDigest) -> str:
        if not digest.is_failing:
            return gettext("in order")
        return format_html('<span class="giftcards-warning">{}</span>', failing_text(digest))

    @admin.display(description=_("error"))
    def last_error(self, digest: StaffDigest) -> str:
        return for_developer(digest.error)

    @admin.display(description=_("next attempt"))
    def next_try(self, digest: StaffDigest) -> str:
        return exact_moment(digest.retry_at) if digest.is_failing and digest.retry_at else ""
