"""News for staff: recent events, and conditions that hold at present.

News has no codes and no names of customers. Each query uses an index, and reads a limited number of
rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Self

from django.apps import apps
from django.db.models import Max, QuerySet
from django.urls import NoReverseMatch, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import conf
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import Card, Order
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.rules.roles import whom_to_ask
from giftcards.rules.states import STATES, Status
from giftcards.watch.conditions import (
    CONDITIONS,
    MOST,
    Alert,
    Condition,
    Finding,
    Severity,
    Standing,
)

# The most orders that an item names.
_NAMED = 5
# The admin's log has no index by time, so only its latest entries are searched.
_LATEST_ENTRIES = 10_000

_ORDERS = "giftcards_order_changelist"

# Staff need one of these permissions to follow the advice about orders with missing cards.
_TAKES = ("giftcards.add_order", "giftcards.settle_refund")
_warning = partial(Alert, severity=Severity.WARNING)
EVENTS: Mapping[str, Alert] = {
    event.code: event
    for event in (
        _warning(
            code="unsent",
            permission="giftcards.check_order",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s order whose customer could not be told",
                "%(count)s orders whose customers could not be told",
                "count",
            ),
            remedy=_(
                "Send the message again, to another address if need be, or call the customer."
            ),
            # The linked list also contains messages that failed earlier.
            page="giftcards_delivery_delivery_changelist",
            query="?customers=untold",
        ),
        _warning(
            code="partly",
            permission="giftcards.view_order",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s order partly delivered", "%(count)s orders partly delivered", "count"
            ),
            remedy=_("Order the missing cards of each order again, or pay its customer back."),
            takes=_TAKES,
            page=_ORDERS,
            query=f"?status__exact={Status.PARTIALLY_FILLED}",
        ),
        _warning(
            code="refunded",
            permission="giftcards.view_order",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s order not delivered and credited back",
                "%(count)s orders not delivered and credited back",
                "count",
            ),
            remedy=_("Order the missing cards of each order again, or pay its customer back."),
            takes=_TAKES,
            page=_ORDERS,
            query=f"?status__exact={Status.REFUNDED}",
        ),
        _warning(
            code="rejected",
            permission="giftcards.view_order",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s order rejected", "%(count)s orders rejected", "count"
            ),
            remedy=_(
                "Nothing was bought. Order the cards of each order again, or pay its customer back."
            ),
            takes=_TAKES,
            page=_ORDERS,
            query=f"?status__exact={Status.REJECTED}",
        ),
        _warning(
            code="unreadable",
            permission="giftcards.reveal_card",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s order with cards that cannot be opened",
                "%(count)s orders with cards that cannot be opened",
                "count",
            ),
            remedy=_("Each customer has seen that, and not the code. Ask your developer."),
        ),
        _warning(
            code="locked",
            permission="giftcards.reveal_card",
            is_about_orders=True,
            headline=ngettext_lazy(
                "%(count)s link locked after wrong PINs",
                "%(count)s links locked after wrong PINs",
                "count",
            ),
            remedy=_("Ask each customer whether it was them, and send a new link."),
        ),
        _warning(
            code="reveals",
            permission="giftcards.view_cardreveal",
            headline=ngettext_lazy(
                "%(count)s attempt to reveal more codes than allowed",
                "%(count)s attempts to reveal more codes than allowed",
                "count",
            ),
            remedy=_(
                "Nothing more was revealed. If this is not the person's usual work, ask them:"
                " somebody else may use their account."
            ),
            page="giftcards_cardreveal_changelist",
        ),
    )
}


def alerts() -> dict[str, Alert]:
    """The texts of all kinds of news, keyed by code, most important first."""
    told = filter(_is_told, CONDITIONS.values())
    rank = list(Severity)
    ordered = sorted((*told, *EVENTS.values()), key=lambda alert: rank.index(alert.severity))
    return {alert.code: alert for alert in ordered}


def _is_told(condition: Condition) -> bool:
    return condition.is_in_digests and bool(condition.headline)


class Mention(NamedTuple):
    """The reference of an order, and the URL of its page in the admin; "" if there is no URL."""

    reference: str
    url: str


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of news; its texts are in the language that is active when they are read."""

    alert: Alert
    count: int = 1
    #: True if there are more orders than ``count``.
    has_more: bool = False
    #: True if the news is that a condition has ended.
    has_ended: bool = False
    #: At most five of the orders that the item is about.
    orders: tuple[Mention, ...] = ()
    #: Returns the details as plain text, or "".
    explain: Callable[[], str] = field(default=str, repr=False, compare=False)
    #: Returns whether the reader has a permission.
    may: Callable[[str], bool] = field(default=bool, repr=False, compare=False)
    #: The finding behind the item; ``None`` without one.
    finding: Finding | None = field(default=None, repr=False, compare=False)

    @classmethod
    def about(cls, alert: Alert, finding: Finding) -> Self:
        named = islice(finding.orders.items(), _NAMED)
        return cls(
            alert,
            finding.count,
            finding.has_more,
            orders=tuple(
                Mention(name, admin_url("giftcards_order_change", key)) for key, name in named
            ),
            explain=finding.explain,
            finding=finding,
        )

    def visible_part(self, visible: QuerySet[Order]) -> Self | None:
        """The item limited to the orders in ``visible``; ``None`` if no order is left."""
        if self.finding is None:
            return self
        part = self.alert.visible_part(self.finding, visible)
        return self.about(self.alert, part) if part else None

    @property
    def code(self) -> str:
        return self.alert.code

    @property
    def severity(self) -> Severity:
        return Severity.NOTE if self.has_ended else self.alert.severity

    @property
    def headline(self) -> str:
        """The news in a few words, such as "2 orders to do"; a sentence if a state has ended."""
        if self.has_ended and isinstance(self.alert, Condition):
            return str(self.alert.ended)
        return self.alert.in_words(self.count, has_more=self.has_more)

    @property
    def detail(self) -> str:
        return "" if self.has_ended else self.explain()

    @property
    def remedy(self) -> str:
        """The advice on what to do, and whom to ask; "" if there is nothing to do."""
        parts = str(self.alert.remedy), whom_to_ask(self.may, self.alert.takes)
        return "" if self.has_ended else " ".join(filter(None, parts))

    @property
    def url(self) -> str:
        """The URL of the admin's page about the news; "" if there is none."""
        if self.has_ended or not self.alert.page:
            return ""
        address = admin_url(self.alert.page)
        return address and address + self.alert.query

    @property
    def text(self) -> str:
        """The whole item as one line of plain text."""
        names = ", ".join(order.reference for order in self.orders)
        title = self.headline
        if names:
            title = gettext("%(label)s: %(value)s") % {"label": title, "value": names}
        return " ".join(filter(None, (_as_sentence(title), self.detail, self.remedy)))

    @property
    def unnamed(self) -> int:
        """The number of orders that the item does not name."""
        return self.count - len(self.orders) if self.orders else 0


