"""The page of one order, and the class for all pages about orders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import flatten
from django.core.validators import EMPTY_VALUES
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html_join
from django.utils.http import urlencode
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.cards.revealing import ASK, REVEAL
from giftcards.admin.frame import extensions
from giftcards.admin.frame.forms import state_token
from giftcards.admin.frame.pages import OrderPages
from giftcards.admin.frame.rows import SEES_HINTS, column, order_link
from giftcards.admin.orders.approval import CANCEL_ORDER, PRICE, REVIEW, WAIT
from giftcards.admin.orders.breakdown import bar, customer_lines, margin_lines, provider_lines
from giftcards.admin.orders.correcting import CUSTOMER
from giftcards.admin.orders.customer import double_of, other_orders, people
from giftcards.admin.orders.customer_data import DATA
from giftcards.admin.orders.describing import told_to_customers
from giftcards.admin.orders.follow_up import (
    ACKNOWLEDGE,
    CHECK,
    DISPUTE,
    FINGERPRINT,
    NOTE,
    REORDER,
    fingerprint,
)
from giftcards.admin.orders.listing import OrderList
from giftcards.admin.orders.placing import PlacingPage
from giftcards.admin.orders.refunding import CANCEL, PAY_BACK, SALE, refund_rows
from giftcards.admin.orders.resolving import ADOPT, RELEASE, RESOLVE
from giftcards.admin.orders.searching import SEARCH
from giftcards.admin.orders.summary import SummaryInput, summarise, why_at_a_standstill
from giftcards.admin.orders.timeline import RelatedOrder, Timeline
from giftcards.conf import conf
from giftcards.engine.reordering import reorder_of
from giftcards.exceptions import CodeDestroyed, ConfigurationError, DecryptionError
from giftcards.keys.keyring import Keyring
from giftcards.models import Card, Order
from giftcards.rules.money import refund_breakdown
from giftcards.rules.problems import Entry, Explanation, Problem
from giftcards.rules.states import ACCEPTED, FOLLOWED, Status
from giftcards.text.display import (
    bdi,
    exact_moment,
    explained,
    isolated,
    lines,
    moment,
    named,
    status_badge,
)


def _metadata(_order: Order, metadata: dict[str, Any]) -> str:
    pairs = (
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in metadata.items()
    )
    line = '<span class="giftcards-line"><bdi>{}</bdi>: <bdi>{}</bdi></span>'
    return format_html_join("", line, pairs)


_COSTS = (("expected_price", "ceiling_given"), ("price_approved",))
_DETAILS = (
    # The subtitle also contains the reference and the status, but some themes do not show a
    # subtitle.
    ("its_reference", "its_status"),
    ("product", "type"),
    ("ordered", "its_environment"),
    ("sale", "sale_total"),
    *_COSTS,
    ("provider_id", "last_checked"),
    ("reference_there",),
    ("in_group", "metadata_given"),
    ("account",),
)
_GIFT = (("delivery",), ("words",))
# The buttons of the page have the sequence of these actions, so rare actions come last.
_ACTIONS = (
    RESOLVE,
    PRICE,
    REVIEW,
    WAIT,
    CHECK,
    PAY_BACK,
    REORDER,
    SALE,
    CANCEL_ORDER,
    DISPUTE,
    RELEASE,
    CUSTOMER,
    ACKNOWLEDGE,
    NOTE,
    CANCEL,
)
_PAGES = (FINGERPRINT, ADOPT, SEARCH, ASK, REVEAL, DATA)
# Codes of the problems that put an order on hold. The top of the page already describes these
# problems.
_ON_HOLD_FOR = {"price_above", "review_wanted"}
# The maximum number of links to orders of the same group. A link to the list opens all of them.
_MOST_OF_GROUP = 20


class OrderPage(OrderPages):
    core_actions = _ACTIONS
    core_pages = _PAGES
    readonly_fields = (*flatten(_DETAILS), *flatten(_GIFT))

    its_reference = column(Order, "reference")
    its_status = column(Order, "status", lambda order, _status: status_badge(order.status))
    product = column(Order, "product_id", lambda order, key: named(order.product_name, key))
    type = column(Order, "type_id", lambda order, key: named(order.type_name, key))
    ordered = column(Order, "quantity")
    its_environment = column(
        Order, "environment", lambda order, _key: order.get_environment_display()
    )
    sale = column(Order, "sale_price")
    sale_total = column(Order, "sale_amount")
    expected_price = column(Order, "price_at_placing")
    ceiling_given = column(Order, "max_price")
    price_approved = column(Order, "approved_price")
    provider_id = column(Order, "provider_order_id")
    reference_there = column(Order, "provider_reference")
    last_checked = column(Order, "checked_at", lambda _order, at: moment(at))
    in_group = column(Order, "group")
    account = column(Order, "user", lambda _order, user: bdi(user.get_username()))
    metadata_given = column(Order, "metadata", _metadata)
    delivery = column(Order, "deliver_at", lambda _order, at: moment(at))
    words = column(Order, "gift_message", lambda _order, text: lines(text))

    def get_fieldsets(self, request: HttpRequest, obj: Order | None = None) -> Any:
        if obj is None:
            return super().get_fieldsets(request, obj)
        sees_costs = self.may_see_costs(request)
        rows = [row for row in _DETAILS if sees_costs or row not in _COSTS]
        parts = ((_("Details"), rows), (_("Gift"), _GIFT))
        known = [(title, list(self._known(obj, part))) for title, part in parts]
        return [(title, {"fields": fields}) for title, fields in known if fields]

    def _known(self, order: Order, rows: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
        """Yield the rows of a fieldset, without empty fields."""
        for row in rows:
            known = [
                name
                for name in row
                if getattr(order, getattr(OrderPage, name).of) not in EMPTY_VALUES
            ]
            if known:
                yield tuple(known)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **named: Any
    ) -> HttpResponse:
        order: Order | None = context["original"]
        if order is not None:
            context |= self._sections(request, order)
        return super().render_change_form(request, context, *args, **named)

    def _sections(self, request: HttpRequest, order: Order) -> dict[str, Any]:
        more = extensions.called("on_order", self, request, order)
        not_received = next(filter(None, (each.not_received for each in more)), "")
        sees_costs = self.may_see_costs(request)
        others = self._others(request, order)
        repeats, reordered_as = others["repeats"], others["reordered_as"]
        sees_hints = request.user.has_perm(SEES_HINTS)
        past = Timeline(
            order,
            shows_costs=sees_costs,
            shows_hints=sees_hints,
            shows_reasons=request.user.has_perm("giftcards.view_cardreveal"),
            repeats=repeats,
            reordered_as=reordered_as,
        )
        # If the missing cards were ordered again, the summary says so even to people who may not
        # see the new order, so the new order is read here.
        again, link = (reordered_as.order, reordered_as.link) if reordered_as else (None, "")
        if again is None and order.reordered_amount is not None:
            again = reorder_of(order)
        story = SummaryInput(
            order,
            sees_costs,
            past.reason,
            again is not None,
            link,
            why_at_a_standstill(order),
            not_received,
        )
        return {
            # The title names the order, because not every theme shows a subtitle. The title is
            # plain text, because the browser's window has the same title.
            "title": gettext("Order %(reference)s") % {"reference": isolated(order)},
            "told": told_to_customers(order),
            "subtitle": None,
            "state_token": state_token(order),
            "has_history": past.has_history,
            "summary": summarise(story),
            "badge": status_badge(order.status, is_received=False) if not_received else "",
            **people(self, request, order),
            **other_orders(self, request, order),
            "double": double_of(self, request, order),
            "buttons": self.get_order_buttons(request, order),
            "whom_to_ask": self.whom_to_ask(request, order),
            "problems": [
                _problem(entry, shows_costs=sees_costs)
                for entry in order.problems
                if not (order.is_on_hold and entry.get("code") in _ON_HOLD_FOR)
            ],
            # An order on hold keeps its problem until a person approves or cancels the order.
            "may_acknowledge": ACKNOWLEDGE.permission(self, request) and not order.is_on_hold,
            "shows_hints": sees_hints,
            **_money(order, again, shows_costs=sees_costs),
            "refunds": refund_rows(past.refunds),
            "may_settle": CANCEL.permission(self, request),
            "timeline": past.events,
            "more_sections": [each.section for each in more],
            "more_money": [each.money for each in more],
            "may_note": NOTE.permission(self, request),
            "may_reveal": request.user.has_perm("giftcards.reveal_card"),
            **cards_shown(order, with_tails=self.may_see_tails(request)),
            **others,
            "fingerprint": "" if order.is_final else fingerprint(order),
        }

    def _others(self, request: HttpRequest, order: Order) -> dict[str, Any]:
        """Return the related orders as template context.

        The context contains only orders that the person is allowed to see.
        """

        def seen(orders: Iterable[Order]) -> list[RelatedOrder]:
            return [RelatedOrder(other, order_link(self.admin_site, other)) for other in orders]

        orders = self.get_queryset(request)
        # Two queries are made, because SQLite would read the whole table for a single query with
        # both conditions.
        first = [] if order.repeats_id is None else seen(orders.filter(pk=order.repeats_id))
        again = seen(orders.filter(repeats=order.pk).order_by())
        found: dict[str, Any] = {
            "repeats": first[0] if first else None,
            "reordered_as": again[0] if again else None,
        }
        if order.group:
            # Within a group, the index is sorted by primary key.
            same = orders.filter(group=order.group).exclude(pk=order.pk).order_by("-pk")
            of_group = seen(same[: _MOST_OF_GROUP + 1])
            found["of_group"] = of_group[:_MOST_OF_GROUP]
            if len(of_group) > _MOST_OF_GROUP:
                found["whole_group"] = (
                    f"{self.url_of('changelist')}?{urlencode({'group': order.group})}"
                )
        return found


def _problem(entry: Entry, *, shows_costs: bool) -> tuple[str, Explanation, tuple[str, str] | None]:
    """Return a problem's key, its messages, and its acknowledgement.

    The acknowledgement is a tuple of the person and the time, or ``None`` if the problem has not
    been acknowledged.
    """
    problem, acknowledged = Problem.of(entry), None
    if "acknowledged_at" in entry:
        acknowledged = (
            bdi(entry["acknowledged_by"]),
            moment(datetime.fromisoformat(entry["acknowledged_at"])),
        )
    return problem.key, explained(problem, shows_costs=shows_costs), acknowledged


def cards_shown(order: Order, *, with_tails: bool) -> dict[str, Any]:
    """Return the cards of ``order`` as template context.

    If ``with_tails`` is True, the last characters of each code are included.
    """
    rows, keyring = order.cards.with_repeats(), None
    context: dict[str, Any] = {}
    if with_tails:
        try:
            keyring = conf.keyring()
        except ConfigurationError:
            text = gettext(
                "The encryption keys in the settings cannot be used, so cards cannot be decrypted."
            )
            context["no_keys"] = text
    if keyring is None:
        rows = rows.defer("sealed")
    context["cards"] = [
        (card, exact_moment(card.received_at), *_tail(card, keyring)) for card in rows
    ]
    return context


def _tail(card: Card, keyring: Keyring | None) -> tuple[str, str]:
    """Return the last characters of the code, and the decryption error.

    The error says why the card cannot be decrypted. Both values may be "".
    """
    if keyring is None:
        return "", ""
    try:
        return card.tail(keyring), ""
    except CodeDestroyed:
        return "", gettext("This code was destroyed and can no longer be shown.")
    except DecryptionError:
        text = gettext("This card cannot be decrypted. Contact your developer.")
        return "", text


def _money(order: Order, replacement: Order | None, *, shows_costs: bool) -> dict[str, Any]:
    settled = refund_breakdown(order)
    context: dict[str, Any] = {
        "bar": bar(order),
        "customer_lines": customer_lines(order, replacement=replacement),
        "is_inconsistent": settled is not None and not settled.is_consistent,
        "shows_costs": shows_costs,
    }
    if shows_costs:
        context |= {
            "provider_lines": provider_lines(order),
            "margin_lines": list(margin_lines(order)),
            "provider_status": _provider_status(order),
        }
    return context


def _provider_status(order: Order) -> Status | None:
    if order.status not in ACCEPTED:
        return None
    return Status.HANDLING if order.status in FOLLOWED else Status(order.status)


@admin.register(Order)
class OrderAdmin(OrderList, OrderPage, PlacingPage):
    """The pages about orders.

    To use a subclass, unregister this class and register the subclass. The ``get_queryset`` method
    of this class decides which orders a person is allowed to see anywhere in the admin.
    """

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    # Orders are history, so they cannot be edited or deleted.

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False
