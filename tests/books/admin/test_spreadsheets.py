"""The downloads opened in LibreOffice: amounts can be added, and texts are not executed."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest
from django.utils import translation
from django.utils.text import capfirst
from django.utils.translation import gettext

from giftcards.books.exports import as_csv
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import LIST, sign_in

OFFICE = shutil.which("soffice")

pytestmark = [
    pytest.mark.office,
    pytest.mark.django_db,
    pytest.mark.skipif(OFFICE is None, reason="Needs LibreOffice Calc."),
]

# The options for importing a CSV file: separator, double quote, UTF-8, starting at the first line;
# numbers and dates as in English (1033 is the Windows code for it); with formulas.
CSV_IMPORT = "{},34,76,1,,1033,false,true,false,false,false,0,true"
_NAMES = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_TABLE, _OFFICE = _NAMES % "table", _NAMES % "office"


class Cell(NamedTuple):
    """A cell in the spreadsheet: its type, its value, and its formula (or "")."""

    type: str
    value: str
    formula: str


Reader = Callable[..., list[list[Cell]]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Return a function that opens a file in LibreOffice and returns its cells.

    The form is ``csv``, with a ``separator``, or ``xlsx``.
    """
    folder = tmp_path_factory.mktemp("office")

    def convert(content: bytes, form: str, separator: str = ",") -> list[list[Cell]]:
        options = CSV_IMPORT.format(ord(separator))
        file = folder / f"file.{form}"
        file.write_bytes(content)
        subprocess.run(
            [
                str(OFFICE),
                f"-env:UserInstallation={(folder / 'profile').as_uri()}",
                "--headless",
                *([f"--infilter=CSV:{options}"] if form == "csv" else []),
                *("--convert-to", "ods", "--outdir", str(folder), str(file)),
            ],
            check=True,
            capture_output=True,
            timeout=180,
        )
        return list(_rows(folder / "file.ods"))

    return convert


def _rows(file: Path) -> Iterator[list[Cell]]:
    with zipfile.ZipFile(file) as parts:
        root = ET.fromstring(parts.read("content.xml"))
    for row in root.iter(f"{_TABLE}table-row"):
        yield [
            Cell(
                cell.get(f"{_OFFICE}value-type", ""),
                cell.get(f"{_OFFICE}value")
                or cell.get(f"{_OFFICE}date-value")
                or "".join(cell.itertext()),
                cell.get(f"{_TABLE}formula", ""),
            )
            for cell in row.iter(f"{_TABLE}table-cell")
            # LibreOffice stores equal neighbouring cells as one, including the empty cells up to
            # the end of the sheet.
            for _time in range(min(int(cell.get(f"{_TABLE}number-columns-repeated", 1)), 30))
        ]


def download(form: str, language: str) -> bytes:
    """Download the orders of November.

    The second one was sold at a loss. The name of the customer looks like a formula.
    """
    for number, price in enumerate((550, 400)):
        make_guide_order(
            Status.PARTIALLY_FILLED,
            reference=f"web-{number}",
            finalized_at=datetime(2026, 11, 4 + number, 12, tzinfo=UTC),
            created_at=datetime(2026, 11, 4, 11, 59, 55, tzinfo=UTC),
            fulfilled_amount=3 * 490,
            sale_price=Decimal(price) + Decimal("0.25"),
            customer_name="=1+1",
        )
    browser = sign_in(superuser=True)
    browser.cookies["django_language"] = language
    wanted = {"from": "2026-11-01", "to": "2026-11-30", "by": "day", "what": "orders"}
    with translation.override("en"):  # a request leaves its language behind
        answer = browser.post(f"{LIST}report/download/", {**wanted, "format": form})
    return b"".join(answer.streaming_content)


def headings_in(language: str) -> list[str]:
    """Return the headings of a text, a date, another text, and two amounts."""
    names = ("reference", "settled", "customer", "paid by the customer", "Margin")
    with translation.override(language):
        return [capfirst(gettext(name)) for name in names]


def _letter(place: int) -> str:
    assert place < 26
    return chr(ord("A") + place)


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
def test_a_csv_file_adds_up_in_a_spreadsheet_that_is_told_its_marks(
    read: Reader, language: str
) -> None:
    content = download("csv", language)
    headings = content.decode("utf-8-sig").splitlines()[0].split(",")
    sums = ",".join(f"=SUM({_letter(at)}2:{_letter(at)}3)" for at in range(len(headings)))
    told, *rows, totals = read(content + f"{sums}\r\n".encode(), "csv")
    at = [headings.index(heading) for heading in headings_in(language)]
    assert [told[place].value for place in at] == headings_in(language)
    assert [[row[place] for place in at] for row in rows] == [
        [
            Cell("string", f"web-{number}", ""),
            Cell("date", f"2026-11-0{4 + number}T13:00:00", ""),
            Cell("string", "'=1+1", ""),
            Cell("float", paid, ""),
            Cell("float", margin, ""),
        ]
        for number, (paid, margin) in enumerate((("2751.25", "180.75"), ("2001.25", "-269.25")))
    ]
    # The spreadsheet itself has computed these sums.
    assert [totals[place].value for place in at[3:]] == ["4752.5", "-88.5"]


@pytest.mark.parametrize("separator", [";", "\t"], ids=["semicolon", "tab"])
def test_no_text_becomes_a_formula_at_another_separator(read: Reader, separator: str) -> None:
    parts = ("=1+1", " +1+1", '"=1+1"', '""=1+1', "\n=1+1", "\r\n=1+1", "@SUM(1)")
    texts = [f"Amina{separator}{part}" for part in parts]
    # Spreadsheets treat quotes in the first cell of a line differently from quotes in the other
    # cells.
    lines = [[first, second] for first in ("web-1", *texts) for second in ("Lina", *texts)]
    found = read(b"".join(as_csv(lines)), "csv", separator)
    assert len(found) >= len(lines)
    assert [cell for row in found for cell in row if cell.formula] == []


def test_an_xlsx_file_has_amounts_and_dates_in_every_language(read: Reader) -> None:
    pytest.importorskip("openpyxl")
    told, *rows = read(download("xlsx", "fr"), "xlsx")
    at = [[cell.value for cell in told].index(heading) for heading in headings_in("fr")]
    assert [[row[place] for place in at] for row in rows[:2]] == [
        [
            Cell("string", f"web-{number}", ""),
            Cell("date", f"2026-11-0{4 + number}T13:00:00", ""),
            Cell("string", "=1+1", ""),
            Cell("float", paid, ""),
            Cell("float", margin, ""),
        ]
        for number, (paid, margin) in enumerate((("2751.25", "180.75"), ("2001.25", "-269.25")))
    ]
