from __future__ import annotations

from typing import Any

from giftcards.crypto import generate_key
from giftcards.management.base import GiftcardsCommand


class Command(GiftcardsCommand):
    help = "Print a new encryption key for GIFTCARDS['ENCRYPTION_KEYS'], and nothing else."
    has_json = False
    has_database = False

    def handle(self, **options: Any) -> None:  # noqa: ARG002
        self.stdout.write(generate_key())
