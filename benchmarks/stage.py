"""Helpers of the benchmarks: printing, settings, orders that are on their way."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.utils import timezone

from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE, build_guide_order


def say(text: str) -> None:
    sys.stdout.write(f"  {text}\n")
    sys.stdout.flush()


def configure(**values: Any) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, **values}


def quantile(values: Iterable[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)]


def accept(provider_order_ids: Iterable[str], *, type_id: str = TYPE, quantity: int = 2) -> None:
    """Record orders that the provider has accepted a moment ago."""
    now = timezone.now()
    Order.objects.bulk_create(
        build_guide_order(
            Status.HANDLING,
            provider_order_id=provider_order_id,
            product_id=PRODUCT,
            type_id=type_id,
            quantity=quantity,
            sent_at=now,
            accepted_at=now,
            due_at=now,
        )
        for provider_order_id in provider_order_ids
    )
