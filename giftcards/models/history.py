"""The history of an order: status changes, which the outbox announces, and acknowledgements."""

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
        """Changes that are due to be announced, longest due first."""
        # The changes are sorted like the index: to sort them by age, a database may scan all
        # announced changes.
        due = self.filter(announced_at=None, announce_at__lte=now)
        return due.order_by("announced_at", "announce_at", "pk")

    def waiting_since(self, moment: datetime) -> Self:
        """The :meth:`waiting` changes that were made at ``moment`` or earlier."""
        return self.waiting().filter(at__lte=moment)

    def waiting(self) -> Self:
        """Changes that are still to be announced to some receiver."""
        return self.filter(announced_at=None, announce_at__isnull=False)

    def backlog(self) -> tuple[int, datetime | None]:
        """The number of the :meth:`waiting` changes, and the earliest time of these changes."""
        waiting = self.waiting().order_by()
        found = waiting.aggregate(count=models.Count("pk"), since=models.Min("at"))
        return found["count"], found["since"]

    def given_up(self) -> Self:
        """Changes that are no longer retried, because some receiver failed to take them."""
        return self.filter(announced_at=None, announce_at=None)


class StatusChangeQuerySet(OutboxQuerySet["StatusChange"]):
    pass


class OutboxEntry(models.Model):
    """A change that is announced to the receivers of a signal of :mod:`giftcards.signals`.

    ``announced_at`` is NULL until all of these receivers have taken the change.
    """

    at = models.DateTimeField(_("when"), default=timezone.now)
    announced_at = models.DateTimeField(_("announced"), null=True, editable=False)
    # When to announce the change next; NULL: it was announced, or given up.
    announce_at = models.DateTimeField(null=True, default=timezone.now, editable=False)
    # The names of the receivers that have taken the change; NULL: none was called yet.
    delivered_to = models.JSONField(null=True, editable=False)
    announce_failures = models.PositiveIntegerField(default=0, editable=False)
    announce_error = models.TextField(_("announcement failed"), blank=True, editable=False)

    class Meta:
        abstract = True


class StatusChange(OutboxEntry):
    """One move of an order, and its entry in the outbox."""

    class Source(models.TextChoices):
        PLACING = "placing", _("Sending")
        CHECK = "check", _("Answer of the provider")
        CLOCK = "clock", _("Time limit")
        RECOVERY = "recovery", _("Recovery")
        STAFF = "staff", _("Staff")

    order = models.ForeignKey(
        "giftcards.Order", verbose_name=_("order"), on_delete=models.CASCADE, related_name="changes"
    )
    from_status = models.CharField(_("from"), max_length=20, choices=Status)
    to_status = models.CharField(_("to"), max_length=20, choices=Status)
    source = models.CharField(_("because of"), max_length=20, choices=Source)
    # Entries as in giftcards.rules.problems: {"code", "parameters"}, without secrets. A problem
    # that the move ended also has "ended": true.
    details = models.JSONField(_("details"), default=list, blank=True)

    objects = StatusChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")
        ordering = ("pk",)
        indexes = (
            # This index serves the outbox: in almost every row, announced_at is set and announce_at
            # is NULL.
            models.Index(
                fields=("announced_at", "announce_at", "id"), name="giftcards_change_outbox"
            ),
        )

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"


class Acknowledgement(models.Model):
    """A decision about an order that leaves its status as it is, such as ticking off a problem.

    ``by`` is "" if the order went on automatically, without a person. No receiver is called.
    """

    order = models.ForeignKey(
        "giftcards.Order",
        verbose_name=_("order"),
        on_delete=models.CASCADE,
        related_name="acknowledgements",
    )
    # The problem, see giftcards.rules.problems.
    code = models.CharField(_("code"), max_length=40)
    parameters = models.JSONField(_("parameters"), default=dict, blank=True)
    by = models.CharField(_("by"), max_length=254)
    at = models.DateTimeField(_("when"), default=timezone.now)

    class Meta:
        verbose_name = _("problem ticked off")
        verbose_name_plural = _("problems ticked off")
        ordering = ("pk",)
        # Nobody needs a permission: an acknowledgement is created and shown with its order.
        default_permissions = ()

    def __str__(self) -> str:
        return self.code
