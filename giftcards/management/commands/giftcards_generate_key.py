from __future__ import annotations

from typing import Any

from giftcards.keys.keyring import generate_key
from giftcards.management.output import ConsoleCommand


class Command(ConsoleCommand):
    help = "Print a new encryption key for GIFTCARDS['ENCRYPTION_KEYS'], and nothing else."
    notes = ("The command works without settings and without a database.",)
    examples = (("Write the key to a file:", "> encryption-key"),)

    def handle(self, **options: Any) -> None:  # noqa: ARG002
        self.put(generate_key())
