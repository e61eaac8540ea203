"""Conditions of the ledger and the balance, for staff and monitors.

The "ledger_gap" and "closed_month_changed" conditions report results that were stored after the
last reading of the ledger. All other conditions are computed each time they are checked, so they
end as soon as their cause has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.db.models import Max, Q, QuerySet
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from giftcards.books.matching import GRACE, UNNOTICED
from giftcards.books.models import (
    CHARGE,
    CHARGED_UNKNOWN,
    CREDIT,
    LedgerEntry,
    LedgerState,
    MonthClosing,
)
from giftcards.books.months import days_before_in_open_months
from giftcards.books.summary import Discrepancies, find_gap
from giftcards.conf import CURRENCY
from giftcards.engine.balance import OpenMoney, money_in_open_orders
from giftcards.models import Order, ProviderState
from giftcards.models.scalars import read_at_once, value_of
from giftcards.rules.times import begin_of, day_of, today, within
from giftcards.text.display import day_text, money_text
from giftcards.watch.conditions import MOST, Condition, Finding, OfRows, Severity, Standing

__all__ = ["OpenMoney", "lasts", "money_in_open_orders"]

# The longest time for which the balance is estimated to last (days).
_MOST_DAYS = 36_500


def lasts(state: ProviderState) -> timedelta | None:
    """Return the estimated time until the balance is used up, or ``None``.

    The estimate assumes that the balance decreases as fast as in the 24 hours before it was read.
    The result is ``None`` if the balance is unknown, or if there was no known spending.
    """
    balance, spent = state.balance, state.spent_lately
    if balance is None or not spent:
        return None
    days = float(max(balance, Decimal(0)) / spent)
    return timedelta(days=min(days, _MOST_DAYS))


# People cannot acknowledge these conditions. They look back only this number of days, so that they
# end automatically.
DAYS = 7

_ZERO = Decimal(0)


def note_gap(read_until: datetime) -> None:
    """Record whether the entries of the ledger explain the balance.

    The function uses the entries of the seven complete days before the last reading. The day of
    the reading is excluded, because the ledger might not contain all of its entries yet.
    """
    today = day_of(read_until)
    gap, breaks = find_gap(today - timedelta(days=DAYS), today - timedelta(days=1))
    LedgerState.objects.note(gap=gap, breaks=len(breaks))


def missing_refunds() -> dict[Order, Decimal]:
    """Return the orders whose refund is missing, each with the missing amount.

    The newest orders come first. The function reads at most 1,001 orders. An order is left out if
    staff have resolved its problem.
    """
    return _missing_in(_differing())


def _differing() -> QuerySet[Order]:
    # One condition is a subquery. Otherwise, SQLite or PostgreSQL might read the whole table.
    not_credited = Order.objects.not_credited().order_by().values("pk")
    orders = Order.objects.needing_attention().filter(pk__in=not_credited)
    return orders.order_by("-created_at", "-pk")


def _missing_in(orders: QuerySet[Order]) -> dict[Order, Decimal]:
    lacking = {order: _lacks(order) for order in orders[: MOST + 1]}
    return {order: amount for order, amount in lacking.items() if amount > 0}


def _lacks(order: Order) -> Decimal:
    amounts = (
        Decimal(problem.parameters["expected"]) - Decimal(problem.parameters["amount"])
        for problem in order.open_problems
        if problem.code == "credit_differs"
    )
    return sum(amounts, _ZERO)


def _read_and_closed() -> tuple[datetime | None, date | None]:
    """Return the end of the last reading and the last closed month.

    The first value is ``None`` if the ledger has never been read. The second value is ``None`` if
    no month is closed.
    """
    ends = {
        "read_until": value_of(LedgerState.objects.all(), Max("read_until")),
        "closed": value_of(MonthClosing.objects.all(), Max("month")),
    }
    [found] = read_at_once(ends)
    return found["read_until"], found["closed"]


def _unknown(standing: Standing) -> Sequence[QuerySet[LedgerEntry]]:
    """Return the charges and refunds that do not belong to an order.

    The result contains a query set of charges and a query set of refunds. Both cover the seven days
    up to the last reading of the ledger. They leave out the newest entries, because the shop might
    not have recorded the orders or refunds of these entries yet. If the ledger has never been read,
    the result is empty.
    """
    read_until, _closed = standing.once(_read_and_closed)
    if read_until is None:
        return []
    # If the ledger was read today, the filter "Past 7 days" in the list of entries covers the same
    # days.
    start = begin_of(day_of(read_until) - timedelta(days=DAYS - 1))
    return [
        LedgerEntry.objects.without_order(kind, start, read_until - grace)
        for kind, grace in ((CHARGE, GRACE), (CREDIT, UNNOTICED))
    ]


def _add_up(entries: QuerySet[LedgerEntry]) -> Discrepancies:
    # Python adds up the amounts, because SQLite would add binary fractions.
    amounts = list(entries.values_list("amount", flat=True)[: MOST + 1])
    return Discrepancies(len(amounts), abs(sum(amounts, _ZERO)))


def gap_sentence(gap: Decimal | None) -> str:
    amount = "unknown" if gap is None else f"{gap:.2f} {CURRENCY}"
    return f"The ledger does not explain the balance: the gap is {amount}."


def missing_sentence(count: int, amount: Decimal) -> str:
    return _sentence("refund", "promised but not credited", count, amount)


def unknown_sentence(found: Mapping[str, Discrepancies]) -> str:
    """Return sentences for monitors about unknown charges and refunds.

    ``found`` maps each type of entry to the number and the total amount of its entries.
    """
    nouns = {CHARGE: "charge", CREDIT: "refund"}
    sentences = (
        _sentence(nouns[kind], "without a matching order", one.count, one.amount)
        for kind, one in found.items()
    )
    return " ".join(filter(None, sentences))


def _sentence(noun: str, explanation: str, count: int, amount: Decimal) -> str:
    nouns = noun if count == 1 else f"{noun}s"
    return f"{count} {nouns} {explanation}, {amount:.2f} {CURRENCY}." if count else ""


def _adding_up(amounts: Iterable[Decimal]) -> str:
    return gettext("The total is %(amount)s.") % {"amount": money_text(sum(amounts, _ZERO))}


def _may_miss(standing: Standing) -> Sequence[QuerySet[Order]]:
    # Another tile of the start page counts all orders with problems, including these orders.
    return [] if standing.leaves_out_problems else [_differing()]


def _are_missing(*differing: QuerySet[Order]) -> Finding | None:
    missing = {key: amount for each in differing for key, amount in _missing_in(each).items()}
    if not missing:
        return None
    return Finding(
        missing_sentence(len(missing), sum(missing.values(), _ZERO)),
        min(len(missing), MOST),
        has_more=len(missing) > MOST,
        orders={order.pk: order.reference for order in missing},
        explain=lambda: _adding_up(missing.values()),
    )


def _are_unknown(*entries: QuerySet[LedgerEntry]) -> Finding | None:
    found = dict(zip((CHARGE, CREDIT), map(_add_up, entries), strict=False))
    number = sum(one.count for one in found.values())
    if not number:
        return None
    return Finding(
        unknown_sentence(found),
        min(number, MOST),
        has_more=number > MOST,
        explain=lambda: _adding_up(one.amount for one in found.values()),
    )


def _left_unknown(standing: Standing) -> Sequence[QuerySet[LedgerEntry]]:
    _read_until, closed = standing.once(_read_and_closed)
    first, last = days_before_in_open_months(today() - timedelta(days=DAYS - 1), closed)
    return [LedgerEntry.objects.filter(CHARGED_UNKNOWN, within("time", first, last)).order_by()]


def _are_left_unknown(charges: QuerySet[LedgerEntry]) -> Finding | None:
    amounts = [-amount for amount in charges.values_list("amount", flat=True)[: MOST + 1]]
    return Finding.of_rows(
        len(amounts),
        singular="1 charge without a matching order is in a month that is not closed.",
        plural="%s charges without a matching order are in months that are not closed.",
        explain=lambda: _adding_up(amounts),
    )


def _gaps(_standing: Standing) -> Sequence[QuerySet[LedgerState]]:
    return [LedgerState.objects.filter(Q(gap__lt=0) | Q(gap__gt=0) | Q(breaks__gt=0))]


def _has_gap(states: QuerySet[LedgerState]) -> Finding | None:
    gaps = states.values_list("gap", flat=True)[:1]
    if not gaps:
        return None
    [gap] = gaps

    def explain() -> str:
        if not gap:
            return gettext("Some entries are missing, but their amounts add up to zero.")
        text = gettext("The balance has changed by %(amount)s without an entry that explains it.")
        return text % {"amount": money_text(gap)}

    return Finding(gap_sentence(gap), explain=explain)


def _does_not_suffice(standing: Standing) -> Finding | None:
    if standing.state.balance is None:
        return None
    in_orders = standing.once(money_in_open_orders)
    if not in_orders.exceeds(standing.state.balance):
        return None

    def explain() -> str:
        text = gettext(
            "The orders that have not been sent yet cost %(amount)s. This is more than the balance,"
            " so the provider will refuse some of them."
        )
        return text % {"amount": money_text(in_orders.unsent)}

    sentence = (
        f"The orders that have not been sent yet cost {in_orders.unsent:.2f} {CURRENCY}, but the"
        f" account balance is {standing.state.balance:.2f} {CURRENCY}."
    )
    return Finding(sentence, explain=explain)


def _changed(_standing: Standing) -> Sequence[QuerySet[MonthClosing]]:
    return [MonthClosing.objects.changed()]


def _have_closed_months_changed(closings: QuerySet[MonthClosing]) -> Finding | None:
    months = closings.values_list("month", flat=True)

    def explain() -> str:
        return ", ".join(day_text(month, "F Y") for month in months)

    return Finding.of_rows(
        len(months),
        singular="1 closed month has changed.",
        plural="%s closed months have changed.",
        explain=explain,
    )


_LEDGER, _LAST_DAYS = "giftcards_books_ledgerentry_changelist", "?period=week"

CONDITIONS = (
    Condition(
        code="insufficient_funds",
        holds="The orders that wait to be sent cost more than the last known balance. Top up the"
        " account.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=_does_not_suffice,
        headline=_("the balance does not cover the orders to be sent"),
        remedy=_("Top up your account at the provider."),
        ended=_("The balance now covers all orders to be sent."),
        page="giftcards_providerstate_changelist",
        is_about_orders=True,
        limits_sales=True,
        is_above_list=True,
    ),
    Condition(
        code="credits_missing",
        holds="The provider's ledger does not contain a refund that the provider promised, and"
        " staff have not acknowledged it. Ask the provider for the refund.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=OfRows(_may_miss, _are_missing, is_enough=False),
        headline=ngettext_lazy(
            "%(count)s refund that the provider has not credited to the balance",
            "%(count)s refunds that the provider has not credited to the balance",
            "count",
        ),
        remedy=_(
            "Search for each refund in your account at the provider, and then contact the"
            " provider's support."
        ),
        ended=_("The provider has credited back all promised refunds."),
        page="giftcards_order_changelist",
        is_about_orders=True,
        query="?ledger=credits_missing&attention=needed",
    ),
    Condition(
        code="ledger_unmatched",
        holds="In the last 7 days, the ledger contains a charge or a refund that belongs to none"
        " of your orders.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=OfRows(_unknown, _are_unknown),
        headline=ngettext_lazy(
            "%(count)s entry in the provider's ledger without a matching order",
            "%(count)s entries in the provider's ledger without a matching order",
            "count",
        ),
        remedy=_(
            "Find out what each entry belongs to. Your account at the provider may also be used"
            " elsewhere. This notice is shown for a week."
        ),
        ended=_("All ledger entries of the last few days now have a matching order."),
        page=_LEDGER,
        query=f"{_LAST_DAYS}&order=unknown",
    ),
    Condition(
        code="old_charges_unmatched",
        holds="The ledger contains a charge that is older than 7 days and belongs to none of your"
        " orders, and its month is not closed. The charge is from this month or from one of"
        " the two months before.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=OfRows(_left_unknown, _are_left_unknown),
        headline=ngettext_lazy(
            "%(count)s older charge in an open month without a matching order",
            "%(count)s older charges in open months without a matching order",
            "count",
        ),
        remedy=_(
            "Find out what each charge belongs to, and then close the month. This notice will then"
            " disappear."
        ),
        ended=_("All older charges in months that are not closed now have a matching order."),
        page=_LEDGER,
        query="?period=open&order=charged",
        is_in_digests=False,
    ),
    Condition(
        code="ledger_gap",
        holds="The entries of the ledger in the last 7 days do not explain the change of the"
        " balance.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=OfRows(_gaps, _has_gap),
        headline=_("the provider's ledger does not explain the balance"),
        remedy=_(
            "Check in the ledger where the balance changed without an entry, and ask the provider"
            " about these changes."
        ),
        ended=_("The provider's ledger for the last few days explains the balance again."),
        page=_LEDGER,
        query=_LAST_DAYS,
    ),
    Condition(
        code="closed_month_changed",
        holds="The figures of one of the last three closed months have changed since the month was"
        " closed. Close it again.",
        severity=Severity.WARNING,
        permission="giftcards.view_cost",
        judge=OfRows(_changed, _have_closed_months_changed),
        headline=ngettext_lazy(
            "%(count)s closed month has changed", "%(count)s closed months have changed", "count"
        ),
        remedy=_(
            "Check what differs, tell everybody who has the old figures, and close each month"
            " again."
        ),
        ended=_("The figures of all closed months match the records again."),
        page="giftcards_order_close_month",
        is_about_orders=True,
        query="?month=changed",
    ),
)
