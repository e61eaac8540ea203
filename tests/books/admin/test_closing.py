"""The page "Closing a month": steps with links to their rows, and a permanent record."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from giftcards.admin import OrderAdmin
from giftcards.books.models import LedgerEntry, MonthClosing
from giftcards.books.months import Month, check_closed_month, close_month
from giftcards.fulfilment import record_sale_amount
from giftcards.models import Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.books.november import NOON, NOVEMBER, enter, partly_delivered
from tests.books.wire import note_ledger
from tests.builders import make_guide_order
from tests.pages import (
    LEDGER,
    LIST,
    element,
    errors,
    hidden,
    plain,
    read,
    rows,
    sign_in,
    text,
    told,
)
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

CLOSING = f"{LIST}report/close/"
IN_NOVEMBER = f"{CLOSING}?month=2026-11"
LATE = (
    "The month was not closed because the figures have changed since the page was shown, or because"
    " somebody else has closed it. Check the page again."
)
SEES = ("view_order", "view_cost", "view_ledgerentry")


@pytest.fixture(autouse=True)
def _december(wall: Wall) -> None:
    """It is 3 December 2026, noon in UTC; the ledger was read until then."""
    wall.step((datetime(2026, 12, 3, 12, tzinfo=UTC) - timezone.now()).total_seconds())
    note_ledger(read_until=timezone.now())


@pytest.fixture
def amina() -> Client:
    return sign_in(*SEES, "settle_refund", "close_month", name="amina")


def steps(html: str) -> list[tuple[str, dict[str, str]]]:
    """Return the state of each step, and the addresses of its rows by link text."""
    found = []
    for part in re.split(r"<h3>", element(html, "giftcards-steps", "ol"))[1:]:
        [state] = re.findall(r">[✓!–]</span> ([\w ]+)</span></h3>", part)
        links = re.findall(r'<a href="([^"]*)">(.*?)</a>', part, re.DOTALL)
        found.append((state, {plain(text(words)): unescape(address) for address, words in links}))
    return found


def states(html: str) -> list[str]:
    return [state for state, _links in steps(html)]


def close(browser: Client, address: str = IN_NOVEMBER, **values: str) -> Any:
    """Look at the page, and press its button."""
    seen = hidden(read(browser.get(address)))
    return browser.post(address, {**seen, "is_sure": "on", "note": "", **values}, follow=True)


def differences(html: str) -> list[list[str]]:
    if "giftcards-differences" not in html:
        return []
    found = rows(html, 'class="giftcards-differences"')
    return [[plain(cell).replace("\xa0", " ") for cell in row] for row in found[1:]]


def listed(html: str, address: str) -> int:
    """Return the number of rows on a linked page of a list, or in the linked group above it."""
    place = address.partition("#")[2]
    if place:
        group = re.search(rf'\((\S+)\)</summary>\s*<ul id="{place}">(.*?)</ul>', html, re.DOTALL)
        assert group
        assert group[2].count("<li>") == int(plain(group[1]))
        return group[2].count("<li>")
    return len(rows(html, 'id="result_list"')) - 1 if 'id="result_list"' in html else 0


# Planted discrepancies.


def book(kind: str, amount: int, **values: Any) -> LedgerEntry:
    """Book an entry that continues the balances of the entries before it.

    The first entry is in the middle of the month.
    """
    last = LedgerEntry.objects.order_by("-time").first()
    before = last.balance_after if last and last.balance_after is not None else Decimal(100_000)
    time = last.time + timedelta(minutes=1) if last else NOON
    balances = {"balance_before": before, "balance_after": before + amount}
    return enter(kind, amount, **{"time": time, **balances, **values})


def plant() -> dict[str, Order]:
    """Plant one order of each kind: refund not credited, no sale amount, and still owed.

    Also add similar orders in October and December, and a charge without an order.
    """
    planted = {name: partly_delivered(reference=name) for name in ("uncredited", "unsold", "owed")}
    for order in planted.values():
        book("ORDER", -2450, order=order)
        if order.reference != "uncredited":
            book("REFUND-ORDER", 980, order=order)
    Order.objects.filter(reference="unsold").update(sale_amount=None, open_amount=None)
    Order.objects.filter(reference="uncredited").update(is_credited=False)
    record_refund(planted["uncredited"], amount=1100, reference="R", by="samir")
    book("ORDER", -490, provider_id="nobody's")
    for days, name in ((-20, "before"), (16, "after")):
        at = NOON + timedelta(days=days)
        times = {"finalized_at": at, "sent_at": at}
        partly_delivered(reference=name, is_credited=False, **times)
        partly_delivered(reference=f"{name} too", sale_price=None, **times)
    return {order.reference: Order.objects.get(pk=order.pk) for order in planted.values()}


def test_planted_mistakes_are_shown_each_with_its_rows_and_mended_one_by_one(amina: Client) -> None:
    planted = plant()
    found = steps(read(amina.get(IN_NOVEMBER)))
    assert [state for state, _links in found] == ["Done", "To do", "To do", "To do"]
    links = {words: address for _state, rows_ in found for words, address in rows_.items()}
    assert list(links) == [
        "Entries: 6",
        "Refunds that were not credited back as promised: 1",
        "Charges without a matching order: 1",
        "Orders without a sale amount: 1",
        "Orders with money still owed to customers: 1",
    ]
    names = ["", "uncredited", "−490", "unsold", "owed"]
    for name, (words, address) in zip(names, links.items(), strict=True):
        html = read(amina.get(address))
        assert listed(html, address) == int(words.rpartition(" ")[2]), address
        assert name in html
    # Closing requires a reason and the person's confirmation.
    for values in ({}, {"note": "All the same.", "is_sure": ""}):
        assert errors(read(close(amina, **values))) == ["This field is required."]
    assert not MonthClosing.objects.exists()
    # The provider credits it back, and the next reading finds it.
    credited = book("REFUND-ORDER", 980, order=planted["uncredited"])
    Order.objects.filter(pk=planted["uncredited"].pk).update(is_credited=True)
    assert states(read(amina.get(IN_NOVEMBER)))[1] == "To do"
    # The order of the charge is found.
    found_order = make_guide_order(
        Status.FULFILLED,
        quantity=1,
        fulfilled_amount=490,
        finalized_at=NOON,
        sale_price=Decimal(500),
    )
    LedgerEntry.objects.filter(provider_id="nobody's").update(order=found_order)
    assert states(read(amina.get(IN_NOVEMBER)))[1:3] == ["Done", "To do"]
    record_sale_amount(planted["unsold"], 2450, by="samir")
    assert states(read(amina.get(IN_NOVEMBER)))[2:4] == ["Done", "To do"]
    for name, amount in (("owed", 1100), ("unsold", 980)):
        record_refund(planted[name], amount=amount, reference="S", by="samir")
    assert states(read(amina.get(IN_NOVEMBER))) == 4 * ["Done"]
    assert told(close(amina)) == ["November 2026 is closed."]
    html = read(amina.get(IN_NOVEMBER))
    assert "by amina" in text(html)
    assert differences(html) == []
    assert "Close November 2026" not in html
    # A late entry appears, and the ledger is read again.
    book("FLEXY", -500)
    assert credited.pk
    html = read(amina.get(IN_NOVEMBER))
    assert differences(html) == [
        ["Entries", "7", "8", "+1"],
        ["Other services", "0 DA", "−500 DA", "−500 DA"],
        ["Balance after", "95,100 DA", "94,600 DA", "−500 DA"],
    ]
    condition = CONDITIONS["closed_month_changed"]
    assert condition.judge(Standing()) is None
    note_ledger(read_until=timezone.now())
    check_closed_month(lambda: True)
    finding = condition.judge(Standing())
    assert finding is not None
    assert (finding.count, plain(finding.explain())) == (1, "November 2026")
    # The link opens the page at that month.
    assert differences(read(amina.get(CLOSING + condition.query))) != []
    assert told(close(amina)) == ["November 2026 is closed."]
    assert condition.judge(Standing()) is None
    assert [closing.number for closing in MonthClosing.objects.order_by("pk")] == [1, 2]
    html = read(amina.get(IN_NOVEMBER))
    assert html.count('<article class="giftcards-record">') == 2


def test_a_sale_amount_said_after_the_closing_is_told(amina: Client) -> None:
    order = partly_delivered(sale_price=None)
    assert told(close(amina, note="The cashier is ill.")) == ["November 2026 is closed."]
    record = element(read(amina.get(IN_NOVEMBER)), "giftcards-record", "article")
    assert "The cashier is ill." in text(record)
    assert "Steps that were not finished when the month was closed: Sale amounts" in text(record)
    record_sale_amount(order, 2750, by="samir")
    assert differences(read(amina.get(IN_NOVEMBER))) == [
        ["Sale amounts", "0 DA", "2,750 DA", "+2,750 DA"],
        ["Owed for cards that were not delivered", "0 DA", "1,100 DA", "+1,100 DA"],
        ["Orders without a sale amount", "1", "0", "−1"],
    ]


def test_each_count_is_that_of_the_linked_page(amina: Client) -> None:
    for number in range(7):
        order = partly_delivered(
            reference=f"web-{number}",
            is_credited=False if number % 2 else None,
            sale_price=None if number % 3 == 0 else Decimal(550),
            # In Algiers, these are the first and last moments of the month, and the first one after
            # it.
            finalized_at=[
                datetime(2026, 10, 31, 23, tzinfo=UTC),
                datetime(2026, 11, 30, 22, 59, 59, 999_999, tzinfo=UTC),
                datetime(2026, 11, 30, 23, tzinfo=UTC),
            ][number % 3],
        )
        if number in {1, 4}:
            record_refund(order, amount=100, reference="R", by="samir")
        for kind in ("ORDER", "REFUND-ORDER"):
            enter(kind, 100 + number, time=order.finalized_at)
    counts = [
        (int(words.rpartition(" ")[2]), listed(read(amina.get(address)), address))
        for _state, links in steps(read(amina.get(IN_NOVEMBER)))
        for words, address in links.items()
    ]
    assert counts == [(10, 10), (2, 2), (5, 5), (5, 5), (7, 7), (3, 3), (2, 2)]


# Permissions.


@pytest.mark.parametrize(
    ("permissions", "status"),
    [
        (("view_order",), 403),
        (("view_cost", "view_ledgerentry", "close_month"), 403),
        (("view_order", "close_month"), 403),
        (("view_order", "view_cost"), 200),
        (SEES, 200),
    ],
)
def test_the_page_is_for_those_who_see_the_report_and_costs(
    permissions: tuple[str, ...], status: int
) -> None:
    browser = sign_in(*permissions)
    assert browser.get(IN_NOVEMBER).status_code == status
    link = f'href="{CLOSING}'
    shown = [
        link in read(answer)
        for page in ("/admin/giftcards_books/", f"{LIST}report/", LEDGER)
        if (answer := browser.get(page)).status_code == 200
    ]
    assert any(shown) == (status == 200)
    # Closing requires a permission of its own.
    assert browser.post(IN_NOVEMBER, {"is_sure": "on"}).status_code == 403
    assert "state_token" not in browser.get(IN_NOVEMBER).content.decode()


def test_without_the_ledger_its_entries_are_counted_and_not_linked() -> None:
    enter("ORDER", -490)
    html = read(sign_in("view_order", "view_cost").get(IN_NOVEMBER))
    assert LEDGER not in html
    assert "Charges without a matching order: 1" in plain(text(html))


def test_whoever_is_shown_a_part_of_the_orders_gets_no_sums(
    amina: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Order.objects.filter(group="theirs")
    monkeypatch.setattr(OrderAdmin, "get_queryset", lambda *_anything: few)
    assert amina.get(IN_NOVEMBER).status_code == 403
    assert amina.post(IN_NOVEMBER).status_code == 403
    assert CLOSING not in read(amina.get(LEDGER))


def test_the_ledger_of_a_month_leads_to_its_closing(amina: Client) -> None:
    assert f'href="{IN_NOVEMBER}"' in read(amina.get(LEDGER, {"period": "2026-11"}))
    assert f'href="{CLOSING}"' in read(amina.get(LEDGER, {"period": "week"}))


# Closing.


def test_what_is_closed_is_logged_and_nobody_deletes_it(amina: Client) -> None:
    close(amina)
    entry = LogEntry.objects.get()
    assert (entry.object_repr, entry.get_change_message()) == ("2026-11", "Closed the month.")
    boss = sign_in(superuser=True)
    for page in ("", "1/delete/", "1/change/", "add/"):
        assert boss.post(f"/admin/giftcards_books/monthclosing/{page}").status_code == 404


def test_without_the_token_of_the_form_nothing_is_closed(amina: Client) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.cookies = amina.cookies
    assert browser.post(IN_NOVEMBER, {"is_sure": "on"}).status_code == 403
    assert told(amina.post(IN_NOVEMBER, {"is_sure": "on"}, follow=True)) == [LATE]


def test_figures_that_have_changed_since_they_were_shown_close_nothing(amina: Client) -> None:
    seen = hidden(read(amina.get(IN_NOVEMBER)))
    entry = enter("FLEXY", -5)
    given = {**seen, "is_sure": "on", "note": "All the same."}
    assert told(amina.post(IN_NOVEMBER, given, follow=True)) == [LATE]
    # The figures of one month cannot close another one.
    assert told(amina.post(f"{CLOSING}?month=2026-10", given, follow=True)) == [LATE]
    assert not MonthClosing.objects.exists()
    entry.delete()
    assert told(amina.post(IN_NOVEMBER, given, follow=True)) == ["November 2026 is closed."]


def test_of_two_people_who_close_the_second_is_told(amina: Client) -> None:
    samir = sign_in(*SEES, "close_month", name="samir")
    seen = hidden(read(samir.get(IN_NOVEMBER)))
    close(amina)
    given = {**seen, "is_sure": "on", "note": ""}
    for _click in range(2):
        assert told(samir.post(IN_NOVEMBER, given, follow=True)) == [LATE]
    assert MonthClosing.objects.get().closed_by == "amina"


def test_a_month_that_is_not_over_is_shown_and_not_closed(amina: Client) -> None:
    address = f"{CLOSING}?month=2026-12"
    partly_delivered(finalized_at=timezone.now())
    html = read(amina.get(address))
    assert "The month is not over yet and cannot be closed." in text(html)
    assert states(html)[3] == "To do"
    assert "is_sure" not in html
    answer = amina.post(address, {"is_sure": "on", "note": "x", "state_token": ""}, follow=True)
    assert told(answer) == ["The month was not closed because it is not over yet."]


@pytest.mark.parametrize(
    "month", ["soon", "2026-13", "2026", "0001-01", "9999-12", "2026-1", "1999-12", "٢٠٢٦-١١", "\0"]
)
def test_a_month_that_is_none_leads_to_the_last_one(amina: Client, month: str) -> None:
    answer = amina.get(CLOSING, {"month": month}, follow=True)
    assert answer.redirect_chain == [(CLOSING, 302)]
    assert told(answer) == ["There is no such month."]
    assert "Closing a month: November 2026" in plain(text(read(answer)))


@pytest.mark.parametrize("month", ["2000-01", "2100-12", "2026-11", ""])
def test_any_month_of_a_shop_can_be_looked_at(amina: Client, month: str) -> None:
    assert len(states(read(amina.get(CLOSING, {"month": month} if month else {})))) == 4


def test_the_months_to_choose_from_say_which_are_closed(amina: Client) -> None:
    close(amina, f"{CLOSING}?month=2026-10")
    close(amina)
    MonthClosing.objects.filter(month=NOVEMBER).update(has_changed=True)
    html = read(amina.get(f"{CLOSING}?month=2020-02"))
    options = [plain(text(each)) for each in re.findall(r"<option.*?</option>", html)]
    assert options[:3] == ["November 2026 · has changed", "October 2026 · closed", "September 2026"]
    assert (len(options), options[-1]) == (25, "February 2020")


def test_the_reasons_given_are_shown_as_they_are(amina: Client) -> None:
    partly_delivered()
    close(amina, note="<b>Paid</b>\nin cash")
    assert "&lt;b&gt;Paid&lt;/b&gt;<br>in cash" in read(amina.get(IN_NOVEMBER))
    enter("FLEXY", -5)
    answer = close(amina, note="\u202eevil")
    assert errors(read(answer)) == [
        "Enter text without control characters or characters that change the text direction."
    ]


def test_a_figure_that_this_version_does_not_know_is_left_out(amina: Client) -> None:
    close(amina)
    closing = MonthClosing.objects.get()
    figures = {**closing.figures, "of_another_version": 5}
    del figures["orders"]
    MonthClosing.objects.update(figures=figures)
    assert differences(read(amina.get(IN_NOVEMBER))) == []


def test_the_record_comes_back_from_the_database_as_it_was_seen(amina: Client) -> None:
    plant()
    close(amina, note="All the same.")
    assert MonthClosing.objects.get().figures == Month.now(NOVEMBER).closings[0].figures
    assert close_month(Month.now(NOVEMBER), by="amina", note="x") is not None
