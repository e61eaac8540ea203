"""From answers to rows: each card once, each move with its history, nobody's failure another's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.db import DatabaseError, connection
from hypothesis import given, settings
from hypothesis import strategies as st

from giftcards.cards import CardSecret
from giftcards.crypto import generate_key
from giftcards.exceptions import AccessDenied, NotFound, OutcomeUnknown, Refused, TryLater
from giftcards.models import Card, Order, StatusChange
from giftcards.provider import OrderAnswer
from giftcards.recording import next_check, record_answers, record_failures
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    FULFILLED,
    PARTIAL,
    PRICE,
    REFUNDED,
    answer,
    build_order,
    claim,
    make_order,
    settled,
)

pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
WATCH_ENDED = "The late watch has ended and the order has not settled: ask the provider."
A, B, C, D, E = CARDS


def record(order: Order, *answers: OrderAnswer, now: datetime = NOW) -> Order:
    """Claim ``order`` and record one answer after the other, as sweeps do; return it fresh."""
    for given_answer in answers:
        [held] = claim(order)
        record_answers([(held, given_answer)], now=now)
    return Order.objects.get(pk=order.pk)


def cards_of(order: Order) -> list[CardSecret]:
    """The stored cards, opened, in their order."""
    cards = list(order.cards.order_by("position"))
    assert [card.position for card in cards] == list(range(1, len(cards) + 1))
    return [CardSecret(card.value, card.serial) for card in cards]


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has for a person to look at."""
    return [entry.getMessage() for entry in caplog.records if entry.levelname != "INFO"]


def with_cards(given_answer: OrderAnswer, *cards: CardSecret) -> OrderAnswer:
    return dataclasses.replace(given_answer, cards=cards)


def short_cards(text: str) -> tuple[CardSecret, ...]:
    """``"a1 b"`` are a card with the code a and the serial 1, and one with the code b only."""
    return tuple(CardSecret(word[0], word[1:]) for word in text.split())


