"""The texts of messages in three languages, and the secrets that they never hold."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unicodedata import combining

import pytest
from django.core import mail
from django.core.mail import EmailMultiAlternatives
from django.template.exceptions import TemplateDoesNotExist
from django.template.loader import get_template
from django.utils import timezone, translation
from hypothesis import given
from hypothesis import settings as trying
from hypothesis import strategies as st

import giftcards.delivery
from giftcards.delivery import links
from giftcards.delivery.channels import Mail, Message
from giftcards.delivery.conf import WITH_CARDS, Kind, Mode
from giftcards.delivery.facts import Payback, facts_of
from giftcards.delivery.messages import compose, needs_link, render
from giftcards.delivery.models import CardLink, Delivery
from giftcards.delivery.revealing import MOST_CODES, Code
from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import CardSecret, Masked
from giftcards.models import Card, CustomerRefund, Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.text.display import money_text
from tests.builders import (
    CARDS,
    FULFILLED,
    PARTIAL,
    REFUNDED,
    make_guide_order,
    make_offer,
    settle,
    settled,
)
from tests.delivery.examples import example
from tests.delivery.mails import UNSEEN, WORDS_FOR_CODES, plain
from tests.leaks import every_log, logged, mailed

LANGUAGES = ("en", "fr", "ar")
TOKEN = Masked("tok-" + "A" * 28)
LINK = f"https://shop.example/cards/{TOKEN}/"
LINE = {
    "product_name": "PUBG Mobile",
    "type_name": "325 UC",
    "sale_price": Decimal(550),
    "customer_name": "Lina",
}
CODES = [card.value for card in CARDS]


@pytest.fixture(autouse=True)
def _others_read_english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def codes_in_messages(settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": "codes"}


def write(
    order: Order,
    kind: str = "",
    *,
    language: str = "en",
    token: Masked | None = TOKEN,
    refund: CustomerRefund | None = None,
) -> Message:
    delivery = Delivery(
        order=order,
        kind=kind or facts_of(order).kind,
        language=language,
        address="lina@example.com",
        refund=refund,
    )
    return compose(delivery, token)


class _Reader(HTMLParser):
    """A parser that collects the texts and the elements of an HTML document."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        if tag not in {"a", "bdi", "span"}:
            self.texts.append(" ")
        self.elements.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False
        if tag not in {"a", "bdi", "span"}:
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.texts.append(data)


def read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


def seen(html: str) -> str:
    """Return the visible text of the HTML."""
    return " ".join("".join(read(html).texts).split())


def money(amount: int) -> str:
    return plain(money_text(Decimal(amount)))


