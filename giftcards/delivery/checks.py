"""The system checks: wrong settings are found by ``manage.py check``, not by a customer."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.checks import CheckMessage, Error

from giftcards.delivery.conf import problems

# By options.Problem.kind.
IDS: Mapping[str, str] = {
    "unknown": "giftcards_delivery.E001",
    "type": "giftcards_delivery.E002",
    "range": "giftcards_delivery.E003",
    "mode": "giftcards_delivery.E004",
    "base_url": "giftcards_delivery.E005",
    "insecure": "giftcards_delivery.E006",
    "text": "giftcards_delivery.E007",
    "path": "giftcards_delivery.E008",
    "staff_emails": "giftcards_delivery.E009",
}


def check_settings(**_: object) -> list[CheckMessage]:
    """What is wrong with ``GIFTCARDS_DELIVERY``."""
    return [
        Error(problem.message, hint=problem.hint, id=IDS[problem.kind]) for problem in problems()
    ]
