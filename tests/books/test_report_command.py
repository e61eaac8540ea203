"""``giftcards_report``: for people, for scripts and for spreadsheets."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone, translation

from giftcards.books.reports import By
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import PRICE, PRODUCT, TYPE, make_guide_order
from tests.conftest import Call

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)
PERIOD = ("--from", "2026-11-01", "--to", "2026-11-30")


@pytest.fixture
def order() -> Order:
    """The guide's order, 3 of 5 cards at 490 DA, sold for 550 DA each."""
    return make_guide_order(
        Status.PARTIALLY_FILLED,
        reference="cart-1042",
        fulfilled_amount=3 * PRICE,
        sale_amount=Decimal(2750),
        finalized_at=NOON,
        created_at=NOON - timedelta(seconds=7),
        customer_email="amina@example.com",
    )


FIGURES = {
    "orders": 1,
    "rejected": 0,
    "cards_ordered": 5,
    "cards_delivered": 3,
    "ordered_amount": "2450.00",
    "charged_amount": "1470.00",
    "refunded_amount": "980.00",
    "paid_amount": "2750.00",
    "owed_amount": "1100.00",
    "customer_paid_back_amount": "0.00",
    "margin_amount": "180.00",
    "lost_margin_amount": "120.00",
    "unknown": 0,
    "contradictory": 0,
    "unpaid": 0,
    "kept_amount": "1650.00",
    "open_amount": "1100.00",
    "fill_rate": "0.6000",
}


def test_the_report_is_a_table_with_its_total(call: Call, order: Order) -> None:
    assert call("giftcards_report", *PERIOD) == (
        "2026-11-01 to 2026-11-30, amounts in DZD\n"
        "day         orders  cards  delivered  ordered  charged  refunded     paid     owed"
        "  paid back  still owed  margin\n"
        "2026-11-24       1      5          3  2450.00  1470.00    980.00  2750.00  1100.00"
        "       0.00     1100.00  180.00\n"
        "total            1      5          3  2450.00  1470.00    980.00  2750.00  1100.00"
        "       0.00     1100.00  180.00\n"
        "Margin lost: 120.00.\n"
        "Half of the orders settled within 7 s, 95 % within 7 s.\n",
        "",
        0,
    )


def test_what_the_sums_lack_is_said(call: Call) -> None:
    make_guide_order(Status.REJECTED, finalized_at=NOON)
    make_guide_order(Status.FULFILLED, finalized_at=NOON, fulfilled_amount=Decimal(1))
    make_guide_order(Status.FULFILLED, finalized_at=NOON, price_per_card=None)
    make_guide_order(Status.HANDLING)
    make_guide_order(Status.HANDLING, price_per_card=None)
    out, _err, _code = call("giftcards_report", *PERIOD)
    assert out.splitlines()[-5:] == [
        "1 order rejected, for which no cards were bought.",
        "1 order with amounts that the provider has not reported.",
        "1 order with figures that contradict each other.",
        "3 orders without a sale amount.",
        "Total of the orders that are open now: 2450.00, and 1 order with an unknown price.",
    ]


def test_the_report_can_be_had_as_json(call: Call, order: Order) -> None:
    out, err, code = call("giftcards_report", *PERIOD, "--json")
    assert json.loads(out) == {
        "from": "2026-11-01",
        "to": "2026-11-30",
        "by": "day",
        "rows": [{"key": "2026-11-24", "label": "2026-11-24", **FIGURES}],
        "total": FIGURES,
        "settling": {"p50": 7, "p95": 7},
        "open": {"sent": "0.00", "unsent": "0.00", "unknown": 0},
    }
    assert (err, code) == ("", 0)


@pytest.mark.parametrize(
    ("by", "key", "label"),
    [
        (By.WEEK, "2026-11-23", "2026-W48"),
        (By.MONTH, "2026-11-01", "2026-11"),
        (By.PRODUCT, PRODUCT, PRODUCT),
        (By.TYPE, f"{PRODUCT} {TYPE}", f"{PRODUCT} · {TYPE}"),
    ],
)
def test_rows_have_keys_for_scripts_and_labels_for_people(
    call: Call, order: Order, by: By, key: str, label: str
) -> None:
    out, _err, _code = call("giftcards_report", *PERIOD, "--by", by, "--json")
    [row] = json.loads(out)["rows"]
    assert (row["key"], row["label"]) == (key, label)


