"""Refunds to customers."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.exceptions import RefundError, SaleError
from giftcards.models.fields import MONEY, ExactCharField, assign, plain_line
from giftcards.models.orders import Order
from giftcards.models.searching import LAST_CHARACTER
from giftcards.models.staff_records import Note
from giftcards.rules.money import customer_breakdown

_CENTIME = Decimal("0.01")
# The columns of an order that are computed from its refunds.
_SUMS = ("paid_back_amount", "open_amount")


class CustomerRefundQuerySet(models.QuerySet["CustomerRefund"]):
    """Refunds to customers.

    Methods that change a refund lock its order until the transaction ends.
    """

    def record(self, order: Order, refund: CustomerRefund) -> CustomerRefund:
        """Record the unsaved ``refund``, or return the existing refund.

        The existing refund belongs to the same order and has the same reference. The amounts paid
        back and still open are updated in ``order``. Raises the same errors as
        :func:`~giftcards.settlement.record_refund`.
        """
        refund.check_values()
        with transaction.atomic():
            locked = _lock(order.pk)
            known = self.filter(order=order.pk, reference=refund.reference).first()
            if known is None:
                check_amount(locked, refund.amount)
                refund.order = locked
                refund.save(force_insert=True)
                refund.has_changed = True
            else:
                known.check_same(refund)
                known.order = locked
            _write_sums(locked)
        for name in _SUMS:
            setattr(order, name, getattr(locked, name))
        return known or refund

    def cancel(self, refund: CustomerRefund, *, by: str, reason: str) -> None:
        """Cancel a refund, so that its amount is owed again.

        The row is kept.
        """
        refund.check_text("by", "cancelled_by", by)
        refund.check_text("reason", "cancel_reason", reason)
        with transaction.atomic():
            locked = refund.read_locked()
            if refund.state == RefundState.CANCELLED:
                return
            refund.change(
                state=RefundState.CANCELLED,
                cancelled_at=timezone.now(),
                cancelled_by=by,
                cancel_reason=reason,
            )
            _write_sums(locked)

    def search(self, text: str, *, limit: int) -> list[CustomerRefund]:
        """Return refunds whose reference begins with ``text``, up to a limit.

        The orders of the refunds are loaded in the same query.
        """
        # The condition is a range, because some databases do not use an index for LIKE.
        found = self.filter(reference__range=(text, text + LAST_CHARACTER))
        return list(found.select_related("order").order_by("reference")[:limit])


def _lock(key: int) -> Order:
    rows = Order.objects.filter(pk=key)
    # The update locks the row on every database. The update comes first, because SQLite may fail a
    # transaction that reads before it writes.
    rows.update(paid_back_amount=F("paid_back_amount"))
    order = rows.get()
    _count(order)
    return order


def _count(order: Order) -> None:
    # Python adds up the amounts, because SQLite would use binary floating point.
    done = order.refunds.filter(state=RefundState.DONE).order_by()
    order.paid_back_amount = sum(done.values_list("amount", flat=True), Decimal("0.00"))
    breakdown = customer_breakdown(order)
    order.open_amount = None if breakdown is None else breakdown.open_amount


def _write_sums(order: Order) -> None:
    _count(order)
    order.save(update_fields=_SUMS)


def refundable_amount(order: Order) -> Decimal:
    """Return the amount that can still be paid back for ``order``.

    The amount is above 0. Raises :exc:`~giftcards.exceptions.RefundError` with the reason if money
    cannot be paid back.
    """
    breakdown = customer_breakdown(order)
    if not order.is_final:
        raise RefundError(
            gettext(
                "The order is still open, so it is not yet known whether the customer is owed"
                " money."
            )
        )
    if breakdown is None:
        raise RefundError(
            gettext(
                "The amount owed to the customer is unknown because the order has no sale amount."
            )
        )
    if order.reordered_amount is not None:
        raise RefundError(
            gettext(
                "The missing cards were ordered again, and the customer's payment for these cards"
                " was transferred to the new order."
            )
        )
    if breakdown.open_amount > 0:
        return breakdown.open_amount
    raise RefundError(gettext("There is no more money to pay back for this order."))


def check_amount(order: Order, amount: Decimal) -> None:
    """Raise an error if ``amount`` cannot be paid back.

    The error is :exc:`~giftcards.exceptions.RefundError`.
    """
    left = refundable_amount(order)
    if amount > left:
        text = gettext("Only %(open)s can still be paid back, not %(amount)s.")
        raise RefundError(text, open=left, amount=amount)


def sale_obstacle(order: Order) -> str:
    """Return the reason why a sale amount cannot be recorded, or "".

    The reason is in the active language.
    """
    if not order.is_final:
        return gettext("The order is open.")
    if order.sale_amount is not None:
        return gettext("The amount that the customer paid for this order is already known.")
    if order.reordered_amount is not None:
        return gettext(
            "The missing cards were ordered again, so the amount that was paid for them is no"
            " longer known."
        )
    return ""


def record_sale_amount(order: Order, amount: Decimal | int, *, by: str) -> bool:
    """Record what the customer paid, and note it in the timeline.

    Returns False if the order already has this amount. The ``order`` instance is also updated.
    Raises the same errors as :func:`~giftcards.fulfilment.record_sale_amount`.
    """
    paid = order.check_amount("sale_amount", amount)
    with transaction.atomic():
        locked = _lock(order.pk)
        is_new = locked.sale_amount != paid
        if is_new and (obstacle := sale_obstacle(locked)):
            raise SaleError(obstacle)
        if is_new:
            locked.sale_amount = paid
            _count(locked)
            locked.save(update_fields=["sale_amount", *_SUMS])
            text = gettext("The amount that the customer paid was recorded.")
            Note.objects.add(locked, text, by=by)
    assign(order, {name: getattr(locked, name) for name in ("sale_amount", *_SUMS)})
    return is_new


class RefundState(models.TextChoices):
    DONE = "done", _("Paid back")
    CANCELLED = "cancelled", _("Cancelled")


class CustomerRefund(models.Model):
    """A refund that a customer received for undelivered cards.

    A recorded refund can be cancelled, but never deleted.
    """

    class Source(models.TextChoices):
        STAFF = "staff", _("Staff")
        CODE = "code", _("The shop's software")
        COMMAND = "command", _("Command line")

    State = RefundState

    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        related_name="refunds",
        # The unique constraint's index begins with this column, so the field needs no other index.
        db_index=False,
        editable=False,
    )
    amount = models.DecimalField(_("amount"), validators=[MinValueValidator(_CENTIME)], **MONEY)
    state = models.CharField(
        _("state"), max_length=10, choices=State, default=State.DONE, editable=False
    )
    method = models.CharField(
        _("method"),
        max_length=50,
        blank=True,
        validators=[plain_line],
        help_text=_("How the refund was paid, for example in cash or to a postal account."),
    )
    reference: models.CharField[str, str] = ExactCharField(
        _("reference"),
        max_length=100,
        validators=[plain_line],
        help_text=_(
            "The reference number of the payment. For each order, the same number can be recorded"
            " only once."
        ),
    )
    comment = models.CharField(_("comment"), max_length=500, blank=True, validators=[plain_line])
    source = models.CharField(_("source"), max_length=10, choices=Source, default=Source.CODE)
    # Users are stored by name instead of by foreign key, because they may be deleted.
    created_by = models.CharField(_("by"), max_length=254, blank=True, validators=[plain_line])
    executed_at = models.DateTimeField(_("recorded"), default=timezone.now, editable=False)
    cancelled_by = models.CharField(max_length=254, blank=True, validators=[plain_line])
    cancelled_at = models.DateTimeField(_("cancelled"), null=True, editable=False)
    cancel_reason = models.CharField(
        _("reason"), max_length=200, blank=True, validators=[plain_line]
    )

    objects = CustomerRefundQuerySet.as_manager()

    # True if the current call has recorded or changed this refund. False if the refund already
    # existed.
    has_changed = False

    class Meta:
        verbose_name = _("refund to a customer")
        verbose_name_plural = _("refunds to customers")
        ordering = ("-executed_at", "-pk")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("-executed_at", "-id"), name="giftcards_refund_newest"),
            models.Index(fields=("state", "-executed_at", "-id"), name="giftcards_refund_state"),
            # This index is used to search by reference.
            models.Index(fields=("reference",), name="giftcards_refund_reference"),
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
        # The text does not contain the reference, because some readers may not see the order.
        return str(_("refund %(number)s") % {"number": self.pk})

    def check_values(self) -> None:
        """Normalise the values, and raise ``ValidationError`` for invalid values."""
        wrong = {
            name: gettext("This must be text.")
            for name in ("reference", "method", "comment")
            if not isinstance(getattr(self, name), str)
        }
        if type(self.amount) not in {int, Decimal}:
            wrong["amount"] = gettext("This must be a decimal number.")
        if wrong:
            raise ValidationError(wrong)
        # Spaces at the end are invisible, and only some databases ignore them.
        self.reference = self.reference.strip()
        self.clean_fields(exclude=("order", "created_by"))
        self.check_text("by", "created_by", self.created_by)
        self.amount = self.amount.quantize(_CENTIME)

    def check_text(self, parameter: str, column: str, text: str) -> None:
        """Raise ``ValidationError`` if the text is not valid for this column.

        The error uses the value of ``parameter`` as the name of the field.
        """
        if not isinstance(text, str):
            raise ValidationError({parameter: gettext("This must be text.")})
        field: Any = self._meta.get_field(column)
        try:
            field.clean(text, self)
        except ValidationError as error:
            raise ValidationError({parameter: error.messages}) from None

    def check_same(self, other: CustomerRefund) -> None:
        """Raise :exc:`RefundError` unless the other refund repeats this one.

        The other refund repeats this one if the amount, the method and the reference are equal. If
        this refund was cancelled, the error is always raised, because the reference cannot be used
        again.
        """
        if self.state == RefundState.CANCELLED:
            text = gettext("The refund %(reference)s was cancelled. Use a new reference.")
            raise RefundError(text, reference=self.reference)
        given: tuple[Any, ...] = (self.amount, self.method, self.reference)
        if given != (other.amount, other.method, other.reference):
            text = gettext(
                "The reference %(reference)s is already used for another refund of this order."
            )
            raise RefundError(text, reference=self.reference)

    def read_locked(self) -> Order:
        """Lock and return the order, and reload this refund.

        The order stays locked until the transaction ends.
        """
        locked = _lock(self.order_id)
        self.refresh_from_db()
        self.order, self.has_changed = locked, False
        return locked

    def change(self, **values: Any) -> None:
        """Save new values, passed by column name.

        The order must be locked.
        """
        assign(self, values)
        self.save(update_fields=[*values])
        self.has_changed = True
