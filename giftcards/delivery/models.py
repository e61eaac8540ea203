"""Messages to customers, links to cards, link visits and staff digests."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import IntegrityError, models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.delivery.conf import TO_RECIPIENT, WITH_CARDS, Kind
from giftcards.delivery.tuning import tuning
from giftcards.models import Card, CustomerRefund, Order, StatusChange
from giftcards.models.fields import ExactCharField, plain_line
from giftcards.rules.states import FINAL
from giftcards.text.spelling import contact_of

_LONGEST_WAIT = timedelta(days=1)
# A message that waits longer than this is late. Staff need not know of shorter delays.
_PATIENCE = timedelta(minutes=5)
#: The number of wrong PINs that locks a link.
MOST_WRONG_PINS = 5
#: A reload of the page within this time does not count as another reveal.
SAME_REVEAL = timedelta(minutes=10)


class DeliveryStatus(models.TextChoices):
    QUEUED = "queued", _("Waiting to be sent")
    SENDING = "sending", _("Being sent")
    RETRYING = "retrying", _("Waiting for another attempt")
    SENT = "sent", _("Sent")
    FAILED = "failed", _("Not sent")
    CANCELLED = "cancelled", _("No longer needed")


#: The statuses of messages that are waiting to be sent.
WAITING = (DeliveryStatus.QUEUED, DeliveryStatus.RETRYING)
#: The statuses of messages that are not done. While a message is waiting, ``next_attempt_at`` is
#: the time when it is due. While it is being sent, this is the time when the claim ends.
OPEN = (*WAITING, DeliveryStatus.SENDING)


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def update(self, **values: Any) -> int:
        """Update the rows.

        If ``status`` is "failed", ``failed_at`` defaults to the current time.
        """
        if values.get("status") == DeliveryStatus.FAILED:
            values.setdefault("failed_at", timezone.now())
        return super().update(**values)

    def due(self, now: datetime) -> Self:
        """Return the messages that are due, earliest first."""
        # The column is NULL if a message is done, so only open messages match.
        return self.filter(next_attempt_at__lte=now).order_by("next_attempt_at", "pk")

    def late(self, now: datetime) -> Self:
        """Return late messages, earliest first.

        A message is late if it is still open at least 5 minutes after it first became due.
        """
        by = now - _PATIENCE
        rows = self.waiting(now).filter(
            Q(not_before__lte=by) | Q(not_before=None, created_at__lte=by)
        )
        return rows.order_by("next_attempt_at", "pk")

    def untold_since(self, since: datetime) -> Self:
        """Return the :meth:`untold` messages that failed after the given time."""
        return self.untold().filter(failed_at__gt=since)

    def waiting(self, now: datetime) -> Self:
        """Return open messages, except gifts that must be delivered later."""
        is_time = Q(not_before=None) | Q(not_before__lte=now)
        # The condition on next_attempt_at lets databases use the index on this column.
        return self.filter(is_time, next_attempt_at__lte=now + _LONGEST_WAIT)

    def next_due_at(self) -> datetime | None:
        """Return the time when the next open message is due, or ``None``.

        The result is ``None`` if there are no open messages.
        """
        found = self.filter(next_attempt_at__isnull=False).aggregate(
            at=models.Min("next_attempt_at")
        )
        at: datetime | None = found["at"]
        return at

    def claim(self, wanted: Delivery, *, until: datetime) -> bool:
        """Claim a message that was due when it was read.

        Returns False if another process claimed the message first.

        After ``until``, another process can claim the message.
        """
        rows = self.filter(
            pk=wanted.pk, status=wanted.status, next_attempt_at=wanted.next_attempt_at
        )
        wanted.claim = uuid.uuid4().hex
        values: dict[str, Any] = {
            "status": DeliveryStatus.SENDING,
            "claim": wanted.claim,
            "next_attempt_at": until,
            "attempts": wanted.attempts + 1,
        }
        # A message that is still being sent can be claimed only if the process that was sending it
        # has died. It is unknown whether that attempt succeeded.
        if wanted.status == DeliveryStatus.SENDING:
            values["unanswered"] = wanted.unanswered + 1
        return bool(rows.update(**values))

    def conclude(self, claimed: Delivery, **values: Any) -> bool:
        """Record the result of an attempt. Returns False if the claim was lost."""
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, claim=claimed.claim)
        return bool(rows.update(**values))

    def add(self, message: Delivery) -> bool:
        """Insert the message, unless a message with the same ``key`` exists.

        Returns True if the message was inserted.
        """
        try:
            with transaction.atomic(using=self.db):
                message.save(force_insert=True)
        except IntegrityError:
            if not self.filter(key=message.key).exists():
                raise
            return False
        return True

    def cancel(self, **which: Any) -> int:
        """Cancel matching messages that are waiting, and return their number."""
        rows = self.filter(status__in=WAITING, **which).order_by()
        return rows.update(status=DeliveryStatus.CANCELLED, next_attempt_at=None)

    def stop(self, **which: Any) -> int:
        """Stop matching open messages, so that no links are created for them.

        Waiting messages are cancelled, and the function returns their number. A message that is
        already being sent might still arrive, but the app does not retry it.
        """
        # Waiting rows are marked, too: an attempt may begin between the two statements.
        self.filter(status__in=OPEN, **which).order_by().update(is_stopped=True)
        return self.cancel(**which)

    def hold(self, claimed: Delivery) -> bool:
        """Lock the message's row until the transaction ends.

        The lock ensures that the message cannot be stopped in the meantime. Returns False if the
        message has already been stopped, or if the claim was lost.
        """
        rows = self.filter(pk=claimed.pk, status=DeliveryStatus.SENDING, is_stopped=False)
        return bool(rows.filter(claim=claimed.claim).update(claim=claimed.claim))

    def to(self, *, recipient: bool) -> Self:
        """Return the messages to customers, or the messages to gift recipients.

        ``recipient`` is True for the messages to gift recipients.
        """
        is_theirs = Q(kind__in=sorted(TO_RECIPIENT))
        return self.filter(is_theirs if recipient else ~is_theirs)

    def untold(self) -> Self:
        """Return failed messages that no later message replaces.

        A later message replaces a failed message if it is of the same kind, is about the same
        order, and is open or was sent.
        """
        later = Delivery.objects.filter(
            order=OuterRef("order"), kind=OuterRef("kind"), pk__gt=OuterRef("pk")
        ).exclude(status__in=(DeliveryStatus.FAILED, DeliveryStatus.CANCELLED))
        return self.filter(~Exists(later), status=DeliveryStatus.FAILED)

    def unreceived(self) -> Self:
        """Return :meth:`untold` messages whose cards did not arrive otherwise.

        A message is left out if another message with cards about the same status change was sent,
        or if a link has already shown the cards of the order.
        """
        kinds = sorted(WITH_CARDS)
        sent = Delivery.objects.filter(status=DeliveryStatus.SENT, kind__in=kinds)
        beside = sent.filter(change=OuterRef("change"))
        seen = CardLink.objects.filter(order=OuterRef("order"), reveals__gt=0)
        return self.untold().filter(~Exists(beside), ~Exists(seen), kind__in=kinds)


def key_of(*occasion: str) -> str:
    """Return a key that prevents a second message about the same occasion.

    The arguments identify the occasion.
    """
    text = "\0".join(occasion)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def put_off(until: datetime | None) -> dict[str, datetime]:
    """Return the column values that delay a message until the given time.

    If ``until`` is ``None``, the result is empty. A time in the past counts as now.
    """
    if until is None:
        return {}
    at = max(until, timezone.now())
    return {"not_before": at, "next_attempt_at": at}


def stored_id(message_id: str) -> str:
    """Return the form in which the id of a message is stored."""
    return message_id.replace("\0", "")[:200]


def stored_contact(contact: str) -> str:
    """Return the form in which a contact is stored."""
    return contact[:254]


class Delivery(models.Model):
    """A message to a customer, over one channel and to one address.

    Each message is about one event, for example a status change.
    """

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="deliveries"
    )
    # NULL if the message is about a refund, or if staff had a message sent again.
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
    # The address as ``contact_of`` returns it. It is used to find all messages to a person.
    contact: models.CharField[str, str] = ExactCharField(max_length=254, blank=True, editable=False)
    language = models.CharField(_("language"), max_length=20)
    status = models.CharField(
        _("status"), max_length=10, choices=DeliveryStatus, default=DeliveryStatus.QUEUED
    )
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    # The number of attempts with an unknown outcome, because the process died or the server did not
    # answer.
    unanswered = models.PositiveIntegerField(default=0)
    # The time when the message is due or, while it is being sent, the time when its claim ends.
    # NULL if the message is done.
    next_attempt_at = models.DateTimeField(_("next attempt"), null=True, default=timezone.now)
    # The earliest time of the first attempt, for the message that hands over a gift. NULL if the
    # message need not wait.
    not_before = models.DateTimeField(_("not before"), null=True)
    claim = models.CharField(max_length=32, blank=True)
    # True if no new link may be created for the message. Such a message is not retried.
    is_stopped = models.BooleanField(default=False)
    # The class of the last error, and the place in the code where it occurred. The error's text is
    # left out, because it may quote the message.
    error = models.TextField(_("error"), blank=True)
    # The id that the channel gave the message. A report of a bounce names this id.
    message_id: models.CharField[str, str] = ExactCharField(max_length=200, blank=True)
    key = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    sent_at = models.DateTimeField(_("sent"), null=True)
    # The time when the message failed. A report of a bounce may come long after ``sent_at``. NULL
    # if the message has not failed.
    failed_at = models.DateTimeField(null=True)
    # The name of the user who had the message sent again. The column is no foreign key, because
    # users may be deleted.
    requested_by = models.CharField(_("by"), max_length=254, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])
    # True if staff had the message sent to an address that is not the order's address. An hourly
    # limit applies to these messages.
    is_elsewhere = models.BooleanField(default=False)

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
            # These two indexes are used for the filters by kind and by channel in the admin's list.
            models.Index(fields=("kind", "-id"), name="giftcards_delivery_kind"),
            models.Index(fields=("channel", "-id"), name="giftcards_delivery_channel"),
            models.Index(fields=("message_id",), name="giftcards_delivery_message"),
            models.Index(fields=("address",), name="giftcards_delivery_address"),
            models.Index(fields=("contact",), name="giftcards_delivery_contact"),
            # This index is used for the hourly limit of each staff member.
            models.Index(fields=("requested_by", "created_at"), name="giftcards_delivery_by"),
            # This index is used for the condition "untold", which is about messages that failed
            # within the last day.
            models.Index(fields=("failed_at",), name="giftcards_delivery_failed"),
        )

    def __str__(self) -> str:
        return str(self.get_kind_display())

    def save(self, *args: Any, **named: Any) -> None:
        """Save the row.

        ``contact`` is set only when the row is created, because the address does not change later.
        """
        if self._state.adding:
            self.contact = stored_contact(contact_of(self.address))
        super().save(*args, **named)

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_put_off(self) -> bool:
        """True if the message is waiting for the delivery time of a gift."""
        is_ahead = self.not_before is not None and self.not_before > timezone.now()
        return is_ahead and self.status == DeliveryStatus.QUEUED

    @property
    def waits_since(self) -> datetime:
        return self.not_before or self.created_at

    @property
    def needs_look(self) -> bool:
        """True if the message failed, so that the customer was not notified."""
        return self.status == DeliveryStatus.FAILED


class Installation(models.Model):
    """The time when messages were set up.

    Customers do not receive messages about earlier events.
    """

    at = models.DateTimeField(default=timezone.now)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.at)

    @classmethod
    def begin(cls) -> datetime:
        """Return the time when messages to customers were set up.

        The first call records the current time.
        """
        return cls.objects.get_or_create(pk=1)[0].at


class CardLinkQuerySet(models.QuerySet["CardLink"]):
    def usable(self, now: datetime, *, page_key: str | None = None) -> Self:
        """Return the links that are not withdrawn, expired or used up.

        ``page_key`` is the key of a page. If this page showed the cards less than
        :data:`SAME_REVEAL` ago, the link of the page is included even if the link is used up.
        """
        links = self.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
        is_left = Q(reveals__lt=tuning.link_reveals)
        if page_key is None:
            return links.filter(is_left)
        shown = LinkVisit.objects.filter(link=OuterRef("pk"), key=page_key)
        return links.filter(is_left | Q(Exists(shown.filter(at__gt=now - SAME_REVEAL))))

    def with_cards(self) -> Self:
        """Return links to final orders that have cards for the customer."""
        paid_for = Card.objects.filter(
            order=OuterRef("order"), position__lte=OuterRef("order__fulfilled_quantity")
        )
        cards = paid_for.readable()
        return self.filter(Exists(cards), order__status__in=sorted(FINAL))

    def of_account(self, order: Order) -> CardLink:
        """Return the link to ``order`` that logged-in customers use.

        The first call creates the link.
        """
        origin = CardLink.Origin.ACCOUNT
        # A hash never has this form. The column is unique, so each order has at most one such link.
        name = f"{origin} {order.pk}"
        return self.get_or_create(token_hash=name, defaults={"order": order, "origin": origin})[0]

    def revoke(self, order: Order, *, by: str) -> int:
        """Withdraw the links to the cards of ``order``, and return their number.

        The link that logged-in customers use is not withdrawn.
        """
        now = timezone.now()
        rows = self.filter(order=order, revoked_at=None).exclude(origin=CardLink.Origin.ACCOUNT)
        return rows.update(revoked_at=now, revoked_by=by)


class CardLink(models.Model):
    """A link that leads to the cards of an order.

    Only a keyed hash of the token of a link is stored. An order can also have one link without a
    token, through which logged-in customers see the cards.
    """

    class Origin(models.TextChoices):
        MESSAGE = "message", _("Message")
        #: A link that staff created in order to give it to the customer themselves.
        STAFF = "staff", _("Staff")
        #: The link for people who are logged in to the shop; it has no token.
        ACCOUNT = "account", _("Customer account")

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="card_links"
    )
    origin = models.CharField(_("origin"), max_length=10, choices=Origin)
    delivery = models.ForeignKey(
        Delivery,
        verbose_name=_("message"),
        on_delete=models.PROTECT,
        null=True,
        related_name="links",
    )
    # The keyed hash of the link's token. The link for logged-in customers does not have a token, so
    # its value is made from the order's primary key.
    token_hash = models.CharField(max_length=64, null=True, unique=True, editable=False)  # noqa: DJ001
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    created_by = models.CharField(_("by"), max_length=254, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])
    expires_at = models.DateTimeField(_("expires"), null=True)
    revoked_at = models.DateTimeField(_("withdrawn"), null=True)
    revoked_by = models.CharField(max_length=254, blank=True)
    reveals = models.PositiveIntegerField(_("revealed"), default=0)
    wrong_pins = models.PositiveIntegerField(_("wrong PINs"), default=0)

    objects = CardLinkQuerySet.as_manager()

    class Meta:
        verbose_name = _("link to cards")
        verbose_name_plural = _("links to cards")
        ordering = ("-pk",)
        default_permissions = ("view",)
        # This index is used for the hourly limit of each staff member.
        indexes = (models.Index(fields=("created_by", "created_at"), name="giftcards_link_by"),)

    def __str__(self) -> str:
        return str(_("link %(number)s") % {"number": self.pk})

    @property
    def is_locked(self) -> bool:
        """True if too many wrong PINs have locked the link."""
        return self.wrong_pins >= MOST_WRONG_PINS


class LinkVisit(models.Model):
    """A recorded visit to a link.

    The visit is an opening, a reveal, or the wrong PIN that locked the link.
    """

    class What(models.TextChoices):
        OPENED = "opened", _("Opened")
        REVEALED = "revealed", _("Cards shown")
        LOCKED = "locked", _("Locked after wrong PINs")

    link = models.ForeignKey(
        CardLink,
        verbose_name=_("link"),
        on_delete=models.PROTECT,
        related_name="visits",
        # An index below begins with this column, so the field needs none of its own.
        db_index=False,
    )
    at = models.DateTimeField(_("when"), default=timezone.now)
    what = models.CharField(_("what"), max_length=10, choices=What)
    address = models.GenericIPAddressField(_("address"), null=True)
    agent = models.CharField(_("program"), max_length=300, blank=True)
    # The user name, if the visitor was logged in.
    user = models.CharField(_("user"), max_length=254, blank=True)
    unreadable = models.PositiveIntegerField(_("unreadable cards"), default=0)
    # Prevents a second record of the same visit, for example if a page shows the cards twice. NULL
    # for visits that can be recorded several times.
    key = models.CharField(max_length=40, null=True, unique=True, editable=False)  # noqa: DJ001

    class Meta:
        verbose_name = _("link visit")
        verbose_name_plural = _("link visits")
        ordering = ("pk",)
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("link", "what"), name="giftcards_visit_link"),
            # This index is used for conditions about failures within the last day.
            models.Index(fields=("what", "at"), name="giftcards_visit_what"),
        )

    def __str__(self) -> str:
        return str(self.get_what_display())


class StaffDigest(models.Model):
    """The last digest of one person.

    The row also stores the conditions that the person has been notified of.
    """

    # The person's address on their channel.
    address: models.CharField[str, str] = ExactCharField(_("address"), max_length=254, unique=True)
    sent_at = models.DateTimeField(_("last digest"), null=True)
    # The person has been notified of everything that happened until this time.
    covers_until = models.DateTimeField(null=True)
    # Maps the codes of the conditions that the person has been notified of to the primary keys of
    # orders or other rows.
    told = models.JSONField(default=dict)
    # The items of the last digest: the code, the count, and True if the condition had ended.
    said = models.JSONField(default=list)
    # The codes of the urgent conditions in the last attempt, if it failed.
    tried = models.JSONField(default=list)
    # The time of the next search for news, or the end of a claim. NULL if the search is due.
    next_attempt_at = models.DateTimeField(null=True)
    # The end of the pause after a failed attempt.
    retry_at = models.DateTimeField(_("next attempt"), null=True)
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
        return self.failures > 0
