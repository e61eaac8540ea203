"""Sending messages, from waiting to be sent to the final outcome."""

from __future__ import annotations

import logging
import re
import threading
import time
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone, translation

from giftcards.delivery.channels import AddressRefused, Channel, Limits, Message, OutcomeUnknown
from giftcards.delivery.links import find
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.delivery.privacy import Messages
from giftcards.delivery.queueing import send_again, withdraw
from giftcards.delivery.sending import CLAIM, MOST_UNANSWERED, SendingTally, send_due
from giftcards.models import Order
from giftcards.privacy.person import Person, Traces
from giftcards.settlement import cancel_refund, record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.mails import ADDRESS, again, is_due, make_message, pause, send
from tests.delivery.pages import make_old, make_settled, purge_old
from tests.fakes.mail import DROP, HANG, Fault, MailServer
from tests.stage import in_threads, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

DAY = 86_400


class Telling(Channel):
    """A channel of a shop that raises the error chosen by the test."""

    name: ClassVar[str] = "telling"
    error: ClassVar[BaseException | None] = None
    sent: ClassVar[list[Message]] = []
    languages: ClassVar[list[str | None]] = []

    def address_of(self, order: Order) -> str:
        return order.customer_phone

    def send(self, message: Message) -> str | None:
        self.languages.append(translation.get_language())
        if self.error is not None:
            raise self.error
        self.sent.append(message)
        return None


@pytest.fixture
def telling(settings: Any, monkeypatch: pytest.MonkeyPatch) -> type[Telling]:
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "CHANNELS": ["giftcards.delivery.channels.Mail", "tests.delivery.test_sending.Telling"],
    }
    monkeypatch.setattr(Telling, "sent", [])
    monkeypatch.setattr(Telling, "languages", [])
    monkeypatch.setattr(Telling, "error", None)
    return Telling