def segments(text: str) -> int:
    """Return the number of SMS parts that the text takes."""
    gsm = (
        "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
        "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
    )
    one, many = (160, 153) if set(text) <= set(gsm) else (70, 67)
    return 1 if len(text) <= one else -(-len(text) // many)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", Kind.values)
class TestEveryMessage:
    def test_its_short_form_is_one_sms_or_two_in_arabic(self, kind: str, language: str) -> None:
        content = example(kind, Mode.LINK)
        facts = [content.facts]
        if kind in {Kind.PARTLY_DELIVERED, Kind.NOT_DELIVERED}:
            facts += [replace(facts[0], is_reordered=True), replace(facts[0], owed=None)]
        for each in facts:
            seen = replace(content, facts=each, link=content.link and LINK)
            short = render(seen, language=language, address="").short
            assert segments(short) <= (2 if language == "ar" else 1), (len(short), list(short))

    def test_it_says_what_was_ordered(self, kind: str, language: str) -> None:
        content = example(kind, Mode.LINK)
        content = replace(content, link=content.link and LINK)
        message = render(content, language=language, address="lina@example.com")
        for text in (plain(message.text), seen(message.html)):
            for part in ("Lina", "PUBG Mobile", "325 UC", "web-1042", "The Shop"):
                assert part in text
        assert (message.address, message.reference) == ("lina@example.com", "web-1042")
        assert "The Shop" in message.short

    def test_its_html_is_in_the_language_and_nothing_in_it_is_loaded_or_run(
        self, kind: str, language: str
    ) -> None:
        html = render(example(kind, Mode.LINK), language=language, address="").html
        reader = read(html)
        tag, attributes = reader.elements[0]
        direction = "rtl" if language == "ar" else "ltr"
        assert (tag, dict(attributes)) == ("html", {"lang": language, "dir": direction})
        assert not {"img", "script", "link", "iframe", "form"} & {tag for tag, _ in reader.elements}
        assert "url(" not in html
        assert "@import" not in html
        names = {name for _, attributes in reader.elements for name, _ in attributes}
        assert not {name for name in names if name.startswith("on")} | {"src"} & names

    def test_html_and_text_tell_the_same(self, kind: str, language: str) -> None:
        message = render(example(kind, Mode.CODES), language=language, address="")
        html = plain(seen(message.html))
        for line in filter(None, message.text.split("\n")):
            for part in plain(line).split(": "):
                assert part.strip(" :") in html

    def test_it_has_no_gaps_and_no_name_that_templates_do_not_get(
        self, kind: str, language: str, settings: Any
    ) -> None:
        [engine] = settings.TEMPLATES
        options = {**engine["OPTIONS"], "string_if_invalid": "UNKNOWN(%s)"}
        settings.TEMPLATES = [{**engine, "OPTIONS": options}]
        full = example(kind, Mode.CODES)
        bare = replace(full, facts=replace(full.facts, owed=None))
        linked = replace(example(kind, Mode.LINK), customer_name="")
        for content in (full, bare, linked):
            message = render(content, language=language, address="")
            for text in (message.subject, message.text, message.html, message.short):
                assert "UNKNOWN(" not in text
                assert "None" not in text
            assert "\n\n\n" not in message.text
            assert "\n\n" not in message.short


def test_every_template_compiles() -> None:
    paths = list((Path(giftcards.delivery.__file__).parent / "templates").rglob("*.*"))
    assert len(paths) > 20
    for path in paths:
        assert get_template(str(path).partition("/templates/")[2])


@pytest.mark.django_db
@pytest.mark.parametrize("language", LANGUAGES)
class TestLinks:
    @pytest.mark.parametrize("answer", [FULFILLED, PARTIAL], ids=["delivered", "partly"])
    def test_in_mode_link_a_message_has_the_link_and_no_code(
        self, answer: Any, language: str
    ) -> None:
        message = write(settle("web-1042", answer, **LINE), language=language)
        assert message.link == LINK
        # The link is on a line of its own, so that nothing else is copied with it.
        assert LINK in message.text.split("\n")
        assert LINK in message.short.split("\n")
        hrefs = [dict(attributes).get("href") for _, attributes in read(message.html).elements]
        assert hrefs.count(LINK) == 2
        whole = "".join([message.subject, message.text, message.html, message.short])
        assert not [card for card in CARDS if card.value in whole or card.serial in whole]

    @pytest.mark.parametrize("status", [Status.REFUNDED, Status.REJECTED, Status.DELAYED])
    def test_without_cards_there_is_neither_a_link_nor_a_word_of_codes(
        self, status: Status, language: str
    ) -> None:
        order = make_guide_order(status, reference="web-1042", **LINE)
        message = write(order, language=language)
        assert message.link == ""
        texts = [message.subject, message.text, message.short, seen(message.html)]
        assert not [text for text in texts if "/cards/" in text or str(TOKEN) in text]
        assert not [text for text in texts if WORDS_FOR_CODES.search(text)]

    def test_it_says_until_when_the_link_works(self, language: str, settings: Any) -> None:
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "LINK_DAYS": 3}
        day = timezone.localtime(links.expiry()).day
        message = write(settle("web-1042", FULFILLED, **LINE), language=language)
        for text in (message.text, seen(message.html)):
            assert re.search(rf"\b{day} ", text.split("web-1042")[0])


@pytest.mark.django_db
class TestLimitsOfLinks:
    def test_the_message_says_when_the_stored_link_ends(self) -> None:
        order = settle("web-1042", FULFILLED, **LINE)
        link, token = links.issue(order, origin=CardLink.Origin.MESSAGE)
        assert link.expires_at is not None
        text = write(order, token=token).text
        # A new minute may begin between the two.
        ends = (link.expires_at, link.expires_at + timedelta(minutes=1))
        assert any(timezone.localtime(end).strftime("%Y %H:%M") in text for end in ends)

    @pytest.mark.parametrize("token", [TOKEN, None])
    def test_without_an_address_of_the_shop_no_message_promises_a_page(
        self, token: Masked | None, settings: Any
    ) -> None:
        settings.GIFTCARDS_DELIVERY = {"SHOP_NAME": "The Shop"}
        with pytest.raises(ConfigurationError, match="SHOP_URL"):
            write(settle("web-1042", FULFILLED, **LINE), token=token)


