"""Times of answers, which must not tell a right link from a dead one, nor dead ones apart.

Then what it takes to show 2,000 cards. ``python -m benchmarks links``
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from benchmarks.stage import quantile, say
from giftcards.delivery.links import issue
from giftcards.delivery.models import CardLink
from giftcards.delivery.tuning import tuning
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Order
from giftcards.models.orders import MAX_QUANTITY
from giftcards.statuses import Status
from tests.builders import settled
from tests.delivery.pages import fetch, make_settled, page_token
from tests.history import add_history

# Milliseconds by which the middle of any kind of dead link may differ from that of a wrong one.
ALIKE = 5


def run(*, is_quick: bool) -> None:
    settings.GIFTCARDS_DELIVERY = {"SHOP_URL": "https://shop.example"}
    tuning.link_reveals = 1
    add_history(2_000 if is_quick else 100_000)
    tries = 200 if is_quick else 1_000
    addresses = {"wrong": lambda: _address("A" * 32)} | {
        name: _ended(name, end) for name, end in _ENDS.items()
    }
    opened = _address_of(make_settled("opened"))
    addresses |= {"right, opened before": lambda: opened, "right, new": _new}
    _compare(addresses, tries)
    _show_many()


def _compare(addresses: dict[str, Callable[[], str]], tries: int) -> None:
    """Fetch all kinds in turns, each round in another order."""
    browser = Client(SERVER_NAME="localhost")
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(tries + 20):
        for name in random.sample(list(addresses), len(addresses)):
            address = addresses[name]()
            began = time.perf_counter()
            browser.get(address)
            if number >= 20:  # warm
                took[name].append((time.perf_counter() - began) * 1_000)
    middle = statistics.median(took["wrong"])
    say(f"GET of a link, {tries:,} times each, in milliseconds: middle, 95 %, beside a wrong one")
    for name, times in took.items():
        apart = statistics.median(times) - middle
        say(f"  {name:<21}{statistics.median(times):6.2f}{quantile(times, 0.95):7.2f}{apart:+7.2f}")
        assert name.startswith("right") or abs(apart) < ALIKE, name


def _show_many() -> None:
    cards = [CardSecret(f"CODE-{n:04}-{n:04}", f"{n:010}") for n in range(MAX_QUANTITY)]
    order = make_settled("many", settled("FULFILLED", cards, quantity=len(cards)), quantity=2_000)
    address = _address_of(order)
    browser = Client(SERVER_NAME="localhost")
    posted = {"token": page_token(fetch(address, browser))}
    for name, fields in (("page", posted), ("file", {**posted, "file": "1"})):
        began = time.perf_counter()
        response = browser.post(address, fields)
        seconds = time.perf_counter() - began
        size = len(response.content) / 1_024
        say(f"{MAX_QUANTITY:,} cards, the {name}: {seconds:.2f} s, {size:,.0f} kB")


def _new() -> str:
    """A link that nobody has opened: the visit is written down."""
    return _address_of(Order.objects.get(reference="opened"))


def _address_of(order: Order) -> str:
    return _address(issue(order, origin=CardLink.Origin.MESSAGE)[1])


def _address(token: str) -> str:
    return reverse("giftcards_delivery:cards", args=[token])


def _ended(name: str, end: Callable[[CardLink], object]) -> Callable[[], str]:
    order = make_settled(name.replace(" ", "-"), customer_language="ar")
    link, token = issue(order, origin=CardLink.Origin.MESSAGE)
    end(link)
    address = _address(token)
    return lambda: address


def _update(**values: Any) -> Callable[[CardLink], object]:
    return lambda link: CardLink.objects.filter(pk=link.pk).update(**values)


def _reopen(link: CardLink) -> None:
    now = timezone.now()
    values = {"finalized_at": None, "open_amount": None, "is_consistent": None, "due_at": now}
    Order.objects.filter(pk=link.order_id).update(status=Status.HANDLING, **values)


_ENDS: dict[str, Callable[[CardLink], object]] = {
    "expired": _update(expires_at=timezone.now() - timedelta(days=1)),
    "revoked": _update(revoked_at=timezone.now()),
    "used up": _update(reveals=1),
    "not final": _reopen,
    "without cards": lambda link: link.order.cards.all().delete(),
}
