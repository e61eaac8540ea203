"""The ledger entries that are expected for an order, and the orders that a ledger can show."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from giftcards.books.matching import LedgerAccount, charge, credit, ordered_amount, refund_amount
from giftcards.books.pairing import Expected
from giftcards.models import ApiKey
from giftcards.statuses import ACCEPTED, SETTLED, Status
from tests.books.wire import NOON, at
from tests.builders import PRICE, build_guide_order
from tests.stage import own_key, prove_key

EARLIER = timedelta(minutes=10)
# The app recorded the order an hour before it sent it.
TIMES = {"created_at": at(-3600), "sent_at": NOON, "accepted_at": NOON}


@pytest.mark.parametrize(
    ("values", "ordered"),
    [
        ({}, 2450),
        # The final price takes precedence over the price at placing.
        ({"price_per_card": 500, "price_at_placing": 400}, 2500),
        ({"price_per_card": None, "price_at_placing": 400}, 2000),
        ({"price_per_card": None}, None),
        # In the sandbox, cards cost 0.
        ({"price_per_card": 0, "price_at_placing": 400}, 0),
    ],
)
@pytest.mark.parametrize("status", Status)
def test_an_accepted_order_is_charged_its_price_about_when_it_was_sent(
    status: Status, values: dict[str, Any], ordered: int | None
) -> None:
    order = build_guide_order(status, pk=7, **{**TIMES, "price_per_card": PRICE, **values})
    assert ordered_amount(order) == ordered
    is_charged = bool(ordered) and status in ACCEPTED
    expected = Expected(7, Decimal(-ordered), NOON, NOON - EARLIER) if ordered else None
    assert charge(order) == (expected if is_charged else None)
    order.sent_at = None
    assert charge(order) is None


@pytest.mark.parametrize(
    ("status", "values", "refund"),
    [
        (Status.PARTIALLY_FILLED, {}, 980),
        (Status.REFUNDED, {}, 2450),
        (Status.REFUNDED, {"price_per_card": None}, None),
        (Status.FULFILLED, {}, 0),
        *((status, {}, None) for status in Status if status not in SETTLED),
    ],
)
def test_a_settled_order_is_credited_its_refund_about_when_it_settled(
    status: Status, values: dict[str, Any], refund: int | None
) -> None:
    order = build_guide_order(status, pk=7, **{**TIMES, "finalized_at": at(60), **values})
    assert refund_amount(order) == refund
    expected = Expected(7, Decimal(refund), at(60), NOON - EARLIER) if refund else None
    assert credit(order) == expected
    # If the time of sending is unknown, the time of recording is the lower limit.
    order.sent_at = None
    expected = Expected(7, Decimal(refund), at(60), at(-3600) - EARLIER) if refund else None
    assert credit(order) == expected
    order.finalized_at = None
    assert credit(order) is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("account", "environment", "is_ours"),
    [
        # The environment of the API key is unknown.
        (None, "", True),
        (None, "PRODUCTION", False),
        ("", "PRODUCTION", False),
        ("PRODUCTION", "", True),
        ("PRODUCTION", "PRODUCTION", True),
        ("PRODUCTION", "SANDBOX", False),
    ],
)
def test_an_account_bought_the_orders_of_its_environment_and_of_none(
    account: str | None, environment: str, is_ours: bool
) -> None:
    if account is not None:
        prove_key()
        ApiKey.objects.filter(pk=own_key().pk).update(environment=account)
    assert LedgerAccount().bought(build_guide_order(environment=environment)) is is_ours
