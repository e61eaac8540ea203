"""Fixtures that switch the app on; for other tests, it is installed but switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from giftcards.delivery.tuning import tuning
from tests.delivery.connecting import connect, disconnect
from tests.delivery.staff import SUPPORT, person
from tests.fakes.mail import MailServer, backend_settings, smtp_settings

SHOP: dict[str, Any] = {
    "SHOP_URL": "https://shop.example",
    "FROM_EMAIL": "Shop <shop@shop.example>",
    "SHOP_NAME": "The Shop",
}


@pytest.fixture(autouse=True)
def _delivery(settings: Any) -> Iterator[None]:
    settings.GIFTCARDS_DELIVERY = SHOP
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "shop.example"]
    connect()
    yield
    disconnect()


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change intervals and limits of messages, links and digests for a test."""

    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(tuning, name, value)

    return change


@pytest.fixture
def amina() -> Client:
    """Return a browser with a signed-in member of support."""
    return person(*SUPPORT)


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    """Yield the shop's mail server, which accepts everything unless a test sets another plan."""
    with MailServer() as running:
        _configure(settings, smtp_settings(running.port))
        yield running


@pytest.fixture
def send_through(settings: Any) -> Callable[..., None]:
    """Return a function that chooses the mail backend, with options as in MAILERS."""
    return lambda path, **options: _configure(settings, backend_settings(path, **options))


def _configure(settings: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(settings, name, value)