@pytest.mark.django_db
@pytest.mark.usefixtures("codes_in_messages")
class TestCodes:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_each_code_and_serial_stands_alone_and_is_copied_as_it_is(self, language: str) -> None:
        message = write(settle("web-1042", PARTIAL, **LINE), language=language)
        lines = message.text.split("\n")
        cells = read(message.html)
        for card in CARDS[:3]:
            assert lines.count(card.value) == 1
            assert lines.count(card.serial) == 1
            assert cells.texts.count(card.value) == 1
            assert cells.texts.count(card.serial) == 1
        assert [code for code in CODES[3:] if code in message.text + message.html] == []
        short = message.short.split("\n")
        assert [line for line in short if line in CODES] == CODES[:3]
        ltr = re.compile(rf'<div [^>]*dir="ltr"[^>]*>{CODES[0]}</div>')
        assert ltr.search(message.html)
        assert message.link == ""
        assert str(TOKEN) not in message.text + message.html + message.short
        # The repr of a message contains no codes.
        parts = [message, *(getattr(message, name) for name in ("text", "html", "short"))]
        assert not [code for code in CODES if code in "".join(map(repr, parts))]

    def test_signs_of_html_in_a_code_are_read_as_they_are(self) -> None:
        odd = CardSecret("A&B<C>'D\"=E", "S&1")
        answer = settled("FULFILLED", [odd], quantity=1)
        message = write(settle("web-1042", answer, **{**LINE, "quantity": 1}))
        assert {odd.value, odd.serial} <= set(message.text.split("\n"))
        assert odd.value in message.short.split("\n")
        assert {odd.value, odd.serial} <= set(read(message.html).texts)

    @pytest.mark.parametrize("is_lost", [False, True])
    def test_a_card_that_cannot_be_opened_is_named_and_the_others_are_there(
        self, is_lost: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = settle("web-1042", PARTIAL, **LINE)
        second = order.cards.filter(position=2)
        if is_lost:
            second.delete()
        else:
            second.update(sealed=Card.objects.get(position=3).sealed)
        with every_log(caplog):
            message = write(order)
        assert [code for code in CODES if code in message.text] == [CODES[0], CODES[2]]
        [_, after] = message.text.split("Card 2\n")
        assert after.startswith("This card cannot be shown at the moment.")
        assert "This card cannot be shown at the moment." in seen(message.html)
        assert "Card 2 cannot be shown" in message.short
        [entry] = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
        assert "Of 3 cards of order web-1042, 1 cannot be shown to the customer. Card 2: " in (
            entry.getMessage()
        )
        assert not [code for code in CODES if code in "".join(logged(caplog))]

    def test_surplus_cards_are_not_handed_over(self) -> None:
        order = settle("web-1042", FULFILLED, **LINE)
        # The order is not saved, because its other rows are not of interest here.
        order.status, order.fulfilled_quantity = Status.PARTIALLY_FILLED, 4
        message = write(order)
        assert [code for code in CODES if code in message.text + message.html] == CODES[:4]

    def test_more_cards_than_fit_are_behind_a_link(self, settings: Any) -> None:
        cards = [CardSecret(f"CODE-{n:04}-X", f"{n:09}") for n in range(MOST_CODES + 1)]
        answer = settled("FULFILLED", cards, quantity=len(cards))
        order = settle("web-1042", answer, **{**LINE, "quantity": len(cards)})
        assert needs_link(order, Kind.DELIVERED)
        message = write(order)
        assert message.link == LINK
        assert "CODE-" not in message.text + message.html + message.short
        # A shop without pages can only send the codes.
        settings.GIFTCARDS_DELIVERY = {"MODE": "codes"}
        assert not needs_link(order, Kind.DELIVERED)
        lines = write(order, token=None).text.split("\n")
        assert lines[0].startswith("Hello")
        assert [line for line in lines if line.startswith("CODE-")] == [c.value for c in cards]

    def test_a_message_with_as_many_codes_as_fit_is_not_cut_off_by_gmail(self) -> None:
        codes = tuple(Code(n, f"ABCD-EFGH-IJKL-{n:04}", f"{n:016}") for n in range(MOST_CODES))
        content = replace(example(Kind.DELIVERED, Mode.CODES), codes=codes)
        message = render(content, language="ar", address="")
        assert message.html.count("ABCD-") == MOST_CODES
        assert len(message.html.encode()) < 102_000


@pytest.mark.django_db
def test_messages_without_cards_need_no_link() -> None:
    order = settle("web-1042", FULFILLED)
    assert not [kind for kind in Kind.values if kind not in WITH_CARDS and needs_link(order, kind)]


def texts_of(message: Message) -> list[str]:
    return [plain(message.text), plain(seen(message.html))]


@pytest.mark.django_db(transaction=True)
class TestMoney:
    def test_partly_delivered_says_what_came_what_is_missing_and_what_will_be_paid(
        self, settings: Any
    ) -> None:
        order = settle("web-1042", PARTIAL, **LINE)
        message = write(order)
        for text in texts_of(message):
            assert "3 of the 5" in text
            assert "2 gift cards could not be delivered" in text
            assert f"We will refund {money(1100)}" in text
            assert "We will write to you" in text
        assert money(1100) in message.short
        # A message that the shop does not send is not promised.
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": {"paid_back": "off"}}
        for text in texts_of(write(order)):
            assert money(1100) in text
            assert "We will write to you" not in text

    @pytest.mark.parametrize(
        ("amount", "said"),
        [
            (400, "We have refunded {}. We will refund another {}."),
            (1100, "We refunded {} on"),
        ],
    )
    def test_a_refund_in_part_is_not_taken_for_the_whole_one(self, amount: int, said: str) -> None:
        order = settle("web-1042", PARTIAL, **LINE)
        record_refund(order, amount=amount, reference="R1")
        for text in texts_of(write(order)):
            assert said.format(money(amount), money(1100 - amount)) in text
            assert str(timezone.localtime().year) in text
            promised = "will" in text.split("Product")[0].split("https")[0]
            assert promised == (amount < 1100)

    @pytest.mark.parametrize(
        ("answered", "subject", "begins"),
        [
            (PARTIAL, "3 of your 5 gift cards are here", "could not be delivered"),
            (REFUNDED, "Your order has not arrived yet: PUBG Mobile", "arrived yet"),
        ],
    )
    def test_cards_that_are_ordered_again_are_still_sought_and_no_money_is_promised(
        self, answered: Any, subject: str, begins: str
    ) -> None:
        order = settle("web-1042", answered, **LINE)
        Order.objects.filter(pk=order.pk).update(reordered_amount=1100)
        order.refresh_from_db()
        message = write(order)
        assert message.subject.startswith(subject)
        assert begins in message.text
        assert "You will receive either the cards or a refund." in plain(message.text)
        for text in texts_of(message):
            assert "We have ordered the missing" in text
            assert money(1100) not in text
            assert "We will refund" not in text

    def test_an_unknown_amount_is_promised_without_a_figure_and_of_nothing_no_money_is_said(
        self,
    ) -> None:
        order = settle("web-1042", REFUNDED, **{**LINE, "sale_price": None})
        for text in texts_of(write(order)):
            assert "We will refund what you paid" in text
            assert "DA" not in text
            # Customers must not learn the price that the shop pays the provider.
            assert "490" not in text
        order = settle("web-1043", PARTIAL, **{**LINE, "sale_price": Decimal(0)})
        assert facts_of(order).payback == Payback.NOTHING
        for text in texts_of(write(order)):
            assert "We will refund" not in text

    @pytest.mark.parametrize("status", [Status.REFUNDED, Status.REJECTED])
    def test_not_delivered_names_the_whole_amount(self, status: Status) -> None:
        order = make_guide_order(status, **LINE)
        for text in [*texts_of(write(order)), plain(write(order).short)]:
            assert money(2750) in text

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_paid_back_says_how_much_when_how_for_what_and_what_is_open(
        self, language: str
    ) -> None:
        order = settle("web-1042", PARTIAL, **LINE)
        refund = record_refund(order, amount=400, reference="R1", method="CCP")
        message = write(order, Kind.PAID_BACK, language=language, refund=refund)
        with translation.override(language):
            paid, left = money(400), money(700)
        for text in texts_of(message):
            for part in (paid, left, "CCP", "PUBG Mobile", str(timezone.localtime().year)):
                assert part in text
        assert paid in plain(message.subject)
        assert paid in plain(message.short)
        assert left in plain(message.short)

    def test_the_last_payment_says_that_nothing_is_open(self) -> None:
        order = settle("web-1042", PARTIAL, **LINE)
        with pytest.raises(ValueError, match="The order has no refund to the customer"):
            write(order, Kind.PAID_BACK)
        record_refund(order, amount=400, reference="R1")
        refund = record_refund(order, amount=700, reference="R2")
        for message in (write(order, Kind.PAID_BACK, refund=refund), write(order, Kind.PAID_BACK)):
            for text in texts_of(message):
                assert money(700) in text
                assert "You have been fully refunded." in text

    @pytest.mark.parametrize(
        ("language", "days", "said"),
        [
            ("en", 3, "You will receive the money by 3 Dec 2026 at the latest."),
            ("fr", 3, "Le remboursement vous parviendra au plus tard le 3 déc. 2026."),
            ("ar", 3, "يصلك المبلغ في أجل أقصاه 3 ديسمبر 2026."),
            # A day that has passed is not promised.
            ("en", 1, "We are sorry that your refund is late. We are working on it."),
        ],
    )
    def test_the_day_of_the_money_is_told_as_the_shop_has_promised_it(
        self, language: str, days: int, said: str, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.TIME_ZONE = "Africa/Algiers"  # where it is the 30th already
        order = settle("web-1042", PARTIAL, **LINE)
        order.finalized_at = datetime(2026, 11, 29, 23, 30, tzinfo=UTC)
        monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 12, 2, 12, tzinfo=UTC))
        for text in texts_of(write(order, Kind.PARTLY_DELIVERED, language=language)):
            assert said not in plain(text)
        settings.GIFTCARDS = {**settings.GIFTCARDS, "REFUND_DAYS": days}
        message = write(order, Kind.PARTLY_DELIVERED, language=language)
        for text in texts_of(message):
            assert said in plain(text)
        assert not {"\u2068", "\u2069"} & set(message.short)
        assert segments(message.short) <= (3 if language == "ar" else 2)
        record_refund(order, amount=1100, reference="R1")
        for text in texts_of(write(order, Kind.PARTLY_DELIVERED, language=language)):
            assert said not in plain(text)


