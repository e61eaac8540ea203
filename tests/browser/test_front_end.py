"""The example's separate front end: a page on another origin that uses only the API."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache

from example_project.api.models import Reveal
from giftcards.models import Order
from giftcards.simulator import Simulator
from tests.browser.axe import NARROW, THEMES, WIDE
from tests.browser.browser import Browser
from tests.browser.visits import Findings
from tests.example_shop import fill_shelf, kind, opened, work
from tests.stage import ROOT, ago, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FRONT_END = ROOT / "example_project" / "front_end"
API = "http://127.0.0.1:8000"
PASSWORD = "correct horse"
LOOKS = [(theme, window) for theme in THEMES for window in (WIDE, NARROW)]


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def front_end(tab: Browser, tmp_path: Path) -> Iterator[str]:
    """The address of the front end, which uses the API of the site."""
    folder = shutil.copytree(FRONT_END, tmp_path / "front_end")
    index = folder / "index.html"
    text = index.read_text()
    assert text.count(API) == 2
    index.write_text(text.replace(API, tab.site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def window(
    tab: Browser, front_end: str, simulator: Simulator, settings: Any, tmp_path: Path
) -> Iterator[Browser]:
    """A window on the front end; nobody is logged in."""
    settings.CORS_ALLOWED_ORIGINS = [front_end]
    cache.clear()
    fill_shelf()
    get_user_model().objects.create_user("amina", "amina@example.com", PASSWORD)
    with opened(settings, tmp_path / "mails", tab.site):
        yield Browser(tab.driver, front_end)
        tab.close_page()
    cache.clear()


def press(window: Browser, selector: str) -> None:
    window.find(selector).click()


def buy(window: Browser, type_id: str) -> Order:
    """Buy five cards, and return the order. The window then follows it."""
    window.choose("offer", str(kind(type_id).pk))
    window.fill(quantity="5")
    count = Order.objects.count()
    press(window, "#buy button")
    wait_until(lambda: Order.objects.count() > count)
    return Order.objects.latest("pk")


def test_a_customer_waits_is_told_of_the_delay_and_sees_the_codes_of_what_came_once(
    window: Browser, simulator: Simulator
) -> None:
    found = Findings()
    window.open("/")
    window.find("#login")
    found.look_at(window, "login", LOOKS)
    window.fill(username="amina", password="wrong")
    press(window, "#login button")
    window.wait_for_text("#trouble", "Unable to log in")
    window.fill(username="amina", password=PASSWORD)
    press(window, "#login button")
    # After five minutes, the page asks the customer to wait. A click on the order checks it at
    # once.
    slow = buy(window, "SIM_SLOW")
    window.wait_for_text("#state", "We are working on it")
    work()
    Order.objects.update(accepted_at=ago(301))
    work("--reference", slow.reference)
    window.wait_for_text("#state", "Please do not order again")
    found.look_at(window, "delayed", LOOKS)
    simulator.settle(Order.objects.get().provider_order_id)
    work("--reference", slow.reference)
    press(window, "#orders button")
    window.wait_for_text("#state", "Your cards are here")
    # Some of the cards come, and the missing ones are paid back.
    partial = buy(window, "TEST_PARTIAL")
    window.wait_for_text("#state", "We are working on it")
    work()
    window.wait_for_text("#state", "Some of your cards")
    partial.refresh_from_db()
    assert window.texts("#facts li") == [
        "Region: Algeria",
        "2 of 5 cards have arrived.",
        "We pay you back DZD 1,650.00.",
    ]
    codes = [card.value for card in partial.cards.all()]
    assert not any(code in window.driver.page_source for code in codes)
    assert not Reveal.objects.exists()
    found.look_at(window, "partly delivered", LOOKS)
    # The codes are shown once, even if the page is reloaded.
    press(window, "#reveal")
    assert window.texts("#codes code") == codes
    assert Reveal.objects.get().order == partial
    found.look_at(window, "codes", LOOKS)
    assert not any(code in window.driver.current_url for code in codes)
    window.driver.refresh()
    window.wait_for_text("#orders", "Some of your cards")
    press(window, "#orders button")
    window.wait_for_text("#hint", "The codes were shown")
    assert not window.find("#order").find_element("id", "reveal").is_displayed()
    assert not any(code in window.driver.page_source for code in codes)
    press(window, "#leave")
    window.find("#login")
    assert not window.find_all("#orders li")
    assert not found, str(found)
    # This comes from the wrong password.
    [complaint] = window.complaints()
    assert "400" in complaint
