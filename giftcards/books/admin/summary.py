"""The check whether the ledger explains the balance of a period, as the ledger's page shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from giftcards.books.summary import LISTED, Discrepancies, Discrepancy, Summary
from giftcards.display import count_text, day_text, exact_moment, filled, money, signed_money

# Returns the name of an order or an entry as HTML.
Name = Callable[[Discrepancy], str]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A line of the table. ``amount`` is HTML; ``is_total`` marks a balance, not a change of it."""

    label: str
    amount: str
    is_total: bool = False


@dataclass(frozen=True, slots=True)
class LedgerGroup:
    """What does not fit, of one kind: the count, the sum and the first of it, as HTML."""

    label: str
    count: str
    amount: str
    items: list[SafeString]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Books:
    """A period of the ledger; ``verdict`` is HTML."""

    verdict: str
    is_warning: bool
    lines: list[LedgerLine]
    counts: list[LedgerLine]
    groups: list[LedgerGroup]
    names_candidates: bool


def books(summary: Summary, *, name_order: Name, name_entry: Name) -> Books:
    """The ``summary`` as the page shows it."""
    return Books(
        verdict=_verdict(summary),
        is_warning=bool(summary.gap or summary.breaks),
        lines=list(_lines(summary)),
        counts=[
            LedgerLine(gettext("Entries"), count_text(summary.entries)),
            LedgerLine(gettext("Of known orders"), count_text(summary.matched)),
            LedgerLine(gettext("Of guessed orders"), count_text(summary.guessed)),
        ],
        groups=list(_groups(summary, name_order, name_entry)),
        names_candidates=summary.names_candidates,
    )


def _verdict(summary: Summary) -> str:
    if summary.gap:
        text = gettext("The balance has changed by %(gap)s that no entry explains.")
        return filled(text, gap=signed_money(summary.gap))
    if not summary.entries:
        return gettext("The ledger has no entry of this period, or none has been read yet.")
    if summary.gap is None:
        return gettext(
            "The provider has not told the balances: whether the books close is not known."
        )
    if summary.breaks:
        return gettext(
            "The entries add up to the change of the balance, but some are missing: see where it"
            " changed without an entry."
        )
    return gettext("The books close: the entries explain the whole change of the balance.")


def _lines(summary: Summary) -> Iterator[LedgerLine]:
    yield LedgerLine(gettext("Balance before"), money(summary.opening_balance), is_total=True)
    for label, change in (
        (gettext("Gift cards"), summary.orders),
        (gettext("Gift cards, credited back"), summary.refunds),
        (gettext("Top-ups"), summary.top_ups),
        (gettext("Other services"), summary.other_services),
    ):
        yield LedgerLine(label, signed_money(change))
    if summary.gap:
        yield LedgerLine(gettext("Without an entry"), signed_money(summary.gap))
    yield LedgerLine(gettext("Balance after"), money(summary.closing_balance), is_total=True)


def _groups(summary: Summary, name_order: Name, name_entry: Name) -> Iterator[LedgerGroup]:
    for label, found, name in (
        (gettext("Promised and not credited back"), summary.promised_not_credited, name_order),
        (gettext("Credited back and not promised"), summary.credited_not_promised, name_entry),
        (
            gettext("Charged for an unknown order, or beyond the price"),
            summary.charged_unknown,
            name_entry,
        ),
        (gettext("Ordered and never charged"), summary.ordered_not_charged, name_order),
    ):
        if found.count:
            yield _group(label, found, name)
    if summary.breaks:
        yield _group_of_days(summary)


def _group(label: str, found: Discrepancies, name: Name) -> LedgerGroup:
    items = [
        format_html("{} · {} · {}", name(item), money(item.amount), exact_moment(item.time))
        for item in found.first
    ]
    return LedgerGroup(
        label=label,
        count=count_text(found.count),
        amount=money(found.amount),
        items=items,
        has_more=found.count > len(items),
    )


def _group_of_days(summary: Summary) -> LedgerGroup:
    items = [
        format_html("{} · {}", day_text(each.day), signed_money(each.amount))
        for each in summary.breaks[:LISTED]
    ]
    return LedgerGroup(
        label=gettext("Days on which the balance changed without an entry"),
        count=count_text(len(summary.breaks)),
        amount=money(summary.breaks_amount),
        items=items,
        has_more=len(summary.breaks) > len(items),
    )
