"""The lists of messages and links in the admin, and the pages of single rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import Order
from tests.delivery.staff import EMAIL, LINKS, MESSAGES, delivered, link, message, person, to, visit
from tests.pages import count_queries, element, plain, read, rows, text

pytestmark = pytest.mark.django_db

INDEX = "/admin/giftcards_delivery/"


def listed(browser: Client, address: str, **chosen: str) -> list[list[str]]:
    html = read(browser.get(address, chosen))
    return rows(html, 'id="result_list"')[1:] if 'id="result_list"' in html else []


def addresses(browser: Client, **chosen: str) -> list[str]:
    return [row[4].removesuffix(" en") for row in listed(browser, MESSAGES, **chosen)]


def test_a_row_tells_what_became_of_a_message(amina: Client) -> None:
    order = delivered()
    later = timezone.now() + timedelta(minutes=5)
    message(order, status="retrying", attempts=3, next_attempt_at=later, error="TimeoutError")
    [row] = listed(amina, MESSAGES)
    assert row[1:4] == ["Cards delivered", "Waiting for another attempt", "web-1042"]
    assert row[4] == f"{EMAIL} en"
    assert plain(row[5]).startswith("3 attempts next attempt on ")
    # Technical errors are for developers, so support does not see them.
    assert len(row) == 6
    [row] = listed(person("view_delivery", "resume_provider", name="karim"), MESSAGES)
    assert row[6] == "For your developerTimeoutError"


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, "edcba"),
        ({"status__exact": "failed"}, "ea"),
        ({"kind__exact": "delayed"}, "d"),
        ({"status__exact": "failed", "kind__exact": "delivered"}, "ea"),
        ({"status__exact": "failed", "kind__exact": "delayed"}, ""),
        # The customer of "a" was told by "b"; the customer of "e" was not told.
        ({"customers": "untold"}, "e"),
        ({"q": "web-1"}, "cba"),
        # The search of orders finds addresses, because it posts what is typed.
        ({"q": "e@example.com"}, ""),
        ({"q": "web-1", "status__exact": "failed"}, "a"),
    ],
    ids=str,
)
def test_filters_and_the_search_find_messages(
    amina: Client, chosen: dict[str, str], found: str
) -> None:
    one, other = delivered("web-1"), delivered("web-2")
    for order, letter, values in (
        (one, "a", {"status": "failed"}),
        (one, "b", {"status": "sent"}),
        (one, "c", {"status": "queued"}),
        (other, "d", {"status": "sent", "kind": "delayed"}),
        (other, "e", {"status": "failed"}),
    ):
        message(order, address=f"{letter}@example.com", **values)
    assert "".join(address[0] for address in addresses(amina, **chosen)) == found


def test_the_channels_are_a_filter_where_there_is_more_than_one(
    amina: Client, settings: Any
) -> None:
    order = delivered()
    message(order)
    message(order, channel="sms", address="+213550000000")
    assert "channel__exact" not in read(amina.get(MESSAGES))
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "CHANNELS": ["giftcards.delivery.channels.Mail", "tests.delivery.test_lists.Sms"],
    }
    assert "?channel__exact=sms" in read(amina.get(MESSAGES))
    assert addresses(amina, channel__exact="sms") == ["+213550000000"]


class Sms:
    name = "sms"


def test_the_index_of_the_app_says_how_many_customers_were_not_told(amina: Client) -> None:
    assert "customers=untold" not in read(amina.get(INDEX))
    message(delivered(), status="failed")
    html = read(amina.get(INDEX))
    assert "1 message to a customer was not sent." in plain(html)
    assert f'href="{MESSAGES}?customers=untold"' in html


def test_the_page_of_a_message_tells_all_of_it_and_changes_nothing(amina: Client) -> None:
    sent = message(delivered(), requested_by="karim", reason="New address", unanswered=1)
    html = read(amina.get(to("delivery_change", sent.pk)))
    shown = plain(text(html))
    for part in (
        "karim sent the message again: New address",
        EMAIL,
        "The result of 1 attempt is unknown.",
    ):
        assert part in shown
    assert 'name="_save"' not in html
    address = to("delivery_change", sent.pk)
    assert amina.post(address, {"address": "x@example.com"}).status_code == 403
    assert amina.post(to("delivery_delete", sent.pk)).status_code == 403


class TestLinks:
    def test_a_row_tells_its_order_and_its_state_and_is_found_by_its_order(
        self, amina: Client
    ) -> None:
        link(delivered("web-1"))
        link(delivered("web-2"), wrong_pins=5, reveals=2)
        [row] = listed(amina, LINKS, q="web-2")
        assert row[1:] == [
            "web-2",
            "Message",
            "Locked because a wrong PIN was entered too often. Send a new link.",
            "Cards shown 2",
        ]
        assert listed(amina, LINKS, q="eb-2") == []

    def test_the_page_shows_the_visits_and_nothing_of_the_token(self, amina: Client) -> None:
        one, token = link(delivered())
        visit(one, "opened", agent="<b>Bot</b>")
        visit(one, "revealed", user="lina", address=None)
        html = read(amina.get(to("cardlink_change", one.pk)))
        shown = rows(html, "giftcards-visits")
        assert [row[1:] for row in shown[1:]] == [
            ["Cards shown", "", "Firefox on a phone", "lina"],
            ["Opened", "41.200.1.2", "<b>Bot</b>", ""],
        ]
        assert token not in html
        assert one.token_hash not in html
        # Seeing visits requires a permission of its own.
        browser = person("view_cardlink", name="karim")
        assert "41.200.1.2" not in read(browser.get(to("cardlink_change", one.pk)))

    def test_of_very_many_visits_the_page_shows_the_latest(self, amina: Client) -> None:
        one, _token = link(delivered())
        visits = [LinkVisit(link=one, what="opened", agent=f"bot-{n}") for n in range(201)]
        LinkVisit.objects.bulk_create(visits)
        html = read(amina.get(to("cardlink_change", one.pk)))
        assert len(rows(html, "giftcards-visits")) == 201
        assert "Only the latest entries are shown." in html
        assert "bot-0<" not in html


def test_each_list_takes_its_own_permission() -> None:
    messages, links = person("view_delivery"), person("view_cardlink", name="karim")
    assert [messages.get(address).status_code for address in (MESSAGES, LINKS)] == [200, 403]
    assert [links.get(address).status_code for address in (MESSAGES, LINKS)] == [403, 200]


@pytest.mark.parametrize(("address", "model"), [(MESSAGES, Delivery), (LINKS, CardLink)])
def test_a_list_takes_as_many_queries_with_many_rows_as_with_one(
    amina: Client, address: str, model: Any
) -> None:
    order = delivered()
    make = message if model is Delivery else link
    make(order)
    few = count_queries(amina, address)
    for number in range(10):
        other = Order.objects.get(pk=order.pk)
        other.pk, other.reference, other.provider_order_id = None, f"web-{number}", f"id-{number}"
        other.save(force_insert=True)
        make(other)
    assert count_queries(amina, address) == few
    assert 'id="result_list"' in element(read(amina.get(address)), "result_list", "table")
