"""The effects on customers of a rotation and a purge, and of kills on these.

``python -m benchmarks upkeep 100000`` says for how many cards. The shop trades three times:
alone; beside a rotation and a purge that are killed at random and started again; and the same while
its own engine is killed, too. In the end every code is compared with the one that was delivered.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

from cryptography.fernet import Fernet
from django.db import connection
from django.db.models import Count
from django.utils import timezone

from benchmarks import pipeline, provider
from benchmarks.pipeline import Shop, engine, sent_after, spread, stored_after
from benchmarks.stage import configure, say
from giftcards.conf import conf
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order
from giftcards.privacy.rotation import RotationTally, count_left, verify
from giftcards.statuses import Status
from tests.builders import build_guide_order

_PLACES = range(1, 6)
_MADE_AT_ONCE = 200
_RATE, _LIMIT, _DELAY, _LATENCY = 60, 120, (3.0, 10.0), (0.15, 0.15)  # of the trade
_DEATHS = 12  # of a command or of the engine, before it is left alone
_COMMAND_LIVES, _ENGINE_LIVES = (0.6, 2.5), (5.0, 15.0)  # seconds
# After a kill, an order whose answer was lost is looked for, which takes minutes.
_PATIENCE = 600.0
_random = Random(12)
# Of the orders that were there before.
_OLD_TYPE = "type_002"


def run(*args: str, is_quick: bool) -> None:
    wanted = int(next(filter(str.isdecimal, args), 10_000 if is_quick else 100_000))
    seconds = 30.0 if is_quick else 90.0
    name = {"mysql": "MariaDB"}.get(connection.vendor, connection.vendor)
    say(f"{name}: {wanted:,} cards; {_RATE} orders a minute, each time for {seconds:g} s")
    old, new = conf.encryption_keys[0], Fernet.generate_key().decode()
    _use(old)
    _make(wanted // 2)
    with provider.running(products=10, delay=_DELAY, latency=_LATENCY) as simulated:
        with engine(simulated.url, _LIMIT):
            _trade("alone", simulated, seconds)
        _use(new, old)
        with engine(simulated.url, _LIMIT), _upkeep():
            _trade("beside rotation and purge", simulated, seconds)
        _use(old, new)
        _make(wanted // 2)
        _use(new, old)
        with _dying_engine(simulated.url), _upkeep():
            _trade("and the engine is killed", simulated, seconds)
        bought = len(simulated.ledger().orders)
    _use(new)
    _check(bought)


def _use(*keys: str) -> None:
    """The keys of this process, and of those that it starts from now on."""
    configure(ENCRYPTION_KEYS=list(keys))
    os.environ["GIFTCARDS_ENCRYPTION_KEYS"] = ",".join(keys)


def _make(wanted: int) -> None:
    """So many cards, or some more; every other order is old enough for the purge."""
    for _number in range(0, wanted, _MADE_AT_ONCE * len(_PLACES)):
        orders = Order.objects.bulk_create(
            build_guide_order(
                Status.FULFILLED,
                type_id=_OLD_TYPE,
                quantity=len(_PLACES),
                finalized_at=timezone.now() - timedelta(days=400 if number % 2 else 30),
            )
            for number in range(_MADE_AT_ONCE)
        )
        store_cards(
            Arrival(order, [CardSecret(_code(order.pk, place), "") for place in _PLACES])
            for order in orders
        )


def _code(order_id: int, place: int) -> str:
    return f"CODE-{order_id:09}-{place}"


@contextlib.contextmanager
def _upkeep() -> Iterator[None]:
    """Both commands, each killed ``_DEATHS`` times; they have ended when this ends."""
    commands = (
        ("giftcards_rotate_keys", "-v0"),
        ("giftcards_purge", "--settled-before", "365", "-v0"),
    )
    threads = [threading.Thread(target=_run_mortally, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def _run_mortally(command: Sequence[str]) -> None:
    began, deaths = time.monotonic(), 0
    for _number in range(_DEATHS):
        with _start(*command) as process:
            try:
                process.wait(timeout=_random.uniform(*_COMMAND_LIVES))
            except subprocess.TimeoutExpired:
                process.kill()
                deaths += 1
    with _start(*command) as process:
        if process.wait():
            raise RuntimeError(f"{command[0]} ended with {process.returncode}.")
    say(f"  {command[0]}: killed {deaths} times, done after {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _dying_engine(url: str) -> Iterator[None]:
    is_over = threading.Event()

    def run() -> None:
        deaths = 0
        while not is_over.is_set():
            with (
                Path(os.devnull).open("w") as nowhere,
                pipeline.start_engine(url, _LIMIT, log=nowhere) as process,
            ):
                is_over.wait(_random.uniform(*_ENGINE_LIVES) if deaths < _DEATHS else None)
                process.kill()
                deaths += not is_over.is_set()
        say(f"  engine: killed {deaths} times")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _start(*command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings"}
    return subprocess.Popen(
        [sys.executable, "manage.py", *command], cwd=pipeline.ROOT, env=environment
    )


def _trade(name: str, simulated: provider.Provider, seconds: float) -> None:
    shop = Shop()
    products = provider.product_ids(10)
    shop.trade(rate=_RATE, seconds=seconds, products=products, patience=_PATIENCE)
    ledger = simulated.ledger()
    in_time = partial(pipeline.is_within, shop.started_at, shop.closed_at)
    say(f"{name}: {len(shop.placed)} orders, {len(shop.placed) - len(shop.stored)} not settled")
    say(f"  sent after {spread(sent_after(shop, ledger, in_time))}")
    say(f"  codes stored after {spread(stored_after(shop, ledger, in_time))}")


def _check(bought: int) -> None:
    """Nothing was bought twice or lost, and each code is the one that was delivered."""
    assert count_left() == 0
    left = Card.objects.all().readable().count()
    assert verify(on_batch=lambda _tally: None) == RotationTally(done=left)
    opened = destroyed = 0
    keyring = conf.keyring()
    for card in Card.objects.filter(order__type_id=_OLD_TYPE).select_related("order").iterator():
        assert card.order.finalized_at is not None
        is_due = card.order.finalized_at < timezone.now() - timedelta(days=365)
        assert card.is_destroyed == is_due
        if card.is_destroyed:
            destroyed += 1
        else:
            assert card.open(keyring).value == _code(card.order_id, card.position)
            opened += 1
    assert opened == destroyed
    traded = Order.objects.exclude(type_id=_OLD_TYPE)
    assert {*traded.values_list("status", flat=True)} == {Status.FULFILLED}
    assert {*traded.annotate(stored=Count("cards")).values_list("stored", flat=True)} == {2}
    assert traded.count() == bought
    say(f"{opened:,} codes open, {destroyed:,} destroyed; {bought} orders bought once each")
