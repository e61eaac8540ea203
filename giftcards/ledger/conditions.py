"""Conditions of the ledger, for staff and monitors, as of its last reading.

A reading records whether the books of the last days close. The other conditions are computed from
the tables, so that they end as soon as they no longer hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from django.db.models import QuerySet

from giftcards.conf import conf
from giftcards.engine.health import Condition, Standing
from giftcards.ledger.expected import GRACE, UNNOTICED
from giftcards.ledger.summary import find_gap
from giftcards.models import LedgerEntry, Order, ProviderState
from giftcards.models.ledger import CHARGE, CREDIT
from giftcards.models.times import day_of

# Number of days for which conditions that nobody can tick off are shown.
DAYS = 7
# The most of a kind that are counted; one more stands for any larger number.
_MOST = 1_000

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Found:
    """A number of entries, and the absolute value of their sum in dinars."""

    count: int
    amount: Decimal


def note_books(read_until: datetime) -> None:
    """Record whether the books of the seven days before that of ``read_until`` close.

    The day of ``read_until``, up to which they were read, does not count: entries may still come.
    """
    today = day_of(read_until)
    gap, breaks = find_gap(today - timedelta(days=DAYS), today - timedelta(days=1))
    ProviderState.objects.filter(pk=1).update(ledger_gap=gap, ledger_breaks=breaks.count)


def missing_refunds() -> dict[Order, Decimal]:
    """The orders that lack a refund, with the missing amount, the latest first; at most 1,001.

    Orders whose missing refund was ticked off are left out.
    """
    orders = Order.objects.not_credited().needing_attention().order_by("-created_at", "-pk")
    lacking = {order: _lacks(order) for order in orders[: _MOST + 1]}
    return {order: amount for order, amount in lacking.items() if amount > 0}


def _lacks(order: Order) -> Decimal:
    amounts = (
        Decimal(problem.parameters["expected"]) - Decimal(problem.parameters["amount"])
        for problem in order.open_problems
        if problem.code == "credit_differs"
    )
    return sum(amounts, _ZERO)


def unknown_entries(state: ProviderState) -> Mapping[str, Found]:
    """The charges and refunds of the last seven days that belong to no order, by entry type.

    The newest are left out: their order may not be recorded, or known to have settled, yet. Empty
    before the first reading.
    """
    read_until = state.ledger_read_until
    if read_until is None:
        return {}
    start = read_until - timedelta(days=DAYS)
    return {
        kind: _add_up(LedgerEntry.objects.without_order(kind, start, read_until - grace))
        for kind, grace in ((CHARGE, GRACE), (CREDIT, UNNOTICED))
    }


def _add_up(entries: QuerySet[LedgerEntry]) -> Found:
    # Added up here: SQLite would add binary fractions.
    amounts = list(entries.values_list("amount", flat=True)[: _MOST + 1])
    return Found(len(amounts), abs(sum(amounts, _ZERO)))


# Sentences for monitors.


def gap_sentence(gap: Decimal | None) -> str:
    amount = "unknown" if gap is None else f"{gap:.2f} {conf.currency}"
    return f"The books do not close: the gap is {amount}."


def missing_sentence(count: int, amount: Decimal) -> str:
    return _sentence("refund", "promised and not credited", count, amount)


def unknown_sentence(kind: str, count: int, amount: Decimal) -> str:
    noun = "charge" if kind == CHARGE else "refund"
    return _sentence(noun, "of no order here", count, amount)


def _sentence(noun: str, what: str, count: int, amount: Decimal) -> str:
    nouns = noun if count == 1 else f"{noun}s"
    return f"{count} {nouns} {what}, {amount:.2f} {conf.currency}." if count else ""


def _is_missing(_standing: Standing) -> str:
    missing = missing_refunds()
    return missing_sentence(len(missing), sum(missing.values(), _ZERO))


def _is_unknown(standing: Standing) -> str:
    found = unknown_entries(standing.state)
    sentences = (unknown_sentence(kind, one.count, one.amount) for kind, one in found.items())
    return " ".join(filter(None, sentences))


def _has_gap(standing: Standing) -> str:
    state = standing.state
    return gap_sentence(state.ledger_gap) if state.has_gap else ""


#: The conditions by name, for :data:`giftcards.engine.health.CONDITIONS`.
CONDITIONS: Mapping[str, Condition] = {
    "missing": _is_missing,
    "unknown": _is_unknown,
    "gap": _has_gap,
}
