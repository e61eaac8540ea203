"""The facts about an order that its customer can see.

The facts do not include the shop's costs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Self

from django.db.models import Exists, OuterRef
from django.utils.translation import gettext

from giftcards.catalogue import Description, descriptions
from giftcards.delivery.conf import KIND_OF_STATUS, status_for_customer
from giftcards.models import Card, CustomerRefund, Order
from giftcards.models.cards import CardQuerySet
from giftcards.models.customer_refunds import RefundState
from giftcards.rules.money import customer_breakdown
from giftcards.settlement import is_past, promised_day
from giftcards.text.display import supported_language


class Payback(StrEnum):
    """The state of the refund for the cards that were not delivered."""

    NOTHING = "nothing"
    #: The shop does not owe a refund, because the missing cards were ordered again.
    REORDERED = "reordered"
    OWED = "owed"
    OWED_IN_PART = "owed_in_part"
    DONE = "done"
    #: The amount is unknown, because the shop gave no sale amount.
    UNKNOWN = "unknown"


# The states in which the customer still gets money.
TO_COME = frozenset({Payback.OWED, Payback.OWED_IN_PART, Payback.UNKNOWN})


@dataclass(frozen=True, slots=True)
class PaidBack:
    """A refund that was paid to the customer."""

    amount: Decimal
    at: datetime
    method: str

    @classmethod
    def of(cls, refund: CustomerRefund) -> Self:
        return cls(refund.amount, refund.executed_at, refund.method)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about an order for its customer.

    Amounts are ``None`` if the sale amount is unknown.
    """

    reference: str
    #: The reference that the customer knows: the order's group, such as an invoice number, or the
    #: order's own reference if it has no group.
    known_as: str
    #: The names of the product and the denomination in the catalogue. If they are unknown, the
    #: names are "Gift card" and "".
    product: str
    type: str
    #: The region in which a card can be used, and how a card is redeemed; each may be "".
    region: str
    instructions: str
    quantity: int
    delivered: int
    missing: int
    #: A :class:`~giftcards.delivery.conf.Kind`; "" while the order is open and not late.
    kind: str
    ordered_at: datetime
    #: The amount paid for all the cards.
    paid: Decimal | None
    #: The amount owed for the cards that were not delivered.
    owed: Decimal | None
    #: The paid refunds, the earliest first.
    paid_back: tuple[PaidBack, ...]
    #: True if the missing cards were ordered again, and are therefore still expected.
    is_reordered: bool
    #: The day by which the shop has promised to pay the customer; ``None`` without a promise.
    promised_day: date | None = None

    @property
    def pay_back_by(self) -> date | None:
        """The date by which the shop pays the customer back.

        The value is ``None`` if the date has passed, or if the shop does not owe the customer
        anything.
        """
        is_due = self.payback in TO_COME and not self.is_payback_late
        return self.promised_day if is_due else None

    @property
    def is_payback_late(self) -> bool:
        """True if the shop still owes the customer money after the promised date."""
        if self.promised_day is None or self.payback not in TO_COME:
            return False
        return is_past(self.promised_day)

    @property
    def paid_back_amount(self) -> Decimal:
        return sum((refund.amount for refund in self.paid_back), Decimal(0))

    @property
    def to_pay_back(self) -> Decimal | None:
        """The part of the ``owed`` amount that has not been paid back yet."""
        if self.owed is None:
            return None
        return Decimal(0) if self.is_reordered else self.owed - self.paid_back_amount

    @property
    def payback(self) -> Payback:
        if not self.missing:
            return Payback.NOTHING
        if self.is_reordered:
            return Payback.REORDERED
        if self.owed is None:
            return Payback.UNKNOWN
        if self.to_pay_back:
            return Payback.OWED_IN_PART if self.paid_back else Payback.OWED
        return Payback.DONE if self.paid_back else Payback.NOTHING


