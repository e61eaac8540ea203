"""Links that staff hand over themselves, and the withdrawal of all links of an order."""

from __future__ import annotations

import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone

from giftcards.delivery.links import find
from giftcards.delivery.models import CardLink, Delivery
from giftcards.fulfilment import change_customer
from giftcards.models import Order
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery import staff
from tests.delivery.staff import (
    CODES,
    EMAIL,
    SERIALS,
    SUPPORT,
    ask_for_link,
    delivered,
    link,
    link_on,
    make_link,
    message,
    person,
    to,
)
from tests.fakes.storage import WITHOUT_SCRIPT
from tests.leaks import Mailbox, raw_database
from tests.pages import errors, messages, order_page, plain, read
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
TOO_MANY = "you have created links or sent messages to other addresses 2 times."
pytestmark = pytest.mark.django_db

REASON = "On the phone"


@pytest.fixture
def order() -> Order:
    return delivered()


def token_of(address: str) -> str:
    return address.rstrip("/").rpartition("/")[2]


def test_a_new_link_is_shown_once_and_leads_to_the_order(amina: Client, order: Order) -> None:
    answer = make_link(amina, order)
    address = link_on(answer)
    assert address.startswith("https://shop.example/cards/")
    found = find(token_of(address))
    assert found
    expected = (order, "staff", "amina", REASON)
    assert (found.order, found.origin, found.created_by, found.reason) == expected
    assert "no-store" in answer["Cache-Control"]
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["Refresh"] == f"60; url={order_page(order)}"


def test_the_token_is_nowhere_else(amina: Client, order: Order, caplog: Any) -> None:
    address = link_on(make_link(amina, order))
    token = token_of(address)
    assert token not in raw_database()
    assert token not in caplog.text
    assert token not in read(amina.get(order_page(order)))
    for page in ("giftcards_delivery/cardlink/", f"giftcards/order/{order.pk}/history/"):
        assert token not in read(amina.get(f"/admin/{page}"))
    assert [entry.get_change_message() for entry in LogEntry.objects.all()] == [
        "Withdrew the earlier links. Created a link to the cards."
    ]


def test_earlier_links_and_messages_with_one_end_at_once_unless_they_may_go_on(
    amina: Client, order: Order
) -> None:
    first, token = link(order)
    waiting = message(order, status="retrying")
    link_on(make_link(amina, order, withdraws=""))
    assert find(token)
    assert Delivery.objects.get(pk=waiting.pk).status == "retrying"
    link_on(make_link(amina, order))
    assert find(token) is None
    assert CardLink.objects.get(pk=first.pk).revoked_by == "amina"
    assert CardLink.objects.filter(revoked_at=None).count() == 1
    assert Delivery.objects.get(pk=waiting.pk).status == "cancelled"


def test_a_locked_link_is_replaced_and_the_second_press_shows_a_link_that_works_as_well(
    amina: Client, order: Order
) -> None:
    link(order, wrong_pins=5)
    form = ask_for_link(amina, order)
    # Opening the form does not create a link.
    assert CardLink.objects.count() == 1
    html = read(amina.get(to("new_link", order.pk)))
    assert not [secret for secret in (*CODES, *SERIALS) if secret in html]
    for _press in range(2):
        made = find(token_of(link_on(amina.post(to("new_link", order.pk), form))))
        assert made
        assert not made.is_locked


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "a\nb", "\u202eabc"])
def test_without_a_usable_reason_no_link_is_made(amina: Client, order: Order, reason: str) -> None:
    _known, token = link(order)
    assert errors(read(make_link(amina, order, reason=reason)))
    assert CardLink.objects.count() == 1
    assert find(token)


@pytest.mark.parametrize("missing", ["cards", "address"])
def test_no_link_is_offered_where_it_would_lead_nowhere(
    amina: Client, order: Order, missing: str, settings: Any
) -> None:
    if missing == "cards":
        order.cards.all().delete()
    else:
        shop = settings.GIFTCARDS_DELIVERY
        settings.GIFTCARDS_DELIVERY = {name: shop[name] for name in shop if name != "SHOP_URL"}
    answer = amina.post(to("new_link", order.pk), {"reason": REASON}, follow=True)
    assert messages(read(answer)) == ["No link can be created because the order has no cards."]
    assert not CardLink.objects.exists()
    assert "Create a link to hand over" not in read(amina.get(order_page(order)))