def test_delayed_asks_to_wait_and_says_that_nothing_is_lost() -> None:
    message = render(example(Kind.DELAYED, Mode.LINK), language="en", address="")
    for text in texts_of(message):
        assert "still working on it" in text
        assert "your money is safe" in text
        assert "do not order again" in text
    assert "Please wait" in message.short


@pytest.mark.parametrize(
    ("values", "subject", "shown"),
    [
        ({}, "Gift card", ["Product: Gift card", "Reference: line-13"]),
        ({"group": "F 2026/7"}, "Gift card", ["Product: Gift card", "Reference: F 2026/7"]),
        (
            {"product_id": "read", "type_id": "known"},
            "PlayStation",
            ["Product: PlayStation", "Denomination: 325 UC"],
        ),
    ],
)
@pytest.mark.django_db
def test_a_customer_reads_no_name_of_the_insides_of_the_shop_or_the_provider(
    values: dict[str, str], subject: str, shown: list[str]
) -> None:
    # The order was recorded before the catalogue was read.
    order = make_guide_order(Status.FULFILLED, reference="line-13", **values)
    make_offer("known", product_id="read", name="325 UC")
    message = write(order)
    assert message.subject == f"Your gift cards are here: {subject}"
    assert message.reference == "line-13"
    assert order.product_id not in message.text
    text = plain(message.text)
    assert [row for row in shown if row not in text] == []
    assert ("Denomination" in text) is (subject == "PlayStation")


