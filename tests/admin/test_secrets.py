"""No page of the admin contains a code, serial or key, but cards can still be found."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from giftcards.keys.secrecy import CardSecret
from giftcards.models import Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import PRICE, PRODUCT, TYPE, make_guide_order, receive
from tests.leaks import Mailbox, secrets_on
from tests.pages import (
    ADD,
    LIST,
    SEARCH,
    START,
    TOO_MANY_SEARCHES,
    element,
    errors,
    found,
    order_page,
    place,
    read,
    search_often,
    sign_in,
    text,
)

pytestmark = pytest.mark.django_db

CODE = "CANARY-Code-4711-aaaa"
SERIAL = "CANARY-SERIAL-8812"
OTHER = CardSecret("CANARY-9999-9999", "CANARY-7777")
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def order() -> Order:
    """An order with two cards, one of which the tests search for."""
    return receive("web-1042", CardSecret(CODE, SERIAL), OTHER)


@pytest.mark.parametrize(
    "address",
    [
        "/admin/", START, LIST, f"{LIST}?q=web-1042", f"{LIST}?status__exact=FULFILLED", ADD,
        SEARCH, "{page}", "{page}?_popup=1", f"{LIST}{{pk}}/history/",
        # The admin refuses this.
        f"{LIST}{{pk}}/delete/",
    ],
)  # fmt: skip
def test_no_page_of_the_admin_holds_a_secret(boss: Client, order: Order, address: str) -> None:
    # This adds an entry to the recent actions and the history.
    place(boss, {"product_id": PRODUCT, "type_id": TYPE, "quantity": 1, "reference": "web-2"})
    address = address.format(page=order_page(order), pk=order.pk)
    answers = (boss.get(address, follow=True), boss.post(address, {"post": "yes", "_save": "1"}))
    for answer in answers:
        assert secrets_on(answer.content.decode()) == []


def test_autocomplete_answers_with_references_and_no_codes(boss: Client, order: Order) -> None:
    answer = boss.get(
        "/admin/autocomplete/",
        {"app_label": "giftcards", "model_name": "card", "field_name": "order", "term": "web"},
    )
    assert json.loads(read(answer)) == {
        "results": [{"id": str(order.pk), "text": "web-1042"}],
        "pagination": {"more": False},
    }


def test_the_log_of_the_admin_holds_references_and_no_codes(boss: Client, order: Order) -> None:
    place(boss, {"product_id": PRODUCT, "type_id": TYPE, "quantity": 1, "reference": "web-2"})
    boss.post(SEARCH, {"secret": CODE})
    boss.post(SEARCH, {"secret": "CANARY-UNKNOWN"})
    logged = LogEntry.objects.order_by("pk").values_list("object_repr", "change_message")
    searched = "Searched for a card by its code. Found:"
    assert list(logged) == [
        ("web-2", '[{"added": {}}]'),
        ("Search by card code", f"{searched} web-1042."),
        ("Search by card code", f"{searched} nothing."),
    ]
    assert secrets_on(read(boss.get("/admin/"))) == []


def test_searching_the_list_for_a_code_finds_nothing(boss: Client, order: Order) -> None:
    assert "0 results" in text(read(boss.get(LIST, {"q": CODE})))


@pytest.mark.parametrize(
    "typed",
    [CODE, CODE.upper(), f"code: {CODE.replace('-', ' ')} ", "canarycode4711AAAA", SERIAL.lower()],
)
def test_a_card_is_found_by_its_code_or_serial(boss: Client, order: Order, typed: str) -> None:
    receive("web-2", CardSecret("another", "one"))
    html = read(boss.post(SEARCH, {"secret": typed}))
    assert found(html) == "Found web-1042, card 1"
    assert f'href="{order_page(order)}"' in html
    assert secrets_on(html) == []


@pytest.mark.parametrize(
    "typed", [CODE[:-1], CODE[1:], f"{CODE}1", "4711", "web-1042", "%", "----", "7aaaa"]
)
def test_a_part_of_a_code_finds_nothing(boss: Client, order: Order, typed: str) -> None:
    html = read(sign_in("find_card").post(SEARCH, {"secret": typed}))
    assert found(html) == "No results were found. Card codes and serials were also searched."
    assert secrets_on(html) == []


def test_every_order_that_holds_the_code_is_found(boss: Client, order: Order) -> None:
    receive("web-2", OTHER, CardSecret(CODE, "another"))
    assert (
        found(read(boss.post(SEARCH, {"secret": CODE}))) == "Found web-2, card 2 web-1042, card 1"
    )


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("", "This field is required."),
        ("   ", "This field is required."),
        ("CANARY\0", "Null characters are not allowed."),
        ("CANARY" * 40, "Ensure this value has at most 200 characters (it has 240)."),
    ],
)
def test_a_text_that_cannot_be_a_code_is_refused_and_not_shown_again(
    order: Order, typed: str, complaint: str
) -> None:
    html = read(sign_in("find_card").post(SEARCH, {"secret": typed}))
    assert errors(html) == [complaint]
    assert "aria-live" not in html
    assert secrets_on(html) == []


def test_a_code_is_searched_for_by_a_form_alone_and_its_page_is_not_stored(order: Order) -> None:
    browser = sign_in("find_card")
    asked = browser.get(SEARCH, {"secret": CODE, "q": CODE})
    html = read(asked)
    assert "aria-live" not in html
    assert 'method="post"' in element(html, "giftcards-search", "form")
    assert secrets_on(html) == []
    for response in (asked, browser.post(SEARCH, {"secret": CODE})):
        assert response["Cache-Control"] == (
            "max-age=0, no-cache, no-store, must-revalidate, private"
        )
    forged = sign_in(superuser=True, enforce_csrf_checks=True).post(SEARCH, {"secret": CODE})
    assert forged.status_code == 403


def test_finding_a_card_needs_its_own_permission(order: Order) -> None:
    allowed = sign_in("find_card")
    others = sign_in("view_order", "change_order", "add_order", "view_card", "check_order")
    assert found(read(allowed.post(SEARCH, {"secret": CODE}))) == "Found web-1042, card 1"
    html = read(others.post(SEARCH, {"secret": CODE}))
    assert (
        "Card codes were not searched because you do not have permission to search by code."
    ) in text(html)
    assert secrets_on(html) == []
    assert "web-1042" not in html
    assert "last four characters" not in read(others.get(LIST))


def test_searches_for_cards_are_limited_to_30_per_person_and_hour(order: Order) -> None:
    browser, other = sign_in("find_card"), sign_in("find_card")
    search_often(browser, 29)
    read(browser.post(SEARCH, {"secret": "CANARY-GUESS"}))
    html = read(browser.post(SEARCH, {"secret": CODE}), status=429)
    assert errors(html) == [TOO_MANY_SEARCHES]
    assert "aria-live" not in html
    assert secrets_on(html) == []
    # Further searches are recorded as well, once an hour.
    read(browser.post(SEARCH, {"secret": CODE}), status=429)
    refused = LogEntry.objects.filter(object_repr="Search by card code, refused")
    assert refused.get().change_message == "Searched more than 30 times within an hour."
    assert LogEntry.objects.count() == 31
    assert found(read(other.post(SEARCH, {"secret": CODE}))) == "Found web-1042, card 1"
    # An empty text cannot be a code, and counts as no search.
    assert errors(read(browser.post(SEARCH, {"secret": ""}))) == ["This field is required."]
    earliest = LogEntry.objects.order_by("pk").first()
    assert earliest
    LogEntry.objects.filter(pk=earliest.pk).update(action_time=timezone.now() - timedelta(hours=1))
    assert found(read(browser.post(SEARCH, {"secret": CODE}))) == "Found web-1042, card 1"
    assert errors(read(browser.post(SEARCH, {"secret": CODE}), status=429)) == [TOO_MANY_SEARCHES]


@pytest.mark.usefixtures("order")
def test_the_error_mail_about_a_failed_search_holds_no_code(boss: Client, settings: Any) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": []}
    boss.raise_request_exception = False
    mailbox = Mailbox()
    logging.getLogger("django.request").addHandler(mailbox)
    try:
        html = read(boss.post(SEARCH, {"secret": CODE}), status=500)
    finally:
        logging.getLogger("django.request").removeHandler(mailbox)
    (report,) = mailbox.mails
    assert "GIFTCARDS[&#x27;ENCRYPTION_KEYS&#x27;] is not set." in report
    assert "&lt;masked&gt;" in report
    assert CODE.casefold() not in report.casefold()
    assert CODE.casefold() not in html.casefold()


def test_texts_that_others_have_written_are_escaped(boss: Client) -> None:
    evil = make_guide_order(
        Status.FULFILLED,
        reference=EVIL,
        product_id=EVIL,
        type_id=EVIL,
        provider_order_id=EVIL,
        problems=[Problem("status_unknown", {"status": f'"{EVIL}'}), Problem(EVIL)],
        customer_email=f"{EVIL}@example.com",
        customer_language=EVIL[:20],
        quantity=1,
        fulfilled_amount=PRICE,
    )
    StatusChange.objects.create(
        order=evil,
        from_status="PLACING",
        to_status="HANDLING",
        source="placing",
        details=[Problem("found", {"provider_order_id": EVIL}).as_dict()],
    )
    line = {"product_id": PRODUCT, "type_id": EVIL, "quantity": 1, "reference": f"{EVIL}2"}
    asked = boss.post(ADD, line)
    added = place(boss, line, follow=True)
    conflict = boss.post(ADD, {**line, "quantity": 2})
    pages = [
        boss.get(LIST),
        boss.get(LIST, {"q": EVIL}),
        boss.get(order_page(evil)),
        boss.get(f"{LIST}{evil.pk}/history/"),
        boss.get("/admin/"),
        asked,
        added,
        conflict,
    ]
    for page in pages:
        html = read(page)
        assert "&lt;script&gt;alert(1)" in html
        assert "<script>alert" not in html
        assert 'title=""' not in html


def test_the_reference_of_a_found_order_is_escaped(boss: Client) -> None:
    receive(EVIL, CardSecret(CODE, SERIAL))
    html = read(boss.post(SEARCH, {"secret": CODE}))
    assert found(html) == f"Found {EVIL}, card 1"
    assert "<script>alert" not in html
