"""Messages to customers. A row is one message to one address; the rows are also the queue."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import IntegrityError, models, transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.kinds import Kind
from giftcards.models import CustomerRefund, Order, StatusChange
from giftcards.models.fields import ExactCharField, plain_line

# The longest time to the next attempt at a message.
_LONGEST_WAIT = timedelta(days=1)
# A message that has been open for longer is late. Shorter disturbances end by themselves.
_PATIENCE = timedelta(minutes=5)


class DeliveryStatus(models.TextChoices):
    QUEUED = "queued", _("Waiting to be sent")
    SENDING = "sending", _("Being sent")
    RETRYING = "retrying", _("Waiting for another try")
    SENT = "sent", _("Sent")
    FAILED = "failed", _("Not sent")
    CANCELLED = "cancelled", _("Not needed any more")


#: Statuses of messages that wait: no process is sending them.
WAITING = (DeliveryStatus.QUEUED, DeliveryStatus.RETRYING)
#: Statuses of messages that are not done. A row with one of these is due when its
#: ``next_attempt_at`` is past. While a message is being sent, that is the end of the claim: if it
#: is past, the process must have died.
OPEN = (*WAITING, DeliveryStatus.SENDING)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def update(self, **values: Any) -> int:
        """Update as usual; a ``status`` of failed sets ``failed_at`` to now, unless it is given."""
        if values.get("status") == DeliveryStatus.FAILED:
            values.setdefault("failed_at", timezone.now())
        return super().update(**values)

    def due(self, now: datetime) -> Self:
        """Messages that are to be sent now, longest due first."""
        # The column is NULL in rows that are done, so the index has the open ones side by side.
        return self.filter(next_attempt_at__lte=now).order_by("next_attempt_at", "pk")

    def late(self, now: datetime, *, limit: int) -> list[datetime]:
        """Creation times of open messages that have waited for 5 minutes or longer.

        Only the ``limit`` open messages that are due first are looked at.
        """
        # Uses the index on next_attempt_at: a planner would expect many rows of each status.
        found = self.filter(next_attempt_at__lte=now + _LONGEST_WAIT)
        rows = found.order_by("next_attempt_at", "pk").values_list("created_at", flat=True)
        return [at for at in rows[:limit] if at <= now - _PATIENCE]

    def next_due_at(self) -> datetime | None:
        """Time at which the next open message is due; ``None`` if no message is open."""
        found = self.filter(next_attempt_at__isnull=False).aggregate(
            at=models.Min("next_attempt_at")
        )
        at: datetime | None = found["at"]
        return at

    def claim(self, wanted: Delivery, *, until: datetime) -> bool:
        """Claim a message that was read as due; return False if another process was first.

        The claim expires at ``until``: then another process can take the message over.
        """
        token = uuid.uuid4().hex
        rows = self.filter(
            pk=wanted.pk, status=wanted.status, next_attempt_at=wanted.next_attempt_at
        )
        values: dict[str, Any] = {
            "status": DeliveryStatus.SENDING,
            "claim": token,
            "next_attempt_at": until,
            "attempts": wanted.attempts + 1,
        }
        # The process of the last claim has not recorded how its attempt ended.
        if wanted.status == DeliveryStatus.SENDING:
            values["unanswered"] = wanted.unanswered + 1
        if not rows.update(**values):
            return False
        for name, value in values.items():
            setattr(wanted, name, value)
        return True

    def conclude(self, claimed: Delivery, **values: Any) -> bool:
        """Record how an attempt ended; return False if the claim was lost in the meantime."""
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, claim=claimed.claim)
        if not rows.update(**values):
            return False
        for name, value in values.items():
            setattr(claimed, name, value)
        return True

    def add(self, message: Delivery) -> bool:
        """Insert the message; return False if a row has its ``key`` already."""
        try:
            with transaction.atomic(using=self.db):
                message.save(force_insert=True)
        except IntegrityError:
            if not self.filter(key=message.key).exists():
                raise
            return False
        return True

    def cancel(self, **which: Any) -> int:
        """Cancel those of these messages that wait; return their number."""
        rows = self.filter(status__in=WAITING, **which).order_by()
        return rows.update(status=DeliveryStatus.CANCELLED, next_attempt_at=None)

    def stop(self, **which: Any) -> int:
        """Keep these messages from handing over further links; return how many were cancelled.

        A message that is being sent at this moment may still go out, but is not retried.
        """
        # Marks all open rows: a process may begin or end an attempt between the two statements.
        self.filter(status__in=OPEN, **which).order_by().update(is_stopped=True)
        return self.cancel(**which)

    def hold(self, claimed: Delivery) -> bool:
        """Lock the row, so that nobody can stop the message until the transaction ends.

        Return False if it was stopped before, or the claim was lost, as when its customer was
        erased.
        """
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, is_stopped=False)
        return bool(rows.filter(claim=claimed.claim).update(claim=claimed.claim))

    def hurry(self, waiting: Delivery) -> bool:
        """Make a message that waits for a retry due now; return False if it does not wait."""
        now = timezone.now()
        rows = self.filter(
            pk=waiting.pk, status=DeliveryStatus.RETRYING, next_attempt_at__gt=now
        ).order_by()
        return bool(rows.update(next_attempt_at=now))

    def untold(self) -> Self:
        """Failed messages without a later open or sent one of the same order and kind."""
        later = Delivery.objects.filter(
            order=OuterRef("order"), kind=OuterRef("kind"), pk__gt=OuterRef("pk")
        ).exclude(status__in=(DeliveryStatus.FAILED, DeliveryStatus.CANCELLED))
        return self.filter(~Exists(later), status=DeliveryStatus.FAILED)


def key_of(*occasion: str) -> str:
    """The unique key of a message about ``occasion``, so that nobody is told of it twice."""
    text = "\0".join(occasion)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Delivery(models.Model):
    """A message to a customer: for one occasion, over one channel, to one address."""

    Status = DeliveryStatus

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="deliveries"
    )
    # What the message announces: a status change of the order, or a refund. A message that a
    # person had sent again has no status change.
    change = models.ForeignKey(
        StatusChange,
        verbose_name=_("status change"),
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
    )
    refund = models.ForeignKey(
        CustomerRefund,
        verbose_name=_("refund to a customer"),
        on_delete=models.PROTECT,
        null=True,
        related_name="+",
    )
    kind = models.CharField(_("message"), max_length=20, choices=Kind)
    channel = models.CharField(_("channel"), max_length=40, default="mail")
    address: models.CharField[str, str] = ExactCharField(_("address"), max_length=254)
    language = models.CharField(_("language"), max_length=20)
    status = models.CharField(
        _("status"), max_length=10, choices=DeliveryStatus, default=DeliveryStatus.QUEUED
    )
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    # The number of attempts with unknown outcome: the process died, or the server did not answer.
    unanswered = models.PositiveIntegerField(default=0)
    # The end of the claim while the message is being sent. NULL once it is done.
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True, default=timezone.now)
    claim = models.CharField(max_length=32, blank=True)
    # The message must hand over no further link, so it is not retried.
    is_stopped = models.BooleanField(default=False)
    # Class and place of the last error, without its text, which may quote the message.
    error = models.TextField(_("error"), blank=True)
    # The id that the channel gave to the message; a report of a bounce names it.
    message_id: models.CharField[str, str] = ExactCharField(max_length=200, blank=True)
    key = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    sent_at = models.DateTimeField(_("sent"), null=True)
    # When the message was marked as failed: long after it was sent, if it bounced.
    failed_at = models.DateTimeField(null=True)
    # A user name, as in giftcards.Acknowledgement; "" unless a person had the message sent again.
    requested_by = models.CharField(_("by"), max_length=254, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])
    # It went to another address than the customer's at that time. Such messages count against the
    # hourly limit of whoever had them sent.
    is_elsewhere = models.BooleanField(default=False, db_default=False)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = _("message to a customer")
        verbose_name_plural = _("messages to customers")
        ordering = ("-pk",)
        default_permissions = ("view",)
        permissions = (("resend_delivery", "Can have messages sent again, and links withdrawn"),)
        indexes = (
            models.Index(fields=("next_attempt_at", "id"), name="giftcards_delivery_due"),
            models.Index(fields=("status", "-id"), name="giftcards_delivery_status"),
            # For the filters of the admin's list.
            models.Index(fields=("kind", "-id"), name="giftcards_delivery_kind"),
            models.Index(fields=("channel", "-id"), name="giftcards_delivery_channel"),
            models.Index(fields=("message_id",), name="giftcards_delivery_message"),
            models.Index(fields=("address",), name="giftcards_delivery_address"),
            # How many messages a person has had sent again in the last hour.
            models.Index(fields=("requested_by", "created_at"), name="giftcards_delivery_by"),
            # For the digests: what failed since the last one.
            models.Index(fields=("failed_at",), name="giftcards_delivery_failed"),
        )

    def __str__(self) -> str:
        return str(self.get_kind_display())

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def needs_look(self) -> bool:
        """True if the message was given up: the customer was not told, and there is no retry."""
        return self.status == DeliveryStatus.FAILED


class Installation(models.Model):
    """The time of the app's installation: customers are not told of earlier events."""

    at = models.DateTimeField(default=timezone.now)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.at)

    @classmethod
    def begin(cls) -> datetime:
        """Return the time of installation; record the present time if there is none yet."""
        return cls.objects.get_or_create(pk=1)[0].at
