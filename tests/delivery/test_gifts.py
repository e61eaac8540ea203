"""Gifts: the recipient gets the cards at the chosen time, and the customer gets a receipt."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from giftcards.delivery.models import CardLink, Delivery
from giftcards.delivery.sending import SendingTally
from giftcards.engine import outbox
from giftcards.engine.reordering import reorder_missing
from giftcards.fulfilment import change_customer, place_order
from giftcards.models import Order, StatusChange
from giftcards.privacy.retention import purge
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import FULFILLED, PARTIAL, PRODUCT, TYPE, make_guide_order
from tests.delivery import story
from tests.delivery.gifts import (
    BUYER,
    PHONE,
    RECIPIENT,
    WORDS,
    in_days,
    link_in,
    mails_to,
    make_gift,
    pass_days,
    told,
    visible_in,
)
from tests.delivery.mails import again, is_due, send
from tests.delivery.pages import CODES, codes_in, press, words
from tests.fakes.mail import Fault, MailServer
from tests.stage import run_sweep

pytestmark = pytest.mark.django_db

LANGUAGES = ("en", "fr", "ar")
# The headings above a gift's message: the customer's own message, and that of another person whose
# name is known or not.
HEADINGS = {
    "en": ("Your message:", "Karim writes:", "Message for you:"),
    "fr": ("Votre message\u00a0:", "Karim vous écrit\u00a0:", "Le message pour vous\u00a0:"),
    "ar": ("رسالتك:", "رسالة من Karim:", "رسالة إليك:"),
}
# Three of five cards sold at 600 come; a card costs 490.
AMOUNTS = ("3000", "1800", "1200", "600", "490", "2450")


def queued() -> set[tuple[str, str, str]]:
    return set(Delivery.objects.values_list("kind", "address", "language"))


def joined(text: str) -> str:
    """Return the text without links, and with amounts in plain digits."""
    text = re.sub(r"https://\S+", "", text)
    return re.sub(r"(?<=\d)[,\u00a0\u202f](?=\d)", "", text)


class TestWhoIsTold:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (Status.FULFILLED, {("gift", RECIPIENT, "en"), ("receipt", BUYER, "fr")}),
            (Status.PARTIALLY_FILLED, {("gift", RECIPIENT, "en"), ("receipt", BUYER, "fr")}),
            (Status.REFUNDED, {("not_delivered", BUYER, "fr")}),
            (Status.REJECTED, {("not_delivered", BUYER, "fr")}),
            (Status.DELAYED, {("delayed", BUYER, "fr")}),
        ],
    )
    def test_each_move_is_told_to_whom_it_concerns_once(
        self, status: Status, expected: set[tuple[str, str, str]]
    ) -> None:
        people = {"customer_email": BUYER, "customer_language": "fr"}
        people |= {"recipient_email": RECIPIENT, "recipient_language": "en"}
        order = make_guide_order(status, **people)
        change = StatusChange.objects.create(
            order=order, from_status=Status.HANDLING, to_status=status, source="check"
        )
        for _time in range(2):
            outbox.announce()
            StatusChange.objects.filter(pk=change.pk).update(
                announced_at=None, announce_at=change.at, announced_to=None
            )
        assert queued() == expected
        assert Delivery.objects.count() == len(expected)

    @pytest.mark.parametrize(
        ("values", "mode", "expected"),
        [
            # If the recipient's language is unknown, the customer's language is used.
            (
                {"recipient_language": "", "customer_language": "ar"},
                "link",
                {("gift", RECIPIENT, "ar"), ("receipt", BUYER, "ar")},
            ),
            ({"customer_email": ""}, "link", {("gift", RECIPIENT, "en")}),
            # A shop that hands over cards itself also hands over gifts itself.
            ({}, {"delivered": "off"}, {("receipt", BUYER, "fr")}),
        ],
        ids=["no language", "no customer", "no cards"],
    )
    def test_only_who_can_be_told_is_told(
        self, values: dict[str, str], mode: Any, expected: set[Any], settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
        told(**values)
        assert queued() == expected

    def test_a_refund_is_told_to_the_customer(self) -> None:
        order = told()
        send()
        mail.outbox.clear()
        record_refund(order, amount=1200, reference="R1")
        Delivery.objects.create(order=order, kind="paid_back", address=BUYER, key="refund")
        assert send().sent == 1
        assert [sent.to for sent in mail.outbox] == [[BUYER]]

    @pytest.mark.parametrize("mode", ["link", "codes"])
    def test_a_gift_that_is_refused_goes_to_nobody_else_whatever_follows(
        self, mode: str, server: MailServer, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
        refusal = Fault("rcpt", "550 5.1.1 No such user")
        server.plan = lambda number: refusal if number == 1 else None
        order = told()
        assert send() == SendingTally(sent=1, failed=1)
        StatusChange.objects.update(announced_at=None, announce_at=timezone.now())
        outbox.announce()
        change_customer(order, email="right@example.com", by="amina")
        pass_days(2)
        is_due()
        send()
        assert [received.recipient for received in server.received] == [BUYER]
        change_customer(order, recipient_email="line@example.com", by="amina")
        assert send() == SendingTally(sent=1)
        texts = {
            received.recipient: story.part(received.mail, "html") for received in server.received
        }
        assert texts.keys() == {BUYER, "line@example.com"}
        handed = re.compile("/cards/|" + "|".join(CODES))
        assert [bool(handed.search(text)) for text in texts.values()] == [False, True]

    def test_the_order_for_missing_cards_is_a_gift_for_the_same_person(self) -> None:
        order = told(deliver_at=in_days(2))
        again = reorder_missing(order, by="amina")
        assert again.is_gift
        names = ("recipient_email", "recipient_name", "recipient_language", "gift_message")
        for name in (*names, "deliver_at"):
            assert getattr(again, name) == getattr(order, name)


class TestWhatTheyRead:
    @pytest.mark.parametrize("mode", ["link", "codes"])
    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("answer", [PARTIAL, FULFILLED], ids=["partial", "whole"])
    def test_the_recipient_reads_the_message_and_nothing_of_money_or_of_addresses(
        self, answer: Any, language: str, mode: str, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
        order = told(answer, recipient_language=language, type_name="Wallet")
        if answer is PARTIAL:
            record_refund(order, amount=1200, reference="R1")
        send()
        [sent] = mails_to(RECIPIENT)
        text = visible_in(sent)
        for part in ("Amina", "Lina", "PlayStation", *WORDS.split("\n\n")):
            assert part in text
        assert not re.search(rf"{BUYER}|{PHONE}|\bDA\b|دج|{'|'.join(AMOUNTS)}", joined(text))
        assert [code in text for code in CODES[:3]] == [mode == "codes"] * 3

    @pytest.mark.parametrize("mode", ["link", "codes"])
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_the_customer_reads_what_came_and_no_way_to_the_cards(
        self, language: str, mode: str, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
        told(customer_language=language)
        send()
        [sent] = mails_to(BUYER)
        text = visible_in(sent)
        for part in ("Lina", RECIPIENT, *WORDS.split("\n\n"), "3000", "1200"):
            assert part in joined(text)
        assert "/cards/" not in str(sent.message())
        assert not [code for code in CODES if code in text]

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("buyer", ["Karim", ""], ids=["named", "nameless"])
    @pytest.mark.parametrize(
        ("kind", "status", "address"),
        [
            ("gift", Status.FULFILLED, RECIPIENT),
            ("receipt", Status.FULFILLED, BUYER),
            ("receipt", Status.PARTIALLY_FILLED, BUYER),
            ("delayed", Status.DELAYED, BUYER),
            ("not_delivered", Status.REFUNDED, BUYER),
            ("not_delivered", Status.REJECTED, BUYER),
            ("paid_back", Status.REFUNDED, BUYER),
        ],
    )
    def test_only_the_recipient_reads_the_words_as_those_of_another(
        self, kind: str, status: Status, address: str, buyer: str, language: str
    ) -> None:
        order = make_guide_order(
            status,
            sale_price=600,
            customer_name=buyer,
            customer_email=BUYER,
            recipient_email=RECIPIENT,
            gift_message="Hi",
        )
        if kind == "paid_back":
            record_refund(order, amount=600, reference="R1")
        Delivery.objects.create(order=order, kind=kind, address=address, language=language)
        assert send().sent == 1
        [sent] = mails_to(address)
        own, named, nameless = HEADINGS[language]
        heading = (named if buyer else nameless) if address == RECIPIENT else own
        assert re.findall(rf"{own}|{named}|{nameless}", visible_in(sent)) == [heading] * 2

    def test_without_a_name_and_words_a_gift_is_complete(self) -> None:
        told(customer_name="", recipient_name="", gift_message="")
        send()
        [gift], [receipt] = mails_to(RECIPIENT), mails_to(BUYER)
        assert gift.subject == "A gift for you: PlayStation"
        assert gift.body.startswith("Hello,\n\nSomebody has sent you 3 gift cards.")
        assert "writes:" not in gift.body
        assert RECIPIENT in receipt.subject


class TestTime:
    def test_the_cards_are_bought_at_once_and_the_recipient_is_told_at_the_time(
        self, simulator: Simulator
    ) -> None:
        """This covers the whole way, with real requests."""
        place_order(
            product_id=PRODUCT,
            type_id=TYPE,
            quantity=2,
            customer_email=BUYER,
            recipient_email=RECIPIENT,
            deliver_at=in_days(40),
        )
        for _time in range(3):
            run_sweep()
        order = Order.objects.get()
        assert (order.status, order.cards.count()) == (Status.FULFILLED, 2)
        outbox.announce()
        send()
        assert [sent.to for sent in mail.outbox] == [[BUYER]]
        pass_days(40)
        assert send().sent == 1
        [sent] = mails_to(RECIPIENT)
        bought = [card.value for card in simulator.orders[str(order.provider_order_id)].cards]
        shown = words(press(link_in(sent)))
        assert all(code in shown for code in bought)
        assert send() == SendingTally()

    def test_what_is_put_off_is_not_late(self) -> None:
        told(deliver_at=in_days(0.5))
        Delivery.objects.update(created_at=in_days(-3))
        send()
        assert not Delivery.objects.late(timezone.now())
        assert not Delivery.objects.waiting(timezone.now())
        # A worker that was off at that time sends the message late, but only once.
        pass_days(5)
        assert Delivery.objects.late(timezone.now()).count() == 1
        assert send().sent == 1
        assert send() == SendingTally()
        assert len(mails_to(RECIPIENT)) == 1

    @pytest.mark.parametrize("uses_tz", [True, False])
    @pytest.mark.parametrize("days", [90, -3])
    def test_the_time_is_kept_with_zones_and_without(
        self, days: int, uses_tz: bool, settings: Any
    ) -> None:
        settings.USE_TZ = uses_tz
        told(deliver_at=in_days(days))
        assert not Delivery.objects.late(timezone.now())
        if days > 0:
            assert send().sent == 1
            pass_days(days)
            assert send().sent == 1
            assert [sent.to for sent in mail.outbox] == [[BUYER], [RECIPIENT]]
        else:
            # A time in the past means that the message is sent at once.
            assert send().sent == 2
        # The link is valid for its full period from the delivery on.
        [link] = CardLink.objects.all()
        assert link.expires_at is not None
        assert link.expires_at - timezone.now() > timedelta(days=29)

    def test_a_server_that_is_away_at_the_time_is_tried_for_a_day(self, send_through: Any) -> None:
        """The day begins at the chosen time, not when the cards came."""
        told(deliver_at=in_days(30), customer_email="")
        pass_days(30)
        send_through("tests.fakes.mail.Away")
        for _attempt in range(9):
            send()
            is_due()
        assert set(Delivery.objects.values_list("status", flat=True)) == {"retrying"}

    def test_codes_are_kept_from_the_delivery_on(self) -> None:
        order = told(deliver_at=in_days(2))
        send()
        StatusChange.objects.update(announced_at=timezone.now())
        record_refund(order, amount=1200, reference="R1")
        Order.objects.update(finalized_at=in_days(-400))
        Order.objects.update(open_amount=0)
        assert (purge_of_days(30), purge_of_days(1)) == (0, 0)
        pass_days(20)
        assert (purge_of_days(30), purge_of_days(19)) == (0, 0)
        send()
        assert purge_of_days(17) == 1
        assert again(Delivery.objects.get(kind="gift")).status == "sent"


def purge_of_days(days: float) -> int:
    return purge(settled_before=in_days(-days)).orders


class TestCorrecting:
    WRONG = "lina@exmaple.com"

    def test_what_is_put_off_is_put_off_for_the_right_recipient(self) -> None:
        order = told(recipient_email=self.WRONG, deliver_at=in_days(2))
        change_customer(order, recipient_email=RECIPIENT)
        [gift] = Delivery.objects.filter(kind="gift", status="queued")
        assert (gift.address, gift.not_before) == (RECIPIENT, order.deliver_at)
        send()
        assert [sent.to for sent in mail.outbox] == [[BUYER]]
        pass_days(2)
        send()
        assert [sent.to for sent in mail.outbox] == [[BUYER], [RECIPIENT]]

    @pytest.mark.parametrize("address", [BUYER, RECIPIENT], ids=["two people", "one person"])
    def test_the_address_of_the_customer_is_corrected_apart_from_that_of_the_recipient(
        self, address: str
    ) -> None:
        order = told(recipient_email=address, customer_email=address)
        change_customer(order, email="right@example.com")
        send()
        [gift], [receipt] = mails_to(address), mails_to("right@example.com")
        assert codes_in(press(link_in(gift))) == CODES[:3]
        assert link_in(receipt) == ""

    @pytest.mark.parametrize("given", [in_days(2), None], ids=["at a time", "at once"])
    @pytest.mark.parametrize(("days", "is_sent"), [(5, False), (0.5, False), (-1, True)])
    def test_a_gift_that_waits_waits_for_its_new_time(
        self, days: float, is_sent: bool, given: Any
    ) -> None:
        order = told(deliver_at=given)
        change_customer(order, deliver_at=in_days(days))
        send()
        assert bool(mails_to(RECIPIENT)) is is_sent
        pass_days(5)
        send()
        assert len(mails_to(RECIPIENT)) == 1

    def test_the_language_of_the_recipient_is_corrected_apart_from_the_customers(self) -> None:
        order = told(recipient_language="en", customer_language="en")
        change_customer(order, recipient_language="ar")
        assert queued() == {("gift", RECIPIENT, "ar"), ("receipt", BUYER, "en")}
        change_customer(order, language="fr")
        assert queued() == {("gift", RECIPIENT, "ar"), ("receipt", BUYER, "fr")}

    def test_the_words_are_those_of_the_moment_of_sending(self) -> None:
        order = told(deliver_at=in_days(1))
        change_customer(order, gift_message="Joyeux anniversaire", recipient_name="Line")
        pass_days(1)
        send()
        [sent] = mails_to(RECIPIENT)
        text = visible_in(sent)
        assert "Hello Line," in text
        assert "Joyeux anniversaire" in text
        assert "sister" not in text


def test_a_message_with_cards_to_the_customer_of_a_gift_is_not_sent() -> None:
    order = make_gift()
    Delivery.objects.create(order=order, kind="partly_delivered", address=BUYER, key="odd")
    assert send().cancelled == 1
    assert mail.outbox == []
