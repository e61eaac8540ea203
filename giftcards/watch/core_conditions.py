"""The conditions of the core, with their evaluation and messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.catalogue import price_moves, since_yesterday
from giftcards.conf import CURRENCY, conf
from giftcards.engine.task_queue import explain_schedule
from giftcards.models import OfferChange, Order, ProviderState, StatusChange
from giftcards.models.order_queries import (
    NEEDING_ATTENTION,
    ON_HOLD_FOR_PRICE,
    ON_HOLD_FOR_REVIEW,
    OWING,
    SALE_UNKNOWN,
)
from giftcards.models.orders import LOST, WITH_OTHER_PROBLEMS, WITHOUT_PROBLEMS
from giftcards.models.provider import configured_key
from giftcards.rules.problems import Explanation
from giftcards.rules.states import Status
from giftcards.text.display import count_text, money_text
from giftcards.watch.conditions import MOST, Condition, Finding, OfRows, Severity, Standing
from giftcards.watch.overview import try_keys

# Work counts as held up if it has been due for this long. This is longer than the pause after a
# failed request, and longer than it takes to start the loop again.
PATIENCE = timedelta(minutes=5)
# The columns of the index of open orders.
_BY_DUE = ("finalized_at", "status", "due_at", "pk")


def _paused(standing: Standing) -> Finding | None:
    state = standing.state
    if not (why := state.why_paused()):
        return None
    return Finding(
        why,
        since=state.paused_since,
        explain=lambda: state.explain_pause().for_staff,
        allows_sales=state.is_of_one_machine and not standing.is_refused,
    )


def _refused(standing: Standing) -> Finding | None:
    return _paused(standing) if standing.is_refused else None


def _is_silent(standing: Standing) -> Finding | None:
    state = standing.state
    # Another condition reports that a refused key has stopped all calls.
    if standing.is_refused or not state.is_failing(standing.now):
        return None
    since = "for more than 5 minutes" if state.succeeded_at else "yet"
    sentence = f"The provider has not given a usable answer {since}. {state.failure}".strip()
    # Only the text of the explanation is shown, without its advice, because the condition has its
    # own remedy.
    return Finding(sentence, since=state.succeeded_at, explain=lambda: state.explain_pause().text)


def _has_no_worker(standing: Standing) -> Finding | None:
    def problem() -> Explanation:
        found = standing.state.explain_worker(standing.now)
        # A missing schedule may be harmless, because `giftcards_worker` also records that a worker
        # is running.
        if found.text or standing.state.is_ticking(standing.now):
            return found
        return explain_schedule()

    sentence, state = problem().for_developers, standing.state
    last_sign = max(filter(None, (state.last_tick_at, state.swept_at)), default=None)
    return (
        Finding(sentence, since=last_sign, explain=lambda: problem().for_staff)
        if sentence
        else None
    )


def _is_undone(standing: Standing) -> Finding | None:
    overdue = standing.state.overdue_chores(standing.now)
    if not overdue:
        return None
    sentence = (
        "Parts of the daily work have not been completed for more than an hour. The log may show"
        " the reason. Not completed:"
        f" {', '.join(overdue)}."
    )
    times = standing.state.chores_record[1]
    ended = [at for name in overdue if (at := times[name])]
    return Finding(sentence, since=min(ended, default=None))


def _held_up(standing: Standing) -> Sequence[QuerySet[Any]]:
    due_by = standing.now - PATIENCE
    outboxes = (StatusChange.objects, OfferChange.objects)
    return [
        *(outbox.waiting_since(due_by) for outbox in outboxes),
        ProviderState.objects.with_unread_queue(due_by),
        *Order.objects.held_up(due_by),
    ]


def _is_held_up(
    waiting_changes: QuerySet[StatusChange],
    waiting_offers: QuerySet[OfferChange],
    unread_queue: QuerySet[ProviderState],
    *waiting_orders: QuerySet[Order],
) -> Finding | None:
    changes, offers = waiting_changes.count(), waiting_offers.count()
    orders = sum(each.count() for each in waiting_orders)
    held_up = [
        f"1 {noun} has waited {what}" if number == 1 else f"{number} {noun}s have waited {what}"
        for number, noun, what in (
            (orders, "order", "to be sent or checked"),
            (changes, "status change", "to be announced to your receivers"),
            (offers, "offer change", "to be announced to your receivers"),
        )
        if number
    ]
    minutes = PATIENCE.total_seconds() / 60
    found = [f"{' and '.join(held_up)} for more than {minutes:.0f} minutes."] if held_up else []
    if unread_queue.exists():
        found.append(
            f"No worker has taken a task from the queue for more than {minutes:.0f} minutes, so"
            " messages are late. Start the queue's workers, for example with `manage.py qcluster`."
        )
    if not found:
        return None

    def explain() -> str:
        told = (
            ngettext(
                "%(count)s order should have been sent or checked by now.",
                "%(count)s orders should have been sent or checked by now.",
                orders,
            )
            % {"count": count_text(orders)}
            if orders
            else "",
            gettext("Your shop has not received all notifications.") if changes or offers else "",
        )
        return " ".join(filter(None, told))

    page, query = (_ORDERS, "?attention=waiting") if orders else ("", "")
    return Finding(" ".join(found), explain=explain, page=page, query=query)


def _has_several_keys(standing: Standing) -> Finding | None:
    keys = standing.state.api_keys.at_work(standing.now)
    if len(keys) < 2:
        return None
    return Finding(
        f"Processes with different API keys use this database: {', '.join(keys)}. Configure the"
        " same key for every process. Otherwise, orders are bought in the wrong account. After you"
        " change the key, this message disappears within 10 minutes."
    )


def _are_unwanted(standing: Standing) -> Finding | None:
    own = configured_key()
    since = [key.references_unwanted_at for key in standing.state.api_keys if key.pk == own]
    if not conf.send_reference or not any(since):
        return None
    return Finding(
        "The provider rejects orders that contain our reference, so the app does not send"
        " references. Turn SEND_REFERENCE off, or ask the provider. If you use another API"
        " key, or turn SEND_REFERENCE off and later on again, the app tries to send references"
        " again.",
        since=since[0],
    )


def _do_not_open(standing: Standing) -> Finding | None:
    troubles = dict.fromkeys(filter(None, standing.once(try_keys).values()))
    return Finding(" ".join(troubles)) if troubles else None


def _orders_that(condition: Q, *, singular: str, plural: str) -> OfRows:
    tell = partial(_of_orders, singular=singular, plural=plural)
    return OfRows(lambda _standing: [Order.objects.filter(condition)], tell)


def _but_problems(orders: QuerySet[Order], standing: Standing) -> QuerySet[Order]:
    return orders.filter(WITHOUT_PROBLEMS) if standing.leaves_out_problems else orders


def _amounts(condition: Q, amount: str, *, singular: str, plural: str) -> OfRows:
    def find(standing: Standing) -> Sequence[QuerySet[Order]]:
        return [_but_problems(Order.objects.filter(condition), standing)]

    def tell(orders: QuerySet[Order]) -> Finding | None:
        rows = list(orders.values_list("pk", "reference", amount)[: MOST + 1])
        # Python adds up the amounts, because SQLite would add them as inexact binary fractions.
        total = sum((row[2] for row in rows[:MOST]), Decimal(0))

        def explain() -> str:
            text = gettext("The total is %(amount)s.")
            if len(rows) > MOST:
                text = gettext("The total is more than %(amount)s.")
            return text % {"amount": money_text(total)}

        found = {key: reference for key, reference, _amount in rows}
        return Finding.of_rows(
            len(found), singular=singular, plural=plural, orders=found, explain=explain
        )

    return OfRows(find, tell)


def _is_low(standing: Standing) -> Finding | None:
    state = standing.state
    if not state.is_balance_low:
        return None

    def explain() -> str:
        text = gettext(
            "The balance is %(balance)s, which is below %(limit)s. Top up your account at the"
            " provider."
        )
        amounts = {"balance": state.balance, "limit": conf.low_balance}
        return text % {name: money_text(amount) for name, amount in amounts.items()}

    sentence = (
        f"The account balance is {state.balance:.2f} {CURRENCY}, which is below LOW_BALANCE"
        f" ({conf.low_balance:.2f})."
    )
    return Finding(sentence, explain=explain)


def _moves(_standing: Standing) -> Sequence[QuerySet[OfferChange]]:
    return [OfferChange.objects.filter(since_yesterday(OfferChange.What.PRICE))]


def _news(_standing: Standing) -> Sequence[QuerySet[OfferChange]]:
    return [OfferChange.objects.filter(since_yesterday(OfferChange.What.NEW))]


def _are_new(changes: QuerySet[OfferChange]) -> Finding | None:
    return Finding.of_rows(
        len(changes.order_by().values("type__product").distinct()[: MOST + 1]),
        singular="1 product has new types since yesterday.",
        plural="%s products have new types since yesterday.",
    )


def _have_moved(changes: QuerySet[OfferChange]) -> Finding | None:
    kinds = changes.order_by().values("type").distinct()
    number = len(kinds[: MOST + 1])

    def explain() -> str:
        latest = changes.filter(type__in=list(kinds.values_list("type", flat=True)[:MOST]))
        moves = list(price_moves(latest))
        counts = {
            "up": sum(move.cost > move.old_cost for move in moves),
            "down": sum(move.cost < move.old_cost for move in moves),
            "off": sum(move.is_off_shelf for move in moves),
        }
        text = gettext("More expensive: %(up)d. Cheaper: %(down)d. No longer for sale: %(off)d.")
        return text % counts

    return Finding.of_rows(
        number,
        singular="1 price has changed since yesterday.",
        plural="%s prices have changed since yesterday.",
        explain=explain,
    )


def _lost(_standing: Standing) -> Sequence[QuerySet[Order]]:
    return [Order.objects.open().filter(LOST).order_by(*_BY_DUE)]


def _is_unconfirmed(orders: QuerySet[Order]) -> Finding | None:
    rows = list(orders.values_list("pk", "reference", "candidates", "due_at")[: MOST + 1])
    undecided = [bool(candidates) or due_at is None for _, _, candidates, due_at in rows[:MOST]]
    number = undecided.count(True)

    def explain() -> str:
        if not number:
            return ""
        if all(undecided):
            return ngettext(
                "Somebody has to record what happened to this order.",
                "Somebody has to record what happened to these orders.",
                number,
            )
        text = ngettext(
            "Somebody has to record what happened to %(count)s of these orders.",
            "Somebody has to record what happened to %(count)s of these orders.",
            number,
        )
        return text % {"count": count_text(number)}

    return Finding.of_rows(
        len(rows),
        singular="1 order is unconfirmed.",
        plural="%s orders are unconfirmed.",
        orders={key: reference for key, reference, _, _ in rows},
        explain=explain,
    )


def _lacking_cards(standing: Standing) -> Sequence[QuerySet[Order]]:
    # Staff cannot acknowledge an order whose sale amount is unknown, so such an order counts only
    # for a day.
    lately = Order.objects.filter(SALE_UNKNOWN, finalized_at__gt=standing.lately)
    unknown = lately.exclude(status=Status.FULFILLED).filter(reordered_amount=None)
    return [Order.objects.filter(OWING), unknown]


def _lack_cards(owing: QuerySet[Order], unknown: QuerySet[Order]) -> Finding | None:
    found: dict[int, str] = {}
    for orders in (owing, unknown):
        found |= orders.values_list("pk", "reference")[: MOST + 1]
    return Finding.of_rows(
        min(len(found), MOST + 1),
        singular="1 order was not delivered completely.",
        plural="%s orders were not delivered completely.",
        orders=found,
    )


def _delayed(standing: Standing) -> Sequence[QuerySet[Order]]:
    orders = Order.objects.open().filter(status=Status.DELAYED).order_by(*_BY_DUE)
    return [_but_problems(orders, standing)]


def _of_orders(orders: QuerySet[Order], *, singular: str, plural: str) -> Finding | None:
    found = dict(orders.values_list("pk", "reference")[: MOST + 1])
    return Finding.of_rows(len(found), singular=singular, plural=plural, orders=found)


_PROVIDER, _ORDERS = "giftcards_providerstate_changelist", "giftcards_order_changelist"
_PRODUCTS = "giftcards_product_changelist"
_SEE_ITS_PAGE = _("Each order's page shows the problem and what you can do about it.")

CONDITIONS: Sequence[Condition] = [
    Condition(
        code="attention",
        holds="At least one order has a problem that staff have not acknowledged.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=_orders_that(
            NEEDING_ATTENTION,
            singular="1 order needs attention.",
            plural="%s orders need attention.",
        ),
        headline=ngettext_lazy(
            "%(count)s order that needs attention",
            "%(count)s orders that need attention",
            "count",
        ),
        remedy=_SEE_ITS_PAGE,
        page=_ORDERS,
        is_about_orders=True,
        query="?attention=needed",
        is_in_digests=False,
        is_on_start_page=False,
    ),
    Condition(
        code="order_problems",
        holds="At least one of the orders counted by `attention` is neither unconfirmed nor on"
        " hold.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=_orders_that(
            WITH_OTHER_PROBLEMS,
            singular="1 order has a problem.",
            plural="%s orders have problems.",
        ),
        headline=ngettext_lazy(
            "%(count)s order with a problem", "%(count)s orders with problems", "count"
        ),
        remedy=_SEE_ITS_PAGE,
        page=_ORDERS,
        is_about_orders=True,
        query="?attention=other",
    ),
    Condition(
        code="paused",
        holds="Requests to the provider are paused, or were paused within the last minute.",
        severity=Severity.URGENT,
        permission="giftcards.view_order",
        judge=_paused,
        page=_PROVIDER,
        stops_sales=True,
    ),
    Condition(
        code="access_refused",
        holds="Requests are paused because the provider refuses the API key or the IP address."
        " They stay paused until staff act.",
        severity=Severity.URGENT,
        permission="giftcards.check_order",
        judge=_refused,
        headline=_("requests to the provider are paused"),
        ended=_("Requests to the provider are no longer paused."),
        page=_PROVIDER,
    ),
    Condition(
        code="worker",
        holds="No worker has run for three minutes, or the schedule is missing or paused and"
        " nothing else calls the worker. Start a worker, and run `giftcards_setup`.",
        severity=Severity.URGENT,
        permission="giftcards.check_order",
        judge=_has_no_worker,
        headline=_("background work has stopped"),
        remedy=_("Orders are not sent or checked until background work resumes."),
        ended=_("Background work is running again."),
        page=_PROVIDER,
        stops_sales=True,
    ),
    Condition(
        code="daily_work_overdue",
        holds="A part of the daily work has not been completed for an hour, although workers run."
        " Read the log. If it shows no error, the worker has too little time for the daily"
        " work.",
        severity=Severity.WARNING,
        permission="giftcards.view_providerstate",
        judge=_is_undone,
        headline=_("part of the daily work was not completed"),
        remedy=_("Orders are still sent and checked. Ask your developer to look at the log."),
        page=_PROVIDER,
        is_in_digests=False,
    ),
    Condition(
        code="provider_failing",
        holds="The provider has not given a usable answer for more than five minutes: three"
        " requests in a row failed, or the provider asks for fewer requests.",
        severity=Severity.URGENT,
        permission="giftcards.check_order",
        judge=_is_silent,
        headline=_("requests to the provider are failing"),
        remedy=_(
            "The app repeats the requests automatically. If the problem persists, contact the"
            " provider's support."
        ),
        ended=_("The provider is answering again."),
        page=_PROVIDER,
        stops_sales=True,
    ),
    Condition(
        code="queue",
        holds="For more than five minutes, an order has waited to be sent, checked or searched"
        " for, or a change has waited for your receivers, or no worker has taken a task from"
        " the queue.",
        severity=Severity.URGENT,
        permission="giftcards.view_providerstate",
        judge=OfRows(_held_up, _is_held_up),
        headline=_("orders or notifications have been waiting for too long"),
        remedy=_(
            "The app continues with waiting orders and notifications automatically. If it does"
            " not, contact your developer."
        ),
        page=_PROVIDER,
        is_in_digests=False,
    ),
    Condition(
        code="api_keys",
        holds="Processes with different API keys have sent requests within the last 10 minutes."
        " Configure the same key for every process.",
        severity=Severity.URGENT,
        permission="giftcards.view_providerstate",
        judge=_has_several_keys,
        headline=_("the shop's programs use different API keys"),
        remedy=_("Cards may be bought in the wrong account. Contact your developer immediately."),
        page=_PROVIDER,
        is_in_digests=False,
    ),
    Condition(
        code="reference_refused",
        holds="`SEND_REFERENCE` is on, but the provider accepts orders only without a reference."
        " Turn the setting off.",
        severity=Severity.NOTE,
        permission="giftcards.view_providerstate",
        judge=_are_unwanted,
        headline=_("the provider does not accept order references"),
        remedy=_("Orders are sent without references. Tell your developer."),
        page=_PROVIDER,
        is_in_digests=False,
    ),
    Condition(
        code="balance",
        holds="The last known balance is below `LOW_BALANCE`. Top up the account.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=_is_low,
        headline=_("the balance is low"),
        ended=_("The balance is no longer low."),
        page=_PROVIDER,
        limits_sales=True,
        is_above_list=True,
    ),
    Condition(
        code="costs_changed",
        holds="A cost has changed since yesterday.",
        severity=Severity.NOTE,
        permission="giftcards.view_cost",
        judge=OfRows(_moves, _have_moved),
        headline=ngettext_lazy(
            "%(count)s price changed since yesterday",
            "%(count)s prices changed since yesterday",
            "count",
        ),
        remedy=_("Compare the new prices with your own prices."),
        ended=_("No price has changed since yesterday."),
        page=_PRODUCTS,
        is_about_shelf=True,
        query="?price=changed",
    ),
    Condition(
        code="products_new",
        holds="The provider has a new product or product type since yesterday.",
        severity=Severity.NOTE,
        permission="giftcards.view_product",
        judge=OfRows(_news, _are_new),
        headline=ngettext_lazy(
            "New cards have been added to %(count)s product since yesterday",
            "New cards have been added to %(count)s products since yesterday",
            "count",
        ),
        remedy=_("Check the prices of the new cards, and decide whether to sell them."),
        ended=_("There are no new products since yesterday."),
        page=_PRODUCTS,
        is_about_shelf=True,
        query="?price=new",
    ),
    Condition(
        code="encryption_keys",
        holds="The newest or the oldest card cannot be decrypted with the encryption keys. Put the"
        " missing key back.",
        severity=Severity.URGENT,
        permission="giftcards.view_providerstate",
        judge=_do_not_open,
        headline=_("stored cards cannot be decrypted"),
        remedy=_("Customers cannot see their codes. Contact your developer immediately."),
        page=_PROVIDER,
        is_in_digests=False,
        stops_sales=True,
    ),
    Condition(
        code="orders_unconfirmed",
        holds="At least one order is `UNCONFIRMED`, and staff have not acknowledged it.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=OfRows(_lost, _is_unconfirmed),
        headline=ngettext_lazy(
            "%(count)s unconfirmed order", "%(count)s unconfirmed orders", "count"
        ),
        remedy=_(
            "The app is searching for unconfirmed orders at the provider. Do not buy the cards"
            " again."
        ),
        page=_ORDERS,
        is_about_orders=True,
        query="?attention=unconfirmed",
    ),
    Condition(
        code="on_hold_price",
        holds="At least one order is on hold because of its price.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=_orders_that(
            ON_HOLD_FOR_PRICE,
            singular="1 order is on hold because a card costs more than the price limit.",
            plural="%s orders are on hold because a card costs more than the price limit.",
        ),
        headline=ngettext_lazy(
            "%(count)s order on hold because of its price",
            "%(count)s orders on hold because of their price",
            "count",
        ),
        remedy=_(
            "For each order, approve the price or cancel the order. The app buys the cards only"
            " after you approve the price."
        ),
        takes=("giftcards.resolve_order", "giftcards.view_cost"),
        page=_ORDERS,
        is_about_orders=True,
        query="?attention=on_hold_price",
    ),
    Condition(
        code="on_hold_review",
        holds="At least one order is on hold for review.",
        severity=Severity.WARNING,
        permission="giftcards.check_order",
        judge=_orders_that(
            ON_HOLD_FOR_REVIEW,
            singular="1 order is on hold until staff review it.",
            plural="%s orders are on hold until staff review them.",
        ),
        headline=ngettext_lazy(
            "%(count)s order on hold for review",
            "%(count)s orders on hold for review",
            "count",
        ),
        remedy=_("Approve or cancel each order. The cards are not bought until then."),
        takes=("giftcards.resolve_order",),
        page=_ORDERS,
        is_about_orders=True,
        query="?attention=on_hold_review",
    ),
    Condition(
        code="customers_owed",
        holds="You owe at least one customer money.",
        severity=Severity.WARNING,
        permission="giftcards.settle_refund",
        judge=_amounts(
            OWING,
            "open_amount",
            singular="The customer of 1 order is owed money.",
            plural="The customers of %s orders are owed money.",
        ),
        headline=ngettext_lazy(
            "%(count)s order whose customer is owed money",
            "%(count)s orders whose customers are owed money",
            "count",
        ),
        remedy=_("For each order, order the missing cards again or pay the customer back."),
        takes=("giftcards.settle_refund",),
        page=_ORDERS,
        is_about_orders=True,
        query="?refund=owed",
        is_in_digests=False,
        overlaps_problems=True,
    ),
    Condition(
        code="cards_missing",
        holds=(
            "At least one order was not delivered completely, its missing cards were not"
            " ordered again, and you owe the customer money. An order whose sale amount is"
            " unknown counts only for one day after it became final."
        ),
        severity=Severity.WARNING,
        permission="giftcards.view_order",
        judge=OfRows(_lacking_cards, _lack_cards),
        headline=ngettext_lazy(
            "%(count)s order with missing cards",
            "%(count)s orders with missing cards",
            "count",
        ),
        remedy=_("For each order, order the missing cards again or pay the customer back."),
        takes=("giftcards.add_order", "giftcards.settle_refund"),
        is_about_orders=True,
        # The start page shows the condition "customers_owed".
        is_on_start_page=False,
    ),
    Condition(
        code="orders_delayed",
        holds="At least one order is `DELAYED`.",
        severity=Severity.NOTE,
        permission="giftcards.check_order",
        judge=OfRows(
            _delayed,
            partial(_of_orders, singular="1 order is delayed.", plural="%s orders are delayed."),
        ),
        headline=ngettext_lazy("%(count)s delayed order", "%(count)s delayed orders", "count"),
        remedy=_("The app checks these orders again automatically. Ask each customer to wait."),
        page=_ORDERS,
        is_about_orders=True,
        query=f"?status__exact={Status.DELAYED}",
        overlaps_problems=True,
    ),
]
