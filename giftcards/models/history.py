"""The history of an order.

The history consists of status changes, which are also announced to receivers (the outbox), and of
acknowledgements.
"""

from __future__ import annotations

from datetime import datetime
from typing import Self, TypeVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.rules.states import Status

E = TypeVar("E", bound="OutboxEntry")


class OutboxQuerySet(models.QuerySet[E]):
    def to_announce(self, now: datetime) -> Self:
        """Return changes that are due to be announced, the earliest due first."""
        # The changes are sorted like the index. If they were sorted by age alone, a database might
        # scan all announced changes.
        due = self.filter(announced_at=None, announce_at__lte=now)
        return due.order_by("announced_at", "announce_at", "pk")

    def waiting_since(self, moment: datetime) -> Self:
        return self.waiting().filter(at__lte=moment)

    def waiting(self) -> Self:
        """Return changes that must still be announced to a receiver."""
        return self.filter(announced_at=None, announce_at__isnull=False)

    def backlog(self) -> tuple[int, datetime | None]:
        """Return the number and the earliest time of the :meth:`waiting` changes."""
        waiting = self.waiting().order_by()
        found = waiting.aggregate(count=models.Count("pk"), since=models.Min("at"))
        return found["count"], found["since"]

    def given_up(self) -> Self:
        """Return changes that were given up because a receiver kept failing."""
        return self.filter(announced_at=None, announce_at=None)


class StatusChangeQuerySet(OutboxQuerySet["StatusChange"]):
    pass


class OutboxEntry(models.Model):
    """A change that is announced to the receivers of a signal.

    See :mod:`giftcards.signals`. ``announced_at`` is NULL until all receivers have processed the
    change.
    """

    at = models.DateTimeField(_("when"), default=timezone.now)
    announced_at = models.DateTimeField(_("announced"), null=True, editable=False)
    # The time of the next attempt to announce the change. NULL if it was announced or given up.
    announce_at = models.DateTimeField(null=True, default=timezone.now, editable=False)
    # The names of the receivers that have processed the change. NULL if no receiver was called yet.
    announced_to = models.JSONField(null=True, editable=False)
    announce_failures = models.PositiveIntegerField(default=0, editable=False)
    announce_error = models.TextField(_("announcement failed"), blank=True, editable=False)

    class Meta:
        abstract = True


class StatusChange(OutboxEntry):
    """A change of an order's status, and its entry in the outbox.

    If both statuses are equal, the entry only records that the customer was kept waiting.
    """

    class Source(models.TextChoices):
        PLACING = "placing", _("Sending")
        CHECK = "check", _("Answer from the provider")
        CLOCK = "clock", _("Time limit")
        RECOVERY = "recovery", _("Recovery")
        STAFF = "staff", _("Staff")

    order = models.ForeignKey(
        "giftcards.Order", verbose_name=_("order"), on_delete=models.CASCADE, related_name="changes"
    )
    from_status = models.CharField(_("from"), max_length=20, choices=Status)
    to_status = models.CharField(_("to"), max_length=20, choices=Status)
    source = models.CharField(_("because of"), max_length=20, choices=Source)
    # The problems of the change, as entries {"code", "parameters"} without secrets: see
    # giftcards.rules.problems. If the change ended a problem, its entry also contains "ended":
    # true.
    details = models.JSONField(_("details"), default=list, blank=True)

    objects = StatusChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")
        ordering = ("pk",)
        indexes = (
            # This index is used to find changes that still have to be announced. In almost all
            # rows, announced_at is set and announce_at is NULL.
            models.Index(
                fields=("announced_at", "announce_at", "id"), name="giftcards_change_outbox"
            ),
        )

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"

    @property
    def is_move(self) -> bool:
        """True if the entry records a change of the status.

        False if the entry only records that the customer was kept waiting.
        """
        return self.from_status != self.to_status


class Acknowledgement(models.Model):
    """A decision that does not change the status of an order.

    An example is the acknowledgement of a problem. The ``by`` field is "" if no person made the
    decision.
    """

    order = models.ForeignKey(
        "giftcards.Order",
        verbose_name=_("order"),
        on_delete=models.CASCADE,
        related_name="acknowledgements",
    )
    code = models.CharField(_("code"), max_length=40)
    parameters = models.JSONField(_("parameters"), default=dict, blank=True)
    by = models.CharField(_("by"), max_length=254)
    at = models.DateTimeField(_("when"), default=timezone.now)

    class Meta:
        verbose_name = _("acknowledged problem")
        verbose_name_plural = _("acknowledged problems")
        ordering = ("pk",)
        # Acknowledgements are created and shown with their order, so they do not need a permission.
        default_permissions = ()

    def __str__(self) -> str:
        return self.code