@dataclass(frozen=True, slots=True)
class Gift:
    """The details of a gift."""

    address: str = field(repr=False)
    name: str = field(default="", repr=False)
    message: str = field(default="", repr=False)
    #: The time at which the recipient is to be notified of the cards; ``None`` if this time has
    #: passed.
    deliver_at: datetime | None = None

    @classmethod
    def of(cls, order: Order) -> Self | None:
        if not order.is_gift:
            return None
        return cls(
            order.recipient_email,
            order.recipient_name,
            order.gift_message,
            order.deliver_at if order.is_put_off else None,
        )

    @property
    def recipient(self) -> str:
        """The name of the recipient, or else the recipient's address."""
        return self.name or self.address

    @property
    def lines(self) -> list[str]:
        return self.message.splitlines()


def facts_for_recipient(order: Order) -> Facts:
    """Return the facts about a gift for its recipient, without amounts.

    The facts cover only the delivered cards.
    """
    facts = facts_of(order)
    return replace(
        facts,
        quantity=facts.delivered,
        missing=0,
        paid=None,
        owed=None,
        paid_back=(),
        is_reordered=False,
        promised_day=None,
    )


def known_as(order: Order) -> str:
    return order.group or order.reference


def facts_of(order: Order, description: Description | None = None) -> Facts:
    """Return the customer's view of ``order`` in the active language.

    If you do not pass the product's ``description``, the function makes two queries to read it. For
    a final order, the function makes one more query, or two more if the order was recorded before
    the catalogue was read.
    """
    description = description or descriptions([order])[order.pk]
    names, breakdown = order.line_names(), customer_breakdown(order)
    paid_back: tuple[PaidBack, ...] = ()
    if order.is_final:
        # Python filters the refunds, because lists of orders prefetch them.
        done = [refund for refund in order.refunds.all() if refund.state == RefundState.DONE]
        paid_back = tuple(sorted(map(PaidBack.of, done), key=lambda refund: refund.at))
    return Facts(
        reference=order.reference,
        known_as=known_as(order),
        product=names.product or gettext("Gift card"),
        type=names.type,
        region=description.region,
        instructions=description.instructions,
        quantity=order.quantity,
        delivered=order.fulfilled_quantity if order.is_final else 0,
        missing=order.quantity - order.fulfilled_quantity if order.is_final else 0,
        kind=KIND_OF_STATUS.get(status_for_customer(order), ""),
        ordered_at=order.created_at,
        paid=None if breakdown is None else breakdown.paid_amount,
        owed=None if breakdown is None else breakdown.owed_amount,
        paid_back=paid_back,
        is_reordered=order.reordered_amount is not None,
        promised_day=promised_day(order),
    )


def has_cards(order: Order) -> bool:
    """True if ``order`` has cards for its customer: see :func:`cards_of`."""
    return cards_of(order).exists()


def with_cards(orders: Iterable[Order]) -> set[int]:
    """Return the primary keys of orders that have cards for the customer.

    The function makes one query for all ``orders``.
    """
    final = [order.pk for order in orders if order.is_final]
    paid_for = Card.objects.filter(
        order=OuterRef("pk"), position__lte=OuterRef("fulfilled_quantity")
    )
    rows = Order.objects.filter(Exists(paid_for.readable()), pk__in=final).order_by()
    return set(rows.values_list("pk", flat=True))


def is_destroyed(order: Order) -> bool:
    """True if all codes were destroyed, and no more cards can arrive."""
    return order.codes_destroyed_at is not None and not has_cards(order)


def cards_of(order: Order) -> CardQuerySet:
    """Return the cards that the customer has paid for.

    The result is empty until the order is final.

    Surplus and late cards are left out, because staff decide what to do with them.
    """
    # Cards from ``order.cards`` already refer to their order, so opening a card takes no query.
    cards = order.cards.filter(position__lte=order.fulfilled_quantity)
    return cards.readable() if order.is_final else cards.none()


def language_of(order: Order, *, for_recipient: bool = False) -> str:
    """Return the language of messages to the customer or gift recipient.

    By default, the recipient's language is that of the customer, and the customer's language is
    that of the site.
    """
    own = order.recipient_language if for_recipient else ""
    return supported_language(own or order.customer_language)
