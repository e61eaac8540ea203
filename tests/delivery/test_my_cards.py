"""The orders of a customer who is logged in: only their owner can list and open them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from giftcards.delivery.models import CardLink, LinkVisit
from giftcards.delivery.revealing import Visitor
from giftcards.fulfilment import change_customer, reorder_missing
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Order
from giftcards.privacy.erasure import erase, find_orders
from giftcards.privacy.person import Person
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order, settled
from tests.delivery.pages import (
    CODES,
    codes_in,
    make_old,
    make_settled,
    page_token,
    purge_old,
    words,
)

pytestmark = pytest.mark.django_db

PAGE = "/cards/"


# What a customer reads while waiting.
SOON = "The cards usually arrive within a minute."
LATE = "Your order is taking longer than usual. We are still working on it."
TOLD = "You can close this page. We will write to you."


@pytest.fixture(autouse=True)
def _language() -> Iterator[None]:
    yield
    translation.deactivate()


def user_of(name: str) -> Any:
    return get_user_model().objects.get_or_create(username=name)[0]


def log_in(name: str, **options: Any) -> Client:
    browser = Client(**options)
    browser.force_login(user_of(name))
    return browser


def test_the_name_of_a_user_may_be_a_number() -> None:
    assert Visitor.of(RequestFactory().get(PAGE), 4711).user == "4711"


@pytest.fixture
def lina() -> Client:
    return log_in("lina")


@pytest.fixture
def order() -> Order:
    return make_settled(user=user_of("lina"), sale_price=550)


def show(browser: Client, order: Order, **posted: str) -> Any:
    return browser.post(PAGE, {"order": str(order.pk), **posted})


class TestList:
    def test_it_lists_the_orders_of_the_user_newest_first(self, lina: Client, order: Order) -> None:
        record_refund(order, amount=600, reference="R1", method="CCP")
        make_guide_order(reference="web-2", user=user_of("lina"))
        make_guide_order(Status.REFUNDED, reference="web-3", user=user_of("lina"), sale_price=10)
        make_guide_order(reference="of-somebody-else", user=user_of("sami"))
        Order.objects.filter(pk=order.pk).update(created_at=timezone.now() - timedelta(days=1))
        response = lina.get(PAGE)
        text = words(response).replace("\N{NO-BREAK SPACE}", " ")
        assert text.index("web-3") < text.index("web-2") < text.index("web-1042")
        assert "of-somebody-else" not in text
        assert "Partly delivered" in text
        assert "In progress" in text
        assert "Not delivered" in text
        assert "2 cards could not be delivered." in text
        assert "600 DA refunded on" in text
        assert "500 DA will be refunded" in text
        assert text.count("Show 3 cards") == response.content.decode().count("<button") == 1
        assert codes_in(response) == []
        assert response["Cache-Control"] == "no-store, private"
        # With "no-referrer", browsers hide the origin of forms, and Django refuses them.
        assert response["Referrer-Policy"] == "same-origin"
        assert "default-src 'none'" in response["Content-Security-Policy"]

    def test_who_has_ordered_nothing_is_told_so(self, lina: Client, order: Order) -> None:
        Order.objects.update(user=user_of("sami"))
        assert "You have not ordered any gift cards yet." in words(lina.get(PAGE))

    def test_who_is_not_logged_in_logs_in_first(self, order: Order) -> None:
        for response in (Client().get(PAGE), show(Client(), order)):
            assert response.status_code == 302
            assert response["Location"] == "/orders/?next=/cards/"
        assert not LinkVisit.objects.exists()

    def test_many_orders_are_paged_with_a_fixed_number_of_queries(self, lina: Client) -> None:
        counts = []
        for first, last in ((0, 2), (2, 23)):
            for number in range(first, last):
                make_settled(f"web-{number:02}", user=user_of("lina"))
            with CaptureQueriesContext(connection) as queries:
                newest = words(lina.get(PAGE))
            counts.append(len(queries))
        assert counts[0] == counts[1]
        assert "web-22" in newest
        assert "web-02" not in newest
        oldest = words(lina.get(PAGE, {"page": "2"}))
        assert "web-02" in oldest
        assert "web-22" not in oldest
        assert "2 / 2" in oldest

    def test_an_order_whose_codes_were_destroyed_has_no_button(self, lina: Client) -> None:
        order = make_old(user=user_of("lina"))
        younger = make_settled("younger", user=user_of("lina"))
        assert purge_old().orders == 1
        response = lina.get(PAGE)
        text = words(response)
        assert "web-1042" in text
        assert text.count("Partly delivered") == 2
        assert text.count("Show 3 cards") == response.content.decode().count("<button") == 1
        assert show(lina, order).status_code == 404
        assert codes_in(show(lina, younger)) == CODES[:3]


class TestReveal:
    def test_the_button_shows_the_cards_and_who_saw_them_is_written_down(
        self, lina: Client, order: Order
    ) -> None:
        response = show(lina, order, token=page_token(lina.get(PAGE)))
        assert codes_in(response) == CODES[:3]
        visit = LinkVisit.objects.get()
        assert (visit.what, visit.user, visit.unreadable) == ("revealed", "lina", 0)
        link = visit.link
        assert (link.order, link.origin, link.reveals) == (order, "account", 1)
        # The withdrawal of links does not concern the account.
        CardLink.objects.revoke(order, by="amina")
        response = show(lina, order)
        assert codes_in(response) == CODES[:3]
        assert "Shown before" in words(response)
        # All reveals of an order share one link.
        assert CardLink.objects.get().reveals == 2

    def test_nobody_else_is_shown_the_cards(self, lina: Client, order: Order) -> None:
        token = page_token(lina.get(PAGE))
        sami = log_in("sami")
        response = show(sami, order, token=token)
        assert response.status_code == 404
        assert codes_in(response) == []
        # The app checks the owner again when the button is pressed.
        Order.objects.update(user=user_of("sami"))
        assert show(lina, order, token=token).status_code == 404
        assert not LinkVisit.objects.exists()

    @pytest.mark.parametrize("key", ["", "0", "-1", "x", "١", "9" * 30, "1 OR 1", "\0"])
    def test_a_key_of_no_order_shows_nothing(self, lina: Client, order: Order, key: str) -> None:
        response = lina.post(PAGE, {"order": key})
        assert response.status_code == 404
        assert codes_in(response) == []
        # An order without cards shows nothing either, and neither request leaves a trace.
        other = make_guide_order(Status.REFUNDED, user=user_of("lina"))
        assert show(lina, other).status_code == 404
        assert not CardLink.objects.exists()

    def test_a_form_of_another_site_is_refused(self, order: Order) -> None:
        lina = log_in("lina", enforce_csrf_checks=True)
        assert show(lina, order).status_code == 403
        html = lina.get(PAGE).content.decode()
        [token] = {
            part.partition('"')[0] for part in html.split('csrfmiddlewaretoken" value="')[1:]
        }
        assert codes_in(show(lina, order, csrfmiddlewaretoken=token)) == CODES[:3]

    def test_the_cards_lead_back_to_the_order_on_the_page_with_its_button(
        self, lina: Client, order: Order
    ) -> None:
        html = lina.get(f"{PAGE}?page=1").content.decode()
        place = f"gc-order-{order.pk}"
        assert f'id="{place}"' in html
        shown = lina.post(PAGE, dict(_fields(html))).content.decode()
        assert f'<a href="{PAGE}?page=1#{place}">Back to the order</a>' in shown

    @pytest.mark.parametrize(
        "back", ["", "https://evil.example/", "//evil.example", "javascript:x"]
    )
    def test_the_cards_lead_back_to_no_other_site(
        self, lina: Client, order: Order, back: str
    ) -> None:
        response = show(lina, order, back_url=back)
        assert codes_in(response) == CODES[:3]
        assert "Back to the order" not in words(response)
        assert "evil" not in response.content.decode()

    def test_the_file_of_many_cards_is_fetched_with_the_form_of_the_page(self) -> None:
        cards = [CardSecret(f"MANY-{number:04}", "") for number in range(101)]
        answer = settled("FULFILLED", cards, quantity=101)
        order = make_settled("m", answer, quantity=101, user=user_of("lina"))
        lina = log_in("lina", enforce_csrf_checks=True)
        html = lina.get(PAGE).content.decode()
        for _ in range(2):
            fields = dict(_fields(html))
            response = lina.post(PAGE, {**fields, "file": "1"} if "file" in html else fields)
            html = response.content.decode()
        assert html.count("MANY-") == 101
        assert response["Content-Type"] == "text/plain; charset=utf-8"
        assert LinkVisit.objects.filter(link__order=order).count() == 1


def _fields(html: str) -> Iterator[tuple[str, str]]:
    for part in html.split('<input type="hidden" name="')[1:]:
        name, rest = part.split('" value="', 1)
        yield name, rest.partition('"')[0]


class TestTags:
    def render(self, template: str, user: Any, **context: Any) -> str:
        request = RequestFactory().get("/")
        request.user = user
        source = "{% load giftcards_delivery %}" + template
        return Template(source).render(Context({"request": request, **context}))

    def test_a_page_of_the_shop_links_to_orders_beyond_the_newest(self) -> None:
        for number in range(21):
            make_guide_order(reference=f"web-{number:02}", user=user_of("lina"))
        html = self.render("{% my_cards %}", user_of("lina"))
        assert "web-00" not in html
        assert '<a href="/cards/">' in html

    def test_a_page_of_the_shop_shows_the_state_of_one_order(self, order: Order) -> None:
        html = self.render("{% order_cards order %}", user_of("lina"), order=order)
        assert "Partly delivered" in html
        assert "Show 3 cards" in html
        assert not any(card.value in html for card in CARDS)

    @pytest.mark.parametrize(
        ("status", "setting", "email", "said"),
        [
            (Status.PENDING, {}, "lina@example.com", [SOON, TOLD]),
            (Status.HANDLING, {}, "lina@example.com", [SOON, TOLD]),
            (Status.DELAYED, {}, "lina@example.com", [LATE, TOLD]),
            (Status.HANDLING, {}, "", [SOON]),
            (Status.HANDLING, {"mode": {"not_delivered": "off"}}, "lina@example.com", [SOON]),
            (Status.HANDLING, {"channels": ["shop.channels.Sms"]}, "lina@example.com", [SOON]),
            (Status.FULFILLED, {}, "lina@example.com", []),
            (Status.PARTIALLY_FILLED, {}, "lina@example.com", []),
            (Status.REJECTED, {}, "lina@example.com", []),
        ],
    )
    def test_a_waiting_customer_is_told_what_to_expect_and_nobody_else(
        self, settings: Any, status: Status, setting: dict[str, Any], email: str, said: list[str]
    ) -> None:
        order = make_guide_order(status, user=user_of("lina"), customer_email=email)
        settings.GIFTCARDS_DELIVERY = {
            **settings.GIFTCARDS_DELIVERY,
            **{name.upper(): value for name, value in setting.items()},
        }
        html = self.render("{% order_cards order %}", user_of("lina"), order=order)
        assert [text for text in (SOON, LATE, TOLD) if text in html] == said
        assert ("gc-wait" in html) == bool(said)

    @pytest.mark.parametrize("status", [Status.PENDING, Status.UNCONFIRMED, Status.HANDLING])
    def test_a_customer_who_is_kept_waiting_reads_so(self, status: Status) -> None:
        order = make_guide_order(
            status,
            user=user_of("lina"),
            customer_email="lina@example.com",
            kept_waiting_at=timezone.now(),
        )
        html = self.render("{% order_cards order %}", user_of("lina"), order=order)
        assert [text in html for text in (SOON, LATE, TOLD)] == [False, True, True]
        assert "Please wait" in html

    def test_a_page_of_the_shop_lists_the_orders_of_its_user_and_of_nobody_else(
        self, order: Order
    ) -> None:
        html = self.render("{% my_cards %}", user_of("lina"))
        assert "web-1042" in html
        assert 'action="/cards/"' in html
        for user in (user_of("sami"), AnonymousUser()):
            html = self.render("{% order_cards order %}{% my_cards %}", user, order=order)
            assert html.strip() == ""

    def test_without_the_request_nothing_is_shown(self, order: Order) -> None:
        template = Template("{% load giftcards_delivery %}{% order_cards order %}{% my_cards %}")
        assert template.render(Context({"order": order})).strip() == ""


class TestOwner:
    """An order belongs only to the account that was passed to ``place_order``."""

    def sees(self, browser: Client, order: Order) -> bool:
        is_listed = order.reference in words(browser.get(PAGE))
        assert (codes_in(show(browser, order)) == CODES[:3]) == is_listed
        return is_listed

    def test_the_same_address_makes_nobody_the_owner(self, lina: Client, order: Order) -> None:
        users = get_user_model().objects
        users.update(email="family@example.com")
        Order.objects.update(customer_email="family@example.com", customer_name="lina")
        sister = users.create_user("sister", "family@example.com")
        boss = users.create_superuser("boss", "family@example.com")
        for user in (sister, boss):
            browser = Client()
            browser.force_login(user)
            assert not self.sees(browser, order)
        assert self.sees(lina, order)

    def test_an_order_of_a_guest_is_in_no_account(self, lina: Client) -> None:
        order = make_settled(customer_email="lina@example.com")
        assert not self.sees(lina, order)

    def test_a_deactivated_user_is_shown_nothing(
        self, lina: Client, order: Order, settings: Any
    ) -> None:
        # Some sites let deactivated users log in.
        backend = "django.contrib.auth.backends.AllowAllUsersModelBackend"
        settings.AUTHENTICATION_BACKENDS = [backend]
        lina.force_login(user_of("lina"), backend=backend)
        assert self.sees(lina, order)
        get_user_model().objects.update(is_active=False)
        assert lina.get(PAGE).status_code == 200
        assert not self.sees(lina, order)

    def test_an_order_outlives_the_account_and_belongs_to_nobody_afterwards(
        self, lina: Client, order: Order
    ) -> None:
        get_user_model().objects.all().delete()
        order.refresh_from_db()
        assert order.user is None
        assert order.cards.count() == 3
        # An account that is created later is a different one, even with the same name.
        assert not self.sees(log_in("lina"), order)

    def test_an_erased_order_is_in_no_account(self, lina: Client, order: Order) -> None:
        record_refund(order, amount=order.open_amount, reference="R1")
        person = Person.of_user(user_of("lina"))
        assert erase(person, find_orders(person)[0]).erased == [order.reference]
        assert not self.sees(lina, order)

    def test_an_order_may_move_to_another_account(self, lina: Client, order: Order) -> None:
        sami = log_in("sami")
        Order.objects.filter(user=user_of("lina")).update(user=user_of("sami"))
        assert (self.sees(lina, order), self.sees(sami, order)) == (False, True)

    def test_a_correction_of_the_address_leaves_the_account(
        self, lina: Client, order: Order
    ) -> None:
        change_customer(order, email="sami@example.com")
        assert self.sees(lina, order)

    def test_cards_that_are_ordered_again_are_in_the_same_account(
        self, lina: Client, order: Order
    ) -> None:
        assert reorder_missing(order, by="amina").user == user_of("lina")

    def test_a_user_of_another_model_with_the_same_key_owns_nothing(self, order: Order) -> None:
        class Stranger:
            pk = order.user_id
            is_authenticated = is_active = True

        assert order.user_id
        assert list(Order.objects.of_user(user_of("lina"))) == [order]
        for nobody in (Stranger(), AnonymousUser(), None, get_user_model()(), user_of("lina").pk):
            assert not Order.objects.of_user(nobody).exists()
