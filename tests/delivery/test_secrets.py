"""No code, serial or link is readable in the database or logs, whatever became of the orders."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.core.servers.basehttp import WSGIRequestHandler
from django.test import Client
from django.test.testcases import QuietWSGIRequestHandler

from giftcards.delivery.models import Delivery, Installation, LinkVisit, StaffDigest
from giftcards.delivery.tasks import deliver
from giftcards.keys.keyring import normalised
from giftcards.models import CardReveal, Order
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from tests.builders import TYPE
from tests.conftest import Call
from tests.delivery.mails import let_pass
from tests.delivery.staff import SUPPORT, make_link, person, send_again, to
from tests.delivery.staff import link_on as shown_link
from tests.delivery.story import Mailbox, buy, deciding, links, settle_late, work
from tests.fakes.mail import file_settings
from tests.leaks import every_log, logged, raw_database, traces
from tests.pages import SEARCH, order_page, read, reveal

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)

STAFF = "staff@shop.example"
PERMISSIONS = (*SUPPORT, "reveal_card", "find_card", "check_order", "view_cardreveal")


@pytest.fixture
def mailbox(settings: Any, site: str, tmp_path: Path, tune: Callable[..., None]) -> Mailbox:
    # The test presses the button faster than a person.
    tune(press_after=0)
    settings.GIFTCARDS_DELIVERY = {
        "SHOP_URL": site,
        "FROM_EMAIL": "shop@shop.example",
        "SHOP_NAME": "The Shop",
        "STAFF_EMAILS": [STAFF],
    }
    for name, value in file_settings(tmp_path).items():
        setattr(settings, name, value)
    return Mailbox(tmp_path)


@pytest.fixture
def access_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    """The site's own request log, as ``runserver`` writes it. It is kept out of other logs."""
    monkeypatch.setattr(QuietWSGIRequestHandler, "log_message", WSGIRequestHandler.log_message)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("django.server")
    logger.addHandler(handler)
    with caplog.filtering(lambda entry: entry.name != logger.name):
        yield written
    logger.removeHandler(handler)


def test_no_code_and_no_link_is_left_anywhere_after_orders_of_every_outcome(
    mailbox: Mailbox,
    access_log: io.StringIO,
    simulator: Simulator,
    call: Call,
    caplog: pytest.LogCaptureFixture,
    set_conf: Callable[..., None],
) -> None:
    Installation.begin()
    # From now on, the app notifies staff of what happens.
    deliver()
    with every_log(caplog), deciding(simulator):
        set_conf(POLL_INTERVAL=0.1)
        orders = [buy(f"web-{kind}", kind) for kind in (TYPE, "TEST_PARTIAL", "TEST_REFUND")]
        tasks = work()
        set_conf(POLL_TIMEOUT=1)
        late = buy("web-late", "SIM_NEVER")
        tasks += work()
        tasks += settle_late(simulator, late)
        record_refund(orders[1], amount=1_100, reference="CCP 0021")
        tasks += work()
        mailed = pages_in(mailbox)
        shown = [use(address) for address in mailed]
        shown.append(open_account(late))
        amina = person(*PERMISSIONS)
        made, revealed = help_out(amina, orders[0])
        shown.append(revealed)
        tasks += work()
        sent = [address for address in pages_in(mailbox) if address not in mailed]
        shown += [use(address) for address in sent]
        assert use(made) == ""
        let_pass(minutes=60)
        tasks.append(deliver())
        printed = [
            call("giftcards_poll", json=True).out,
            call("giftcards_status").out,
            *(call("giftcards_status", order.reference, json=True).out for order in orders),
            *(read(amina.get(page)) for page in pages_of_staff(orders[0])),
        ]
    assert sorted(Delivery.objects.values_list("kind", "status")) == [
        ("delayed", "sent"),
        *[("delivered", "sent")] * 3,
        ("not_delivered", "sent"),
        ("paid_back", "sent"),
        ("partly_delivered", "sent"),
    ]
    assert STAFF in [mail["To"] for mail in mailbox.mails()]
    for model in (CardReveal, LinkVisit, LogEntry, Session, StaffDigest):
        assert model.objects.exists()
    codes, tokens = canaries(simulator), tokens_in([*mailed, *sent, made])
    # The pages show the codes, and the mails contain the tokens.
    assert all(traces(page, codes) for page in shown)
    assert len(set(traces(b"".join(mailbox.files()), tokens))) == len(mailed + sent) == 4
    assert traces(access_log.getvalue(), tokens)
    places: dict[str, list[str | bytes]] = {
        "database": [*raw_database()],
        "log": ["\n".join(logged(caplog))],
        "tasks": [*tasks],
        "printed": [*printed],
    }
    both = re.compile(codes.pattern + b"|" + tokens.pattern)
    expected = {"database": [], "log": [], "tasks": [], "printed": []}
    assert {name: found(texts, both) for name, texts in places.items()} == expected
    assert found([*mailbox.files(), *map(str, mailbox.mails())], codes) == []
    assert found([access_log.getvalue()], codes) == []


