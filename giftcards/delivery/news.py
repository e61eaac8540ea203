"""News for staff: events, and present states. They hold no codes and name no customers.

All of it is read from the database; each part uses an index and a limited number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from django.apps import apps
from django.db.models import Max, QuerySet
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.balance_forecast import OpenMoney, money_in_open_orders
from giftcards.conf import conf as core
from giftcards.delivery.conf import conf
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.display import moment_text, money_text
from giftcards.ledger.conditions import missing_refunds, unknown_entries
from giftcards.models import Card, Order, ProviderState
from giftcards.models.reveals_and_notes import REFUSED_REVEAL
from giftcards.statuses import Status

#: Upper bound of the count of an item.
MOST = 1_000
# How many orders an item names.
_NAMED = 5
# Only the latest entries of the admin's log are searched: it has no index by time.
_LATEST_ENTRIES = 10_000
# The columns of the index of the open orders.
_BY_DUE = ("settled_at", "status", "due_at", "pk")


class Severity(StrEnum):
    #: Something does not work until a person sees to it.
    URGENT = "urgent"
    #: A person has something to do.
    WARNING = "warning"
    #: Good to know.
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class NewsWording:
    """The texts for a code of news, and the permission of the people whom it concerns.

    ``headline`` is part of a sentence; it may contain ``%(count)s``. ``ended`` says that a state
    does not hold any more; it is "" for events.
    """

    severity: Severity
    #: A permission of the app ``giftcards``: people whose role has it are told.
    permission: str
    headline: Any
    remedy: Any = ""
    ended: Any = ""


#: The wordings by code, the most important first.
WORDINGS: Mapping[str, NewsWording] = {
    "paused": NewsWording(
        Severity.URGENT,
        "check_order",
        _("requests to the provider are paused"),
        ended=_("Requests to the provider are not paused any more."),
    ),
    "failing": NewsWording(
        Severity.URGENT,
        "check_order",
        _("requests to the provider fail"),
        _("They are repeated by themselves. If it lasts, ask the provider's support."),
        ended=_("The provider answers again."),
    ),
    "worker": NewsWording(
        Severity.URGENT,
        "check_order",
        _("background work has stopped"),
        _("Orders are not followed. Those who run the site have to start it again."),
        ended=_("Background work goes on."),
    ),
    "waiting": NewsWording(
        Severity.URGENT,
        "check_order",
        ngettext_lazy(
            "%(count)s message to a customer could not be sent yet",
            "%(count)s messages to customers could not be sent yet",
            "count",
        ),
        _("It is tried again by itself. If it lasts, the mail server needs a look."),
        ended=_("Messages to customers are sent again."),
    ),
    "to_do": NewsWording(
        Severity.WARNING,
        "check_order",
        ngettext_lazy("%(count)s order to do", "%(count)s orders to do", "count"),
        _("The page of the order says what is wrong and what you can do."),
    ),
    "balance": NewsWording(
        Severity.WARNING,
        "view_cost",
        _("the balance is low"),
        _("Top up the account at the provider."),
        ended=_("The balance is not low any more."),
    ),
    "missing": NewsWording(
        Severity.WARNING,
        "view_cost",
        ngettext_lazy(
            "%(count)s refund that the provider has not credited back",
            "%(count)s refunds that the provider has not credited back",
            "count",
        ),
        _("Look for it in the account at the provider, and ask its support."),
        ended=_("The provider has credited back what it promised."),
    ),
    "unknown": NewsWording(
        Severity.WARNING,
        "view_cost",
        ngettext_lazy(
            "%(count)s entry of the provider's ledger of no order here",
            "%(count)s entries of the provider's ledger of no order here",
            "count",
        ),
        _(
            "Find out who ordered it: the account may be used elsewhere as well. It is told for a"
            " week."
        ),
        ended=_("The ledger of the last days has no entry of an unknown order any more."),
    ),
    "gap": NewsWording(
        Severity.WARNING,
        "view_cost",
        _("the provider's ledger does not explain the balance"),
        _("Look in the ledger where the balance changed without an entry, and ask the provider."),
        ended=_("The provider's ledger of the last days explains the balance again."),
    ),
    "unsent": NewsWording(
        Severity.WARNING,
        "check_order",
        ngettext_lazy(
            "%(count)s order whose customer could not be told",
            "%(count)s orders whose customers could not be told",
            "count",
        ),
        _("Send the message again, to another address if need be, or call the customer."),
    ),
    "partly": NewsWording(
        Severity.WARNING,
        "view_order",
        ngettext_lazy(
            "%(count)s order partly delivered", "%(count)s orders partly delivered", "count"
        ),
        _("Order the missing cards again, or pay the customer back for them."),
    ),
    "refunded": NewsWording(
        Severity.WARNING,
        "view_order",
        ngettext_lazy(
            "%(count)s order not delivered and credited back",
            "%(count)s orders not delivered and credited back",
            "count",
        ),
        _("Order the cards again, or pay the customer back."),
    ),
    "rejected": NewsWording(
        Severity.WARNING,
        "view_order",
        ngettext_lazy("%(count)s order rejected", "%(count)s orders rejected", "count"),
        _("Nothing was bought. Order the cards again, or pay the customer back."),
    ),
    "unconfirmed": NewsWording(
        Severity.WARNING,
        "check_order",
        ngettext_lazy("%(count)s unconfirmed order", "%(count)s unconfirmed orders", "count"),
        _("It is looked for at the provider by itself. Do not buy the cards a second time."),
    ),
    "delayed": NewsWording(
        Severity.NOTE,
        "check_order",
        ngettext_lazy("%(count)s order delayed", "%(count)s orders delayed", "count"),
        _("The provider is asked again by itself. The customer has to wait."),
    ),
    "unreadable": NewsWording(
        Severity.WARNING,
        "reveal_card",
        ngettext_lazy(
            "%(count)s order with cards that cannot be opened",
            "%(count)s orders with cards that cannot be opened",
            "count",
        ),
        _(
            "The customer has seen that, and not the code. Those who run the site find the reason"
            " in its log."
        ),
    ),
    "locked": NewsWording(
        Severity.WARNING,
        "reveal_card",
        ngettext_lazy(
            "%(count)s link locked after wrong PINs",
            "%(count)s links locked after wrong PINs",
            "count",
        ),
        _("Ask the customer whether it was them, and send a new link."),
    ),
    "reveals": NewsWording(
        Severity.WARNING,
        "view_cardreveal",
        ngettext_lazy(
            "%(count)s attempt to reveal more codes than allowed",
            "%(count)s attempts to reveal more codes than allowed",
            "count",
        ),
        _(
            "It was refused. If this is not the person's usual work, ask them: somebody else may"
            " use their account."
        ),
    ),
}
_CODE_OF_STATUS = {
    Status.PARTIALLY_FILLED: "partly",
    Status.REFUNDED: "refunded",
    Status.REJECTED: "rejected",
}


class Mention(NamedTuple):
    """The reference of an order, and the URL of its page in the admin; "" if there is none."""

    reference: str
    url: str


def _nothing() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of news. Its texts are in the language that is active when they are read."""

    #: A key of :data:`WORDINGS`.
    code: str
    count: int = 1
    #: True if there are more than ``count``.
    has_more: bool = False
    #: True if the news is that this state does not hold any more.
    has_ended: bool = False
    #: The first of the orders that the item is about.
    orders: tuple[Mention, ...] = ()
    #: URL of the admin's page about this; "" if there is none.
    url: str = ""
    #: Returns the details as plain text, or "".
    explain: Callable[[], str] = field(default=_nothing, repr=False, compare=False)

    @property
    def severity(self) -> Severity:
        return Severity.NOTE if self.has_ended else self._wording.severity

    @property
    def headline(self) -> str:
        """The news in a few words, such as "2 orders to do"; a sentence if ``has_ended``."""
        if self.has_ended:
            return str(self._wording.ended)
        text = str(self._wording.headline % {"count": self.count})
        return gettext("%(what)s or more") % {"what": text} if self.has_more else text

    @property
    def detail(self) -> str:
        return "" if self.has_ended else self.explain()

    @property
    def remedy(self) -> str:
        """The advice on the news; "" if there is nothing to do."""
        return "" if self.has_ended else str(self._wording.remedy)

    @property
    def text(self) -> str:
        """The whole item as one line of plain text."""
        names = ", ".join(order.reference for order in self.orders)
        title = f"{self.headline}: {names}" if names else self.headline
        return " ".join(filter(None, (_as_sentence(title), self.detail, self.remedy)))

    @property
    def unnamed(self) -> int:
        """Number of orders that the item is about, but does not name."""
        return self.count - len(self.orders) if self.orders else 0

    @property
    def _wording(self) -> NewsWording:
        return WORDINGS[self.code]


