"""The price limit of an order.

If a card costs more than the price limit, staff decide.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal

_CENTIME = Decimal("0.01")


def price_ceiling(
    *,
    approved: Decimal | None,
    given: Decimal | None,
    sale_price: Decimal | None,
    sale_amount: Decimal | None,
    quantity: int,
    accepted_loss: Decimal = Decimal(0),
) -> Decimal | None:
    """Return the price limit for one card, or ``None`` if there is no limit.

    The limit is the first known amount of these:

    - ``approved``, which staff approved
    - ``given``, which the shop set
    - the customer's payment for one card plus ``accepted_loss``, the amount by which the shop's
      owner accepts selling a card below its cost

    The payment for one card is ``sale_price``. If ``sale_price`` is unknown, the payment is
    ``sale_amount`` divided by ``quantity`` and rounded down to two decimals.
    """
    if approved is not None:
        return approved
    if given is not None:
        return given
    # The amounts of a new order may be of type ``int``, if the shop passed them in this form.
    if sale_price is not None:
        return Decimal(sale_price) + accepted_loss
    if sale_amount is None:
        return None
    return (Decimal(sale_amount) / quantity).quantize(_CENTIME, ROUND_DOWN) + accepted_loss
