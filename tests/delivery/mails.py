"""Messages that wait, and ways to have them sent."""

from __future__ import annotations

import re
import time
import uuid
from datetime import timedelta
from typing import Any

from django.db.models import F
from django.utils import timezone

from giftcards.delivery.channels import Limits
from giftcards.delivery.conf import KIND_OF_STATUS
from giftcards.delivery.models import Delivery, LinkVisit, StaffDigest
from giftcards.delivery.sending import SendingTally, send_due
from giftcards.models import Lease, Order, ProviderState
from giftcards.statuses import Status
from tests.builders import make_guide_order

ADDRESS = "lina@example.com"


def make_message(
    status: Status = Status.FULFILLED, *, order: Order | None = None, **values: Any
) -> Delivery:
    """Create a message that is due, by default about an order that was delivered just now."""
    address = values.setdefault("address", ADDRESS)
    order = order or make_guide_order(status, customer_email=address)
    values = {"kind": KIND_OF_STATUS[status], "language": "en", "key": uuid.uuid4().hex} | values
    return Delivery.objects.create(order=order, **values)


def send(*, seconds: float = 30) -> SendingTally:
    """Send the messages that are due, for at most ``seconds`` seconds."""
    return send_due(Limits(end_at=time.monotonic() + seconds))


def is_due() -> None:
    """Let time pass until every open message is due."""
    Delivery.objects.filter(next_attempt_at__isnull=False).update(
        next_attempt_at=timezone.now() - timedelta(seconds=1)
    )


def give_up(message: Delivery, seconds: float = 60) -> None:
    """Mark the message as given up this many seconds ago."""
    failed_at = timezone.now() - timedelta(seconds=seconds)
    Delivery.objects.filter(pk=message.pk).update(
        status="failed", next_attempt_at=None, failed_at=failed_at
    )


def again(message: Delivery) -> Delivery:
    """Return the message with the current values of its row."""
    return Delivery.objects.get(pk=message.pk)


def pause(message: Delivery) -> float:
    """Return the seconds until the next attempt."""
    due_at = again(message).next_attempt_at
    assert due_at is not None
    return (due_at - timezone.now()).total_seconds()


# Words for codes in the three languages.
WORDS_FOR_CODES = re.compile(r"code|serial|série|رمز|رموز|تسلسلي", re.IGNORECASE)
UNSEEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def plain(text: str) -> str:
    return " ".join(UNSEEN.sub("", text).split())


def note_tick() -> None:
    now = timezone.now()
    ProviderState.objects.update(last_tick_at=now, swept_at=now, succeeded_at=now)


def let_pass(**span: float) -> None:
    """Move recorded times into the past."""
    moments = [(Order, "finalized_at"), (Delivery, "failed_at"), (LinkVisit, "at")]
    for model, name in [*moments, (Lease, "until")]:
        rows = model.objects.filter(**{f"{name}__isnull": False})  # type: ignore[attr-defined]
        rows.update(**{name: F(name) - timedelta(**span)})
    for digest in StaffDigest.objects.all():
        for name in ("sent_at", "covers_until", "next_attempt_at", "retry_at"):
            if (at := getattr(digest, name)) is not None:
                setattr(digest, name, at - timedelta(**span))
        digest.save()