class TestSettling:
    @pytest.mark.parametrize("origin", [Status.HANDLING, Status.DELAYED])
    @pytest.mark.parametrize(
        ("given_answer", "amount"),
        [(FULFILLED, 2450), (PARTIAL, 1470), (REFUNDED, 0)],
    )
    def test_row_cards_and_history(
        self, origin: Status, given_answer: OrderAnswer, amount: int
    ) -> None:
        order = make_order(origin, price_per_card=None, failures=3)
        [held] = claim(order)
        assert record_answers([(held, given_answer)], now=NOW) == 1

        order = Order.objects.get(pk=order.pk)
        assert (
            order.status,
            order.fulfilled_quantity,
            order.fulfilled_amount,
            order.price_per_card,
            order.problem,
            order.checked_at,
            order.due_at,
            order.failures,
            order.claimed_until,
        ) == (
            given_answer.status,
            len(given_answer.cards),
            amount,
            PRICE,
            "",
            NOW,
            None,
            0,
            None,
        )
        assert order.settled_at is not None
        assert cards_of(order) == list(given_answer.cards)
        change = order.changes.get()
        assert (
            change.from_status,
            change.to_status,
            change.source,
            change.detail,
            change.announced_at,
        ) == (origin, given_answer.status, "check", "", None)

    def test_the_price_when_placing_stands_in(self) -> None:
        order = record(make_order(price_per_card=PRICE), answer("REFUNDED"))
        assert (order.status, order.price_per_card, order.fulfilled_amount) == (
            "REFUNDED",
            PRICE,
            None,
        )

    def test_what_was_wrong_on_the_way_is_kept_in_the_history(self) -> None:
        order = record(make_order(), answer("LOST"), FULFILLED)
        assert order.problem == ""
        assert order.changes.get().detail == (
            "Earlier: The provider gave a status that is not known: LOST."
        )

    def test_figures_that_contradict_each_other_are_shown(self) -> None:
        problem = "The provider's figures contradict each other: see the refund breakdown."
        charged = dataclasses.replace(PARTIAL, fulfilled_amount=Decimal(1960))
        order = record(make_order(), charged)
        assert (order.status, order.fulfilled_amount) == ("PARTIALLY_FILLED", 1960)
        assert order.problem == problem
        assert order.changes.get().detail == problem

    def test_one_line_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG", "giftcards")
        record(make_order(reference="order-1"), PARTIAL)
        assert caplog.messages == ["Order order-1 is PARTIALLY_FILLED: 3 of 5 cards."]

    def test_nothing_to_record_costs_nothing(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            assert record_answers([], now=NOW) == 0

    def test_an_order_that_was_never_accepted_does_not_settle(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = make_order(Status.UNCONFIRMED, reference="order-1")
        order.accepted_at = NOW
        assert record_answers([(order, FULFILLED)], now=NOW) == 0
        assert caplog.messages == [
            "What the provider answered about order order-1 could not be recorded: ValueError"
        ]
        assert Order.objects.get(pk=order.pk).status == "UNCONFIRMED"


class TestStayingOpen:
    def test_the_next_check_moves_and_the_claim_is_given_back(self) -> None:
        order = record(make_order(failures=3), answer("HANDLING", quantity=5))
        assert (
            order.status,
            order.due_at,
            order.checked_at,
            order.failures,
            order.claimed_until,
            order.problem,
        ) == ("HANDLING", NOW + 5 * SECOND, NOW, 0, None, "")
        assert not order.changes.exists()

    def test_cards_that_come_early_are_kept(self) -> None:
        order = record(make_order(), answer("HANDLING", cards=(A, B)))
        assert (order.status, order.fulfilled_quantity, order.due_at) == (
            "HANDLING",
            2,
            NOW + 5 * SECOND,
        )
        assert cards_of(order) == [A, B]

    @pytest.mark.parametrize(
        ("given_answer", "problem"),
        [
            (
                with_cards(FULFILLED, A, B, C),
                "The provider says FULFILLED with 5 of 5 cards delivered,"
                " and sent 3 that can be read.",
            ),
            (
                settled("REFUNDED", [A], fulfilled_quantity=0),
                "The provider says REFUNDED with 0 of 5 cards delivered,"
                " and sent 1 that can be read.",
            ),
            (
                settled("FULFILLED", CARDS, quantity=7),
                "The provider speaks of 7 cards, the order is for 5.",
            ),
            (
                settled("CANCELLED", [A, B]),
                "The provider gave a status that is not known: CANCELLED.",
            ),
            (answer(None, cards=(A,)), "The answer has no status that can be read."),
        ],
    )
    def test_what_is_not_whole_is_shown_and_its_cards_are_kept(
        self, given_answer: OrderAnswer, problem: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = make_order(reference="order-1")
        # Said once, however often it is answered.
        order = record(order, given_answer, given_answer)
        assert (order.status, order.problem, order.due_at) == (
            "HANDLING",
            problem,
            NOW + 5 * SECOND,
        )
        assert cards_of(order) == list(given_answer.cards)
        assert not order.changes.exists()
        assert caplog.messages == [f"Order order-1: {problem}"]

    def test_a_whole_answer_later_settles_it(self) -> None:
        order = record(make_order(), with_cards(FULFILLED, C, A), FULFILLED)
        assert (order.status, order.problem) == ("FULFILLED", "")
        assert cards_of(order) == [C, A, B, D, E]

    def test_a_problem_that_is_over_is_cleared(self) -> None:
        assert record(make_order(problem="Something."), answer("HANDLING")).problem == ""

    def test_the_count_of_cards_never_falls_nor_passes_the_quantity(self) -> None:
        order = record(make_order(quantity=2), answer("HANDLING", cards=(A, B, C)))
        assert order.fulfilled_quantity == 2
        order = record(order, answer("HANDLING", cards=(A,)))
        assert order.fulfilled_quantity == 2
        assert cards_of(order) == [A, B, C]


class TestNextCheck:
    @pytest.mark.parametrize(
        ("late_for", "pause"),
        [
            (-MINUTE, MINUTE),  # the time-out was lengthened meanwhile
            (0 * MINUTE, MINUTE),
            (1 * MINUTE, MINUTE),
            (2 * MINUTE, 3 * MINUTE),
            (5 * MINUTE, 10 * MINUTE),
            (15 * MINUTE, HOUR),
            (71 * HOUR, HOUR),
        ],
    )
    def test_a_late_order_is_asked_about_less_and_less(
        self, late_for: timedelta, pause: timedelta
    ) -> None:
        order = build_order(Status.DELAYED, accepted_at=NOW - 5 * MINUTE - late_for)
        assert next_check(order, NOW) == NOW + pause

    def test_the_late_watch_ends(self) -> None:
        order = build_order(Status.DELAYED, accepted_at=NOW - 72 * HOUR - SECOND)
        assert next_check(order, NOW) is None

    def test_a_fresh_order_is_never_given_up(self) -> None:
        order = build_order(accepted_at=NOW - 1000 * HOUR)
        assert next_check(order, NOW) == NOW + 5 * SECOND

    def test_the_settings_hold(self, settings: Any) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "POLL_INTERVAL": 7, "LATE_WATCH_HOURS": 1}
        assert next_check(build_order(), NOW) == NOW + 7 * SECOND
        assert next_check(build_order(Status.DELAYED, accepted_at=NOW - 2 * HOUR), NOW) is None

    def test_the_end_of_the_watch_is_shown(self) -> None:
        order = make_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR)
        order = record(order, answer("HANDLING"))
        assert (order.status, order.due_at, order.problem) == ("DELAYED", None, WATCH_ENDED)

    def test_with_what_is_wrong_besides(self) -> None:
        order = make_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR)
        order = record(order, answer("LOST"))
        assert order.problem == (
            f"{WATCH_ENDED} The provider gave a status that is not known: LOST."
        )

    def test_an_answer_that_settles_at_the_last_moment_settles(self) -> None:
        order = make_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR)
        order = record(order, FULFILLED)
        assert (order.status, order.problem) == ("FULFILLED", "")


