"""A process that says "ready", waits for a line, and records one final answer for all orders.

A test starts several of these processes at once. Each prints how many orders it has settled.
"""

from __future__ import annotations

import os
import random
import sys

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
if os.environ.get("HOST_DEFAULTS"):
    # This shop does not use the recommended options for SQLite.
    from tests import settings

    settings.DATABASES["default"].pop("OPTIONS", None)
django.setup()

from django.utils import timezone  # noqa: E402

from giftcards.engine.recording import record_answers  # noqa: E402
from giftcards.models import Order  # noqa: E402
from tests.builders import PARTIAL  # noqa: E402

if __name__ == "__main__":
    orders = list(Order.objects.all())
    # Each process uses a different sequence, so the processes meet at different rows.
    random.shuffle(orders)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    print(record_answers([(order, PARTIAL) for order in orders], now=timezone.now()))  # noqa: T201
