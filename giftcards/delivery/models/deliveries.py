"""Messages to customers, one row for each and each address; the rows are also the queue."""

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

# No message waits longer for its next attempt.
_LONGEST_WAIT = timedelta(days=1)
# How long a message may be open. Shorter disturbances end by themselves.
_PATIENCE = timedelta(minutes=5)


class DeliveryStatus(models.TextChoices):
    QUEUED = "queued", _("Waiting to be sent")
    SENDING = "sending", _("Being sent")
    RETRYING = "retrying", _("Waiting for another try")
    SENT = "sent", _("Sent")
    FAILED = "failed", _("Not sent")
    CANCELLED = "cancelled", _("Not needed any more")


#: No process is sending the message.
WAITING = (DeliveryStatus.QUEUED, DeliveryStatus.RETRYING)
#: A row in one of these is due when its ``next_attempt_at`` is past. One that is being sent is due
#: again once the claim of a process that must have died is over.
OPEN = (*WAITING, DeliveryStatus.SENDING)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def update(self, **values: Any) -> int:
        """As usual; whoever marks messages as failed also notes when that was."""
        if values.get("status") == DeliveryStatus.FAILED:
            values.setdefault("failed_at", timezone.now())
        return super().update(**values)

    def due(self, now: datetime) -> Self:
        """Messages that are to be sent now, longest due first."""
        # NULL in the rows that are done, so the index holds what is open together.
        return self.filter(next_attempt_at__lte=now).order_by("next_attempt_at", "pk")

    def late(self, now: datetime, *, limit: int) -> list[datetime]:
        """When messages were queued that should have been sent some minutes ago.

        Of all that are open, it looks at the ``limit`` that are due first.
        """
        # By the index of what is due: a planner takes each status for a common one.
        found = self.filter(next_attempt_at__lte=now + _LONGEST_WAIT)
        rows = found.order_by("next_attempt_at", "pk").values_list("created_at", flat=True)
        return [at for at in rows[:limit] if at <= now - _PATIENCE]

    def next_due_at(self) -> datetime | None:
        """When the next open message is due; ``None`` if none is open."""
        found = self.filter(next_attempt_at__isnull=False).aggregate(
            at=models.Min("next_attempt_at")
        )
        at: datetime | None = found["at"]
        return at

    def claim(self, wanted: Delivery, *, until: datetime) -> bool:
        """Claim a message that was read as due; False if another process was first.

        The claim ends at ``until``: if its process has died by then, another one takes over.
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
        # Whoever claimed it last has not said how that ended.
        if wanted.status == DeliveryStatus.SENDING:
            values["unanswered"] = wanted.unanswered + 1
        if not rows.update(**values):
            return False
        for name, value in values.items():
            setattr(wanted, name, value)
        return True

    def conclude(self, claimed: Delivery, **values: Any) -> bool:
        """Record how an attempt ended; False if its claim was over and another process has it."""
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, claim=claimed.claim)
        if not rows.update(**values):
            return False
        for name, value in values.items():
            setattr(claimed, name, value)
        return True

    def add(self, message: Delivery) -> bool:
        """Insert the message; False if it is there already, by its ``key``."""
        try:
            with transaction.atomic(using=self.db):
                message.save(force_insert=True)
        except IntegrityError:
            if not self.filter(key=message.key).exists():
                raise
            return False
        return True

    def cancel(self, **which: Any) -> int:
        """Cancel those of these messages that no process is sending; return how many."""
        rows = self.filter(status__in=WAITING, **which).order_by()
        return rows.update(status=DeliveryStatus.CANCELLED, next_attempt_at=None)

    def stop(self, **which: Any) -> int:
        """Let these messages hand over no further link; return how many are not sent at all.

        What a process is sending at this moment may go out, and is not tried again.
        """
        # All, because a process may begin to send one, or end, between the two statements.
        self.filter(status__in=OPEN, **which).order_by().update(is_stopped=True)
        return self.cancel(**which)

    def hold(self, claimed: Delivery) -> bool:
        """Have nobody stop the message until the transaction ends; False if somebody has.

        Or if its customer was erased.
        """
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, is_stopped=False)
        return bool(rows.filter(claim=claimed.claim).update(claim=claimed.claim))

    def hurry(self, waiting: Delivery) -> bool:
        """Have a message sent now that waits for another try; False if it does not wait."""
        now = timezone.now()
        rows = self.filter(
            pk=waiting.pk, status=DeliveryStatus.RETRYING, next_attempt_at__gt=now
        ).order_by()
        return bool(rows.update(next_attempt_at=now))

    def untold(self) -> Self:
        """Messages that were not sent, and that no later one to the same customer makes up for."""
        later = Delivery.objects.filter(
            order=OuterRef("order"), kind=OuterRef("kind"), pk__gt=OuterRef("pk")
        ).exclude(status__in=(DeliveryStatus.FAILED, DeliveryStatus.CANCELLED))
        return self.filter(~Exists(later), status=DeliveryStatus.FAILED)


def key_of(*occasion: str) -> str:
    """What makes a message one of its kind: nobody is told of the same occasion twice."""
    text = "\0".join(occasion)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class Delivery(models.Model):
    """A message to a customer: for one occasion, over one channel, to one address."""

    Status = DeliveryStatus

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="deliveries"
    )
    # What it announces: a move of the order, or a refund to the customer. It names no move if a
    # person has had it sent again.
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
    # Of these, those of which it is not known whether the message went out: the process died, or
    # the server did not answer.
    unanswered = models.PositiveIntegerField(default=0)
    # While it is being sent: when the claim of the process ends. NULL: it is done.
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True, default=timezone.now)
    claim = models.CharField(max_length=32, blank=True)
    # The links to the cards were withdrawn while it was being sent: there is no other attempt.
    is_stopped = models.BooleanField(default=False)
    # Class and place of the last error: its text may hold what was in the message.
    error = models.TextField(_("error"), blank=True)
    # As the channel calls it; by this name, a bounce is reported.
    message_id: models.CharField[str, str] = ExactCharField(max_length=200, blank=True)
    key = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    sent_at = models.DateTimeField(_("sent"), null=True)
    # When it was marked as failed, perhaps long after it was sent: it came back.
    failed_at = models.DateTimeField(null=True)
    # A name, as in giftcards.Acknowledgement; "" unless a person had it sent again.
    requested_by = models.CharField(_("by"), max_length=254, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])
    # It went to another address than the customer's at that time: whoever had it sent may do that
    # so many times in an hour.
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
        """Whether the customer was not told, and no further attempt is made."""
        return self.status == DeliveryStatus.FAILED


class Installation(models.Model):
    """When the app was installed: customers are told of nothing that happened before."""

    at = models.DateTimeField(default=timezone.now)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.at)

    @classmethod
    def begin(cls) -> datetime:
        """When that was; now, if it is not known yet."""
        return cls.objects.get_or_create(pk=1)[0].at
