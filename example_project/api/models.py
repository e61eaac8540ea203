"""The record of who was shown the codes of an order over the API."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import models
from django.utils import timezone

from giftcards.models import Order

_LOST_ANSWER = timedelta(minutes=10)


class Reveal(models.Model):
    """The only time that the codes of an order were shown; committed before the response."""

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="api_reveal")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(default=timezone.now)
    # The page makes this key for the reveal, and repeats it if the answer was lost.
    key = models.UUIDField(editable=False)

    def __str__(self) -> str:
        return f"{self.order} {self.at:%Y-%m-%d %H:%M}"

    def is_repeated_by(self, key: UUID) -> bool:
        return self.key == key and timezone.now() - self.at < _LOST_ANSWER
