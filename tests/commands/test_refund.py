"""``giftcards_refund`` records a refund to a customer only once, even if it is run again."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from giftcards.fulfilment import reorder_missing
from giftcards.models import CustomerRefund, Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import ODD_AMOUNTS, make_guide_order
from tests.conftest import Call

pytestmark = pytest.mark.django_db

PAY = ("giftcards_refund", "cart-1042", "550", "--payment-reference", "VIR-88")
CANCEL = ("giftcards_refund", "cart-1042", "--payment-reference", "VIR-88", "--cancel")


@pytest.fixture(autouse=True)
def order() -> Order:
    """Create an order with three of five cards, sold at 550 each, so that 1,100 are owed."""
    return make_guide_order(Status.PARTIALLY_FILLED, reference="cart-1042", sale_price=Decimal(550))


def test_a_refund_is_recorded_and_what_is_still_owed_is_shown(call: Call) -> None:
    assert call(*PAY, "--method", "transfer", "--comment", "Asked for.", "--by", "amina") == (
        "Refund VIR-88: 550.00 DZD is paid back.\n"
        "  customer\n"
        "    paid        2750.00 DZD\n"
        "    kept        1650.00 DZD\n"
        "    owed        1100.00 DZD\n"
        "    paid back   550.00 DZD\n"
        "    still owed  550.00 DZD\n"
        "    refund VIR-88: 550.00 DZD, done\n",
        "",
        0,
    )
    refund = CustomerRefund.objects.get()
    assert (refund.amount, refund.state, refund.source) == (550, "done", "command")
    given = (refund.method, refund.comment, refund.created_by)
    assert given == ("transfer", "Asked for.", "amina")


def test_the_same_command_again_pays_nothing_twice(call: Call) -> None:
    call(*PAY)
    out, err, code = call(*PAY)
    assert out.startswith("Refund VIR-88: 550.00 DZD is paid back (nothing changed).\n")
    assert (err, code) == ("", 0)
    assert CustomerRefund.objects.count() == 1


def test_json_has_the_refund_and_the_customers_side(call: Call) -> None:
    out, err, code = call(*PAY, "--json")
    assert (err, code) == ("", 0)
    result = json.loads(out)
    refund = result.pop("refund")
    assert result == {
        "order": "cart-1042",
        "has_changed": True,
        "customer": {
            "paid_amount": "2750.00",
            "kept_amount": "1650.00",
            "owed_amount": "1100.00",
            "paid_back_amount": "550.00",
            "open_amount": "550.00",
        },
    }
    assert refund.pop("executed_at") is not None
    assert refund == {
        "reference": "VIR-88",
        "amount": "550.00",
        "state": "done",
        "method": "",
        "comment": "",
        "source": "command",
        "created_by": "",
        "cancelled_at": None,
        "cancelled_by": "",
        "cancel_reason": "",
    }
    assert json.loads(call(*PAY, "--json").out)["has_changed"] is False


def test_a_refund_is_taken_back_once(call: Call) -> None:
    call(*PAY)
    out, err, code = call(*CANCEL, "--comment", "It came back.", "--by", "amina")
    assert out.startswith("Refund VIR-88: 550.00 DZD was cancelled.\n")
    assert "    still owed  1100.00 DZD\n" in out
    assert (err, code) == ("", 0)
    refund = CustomerRefund.objects.get()
    assert (refund.cancel_reason, refund.cancelled_by) == ("It came back.", "amina")
    again = call(*CANCEL)
    assert again.out.startswith("Refund VIR-88: 550.00 DZD was cancelled (nothing changed).\n")
    assert again.code == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["cart-1042", "1100.01", "--payment-reference", "R"],
         "Only 1100.00 can still be paid back, not 1100.01."),
        (["other", "101", "--payment-reference", "OLD"],
         "The reference OLD is already used for another refund of this order."),
        (["again", "100", "--payment-reference", "R"],
         "The missing cards were ordered again, and the customer's payment for these cards was"
         " transferred to the new order."),
        (["open", "100", "--payment-reference", "R"],
         "The order is still open, so it is not yet known whether the customer is owed money."),
    ],
)  # fmt: skip
def test_what_the_books_do_not_allow_fails_and_records_nothing(
    call: Call, order: Order, arguments: list[str], error: str
) -> None:
    again = make_guide_order(Status.REJECTED, reference="again", sale_price=Decimal(550))
    reorder_missing(again, by="amina")
    make_guide_order(Status.DELAYED, reference="open", sale_price=Decimal(550))
    other = make_guide_order(Status.REJECTED, reference="other", sale_price=Decimal(550))
    record_refund(other, amount=100, reference="OLD")
    assert call("giftcards_refund", *arguments) == ("", f"{error}\n", 1)
    assert CustomerRefund.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nobody", "1", "--payment-reference", "R"], "There is no order 'nobody'."),
        (["cart-1042", "--payment-reference", "R"], "Enter the amount that was paid back"),
        (["cart-1042", "five", "--payment-reference", "R"], "amount: 'five' is not an amount."),
        *(
            (
                ["cart-1042", text, "--payment-reference", "R"],
                f"amount: {text!r} is not an amount. Use a format such as 550 or 549.90.",
            )
            for text in ODD_AMOUNTS
        ),
        (["cart-1042", "0.001", "--payment-reference", "R"], "amount: Ensure "),
        (["cart-1042", "-5", "--payment-reference", "R"], "amount: Ensure "),
        (["cart-1042", "5", "--payment-reference", ""], "reference: This field cannot be blank."),
        (["cart-1042", "5", "--payment-reference", "R", "--by", "x" * 300], "by: Ensure "),
        (["cart-1042", "--payment-reference", "R", "--cancel"], "The order has no refund 'R'."),
        (
            ["cart-1042", "1", "--payment-reference", "OLD", "--cancel"],
            "The amount of this refund is 100.00.",
        ),
        (
            ["cart-1042", "--payment-reference", "OLD", "--cancel", "--method", "cash"],
            "--method cannot be used with --cancel",
        ),
        (
            ["cart-1042", "--payment-reference", "OLD", "--cancel", "--comment", "x" * 300],
            "reason: Ensure ",
        ),
    ],
)
def test_wrong_arguments_start_nothing(
    call: Call, order: Order, arguments: list[str], error: str
) -> None:
    record_refund(order, amount=100, reference="OLD")
    out, err, code = call("giftcards_refund", *arguments)
    assert (out, code) == ("", 2)
    assert err.startswith(error)
    assert [refund.state for refund in CustomerRefund.objects.all()] == ["done"]


class TestStatus:
    def test_the_status_of_an_order_has_the_customers_side(self, call: Call, order: Order) -> None:
        record_refund(order, amount=Decimal("200.5"), reference="R1")
        result = json.loads(call("giftcards_status", "cart-1042", "--json").out)
        assert result["customer"]["open_amount"] == "899.50"
        assert [(one["reference"], one["amount"]) for one in result["refunds"]] == [
            ("R1", "200.50")
        ]
        assert (
            "  customer\n"
            "    paid        2750.00 DZD\n"
            "    kept        1650.00 DZD\n"
            "    owed        1100.00 DZD\n"
            "    paid back   200.50 DZD\n"
            "    still owed  899.50 DZD\n"
            "    refund R1: 200.50 DZD, done\n"
        ) in call("giftcards_status", "cart-1042").out

    def test_what_went_to_the_order_of_the_missing_cards_is_not_owed(
        self, call: Call, order: Order
    ) -> None:
        reorder_missing(order, by="amina")
        shown = call("giftcards_status", "cart-1042").out
        assert "    went along  1100.00 DZD\n    still owed  0.00 DZD\n" in shown

    @pytest.mark.parametrize(
        ("status", "values"), [(Status.DELAYED, {"sale_price": 550}), (Status.REFUNDED, {})]
    )
    def test_there_is_none_while_the_order_is_open_or_without_a_sale_amount(
        self, call: Call, status: Status, values: dict[str, Any]
    ) -> None:
        make_guide_order(status, reference="other", **values)
        result = json.loads(call("giftcards_status", "other", "--json").out)
        assert (result["customer"], result["refunds"]) == (None, [])
        assert "  customer" not in call("giftcards_status", "other").out
