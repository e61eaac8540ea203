from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from giftcards.books.conditions import gap_sentence, missing_sentence, unknown_sentence
from giftcards.books.models import CHARGE, CREDIT, LedgerState
from giftcards.books.reading import AGAIN, LedgerReading, read_ledger
from giftcards.books.summary import LISTED, Discrepancies, Summary, ledger_summary
from giftcards.conf import CURRENCY
from giftcards.engine.gateway import Gateway
from giftcards.management.base import (
    WORKING_SETTINGS,
    GiftcardsCommand,
    add_fail_on,
    current_pause,
    fail_on,
    named_conditions,
    refuse,
    typed_day,
    unfinished,
)
from giftcards.management.output import counted, iso
from giftcards.rules.times import day_of, today


class Command(GiftcardsCommand):
    help = (
        "Read the provider's ledger, match its entries with the orders, and show the"
        " differences. The command uses at most a tenth of the request quota. If you"
        " stop the command, the next run continues where it stopped."
    )
    notes = (
        "Exit code 1 means that the ledger could not be read completely, or that a"
        " condition named in --fail-on holds. If the gap is unknown, the condition"
        " ledger_gap does not hold.",
    )
    examples = (
        ("Read the entries since the last run:", ""),
        (
            "Summarise last month without reading the ledger again:",
            "--offline --from 2026-10-01 --to 2026-10-31",
        ),
        (
            "Report missing money to a monitor, with exit code 1:",
            "--fail-on ledger_gap,credits_missing -v0",
        ),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--since",
            metavar="DAY",
            help="Read the ledger from this day on, for example 2026-11-24, even if it was read"
            " before (default: three days before the end of the last reading, or the day of"
            " the first order).",
        )
        parser.add_argument(
            "--from",
            metavar="DAY",
            help="The first day of the summary (default: the first day that this run reads).",
        )
        parser.add_argument(
            "--to", metavar="DAY", help="The last day of the summary (default: today)."
        )
        parser.add_argument(
            "--offline",
            action="store_true",
            help="Summarise the stored entries without reading the ledger (default: read first).",
        )
        add_fail_on(parser, CONDITIONS)

    def handle(self, **options: Any) -> None:
        conditions = named_conditions(options["fail_on"], CONDITIONS)
        since, first, last = _period(options)
        reading = LedgerReading(is_whole=True)
        if not options["offline"]:
            reading = self._read(since, options)
        last = last or today()
        summary = ledger_summary(first or min(reading.start or _last_days(), last), last)
        result = {**_as_dict(summary), **_reading_as_dict(reading)}
        self.show(result, _text(summary, reading), options)
        if not reading.is_whole:
            why = current_pause() or reading.trouble
            raise unfinished(f"{why} Run the command again to read the rest.".lstrip())
        fail_on(judge(summary) for judge in conditions.values())

    def _read(self, since: date | None, options: dict[str, Any]) -> LedgerReading:
        with Gateway() as gateway, self.progress(options) as progress:
            return read_ledger(
                gateway,
                since=since,
                on_wait=lambda reading: progress.show(_wait(reading), unless_short=True),
            )


def _period(options: dict[str, Any]) -> tuple[date | None, date | None, date | None]:
    names = ("since", "from", "to")
    since, first, last = (typed_day(f"--{name}", options[name]) for name in names)
    if options["offline"] and since is not None:
        raise refuse("Use either --offline or --since, because --since reads the ledger.")
    if since is not None and since > today():
        raise refuse("--since: this day is in the future.")
    if first and first > (last or today()):
        raise refuse("The period ends before it starts.")
    return since, first, last


def _last_days() -> date:
    """Return the first of the days that the next reading will read again."""
    known_until = LedgerState.objects.known_until()
    return (day_of(known_until) if known_until else today()) - timedelta(days=AGAIN)


def _wait(reading: LedgerReading) -> str:
    what = "waiting for its share of the request quota, or for another process that reads it"
    if reading.is_paused:
        what = current_pause() or "waiting"
    read = f", {counted(reading.rows, 'entry', 'entries')} so far" if reading.rows else ""
    return f"Reading the provider's ledger{read}: {what}"


