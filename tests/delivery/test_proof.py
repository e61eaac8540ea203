"""The proof of delivery: everything known about an order except the codes, in a few queries."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone

from giftcards.delivery.models import CardLink
from giftcards.models import CardReveal, Note, Order
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.staff import (
    CODES,
    EMAIL,
    SERIALS,
    SUPPORT,
    delivered,
    link,
    message,
    person,
    to,
    visit,
)
from tests.pages import count_queries, element, plain, read, text

pytestmark = pytest.mark.django_db

# The permissions of a manager.
ALL = (*SUPPORT, "view_cardreveal", "find_card", "reveal_card")


def reveal(order: Order, **values: Any) -> None:
    user, _is_new = get_user_model().objects.get_or_create(username="karim")
    values = {"reason": "Lost the mail", "address": "10.0.0.9", **values}
    CardReveal.objects.create(card=order.cards.get(position=1), user=user, **values)


def proof(order: Order, *permissions: str) -> str:
    return read(person(*(permissions or ALL)).get(to("dispute", order.pk)))


def section(html: str, name: str) -> str:
    return plain(text(element(html, f'aria-labelledby="giftcards-{name}"', "section")))


def whole() -> Order:
    """Return an order with data of every kind."""
    order = delivered(
        sale_amount=1_300,
        product_name="Big <b>Game</b>",
        customer_name="Lina",
        provider_reference="sent-as-1042",
    )
    sent = message(order, status="sent", sent_at=timezone.now(), attempts=2)
    message(order, requested_by="karim", reason="New address", address="lina@other.example")
    one, _token = link(order, delivery=sent)
    visit(one, "opened", "revealed", user="lina")
    link(order, origin=CardLink.Origin.STAFF, created_by="karim", reason="On the phone")
    reveal(order)
    Note.objects.create(order=order, text="Called twice.", by="karim")
    return order


def test_everything_that_is_known_stands_on_one_page() -> None:
    order = whole()
    html = proof(order)
    shown = plain(text(html))
    for fact in ("web-1042", "Big <b>Game</b>", "2 of 2", "1,300 DA", "Lina", EMAIL):
        assert fact in shown, fact
    assert f"Provider's order ID {order.provider_order_id}" in shown
    assert "Reference at the provider sent-as-1042" in shown
    sent = section(html, "messages")
    assert "karim sent the message again: New address" in sent
    assert "lina@other.example" in sent
    links = section(html, "links")
    assert "Created by karim, to be handed over" in links
    assert "On the phone" in links
    visits = section(html, "visits")
    for fact in ("Opened", "Cards shown", "41.200.1.2", "Firefox on a phone", "lina"):
        assert fact in visits, fact
    for fact in ("karim", "10.0.0.9", "Lost the mail"):
        assert fact in section(html, "reveals"), fact
    for fact in ("The provider delivered all 2 cards.", "Called twice.", "revealed the code of"):
        assert fact in section(html, "timeline"), fact


def test_no_code_stands_on_the_page_and_the_ends_only_for_who_may_see_them() -> None:
    order = whole()
    html = proof(order)
    assert not [secret for secret in (*CODES, *SERIALS) if secret in html]
    assert "gAAAA" not in html
    assert "•••" in html
    assert "711" in section(html, "cards")
    assert "The codes end in 711, 822." in section(html, "quotes")
    assert "Lost the mail" in html
    other = read(person(*SUPPORT, name="samir").get(to("dispute", order.pk)))
    assert "Lost the mail" not in other
    assert "711" not in section(other, "cards")
    assert "The codes end" not in other
    # After a complaint, the text for the provider names only the cards concerned.
    assert order.dispute(by="amina", cards=[2])
    html = read(person(*ALL, name="lamia").get(to("dispute", order.pk)))
    assert "The codes end in 822." in section(html, "quotes")


def test_times_are_told_with_their_zone() -> None:
    order = delivered()
    Order.objects.filter(pk=order.pk).update(
        sent_at=datetime(2026, 3, 1, 10, 0, 5, tzinfo=UTC),
        finalized_at=datetime(2026, 3, 1, 10, 1, 7, tzinfo=UTC),
    )
    html = proof(order)
    quote = element(html, 'lang="en"', "p")
    assert "We placed the order on 1 March 2026 11:00:05 (CET)." in text(quote)
    assert "You delivered the order on 1 March 2026 11:01:07 (CET)." in text(quote)
    assert 'dir="rtl"' in element(html, 'lang="ar"', "p")
    assert "1er mars 2026 à 11:00:05 (CET)" in text(element(html, 'lang="fr"', "p"))


def test_the_provider_is_told_when_the_customer_first_saw_the_codes() -> None:
    html = proof(make_guide_order(Status.REJECTED))
    assert "No message was sent." in html
    assert "giftcards-quotes" not in html
    order, lamia = delivered(), person(*ALL, name="lamia")
    assert "first saw" not in read(lamia.get(to("dispute", order.pk)))
    one, _token = link(order)
    first = datetime(2026, 3, 2, 8, 30, 1, tzinfo=UTC)
    visit(one, "opened", at=datetime(2026, 3, 2, 8, 30, 0, tzinfo=UTC))
    visit(one, "revealed", at=first)
    visit(one, "revealed")
    html = read(person(*ALL, name="samir").get(to("dispute", order.pk)))
    assert "The customer first saw the codes on 2 March 2026 09:30:01 (CET)." in text(html)


@pytest.mark.parametrize(
    ("permissions", "sections"),
    [
        (("view_delivery",), ["messages"]),
        (("view_delivery", "view_cardlink"), ["messages", "links"]),
        (("view_delivery", "view_cardlink", "view_linkvisit"), ["messages", "links", "visits"]),
        (("view_delivery", "view_cardreveal"), ["messages", "reveals"]),
    ],
)
def test_each_part_takes_its_own_permission(
    permissions: tuple[str, ...], sections: list[str]
) -> None:
    order = whole()
    html = proof(order, *permissions)
    without = person("view_cardlink", "view_linkvisit", "resend_delivery", name="samir")
    assert without.get(to("dispute", order.pk)).status_code == 403
    parts = ("messages", "links", "visits", "reveals")
    assert [part for part in parts if f'aria-labelledby="giftcards-{part}"' in html] == sections


def test_it_takes_as_many_queries_with_many_rows_as_with_one() -> None:
    order = whole()
    browser = person(*ALL)
    few = count_queries(browser, to("dispute", order.pk))
    for number in range(10):
        sent = message(order, status="sent", address=f"{number}@example.com")
        one, _token = link(order, delivery=sent)
        visit(one, "opened", "revealed")
        reveal(order)
    assert count_queries(browser, to("dispute", order.pk)) == few


def test_foreign_text_is_shown_as_text() -> None:
    hostile = "<script>alert(1)</script>"
    order = delivered(product_name=hostile, customer_name=hostile, customer_phone=hostile)
    sent = message(order, address=hostile, requested_by=hostile, reason=hostile, error=hostile)
    one, _token = link(order, delivery=sent, created_by=hostile, reason=hostile)
    visit(one, "opened", agent=hostile, user=hostile)
    reveal(order, reason=hostile)
    assert "<script>alert" not in proof(order)
