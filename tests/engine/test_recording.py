"""Recording answers: each card is stored once, and a failure affects only its own order."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from giftcards.engine.recording import record_answers, record_changes, record_failures
from giftcards.exceptions import AccessDenied, NotFound, OutcomeUnknown, Refused, TryLater
from giftcards.keys.keyring import generate_key
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.refunds import refund_breakdown
from giftcards.rules.problems import Problem
from giftcards.settlement import customer_breakdown
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    FULFILLED,
    PARTIAL,
    PRICE,
    PRODUCT,
    REFUNDED,
    TYPE,
    answer,
    claim,
    details,
    ended,
    make_guide_order,
    not_whole,
    problems,
    settled,
    surplus,
)
from tests.laws import examples
from tests.stage import ROOT, Log, failing, fresh, statuses, use_keys

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
SOURCE = StatusChange.Source.RECOVERY
WATCH_ENDED = Problem("watch_ended")
LOST = Problem("status_unknown", {"status": "LOST"})
CONTRADICTING = Problem("figures_contradict")
ANSWER_OF_R1 = {"provider_order_id": "R1", "order": "web-7"}
A, B, C, D, E = CARDS
CHARGED_MORE = dataclasses.replace(PARTIAL, fulfilled_amount=Decimal(1960))


def record(order: Order, *answers: OrderAnswer, now: datetime = NOW) -> Order:
    """Claim ``order`` and record the answers one by one, as sweeps do. Return it as stored."""
    for given_answer in answers:
        [held] = claim(order)
        record_answers([(held, given_answer)], now=now)
    return Order.objects.get(pk=order.pk)


def claim_after(held: Order) -> Order:
    """Return the order with the claim of another process, after the first claim has expired."""
    Order.objects.filter(pk=held.pk).update(claimed_until=None)
    [theirs] = claim(held)
    return theirs


def cards_of(order: Order) -> list[CardSecret]:
    """Return the stored cards in sequence, decrypted."""
    cards = list(order.cards.order_by("position"))
    assert [card.position for card in cards] == list(range(1, len(cards) + 1))
    return [CardSecret(card.value, card.serial) for card in cards]


def troubles(caplog: Log) -> list[str]:
    """Return the messages in the log, except those at the level INFO."""
    return [entry.getMessage() for entry in caplog.records if entry.levelname != "INFO"]


def contradicted(status: str, delivered: int) -> Problem:
    parameters = {"status": status, "delivered": delivered, "ordered": 5}
    return Problem("contradicted", parameters)


def left_out(total: int, count: int) -> Problem:
    return Problem("cards_left_out", {"total": total, "left_out": count, "ordered": 5})


def with_cards(given_answer: OrderAnswer, *cards: CardSecret) -> OrderAnswer:
    return dataclasses.replace(given_answer, cards=cards)


def short_cards(text: str) -> tuple[CardSecret, ...]:
    """Return the cards in a short text.

    ``"a1 b"`` are a card with the code a and the serial 1, and one with the code b only.
    """
    return tuple(CardSecret(word[0], word[1:]) for word in text.split())


class TestSettling:
    @pytest.mark.parametrize("earlier", [(), (A,), (A, B), (D, E), CARDS])
    @pytest.mark.parametrize("last", [FULFILLED, PARTIAL, REFUNDED])
    def test_the_stored_figures_are_those_of_all_answers_whatever_came_before(
        self, earlier: tuple[CardSecret, ...], last: OrderAnswer
    ) -> None:
        order = make_guide_order(sale_price=550)
        order = record(order, answer("HANDLING", cards=earlier), last)
        missing = 5 - len(last.cards)
        assert (order.open_amount, order.is_consistent) == (550 * missing, True)
        customer, provider = customer_breakdown(order), refund_breakdown(order)
        assert customer is not None
        assert provider is not None
        assert (customer.open_amount, provider.is_consistent) == (550 * missing, True)

    @pytest.mark.parametrize("origin", [Status.HANDLING, Status.DELAYED])
    @pytest.mark.parametrize(
        ("given_answer", "amount"), [(FULFILLED, 2450), (PARTIAL, 1470), (REFUNDED, 0)]
    )
    def test_a_settled_order_has_its_figures_cards_and_history(
        self, origin: Status, given_answer: OrderAnswer, amount: int
    ) -> None:
        order = make_guide_order(origin, price_per_card=None, failures=3)
        [held] = claim(order)
        assert record_answers([(held, given_answer)], now=NOW) == 1
        order = Order.objects.get(pk=order.pk)
        assert (
            order.status,
            order.fulfilled_quantity,
            order.fulfilled_amount,
            order.price_per_card,
            problems(order),
            order.checked_at,
            order.due_at,
            order.failures,
            order.claimed_until,
        ) == (given_answer.status, len(given_answer.cards), amount, PRICE, [], NOW, None, 0, None)
        assert order.finalized_at is not None
        # The answer has confirmed that the id is the order's.
        assert order.identified_at == NOW
        assert cards_of(order) == list(given_answer.cards)
        change = order.changes.get()
        assert (
            change.from_status,
            change.to_status,
            change.source,
            change.details,
            change.announced_at,
        ) == (origin, given_answer.status, "check", [], None)

    @pytest.mark.parametrize(
        ("first", "problem"), [(answer("LOST"), LOST), (CHARGED_MORE, CONTRADICTING)]
    )
    def test_a_problem_that_ends_by_settling_is_kept_in_the_history(
        self, first: OrderAnswer, problem: Problem
    ) -> None:
        order = record(make_guide_order(), first, PARTIAL)
        assert (order.fulfilled_amount, problems(order)) == (1470, [])
        assert (details(order.changes.get()), ended(order.changes.get())) == ([], [problem])

    def test_contradicting_figures_are_asked_for_again_before_an_order_settles(self) -> None:
        order = record(make_guide_order(), CHARGED_MORE)
        assert (order.status, problems(order)) == ("HANDLING", [CONTRADICTING])
        assert order.due_at == NOW + 5 * SECOND
        order = record(order, CHARGED_MORE)
        assert (order.status, order.fulfilled_amount) == ("PARTIALLY_FILLED", 1960)
        assert problems(order) == details(order.changes.get()) == [CONTRADICTING]

    def test_the_price_at_placing_is_kept_beside_another_final_price(self) -> None:
        dearer = settled("FULFILLED", CARDS, price_per_card=520, fulfilled_amount=2600)
        order = record(make_guide_order(price_at_placing=PRICE), dearer)
        assert (order.price_per_card, order.price_at_placing) == (520, 490)
        both = Problem("price_changed", {"amount": "520.00", "expected": "490.00"})
        assert problems(order) == details(order.changes.get()) == [both]

    def test_an_order_that_settles_is_one_line_in_the_log(self, caplog: Log) -> None:
        caplog.set_level("DEBUG", "giftcards")
        record(make_guide_order(reference="order-1"), PARTIAL)
        assert caplog.messages == [
            "Order order-1 is PARTIALLY_FILLED: 3 of 5 cards were delivered."
        ]

    def test_recording_no_answers_costs_no_query(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            assert record_answers([], now=NOW) == 0

    def test_an_order_that_was_never_accepted_does_not_settle(self, caplog: Log) -> None:
        order = make_guide_order(Status.UNCONFIRMED, reference="order-1")
        order.accepted_at = NOW
        assert record_answers([(order, FULFILLED)], now=NOW) == 0
        assert caplog.messages == [
            "The provider's answer about order order-1 could not be recorded: ValueError"
        ]
        assert Order.objects.get(pk=order.pk).status == "UNCONFIRMED"


class TestStayingOpen:
    def test_an_open_order_gets_its_next_check_and_gives_its_claim_back(self) -> None:
        order = record(make_guide_order(failures=3), answer("HANDLING", quantity=5))
        assert (
            order.status,
            order.due_at,
            order.checked_at,
            order.failures,
            order.claimed_until,
            problems(order),
        ) == ("HANDLING", NOW + 5 * SECOND, NOW, 0, None, [])
        assert not order.changes.exists()

    def test_an_incomplete_answer_is_shown_as_a_problem_and_its_cards_are_kept(
        self, caplog: Log
    ) -> None:
        order = make_guide_order(reference="order-1")
        incomplete = with_cards(FULFILLED, A, B, C)
        # The problem is reported once, even if several answers contain it.
        order = record(order, incomplete, incomplete)
        problem = not_whole("FULFILLED", 5, 3)
        assert (order.status, problems(order)) == ("HANDLING", [problem])
        assert order.due_at == NOW + 5 * SECOND
        assert cards_of(order) == [A, B, C]
        assert not order.changes.exists()
        assert caplog.messages == [f"Order order-1: {problem}"]

    def test_a_complete_answer_after_an_incomplete_one_settles_the_order(self) -> None:
        order = record(make_guide_order(), with_cards(FULFILLED, C, A), FULFILLED)
        assert (order.status, problems(order)) == ("FULFILLED", [])
        assert cards_of(order) == [C, A, B, D, E]

    def test_problems_with_other_causes_stay_when_an_answer_is_recorded(self) -> None:
        spent = Problem("accepted_after_all", {"provider_order_id": "A1"})
        order = record(make_guide_order(problems=[spent, LOST]), answer("HANDLING"))
        assert problems(order) == [spent]
        order = record(order, answer("LOST"), FULFILLED)
        assert problems(order) == [spent]
        assert ended(order.changes.get()) == [LOST]

    def test_the_count_of_cards_never_falls_nor_exceeds_the_quantity(self) -> None:
        order = record(make_guide_order(quantity=2), answer("HANDLING", cards=(A, B, C)))
        assert order.fulfilled_quantity == 2
        order = record(order, answer("HANDLING", cards=(A,)))
        assert order.fulfilled_quantity == 2
        assert cards_of(order) == [A, B, C]


NAMED = {"product_id": PRODUCT, "type_id": TYPE, "quantity": 5}
OTHER_TYPE = Problem("line_differs", {"field": "type"})


def foreign(given_answer: OrderAnswer) -> OrderAnswer:
    """Return the answer with a different product type and a different id."""
    return dataclasses.replace(given_answer, type_id="type_002", provider_id="S1")


class TestIdentity:
    """The id in a placing answer is trusted once an answer about it has matched the line."""

    @pytest.mark.parametrize("status", [Status.HANDLING, Status.DELAYED])
    @pytest.mark.parametrize("given_answer", [answer("HANDLING", cards=(A,)), FULFILLED, PARTIAL])
    def test_an_order_gives_back_an_id_whose_first_answer_is_of_another_order(
        self, status: Status, given_answer: OrderAnswer, caplog: Log
    ) -> None:
        order = make_guide_order(status, reference="order-1", provider_order_id="P1")
        order = record(order, foreign(given_answer))
        of_other = Problem("id_of_other", {"provider_order_id": "P1"})
        assert (
            order.status,
            order.provider_order_id,
            order.provider_alias,
            order.answered_id,
            order.accepted_at,
            order.due_at,
            order.claimed_until,
            order.price_per_card,
        ) == ("UNCONFIRMED", None, "", "P1", None, NOW, None, PRICE)
        assert problems(order) == [of_other]
        change = order.changes.get()
        assert (change.from_status, change.to_status) == (status, "UNCONFIRMED")
        assert details(change) == [of_other, OTHER_TYPE]
        assert cards_of(order) == []
        # The order that owns the id can use it now.
        make_guide_order(provider_order_id="P1")
        assert troubles(caplog) == [
            "Order order-1 is UNCONFIRMED, because the provider's id P1, which was stored for it,"
            " belongs to another order.",
            f"Order order-1: {OTHER_TYPE}",
        ]

    @pytest.mark.parametrize(
        "first",
        [
            answer("HANDLING", **NAMED),
            # Cards are delivered only once, so the id can no longer belong to another order.
            answer("HANDLING", cards=(A,)),
        ],
    )
    def test_an_answer_of_another_line_about_a_confirmed_id_is_only_shown(
        self, first: OrderAnswer
    ) -> None:
        before = record(make_guide_order(provider_alias="R1"), first)
        assert before.identified_at == NOW
        after = record(before, foreign(FULFILLED))
        assert (after.status, after.provider_order_id) == ("HANDLING", before.provider_order_id)
        assert (after.provider_alias, after.due_at) == ("R1", NOW + 5 * SECOND)
        assert problems(after) == [OTHER_TYPE]
        assert cards_of(after) == list(first.cards)
        # The next answer is about this order again.
        settled_order = record(after, FULFILLED)
        assert (settled_order.status, problems(settled_order)) == ("FULFILLED", [])
        assert ended(settled_order.changes.get()) == [OTHER_TYPE]

    def test_an_answer_that_does_not_name_the_line_confirms_no_id(self) -> None:
        order = record(make_guide_order(), answer("HANDLING", quantity=5))
        assert (order.status, order.identified_at) == ("HANDLING", None)
        assert record(order, foreign(FULFILLED)).status == "UNCONFIRMED"

    def test_ids_of_many_orders_are_confirmed_by_one_update(self) -> None:
        held = claim(*(make_guide_order() for _ in range(20)))
        named = answer("HANDLING", **NAMED)
        with CaptureQueriesContext(connection) as queries:
            record_answers([(order, named) for order in held], now=NOW)
        assert len([q for q in queries if q["sql"].startswith("UPDATE")]) == 1
        assert Order.objects.filter(identified_at=NOW).count() == 20

    @pytest.mark.parametrize("late", [FULFILLED, answer("HANDLING", cards=(A,))])
    def test_an_answer_under_way_while_the_id_was_given_back_is_dropped(
        self, late: OrderAnswer
    ) -> None:
        [held] = claim(make_guide_order())
        # The claim has run out, and another process asked as well.
        Order.objects.update(claimed_until=None)
        order = record(held, foreign(FULFILLED))
        assert record_answers([(held, late)], now=NOW) == 0
        assert Order.objects.get(pk=order.pk).status == "UNCONFIRMED"
        assert order.move(Status.HANDLING, source=SOURCE, provider_order_id="P2", accepted_at=NOW)
        assert record_answers([(held, late)], now=NOW) == 0
        assert Order.objects.get(pk=order.pk).status == "HANDLING"
        assert cards_of(order) == []

    def test_the_second_of_two_answers_with_one_new_id_is_not_taken(self) -> None:
        """The app asks about both orders at once, and the provider answers about one of them."""
        orders = [make_guide_order(reference=f"web-{number}") for number in (7, 8)]
        same = dataclasses.replace(FULFILLED, provider_id="R1")
        assert record_answers([(held, same) for held in claim(*orders)], now=NOW) == 1
        first, second = Order.objects.order_by("pk")
        assert (first.status, first.provider_alias) == ("FULFILLED", "R1")
        assert (second.status, second.provider_alias) == ("HANDLING", "")
        assert problems(second) == [Problem("answer_of_other", ANSWER_OF_R1)]
        assert cards_of(second) == []

    def test_an_unconfirmed_id_unknown_to_the_provider_is_given_back_after_120_s(self) -> None:
        """The provider may not know a new order for a moment."""
        sent_at = NOW - 119 * SECOND
        [held] = claim(make_guide_order(sent_at=sent_at, provider_order_id="P1"))
        record_failures([(held, NotFound("gone"))], now=NOW)
        assert (fresh(held).status, problems(held)) == ("HANDLING", [Problem("not_known")])
        [held] = claim(held)
        record_failures([(held, NotFound("gone"))], now=NOW + SECOND)
        order = Order.objects.get(pk=held.pk)
        expected = ("UNCONFIRMED", "P1", None)
        assert (order.status, order.answered_id, order.provider_order_id) == expected

    @pytest.mark.parametrize(
        "known",
        [
            {"identified_at": NOW},
            {"checked_at": NOW - HOUR / 2},  # answered, though without the line
            {"provider_order_id": "P1", "provider_alias": "P1"},
        ],
    )
    def test_a_confirmed_or_chosen_id_is_kept_though_the_provider_does_not_know_it(
        self, known: dict[str, Any]
    ) -> None:
        [held] = claim(make_guide_order(sent_at=NOW - HOUR, **known))
        record_failures([(held, NotFound("gone"))], now=NOW)
        assert (fresh(held).status, held.answered_id) == ("HANDLING", "")


class TestEndOfWatch:
    @pytest.mark.parametrize(
        ("last", "status", "said"),
        [
            (answer("HANDLING"), "DELAYED", [WATCH_ENDED]),
            (answer("LOST"), "DELAYED", [WATCH_ENDED, LOST]),
            (FULFILLED, "FULFILLED", []),
            # The contradictory answer is accepted, because the app does not ask again.
            (CHARGED_MORE, "PARTIALLY_FILLED", [CONTRADICTING]),
        ],
    )
    def test_the_last_answer_of_the_late_watch_settles_the_order_or_is_shown(
        self, last: OrderAnswer, status: str, said: list[Problem]
    ) -> None:
        order = record(make_guide_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR), last)
        assert (order.status, order.due_at, problems(order)) == (status, None, said)


class TestAlias:
    ALIAS = "6901616fe9e88196b4eb64b3"

    def test_the_id_in_an_answer_is_kept_as_alias_and_logged_once(self, caplog: Log) -> None:
        caplog.set_level("INFO", "giftcards")
        order = make_guide_order(reference="order-1", provider_order_id="6901616fe9e88196b4eb64b2")
        named = answer("HANDLING", provider_id=self.ALIAS)
        order = record(order, named, named)
        assert (order.provider_order_id, order.provider_alias) == (
            "6901616fe9e88196b4eb64b2",
            self.ALIAS,
        )
        assert caplog.messages == [
            "Order order-1 was accepted with the id 6901616fe9e88196b4eb64b2, but the provider's"
            " answer shows the id 6901616fe9e88196b4eb64b3."
        ]

    @pytest.mark.parametrize(
        ("known", "told", "alias"),
        [({"provider_order_id": ALIAS}, ALIAS, ""), ({"provider_alias": ALIAS}, "", ALIAS)],
        ids=["the order's own id", "no id"],
    )
    def test_an_answer_without_another_id_leaves_the_alias_as_it_is(
        self, known: dict[str, str], told: str, alias: str
    ) -> None:
        order = record(make_guide_order(**known), answer("HANDLING", provider_id=told))
        assert order.provider_alias == alias


class TestOfAnotherOrder:
    """The answer contains the id of another order, whose cards would be handed out twice."""

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_an_answer_with_the_id_of_another_order_is_not_taken(self, name: str) -> None:
        make_guide_order(Status.FULFILLED, reference="web-7", **{name: "R1"})
        theirs = dataclasses.replace(PARTIAL, provider_id="R1")
        order = record(make_guide_order(), theirs, theirs)
        assert (order.status, order.provider_alias) == ("HANDLING", "")
        assert problems(order) == [Problem("answer_of_other", ANSWER_OF_R1)]
        assert not order.cards.exists()

    def test_an_answer_with_the_orders_own_alias_is_taken(self) -> None:
        mine = dataclasses.replace(PARTIAL, provider_id="R1")
        still = answer("HANDLING", provider_id="R1")
        assert record(make_guide_order(), still, mine).status == "PARTIALLY_FILLED"


class TestEachCardOnce:
    @pytest.mark.parametrize(
        ("answers", "stored"),
        [
            # The serial comes later, or is missing later.
            (["a", "a1 b2"], "a1 b2"),
            (["a1 b2", "a b", "b a"], "a1 b2"),
            (["a", "a1", "a", "a1"], "a1"),
            # A code that occurs twice in one answer is one card, unless it has two serials.
            (["a1 a2", "a a"], "a1 a2"),
            (["a1", "a a", "a a2"], "a1 a2"),
            # New cards keep the sequence of the answer.
            (["a c b1"], "a c b1"),
            # An answer may leave out cards, repeat them, and list them in any sequence.
            (["a1 b2", "b2 a1"], "a1 b2"),
            (["b2", "a1 b2"], "b2 a1"),
            (["a1 b2 c3", "c3", ""], "a1 b2 c3"),
            (["a1", "a1 a1", "a1"], "a1"),
            (["a1 b2", "b2 b2 a1"], "a1 b2"),
            (["a a"], "a"),
            # These codes look alike to a person, but each is a card that was paid for.
            (["a1 A1"], "a1 A1"),
            (["a", "A1"], "a A1"),
            (["A1", "a"], "A1 a"),
        ],
    )
    def test_a_card_whose_serial_is_missing_at_times_is_stored_once(
        self, answers: list[str], stored: str
    ) -> None:
        given_answers = (answer("HANDLING", cards=short_cards(text)) for text in answers)
        order = record(make_guide_order(), *given_answers)
        assert cards_of(order) == list(short_cards(stored))
        for row in order.cards.all():
            assert row in order.cards.with_code(row.value)
            assert bool(row.serial_fingerprint) == bool(row.serial)
            assert not row.serial or row in order.cards.with_code(row.serial)

    @settings(max_examples=examples(40))
    @given(st.lists(st.sampled_from(short_cards("a a1 a2 a3 A1 b b1")), max_size=5), st.data())
    def test_never_more_cards_are_stored_than_were_bought(
        self, bought: list[CardSecret], data: st.DataObject
    ) -> None:
        """The answers show any of the cards in any sequence, with or without serials."""
        order, known = make_guide_order(quantity=max(len(bought), 1)), 0
        for _answer in range(data.draw(st.integers(0, 4))):
            shown = [
                card if data.draw(st.booleans()) else CardSecret(card.value, "")
                for card in data.draw(st.permutations(bought))
                if data.draw(st.booleans())
            ]
            order = record(order, answer("HANDLING", cards=tuple(shown)))
            codes = {card.value for card in shown}
            assert max(known, len(codes)) <= order.cards.count() <= len(bought)
            known = order.cards.count()
        if bought:
            whole = settled("FULFILLED", bought, quantity=len(bought))
            order = record(order, whole)
            # The answer is requested once more if it repeats a card.
            order = order if order.is_final else record(order, whole)
        assert Counter(cards_of(order)) == Counter(bought)

    def test_a_serial_that_comes_after_a_new_encryption_key_completes_the_card(
        self, settings: Any
    ) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=short_cards("a b1")))
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        new_key = generate_key()
        use_keys(settings, new_key, old_key)
        order = record(order, answer("HANDLING", cards=short_cards("a1 b")))
        assert cards_of(order) == list(short_cards("a1 b1"))
        # The whole row now belongs to the new key.
        use_keys(settings, new_key)
        row = order.cards.get(position=1)
        assert (row.value, row.serial) == ("a", "1")
        assert list(order.cards.with_code("a")) == list(order.cards.with_code("1")) == [row]

    def test_a_stored_card_that_cannot_be_opened_is_taken_for_no_other(self) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=short_cards("a1")))
        order.cards.update(sealed="damaged")
        order = record(order, answer("HANDLING", cards=short_cards("a")))
        first, second = order.cards.order_by("position")
        assert (first.sealed, second.value) == ("damaged", "a")

    def test_the_same_code_in_two_orders_is_stored_twice_and_marked_as_repeated(self) -> None:
        one, other = make_guide_order(), make_guide_order()
        readings = [(order, PARTIAL) for order in claim(one, other)]
        assert record_answers(readings, now=NOW) == 2
        assert cards_of(one) == cards_of(other) == [A, B, C]
        assert all(card.is_repeated for card in Card.objects.with_repeats())

    def test_a_new_encryption_key_between_answers_stores_no_card_twice(self, settings: Any) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=(A, B)))
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        use_keys(settings, generate_key(), old_key)
        order = record(order, answer("HANDLING", cards=(C, B, A)), PARTIAL)
        assert cards_of(order) == [A, B, C]
        assert problems(order) == []

    def test_cards_sealed_by_the_first_key_are_recognised_with_that_key_alone(
        self, settings: Any
    ) -> None:
        [old_key] = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        new_key = generate_key()
        order = make_guide_order()
        for keys in ([new_key, old_key], [new_key]):
            use_keys(settings, *keys)
            order = record(order, answer("HANDLING", cards=(A, B)))
        assert cards_of(order) == [A, B]


class TestSurplus:
    """The provider sent more cards than announced. Staff have to see them, paid or not."""

    def test_cards_beyond_those_of_the_final_answer_are_kept_as_surplus(self, caplog: Log) -> None:
        order = record(
            make_guide_order(reference="order-1"), answer("HANDLING", cards=(D,)), PARTIAL
        )
        assert (order.status, problems(order)) == ("PARTIALLY_FILLED", [surplus(4, 3)])
        assert cards_of(order) == [A, B, C, D]
        assert troubles(caplog) == [f"Order order-1: {surplus(4, 3)}"]

    def test_a_card_of_an_order_that_is_refunded_then_is_kept_as_surplus(self) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=(A,)), REFUNDED)
        assert (order.status, order.fulfilled_quantity) == ("REFUNDED", 0)
        assert problems(order) == [surplus(1, 0)]
        assert cards_of(order) == [A]

    def test_cards_that_the_final_answer_lacks_are_kept_as_surplus(self) -> None:
        order = record(
            make_guide_order(),
            answer("HANDLING", cards=(A, B, C)),
            *[settled("PARTIALLY_FILLED", [A, B], fulfilled_amount=Decimal(1470))] * 2,
        )
        assert problems(order) == [CONTRADICTING, surplus(3, 2)]


class TestFarTooMany:
    """For an order of five, at most 60 cards are stored, and staff are told about the others."""

    MANY = tuple(CardSecret(f"CODE-{number:06}", "") for number in range(20_000))

    def test_of_20_000_cards_60_are_stored_and_staff_are_told_of_the_others_once(
        self, caplog: Log
    ) -> None:
        told = settled("FULFILLED", self.MANY, fulfilled_quantity=5)
        order = record(make_guide_order(reference="order-1"), told, told)
        assert cards_of(order) == [*self.MANY[:60]]
        found = [not_whole("FULFILLED", 5, 20_000), left_out(20_000, 19_940)]
        assert (order.status, problems(order)) == ("HANDLING", found)
        assert sorted(troubles(caplog)) == sorted(f"Order order-1: {each}" for each in found)

    def test_other_cards_in_each_answer_are_stored_up_to_the_same_limit(self) -> None:
        order = make_guide_order()
        for begin in (0, 40, 80):
            order = record(order, answer("HANDLING", cards=self.MANY[begin : begin + 40]))
        assert cards_of(order) == [*self.MANY[:60]]
        assert problems(order) == [left_out(40, 20), left_out(40, 40)]

    def test_all_cards_of_a_whole_answer_are_stored_first_even_beyond_the_limit(self) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=self.MANY[:61]), FULFILLED)
        assert cards_of(order) == [*CARDS, *self.MANY[:60]]
        assert problems(order) == [left_out(61, 1), surplus(65, 5)]
        assert order.status == "FULFILLED"

    def test_cards_that_come_late_are_stored_up_to_the_same_limit(self, caplog: Log) -> None:
        order = record(make_guide_order(reference="order-1"), FULFILLED)
        caplog.clear()
        told = with_cards(FULFILLED, *CARDS, *self.MANY)
        for is_thorough in (False, False, True):
            record_changes([(fresh(order), told)], now=NOW, is_thorough=is_thorough)
        assert cards_of(order) == [*CARDS, *self.MANY[:55]]
        found = [surplus(60, 5), left_out(20_005, 19_945)]
        assert problems(order) == found
        assert troubles(caplog) == [f"Order order-1 is FULFILLED: {each}" for each in found]


class TestNumbering:
    """The cards of a settling answer come first, so that the customer receives these."""

    @settings(max_examples=examples(40))
    @given(st.integers(1, 3), st.data())
    def test_exactly_the_cards_of_the_settling_answer_are_handed_over(
        self, count: int, data: st.DataObject
    ) -> None:
        """Earlier answers may have other cards, repetitions, any sequence, and serials or none."""
        own = [*CARDS[: count - 1], CardSecret(CARDS[count].value, "")]
        shown = st.lists(st.sampled_from([*CARDS, *own, CardSecret(A.value, "")]), max_size=7)
        earlier = data.draw(st.lists(shown, max_size=4))
        order = make_guide_order(quantity=data.draw(st.integers(count, 5)))
        for cards in earlier:
            order = record(order, answer("HANDLING", cards=tuple(cards)))
        before = cards_of(order)
        status = "FULFILLED" if count == order.quantity else "PARTIALLY_FILLED"
        whole = settled(status, data.draw(st.permutations(own)), quantity=order.quantity)
        order = record(order, whole)
        assert (order.status, order.fulfilled_quantity) == (status, count)
        stored = cards_of(order)
        codes = [card.value for card in stored]
        assert sorted(codes[:count]) == sorted(card.value for card in own)
        # No card is lost, and cards that were known before keep their sequence.
        assert len(codes) == len(set(codes))
        assert {card.value for cards in earlier for card in cards} <= set(codes)
        assert {card for card in before if card.serial} <= set(stored)
        kept = [card.value for card in before]
        for part in (codes[:count], codes[count:]):
            known = [code for code in part if code in kept]
            assert known == [code for code in kept if code in part]
        # Later answers do not move any card.
        for later in (whole, answer("HANDLING", cards=(E, *whole.cards, *whole.cards))):
            record_changes([(order, later)], now=NOW, is_thorough=True)
            assert cards_of(order)[: len(stored)] == stored

    @settings(max_examples=examples(30))
    @given(
        st.lists(st.sampled_from(CARDS), max_size=5),
        st.lists(st.sampled_from(CARDS), min_size=1, max_size=5),
    )
    def test_a_settling_answer_that_repeats_a_card_withholds_none_that_it_names(
        self, earlier: list[CardSecret], told: list[CardSecret]
    ) -> None:
        whole = settled("FULFILLED", told, quantity=len(told))
        order = make_guide_order(quantity=len(told))
        order = record(order, answer("HANDLING", cards=tuple(earlier)), whole)
        if len(set(told)) < len(told):
            assert order.status == "HANDLING"  # asked for once more
            order = record(order, whole)
        assert order.status == "FULFILLED"
        handed = Counter(cards_of(order)[: len(told)])
        assert set(handed) >= set(told)
        # A repeated card comes after all other known cards.
        others = len(set(earlier) - set(told))
        assert len(handed) == min(len(set(told)) + others, len(told))
        assert Counter(cards_of(order)) == Counter(told) | Counter(set(earlier))

    @pytest.mark.parametrize(
        "damage",
        [
            # The first value is no token. The second key is not in the settings.
            {"sealed": "damaged"},
            {"key_fingerprint": "0123456789abcdef"},
        ],
    )
    def test_an_order_waits_for_the_key_of_a_card_that_has_to_give_way(
        self, damage: dict[str, str]
    ) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=(D,)))
        intact = order.cards.values().get()
        order.cards.update(**damage)
        order = record(order, PARTIAL)
        assert (order.status, problems(order)) == (
            "HANDLING",
            [Problem("answer_unprocessable", {"detail": "DecryptionError"})],
        )
        order.cards.update(**intact)
        order = record(order, PARTIAL)
        assert (order.status, cards_of(order)) == ("PARTIALLY_FILLED", [A, B, C, D])

    def test_a_damaged_card_that_the_settling_answer_names_is_sealed_anew_where_it_moves(
        self,
    ) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=(D, A)))
        order.cards.filter(position=2).update(sealed="damaged")
        assert cards_of(record(order, PARTIAL)) == [A, B, C, D]

    def test_a_card_that_staff_revealed_is_the_same_row_at_its_new_position(self) -> None:
        order = record(make_guide_order(), answer("HANDLING", cards=(D, A)))
        rows = {card.value: card.pk for card in order.cards.all()}
        order = record(order, PARTIAL)
        assert {card.value: card.pk for card in order.cards.all()}.items() >= rows.items()

    def test_cards_of_many_orders_move_in_one_batch(self) -> None:
        orders = [make_guide_order() for _ in range(3)]
        orders = [record(order, answer("HANDLING", cards=(D, E, B))) for order in orders]
        assert record_answers([(order, PARTIAL) for order in claim(*orders)], now=NOW) == 3
        assert [cards_of(order) for order in orders] == [[B, A, C, D, E]] * 3


class TestOvertaken:
    """Another process recorded something while this one was asking."""

    def test_the_same_answer_from_two_processes_changes_nothing_the_second_time(self) -> None:
        [held] = claim(make_guide_order())
        theirs = claim_after(held)
        assert held.claim != theirs.claim
        assert record_answers([(held, PARTIAL)], now=NOW) == 1
        before = Order.objects.filter(pk=held.pk).values().get()
        later = NOW + MINUTE
        assert record_answers([(theirs, with_cards(PARTIAL, C, B, A))], now=later) == 0
        after = Order.objects.filter(pk=held.pk).values().get()
        assert after == {**before, "checked_at": later}
        assert cards_of(held) == [A, B, C]
        assert held.changes.count() == 1

    @pytest.mark.parametrize("late", [answer("HANDLING"), answer("HANDLING", cards=(B,))])
    def test_an_older_answer_about_a_settled_order_is_ignored(self, late: OrderAnswer) -> None:
        [held] = claim(make_guide_order())
        record_answers([(held, PARTIAL)], now=NOW)
        before = Order.objects.filter(pk=held.pk).values().get()
        record_answers([(held, late)], now=NOW)
        assert Order.objects.filter(pk=held.pk).values().get() == before
        assert cards_of(held) == [A, B, C]

    def test_other_cards_under_the_same_final_status_are_kept_and_shown(self) -> None:
        [held] = claim(make_guide_order())
        record_answers([(held, PARTIAL)], now=NOW)
        record_answers([(held, with_cards(PARTIAL, A, B, D))], now=NOW)
        assert cards_of(held) == [A, B, C, D]
        assert problems(held) == [surplus(4, 3)]

    def test_problems_of_a_settled_order_stay_when_a_contradiction_comes(self) -> None:
        [held] = claim(record(make_guide_order(), CHARGED_MORE))
        assert record_answers([(held, CHARGED_MORE)], now=NOW) == 1
        record_answers([(held, REFUNDED)], now=NOW)
        charged = {"field": "fulfilled_amount", "amount": "0.00", "expected": "1960.00"}
        expected = [CONTRADICTING, contradicted("REFUNDED", 0), Problem("figure_changed", charged)]
        assert problems(held) == expected

    def test_an_order_that_became_late_while_it_was_checked_settles(self) -> None:
        [held] = claim(make_guide_order())
        Order.objects.filter(pk=held.pk).move_all(
            Status.HANDLING, Status.DELAYED, source=StatusChange.Source.CLOCK
        )
        assert record_answers([(held, PARTIAL)], now=NOW) == 1
        assert [(c.from_status, c.to_status) for c in held.changes.all()] == [
            ("HANDLING", "DELAYED"),
            ("DELAYED", "PARTIALLY_FILLED"),
        ]
        assert cards_of(held) == [A, B, C]

    def test_an_older_count_of_cards_does_not_replace_a_newer_one(self) -> None:
        [held] = claim(make_guide_order())
        theirs = claim_after(held)
        record_answers([(theirs, answer("HANDLING", cards=(A, B, C)))], now=NOW)
        record_answers([(held, answer("HANDLING", cards=(A,)))], now=NOW)
        assert Order.objects.get(pk=held.pk).fulfilled_quantity == 3

    @pytest.mark.parametrize("verdict", [PARTIAL, REFUNDED])
    def test_other_orders_of_a_batch_settle_though_some_were_overtaken(
        self, verdict: OrderAnswer
    ) -> None:
        held = claim(*[make_guide_order() for _ in range(5)])
        record_answers([(held[1], PARTIAL)], now=NOW)
        claim_after(held[3])
        assert record_answers([(order, verdict) for order in held], now=NOW) == 4
        for number, order in enumerate(held):
            expected = PARTIAL if number == 1 else verdict
            assert Order.objects.get(pk=order.pk).status == expected.status
            assert cards_of(order) == list(expected.cards)
            assert order.changes.count() == 1

    def test_an_answer_without_news_leaves_the_claim_of_another_process_alone(self) -> None:
        [held] = claim(make_guide_order())
        theirs = claim_after(held)
        record_answers([(held, answer("HANDLING"))], now=NOW)
        assert Order.objects.get(pk=held.pk).claimed_until == theirs.claimed_until


# This value cannot even be compared with 0. The parser never returns it.
POISON = dataclasses.replace(PARTIAL, fulfilled_amount=Decimal("NaN"))


class TestFailingAlone:
    def test_one_answer_that_cannot_be_processed_does_not_affect_19_others(
        self, caplog: Log
    ) -> None:
        orders = claim(
            make_guide_order(reference="poison"), *[make_guide_order() for _ in range(19)]
        )
        answers = [(order, PARTIAL) for order in orders]
        answers[0] = (orders[0], POISON)
        assert record_answers(answers, now=NOW) == 19
        poisoned = Order.objects.get(reference="poison")
        assert (poisoned.status, poisoned.failures, poisoned.claimed_until, problems(poisoned)) == (
            "HANDLING",
            1,
            None,
            [Problem("answer_unprocessable", {"detail": "InvalidOperation"})],
        )
        assert poisoned.due_at > NOW
        assert not poisoned.cards.exists()
        assert Card.objects.count() == 3 * 19
        assert troubles(caplog) == [
            "The provider's answer about order poison could not be recorded: InvalidOperation"
        ]

    def test_an_order_whose_rows_the_database_refuses_does_not_affect_others(self) -> None:
        torn, whole = claim(make_guide_order(pk=1_000_001), make_guide_order())
        failure = failing(
            "INSERT",
            "giftcards_card",
            error=IntegrityError(),
            # PostgreSQL is given a list for each column.
            when=lambda _, params: str(torn.pk) in str(params),
        )
        with failure:
            assert record_answers([(torn, PARTIAL), (whole, PARTIAL)], now=NOW) == 1
        assert Order.objects.get(pk=whole.pk).status == "PARTIALLY_FILLED"
        torn = Order.objects.get(pk=torn.pk)
        assert (torn.status, problems(torn)) == (
            "HANDLING",
            [Problem("answer_unprocessable", {"detail": "IntegrityError"})],
        )

    def test_status_cards_and_history_are_stored_together_or_not_at_all(self) -> None:
        [held] = claim(make_guide_order())
        with failing("INSERT", "giftcards_statuschange", error=DatabaseError("disk full")):
            assert record_answers([(held, PARTIAL)], now=NOW) == 0
        order = Order.objects.get(pk=held.pk)
        assert (order.status, order.finalized_at, order.fulfilled_quantity) == ("HANDLING", None, 0)
        assert not order.cards.exists()
        assert record(order, PARTIAL).status == "PARTIALLY_FILLED"
        assert cards_of(order) == [A, B, C]


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "problem"),
        [
            (OutcomeUnknown("no answer"), LOST),
            (TryLater("busy"), LOST),
            (AccessDenied("wrong key"), LOST),
            (NotFound("unknown"), Problem("not_known")),
            (
                Refused("The provider refused the request (HTTP 400).", detail="HTTP 400"),
                Problem("answer_refused", {"detail": "HTTP 400"}),
            ),
            (
                KeyError("AAAA-AAAA-AAAA-AAAA"),
                Problem("answer_unprocessable", {"detail": "KeyError"}),
            ),
        ],
    )
    def test_only_a_failure_that_is_about_the_order_is_shown_as_its_problem(
        self, error: Exception, problem: Problem
    ) -> None:
        [held] = claim(make_guide_order(problems=[LOST]))
        record_failures([(held, error)], now=NOW)
        order = Order.objects.get(pk=held.pk)
        expected = ("HANDLING", [problem], 1, None)
        assert (order.status, problems(order), order.failures, order.claimed_until) == expected

    def test_a_failed_check_leaves_an_order_that_settled_meanwhile_alone(self) -> None:
        [held] = claim(make_guide_order())
        record_answers([(held, PARTIAL)], now=NOW)
        before = Order.objects.filter(pk=held.pk).values().get()
        record_failures([(held, NotFound("unknown"))], now=NOW)
        assert Order.objects.filter(pk=held.pk).values().get() == before

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (2, 20), (3, 30), (4, 30), (1000, 30)]
    )
    def test_an_order_whose_checks_fail_is_checked_later_each_time(
        self, failures: int, seconds: int
    ) -> None:
        [held] = claim(make_guide_order(failures=failures))
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert order.failures == failures + 1
        pause = order.due_at - NOW
        assert seconds * SECOND <= pause <= 1.25 * seconds * SECOND

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (4, 80), (9, 2560), (10, 3600), (1000, 3600)]
    )
    @pytest.mark.parametrize(
        "error", [OutcomeUnknown("no answer"), TryLater("busy"), AccessDenied("wrong key")]
    )
    @pytest.mark.parametrize("hours", [2, 73], ids=["while it is watched", "at the end of that"])
    def test_a_late_order_is_checked_again_soon_after_an_outage(
        self, hours: int, error: Exception, failures: int, seconds: int
    ) -> None:
        accepted_at = NOW - hours * HOUR
        late = make_guide_order(Status.DELAYED, accepted_at=accepted_at, failures=failures)
        [held] = claim(late)
        record_failures([(held, error)], now=NOW)
        order = Order.objects.get(pk=held.pk)
        pause = order.due_at - NOW
        assert seconds * SECOND <= pause <= min(1.25 * seconds * SECOND, HOUR)
        assert problems(order) == []

    @pytest.mark.parametrize(
        ("error", "late_for", "failures", "pause"),
        [
            (OutcomeUnknown("no answer"), 0 * MINUTE, 9, MINUTE),
            # These errors are about the order itself.
            (NotFound("unknown"), 2 * HOUR, 0, HOUR),
            (Refused("no"), 2 * HOUR, 0, HOUR),
            (KeyError("odd"), 2 * HOUR, 0, HOUR),
        ],
    )
    def test_first_checks_of_a_late_order_and_those_that_fail_because_of_it_keep_their_pauses(
        self, error: Exception, late_for: timedelta, failures: int, pause: timedelta
    ) -> None:
        accepted_at = NOW - 5 * MINUTE - late_for
        late = make_guide_order(Status.DELAYED, accepted_at=accepted_at, failures=failures)
        [held] = claim(late)
        record_failures([(held, error)], now=NOW)
        assert Order.objects.get(pk=held.pk).due_at == NOW + pause

    def test_an_unknown_order_at_the_end_of_the_late_watch_is_not_checked_again(self) -> None:
        [held] = claim(make_guide_order(Status.DELAYED, accepted_at=NOW - 73 * HOUR))
        record_failures([(held, NotFound("unknown"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert order.due_at is None
        assert problems(order) == [WATCH_ENDED, Problem("not_known")]

    def test_a_failed_check_leaves_the_claim_of_another_process_alone(self) -> None:
        [held] = claim(make_guide_order())
        theirs = claim_after(held)
        record_failures([(held, OutcomeUnknown("no answer"))], now=NOW)
        order = Order.objects.get(pk=held.pk)
        assert (order.failures, order.claimed_until) == (0, theirs.claimed_until)

    def test_failures_of_many_orders_are_recorded_by_one_query(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_guide_order() for _ in range(20)])
        failures = [(order, OutcomeUnknown("no answer")) for order in held]
        with django_assert_num_queries(1):
            record_failures(failures, now=NOW)
        assert Order.objects.filter(failures=1).count() == 20


class TestQueries:
    def test_many_unchanged_answers_are_recorded_by_one_query(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_guide_order() for _ in range(20)])
        with django_assert_num_queries(1):
            record_answers([(order, answer("HANDLING")) for order in held], now=NOW)
        assert Order.objects.filter(checked_at=NOW, claimed_until=None).count() == 20

    def test_unchanged_late_orders_cost_one_query_for_each_pause(
        self, django_assert_num_queries: Any
    ) -> None:
        ages = [0 * MINUTE, 6 * MINUTE, 8 * MINUTE, 12 * MINUTE, 2 * HOUR]
        late = [make_guide_order(Status.DELAYED, accepted_at=NOW - age) for age in ages * 5]
        held = claim(*late)
        with django_assert_num_queries(4):
            record_answers([(order, answer("HANDLING")) for order in held], now=NOW)

    @pytest.mark.parametrize("final", [PARTIAL, REFUNDED])
    def test_orders_that_settle_alike_are_written_together(
        self, django_assert_num_queries: Any, final: OrderAnswer
    ) -> None:
        held = claim(*[make_guide_order() for _ in range(20)])
        # The queries: beginning, the orders, the stored cards, the new cards, history, end.
        with django_assert_num_queries(6 if final.cards else 5):
            assert record_answers([(order, final) for order in held], now=NOW) == 20

    def test_serials_that_come_later_cost_one_query_more_for_all_orders(
        self, django_assert_num_queries: Any
    ) -> None:
        orders = [make_guide_order() for _ in range(20)]
        early = answer("HANDLING", cards=tuple(CardSecret(card.value, "") for card in (A, B)))
        record_answers([(order, early) for order in claim(*orders)], now=NOW)
        held = claim(*orders)
        # The queries: beginning, the orders, the stored cards, serials, the third card of each,
        # history, end.
        with django_assert_num_queries(7):
            assert record_answers([(order, PARTIAL) for order in held], now=NOW) == 20
        assert [cards_of(order) for order in orders] == [[A, B, C]] * 20

    def test_orders_that_settle_differently_cost_one_query_each(
        self, django_assert_num_queries: Any
    ) -> None:
        held = claim(*[make_guide_order(quantity=number) for number in range(1, 6)])
        cards = [CARDS[: order.quantity] for order in held]
        answers = [
            (order, settled("FULFILLED", own, quantity=order.quantity))
            for order, own in zip(held, cards, strict=True)
        ]
        with django_assert_num_queries(5 + 5):
            assert record_answers(answers, now=NOW) == 5
        assert [cards_of(order) for order in held] == [list(own) for own in cards]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("defaults", ["", "1"], ids=["tuned", "host defaults"])
def test_processes_that_record_the_same_answers_settle_each_order_once(
    defaults: str, shared_database: str
) -> None:
    claim(*[make_guide_order() for _ in range(30)])
    if defaults and connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA journal_mode = DELETE")
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.recording_worker"],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": shared_database, "HOST_DEFAULTS": defaults},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"  # type: ignore[union-attr]
    for worker in workers:
        worker.stdin.write("go\n")  # type: ignore[union-attr]
        worker.stdin.flush()  # type: ignore[union-attr]
    results = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 2
    assert sum(int(out) for out, _err in results) == 30
    assert not [err for _out, err in results if "ERROR" in err or "Traceback" in err]
    assert statuses() == ["PARTIALLY_FILLED"] * 30
    assert not Order.objects.needing_attention().exists()
    assert StatusChange.objects.count() == 30
    positions = Counter(Card.objects.values_list("position", flat=True))
    assert positions == {1: 30, 2: 30, 3: 30}
