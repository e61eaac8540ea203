"""The customer's pages in tests: a link, a browser without cookies, and a button to press."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from html import unescape
from typing import Any
from unittest import mock

from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from giftcards.delivery.links import issue
from giftcards.delivery.models import CardLink
from giftcards.models import Order
from giftcards.privacy.retention import Purge, purge
from giftcards.provider.answers import OrderAnswer
from tests.builders import CARDS, PARTIAL, settle

CODES = [card.value for card in CARDS]


def make_settled(
    reference: str = "web-1042", answer: OrderAnswer = PARTIAL, **values: Any
) -> Order:
    values = {"product_name": "PlayStation", "type_name": "500 DA", **values}
    return settle(reference, answer, **values)


def make_old(reference: str = "web-1042", **values: Any) -> Order:
    """Create an order that settled long ago and has no queued message."""
    order = make_settled(reference, **values)
    order.deliveries.all().delete()
    order.changes.update(announced_at=timezone.now(), announce_at=None)
    order.finalized_at = timezone.now() - timedelta(days=400)
    order.save(update_fields=["finalized_at"])
    return order


def purge_old() -> Purge:
    """Destroy the codes of the orders that settled long ago."""
    return purge(settled_before=timezone.now() - timedelta(days=365))


def address_of_new_link(order: Order) -> str:
    _link, token = issue(order, origin=CardLink.Origin.MESSAGE)
    return reverse("giftcards_delivery:cards", args=[token])


def fetch(address: str, browser: Client | None = None, *, ago: float = 5.0, **headers: Any) -> Any:
    """Request the page as if it were ``ago`` seconds ago."""
    now = time.time()
    with mock.patch.object(time, "time", return_value=now - ago):
        return (browser or Client()).get(address, **headers)


def page_token(response: Any) -> str:
    [found] = set(re.findall(r'name="token" value="([^"]+)"', response.content.decode()))
    return str(found)


def press(address: str, *, ago: float = 5.0, browser: Client | None = None, **posted: str) -> Any:
    """Fetch the page and press its button ``ago`` seconds later."""
    now = time.time()
    if "token" not in posted:
        posted["token"] = page_token(fetch(address, ago=ago))
    # The time that the two requests take must not matter.
    with mock.patch.object(time, "time", return_value=now):
        return (browser or Client()).post(address, posted)


def words(response: Any) -> str:
    """Return the visible text of the page."""
    markup = re.sub(r"<(head|script).*?</\1>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(unescape(strip_tags(markup)).split())


def codes_in(response: Any) -> list[str]:
    text = response.content.decode()
    return [card.value for card in CARDS if card.value in text or card.serial in text]