class TestAlias:
    ALIAS = "6901616fe9e88196b4eb64b3"

    def test_the_answers_own_id_is_kept_and_logged_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "giftcards")
        order = make_order(reference="order-1", provider_order_id="6901616fe9e88196b4eb64b2")
        named = answer("HANDLING", provider_id=self.ALIAS)
        order = record(order, named, named)
        assert (order.provider_order_id, order.provider_alias) == (
            "6901616fe9e88196b4eb64b2",
            self.ALIAS,
        )
        assert caplog.messages == [
            "Order order-1, placed as 6901616fe9e88196b4eb64b2, is called"
            " 6901616fe9e88196b4eb64b3 in the provider's answer."
        ]

    def test_the_order_id_is_no_alias(self) -> None:
        order = make_order(provider_order_id=self.ALIAS)
        assert record(order, answer("HANDLING", provider_id=self.ALIAS)).provider_alias == ""

    def test_an_answer_without_an_id_forgets_nothing(self) -> None:
        order = make_order(provider_alias=self.ALIAS)
        assert record(order, PARTIAL).provider_alias == self.ALIAS


class TestOfAnotherOrder:
    """The answer bears the id of another order of ours: its cards would be handed out twice."""

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_is_not_taken(self, name: str) -> None:
        make_order(Status.FULFILLED, reference="web-7", **{name: "R1"})
        theirs = dataclasses.replace(PARTIAL, provider_id="R1")
        order = record(make_order(), theirs, theirs)
        assert (order.status, order.provider_alias) == ("HANDLING", "")
        assert order.problem == "The provider's answer is about R1, which is your order web-7."
        assert not order.cards.exists()

    def test_its_own_is(self) -> None:
        mine = dataclasses.replace(PARTIAL, provider_id="R1")
        still = answer("HANDLING", provider_id="R1")
        assert record(make_order(), still, mine).status == "PARTIALLY_FILLED"


