"""The evaluation of the provider's answer about an order.

Only a complete answer settles an order. Otherwise, the order stays open, and its problems describe
the reason. This module does not use the database or make requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from giftcards.provider.answers import Flaw, OrderAnswer
from giftcards.rules.identity import Line, find_difference
from giftcards.rules.money import purchase_breakdown
from giftcards.rules.problems import Entry, Problem
from giftcards.rules.states import SETTLED, STATES, UNCHARGED, Cards, Status
from giftcards.rules.times import with_zone

CONTRADICTING = Problem("figures_contradict")
# An answer with one of these problems is accepted only after a second check.
DOUBTFUL = frozenset({"figures_contradict", "cards_repeated"})
# At most twice the ordered number of cards plus this number are stored for an unsettled order.
_SPARE_CARDS = 50
# An order can be settled without these figures, because cards do not depend on them.
_AMOUNTS = {"fulfilled_amount", "price_per_card"}


@dataclass(frozen=True, slots=True)
class Settlement:
    """The final status and figures of an order."""

    status: Status
    fulfilled_quantity: int
    fulfilled_amount: Decimal | None
    price_per_card: Decimal | None


class Accepted(Protocol):
    """The attributes of an accepted order that :func:`evaluate_for` reads."""

    @property
    def line_at_provider(self) -> Line: ...
    @property
    def status(self) -> str: ...
    @property
    def sent_at(self) -> datetime | None: ...
    @property
    def identified_at(self) -> datetime | None: ...
    @property
    def price_per_card(self) -> Decimal | None: ...
    @property
    def problems(self) -> Sequence[Entry]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of evaluating an answer.

    ``settlement`` is ``None`` if the order stays open. If ``is_ours`` is False, the answer is about
    another order and must not be used.
    """

    settlement: Settlement | None
    problems: tuple[Problem, ...] = ()
    is_ours: bool = True


def evaluate_for(
    order: Accepted,
    answer: OrderAnswer,
    *,
    is_last: bool = False,
    was_clock_right: Callable[[datetime], bool] = lambda _moment: True,
) -> Verdict:
    """Evaluate an answer about an accepted order.

    ``is_last`` is True if no further check is scheduled. The time in the answer is compared with
    the time when the order was sent, but only if ``was_clock_right(order.sent_at)`` returns True.
    """
    sent_at = order.sent_at
    is_comparable = sent_at and not order.identified_at and was_clock_right(sent_at)
    return evaluate_answer(
        answer,
        line=order.line_at_provider,
        sent_at=with_zone(sent_at) if sent_at and is_comparable else None,
        known_price=order.price_per_card,
        is_late=order.status != Status.HANDLING,
        is_repeated=is_last or any(Problem.of(entry).code in DOUBTFUL for entry in order.problems),
    )


def evaluate_answer(
    answer: OrderAnswer,
    *,
    line: Line,
    known_price: Decimal | None,
    sent_at: datetime | None = None,
    is_late: bool = False,
    is_repeated: bool = False,
) -> Verdict:
    """Evaluate the provider's answer about an order.

    The ``line`` of the order contains the product, the type and the quantity. ``known_price`` is
    the price of a card when the order was placed, and is used if the answer does not contain a
    price. Pass ``sent_at`` if the order's id is not confirmed yet.

    If the answer is not clear, the order may stay open, so that it is checked again:

    - If only an amount is unreadable, the order is settled without this amount, and staff see a
      problem.
    - If something else is unreadable, such as the number of cards, the order stays open, unless
      ``is_late`` is True. Even if ``is_late`` is True, a partially filled order stays open if the
      answer does not state a readable number of delivered cards.
    - If figures contradict each other or cards are repeated, the order stays open, unless
      ``is_repeated`` is True.

    ``is_repeated`` is True if the previous answer was also doubtful, or if this answer is the last
    one.
    """
    if difference := find_difference(answer, line, sent_at=sent_at):
        return Verdict(None, (difference,), is_ours=False)
    quantity = line[2]
    objections = tuple(_objections(answer, quantity))
    problems = (*(Problem(flaw.code, flaw.parameters) for flaw in answer.flaws), *objections)
    if objections or answer.status not in SETTLED or _has_negative(answer):
        return Verdict(None, problems)
    settlement = Settlement(
        status=Status(answer.status),
        fulfilled_quantity=_delivered(answer),
        fulfilled_amount=answer.fulfilled_amount,
        price_per_card=_price(answer, known_price),
    )
    is_consistent = purchase_breakdown(
        status=settlement.status,
        quantity=quantity,
        fulfilled_quantity=settlement.fulfilled_quantity,
        price_per_card=settlement.price_per_card,
        fulfilled_amount=settlement.fulfilled_amount,
    ).is_consistent
    is_doubtful = not all(map(_is_unread_amount, problems))
    is_partial = answer.status == Status.PARTIALLY_FILLED
    is_uncounted = is_partial and answer.fulfilled_quantity is None
    if is_uncounted and (is_doubtful or not is_consistent):
        # If the order were settled without a number of delivered cards, unreadable or missing cards
        # would be lost.
        return Verdict(None, (*problems, Problem("delivered_unknown", {"ordered": quantity})))
    if is_doubtful and not is_late:
        return Verdict(None, problems)
    doubts = tuple(_doubts(answer, is_consistent=is_consistent))
    problems = (*problems, *doubts)
    if doubts and not is_repeated:
        return Verdict(None, problems)
    return Verdict(settlement, (*problems, *_money_problems(settlement, problems, known_price)))


