"""What members of staff were told by digest."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import ExactCharField


class StaffDigest(models.Model):
    """The digests of one person: when the last one went out, and what they have been told."""

    address: models.CharField[str, str] = ExactCharField(_("address"), max_length=254, unique=True)
    sent_at = models.DateTimeField(_("last digest"), null=True)
    # What it covers: happenings until this moment.
    covers_until = models.DateTimeField(null=True)
    # What holds and was told, by name: it is told again only after it has ended.
    told = models.JSONField(default=dict)
    # Claimed until then by a process that is sending it, or waiting after a failure.
    next_attempt_at = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)
    error = models.TextField(_("error"), blank=True)

    class Meta:
        verbose_name = _("digest for staff")
        verbose_name_plural = _("digests for staff")
        ordering = ("address",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.address
