"""A customer's way from the order to the code: on a phone, in Arabic."""

from __future__ import annotations

from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from giftcards.delivery.models import CardLink, Delivery, Installation, LinkVisit
from giftcards.delivery.tuning import tuning
from giftcards.models import Order
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.browser.browser import Browser
from tests.builders import TYPE
from tests.delivery.connecting import connect, disconnect
from tests.delivery.mails import WORDS_FOR_CODES, plain
from tests.delivery.story import (
    ADDRESS,
    Mailbox,
    buy,
    codes_bought,
    codes_stored,
    deciding,
    links,
    part,
    settle_late,
    subject,
    work,
)
from tests.fakes.mail import file_settings
from tests.stage import fill_catalogue

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (390, 844)
BUTTON = ".gc-ask button"


def dinars(count: int) -> str:
    return f"{count:,} دج".replace(",", " ")


class Customer:
    """A customer who orders five cards at a time, reads the mails and opens their links."""

    def __init__(self, window: Browser, mailbox: Mailbox, desk: Path) -> None:
        self.window = window
        self.mailbox = mailbox
        self._desk = desk

    def order(self, type_id: str = TYPE) -> Order:
        order = buy(f"web-{type_id}", type_id, customer_language="ar")
        work()
        order.refresh_from_db()
        return order

    def open_mail(self) -> EmailMessage:
        """Open the latest mail as a mail program shows its HTML."""
        mail = self.mailbox.new()
        assert mail["To"] == ADDRESS
        self._desk.write_text(part(mail, "html"), encoding="utf-8")
        self.window.driver.get(self._desk.as_uri())
        self._look()
        return mail

    def show_cards(self) -> list[str]:
        """Press the button in the open mail and the one on the page, and return the codes."""
        self.window.press("a[href*='/cards/']")
        return self.press_button()

    def press_button(self) -> list[str]:
        """Press the button on the open page, and return the codes that it then shows."""
        self._look()
        assert self.window.find_all(".gc-secret") == []
        self.window.press(BUTTON)
        self._look()
        return self.window.texts(".gc-secret:not(.gc-serial)")

    def read(self) -> str:
        """Return the visible text of the page in the window."""
        return plain(self.window.find("body").text)

    def was_told(self, order: Order) -> list[str]:
        """Return the kinds of the messages about the order.

        All of them must have been sent and read.
        """
        assert self.mailbox.is_read()
        messages = Delivery.objects.order_by("kind")
        assert {(message.order, message.status) for message in messages} == {(order, "sent")}
        return [message.kind for message in messages]

    def used_links(self) -> list[str]:
        return list(LinkVisit.objects.order_by("pk").values_list("what", flat=True))

    def _look(self) -> None:
        """Check that the page is in the customer's language and fits the phone."""
        page = self.window.find("html")
        assert (page.get_attribute("lang"), page.get_attribute("dir")) == ("ar", "rtl")
        assert self.window.overflow() == 0
        assert self.window.complaints() == []


