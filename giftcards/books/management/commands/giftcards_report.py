from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from typing import Any

from django.utils import translation

from giftcards.books.conditions import OpenMoney, money_in_open_orders
from giftcards.books.exports import as_csv, order_rows, report_rows
from giftcards.books.figures import FIGURES, Figures
from giftcards.books.reports import By, Report, Row, first_day, report
from giftcards.conf import CURRENCY
from giftcards.management.base import GiftcardsCommand, refuse, typed_day
from giftcards.management.output import OutputClosed, counted
from giftcards.rules.times import today


class Command(GiftcardsCommand):
    help = (
        "Calculate the totals for the orders that became final in a given period. The"
        " report shows the number of cards, the amounts that the provider charged and"
        " credited back, the amounts that customers paid and are owed, and the margin."
        " Days begin and end in the site's time zone. The command reads the database"
        " without changing it."
    )
    examples = (
        ("Report this month by day:", ""),
        (
            "Report a year by month, for a script:",
            "--from 2026-01-01 --to 2026-12-31 --by month --json",
        ),
        ("List this month's orders for a spreadsheet:", "--orders > orders.csv"),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--from",
            dest="start",
            metavar="DAY",
            help="The first day, for example 2026-11-01 (default: the first day of the month of"
            " the last day).",
        )
        parser.add_argument(
            "--to",
            dest="end",
            metavar="DAY",
            help="The last day, which is included (default: today).",
        )
        parser.add_argument(
            "--by",
            choices=By.values,
            default=By.DAY.value,
            help="The period or object of each row (default: day).",
        )
        parser.add_argument(
            "--product", metavar="ID", default="", help="Report only this product (default: all)."
        )
        parser.add_argument(
            "--csv", action="store_true", help="Print the rows as CSV (default: as text)."
        )
        parser.add_argument(
            "--orders",
            action="store_true",
            help="Print one row for each order, as CSV (default: their sums).",
        )
        parser.add_argument(
            "--contacts",
            action="store_true",
            help="With --orders, also print the customers' e-mail addresses and phone numbers"
            " (default: neither).",
        )

    def handle(self, **options: Any) -> None:
        if options["json"] and (options["csv"] or options["orders"]):
            raise refuse("Use either --json, or --csv or --orders.")
        if options["contacts"] and not options["orders"]:
            raise refuse("Use --contacts together with --orders.")
        start, end = _period(options["start"], options["end"])
        # The output of the command is in English, whatever the site's language is.
        with translation.override(None):
            if options["orders"]:
                rows = order_rows(
                    start,
                    end,
                    product_id=options["product"],
                    shows_contacts=options["contacts"],
                )
                self._write_csv(rows)
                return
            found = report(start, end, By(options["by"]), product_id=options["product"])
            if options["csv"]:
                self._write_csv(report_rows(found))
                return
            open_ = money_in_open_orders()
            self.show(_as_dict(found, open_), "\n".join(_text(found, open_)), options)

    def _write_csv(self, rows: Iterable[Any]) -> None:
        # The command writes bytes if it can, so that the file is always in UTF-8, whatever the
        # encoding of the terminal is.
        out = getattr(self.stdout, "buffer", None)
        for chunk in as_csv(rows):
            if out is None:
                self.put(chunk.decode(), ending="")
                continue
            try:
                out.write(chunk)
                out.flush()
            except BrokenPipeError:
                raise OutputClosed from None


def _period(start: str | None, end: str | None) -> tuple[date, date]:
    last = typed_day("--to", end) or today()
    first = typed_day("--from", start) or first_day(last, By.MONTH)
    if last < first:
        raise refuse(f"The period would end on {last}, before it starts on {first}.")
    return first, last


def _as_dict(found: Report, open_: OpenMoney) -> dict[str, Any]:
    return {
        "from": found.start.isoformat(),
        "to": found.end.isoformat(),
        "by": found.by.value,
        "rows": [_row_as_dict(row) for row in found.rows],
        "total": _figures_as_dict(found.total),
        "settling": found.settling and found.settling._asdict(),
        "open": {
            "sent": f"{open_.sent:.2f}",
            "unsent": f"{open_.unsent:.2f}",
            "unknown": open_.unknown,
        },
    }


def _row_as_dict(row: Row) -> dict[str, Any]:
    # The ids of product and type are joined by a space, which no id contains.
    key = row.key.isoformat() if isinstance(row.key, date) else " ".join(filter(None, row.key))
    return {"key": key, "label": row.label, **_figures_as_dict(row.figures)}


def _figures_as_dict(figures: Figures) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Decimal) else value
        for name, value in (asdict(figures) | {"fill_rate": figures.fill_rate}).items()
    }


_COLUMNS = [figure for figure in FIGURES.values() if figure.short]


def _text(found: Report, open_: OpenMoney) -> Iterator[str]:
    yield f"{found.start} to {found.end}, amounts in {CURRENCY}"
    lines = [
        [found.by.value, *(column.short for column in _COLUMNS)],
        *(_line(row.label, row.figures) for row in found.rows),
        _line("total", found.total),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        numbers = (text.rjust(width) for text, width in zip(others, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *numbers])
    yield from _notes(found, open_)


def _line(label: str, figures: Figures) -> list[str]:
    return [label, *(str(getattr(figures, column.name)) for column in _COLUMNS)]


def _notes(found: Report, open_: OpenMoney) -> Iterator[str]:
    total = found.total
    yield f"Margin lost: {total.lost_margin_amount}."
    if found.settling is not None:
        yield (
            f"Half of the orders settled within {found.settling.p50} s,"
            f" 95 % within {found.settling.p95} s."
        )
    if total.rejected:
        yield f"{counted(total.rejected, 'order')} rejected, for which no cards were bought."
    if total.unknown:
        yield f"{counted(total.unknown, 'order')} with amounts that the provider has not reported."
    if total.contradictory:
        yield f"{counted(total.contradictory, 'order')} with figures that contradict each other."
    if total.unpaid:
        yield f"{counted(total.unpaid, 'order')} without a sale amount."
    if open_.total or open_.unknown:
        unknown = f", and {counted(open_.unknown, 'order')} with an unknown price" * bool(
            open_.unknown
        )
        yield f"Total of the orders that are open now: {open_.total:.2f}{unknown}."