class TestEachCardOnce:
    @pytest.mark.parametrize(
        ("answers", "stored"),
        [
            ([(A, B), (A, B)], [A, B]),
            ([(A, B), (B, A)], [A, B]),
            ([(B,), (A, B)], [B, A]),
            ([(A, B, C), (C,), ()], [A, B, C]),
            # The same code twice is two cards, each time the same two.
            ([(A, A)], [A, A]),
            ([(A, A), (A, A)], [A, A]),
            ([(A,), (A, A), (A,)], [A, A]),
            ([(A, B), (B, B, A)], [A, B, B]),
            # These look alike to a person, and are paid for one by one.
            ([(CardSecret("ab", "1"), CardSecret("AB", "1"))], [("ab", "1"), ("AB", "1")]),
            ([(CardSecret("A", "1"), CardSecret("A", "2"))], [("A", "1"), ("A", "2")]),
            ([(CardSecret("A", ""), CardSecret("A", ""))], [("A", ""), ("A", "")]),
        ],
    )
    def test_answer_after_answer(
        self, answers: Sequence[Sequence[CardSecret]], stored: Sequence[Any]
    ) -> None:
        handling = [answer("HANDLING", cards=tuple(cards)) for cards in answers]
        order = record(make_order(), *handling)
        expected = [card if isinstance(card, CardSecret) else CardSecret(*card) for card in stored]
        assert cards_of(order) == expected

    @settings(max_examples=50)
    @given(st.lists(st.lists(st.sampled_from(CARDS), max_size=6), max_size=6), st.data())
    def test_whatever_comes_in_whatever_order(
        self, answers: list[list[CardSecret]], data: st.DataObject
    ) -> None:
        order = make_order()
        expected: Counter[CardSecret] = Counter()
        for cards in answers:
            shuffled = data.draw(st.permutations(cards))
            order = record(order, answer("HANDLING", cards=tuple(shuffled)))
            expected |= Counter(cards)
            assert Counter(cards_of(order)) == expected

    @pytest.mark.parametrize(
        ("answers", "stored"),
        [
            # The serial comes later, or does not come again.
            (["a", "a1 b2"], "a1 b2"),
            (["a1 b2", "a b", "b a"], "a1 b2"),
            (["b a", "a1", "b2 a1"], "b2 a1"),
            (["a", "a1", "a", "a1"], "a1"),
            # The same code twice in one answer is two cards, whichever have a serial.
            (["a a1"], "a a1"),
            (["a a", "a2 a1"], "a2 a1"),
            (["a1 a2", "a a"], "a1 a2"),
            (["a1", "a a"], "a1 a"),
            (["a1", "a a", "a a2"], "a1 a2"),
            (["a", "a1 a2"], "a1 a2"),
            (["a1", "a2"], "a1 a2"),
            (["a1", "a1 a1"], "a1 a1"),
            # Two cards, now one and then the other without its serial.
            (["a a1", "a a2"], "a2 a1"),
            # New ones stay in the order of the answer.
            (["a c b1"], "a c b1"),
            # These look alike to a person, and are paid for one by one.
            (["a", "A1"], "a A1"),
            (["A1", "a"], "A1 a"),
        ],
    )
    def test_a_serial_that_is_missing_at_times(self, answers: list[str], stored: str) -> None:
        given_answers = (answer("HANDLING", cards=short_cards(text)) for text in answers)
        order = record(make_order(), *given_answers)
        assert cards_of(order) == list(short_cards(stored))
        for row in order.cards.all():
            assert row in order.cards.with_code(row.value)
            assert bool(row.serial_fingerprint) == bool(row.serial)
            assert not row.serial or row in order.cards.with_code(row.serial)

    @settings(max_examples=100)
    @given(st.lists(st.sampled_from(short_cards("a a1 a2 a3 A1 b b1")), max_size=5), st.data())
    def test_never_more_cards_than_there_are(
        self, bought: list[CardSecret], data: st.DataObject
    ) -> None:
        """Whichever of them an answer shows, in whatever order and with whichever serials."""
        order, known = make_order(), 0
        for _answer in range(data.draw(st.integers(0, 4))):
            shown = [
                card if data.draw(st.booleans()) else CardSecret(card.value, "")
                for card in data.draw(st.permutations(bought))
                if data.draw(st.booleans())
            ]
            order = record(order, answer("HANDLING", cards=tuple(shown)))
            assert max(known, len(shown)) <= order.cards.count() <= len(bought)
            known = order.cards.count()
        order = record(order, answer("HANDLING", cards=tuple(bought)))
        assert Counter(cards_of(order)) == Counter(bought)

    def test_a_serial_that_comes_after_a_new_key(self, settings: Any) -> None:
        order = record(make_order(), answer("HANDLING", cards=short_cards("a b1")))
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        new_key = generate_key()
        settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [new_key, old_key]}
        order = record(order, answer("HANDLING", cards=short_cards("a1 b")))
        assert cards_of(order) == list(short_cards("a1 b1"))
        # The row is the new key's altogether.
        settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [new_key]}
        row = order.cards.get(position=1)
        assert (row.value, row.serial) == ("a", "1")
        assert list(order.cards.with_code("a")) == list(order.cards.with_code("1")) == [row]

    def test_a_stored_card_that_cannot_be_opened_is_no_other(self) -> None:
        order = record(make_order(), answer("HANDLING", cards=short_cards("a1")))
        order.cards.update(sealed="damaged")
        order = record(order, answer("HANDLING", cards=short_cards("a")))
        first, second = order.cards.order_by("position")
        assert (first.sealed, second.value) == ("damaged", "a")

    def test_the_same_code_in_two_orders_is_stored_twice_and_can_be_seen(self) -> None:
        one, other = make_order(), make_order()
        readings = [(order, PARTIAL) for order in claim(one, other)]
        assert record_answers(readings, now=NOW) == 2
        assert cards_of(one) == cards_of(other) == [A, B, C]
        assert all(card.is_repeated for card in Card.objects.with_repeats())

    def test_a_new_key_in_between_changes_nothing(self, settings: Any) -> None:
        order = record(make_order(), answer("HANDLING", cards=(A, B)))
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        settings.GIFTCARDS = {
            **settings.GIFTCARDS,
            "ENCRYPTION_KEYS": [generate_key(), old_key],
        }
        order = record(order, answer("HANDLING", cards=(C, B, A)), PARTIAL)
        assert cards_of(order) == [A, B, C]
        assert order.problem == ""

    def test_the_first_key_alone_knows_the_cards_that_it_sealed(self, settings: Any) -> None:
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        new_key = generate_key()
        order = make_order()
        for keys in ([new_key, old_key], [new_key]):
            settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": keys}
            order = record(order, answer("HANDLING", cards=(A, B)))
        assert cards_of(order) == [A, B]

    def test_a_card_without_a_serial(self) -> None:
        order = record(
            make_order(quantity=1), settled("FULFILLED", [CardSecret("A1", "")], quantity=1)
        )
        assert cards_of(order) == [CardSecret("A1", "")]
        assert order.cards.get().serial_fingerprint == ""

    def test_a_row_holds_ciphertext_only(self) -> None:
        order = record(make_order(), PARTIAL)
        row = Card.objects.filter(order=order, position=1).values().get()
        assert not [text for text in map(str, row.values()) if A.value in text or A.serial in text]


