"""A process that records answers, for tests in which several do so at once.

``prepare N`` makes N orders, claimed together; ``record`` says "ready", waits for a line, and
records the same final answer about each of them; ``report`` prints what there is then.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
if os.environ.get("HOST_DEFAULTS"):
    # A shop that has never heard of what SQLite is best told.
    from tests import settings

    settings.DATABASES["default"].pop("OPTIONS", None)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

from giftcards.engine.recording import record_answers  # noqa: E402
from giftcards.models import Card, Order, StatusChange  # noqa: E402
from tests.builders import PARTIAL, claim, make_guide_order  # noqa: E402


def main(command: str, *args: str) -> object:
    match command:
        case "prepare":
            call_command("migrate", verbosity=0)
            return len(claim(*[make_guide_order() for _ in range(int(args[0]))]))
        case "record":
            orders = list(Order.objects.all())
            # Each process comes across the others at another row.
            random.shuffle(orders)
            print("ready", flush=True)  # noqa: T201
            sys.stdin.readline()
            return record_answers([(order, PARTIAL) for order in orders], now=timezone.now())
        case _:
            return {
                "statuses": Order.objects.count_by_status(),
                "problems": Order.objects.needing_attention().count(),
                "changes": StatusChange.objects.count(),
                "positions": Counter(Card.objects.values_list("position", flat=True)),
            }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))  # noqa: T201
