"""Finding a card by the last characters of its code, in the digits of any script.

:mod:`tests.admin.test_secrets` checks that no page or log contains the searched text.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext

from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from tests.builders import receive
from tests.pages import (
    SEARCH,
    TOO_MANY_SEARCHES,
    element,
    errors,
    found,
    read,
    search_often,
    sign_in,
    text,
)
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

CODE = "CANARY-5566-7788"
SERIAL = "CANARY-0099"
# The message for a person who may search for cards but not for orders.
NONE = "No results were found. Card codes and serials were also searched."


@pytest.fixture
def order() -> Order:
    return receive("web-1042", CardSecret("CANARY-1", ""), CardSecret(CODE, SERIAL))


@pytest.mark.parametrize(
    "typed",
    [
        *("7788", " 77-88 ", "٧٧٨٨", "۷۷۸۸", "\u200f7788\u200e", "CANARY-٥٥٦٦-٧٧٨٨", "canary٠٠٩٩"),
        *(f"Code: {CODE}", f"الرمز: {CODE}", f"S/N : {SERIAL}", f"Code : {CODE} Série : x"),
    ],
)
def test_a_card_is_found_by_its_last_characters_and_with_other_digits(
    boss: Client, order: Order, typed: str
) -> None:
    html = read(boss.post(SEARCH, {"secret": typed}))
    assert found(html) == "Found web-1042, card 2"


@pytest.mark.parametrize(
    ("orders", "typed", "listed"),
    [
        ([("CANARY-٤٤٤٤-٥٥٥٥", "")], "canary-4444-5555", "web-1, card 1"),
        ([("CANARY-٤٤٤٤-٥٥٥٥", "")], "5555", "web-1, card 1"),
        # The typed text can be the end of a code or a whole serial.
        ([("CANARY-1", "7788"), (CODE, "7788")], "7788", "web-2, card 1 web-1, card 1"),
        ([("CANARY-1", "C-2"), ("C-2", "C-2")], "code: C-2", "web-2, card 1 web-1, card 1"),
    ],
    ids=["other digits", "end in other digits", "end and serial", "code and serial"],
)
def test_all_that_a_text_may_mean_is_found(
    boss: Client, orders: list[tuple[str, str]], typed: str, listed: str
) -> None:
    for number, card in enumerate(orders, 1):
        receive(f"web-{number}", CardSecret(*card))
    assert found(read(boss.post(SEARCH, {"secret": typed}))) == f"Found {listed}"


@pytest.mark.parametrize("typed", [CODE, SERIAL, "7788"])
def test_a_card_is_not_found_once_its_code_is_destroyed(
    boss: Client, order: Order, typed: str
) -> None:
    receive("web-1043", CardSecret(CODE, SERIAL))
    order.cards.all().destroy()
    assert found(read(boss.post(SEARCH, {"secret": typed}))) == "Found web-1043, card 1"
    Card.objects.all().destroy()
    assert found(read(sign_in("find_card").post(SEARCH, {"secret": typed}))) == NONE


MORE = " Only the newest orders are shown. To find the others, enter the whole code."


@pytest.mark.parametrize(("count", "said"), [(20, ""), (21, MORE)])
def test_the_twenty_newest_cards_with_one_end_are_listed_and_if_there_are_more_the_page_says_so(
    boss: Client, count: int, said: str
) -> None:
    receive("web-1", *(CardSecret(f"CANARY-{number:04}-7788", "") for number in range(count)))
    html = read(boss.post(SEARCH, {"secret": "7788"}))
    listed = " ".join(f"web-1, card {number}" for number in range(count, count - 20, -1))
    assert found(html) == f"Found {listed}{said}"


def test_of_more_cards_with_one_serial_the_newest_are_read_and_listed_and_the_page_says_so(
    boss: Client,
) -> None:
    # Providers may write "N/A" for a missing value, so many cards can have the same serial.
    receive("web-1", CardSecret("N/A", ""))
    receive("web-2", *(CardSecret(f"CANARY-{number:04}", "N/A") for number in range(30)))
    with CaptureQueriesContext(connection) as sent:
        html = read(boss.post(SEARCH, {"secret": "serial: n/a"}))
    listed = " ".join(f"web-2, card {number}" for number in range(30, 10, -1))
    assert found(html) == f"Found {listed}{MORE}"
    searches = [query["sql"] for query in sent if "_fingerprint" in query["sql"]]
    assert searches
    assert [sql for sql in searches if "LIMIT 21" not in sql] == []


@pytest.fixture
def _atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_atomic_requests")
def test_searches_that_end_in_an_error_count_although_requests_are_atomic(settings: Any) -> None:
    browser = sign_in("find_card", raise_request_exception=False)
    search_often(browser, 28)
    working = settings.GIFTCARDS
    settings.GIFTCARDS = {**working, "ENCRYPTION_KEYS": ["broken"]}
    for _number in range(2):
        assert browser.post(SEARCH, {"secret": CODE}).status_code == 500
    settings.GIFTCARDS = working
    assert errors(read(browser.post(SEARCH, {"secret": CODE}), status=429)) == [TOO_MANY_SEARCHES]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database", "_atomic_requests")
def test_of_many_searches_at_once_no_more_than_allowed_are_answered() -> None:
    browser = sign_in("find_card")
    session = browser.cookies["sessionid"].value
    search_often(browser, 27)

    def click() -> int:
        other = Client()
        other.cookies["sessionid"] = session
        return int(other.post(SEARCH, {"secret": CODE}).status_code)

    assert sorted(in_threads(8, click), key=str) == [200] * 3 + [429] * 5
    assert LogEntry.objects.filter(object_repr="Search by card code").count() == 30
    assert LogEntry.objects.filter(object_repr="Search by card code, refused").count() == 1


def test_the_number_of_queries_does_not_grow_with_the_cards_found(boss: Client) -> None:
    receive("web-1", CardSecret(CODE, ""))
    read(boss.post(SEARCH, {"secret": "7788"}))
    with CaptureQueriesContext(connection) as few:
        read(boss.post(SEARCH, {"secret": "7788"}))
    for number in range(2, 12):
        receive(f"web-{number}", CardSecret(CODE, ""))
    with CaptureQueriesContext(connection) as many:
        html = read(boss.post(SEARCH, {"secret": "7788"}))
    assert found(html).count("web-") == 11
    assert len(many) == len(few)


def test_the_page_says_that_the_last_four_characters_are_enough() -> None:
    html = read(sign_in("find_card").get(SEARCH))
    assert text(element(html, 'class="help"', "div")) == (
        "Enter the whole code or serial, or the last four characters of the code. Case, spaces and"
        " dashes do not matter."
    )
