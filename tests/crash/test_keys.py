"""Keys are rotated and old codes destroyed while the shop works, by processes that are killed."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import OperationalError, transaction
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from giftcards.privacy.retention import Purge, purge
from giftcards.privacy.rotation import RotationTally, count_left, rotate, verify
from giftcards.statuses import Status
from tests.builders import build_guide_order
from tests.stage import stop, use_keys

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.cluster, pytest.mark.django_db(transaction=True)]

OLD_ORDERS, YOUNG_ORDERS, CARDS_OF_ORDER = 450, 300, 3
YEAR = timedelta(days=365)
Codes = dict[tuple[int, int], str]
Start = Callable[..., subprocess.Popen[str]]

# This is called for each card, in transactions of 200, so most calls are in the middle of one.
SEALING = "giftcards.privacy.rotation:_sealed_under_first"
# These are called for each 200 orders.
PURGING = [
    "after giftcards.models.cards:CardQuerySet.destroy 2",
    "after giftcards.privacy.retention:_purge_batch 1",
]


class Shop:
    """A shop that receives and reveals cards meanwhile, and remembers each code."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.old = settings.GIFTCARDS["ENCRYPTION_KEYS"][0]
        self.new = Fernet.generate_key().decode()
        self.random = Random(12)
        self.codes: Codes = {}
        self._numbers = count(1)

    def use(self, *keys: str) -> None:
        use_keys(self.settings, *keys)

    def deliver(self, orders: int, *, days_ago: int) -> None:
        self.codes |= self._stored(orders, days_ago=days_ago)

    def _stored(self, orders: int, *, days_ago: int) -> Codes:
        finalized_at = timezone.now() - timedelta(days=days_ago)
        made = Order.objects.bulk_create(
            build_guide_order(Status.FULFILLED, quantity=CARDS_OF_ORDER, finalized_at=finalized_at)
            for _number in range(orders)
        )
        answers = [
            Arrival(order, [self._secret() for _card in range(CARDS_OF_ORDER)]) for order in made
        ]
        store_cards(answers)
        return {
            (order.pk, position): str(secret.value)
            for order, secrets, _settles in answers
            for position, secret in enumerate(secrets, 1)
        }

    def _secret(self) -> CardSecret:
        number = next(self._numbers)
        return CardSecret(f"CODE-{number:012}", f"{number:09}")

    def work(self) -> None:
        """Store new cards with the new or the old settings, and reveal one card."""
        self.use(self.old, self.new) if self.random.random() < 0.3 else self.use(self.new, self.old)
        come: Codes = {}
        # The database may roll this back in favour of the rotation; a real sweep would try again
        # next time.
        with contextlib.suppress(OperationalError), transaction.atomic():
            come = self._stored(1, days_ago=0)
        # Only committed codes are expected later.
        self.codes |= come
        self.use(self.new, self.old)
        order, position = self.random.choice(list(self.codes))
        card = Card.objects.select_related("order").get(order=order, position=position)
        assert card.is_destroyed or card.value == self.codes[order, position]


@pytest.fixture
def shop(settings: Any) -> Shop:
    shop = Shop(settings)
    shop.deliver(OLD_ORDERS, days_ago=400)
    shop.deliver(YOUNG_ORDERS, days_ago=30)
    shop.use(shop.new, shop.old)
    return shop


@pytest.fixture
def start(child: Start) -> Start:
    """Start a command that dies at the given step."""

    def run(*args: str, dies: str) -> subprocess.Popen[str]:
        return child(
            *args,
            DJANGO_SETTINGS_MODULE="tests.crash.settings",
            CRASH_CONF=json.dumps({}),
            CRASH_AT=dies,
        )

    return run


def destroyed() -> int:
    return Order.objects.filter(codes_destroyed_at__isnull=False).count()


def assert_whole(shop: Shop) -> None:
    """Check that each code that was not destroyed can be opened, and that no order is half done."""
    keyring = conf.keyring()
    for card in Card.objects.select_related("order"):
        assert card.is_destroyed == (card.order.codes_destroyed_at is not None)
        if not card.is_destroyed:
            assert card.open(keyring).value == shop.codes[card.order_id, card.position]
    assert Card.objects.count() == len(shop.codes)


def test_killing_rotation_and_purge_at_any_moment_loses_no_code_and_both_finish(
    shop: Shop, start: Start
) -> None:
    for purge_step in PURGING:
        call = shop.random.randint(150, 450)
        rotation_step = f"{shop.random.choice(['before', 'after'])} {SEALING} {call}"
        processes = [
            start("giftcards_rotate_keys", "--per-second", "100000", dies=rotation_step),
            start("giftcards_purge", "--settled-before", "365", dies=purge_step),
        ]
        while any(process.poll() is None for process in processes):
            shop.work()
        for process in processes:
            assert process.returncode == -signal.SIGKILL, stop(process)
        assert_whole(shop)
    assert count_left() > 0
    assert 0 < destroyed() < OLD_ORDERS
    rotate(per_second=1e6, on_batch=lambda _tally: None)
    purge(settled_before=timezone.now() - YEAR)
    assert_whole(shop)
    assert destroyed() == OLD_ORDERS
    assert purge(settled_before=timezone.now() - YEAR) == Purge()
    assert count_left() == 0
    shop.use(shop.new)
    left = len(shop.codes) - OLD_ORDERS * CARDS_OF_ORDER
    assert verify(on_batch=lambda _tally: None) == RotationTally(done=left)
    assert_whole(shop)
