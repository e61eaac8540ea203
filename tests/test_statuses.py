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
    ("HANDLING", "UNCONFIRMED"),
    ("HANDLING", "DELAYED"),
    ("HANDLING", "UNCONFIRMED"),
    ("DELAYED", "UNCONFIRMED"),
    ("HANDLING", "FULFILLED"),
    ("HANDLING", "PARTIALLY_FILLED"),
    ("HANDLING", "REFUNDED"),
    ("DELAYED", "UNCONFIRMED"),
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


def test_the_table_of_moves_has_every_status() -> None:
    assert set(MOVES) == set(Status)


def test_a_status_is_final_if_no_move_leaves_it() -> None:
    assert {status for status, targets in MOVES.items() if not targets} == set(FINAL)


def test_the_groups_of_statuses_fit_together() -> None:
    assert SETTLED == ("FULFILLED", "PARTIALLY_FILLED", "REFUNDED")
    assert ("REJECTED", *SETTLED) == FINAL
    assert FOLLOWED == ("HANDLING", "DELAYED")
    assert (*FOLLOWED, *SETTLED) == ACCEPTED
    assert URGENT == ("PENDING", "PLACING", "HANDLING")


def test_a_move_may_start_from_a_status_given_as_text() -> None:
    check_move("HANDLING", Status.FULFILLED)
    with pytest.raises(ValueError, match="'CANCELLED' is not a valid Status"):
        check_move("CANCELLED", Status.FULFILLED)
