"""The number of orders a second recorded as settled, with their cards encrypted."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from benchmarks.stage import quantile, say
from giftcards.conf import conf
from giftcards.engine.recording import record_answers
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.statuses import Status
from tests.builders import PRICE, build_guide_order, settled

BATCH = 100
DENOMINATIONS = 20
Pairs = Sequence[tuple[Order, OrderAnswer]]


def run(database: str, *, is_quick: bool) -> None:
    count, repeats = (300, 3) if is_quick else (1_000, 5)
    # Orders that settle alike share an UPDATE: so a shop with some denominations, and the worst.
    ways: dict[str, tuple[int, Callable[[Pairs], object]]] = {
        f"the app, {BATCH} orders a batch, {DENOMINATIONS} prices": (DENOMINATIONS, in_batches),
        f"the app, {BATCH} orders a batch, no two prices alike": (count, in_batches),
        "row by row, a transaction an order": (
            DENOMINATIONS,
            partial(row_by_row, within=transaction.atomic),
        ),
        "row by row, each save by itself": (
            DENOMINATIONS,
            partial(row_by_row, within=nullcontext),
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    # In turn, so that what else the machine does disturbs all alike.
    for _repeat in range(repeats):
        for name, (prices, way) in ways.items():
            pairs = prepare(count, prices)
            started_at = time.perf_counter()
            way(pairs)
            rates[name].append(count / (time.perf_counter() - started_at))
            references = [order.pk for order, _answer in pairs]
            assert Order.objects.filter(pk__in=references, status="FULFILLED").count() == count
            assert Card.objects.filter(order__in=references).count() == 2 * count
    ours = statistics.median(next(iter(rates.values())))
    for name, measured in rates.items():
        median = statistics.median(measured)
        ratio = "" if median == ours else f"; the first is {ours / median:.1f} × as fast"
        say(
            f"{database}, {name}: {median:,.0f} a second (median of {repeats};"
            f" {quantile(measured, 0):,.0f} to {quantile(measured, 1):,.0f}){ratio}"
        )


def prepare(count: int, prices: int) -> Pairs:
    """Claimed orders of two cards at so many prices in turn, and the final answer about each."""
    token, until = uuid.uuid4().hex, timezone.now() + timedelta(minutes=10)
    orders = Order.objects.bulk_create(
        build_guide_order(quantity=2, claim=token, claimed_until=until) for _ in range(count)
    )
    answers = []
    for number, order in enumerate(orders):
        price = PRICE + number % prices
        figures = {"price_per_card": price, "fulfilled_amount": 2 * price}
        answers.append((order, settled("FULFILLED", new_cards(), quantity=2, **figures)))
    return answers


def new_cards() -> list[CardSecret]:
    return [CardSecret(uuid.uuid4().hex[:16], uuid.uuid4().hex[:9]) for _ in range(2)]


def in_batches(pairs: Pairs) -> None:
    for first in range(0, len(pairs), BATCH):
        record_answers(pairs[first : first + BATCH], now=timezone.now())


def row_by_row(pairs: Pairs, within: Callable[[], AbstractContextManager[Any]]) -> None:
    """The same rows, saved one by one."""
    keyring = conf.keyring()
    for order, answer in pairs:
        with within():
            before, order.status = order.status, Status(answer.status or "")
            order.finalized_at = order.checked_at = timezone.now()
            order.due_at = order.claimed_until = None
            order.fulfilled_quantity = len(answer.cards)
            order.fulfilled_amount = answer.fulfilled_amount
            order.price_per_card = answer.price_per_card
            order.save()
            for position, secret in enumerate(answer.cards, 1):
                card = Card(order=order, position=position)
                card.row = keyring.seal(secret, place=card.place)
                card.key_fingerprint = keyring.key_fingerprints[0]
                card.save()
            StatusChange(
                order=order, from_status=before, to_status=order.status, source="check"
            ).save()
