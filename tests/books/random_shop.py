"""A shop's books: random histories of orders, and their expected sums.

The random orders go through the same functions as in a shop: answers are recorded, refunds are
recorded and cancelled, and missing cards are ordered again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from django.utils import timezone

from giftcards.books.reports import Figures
from giftcards.engine.recording import record_answers
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import ReorderError
from giftcards.fulfilment import reorder_missing
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Order, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.refunds import refund_breakdown
from giftcards.settlement import cancel_refund, customer_breakdown, record_refund
from giftcards.statuses import SETTLED, Status
from tests.builders import answer, build_guide_order, claim

PRODUCTS = ("psn", "steam", "google-play")
TYPES = ("type_001", "type_002")
# The days end in the middle of a week, cross the end of a month, and leave one day out.
DAYS = [date(2026, 10, 26) + timedelta(days=number) for number in range(12) if number != 5]
_SOURCE = StatusChange.Source.STAFF


def add_books(count: int, random: Random) -> None:
    """Make ``count`` orders and orders for their missing cards, and settle most of them."""
    Order.objects.bulk_create(_placed(random) for _ in range(count))
    for _round in range(3):
        _settle(list(Order.objects.filter(finalized_at=None)), random)
        for order in Order.objects.filter(finalized_at__isnull=False, reordered_amount=None):
            _see_to(order, random)
    _spread(random)


def _placed(random: Random) -> Order:
    price = random.choice([None, Decimal(490), _amount(random)])
    quantity = random.randint(1, 4)
    return build_guide_order(
        product_id=random.choice(PRODUCTS),
        type_id=random.choice(TYPES),
        quantity=quantity,
        price_per_card=price,
        **random.choice(
            [
                {},
                {"sale_price": _amount(random)},
                {"sale_amount": _amount(random)},
                {"sale_amount": Decimal(0)},
            ]
        ),
    )


def _amount(random: Random) -> Decimal:
    return Decimal(random.randint(0, 200_000)).scaleb(-2)


def _settle(orders: list[Order], random: Random) -> None:
    """Settle most of ``orders``. Some new ones are refused, and a few stay open."""
    for order in orders:
        if order.status == Status.PENDING:
            _send(order, is_accepted=random.random() < 0.8)
    followed = [order for order in orders if not order.is_final and random.random() < 0.95]
    answers = {order.pk: _answer(order, random) for order in followed}
    # The app accepts contradictory figures the second time that it receives them.
    for _check in range(2):
        left = list(Order.objects.filter(pk__in=answers, finalized_at=None))
        for start in range(0, len(left), 200):
            claimed = claim(*left[start : start + 200])
            record_answers([(order, answers[order.pk]) for order in claimed], now=timezone.now())


def _send(order: Order, *, is_accepted: bool) -> None:
    order.move(Status.PLACING, source=_SOURCE, sent_at=timezone.now())
    if is_accepted:
        named = {"provider_order_id": uuid.uuid4().hex[:24], "accepted_at": timezone.now()}
        order.move(Status.HANDLING, source=_SOURCE, **named)
    else:
        order.move(Status.REJECTED, source=_SOURCE)


def _answer(order: Order, random: Random) -> OrderAnswer:
    delivered = random.choice([0, order.quantity, random.randint(0, order.quantity)])
    status = {0: "REFUNDED", order.quantity: "FULFILLED"}.get(delivered, "PARTIALLY_FILLED")
    price = order.price_per_card
    charged = None if price is None else price * delivered
    if random.random() < 0.2:
        charged = random.choice([None, _amount(random)])
    return answer(
        status,
        quantity=order.quantity,
        fulfilled_quantity=delivered,
        price_per_card=price,
        fulfilled_amount=charged,
        cards=_cards(delivered),
    )


def _cards(count: int) -> tuple[CardSecret, ...]:
    return tuple(CardSecret(uuid.uuid4().hex[:16], uuid.uuid4().hex[:9]) for _ in range(count))


def _see_to(order: Order, random: Random) -> None:
    """Order the missing cards again, pay them back, or do nothing."""
    match random.randrange(5):
        case 0:
            _order_again(order, random)
        case 1 | 2:
            _pay_back(order, random)


def _order_again(order: Order, random: Random) -> None:
    if order.missing_quantity > 1 and random.random() < 0.3:
        store_cards([Arrival(order, _cards(1))])  # late
    for problem in order.open_problems:
        order.acknowledge(problem, by="amina")
    try:
        reorder_missing(order, by="amina")
    except ReorderError:
        return  # nothing is missing, or it was paid back


def _pay_back(order: Order, random: Random) -> None:
    while order.open_amount and random.random() < 0.8:
        part = random.randint(1, int(order.open_amount * 100))
        amount = random.choice([order.open_amount, Decimal(part).scaleb(-2)])
        refund = record_refund(order, amount=amount, reference=uuid.uuid4().hex, by="amina")
        if random.random() < 0.25:
            cancel_refund(refund, by="amina")
        order.refresh_from_db()


def _spread(random: Random) -> None:
    """Spread the settling times over many days, some at the very beginning or end of a day."""
    orders = list(Order.objects.filter(finalized_at__isnull=False))
    for order in orders:
        midnight = datetime.combine(random.choice(DAYS), time.min)
        moment = midnight + random.choice(
            [
                timedelta(0),
                timedelta(microseconds=-1),
                timedelta(hours=23),
                timedelta(microseconds=random.randrange(86_400_000_000)),
            ]
        )
        order.finalized_at = timezone.make_aware(moment)
        order.created_at = order.finalized_at - timedelta(
            microseconds=random.choice([0, -1, random.randrange(60_000_000)])
        )
    Order.objects.bulk_update(orders, ["finalized_at", "created_at"], batch_size=500)


# The expected sums.


def figures_of(order: Order) -> Figures:
    """Return the figures of one final order in a report, computed from the two breakdowns."""
    provider, customer = refund_breakdown(order), customer_breakdown(order)
    values: dict[str, Any] = {
        "orders": 1,
        "rejected": int(order.status == Status.REJECTED),
        "cards_ordered": order.quantity,
        "cards_delivered": order.fulfilled_quantity,
    }
    charged: Decimal | None = Decimal(0)
    refunded: Decimal | None = Decimal(0)
    if provider is not None:
        charged, refunded = provider.charged_amount, provider.refunded_amount
        values |= {
            "ordered_amount": provider.ordered_amount or 0,
            "charged_amount": charged or 0,
            "refunded_amount": refunded or 0,
            "unknown": int(None in (provider.ordered_amount, charged, refunded)),
            "contradictory": int(not provider.is_consistent),
        }
    if customer is None:
        return Figures(**values, unpaid=1)
    paid = customer.paid_amount - (order.reordered_amount or 0)
    owed = customer.paid_back_amount + customer.open_amount
    values |= {
        "paid_amount": paid,
        "kept_amount": paid - owed,
        "owed_amount": owed,
        "open_amount": customer.open_amount,
        "customer_paid_back_amount": customer.paid_back_amount,
    }
    if charged is not None:
        values["margin_amount"] = paid - owed - charged
    is_lost = order.status in SETTLED and order.reordered_amount is None
    if is_lost and refunded is not None:
        values["lost_margin_amount"] = owed - refunded
    return Figures(**values)


def expected(orders: Iterable[Order]) -> Figures:
    return sum(map(figures_of, orders), Figures())
