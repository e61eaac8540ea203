"""The shelf: what can be sold now, and whether a sale would be served."""

from __future__ import annotations

from decimal import Decimal

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext, ngettext

from giftcards.catalogue.pricing import priced
from giftcards.catalogue.quotes import Line, Quote
from giftcards.catalogue.stock import oldest, with_available
from giftcards.conf import conf
from giftcards.display import count_text, money_text
from giftcards.durations import duration_text
from giftcards.engine.open_money import free_balance
from giftcards.engine.resolving import NoAnswer
from giftcards.exceptions import NotForSale
from giftcards.models import ProductType, ProviderState
from giftcards.models.provider import Environment, is_test_type

# With ``fresh``, facts of this age will do (seconds).
_FRESH = 60
# Without an answer for these reasons, nothing can be bought either.
_AWAY = {NoAnswer.PAUSED, NoAnswer.UNREACHABLE}


def offers() -> QuerySet[ProductType]:
    """The types that can be sold now, sorted by product, with the product; one query.

    Each has its cost as ``price``, the provider's ``stock`` (``None``: unknown) as told at
    ``read_at``, what is left of it as ``available``, and its ``shop_price`` by ``PRICING``
    (``None``: there is no rule). Sold out types, those that the rule takes off the shelf, and what
    was told too long ago are left out.

    If the rule is a function, the worker asks it within a minute, and stores its prices. Here are
    the types that it has priced at their present cost.
    """
    now = timezone.now()
    recent = Q(read_at=None) | Q(read_at__gt=now - oldest())
    kinds = with_available(ProductType.objects.for_sale().filter(recent), now=now)
    return priced(kinds.filter(Q(stock=None) | Q(available__gt=0)))


def check_offer(
    product_id: str,
    type_id: str,
    quantity: int,
    *,
    sale_price: Decimal | int | None = None,
    sale_amount: Decimal | int | None = None,
    max_price: Decimal | int | None = None,
    reference: str = "",
    fresh: bool = False,
) -> None:
    """Check, before the customer pays, that cards can be bought, and that the sale pays.

    The customer would pay ``sale_price`` for one card, or ``sale_amount`` for all, after
    discounts; a card may cost at most ``max_price``. A hold with this ``reference`` is the
    customer's own. If ``fresh``, the provider is asked first, unless the facts are younger than a
    minute.

    Raises :exc:`~giftcards.exceptions.NotForSale`, with the first of its codes that applies;
    :exc:`~django.core.exceptions.ValidationError` for values that an order cannot have; and
    :exc:`RuntimeError` in a transaction, if ``fresh``.
    """
    line = Line(product_id, type_id, quantity, reference)
    line.check_values()
    known = line.quote(max_age=_FRESH) if fresh else line.known()
    check_stock(line, known)
    _check_sale(known, sale_price=sale_price, sale_amount=sale_amount, max_price=max_price)
    check_balance(line, known)
    _check_provider(known)


def check_stock(line: Line, known: Quote) -> None:
    """Raise :exc:`NotForSale` if the provider does not sell the cards, or too few are left."""
    if not (known.is_listed and known.price) and not _is_test(line):
        raise refusal("delisted", known, gettext("The provider does not sell this card."))
    left = known.available
    if left is not None and left < line.quantity:
        text = ngettext(
            "%(count)s card is left of those in stock, less open orders and holds.",
            "%(count)s cards are left of those in stock, less open orders and holds.",
            left,
        )
        raise refusal("out_of_stock", known, text % {"count": count_text(left)})


def _check_sale(
    known: Quote,
    *,
    sale_price: Decimal | int | None,
    sale_amount: Decimal | int | None,
    max_price: Decimal | int | None,
) -> None:
    """Raise :exc:`NotForSale` if the cards cost more than they may, or than the customer pays."""
    price, cost = known.price, known.cost
    if price is None or cost is None:
        return
    if max_price is not None and price > max_price:
        text = gettext("A card costs %(cost)s; your limit is %(limit)s.")
        raise refusal("above_ceiling", known, _amounts(text, cost=price, limit=max_price))
    for paid, costs in ((sale_price, price), (sale_amount, cost)):
        if paid is not None and paid < costs:
            text = gettext("This costs %(cost)s, and the customer would pay %(paid)s.")
            raise refusal("below_cost", known, _amounts(text, cost=costs, paid=paid))
    is_unpriced = sale_price is None and sale_amount is None and conf.pricing is not None
    if is_unpriced and known.with_shop_price().shop_price is None:
        text = gettext("Your price rule takes this card off the shelf: it would not earn enough.")
        raise refusal("below_cost", known, text)


def check_balance(line: Line, known: Quote) -> None:
    """Raise :exc:`NotForSale` if the balance does not suffice for these cards, too."""
    free = None if known.cost is None else free_balance(reference=line.reference)
    if free is not None and known.cost is not None and free < known.cost:
        text = gettext(
            "These cards cost %(cost)s; open orders and holds leave %(free)s of the balance."
        )
        raise refusal("balance", known, _amounts(text, cost=known.cost, free=free))


def _check_provider(known: Quote) -> None:
    """Raise :exc:`NotForSale` if the provider is away, or was not asked for too long."""
    now, state = timezone.now(), ProviderState.objects.current()
    if state.is_out_of_service(now) or known.no_answer in _AWAY:
        raise refusal("paused", known, gettext("Requests to the provider fail, or are paused."))
    if known.read_at is not None and now - known.read_at >= oldest():
        age = duration_text(now - known.read_at)
        text = gettext("The price was read %(age)s ago.") % {"age": age}
        raise refusal("stale", known, text)


def _is_test(line: Line) -> bool:
    is_sandbox = ProviderState.objects.current().environment == Environment.SANDBOX
    return is_test_type(line.type_id) and is_sandbox


def refusal(code: str, known: Quote, reason: str) -> NotForSale:
    """The error for a card, whose name begins its text for staff."""
    for_staff = f"{' – '.join(filter(None, known.names))}: {reason}"
    return NotForSale(code, for_customer=_for_customer(code, known), for_staff=for_staff)


def _for_customer(code: str, known: Quote) -> str:
    if code == "delisted":
        return gettext("This card is not for sale any more.")
    if code == "out_of_stock" and known.available:
        text = ngettext(
            "Only %(count)s of these cards is left.",
            "Only %(count)s of these cards are left.",
            known.available,
        )
        return text % {"count": count_text(known.available)}
    if code == "out_of_stock":
        return gettext("This card is sold out at the moment.")
    if code == "held_too_many":
        return gettext("Too many cards are kept for you. Buy fewer, or pay for the others first.")
    if code == "held_too_long":
        return gettext(
            "These cards were kept for you for as long as possible. Please try again in an hour."
        )
    if code in {"above_ceiling", "below_cost"}:
        return gettext(
            "This card cannot be sold at this price: its price has changed, or the discount is too"
            " large."
        )
    return gettext("This card cannot be bought at the moment. Please try again later.")


def _amounts(text: str, **amounts: Decimal | int) -> str:
    return text % {name: money_text(Decimal(amount)) for name, amount in amounts.items()}
