"""Every page of the admin under other themes, which replace the templates that ours extend."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.pages import element, text

if TYPE_CHECKING:
    from tests.themes.processes import Start

pytest_plugins = ["tests.themes.processes"]

Pages = dict[str, str]

# Each theme runs in its own process, with a copy of the test database, which has to exist.
pytestmark = [pytest.mark.cluster, pytest.mark.django_db]

# The texts that must be readable, wherever the theme puts them.
SHOWN = {
    "list": "Requests to the provider are paused. The provider does not answer. Requests will",
    "provider": "The provider does not answer. Requests will resume automatically.",
    "search": "web-1040",
    "add by id": "The provider's catalogue has not been read yet",
    "add": "Your own unique name for the order.",
    "confirm": "Cost of the order Price per card 490 DA Total 980 DA",
    "change": "The catalogue was read on",
    "product": "PSN 500 DA",
    "products": "PlayStation Network",
    "shop": "Round up to a multiple of",
    "categories": "Gaming",
    "add, wrong": "Ensure this value is greater than or equal to 1.",
    "settled": "Credited back 2 × 490 980 DA",
    "lost": "What happened to this order?",
    "adopted": "Unlink the provider's order",
    "resolve": "What was sent Reference: web-1040",
    "resolve, wrong": "This field is required.",
    "release": "Is this a different order? Help Your order was linked to the provider's order",
    "adopt": "The provider's order does not match the order that was sent.",
    "held": "Approve the price or cancel the order",
    "price": "Buy the cards for at most 570 DA each, 1,710 DA in total.",
    "price, wrong": "This field is required.",
    "reorder": "Order the missing cards again Help 2 cards of this order were not delivered.",
    "report": "What customers paid, in DA Kept Paid back Still owed",
    "report by product": "PlayStation Network",
    "close a month": "to the end of the month ! To do The ledger has not been read yet.",
    "report, wrong": "Enter a valid date.",
    "start": "1 order on hold because of its price",
    "app index": "Report",
    "help": 'Adding an order Use "Add order" when a customer orders',
    "pay back": "Owed to the customer 2 × 550 1,100 DA",
    "pay back, confirm": "550 DA will be recorded as paid back to أمينة بن علي.",
    "pay back, wrong": "Only \u20681,100 DA\u2069 can still be paid back, not",
    "paid back": "The customer was paid back 1,375.50 DA.",
    "cancel refund": "Cancel the refund Help You will owe the customer this amount again.",
    "refunds": "CCP 0021-88",
    "found": "Found web-1042, card 1",
    "ask": "Reveal card 1 Help The code of card 1 in order web-1042 will be shown for one minute.",
    "ask, wrong": "This field is required.",
    "revealed": "Code AAAA-AAAA-AAAA-AAAA Copy Serial 111111111",
    "reveals": "Lost the e-mail",
    "ledger": "Gift cards credited back REFUND-ORDER",
    "ledger entry": "Gift cards ORDER",
    "checked": "1 order will be checked in a moment.",
    "history": "Requested a check.",
    "index": "Orders",
    "told": "Send a message again",
    "send again": "If this field is empty, the message is sent to the address of the order.",
    "send again, wrong": "This field is required.",
    "new link": "Withdraw the earlier links",
    "new link, made": "It is not stored and cannot be shown again.",
    "proof": "Who opened a link and viewed the cards",
    "messages": "lina@example.com",
    "message": "Try now Cancel the message",
    "messages index": "was not sent.",
    "links": "Created by karim, to be handed over",
    "link": "Cards shown 41.200.1.2",
    "digests": "cannot be sent: 3 attempts failed",
}


@pytest.fixture(
    scope="module",
    params=[("unfold", ""), ("unfold", "subclass"), ("jazzmin", ""), ("grappelli", "")],
    ids=" ".join,
)
def pages(request: pytest.FixtureRequest, start: Start) -> Pages:
    with start("visit", *filter(None, request.param)) as visit:
        told, _nothing = visit.communicate(timeout=120)
    assert visit.returncode == 0
    seen: Pages = json.loads(told)
    return seen


def test_every_page_opens_under_a_theme_and_shows_what_matters(pages: Pages) -> None:
    assert pages.keys() == SHOWN.keys()
    missing = {
        name: text(html)[-300:] for name, html in pages.items() if SHOWN[name] not in text(html)
    }
    assert missing == {}


def test_every_page_leads_to_the_manual_under_a_theme(pages: Pages) -> None:
    link = 'class="giftcards-help"><a href="/admin/giftcards/desk/help/#'
    assert [name for name, html in pages.items() if html.count(link) != 1] == ["help", "index"]


def test_every_page_about_an_order_names_it_under_a_theme(pages: Pages) -> None:
    names = {
        "settled": "web-1042",
        "reorder": "web-1042",
        "pay back": "web-1042",
        "pay back, confirm": "web-1042",
        "paid back": "web-1038",
        "cancel refund": "web-1038",
        "adopted": "web-1050",
        "release": "web-1050",
    }
    names |= dict.fromkeys(("lost", "resolve", "resolve, wrong", "adopt"), "web-1040")
    names |= dict.fromkeys(
        ("told", "send again", "new link", "new link, made", "proof"), "web-1042"
    )
    names |= dict.fromkeys(("held", "price", "price, wrong"), "web-1035")
    for name, reference in names.items():
        assert f"<bdi>{reference}</bdi>" in pages[name], name


def test_every_form_names_its_object_under_a_theme(pages: Pages) -> None:
    for name in (
        "lost",
        "resolve",
        "resolve, wrong",
        "release",
        "price",
        "price, wrong",
        "reorder",
    ):
        assert 'name="state_token"' in pages[name], name
    assert 'name="seen"' in pages["adopt"]


def test_the_list_leads_to_the_report_under_a_theme(pages: Pages) -> None:
    for name in ("list", "app index"):
        assert re.search(r'<a[^>]* href="/admin/giftcards/order/report/"', pages[name]), name


def test_the_list_has_one_search_box_which_posts_under_a_theme(pages: Pages) -> None:
    for name in ("list", "search"):
        html = pages[name]
        form = element(html, "giftcards-search", "form")
        assert 'method="post" action="/admin/giftcards/order/find-order/"' in form, name
        boxes = re.findall(r"<(?:input|el-input)[^>]*\bname=\"(?:q|secret)\"[^>]*>", html)
        assert len([box for box in boxes if 'type="hidden"' not in box]) == 1, name
        assert ('value="web-10"' in form) == (name == "search")


def test_no_page_holds_a_code_under_a_theme(pages: Pages) -> None:
    for name, html in pages.items():
        if name == "revealed":
            continue
        for secret in ("AAAA-AAAA", "CANARY", "gAAAA"):
            assert secret not in html, name
