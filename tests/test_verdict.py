"""What an answer means for an order of five cards: only a whole one settles it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from giftcards.cards import CardSecret
from giftcards.provider import OrderAnswer
from giftcards.statuses import SETTLED, Status
from giftcards.verdict import Settlement, Verdict, judge
from tests.builders import CARDS, FULFILLED, PARTIAL, PRICE, REFUNDED, answer, settled

CONTRADICTING = "The provider's figures contradict each other: see the refund breakdown."
UNCOUNTED = "The provider does not say how many of 5 cards it delivered."


def judged(
    answer: OrderAnswer, known_price: Decimal | None = None, *, is_late: bool = False
) -> Verdict:
    return judge(answer, quantity=5, known_price=known_price, is_late=is_late)


def not_whole(status: str, fulfilled: int, cards: int) -> str:
    return (
        f"The provider says {status} with {fulfilled} of 5 cards delivered,"
        f" and sent {cards} that can be read."
    )


@pytest.mark.parametrize(
    ("given_answer", "settlement"),
    [
        (FULFILLED, Settlement(Status.FULFILLED, 5, 5 * PRICE, PRICE)),
        (PARTIAL, Settlement(Status.PARTIALLY_FILLED, 3, Decimal(1470), PRICE)),
        (REFUNDED, Settlement(Status.REFUNDED, 0, Decimal(0), PRICE)),
        # Every figure may be missing.
        (
            answer("FULFILLED", cards=CARDS),
            Settlement(Status.FULFILLED, 5, None, None),
        ),
        (
            answer("PARTIALLY_FILLED", cards=CARDS[:3]),
            Settlement(Status.PARTIALLY_FILLED, 3, None, None),
        ),
        (answer("REFUNDED"), Settlement(Status.REFUNDED, 0, None, None)),
        # The sandbox.
        (
            settled("FULFILLED", CARDS, price_per_card=Decimal(0), fulfilled_amount=Decimal(0)),
            Settlement(Status.FULFILLED, 5, Decimal(0), Decimal(0)),
        ),
    ],
)
def test_a_whole_answer_settles(given_answer: OrderAnswer, settlement: Settlement) -> None:
    assert judged(given_answer) == Verdict(settlement, "")


@pytest.mark.parametrize(
    ("given_answer", "problem"),
    [
        (answer("HANDLING"), ""),
        (answer("HANDLING", quantity=5, cards=CARDS[:2]), ""),
        # A status that is not known.
        (
            settled("CANCELLED", CARDS),
            "The provider gave a status that is not known: CANCELLED.",
        ),
        (
            settled("fulfilled", CARDS),
            "The provider gave a status that is not known: fulfilled.",
        ),
        # Ours, not the provider's.
        (settled("DELAYED", CARDS), "The provider gave a status that is not known: DELAYED."),
        (settled(None, CARDS), "The answer has no status that can be read."),
        # FULFILLED with too few or too many cards.
        (settled("FULFILLED", ()), not_whole("FULFILLED", 0, 0)),
        (settled("FULFILLED", CARDS[:4]), not_whole("FULFILLED", 4, 4)),
        (
            settled("FULFILLED", CARDS[:4], fulfilled_quantity=5),
            not_whole("FULFILLED", 5, 4),
        ),
        (
            settled("FULFILLED", [*CARDS, CARDS[0]], fulfilled_quantity=5),
            not_whole("FULFILLED", 5, 6),
        ),
        (settled("FULFILLED", [*CARDS, CARDS[0]]), not_whole("FULFILLED", 6, 6)),
        (answer("FULFILLED"), not_whole("FULFILLED", 0, 0)),
        # PARTIALLY_FILLED that is none.
        (settled("PARTIALLY_FILLED", ()), not_whole("PARTIALLY_FILLED", 0, 0)),
        (settled("PARTIALLY_FILLED", CARDS), not_whole("PARTIALLY_FILLED", 5, 5)),
        (
            settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_quantity=7),
            not_whole("PARTIALLY_FILLED", 7, 3),
        ),
        (
            settled(
                "PARTIALLY_FILLED",
                CARDS[:3],
                fulfilled_quantity=-3,
                problems=("fulfilled_quantity is negative (-3).",),
            ),
            "fulfilled_quantity is negative (-3). " + not_whole("PARTIALLY_FILLED", -3, 3),
        ),
        (
            settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_quantity=4),
            not_whole("PARTIALLY_FILLED", 4, 3),
        ),
        # One of three could not be read, and nothing says that there were three.
        (
            answer(
                "PARTIALLY_FILLED",
                cards=CARDS[:2],
                problems=("1 of 3 cards without a usable value.",),
            ),
            f"1 of 3 cards without a usable value. {UNCOUNTED}",
        ),
        (
            settled(
                "PARTIALLY_FILLED",
                CARDS[:2],
                fulfilled_quantity=None,
                fulfilled_amount=Decimal(1470),
            ),
            UNCOUNTED,
        ),
        # REFUNDED with cards.
        (settled("REFUNDED", CARDS[:1]), not_whole("REFUNDED", 1, 1)),
        (settled("REFUNDED", CARDS[:1], fulfilled_quantity=0), not_whole("REFUNDED", 0, 1)),
        # Another order's quantity.
        (
            settled("FULFILLED", CARDS, quantity=6),
            "The provider speaks of 6 cards, the order is for 5.",
        ),
        (
            answer("HANDLING", quantity=4),
            "The provider speaks of 4 cards, the order is for 5.",
        ),
        (
            settled("FULFILLED", CARDS, quantity=0),
            "The provider speaks of 0 cards, the order is for 5.",
        ),
        # Negative money.
        (
            settled(
                "FULFILLED",
                CARDS,
                price_per_card=Decimal(-490),
                problems=("price_per_card is negative (-490).",),
            ),
            "price_per_card is negative (-490).",
        ),
        (
            settled(
                "REFUNDED",
                (),
                fulfilled_amount=Decimal(-1),
                problems=("fulfilled_amount is negative (-1).",),
            ),
            "fulfilled_amount is negative (-1).",
        ),
    ],
)
def test_the_order_stays_open(given_answer: OrderAnswer, problem: str) -> None:
    for is_late in (False, True):
        assert judged(given_answer, is_late=is_late) == Verdict(None, problem)


@pytest.mark.parametrize(
    ("unread", "problem"),
    [
        ("fulfilled_amount", "fulfilled_amount is not a number."),
        ("price_per_card", "price_per_card has more than two decimals (1.005)."),
        ("quantity", "quantity is out of range."),
        # How many cards there are is told by the status alone.
        ("fulfilled_quantity", "fulfilled_quantity is not a number."),
    ],
)
def test_a_figure_that_cannot_be_read_is_asked_for_again_until_it_is_late(
    unread: str, problem: str
) -> None:
    given_answer = settled("FULFILLED", CARDS, **{unread: None, "problems": (problem,)})
    assert judged(given_answer) == Verdict(None, problem)
    verdict = judged(given_answer, PRICE, is_late=True)
    amount = None if unread == "fulfilled_amount" else 5 * PRICE
    assert verdict == Verdict(Settlement(Status.FULFILLED, 5, amount, PRICE), problem)


@pytest.mark.parametrize(
    ("given_answer", "problem"),
    [
        (settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_amount=Decimal(1960)), CONTRADICTING),
        (settled("FULFILLED", CARDS, price_per_card=Decimal(500)), CONTRADICTING),
        (settled("REFUNDED", (), fulfilled_amount=Decimal(490)), CONTRADICTING),
    ],
)
def test_it_settles_and_staff_are_told(given_answer: OrderAnswer, problem: str) -> None:
    verdict = judged(given_answer)
    assert verdict.settlement is not None
    assert verdict.settlement.status == given_answer.status
    assert verdict.problem == problem


class TestPrice:
    def test_the_price_when_placing_stands_in(self) -> None:
        verdict = judged(answer("REFUNDED"), known_price=PRICE)
        assert verdict.settlement == Settlement(Status.REFUNDED, 0, None, PRICE)

    def test_the_answers_own_price_goes_first(self) -> None:
        free = settled("REFUNDED", (), price_per_card=Decimal(0))
        verdict = judged(free, known_price=PRICE)
        assert verdict.settlement == Settlement(Status.REFUNDED, 0, Decimal(0), Decimal(0))

    def test_what_was_charged_is_held_against_the_price_when_placing(self) -> None:
        charged = answer("FULFILLED", cards=CARDS, fulfilled_amount=Decimal(1))
        assert judged(charged, known_price=PRICE).problem == CONTRADICTING


amounts = st.none() | st.decimals(-1000, 5000, places=2) | st.sampled_from([PRICE, 3 * PRICE])
numbers = st.none() | st.integers(-2, 7)
answers = st.builds(
    answer,
    st.none() | st.sampled_from([*SETTLED, "HANDLING", "CANCELLED", "PENDING"]),
    quantity=numbers,
    fulfilled_quantity=numbers,
    fulfilled_amount=amounts,
    price_per_card=amounts,
    cards=st.lists(st.sampled_from(CARDS), max_size=7).map(tuple),
    problems=st.sampled_from([(), ("price_per_card is not a number.",)]),
)


@given(answers, amounts.filter(lambda price: price is None or price >= 0), st.booleans())
@example(PARTIAL, None, False)
@example(FULFILLED, PRICE, True)
@example(REFUNDED, None, False)
def test_nothing_settles_unless_it_is_whole(
    given_answer: OrderAnswer, known_price: Decimal | None, is_late: bool
) -> None:
    verdict = judged(given_answer, known_price, is_late=is_late)
    found = verdict.settlement
    if found is None:
        assert verdict.problem or given_answer.status == "HANDLING" or _is_negative(given_answer)
        return
    assert found.status == given_answer.status
    assert given_answer.quantity in {None, 5}
    assert given_answer.fulfilled_quantity in {None, found.fulfilled_quantity}
    assert found.fulfilled_quantity == len(given_answer.cards)
    assert (
        found.fulfilled_quantity
        in {
            Status.FULFILLED: {5},
            Status.PARTIALLY_FILLED: {1, 2, 3, 4},
            Status.REFUNDED: {0},
        }[found.status]
    )
    assert not _is_negative(given_answer)


def _is_negative(given_answer: OrderAnswer) -> bool:
    amounts = (given_answer.fulfilled_amount, given_answer.price_per_card)
    return any(amount is not None and amount < 0 for amount in amounts)


@given(st.text(st.characters(exclude_categories=()), min_size=12), answers)
def test_no_problem_holds_a_code(code: str, given_answer: OrderAnswer) -> None:
    fields: dict[str, Any] = {
        name: getattr(given_answer, name) for name in given_answer.__dataclass_fields__
    }
    fields["cards"] = tuple(CardSecret(code, code) for _ in given_answer.cards)
    assert code not in judged(OrderAnswer(**fields)).problem
