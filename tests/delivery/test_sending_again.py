"""Sending a message again, cancelling a waiting message, and retrying a message at once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.delivery.models import CardLink, Delivery
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.staff import (
    CODES,
    EMAIL,
    SUPPORT,
    delivered,
    filled_in,
    link,
    message,
    person,
    send_again,
    to,
)
from tests.pages import errors, messages, order_page, plain, read
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

OTHER = "lina@other.example"


def logged() -> list[str]:
    return [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]


def test_the_form_offers_what_fits_and_the_customers_own_address_and_language(
    amina: Client,
) -> None:
    html = read(amina.get(to("send_again", delivered().pk)))
    assert '<option value="delivered">Cards delivered</option>' in html
    assert html.count('<option value="delivered"') == html.count('<option value="partly') + 1
    assert f'value="{EMAIL}"' in html
    assert '<option value="ar" selected>' in html
    assert '<input type="radio" name="links" value="elsewhere"' in html
    assert not Delivery.objects.exists()


def test_the_button_for_a_new_link_chooses_that_the_earlier_ones_end(amina: Client) -> None:
    order = delivered()
    link(order, wrong_pins=5)
    [address] = re.findall(r'href="([^"]+/send-link/)"', read(amina.get(order_page(order))))
    chosen = re.findall(r'name="links" value="(\w+)"[^>]* checked', read(amina.get(address)))
    assert chosen == ["all"]


def test_a_message_is_queued_with_who_asked_and_why(
    amina: Client, django_capture_on_commit_callbacks: Any
) -> None:
    order = delivered()
    with django_capture_on_commit_callbacks(execute=True):
        html = read(send_again(amina, order))
    assert plain(messages(html)[0]) == f"The message to {EMAIL} will be sent in a moment."
    sent = Delivery.objects.get()
    expected = (order, "delivered", "mail", EMAIL)
    assert (sent.order, sent.kind, sent.channel, sent.address) == expected
    expected = ("queued", "ar", "amina", "Lost the mail")
    assert (sent.status, sent.language, sent.requested_by, sent.reason) == expected
    assert sent.change is None
    assert OrmQ.objects.count() == 1
    assert logged() == ["Requested a message again: delivered."]


@pytest.mark.parametrize(
    ("address", "links", "is_withdrawn"),
    [
        (EMAIL, "elsewhere", False),
        ("", "elsewhere", False),
        (OTHER, "elsewhere", True),
        (OTHER, "none", False),
        (EMAIL, "all", True),
    ],
)
def test_earlier_links_and_messages_end_as_was_chosen(
    amina: Client, address: str, links: str, is_withdrawn: bool
) -> None:
    order = delivered()
    earlier, _token = link(order)
    waiting = message(order, status="retrying")
    told_to_wait = message(order, kind="delayed")
    read(send_again(amina, order, address=address, links=links))
    new = Delivery.objects.latest("pk")
    assert new.address == (address or EMAIL)
    earlier.refresh_from_db()
    assert bool(earlier.revoked_at) == is_withdrawn
    assert earlier.revoked_by == ("amina" if is_withdrawn else "")
    statuses = dict(Delivery.objects.values_list("pk", "status"))
    assert statuses == {
        waiting.pk: "cancelled" if is_withdrawn else "retrying",
        told_to_wait.pk: "queued",
        new.pk: "queued",
    }
    # The log names neither the address nor the reason.
    ended = " Withdrew the earlier links to the cards." if is_withdrawn else ""
    assert logged() == [f"Requested a message again: delivered.{ended}"]


def test_the_second_press_of_the_button_sends_nothing_and_withdraws_nothing(amina: Client) -> None:
    order = delivered()
    form = filled_in(amina, order, links="all")
    amina.post(to("send_again", order.pk), form)
    made, _token = link(order)
    html = read(amina.post(to("send_again", order.pk), form, follow=True))
    assert messages(html)[-1] == "This message was already requested. It will not be sent twice."
    assert [each.status for each in Delivery.objects.all()] == ["queued"]
    assert CardLink.objects.get(pk=made.pk).revoked_at is None
    assert len(logged()) == 1
    # If staff open the form again, it sends another message.
    send_again(amina, order)
    assert Delivery.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_clicks_at_the_same_moment_send_one_message() -> None:
    amina, order = person(*SUPPORT), delivered()
    form = filled_in(amina, order, links="all")

    def click() -> int:
        browser = Client()
        browser.cookies = amina.cookies.copy()
        return browser.post(to("send_again", order.pk), form).status_code

    assert in_threads(3, click) == [302] * 3
    assert [each.status for each in Delivery.objects.all()] == ["queued"]
    assert len(logged()) == 1


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"reason": ""}, "This field is required."),
        (
            {"reason": "a\nb"},
            "Enter one line of text, without control characters or characters that change the"
            " text direction.",
        ),
        ({"address": "lina"}, "Enter a valid email address."),
        ({"address": "a@b.example, c@d.example"}, "Enter a valid email address."),
        ({"address": "lina@example.com\nBcc: x@y.example"}, "Enter one line of text"),
        ({"address": "x" * 255}, "Ensure this value has at most 254 characters"),
        ({"kind": "not_delivered"}, "Select a valid choice."),
        ({"language": "tlh"}, "Select a valid choice."),
        ({"links": "some"}, "Select a valid choice."),
        ({"address": '"><script>x</script>'}, "Enter a valid email address."),
        # The page does not explain what is wrong with the one-time value.
        *(({"once": once}, "") for once in ("", "7", "'; DROP TABLE")),
    ],
    ids=str,
)
def test_an_unusable_form_is_shown_again_and_sends_nothing(
    amina: Client, values: dict[str, str], complaint: str
) -> None:
    html = read(send_again(amina, delivered(), **values))
    assert not complaint or any(complaint in error for error in errors(html)), errors(html)
    assert "<script>x" not in html
    assert not Delivery.objects.exists()
    assert not logged()


def test_an_order_without_an_address_needs_one(amina: Client) -> None:
    order = delivered(customer_email="")
    html = read(send_again(amina, order, address=""))
    assert errors(html) == ["The order has no address for this message. Enter an address."]
    read(send_again(amina, order, address=OTHER))
    assert Delivery.objects.get().address == OTHER


def test_in_the_mode_with_codes_the_page_warns_of_them(amina: Client, settings: Any) -> None:
    order, warning = delivered(), "The message contains the card codes"
    assert warning not in read(amina.get(to("send_again", order.pk)))
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
    html = read(amina.get(to("send_again", order.pk)))
    assert warning in html
    assert not [code for code in CODES if code in html]


class TestWhatFits:
    @pytest.mark.parametrize(
        ("status", "kinds"),
        [
            (Status.DELAYED, ["delayed"]),
            (Status.REFUNDED, ["not_delivered"]),
            (Status.HANDLING, []),
        ],
    )
    def test_the_message_is_that_of_the_status(
        self, amina: Client, status: Status, kinds: list[str]
    ) -> None:
        order = make_guide_order(status, customer_email=EMAIL)
        answer = amina.get(to("send_again", order.pk))
        if kinds:
            html = read(answer)
            assert f'<option value="{kinds[0]}">' in html
            # This message hands over no cards, so the form has no choice for links.
            assert 'name="links"' not in html
        else:
            assert answer.status_code == 302

    def test_a_refund_that_was_paid_can_be_told_of_again(self, amina: Client) -> None:
        order = make_guide_order(Status.REFUNDED, sale_price=600, customer_email=EMAIL)
        refund = record_refund(order, amount=500, reference="R1")
        read(send_again(amina, order, kind="paid_back"))
        assert Delivery.objects.latest("pk").refund == refund

    def test_a_kind_that_is_off_or_cards_that_are_not_there_are_not_offered(
        self, amina: Client, settings: Any
    ) -> None:
        order = delivered()
        order.cards.all().delete()
        assert amina.get(to("send_again", order.pk)).status_code == 302
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": {"delivered": "off"}}
        assert amina.get(to("send_again", delivered("web-2").pk)).status_code == 302


class TestWhoMay:
    @pytest.mark.parametrize("page", ["send_again", "new_link", "withdraw"])
    def test_it_takes_the_permission_and_a_form_that_is_not_forged(self, page: str) -> None:
        order = delivered()
        browser = person("view_delivery", "view_cardlink", "reveal_card")
        assert browser.post(to(page, order.pk)).status_code in {403, 405}
        assert browser.get(to(page, order.pk)).status_code in {403, 405}
        assert browser.post(to(page, order.pk), {"reason": "x"}).status_code == 403
        strict = person(*SUPPORT, name="karim", enforce_csrf_checks=True)
        assert strict.post(to(page, order.pk)).status_code == 403

    @pytest.mark.parametrize("page", ["send_again", "new_link", "withdraw", "dispute"])
    def test_an_order_that_does_not_exist_looks_like_one_that_may_not_be_seen(
        self, amina: Client, page: str
    ) -> None:
        assert amina.post(to(page, 4711)).status_code == 403


class TestWaiting:
    def test_a_waiting_message_is_cancelled_once(self, amina: Client) -> None:
        order = delivered()
        waiting = message(order, status="retrying")
        told = [
            messages(read(amina.post(to("cancel", waiting.pk), follow=True)))[0] for _ in range(2)
        ]
        assert told == [
            "The message will not be sent.",
            "The message is no longer waiting to be sent. Check its status.",
        ]
        waiting.refresh_from_db()
        assert (waiting.status, waiting.next_attempt_at) == ("cancelled", None)
        assert logged() == ["Cancelled a message: delivered."]

    @pytest.mark.parametrize("status", ["sending", "sent", "failed"])
    def test_one_that_does_not_wait_stays_as_it_is(self, amina: Client, status: str) -> None:
        other = message(delivered(), status=status)
        for page in ("cancel", "try_now"):
            amina.post(to(page, other.pk))
        other.refresh_from_db()
        assert other.status == status
        assert not logged()

    def test_one_that_waits_for_another_try_is_tried_at_once(
        self, amina: Client, django_capture_on_commit_callbacks: Any
    ) -> None:
        later = timezone.now() + timedelta(hours=1)
        waiting = message(delivered(), status="retrying", next_attempt_at=later, attempts=7)
        with django_capture_on_commit_callbacks(execute=True):
            answer = amina.post(to("try_now", waiting.pk), follow=True)
        assert messages(read(answer)) == ["The app will try again in a moment."]
        waiting.refresh_from_db()
        assert waiting.next_attempt_at is not None
        assert waiting.next_attempt_at <= timezone.now()
        assert (waiting.status, waiting.attempts) == ("retrying", 7)
        assert OrmQ.objects.count() == 1
        amina.post(to("try_now", waiting.pk))
        assert logged() == ["Requested another attempt at a message: delivered."]

    @pytest.mark.parametrize(("page", "status"), [("cancel", 200), ("try_now", 405)])
    def test_only_a_post_decides(self, amina: Client, page: str, status: int) -> None:
        waiting = message(delivered())
        for verb in (amina.get, amina.head, amina.put):
            assert verb(to(page, waiting.pk)).status_code == status
        waiting.refresh_from_db()
        assert waiting.status == "queued"


def test_the_pages_of_a_message_offer_the_same(amina: Client) -> None:
    order = delivered()
    waiting = message(order, status="retrying")
    html = read(amina.get(to("delivery_change", waiting.pk)))
    assert f'formaction="{to("try_now", waiting.pk)}"' in html
    assert f'href="{to("cancel", waiting.pk)}"' in html
    assert f'href="{to("send_again", order.pk)}"' in html
    assert order_page(order) in html