def test_times_are_those_of_the_site_wherever_the_message_is_written() -> None:
    content = example(Kind.DELAYED, Mode.LINK)
    at = datetime(2026, 6, 30, 23, 30, tzinfo=UTC)
    content = replace(content, facts=replace(content.facts, ordered_at=at))
    with timezone.override("America/New_York"):
        message = render(content, language="en", address="")
    for text in texts_of(message):
        assert "1 July 2026 00:30" in text


def test_the_currency_of_amounts_in_arabic_does_not_tear_figures_apart() -> None:
    content = example(Kind.NOT_DELIVERED, Mode.LINK)
    message = render(content, language="ar", address="")
    assert "2\u00a0450\u00a0دج" in message.short
    # The text begins with a name in Latin letters, which would otherwise reverse the direction of
    # all of it.
    assert message.short.startswith("\u200fThe Shop")


@pytest.mark.parametrize(
    ("language", "shown", "short"),
    [
        ("en", "1,000.50\u00a0DA", "1,000.50 DA"),
        ("fr", "1\u00a0000,50\u00a0DA", "1 000,50 DA"),
        ("ar", "1\u00a0000,50\u00a0دج", "1\u00a0000,50\u00a0دج"),
    ],
)
def test_no_line_breaks_inside_an_amount(language: str, shown: str, short: str) -> None:
    """This includes the heading and the subject of a mail, which lists of mails show."""
    content = example(Kind.PAID_BACK, Mode.LINK)
    assert content.refund
    refund = replace(content.refund, amount=Decimal("1000.50"))
    content = replace(content, refund=refund)
    message = render(content, language=language, address="lina@example.com")
    [heading] = re.findall(r"<h1[^>]*>(.*?)</h1>", message.html, re.DOTALL)
    [title] = re.findall(r"<title>(.*?)</title>", message.html, re.DOTALL)
    Mail().send(message)
    for text in (heading, title, mail.outbox[0].subject, UNSEEN.sub("", message.text)):
        assert shown in text
    # The alphabet of SMS has no non-breaking space.
    assert short in message.short


