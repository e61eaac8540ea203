"""Answers that repeat, omit or reorder cards: each paid card is handed over exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import responses

from giftcards.delivery.revealing import open_codes
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import make_order, problems, surplus
from tests.stage import Wire, ago, check_url, run_sweep, settled_answer

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

REPEATED = Problem("cards_repeated", {"repeated": 1, "total": 3})


def told(order: Order, text: str) -> dict[str, Any]:
    """Return an answer: ``"FULFILLED a a b"`` is this status with these codes.

    Only final statuses have figures.
    """
    status, *codes = text.split()
    cards = [{"value": f"CODE-{code}", "serial": f"SERIAL-{code}"} for code in codes]
    if status == "HANDLING":
        figures: dict[str, Any] = dict.fromkeys(("fulfilled_quantity", "fulfilled_amount"))
    else:
        count = order.quantity if status == "FULFILLED" else len(codes)
        figures = {"fulfilled_quantity": count, "fulfilled_amount": 490 * count}
    return settled_answer(order, status=status, quantity=order.quantity, cards=cards, **figures)


def follow(wire: Wire, answers: Sequence[str]) -> Order:
    """Return an order of three cards that was checked until the last of ``answers`` was read."""
    order = make_order(Status.HANDLING, quantity=3)
    for text in answers:
        wire.upsert(responses.GET, check_url(order), json=told(order, text))
        Order.objects.filter(finalized_at=None).update(due_at=ago(1))
        run_sweep()
    return Order.objects.get(pk=order.pk)


def codes(order: Order) -> str:
    return " ".join(card.value.removeprefix("CODE-") for card in order.cards.order_by("position"))


@pytest.mark.parametrize(
    ("answers", "handed_over", "kept", "said"),
    [
        # One answer repeats a card.
        (["HANDLING a a b c", "FULFILLED a b c"], "a b c", "", []),
        (["FULFILLED a a b c", "FULFILLED a b c"], "a b c", "", []),
        (["HANDLING a a", "HANDLING b b a", "FULFILLED c a b"], "a b c", "", []),
        # An answer repeats a card instead of another one, or shows a card of a different order.
        (["FULFILLED a a b", "FULFILLED a b c"], "a b c", "", []),
        (["HANDLING d a", "FULFILLED a b c"], "a b c", "d", [surplus(4, 3)]),
        (["HANDLING d e f a", "FULFILLED c b a"], "a c b", "d e f", [surplus(6, 3)]),
        (["HANDLING d a", "PARTIALLY_FILLED a b"], "a b", "d", [surplus(3, 2)]),
        (["HANDLING a", "REFUNDED"], "", "a", [surplus(1, 0)]),
        # If the answer stays the same, the repeated card counts as two, unless another card is
        # known.
        (["FULFILLED a a b"] * 2, "a b a", "", [REPEATED]),
        (["HANDLING a b c", *["FULFILLED a a b"] * 2], "a b c", "a", [REPEATED, surplus(4, 3)]),
    ],
)
def test_the_cards_of_the_settling_answer_are_handed_over_and_the_others_kept(
    answers: list[str], handed_over: str, kept: str, said: list[Problem], wire: Any
) -> None:
    order = follow(wire, answers)
    assert order.is_settled
    assert " ".join(code.value.removeprefix("CODE-") for code in open_codes(order)) == handed_over
    assert codes(order) == f"{handed_over} {kept}".strip()
    assert problems(order) == said