class TestSent:
    def test_a_message_that_is_due_is_sent_once_and_recorded(self, server: MailServer) -> None:
        message = make_message()
        assert send() == SendingTally(sent=1)
        assert send() == SendingTally()
        [received] = server.received
        row = again(message)
        assert (row.status, row.attempts, row.unanswered, row.error) == ("sent", 1, 0, "")
        assert row.next_attempt_at is None
        assert row.sent_at is not None
        assert row.message_id == received.mail["Message-ID"]
        assert received.recipient == row.address

    def test_the_message_that_has_been_due_longest_goes_first(self, server: MailServer) -> None:
        for number, minutes in enumerate((1, 3, 2)):
            due_at = timezone.now() - timedelta(minutes=minutes)
            make_message(address=f"c{number}@example.com", next_attempt_at=due_at)
        # This one is not due yet.
        make_message(next_attempt_at=timezone.now() + timedelta(seconds=30))
        assert send().sent == 3
        recipients = [received.recipient for received in server.received]
        assert recipients == ["c1@example.com", "c2@example.com", "c0@example.com"]

    def test_the_link_of_a_message_opens_the_cards_of_its_order_and_is_nowhere_else(
        self, server: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.plan = lambda number: Fault("end", DROP) if number == 1 else None
        message = make_message(order=make_settled(customer_email=ADDRESS), kind="partly_delivered")
        for _attempt in range(2):
            send()
            is_due()
        tokens = set()
        for received in server.received:
            body = received.mail.get_body(("plain",))
            assert body is not None
            tokens.add(body.get_content().partition("/cards/")[2].partition("/")[0])
        links = list(map(find, tokens))
        assert set(links) == set(CardLink.objects.all())
        assert len(links) == 2
        for link in links:
            assert link
            expected = (message.order, message, "message")
            assert (link.order, link.delivery, link.origin) == expected
        stored = repr([*Delivery.objects.values(), *CardLink.objects.values()])
        assert not any(token in stored + caplog.text for token in tokens)

    @pytest.mark.parametrize("status", [Status.DELAYED, Status.REFUNDED])
    def test_a_message_without_cards_gets_no_link(self, status: Status, server: MailServer) -> None:
        make_message(status)
        assert send().sent == 1
        assert not CardLink.objects.exists()

    def test_messages_wait_where_the_shop_has_no_address_for_their_links_or_not_their_channel(
        self, server: MailServer, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {"FROM_EMAIL": "shop@shop.example"}
        linked, unlisted = make_message(), make_message(channel="pigeon")
        make_message(Status.REFUNDED)
        assert send() == SendingTally(sent=1, retrying=2)
        assert again(linked).error.startswith("ConfigurationError at ")
        assert again(unlisted).error.startswith("KeyError at ")

    def test_a_channel_gets_the_language_of_the_message_and_its_own_address(
        self, telling: type[Telling], server: MailServer
    ) -> None:
        make_message(channel="telling", address="0550", language="ar")
        assert send() == SendingTally(sent=1)
        assert telling.languages == ["ar"]
        assert (telling.sent[0].address, len(telling.sent[0].id)) == ("0550", 32)
        assert translation.get_language() == "en"


class TestWanted:
    @pytest.mark.parametrize("values", [{"kind": "delayed"}, {"address": ""}])
    def test_nobody_is_asked_to_wait_for_an_order_that_has_moved_on_or_told_without_an_address(
        self, values: dict[str, str], server: MailServer
    ) -> None:
        message = make_message(Status.FULFILLED)
        Delivery.objects.update(**values)
        assert send() == SendingTally(cancelled=1)
        row = again(message)
        assert (row.status, row.next_attempt_at, row.attempts) == ("cancelled", None, 1)
        assert not server.connections

    @pytest.mark.usefixtures("server")
    def test_a_refund_that_was_taken_back_meanwhile_is_not_told_of(self) -> None:
        order = make_guide_order(Status.REFUNDED, sale_price=600)
        refund = record_refund(order, amount=500, reference="R1")
        message = make_message(Status.REFUNDED, order=order, kind="paid_back", refund=refund)
        cancel_refund(refund, by="amina", reason="wrong account")
        assert send() == SendingTally(cancelled=1)
        assert again(message).status == "cancelled"

    def test_what_was_switched_off_is_sent_only_if_a_person_asked_for_it(
        self, server: MailServer, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {
            **settings.GIFTCARDS_DELIVERY,
            "MODE": {"not_delivered": "off"},
        }
        make_message(Status.REFUNDED)
        make_message(Status.REFUNDED, requested_by="amina", address="asked@example.com")
        assert send() == SendingTally(sent=1, cancelled=1)
        assert [received.recipient for received in server.received] == ["asked@example.com"]

    @pytest.mark.parametrize("mode", ["link", "codes"])
    def test_cards_whose_codes_were_destroyed_are_not_announced(
        self, mode: str, server: MailServer, settings: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
        order = make_old(customer_email=ADDRESS)
        assert purge_old().orders == 1
        message = make_message(Status.PARTIALLY_FILLED, order=order)
        assert send() == SendingTally(cancelled=1)
        assert again(message).status == "cancelled"
        assert not server.received
        assert not CardLink.objects.exists()
        assert not [record for record in caplog.records if record.levelno > logging.INFO]

    @pytest.mark.usefixtures("server")
    def test_money_that_was_paid_back_is_told_of_after_the_codes_were_destroyed(self) -> None:
        order = make_old(customer_email=ADDRESS, sale_price=600)
        refund = record_refund(order, amount=1200, reference="R1")
        Delivery.objects.all().delete()
        message = make_message(order=order, kind="paid_back", refund=refund)
        assert purge_old().orders == 1
        assert send() == SendingTally(sent=1)
        assert again(message).status == "sent"


class TestStopped:
    """The links are withdrawn while a process is sending a message with one."""

    @pytest.mark.parametrize("error", [ConnectionRefusedError(), OutcomeUnknown(), None], ids=repr)
    @pytest.mark.usefixtures("shared_database")
    def test_an_attempt_that_fails_is_the_last_and_one_that_does_not_has_a_dead_link(
        self, error: Exception | None, telling: type[Telling], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def withdraw_meanwhile(channel: Channel, message: Message) -> None:
            withdraw(Order.objects.get(), by="amina")
            if error:
                raise error

        monkeypatch.setattr(telling, "send", withdraw_meanwhile)
        message = make_message(channel="telling", address="0550")
        assert send() == (SendingTally(cancelled=1) if error else SendingTally(sent=1))
        assert again(message).status == ("cancelled" if error else "sent")
        assert not CardLink.objects.filter(revoked_at=None).exists()
        assert error or CardLink.objects.count() == 1

    def test_the_message_of_a_process_that_died_is_not_sent(self, server: MailServer) -> None:
        message = make_message()
        Delivery.objects.update(status="sending", claim="dead")
        withdraw(message.order, by="amina")
        assert send() == SendingTally(cancelled=1)
        assert not server.received

    @pytest.mark.parametrize("is_erased", [False, True])
    def test_an_attempt_that_has_no_link_yet_gets_none(
        self, server: MailServer, monkeypatch: pytest.MonkeyPatch, *, is_erased: bool
    ) -> None:
        message = make_message()
        begin = Channel.__init__

        def stop_first(channel: Channel) -> None:
            # The channel is created before the link of the attempt.
            if is_erased:
                Messages().erase(message.order, Traces(Person.of(ADDRESS), []))
            else:
                withdraw(message.order, by="amina")
            begin(channel)

        monkeypatch.setattr(Channel, "__init__", stop_first)
        send()
        assert again(message).status == "cancelled"
        assert not CardLink.objects.exists()
        assert not server.received

    def test_the_message_that_a_person_asks_for_instead_is_sent(self, server: MailServer) -> None:
        old = make_message()
        Delivery.objects.update(status="sending", claim="dead")
        asked = {"kind": "delivered", "channel": "mail", "address": "new@example.com"}
        send_again(
            old.order,
            **asked,
            language="en",
            by="amina",
            reason="Wrong address",
            once="1",
            withdraws=True,
        )
        assert send() == SendingTally(sent=1, cancelled=1)
        assert [each.recipient for each in server.received] == ["new@example.com"]


class TestRetries:
    def test_the_pauses_are_those_of_the_ladder_and_then_an_hour(self, server: MailServer) -> None:
        server.plan = lambda _number: Fault("connect", "421 Busy")
        message = make_message()
        pauses = []
        for _attempt in range(8):
            assert send() == SendingTally(retrying=1)
            pauses.append(pause(message))
            is_due()
        assert pauses == pytest.approx([10, 30, 60, 300, 900, 1_800, 3_600, 3_600], abs=5)
        assert not CardLink.objects.exists()
        server.plan = lambda _number: None
        assert send() == SendingTally(sent=1)
        row = again(message)
        assert (row.status, row.attempts, row.unanswered, row.error) == ("sent", 9, 0, "")
        assert CardLink.objects.count() == 1

    def test_a_message_is_given_up_after_a_day_and_thirty_attempts(
        self, telling: type[Telling], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(telling, "error", ConnectionRefusedError())
        message = make_message(channel="telling", address="0550")
        waited = 0.0
        while send().retrying:
            waited += pause(message)
            # The message becomes as old as the time that it has waited in total.
            Delivery.objects.update(created_at=timezone.now() - timedelta(seconds=waited))
            is_due()
        row = again(message)
        assert (row.status, row.attempts, row.unanswered) == ("failed", 30, 0)
        assert row.next_attempt_at is None
        assert DAY - 3_600 < waited <= DAY

    def test_a_message_that_no_worker_took_for_days_is_tried_as_often_as_any(
        self, server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("connect", DROP)
        message = make_message(created_at=timezone.now() - timedelta(days=3))
        for _attempt in range(6):
            assert send().retrying == 1
            is_due()
        assert send().failed == 1
        assert again(message).attempts == 7

    @pytest.mark.parametrize("reply", ["550 5.1.1 No such user", "553 No such user", "552 Full"])
    def test_an_address_that_is_refused_fails_at_once(self, reply: str, server: MailServer) -> None:
        server.plan = lambda _number: Fault("rcpt", reply)
        message = make_message()
        assert send() == SendingTally(failed=1)
        row = again(message)
        assert (row.status, row.attempts, row.next_attempt_at) == ("failed", 1, None)
        assert row.error.startswith(f"SMTPRecipientsRefused {reply[:3]} at ")
        assert not CardLink.objects.exists()

    @pytest.mark.parametrize(
        ("error", "tally", "unanswered"),
        [
            *((kind("CANARY"), "retrying", 0) for kind in (RuntimeError, SystemExit, KeyError)),
            # A channel can refuse an address, or report that the outcome is unknown.
            (AddressRefused("CANARY does not exist"), "failed", 0),
            (OutcomeUnknown(), "retrying", 1),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
    )
    def test_an_error_is_stored_without_its_text(
        self,
        telling: type[Telling],
        error: BaseException,
        tally: str,
        unanswered: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(telling, "error", error)
        message = make_message(channel="telling", address="0550")
        assert send() == SendingTally(**{tally: 1})
        row = again(message)
        name, at, place = row.error.split()
        assert (name, at) == (type(error).__name__, "at")
        assert place.partition(":")[0].endswith("test_sending.py")
        assert row.unanswered == CardLink.objects.count() == unanswered
        assert "CANARY" not in caplog.text


class TestUnanswered:
    def test_a_server_that_takes_messages_and_does_not_say_so_gets_six_of_one(
        self, server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("end", DROP)
        message = make_message()
        for _attempt in range(MOST_UNANSWERED - 1):
            assert send() == SendingTally(retrying=1)
            assert pause(message) == pytest.approx(900, abs=60)
            is_due()
        assert send() == SendingTally(failed=1)
        row = again(message)
        assert (row.status, row.unanswered, row.next_attempt_at) == ("failed", 6, None)
        is_due()
        assert send() == SendingTally()
        assert len(server.received) == 6
        # Each copy has a link that works, and mail servers can recognise the repetition.
        assert CardLink.objects.count() == 6
        assert len({received.mail["Message-ID"] for received in server.received}) == 1

    def test_an_attempt_that_takes_too_long_is_not_waited_for(self, server: MailServer) -> None:
        server.plan = lambda _number: Fault("rcpt", HANG)
        message = make_message()
        began = time.monotonic()
        assert send(seconds=0.3) == SendingTally(retrying=1)
        assert time.monotonic() - began < 20
        row = again(message)
        assert (row.status, row.unanswered) == ("retrying", 1)
        assert re.fullmatch(r"No answer within \d+ s", row.error)

    def test_attempts_that_failed_and_unanswered_ones_have_pauses_of_their_own(
        self, server: MailServer
    ) -> None:
        faults = [
            Fault("end", DROP),
            Fault("connect", DROP),
            Fault("end", DROP),
            Fault("rcpt", "450 x"),
        ]
        server.plan = lambda number: faults[number - 1]
        message = make_message()
        pauses = []
        for _fault in faults:
            send()
            pauses.append(pause(message))
            is_due()
        assert pauses == pytest.approx([900, 10, 900, 30], abs=5)
        assert again(message).unanswered == 2

    @pytest.mark.usefixtures("server")
    def test_the_message_of_a_process_that_died_is_taken_over_when_its_claim_ends(self) -> None:
        message = make_message()
        claimed = again(message)
        until = timezone.now() + CLAIM
        assert Delivery.objects.claim(claimed, until=until)
        assert send() == SendingTally()
        is_due()
        assert send() == SendingTally(sent=1)
        row = again(message)
        assert (row.status, row.attempts, row.unanswered) == ("sent", 2, 1)
        # The process that was taken for dead can no longer record an outcome.
        assert not Delivery.objects.conclude(claimed, status="failed")

    def test_a_message_that_kills_its_process_is_given_up(self, server: MailServer) -> None:
        message = make_message()
        for _death in range(MOST_UNANSWERED):
            assert Delivery.objects.claim(again(message), until=timezone.now())
        assert send() == SendingTally(failed=1)
        row = again(message)
        assert (row.status, row.attempts, row.unanswered) == ("failed", 6, 6)
        assert row.error == "The process that was sending the message ended"
        assert not server.connections


class TestServerAway:
    def test_a_server_that_is_away_costs_three_attempts_and_leaves_the_rest_due(
        self, server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("connect", DROP)
        messages = [make_message(address=f"c{number}@example.com") for number in range(5)]
        assert send() == SendingTally(retrying=3, is_cut_short=True)
        assert server.connections == 3
        assert [again(message).status for message in messages] == ["retrying"] * 3 + ["queued"] * 2
        server.plan = lambda _number: None
        assert send() == SendingTally(sent=2)

    def test_a_channel_whose_server_is_away_does_not_stop_the_others(
        self, telling: type[Telling], server: MailServer
    ) -> None:
        server.plan = lambda _number: Fault("connect", DROP)
        for number in range(4):
            make_message(address=f"c{number}@example.com")
        make_message(channel="telling", address="0550")
        assert send() == SendingTally(sent=1, retrying=3, is_cut_short=True)

    @pytest.mark.parametrize(
        ("fault", "works", "sent"),
        [(Fault("rcpt", "450 4.2.1 Greylisted"), [6], 1), (Fault("connect", DROP), [3, 6], 2)],
        ids=["of the messages' own", "not in a row"],
    )
    def test_failures_of_another_kind_stop_no_message(
        self, fault: Fault, works: list[int], sent: int, server: MailServer
    ) -> None:
        server.plan = lambda number: None if number in works else fault
        for number in range(6):
            make_message(address=f"c{number}@example.com")
        assert send() == SendingTally(sent=sent, retrying=6 - sent)


class TestStop:
    def test_no_attempt_begins_after_the_stop_or_when_the_time_is_over(
        self, server: MailServer
    ) -> None:
        make_message()
        stop = threading.Event()
        stop.set()
        assert send_due(Limits(lambda: not stop.is_set())) == SendingTally()
        assert send_due(Limits(begin_until=time.monotonic())) == SendingTally()
        assert not server.connections

    def test_an_attempt_under_way_is_given_time_to_end_after_the_stop(
        self, telling: type[Telling], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stop = threading.Event()

        def take_long(channel: Channel, message: Message) -> None:
            stop.set()
            time.sleep(0.5)

        monkeypatch.setattr(telling, "send", take_long)
        make_message(channel="telling", address="0550")
        make_message(channel="telling", address="0551")
        assert send_due(Limits(lambda: not stop.is_set())) == SendingTally(sent=1)


@pytest.mark.django_db(transaction=True)
class TestSideBySide:
    @pytest.mark.usefixtures("shared_database")
    def test_workers_share_the_work_and_send_nothing_twice(self, server: MailServer) -> None:
        for number in range(40):
            make_message(address=f"c{number}@example.com")
        tallies = in_threads(3, send)
        assert sum((tally.sent for tally in tallies), 0) == 40
        recipients = [received.recipient for received in server.received]
        assert sorted(recipients) == sorted({f"c{number}@example.com" for number in range(40)})
        assert set(Delivery.objects.values_list("status", "attempts")) == {("sent", 1)}

    def test_a_channel_that_uses_the_database_leaves_no_connection_behind(
        self, telling: type[Telling], monkeypatch: pytest.MonkeyPatch, shared_database: str
    ) -> None:
        orders: list[Order] = []
        used: list[BaseDatabaseWrapper] = []

        def look(channel: Channel, message: Message) -> None:
            orders.append(Order.objects.get(reference=message.reference))
            used.append(connections["default"])
            assert used[0].connection is not None

        monkeypatch.setattr(telling, "send", look)
        make_message(channel="telling", address="0550")
        assert send() == SendingTally(sent=1)
        assert orders == list(Order.objects.all())
        assert used[0] is not connections["default"]
        # Wait until the thread has closed the connection.
        wait_until(lambda: used[0].connection is None)

    def test_a_message_that_goes_out_late_is_not_sent_again(
        self, telling: type[Telling], monkeypatch: pytest.MonkeyPatch, shared_database: str
    ) -> None:
        is_given_up = threading.Event()

        def take_long(channel: Channel, message: Message) -> str:
            assert is_given_up.wait(10)
            return "named"

        monkeypatch.setattr(telling, "send", take_long)
        message = make_message(channel="telling", address="0550")
        assert send(seconds=0.1).retrying == 1
        is_given_up.set()
        wait_until(lambda: again(message).status == "sent")
        row = again(message)
        assert (row.message_id, row.unanswered, row.next_attempt_at) == ("named", 1, None)
        is_due()
        assert send() == SendingTally()

    def test_a_link_that_was_opened_all_the_same_stays(
        self, telling: type[Telling], monkeypatch: pytest.MonkeyPatch, shared_database: str
    ) -> None:
        def open_and_fail(channel: Channel, message: Message) -> None:
            LinkVisit.objects.create(link=CardLink.objects.get(), what="opened")
            raise RuntimeError

        monkeypatch.setattr(telling, "send", open_and_fail)
        make_message(channel="telling", address="0550")
        assert send() == SendingTally(retrying=1)
        assert CardLink.objects.count() == 1