class TestSurplus:
    """More cards than were announced: paid or not, staff have to see it."""

    def test_other_cards_came_before(self, caplog: pytest.LogCaptureFixture) -> None:
        surplus = "The provider sent 4 different cards and speaks of 3."
        order = record(make_order(reference="order-1"), answer("HANDLING", cards=(D,)), PARTIAL)
        assert (order.status, order.problem) == ("PARTIALLY_FILLED", surplus)
        assert cards_of(order) == [D, A, B, C]
        assert troubles(caplog) == [f"Order order-1: {surplus}"]

    def test_the_final_answer_brings_none_of_them(self) -> None:
        order = record(make_order(), answer("HANDLING", cards=(A,)), REFUNDED)
        assert (order.status, order.fulfilled_quantity, order.problem) == (
            "REFUNDED",
            0,
            "The provider sent 1 different cards and speaks of 0.",
        )
        assert cards_of(order) == [A]

    def test_the_final_answer_brings_fewer(self) -> None:
        order = record(
            make_order(),
            answer("HANDLING", cards=(A, B, C)),
            settled("PARTIALLY_FILLED", [A, B], fulfilled_amount=Decimal(1470)),
        )
        assert order.problem == (
            "The provider's figures contradict each other: see the refund breakdown."
            " The provider sent 3 different cards and speaks of 2."
        )


