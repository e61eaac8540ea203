"""A process that says "ready", waits for a line, and records the same final answer for all orders.

For a test in which several do so at once; it prints how many orders it has settled.
"""

from __future__ import annotations

import os
import random
import sys

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
if os.environ.get("HOST_DEFAULTS"):
    # A shop that has never heard of what SQLite is best told.
    from tests import settings

    settings.DATABASES["default"].pop("OPTIONS", None)
django.setup()

from django.utils import timezone  # noqa: E402

from giftcards.engine.recording import record_answers  # noqa: E402
from giftcards.models import Order  # noqa: E402
from tests.builders import PARTIAL  # noqa: E402

if __name__ == "__main__":
    orders = list(Order.objects.all())
    # Each process comes across the others at another row.
    random.shuffle(orders)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    print(record_answers([(order, PARTIAL) for order in orders], now=timezone.now()))  # noqa: T201
