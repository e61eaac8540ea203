"""Spreadsheet files: the figures of the orders, harmless texts, and only the requested rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from giftcards.books.exports import (
    Cells,
    as_csv,
    can_write_xlsx,
    order_rows,
    report_rows,
    write_xlsx,
)
from giftcards.books.reports import By, report
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.fulfilment import reorder_missing
from giftcards.models import Order, RedemptionInstructions
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    PRICE,
    PRODUCT,
    TYPE,
    build_guide_order,
    make_guide_order,
    make_offer,
)

pytest_plugins = ["tests.stage_fixtures"]

DAY = date(2026, 11, 24)
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)
# The headings of columns that reveal the provider's prices.
COSTS = {"Ordered", "Cost", "Credited back", "Price per card", "Margin", "Margin lost"}


def settled(status: Status = Status.PARTIALLY_FILLED, **values: Any) -> Order:
    charged = {Status.PARTIALLY_FILLED: 3 * PRICE, Status.FULFILLED: 5 * PRICE}.get(status)
    return make_guide_order(status, **{"finalized_at": NOON, "fulfilled_amount": charged, **values})


def text(rows: Iterable[Cells]) -> str:
    return b"".join(as_csv(rows)).decode("utf-8-sig")


def lines(rows: Iterable[Cells]) -> list[dict[str, str]]:
    """Return the rows of the file as a program reads them."""
    return list(csv.DictReader(io.StringIO(text(rows), newline=""), strict=True))


# Texts made of characters that are special in spreadsheets, or of any characters.
_TEXTS = st.text(st.sampled_from("a;\t,\"'=+-@ \r\n")) | st.text()


class TestCsv:
    def test_cells_are_written_as_rfc_4180_says(self) -> None:
        row = ['say "hi"', "a,b", "a;b", "two\r\nlines", None, 5, Decimal("-12.5"), DAY, "عيد"]
        assert text([row]) == ('"say ""hi""","a,b",a;b,"two\r\nlines",,5,-12.50,2026-11-24,عيد\r\n')

    def test_moments_have_no_zone_so_that_spreadsheets_know_them(self) -> None:
        assert text([[datetime(2026, 11, 24, 12, 0, 5, 17)]]) == "2026-11-24 12:00:05\r\n"  # noqa: DTZ001

    def test_one_byte_order_mark_begins_the_file_however_many_rows_it_has(self) -> None:
        assert b"".join(as_csv([["a", "b"], [Decimal(0)]])) == b"\xef\xbb\xbfa,b\r\n0.00\r\n"
        assert b"".join(as_csv([])) == b"\xef\xbb\xbf"

    @pytest.mark.parametrize(
        "formula",
        [
            "=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "  =1", "\u00a0=1", "\ufeff=1",
            "＝1", "−1", "\ufe661", "\ufe6bSUM(A1)", "\u2060=1", "\u202e=1", "\xad=1", "\x01=1",
        ],
    )  # fmt: skip
    def test_a_text_that_looks_like_a_formula_is_only_a_text(self, formula: str) -> None:
        [[cell]] = csv.reader(io.StringIO(text([[formula]]), newline=""))
        assert cell == f"'{formula}"

    @pytest.mark.parametrize(
        ("typed", "written"),
        [
            ("Amina;=HYPERLINK(A1)", "Amina;'=HYPERLINK(A1)"),
            ("Amina\t=1", "Amina\t'=1"),
            ("\t=1", "'\t'=1"),
            ("a; =1;b;\u2060+1", "a;' =1;b;'\u2060+1"),
            ("a;\t@A1", "a;'\t'@A1"),
            ('a;"=1"', 'a;\'"=1"'),
            ("a\r\n=1\n-1", "a\r'\n'=1\n'-1"),
        ],
    )
    def test_a_formula_behind_the_separator_of_another_spreadsheet_is_only_a_text(
        self, typed: str, written: str
    ) -> None:
        assert list(csv.reader(io.StringIO(text([["x", typed]]), newline=""))) == [["x", written]]

    def test_a_nul_is_left_out_and_hides_no_formula(self) -> None:
        assert text([["\0=1", "a\0b"]]) == "'=1,ab\r\n"

    @pytest.mark.parametrize("harmless", ["PSN 500 DA", "a=b", "1-2", "", "آمنة", "a\tb", "a;b"])
    def test_any_other_text_stays_as_it_is(self, harmless: str) -> None:
        assert list(csv.reader(io.StringIO(text([["x", harmless]])))) == [["x", harmless]]

    @pytest.mark.parametrize("separator", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
    @given(texts=st.lists(_TEXTS, min_size=2, max_size=5))
    def test_whatever_the_texts_they_come_back_and_none_begins_a_formula(
        self, separator: str, texts: list[str]
    ) -> None:
        written = text([texts])
        [read] = csv.reader(io.StringIO(written, newline=""))
        assert [cell.replace("'", "") for cell in read] == [
            cell.replace("\0", "").replace("'", "") for cell in texts
        ]
        split = csv.reader(io.StringIO(written, newline=""), delimiter=separator)
        cells = [cell.lstrip() for row in split for cell in row]
        assert [cell for cell in cells if cell[:1] in set("=+-@") - {""}] == []

    def test_a_long_file_comes_in_pieces(self) -> None:
        pieces = list(as_csv(["x" * 1_000] for _row in range(200)))
        assert len(pieces) == 4
        assert max(map(len, pieces)) < 70_000


@pytest.mark.django_db
class TestOrders:
    def test_the_guides_order_is_a_row_with_both_sides(self) -> None:
        product = make_offer().product
        product.region = "DZ"
        product.save()
        RedemptionInstructions.objects.create(
            product=product, language="en", text="Open https://psn.example"
        )
        settled(
            reference="cart-1042",
            group="Facture 12",
            sale_amount=Decimal(2750),
            created_at=NOON - timedelta(seconds=5),
            provider_order_id="B2",
            product_name="PlayStation Network",
            type_name="PSN 500 DA",
            customer_name="Amina",
            environment="PRODUCTION",
        )
        assert lines(order_rows(DAY, DAY)) == [
            {
                "Reference": "cart-1042",
                "Group": "Facture 12",
                "Provider's order ID": "B2",
                "Environment": "Production",
                "Created": "2026-11-24 11:59:55",
                "Settled": "2026-11-24 12:00:00",
                "Status": "Partly delivered",
                "Replaces missing cards of": "",
                "Product": PRODUCT,
                "Product's name": "PlayStation Network",
                "Region": "Algeria",
                "Redemption instructions": "Open https://psn.example",
                "Type": TYPE,
                "Type's name": "PSN 500 DA",
                "Cards ordered": "5",
                "Cards delivered": "3",
                "Customer": "Amina",
                "Paid by the customer": "2750.00",
                "Owed to the customer": "1100.00",
                "Paid back": "0.00",
                "Still owed": "1100.00",
                "Price per card": "490.00",
                "Ordered": "2450.00",
                "Cost": "1470.00",
                "Credited back": "980.00",
                "Margin": "180.00",
            }
        ]

    def test_what_is_not_known_is_empty(self) -> None:
        settled(price_per_card=None, fulfilled_amount=None)
        [row] = lines(order_rows(DAY, DAY))
        unknown = {"Price per card", "Ordered", "Cost", "Credited back", "Margin"}
        unknown |= {"Paid by the customer", "Owed to the customer", "Still owed"}
        assert {row[heading] for heading in unknown} == {""}

    def test_nothing_was_bought_by_a_rejected_order(self) -> None:
        settled(Status.REJECTED, sale_amount=Decimal(2750))
        [row] = lines(order_rows(DAY, DAY))
        expected = ("0.00", "2750.00", "0.00")
        assert (row["Cost"], row["Owed to the customer"], row["Margin"]) == expected

    def test_the_columns_add_up_to_the_report(self) -> None:
        old = settled(sale_amount=Decimal(1000), quantity=7)
        reorder_missing(old, by="amina")
        settled(Status.REFUNDED, sale_amount=Decimal("0.10"))
        settled(Status.FULFILLED, sale_price=Decimal("99.99"))
        rejected = settled(Status.REJECTED, sale_price=Decimal("99.99"))
        record_refund(rejected, amount=Decimal("99.98"), reference="R1")
        record_refund(rejected, amount=Decimal("200.01"), reference="R2")
        rows, total = lines(order_rows(DAY, DAY)), report(DAY, DAY).total
        for heading, name in {
            "Ordered": "ordered_amount",
            "Cost": "charged_amount",
            "Credited back": "refunded_amount",
            "Paid by the customer": "paid_amount",
            "Owed to the customer": "owed_amount",
            "Paid back": "customer_paid_back_amount",
            "Still owed": "open_amount",
            "Margin": "margin_amount",
        }.items():
            assert sum(Decimal(row[heading] or 0) for row in rows) == getattr(total, name), heading

    def test_an_order_names_the_one_whose_missing_cards_it_orders(self) -> None:
        old = settled(reference="first")
        new = make_guide_order(Status.FULFILLED, repeats=old, finalized_at=NOON)
        rows = {
            row["Reference"]: row["Replaces missing cards of"]
            for row in lines(order_rows(DAY, DAY))
        }
        assert rows == {"first": "", new.reference: "first"}

    def test_without_costs_nothing_tells_what_the_provider_charges(self) -> None:
        settled(sale_amount=Decimal(2750))
        written = text(order_rows(DAY, DAY, shows_costs=False))
        assert COSTS.isdisjoint(written.splitlines()[0].split(","))
        for amount in ("490", "2450", "1470", "980", "180"):
            assert f"{amount}.00" not in written

    def test_addresses_and_phone_numbers_are_there_only_if_they_are_asked_for(self) -> None:
        settled(customer_email="amina@example.com", customer_phone="+213 555 01 02 03")
        assert "amina@example.com" not in text(order_rows(DAY, DAY))
        [row] = lines(order_rows(DAY, DAY, shows_contacts=True))
        assert row["Customer e-mail"] == "amina@example.com"
        assert row["Customer phone"] == "'+213 555 01 02 03"

    def test_no_code_and_no_serial_is_in_it(self) -> None:
        store_cards([Arrival(settled(), CARDS[:3])])
        written = text(order_rows(DAY, DAY, shows_contacts=True))
        assert not any(
            secret in written for card in CARDS for secret in (str(card.value), str(card.serial))
        )

    def test_only_orders_of_the_period_and_the_product_are_in_it(self) -> None:
        wanted = settled(product_id="steam")
        settled()
        settled(product_id="steam", finalized_at=NOON + timedelta(days=1))
        make_guide_order(product_id="steam")
        rows = lines(order_rows(DAY, DAY, product_id="steam"))
        assert [row["Reference"] for row in rows] == [wanted.reference]

    def test_the_language_is_the_one_in_which_it_was_asked_for(self) -> None:
        settled(environment="SANDBOX")
        with translation.override("fr"):
            rows = order_rows(DAY, DAY)
        headings, row = rows
        assert headings[0] == "Référence"
        assert "Livrée en partie" in row

    @pytest.mark.parametrize("moments", [1, 3, 11])
    def test_orders_come_once_each_in_few_queries_however_many_settled_together(
        self, shorten: Callable[..., None], moments: int
    ) -> None:
        shorten(file_batch=4)
        statuses = (Status.FULFILLED, Status.REFUNDED, Status.REJECTED)
        old = settled(finalized_at=NOON - timedelta(days=2))
        orders = Order.objects.bulk_create(
            build_guide_order(
                statuses[number * 7 % 3],
                finalized_at=NOON + timedelta(seconds=number * 5 % moments),
                product_name="PSN",
                repeats=old if number == 0 else None,
            )
            for number in range(11)
        )
        with CaptureQueriesContext(connection) as queries:
            rows = lines(order_rows(DAY, DAY))
        assert sorted(row["Reference"] for row in rows) == sorted(o.reference for o in orders)
        assert [row["Settled"] for row in rows] == sorted(row["Settled"] for row in rows)
        # One of these queries is for the names of the products.
        assert len(queries) == 4


@pytest.mark.django_db
class TestReports:
    @pytest.mark.parametrize(
        ("by", "keys"),
        [
            (By.DAY, {"Day": "2026-11-24"}),
            (By.WEEK, {"Week": "2026-W48", "First day": "2026-11-23"}),
            (By.MONTH, {"Month": "2026-11", "First day": "2026-11-01"}),
            (By.PRODUCT, {"Name": "PSN", "Product": PRODUCT}),
            (By.TYPE, {"Name": f"PSN · {TYPE}", "Product": PRODUCT, "Type": TYPE}),
        ],
    )
    def test_each_row_has_its_key_and_its_figures(self, by: By, keys: dict[str, str]) -> None:
        settled(sale_amount=Decimal(2750), product_name="PSN")
        assert lines(report_rows(report(DAY, DAY, by))) == [
            {
                **keys,
                "Orders": "1",
                "Rejected orders": "0",
                "Cards ordered": "5",
                "Cards delivered": "3",
                "Paid by customers": "2750.00",
                "Owed to customers": "1100.00",
                "Paid back": "0.00",
                "Still owed": "1100.00",
                "Orders without a sale amount": "0",
                "Ordered": "2450.00",
                "Cost": "1470.00",
                "Credited back": "980.00",
                "Margin": "180.00",
                "Margin lost": "120.00",
                "Orders with unknown amounts": "0",
                "Orders with contradictory figures": "0",
            }
        ]

    def test_without_costs_nothing_tells_what_the_provider_charges(self) -> None:
        settled(sale_amount=Decimal(2750))
        written = text(report_rows(report(DAY, DAY), shows_costs=False))
        assert COSTS.isdisjoint(written.splitlines()[0].split(","))
        for amount in ("2450", "1470", "980", "180", "120"):
            assert f"{amount}.00" not in written


@pytest.mark.skipif(not can_write_xlsx(), reason="openpyxl is not installed")
class TestXlsx:
    ROW: Cells = ("=1+1", "#N/A", "a\0b\x1f", "  ", None, 5, Decimal("-12.50"), DAY)

    def read(self, rows: Iterable[Cells]) -> Any:
        from openpyxl import load_workbook

        file = io.BytesIO()
        write_xlsx(rows, file)
        return load_workbook(file)

    def test_texts_are_no_formulas_and_numbers_are_numbers(self) -> None:
        sheet = self.read([["Reference"], self.ROW]).active
        cells = list(sheet[2])
        assert [cell.value for cell in cells] == [
            "=1+1", "#N/A", "ab", "  ", None, 5, -12.5, datetime(2026, 11, 24),  # noqa: DTZ001
        ]  # fmt: skip
        assert [cell.data_type for cell in cells] == list("ssssnnnd")
        assert cells[6].number_format == "#,##0.00"
        assert (sheet.freeze_panes, sheet.sheet_view.rightToLeft) == ("A2", False)

    def test_a_sheet_in_arabic_runs_from_right_to_left(self) -> None:
        with translation.override("ar"):
            assert self.read([["Reference"]]).active.sheet_view.rightToLeft

    def test_more_rows_than_a_sheet_holds_go_on_in_the_next(
        self, shorten: Callable[..., None]
    ) -> None:
        shorten(sheet_rows=4)
        book = self.read([["Number"], *([number] for number in range(7))])
        sheets = [[cell.value for (cell,) in sheet.rows] for sheet in book]
        assert sheets == [["Number", 0, 1, 2], ["Number", 3, 4, 5, 6]]

    def test_no_rows_are_an_empty_sheet(self) -> None:
        assert list(self.read([]).active.values) == []

    @pytest.mark.django_db
    def test_orders_are_written(self) -> None:
        settled(reference="cart-1042")
        values = list(self.read(order_rows(DAY, DAY)).active.values)
        assert values[1][0] == "cart-1042"
