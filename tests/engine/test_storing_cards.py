"""Matching of the cards in an answer with the stored cards, on plain values.

``"a1"`` is a card with the code a and the serial 1. ``"a"`` is a card with the code a and no
serial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.engine.storing_cards import Fingerprints, match_cards

# The values are few, so that the same codes and the same cards come up repeatedly.
cards = st.lists(st.sampled_from(["a", "a1", "a2", "A", "A1", "b", "b1"]), max_size=4)
cards_with_serial = st.lists(st.sampled_from(["a1", "a2", "A1", "b1"]), max_size=8)


def fingerprints(cards: Sequence[str]) -> list[Fingerprints]:
    return [Fingerprints([card], [card[0]]) for card in cards]


def match(told: Sequence[str], stored: Sequence[str]) -> list[int | None]:
    return match_cards(fingerprints(told), fingerprints(stored))


def store(told: Sequence[str], stored: Sequence[str]) -> list[str]:
    """Return the cards stored afterwards: the old ones with new serials, then the new cards."""
    result = list(stored)
    for card, index in zip(told, match(told, stored), strict=True):
        if index is None:
            result.append(card)
        else:
            result[index] = max(card, stored[index], key=len)
    return result


def may_be_same(card: str, other: str) -> bool:
    return card == other or (card[0] == other[0] and 1 in (len(card), len(other)))


@given(cards, cards, st.data())
def test_the_same_answer_again_in_any_order_changes_nothing(
    told: list[str], stored: list[str], data: st.DataObject
) -> None:
    after = store(told, stored)
    assert store(data.draw(st.permutations(told)), after) == after


@given(cards, cards, st.data())
def test_the_order_of_an_answer_only_decides_the_order_of_the_cards(
    told: list[str], stored: list[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(told))
    assert Counter(store(shuffled, stored)) == Counter(store(told, stored))


@given(cards_with_serial, cards_with_serial)
def test_cards_with_serials_are_stored_as_a_multiset(told: list[str], stored: list[str]) -> None:
    assert Counter(store(told, stored)) == Counter(told) | Counter(stored)


@given(cards, cards)
def test_no_card_is_lost_or_stored_twice(told: list[str], stored: list[str]) -> None:
    after = store(told, stored)
    # A stored card keeps its position, and gains at most the serial that it lacked.
    for before, now in zip(stored, after, strict=False):
        assert now == before or (before == now[0] and now in told)
    codes = Counter(card[0] for card in after)
    assert codes >= Counter(card[0] for card in told)


@given(cards, cards)
def test_no_other_matching_would_store_fewer_cards(told: list[str], stored: list[str]) -> None:
    matches = match(told, stored)
    found = [index for index in matches if index is not None]
    assert len(found) == len(set(found))
    for card, index in zip(told, matches, strict=True):
        assert index is None or may_be_same(card, stored[index])
    choices = permutations([*stored, *["-"] * len(told)], len(told))
    most = max(sum(map(may_be_same, told, choice)) for choice in choices)
    assert len(found) == most


@given(cards_with_serial)
def test_serials_that_come_later_complete_the_stored_cards(bought: list[str]) -> None:
    without = [card[0] for card in bought]
    assert store(bought, without) == store(bought, []) == bought
    assert store(without, bought) == bought


@pytest.mark.parametrize(
    ("told", "stored", "matches"),
    [
        ("a", "A", [None]),
        ("A1", "a1", [None]),
        ("A1", "a", [None]),
        ("a2", "a1", [None]),
        ("a a", "a", [0, None]),
        ("a a", "a1 a2", [0, 1]),
        # An exact match has priority over a card with only the same code.
        ("a1", "a a1", [1]),
        ("a", "a1 a", [1]),
        # A card with a serial is matched first, regardless of its position.
        ("a a1", "a", [None, 0]),
        ("a a2", "a a1", [1, 0]),
    ],
)
def test_a_card_matches_the_exact_stored_card_before_one_with_its_code(
    told: str, stored: str, matches: list[int | None]
) -> None:
    assert match(told.split(), stored.split()) == matches


def test_a_card_is_matched_under_every_encryption_key() -> None:
    told = [Fingerprints(["new a1", "old a1"], ["new a", "old a"])] * 4
    stored = [Fingerprints([name], [name]) for name in ("old a1", "old a", "new a1", "new a")]
    assert sorted(index or 0 for index in match_cards(told, stored)) == [0, 1, 2, 3]


def test_the_exact_card_under_an_old_key_is_matched_before_its_code() -> None:
    code = ["new a", "old a"]
    stored = [Fingerprints(["new a1"], code), Fingerprints(["old a"], ["old a"])]
    assert match_cards([Fingerprints(code, code)], stored) == [1]


def test_a_card_whose_code_is_unknown_matches_only_itself() -> None:
    unknown = [Fingerprints(["a1"], [""])]
    assert match_cards(fingerprints(["a1"]), unknown) == [0]
    assert match_cards(fingerprints(["a"]), unknown) == [None]
