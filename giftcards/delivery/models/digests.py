"""The digests that staff were sent."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import ExactCharField


class StaffDigest(models.Model):
    """The digests of one person: when the last one went out, and what they have been told."""

    # "" for the receivers of the signal.
    address: models.CharField[str, str] = ExactCharField(_("address"), max_length=254, unique=True)
    sent_at = models.DateTimeField(_("last digest"), null=True)
    # The person was told of the events up to this moment.
    covers_until = models.DateTimeField(null=True)
    # What the person knows, and what the last digest said: see delivery.digests.Told.
    told = models.JSONField(default=dict)
    # When to look for news next: at the end of the pause after a digest or a failure. While a
    # digest is being sent, the end of that process's claim. NULL: at once.
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True)
    failures = models.PositiveIntegerField(_("failed attempts"), default=0)
    error = models.TextField(_("error"), blank=True)

    class Meta:
        verbose_name = _("digest for staff")
        verbose_name_plural = _("digests for staff")
        ordering = ("address",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.address

    @property
    def is_failing(self) -> bool:
        """True if the last attempt to send a digest failed."""
        return self.failures > 0
