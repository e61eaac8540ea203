from __future__ import annotations

from typing import Any

from giftcards.keys.keyring import generate_key
from giftcards.management.output import ConsoleCommand


class Command(ConsoleCommand):
    help = "Print a new encryption key for GIFTCARDS['ENCRYPTION_KEYS'], and nothing else."
    notes = ("It needs no settings and no database.",)
    examples = (("Into a file that only you can read:", "> encryption-key"),)

    def handle(self, **options: Any) -> None:  # noqa: ARG002
        self.put(generate_key())