def test_names_are_unharmed_in_json(call: Call, order: Order) -> None:
    Order.objects.update(product_name="=1+1\t\n")
    out, _err, _code = call("giftcards_report", *PERIOD, "--by", "product", "--json")
    assert json.loads(out)["rows"][0]["label"] == "=1+1\t\n"


def test_a_period_without_orders_has_a_total_of_nothing(call: Call) -> None:
    out, _err, code = call("giftcards_report", *PERIOD, "--json")
    found = json.loads(out)
    assert (found["rows"], found["settling"], code) == ([], None, 0)
    assert found["total"]["fill_rate"] is None
    assert found["total"]["paid_amount"] == "0.00"


def test_only_one_product_is_counted_if_one_is_named(call: Call, order: Order) -> None:
    make_guide_order(Status.FULFILLED, product_id="steam", finalized_at=NOON)
    out, _err, _code = call("giftcards_report", *PERIOD, "--product", "steam", "--json")
    assert json.loads(out)["total"]["cards_delivered"] == 5


def test_the_month_is_the_default_so_far_or_up_to_a_last_day(call: Call) -> None:
    today = timezone.localdate()
    for given, end in (((), today), (("--to", "2024-02-29"), date(2024, 2, 29))):
        found = json.loads(call("giftcards_report", *given, "--json").out)
        assert (found["from"], found["to"]) == (str(end.replace(day=1)), str(end))


def test_rows_can_be_had_as_csv(call: Call, order: Order) -> None:
    with translation.override("ar"):
        out, err, code = call("giftcards_report", *PERIOD, "--csv")
    headings, row = out.split("\r\n")[:-1]
    assert headings.startswith("\ufeffDay,Orders,Rejected orders,Cards ordered")
    assert row.startswith("2026-11-24,1,0,5,3,2750.00,1100.00")
    assert (err, code) == ("", 0)


def test_orders_can_be_had_as_csv(call: Call, order: Order) -> None:
    out, _err, _code = call("giftcards_report", *PERIOD, "--orders")
    assert "\ncart-1042," in out
    assert ",2750.00,1100.00,0.00,1100.00," in out
    assert "amina@example.com" not in out
    out, _err, _code = call("giftcards_report", *PERIOD, "--orders", "--contacts")
    assert ",amina@example.com," in out


def test_csv_is_utf_8_whatever_the_terminal_is(order: Order) -> None:
    Order.objects.update(customer_name="آمنة")
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    call_command("giftcards_report", *PERIOD, "--orders", stdout=out)
    assert "آمنة" in raw.getvalue().decode()


class _Closed(io.StringIO):
    """A stream whose reader has closed it."""

    @property
    def buffer(self) -> _Closed:
        return self

    def write(self, _text: Any) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_ends_the_command_quietly(order: Order) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("giftcards_report", *PERIOD, "--csv", stdout=_Closed())
    assert ended.value.code == 1


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (
            ("--from", "24.11.2026"),
            "--from: '24.11.2026' is not a day. Use a format such as 2026-11-24.",
        ),
        (
            ("--from", "2026-11-24", "--to", "2026-11-23"),
            "The period would end on 2026-11-23, before it starts on 2026-11-24.",
        ),
        (("--json", "--csv"), "Use either --json, or --csv or --orders."),
        (("--json", "--orders"), "Use either --json, or --csv or --orders."),
        (("--contacts",), "Use --contacts together with --orders."),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(
    call: Call, args: tuple[str, ...], why: str
) -> None:
    assert call("giftcards_report", *args) == ("", f"{why}\n", 2)


def test_every_period_may_be_asked_for(call: Call, order: Order) -> None:
    ever = ("--from", date.min.isoformat(), "--to", date.max.isoformat(), "--json")
    out, _err, code = call("giftcards_report", *ever)
    assert (json.loads(out)["total"]["orders"], code) == (1, 0)