@pytest.mark.parametrize(
    ("contact", "address"),
    [("+213 555 12 34 56", "tel:+213555123456"), ("Ask at the counter", None)],
)
def test_the_contact_can_be_clicked_if_it_is_an_address(
    contact: str, address: str | None, settings: Any
) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "CONTACT": contact}
    message = render(example(Kind.DELAYED, Mode.LINK), language="en", address="")
    assert contact in message.text.split("\n")
    assert contact in read(message.html).texts
    hrefs = [dict(attributes).get("href") for _, attributes in read(message.html).elements]
    assert [href for href in hrefs if href] == ([address] if address else [])


def shape(message: Message) -> Any:
    """Return the structure of a message, without its words."""
    elements = [tag for tag, _ in read(message.html).elements]
    return elements, len(message.text.split("\n")), len(message.short.split("\n"))


HOSTILE = st.one_of(
    st.text(max_size=300),
    st.sampled_from(
        [
            "x\r\nBcc: evil@example.com", "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>', "\u202eevil\u2066", "{{ link }}{% load x %}",
            "%(count)s %s", "a\u2028b\x00c\x0bd", "A" * 5000, "\ud800",
        ]
    ),
)  # fmt: skip


@trying(max_examples=30)
@given(product=HOSTILE, kind_of_card=HOSTILE, reference=HOSTILE, name=HOSTILE, method=HOSTILE)
@pytest.mark.parametrize("kind", [Kind.PARTLY_DELIVERED, Kind.PAID_BACK, Kind.GIFT, Kind.RECEIPT])
def test_texts_of_others_change_neither_headers_nor_shape_nor_direction(
    kind: str, product: str, kind_of_card: str, reference: str, name: str, method: str
) -> None:
    usual = example(kind, Mode.LINK)
    # Unknown names are left out, so each begins with a letter.
    names = {"product": f"L{product}", "type": f"L{kind_of_card}"}
    facts = replace(usual.facts, **names, reference=reference)
    refund = usual.refund and replace(usual.refund, method=f"CCP{method}")
    words = "\n".join("".join(f"L{text}".splitlines()) for text in (name, method))
    gift = usual.gift and replace(usual.gift, name=f"L{name}", message=words)
    content = replace(usual, facts=facts, customer_name=f"L{name}", gift=gift, refund=refund)
    message = render(content, language="ar", address="lina@example.com")
    assert shape(message) == shape(render(usual, language="ar", address=""))
    assert len(message.subject.split("\n")) == 1
    # The letters are counted as they are shown: accents stand above letters.
    assert sum(not combining(letter) for letter in message.subject) < 200
    for text in (message.subject, message.text, message.short):
        assert not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066\u2067]", text
        )
        assert text.count("\u2068") == text.count("\u2069")
    mail = EmailMultiAlternatives(message.subject, message.text, "a@b.example", [message.address])
    mail.attach_alternative(message.html, "text/html")
    sent = mail.message()
    assert sent["Bcc"] is None
    # Lines in the body may break anywhere, so only the headers are searched.
    headers, _, _body = sent.as_bytes().partition(b"\n\n")
    assert b"\nBcc:" not in headers


