"""Paying customers back in the admin: owed amounts, duplicates, records, and the list."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from giftcards.fulfilment import reorder_missing
from giftcards.models import CustomerRefund, Order
from giftcards.rules.roles import ROLES
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import ODD_AMOUNTS, make_guide_order
from tests.pages import (
    LATE,
    WRITE_IT,
    count_queries,
    errors,
    hidden,
    order_page,
    plain,
    read,
    rows,
    sign_in,
    text,
    timeline,
    told,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LABEL = "Pay back the customer"
NOTHING_LEFT = "There is no more money to pay back for this order."
TYPED = {"amount": "550", "reference": "CCP 12", "method": "CCP", "comment": "", "state": "done"}


def sold(**values: Any) -> Order:
    """Make an order for five cards at 550 each. Three were delivered, so 1,100 are owed."""
    named = {"reference": "web-1042", "sale_price": Decimal(550), "customer_name": "آمنة"}
    return make_guide_order(Status.PARTIALLY_FILLED, **named | values)


def page(order: Order) -> str:
    return order_page(order, "pay_back")


def refund_page(refund: CustomerRefund, name: str) -> str:
    return reverse(f"admin:giftcards_refund_{name}", args=[refund.pk])


def confirmed(browser: Client, order: Order, **typed: str) -> dict[str, str]:
    """Return the form that the button of the confirmation submits."""
    shown = hidden(read(browser.get(page(order))))
    form = hidden(read(browser.post(page(order), {**shown, **TYPED, **typed})))
    assert form["_confirmed"]
    return form


def shown_lines(html: str, table: str = "giftcards-breakdown") -> dict[str, list[str]]:
    return {name: rest for name, *rest in map(tuple, rows(html, table)) if name}


@pytest.fixture
def staff() -> Client:
    return sign_in("view_order", "settle_refund")


class TestAsking:
    def test_the_page_of_an_order_that_owes_leads_to_what_is_owed(self, staff: Client) -> None:
        order = sold()
        assert f'href="{page(order)}">{LABEL}</a>' in read(staff.get(order_page(order)))
        html = read(staff.get(page(order)))
        assert shown_lines(html) == {
            "Paid": ["5 × 550", "2,750 DA"],
            "Paid for delivered cards": ["3 × 550", "1,650 DA"],
            "Owed to the customer": ["2 × 550", "1,100 DA"],
        }
        assert 'name="amount" value="1100.00"' in html
        # Each form has a reference of its own.
        pages = [html, read(staff.get(page(order)))]
        offered = {re.findall(r'name="reference" value="(R-.*?)"', each)[0] for each in pages}
        assert len(offered) == 2
        assert "Customer: آمنة" in text(html)

    def test_the_confirmation_says_in_words_what_is_recorded_and_records_nothing(
        self, staff: Client
    ) -> None:
        order = sold()
        asked = hidden(read(staff.get(page(order))))
        shown = plain(text(read(staff.post(page(order), {**asked, **TYPED}))))
        assert "550 DA will be recorded as paid back to آمنة." in shown
        assert "After this refund, 550 DA will still be owed." in shown
        assert "Method: CCP Reference: CCP 12" in shown
        assert "Record 550 DA as paid back" in shown
        assert not CustomerRefund.objects.exists()

    @pytest.mark.parametrize(
        ("amount", "after"),
        [
            ("550", "After this refund, 250 DA will still be owed."),
            ("800", "After this refund, the customer will be fully paid back."),
        ],
    )
    def test_the_confirmation_counts_what_was_paid_back_already(
        self, staff: Client, amount: str, after: str
    ) -> None:
        order = sold()
        record_refund(order, amount=300, reference="R1")
        form = confirmed(staff, order, amount=amount)
        del form["_confirmed"]
        assert after in plain(text(read(staff.post(page(order), form))))

    def test_going_back_from_the_confirmation_keeps_what_was_typed(self, staff: Client) -> None:
        order = sold()
        form = confirmed(staff, order, comment="Called her.")
        html = read(staff.post(page(order), {**form, "_change": "1"}))
        for value in ("550", "CCP 12", "Called her."):
            assert f'value="{value}"' in html
        assert errors(html) == []

    @pytest.mark.parametrize("language", ["fr", "ar"])
    def test_amounts_with_decimals_survive_every_language(
        self, staff: Client, language: str
    ) -> None:
        order = sold(sale_price=Decimal("1234.55"))
        staff.cookies["django_language"] = language
        form = confirmed(staff, order, amount="2469.10")
        staff.post(page(order), form)
        assert CustomerRefund.objects.get().amount == Decimal("2469.10")

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("amount", "", "This field is required."),
            ("amount", "0", "Ensure this value is greater than or equal to 0.01."),
            ("amount", "1.001", "Ensure that there are no more than 2 decimal places."),
            ("amount", "1100.01", "Only 1,100 DA can still be paid back, not 1,100.01 DA."),
            *(
                ("amount", text, WRITE_IT)
                for text in ODD_AMOUNTS
            ),
            ("reference", "   ", "This field is required."),
            ("method", "x" * 51, "Ensure this value has at most 50 characters (it has 51)."),
            (
                "comment",
                "a\u202eb",
                "Enter one line of text, without control characters or characters that change the"
                " text direction.",
            ),
        ],
    )  # fmt: skip
    def test_a_wrong_form_says_what_is_wrong_and_records_nothing(
        self, staff: Client, name: str, value: str, error: str
    ) -> None:
        order = sold()
        asked = hidden(read(staff.get(page(order))))
        html = read(staff.post(page(order), {**asked, **TYPED, name: value}))
        assert [plain(line) for line in errors(html)] == [error]
        assert f'name="{name}"' in html
        staff.post(page(order), {**asked, **TYPED, name: value, "_confirmed": "1"})
        assert not CustomerRefund.objects.exists()

    def test_an_order_that_owes_nothing_has_no_button_and_says_why(self, staff: Client) -> None:
        paid, ordered_again, without = sold(), sold(reference="b"), sold(reference="c")
        record_refund(paid, amount=1100, reference="R1")
        reorder_missing(ordered_again, by="karim")
        Order.objects.filter(pk=without.pk).update(sale_amount=None, open_amount=None)
        for order, why in (
            (make_guide_order(Status.HANDLING, sale_price=550), "The order is still open"),
            (make_guide_order(Status.FULFILLED, sale_price=550), NOTHING_LEFT),
            (paid, NOTHING_LEFT),
            (ordered_again, "The missing cards were ordered again, and the customer's payment"),
            (without, "the order has no sale amount."),
        ):
            assert page(order) not in read(staff.get(order_page(order)))
            [message] = told(staff.get(page(order), follow=True))
            assert why in message


class TestRecording:
    def test_it_is_recorded_with_a_trace(self, staff: Client) -> None:
        order = sold()
        response = staff.post(page(order), confirmed(staff, order), follow=True)
        assert told(response) == ["Recorded: the customer was paid back 550 DA."]
        refund = CustomerRefund.objects.get()
        assert (refund.amount, refund.method, refund.reference) == (550, "CCP", "CCP 12")
        assert (refund.state, refund.source, refund.created_by) == ("done", "staff", "user0")
        [entry] = LogEntry.objects.all()
        assert entry.change_message == "Recorded a refund to the customer: 550.00, CCP 12."

    @pytest.mark.parametrize(
        ("happen", "refunds"),
        [
            (partial(record_refund, amount=100, reference="R1"), 1),
            (partial(reorder_missing, by="karim"), 0),
        ],
        ids=["another refund", "the cards ordered again"],
    )
    def test_a_page_opened_before_the_order_changed_records_nothing(
        self, happen: Callable[[Order], object], refunds: int, staff: Client
    ) -> None:
        order = sold()
        form = confirmed(staff, order)
        happen(order)
        assert told(staff.post(page(order), form, follow=True)) == [LATE]
        assert CustomerRefund.objects.count() == refunds
        if refunds:
            taken = staff.post(page(order), confirmed(staff, order, reference="R1"), follow=True)
            assert told(taken) == [
                "The reference R1 is already used for another refund of this order."
            ]
            assert CustomerRefund.objects.count() == refunds


class TestLaterOn:
    def paid(self, order: Order) -> CustomerRefund:
        return record_refund(order, amount=550, reference="R1", by="amina")

    def test_a_refund_is_taken_back_with_a_reason(self, staff: Client) -> None:
        order = sold()
        address = refund_page(self.paid(order), "cancel")
        assert f'href="{address}">Cancel</a>' in read(staff.get(order_page(order)))
        for reason, error in (("", "This field is required."), ("x" * 201, "Ensure this value")):
            [shown] = errors(read(staff.post(address, {"reason": reason})))
            assert shown.startswith(error)
        form = {"reason": "The transfer came back."}
        taken = "The refund was cancelled. You owe the customer this amount again."
        assert told(staff.post(address, form, follow=True)) == [taken]
        again = staff.post(address, form, follow=True)
        assert told(again) == ["The refund has already been cancelled."]
        refund = CustomerRefund.objects.get()
        assert (refund.state, refund.cancelled_by) == ("cancelled", "user0")
        assert refund.cancel_reason == "The transfer came back."
        [entry] = LogEntry.objects.all()
        assert entry.change_message == "Cancelled a refund: 550.00, R1."
        assert told(staff.get(address, follow=True)) == [LATE]
        assert address not in read(staff.get(order_page(order)))


@pytest.mark.parametrize(
    "permissions",
    [("view_order",), ("settle_refund",), ("view_order", "add_order", "resolve_order")],
)
def test_other_permissions_show_amounts_at_most_and_decide_nothing(
    permissions: tuple[str, ...],
) -> None:
    order, browser, boss = sold(), sign_in(*permissions), sign_in(superuser=True)
    form = confirmed(boss, order)
    refund = record_refund(order, amount=100, reference="R1")
    addresses = [page(order), refund_page(refund, "cancel")]
    for address in addresses:
        assert browser.get(address).status_code == 403
        assert browser.post(address, {**form, "reason": "x"}).status_code == 403
    if "view_order" in permissions:
        html = read(browser.get(order_page(order)))
        assert "The customer is still owed 1,000 DA." in plain(text(html))
        assert not [address for address in addresses if address in html]
    refund.refresh_from_db()
    assert (refund.state, CustomerRefund.objects.count()) == ("done", 1)


class TestOrdersPage:
    """200 of 1,100 have been paid back. Another refund of 50 was cancelled."""

    def test_the_page_tells_what_was_paid_and_what_is_left_and_each_refund(
        self, staff: Client
    ) -> None:
        order = sold()
        record_refund(
            order, amount=200, reference="R1", method="cash", comment="At the <counter>", by="amina"
        )
        back = record_refund(order, amount=50, reference="R3", by="amina")
        cancel_refund(back, by="karim", reason="A mistake.")
        html = read(staff.get(order_page(order)))
        assert ("The customer was paid back 200 DA. The customer is still owed 900 DA.") in plain(
            text(html)
        )
        lines = shown_lines(html)
        assert lines["Owed to the customer"] == ["2 × 550", "1,100 DA"]
        assert lines["Paid back"] == ["", "200 DA"]
        assert lines["Still owed"] == ["1,100 − 200", "900 DA"]
        _heading, first, second = rows(html, "giftcards-refunds")
        assert first[:2] == ["200 DA Paid back", "cash · R1"]
        assert first[2].endswith(" amina")
        assert first[3:] == ["At the <counter>", "Cancel"]
        assert second[0] == "50 DA Cancelled"
        assert second[3:] == ["A mistake.", ""]
        assert "cancelled" in second[2]
        assert [plain(event) for event in timeline(html)[1:]] == [
            "amina recorded a refund of 200 DA to the customer. cash · R1At the <counter>",
            "amina recorded a refund of 50 DA to the customer. R3",
            "karim cancelled a refund of 50 DA. The amount is owed again. A mistake.",
        ]

    def test_nothing_of_it_is_shown_without_refunds(self, staff: Client) -> None:
        html = read(staff.get(order_page(sold())))
        assert "giftcards-refunds" not in html
        assert "Still owed" not in shown_lines(html)


LOG = "/admin/giftcards/customerrefund/"


def refund(order: Order, reference: str, **values: Any) -> CustomerRefund:
    return record_refund(order, reference=reference, **{"amount": 100, "by": "amina", **values})


def listed(browser: Client, **query: str) -> list[list[str]]:
    """Return the texts of the list's rows, without the times."""
    html = read(browser.get(LOG, query))
    if 'id="result_list"' not in html:
        return []
    return [[plain(cell) for cell in row[1:]] for row in rows(html, 'id="result_list"')[1:]]


