"""What was paid back to customers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.exceptions import RefundError
from giftcards.models.fields import ExactCharField, plain_line
from giftcards.models.orders import Order
from giftcards.sales import customer_breakdown

_CENTIME = Decimal("0.01")


class Recorded(NamedTuple):
    """A refund, and whether this call has recorded or changed it."""

    refund: CustomerRefund
    is_new: bool


class CustomerRefundQuerySet(models.QuerySet["CustomerRefund"]):
    """Refunds to customers. Each change of one locks its order until the transaction ends."""

    def record(self, order: Order, refund: CustomerRefund) -> Recorded:
        """Record ``refund``, not saved yet, for ``order``; or return the one with its reference.

        Raises ``ValidationError`` for invalid values, and
        :exc:`~giftcards.exceptions.RefundError` if more would be paid back than is owed, or if the
        reference names another refund of the order.
        """
        refund.order = order
        refund.check_values()
        with transaction.atomic():
            locked = _lock(order)
            known = self.filter(order=order.pk, reference=refund.reference).first()
            if known is not None:
                known.check_same(refund)
                return Recorded(known, is_new=False)
            _take(locked, refund.amount)
            refund.order = locked
            refund.save(force_insert=True)
        return Recorded(refund, is_new=True)

    def complete(self, refund: CustomerRefund, *, by: str) -> Recorded:
        """Note that a refund that was only planned has been paid; once, whoever else does so."""
        with transaction.atomic():
            _lock(refund.order)
            refund.refresh_from_db()
            match refund.state:
                case RefundState.DONE:
                    return Recorded(refund, is_new=False)
                case RefundState.CANCELLED:
                    raise RefundError(gettext("This refund was cancelled."))
            refund.state, refund.executed_at = RefundState.DONE, timezone.now()
            refund.executed_by = by
            refund.save(update_fields=["state", "executed_at", "executed_by"])
        return Recorded(refund, is_new=True)

    def cancel(self, refund: CustomerRefund, *, by: str, why: str) -> Recorded:
        """Take a refund back; its amount is owed again. It stays in the books, as cancelled."""
        refund.cancel_reason = why
        refund.clean_fields(exclude=("order",))
        with transaction.atomic():
            locked = _lock(refund.order)
            refund.refresh_from_db()
            if refund.state == RefundState.CANCELLED:
                return Recorded(refund, is_new=False)
            _give_back(locked, refund.amount)
            refund.state, refund.cancelled_at = RefundState.CANCELLED, timezone.now()
            refund.cancelled_by, refund.cancel_reason = by, why
            refund.save(update_fields=["state", "cancelled_at", "cancelled_by", "cancel_reason"])
            refund.order = locked
        return Recorded(refund, is_new=True)

    def standing(self) -> CustomerRefundQuerySet:
        """Those that are not cancelled."""
        return self.exclude(state=RefundState.CANCELLED)


def _lock(order: Order) -> Order:
    """Read ``order`` again, its row locked until the transaction ends."""
    rows = Order.objects.filter(pk=order.pk)
    # A write before all reads: it locks the row on every database. SQLite may fail a transaction
    # that reads before it writes.
    rows.update(paid_back_amount=F("paid_back_amount"))
    return rows.get()


def _take(order: Order, amount: Decimal) -> None:
    breakdown = customer_breakdown(order)
    if breakdown is None:
        raise RefundError(
            gettext(
                "Nothing can be paid back: the order is open, or nobody has said what the customer"
                " paid."
            )
        )
    if amount > breakdown.open_amount:
        text = gettext("Only %(open)s can still be paid back, not %(amount)s.")
        raise RefundError(text % {"open": breakdown.open_amount, "amount": amount})
    _write(order, paid_back=order.paid_back_amount + amount)


def _give_back(order: Order, amount: Decimal) -> None:
    _write(order, paid_back=order.paid_back_amount - amount)


def _write(order: Order, *, paid_back: Decimal) -> None:
    """Write both sums. Computed here, because SQLite would compute with binary fractions."""
    order.paid_back_amount = paid_back
    breakdown = customer_breakdown(order)
    order.open_amount = None if breakdown is None else breakdown.open_amount
    order.save(update_fields=["paid_back_amount", "open_amount"])


class RefundState(models.TextChoices):
    # Decided, and not paid yet. It counts as paid back: nobody pays it a second time.
    CREATED = "created", _("To be paid")
    DONE = "done", _("Paid back")
    CANCELLED = "cancelled", _("Cancelled")


class RefundSource(models.TextChoices):
    STAFF = "staff", _("Staff")
    CODE = "code", _("The shop's software")
    COMMAND = "command", _("Command line")


class CustomerRefund(models.Model):
    """An amount that a customer was paid back for cards that did not come.

    It is never deleted. Once recorded, only its state changes.
    """

    State = RefundState
    Source = RefundSource

    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        related_name="refunds",
        # The unique constraint's index begins with it.
        db_index=False,
        editable=False,
    )
    amount = models.DecimalField(
        _("amount"), max_digits=14, decimal_places=2, validators=[MinValueValidator(_CENTIME)]
    )
    state = models.CharField(
        _("state"), max_length=10, choices=State, default=State.DONE, editable=False
    )
    method = models.CharField(
        _("method"),
        max_length=50,
        blank=True,
        validators=[plain_line],
        help_text=_("How it was paid, such as cash or a postal account."),
    )
    reference: models.CharField[str, str] = ExactCharField(
        _("reference"),
        max_length=100,
        validators=[plain_line],
        help_text=_("The number of the payment. Using it again for the order pays nothing twice."),
    )
    comment = models.CharField(_("comment"), max_length=500, blank=True, validators=[plain_line])
    source = models.CharField(_("source"), max_length=10, choices=Source, default=Source.CODE)
    # Names, as in Acknowledgement: users may be deleted.
    created_by = models.CharField(_("by"), max_length=254, blank=True)
    created_at = models.DateTimeField(_("recorded"), default=timezone.now)
    executed_by = models.CharField(max_length=254, blank=True)
    executed_at = models.DateTimeField(_("paid"), null=True)
    cancelled_by = models.CharField(max_length=254, blank=True)
    cancelled_at = models.DateTimeField(_("cancelled"), null=True)
    cancel_reason = models.CharField(
        _("reason"), max_length=200, blank=True, validators=[plain_line]
    )

    objects = CustomerRefundQuerySet.as_manager()

    class Meta:
        verbose_name = _("refund to a customer")
        verbose_name_plural = _("refunds to customers")
        ordering = ("-created_at", "-pk")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("-created_at", "-id"), name="giftcards_refund_newest"),
            models.Index(fields=("state", "-created_at", "-id"), name="giftcards_refund_state"),
        )
        constraints = (
            models.UniqueConstraint(
                fields=("order", "reference"), name="giftcards_refund_of_order"
            ),
            models.CheckConstraint(
                condition=Q(amount__gt=0) & ~Q(reference=""), name="giftcards_refund_amount"
            ),
            models.CheckConstraint(
                condition=Q(state__in=RefundState.values), name="giftcards_refund_known_state"
            ),
        )

    def __str__(self) -> str:
        return self.reference

    def check_values(self) -> None:
        """Raise ``ValidationError`` if it cannot be recorded with these values."""
        if type(self.amount) not in {int, Decimal}:
            raise ValidationError({"amount": gettext("This must be a decimal number.")})
        self.clean_fields(exclude=("order",))

    def check_same(self, other: CustomerRefund) -> None:
        """Raise :exc:`RefundError` unless ``other``, with its reference, repeats this one."""
        if self.state == RefundState.CANCELLED:
            text = gettext("The refund %(reference)s was cancelled. Use a new reference.")
            raise RefundError(text % {"reference": self.reference})
        given: tuple[Any, ...] = (self.amount, self.method, self.reference)
        if given != (other.amount, other.method, other.reference):
            text = gettext(
                "The reference %(reference)s already names another refund of this order."
            )
            raise RefundError(text % {"reference": self.reference})
