"""The app at work: elsewhere, it is installed and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from giftcards.delivery import receivers

SHOP: dict[str, Any] = {
    "BASE_URL": "https://shop.example",
    "FROM_EMAIL": "Shop <shop@shop.example>",
    "SHOP_NAME": "The Shop",
}


@pytest.fixture(autouse=True)
def _delivery(settings: Any) -> Iterator[None]:
    settings.GIFTCARDS_DELIVERY = SHOP
    receivers.connect()
    yield
    receivers.disconnect()