class TestTemplatesOfTheShop:
    @pytest.fixture(autouse=True)
    def templates(self, settings: Any) -> dict[str, str]:
        [engine] = settings.TEMPLATES
        own: dict[str, str] = {}
        loaders = [
            ("django.template.loaders.locmem.Loader", own),
            "django.template.loaders.app_directories.Loader",
        ]
        options = {**engine["OPTIONS"], "loaders": loaders}
        settings.TEMPLATES = [{**engine, "APP_DIRS": False, "OPTIONS": options}]
        return own

    def test_words_of_a_kind_are_replaced_in_text_and_html_alike(
        self, templates: dict[str, str]
    ) -> None:
        templates["giftcards_delivery/messages/delayed/body.txt"] = (
            "One moment: {{ product }} & {{ reference }}.\n\nWe <3 you."
        )
        content = example(Kind.DELAYED, Mode.LINK)
        content = replace(content, facts=replace(content.facts, product="A&B <i>"))
        message = render(content, language="en", address="")
        assert "One moment: A&B <i> & web-1042." in plain(message.text)
        assert "A&amp;B &lt;i&gt;" in message.html
        assert message.html.count("<p ") == 3  # the greeting, and two paragraphs

    @pytest.mark.parametrize("name", ["message.html", "delayed/message.html"])
    def test_the_layout_is_extended_block_by_block_for_all_kinds_or_for_one(
        self, templates: dict[str, str], name: str
    ) -> None:
        templates[f"giftcards_delivery/messages/{name}"] = (
            '{% extends "giftcards_delivery/messages/message.html" %}'
            "{% block header %}<tr><td>Our logo</td></tr>{% endblock %}"
        )
        delayed, refunded = (
            render(example(kind, Mode.LINK), language="en", address="")
            for kind in (Kind.DELAYED, Kind.NOT_DELIVERED)
        )
        assert "Our logo" in delayed.html
        assert "PUBG Mobile" in delayed.html
        assert ("Our logo" in refunded.html) is (name == "message.html")

    def test_a_subject_of_several_lines_becomes_one(self, templates: dict[str, str]) -> None:
        templates["giftcards_delivery/messages/delayed/subject.txt"] = "\nWait\nfor {{ product }}\n"
        message = render(example(Kind.DELAYED, Mode.LINK), language="en", address="")
        assert message.subject == "Wait for PUBG Mobile"

    @pytest.mark.django_db
    @pytest.mark.usefixtures("codes_in_messages")
    @pytest.mark.parametrize("name", ["message.txt", "message.html", "delivered/short.txt"])
    def test_an_error_while_codes_are_written_shows_none_of_them(
        self, templates: dict[str, str], name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = settle("web-1042", FULFILLED, **LINE)
        templates[f"giftcards_delivery/messages/{name}"] = (
            # The text that is rendered so far is in a variable of the loop.
            "{% for code in codes %}{{ code.value }}{{ code.serial }}{{ code.nothing.there }}"
            '{% include "not/there.html" %}{% endfor %}'
        )
        with every_log(caplog), pytest.raises(TemplateDoesNotExist) as caught:
            write(order)
        report = mailed(caught.value)
        assert "not/there.html" in report
        # Django logs the names that templates cannot resolve, together with their whole context.
        assert "Exception while resolving variable" in "".join(logged(caplog))
        for text in (report, *logged(caplog)):
            assert not [c for c in CARDS if c.value in text or c.serial in text]

    @pytest.mark.django_db
    def test_an_error_while_a_link_is_written_does_not_show_it(
        self, templates: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        order = settle("web-1042", FULFILLED, **LINE)
        templates["giftcards_delivery/messages/message.html"] = (
            '{% for letter in "ab" %}{{ link }}{{ link.nothing.there }}'
            '{% include "not/there.html" %}{% endfor %}'
        )
        with every_log(caplog), pytest.raises(TemplateDoesNotExist) as caught:
            write(order)
        for text in (mailed(caught.value), *logged(caplog)):
            assert str(TOKEN) not in text
