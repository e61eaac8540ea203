"""The address of an order's customer is corrected, at any moment of its messages' lives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar

import pytest
from django.core import mail
from django.db import connection, connections
from django.test import Client
from django.utils import timezone

from giftcards.delivery.channels import Channel
from giftcards.delivery.links import find, issue
from giftcards.delivery.models import CardLink, Delivery, Installation
from giftcards.delivery.queueing import tell_of_change
from giftcards.engine import outbox
from giftcards.engine.recording import record_answers
from giftcards.fulfilment import change_customer
from giftcards.models import Order, StatusChange
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import PARTIAL, claim, make_guide_order
from tests.delivery.mails import again, is_due, make_message, send
from tests.delivery.pages import CODES, codes_in, make_settled, press
from tests.delivery.staff import SUPPORT, messages_section, person, to
from tests.fakes.mail import MailServer
from tests.pages import order_page, plain, read, text
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

WRONG, RIGHT = "lina@exmaple.com", "lina@example.com"


def bought(**values: Any) -> Order:
    """Create an order whose cards have come, and whose customer's address was typed wrong."""
    return make_settled(**{"customer_email": WRONG, **values})


def announced(order: Order) -> None:
    outbox.announce()
    assert order.deliveries.exists()


def addresses(*statuses: str) -> list[str]:
    rows = Delivery.objects.filter(status__in=statuses) if statuses else Delivery.objects.all()
    return list(rows.order_by("pk").values_list("address", flat=True))


def mailed() -> list[str]:
    return [address for sent in mail.outbox for address in sent.to]


def page_of(text: Any) -> str:
    found = re.search(r"https://shop\.example(/cards/[^\s]+/)", str(text))
    return found[1] if found else ""


def is_dead(address: str) -> bool:
    return Client().get(address).status_code == 404


def test_cards_that_come_after_the_correction_go_to_the_right_address() -> None:
    order = make_guide_order(customer_email=WRONG)
    # A worker claims the order before it does anything else.
    [claimed] = claim(order)
    change_customer(Order.objects.get(), email=RIGHT, language="fr")
    record_answers([(claimed, PARTIAL)], now=timezone.now())
    outbox.announce()
    assert send().sent == 1
    assert mailed() == [RIGHT]
    assert "Bonjour" in str(mail.outbox[0].body)
    assert codes_in(press(page_of(mail.outbox[0].body))) == CODES[:3]


def test_an_announcement_that_has_read_the_order_before_tells_the_right_address() -> None:
    """A worker reads a hundred status changes at once and announces them one after the other."""
    stale = StatusChange.objects.select_related("order").get(order=bought(), to_status__in=FINAL)
    change_customer(Order.objects.get(), email=RIGHT)
    assert stale.order.customer_email == WRONG
    tell_of_change(stale.order, stale)
    assert addresses() == [RIGHT]


FINAL = (Status.PARTIALLY_FILLED, Status.FULFILLED)


@pytest.mark.parametrize("corrections", [[RIGHT], [RIGHT, WRONG, RIGHT]], ids=["once", "and back"])
def test_a_move_that_is_announced_again_after_the_correction_is_told_once(
    corrections: list[str],
) -> None:
    order = bought()
    announced(order)
    # This message is no longer true, so it is not sent.
    make_message(order=order, kind="delayed", address=WRONG)
    for address in corrections:
        change_customer(order, email=address)
    StatusChange.objects.update(announced_at=None, announce_at=timezone.now(), announced_to=None)
    assert outbox.announce()
    assert send().sent == 1
    assert mailed() == [RIGHT]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"status": "retrying", "attempts": 3, "unanswered": 1},
        {"status": "failed", "next_attempt_at": None, "error": "AddressRefused"},
    ],
    ids=["queued", "retrying", "given up"],
)
@pytest.mark.parametrize("mode", ["link", "codes"])
def test_what_was_not_sent_goes_to_the_right_address(
    values: dict[str, Any], mode: str, settings: Any
) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": mode}
    order = bought()
    announced(order)
    Delivery.objects.update(**values)
    change_customer(order, email=RIGHT, by="amina")
    is_due()
    assert send().sent == 1
    assert mailed() == [RIGHT]
    first, second = Delivery.objects.order_by("pk")
    assert (first.address, first.is_open) == (WRONG, False)
    assert (second.address, second.kind, second.change) == (RIGHT, first.kind, first.change)
    assert not Delivery.objects.untold().exists()


