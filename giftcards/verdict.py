"""What an answer of the provider means for an order: pure, no rows and no requests.

An answer is believed only if it is whole. What is not believed is described, in words that hold no
code, and the order stays open.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from giftcards.provider import OrderAnswer
from giftcards.refunds import compute
from giftcards.statuses import SETTLED, Status


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a settled order gets: its final status and figures."""

    status: Status
    fulfilled_quantity: int
    fulfilled_amount: Decimal | None
    price_per_card: Decimal | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``settlement`` is ``None`` while the order stays open; ``problem`` is "" if all is well."""

    settlement: Settlement | None
    problem: str


def judge(
    answer: OrderAnswer, *, quantity: int, known_price: Decimal | None, is_late: bool = False
) -> Verdict:
    """Judge ``answer`` for an order of ``quantity`` cards.

    ``known_price`` is what a card cost when the order was placed; it stands in where the answer
    brings no price. A figure that cannot be read is asked for again, unless the customer
    ``is_late`` to be served: then it stays unknown.
    """
    problems = list(answer.problems)
    if answer.quantity is not None and answer.quantity != quantity:
        problems.append(
            f"The provider speaks of {answer.quantity} cards, the order is for {quantity}."
        )
    if answer.status is None:
        problems.append("The answer has no status that can be read.")
    elif answer.status not in {Status.HANDLING, *SETTLED}:
        problems.append(f"The provider gave a status that is not known: {answer.status}.")
    if answer.status not in SETTLED:
        return Verdict(None, " ".join(problems))

    status = Status(answer.status)
    announced = answer.fulfilled_quantity
    fulfilled = len(answer.cards) if announced is None else announced
    if complaint := _contradiction(status, fulfilled, len(answer.cards), quantity):
        problems.append(complaint)
        return Verdict(None, " ".join(problems))
    if answer.quantity not in {None, quantity} or _has_negative(answer):
        return Verdict(None, " ".join(problems))

    settlement = Settlement(
        status=status,
        fulfilled_quantity=fulfilled,
        fulfilled_amount=answer.fulfilled_amount,
        price_per_card=known_price if answer.price_per_card is None else answer.price_per_card,
    )
    figures = compute(
        status=status,
        quantity=quantity,
        fulfilled_quantity=settlement.fulfilled_quantity,
        price_per_card=settlement.price_per_card,
        fulfilled_amount=settlement.fulfilled_amount,
    )
    is_counted = announced is not None or status is not Status.PARTIALLY_FILLED
    if not is_counted and (problems or not figures.is_consistent):
        # Nothing but the cards says how many they are: one that cannot be read, or was paid for
        # and is not there, would be given up for ever.
        problems.append(f"The provider does not say how many of {quantity} cards it delivered.")
        return Verdict(None, " ".join(problems))
    if answer.problems and not is_late:
        return Verdict(None, " ".join(problems))
    if not figures.is_consistent:
        problems.append("The provider's figures contradict each other: see the refund breakdown.")
    return Verdict(settlement, " ".join(problems))


def _contradiction(status: Status, fulfilled: int, cards: int, quantity: int) -> str:
    """Why a final answer is not whole; "" if it is."""
    match status:
        case Status.FULFILLED:
            announced_fits = fulfilled == quantity
        case Status.PARTIALLY_FILLED:
            announced_fits = 0 < fulfilled < quantity
        case _:
            announced_fits = fulfilled == 0
    if announced_fits and cards == fulfilled:
        return ""
    return (
        f"The provider says {status} with {fulfilled} of {quantity} cards delivered,"
        f" and sent {cards} that can be read."
    )


def _has_negative(answer: OrderAnswer) -> bool:
    return any(
        amount is not None and amount < 0
        for amount in (answer.fulfilled_amount, answer.price_per_card)
    )
