"""Finding, downloading and erasing a person's data in the admin, with proof and records."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from giftcards.admin.orders import customer_data
from giftcards.models import Card, Order
from giftcards.privacy.erasure import find_orders
from giftcards.privacy.export import describe
from giftcards.privacy.person import Person
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order, receive
from tests.leaks import traces_of
from tests.pages import (
    LIST,
    PASSWORD,
    element,
    errors,
    found,
    hidden,
    let_pass,
    order_page,
    person,
    plain,
    read,
    sign_in,
    text,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.all_apps]

PAGE = f"{LIST}customer-data/"
EMAIL, PHONE = "Lina.K@example.dz", "0555 12 34 56"
LINA = {"customer_email": EMAIL, "customer_name": "Lina Kaci", "customer_phone": PHONE}
OTHER = {"customer_email": "karim@example.dz", "customer_name": "Karim"}
BOTH = ("view_order", "export_customer", "erase_customer")


@pytest.fixture
def amina() -> Client:
    return person(*BOTH)


def make(reference: str, status: Status = Status.FULFILLED, **values: Any) -> Order:
    return make_guide_order(status, reference=reference, **{**LINA, **values})


def find(browser: Client, who: str = EMAIL, by: str = "contact", **posted: str) -> str:
    return read(browser.post(PAGE, {"by": by, "customer": who, **posted}))


def download(browser: Client, who: str = EMAIL, **posted: str) -> Any:
    return browser.post(PAGE, {**hidden(find(browser, who)), "what": "download", **posted})


def ask(browser: Client, who: str = EMAIL, by: str = "contact") -> str:
    return find(browser, who, by, what="erase")


def erase(browser: Client, who: str = EMAIL, by: str = "contact", **posted: str) -> str:
    form = hidden(ask(browser, who, by))
    return read(browser.post(PAGE, {**form, "typed": who, **posted}))


def links(html: str) -> list[str]:
    return re.findall(r'/change/"><bdi>([^<]*)</bdi>', html)


def history(order: Order) -> list[tuple[str, str]]:
    entries = LogEntry.objects.filter(object_id=str(order.pk)).order_by("pk")
    return list(entries.values_list("user__username", "change_message"))


class TestWhoMay:
    @pytest.mark.parametrize(
        "permissions",
        [(), ("view_order",), ("export_customer", "erase_customer"), ("view_order", "view_cost")],
    )
    def test_others_have_no_page_and_no_link(self, permissions: tuple[str, ...]) -> None:
        order = make("web-1")
        browser = person(*permissions) if permissions else sign_in()
        assert browser.get(PAGE).status_code == 403
        for what in ("", "download", "erase"):
            posted = {"by": "contact", "customer": EMAIL, "what": what, "typed": EMAIL}
            assert browser.post(PAGE, posted).status_code == 403
        if "view_order" in permissions:
            pages = read(browser.get(order_page(order))) + read(browser.get(LIST))
            assert PAGE not in pages
            assert "Gift card manager" in text(pages)
        assert traces_of(EMAIL)

    def test_who_is_not_signed_in_signs_in_first(self) -> None:
        assert Client().get(PAGE)["Location"] == f"/admin/login/?next={PAGE}"

    @pytest.mark.parametrize(
        ("permission", "what", "shown"),
        [("export_customer", "erase", "Export"), ("erase_customer", "download", "Erase")],
    )
    def test_each_permission_is_for_one_of_both(
        self, permission: str, what: str, shown: str
    ) -> None:
        make("web-1")
        browser = person("view_order", permission)
        html = find(browser, what=what, typed=EMAIL)
        headings = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
        assert headings == ["Stored data", shown]
        assert "ask a colleague with this role" in text(html)
        assert (traces_of(EMAIL), LogEntry.objects.count()) != (set(), 0)
        assert not LogEntry.objects.filter(change_message__contains="customer.").exists()

    def test_a_person_from_whom_orders_are_hidden_has_no_page(
        self, amina: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.contrib import admin

        pages = admin.site.get_model_admin(Order)
        mine = Order.objects.filter(group="mine")
        monkeypatch.setattr(pages, "get_queryset", lambda _request: mine, raising=False)
        assert amina.get(PAGE).status_code == 403

    def test_pages_lead_there_without_an_address_in_their_urls(self, amina: Client) -> None:
        order = make("web-1", recipient_email="sara@example.dz")
        html = read(amina.get(order_page(order)))
        urls = [unescape(url) for url in re.findall(rf'href="({PAGE}[^"]*)"', html)]
        assert urls == [
            f"{PAGE}?order={order.pk}&role={role}" for role in ("customer", "recipient")
        ]
        shown = [read(amina.get(url)) for url in urls]
        assert [f'value="{address}"' in html for html, address in
                zip(shown, (EMAIL, "sara@example.dz"), strict=True)] == [True, True]  # fmt: skip
        assert f'href="{PAGE}"' in read(amina.get(LIST))

    @pytest.mark.parametrize("key", ["0", "x", "٣", "9" * 30])
    def test_a_link_from_no_order_is_refused(self, amina: Client, key: str) -> None:
        assert amina.get(PAGE, {"order": key}).status_code == 403


class TestFinding:
    @pytest.mark.parametrize(
        "typed", [f" {EMAIL.upper()} ", "+213 555 12 34 56", "٠٥٥٥١٢٣٤٥٦", "0555123456"]
    )
    def test_a_customer_is_found_however_the_address_or_number_is_written(
        self, amina: Client, typed: str
    ) -> None:
        make("web-1")
        make("web-2", **OTHER, customer_phone="0666 11 22 33")
        shown = find(amina, typed)
        assert links(shown) == ["web-1"]
        assert "Orders by this customer: 1." in plain(found(shown))

    def test_a_customer_is_found_by_the_account(self, amina: Client) -> None:
        user = get_user_model().objects.create(username="lina")
        make("web-1", user=user)
        make("web-2", user=user, **OTHER)
        assert links(find(amina, "lina", "account")) == ["web-2", "web-1"]

    @pytest.mark.parametrize(
        ("who", "by", "complaint"),
        [
            ("nobody", "contact", "or a phone number of at least six digits."),
            ("12345", "contact", "or a phone number of at least six digits."),
            ("\0@x", "contact", "Null characters are not allowed."),
            ("nobody", "account", "No account has this user name."),
            ("", "contact", "This field is required."),
            ("x" * 255, "contact", "Ensure this value has at most 254 characters (it has 255)."),
            (EMAIL, "name", "Select a valid choice. name is not one of the available choices."),
        ],
    )  # fmt: skip
    def test_a_text_that_is_nobody_is_refused(
        self, amina: Client, who: str, by: str, complaint: str
    ) -> None:
        assert complaint in text(find(amina, who, by))

    def test_nobody_is_found(self, amina: Client) -> None:
        make("web-1")
        shown = find(amina, "sara@example.dz")
        assert "No order of this customer was found." in found(shown)
        assert "Download the data" not in shown
        for what in ("download", "erase"):
            assert "No order of this customer was found." in find(
                amina, "sara@example.dz", what=what, typed="sara@example.dz"
            )

    def test_a_number_of_several_people_leads_to_their_orders_and_nothing_else(
        self, amina: Client
    ) -> None:
        make("web-1")
        make("web-2", customer_email="karim@example.dz")
        for what in ("", "download", "erase"):
            shown = find(amina, PHONE, what=what, typed=PHONE)
            assert links(shown) == ["web-1", "web-2"]
            assert "different e-mail addresses" in found(shown)
            assert "Download the data" not in shown
        assert traces_of(EMAIL)

    def test_doubtful_orders_are_named_and_left_alone(self, amina: Client) -> None:
        make("web-1")
        other = make("web-2", customer_email="karim@example.dz")
        assert "are not included" in found(find(amina))
        erase(amina)
        other.refresh_from_db()
        assert other.customer_email == "karim@example.dz"

    @pytest.mark.parametrize(
        ("language", "count", "told"),
        [
            ("en", 21, "and 1 more"),
            ("fr", 21, "et 1 autre"),
            ("fr", 27, "et 7 autres"),
            ("ar", 21, "وواحد آخر"),
            ("ar", 27, "و7 أخرى"),
        ],
    )
    def test_only_the_first_doubtful_orders_are_named(
        self, language: str, count: int, told: str
    ) -> None:
        make("web-0")
        for number in range(1, count + 1):
            make(f"web-{number}", customer_email="karim@example.dz")
        browser = person(*BOTH, headers={"accept-language": language})
        shown = [each for each in found(find(browser)).splitlines() if "web-20" in each]
        assert [each.rpartition("web-20 ")[2] for each in shown] == [told]

    def test_what_stands_in_the_way_is_said_beside_the_orders(self, amina: Client) -> None:
        for number in range(25):
            make(f"web-{number:02}")
        make("web-open", Status.HANDLING)
        make("web-problem", problems=[Problem("disputed", {"by": "staff"})])
        make("web-owed", Status.REFUNDED, sale_price=600)
        Order.objects.filter(reference="web-24").update(needs_attention=True)
        shown = find(amina)
        items = {
            name: re.sub(r".*</span>", "", text(item))
            for item in re.findall(r"<li>.*?</li>", element(shown, "aria-live", "section"))
            for name in links(item)
        }
        assert list(items)[:4] == ["web-24", "web-open", "web-problem", "web-owed"]
        assert "This order is still open." in items["web-open"]
        assert "This order has a problem that has not been acknowledged." in items["web-problem"]
        assert "Money is still owed to the customer." in items["web-owed"]
        assert len(items) == 20
        assert "Orders that are not listed here: 8." in plain(found(shown))
        assert "This person cannot be erased yet" in text(shown)
        assert 'what" value="erase' not in shown
        # An older form is refused, too.
        assert "This person cannot be erased yet" in text(find(amina, what="erase", typed=EMAIL))
        assert traces_of(EMAIL)


class TestDownload:
    def test_the_file_is_that_of_the_command_and_names_no_code(self, amina: Client) -> None:
        order = receive("web-1", *CARDS[:2])
        Order.objects.filter(pk=order.pk).update(sale_amount=1100)
        order.refresh_from_db()
        for name, value in LINA.items():
            setattr(order, name, value)
        order.save()
        response = download(amina)
        assert response["Content-Type"] == "application/json; charset=utf-8"
        assert re.fullmatch(
            r'attachment; filename="customer-\d{4}-\d\d-\d\d\.json"',
            response["Content-Disposition"],
        )
        assert "no-store" in response["Cache-Control"]
        file = json.loads(response.content)
        expected = describe(Person.of(EMAIL), [order])
        made = next(iter(expected))
        assert {**file, made: ""} == {**json.loads(json.dumps(expected)), made: ""}
        assert EMAIL in response.content.decode()
        for card in CARDS[:2]:
            assert card.value not in response.content.decode()
            assert card.serial not in response.content.decode()

    def test_who_downloaded_is_in_the_history_of_each_order(self, amina: Client) -> None:
        bought, got = make("web-1"), make("web-2", **OTHER, recipient_email=EMAIL)
        other = make("web-3", **OTHER, customer_phone="0666 11 22 33")
        assert download(amina).status_code == 200
        assert history(bought) == [("user0", "Downloaded the data of the customer.")]
        assert history(got) == [("user0", "Downloaded the data of the recipient.")]
        assert history(other) == []

    def test_after_ten_minutes_the_password_is_asked_for(self, amina: Client) -> None:
        order = make("web-1")
        let_pass(amina, 601)
        assert 'name="password"' in find(amina)
        for password in ("", "wrong"):
            html = read(download(amina, password=password))
            assert errors(html)
            assert EMAIL in html
        assert history(order) == []
        assert download(amina, password=PASSWORD)["Content-Type"].startswith("application/json")

    def test_without_the_trace_nothing_is_handed_out(
        self, amina: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make("web-1")

        def refuse(*_args: Any) -> None:
            raise DatabaseError("The disk is full.")

        monkeypatch.setattr(type(LogEntry.objects), "log_actions", refuse)
        with pytest.raises(DatabaseError, match="full"):
            download(amina)


class TestErasing:
    def test_the_page_says_what_goes_and_what_stays_and_asks_again(self, amina: Client) -> None:
        make("web-1")
        shown = ask(amina)
        headings = re.findall(r"<h2[^>]*>(.*?)</h2>", shown)
        assert headings == ["What is erased", "What is kept, and why"]
        assert "Orders of this customer: 1. Erased data cannot be restored." in plain(text(shown))
        assert traces_of(EMAIL)

    def test_the_customer_is_erased_and_who_did_it_is_recorded(self, amina: Client) -> None:
        order = receive("web-1", *CARDS[:2])
        for name, value in LINA.items():
            setattr(order, name, value)
        order.save()
        other = make("web-2", **OTHER, customer_phone="0666 11 22 33")
        shown = plain(text(erase(amina)))
        assert "Orders from which the person was erased: 1." in shown
        assert traces_of(EMAIL, EMAIL.lower(), PHONE, "Lina Kaci") == set()
        assert all(card.is_destroyed for card in Card.objects.all())
        assert history(order) == [("user0", "Erased the customer.")]
        other.refresh_from_db()
        assert other.customer_name == "Karim"
        # Pressing it again finds no order.
        assert "No order of this customer was found." in found(find(amina, what="erase"))

    def test_the_account_is_erased_by_its_name(self, amina: Client) -> None:
        user = get_user_model().objects.create(username="lina")
        order = make("web-1", user=user)
        assert "was erased: 1." in plain(text(erase(amina, "lina", "account")))
        order.refresh_from_db()
        assert (order.user, order.customer_email) == (None, "")

    @pytest.mark.parametrize("typed", ["", "lina", "karim@example.dz", "0555 12 34 57"])
    def test_another_address_erases_nothing(self, amina: Client, typed: str) -> None:
        make("web-1")
        html = erase(amina, typed=typed)
        assert errors(html)
        assert traces_of(EMAIL)

    def test_the_same_address_in_another_spelling_is_the_same(self, amina: Client) -> None:
        make("web-1")
        erase(amina, typed=f" {EMAIL.upper()}")
        assert traces_of(EMAIL) == set()

    def test_after_ten_minutes_the_password_is_asked_for(self, amina: Client) -> None:
        make("web-1")
        let_pass(amina, 601)
        assert 'name="password"' in ask(amina)
        assert errors(erase(amina, password="wrong"))
        assert traces_of(EMAIL)
        erase(amina, password=PASSWORD)
        assert traces_of(EMAIL) == set()

    def test_an_order_that_came_meanwhile_is_looked_at_first(self, amina: Client) -> None:
        make("web-1")
        form = hidden(ask(amina))
        make("web-2")
        html = read(amina.post(PAGE, {**form, "typed": EMAIL}))
        assert "The orders of this customer have changed in the meantime." in html
        assert links(html) == ["web-2", "web-1"]
        assert traces_of(EMAIL)

    def test_of_two_people_at_once_the_second_is_told_that_nothing_is_left(
        self, amina: Client
    ) -> None:
        order, colleague = make("web-1"), person(*BOTH)
        form = hidden(ask(amina))
        erase(colleague)
        html = read(amina.post(PAGE, {**form, "typed": EMAIL}))
        assert "No order of this customer was found." in html
        assert [message for _who, message in history(order)] == ["Erased the customer."]

    def test_an_erasure_that_takes_long_goes_on_with_the_next_request(
        self, amina: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(3):
            make(f"web-{number}")
        monkeypatch.setattr(customer_data, "_ERASES_FOR", 0)
        # Each request erases at least one order, even if no time is left.
        monkeypatch.setattr(customer_data.time, "monotonic", iter(range(100)).__next__)
        monkeypatch.setattr(customer_data, "_ERASES_FOR", 1)
        html = erase(amina)
        said = "Orders from which the person was just erased: 1. Orders that remain: 2."
        assert said in plain(text(html))
        for left in (1, 0):
            html = read(amina.post(PAGE, hidden(html)))
            assert (f"Orders that remain: {left}." in plain(text(html))) == bool(left)
        assert "The customer was erased" in html
        assert traces_of(EMAIL) == set()

    def test_a_reference_that_names_the_person_is_told(self, amina: Client) -> None:
        make(EMAIL.lower())
        assert "contain details of the person, and cannot be erased:" in text(erase(amina))


def test_the_page_of_a_customer_of_many_orders_takes_a_fixed_number_of_queries(
    amina: Client,
) -> None:
    counts = []
    for number in (30, 60):
        for place in range(number):
            make(f"web-{number}-{place}")
        find(amina)
        with CaptureQueriesContext(connection) as queries:
            find(amina)
        counts.append(len(queries))
    # The app runs one more query for each additional hundred orders.
    assert counts[1] - counts[0] <= 2


@pytest.mark.parametrize("language", ["fr", "ar"])
def test_the_page_is_in_the_language_of_its_reader(language: str) -> None:
    make("web-1", Status.HANDLING)
    browser = person(*BOTH, headers={"accept-language": language})
    html = find(browser)
    with translation.override(language):
        assert translation.gettext("This order is still open.") in unescape(html)
    assert not re.search("What is kept|Search by", html)


def test_orders_are_found_as_the_command_finds_them(amina: Client) -> None:
    make("web-1")
    assert links(find(amina)) == [order.reference for order in find_orders(Person.of(EMAIL))[0]]