@pytest.mark.parametrize("kind", ["delayed", "not_delivered", "paid_back"])
def test_news_without_cards_follow_as_well(kind: str) -> None:
    status = Status.DELAYED if kind == "delayed" else Status.REFUNDED
    order = make_guide_order(status, customer_email=WRONG, sale_price=600)
    refund = record_refund(order, amount=5, reference="R1") if kind == "paid_back" else None
    waiting = make_message(order=order, kind=kind, address=WRONG, refund=refund)
    change_customer(order, email=RIGHT)
    assert again(waiting).status == "cancelled"
    assert send().sent == 1
    assert (mailed(), Delivery.objects.latest("pk").refund) == ([RIGHT], refund)


class TestSent:
    """The message went to the wrong address and cannot be taken back."""

    @pytest.fixture
    def order(self) -> Order:
        order = bought()
        announced(order)
        assert send().sent == 1
        return order

    def test_its_link_is_withdrawn_and_a_new_one_goes_to_the_right_address(
        self, order: Order
    ) -> None:
        old = page_of(mail.outbox[0].body)
        change_customer(order, email=RIGHT, by="amina")
        assert is_dead(old)
        assert CardLink.objects.get().revoked_by == "amina"
        assert send().sent == 1
        assert mailed() == [WRONG, RIGHT]
        assert codes_in(press(page_of(mail.outbox[1].body))) == CODES[:3]
        assert is_dead(old)

    @pytest.mark.parametrize(
        "values",
        [
            {"revoked_at": timezone.now()},
            {"expires_at": timezone.now() - timedelta(days=1)},
            {"reveals": 1},
        ],
        ids=["withdrawn", "expired", "shown"],
    )
    def test_a_link_that_has_ended_or_shown_the_cards_is_not_replaced_unasked(
        self, order: Order, values: dict[str, Any]
    ) -> None:
        CardLink.objects.update(**values)
        change_customer(order, email=RIGHT)
        assert is_dead(page_of(mail.outbox[0].body))
        assert addresses() == [WRONG]

    def test_codes_that_were_mailed_are_not_mailed_once_more_unasked(self, settings: Any) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
        order = bought(reference="web-2")
        announced(order)
        assert send().sent == 1
        change_customer(order, email=RIGHT)
        assert addresses() == [WRONG]

    def test_links_that_went_elsewhere_go_on_working(self, order: Order) -> None:
        friend = make_message(order=order, kind="partly_delivered", address="friend@example.com")
        kept = [
            issue(order, origin=CardLink.Origin.MESSAGE, delivery=friend)[1],
            # Staff have handed this link to the right person.
            issue(order, origin=CardLink.Origin.STAFF)[1],
        ]
        account = CardLink.objects.of_account(order)
        change_customer(order, email=RIGHT)
        assert all(map(find, kept))
        account.refresh_from_db()
        assert account.revoked_at is None
        assert again(friend).status == "queued"


def test_what_waits_is_written_in_the_language_of_the_correction() -> None:
    order = bought(customer_language="ar", customer_phone="0550123456")
    announced(order)
    chosen = make_message(order=order, kind="partly_delivered", address=WRONG, language="en")
    # A correction of only the name or the number changes nothing.
    change_customer(order, name="Lina", phone="0550123457")
    assert addresses("queued") == [WRONG, WRONG]
    change_customer(order, language="fr")
    assert set(Delivery.objects.values_list("language", flat=True)) == {"fr", "en"}
    change_customer(order, email=RIGHT, language="ar")
    assert again(chosen).status == "cancelled"
    assert Delivery.objects.latest("pk").language == "en"


