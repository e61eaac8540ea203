"""A process in which errors occur while Sentry and Django's error mail are active.

Both patch what they watch, so they run outside the tests' own process. The process prints, as JSON
and by scenario, what it and the two have reported.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing import Value
from typing import Any
from unittest import mock

import django
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
os.environ["DATABASE_URL"] = "sqlite://:memory:"
from tests import settings as site

site.ADMINS = ["staff@example.com"] if django.VERSION >= (6, 0) else [("", "staff@example.com")]
site.LOGGING["handlers"]["mail"] = {
    "class": "django.utils.log.AdminEmailHandler",
    "include_html": True,
}
site.LOGGING["loggers"]["django"] = {"handlers": ["mail"], "level": "ERROR"}
site.LOGGING["loggers"]["giftcards"] = {"handlers": ["mail"], "level": "INFO"}

EVENTS: list[Any] = []


class Collector(Transport):
    """A transport that takes the place of Sentry's server."""

    def capture_envelope(self, envelope: Envelope) -> None:
        if event := envelope.get_event() or envelope.get_transaction_event():
            EVENTS.append(event)


# This follows Sentry's documentation for Django; all other options have their defaults.
sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=Collector)
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import get_user_model  # noqa: E402
from django.core import mail  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.test import Client as Browser  # noqa: E402
from django.test import RequestFactory  # noqa: E402
from django.test.utils import override_settings, setup_test_environment  # noqa: E402
from django.urls import reverse  # noqa: E402
from django.utils import timezone  # noqa: E402
from django_q.timeout import TimeoutHandler  # noqa: E402
from django_q.worker import worker  # noqa: E402

from giftcards.conf import conf  # noqa: E402
from giftcards.delivery import links  # noqa: E402
from giftcards.delivery.models import CardLink  # noqa: E402
from giftcards.engine.outbox import announce  # noqa: E402
from giftcards.engine.recording import record_answers  # noqa: E402
from giftcards.engine.storing_cards import Arrival, store_cards  # noqa: E402
from giftcards.models import Card, Order  # noqa: E402
from giftcards.provider.answers import CardSecret  # noqa: E402
from giftcards.provider.client import Client  # noqa: E402
from giftcards.signals import order_finalized  # noqa: E402
from tests.builders import claim, make_guide_order, settled  # noqa: E402
from tests.docs.pages import blocks, page  # noqa: E402
from tests.fakes import pins  # noqa: E402
from tests.fakes.sockets import Server, response  # noqa: E402
from tests.fakes.storage import WITHOUT_SCRIPT  # noqa: E402
from tests.pages import LIST, SEARCH, sign_in  # noqa: E402
from tests.stage import PRICES, buy, failing, prove_key  # noqa: E402

# The canary is not written in one piece in this file, because Sentry also shows lines of code.
CANARY = "CANARY"
CODE = f"{CANARY}-CODE-5d81"
PASSWORD = f"{CANARY}-KEY horse"
CARDS = [CardSecret(f"{CODE}-{number}", f"{CANARY}-SERIAL-5d81-{number}") for number in range(3)]
ANSWER = settled("PARTIALLY_FILLED", CARDS)
# The token of a link to cards.
TOKEN = f"{CANARY}-KEY-{'A' * 21}"
ADDRESS = f"/cards/{TOKEN}/"


def receive() -> Order:
    order = make_guide_order()
    record_answers([(claim(order)[0], ANSWER)], now=timezone.now())
    return order


@contextmanager
def interrupted_by(make: Callable[[], bytes]) -> Iterator[None]:
    """Run a provider that sends what ``make`` returns, and then ends the task as django-q2 does."""

    def serve(server: Server, client: Any) -> None:
        while request := server.read(client):
            if request.startswith(b"GET /v3/gift-cards/checkProduct"):
                client.sendall(response(json.dumps(PRICES).encode()))
                continue
            client.sendall(make())
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            server.stopping.wait()

    with Server(serve) as server, TimeoutHandler(60):
        settings.GIFTCARDS["BASE_URL"] = server.url
        yield


# Scenarios.


def a_code_in_the_open() -> None:
    code = str(CARDS[0].value)
    raise OSError(len(code))


def search(table: str) -> None:
    receive()
    browser = sign_in(superuser=True)
    page = browser.get(LIST).content.decode()
    [field] = set(re.findall(r'<input type="text" name="(\w+)"', page))
    browser.raise_request_exception = False
    with failing("SELECT", table):
        answer = browser.post(SEARCH, {field: CARDS[0].value.lower()})
    assert answer.status_code == 500