def pages_in(mailbox: Mailbox) -> list[str]:
    """Return the addresses of the customer's pages in the mails."""
    found = {link for mail in mailbox.mails() for link in links(mail) if "/cards/" in link}
    return sorted(found)


def use(address: str) -> str:
    """Return the page that a link reveals after programs have tried it, or "" if there is none."""
    for method, data in (("HEAD", None), ("POST", b"token=x"), ("OPTIONS", None)):
        fetch(address, method, data)
    token = re.search(r'name="token" value="([^"]+)"', fetch(address))
    if token is None:
        return ""
    posted = urlencode({"token": token[1]}).encode()
    fetch(address, "POST", posted + b"&file=1")
    return fetch(address, "POST", posted)


def fetch(address: str, method: str = "GET", data: bytes | None = None) -> str:
    try:
        with urlopen(Request(address, data, method=method), timeout=10) as answer:
            return str(answer.read().decode())
    except HTTPError as refusal:
        with refusal:
            return refusal.read().decode()


def open_account(order: Order) -> str:
    """Return the page that reveals the order to a customer who is logged in."""
    browser, user = Client(), get_user_model().objects.create_user("lina")
    Order.objects.filter(pk=order.pk).update(user=user)
    browser.force_login(user)
    listed = read(browser.get("/cards/"))
    form = listed.split(f'name="order" value="{order.pk}"')[1]
    page = form.split('name="token" value="')[1].split('"')[0]
    return read(browser.post("/cards/", {"order": str(order.pk), "token": page}))


def help_out(amina: Client, order: Order) -> tuple[str, str]:
    """Let staff reveal a card, find it, hand over a link, and send the message again.

    Return the link, which the new message has withdrawn, and the page that shows the card.
    """
    card = order.cards.get(position=1)
    revealed = read(reveal(amina, card))
    read(amina.post(SEARCH, {"secret": card.value}, follow=True))
    link = shown_link(make_link(amina, order))
    send_again(amina, order, links="all")
    return link, revealed


def pages_of_staff(order: Order) -> list[str]:
    return [
        "/admin/",
        order_page(order),
        f"/admin/giftcards/order/{order.pk}/history/",
        to("dispute", order.pk),
        "/admin/giftcards_delivery/delivery/",
        to("delivery_change", order.deliveries.latest("pk").pk),
        "/admin/giftcards_delivery/cardlink/",
        to("cardlink_change", order.card_links.latest("pk").pk),
    ]


def canaries(simulator: Simulator) -> re.Pattern[bytes]:
    """Return a pattern for the codes, their normalised forms for searching, and the serials."""
    cards = [card for order in simulator.orders.values() for card in order.cards]
    assert len(cards) == 13
    codes = [card.value for card in cards]
    # A serial that is part of a longer number, such as a time, does not count.
    serials = [rf"{card.serial}(?!\d)" for card in cards]
    return re.compile("|".join([*codes, *map(normalised, codes), *serials]).encode())


def tokens_in(addresses: list[str]) -> re.Pattern[bytes]:
    tokens = [address.rstrip("/").rpartition("/")[2] for address in addresses]
    return re.compile("|".join(map(re.escape, tokens)).encode())


def found(texts: Iterable[str | bytes], pattern: re.Pattern[bytes]) -> list[bytes]:
    return [trace for text in texts for trace in traces(text, pattern)]