def test_links_of_before_are_withdrawn_while_no_messages_are_sent(settings: Any) -> None:
    order = bought()
    announced(order)
    assert send().sent == 1
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "off"}
    change_customer(order, email=RIGHT)
    assert is_dead(page_of(mail.outbox[0].body))
    assert addresses() == [WRONG]


class Phone(Channel):
    """A channel that writes numbers in its own way, and fails for one number."""

    name = "phone"
    sent: ClassVar[list[str]] = []

    def address_of(self, order: Order) -> str:
        if order.customer_phone == "000":
            raise KeyError(order.customer_phone)
        return order.customer_phone.removeprefix("0") and f"+213{order.customer_phone[1:]}"

    def send(self, message: Any) -> None:
        self.sent.append(message.address)


class TestChannels:
    @pytest.fixture(autouse=True)
    def _channel(self, settings: Any) -> None:
        paths = ["giftcards.delivery.channels.Mail", f"{__name__}.Phone"]
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "CHANNELS": paths}
        Phone.sent.clear()

    def test_only_what_goes_to_the_corrected_address_moves(self) -> None:
        order = bought(customer_phone="0550111111")
        announced(order)
        change_customer(order, phone="0550222222")
        assert addresses("queued") == [WRONG, "+213550222222"]
        # An address that was removed receives no more messages.
        change_customer(order, email="")
        assert send().sent == 1
        assert Phone.sent == ["+213550222222"]

    def test_a_channel_that_fails_does_not_stop_the_correction(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = bought(customer_phone="0550111111")
        announced(order)
        change_customer(order, email=RIGHT, phone="000")
        assert addresses("queued") == [RIGHT]
        assert addresses("cancelled") == [WRONG, "+213550111111"]
        assert "for the channel phone is unknown: KeyError" in caplog.text


@contextmanager
def just_before(statement: str, act: Callable[[], object]) -> Iterator[None]:
    """Call ``act`` once, right before the first statement of this kind."""
    acts = [act]

    def run(execute: Any, sql: str, *args: Any) -> Any:
        if acts and re.match(statement, sql.replace('"', "").replace("`", "")):
            acts.pop()()
        return execute(sql, *args)

    with connection.execute_wrapper(run):
        yield
    assert not acts


def test_a_message_that_was_claimed_goes_nowhere_if_it_is_not_being_handed_over_yet() -> None:
    order = bought()
    announced(order)

    def correct() -> None:
        change_customer(Order.objects.get(), email=RIGHT)

    # At this point, the message is claimed, and the order was read with the old address.
    with just_before("UPDATE giftcards_order SET group", correct):
        tally = send()
    assert (tally.sent, tally.cancelled) == (1, 1)
    assert mailed() == [RIGHT]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_a_message_that_is_being_handed_over_arrives_with_a_dead_link(server: MailServer) -> None:
    # The tables were emptied, so the time when messages were set up has to be recorded again.
    Installation.begin()
    order = bought()
    announced(order)

    def correct(number: int) -> None:
        if number == 1:
            change_customer(Order.objects.get(), email=RIGHT)
            connections.close_all()

    server.plan = correct
    assert send().sent == 2
    first, second = server.received
    assert (first.recipient, second.recipient) == (WRONG, RIGHT)
    old, new = (page_of(each.mail.get_body(("plain",)).get_content()) for each in (first, second))
    assert is_dead(old)
    assert codes_in(press(new)) == CODES[:3]
    assert sorted(addresses("sent")) == sorted([WRONG, RIGHT])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
@pytest.mark.parametrize(
    ("given", "detail"),
    [({}, "email"), ({"customer_email": "", "recipient_email": WRONG}, "recipient_email")],
    ids=["customer", "recipient"],
)
def test_sending_and_correcting_at_the_same_moment_leave_one_way_to_the_cards(
    given: dict[str, str], detail: str
) -> None:
    Installation.begin()
    orders = [bought(reference=f"web-{number}", **given) for number in range(12)]
    outbox.announce()
    assert len(addresses("queued")) == len(orders)
    waiting, roles = list(Order.objects.order_by("-pk")), ["send", "correct"] * 2

    def work() -> str:
        # Taking an item from the end of a list is atomic, so the threads need no lock.
        if (role := roles.pop()) == "send":
            send()
        else:
            with suppress(IndexError):
                while True:
                    change_customer(waiting.pop(), **{detail: RIGHT})
        return role

    assert sorted(map(str, in_threads(4, work))) == ["correct", "correct", "send", "send"]
    send()
    for order in orders:
        mails = [sent for sent in mail.outbox if f"\u2068{order.reference}\u2069" in sent.body]
        pages = {page_of(sent.body): sent.to for sent in mails}
        working = [to for page, to in pages.items() if not is_dead(page)]
        assert working == [[RIGHT]], (order.reference, pages)


class TestStaff:
    """What staff read on the page that corrects the address, and later on the page of the order."""

    @pytest.fixture
    def amina(self) -> Client:
        return person(*SUPPORT, "correct_customer")

    @pytest.fixture
    def order(self) -> Order:
        order = bought()
        announced(order)
        return order

    def told(self, browser: Client, order: Order) -> str:
        return plain(text(read(browser.get(order_page(order, "customer")))))

    def test_what_is_on_its_way_is_told_before(self, amina: Client, order: Order) -> None:
        assert "1 message will be sent to the new address." in self.told(amina, order)
        # A person who may not see messages reads nothing about them.
        other = person("correct_customer", name="karim")
        assert "message will be sent to the new" not in self.told(other, order)
        Delivery.objects.update(status="sending", claim="x")
        assert (
            "A message is being sent at this moment and may still arrive at the old address."
        ) in self.told(amina, order)

    def test_links_that_end_are_told_before(self, amina: Client, order: Order) -> None:
        assert send().sent == 1
        told = self.told(amina, order)
        assert "1 link that was sent to the old address will be withdrawn." in told
        assert "1 message will be sent to the new address." in told
        assert codes_in(press(page_of(mail.outbox[0].body)))
        assert "will go to the new address." not in self.told(amina, order)

    def test_codes_that_were_mailed_are_told_before_and_after(
        self, amina: Client, order: Order, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}
        assert send().sent == 1
        warning = f"The codes were sent to {WRONG} on"
        assert warning in self.told(amina, order)
        assert warning not in messages_section(amina, order)
        change_customer(order, email=RIGHT)
        assert warning in messages_section(amina, order)
        assert "This cannot be undone." in messages_section(amina, order)
        # The wrong address is no longer the customer's, and nothing else is on its way there.
        assert "codes were sent to" not in self.told(amina, order)

    def test_sending_again_leads_to_the_correction(self, amina: Client, order: Order) -> None:
        page = order_page(order, "customer")
        assert f'href="{page}"' in read(amina.get(to("send_again", order.pk)))
        browser = person(*SUPPORT, name="karim")
        assert page not in read(browser.get(to("send_again", order.pk)))

    def test_the_proof_of_delivery_has_the_correction_and_both_addresses(
        self, amina: Client, order: Order
    ) -> None:
        assert send().sent == 1
        change_customer(order, email=RIGHT, by="amina", reason="She called")
        proof = plain(text(read(amina.get(to("dispute", order.pk)))))
        for part in (
            WRONG,
            RIGHT,
            "amina corrected the customer's details.",
            f"customer e-mail before the change: {WRONG}",
        ):
            assert part in proof