def a_search_fails() -> None:
    search("giftcards_card")


def the_session_fails() -> None:
    search("django_session")


def the_user_fails() -> None:
    search("auth_user")


def a_card_of_another_order_is_read() -> None:
    card, other = receive().cards.get(position=1), receive().cards.get(position=1)
    Card.objects.filter(pk=card.pk).update(sealed=other.sealed)
    _ = Card.objects.get(pk=card.pk).value


def a_card_with_the_name_of_another_is_read() -> None:
    card, other = receive().cards.filter(position__lte=2)
    Card.objects.filter(pk=card.pk).update(identity=other.identity)
    _ = Card.objects.get(pk=card.pk).value


def a_page_of_the_shop_fails() -> None:
    card = receive().cards.get(position=1)
    code, serial, of_page = card.value, card.serial, {"cards": [(card, card.value)]}
    raise OSError(len(of_page), bool(code), bool(serial))


def reveal() -> None:
    """Reveal a card with the password, ten minutes after the last confirmation."""
    card = receive().cards.get(position=1)
    user = get_user_model().objects.create_superuser("boss", password=PASSWORD)
    browser = Browser(raise_request_exception=False)
    browser.force_login(user)
    session = browser.session
    session["giftcards_proof"]["at"] -= 601
    session.save()
    address = reverse("admin:giftcards_card_reveal", args=[card.pk])
    answer = browser.post(address, {"reason": "Lost", "password": PASSWORD})
    assert answer.status_code in {500, 503}
    assert CANARY not in answer.content.decode()


def a_page_with_a_revealed_code_fails() -> None:
    storages = {**settings.STORAGES, "staticfiles": {"BACKEND": WITHOUT_SCRIPT}}
    with override_settings(STORAGES=storages):
        reveal()


def a_password_cannot_be_checked() -> None:
    with failing("SELECT", '"auth_user"."username" = '):
        reveal()


def a_reveal_cannot_be_recorded() -> None:
    with failing("INSERT", "giftcards_cardreveal"):
        reveal()


def press_on_page(pin: Callable[[Order], str] = pins.canary, *, status: int = 200) -> None:
    """Type the PIN on the page behind a link, as a customer does, with the site's own server."""
    order = receive()
    first, other = order.cards.filter(position__lte=2)
    Card.objects.filter(pk=first.pk).update(sealed=other.sealed)
    shop = {"SHOP_URL": "https://shop.invalid", "PIN": f"{pins.__name__}.{pin.__name__}"}
    with (
        override_settings(GIFTCARDS_DELIVERY=shop),
        mock.patch.object(secrets, "token_urlsafe", return_value=TOKEN),
        mock.patch.object(time, "time", side_effect=count(time.time(), 5)),
    ):
        links.issue(order, origin=CardLink.Origin.MESSAGE)
        page = Browser().get(ADDRESS).content.decode()
        EVENTS.clear()
        posted = dict(re.findall(r'<input[^>]* name="(\w+)" value="([^"]+)"', page))
        [typed] = re.findall(r'<input id="gc-pin" name="(\w+)"', page)
        environ = RequestFactory().post(ADDRESS, {**posted, typed: pins.canary(order)}).environ
        statuses: list[str] = []
        site = get_wsgi_application()
        page = b"".join(site(environ, lambda line, *_: statuses.append(line))).decode()
    assert int(statuses[0].split()[0]) == status, page


def the_page_of_a_customer_fails() -> None:
    with failing("UPDATE", "giftcards_delivery_cardlink"):
        press_on_page(status=503)


def a_card_of_a_customer_does_not_open() -> None:
    press_on_page()


def code_of_the_shop_complains_on_the_page_of_a_customer() -> None:
    press_on_page(pins.complaining)


def _set_up_as_documented() -> None:
    """Configure Sentry as the security page describes, and let it send traces, too."""
    [block] = blocks(page("security"), "python")
    exec(block, shop := {})
    sentry_sdk.init(
        dsn="https://key@sentry.invalid/1",
        transport=Collector,
        traces_sample_rate=1.0,
        before_send=shop["without_links"],
        before_send_transaction=shop["without_links"],
    )


def a_trace_is_made_of_the_page_of_a_customer() -> None:
    _set_up_as_documented()
    press_on_page(pins.complaining)


def code_of_the_shop_fails_before_the_page_of_a_customer() -> None:
    _set_up_as_documented()
    failing = f"{pins.__name__}.{pins.FailingMiddleware.__name__}"
    with override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, failing]):
        press_on_page(status=500)