class TestOvertaken:
    """Another process recorded something while this one was asking."""

    def test_the_same_answer_twice_changes_nothing(self) -> None:
        [held] = claim(make_order())
        assert record_answers([(held, PARTIAL)], now=NOW) == 1
        before = Order.objects.filter(pk=held.pk).values().get()
        later = NOW + MINUTE
        assert record_answers([(held, with_cards(PARTIAL, C, B, A))], now=later) == 0
        after = Order.objects.filter(pk=held.pk).values().get()
        assert after == {**before, "checked_at": later}
        assert cards_of(held) == [A, B, C]
        assert held.changes.count() == 1

    @pytest.mark.parametrize("late", [answer("HANDLING"), answer("HANDLING", cards=(B,))])
    def test_an_older_answer_is_ignored(self, late: OrderAnswer) -> None:
        [held] = claim(make_order())
        record_answers([(held, PARTIAL)], now=NOW)
        before = Order.objects.filter(pk=held.pk).values().get()
        record_answers([(held, late)], now=NOW)
        assert Order.objects.filter(pk=held.pk).values().get() == before
        assert cards_of(held) == [A, B, C]

    def test_a_contradiction_is_shown_and_its_cards_are_kept(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        [held] = claim(make_order(reference="order-1"))
        record_answers([(held, REFUNDED)], now=NOW)
        for _ in range(2):
            assert record_answers([(held, PARTIAL)], now=NOW) == 0
        order = Order.objects.get(pk=held.pk)
        said = [
            "After the order had settled, the provider called it PARTIALLY_FILLED"
            " with 3 of 5 cards.",
            "The provider sent 3 different cards and speaks of 0.",
        ]
        assert (order.status, order.fulfilled_quantity, order.fulfilled_amount) == (
            "REFUNDED",
            0,
            0,
        )
        assert order.problem == " ".join(said)
        assert cards_of(order) == [A, B, C]
        assert order.changes.count() == 1
        # Once, though it was answered twice.
        assert troubles(caplog) == [f"Order order-1 is REFUNDED: {text}" for text in said]

    def test_other_cards_under_the_same_status_are_kept_and_shown(self) -> None:
        [held] = claim(make_order())
        record_answers([(held, PARTIAL)], now=NOW)
        record_answers([(held, with_cards(PARTIAL, A, B, D))], now=NOW)
        assert cards_of(held) == [A, B, C, D]
        assert Order.objects.get(pk=held.pk).problem == (
            "The provider sent 4 different cards and speaks of 3."
        )

    def test_what_was_wrong_before_stays(self) -> None:
        [held] = claim(make_order())
        odd = dataclasses.replace(PARTIAL, fulfilled_amount=Decimal(1960))
        record_answers([(held, odd)], now=NOW)
        record_answers([(held, REFUNDED)], now=NOW)
        assert Order.objects.get(pk=held.pk).problem == (
            "The provider's figures contradict each other: see the refund breakdown."
            " After the order had settled, the provider called it REFUNDED with 0 of 5 cards."
        )

    def test_an_order_that_became_late_meanwhile_settles(self) -> None:
        [held] = claim(make_order())
        Order.objects.filter(pk=held.pk).move_all(
            Status.HANDLING, Status.DELAYED, source=StatusChange.Source.CLOCK
        )
        assert record_answers([(held, PARTIAL)], now=NOW) == 1
        assert [(c.from_status, c.to_status) for c in held.changes.all()] == [
            ("HANDLING", "DELAYED"),
            ("DELAYED", "PARTIALLY_FILLED"),
        ]
        assert cards_of(held) == [A, B, C]

    def test_an_order_that_another_process_claimed_meanwhile_settles_once(self) -> None:
        [held] = claim(make_order())
        Order.objects.filter(pk=held.pk).update(claimed_until=None)
        [theirs] = claim(held)
        assert held.claim != theirs.claim
        assert record_answers([(held, PARTIAL)], now=NOW) == 1
        assert record_answers([(theirs, PARTIAL)], now=NOW) == 0
        assert cards_of(held) == [A, B, C]

    def test_an_older_count_does_not_replace_what_another_process_has_stored(self) -> None:
        [held] = claim(make_order())
        Order.objects.filter(pk=held.pk).update(claimed_until=None)
        [theirs] = claim(held)
        record_answers([(theirs, answer("HANDLING", cards=(A, B, C)))], now=NOW)
        record_answers([(held, answer("HANDLING", cards=(A,)))], now=NOW)
        assert Order.objects.get(pk=held.pk).fulfilled_quantity == 3

    @pytest.mark.parametrize("verdict", [PARTIAL, REFUNDED])
    def test_the_others_of_the_batch_settle(self, verdict: OrderAnswer) -> None:
        held = claim(*[make_order() for _ in range(5)])
        record_answers([(held[1], PARTIAL)], now=NOW)
        Order.objects.filter(pk=held[3].pk).update(claimed_until=None)
        claim(held[3])
        assert record_answers([(order, verdict) for order in held], now=NOW) == 4
        for number, order in enumerate(held):
            expected = PARTIAL if number == 1 else verdict
            assert Order.objects.get(pk=order.pk).status == expected.status
            assert cards_of(order) == list(expected.cards)
            assert order.changes.count() == 1

    def test_an_answer_without_news_leaves_another_claim_alone(self) -> None:
        [held] = claim(make_order())
        Order.objects.filter(pk=held.pk).update(claimed_until=None)
        [theirs] = claim(held)
        record_answers([(held, answer("HANDLING"))], now=NOW)
        assert Order.objects.get(pk=held.pk).claimed_until == theirs.claimed_until


# Cannot even be compared with 0; the parser lets no such thing through.
POISON = dataclasses.replace(PARTIAL, fulfilled_amount=Decimal("NaN"))


class TestFailingAlone:
    def test_one_poisonous_answer_among_a_hundred(self, caplog: pytest.LogCaptureFixture) -> None:
        orders = claim(make_order(reference="poison"), *[make_order() for _ in range(99)])
        answers = [(order, PARTIAL) for order in orders]
        answers[0] = (orders[0], POISON)
        assert record_answers(answers, now=NOW) == 99
        poisoned = Order.objects.get(reference="poison")
        assert (poisoned.status, poisoned.failures, poisoned.claimed_until, poisoned.problem) == (
            "HANDLING",
            1,
            None,
            "The answer about this order cannot be processed (InvalidOperation).",
        )
        assert poisoned.due_at is not None
        assert poisoned.due_at > NOW
        assert not poisoned.cards.exists()
        assert Card.objects.count() == 3 * 99
        assert troubles(caplog) == [
            "What the provider answered about order poison could not be recorded: InvalidOperation"
        ]

    def test_a_row_that_the_database_refuses(self) -> None:
        torn = record(make_order(), answer("HANDLING", cards=(A, B)))
        # Somebody deleted a card by hand, so that the next one's number is taken.
        torn.cards.filter(position=1).delete()
        torn, whole = claim(torn, make_order())
        assert record_answers([(torn, PARTIAL), (whole, PARTIAL)], now=NOW) == 1
        assert Order.objects.get(pk=whole.pk).status == "PARTIALLY_FILLED"
        torn = Order.objects.get(pk=torn.pk)
        assert (torn.status, torn.problem) == (
            "HANDLING",
            "The answer about this order cannot be processed (IntegrityError).",
        )

    def test_status_cards_and_history_come_together_or_not_at_all(self) -> None:
        [held] = claim(make_order())

        def no_history(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("INSERT") and "giftcards_statuschange" in sql:
                raise DatabaseError("disk full")
            return execute(sql, *args)

        with connection.execute_wrapper(no_history):
            assert record_answers([(held, PARTIAL)], now=NOW) == 0
        order = Order.objects.get(pk=held.pk)
        assert (order.status, order.settled_at, order.fulfilled_quantity) == ("HANDLING", None, 0)
        assert not order.cards.exists()
        assert record(order, PARTIAL).status == "PARTIALLY_FILLED"
        assert cards_of(order) == [A, B, C]


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "problem"),
        [
            (OutcomeUnknown("no answer"), "as before"),
            (TryLater("busy"), "as before"),
            (AccessDenied("wrong key"), "as before"),
            (NotFound("unknown"), "The provider says that it does not know this order."),
            (
                Refused("The provider refused the request (HTTP 400)."),
                "The provider refuses to answer about this order:"
                " The provider refused the request (HTTP 400).",
            ),
            (
                KeyError("AAAA-AAAA-AAAA-AAAA"),
                "The answer about this order cannot be processed (KeyError).",
            ),
        ],
    )
    def test_only_what_is_about_the_order_is_shown_with_it(
        self, error: Exception, problem: str
    ) -> None:
        [held] = claim(make_order(problem="as before"))
        record_failures([(held, error)], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert (order.status, order.problem, order.failures, order.claimed_until) == (
            "HANDLING",
            problem,
            1,
            None,
        )

    def test_an_order_that_settled_meanwhile_is_left_alone(self) -> None:
        [held] = claim(make_order())
        record_answers([(held, PARTIAL)], now=NOW)
        before = Order.objects.filter(pk=held.pk).values().get()
        record_failures([(held, NotFound("unknown"))], now=NOW)
        assert Order.objects.filter(pk=held.pk).values().get() == before

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (2, 20), (3, 30), (4, 30), (1000, 30)]
    )
    def test_it_is_asked_later_each_time(self, failures: int, seconds: int) -> None:
        [held] = claim(make_order(failures=failures))
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert order.failures == failures + 1
        assert order.due_at is not None
        pause = order.due_at - NOW
        assert seconds * SECOND <= pause <= 1.25 * seconds * SECOND

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (4, 80), (9, 2560), (10, 3600), (1000, 3600)]
    )
    @pytest.mark.parametrize(
        "error", [OutcomeUnknown("no answer"), TryLater("busy"), AccessDenied("wrong key")]
    )
    def test_an_outage_does_not_cost_a_late_order_its_turn(
        self, error: Exception, failures: int, seconds: int
    ) -> None:
        late = make_order(Status.DELAYED, accepted_at=NOW - 2 * HOUR, failures=failures)
        [held] = claim(late)
        record_failures([(held, error)], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert order.due_at is not None
        pause = order.due_at - NOW
        assert seconds * SECOND <= pause <= min(1.25 * seconds * SECOND, HOUR)

    def test_the_first_checks_of_a_late_order_do_not_come_later_for_it(self) -> None:
        [held] = claim(make_order(Status.DELAYED, accepted_at=NOW - 5 * MINUTE, failures=9))
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        assert Order.objects.get(pk=held.pk).due_at == NOW + MINUTE

    @pytest.mark.parametrize("error", [NotFound("unknown"), Refused("no"), KeyError("odd")])
    def test_what_is_about_a_late_order_itself_is_not_asked_again_sooner(
        self, error: Exception
    ) -> None:
        [held] = claim(make_order(Status.DELAYED, accepted_at=NOW - 2 * HOUR))
        record_failures([(held, error)], now=NOW)
        assert Order.objects.get(pk=held.pk).due_at == NOW + HOUR

    @pytest.mark.parametrize(("failures", "seconds"), [(0, 5), (1000, 3600)])
    def test_an_outage_does_not_end_the_late_watch(self, failures: int, seconds: int) -> None:
        late = make_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR, failures=failures)
        [held] = claim(late)
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert order.due_at is not None
        pause = order.due_at - NOW
        assert seconds * SECOND <= pause <= min(1.25 * seconds * SECOND, HOUR)
        assert order.problem == ""

    def test_a_refusal_does_and_says_so(self) -> None:
        [held] = claim(make_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR))
        record_failures([(held, NotFound("unknown"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert (order.due_at, order.problem) == (
            None,
            f"{WATCH_ENDED} The provider says that it does not know this order.",
        )

    def test_another_process_claim_is_left_alone(self) -> None:
        [held] = claim(make_order())
        Order.objects.filter(pk=held.pk).update(claimed_until=None)
        [theirs] = claim(held)
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert (order.failures, order.claimed_until) == (0, theirs.claimed_until)

    def test_an_outage_of_a_hundred_orders_is_one_query(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_order() for _ in range(100)])
        failures = [(order, OutcomeUnknown("no answer")) for order in held]
        with django_assert_num_queries(1):
            record_failures(failures, now=NOW)
        assert Order.objects.filter(failures=1).count() == 100


class TestQueries:
    def test_a_hundred_unchanged_answers_are_one_query(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_order() for _ in range(100)])
        with django_assert_num_queries(1):
            record_answers([(order, answer("HANDLING")) for order in held], now=NOW)
        assert Order.objects.filter(checked_at=NOW, claimed_until=None).count() == 100

    def test_late_ones_are_one_more_for_each_pause(self, django_assert_num_queries: Any) -> None:
        ages = [0 * MINUTE, 6 * MINUTE, 8 * MINUTE, 12 * MINUTE, 2 * HOUR]
        late = [make_order(Status.DELAYED, accepted_at=NOW - age) for age in ages * 5]
        held = claim(*late)
        with django_assert_num_queries(4):
            record_answers([(order, answer("HANDLING")) for order in held], now=NOW)

    @pytest.mark.parametrize("final", [PARTIAL, REFUNDED])
    def test_orders_that_settle_alike_are_written_together(
        self, django_assert_num_queries: Any, final: OrderAnswer
    ) -> None:
        held = claim(*[make_order() for _ in range(20)])
        # Beginning, the orders, cards there are, cards that came, history, end.
        with django_assert_num_queries(6 if final.cards else 5):
            assert record_answers([(order, final) for order in held], now=NOW) == 20

    def test_serials_that_come_later_are_one_more(self, django_assert_num_queries: Any) -> None:
        orders = [make_order() for _ in range(20)]
        early = answer("HANDLING", cards=tuple(CardSecret(card.value, "") for card in (A, B)))
        record_answers([(order, early) for order in claim(*orders)], now=NOW)
        held = claim(*orders)
        # Beginning, the orders, cards there are, serials, the third card of each, history, end.
        with django_assert_num_queries(7):
            assert record_answers([(order, PARTIAL) for order in held], now=NOW) == 20
        assert [cards_of(order) for order in orders] == [[A, B, C]] * 20

    def test_an_order_that_settles_otherwise_is_one_more(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_order(quantity=number) for number in range(1, 6)])
        cards = [CARDS[: order.quantity] for order in held]
        answers = [
            (order, settled("FULFILLED", own, quantity=order.quantity))
            for order, own in zip(held, cards, strict=True)
        ]
        with django_assert_num_queries(5 + 5):
            assert record_answers(answers, now=NOW) == 5
        assert [cards_of(order) for order in held] == [list(own) for own in cards]


@pytest.fixture(params=["tuned", "host defaults"])
def shared_database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of processes that share one database, empty but for the tables."""
    environment = dict(os.environ)
    if request.param == "host defaults":
        environment["HOST_DEFAULTS"] = "1"
    if connection.vendor == "sqlite":
        # The tests' own may be in memory, where no other process sees it.
        environment["DATABASE_URL"] = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
        return environment
    request.getfixturevalue("transactional_db")
    config = connection.settings_dict
    scheme = {"postgresql": "postgres", "mysql": "mysql"}[connection.vendor]
    login = ":".join(quote(config[name], safe="") for name in ("USER", "PASSWORD") if config[name])
    environment["DATABASE_URL"] = (
        f"{scheme}://{login}@{config['HOST']}:{config['PORT']}/{config['NAME']}"
    )
    return environment


def start(environment: dict[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.recording_worker", *args],
        cwd=Path(__file__).parent.parent,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> tuple[Any, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out), err


@pytest.mark.django_db(transaction=True)
def test_processes_that_record_the_same_answers_at_once(shared_database: dict[str, str]) -> None:
    count = 30
    assert result(start(shared_database, "prepare", str(count)))[0] == count
    workers = [start(shared_database, "record") for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    results = [result(worker) for worker in workers]
    assert sum(recorded for recorded, _ in results) == count
    assert not [err for _, err in results if "ERROR" in err or "Traceback" in err]

    report, _ = result(start(shared_database, "report"))
    assert report["statuses"]["PARTIALLY_FILLED"] == count
    assert report == {
        "statuses": {**report["statuses"], "HANDLING": 0},
        "problems": 0,
        "changes": count,
        "positions": {"1": count, "2": count, "3": count},
    }
