"""A process that sends messages until it is killed: ``python -m tests.delivery.sending_worker``."""

from __future__ import annotations

import time

import django

django.setup()

from giftcards.delivery.channels import Limits  # noqa: E402 (only now are there models)
from giftcards.delivery.sending import send_due  # noqa: E402

while True:
    send_due(Limits())
    time.sleep(0.02)
