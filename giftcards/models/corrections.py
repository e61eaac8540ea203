"""Corrections of the customer of an order: the old values, by whom and why."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.exceptions import CustomerConflict
from giftcards.models.fields import ExactCharField, plain_line
from giftcards.models.orders import OF_CUSTOMER, Order


class CustomerChangeQuerySet(models.QuerySet["CustomerChange"]):
    def make(
        self, order: Order, given: Mapping[str, str], *, by: str, reason: str
    ) -> CustomerChange | None:
        """Write the values ``given``, by column; return ``None`` if the row already has them.

        The instance ``order`` is not changed. Raises ``ValidationError`` for invalid values, and
        :exc:`~giftcards.exceptions.CustomerConflict` if the row has another customer than
        ``order``.
        """
        order.check_customer(given)
        change = CustomerChange(order=order, by=by, reason=reason, **_details(order))
        change.clean_fields(exclude={"order"})
        with transaction.atomic(using=self.db):
            order.lock()
            row = Order.objects.filter(pk=order.pk)
            stored = row.values(*OF_CUSTOMER).get()
            if stored == {**stored, **given}:
                return None
            if stored != _details(order):
                raise CustomerConflict
            row.update(**given)
            change.save(force_insert=True)
        return change


class CustomerChange(models.Model):
    """A correction of an order's customer. Columns named like the order's have the old values.

    Once added, it changes only when the customer is erased.
    """

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.CASCADE, related_name="customer_changes"
    )
    customer_email: models.CharField[str, str] = ExactCharField(
        _("customer e-mail"), max_length=254, blank=True
    )
    customer_name = models.CharField(_("customer name"), max_length=200, blank=True)
    customer_phone: models.CharField[str, str] = ExactCharField(
        _("customer phone"), max_length=50, blank=True
    )
    customer_language = models.CharField(_("customer language"), max_length=20, blank=True)
    at = models.DateTimeField(_("when"), default=timezone.now)
    # A name, as in Acknowledgement; "" if the shop's code did not say.
    by = models.CharField(_("by"), max_length=254, blank=True, validators=[plain_line])
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])

    objects = CustomerChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("correction of the customer")
        verbose_name_plural = _("corrections of the customer")
        ordering = ("pk",)
        # It is created and shown only with its order.
        default_permissions = ()
        # Counts the corrections of a person within the last hour.
        indexes = (models.Index(fields=("by", "at"), name="giftcards_correction_by"),)

    def __str__(self) -> str:
        return str(self.pk)

    def before(self, order: Order) -> Order:
        """A copy of ``order`` with the customer before this change; do not save it."""
        earlier = copy(order)
        for name in OF_CUSTOMER:
            setattr(earlier, name, getattr(self, name))
        return earlier


def _details(order: Order) -> dict[str, Any]:
    return {name: getattr(order, name) for name in OF_CUSTOMER}
