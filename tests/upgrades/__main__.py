"""Record the shop of :mod:`tests.upgrades.shop` under this version.

``python -m tests.upgrades 0.1.0`` stores the recording permanently, under the name of the release;
see RELEASE.md for when to do this. The tests record the present state into a folder of their own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(name: str, folder: Path | None = None) -> None:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": "sqlite://:memory:"}
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from giftcards.delivery import queueing
    from giftcards.simulator import Simulator
    from tests.delivery.conftest import SHOP
    from tests.upgrades import recording, shop

    call_command("migrate", verbosity=0)
    settings.GIFTCARDS_DELIVERY = SHOP
    queueing.connect()
    with Simulator(delay=(0, 0), rate_limit=0) as simulator:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": simulator.url}
        shop.fill(simulator)
        recording.save(recording.take(simulator), name, folder or recording.FOLDER)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
