"""The provider's ledger of this account, as it was read."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from giftcards.models.fields import ExactCharField
from giftcards.models.orders import Order


class LedgerEntry(models.Model):
    """A change of the balance that the provider has booked. It is read, and never edited here."""

    # The provider's `_id`; made from the entry's content if it has none.
    provider_id: models.CharField[str, str] = ExactCharField(
        _("entry"), max_length=100, unique=True, editable=False
    )
    # As the provider calls it, such as ORDER, REFUND-ORDER and DEPOSIT.
    type: models.CharField[str, str] = ExactCharField(_("type"), max_length=40, editable=False)
    # Negative for what left the account: the sign follows from the type, not from the answer.
    amount = models.DecimalField(_("amount"), max_digits=14, decimal_places=2, editable=False)
    # NULL: the provider did not say.
    balance_before = models.DecimalField(
        _("balance before"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    balance_after = models.DecimalField(
        _("balance after"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    time = models.DateTimeField(_("when"), editable=False)
    # What it is about, by the provider's word; "" if it did not say.
    objid: models.CharField[str, str] = ExactCharField(
        _("about"), max_length=100, blank=True, editable=False
    )
    order = models.ForeignKey(
        Order,
        verbose_name=_("order"),
        on_delete=models.PROTECT,
        null=True,
        related_name="ledger_entries",
        # An index below begins with it.
        db_index=False,
        editable=False,
    )
    # Whether the order was found by amount and time, because the entry does not name one.
    is_guess = models.BooleanField(_("guessed"), default=False, editable=False)
    # When it was first read: long after `time` if the provider booked it late.
    read_at = models.DateTimeField(_("first read"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("ledger entry")
        verbose_name_plural = _("ledger")
        ordering = ("-time", "-pk")
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("-time", "-id"), name="giftcards_ledger_newest"),
            models.Index(fields=("type", "-time", "-id"), name="giftcards_ledger_type"),
            # Entries for which no order is known: few, in a shop of its own.
            models.Index(fields=("order", "type", "time"), name="giftcards_ledger_order"),
            models.Index(fields=("objid",), name="giftcards_ledger_objid"),
            models.Index(fields=("is_guess", "-time", "-id"), name="giftcards_ledger_guess"),
        )

    def __str__(self) -> str:
        return self.provider_id