@dataclass(frozen=True, slots=True)
class Situation:
    """A snapshot of the states and the open orders that are news."""

    at: datetime
    #: The states that hold, by code: each is told when it begins, while it lasts and when it ends.
    states: Mapping[str, Item]
    #: The open orders that are news, by code: each maps primary keys to references.
    matters: Mapping[str, Mapping[int, str]]


def current_situation() -> Situation:
    """Take a snapshot of the present situation."""
    now = timezone.now()
    states = {item.code: item for item in _states(now)}
    opened = Order.objects.open()
    matters = {
        "to_do": _named(Order.objects.all().needing_attention()),
        "unconfirmed": _named(opened.filter(status=Status.UNCONFIRMED).order_by(*_BY_DUE)),
        "delayed": _named(opened.filter(status=Status.DELAYED).order_by(*_BY_DUE)),
    }
    return Situation(now, states, matters)


def _named(orders: QuerySet[Order]) -> dict[int, str]:
    return dict(orders.values_list("pk", "reference")[: MOST + 1])


def order_item(code: str, orders: Iterable[tuple[int, str]]) -> Item:
    """An item about ``orders``, which are pairs of primary key and reference."""
    return _about_orders(code, orders, url=_list_of(code))


# States.


def _states(now: datetime) -> Iterator[Item]:
    state = ProviderState.objects.current()
    provider = _address("giftcards_providerstate_changelist")
    if state.paused_because == ProviderState.Pause.ACCESS:
        yield Item("paused", url=provider, explain=state.why_paused)
    elif state.is_failing(now):
        yield Item("failing", url=provider, explain=state.why_paused)
    if state.worker_problem(now):
        yield Item("worker", url=provider, explain=lambda: state.worker_problem(now))
    yield from _balance(state, url=provider)
    yield from _books(state)
    yield from _waiting(now)


