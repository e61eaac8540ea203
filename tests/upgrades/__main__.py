"""Record the shop of :mod:`tests.upgrades.shop` under the current version.

``python -m tests.upgrades unreleased``, or with the version, once it is released.
"""

from __future__ import annotations

import os
import sys


def main(name: str) -> None:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": "sqlite://:memory:"}
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from giftcards.delivery import receivers
    from giftcards.delivery.models import Installation
    from giftcards.simulator import Simulator
    from tests.delivery.conftest import SHOP
    from tests.upgrades import recording, shop

    call_command("migrate", verbosity=0)
    Installation.begin()
    settings.GIFTCARDS_DELIVERY = SHOP
    receivers.connect()
    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": simulator.url}
        shop.fill(simulator)
        recording.save(recording.take(simulator), name)


if __name__ == "__main__":
    main(sys.argv[1])