def _doubts(answer: OrderAnswer, *, is_consistent: bool) -> Iterator[Problem]:
    """Yield problems whose codes are in :data:`DOUBTFUL`."""
    if not is_consistent:
        yield CONTRADICTING
    if repeated := len(answer.cards) - len(answer.different_cards):
        yield Problem("cards_repeated", {"repeated": repeated, "total": len(answer.cards)})


def _price(answer: OrderAnswer, known_price: Decimal | None) -> Decimal | None:
    """Return the price of a card, or ``None`` if the price is unreadable.

    Returns ``known_price`` if the answer does not contain a price.
    """
    unread = [each.parameters["field"] for each in answer.flaws if _is_unread_amount(each)]
    is_told = answer.price_per_card is not None or "price_per_card" in unread
    return answer.price_per_card if is_told else known_price


def _is_unread_amount(found: Problem | Flaw) -> bool:
    return found.code == "figure_unreadable" and found.parameters["field"] in _AMOUNTS


def _money_problems(
    settlement: Settlement, problems: Sequence[Problem], known_price: Decimal | None
) -> Iterator[Problem]:
    price = settlement.price_per_card
    if price is not None and known_price not in {None, price}:
        yield Problem("price_changed", {"amount": f"{price:.2f}", "expected": f"{known_price:.2f}"})
    named = {problem.parameters.get("field") for problem in problems}
    if price is None and "price_per_card" not in named:
        yield Problem("figure_unknown", {"field": "price_per_card"})
    # A refunded order is not charged, even if the answer does not say so.
    is_charged = settlement.status not in UNCHARGED
    if is_charged and settlement.fulfilled_amount is None and "fulfilled_amount" not in named:
        yield Problem("figure_unknown", {"field": "fulfilled_amount"})


def _objections(answer: OrderAnswer, quantity: int) -> Iterator[Problem]:
    if answer.status is None:
        yield Problem("status_missing")
    elif answer.status not in {Status.HANDLING, *SETTLED}:
        yield Problem("status_unknown", {"status": answer.status})
    elif (cards := STATES[answer.status].cards) and not _is_whole(answer, cards, quantity):
        counts = {"delivered": _delivered(answer), "ordered": quantity, "cards": len(answer.cards)}
        yield Problem("not_whole", {"status": answer.status, **counts})


def _delivered(answer: OrderAnswer) -> int:
    """Return the number of delivered cards in the answer.

    If the answer does not state this number, its cards are counted.
    """
    figure = answer.fulfilled_quantity
    return len(answer.cards) if figure is None else figure


def _is_whole(answer: OrderAnswer, cards: Cards, quantity: int) -> bool:
    delivered = _delivered(answer)
    return cards.fits(delivered, quantity) and len(answer.cards) == delivered


def _has_negative(answer: OrderAnswer) -> bool:
    amounts = (answer.fulfilled_amount, answer.price_per_card)
    return any(amount is not None and amount < 0 for amount in amounts)


def most_cards(quantity: int) -> int:
    """Return the maximum number of cards stored for an unsettled order."""
    return 2 * quantity + _SPARE_CARDS


def cards_left_out(answer: OrderAnswer, left_out: int, *, quantity: int) -> Problem:
    """Return a problem that says how many cards were not stored."""
    counts = {"total": len(answer.cards), "left_out": left_out, "ordered": quantity}
    return Problem("cards_left_out", counts)


def find_changes(answer: OrderAnswer, record: Settlement, *, quantity: int) -> Iterator[Problem]:
    """Yield the differences between a final ``answer`` and ``record``.

    If a figure is missing or negative in the answer, it is not compared.
    """
    if answer.status not in SETTLED:
        return
    delivered = answer.fulfilled_quantity
    if delivered is None or delivered < 0:
        delivered = record.fulfilled_quantity
    if (answer.status, delivered) != (record.status, record.fulfilled_quantity):
        counts = {"delivered": delivered, "ordered": quantity}
        yield Problem("contradicted", {"status": answer.status, **counts})
    charged = record.fulfilled_amount
    if charged is None and record.status in UNCHARGED:
        charged = Decimal(0)
    yield from _changed_figure("fulfilled_amount", answer.fulfilled_amount, charged)
    yield from _changed_figure("price_per_card", answer.price_per_card, record.price_per_card)


def _changed_figure(name: str, told: Decimal | None, known: Decimal | None) -> Iterator[Problem]:
    if told is None or told < 0 or told == known:
        return
    if known is None:
        yield Problem("figure_late", {"field": name, "amount": f"{told:.2f}"})
    else:
        amounts = {"amount": f"{told:.2f}", "expected": f"{known:.2f}"}
        yield Problem("figure_changed", {"field": name, **amounts})