def _balance(state: ProviderState, *, url: str) -> Iterator[Item]:
    if state.balance is None:
        return
    in_orders = money_in_open_orders()
    if state.is_balance_low or in_orders.exceeds(state.balance):
        yield Item("balance", url=url, explain=lambda: _in_figures(state, in_orders))


def _in_figures(state: ProviderState, in_orders: OpenMoney) -> str:
    text = gettext("The balance is %(balance)s; open orders cost %(amount)s.")
    texts = [text % {"balance": money_text(state.balance), "amount": money_text(in_orders.total)}]
    if state.is_balance_low:
        limit = gettext("It is below %(limit)s.")
        texts.append(limit % {"limit": money_text(core.low_balance)})
    if in_orders.exceeds(state.balance):
        texts.append(gettext("It does not cover the orders that are still to be sent."))
    return " ".join(texts)


def _books(state: ProviderState) -> Iterator[Item]:
    """Items about discrepancies in the provider's ledger."""
    if missing := missing_refunds():
        yield _about_orders(
            "missing",
            [(order.pk, order.reference) for order in missing],
            url=_list_of("missing"),
            explain=lambda: _adding_up(missing.values()),
        )
    unknown = unknown_entries(state)
    if count := sum(found.count for found in unknown.values()):
        yield Item(
            "unknown",
            min(count, MOST),
            has_more=count > MOST,
            url=_list_of("unknown"),
            explain=lambda: _adding_up(found.amount for found in unknown.values()),
        )
    if state.has_gap:
        yield Item("gap", url=_list_of("gap"), explain=lambda: _gap(state))


def _adding_up(amounts: Iterable[Decimal]) -> str:
    return gettext("Together %(amount)s.") % {"amount": money_text(sum(amounts, Decimal(0)))}


def _gap(state: ProviderState) -> str:
    if not state.ledger_gap:
        return gettext("Entries are missing that make up for each other.")
    text = gettext("It has changed by %(amount)s without an entry.")
    return text % {"amount": money_text(state.ledger_gap)}


def _waiting(now: datetime) -> Iterator[Item]:
    """An item about messages to customers that should have been sent some minutes ago."""
    late = Delivery.objects.late(now, limit=MOST + 1)
    if late:
        since = min(late)
        yield Item(
            "waiting",
            count=min(len(late), MOST),
            has_more=len(late) > MOST,
            url=_address("giftcards_delivery_delivery_changelist"),
            explain=lambda: (
                gettext("The first has been waiting since %(moment)s.")
                % {"moment": moment_text(since)}
            ),
        )


