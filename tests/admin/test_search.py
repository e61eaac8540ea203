"""The search box: it tolerates spellings, and keeps codes out of addresses and logs."""

from __future__ import annotations

import logging
import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from giftcards.admin.cards.finding import SEARCHES_PER_HOUR
from giftcards.admin.orders.searching import is_code_like
from giftcards.keys.keyring import unsealed
from giftcards.keys.secrecy import CardSecret
from giftcards.models import CardReveal, CustomerRefund, Order, Product
from tests.builders import make_offer, make_order, receive
from tests.pages import (
    LIST,
    SEARCH,
    TOO_MANY_SEARCHES,
    element,
    errors,
    found,
    order_page,
    orders,
    read,
    search_often,
    sign_in,
    text,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

CODE, SERIAL = "CANARY-5566-7788", "CANARY-0099"

CUSTOMERS: dict[str, dict[str, str]] = {
    "WEB-2002": {
        "customer_name": "Amina Ben Ali",
        "customer_phone": "0550 12 34 56",
        "customer_email": "Amina@Example.com",
        "group": "Cart 17",
    },
    "WEB-2003": {"customer_name": "أحمد بن العربي", "customer_phone": "+213661-00-11-22"},
    "R-00077": {"customer_name": "Zoé D'Almeida-Khelil", "customer_phone": "00213770998877"},
    "order/9": {"customer_name": "عبد القادر مُصطفى", "customer_phone": "٠٥٥٥٦٦٧٧٨٨"},
    "shop_31": {"customer_name": "Karim BOUDIAF", "customer_phone": "021 23 45 67"},
    "WEB-41": {
        "customer_name": "Nadia",
        "customer_phone": "+33 (0)6 12 34 56 78",
        "recipient_email": "lina@example.com",
        "recipient_name": "Lina Sœur",
    },
    "SUP-Q7": {"customer_name": "Samir", "customer_phone": ""},
}


def references(html: str) -> list[str]:
    """Return the references of the listed orders, without their groups."""
    return [name.split()[0] for name, *_ in orders(html)] if "result_list" in html else []


@pytest.fixture
def customers() -> None:
    for reference, values in CUSTOMERS.items():
        make_order(reference=reference, **values)


# The orders to find, newest first, and the texts that should find them.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "WEB-2002": (
        *("0550123456", "+213 550-123-456", "00213550123456", "213550123456", "550 12 34 56"),
        *("٠٥٥٠ ١٢ ٣٤ ٥٦", "+213 (0) 550", "ben ali", "BENALI amina", "amina@example.COM"),
        *("web-2002", "2002", "#02002", "cart 17"),
        *("n° 2002", "N°2002", "nº 2002", "№ 2002", "no. 2002", "Numéro : 2002", "رقم ٢٠٠٢"),
        *(
            "طلب 2002",
            "الطلب رقم 2002",
            "طلبي: 2002",
            "Commande n° 2002",
            "order 2002",
            "n° WEB-2002",
        ),
    ),
    "WEB-2003": ("0661 001 122", "احمد", "عربي", "العربى أحـمد", "web 2003", "web2003"),
    "R-00077": ("0770.99.88.77", "zoe khelil", "Khelil, Zoë", "77"),
    "order/9": ("+213555667788", "۰۵۵۵۶", "عبدالقادر", "مصطفي", "Order 9"),
    "shop_31": (
        *("21 23 45 67", "Tél. : 021 23 45 67", "+213 21 23 45 67", "boudiaf k", "SHOP-31"),
    ),
    "WEB-41": ("0033612345678", "LINA SOEUR", "lina@"),
    "SUP-Q7": ("SUP Q7", "sup q", "sup-q7", "supq7", "commande SUP-Q7"),
    "WEB-41 shop_31 WEB-2002": ("12 34 56",),
    "WEB-41 WEB-2003 WEB-2002": ("web",),
    # Nothing is found for the middle of a word, or if one of the words does not match.
    "": ("dalmeida", "amina 2003", "karim ben ali"),
}