@pytest.fixture(autouse=True)
def _shop(
    settings: Any,
    site: str,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    # The driver presses the button faster than a person could.
    monkeypatch.setattr(tuning, "press_after", 0)
    settings.GIFTCARDS_DELIVERY = {
        "SHOP_URL": site,
        "FROM_EMAIL": "shop@shop.example",
        "SHOP_NAME": "متجر البطاقات",
        "CONTACT": "+213 21 00 00 00",
    }
    settings.GIFTCARDS = {**settings.GIFTCARDS, "POLL_INTERVAL": 0.1}
    for name, value in file_settings(tmp_path / "mails").items():
        setattr(settings, name, value)
    Installation.begin()
    connect()
    with deciding(simulator):
        yield
    disconnect()


@pytest.fixture
def customer(tab: Browser, tmp_path: Path) -> Customer:
    fill_catalogue()
    tab.resize(*PHONE)
    return Customer(tab, Mailbox(tmp_path / "mails"), tmp_path / "mail.html")


def test_all_cards_come_and_the_customer_reads_their_codes(
    customer: Customer, simulator: Simulator
) -> None:
    order = customer.order()
    mail = customer.open_mail()
    assert subject(mail) == "وصلت بطاقاتك: PlayStation Network"
    codes = codes_bought(simulator, order)
    assert len(codes) == 5
    assert not [code for code in codes if code in mail.as_string() + customer.read()]
    assert customer.show_cards() == codes == codes_stored(order)
    assert customer.was_told(order) == ["delivered"]
    assert customer.used_links() == ["opened", "revealed"]


def test_three_of_five_cards_come_and_the_customer_is_paid_back_the_rest(
    customer: Customer, simulator: Simulator
) -> None:
    order = customer.order("TEST_PARTIAL")
    mail = customer.open_mail()
    assert subject(mail) == "وصلت 3 بطاقات من أصل 5: PlayStation Network"
    owed = dinars(1_100)
    for told in (plain(part(mail, "plain")), customer.read()):
        assert "تعذّر تسليم بطاقتين." in told
        promise = f"سنعيد إليك {owed}"
        assert promise in told
        # Customers must not learn the price that the shop pays.
        assert not {"490", "980"} & set(told.split())
        assert dinars(980) not in told
    codes = codes_bought(simulator, order)
    assert customer.show_cards() == codes == codes_stored(order)
    assert len(codes) == 3
    missing = "تعذّر تسليم بطاقتين."
    promise = f"سيُعاد إليك مبلغ {owed}"
    assert f"{missing} {promise}" in customer.read()
    page = links(mail)[0]
    record_refund(order, amount=1_100, reference="CCP 0021", method="CCP")
    work()
    mail = customer.open_mail()
    paid = f"أعدنا إليك {owed}"
    assert plain(subject(mail)) == paid
    assert paid in customer.read()
    assert [link for link in links(mail) if "/cards/" in link] == []
    assert customer.was_told(order) == ["paid_back", "partly_delivered"]
    customer.window.driver.get(page)
    assert customer.press_button() == codes
    done = f"أُعيد إليك مبلغ {owed}"
    assert done in customer.read()
    assert "مرات العرض السابقة" in customer.read()


def test_no_card_comes_and_the_customer_hears_of_money_only(customer: Customer) -> None:
    order = customer.order("TEST_REFUND")
    mail = customer.open_mail()
    owed = dinars(2_750)
    for told in (plain(part(mail, "plain")), customer.read()):
        sorry = "تعذّر تسليم بطاقات الهدايا التي طلبتها، وعددها 5"
        assert sorry in told
        assert owed in told
        assert WORDS_FOR_CODES.search(told) is None
    assert [link for link in links(mail) if "/cards/" in link] == []
    assert not CardLink.objects.exists()
    for number, amount in enumerate((1_000, 1_750)):
        record_refund(order, amount=amount, reference=f"CCP {number}")
        work()
        customer.open_mail()
        assert dinars(amount) in customer.read()
    all_of_it = "أُعيد إليك كل المبلغ المستحق لك"
    assert all_of_it in customer.read()
    assert customer.was_told(order) == ["not_delivered", "paid_back", "paid_back"]


def test_a_late_customer_is_asked_to_wait_and_gets_the_cards_all_the_same(
    customer: Customer, simulator: Simulator, settings: Any
) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "POLL_TIMEOUT": 1}
    order = customer.order("SIM_NEVER")
    assert order.status == Status.DELAYED
    mail = customer.open_mail()
    for told in (plain(part(mail, "plain")), customer.read()):
        assert "ما زلنا نعمل عليه." in told
        assert "يُرجى عدم تكرار الطلب." in told
        assert WORDS_FOR_CODES.search(told) is None
    settle_late(simulator, order)
    customer.open_mail()
    codes = codes_bought(simulator, order)
    assert len(codes) == 5
    assert customer.show_cards() == codes == codes_stored(order)
    assert customer.was_told(order) == ["delayed", "delivered"]