def cards_cannot_be_stored() -> None:
    # Recording does not let this error out, but callers of store_cards get it.
    with failing("INSERT", "giftcards_card"):
        store_cards([Arrival(make_guide_order(), ANSWER.cards)])


def a_task_ends_while_an_order_is_sent() -> None:
    prove_key()
    with interrupted_by(bytes):
        buy()


def half_an_answer() -> bytes:
    body = b'{"success": true, "data": {"cards": [{"value": "' + CODE.encode() + b'"},'
    return b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + body


def client_of_site() -> Client:
    return Client(base_url=conf.base_url, api_key=conf.api_key, timeout=30)


def a_task_ends_while_an_answer_is_read() -> None:
    with interrupted_by(half_an_answer), client_of_site() as client:
        client.check("A1")


def encryption_keys_are_wrong() -> None:
    settings.GIFTCARDS["ENCRYPTION_KEYS"] = [f"{CANARY}-KEY"]
    _ = conf.encryption_keys


def hang_after_an_error(order: Order, **_named: Any) -> None:
    code = str(order.cards.get(position=1).value)
    try:
        raise ValueError(f"{code} could not be mailed")
    except ValueError:
        signal.raise_signal(signal.SIGALRM)


def leave_with_a_message(order: Order, **_named: Any) -> None:
    sys.exit(f"{order.cards.get(position=1).value} could not be mailed")


@contextmanager
def told(receiver: Callable[..., None]) -> Iterator[None]:
    receive()
    order_finalized.connect(receiver)
    try:
        yield
    finally:
        order_finalized.disconnect(receiver)


def a_task_ends_while_a_receiver_handles_an_error() -> str:
    """Run the task as django-q2's worker does, and return the text for the row of the failure."""
    tasks: queue.Queue[Any] = queue.Queue()
    results: queue.Queue[Any] = queue.Queue()
    tasks.put({"name": "tick", "func": "giftcards.tasks.tick", "args": (), "kwargs": {}})
    with told(hang_after_an_error):
        worker(tasks, results, Value("f", -1), timeout=60)
    task = results.get_nowait()
    assert not task["success"]
    return str(task["result"])


def an_announcement_ends_while_a_receiver_handles_an_error() -> None:
    with told(hang_after_an_error), TimeoutHandler(60):
        announce()


def a_receiver_leaves_with_a_message() -> None:
    with told(leave_with_a_message):
        announce()


SCENARIOS = [
    a_code_in_the_open,
    a_search_fails,
    the_session_fails,
    the_user_fails,
    a_card_of_another_order_is_read,
    a_card_with_the_name_of_another_is_read,
    a_page_of_the_shop_fails,
    a_page_with_a_revealed_code_fails,
    a_password_cannot_be_checked,
    a_reveal_cannot_be_recorded,
    the_page_of_a_customer_fails,
    a_card_of_a_customer_does_not_open,
    code_of_the_shop_complains_on_the_page_of_a_customer,
    cards_cannot_be_stored,
    a_task_ends_while_an_order_is_sent,
    a_task_ends_while_an_answer_is_read,
    encryption_keys_are_wrong,
    a_task_ends_while_a_receiver_handles_an_error,
    an_announcement_ends_while_a_receiver_handles_an_error,
    a_receiver_leaves_with_a_message,
    # These scenarios come last, because they change what Sentry collects.
    a_trace_is_made_of_the_page_of_a_customer,
    code_of_the_shop_fails_before_the_page_of_a_customer,
]


def report(scenario: Callable[[], str | None]) -> dict[str, Any]:
    """Run ``scenario``; return its output, its traceback, Sentry's events and the mails."""
    EVENTS.clear()
    mail.outbox = []
    printed = []
    try:
        with override_settings(GIFTCARDS={**settings.GIFTCARDS}):
            printed.append(scenario())
    except BaseException as error:
        printed.append("".join(traceback.format_exception(error)))
        sentry_sdk.capture_exception(error)
        logging.getLogger("django.request").error("It failed.", exc_info=error)
    call_command("flush", verbosity=0, interactive=False)
    return {
        "printed": [text for text in printed if text],
        "sentry": [json.dumps(event, default=repr) for event in EVENTS],
        "mail": [f"{one.subject}\n{one.body}\n{one.alternatives}" for one in mail.outbox],
    }


if __name__ == "__main__":
    setup_test_environment()
    call_command("migrate", verbosity=0)
    json.dump({scenario.__name__: report(scenario) for scenario in SCENARIOS}, sys.stdout)