def send_again(browser: Client, order: Order, address: str = "x@y.example", **more: str) -> Any:
    typed = {"address": address, "language": "en", "reason": REASON, "links": "none"}
    return staff.send_again(browser, order, **typed, **more)


class TestTooMany:
    """In an hour, a person may hand out as many links and messages as they may reveal codes."""

    @pytest.fixture(autouse=True)
    def _limit(self, set_conf: Any) -> None:
        set_conf(REVEALS_PER_HOUR=2)

    def test_one_link_too_many_is_neither_made_nor_are_the_others_withdrawn(
        self, amina: Client, order: Order
    ) -> None:
        made = [token_of(link_on(make_link(amina, order, withdraws=""))) for _ in range(2)]
        answer = amina.post(to("new_link", order.pk), ask_for_link(amina, order), follow=True)
        assert TOO_MANY in plain(messages(read(answer))[0])
        assert all(map(find, made))
        assert CardLink.objects.count() == 2

    def test_messages_to_other_addresses_count_with_them(
        self, amina: Client, order: Order, caplog: Any
    ) -> None:
        link_on(make_link(amina, order, withdraws=""))
        send_again(amina, order)
        for _again in range(2):
            answer = send_again(amina, order)
            assert TOO_MANY in plain(messages(read(answer))[0])
        assert Delivery.objects.count() == 1
        # The refusal is logged once an hour.
        assert caplog.text.count("amina tried to hand out more than 2 links or messages") == 1
        assert LogEntry.objects.filter(object_repr=REFUSED_REVEAL).count() == 1

    def test_the_customers_own_address_does_not_count(self, amina: Client, order: Order) -> None:
        for _again in range(3):
            send_again(amina, order, EMAIL)
        assert Delivery.objects.count() == 3
        # The address still does not count after a correction.
        change_customer(order, email="lina@else.example")
        assert link_on(make_link(amina, order))

    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("delayed", Status.DELAYED),
            ("not_delivered", Status.REFUNDED),
            ("paid_back", Status.REFUNDED),
        ],
    )
    def test_messages_without_cards_to_other_addresses_count_as_well(
        self, amina: Client, kind: str, status: Status
    ) -> None:
        """The recipient would learn what was bought, and that the shop writes to strangers."""
        other = make_guide_order(status, customer_email=EMAIL, sale_price=600)
        if kind == "paid_back":
            record_refund(other, amount=5, reference="R1")
        send_again(amina, other, kind=kind)
        message(delivered(), requested_by="amina", is_elsewhere=True)
        answer = send_again(amina, other, kind=kind)
        assert TOO_MANY in plain(messages(read(answer))[0])
        assert Delivery.objects.filter(is_elsewhere=True).count() == 2
        # The message to the customer is still sent.
        send_again(amina, other, EMAIL, kind=kind)
        assert Delivery.objects.latest("pk").address == EMAIL

    def test_what_went_elsewhere_counts_after_the_address_was_corrected_to_that(
        self, amina: Client, order: Order
    ) -> None:
        for _again in range(2):
            message(order, address="x@y.example", requested_by="amina", is_elsewhere=True)
        change_customer(order, email="x@y.example")
        answer = amina.post(to("new_link", order.pk), ask_for_link(amina, order), follow=True)
        assert TOO_MANY in plain(messages(read(answer))[0])

    def test_another_person_and_another_hour_count_anew(self, amina: Client, order: Order) -> None:
        for _made in range(2):
            link_on(make_link(amina, order))
        assert link_on(make_link(person(*SUPPORT, name="karim"), order))
        CardLink.objects.update(created_at=timezone.now() - timedelta(hours=1))
        assert link_on(make_link(amina, order))


