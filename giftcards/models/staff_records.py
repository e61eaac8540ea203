"""Records of what staff do: revealed cards, notes and corrections."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.validators import MaxLengthValidator
from django.db import models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.exceptions import CustomerConflict
from giftcards.models.cards import Card
from giftcards.models.fields import (
    ExactCharField,
    assign,
    plain_line,
    plain_lines,
    tidied_lines,
)
from giftcards.models.orders import CORRECTABLE, Order, correctable

#: The text of an entry in the admin's log about a person who tried to reveal too many codes.
REFUSED_REVEAL = "Reveal, refused"


class CardReveal(models.Model):
    """The record that a code was shown to a person.

    The record is written before the code is shown.
    """

    card = models.ForeignKey(
        Card, verbose_name=_("card"), on_delete=models.PROTECT, related_name="reveals"
    )
    # PROTECT prevents the deletion of users who have seen a code. Such users can be deactivated.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("by"),
        on_delete=models.PROTECT,
        related_name="+",
        # The index below begins with this column.
        db_index=False,
    )
    at = models.DateTimeField(_("when"), default=timezone.now)
    address = models.GenericIPAddressField(_("address"), null=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)

    class Meta:
        verbose_name = _("revealed code")
        verbose_name_plural = _("revealed codes")
        ordering = ("-at", "-pk")
        default_permissions = ("view",)
        # This index is used to count the codes that a person has revealed within the last hour.
        indexes = (models.Index(fields=("user", "at"), name="giftcards_reveal_user"),)

    def __str__(self) -> str:
        return str(_("card %(position)s") % {"position": self.card.position})


# If the same person writes the same note within this time, the button was probably pressed twice.
_TWICE = timedelta(minutes=1)
_LONGEST_NOTE = 2_000


class NoteQuerySet(models.QuerySet["Note"]):
    def add(self, order: Order, text: str, *, by: str) -> Note | None:
        """Add a note, unless the person has just written the same note.

        Returns ``None`` if the person with the name ``by`` has written the same note in the last
        minute. Raises ``ValidationError`` if the text is empty, too long, or contains characters
        that are not allowed.
        """
        note = Note(order=order, text=tidied_lines(text), by=by)
        note.full_clean(exclude={"order"})
        with transaction.atomic(using=self.db):
            # The lock lets the second of two concurrent requests see the note of the first.
            order.lock()
            since = timezone.now() - _TWICE
            if self.filter(order=order, by=by, text=note.text, at__gte=since).exists():
                return None
            note.save(force_insert=True)
        return note


class Note(models.Model):
    """A note about an order for other staff.

    A note never changes.
    """

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="notes"
    )
    text = models.TextField(_("note"), max_length=_LONGEST_NOTE)
    # The user is stored by name instead of by foreign key, because users may be deleted.
    by = models.CharField(_("by"), max_length=254)
    at = models.DateTimeField(_("when"), default=timezone.now)

    objects = NoteQuerySet.as_manager()

    class Meta:
        verbose_name = _("note")
        verbose_name_plural = _("notes")
        ordering = ("pk",)
        # Notes are created and shown with their order, so they do not need a permission.
        default_permissions = ()

    def __str__(self) -> str:
        return self.text[:50]

    def clean(self) -> None:
        MaxLengthValidator(_LONGEST_NOTE)(self.text)
        plain_lines(self.text)


class CustomerChangeQuerySet(models.QuerySet["CustomerChange"]):
    def make(
        self, order: Order, given: Mapping[str, Any], *, by: str, reason: str
    ) -> CustomerChange | None:
        """Write corrected values of an order, and record the correction.

        ``given`` maps the names of columns to their new values, as returned by
        :meth:`Order.corrected`. The ``order`` instance is not changed. Returns ``None`` if the row
        already has these values. Raises the errors of
        :func:`~giftcards.fulfilment.change_customer`.
        """
        change = CustomerChange(order=order, by=by, reason=reason, **correctable(order))
        change.clean_fields(exclude={"order"})
        with transaction.atomic(using=self.db):
            order.lock()
            row = Order.objects.filter(pk=order.pk)
            stored = row.values(*CORRECTABLE).get()
            if stored == {**stored, **given}:
                return None
            if stored != correctable(order):
                raise CustomerConflict
            row.update(**given)
            Order.objects.write_terms(order.pk)
            change.save(force_insert=True)
        return change


class CustomerChange(models.Model):
    """A correction of the customer details or the gift details of an order.

    Each column with the same name as a column of :class:`Order` contains the value before the
    correction. A correction never changes, unless its customer or recipient is erased.
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
    recipient_email: models.CharField[str, str] = ExactCharField(
        _("recipient's e-mail"), max_length=254, blank=True
    )
    recipient_name = models.CharField(_("recipient's name"), max_length=200, blank=True)
    recipient_language = models.CharField(_("recipient's language"), max_length=20, blank=True)
    gift_message = models.TextField(_("message to the recipient"), blank=True)
    deliver_at = models.DateTimeField(_("to be delivered on"), null=True, blank=True)
    at = models.DateTimeField(_("when"), default=timezone.now)
    # The user is stored by name, because users may be deleted. The name is "" if the shop's code
    # did not pass a name.
    by = models.CharField(_("by"), max_length=254, blank=True, validators=[plain_line])
    reason = models.CharField(_("reason"), max_length=200, blank=True, validators=[plain_line])

    objects = CustomerChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("correction of customer details")
        verbose_name_plural = _("corrections of customer details")
        ordering = ("pk",)
        # Corrections are created and shown with their order, so they do not need a permission.
        default_permissions = ()
        # This index is used to count the corrections by a person within the last hour.
        indexes = (models.Index(fields=("by", "at"), name="giftcards_correction_by"),)

    def __str__(self) -> str:
        return str(self.pk)

    def before(self, order: Order) -> Order:
        """Return a copy of ``order`` with the values before this correction.

        Do not save the copy.
        """
        earlier = copy(order)
        assign(earlier, correctable(self))
        return earlier
