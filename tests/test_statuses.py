"""The table of moves, written out a second time from the diagram of the statuses."""

from __future__ import annotations

import pytest

from giftcards.statuses import (
    ACCEPTED,
    FINAL,
    FOLLOWED,
    MOVES,
    SETTLED,
    URGENT,
    Status,
    check_move,
)

ALLOWED = {
    ("PENDING", "PLACING"),
    ("PENDING", "REJECTED"),
    ("PLACING", "PENDING"),
    ("PLACING", "HANDLING"),
    ("PLACING", "REJECTED"),
    ("PLACING", "UNCONFIRMED"),
    ("UNCONFIRMED", "HANDLING"),
    ("UNCONFIRMED", "PENDING"),
    ("UNCONFIRMED", "REJECTED"),
    ("HANDLING", "DELAYED"),
    ("HANDLING", "FULFILLED"),
    ("HANDLING", "PARTIALLY_FILLED"),
    ("HANDLING", "REFUNDED"),
    ("DELAYED", "FULFILLED"),
    ("DELAYED", "PARTIALLY_FILLED"),
    ("DELAYED", "REFUNDED"),
}


@pytest.mark.parametrize("origin", Status)
@pytest.mark.parametrize("target", Status)
def test_only_the_moves_of_the_table_are_allowed(origin: Status, target: Status) -> None:
    if (origin, target) in ALLOWED:
        check_move(origin, target)
    else:
        with pytest.raises(
            ValueError, match=rf"\AAn order does not move from {origin} to {target}\.\Z"
        ):
            check_move(origin, target)


def test_the_table_is_whole() -> None:
    assert set(MOVES) == set(Status)


def test_final_is_what_is_never_left() -> None:
    assert {status for status, targets in MOVES.items() if not targets} == FINAL


def test_groups() -> None:
    assert {"FULFILLED", "PARTIALLY_FILLED", "REFUNDED"} == SETTLED
    assert {*SETTLED, "REJECTED"} == FINAL
    assert {"HANDLING", "DELAYED"} == FOLLOWED
    assert ACCEPTED == FOLLOWED | SETTLED
    assert {"PENDING", "PLACING", "HANDLING"} == URGENT


def test_the_move_starts_from_a_status_as_a_row_has_it() -> None:
    check_move("HANDLING", Status.FULFILLED)
    with pytest.raises(ValueError, match="'CANCELLED' is not a valid Status"):
        check_move("CANCELLED", Status.FULFILLED)