def _text(summary: Summary, reading: LedgerReading) -> str:
    facts = {
        "entries": (
            f"{summary.entries}, {summary.matched} of which belong to orders"
            f" ({summary.guessed} matched by amount and time)"
        ),
        "orders": _money(summary.orders),
        "refunds": _money(summary.refunds),
        "payments": _money(summary.payments),
        "top-ups": _money(summary.top_ups),
        "other services": _money(summary.other_services),
        "opening balance": _money(summary.opening_balance),
        "closing balance": _money(summary.closing_balance),
        "gap": _money(summary.gap),
    }
    lines = [f"The provider's ledger from {summary.start} to {summary.end}:"]
    lines += [f"  {label:<17}{fact}" for label, fact in facts.items()]
    for noun, what, found in (
        ("refund", "promised but not credited", summary.promised_not_credited),
        ("refund", "credited but not promised", summary.credited_not_promised),
        ("charge", "without a matching order, duplicated or too high", summary.charged_unknown),
        ("order", "never charged", summary.ordered_not_charged),
    ):
        items = [
            f"{each.reference}  {_money(each.amount)}  {iso(each.time)}" for each in found.first
        ]
        lines += _listed(noun, what, found.count, found.amount, items)
    days = [f"{each.day}  {_money(each.amount)}" for each in summary.breaks[:LISTED]]
    what = "on which the balance changed without an entry"
    lines += _listed("day", what, len(summary.breaks), summary.breaks_amount, days)
    if summary.names_candidates:
        lines += [
            "Entries that do not name an order are matched by amount, so the correct order"
            " may be a different one."
        ]
    lines += [*_notes(reading)]
    return "\n".join(lines)


def _listed(
    noun: str, explanation: str, count: int, amount: Decimal, first: list[str]
) -> Iterator[str]:
    if count:
        yield f"{counted(count, noun)} {explanation}, {_money(amount)}:"
        yield from (f"  {item}" for item in first)
    if count > LISTED:
        yield f"  and {count - LISTED} more"


def _notes(reading: LedgerReading) -> list[str]:
    notes = [
        f"{day} has changed since it was last read. New or different entries: {count}."
        for day, count in reading.changed_days.items()
    ]
    if reading.unreadable:
        notes += [f"{counted(reading.unreadable, 'row')} could not be read."]
    if reading.not_shown:
        notes += [f"The provider reports {reading.not_shown} more entries than it shows."]
    return notes


def _money(amount: Decimal | None) -> str:
    return "unknown" if amount is None else f"{amount:.2f} {CURRENCY}"


def _as_dict(summary: Summary) -> dict[str, Any]:
    amounts = ("orders", "refunds", "payments", "top_ups", "other_services")
    return {
        "from": summary.start.isoformat(),
        "to": summary.end.isoformat(),
        "entries": summary.entries,
        "matched": summary.matched,
        "guessed": summary.guessed,
        **{f"{name}_amount": getattr(summary, name) for name in amounts},
        **_found_as_dict("promised_not_credited", summary.promised_not_credited),
        **_found_as_dict("credited_not_promised", summary.credited_not_promised),
        **_found_as_dict("charged_unknown", summary.charged_unknown),
        **_found_as_dict("ordered_not_charged", summary.ordered_not_charged),
        "breaks": len(summary.breaks),
        "breaks_amount": summary.breaks_amount,
        "breaks_references": [each.day.isoformat() for each in summary.breaks[:LISTED]],
        "opening_balance": summary.opening_balance,
        "closing_balance": summary.closing_balance,
        "gap": summary.gap,
    }


def _found_as_dict(name: str, found: Discrepancies) -> dict[str, Any]:
    return {
        name: found.count,
        f"{name}_amount": found.amount,
        f"{name}_references": list(found.references),
    }


def _reading_as_dict(reading: LedgerReading) -> dict[str, Any]:
    return {
        "is_whole": reading.is_whole,
        "new": reading.new,
        "unreadable": reading.unreadable,
        "not_shown": reading.not_shown,
        "changed_days": {str(day): count for day, count in reading.changed_days.items()},
    }


CONDITIONS: Mapping[str, Callable[[Summary], str]] = {
    "ledger_gap": lambda summary: (
        gap_sentence(summary.gap) if summary.gap or summary.breaks else ""
    ),
    "credits_missing": lambda summary: missing_sentence(
        summary.promised_not_credited.count, summary.promised_not_credited.amount
    ),
    "ledger_unmatched": lambda summary: unknown_sentence(
        {CHARGE: summary.charged_unknown, CREDIT: summary.credited_not_promised}
    ),
}