@pytest.fixture
def browser() -> Client:
    return sign_in("view_customerrefund", "view_order")


def test_the_latest_refund_is_shown_first_with_all_that_is_known(browser: Client) -> None:
    order = sold(reference="web-1042")
    refund(order, "R1", method="CCP", amount=Decimal("834.5"))
    cancel_refund(refund(order, "R2", by=None), by="karim")
    assert listed(browser) == [
        ["web-1042", "100 DA", "Cancelled", "", "R2", "The shop's software"],
        ["web-1042", "834.50 DA", "Paid back", "CCP", "R1", "amina"],
    ]
    assert f'href="{order_page(order)}"' in read(browser.get(LOG))


def test_refunds_are_found_by_their_reference_and_by_that_of_the_order(browser: Client) -> None:
    first, second = sold(reference="web-1042"), sold(reference="web-1043")
    refund(first, "CCP 12")
    refund(first, "R9")
    refund(second, "CCP 13")

    def found(text: str) -> list[str]:
        return [row[4] for row in listed(browser, q=text)]

    assert found(" CCP 12 ") == ["CCP 12"]
    assert found("CCP") == ["CCP 13", "CCP 12"]
    assert found("web-1042") == ["R9", "CCP 12"]
    assert found("WEB-10") == ["CCP 13", "R9", "CCP 12"]
    assert found("1043") == ["CCP 13"]
    assert found("ccp") == found("eb-1042") == []