@dataclass(frozen=True, slots=True)
class Situation:
    """The conditions that hold at one moment and concern staff, keyed by code."""

    at: datetime
    #: Lasting conditions, by code. Staff are told when such a condition begins, once a day while it
    #: lasts, and when it ends.
    states: Mapping[str, Finding]
    #: Conditions about orders, by code. Staff are told of each order once.
    matters: Mapping[str, Finding]
    #: The reason why requests to the provider have just begun to fail. ``None`` if no request
    #: fails, or if ``states`` already contains the failure.
    silence: Finding | None = None


def current_situation() -> Situation:
    standing = Standing()
    states: dict[str, Finding] = {}
    matters: dict[str, Finding] = {}
    for condition in CONDITIONS.values():
        finding = condition.judge(standing) if _is_told(condition) else None
        if finding:
            (states if condition.ended else matters)[condition.code] = finding
    is_told = {"refused", "provider"} & states.keys()
    fails = not is_told and standing.state.fails_in_a_row(standing.now)
    silence = CONDITIONS["paused"].judge(standing) if fails else None
    return Situation(standing.now, states, matters, silence)


def recent_events(since: datetime, until: datetime) -> list[Item]:
    """Items about the events after ``since``, up to and including ``until``."""
    failed = Delivery.objects.filter(failed_at__gt=since, failed_at__lte=until)
    visits = LinkVisit.objects.filter(at__gt=since, at__lte=until).order_by("what", "at")
    locked = visits.filter(what=LinkVisit.What.LOCKED)
    unreadable = visits.filter(what=LinkVisit.What.REVEALED, unreadable__gt=0)
    return [
        *_settled(since, until),
        *_about_orders("unsent", failed.order_by("failed_at"), "order"),
        *_about_orders("locked", locked, "link__order"),
        *_about_orders("unreadable", unreadable, "link__order"),
        *_reveals(since, until),
    ]


def _settled(since: datetime, until: datetime) -> Iterator[Item]:
    """Yield items about orders that became final with cards missing, one item for each status."""
    settled = Order.objects.filter(finalized_at__gt=since, finalized_at__lte=until)
    # The query excludes one status. A list of all other statuses would keep databases from using
    # the index by time.
    unfilled = settled.exclude(status=Status.FULFILLED).filter(reordered_amount=None)
    found = unfilled.order_by("finalized_at").values_list("status", "pk", "reference")
    rows = list(found[: MOST + 1])
    for status, state in STATES.items():
        if state.staff_news:
            yield from _some(
                state.staff_news,
                [(key, name) for found, key, name in rows if found == status],
                has_more=len(rows) > MOST,
            )


def _about_orders(code: str, rows: QuerySet[Any], order: str) -> Iterator[Item]:
    """Yield an item about the orders of ``rows``, if any; ``order`` names the foreign key."""
    found = list(rows.values_list(f"{order}_id", f"{order}__reference")[: MOST + 1])
    yield from _some(code, found, has_more=len(found) > MOST)


def _reveals(since: datetime, until: datetime) -> Iterator[Item]:
    """Yield an item with the number of refused reveals; each person counts at most once an hour."""
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    kinds = ContentType.objects.get_for_models(Card, CardLink)
    latest = LogEntry.objects.aggregate(pk=Max("pk"))["pk"] or 0
    refused = LogEntry.objects.filter(
        pk__gt=latest - _LATEST_ENTRIES,
        content_type__in=[kind.pk for kind in kinds.values()],
        object_repr=REFUSED_REVEAL,
        action_time__gt=since,
        action_time__lte=until,
    )
    if count := refused.order_by().count():
        yield Item(EVENTS["reveals"], count)


def _some(code: str, orders: Iterable[tuple[int, str]], *, has_more: bool) -> Iterator[Item]:
    if rows := dict(orders):
        yield Item.about(EVENTS[code], Finding("", min(len(rows), MOST), has_more, orders=rows))


def admin_url(page: str, *args: object) -> str:
    """The URL of a page in the admin; "" if ``SHOP_URL`` or the page is missing."""
    if not conf.shop_url:
        return ""
    try:
        return conf.shop_url + reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return ""


def _as_sentence(text: str) -> str:
    return capfirst(text if text.endswith((".", "!", "?")) else f"{text}.")