@pytest.mark.usefixtures("customers")
@pytest.mark.parametrize(
    ("typed", "found"),
    [(typed, found.split()) for found, spellings in SPELLINGS.items() for typed in spellings],
)
def test_spellings_of_a_thing_find_each_other(boss: Client, typed: str, found: list[str]) -> None:
    answer = boss.post(SEARCH, {"secret": typed}, follow=True)
    assert references(read(answer)) == found


def address_of(answer: Any) -> dict[str, list[str]] | None:
    """Return the query of the list to which a response redirects, or ``None``."""
    if answer.status_code != 302:
        return None
    assert urlsplit(answer.url).path == LIST
    query = parse_qs(urlsplit(answer.url).query)
    return query | ({"q": [unsealed(text) for text in query["q"]]} if "q" in query else {})


@pytest.fixture
def order() -> Order:
    return receive("web-1042", CardSecret("CANARY-1", ""), CardSecret(CODE, SERIAL))


@pytest.mark.usefixtures("customers")
@pytest.mark.parametrize("typed", ["Amina@Example.com", "0550 12 34 56", "ben ali", "WEB-2002"])
def test_a_text_by_which_a_person_is_found_is_in_no_address(boss: Client, typed: str) -> None:
    make_order(reference="WEB-9", **CUSTOMERS["WEB-2002"])
    answer = boss.post(SEARCH, {"secret": typed})
    assert address_of(answer) == {"q": [typed]}
    html = read(boss.get(answer.url))
    assert typed in element(html, "giftcards-search", "form")
    addresses = [answer.url, *re.findall(r'(?:href|action)="([^"]*)"', html)]
    assert not [one for one in addresses if typed in unquote_plus(one)]
    # The links for filters, sorting and further pages keep the search.
    [sorting] = {one for one in addresses if one.startswith("?") and "o=" in one}
    found = set(references(html))
    assert 0 < len(found) < len(CUSTOMERS)
    assert set(references(read(boss.get(f"{LIST}{unescape(sorting)}")))) == found


def test_a_text_that_this_site_has_not_sealed_is_searched_as_it_is(boss: Client) -> None:
    make_order(reference="gAAAAB")
    for typed, count in (("gAAAAB", 1), ("gAAAAABn" + "A" * 100, 0), ("é", 0)):
        assert len(references(read(boss.get(LIST, {"q": typed})))) == count


