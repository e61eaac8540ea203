"""The report page: which figures people see, the period, and the downloads."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import BytesIO, StringIO
from typing import Any
from zipfile import ZipFile

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.test import Client, RequestFactory
from django.utils import timezone

from giftcards.admin import OrderAdmin
from giftcards.books.exports import can_write_xlsx
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Order, Product
from giftcards.rules.roles import ROLES
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.text.display import exact_duration_text
from tests.builders import PRODUCT, TYPE, build_guide_order, category, make_guide_order, receive
from tests.pages import (
    LIST,
    count_queries,
    element,
    errors,
    plain,
    read,
    references,
    rows,
    sign_in,
    text,
)

pytestmark = pytest.mark.django_db

REPORT = f"{LIST}report/"
DOWNLOAD = f"{REPORT}download/"
NOVEMBER = {"from": "2026-11-01", "to": "2026-11-30", "by": "day"}
COSTS = ["Cost", "Credited back", "Margin"]
HEADINGS = [
    "Day", "Orders", "Cards ordered", "Cards delivered", "Cost", "Credited back",
    "Paid by customers", "Owed to customers", "Paid back", "Still owed",
    "Margin",
]  # fmt: skip


def settled(day: int, status: Status = Status.PARTIALLY_FILLED, **values: Any) -> Order:
    """Make an order for five cards at 550 each, which settled at noon on this day of November."""
    delivered = {Status.FULFILLED: 5, Status.PARTIALLY_FILLED: 3}.get(status, 0)
    at = datetime(2026, 11, day, 12, tzinfo=UTC)
    return make_guide_order(
        status,
        **{
            "finalized_at": at,
            "created_at": at - timedelta(seconds=30),
            "fulfilled_amount": None if status == Status.REJECTED else delivered * 490,
            "sale_price": Decimal(550),
            "product_name": "PlayStation Network",
            "type_name": "PSN 500 DA",
            **values,
        },
    )


def table(html: str) -> list[list[str]]:
    return [[plain(cell) for cell in row] for row in rows(html, "giftcards-report-table")]


def key_figures(html: str) -> dict[str, str]:
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html, re.DOTALL)
    return {label: plain(text(value)) for label, value in found}


def drawn(html: str) -> bool:
    """Return True if the page contains a chart."""
    return '<figure class="giftcards-chart">' in html


# The figures.


def test_the_guides_order_is_counted_on_both_sides(boss: Client) -> None:
    settled(4)
    html = read(boss.get(REPORT, NOVEMBER))
    figures_of_it = ["1", "5", "3", "1,470", "980", "2,750", "1,100", "0", "1,100", "180"]
    assert table(html) == [HEADINGS, ["4 Nov", *figures_of_it], ["Total", *figures_of_it]]
    assert key_figures(html) == {
        "Orders": "1",
        "Cards ordered": "5",
        "Cards delivered": "3",
        "Share of cards delivered": "60%",
        "Half of the orders were settled within": "30 s",
        "95 of 100 orders were settled within": "30 s",
        "Ordered": "2,450 DA",
        "Cost": "1,470 DA",
        "Credited back": "980 DA",
        "Paid by customers": "2,750 DA",
        "Paid for delivered cards": "1,650 DA",
        "Owed to customers": "1,100 DA",
        "Paid back": "0 DA",
        "Still owed": "1,100 DA",
        "Margin": "180 DA",
        "Margin lost": "120 DA",
    }
    assert drawn(html)
    assert 'class="fieldset-heading">What customers paid, in DA</h2>' in html
    assert 'class="fieldset-heading">All figures, in DA</h2>' in html
    assert "<h1>Report: \u20681 Nov 2026\u2069 – \u206830 Nov 2026\u2069</h1>" in html


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("day", ["4 Nov", "30 Nov", "1 Dec"]),
        ("week", ["2 Nov – 8 Nov", "30 Nov – 6 Dec"]),
        ("month", ["November 2026", "December 2026"]),
        ("product", ["other", "PlayStation Network"]),
        ("type", ["other", *(f"PlayStation Network · PSN {amount} DA" for amount in (2000, 500))]),
    ],
)
def test_the_rows_are_what_is_asked_for_and_the_total_is_always_the_same(
    boss: Client, by: str, labels: list[str]
) -> None:
    settled(4)
    settled(30, type_id="type_003", type_name="PSN 2000 DA")
    december = datetime(2026, 12, 1, 12, tzinfo=UTC)
    settled(1, finalized_at=december, product_id="other", product_name="", type_name="")
    html = read(boss.get(REPORT, {**NOVEMBER, "to": "2026-12-06", "by": by}))
    _headings, *found, total = table(html)
    assert [row[0].removesuffix(f" · {TYPE}") for row in found] == labels
    assert total[1:4] == ["3", "15", "9"]
    assert drawn(html)


def test_a_row_leads_to_the_list_of_its_orders(boss: Client) -> None:
    first, last = settled(2, reference="web-first"), settled(8, reference="web-last")
    settled(9, reference="web-other")
    for by, wanted in (
        ("day", {first}),
        ("week", {first, last}),
        ("product", {*Order.objects.all()}),
    ):
        html = read(boss.get(REPORT, {**NOVEMBER, "by": by}))
        address = re.findall(r'<th scope="row"><a href="([^"]*)"', html)[0].replace("&amp;", "&")
        listed = read(boss.get(address))
        assert {plain(name) for name in references(listed)} == {order.reference for order in wanted}
        assert "In the period of the report" in text(element(listed, "giftcards-chosen", "ul"))


def test_the_year_is_told_where_there_are_several(boss: Client) -> None:
    settled(4)
    for by, label in (("day", "4 Nov 2026"), ("week", "2 Nov 2026 – 8 Nov 2026")):
        html = read(boss.get(REPORT, {"from": "2026-11-01", "to": "2027-01-02", "by": by}))
        assert table(html)[1][0] == label


def test_an_order_belongs_to_its_day_where_the_shop_is(boss: Client) -> None:
    settled(30, finalized_at=datetime(2026, 11, 30, 23, 30, tzinfo=UTC), reference="web-late")
    assert "No order reached a final status in this period." in read(boss.get(REPORT, NOVEMBER))
    html = read(boss.get(REPORT, {"from": "2026-12-01", "to": "2026-12-01"}))
    assert [row[0] for row in table(html)[1:-1]] == ["1 Dec"]
    [address] = re.findall(r'<th scope="row"><a href="([^"]*)"', html)
    assert references(read(boss.get(address.replace("&amp;", "&")))) == ["web-late"]


def test_one_product_can_be_looked_at_by_its_name_in_the_catalogue_if_it_has_one(
    boss: Client,
) -> None:
    Product.objects.create(
        product_id=PRODUCT, name="<b>PSN</b>", category=category(), listed_at=timezone.now()
    )
    settled(4)
    settled(4, product_id="other")
    for product, shown in ((PRODUCT, "\u2068&lt;b&gt;PSN&lt;/b&gt;\u2069"), ("other", "")):
        html = read(boss.get(REPORT, {**NOVEMBER, "product": product}))
        assert table(html)[-1][1] == "1"
        assert f'<option value="{product}" selected>{shown}' in html
        assert "<b>PSN" not in html


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        # The typed text is a part of a name, an ID, or something that the catalogue does not
        # contain.
        ("steam", "1"),
        ("p-7", "1"),
        ("other", "No order reached a final status in this period."),
        (
            "PSN 10",
            (
                "Several products match this name. Enter the ID of one of them: PSN 10 (p-10), PSN"
                " 100 (p-100)."
            ),
        ),
    ],
)
def test_a_product_of_a_large_catalogue_is_typed(boss: Client, typed: str, told: str) -> None:
    names = {f"p-{number}": f"PSN {number}" for number in range(101)} | {"p-7": "Steam"}
    Product.objects.bulk_create(
        Product(product_id=key, name=name, category=category(), listed_at=timezone.now())
        for key, name in names.items()
    )
    settled(4, product_id="p-7")
    settled(5, product_id="p-8")
    html = read(boss.get(REPORT, {**NOVEMBER, "product": typed}))
    assert '<select name="product"' not in html
    assert told in (plain(text(html)) if " " in told else table(html)[-1][1])


def test_an_empty_period_says_so_and_draws_nothing(boss: Client) -> None:
    html = read(boss.get(REPORT, NOVEMBER))
    assert "No order reached a final status in this period." in html
    assert not drawn(html)
    assert key_figures(html)["Paid by customers"] == "0 DA"


def test_what_is_not_known_is_not_0_and_what_is_left_out_is_marked(boss: Client) -> None:
    settled(4, price_per_card=None, fulfilled_amount=None)
    settled(5, sale_price=None)
    settled(6, sale_price=None)
    settled(6)
    html = read(boss.get(REPORT, NOVEMBER))
    _headings, unpriced, unsold, mixed, _total = table(html)
    assert unpriced[4:6] == ["⚠ 0", "⚠ 0"]
    # The mark is for sighted readers, and the word is for screen readers.
    assert unsold[6:] == ["?unknown"] * 5
    assert mixed[6] == "⚠ 2,750"
    assert (
        "“?” means that the amount is unknown because no order in the row has a sale amount."
    ) in html
    assert 'title="\u20681\u2069 order with an unknown amount is not included."' in html
    assert 'title="\u20681\u2069 order without a sale amount is not included."' in html
    assert key_figures(html)["Orders with unknown amounts"] == "1"
    assert key_figures(html)["Orders without a sale amount"] == "2"


def test_the_amounts_of_a_column_have_decimals_or_none_has(boss: Client) -> None:
    settled(4, sale_price=Decimal("549.90"))
    settled(5)
    html = read(boss.get(REPORT, NOVEMBER))
    columns = list(zip(*table(html), strict=True))
    assert columns[5][1:] == ("980", "980", "1,960")
    assert columns[6][1:] == ("2,749.50", "2,750.00", "5,499.50")
    assert "“?” means unknown" not in html


def test_figures_lead_to_their_orders(boss: Client) -> None:
    settled(4, fulfilled_amount=1, reference="web-odd", sale_price=None)
    settled(5, reference="web-owed")
    record_refund(settled(6, reference="web-paid"), amount=1_100, reference="R1")
    html = read(boss.get(REPORT, NOVEMBER))
    assert list(key_figures(html).items())[-5:-2] == [
        ("Paid back", "1,100 DA"),
        ("Still owed", "1,100 DA"),
        ("Orders without a sale amount", "1"),
    ]
    assert table(html)[-1][-4:-1] == ["⚠ 2,200", "⚠ 1,100", "⚠ 1,100"]
    for label, reference in (
        ("Orders with contradictory figures", "web-odd"),
        ("Paid back", "web-paid"),
        ("Still owed", "web-owed"),
        ("Orders without a sale amount", "web-odd"),
    ):
        [address] = re.findall(rf'<dt>{label}</dt><dd><a href="([^"]*)"', html)
        assert references(read(boss.get(address.replace("&amp;", "&")))) == [reference]


def test_money_in_open_orders_is_shown_whatever_the_period(boss: Client) -> None:
    make_guide_order(Status.HANDLING)
    make_guide_order(Status.DELAYED, price_per_card=None)
    html = read(boss.get(REPORT, NOVEMBER))
    assert key_figures(html)[("Current cost of open orders")] == (
        "2,450 DA and 1 order with an unknown price"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (45, "45 s"), (185, "3 min 5 s"), (3_600, "1 h"), (94_210, "26 h 10 min")],
)
def test_durations_have_two_units_at_most(seconds: int, shown: str) -> None:
    assert plain(exact_duration_text(seconds)) == shown


# The period.


def test_without_a_question_it_is_about_this_month(boss: Client) -> None:
    html = read(boss.get(REPORT))
    shown = re.findall(r'<input type="date" name="(?:from|to)" value="([^"]*)"', html)
    days = [date.fromisoformat(day) for day in shown]
    assert [days[0].day, days[0].month] == [1, days[1].month]
    assert 'aria-current="page">This month</a>' in html


def test_the_usual_periods_can_be_followed_and_keep_the_product(boss: Client) -> None:
    html = read(boss.get(REPORT, {"product": PRODUCT}))
    found = re.findall(r'<li><a href="(\?[^"]*)"', element(html, "giftcards-periods", "nav"))
    assert len(found) == 3
    for address in found:
        followed = read(boss.get(REPORT + address.replace("&amp;", "&")))
        assert f'<option value="{PRODUCT}" selected>' in followed
        assert 'aria-current="page"' in followed


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"from": "2026-11-31"}, "Enter a valid date."),
        ({"from": ""}, "This field is required."),
        ({"from": "1999-12-31"}, "Enter a year from 2000 to 2100."),
        ({"to": "9999-12-31"}, "Enter a year from 2000 to 2100."),
        ({"to": "2026-10-31"}, "The last day is before the first day."),
        (
            {"from": "2025-11-01"},
            "A report by day can cover at most 366 days. Choose weeks or months instead.",
        ),
        ({"from": "2001-01-01", "by": "month"}, "A report can cover at most 10 years."),
        ({"by": "hour"}, "Select a valid choice. hour is not one of the available choices."),
        ({"from": "2026-11-01'--"}, "Enter a valid date."),
        ({"product": "\0"}, "Null characters are not allowed."),
    ],
)
def test_a_period_that_cannot_be_shown_is_explained(
    boss: Client, asked: dict[str, str], message: str
) -> None:
    html = read(boss.get(REPORT, {**NOVEMBER, **asked}))
    assert errors(html) == [message]
    assert "giftcards-report-table" not in html
    assert "Please correct the error below." in html


def test_a_leap_year_by_day_is_not_too_long(boss: Client) -> None:
    html = read(boss.get(REPORT, {"from": "2028-01-01", "to": "2028-12-31", "by": "day"}))
    assert errors(html) == []


# Permissions.


@pytest.mark.parametrize(
    ("role", "sees_costs", "may_download"),
    [
        ("Gift card support", False, False),
        ("Gift card manager", True, True),
        ("Gift card accountant", True, True),
    ],
)
def test_each_role_sees_and_downloads_what_it_may(
    role: str, sees_costs: bool, may_download: bool
) -> None:
    settled(4)
    browser = sign_in(*ROLES[role])
    html = read(browser.get(REPORT, NOVEMBER))
    wanted = [name for name in HEADINGS if sees_costs or name not in COSTS]
    assert table(html)[0] == wanted
    assert ("giftcards-downloads" in html) == may_download
    answer = browser.post(DOWNLOAD, {**NOVEMBER, "what": "report", "format": "csv"})
    assert answer.status_code == (200 if may_download else 403)
    assert LogEntry.objects.count() == may_download


def test_every_role_is_tried_above() -> None:
    assert ROLES.keys() == {"Gift card support", "Gift card manager", "Gift card accountant"}


@pytest.fixture
def seller() -> Client:
    """A person who may view and export orders, but not view costs."""
    return sign_in("view_order", "export_order")


@pytest.mark.parametrize("by", ["day", "week", "month", "product", "type"])
def test_without_costs_no_figure_picture_or_tooltip_tells_them(seller: Client, by: str) -> None:
    settled(4, price_per_card=Decimal("491.37"), fulfilled_amount=Decimal("1474.11"))
    settled(5, price_per_card=None, fulfilled_amount=None)
    settled(6, fulfilled_amount=1)
    make_guide_order(Status.HANDLING, price_per_card=Decimal("491.37"))
    html = read(seller.get(REPORT, {**NOVEMBER, "by": by}))
    assert drawn(html)
    shown = html.split('<div id="content-main"')[1]
    for amount in ("1,474", "491", "982", "2,456", "176", "175", "provider", "credited"):
        assert amount not in shown.lower()
    for word in ("Cost", "Margin", "unknown"):
        assert word not in text(shown)


def test_without_costs_no_download_tells_them(seller: Client) -> None:
    settled(4, price_per_card=Decimal("491.37"), fulfilled_amount=Decimal("1474.11"))
    for what in ("report", "orders"):
        content = download(seller, what=what)
        assert "550" in content or "2750.00" in content
        for amount in ("491.37", "1474.11", "982.74", "2456.85", "175.89"):
            assert amount not in content


def test_only_who_may_see_orders_gets_a_report() -> None:
    for browser in (sign_in("view_cost", "export_order"), sign_in("add_order")):
        assert browser.get(REPORT).status_code == 403
        assert browser.post(DOWNLOAD, NOVEMBER).status_code == 403
    assert Client().get(REPORT).status_code == 302
    assert Client().post(DOWNLOAD, NOVEMBER).status_code == 302
    assert LogEntry.objects.count() == 0


def test_who_is_shown_some_orders_only_gets_no_sums_of_all(boss: Client) -> None:
    class BranchOrderAdmin(OrderAdmin):
        def get_queryset(self, request: Any) -> QuerySet[Order]:
            return super().get_queryset(request).filter(group="branch-1")

    request = RequestFactory().get(REPORT)
    request.user = read_user(boss)
    assert OrderAdmin(Order, admin.site).has_report_permission(request)
    assert not BranchOrderAdmin(Order, admin.site).has_report_permission(request)


def read_user(browser: Client) -> Any:
    return browser.get("/admin/").context["user"]


def test_the_list_and_the_index_lead_to_the_report_whom_it_is_for() -> None:
    browser = sign_in("view_order")
    for address in (LIST, "/admin/giftcards/"):
        assert f'<a href="{REPORT}">Report</a>' in read(browser.get(address))
    assert REPORT not in read(sign_in("view_product").get("/admin/giftcards/"))


# Downloads.


def download(browser: Client, **choices: str) -> str:
    choices = {**NOVEMBER, "what": "report", "format": "csv", **choices}
    answer = browser.post(DOWNLOAD, choices)
    assert answer.status_code == 200, answer
    assert answer.streaming
    return b"".join(answer.streaming_content).decode("utf-8-sig")


def test_the_orders_of_the_period_and_the_product_are_downloaded(boss: Client) -> None:
    settled(4, reference="web-1042", customer_email="a@example.com")
    settled(5, reference="web-1043", product_id="other")
    settled(5, reference="web-1044", finalized_at=datetime(2026, 12, 1, tzinfo=UTC))
    content = download(boss, what="orders", product=PRODUCT)
    [order] = csv.DictReader(StringIO(content))
    assert (order["Reference"], order["Cost"]) == ("web-1042", "1470.00")
    assert "a@example.com" not in content
    assert "a@example.com" in download(boss, what="orders", has_contacts="on")


def test_no_download_holds_a_code(boss: Client) -> None:
    order = receive("web-1042", CardSecret("CANARY-5566-ZXQW", "CANARY-YQXZ"))
    Order.objects.filter(pk=order.pk).update(finalized_at=datetime(2026, 11, 4, tzinfo=UTC))
    for what in ("report", "orders"):
        content = download(boss, what=what, has_contacts="on")
        assert ("web-1042" in content) == (what == "orders")
        for secret in ("CANARY", "ZXQW", "YQXZ", order.cards.get().sealed):
            assert secret not in content


def test_the_rows_are_downloaded_as_they_are_shown_and_no_cache_has_a_copy(boss: Client) -> None:
    settled(4)
    settled(5)
    answer = boss.post(DOWNLOAD, {**NOVEMBER, "what": "report", "format": "csv"})
    content = b"".join(answer.streaming_content)
    assert content.startswith(b"\xef\xbb\xbfDay,Orders,")
    found = list(csv.DictReader(StringIO(content.decode("utf-8-sig"))))
    assert [row["Day"] for row in found] == ["2026-11-04", "2026-11-05"]
    for heading, amount in (("Cost", "1470.00"), ("Owed to customers", "1100.00")):
        assert [row[heading] for row in found] == [amount, amount]
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    assert answer["Content-Disposition"] == (
        'attachment; filename="giftcards-report-2026-11-01-2026-11-30.csv"'
    )
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.skipif(not can_write_xlsx(), reason="Needs openpyxl.")
def test_an_xlsx_file_has_the_same_rows(boss: Client) -> None:
    settled(4, reference="web-1042")
    answer = boss.post(DOWNLOAD, {**NOVEMBER, "what": "orders", "format": "xlsx"})
    assert answer["Content-Disposition"].endswith('2026-11-30.xlsx"')
    book = ZipFile(BytesIO(b"".join(answer.streaming_content)))
    texts = "".join(book.read(name).decode() for name in book.namelist() if "xml" in name)
    assert "web-1042" in texts


@pytest.mark.parametrize(("has_xlsx", "offered"), [(True, ["xlsx", "csv"]), (False, ["csv"])])
def test_the_form_proposes_xlsx_if_it_can_be_written_and_offers_csv(
    boss: Client, monkeypatch: pytest.MonkeyPatch, has_xlsx: bool, offered: list[str]
) -> None:
    # The page asks Python whether openpyxl is installed, so the test replaces the answer.
    find = importlib.util.find_spec
    instead = {"openpyxl": "json" if has_xlsx else "no_such_module"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: find(instead.get(name, name), *more)
    )
    html = read(boss.get(REPORT, NOVEMBER))
    [field] = re.findall(r'<select name="format".*?</select>', html, re.DOTALL)
    assert re.findall(r'<option value="(\w+)"', field) == offered


@pytest.mark.parametrize(
    ("choices", "trace"),
    [
        ({}, "Exported the report by day from 2026-11-01 to 2026-11-30 as CSV."),
        (
            {"what": "orders", "has_contacts": "on", "product": "other"},
            "Exported the orders from 2026-11-01 to 2026-11-30 of product other as CSV, with"
            " addresses and phone numbers.",
        ),
    ],
)
def test_every_download_is_recorded(boss: Client, choices: dict[str, str], trace: str) -> None:
    download(boss, **choices)
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_repr) == (read_user(boss), "Report")
    assert entry.change_message == trace
    assert "Report" in read(boss.get("/admin/"))


@pytest.mark.parametrize(
    "choices", [{"what": "cards"}, {"format": "exe"}, {"from": "2026-13-01"}, {"what": ""}]
)
def test_a_download_of_something_else_is_refused_without_a_trace(
    boss: Client, choices: dict[str, str]
) -> None:
    wanted = {**NOVEMBER, "what": "report", "format": "csv", **choices}
    read(boss.post(DOWNLOAD, wanted), status=400)
    assert LogEntry.objects.count() == 0


def test_a_download_is_never_a_link(boss: Client) -> None:
    assert boss.get(DOWNLOAD, NOVEMBER).status_code == 405
    assert Client(enforce_csrf_checks=True).post(DOWNLOAD, NOVEMBER).status_code == 403


# The page itself.


def test_the_page_has_neither_script_nor_style_of_its_own(boss: Client) -> None:
    settled(4)
    for by in ("day", "product"):
        html = read(boss.get(REPORT, {**NOVEMBER, "by": by}))
        shown = html.split('<div id="content-main"')[1].split("</main>")[0]
        assert re.findall(r"<script|<style|\sstyle=|\son\w+=", shown) == []


def test_the_number_of_queries_does_not_grow_with_the_orders(boss: Client) -> None:
    days = range(1, 31)
    for day in days:
        settled(day)
    address = f"{REPORT}?from=2026-11-01&to=2026-11-30&by=day"
    few = count_queries(boss, address)
    Order.objects.bulk_create(many(200))
    assert count_queries(boss, address) == few <= len(days) + 15


def many(count: int) -> Iterator[Order]:
    for number in range(count):
        at = datetime(2026, 11, 1 + number % 30, 8, tzinfo=UTC)
        values = {"finalized_at": at, "sale_price": Decimal(550), "type_id": f"type_{number % 7}"}
        yield build_guide_order(Status.FULFILLED, fulfilled_amount=Decimal(2450), **values)
