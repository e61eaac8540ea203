"""The table of statuses, written out a second time from the diagram of the design."""

from __future__ import annotations

import logging

import pytest
from django.utils import translation

from giftcards import statuses
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import (
    ACCEPTED,
    CREDITED,
    FINAL,
    FOLLOWED,
    PATIENT,
    SETTLED,
    STATES,
    UNACCEPTED,
    UNBOUGHT,
    UNCHARGED,
    URGENT,
    Cards,
    Kind,
    Status,
    check_move,
)

SENDING, SEARCH, ANSWER = Kind.SENDING, Kind.SEARCH, Kind.ANSWER

# For each status: the moves from it, the problems that a move to it ends, the news for the
# customer, the log level of a purchase that ends there, and the purpose of the next request.
TABLE = {
    "PENDING": ("PLACING REJECTED", {SENDING, SEARCH}, "", logging.INFO, Purpose.PLACING),
    "PLACING": ("PENDING UNCONFIRMED REJECTED HANDLING", set(), "", logging.NOTSET, None),
    "UNCONFIRMED": (
        "PENDING REJECTED HANDLING",
        {SENDING, SEARCH, ANSWER},
        "",
        logging.ERROR,
        Purpose.SEARCHING,
    ),
    "REJECTED": ("", {SENDING, SEARCH}, "not_delivered", logging.WARNING, None),
    "HANDLING": (
        "UNCONFIRMED DELAYED FULFILLED PARTIALLY_FILLED REFUNDED",
        {SENDING, SEARCH},
        "",
        logging.NOTSET,
        Purpose.CHECKING,
    ),
    "DELAYED": (
        "UNCONFIRMED FULFILLED PARTIALLY_FILLED REFUNDED",
        {SENDING, SEARCH},
        "delayed",
        logging.NOTSET,
        Purpose.CHECKING_LATE,
    ),
    "FULFILLED": ("", {SENDING, SEARCH}, "delivered", logging.NOTSET, None),
    "PARTIALLY_FILLED": ("", {SENDING, SEARCH}, "partly_delivered", logging.NOTSET, None),
    "REFUNDED": ("", {SENDING, SEARCH}, "not_delivered", logging.NOTSET, None),
}


@pytest.mark.parametrize("status", Status)
def test_a_status_has_the_facts_of_the_table(status: Status) -> None:
    moves_to, ends, customer_news, log_level, request = TABLE[status]
    state = STATES[status]
    assert state.moves_to == tuple(moves_to.split())
    assert state.is_final is (not moves_to)
    assert set(state.ends) == ends
    assert state.customer_news == customer_news
    assert (state.log_level, state.request) == (log_level, request)


# Constraints in migrations list the statuses of each group in this order.
@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (FINAL, "REJECTED FULFILLED PARTIALLY_FILLED REFUNDED"),
        (SETTLED, "FULFILLED PARTIALLY_FILLED REFUNDED"),
        (FOLLOWED, "HANDLING DELAYED"),
        (ACCEPTED, "HANDLING DELAYED FULFILLED PARTIALLY_FILLED REFUNDED"),
        (UNACCEPTED, "PENDING PLACING UNCONFIRMED"),
        (UNBOUGHT, "PENDING REJECTED"),
        (URGENT, "PENDING PLACING HANDLING"),
        (PATIENT, "UNCONFIRMED DELAYED"),
        (CREDITED, "PARTIALLY_FILLED REFUNDED"),
        (UNCHARGED, "REFUNDED"),
    ],
)
def test_a_group_has_its_statuses_in_their_order(group: tuple[Status, ...], expected: str) -> None:
    assert group == tuple(expected.split())


@pytest.mark.parametrize("origin", Status)
@pytest.mark.parametrize("target", Status)
def test_only_the_moves_of_the_table_are_allowed(origin: Status, target: Status) -> None:
    if target in TABLE[origin][0].split():
        check_move(origin.value, target)
    else:
        with pytest.raises(
            ValueError, match=rf"\AAn order cannot change from {origin} to {target}\.\Z"
        ):
            check_move(origin.value, target)


def test_a_move_from_an_unknown_status_is_an_error() -> None:
    with pytest.raises(ValueError, match="'CANCELLED' is not a valid Status"):
        check_move("CANCELLED", Status.FULFILLED)


# The numbers of delivered cards of five that fit.
@pytest.mark.parametrize(
    ("cards", "fitting"),
    [(Cards.ALL, {5}), (Cards.SOME, {1, 2, 3, 4}), (Cards.NONE, {0})],
    ids=["all", "some", "none"],
)
def test_a_share_of_the_cards_fits_these_numbers(cards: Cards, fitting: set[int]) -> None:
    assert {delivered for delivered in range(-1, 7) if cards.fits(delivered, 5)} == fitting


@pytest.mark.parametrize("status", Status)
def test_an_open_status_says_when_its_next_step_is_due_and_a_final_one_does_not(
    status: Status,
) -> None:
    state = STATES[status]
    assert bool(state.due) is (not state.is_final)
    assert bool(state.since) is bool(state.waits_for)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "The provider delivered 0 of 1 card and credited back the price of the missing cards."),
        (
            5,
            (
                "The provider delivered 3 of 5 cards and credited back the price of the missing"
                " cards."
            ),
        ),
    ],
)
def test_the_words_for_a_move_count_the_cards(count: int, text: str) -> None:
    with translation.override("en"):
        counts = {"count": count, "delivered": count * 3 // 5}
        assert STATES[Status.PARTIALLY_FILLED].moved % counts == text


def test_shops_import_the_statuses_themselves() -> None:
    assert statuses.Status is Status
    assert statuses.FINAL is FINAL
