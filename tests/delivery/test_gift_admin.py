"""What staff see of a gift's messages, and what they do about them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from giftcards.delivery.models import Delivery
from giftcards.fulfilment import change_customer
from giftcards.models import Order
from tests.delivery.gifts import BUYER, RECIPIENT, in_days, link_in, mails_to, pass_days, told
from tests.delivery.mails import send
from tests.delivery.pages import CODES, codes_in, press
from tests.delivery.staff import PASSWORD, SUPPORT, filled_in, messages_section, person, to
from tests.pages import errors, let_pass, order_page, plain, read, text

pytestmark = pytest.mark.django_db


class TestPutOff:
    def test_the_page_says_when_the_gift_is_sent_and_it_can_be_sent_now(
        self, amina: Client
    ) -> None:
        order = told(deliver_at=in_days(3))
        send()
        shown = messages_section(amina, order)
        assert f"The message will be sent to {RECIPIENT} on" in shown
        assert "Send the message now" in shown
        assert "Try now" not in shown
        message = Delivery.objects.get(kind="gift")
        answer = read(amina.post(to("send_now", message.pk), follow=True))
        assert "The message will be sent in a moment." in answer
        assert "Send the message now" not in messages_section(amina, order)
        assert send().sent == 1
        assert codes_in(press(link_in(mails_to(RECIPIENT)[0]))) == CODES[:3]
        pass_days(3)
        assert send().sent == 0
        answer = read(amina.post(to("send_now", message.pk), follow=True))
        assert "The message is no longer waiting" in answer

    @pytest.mark.parametrize("is_sent_again", [True, False])
    def test_a_gift_that_is_sent_again_is_sent_instead_and_one_that_is_called_off_is_not(
        self, amina: Client, is_sent_again: bool
    ) -> None:
        order = told(deliver_at=in_days(3))
        if is_sent_again:
            again(amina, order, kind="gift")
        else:
            amina.post(to("cancel", Delivery.objects.get(kind="gift").pk))
        send()
        pass_days(3)
        send()
        assert len(mails_to(RECIPIENT)) == is_sent_again


def again(browser: Client, order: Order, **values: Any) -> Any:
    form = filled_in(browser, order, **{"address": "", "language": "", "links": "none", **values})
    return browser.post(to("send_again", order.pk), form, follow=True)


class TestSendingAgain:
    def test_each_message_goes_to_whom_it_concerns_in_their_language(self, amina: Client) -> None:
        order = told()
        # The form does not suggest an address, because the other message goes to a different one.
        html = read(amina.get(to("send_again", order.pk)))
        assert BUYER not in html
        assert "The recipient&#x27;s language" in html
        Delivery.objects.all().delete()
        for kind in ("gift", "receipt"):
            read(again(amina, order, kind=kind))
        rows = set(Delivery.objects.values_list("kind", "address", "language", "is_elsewhere"))
        assert rows == {("gift", RECIPIENT, "en", False), ("receipt", BUYER, "fr", False)}

    def test_cards_for_the_customer_go_elsewhere_and_take_the_proof(self) -> None:
        order = told()
        browser = person(*SUPPORT)
        let_pass(browser, 601)
        assert errors(read(again(browser, order, kind="gift", address=BUYER)))
        again(browser, order, kind="gift", address=BUYER, password=PASSWORD)
        message = Delivery.objects.latest("pk")
        assert (message.address, message.is_elsewhere) == (BUYER, True)

    def test_a_gift_without_an_address_of_the_customer_has_no_receipt_to_send(
        self, amina: Client
    ) -> None:
        order = told(customer_email="")
        html = read(again(amina, order, kind="receipt"))
        assert "The order has no address for this message. Enter an address." in text(html)
        assert (
            "The customer was not notified because the order has no address."
            in messages_section(amina, order)
        )


class TestCorrecting:
    def test_what_becomes_of_messages_is_told_for_each_of_the_two(self) -> None:
        browser = person(*SUPPORT, "correct_customer")
        order = told(deliver_at=in_days(1))
        shown = plain(text(read(browser.get(order_page(order, "customer")))))
        assert "To the customer: 1 message will be sent to the new address." in shown
        assert "To the recipient: 1 message will be sent to the new address." in shown

    def test_codes_that_went_to_a_former_address_are_told_afterwards(
        self, amina: Client, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
        order = told(recipient_email="lina@exmaple.com")
        send()
        change_customer(order, recipient_email=RECIPIENT)
        assert "The codes were sent to lina@exmaple.com on" in messages_section(amina, order)


def test_a_link_to_hand_over_shows_the_gift_at_any_time_and_the_proof_names_the_recipient(
    amina: Client,
) -> None:
    order = told(deliver_at=in_days(3))
    form = {"reason": "She is here", "newest": ""}
    shown = read(amina.post(to("new_link", order.pk), form))
    [address] = re.findall(r"https://shop\.example(/cards/[\w-]+/)", shown)
    assert codes_in(press(address)) == CODES[:3]
    shown = plain(text(read(amina.get(to("dispute", order.pk)))))
    for part in ("Recipient's e-mail", RECIPIENT, "Lina"):
        assert part in shown
