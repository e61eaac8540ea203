"""The verdict on an answer about an order of five cards: only a complete answer settles it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from giftcards.keys.secrecy import CardSecret
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem
from giftcards.rules.verdict import Settlement, Verdict, evaluate_answer, evaluate_for, find_changes
from giftcards.statuses import SETTLED, Status
from tests.builders import (
    CARDS,
    FULFILLED,
    PARTIAL,
    PRICE,
    PRODUCT,
    REFUNDED,
    TYPE,
    answer,
    build_guide_order,
    not_whole,
    settled,
)

CONTRADICTING = Problem("figures_contradict")
UNCOUNTED = Problem("delivered_unknown", {"ordered": 5})


LINE = (PRODUCT, TYPE, 5)


def judged(answer: OrderAnswer, known_price: Decimal | None = None, **values: Any) -> Verdict:
    return evaluate_answer(answer, line=LINE, known_price=known_price, **values)


def differs(told: int) -> Problem:
    return Problem("quantity_differs", {"told": told, "ordered": 5})


def unknown(status: str) -> Problem:
    return Problem("status_unknown", {"status": status})


def unreadable(name: str) -> Problem:
    return Problem("figure_unreadable", {"field": name, "fault": "not_a_number"})


def negative(name: str) -> Problem:
    return Problem("figure_negative", {"field": name})


def changed(name: str, amount: str, expected: str) -> Problem:
    amounts = {"amount": amount, "expected": expected}
    return Problem("figure_changed", {"field": name, **amounts})


OTHER_TIME = Problem("line_differs", {"field": "time"})
CARDS_REPEATED = Problem("cards_repeated", {"repeated": 2, "total": 5})
REPEATED = settled("FULFILLED", [*CARDS[:3], *CARDS[:2]])
LOST_CARD = Problem("cards_unreadable", {"lost": 1, "total": 3})


@pytest.mark.parametrize(
    ("given_answer", "settlement"),
    [
        (FULFILLED, Settlement(Status.FULFILLED, 5, 5 * PRICE, PRICE)),
        (PARTIAL, Settlement(Status.PARTIALLY_FILLED, 3, Decimal(1470), PRICE)),
        (
            settled("PARTIALLY_FILLED", CARDS[:1]),
            Settlement(Status.PARTIALLY_FILLED, 1, PRICE, PRICE),
        ),
        (REFUNDED, Settlement(Status.REFUNDED, 0, Decimal(0), PRICE)),
        # In the sandbox, cards are free.
        (
            settled("FULFILLED", CARDS, price_per_card=Decimal(0), fulfilled_amount=Decimal(0)),
            Settlement(Status.FULFILLED, 5, Decimal(0), Decimal(0)),
        ),
    ],
)
def test_a_complete_answer_settles_an_order(
    given_answer: OrderAnswer, settlement: Settlement
) -> None:
    assert judged(given_answer) == Verdict(settlement)


@pytest.mark.parametrize(
    ("given_answer", "problems"),
    [
        (answer("HANDLING"), ()),
        (answer("HANDLING", quantity=5, cards=CARDS[:2]), ()),
        # The status is unknown.
        (settled("CANCELLED", CARDS), (unknown("CANCELLED"),)),
        (settled("fulfilled", CARDS), (unknown("fulfilled"),)),
        # This is a status of the app and not of the provider.
        (settled("DELAYED", CARDS), (unknown("DELAYED"),)),
        (settled(None, CARDS), (Problem("status_missing"),)),
        # FULFILLED with too few or too many cards.
        (settled("FULFILLED", ()), (not_whole("FULFILLED", 0, 0),)),
        (settled("FULFILLED", CARDS[:4]), (not_whole("FULFILLED", 4, 4),)),
        (settled("FULFILLED", CARDS[:4], fulfilled_quantity=5), (not_whole("FULFILLED", 5, 4),)),
        (
            settled("FULFILLED", [*CARDS, CARDS[0]], fulfilled_quantity=5),
            (not_whole("FULFILLED", 5, 6),),
        ),
        (settled("FULFILLED", [*CARDS, CARDS[0]]), (not_whole("FULFILLED", 6, 6),)),
        (answer("FULFILLED"), (not_whole("FULFILLED", 0, 0),)),
        # PARTIALLY_FILLED that is not a partial delivery.
        (settled("PARTIALLY_FILLED", ()), (not_whole("PARTIALLY_FILLED", 0, 0),)),
        (settled("PARTIALLY_FILLED", CARDS), (not_whole("PARTIALLY_FILLED", 5, 5),)),
        (
            settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_quantity=7),
            (not_whole("PARTIALLY_FILLED", 7, 3),),
        ),
        (
            settled(
                "PARTIALLY_FILLED",
                CARDS[:3],
                fulfilled_quantity=-3,
                problems=(negative("fulfilled_quantity"),),
            ),
            (negative("fulfilled_quantity"), not_whole("PARTIALLY_FILLED", -3, 3)),
        ),
        (
            settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_quantity=4),
            (not_whole("PARTIALLY_FILLED", 4, 3),),
        ),
        # One of three cards could not be read, and the answer does not say that there were three.
        (
            answer("PARTIALLY_FILLED", cards=CARDS[:2], problems=(LOST_CARD,)),
            (LOST_CARD, UNCOUNTED),
        ),
        (
            settled(
                "PARTIALLY_FILLED",
                CARDS[:2],
                fulfilled_quantity=None,
                fulfilled_amount=Decimal(1470),
            ),
            (UNCOUNTED,),
        ),
        # REFUNDED with cards.
        (settled("REFUNDED", CARDS[:1]), (not_whole("REFUNDED", 1, 1),)),
        (settled("REFUNDED", CARDS[:1], fulfilled_quantity=0), (not_whole("REFUNDED", 0, 1),)),
        # Negative amounts.
        (
            settled(
                "FULFILLED",
                CARDS,
                price_per_card=Decimal(-490),
                problems=(negative("price_per_card"),),
            ),
            (negative("price_per_card"),),
        ),
        (
            settled(
                "REFUNDED",
                (),
                fulfilled_amount=Decimal(-1),
                problems=(negative("fulfilled_amount"),),
            ),
            (negative("fulfilled_amount"),),
        ),
    ],
)
def test_an_order_stays_open_if_its_answer_is_incomplete_or_unknown(
    given_answer: OrderAnswer, problems: tuple[Problem, ...]
) -> None:
    for is_late in (False, True):
        assert judged(given_answer, is_late=is_late) == Verdict(None, problems)


@pytest.mark.parametrize(
    ("unread", "amount", "price"),
    [("fulfilled_amount", None, PRICE), ("price_per_card", 5 * PRICE, None)],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_an_unreadable_amount_is_unknown_and_keeps_no_order_open(
    unread: str, amount: Decimal | None, price: Decimal | None, is_late: bool
) -> None:
    problem = unreadable(unread)
    given_answer = settled("FULFILLED", CARDS, **{unread: None, "problems": (problem,)})
    verdict = judged(given_answer, PRICE, is_late=is_late)
    assert verdict == Verdict(Settlement(Status.FULFILLED, 5, amount, price), (problem,))


@pytest.mark.parametrize("status", ["PARTIALLY_FILLED", "REFUNDED"])
def test_an_order_settles_by_its_cards_if_no_amount_can_be_read(status: str) -> None:
    problems = (unreadable("fulfilled_amount"), unreadable("price_per_card"))
    cards = CARDS[:3] if status == "PARTIALLY_FILLED" else ()
    verdict = judged(answer(status, cards=cards, problems=problems), PRICE)
    assert verdict == Verdict(Settlement(Status(status), len(cards), None, None), problems)


@pytest.mark.parametrize(
    "unread",
    [
        "quantity",
        # Without this figure, the number of cards follows only from the status.
        "fulfilled_quantity",
    ],
)
def test_an_unreadable_number_of_cards_keeps_an_order_open_until_it_is_late(unread: str) -> None:
    problem = unreadable(unread)
    given_answer = settled("FULFILLED", CARDS, **{unread: None, "problems": (problem,)})
    assert judged(given_answer) == Verdict(None, (problem,))
    verdict = judged(given_answer, PRICE, is_late=True)
    assert verdict == Verdict(Settlement(Status.FULFILLED, 5, 5 * PRICE, PRICE), (problem,))


@pytest.mark.parametrize(
    ("given_answer", "doubt"),
    [
        (settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_amount=Decimal(1960)), CONTRADICTING),
        (settled("FULFILLED", CARDS, price_per_card=Decimal(500)), CONTRADICTING),
        (settled("REFUNDED", (), fulfilled_amount=Decimal(490)), CONTRADICTING),
        (REPEATED, CARDS_REPEATED),
    ],
)
def test_contradicting_figures_and_repeated_cards_settle_an_order_when_they_come_again(
    given_answer: OrderAnswer, doubt: Problem
) -> None:
    for is_late in (False, True):
        assert judged(given_answer, is_late=is_late) == Verdict(None, (doubt,))
    verdict = judged(given_answer, is_repeated=True)
    assert verdict.settlement.status == given_answer.status
    assert verdict.problems == (doubt,)


DOUBTFUL = settled("FULFILLED", CARDS, fulfilled_amount=Decimal(1))
UNREADABLE = settled("FULFILLED", CARDS, quantity=None, problems=(unreadable("quantity"),))
SENT_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
OF_ANOTHER_DAY = replace(FULFILLED, created_at=SENT_AT - timedelta(days=1))


def clock_was_right(moment: datetime) -> bool:
    return moment == SENT_AT


def clock_was_wrong(moment: datetime) -> bool:
    return moment != SENT_AT


@pytest.mark.parametrize(
    ("given_answer", "record", "options", "settles", "problem"),
    [
        (FULFILLED, {}, {}, True, None),
        # The price at the time of placing counts.
        (
            replace(FULFILLED, price_per_card=None),
            {"price_per_card": 500},
            {},
            False,
            CONTRADICTING,
        ),
        # An order that is no longer HANDLING counts as late.
        (UNREADABLE, {}, {}, False, unreadable("quantity")),
        (UNREADABLE, {"status": Status.DELAYED}, {}, True, unreadable("quantity")),
        # A doubtful answer is accepted if the doubt is repeated, or if the answer is the last one.
        (DOUBTFUL, {}, {}, False, CONTRADICTING),
        (DOUBTFUL, {"problems": [LOST_CARD]}, {}, False, CONTRADICTING),
        (DOUBTFUL, {"problems": [LOST_CARD, CONTRADICTING]}, {}, True, CONTRADICTING),
        (DOUBTFUL, {}, {"is_last": True}, True, CONTRADICTING),
        (REPEATED, {}, {}, False, CARDS_REPEATED),
        (REPEATED, {"problems": [CARDS_REPEATED]}, {}, True, CARDS_REPEATED),
        # Until the provider's id is confirmed, the time has to match, unless the clock was wrong.
        (OF_ANOTHER_DAY, {}, {}, False, OTHER_TIME),
        (OF_ANOTHER_DAY, {}, {"was_clock_right": clock_was_right}, False, OTHER_TIME),
        (OF_ANOTHER_DAY, {}, {"was_clock_right": clock_was_wrong}, True, None),
        (OF_ANOTHER_DAY, {"identified_at": SENT_AT}, {}, True, None),
        (OF_ANOTHER_DAY, {"sent_at": None}, {}, True, None),
    ],
)
def test_an_answer_is_judged_by_what_is_on_record_of_the_order(
    given_answer: OrderAnswer,
    record: dict[str, Any],
    options: dict[str, Any],
    settles: bool,
    problem: Problem | None,
) -> None:
    order = build_guide_order(**{"sent_at": SENT_AT, **record})
    verdict = evaluate_for(order, given_answer, **options)
    assert (verdict.settlement is not None) is settles
    assert verdict.problems == (() if problem is None else (problem,))
    assert verdict.is_ours is (problem != OTHER_TIME)


class TestPrice:
    def test_the_price_at_placing_stands_in_for_one_missing_in_the_answer(self) -> None:
        verdict = judged(answer("REFUNDED"), known_price=PRICE)
        assert verdict.settlement == Settlement(Status.REFUNDED, 0, None, PRICE)

    def test_the_price_in_the_answer_goes_before_the_price_at_placing(self) -> None:
        free = settled("REFUNDED", (), price_per_card=Decimal(0))
        verdict = judged(free, known_price=PRICE)
        assert verdict.settlement == Settlement(Status.REFUNDED, 0, Decimal(0), Decimal(0))

    def test_a_price_that_differs_from_placing_is_a_problem_with_both_prices(self) -> None:
        dearer = settled("FULFILLED", CARDS, price_per_card=520, fulfilled_amount=2600)
        verdict = judged(dearer, known_price=PRICE)
        assert verdict.settlement == Settlement(Status.FULFILLED, 5, Decimal(2600), Decimal(520))
        both = {"amount": "520.00", "expected": "490.00"}
        assert verdict.problems == (Problem("price_changed", both),)

    def test_an_equal_price_is_no_problem(self) -> None:
        assert judged(FULFILLED, known_price=Decimal(490)).problems == ()

    def test_the_amount_charged_is_compared_with_the_price_at_placing(self) -> None:
        charged = answer("FULFILLED", cards=CARDS, fulfilled_amount=Decimal(1))
        assert judged(charged, known_price=PRICE).problems == (CONTRADICTING,)


def unknown_figures(*names: str) -> tuple[Problem, ...]:
    return tuple(Problem("figure_unknown", {"field": name}) for name in names)


@pytest.mark.parametrize(
    ("given_answer", "settlement", "unknown"),
    [
        (
            answer("FULFILLED", cards=CARDS),
            Settlement(Status.FULFILLED, 5, None, None),
            ("price_per_card", "fulfilled_amount"),
        ),
        (
            answer("PARTIALLY_FILLED", cards=CARDS[:3], fulfilled_amount=3 * PRICE),
            Settlement(Status.PARTIALLY_FILLED, 3, 3 * PRICE, None),
            ("price_per_card",),
        ),
        # The charge for a refunded order is known to be zero, so only its price is missing.
        (answer("REFUNDED"), Settlement(Status.REFUNDED, 0, None, None), ("price_per_card",)),
    ],
)
def test_an_order_settles_without_missing_figures_and_names_them(
    given_answer: OrderAnswer, settlement: Settlement, unknown: tuple[str, ...]
) -> None:
    assert judged(given_answer) == Verdict(settlement, unknown_figures(*unknown))


OTHER_LINES = [
    ({"product_id": "another"}, Problem("line_differs", {"field": "product"})),
    ({"type_id": "type_002"}, Problem("line_differs", {"field": "type"})),
    ({"quantity": 3}, differs(3)),
    ({"quantity": -2}, differs(-2)),
]


@pytest.mark.parametrize(("named", "problem"), OTHER_LINES)
@pytest.mark.parametrize("status", ["HANDLING", "FULFILLED"])
def test_a_complete_answer_about_another_line_is_not_ours(
    status: str, named: dict[str, Any], problem: Problem
) -> None:
    foreign = settled(status, CARDS, **named)
    for options in ({}, {"is_late": True}, {"is_repeated": True}):
        assert judged(foreign, PRICE, **options) == Verdict(None, (problem,), is_ours=False)


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        (PARTIAL, []),
        # A missing figure is not a difference, and a list may leave out the cards.
        (answer("PARTIALLY_FILLED"), []),
        # The list may be out of date.
        (answer("HANDLING", fulfilled_quantity=0), []),
        (
            settled("FULFILLED", CARDS),
            [
                Problem("contradicted", {"status": "FULFILLED", "delivered": 5, "ordered": 5}),
                changed("fulfilled_amount", "2450.00", "1470.00"),
            ],
        ),
        (
            answer("REFUNDED"),
            [Problem("contradicted", {"status": "REFUNDED", "delivered": 3, "ordered": 5})],
        ),
        (
            answer("REFUNDED", fulfilled_quantity=0),
            [Problem("contradicted", {"status": "REFUNDED", "delivered": 0, "ordered": 5})],
        ),
        (
            answer("PARTIALLY_FILLED", fulfilled_amount=Decimal(0)),
            [changed("fulfilled_amount", "0.00", "1470.00")],
        ),
        (
            settled("PARTIALLY_FILLED", CARDS[:3], price_per_card=Decimal(500)),
            [changed("price_per_card", "500.00", "490.00")],
        ),
        (settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_amount=Decimal(-1)), []),
    ],
)
def test_a_later_answer_that_differs_from_a_settled_order_is_reported(
    told: OrderAnswer, changes: list[Problem]
) -> None:
    record = Settlement(Status.PARTIALLY_FILLED, 3, 3 * PRICE, PRICE)
    assert list(find_changes(told, record, quantity=5)) == changes


def test_figures_unknown_at_settling_are_reported_when_they_come() -> None:
    record = Settlement(Status.FULFILLED, 5, None, None)
    late = [
        Problem("figure_late", {"field": "fulfilled_amount", "amount": "2450.00"}),
        Problem("figure_late", {"field": "price_per_card", "amount": "490.00"}),
    ]
    assert list(find_changes(FULFILLED, record, quantity=5)) == late
    refunded = Settlement(Status.REFUNDED, 0, None, PRICE)
    assert list(find_changes(REFUNDED, refunded, quantity=5)) == []


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
    problems=st.sampled_from([(), (unreadable("price_per_card"),)]),
)


@given(answers, amounts.filter(lambda price: price is None or price >= 0), st.booleans())
@example(PARTIAL, None, False)
@example(FULFILLED, PRICE, True)
@example(REFUNDED, None, False)
def test_an_order_settles_only_by_a_complete_answer(
    given_answer: OrderAnswer, known_price: Decimal | None, is_late: bool
) -> None:
    verdict = judged(given_answer, known_price, is_late=is_late)
    found = verdict.settlement
    if found is None:
        assert verdict.problems or given_answer.status == "HANDLING" or _is_negative(given_answer)
        return
    assert found.status == given_answer.status
    assert given_answer.quantity in {None, 5}
    assert given_answer.fulfilled_quantity in {None, found.fulfilled_quantity}
    assert found.fulfilled_quantity == len(given_answer.cards)
    assert (
        found.fulfilled_quantity
        in {Status.FULFILLED: {5}, Status.PARTIALLY_FILLED: {1, 2, 3, 4}, Status.REFUNDED: {0}}[
            found.status
        ]
    )
    assert not _is_negative(given_answer)


def _is_negative(given_answer: OrderAnswer) -> bool:
    amounts = (given_answer.fulfilled_amount, given_answer.price_per_card)
    return any(amount is not None and amount < 0 for amount in amounts)


# The codes begin with a character that is in no text of this project, because hypothesis collects
# these texts and tries them.
codes = st.text(st.characters(exclude_categories=()), min_size=12).map("\ue000".__add__)


@given(codes, answers)
def test_no_problem_of_an_answer_holds_a_code(code: str, given_answer: OrderAnswer) -> None:
    fields: dict[str, Any] = {
        name: getattr(given_answer, name) for name in given_answer.__dataclass_fields__
    }
    fields["cards"] = tuple(CardSecret(code, code) for _ in given_answer.cards)
    assert not [p for p in judged(OrderAnswer(**fields)).problems if code in f"{p.as_dict()} {p}"]
