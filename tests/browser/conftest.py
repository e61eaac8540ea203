"""One Chromium for all browser tests, and the shop that it shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from selenium.webdriver import Chrome

from giftcards.simulator import Simulator
from tests.browser import showcase
from tests.browser.browser import Browser
from tests.browser.chromium import chromium, missing
from tests.stage import fill_catalogue


@pytest.fixture(scope="session")
def driver(live_server: Any) -> Iterator[Chrome]:
    """The browser, which stops before the site, so that the site can close its connections."""
    if reason := missing():
        pytest.skip(reason)
    with chromium() as started:
        yield started
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(timeout=5)


@pytest.fixture
def tab(driver: Chrome, site: str) -> Iterator[Browser]:
    """A tab on a site without any data."""
    opened = Browser(driver, site)
    opened.reset()
    yield opened
    opened.close_page()


@pytest.fixture
def browser(tab: Browser) -> Browser:
    """A window on the shop of :mod:`tests.browser.showcase`; nobody is logged in."""
    showcase.fill()
    get_user_model().objects.create_superuser("amina", password="correct horse")
    return tab


@pytest.fixture
def boss(browser: Browser) -> Browser:
    """The window of ``browser``, with a superuser logged in."""
    client = Client()
    client.force_login(get_user_model().objects.get(username="amina"))
    browser.set_cookie("sessionid", client.cookies["sessionid"].value)
    return browser


@pytest.fixture
def shop(boss: Browser, simulator: Simulator) -> Browser:
    """The window of ``boss``, with a catalogue."""
    fill_catalogue()
    return boss
