"""How much code four journeys pass through: files, functions, and crossings between files.

A crossing is a pair of functions in two files, of which one calls the other. A call through Django
or the standard library counts as a call by the nearest function of the app. Each journey is made
twice, and measured the second time, when the caches are filled.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from uuid import uuid4

from django.contrib.auth import get_user_model
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone

import giftcards
from benchmarks.stage import configure, say
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import follow
from giftcards.engine.sweep import sweep
from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.rules.times import today
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator
from tests.builders import PRODUCT

# Some of the cards do not come, so the order's page has a breakdown with a refund.
_LINE: dict[str, Any] = {"product_id": PRODUCT, "type_id": "TEST_PARTIAL", "quantity": 5}
_ROOT = str(Path(giftcards.__file__).parent)


class Trail:
    """The functions of the app that were entered, and the crossings between files."""

    def __init__(self) -> None:
        self.functions: set[CodeType] = set()
        self.crossings: set[tuple[CodeType, CodeType]] = set()
        self.calls = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call" or not _is_ours(frame.f_code):
            return
        self.functions.add(frame.f_code)
        caller = frame.f_back
        while caller and not _is_ours(caller.f_code):
            caller = caller.f_back
        if caller and caller.f_code.co_filename != frame.f_code.co_filename:
            self.crossings.add((caller.f_code, frame.f_code))
            self.calls += 1

    def __str__(self) -> str:
        files = {code.co_filename for code in self.functions}
        return (
            f"{len(files)} files, {len(self.functions)} functions,"
            f" {len(self.crossings)} crossings between files ({self.calls} calls)"
        )


def _is_ours(code: CodeType) -> bool:
    # The parts of a function, such as a comprehension, and the body of a module have names in <>.
    return code.co_filename.startswith(_ROOT) and not code.co_name.startswith("<")


def run(*, is_quick: bool) -> None:
    with Simulator(rate_limit=0, delay=(0, 0)) as simulator:
        configure(BASE_URL=simulator.url, REQUESTS_PER_MINUTE=6_000, POLL_INTERVAL=0.1)
        admin = get_user_model().objects.create_superuser("admin", "admin@example.com", "admin")
        browser = Browser(SERVER_NAME="localhost")
        browser.force_login(admin)
        _measure("place_order to stored cards", _buy)
        _measure("worker to signal", _follow)
        _measure("order page to breakdown", lambda trail: _open_page(browser, trail))
        _measure("report to CSV", lambda trail: _download(browser, trail))


def _measure(name: str, journey: Callable[[Trail], None]) -> None:
    journey(Trail())
    trail = Trail()
    journey(trail)
    say(f"{name}: {trail}")


def _buy(trail: Trail) -> None:
    """The shop places an order, a worker's sweep sends it, and the next one stores its cards."""
    with Gateway() as gateway:
        with trail.recording():
            order = place_order(reference=str(uuid4()), **_LINE)
            sweep(gateway)
        Order.objects.filter(pk=order.pk).update(due_at=timezone.now())
        with trail.recording():
            sweep(gateway)
    order.refresh_from_db()
    assert order.cards.count() == order.fulfilled_quantity > 0


def _follow(trail: Trail) -> None:
    """The worker's loop sends and checks an order, and tells a receiver how it ended."""
    order = place_order(reference=str(uuid4()), **_LINE)
    told = []

    def receive(order: Order, **_options: object) -> None:
        told.append(order.pk)

    order_finalized.connect(receive)
    with trail.recording():
        follow(seconds=20)
    order_finalized.disconnect(receive)
    assert told == [order.pk]


def _open_page(browser: Browser, trail: Trail) -> None:
    """Staff open the page of an order of which some cards did not come."""
    url = reverse("admin:giftcards_order_change", args=[Order.objects.latest("pk").pk])
    with trail.recording():
        page = browser.get(url)
    assert page.status_code == 200


def _download(browser: Browser, trail: Trail) -> None:
    """The owner downloads the report of today."""
    url = reverse("admin:giftcards_order_report_download")
    question = {"start": today(), "end": today(), "by": "day", "what": "report", "format": "csv"}
    with trail.recording():
        file = browser.post(url, question)
        text = file.getvalue().decode()
    assert text.count("\n") == 2
