"""The provider's ledger: the list, one entry, and the entries on the page of an order."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone, translation

from giftcards.admin import OrderAdmin
from giftcards.books.models import LedgerEntry
from giftcards.models import Order, ProviderState
from giftcards.statuses import Status
from tests.books.wire import note_ledger
from tests.builders import make_guide_order
from tests.pages import LEDGER, count_queries, element, order_page, plain, read, rows, sign_in, text
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

_numbers = count(1)


def book(kind: str = "ORDER", amount: Decimal | int = -2450, **values: Any) -> LedgerEntry:
    """Create an entry as it is stored after a reading."""
    values = {"provider_id": f"entry-{next(_numbers)}", "time": timezone.now(), **values}
    return LedgerEntry.objects.create(type=kind, amount=amount, **values)


@pytest.fixture
def accountant() -> Client:
    return sign_in("view_order", "view_cost", "view_ledgerentry")


@pytest.fixture
def order() -> Order:
    return make_guide_order(
        Status.PARTIALLY_FILLED, reference="web-1042", provider_order_id="6901616fe9e88196b4eb64b3"
    )


def shown(browser: Client, **query: str) -> list[list[str]]:
    """Return the rows of the list without their times."""
    html = read(browser.get(LEDGER, query))
    html = re.sub(r'<span class="giftcards-label">.*?</span>', "", html)
    found = rows(html, 'id="result_list"')[1:] if "result_list" in html else []
    return [[cell.replace("\xa0", " ") for cell in row[1:]] for row in found]


def fields(html: str) -> dict[str, str]:
    """Return the texts of the page of an entry, by label."""
    html = re.sub(r'<span class="giftcards-label">.*?</span>', "", html.replace("\xa0", " "))
    found = re.findall(
        r'<label>(.*?):?</label>\s*<div class="readonly">(.*?)</div>', html, re.DOTALL
    )
    return {name: text(value) for name, value in found}


def kinds(browser: Client, **query: str) -> list[str]:
    return [row[0] for row in shown(browser, **query)]


# The list.


def test_each_entry_shows_what_it_is_its_amount_and_its_order(
    accountant: Client, order: Order
) -> None:
    start = timezone.now() - timedelta(hours=1)
    book("DEPOSIT", 100_000, balance_after=100_000, time=start)
    book(order=order, balance_after=97_550, time=start + timedelta(minutes=1))
    book("REFUND-ORDER", 980, order=order, is_guess=True, time=start + timedelta(minutes=2))
    book("ORDER", Decimal("-1250.50"), time=start + timedelta(minutes=3))
    book("BONUS <1>", 0, balance_after=-5, time=start + timedelta(minutes=4))
    html = read(accountant.get(LEDGER))
    assert rows(html, 'id="result_list"')[0] == ["When", "Kind", "Amount", "Balance after", "Order"]
    assert shown(accountant) == [
        ["BONUS <1>", "0 DA", "-5 DA", "-"],
        ["Gift cards ORDER", "−1,250.50 DA", "unknown", "unknown"],
        [
            "Gift cards credited back REFUND-ORDER",
            "+980 DA",
            "unknown",
            "web-1042 (matched by amount and time)",
        ],
        ["Gift cards ORDER", "−2,450 DA", "97,550 DA", "web-1042"],
        ["Account top-up DEPOSIT", "+100,000 DA", "100,000 DA", "-"],
    ]
    assert html.count(f'href="{order_page(order)}"') == 2
    assert "<bdi>BONUS &lt;1&gt;</bdi>" in html


def test_an_entry_has_a_page_with_all_that_is_known_of_it(accountant: Client, order: Order) -> None:
    entry = book(
        order=order,
        objid="6901616fe9e88196b4eb64b3",
        provider_id="6901616fe9e88196b4eb64c0",
        balance_before=100_000,
        balance_after=97_550,
        time=datetime(2026, 11, 24, 22, 59, 30, tzinfo=UTC),
        read_at=datetime(2026, 11, 25, 2, 0, tzinfo=UTC),
    )
    address = f"{LEDGER}{entry.pk}/change/"
    assert f'href="{address}"' in read(accountant.get(LEDGER))
    html = read(accountant.get(address))
    assert list(fields(html).items()) == [
        ("When", "24 Nov 2026 23:59:30"),
        ("Kind", "Gift cards ORDER"),
        ("Amount", "−2,450 DA"),
        ("Balance before", "100,000 DA"),
        ("Balance after", "97,550 DA"),
        ("Order", "web-1042"),
        ("About", "6901616fe9e88196b4eb64b3"),
        ("Entry", "6901616fe9e88196b4eb64c0"),
        ("First read", "25 Nov 2026 03:00:00"),
    ]
    assert 'name="_save"' not in html


def test_what_is_not_known_of_an_entry_is_a_dash_or_unknown(accountant: Client) -> None:
    html = read(accountant.get(f"{LEDGER}{book('FLEXY', -500).pk}/change/"))
    assert list(fields(html).values())[3:7] == ["unknown", "unknown", "-", "-"]


@pytest.mark.parametrize(
    "permissions", [(), ("view_ledgerentry",), ("view_cost",), ("view_order", "view_ledgerentry")]
)
def test_who_may_not_see_the_ledger_and_costs_gets_no_page_of_it(
    permissions: tuple[str, ...],
) -> None:
    entry = book()
    browser = sign_in(*permissions)
    for page in ("", "add/", *(f"{entry.pk}/{name}/" for name in ("change", "delete", "history"))):
        assert browser.get(LEDGER + page).status_code == 403
        assert browser.post(LEDGER + page, {"action": "delete_selected"}).status_code == 403
    assert "ledgerentry" not in read(browser.get("/admin/"))


def test_nobody_changes_the_ledger() -> None:
    entry = book()
    boss = sign_in(superuser=True)
    assert "ledgerentry" in read(boss.get("/admin/"))
    for page in ("add", f"{entry.pk}/delete", f"{entry.pk}/change"):
        assert boss.post(f"{LEDGER}{page}/", {"amount": "1", "post": "yes"}).status_code == 403
    entry.refresh_from_db()
    assert entry.amount == -2450


@pytest.mark.parametrize("why", ["no permission", "left out"])
def test_entries_of_an_order_that_the_person_may_not_see_are_not_in_the_list(
    order: Order, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    entry = book(order=order, objid=order.provider_order_id)
    book("DEPOSIT", 5000)
    may = ["view_cost", "view_ledgerentry", *([] if why == "no permission" else ["view_order"])]
    browser = sign_in(*may)
    if why == "left out":
        monkeypatch.setattr(OrderAdmin, "get_queryset", lambda *_anything: Order.objects.none())
    assert kinds(browser) == ["Account top-up DEPOSIT"]
    assert browser.get(f"{LEDGER}{entry.pk}/change/").status_code == 302
    # The search must not reveal that the order exists.
    assert shown(browser, q="web-1042") == []


def test_entries_are_found_by_their_id_what_they_are_about_and_the_order(
    accountant: Client, order: Order
) -> None:
    book(order=order, provider_id="A1", objid="B2")
    book("FLEXY", -500, provider_id="A2", objid="B3")
    book("REFUND-ORDER", 980, order=order, provider_id="A3")
    assert kinds(accountant, q="A2") == kinds(accountant, q=" B3 ") == ["Phone credit FLEXY"]
    expected = ["Gift cards credited back REFUND-ORDER", "Gift cards ORDER"]
    assert kinds(accountant, q="web-1042") == expected
    assert kinds(accountant, q="A") == []
    assert len(kinds(accountant, q=" ")) == 3


def test_the_ledger_is_filtered_by_the_types_that_it_has(accountant: Client) -> None:
    for kind, amount in (("ORDER", -490), ("DEPOSIT", 5000), ("BONUS", 5), ("ORDER", -980)):
        book(kind, amount)
    html = plain(text(element(read(accountant.get(LEDGER)), "giftcards-filters", "nav")))
    assert "Kind All BONUS Account top-up DEPOSIT Gift cards ORDER" in html
    assert [row[1] for row in shown(accountant, type="ORDER")] == ["−980 DA", "−490 DA"]
    assert kinds(accountant, type="BONUS") == ["BONUS"]
    assert kinds(accountant, type="FLEXY") == []


def test_the_ledger_is_filtered_by_what_is_known_of_the_order(
    accountant: Client, order: Order
) -> None:
    book("ORDER", -1, order=order)
    book("ORDER", -2, order=order, is_guess=True)
    book("ORDER", -3)
    book("REFUND-ORDER", 4)
    book("FLEXY", -5)
    amounts = {
        choice: [row[1] for row in shown(accountant, order=choice)]
        for choice in ("guessed", "charged", "credited", "nonsense")
    }
    assert amounts == {
        "guessed": ["−2 DA"],
        "charged": ["−3 DA"],
        "credited": ["+4 DA"],
        "nonsense": ["−5 DA", "+4 DA", "−3 DA", "−2 DA", "−1 DA"],
    }


@pytest.fixture
def _end_of_november(wall: Wall) -> None:
    """It is 30 November 2026, 23:30 in UTC, which is 1 December in Algiers."""
    wall.step((datetime(2026, 11, 30, 23, 30, tzinfo=UTC) - timezone.now()).total_seconds())


@pytest.mark.usefixtures("_end_of_november")
def test_the_ledger_is_filtered_by_the_days_of_the_site(accountant: Client) -> None:
    def at(*parts: int) -> datetime:
        return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]

    book("ORDER", -1, time=at(2026, 11, 30, 23, 0))  # the first moment of December
    book("ORDER", -2, time=at(2026, 11, 30, 22, 59, 59, 999_000))
    book("ORDER", -3, time=at(2026, 11, 24, 23, 0))
    book("ORDER", -4, time=at(2026, 10, 31, 23, 0))
    book("ORDER", -5, time=at(2026, 10, 31, 22, 59))
    book("ORDER", -6, time=at(2025, 1, 15))
    amounts = {
        period: "".join(row[1][1] for row in shown(accountant, period=period))
        for period in ("today", "week", "2026-12", "2026-11", "2026-10", "2026-09", "2025-01")
    }
    assert amounts == {
        "today": "1",
        "week": "123",
        "2026-12": "1",
        "2026-11": "234",
        "2026-10": "5",
        "2026-09": "",
        "2025-01": "6",
    }
    html = plain(text(element(read(accountant.get(LEDGER)), "giftcards-filters", "nav")))
    assert "When All Today Past 7 days December 2026 November 2026" in html
    assert "January 2026 Kind" in html


@pytest.mark.parametrize("period", ["soon", "2026-13", "2026", "0001-01", "9999-12", "2026-1"])
def test_a_period_that_is_none_shows_all(accountant: Client, period: str) -> None:
    book()
    answer = accountant.get(LEDGER, {"period": period}, follow=True)
    assert answer.redirect_chain == [(f"{LEDGER}?e=1", 302)]
    assert len(rows(read(answer), 'id="result_list"')) == 2


@pytest.mark.parametrize("lookup", ["amount__gt", "objid__contains", "order__reference", "id"])
def test_an_address_asks_only_what_an_index_answers(accountant: Client, lookup: str) -> None:
    assert accountant.get(LEDGER, {lookup: "1"}).status_code == 400


def test_the_number_of_queries_does_not_grow(accountant: Client) -> None:
    def fill() -> int:
        for number in range(3):
            order = make_guide_order(reference=f"web-{next(_numbers)}-{number}")
            book(order=order)
        return count_queries(accountant, LEDGER)

    fill()  # reads what is cached
    assert fill() == fill()


def test_amounts_and_foreign_words_are_isolated_in_arabic(accountant: Client) -> None:
    book()
    with translation.override("ar"):
        html = read(accountant.get(LEDGER, headers={"Accept-Language": "ar"}))
    assert '<span class="giftcards-second"><bdi>ORDER</bdi></span>' in html
    assert 'dir="ltr">−2' in html


# The totals of a period.


def books(browser: Client, **query: str) -> dict[str, Any]:
    """Return the texts of the section about a period."""
    html = read(browser.get(LEDGER, query)).replace("\xa0", " ")
    if "giftcards-ledger" not in html:
        return {}
    html = element(html, "giftcards-ledger", "section")
    html = re.sub(r"<time.*?</time>", "TIME", html, flags=re.DOTALL).replace("</th>", " ")
    parts = {
        "title": r"<h2\b.*?</h2>",
        "verdict": r"<p\b.*?</p>",
        "lines": r"<tr\b.*?</tr>",
        "unfit": r"<summary>.*?</summary>|<li>.*?</li>",
    }
    found = {name: re.findall(part, html, re.DOTALL) for name, part in parts.items()}
    told = {name: [plain(text(each)) for each in texts] for name, texts in found.items()}
    return {**told, "title": told["title"][0], "verdict": told["verdict"][0]}


@pytest.mark.usefixtures("_end_of_november")
def test_above_a_period_stands_whether_its_entries_explain_the_balance(
    accountant: Client, order: Order
) -> None:
    now = timezone.now()
    balance = Decimal(0)
    for kind, amount, values in (
        ("DEPOSIT", Decimal(100_000), {}),
        ("ORDER", Decimal(-2450), {"order": order}),
        ("FLEXY", Decimal(-500), {}),
        ("REFUND-ORDER", Decimal(980), {"order": order, "is_guess": True}),
        ("OCPAY", Decimal(1100), {"objid": "OCPL-ABC123-XY12"}),
    ):
        balance += amount
        book(
            kind,
            amount,
            balance_before=balance - amount,
            balance_after=balance,
            time=now - timedelta(days=2),
            **values,
        )
        now += timedelta(minutes=1)
    assert books(accountant) == {}
    assert books(accountant, period="2026-11") == {
        "title": "1 Nov 2026 – 30 Nov 2026",
        "verdict": "The entries explain the whole change in the balance.",
        "lines": [
            "Balance before 0 DA",
            "Gift cards −2,450 DA",
            "Gift cards credited back +980 DA",
            "Payments by customers +1,100 DA",
            "Top-ups +100,000 DA",
            "Other services −500 DA",
            "Balance after 99,130 DA",
            "Entries 5",
            "Entries for known orders 2",
            "Matched by amount and time 1",
        ],
        "unfit": [],
    }
    assert books(accountant, period="today") == {
        "title": "1 Dec 2026",
        "verdict": "The ledger has no entries for this period, or they have not been read yet.",
        "lines": [
            "Balance before 99,130 DA",
            "Gift cards 0 DA",
            "Gift cards credited back 0 DA",
            "Top-ups 0 DA",
            "Other services 0 DA",
            "Balance after 99,130 DA",
            "Entries 0",
            "Entries for known orders 0",
            "Matched by amount and time 0",
        ],
        "unfit": [],
    }
    # The section reads all entries of the period, so it is shown only above the unfiltered first
    # page.
    assert books(accountant, period="2026-11", type="ORDER") == {}
    assert books(accountant, period="2026-11", q="x") == {}
    assert books(accountant, period="2026-11", p="1") == {}


def test_what_names_no_order_is_named_as_one_that_may_be_meant(
    accountant: Client, order: Order
) -> None:
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    text = "The entry may belong to a different order with the same amount."
    book(order=order, is_guess=True, time=now)
    assert text not in read(accountant.get(LEDGER, {"period": "2026-11"}))
    book(time=now)
    assert text in read(accountant.get(LEDGER, {"period": "2026-11"}))


def test_an_order_that_was_never_charged_is_named_with_a_way_to_it(
    accountant: Client, order: Order
) -> None:
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    Order.objects.filter(pk=order.pk).update(sent_at=now)
    book("DEPOSIT", 5000, time=now - timedelta(minutes=9))
    ProviderState.objects.current()
    note_ledger(read_until=now + timedelta(minutes=14))
    assert books(accountant, period="2026-11")["unfit"] == []
    note_ledger(read_until=now + timedelta(minutes=16))
    expected = ["Ordered but never charged 2,450 DA (1)", "web-1042 · 2,450 DA · TIME"]
    assert books(accountant, period="2026-11")["unfit"] == expected
    html = read(accountant.get(LEDGER, {"period": "2026-11"}))
    assert f'<li><a href="{order_page(order)}">' in html


def test_what_does_not_fit_is_named_with_a_way_to_it(accountant: Client, order: Order) -> None:
    now = datetime(2026, 11, 15, 12, tzinfo=UTC)
    Order.objects.filter(pk=order.pk).update(is_credited=False, finalized_at=now)
    book(order=order, balance_before=10_000, balance_after=7550, time=now - timedelta(minutes=9))
    charged = book("ORDER", -490, balance_before=7550, balance_after=7060, time=now)
    credited = book(
        "REFUND-ORDER",
        Decimal("99.50"),
        balance_before=7000,
        balance_after=Decimal("7099.50"),
        time=now + timedelta(minutes=2),
    )
    found = books(accountant, period="2026-11")
    assert found["verdict"] == "The balance changed by −60 DA without an entry that explains it."
    assert "Changes without an entry −60 DA" in found["lines"]
    assert found["unfit"] == [
        "Promised but not credited back 980 DA (1)",
        "web-1042 · 980 DA · TIME",
        "Credited back but not promised 99.50 DA (1)",
        f"{credited.provider_id} · 99.50 DA · TIME",
        "Charges for unknown orders, and charges that exceed the price 490 DA (1)",
        f"{charged.provider_id} · 490 DA · TIME",
        "Balance changed without an entry 60 DA (1)",
        "15 Nov 2026 · −60 DA",
    ]
    html = read(accountant.get(LEDGER, {"period": "2026-11"}))
    for address in (order_page(order), f"{LEDGER}{charged.pk}/change/"):
        assert f'<li><a href="{address}">' in html
    # A person who may not view the order sees only the missing amount.
    stranger = sign_in("view_cost", "view_ledgerentry")
    unfit = books(stranger, period="2026-11")["unfit"]
    assert unfit[:2] == ["Promised but not credited back 980 DA (1)", "an order · 980 DA · TIME"]


def test_missing_entries_that_add_up_to_nothing_are_told_of(accountant: Client) -> None:
    noon = datetime(2026, 11, 15, 12, tzinfo=UTC)
    # 100 came in and went out again on the next day. Both entries are missing.
    for day, before in enumerate([1000, 1090, 980]):
        time = noon + timedelta(days=day)
        book("FLEXY", -10, balance_before=before, balance_after=before - 10, time=time)
    found = books(accountant, period="2026-11")
    assert found["verdict"] == (
        "The entries add up to the total change in the balance, but at some point, the balance"
        " changed without an entry. Find out when this happened."
    )
    assert found["unfit"] == [
        "Balance changed without an entry 200 DA (2)",
        "16 Nov 2026 · +100 DA",
        "17 Nov 2026 · −100 DA",
    ]


def test_of_many_days_that_do_not_fit_the_first_are_listed(accountant: Client) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for day in range(26):
        time = noon + timedelta(days=day)
        book("DEPOSIT", 1, balance_before=9 * day, balance_after=9 * day + 1, time=time)
    unfit = books(accountant, period="2026-11")["unfit"]
    assert unfit[0] == "Balance changed without an entry 200 DA (25)"
    assert unfit[1:] == [f"{day} Nov 2026 · +8 DA" for day in range(2, 22)]
    html = read(accountant.get(LEDGER, {"period": "2026-11"}))
    assert "Only the first entries are shown." in html


def test_without_balances_it_is_not_known_whether_entries_explain_them(accountant: Client) -> None:
    book()
    assert books(accountant, period="today")["verdict"] == (
        "The provider did not report the balances, so the app cannot check whether the entries"
        " explain the change in the balance."
    )


# The page of an order.


def booked(browser: Client, order: Order) -> list[str]:
    """Return the sentences about the ledger in the section about money."""
    html = element(read(browser.get(order_page(order))), "giftcards-money", "section")
    html = re.sub(r"<time.*?</time>", "TIME", html, flags=re.DOTALL).replace("\xa0", " ")
    paragraphs = [text(part) for part in re.findall(r"<p\b.*?</p>", html, re.DOTALL)]
    return [each for each in paragraphs if re.search("Booked|Matched|ledger", each)]


def test_the_page_of_an_order_shows_what_the_provider_has_booked(
    accountant: Client, order: Order
) -> None:
    assert booked(accountant, order) == []
    start = timezone.now() - timedelta(minutes=9)
    book("REFUND-ORDER", 980, order=order, is_guess=True, time=start + timedelta(minutes=5))
    book(order=order, time=start)
    book("ORDER", -490, time=start)
    assert booked(accountant, order) == [
        "Entries in the provider's ledger: −2,450 DA on TIME · +980 DA on TIME"
        " (matched by amount and time)",
        "“Matched by amount and time” means that the provider does not say which order the entry"
        " belongs to.",
    ]


@pytest.mark.parametrize(("credited", "told"), [((), "0 DA"), ((490, 100), "590 DA")])
def test_the_page_of_an_order_warns_that_the_ledger_lacks_what_was_promised(
    accountant: Client, order: Order, credited: tuple[int, ...], told: str
) -> None:
    warning = (
        f"The provider promised to credit back 980 DA, but its ledger shows only {told}. Ask"
        " the provider for the rest."
    )
    book(order=order)
    for amount in credited:
        book("REFUND-ORDER", amount, order=order)
    for is_credited, warnings in ((None, []), (True, []), (False, [warning])):
        Order.objects.filter(pk=order.pk).update(is_credited=is_credited)
        assert booked(accountant, order)[1:] == warnings


def test_without_the_permission_to_see_costs_an_order_shows_nothing_of_the_ledger(
    order: Order,
) -> None:
    book(order=order)
    Order.objects.filter(pk=order.pk).update(is_credited=False)
    seller = sign_in("view_order", "view_ledgerentry")
    assert booked(seller, order) == []
    assert "2,450" not in read(seller.get(order_page(order)))
