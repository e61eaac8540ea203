"""The customer's page: what it shows, what it counts, and what it keeps secret."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import django
import pytest
from django.db import DatabaseError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from giftcards.delivery import links, revealing, views
from giftcards.delivery.links import issue
from giftcards.delivery.models import CardLink, LinkVisit
from giftcards.delivery.tuning import tuning
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from giftcards.settlement import promised_day, record_refund
from giftcards.statuses import Status
from giftcards.text.display import day_text
from tests.builders import CARDS, FULFILLED, settled
from tests.delivery.pages import (
    CODES,
    address_of_new_link,
    codes_in,
    fetch,
    make_settled,
    page_token,
    press,
    words,
)
from tests.leaks import every_log, logged, raw_database, struck, variables
from tests.stage import failing

pytestmark = pytest.mark.django_db

Tune = Callable[..., None]


@pytest.fixture
def order() -> Order:
    return make_settled(customer_language="en")


@pytest.fixture
def address(order: Order) -> str:
    return address_of_new_link(order)


def configure(settings: Any, **values: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, **values}


def visits(what: str) -> list[LinkVisit]:
    return list(LinkVisit.objects.filter(what=what))


class TestBeforeTheButtonIsPressed:
    def test_the_page_shows_shop_and_order_and_nothing_of_the_cards(self, address: str) -> None:
        response = fetch(address)
        assert response.status_code == 200
        text = words(response)
        assert "The Shop" in text
        assert "web-1042" in text
        assert "Show the cards" in text
        assert codes_in(response) == []
        assert "PlayStation" not in text

    @pytest.mark.parametrize("method", ["get", "head", "options", "put", "delete", "patch"])
    def test_no_other_method_than_post_uses_anything_up(
        self, address: str, method: str, tune: Tune
    ) -> None:
        tune(link_reveals=1)
        for _ in range(3):
            assert codes_in(getattr(Client(), method)(address)) == []
        assert CardLink.objects.get().reveals == 0
        assert visits("revealed") == []
        assert codes_in(press(address)) == CODES[:3]

    @pytest.mark.parametrize(
        "posted",
        [
            {"data": {}},
            {"data": {"token": ""}},
            {"data": {"token": "x"}},
            {"data": {"token": "☃" * 5_000}},
            {"data": {"token": ["a", "b"], "csrfmiddlewaretoken": "x"}},
            # These bodies are not a form, or they are too large.
            {"data": b"x", "content_type": "multipart/form-data; boundary="},
            {"data": {"token": "x" * 3_000_000}, "HTTP_X": ""},
        ],
        ids=["nothing", "empty", "x", "long", "two", "no form", "huge"],
    )
    def test_a_post_without_the_token_of_the_page_asks_again(
        self, address: str, posted: dict[str, Any]
    ) -> None:
        response = Client().post(address, **posted)
        assert response.status_code == 200
        assert "again" in words(response)
        assert codes_in(response) == []
        assert CardLink.objects.get().reveals == 0

    def test_the_token_of_another_page_asks_again(self, order: Order, address: str) -> None:
        other = address_of_new_link(order)
        response = press(address, token=page_token(fetch(other)))
        assert codes_in(response) == []
        assert "again" in words(response)

    @pytest.mark.parametrize(
        ("ago", "is_shown"), [(0, False), (0.8, False), (1.1, True), (3_590, True), (3_601, False)]
    )
    def test_a_page_that_was_pressed_at_once_or_too_late_asks_again(
        self, address: str, ago: float, is_shown: bool
    ) -> None:
        response = press(address, ago=ago)
        assert codes_in(response) == CODES[: 3 * is_shown]
        assert ("again" in words(response)) is not is_shown

    @pytest.mark.parametrize(("ago", "is_shown"), [(-0.1, False), (0.1, True)])
    def test_a_page_of_a_host_whose_clock_is_a_second_ahead_can_be_pressed(
        self, address: str, monkeypatch: pytest.MonkeyPatch, ago: float, is_shown: bool
    ) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "other")
            token = page_token(fetch(address, ago=ago))
        assert codes_in(press(address, token=token)) == CODES[: 3 * is_shown]

    def test_the_page_that_asks_again_can_be_pressed_at_once_without_a_pause(
        self, address: str, tune: Tune
    ) -> None:
        now = time.time()
        response = Client().post(address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: now + 5)
            assert codes_in(Client().post(address, {"token": page_token(response)})) == CODES[:3]
        tune(press_after=0)
        assert codes_in(press(address, ago=0)) == CODES[:3]


class TestOpenings:
    def test_who_opens_a_link_is_written_down(self, address: str) -> None:
        fetch(address, REMOTE_ADDR="::ffff:41.96.1.2", HTTP_USER_AGENT="Phone\0 1.0" + "x" * 400)
        fetch(address, REMOTE_ADDR="")
        visit, other = visits("opened")
        assert (visit.address, other.address) == ("41.96.1.2", None)
        assert visit.agent == ("Phone 1.0" + "x" * 400)[:300]
        assert (visit.unreadable, visit.user) == (0, "")

    def test_the_same_visitor_counts_again_after_ten_minutes_only(self, address: str) -> None:
        fetch(address)
        fetch(address)
        fetch(address, HTTP_USER_AGENT="another")
        assert len(visits("opened")) == 2
        LinkVisit.objects.update(at=timezone.now() - timedelta(minutes=11))
        fetch(address)
        assert len(visits("opened")) == 3

    def test_a_link_is_written_down_as_opened_so_many_times_at_most(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert revealing.MOST_OPENED == 100
        monkeypatch.setattr(revealing, "MOST_OPENED", 5)
        for number in range(12):
            host = ipaddress.ip_address("10.0.0.0") + number
            assert fetch(address, REMOTE_ADDR=str(host)).status_code == 200
        assert len(visits("opened")) == revealing.MOST_OPENED

    def test_the_page_is_there_though_its_opening_cannot_be_written_down(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with refusing_visits():
            assert fetch(address).status_code == 200
        assert visits("opened") == []
        assert "could not be recorded" in caplog.text


def refusing_visits() -> AbstractContextManager[None]:
    error = DatabaseError(f"Failing row contains ({CODES[0]})")
    return failing("INSERT", "linkvisit", error=error)


class TestReveal:
    def test_the_button_shows_the_cards_that_came_and_that_is_written_down(
        self, address: str
    ) -> None:
        token = page_token(fetch(address))
        visitor = {"REMOTE_ADDR": "41.96.1.2", "HTTP_USER_AGENT": "Phone 1.0"}
        response = Client().post(address, {"token": token}, **visitor)
        assert codes_in(response) == CODES[:3]
        text, html = words(response), response.content.decode()
        for card in CARDS[:3]:
            assert card.serial in text
        assert "PlayStation · 500 DA" in text
        assert "I have used this code" in text
        assert "Shown before" not in text
        # Each card has a QR code.
        assert html.count("<svg") == html.count("<details") == 3
        assert "style=" not in html
        [visit] = visits("revealed")
        assert (visit.address, visit.agent, visit.unreadable) == ("41.96.1.2", "Phone 1.0", 0)
        assert CardLink.objects.get().reveals == 1

    def test_earlier_reveals_are_told_over_whichever_link(self, order: Order, address: str) -> None:
        press(address_of_new_link(order))
        LinkVisit.objects.filter(what="revealed").update(at=timezone.now() - timedelta(days=400))
        year = (timezone.now() - timedelta(days=400)).year
        text = words(press(address))
        assert "Shown before" in text
        assert str(year) in text
        assert LinkVisit.objects.filter(what="revealed").count() == 2

    @pytest.mark.parametrize("most", [1, 2])
    def test_a_page_that_is_loaded_again_is_the_same_reveal_for_ten_minutes(
        self, address: str, tune: Tune, most: int
    ) -> None:
        tune(link_reveals=most)
        token = page_token(fetch(address))
        for _ in range(3):
            response = press(address, token=token)
            assert codes_in(response) == CODES[:3]
            assert "Shown before" not in words(response)
        assert len(visits("revealed")) == 1
        LinkVisit.objects.update(at=timezone.now() - timedelta(minutes=11))
        response = press(address, token=token)
        assert codes_in(response) == []
        # The page asks again, unless the link has ended.
        assert response.status_code == (404 if most == 1 else 200)
        assert ("again" in words(response)) == (most > 1)
        assert CardLink.objects.get().reveals == 1

    def test_a_link_ends_after_its_last_reveal(self, address: str, tune: Tune) -> None:
        tune(link_reveals=2)
        tokens = [page_token(fetch(address)) for _ in range(3)]
        shown = [bool(codes_in(press(address, token=token))) for token in tokens]
        assert shown == [True, True, False]
        assert fetch(address).status_code == 404

    def test_cards_that_cannot_be_recorded_are_not_shown(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = page_token(fetch(address))
        with refusing_visits():
            response = press(address, token=token)
        assert response.status_code == 503
        assert codes_in(response) == []
        assert CardLink.objects.get().reveals == 0
        assert CODES[0] not in caplog.text
        assert "could not be shown: DatabaseError" in caplog.text
        assert codes_in(press(address, token=token)) == CODES[:3]

    def test_surplus_and_late_cards_are_not_shown(self, order: Order, address: str) -> None:
        Order.objects.filter(pk=order.pk).update(fulfilled_quantity=2)
        assert codes_in(press(address)) == CODES[:2]

    @pytest.mark.parametrize(
        "card",
        [
            CardSecret("</bdi><script>alert(1)</script>&amp;", '"=1+1"'),
            # This code is too long for a QR code.
            CardSecret("é" * 9_000, ""),
        ],
        ids=["markup", "long"],
    )
    def test_codes_are_shown_as_text_whatever_they_hold(self, card: CardSecret) -> None:
        order = make_settled("odd", settled("FULFILLED", [card], quantity=1), quantity=1)
        response = press(address_of_new_link(order))
        assert card.value in words(response)
        assert card.serial in words(response)
        html = response.content.decode()
        assert "<script>alert" not in html
        assert ("<svg" in html) == (len(card.value) < 9_000)

    def test_the_page_needs_and_sets_no_cookie(self, address: str) -> None:
        browser = Client(enforce_csrf_checks=True)
        first = fetch(address, browser)
        # A browser sends this origin from a page with the policy no-referrer.
        second = browser.post(address, {"token": page_token(first)}, HTTP_ORIGIN="null")
        assert codes_in(second) == CODES[:3]
        for response in (first, second):
            assert not response.cookies
            assert "Cookie" not in response.get("Vary", "")

    def test_without_segno_the_page_has_no_qr_codes(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
        response = press(address)
        assert codes_in(response) == CODES[:3]
        assert "<svg" not in response.content.decode()


class TestAtOnce:
    @pytest.mark.parametrize("most", [1, 2])
    def test_a_button_that_is_pressed_twice_at_once_reveals_once(
        self, order: Order, address: str, tune: Tune, most: int
    ) -> None:
        tune(link_reveals=most)
        token = page_token(fetch(address))
        secret = address.strip("/").rpartition("/")[2]
        key = links.read(token, secret, min_age=0)
        seen: list[str] = []

        def interfere(execute: Any, sql: str, *args: Any) -> Any:
            """Let the other request commit after this one has checked for a reveal."""
            result = execute(sql, *args)
            if sql.startswith("SELECT") and "linkvisit" in sql.partition("WHERE")[0]:
                seen.append(sql)
                if len(seen) == 2:
                    link = CardLink.objects.get()
                    link.visits.create(what="revealed", key=key)
                    CardLink.objects.update(reveals=1)
            return result

        with connection.execute_wrapper(interfere):
            response = press(address, token=token)
        assert codes_in(response) == CODES[:3]
        assert len(visits("revealed")) == CardLink.objects.get().reveals == 1

    def test_a_link_that_ends_between_two_steps_shows_nothing(self, address: str) -> None:
        token = page_token(fetch(address))
        with connection.execute_wrapper(_revoke_before_counting):
            response = press(address, token=token)
        assert response.status_code == 404
        assert codes_in(response) == []
        assert visits("revealed") == []


def _revoke_before_counting(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    if sql.startswith("UPDATE") and "reveals" in sql.partition("WHERE")[0]:
        CardLink.objects.filter(revoked_at=None).update(revoked_at=timezone.now())
    return execute(sql, params, many, context)


@pytest.mark.django_db(transaction=True)
def test_a_reveal_is_committed_by_itself_where_requests_are_transactions(
    order: Order, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    assert codes_in(press(address)) == CODES[:3]
    assert CardLink.objects.get().reveals == len(visits("revealed")) == 1


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("refunds", "told"),
        [
            ([], ["2 cards could not be delivered.", "1,100 DA will be refunded"]),
            ([600], ["600 DA refunded on", "500 DA will be refunded"]),
            ([1_100], ["1,100 DA refunded on", "(CCP)"]),
        ],
    )
    def test_the_page_tells_what_is_missing_and_paid_back(
        self, refunds: list[int], told: list[str]
    ) -> None:
        order = make_settled(sale_price=550)
        for number, amount in enumerate(refunds):
            record_refund(order, amount=amount, reference=f"R{number}", method="CCP")
        text = words(press(address_of_new_link(order))).replace("\N{NO-BREAK SPACE}", " ")
        for sentence in told:
            assert sentence in text
        assert ("will be refunded" in text) == any("will be" in sentence for sentence in told)

    @pytest.mark.parametrize(
        ("made", "updated", "told", "untold"),
        [
            (
                {},
                {},
                ("2 cards could not be delivered. What you paid for the missing cards will be"),
                " DA will",
            ),
            (
                {"sale_price": 550},
                {"reordered_amount": 1_100},
                "They were ordered again",
                "will be refunded",
            ),
            ({"sale_price": 550, "answer": FULFILLED}, {}, "5 cards", "will be refunded"),
        ],
        ids=["unknown", "ordered again", "nothing"],
    )
    def test_without_an_amount_that_is_owed_the_page_promises_no_figure(
        self, made: dict[str, Any], updated: dict[str, Any], told: str, untold: str
    ) -> None:
        order = make_settled(**made)
        Order.objects.filter(pk=order.pk).update(**updated)
        text = words(press(address_of_new_link(order)))
        assert told in text
        assert untold not in text
        assert bool(re.search("could not|are missing", text)) == ("answer" not in made)

    def test_a_day_that_the_shop_has_promised_is_told_until_it_has_passed(
        self, settings: Any
    ) -> None:
        order = make_settled(sale_price=550)
        address = address_of_new_link(order)
        assert "You will receive the money" not in words(press(address))
        settings.GIFTCARDS = {**settings.GIFTCARDS, "REFUND_DAYS": 3}
        assert f"You will receive the money by {day_text(promised_day(order))} at" in words(
            press(address)
        )
        Order.objects.filter(pk=order.pk).update(finalized_at=timezone.now() - timedelta(days=9))
        text = words(press(address))
        assert "We are sorry that your refund is late. We are working on it." in text
        assert "You will receive the money" not in text


class TestCardsThatDoNotOpen:
    @pytest.mark.parametrize("is_lost", [False, True])
    def test_a_card_that_does_not_open_says_so_and_the_others_are_shown(
        self, order: Order, address: str, is_lost: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        second = Card.objects.filter(order=order, position=2)
        second.delete() if is_lost else second.update(sealed="broken")
        response = press(address)
        assert codes_in(response) == [CODES[0], CODES[2]]
        assert words(response).count("cannot be shown at the moment") == 2
        assert visits("revealed")[0].unreadable == 1
        assert "Of 3 cards of order web-1042, 1 cannot be shown to the customer" in caplog.text
        assert not any(code in caplog.text for code in CODES)

    def test_cards_of_which_none_opens_are_written_down_once_in_ten_minutes(
        self, address: str
    ) -> None:
        Card.objects.update(sealed="broken")
        for _press in range(3):
            press(address)
        assert len(visits("revealed")) == 1
        LinkVisit.objects.update(at=timezone.now() - timedelta(minutes=11))
        press(address)
        assert len(visits("revealed")) == 2

    @pytest.mark.parametrize("keys", [[], ["nonsense"]])
    def test_without_usable_keys_the_page_says_so_and_no_reveal_is_used_up(
        self, address: str, settings: Any, tune: Tune, keys: list[str]
    ) -> None:
        tune(link_reveals=1)
        right = settings.GIFTCARDS
        settings.GIFTCARDS = {**right, "ENCRYPTION_KEYS": keys}
        token = page_token(fetch(address))
        response = press(address, token=token)
        assert response.status_code == 200
        assert "3 cards cannot be shown" in words(response)
        assert visits("revealed")[0].unreadable == 3
        assert CardLink.objects.get().reveals == 0
        settings.GIFTCARDS = right
        response = press(address, token=token)
        assert codes_in(response) == CODES[:3]
        assert "Shown before" not in words(response)


class TestManyCards:
    @pytest.fixture
    def many(self) -> Order:
        cards = [CardSecret(f"MANY-{number:04}", f"{number:08}") for number in range(101)]
        answer = settled("FULFILLED", cards, quantity=101)
        return make_settled("many/1", answer, quantity=101, customer_language="ar")

    def test_more_than_a_hundred_cards_are_a_file(self, many: Order, tune: Tune) -> None:
        tune(link_reveals=1)
        address = address_of_new_link(many)
        for method in ("get", "post"):
            unpressed = getattr(Client(), method)(address, {"file": "1"})
            assert "MANY-" not in unpressed.content.decode()
        token = page_token(fetch(address))
        page = press(address, token=token)
        assert "MANY-" not in page.content.decode()
        assert page_token(page) == token
        file = press(address, token=token, file="1")
        assert file["Content-Type"] == "text/plain; charset=utf-8"
        assert file["Content-Disposition"] == 'attachment; filename="cards-many-1.txt"'
        assert file["Cache-Control"] == "no-store, private"
        lines = file.content.decode().split("\r\n")
        assert "many/1" in lines[1]
        assert lines[4:-1] == [f"{n + 1}\tMANY-{n:04}\t{n:08}" for n in range(101)]
        assert len(visits("revealed")) == CardLink.objects.get().reveals == 1

    def test_a_hundred_cards_are_on_the_page(self) -> None:
        cards = [CardSecret(f"MANY-{number:04}", "") for number in range(100)]
        order = make_settled("many", settled("FULFILLED", cards, quantity=100), quantity=100)
        assert press(address_of_new_link(order)).content.decode().count("MANY-") == 100

    def test_queries_do_not_grow_with_the_cards(self, order: Order, many: Order) -> None:
        counts = []
        for each in (order, many):
            address = address_of_new_link(each)
            token = page_token(fetch(address))
            with CaptureQueriesContext(connection) as queries:
                press(address, token=token)
            counts.append(len(queries))
        assert counts[0] == counts[1]


def expired(link: CardLink) -> None:
    CardLink.objects.filter(pk=link.pk).update(expires_at=timezone.now())


def revoked(link: CardLink) -> None:
    CardLink.objects.revoke(link.order, by="amina")


def used_up(link: CardLink) -> None:
    CardLink.objects.filter(pk=link.pk).update(reveals=tuning.link_reveals)


def not_final(link: CardLink) -> None:
    values = {"open_amount": None, "is_consistent": None, "finalized_at": None}
    Order.objects.filter(pk=link.order_id).update(
        status=Status.HANDLING, due_at=timezone.now(), **values
    )


def without_cards(link: CardLink) -> None:
    link.order.cards.all().delete()


def with_surplus_only(link: CardLink) -> None:
    Order.objects.filter(pk=link.order_id).update(status=Status.REFUNDED, fulfilled_quantity=0)


class TestDeadLinks:
    ENDS = (expired, revoked, used_up, not_final, without_cards, with_surplus_only)

    def answers(self, address: str, **headers: Any) -> list[tuple[Any, ...]]:
        """Return the answers of the address to a stranger, and the kinds of queries they took."""
        found = []
        for method, data in (("get", {}), ("head", {}), ("post", {}), ("post", {"token": "x"})):
            with CaptureQueriesContext(connection) as queries:
                response = getattr(Client(), method)(address, data, **headers)
            asked = [query["sql"].split()[0] for query in queries]
            found.append((response.status_code, response.content, dict(response.items()), asked))
        return found

    def test_links_that_show_nothing_are_alike_to_the_last_byte(self, settings: Any) -> None:
        configure(settings, CONTACT="help@shop.example")
        wrong = reverse("giftcards_delivery:cards", args=["A" * 32])
        headers = {"HTTP_ACCEPT_LANGUAGE": "fr"}
        expected = self.answers(wrong, **headers)
        assert [(status, asked) for status, _, _, asked in expected] == 4 * [(404, ["SELECT"])]
        for number, end in enumerate(self.ENDS):
            order = make_settled(f"web-{number}", customer_language="ar")
            link, token = issue(order, origin=CardLink.Origin.MESSAGE)
            end(link)
            address = reverse("giftcards_delivery:cards", args=[token])
            assert self.answers(address, **headers) == expected, end.__name__
        assert LinkVisit.objects.count() == 0

    @pytest.mark.parametrize("token", ["x", "é", "%00", "account 1", "x" * 3_000, "..%2f"])
    def test_no_token_makes_the_page_fail(self, token: str) -> None:
        assert Client().get(f"/cards/{token}/").status_code == 404

    def test_the_link_of_an_account_has_no_address(self, order: Order) -> None:
        link = CardLink.objects.of_account(order)
        name = link.token_hash
        assert name
        assert fetch(reverse("giftcards_delivery:cards", args=[name])).status_code == 404

    def test_a_link_that_ends_while_its_page_is_open_shows_nothing(self, address: str) -> None:
        token = page_token(fetch(address))
        press(address, token=token)
        CardLink.objects.update(expires_at=timezone.now())
        response = press(address, token=token)
        assert response.status_code == 404
        assert codes_in(response) == []

    def test_a_link_works_after_the_secret_key_was_changed_with_a_fallback(
        self, address: str, settings: Any
    ) -> None:
        settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
        settings.SECRET_KEY = "another"
        assert codes_in(press(address)) == CODES[:3]

    def test_no_token_is_logged(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        CardLink.objects.update(revoked_at=timezone.now())
        with every_log(caplog):
            for method in ("get", "post", "options", "put"):
                getattr(Client(), method)(address)
        token = address.strip("/").rpartition("/")[2]
        texts = [text for text in logged(caplog) if "testserver" not in text]
        assert not [text for text in texts if token in text]

    @pytest.mark.parametrize("tail", ["", "/.", "/opengraph.png", ")", "/x/%0Ay"])
    def test_an_address_that_was_cut_or_has_something_behind_it_works_and_is_not_logged(
        self, address: str, tail: str, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.APPEND_SLASH = False
        token = address.strip("/").rpartition("/")[2]
        with every_log(caplog):
            response = press(address.rstrip("/") + tail)
        assert codes_in(response) == CODES[:3]
        assert not [text for text in logged(caplog) if token in text]


class TestPin:
    PHONE = "+213 550 12 34 56"

    @pytest.fixture(autouse=True)
    def _pin(self, settings: Any) -> None:
        configure(
            settings, PIN="giftcards.delivery.pins.last_digits_of_phone", CONTACT="+213 21 00 00 00"
        )

    @pytest.fixture
    def address(self) -> str:
        return address_of_new_link(make_settled(customer_phone=self.PHONE))

    @pytest.mark.parametrize("typed", ["3456", " 34 56", "٣٤٥٦", "۳۴۵۶", "34-56"])
    def test_the_pin_is_right_in_any_script_of_digits(self, address: str, typed: str) -> None:
        assert codes_in(press(address, password=typed)) == CODES[:3]
        assert CardLink.objects.get().wrong_pins == 0

    @pytest.mark.parametrize("typed", ["", "3457", "345", "☃", "x" * 200, "12 34 56"])
    def test_a_wrong_pin_shows_nothing_and_tells_the_tries_that_are_left(
        self, address: str, typed: str
    ) -> None:
        asked = words(fetch(address))
        assert "The last four digits of your phone number." in asked
        assert "3456" not in asked
        response = press(address, password=typed)
        assert codes_in(response) == []
        assert "You have 4 attempts left." in words(response)
        assert CardLink.objects.get().reveals == 0

    def test_five_wrong_pins_lock_this_link_only(self, address: str) -> None:
        other = address_of_new_link(Order.objects.get())
        for _ in range(6):
            response = press(address, password="0000", token=self.token_of(address))
        assert "This link is locked" in words(response)
        assert "+213 21 00 00 00" in words(response)
        assert "<form" not in response.content.decode()
        assert len(visits("locked")) == 1
        assert "This link is locked" in words(fetch(address))
        # The locked link rejects the right PIN too.
        response = press(address, password="3456", token=self.token_of(address))
        assert codes_in(response) == []
        assert "This link is locked" in words(response)
        assert CardLink.objects.get(reveals=0, wrong_pins=5)
        assert codes_in(press(other, password="3456")) == CODES[:3]

    def token_of(self, address: str) -> str:
        """Return a token of the page, even if the page no longer offers one."""
        now = time.time()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: now - 5)
            return links.make(address.strip("/").rpartition("/")[2])[0]

    def test_a_reload_needs_no_other_guess_and_a_stranger_does(self, address: str) -> None:
        token = page_token(fetch(address))
        assert codes_in(press(address, token=token, password="3456")) == CODES[:3]
        assert codes_in(press(address, token=token)) == CODES[:3]
        assert codes_in(press(address)) == []

    @pytest.mark.parametrize("phone", ["", "12", "call me"])
    def test_an_order_without_a_phone_number_is_shown_without_a_pin(self, phone: str) -> None:
        address = address_of_new_link(make_settled("web-3", customer_phone=phone))
        assert 'name="password"' not in fetch(address).content.decode()
        assert codes_in(press(address)) == CODES[:3]

    def test_a_hook_that_fails_shows_nothing_and_tells_nothing(
        self, address: str, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = page_token(fetch(address))
        configure(settings, PIN="tests.delivery.test_page.fails")
        for response in (fetch(address), press(address, token=token)):
            assert response.status_code == 503
            assert codes_in(response) == []
        assert "could not be shown: KeyError" in caplog.text
        assert self.PHONE not in caplog.text
        assert address.strip("/").rpartition("/")[2] not in caplog.text


def fails(order: Order) -> str:
    raise KeyError(order.customer_phone)


class TestHeaders:
    def pages(self, address: str) -> list[Any]:
        dead = reverse("giftcards_delivery:cards", args=["A" * 32])
        return [fetch(address), press(address), fetch(dead), Client().options(address)]

    def test_every_answer_keeps_out_caches_indexes_frames_and_referrers(self, address: str) -> None:
        for response in self.pages(address):
            assert response["Cache-Control"] == "no-store, private"
            assert response["X-Robots-Tag"] == "noindex, nofollow"
            assert response["Referrer-Policy"] == "no-referrer"
            assert response["X-Content-Type-Options"] == "nosniff"
            assert response["X-Frame-Options"] == "DENY"
            assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
            assert "default-src 'none'" in response["Content-Security-Policy"]

    def test_only_what_bears_the_nonce_of_the_answer_is_loaded(self, address: str) -> None:
        nonces = set()
        for response in self.pages(address)[:3]:
            [nonce] = set(re.findall(r"'nonce-([^']+)'", response["Content-Security-Policy"]))
            html = response.content.decode()
            assert set(re.findall(r'nonce="([^"]*)"', html)) == {nonce}
            assert not re.findall(r"<style|<script(?! src=)|\son\w+=|\sstyle=", html)
            assert set(re.findall(r'(?:src|href)="(https?://[^/"]*)', html)) <= {
                "https://shop.example"
            }
            nonces.add(nonce)
        assert len(nonces) == 3

    if django.VERSION >= (6, 0):

        def test_the_page_keeps_its_policy_under_the_middleware_of_django(
            self, address: str, settings: Any
        ) -> None:
            settings.MIDDLEWARE = [
                "django.middleware.csp.ContentSecurityPolicyMiddleware",
                *settings.MIDDLEWARE,
            ]
            settings.SECURE_CSP = {"default-src": ["'self'"]}
            settings.SECURE_CSP_REPORT_ONLY = {"default-src": ["'none'"], "report-uri": "/r/"}
            for response in self.pages(address):
                assert response["Content-Security-Policy"].startswith("default-src 'none'")
                # A report would name the address of the page.
                assert "Content-Security-Policy-Report-Only" not in response


class TestLanguages:
    @pytest.mark.parametrize(
        ("language", "direction"), [("ar", "rtl"), ("fr", "ltr"), ("en", "ltr"), ("tlh", "ltr")]
    )
    def test_pages_are_in_the_language_of_the_order(self, language: str, direction: str) -> None:
        address = address_of_new_link(make_settled(customer_language=language))
        shown = language if language != "tlh" else "en"
        for response in (fetch(address, HTTP_ACCEPT_LANGUAGE="fr"), press(address)):
            assert f'<html lang="{shown}" dir="{direction}">' in response.content.decode()
            assert response["Content-Language"] == shown

    def test_a_link_that_shows_nothing_speaks_the_language_of_who_looks(self) -> None:
        dead = reverse("giftcards_delivery:cards", args=["A" * 32])
        response = Client().get(dead, HTTP_ACCEPT_LANGUAGE="ar-DZ,ar;q=0.9")
        assert '<html lang="ar" dir="rtl">' in response.content.decode()


class TestContact:
    @pytest.mark.parametrize(
        ("contact", "target"),
        [
            ("help@shop.example", "mailto:help@shop.example"),
            ("+213 (21) 00-00.00", "tel:+21321000000"),
            ("https://shop.example/help", "https://shop.example/help"),
            ("Monday to Friday at the shop", None),
            ("javascript:alert(1)", None),
        ],
    )
    def test_the_contact_is_a_link_where_it_can_be(
        self, address: str, settings: Any, contact: str, target: str | None
    ) -> None:
        configure(settings, CONTACT=contact)
        html = fetch(address).content.decode()
        assert contact in html
        footer = html.partition("<footer")[2]
        assert re.findall(r'href="([^"]*)"', footer) == ([] if target is None else [target])


class TestOverriding:
    def test_a_shop_has_its_own_base_and_words(
        self, address: str, settings: Any, tmp_path: Any
    ) -> None:
        folder = tmp_path / "giftcards_delivery" / "page"
        folder.mkdir(parents=True)
        (folder / "base.html").write_text("<h1>Ours</h1>{% block content %}{% endblock %}")
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
        assert "<h1>Ours</h1>" in fetch(address).content.decode()
        assert codes_in(press(address)) == CODES[:3]

    def test_a_template_that_fails_tells_nothing(
        self, address: str, settings: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "giftcards_delivery" / "page"
        folder.mkdir(parents=True)
        (folder / "base.html").write_text("{% block content %}{% endblock %}{% include cards %}")
        token = page_token(fetch(address))
        settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
        with every_log(caplog):
            response = press(address, token=token)
        assert response.status_code == 503
        assert codes_in(response) == []
        texts = "\n".join(logged(caplog))
        assert "could not be shown" in texts
        assert not any(card.value in texts or card.serial in texts for card in CARDS)


class TestSecrets:
    def test_an_error_while_the_cards_are_rendered_shows_none_of_them(
        self, order: Order, address: str, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In debug mode, the error is raised, and the test reads it as a crash reporter does."""
        settings.DEBUG = True
        token = page_token(fetch(address))

        def fail(*_: Any, **__: Any) -> None:
            raise ValueError("broken")

        monkeypatch.setattr("giftcards.text.display._formatted", fail)
        with pytest.raises(ValueError, match="broken") as raised:
            press(address, token=token)
        shown = "\n".join(variables(raised.value))
        assert not any(card.value in shown or card.serial in shown for card in CARDS)

    def test_an_interruption_at_any_moment_shows_no_code(self, order: Order) -> None:
        """The interruptions are spread over all function calls between decryption and the page."""
        Order.objects.filter(pk=order.pk).update(fulfilled_quantity=1)
        order.refresh_from_db()

        def show() -> None:
            shown = revealing.open_cards(order)
            views.show(order, shown, "key", {"token": "x"}, views.SECRET_URL)
            views.file_of(order, shown)

        for _fills_caches in range(2):
            show()
        error, calls = struck(show)
        assert error is None
        assert calls > 500
        for at in range(1, calls, calls // 60):
            error, _ = struck(show, at)
            assert error is not None
            shown = "\n".join(variables(error))
            assert not any(card.value in shown or card.serial in shown for card in CARDS)

    def test_rows_and_logs_of_a_reveal_hold_no_code_and_no_token(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with every_log(caplog):
            token = page_token(fetch(address))
            assert codes_in(press(address, token=token)) == CODES[:3]
        link_token = address.strip("/").rpartition("/")[2]
        texts = [*map(str, raw_database()), caplog.text]
        assert any("revealed" in text for text in texts)
        assert not [t for t in texts for s in (*CODES, link_token, token) if s in t]
