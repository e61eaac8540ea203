"""The list of the refunds to customers: only to look at, for who may."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.models import CustomerRefund, Order
from giftcards.rules.roles import ROLES
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import count_queries, order_page, plain, read, rows, sign_in

pytestmark = pytest.mark.django_db

LOG = "/admin/giftcards/customerrefund/"


def sold(reference: str) -> Order:
    return make_guide_order(Status.REFUNDED, reference=reference, sale_price=Decimal(550))


def refund(order: Order, reference: str, **values: Any) -> CustomerRefund:
    return record_refund(order, reference=reference, **{"amount": 100, "by": "amina", **values})


def listed(browser: Client, **query: str) -> list[list[str]]:
    """The texts of the list's rows, without the times."""
    html = read(browser.get(LOG, query))
    if 'id="result_list"' not in html:
        return []
    return [[plain(cell) for cell in row[1:]] for row in rows(html, 'id="result_list"')[1:]]


@pytest.fixture
def browser() -> Client:
    return sign_in("view_customerrefund", "view_order")


def test_the_latest_refund_is_shown_first_with_all_that_is_known(browser: Client) -> None:
    order = sold("web-1042")
    refund(order, "R1", method="CCP", amount=Decimal("1234.5"))
    cancel_refund(refund(order, "R2", by=None, is_paid=False), by="karim")
    assert listed(browser) == [
        ["web-1042", "100 DA", "Taken back", "", "R2", "The shop's software"],
        ["web-1042", "1,234.50 DA", "Paid back", "CCP", "R1", "amina"],
    ]
    assert f'href="{order_page(order)}"' in read(browser.get(LOG))


def test_refunds_are_found_by_their_reference_and_by_that_of_the_order(browser: Client) -> None:
    first, second = sold("web-1042"), sold("web-1043")
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
    order = sold("web-1042")
    refund(order, "R1")
    refund(order, "R2", is_paid=False)
    old = refund(order, "R3")
    CustomerRefund.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=40))
    assert [row[4] for row in listed(browser, state__exact="created")] == ["R2"]
    week = str(timezone.now() - timedelta(days=7))
    found = listed(browser, state__exact="done", created_at__gte=week)
    assert [row[4] for row in found] == ["R1"]


def test_only_who_has_the_permission_looks_and_nobody_changes_anything() -> None:
    key = refund(sold("web-1042"), "R1").pk
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
    refund(sold("web-1"), "R1")
    few = count_queries(browser, LOG)
    for number in range(2, 12):
        refund(sold(f"web-{number}"), f"R{number}")
    assert count_queries(browser, LOG) == few


def test_the_list_says_that_there_are_more_refunds_than_its_pages_show(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = sold("web-1042")
    for number in range(3):
        refund(order, f"R{number}")
    more = "There are more than 2 of these entries. The pages show the first 2:"
    assert more not in plain(read(browser.get(LOG)))
    monkeypatch.setattr("giftcards.admin.frame.rows.LimitedPaginator.limit", 2)
    assert more in plain(read(browser.get(LOG)))