class TestOneOrder:
    """All requests for an order count together, so its customer cannot be flooded."""

    def test_messages_and_links_of_all_persons_count_together(
        self, amina: Client, order: Order, caplog: pytest.LogCaptureFixture
    ) -> None:
        karim = person(*SUPPORT, name="karim")
        for by in ("amina", "karim") * 4:
            message(order, requested_by=by)
        for _made in range(2):
            link_on(make_link(amina, order, withdraws=""))
        told = "10 messages and links were requested for this order in the last hour."
        for browser in (amina, karim):
            for answer in (
                send_again(browser, order, EMAIL),
                browser.post(to("new_link", order.pk), ask_for_link(browser, order), follow=True),
            ):
                assert told in plain(messages(read(answer))[0])
        assert Delivery.objects.count() + CardLink.objects.count() == 10
        # These requests do not suggest that a person hands out codes.
        assert not LogEntry.objects.filter(object_repr=REFUSED_REVEAL).exists()
        # Requests for a different order or in a different hour are counted separately.
        send_again(amina, delivered("web-2"), EMAIL)
        for model in (Delivery, CardLink):
            model.objects.update(created_at=timezone.now() - timedelta(hours=1))
        send_again(amina, order, EMAIL)
        assert Delivery.objects.count() == 10

    def test_what_the_app_sends_by_itself_does_not_count(self, amina: Client, order: Order) -> None:
        for _number in range(11):
            message(order, status="sent")
        send_again(amina, order, EMAIL)
        assert Delivery.objects.count() == 12

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_of_requests_at_the_same_moment_no_more_are_sent(self) -> None:
        order = delivered()
        for _number in range(9):
            message(order, status="sent", requested_by="karim")
        asked = []
        for number in range(3):
            browser = person(*SUPPORT, name=f"person{number}")
            asked.append((browser, staff.filled_in(browser, order, links="none")))

        def press() -> int:
            browser, form = asked.pop()
            return browser.post(to("send_again", order.pk), form).status_code

        assert in_threads(3, press) == [302] * 3
        assert Delivery.objects.filter(address=EMAIL).exclude(requested_by="").count() == 10


class TestWithdrawing:
    def test_all_links_are_dead_at_once_and_waiting_messages_are_cancelled(
        self, amina: Client, order: Order
    ) -> None:
        tokens = [link(order)[1] for _number in range(2)]
        other_order = delivered("web-2")
        _other, other = link(other_order)
        account, _token = link(order, origin="account")
        for status in ("retrying", "sent"):
            message(order, status=status)
        answer = amina.post(to("withdraw", order.pk), follow=True)
        assert plain(messages(read(answer))[0]) == (
            "2 links were withdrawn and no longer work. 1 waiting message with a link was"
            " cancelled."
        )
        assert [find(token) for token in tokens] == [None, None]
        assert find(other)
        statuses = Delivery.objects.order_by("pk").values_list("status", flat=True)
        assert list(statuses) == ["cancelled", "sent"]
        # The link of the customer's account is not withdrawn.
        links = CardLink.objects.filter(order=order).exclude(pk=account.pk)
        assert set(links.values_list("revoked_by")) == {("amina",)}
        account.refresh_from_db()
        assert account.revoked_at is None
        # The second press of the button finds that the links are already withdrawn.
        answer = amina.post(to("withdraw", order.pk), follow=True)
        assert messages(read(answer)) == ["There is no working link."]
        assert [entry.get_change_message() for entry in LogEntry.objects.all()] == [
            "Withdrew the links to the cards."
        ]

    def test_only_a_post_withdraws(self, amina: Client, order: Order) -> None:
        _known, token = link(order)
        for verb in (amina.get, amina.head, amina.put):
            assert verb(to("withdraw", order.pk)).status_code == 200
            assert find(token)


def test_the_error_mail_about_a_link_that_cannot_be_shown_does_not_hold_it(
    order: Order, settings: Any
) -> None:
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": WITHOUT_SCRIPT}}
    browser = person(*SUPPORT, raise_request_exception=False)
    mailbox = Mailbox()
    logging.getLogger("django.request").addHandler(mailbox)
    try:
        form = {"reason": REASON, "withdraws": "on"}
        html = read(browser.post(to("new_link", order.pk), form), 500)
    finally:
        logging.getLogger("django.request").removeHandler(mailbox)
    [report] = mailbox.mails
    assert "Missing staticfiles manifest entry" in report
    assert CardLink.objects.count() == 1
    for text in (report, html):
        assert "shop.example/cards/" not in text


def test_no_page_needs_an_inline_script_or_style(amina: Client, order: Order) -> None:
    sent = message(order, status="retrying")
    one, _token = link(order)
    answers = [
        make_link(amina, order),
        *(amina.get(to(page, order.pk)) for page in ("new_link", "send_again", "dispute")),
        amina.get(to("delivery_change", sent.pk)),
        amina.get(to("cardlink_change", one.pk)),
        amina.get("/admin/giftcards_delivery/delivery/?customers=untold"),
        amina.get("/admin/giftcards_delivery/"),
    ]
    for answer in answers:
        html = read(answer)
        assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", html) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", html) == []
