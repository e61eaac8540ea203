"""Cards on hold for customers while they pay."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models
from django.db.models import Exists, F, OuterRef
from django.utils import timezone
from django.utils.crypto import salted_hmac

from giftcards.models.fields import MONEY, ExactCharField
from giftcards.models.lines import Kind, lines_of
from giftcards.models.orders import Order
from giftcards.rules.times import ahead, is_ahead

#: The longest duration of a new hold. A hold can be prolonged to MOST_TIMES its first duration.
LONGEST = timedelta(days=1)
MOST_TIMES = 3
# A hold is deleted this time after its end. Until then, its reference cannot have a new hold.
_REST = timedelta(hours=1)
_BATCH = 500
_HAS_ORDER = Exists(Order.objects.filter(reference=OuterRef("reference")))


class HoldQuerySet(models.QuerySet["Hold"]):
    def current(self, now: datetime) -> Self:
        """Return the holds whose time is not over, and whose order is not recorded yet.

        The query also looks for orders, because a hold may be made while its order is being
        recorded.
        """
        return self.filter(ahead("until", now, longest=LONGEST)).exclude(_HAS_ORDER)

    def lines(self, now: datetime) -> models.QuerySet[Any, Any]:
        held, cards = self.current(now), F("quantity")
        return lines_of(Kind.HOLD, held, since="until", cards=cards, price=None)

    def of_holder(self, holder: str) -> Self:
        return self.filter(holder=_hash(holder))

    def of_network(self, network: str) -> Self:
        return self.filter(network=_hash(network))

    def forget(self) -> int:
        """Delete some of the holds that have been over for an hour; return the number deleted."""
        over = self.exclude(ahead("until", timezone.now() - _REST, longest=LONGEST + _REST))
        keys = list(over.order_by("until").values_list("pk", flat=True)[:_BATCH])
        return self.filter(pk__in=keys).delete()[0] if keys else 0


class Hold(models.Model):
    """Cards of one type that count as taken until ``until``, or until the order is placed.

    ``reference`` is the reference that the order will have. ``price`` is the cost of a card in
    dinars when the hold began; ``None`` if unknown. ``left`` is the total time by which the hold
    can still be prolonged.
    """

    reference: models.CharField[str, str] = ExactCharField(max_length=100, unique=True)
    product_id: models.CharField[str, str] = ExactCharField(max_length=100)
    type_id: models.CharField[str, str] = ExactCharField(max_length=100)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(null=True, **MONEY)
    until = models.DateTimeField(db_index=True)
    # The time by which the hold can still be prolonged. NULL if the hold is older than this column.
    left = models.DurationField(null=True)
    # A keyed hash of the shop's name for the customer; "" if the shop gave no name.
    holder = models.CharField(max_length=64, blank=True)
    # A keyed hash of the network, if the holder is a guest; "" for others.
    network = models.CharField(max_length=64, blank=True)

    objects = HoldQuerySet.as_manager()

    class Meta:
        default_permissions = ()
        indexes = (
            models.Index(fields=("product_id", "type_id", "until"), name="giftcards_hold_type"),
            models.Index(fields=("holder", "until"), name="giftcards_hold_holder"),
            models.Index(fields=("network", "until"), name="giftcards_hold_network"),
        )

    def __str__(self) -> str:
        return self.reference

    def keep(self, length: timedelta, *, holder: str, network: str) -> bool:
        """Let the hold last until ``length`` from now, up to its limit; False if it is over."""
        now = timezone.now()
        self.holder = _hash(holder) if holder else ""
        self.network = _hash(network) if network else ""
        if self.left is None or not is_ahead(self.until, now - _REST, longest=LONGEST + _REST):
            self.until, self.left = now, MOST_TIMES * length
        begin = max(self.until, now)
        more = min(now + length - begin, self.left)
        self.until, self.left = begin + more, self.left - more
        return self.until > now


def _hash(name: str) -> str:
    """Return a keyed hash, because ``name`` may be an address or a person's name."""
    return salted_hmac("giftcards.holder", name, algorithm="sha256").hexdigest()
