"""Correcting a customer's address in the admin: permissions, identity check and records."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import django
import pytest
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.test import Client
from django.utils import timezone, translation

from giftcards.fulfilment import change_customer
from giftcards.models import CardReveal, CustomerChange, Order
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order, receive
from tests.pages import messages, order_page, person, plain, read, reveal, timeline

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

WRONG, RIGHT = "lina@exmaple.com", "lina@example.com"
REASON = "She called"


@pytest.fixture
def amina() -> Client:
    return person("view_order", "correct_customer", "reveal_card")


@pytest.fixture
def order() -> Order:
    """An order whose cards have been delivered."""
    order = receive("web-1042", *CARDS[:2])
    Order.objects.filter(pk=order.pk).update(customer_email=WRONG, customer_name="Lina")
    return Order.objects.get()


def page_of(order: Order) -> str:
    return order_page(order, "customer")


def filled_in(browser: Client, order: Order, **values: str) -> dict[str, str]:
    page = read(browser.get(page_of(order)))
    [seen] = re.findall(r'name="state_token" value="(\w+)"', page)
    details = {"customer_email": RIGHT, "customer_name": "Lina", "reason": REASON}
    return {"state_token": seen, "customer_phone": "", "customer_language": "", **details, **values}


def correct(browser: Client, order: Order, **values: str) -> Any:
    return browser.post(page_of(order), filled_in(browser, order, **values), follow=True)


def addresses() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("customer_email", flat=True))


@pytest.mark.parametrize("status", [Status.PENDING, Status.DELAYED, Status.REFUNDED])
def test_an_order_is_corrected_in_any_status(status: Status) -> None:
    amina = person("view_order", "correct_customer")
    order = make_guide_order(status, customer_email=WRONG)
    assert f'href="{page_of(order)}"' in read(amina.get(order_page(order)))
    form = read(amina.get(page_of(order)))
    assert f'value="{WRONG}"' in form
    assert "Use this address from now on" in form
    html = read(correct(amina, order))
    assert messages(html) == ["The new details were saved."]
    assert addresses() == [RIGHT]


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "user0 corrected the customer's details."),
        ("fr", "user0 a corrigé les coordonnées du client."),
        ("ar", "صحّح user0 بيانات الزبون."),
    ],
)
def test_it_is_on_record_and_the_timeline_tells_it_in_each_language(
    amina: Client, order: Order, language: str, said: str
) -> None:
    read(correct(amina, order, customer_phone="0550 12 34 56"))
    change = CustomerChange.objects.get()
    assert (change.by, change.reason, change.customer_email) == ("user0", REASON, WRONG)
    # The log contains neither the address nor the reason, because more people can read it.
    assert LogEntry.objects.get().get_change_message() == "Corrected the customer."
    order.refresh_from_db()
    change_customer(order, email="l@example.com", language="fr")
    answer = amina.get(order_page(order), headers={"accept-language": language})
    with translation.override("en"):
        first, second = [
            plain(entry) for entry in timeline(read(answer)) if RIGHT in entry or WRONG in entry
        ]
    assert said in first
    assert WRONG in first
    assert REASON in first
    assert RIGHT in second
    assert WRONG not in second


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"customer_email": "lina"}, "Enter a valid email address."),
        ({"customer_email": "a@ex\u202eample.com"}, "Enter one line of text"),
        ({"customer_name": "a\u202eb"}, "Enter one line of text"),
        ({"customer_language": "f r"}, "f r is not one of the available choices."),
        ({"reason": ""}, "This field is required."),
    ],
)
def test_an_unusable_form_changes_nothing(
    amina: Client, order: Order, values: dict[str, str], complaint: str
) -> None:
    html = read(correct(amina, order, **values))
    assert complaint in unescape(html)
    assert addresses() == [WRONG]
    assert not LogEntry.objects.exists()


@pytest.mark.parametrize("seen", [{}, {"state_token": ""}, {"state_token": "☃"}])
def test_a_form_about_another_customer_decides_nothing(
    amina: Client, order: Order, seen: dict[str, str]
) -> None:
    form = filled_in(amina, order, **seen)
    change_customer(order, email="karim@example.com")
    html = read(amina.post(page_of(order), form, follow=True))
    assert "The order has changed since you opened this page" in messages(html)[0]
    assert addresses() == ["karim@example.com"]


class TestLimit:
    @pytest.fixture(autouse=True)
    def _limit(self, set_conf: Any) -> None:
        set_conf(REVEALS_PER_HOUR=2)

    def test_corrections_and_codes_count_together(
        self, amina: Client, order: Order, settings: Any, django_capture_on_commit_callbacks: Any
    ) -> None:
        samir = "samir@example.com"
        pair: Any = samir if django.VERSION >= (6,) else ("Samir", samir)
        settings.MANAGERS = settings.ADMINS = [pair]
        read(reveal(amina, order.cards.get(position=1)))
        read(correct(amina, order))
        with django_capture_on_commit_callbacks(execute=True):
            html = read(correct(amina, Order.objects.get(), customer_email="x@y.example"))
        assert "revealed codes or corrected addresses 2 times" in plain(messages(html)[0])
        read(reveal(amina, order.cards.get(position=2)), 429)
        assert addresses() == [RIGHT]
        assert (CustomerChange.objects.count(), CardReveal.objects.count()) == (1, 1)
        # The refusal is logged once an hour.
        assert LogEntry.objects.filter(object_repr=REFUSED_REVEAL).count() == 1
        assert len(mail.outbox) == 1

    def test_another_person_and_another_hour_count_anew(self, amina: Client, order: Order) -> None:
        for number in range(2):
            read(correct(amina, Order.objects.get(), customer_email=f"{number}@example.com"))
        other = person("view_order", "correct_customer")
        read(correct(other, Order.objects.get(), customer_email="2@example.com"))
        assert addresses() == ["2@example.com"]
        CustomerChange.objects.update(at=timezone.now() - timedelta(hours=1))
        read(correct(amina, Order.objects.get(), customer_email="3@example.com"))
        assert addresses() == ["3@example.com"]


def test_the_other_orders_with_the_wrong_address_are_named(amina: Client) -> None:
    """A cart has one address and several orders."""
    first, second, other, apart = (
        make_guide_order(customer_email=email, group=group, reference=reference)
        for email, group, reference in (
            (WRONG, "cart 7", "web-1"),
            (WRONG, "cart 7", "web-2"),
            (RIGHT, "cart 7", "web-3"),
            (WRONG, "cart 8", "web-4"),
        )
    )
    again = make_guide_order(customer_email=WRONG, repeats=first, reference="web-5")
    html = read(amina.get(page_of(first)))
    named = {each for each in (second, other, apart, again) if page_of(each) in html}
    assert named == {second, again}