# Events.


def recent_events(since: datetime, until: datetime) -> list[Item]:
    """Items about the events after ``since``, up to and including ``until``."""
    return [
        *_settled(since, until),
        *_unsent(since, until),
        *_visits(since, until),
        *_reveals(since, until),
    ]


def _settled(since: datetime, until: datetime) -> Iterator[Item]:
    """Items about orders that became final without all of their cards."""
    settled = Order.objects.filter(settled_at__gt=since, settled_at__lte=until)
    # Excluded, rather than filtered for the other statuses, so that the index by time is used.
    unfilled = settled.exclude(status=Status.FULFILLED).order_by("settled_at")
    rows = list(unfilled.values_list("status", "pk", "reference")[: MOST + 1])
    for status, code in _CODE_OF_STATUS.items():
        yield from _some(
            code,
            [(key, name) for found, key, name in rows if found == status],
            has_more=len(rows) > MOST,
        )


def _unsent(since: datetime, until: datetime) -> Iterator[Item]:
    failed = Delivery.objects.filter(failed_at__gt=since, failed_at__lte=until)
    rows = failed.order_by("failed_at").values_list("order_id", "order__reference")
    found = list(rows[: MOST + 1])
    yield from _some("unsent", dict(found).items(), has_more=len(found) > MOST)


def _visits(since: datetime, until: datetime) -> Iterator[Item]:
    visits = LinkVisit.objects.filter(at__gt=since, at__lte=until).order_by("what", "at")
    kinds = {
        "locked": visits.filter(what=LinkVisit.What.LOCKED),
        "unreadable": visits.filter(what=LinkVisit.What.REVEALED, unreadable__gt=0),
    }
    for code, rows in kinds.items():
        found = list(rows.values_list("link__order_id", "link__order__reference")[: MOST + 1])
        yield from _some(code, dict(found).items(), has_more=len(found) > MOST)


def _reveals(since: datetime, until: datetime) -> Iterator[Item]:
    """An item about refused reveals: the admin's log has one trace of them per person and hour."""
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
        yield Item("reveals", count, url=_address("giftcards_cardreveal_changelist"))


def _some(
    code: str, orders: Iterable[tuple[int, str]], *, has_more: bool = False
) -> Iterator[Item]:
    item = _about_orders(code, orders, url=_list_of(code), has_more=has_more)
    if item.count:
        yield item


def _about_orders(
    code: str,
    orders: Iterable[tuple[int, str]],
    *,
    url: str,
    has_more: bool = False,
    explain: Callable[[], str] = _nothing,
) -> Item:
    rows = list(orders)
    return Item(
        code,
        min(len(rows), MOST),
        has_more or len(rows) > MOST,
        orders=tuple(
            Mention(name, _address("giftcards_order_change", key)) for key, name in rows[:_NAMED]
        ),
        url=url,
        explain=explain,
    )


# URLs of the admin.

# By code: the admin page that lists its rows, and the query string.
_LISTS: Mapping[str, tuple[str, str]] = {
    "to_do": ("giftcards_order_changelist", "?attention=needed"),
    **{
        code: ("giftcards_order_changelist", f"?status__exact={status}")
        for status, code in (
            *_CODE_OF_STATUS.items(),
            (Status.UNCONFIRMED, "unconfirmed"),
            (Status.DELAYED, "delayed"),
        )
    },
    "missing": ("giftcards_order_changelist", "?ledger=missing"),
    "unknown": ("giftcards_ledgerentry_changelist", "?period=week"),
    "gap": ("giftcards_ledgerentry_changelist", "?period=week"),
    # Also lists earlier messages, but none that a later one has made up for.
    "unsent": ("giftcards_delivery_delivery_changelist", "?customers=untold"),
}


def _list_of(code: str) -> str:
    page, query = _LISTS.get(code, ("", ""))
    address = _address(page) if page else ""
    return address and address + query


def _address(page: str, *args: object) -> str:
    """The URL of a page of the admin; "" if ``BASE_URL`` or the page is missing."""
    if not conf.base_url:
        return ""
    try:
        return conf.base_url + reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return ""


def _as_sentence(text: str) -> str:
    """The text with a capital, and a full stop if it has none."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
