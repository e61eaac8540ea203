"""Query plans of the customer's pages in a shop with many orders: no whole table is read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from giftcards.delivery.links import issue
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import Card, CardReveal, CustomerRefund, Note, Order
from giftcards.privacy.erasure import erase, find_orders
from giftcards.privacy.export import describe
from giftcards.privacy.person import Person
from tests.delivery.gifts import make_gift
from tests.delivery.pages import CODES, address_of_new_link, codes_in, fetch, make_settled, press
from tests.delivery.pages import page_token as token_of
from tests.history import (
    OF_MESSAGES,
    ORDERS,
    STATISTICS,
    add_history,
    analyze,
    forget_statistics,
    remove_history,
)
from tests.plans import explained

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def _history(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        add_history(ORDERS)
        _add_links()
        yield
        for model in (LinkVisit, CardLink, Delivery, CustomerRefund, Note, CardReveal):
            model.objects.all().delete()
        get_user_model().objects.all().delete()
        remove_history()


@pytest.fixture(scope="module", params=STATISTICS, ids="{} statistics".format, autouse=True)
def _statistics(request: pytest.FixtureRequest, _history: None, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        analyze(*OF_MESSAGES) if request.param == "fresh" else forget_statistics()


def _add_links() -> None:
    """Add a link that was opened and revealed to each order, with messages, notes and refunds."""
    now = timezone.now()
    boss = get_user_model().objects.create_user("boss")
    orders = Order.objects.values_list("pk", "customer_email")
    Delivery.objects.bulk_create(
        Delivery(order_id=key, kind=kind, status="sent", contact=contact, key=f"{kind} {key}")
        for key, contact in orders
        for kind in ("delivered", "gift")
    )
    Note.objects.bulk_create(Note(order_id=key, text="Called.", by="boss") for key, _ in orders)
    CardReveal.objects.bulk_create(
        CardReveal(card_id=key, user=boss) for key in Card.objects.values_list("pk", flat=True)
    )
    CardLink.objects.bulk_create(
        CardLink(order_id=key, origin="message", token_hash=f"{key:064}", expires_at=now, reveals=1)
        for key in Order.objects.values_list("pk", flat=True)
    )
    LinkVisit.objects.bulk_create(
        LinkVisit(link_id=key, what=what, at=now, key=f"{what} {key}")
        for key in CardLink.objects.values_list("pk", flat=True)
        for what in ("opened", "revealed")
    )
    CustomerRefund.objects.bulk_create(
        CustomerRefund(order_id=key, amount=1, reference=f"R{key}", state="done", executed_at=now)
        for key in Order.objects.values_list("pk", flat=True)
    )


def test_a_link_is_opened_and_revealed_without_reading_others() -> None:
    address = address_of_new_link(make_settled())
    token = token_of(fetch(address))
    with explained() as statements:
        fetch(address, HTTP_USER_AGENT="another")
        for _ in range(2):
            assert codes_in(press(address, token=token)) == CODES[:3]
        assert fetch("/cards/wrong/").status_code == 404
    assert len(statements) > 15
    assert [statement for statement in statements if statement.scans] == []


def test_the_cards_of_an_account_are_shown_without_reading_others() -> None:
    day = timezone.now() - timedelta(days=1)
    user = get_user_model().objects.create_user("lina")
    bought = make_settled(created_at=day, user=user)
    make_gift(reference="web-7", created_at=day, user=user)
    lina = Client()
    lina.force_login(user)
    with explained() as statements:
        assert "web-7" in lina.get("/cards/").content.decode()
        assert codes_in(lina.post("/cards/", {"order": str(bought.pk)})) == CODES[:3]
        Order.objects.filter(user=user).update(user=None)
    assert len(statements) > 12
    assert [statement for statement in statements if statement.scans] == []


def test_a_person_is_found_described_and_erased_without_reading_others() -> None:
    user = get_user_model().objects.create_user("lina")
    contacts = {"customer_email": "Lina@example.com", "customer_phone": "0550 12 34 56"}
    order = make_settled(created_at=timezone.now() - timedelta(days=1), user=user, **contacts)
    Delivery.objects.create(order=order, kind="delivered", address="LINA@example.com", key="lina")
    issue(order, origin=CardLink.Origin.MESSAGE)
    people = [Person.of("lina@example.com"), Person.of("+213550123456"), Person.of_user(user)]
    with explained() as statements:
        for person in people:
            assert find_orders(person) == ([order], [])
            assert len(describe(person, [order])) == 2
        assert erase(people[0], [order]).erased == [order.reference]
    assert len(statements) > 40
    assert [statement for statement in statements if statement.scans] == []
