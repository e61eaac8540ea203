"""What members of staff were told by digest."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import ExactCharField


class StaffDigest(models.Model):
    """The digests of one person: when the last one went out, and what they have been told."""

    # "" for the receivers of the signal.
    address: models.CharField[str, str] = ExactCharField(_("address"), max_length=254, unique=True)
    sent_at = models.DateTimeField(_("last digest"), null=True)
    # What it covers: happenings until this moment.
    covers_until = models.DateTimeField(null=True)
    # What holds or is open and was told, and what the last digest said: see delivery.digests.Told.
    told = models.JSONField(default=dict)
    # When to look next whether there is something to tell: when a digest may be sent again, or
    # after a failure, or when the claim of the process ends that is sending it. NULL: at once.
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
        """Whether the last attempts to send it have failed."""
        return self.failures > 0
