"""The breakdown of an order's money, and the bar that shows its cards."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from giftcards.models import Order
from giftcards.rules.money import (
    CustomerBreakdown,
    customer_breakdown,
    refund_breakdown,
)
from giftcards.text.display import calculation, filled, money


class BreakdownLine(NamedTuple):
    """A line of the table, in HTML.

    ``arithmetic`` is the calculation whose result is ``amount``, or "" if there is no such
    calculation.
    """

    label: str
    arithmetic: str
    amount: str


def provider_lines(order: Order) -> list[BreakdownLine]:
    """Return the table of what the provider charged and credited back.

    The table is empty until ``order`` is settled.
    """
    breakdown = refund_breakdown(order)
    if breakdown is None:
        return []
    parts = (
        (gettext("Ordered"), order.quantity, breakdown.ordered_amount),
        (gettext("Cost"), order.fulfilled_quantity, breakdown.charged_amount),
        (gettext("Credited back"), breakdown.refunded_quantity, breakdown.refunded_amount),
    )
    return [
        BreakdownLine(label, _product(cards, order.price_per_card, amount), money(amount))
        for label, cards, amount in parts
    ]


def customer_lines(order: Order, *, replacement: Order | None) -> list[BreakdownLine]:
    """Return the table of the customer's payment.

    The table shows how much was kept, how much is owed, and how much was paid back. The table is
    empty if ``order`` is open or does not have a sale amount. ``replacement`` is the new order that
    replaces the missing cards, or ``None``. If there is a new order, the table shows that the
    amount owed for these cards was transferred to the new order.
    """
    breakdown = customer_breakdown(order)
    if breakdown is None:
        return []
    paid, kept, owed = breakdown.paid_amount, breakdown.kept_amount, breakdown.owed_amount
    price, delivered = order.sale_price, order.fulfilled_quantity
    if price is not None:
        kept_how = _product(delivered, price, kept)
        owed_how = _product(order.quantity - delivered, price, owed)
    else:
        kept_how = calculation(
            "{paid} × {delivered} ÷ {quantity}",
            paid=paid,
            delivered=delivered,
            quantity=order.quantity,
        )
        owed_how = calculation("{paid} − {kept}", paid=paid, kept=kept)
    lines = [
        BreakdownLine(gettext("Paid"), _product(order.quantity, price, paid), money(paid)),
        BreakdownLine(gettext("Paid for delivered cards"), kept_how, money(kept)),
    ]
    if replacement is not None:
        return [*lines, *_gone_along(order, replacement, owed)]
    lines.append(BreakdownLine(gettext("Owed to the customer"), owed_how, money(owed)))
    return [*lines, *_paid_back(breakdown)]


def _paid_back(breakdown: CustomerBreakdown) -> Iterator[BreakdownLine]:
    paid = breakdown.paid_back_amount
    if not paid:
        return
    yield BreakdownLine(gettext("Paid back"), "", money(paid))
    how = calculation("{owed} − {paid}", owed=breakdown.owed_amount, paid=paid)
    yield BreakdownLine(gettext("Still owed"), how, money(breakdown.open_amount))


def _gone_along(order: Order, replacement: Order, owed: Decimal) -> Iterator[BreakdownLine]:
    """Yield a line for the transferred amount, and one for any remainder."""
    gone = owed if replacement.sale_amount is None else replacement.sale_amount
    how = _product(replacement.quantity, order.sale_price, gone)
    yield BreakdownLine(gettext("Transferred to the new order"), how, money(gone))
    if gone < owed:
        how = calculation("{owed} − {gone}", owed=owed, gone=gone)
        yield BreakdownLine(
            gettext("Amount paid for cards that arrived late"), how, money(owed - gone)
        )


def margin_lines(order: Order) -> Iterator[BreakdownLine]:
    """Yield a line with the margin if the margin is known.

    The margin is the amount that the shop keeps, minus the cost.
    """
    provider, customer = refund_breakdown(order), customer_breakdown(order)
    if provider is None or customer is None or provider.charged_amount is None:
        return
    kept, cost = customer.kept_amount, provider.charged_amount
    arithmetic = calculation("{kept} − {cost}", kept=kept, cost=cost)
    yield BreakdownLine(gettext("Margin"), arithmetic, money(kept - cost))


def earned(order: Order, price: Decimal) -> Decimal | None:
    """Return the margin of the order at the given price per card.

    Returns ``None`` if the order does not have a sale amount.
    """
    paid = order.sale_amount
    return None if paid is None else paid - price * order.quantity


def earned_in_words(amount: Decimal) -> SafeString:
    """Return a sentence about the profit, as HTML.

    A negative ``amount`` is a loss.
    """
    text = gettext("You still earn %(amount)s on this order.")
    if amount < 0:
        text = gettext("You lose %(amount)s on this order.")
    elif not amount:
        text = gettext("You neither earn nor lose anything on this order.")
    return filled(text, amount=money(abs(amount)))


def bar(order: Order) -> dict[str, str] | None:
    """Return the parts of the card bar: widths in percent, and labels.

    Returns ``None`` if ``order`` is not settled.
    """
    if not order.is_settled:
        return None
    delivered, missing = order.fulfilled_quantity, order.quantity - order.fulfilled_quantity
    delivered_text = ngettext(
        "%(count)d card delivered.", "%(count)d cards delivered.", delivered
    ) % {"count": delivered}
    missing_text = ngettext(
        "%(count)d card credited back.", "%(count)d cards credited back.", missing
    ) % {"count": missing}
    # The number is an attribute in an SVG image, so it must not be localised.
    share = Decimal(100 * delivered) / order.quantity
    return {
        "delivered": f"{share:.2f}",
        "missing": f"{100 - share:.2f}",
        "delivered_text": delivered_text,
        "missing_text": missing_text,
    }


def _product(quantity: int, price: Decimal | None, amount: Decimal | None) -> str:
    """Return ``quantity`` × ``price`` as HTML.

    Returns "" if the price or the amount is unknown, or if the result of the multiplication is not
    the given amount.
    """
    if price is None or amount is None or quantity * price != amount:
        return ""
    return calculation("{quantity} × {price}", quantity=quantity, price=price)