def test_refunds_are_filtered_by_state_and_by_day(browser: Client) -> None:
    order = sold(reference="web-1042")
    refund(order, "R1")
    cancel_refund(refund(order, "R2"), by="karim")
    old = refund(order, "R3")
    long_ago = timezone.now() - timedelta(days=40)
    CustomerRefund.objects.filter(pk=old.pk).update(executed_at=long_ago)
    assert [row[4] for row in listed(browser, state__exact="cancelled")] == ["R2"]
    week = str(timezone.now() - timedelta(days=7))
    found = listed(browser, state__exact="done", executed_at__gte=week)
    assert [row[4] for row in found] == ["R1"]


def test_only_who_has_the_permission_looks_and_nobody_changes_anything() -> None:
    key = refund(sold(reference="web-1042"), "R1").pk
    assert sign_in("view_order", "settle_refund").get(LOG).status_code == 403
    for role, permissions in ROLES.items():
        status = sign_in(*permissions).get(LOG).status_code
        assert status == (403 if role == "Gift card support" else 200)
    boss = sign_in(superuser=True)
    for name in ("add/", f"{key}/delete/"):
        assert boss.post(f"{LOG}{name}", {"post": "yes"}).status_code == 403
    assert boss.post(f"{LOG}{key}/change/", {"amount": "1"}).status_code == 403
    assert "delete_selected" not in read(boss.get(LOG))
    assert CustomerRefund.objects.get().amount == 100


def test_the_list_takes_a_constant_number_of_queries(browser: Client) -> None:
    refund(sold(reference="web-1"), "R1")
    few = count_queries(browser, LOG)
    for number in range(2, 12):
        refund(sold(reference=f"web-{number}"), f"R{number}")
    assert count_queries(browser, LOG) == few


def test_the_list_says_that_there_are_more_refunds_than_its_pages_show(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = sold(reference="web-1042")
    for number in range(3):
        refund(order, f"R{number}")
    more = "There are more than 2 matching entries. These pages show only the first 2."
    assert more not in plain(read(browser.get(LOG)))
    monkeypatch.setattr("giftcards.admin.frame.rows.LimitedPaginator.limit", 2)
    assert more in plain(read(browser.get(LOG)))