class TestCodes:
    @pytest.mark.parametrize(
        "typed",
        [
            *(CODE, CODE.lower(), "canary 5566 7788", SERIAL, "canary0099", "7788", "٧٧٨٨"),
            *(f"Code: {CODE}", f"Code : {CODE}", f"الرمز: {CODE}", f"PIN:{CODE}", "code: 7788"),
            *(f"Serial: {SERIAL}", f"N° de série : {SERIAL}", f"الرقم التسلسلي: {SERIAL}"),
            f"Card 2 Code: {CODE} Serial: {SERIAL}",
        ],
    )
    def test_a_code_is_found_and_is_in_no_address_page_or_log(
        self, boss: Client, order: Order, typed: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        other = make_order(reference="77881")
        with caplog.at_level(logging.DEBUG), CaptureQueriesContext(connection):
            answer = boss.post(SEARCH, {"secret": typed})
        html = read(answer)
        assert found(html) == "Found web-1042, card 2"
        # An order with a word that begins like the code is listed as well.
        beside = f'<a href="{order_page(other)}"><bdi>77881</bdi></a>, Waiting to be sent'
        assert (beside in html) == (typed in {"7788", "٧٧٨٨"})
        secrets = (typed, "CANARY", "canary")
        logged = str(list(LogEntry.objects.values()))
        for place in (html, caplog.text, logged):
            for secret in secrets:
                assert secret not in place.replace("77881", "")
        assert LogEntry.objects.get().change_message.endswith("Found: web-1042.")

    @pytest.mark.parametrize(
        "typed", ["CANARY-9999-9999", "XXXX-YYYY-ZZZZ", "1234567890123", "9988", "ABCD 1234 5678"]
    )
    def test_what_may_be_a_code_of_nobody_is_in_no_address_and_not_repeated(
        self, boss: Client, order: Order, typed: str
    ) -> None:
        for browser in (boss, sign_in("view_order")):
            html = read(browser.post(SEARCH, {"secret": typed}))
            assert "No results were found." in text(html)
            assert typed not in html

    @pytest.mark.usefixtures("order")
    def test_without_permission_no_code_is_searched_and_the_page_says_so(self) -> None:
        browser = sign_in("view_order")
        with CaptureQueriesContext(connection) as sent:
            html = read(browser.post(SEARCH, {"secret": CODE}))
        assert (
            "Card codes were not searched because you do not have permission to search by code."
        ) in text(html)
        assert [query["sql"] for query in sent if "canary" in query["sql"].lower()] == []
        # The response must not reveal whether a card has the code.
        assert text(read(browser.post(SEARCH, {"secret": "CANARY-0000-0000"}))) == text(html)
        assert not LogEntry.objects.exists()
        assert CODE not in html

    def test_who_may_only_find_cards_is_told_of_no_orders(self, order: Order) -> None:
        browser = sign_in("find_card")
        html = read(browser.post(SEARCH, {"secret": "web-1042"}))
        assert found(html) == "No results were found. Card codes and serials were also searched."
        html = read(browser.post(SEARCH, {"secret": CODE}))
        assert "<bdi>web-1042</bdi>, card 2" in html
        assert order_page(order) not in html

    def test_who_may_neither_is_refused_and_so_is_a_forged_form(self) -> None:
        forged = sign_in(superuser=True, enforce_csrf_checks=True)
        for browser in (sign_in("add_order"), forged):
            assert browser.post(SEARCH, {"secret": CODE}).status_code == 403

    @pytest.mark.usefixtures("order")
    def test_ordinary_searches_leave_no_trace_and_no_limit_counts_them(self, boss: Client) -> None:
        for typed in ("web-1042", "1042", "nobody", "0550123456", "a@b.c", "amina 99"):
            boss.post(SEARCH, {"secret": typed})
        assert not LogEntry.objects.exists()

    @pytest.mark.usefixtures("order")
    def test_beyond_the_limit_orders_are_found_and_codes_are_not(self, boss: Client) -> None:
        other = make_order(reference="77881")
        search_often(boss, SEARCHES_PER_HOUR - 1)
        read(boss.post(SEARCH, {"secret": "CANARY-GUESS-1"}))
        html = read(boss.post(SEARCH, {"secret": "7788"}), status=429)
        assert errors(html) == [TOO_MANY_SEARCHES]
        assert order_page(other) in html
        assert "web-1042" not in html
        assert address_of(boss.post(SEARCH, {"secret": "web-1042"})) == {"q": ["web-1042"]}

    @pytest.mark.usefixtures("order")
    def test_an_order_of_that_number_comes_before_the_end_of_a_code(self, boss: Client) -> None:
        make_order(reference="WEB-7788")
        answer = boss.post(SEARCH, {"secret": "7788"}, follow=True)
        html = read(answer)
        assert references(html) == ["WEB-7788"]
        assert (
            "To search for a code that ends with these characters, write “code:” before them."
            in text(html)
        )
        html = read(boss.post(SEARCH, {"secret": "code:7788"}))
        assert found(html) == "Found web-1042, card 2"


@pytest.mark.parametrize(
    ("typed", "is_found", "is_known", "expected"),
    [
        ("Code: 2002", True, True, True), ("الرمز : amina", False, False, True),
        ("WEB-20021042", True, True, False), ("WEB-20021042", True, False, True),
        ("amina", False, False, False), ("amina 2003", False, False, False),
        ("canary 5566 7788", False, False, True), ("canary 5566 7788", True, False, False),
        ("Amina Ben Ali", False, False, False), ("Ben-Ali", False, False, False),
        ("lina2003@example.com", False, False, False), ("0550123456", False, False, False),
        ("+33 6 12 34 56 78", False, False, False), ("021234567", False, False, False),
        ("12345", False, False, False), ("12345678", False, False, True),
        ("12345678", True, False, False), ("1234567890", True, False, True),
        ("lina", True, False, False), ("lina", False, False, True), ("2002", True, False, True),
        ("2002", True, True, False), ("AB12", True, False, True),
        ("XXXX-YYYY", False, False, True), ("bbbbbbbbbbbbbbbb", False, False, True),
        ("bbbb bbbb bbbb bbbb", False, False, True), ("bbbbbbbbbbbbbbbb", True, False, False),
        ("abdelkader", False, False, False), ("XXXX-YYYY", True, False, False),
    ],
)  # fmt: skip
def test_what_looks_like_a_code(typed: str, is_found: bool, is_known: bool, expected: bool) -> None:
    assert is_code_like(typed, is_found=is_found, is_known=is_known) == expected


class TestNothingFound:
    HOW = (
        "The search covered references (and the numbers in them), groups, the provider's order"
        " IDs, and the names, phone numbers and e-mail addresses of customers and recipients. All"
        " words that you enter must match, but the beginning of each word is enough."
    )
    PRODUCTS = "Product names in the catalogue were also searched."

    @pytest.mark.parametrize(
        ("typed", "permissions", "said"),
        [
            (
                "<b>nobody",
                ("view_order", "find_card"),
                f"No results were found for “<b>nobody”. {HOW} {PRODUCTS} Card codes were not"
                " searched because the text does not look like a code. To search for a code,"
                " write “code:” before it.",
            ),
            (
                "nobody",
                ("view_order",),
                f"No results were found for “nobody”. {HOW} {PRODUCTS} Card codes were not searched"
                " because you do not have permission to search by code.",
            ),
            (
                "CANARY-9999",
                ("view_order", "find_card"),
                f"No results were found. {HOW} {PRODUCTS} Card codes and serials were also"
                " searched.",
            ),
            (
                "CANARY-9999",
                ("find_card",),
                "No results were found. Card codes and serials were also searched.",
            ),
        ],
    )
    def test_the_page_says_what_was_searched(
        self, typed: str, permissions: tuple[str, ...], said: str
    ) -> None:
        html = read(sign_in(*permissions).post(SEARCH, {"secret": typed}))
        assert found(html) == said
        assert "<b>nobody" not in html

    def test_the_list_says_it_as_well_and_offers_to_search_without_filters(
        self, boss: Client
    ) -> None:
        make_order(reference="web-1")
        html = read(boss.get(LIST, {"q": "web-1", "status__exact": "FULFILLED"}))
        said = text(element(html, "giftcards-nothing", "div"))
        # The list cannot tell whether the text looks like a code, because anyone could have made
        # the address.
        assert said.startswith(
            f"No results were found for “web-1”. {self.HOW} Card codes were not searched. To search"
        )
        assert said.endswith(
            "Only orders that match the selected filters were searched. Search all orders"
        )
        assert 'href="?q=web-1"' in html


class TestProducts:
    @pytest.fixture(autouse=True)
    def _catalogue(self) -> None:
        for product_id, name in (("p1", "PlayStation Store"), ("p2", "Free Fire"), ("p3", "Télé")):
            make_offer(product_id=product_id)
            Product.objects.filter(product_id=product_id).update(name=name)

    @pytest.mark.parametrize(
        ("typed", "product"),
        [
            ("playstation", "p1"), ("store Play", "p1"), ("بلايستيشن", "p1"),
            ("بطاقة بلاي ستيشن", "p1"), ("البلايستيشن", "p1"), ("carte cadeau PlayStation", "p1"),
            ("فري فاير", "p2"), ("free fire", "p2"), ("télé", "p3"), ("steam", None),
            ("playstation fire", None), ("...", None),
        ],
    )  # fmt: skip
    def test_a_product_is_found_in_the_language_of_staff_and_leads_to_its_orders(
        self, boss: Client, typed: str, product: str | None
    ) -> None:
        bought = make_order(reference="bought", product_id=product or "p1")
        make_order(reference="other", product_id="p9")
        html = read(boss.post(SEARCH, {"secret": typed}))
        addresses = re.findall(rf'href="({LIST}\?product_id=[^"]*)"', html)
        assert addresses == ([f"{LIST}?product_id={product}"] if product else [])
        assert ("No results were found" in html) == (product is None)
        for address in addresses:
            assert references(read(boss.get(address))) == [bought.reference]
        # The catalogue's own search finds the same products.
        listed = read(boss.get("/admin/giftcards/product/", {"q": typed}))
        assert len(set(re.findall(r"/product/\d+/change/", listed))) == len(addresses)

    def test_many_products_are_not_all_listed(self, boss: Client) -> None:
        for number in range(21):
            make_offer(product_id=f"many-{number}")
        Product.objects.filter(product_id__startswith="many").update(name="Many")
        html = read(boss.post(SEARCH, {"secret": "many"}))
        assert html.count("?product_id=many-") == 20
        assert (
            "There are more products than shown here. Enter a longer part of the name to see"
            " others."
        ) in text(html)

    def test_who_may_only_find_cards_is_told_of_no_products(self) -> None:
        html = read(sign_in("find_card").post(SEARCH, {"secret": "playstation"}))
        assert "?product_id=" not in html


class TestTheBox:
    def test_it_is_the_only_one_and_posts(self, boss: Client) -> None:
        for browser, knows_codes in ((boss, True), (sign_in("view_order"), False)):
            html = read(browser.get(LIST, {"q": "web"}))
            form = element(html, "giftcards-search", "form")
            assert f'method="post" action="{SEARCH}"' in form
            assert "csrfmiddlewaretoken" in form
            assert 'value="web"' in form
            assert ("the last four characters of a code" in form) == knows_codes
            assert 'id="searchbar"' not in html
            assert html.count('role="search"') == 1

    def test_a_search_keeps_the_filters_of_the_list_and_no_place_in_it(self, boss: Client) -> None:
        make_order(reference="web-1")
        filters = "status__exact=PENDING&_popup=1&q=before&p=3&e=1"
        html = read(boss.get(LIST, {"status__exact": "PENDING"}))
        assert 'name="filters" value="status__exact=PENDING"' in html
        answer = boss.post(SEARCH, {"secret": "web-1", "filters": filters})
        expected = {"status__exact": ["PENDING"], "_popup": ["1"], "q": ["web-1"]}
        assert address_of(answer) == expected

    @pytest.mark.parametrize("typed", ["", "  ", "x\0y", "x" * 201])
    def test_what_cannot_be_searched_leads_back_to_the_list(self, boss: Client, typed: str) -> None:
        assert address_of(boss.post(SEARCH, {"secret": typed, "filters": "o=9"})) == {"o": ["9"]}
        assert address_of(boss.get(SEARCH, {"q": typed})) == {}


@pytest.mark.all_apps
@pytest.mark.parametrize(
    "page",
    [
        "giftcards/customerrefund",
        "giftcards/cardreveal",
        "giftcards_books/ledgerentry",
        "giftcards_delivery/delivery",
        "giftcards_delivery/cardlink",
    ],
)
def test_the_rows_about_an_order_are_found_by_its_reference_in_any_case_or_its_number(
    boss: Client, page: str
) -> None:
    from giftcards.books.models import LedgerEntry
    from giftcards.delivery.models import CardLink, Delivery

    user = get_user_model().objects.create(username="staff")
    for reference in ("web-1042", "other"):
        order = receive(reference, CardSecret(f"CANARY-{reference}-1", ""))
        CardReveal.objects.create(card=order.cards.get(), user=user)
        CustomerRefund.objects.create(order=order, amount=1, reference=f"CCP {reference}")
        Delivery.objects.create(order=order, kind="delivered", key=reference)
        CardLink.objects.create(order=order, origin="staff", token_hash=reference)
        LedgerEntry.objects.create(
            provider_id=reference, type="ORDER", amount=-1, time=timezone.now(), order=order
        )
    for typed in ("WEB-1042", "1042", "web-10", "#1042"):
        html = read(boss.get(f"/admin/{page}/", {"q": typed}))
        shown = element(html, 'id="result_list"', "table")
        assert ("web-1042" in shown, "other" in shown) == (True, False), typed
