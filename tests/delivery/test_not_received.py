"""Cards that were delivered to the shop, but did not reach the person for whom they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from giftcards.delivery.models import CardLink, Delivery
from giftcards.delivery.tasks import deliver
from giftcards.engine import outbox
from giftcards.fulfilment import change_customer
from giftcards.models import Order
from tests.builders import CARDS, FULFILLED, PARTIAL
from tests.delivery.gifts import BUYER, make_gift
from tests.delivery.mails import send
from tests.delivery.pages import make_settled
from tests.delivery.staff import SUPPORT, person
from tests.fakes.mail import Fault, MailServer
from tests.pages import LIST, START, count_queries, element, order_page, plain, read, text, tiles

pytestmark = pytest.mark.django_db

CUSTOMER = (
    "The customer has not received the cards because no message could be delivered. Ask for a"
    " working address, and enter it in the order. The cards will then be sent automatically."
)
RECIPIENT = CUSTOMER.replace("customer", "recipient")


def refused(server: MailServer, make: Callable[..., Order] = make_settled, **values: Any) -> Order:
    """Return an order whose mail with the cards was refused for good, while a receipt arrives."""
    order = make(**{"customer_email": BUYER, "customer_language": "en", **values})
    refusal = Fault("rcpt", "550 5.1.1 No such user")
    server.plan = lambda number: refusal if number == 1 else None
    outbox.announce()
    assert send().failed == 1
    return order


def summary(browser: Client, order: Order) -> str:
    html = element(read(browser.get(order_page(order))), 'class="giftcards-summary"', "p")
    return plain(text(html))


def row(browser: Client) -> str:
    """Return the cell of the list that contains the status of its only order."""
    [cell] = re.findall(r'<td class="field-badge">.*?</td>', read(browser.get(LIST)), re.DOTALL)
    return str(cell)


@pytest.mark.parametrize(
    ("make", "answer", "said", "brought"),
    [
        (make_settled, FULFILLED, CUSTOMER, "all 5 cards"),
        (make_settled, PARTIAL, CUSTOMER, "3 of 5 cards"),
        (make_gift, FULFILLED, RECIPIENT, "all 5 cards"),
        (make_gift, PARTIAL, RECIPIENT, "3 of 5 cards"),
    ],
    ids=["mail", "mail in part", "gift", "gift in part"],
)
def test_page_list_and_start_page_say_that_refused_cards_were_not_received(
    make: Callable[..., Order], answer: Any, said: str, brought: str, server: MailServer
) -> None:
    order = refused(server, make, answer=answer)
    browser = person(*SUPPORT, "check_order", "correct_customer")
    assert summary(browser, order).startswith(f"{said} The provider delivered {brought} on ")
    assert 'giftcards-unconfirmed">Not received</span>' in read(browser.get(order_page(order)))
    cell = row(browser)
    assert plain(text(cell)) == "Not received ⚠ correct the address"
    assert f'title="{said}"' in cell
    assert "giftcards-fulfilled" not in cell
    assert "1 message that a customer did not receive" in tiles(read(browser.get(START)))


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "The provider delivered the card on "),
        ("fr", "Le fournisseur a livré la carte le "),
        ("ar", "سلّم المزوّد البطاقة في "),
    ],
)
def test_of_a_single_card_no_number_is_told(
    language: str, said: str, server: MailServer, settings: Any
) -> None:
    settings.LANGUAGE_CODE = language
    figures = {"quantity": 1, "fulfilled_quantity": 1, "fulfilled_amount": Decimal(490)}
    answer = replace(FULFILLED, cards=CARDS[:1], **figures)
    order = refused(server, make_settled, answer=answer, quantity=1)
    assert said in summary(person(*SUPPORT), order)


def test_who_may_not_correct_an_address_reads_whom_to_ask(server: MailServer) -> None:
    order, browser = refused(server), person()
    ask = "ask a colleague with this role: Gift card support / Gift card manager."
    for said in (summary(browser, order), plain(text(row(browser).replace('title="', ">")))):
        assert CUSTOMER in said
        assert ask in said


def correct(order: Order) -> None:
    change = {"recipient_email": "x@example.com"} if order.is_gift else {"email": "x@example.com"}
    change_customer(order, by="amina", **change)
    deliver()


def show_in_account(order: Order) -> None:
    CardLink.objects.of_account(order)
    CardLink.objects.update(reveals=1)


@pytest.mark.parametrize("make", [make_settled, make_gift], ids=["mail", "gift"])
@pytest.mark.parametrize("end", [correct, show_in_account])
def test_it_is_over_once_the_cards_went_to_another_address_or_were_seen(
    end: Callable[[Order], None], make: Callable[..., Order], server: MailServer
) -> None:
    order = refused(server, make)
    end(order)
    browser = person(*SUPPORT)
    assert summary(browser, order).startswith("3 of 5 cards delivered.")
    assert plain(text(row(browser))) == "Partly delivered"


def test_a_mail_that_may_still_arrive_or_has_none_of_the_cards_marks_nothing(
    server: MailServer,
) -> None:
    order = make_gift()
    busy, gone = Fault("rcpt", "450 Later"), Fault("rcpt", "550 5.1.1 No such user")
    server.plan = lambda number: busy if number == 1 else gone
    outbox.announce()
    assert (send().failed, Delivery.objects.get(status="failed").kind) == (1, "receipt")
    assert plain(text(row(person()))) == "Partly delivered"
    assert summary(person(name="lina"), order).startswith("3 of 5 cards delivered.")


def test_a_list_of_many_takes_as_many_queries_as_one_of_few(server: MailServer) -> None:
    refused(server)
    browser = person(*SUPPORT)
    few = count_queries(browser, LIST)
    for number in range(9):
        make_settled(f"web-{number}", customer_email=BUYER)
    outbox.announce()
    Delivery.objects.filter(status="queued").update(status="failed", next_attempt_at=None)
    assert count_queries(browser, LIST) == few <= 30
    assert read(browser.get(LIST)).count("correct the address") == 10
