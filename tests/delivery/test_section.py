"""The section about messages and links on the page of an order."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from giftcards.delivery.models import CardLink, Installation
from giftcards.delivery.tuning import tuning
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.staff import EMAIL, SUPPORT, delivered, link, message, person, to, visit
from tests.pages import count_queries, element, order_page, plain, read, text

pytestmark = pytest.mark.django_db

START = 'aria-labelledby="giftcards-messages"'


def section(order: Order, *permissions: str) -> str:
    """Return the section as HTML, or "" if there is none."""
    html = read(person(*permissions).get(order_page(order)))
    return element(html, START, "section") if START in html else ""


def said(order: Order, *permissions: str) -> str:
    return plain(text(section(order, *(permissions or SUPPORT))))


def buttons(html: str) -> list[str]:
    return [text(item) for item in re.findall(r"<(?:a|button)[^>]*>.*?</(?:a|button)>", html)]


@pytest.mark.parametrize(
    ("address", "visits", "sent_to", "used"),
    [
        (EMAIL, 3, EMAIL, "Opened 2 times; cards shown 1 time. Last time:"),
        ("", 1, "an erased address", "Opened 1 time; cards not shown yet. Last time:"),
    ],
    ids=["shown", "erased and opened"],
)
def test_a_message_that_was_sent_says_to_whom_and_how_its_link_was_used(
    address: str, visits: int, sent_to: str, used: str
) -> None:
    order = delivered()
    sent_at = timezone.now() - timedelta(minutes=3)
    sent = message(order, status="sent", sent_at=sent_at, address=address)
    one, _token = link(order, delivery=sent)
    visit(one, *("opened", "opened", "revealed")[:visits])
    shown = said(order)
    assert f"Sent to {sent_to} 3 minutes ago." in shown
    assert used in shown


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"status": "queued"}, f"The message is waiting to be sent to {EMAIL}."),
        ({"status": "sending"}, f"The message is being sent to {EMAIL}."),
        (
            {
                "status": "retrying",
                "attempts": 3,
                "created_at": -timedelta(hours=1, minutes=5),
                "next_attempt_at": timedelta(minutes=5),
                "error": "ConnectionRefusedError in smtplib.py:300",
            },
            f"The message could not be sent to {EMAIL} yet. The first attempt was 1 hour ago. The"
            " next",
        ),
        (
            {"status": "failed", "error": "AddressRefused"},
            f"The message was not sent to {EMAIL}, and the app",
        ),
        (
            {"status": "cancelled"},
            f"The message was not sent to {EMAIL} because it is no longer needed.",
        ),
        (
            {"status": "sent", "unanswered": 1},
            "The result of 1 attempt is unknown.",
        ),
        (
            {"requested_by": "karim", "reason": "New address"},
            "karim sent the message again: New addr",
        ),
    ],
    ids=["waits", "under way", "tried again", "failed", "cancelled", "in doubt", "asked for"],
)
def test_each_status_is_told_in_plain_words(values: dict[str, Any], words: str) -> None:
    order, now = delivered(), timezone.now()
    # The times are relative to now, not to the moment when the tests were collected.
    times = {name: now + value for name, value in values.items() if isinstance(value, timedelta)}
    message(order, **values | times)
    shown = said(order)
    assert words in shown
    assert values.get("error", "-") not in shown
    developer = person(*SUPPORT, "resume_provider", name="karim")
    assert values.get("error", "") in text(read(developer.get(order_page(order))))


def test_a_failure_warns_until_a_later_message_makes_up_for_it() -> None:
    order, browser = delivered(), person(*SUPPORT)
    for status, address, warns in (
        ("failed", EMAIL, True),
        ("queued", "other@example.com", False),
    ):
        message(order, status=status, address=address)
        html = element(read(browser.get(order_page(order))), START, "section")
        assert ('class="giftcards-warning"' in html) == warns


def test_the_section_says_why_nobody_was_told() -> None:
    order = delivered(customer_email="")
    assert "was not notified because the order has no address" in said(order)
    order = delivered("web-2")
    Installation.objects.update_or_create(pk=1, defaults={"at": timezone.now()})
    html = read(person(*SUPPORT, name="karim").get(order_page(order)))
    assert "because messages to customers were not set up" in text(html)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "Valid until"),
        ({"revoked_at": timezone.now(), "revoked_by": "karim"}, "by karim."),
        ({"wrong_pins": 5}, "Locked because a wrong PIN was entered too often. Send a new link."),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "Expired on"),
        ({"reveals": tuning.link_reveals}, "No longer valid"),
        (
            {"origin": "account", "expires_at": None},
            "Valid for the customer when they are logged in to the shop.",
        ),
        ({"origin": "staff", "created_by": "karim"}, "Created by karim, to be handed over"),
    ],
    ids=["valid", "withdrawn", "locked", "expired", "used up", "account", "handed over"],
)
def test_each_state_of_a_link_is_told(values: dict[str, Any], words: str) -> None:
    order = delivered()
    link(order, **values)
    assert words in said(order)


class TestWhoMay:
    def test_who_may_only_look_gets_no_button_that_decides(self) -> None:
        order = delivered()
        message(order)
        link(order)
        html = section(order, "view_delivery", "view_cardlink")
        assert "formaction" not in html
        assert [
            name for name in buttons(html) if "cards" not in name and "Message" not in name
        ] == ["Proof of delivery"]

    def test_messages_and_links_are_shown_by_their_own_permissions(self) -> None:
        order = delivered()
        message(order, status="sent")
        link(order, wrong_pins=5)
        assert "Locked" not in section(order, "view_delivery")
        assert START not in read(person(name="samir").get(order_page(order)))
        html = read(person("view_cardlink", name="karim").get(order_page(order)))
        shown = text(element(html, START, "section"))
        assert "Locked" in shown
        assert "Sent to" not in shown

    def test_in_the_mode_with_codes_only_a_message_with_too_many_cards_brings_a_link(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
        order = delivered()
        link(order)
        browser = person(*SUPPORT)
        assert "Send a new link" not in read(browser.get(order_page(order)))
        monkeypatch.setattr("giftcards.delivery.messages.MOST_CODES", 1)
        assert "Send a new link" in read(browser.get(order_page(order)))
        assert "contains the card codes" not in read(browser.get(to("send_again", order.pk)))

    def test_buttons_follow_what_can_be_done(self) -> None:
        order = delivered()
        later = timezone.now() + timedelta(minutes=5)
        waiting = message(order, status="retrying", next_attempt_at=later)
        link(order)
        html = section(order, *SUPPORT)
        found = buttons(html)
        assert found[:2] == ["Try now", "Cancel the message"]
        assert found[-5:] == [
            "Send a message again",
            "Send a new link",
            "Create a link to hand over",
            "Withdraw all links",
            "Proof of delivery",
        ]
        for name in ("send_again", "new_link", "withdraw", "dispute"):
            assert f'"{to(name, order.pk)}"' in html
        assert f'href="{to("cancel", waiting.pk)}"' in html


def test_an_open_order_about_which_there_is_nothing_to_say_has_no_section() -> None:
    assert section(make_guide_order(Status.HANDLING, customer_email=EMAIL), *SUPPORT) == ""


def test_switched_off_the_section_shows_what_there_was_and_otherwise_nothing(settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {"MODE": "off", "SHOP_URL": "https://shop.example"}
    order = delivered()
    browser = person(*SUPPORT)
    assert START not in read(browser.get(order_page(order)))
    message(order, status="sent")
    html = read(browser.get(order_page(order)))
    assert "Send a message again" not in html
    assert START in html


def test_the_page_takes_as_many_queries_with_many_messages_as_with_one() -> None:
    order, browser = delivered(), person(*SUPPORT)
    sent = message(order, status="sent")
    one, _token = link(order, delivery=sent)
    visit(one, "opened")
    few = count_queries(browser, order_page(order))
    for number in range(25):
        sent = message(order, status="sent", address=f"{number}@example.com")
        one, _token = link(order, delivery=sent)
        visit(one, "opened", "revealed")
    assert count_queries(browser, order_page(order)) == few
    html = read(browser.get(order_page(order)))
    assert "All messages about the order" in html
    assert "All links of the order" in html


def test_foreign_text_is_shown_as_text() -> None:
    hostile = "<script>alert(1)</script>\"'>"
    order = delivered()
    message(
        order, status="failed", address=hostile, error=hostile, requested_by=hostile, reason=hostile
    )
    link(order, created_by=hostile, origin=CardLink.Origin.STAFF)
    html = section(order, *SUPPORT, "resume_provider")
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 5


def test_a_site_of_the_admin_without_our_lists_has_the_buttons(settings: Any) -> None:
    order = delivered()
    sent = message(order)
    link(order)
    settings.ROOT_URLCONF = "tests.delivery.other_admin"
    html = read(person(*SUPPORT).get(f"/other/giftcards/order/{order.pk}/change/"))
    shown = element(html, START, "section")
    assert f'href="/other/giftcards/order/messages/{sent.pk}/cancel/"' in shown
    assert "/admin/" not in shown
    assert "The message is waiting to be sent" in shown
