"""Rows of orders: what the database refuses, which process wins, and how cards are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import ProtectedError
from django.utils import timezone, translation

from giftcards.engine.recording import record_answers
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import ConfigurationError, DecryptionError
from giftcards.keys.keyring import generate_key
from giftcards.keys.secrecy import CardSecret
from giftcards.models import ApiKey, Card, Order, ProviderState, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.rules.problems import Problem
from giftcards.rules.states import ACCEPTED, FINAL, STATES, Status
from tests.builders import (
    CARDS,
    PARTIAL,
    answer,
    claim,
    details,
    ended,
    make_guide_order,
    problems,
    settled,
)
from tests.stage import ago, failing, fresh, refuse_key, use_keys

MOVES = {(origin, target) for origin in Status for target in STATES[origin].moves_to}
FOUND = Problem("found", {"provider_order_id": "A1"})
LOST = Problem("status_unknown", {"status": "LOST"})
OTHER = Problem("status_unknown", {"status": "OTHER"})
ENDED = Problem("watch_ended")

pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
MINUTE = timedelta(minutes=1)
Source = StatusChange.Source
Pause = ProviderState.Pause


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """Use English, because a test of the admin may have left another language active."""
    with translation.override("en"):
        yield


def delivered(order: Order | None = None, answered: OrderAnswer = PARTIAL) -> Order:
    """Return an order with the three cards of the guide, recorded as in a sweep."""
    [held] = claim(order or make_guide_order())
    assert record_answers([(held, answered)], now=timezone.now()) == 1
    return Order.objects.get(pk=held.pk)


@pytest.fixture
def card() -> Card:
    return delivered().cards.get(position=1)


class TestConstraints:
    """Constraints of the database, which hold for raw SQL, a shell or a bug of ours as well."""

    @pytest.mark.parametrize("status", Status)
    def test_a_row_of_every_status_can_be_stored(self, status: Status) -> None:
        order = make_guide_order(status)
        assert Order.objects.get(pk=order.pk).status == status

    @pytest.mark.parametrize(
        ("status", "values", "constraint"),
        [
            ("PENDING", {"status": "CANCELLED"}, "status"),
            ("PENDING", {"status": ""}, "status"),
            ("PENDING", {"quantity": 0}, "quantity"),
            ("PENDING", {"quantity": 2001}, "quantity"),
            ("HANDLING", {"fulfilled_quantity": 6}, "fulfilled_quantity"),
            # A row has finalized_at exactly if its status is final.
            ("HANDLING", {"finalized_at": NOW}, "final_is_settled"),
            ("REFUNDED", {"finalized_at": None}, "final_is_settled"),
            ("REJECTED", {"finalized_at": None}, "final_is_settled"),
            # accepted_at and provider_order_id go together, because an order with an id is never
            # sent again.
            ("HANDLING", {"provider_order_id": None}, "accepted_is_named"),
            ("HANDLING", {"accepted_at": None}, "accepted_is_named"),
            ("REFUNDED", {"provider_order_id": None}, "accepted_is_named"),
            ("PENDING", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("PLACING", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("UNCONFIRMED", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("REJECTED", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("PENDING", {"accepted_at": NOW}, "accepted_is_named"),
            # The number of cards has to fit the final status.
            ("FULFILLED", {"fulfilled_quantity": 4}, "settled_is_whole"),
            ("PARTIALLY_FILLED", {"fulfilled_quantity": 0}, "settled_is_whole"),
            ("PARTIALLY_FILLED", {"fulfilled_quantity": 5}, "settled_is_whole"),
            ("REFUNDED", {"fulfilled_quantity": 1}, "settled_is_whole"),
            ("PENDING", {"reference": ""}, "line_is_named"),
            ("PENDING", {"product_id": ""}, "line_is_named"),
            ("PENDING", {"type_id": ""}, "line_is_named"),
            ("HANDLING", {"price_per_card": Decimal("-0.01")}, "price"),
            ("HANDLING", {"fulfilled_amount": Decimal("-0.01")}, "charged"),
            ("PENDING", {"sale_price": Decimal("-0.01")}, "sale_price"),
        ],
    )
    def test_a_row_that_contradicts_itself_cannot_be_stored(
        self, status: str, values: dict[str, Any], constraint: str
    ) -> None:
        order = make_guide_order(Status(status))
        # MariaDB reports a violated check constraint as an OperationalError.
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            Order.objects.filter(pk=order.pk).update(**values)
        assert f"giftcards_order_{constraint}" in str(caught.value)

    @pytest.mark.parametrize("field", ["quantity", "fulfilled_quantity"])
    def test_a_negative_quantity_cannot_be_stored(self, field: str) -> None:
        order = make_guide_order()
        with pytest.raises(DatabaseError), transaction.atomic():
            Order.objects.filter(pk=order.pk).update(**{field: -1})

    @pytest.mark.parametrize("field", ["reference", "provider_order_id"])
    def test_references_and_provider_ids_are_unique(self, field: str) -> None:
        order = make_guide_order()
        with pytest.raises(IntegrityError), transaction.atomic():
            make_guide_order(**{field: getattr(order, field)})

    def test_many_orders_may_have_no_provider_id_yet(self) -> None:
        make_guide_order(Status.PENDING)
        make_guide_order(Status.PENDING)

    @pytest.mark.parametrize("values", [{"position": 0}, {"sealed": ""}, {"value_fingerprint": ""}])
    def test_a_card_without_a_number_token_or_fingerprint_cannot_be_stored(
        self, card: Card, values: dict[str, Any]
    ) -> None:
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            Card.objects.filter(pk=card.pk).update(**values)
        assert "giftcards_card_is_sealed" in str(caught.value)

    def test_two_cards_of_an_order_cannot_have_one_number(self) -> None:
        cards = delivered().cards
        with pytest.raises(IntegrityError), transaction.atomic():
            cards.filter(position=1).update(position=2)

    def test_a_second_row_about_the_provider_cannot_be_stored(self) -> None:
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            ProviderState.objects.create(pk=2)
        assert "giftcards_providerstate_one_row" in str(caught.value)

    def test_an_order_with_cards_cannot_be_deleted(self) -> None:
        order = delivered()
        with pytest.raises(ProtectedError):
            order.delete()
        assert Card.objects.count() == 3

    def test_the_migrations_match_the_models(self, call: Any) -> None:
        outcome = call("makemigrations", "giftcards", check=True, dry_run=True, verbosity=1)
        assert outcome.out == "No changes detected in app 'giftcards'\n"


class TestFields:
    def test_a_reference_is_made_up_where_there_is_none(self) -> None:
        one, other = make_guide_order(Status.PENDING), make_guide_order(Status.PENDING)
        assert one.reference != other.reference
        one.full_clean()

    def test_rows_are_printed_as_reference_move_and_card_number(self) -> None:
        order = make_guide_order(reference="order-1")
        change = StatusChange(order=order, from_status="HANDLING", to_status="DELAYED")
        expected = ["order-1", "HANDLING → DELAYED", "card 2"]
        assert [str(order), str(change), str(Card(order=order, position=2))] == expected


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["A1"], ["one"]),
        (["B2"], ["two"]),
        (["A1", "B2", "C3"], ["one", "two"]),
        ([""], []),
        ([], []),
    ],
)
def test_orders_are_found_by_their_provider_id_or_alias(names: list[str], found: list[str]) -> None:
    make_guide_order(reference="one", provider_order_id="A1")
    make_guide_order(reference="two", provider_order_id="A2", provider_alias="B2")
    assert sorted(order.reference for order in Order.objects.known_as(names)) == found


class TestMove:
    def test_a_move_writes_the_status_its_columns_and_the_history(self) -> None:
        order = make_guide_order(Status.PENDING)
        change = order.move(
            Status.PLACING,
            source=Source.PLACING,
            details=[FOUND],
            claim="c1",
            claimed_until=NOW,
            sent_at=NOW,
            due_at=None,
        )
        assert change is not None
        for row in (order, Order.objects.get(pk=order.pk)):
            expected = ("PLACING", "c1", NOW, NOW, None)
            assert (row.status, row.claim, row.claimed_until, row.sent_at, row.due_at) == expected
        stored = order.changes.get()
        assert stored == change
        assert (
            stored.from_status,
            stored.to_status,
            stored.source,
            stored.details,
            stored.announced_at,
        ) == ("PENDING", "PLACING", "placing", [FOUND.as_dict()], None)

    @pytest.mark.parametrize(("origin", "target"), sorted(MOVES))
    def test_every_move_of_the_table_is_possible(self, origin: Status, target: Status) -> None:
        order = make_guide_order(origin)
        values: dict[str, Any] = {}
        if target in ACCEPTED and origin not in ACCEPTED:
            values = {"provider_order_id": "A1", "accepted_at": NOW}
        if origin in ACCEPTED and target not in ACCEPTED:
            values = {"provider_order_id": None, "accepted_at": None}
        if target in {Status.FULFILLED, Status.PARTIALLY_FILLED}:
            values["fulfilled_quantity"] = {"FULFILLED": 5, "PARTIALLY_FILLED": 3}[target]
        assert order.move(target, source=Source.STAFF, **values)
        stored = Order.objects.get(pk=order.pk)
        assert stored.status == target
        assert (stored.finalized_at is not None) is (target in FINAL)
        assert stored.finalized_at == order.finalized_at

    @pytest.mark.parametrize(
        ("origin", "target"),
        [
            (Status.FULFILLED, Status.HANDLING),
            (Status.REJECTED, Status.PENDING),
            (Status.PENDING, Status.HANDLING),
        ],
    )
    def test_a_move_that_is_not_in_the_table_is_refused(
        self, origin: Status, target: Status
    ) -> None:
        """All pairs are tested for ``check_move`` in tests/rules/test_states.py."""
        order = make_guide_order(origin)
        with pytest.raises(
            ValueError, match=rf"\AAn order cannot change from {origin} to {target}\.\Z"
        ):
            order.move(target, source=Source.STAFF)
        assert Order.objects.get(pk=order.pk).status == origin
        assert not StatusChange.objects.exists()

    def test_a_move_gives_the_claim_back(self) -> None:
        [order] = claim(make_guide_order())
        assert order.claimed_until is not None
        order.move(Status.DELAYED, source=Source.CLOCK)
        assert Order.objects.get(pk=order.pk).claimed_until is None

    @pytest.mark.parametrize(
        "values",
        [{"status": "UNCONFIRMED"}, {"claim": "another process"}],
        ids=["moved by another", "claimed by another"],
    )
    def test_the_second_of_two_processes_that_move_an_order_changes_nothing(
        self, values: dict[str, str]
    ) -> None:
        stale = make_guide_order(Status.PLACING)
        Order.objects.filter(pk=stale.pk).update(**values)
        before = Order.objects.filter(pk=stale.pk).values().get()
        assert stale.move(Status.REJECTED, source=Source.PLACING, details=[LOST]) is None
        assert (stale.status, stale.problems) == ("PLACING", [])
        assert Order.objects.filter(pk=stale.pk).values().get() == before
        assert not StatusChange.objects.exists()

    def test_status_and_history_are_written_in_one_transaction(self) -> None:
        order = make_guide_order()
        failure = failing("INSERT", "giftcards_statuschange", error=DatabaseError("disk full"))
        with pytest.raises(DatabaseError, match="disk full"), failure:
            order.move(Status.DELAYED, source=Source.CLOCK)
        assert order.status == "HANDLING"
        assert Order.objects.get(pk=order.pk).status == "HANDLING"


class TestProblems:
    """An order can have several problems; each ends with its cause, or is acknowledged."""

    def test_problems_about_sending_end_with_the_move_after_sending(self) -> None:
        unsent, choice = Problem("not_sent"), Problem("choose", {"count": 2})
        spent = Problem("accepted_after_all", {"provider_order_id": "A1"})
        order = make_guide_order(Status.PENDING, problems=[unsent, choice, spent])
        order.move(Status.PLACING, source=Source.PLACING)
        assert problems(order) == [unsent, choice, spent]
        order.move(Status.REJECTED, source=Source.PLACING, details=[Problem("refused")])
        assert problems(order) == [spent]
        [*_, change] = order.changes.all()
        assert (details(change), ended(change)) == ([Problem("refused")], [unsent, choice])

    def test_a_problem_that_begins_with_a_move_is_in_its_details(self) -> None:
        order = make_guide_order(Status.PLACING)
        order.move(Status.UNCONFIRMED, source=Source.RECOVERY, details=[Problem("sender_died")])
        assert problems(order) == details(order.changes.get()) == [Problem("sender_died")]

    def test_a_problem_is_acknowledged_with_who_and_when(self) -> None:
        order = make_guide_order(problems=[LOST, ENDED])
        assert order.acknowledge(LOST, by="amina")
        stored = Order.objects.get(pk=order.pk)
        tick = stored.acknowledgements.get()
        assert (Problem(tick.code, tick.parameters), tick.by) == (LOST, "amina")
        assert (
            stored.problems
            == order.problems
            == [
                {
                    **LOST.as_dict(),
                    "acknowledged_by": "amina",
                    "acknowledged_at": tick.at.isoformat(),
                },
                ENDED.as_dict(),
            ]
        )
        assert (stored.open_problems, stored.needs_attention) == ([ENDED], True)
        assert order.acknowledge(ENDED, by="amina")
        assert not order.needs_attention
        assert not Order.objects.needing_attention().exists()
        # An acknowledgement is not a change that has to be announced.
        assert not order.changes.exists()

    def test_a_problem_is_acknowledged_once(self) -> None:
        order = make_guide_order(problems=[LOST, ENDED])
        stale = Order.objects.get(pk=order.pk)
        assert order.acknowledge(LOST, by="amina")
        assert not stale.acknowledge(LOST, by="karim")
        assert [tick.by for tick in order.acknowledgements.all()] == ["amina"]

    @pytest.mark.parametrize("held", [[], [LOST]])
    def test_a_problem_that_is_over_cannot_be_acknowledged(self, held: list[Problem]) -> None:
        order = make_guide_order(problems=[LOST, ENDED])
        Order.objects.filter(pk=order.pk).update(**Order().problem_columns(new=held))
        assert not order.acknowledge(ENDED, by="amina")
        assert not order.acknowledgements.exists()

    @pytest.mark.parametrize(
        ("answers", "shown"),
        [
            ([answer("LOST"), answer("LOST", cards=CARDS[:1])], []),
            ([answer("OTHER")], [OTHER]),
            # The problem ended with the first answer and is back.
            ([answer("HANDLING"), answer("LOST")], [LOST]),
        ],
        ids=["the same", "another", "the same after its end"],
    )
    def test_a_problem_found_after_another_was_acknowledged_is_shown_unless_it_held_on(
        self, answers: list[OrderAnswer], shown: list[Problem]
    ) -> None:
        order = make_guide_order(problems=[LOST])
        order.acknowledge(LOST, by="amina")
        for given_answer in answers:
            record_answers([(claim(order)[0], given_answer)], now=NOW)
        assert (fresh(order).open_problems, order.needs_attention) == (shown, bool(shown))

    def test_a_tick_made_while_the_provider_is_asked_is_kept(self) -> None:
        order = make_guide_order(problems=[LOST])
        [held] = claim(order)
        order.acknowledge(LOST, by="amina")
        record_answers([(held, answer("LOST", cards=CARDS[:1]))], now=NOW)
        assert (fresh(order).open_problems, order.cards.count()) == ([], 1)


class TestMoveAll:
    def test_move_all_moves_the_orders_in_that_status_with_their_history(self) -> None:
        late, later = make_guide_order(), make_guide_order()
        done = make_guide_order(Status.REFUNDED)
        moved = Order.objects.all().move_all(
            Status.HANDLING, Status.DELAYED, source=Source.CLOCK, due_at=NOW
        )
        assert moved == 2
        for order in (late, later):
            order.refresh_from_db()
            assert (order.status, order.due_at, order.claimed_until) == ("DELAYED", NOW, None)
            change = order.changes.get()
            expected = ("HANDLING", "DELAYED", "clock")
            assert (change.from_status, change.to_status, change.source) == expected
        assert not done.changes.exists()

    def test_move_all_records_no_change_for_an_order_moved_meanwhile(self) -> None:
        stays, goes = make_guide_order(), make_guide_order()
        others_move = [Order.objects.filter(pk=goes.pk)]

        def interfere(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE") and others_move:
                others_move.pop().update(status=Status.DELAYED)
            return execute(sql, *args)

        with connection.execute_wrapper(interfere):
            moved = Order.objects.all().move_all(
                Status.HANDLING, Status.DELAYED, source=Source.CLOCK
            )
        assert moved == 1
        assert (stays.changes.count(), goes.changes.count()) == (1, 0)

    def test_move_all_without_a_matching_order_costs_one_query(
        self, django_assert_num_queries: Any
    ) -> None:
        make_guide_order(Status.REFUNDED)
        with django_assert_num_queries(1):
            moved = Order.objects.all().move_all(
                Status.HANDLING, Status.DELAYED, source=Source.CLOCK
            )
        assert moved == 0

    def test_move_all_refuses_a_move_that_is_not_in_the_table(self) -> None:
        order = make_guide_order(Status.FULFILLED)
        with pytest.raises(
            ValueError, match=r"\AAn order cannot change from FULFILLED to HANDLING\.\Z"
        ):
            Order.objects.all().move_all(Status.FULFILLED, Status.HANDLING, source=Source.STAFF)
        assert fresh(order).status == "FULFILLED"


class TestClaim:
    @staticmethod
    def wanted(at: datetime) -> list[Order]:
        return list(Order.objects.to_check(now=at, due_by=at))

    @staticmethod
    def claimed(wanted: list[Order], at: datetime = NOW) -> list[Order]:
        return Order.objects.claim(wanted, now=at, due_by=at, until=at + MINUTE)

    def test_claiming_takes_only_orders_that_no_process_has(self) -> None:
        orders = [make_guide_order(due_at=NOW) for _ in range(3)]
        first = self.claimed(self.wanted(NOW)[:2])
        second = self.claimed(self.wanted(NOW))
        assert [len(first), len(second)] == [2, 1]
        assert {order.pk for order in first + second} == {order.pk for order in orders}
        assert len({order.claim for order in first}) == 1
        assert first[0].claim != second[0].claim
        assert {order.claimed_until for order in first + second} == {NOW + MINUTE}
        for order in first + second:
            row = Order.objects.get(pk=order.pk)
            assert (order.claim, order.claimed_until) == (row.claim, row.claimed_until)

    def test_orders_claimed_by_another_process_meanwhile_are_not_claimed(self) -> None:
        make_guide_order(due_at=NOW)
        early = self.wanted(NOW)
        theirs = self.claimed(self.wanted(NOW))
        later = make_guide_order(due_at=NOW)
        assert self.claimed(early) == []
        assert [order.pk for order in self.claimed([*early, later])] == [later.pk]
        assert Order.objects.get(pk=theirs[0].pk).claim == theirs[0].claim

    def test_an_order_that_settled_meanwhile_is_not_claimed(self) -> None:
        make_guide_order(due_at=NOW)
        early = self.wanted(NOW)
        early[0].move(Status.REFUNDED, source=Source.CHECK)
        assert self.claimed(early) == []

    def test_an_order_that_got_another_id_meanwhile_is_not_claimed(self) -> None:
        changed, other = make_guide_order(due_at=NOW), make_guide_order(due_at=NOW)
        early = self.wanted(NOW)
        Order.objects.filter(pk=changed.pk).update(provider_order_id="entered-by-staff")
        assert self.claimed(early) == [other]
        assert [order.pk for order in self.claimed(self.wanted(NOW))] == [changed.pk]

    def test_an_order_can_be_claimed_again_when_its_claim_has_expired(self) -> None:
        order = make_guide_order(due_at=NOW)
        [dead] = self.claimed(self.wanted(NOW))
        assert self.wanted(NOW) == []
        assert self.claimed([order]) == []
        [taken] = self.claimed(self.wanted(NOW + MINUTE), NOW + MINUTE)
        assert taken.pk == dead.pk == order.pk
        assert taken.claim != dead.claim

    @pytest.mark.parametrize(
        ("status", "due_at"),
        [
            *((status, NOW) for status in sorted(set(Status) - {"HANDLING", "DELAYED"})),
            (Status.HANDLING, NOW + MINUTE),
            (Status.HANDLING, None),
        ],
    )
    def test_only_orders_at_the_provider_that_are_due_are_claimed(
        self, status: Status, due_at: datetime | None
    ) -> None:
        order = make_guide_order(status, due_at=due_at)
        assert self.wanted(NOW) == []
        assert self.claimed([order]) == []

    def test_claiming_many_orders_costs_one_query(self, django_assert_num_queries: Any) -> None:
        for _ in range(9):
            make_guide_order(due_at=NOW)
        wanted = self.wanted(NOW)
        with django_assert_num_queries(1):
            assert len(self.claimed(wanted)) == 9

    def test_fresh_orders_are_claimed_before_late_ones(self) -> None:
        late = make_guide_order(Status.DELAYED, due_at=NOW - MINUTE)
        second, first = make_guide_order(due_at=NOW), make_guide_order(due_at=NOW - MINUTE)
        assert self.wanted(NOW) == [first, second, late]


class TestQuestions:
    def test_to_send_gives_pending_orders_that_are_due_oldest_first(self) -> None:
        second = make_guide_order(Status.PENDING, due_at=NOW)
        first = make_guide_order(Status.PENDING, due_at=NOW - MINUTE)
        make_guide_order(Status.PENDING, due_at=NOW + MINUTE)
        make_guide_order(Status.PENDING, due_at=None)
        make_guide_order(Status.PENDING, due_at=NOW, claimed_until=NOW + MINUTE)
        make_guide_order(Status.HANDLING, due_at=NOW, accepted_at=NOW)
        assert list(Order.objects.to_send(NOW)) == [first, second]

    def test_to_check_gives_orders_that_are_due_fresh_ones_first(self) -> None:
        late = make_guide_order(Status.DELAYED, due_at=NOW - MINUTE)
        second = make_guide_order(due_at=NOW)
        first = make_guide_order(due_at=NOW - MINUTE)
        back = make_guide_order(due_at=NOW, claimed_until=NOW)
        make_guide_order(due_at=NOW, claimed_until=NOW + MINUTE)
        soon = make_guide_order(due_at=NOW + MINUTE)
        make_guide_order(due_at=None)
        make_guide_order(Status.PENDING, due_at=NOW)
        due = Order.objects.to_check(now=NOW, due_by=NOW)
        assert list(due) == [first, second, back, late]
        ahead = Order.objects.to_check(now=NOW, due_by=NOW + MINUTE)
        assert list(ahead) == [first, second, back, soon, late]

    def test_abandoned_gives_orders_whose_sender_has_died(self) -> None:
        dead = make_guide_order(Status.PLACING, claimed_until=NOW)
        alive = make_guide_order(Status.PLACING, claimed_until=NOW + MINUTE)
        make_guide_order(claimed_until=NOW, accepted_at=NOW)
        assert list(Order.objects.abandoned(NOW)) == [dead]
        assert dead.is_lost(NOW)
        assert not alive.is_lost(NOW)

    def test_overdue_gives_orders_that_have_not_settled_in_time(self) -> None:
        late = make_guide_order(accepted_at=NOW - 5 * MINUTE)
        make_guide_order(accepted_at=NOW - 4 * MINUTE)
        make_guide_order(Status.DELAYED, accepted_at=NOW - 5 * MINUTE)
        assert list(Order.objects.overdue(NOW, accepted_by=NOW - 5 * MINUTE)) == [late]

    def test_next_due_at_is_the_earliest_time_among_unclaimed_orders(self) -> None:
        make_guide_order(Status.PENDING, due_at=None)
        make_guide_order(Status.REFUNDED)
        make_guide_order(due_at=NOW - 9 * MINUTE, claimed_until=NOW + MINUTE)
        statuses = [Status.PENDING, Status.HANDLING]
        assert Order.objects.next_due_at(statuses, NOW) is None
        make_guide_order(Status.UNCONFIRMED, due_at=NOW - 9 * MINUTE)
        make_guide_order(Status.PENDING, due_at=NOW + 2 * MINUTE)
        assert Order.objects.next_due_at(statuses, NOW) == NOW + 2 * MINUTE
        make_guide_order(Status.HANDLING, due_at=NOW + MINUTE)
        assert Order.objects.next_due_at(statuses, NOW) == NOW + MINUTE

    def test_to_check_with_a_limit_gives_late_orders_only_after_all_fresh_ones(self) -> None:
        late = make_guide_order(Status.DELAYED, due_at=NOW - MINUTE)
        orders = [make_guide_order(due_at=NOW) for _ in range(3)]
        assert Order.objects.to_check(now=NOW, due_by=NOW, limit=2) == orders[:2]
        assert Order.objects.to_check(now=NOW, due_by=NOW, limit=4) == [*orders, late]

    def test_still_claimed_gives_orders_whose_claim_is_still_theirs(self) -> None:
        for _ in range(4):
            make_guide_order()
        orders = claim(*Order.objects.order_by("pk"))
        Order.objects.filter(pk=orders[0].pk).update(claimed_until=None)
        Order.objects.filter(pk=orders[1].pk).update(claim="other")
        assert list(Order.objects.still_claimed(orders[:3])) == [orders[2]]

    def test_sent_between_gives_orders_that_the_provider_may_know(self) -> None:
        found = [
            make_guide_order(status, sent_at=NOW)
            for status in Status
            if status not in {"PENDING", "REJECTED"}
        ]
        for status in (Status.PENDING, Status.REJECTED):
            make_guide_order(status, sent_at=NOW)
        make_guide_order(sent_at=NOW - 2 * MINUTE)
        make_guide_order(sent_at=NOW + 2 * MINUTE)
        assert list(Order.objects.sent_between(NOW - MINUTE, NOW + MINUTE)) == found

    def test_owners_are_found_by_exact_id_or_alias(self) -> None:
        owner = make_guide_order(provider_order_id="A1", provider_alias="B1")
        make_guide_order(Status.PENDING)
        many = [f"x{number}" for number in range(250)]
        assert list(Order.objects.owners(["A1", "b1", "", *many])) == [owner]
        assert list(Order.objects.owners(["B1", "A1"])) == [owner]
        assert list(Order.objects.owners(["b1"])) == []
        assert list(Order.objects.owners([""])) == []

    def test_search_prefers_an_exact_match_and_finds_beginnings(self) -> None:
        make_guide_order(reference="web-1")
        ten = make_guide_order(reference="web-10", customer_email="web-1@example.com")
        whole = make_guide_order(provider_order_id="web-10")
        assert set(Order.objects.search("web-10", limit=9).keys) == {ten.pk, whole.pk}
        assert Order.objects.search("web-1@", limit=9).keys == [ten.pk]
        sent = make_guide_order(provider_reference="0123abcd")
        assert Order.objects.search("0123abcd", limit=9) == ([sent.pk], True, False)
        assert Order.objects.search("0123A", limit=9) == ([sent.pk], False, False)
        assert len(Order.objects.search("web", limit=2).keys) == 2
        assert Order.objects.search("eb-1", limit=9).keys == []

    def test_check_soon_makes_orders_due_that_were_not_just_checked(self) -> None:
        interval, later = 5 * MINUTE, NOW + 60 * MINUTE
        never = make_guide_order(due_at=later)
        long_ago = make_guide_order(Status.DELAYED, due_at=None, checked_at=NOW - interval)
        others = [
            make_guide_order(due_at=later, checked_at=NOW - 4 * MINUTE),
            make_guide_order(due_at=later, claimed_until=NOW + MINUTE),
            make_guide_order(Status.PENDING, due_at=later),
            make_guide_order(Status.REFUNDED),
        ]
        before = [order.due_at for order in others]
        assert Order.objects.all().check_soon(now=NOW, interval=interval) == 2
        for order in (never, long_ago, *others):
            order.refresh_from_db()
        assert never.due_at == long_ago.due_at == NOW
        assert [order.due_at for order in others] == before

    def test_urgent_final_and_settled_follow_from_the_status(self) -> None:
        orders = {status: make_guide_order(status) for status in Status}
        make_guide_order(Status.REFUNDED)
        urgent = {order.status for order in Order.objects.urgent()}
        assert urgent == {"PENDING", "PLACING", "HANDLING"}
        expected = {"REJECTED", "FULFILLED", "PARTIALLY_FILLED", "REFUNDED"}
        assert {status for status, order in orders.items() if order.is_final} == expected
        expected = {"FULFILLED", "PARTIALLY_FILLED", "REFUNDED"}
        assert {status for status, order in orders.items() if order.is_settled} == expected

    def test_count_by_status_counts_every_status(self) -> None:
        make_guide_order(Status.REFUNDED)
        make_guide_order(Status.REFUNDED)
        make_guide_order(Status.HANDLING)
        counts = {**dict.fromkeys(Status, 0), Status.HANDLING: 1, Status.REFUNDED: 2}
        assert Order.objects.count_by_status() == counts

    def test_needing_attention_gives_orders_with_an_open_problem_from_its_index(self) -> None:
        order = make_guide_order(problems=[LOST])
        make_guide_order()
        found = Order.objects.needing_attention().order_by("-created_at", "-pk")[:50]
        assert list(found) == [order]
        if connection.vendor == "sqlite":
            plan = found.explain()
            assert "giftcards_order_attention" in plan
            assert "TEMP B-TREE" not in plan


def stays_shut(card: Card, because: str, *, name: str = "value") -> None:
    """Check that the card does not open.

    The texts of all reasons are tested in tests/keys/test_keyring.py.
    """
    with pytest.raises(DecryptionError, match=because):
        getattr(card, name)


def _columns(order: Order) -> dict[str, Any]:
    """Return the columns of an order's first card, without the order."""
    card = order.cards.get(position=1)
    return {"position": card.position, **card.row._asdict()}


class TestReadingCards:
    def test_reading_the_code_of_a_card_opens_it(self) -> None:
        cards = delivered().cards.all()
        assert [(card.value, card.serial) for card in cards] == [
            ("AAAA-AAAA-AAAA-AAAA", "111111111"),
            ("BBBB-BBBB-BBBB-BBBB", "222222222"),
            ("CCCC-CCCC-CCCC-CCCC", "333333333"),
        ]

    def test_loading_cards_opens_none(self, settings: Any) -> None:
        delivered()
        use_keys(settings, generate_key())
        assert len(Card.objects.select_related("order")) == 3

    @pytest.mark.parametrize("name", ["value", "serial"])
    def test_a_card_of_an_unknown_key_does_not_open(self, settings: Any, name: str) -> None:
        card = delivered().cards.get(position=1)
        use_keys(settings, generate_key())
        stays_shut(card, "none of GIFTCARDS", name=name)

    def test_a_card_with_the_token_of_another_order_does_not_open(self, card: Card) -> None:
        other = delivered().cards.get(position=2)
        Card.objects.filter(pk=card.pk).update(sealed=other.sealed)
        card.refresh_from_db()
        stays_shut(card, "its stored text belongs to another order")

    def test_a_card_that_was_moved_to_another_order_does_not_open(self, card: Card) -> None:
        Card.objects.filter(pk=card.pk).update(order=make_guide_order())
        moved = Card.objects.get(pk=card.pk)
        stays_shut(moved, "its stored text belongs to another order", name="serial")

    def test_a_card_of_an_order_with_the_reference_of_another_does_not_open(self) -> None:
        order, other = delivered(), delivered()
        Order.objects.filter(pk=other.pk).update(reference="elsewhere")
        Order.objects.filter(pk=order.pk).update(reference=other.reference)
        for card in (order.cards.get(position=1), Card(**_columns(other), order_id=order.pk)):
            card.order.refresh_from_db()
            stays_shut(card, "its stored text belongs to another order")

    def test_a_card_that_was_copied_within_its_order_does_not_open(self) -> None:
        order = delivered()
        first, second = order.cards.filter(position__lte=2).order_by("position")
        Card.objects.filter(pk=second.pk).update(**first.row._asdict())
        second.refresh_from_db()
        stays_shut(second, "its stored text belongs to another card of the order")

    @pytest.mark.parametrize(
        "name", ["identity", "value_fingerprint", "serial_fingerprint", "tail_fingerprint"]
    )
    def test_a_card_with_the_fingerprint_of_another_does_not_open(self, name: str) -> None:
        order = delivered()
        first, second = order.cards.filter(position__lte=2).order_by("position")
        Card.objects.filter(pk=first.pk).update(**{name: getattr(second, name)})
        first.refresh_from_db()
        stays_shut(first, "the fingerprints in its row belong to another card")

    def test_saving_a_card_that_cannot_be_opened_keeps_its_token(self, settings: Any) -> None:
        card = delivered().cards.get(position=1)
        sealed, keys = card.sealed, settings.GIFTCARDS["ENCRYPTION_KEYS"]
        use_keys(settings, generate_key())
        card.save()
        use_keys(settings, *keys)
        card = Card.objects.get(pk=card.pk)
        assert card.sealed == sealed
        assert card.value == "AAAA-AAAA-AAAA-AAAA"

    def test_old_cards_open_after_a_new_key_was_put_first(self, settings: Any) -> None:
        order = delivered()
        use_keys(settings, generate_key(), *settings.GIFTCARDS["ENCRYPTION_KEYS"])
        assert order.cards.get(position=1).value == "AAAA-AAAA-AAAA-AAAA"


class TestTryingTheKeys:
    def test_trying_the_keys_without_cards_says_nothing(self) -> None:
        assert Card.objects.all().try_keys() == {}

    def test_trying_the_keys_opens_the_newest_and_the_oldest_card(
        self, django_assert_num_queries: Any, settings: Any
    ) -> None:
        delivered()
        use_keys(settings, generate_key(), *settings.GIFTCARDS["ENCRYPTION_KEYS"])
        delivered()
        # One query finds the oldest and the newest card for all keys; the other one loads these two
        # cards.
        with django_assert_num_queries(2):
            assert Card.objects.all().try_keys() == {"newest": "", "oldest": ""}

    def test_trying_the_keys_names_cards_whose_key_was_lost(self, settings: Any) -> None:
        order = delivered()
        use_keys(settings, generate_key())
        newer = delivered()
        found = Card.objects.all().try_keys()
        assert found["newest"] == ""
        assert found["oldest"].startswith(f"Card 1 of order {order.reference}: This card cannot")
        order.cards.all().delete()
        use_keys(settings, generate_key())
        found = Card.objects.all().try_keys()
        assert found["newest"].startswith(f"Card 3 of order {newer.reference}: This card cannot")
        assert found["oldest"].startswith(f"Card 1 of order {newer.reference}: This card cannot")

    def test_trying_the_keys_without_any_raises_configuration_error(self, settings: Any) -> None:
        delivered()
        use_keys(settings)
        with pytest.raises(ConfigurationError, match="ENCRYPTION_KEYS"):
            Card.objects.all().try_keys()


class TestFindingCards:
    @pytest.mark.parametrize(
        "typed",
        [
            "AAAA-AAAA-AAAA-AAAA",
            "aaaa aaaa aaaa aaaa",
            "AAAAAAAAAAAAAAAA",
            "111111111",
            "111-111 111",
        ],
    )
    def test_a_card_is_found_by_its_code_or_serial(self, typed: str) -> None:
        order = delivered()
        assert list(Card.objects.all().with_code(typed)) == [order.cards.get(position=1)]

    @pytest.mark.parametrize("typed", ["AAAA-AAAA-AAAA", "11111111", "", " ", "-", "\0", "\ud800"])
    def test_no_card_is_found_by_a_part_of_its_code_or_by_nothing(self, typed: str) -> None:
        delivered()
        delivered(answered=settled("FULFILLED", [*CARDS[:4], CardSecret("FFFF", "")]))
        assert list(Card.objects.all().with_code(typed)) == []

    def test_cards_are_found_by_the_last_four_characters_newest_first(self) -> None:
        short = CardSecret("BB-AAAA", "")
        one, other = delivered(), delivered(answered=settled("FULFILLED", [*CARDS[:4], short]))
        for typed in ("AAAA", "aa-aa", " aaaa "):
            found = [(card.order, card.position) for card in Card.objects.with_tail(typed)]
            assert found == [(other, 1), (one, 1)]
        for typed in ("AAA", "AAAAA", "", "CCCA", "1111"):
            assert list(Card.objects.with_tail(typed)) == []

    def test_cards_are_found_without_opening_any(
        self, card: Card, django_assert_num_queries: Any
    ) -> None:
        Card.objects.update(sealed="damaged")
        with django_assert_num_queries(1):
            assert list(Card.objects.all().with_code("AAAA-AAAA-AAAA-AAAA")) == [card]

    def test_a_card_is_found_under_every_key_of_the_list(self, settings: Any) -> None:
        old_keys = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        before = delivered()
        new_key = generate_key()
        use_keys(settings, new_key, *old_keys)
        after = delivered()
        found = Card.objects.all().with_code("111111111")
        assert {card.order for card in found} == {before, after}
        use_keys(settings, new_key)
        assert [card.order for card in Card.objects.all().with_code("111111111")] == [after]

    def test_a_search_for_a_card_can_be_narrowed_to_one_order(self) -> None:
        one, other = delivered(), delivered()
        assert Card.objects.all().with_code("111111111").count() == 2
        assert [card.order for card in other.cards.all().with_code("111111111")] == [other]
        assert one != other

    def test_codes_that_repeat_in_two_orders_are_marked(self) -> None:
        one, other = delivered(), delivered()
        repeated = Card.objects.with_repeats().filter(is_repeated=True)
        assert {(card.order, card.position) for card in repeated} == {
            (order, position) for order in (one, other) for position in (1, 2, 3)
        }

    def test_codes_that_repeat_in_one_order_are_marked(self) -> None:
        order = make_guide_order(Status.PARTIALLY_FILLED)
        store_cards([Arrival(order, [CARDS[0], CARDS[1], CARDS[0]], settles=True)])
        found = {card.position: card.is_repeated for card in order.cards.with_repeats()}
        assert found == {1: True, 2: False, 3: True}


class TestProviderState:
    def pause(self, reason: Pause, until: datetime) -> bool:
        return ProviderState.objects.pause(reason, detail=f"({reason})", until=until)

    def is_paused(self, *, after: timedelta = timedelta(0)) -> bool:
        return ProviderState.objects.current().is_paused(timezone.now() + after)

    def test_the_row_about_the_provider_is_created_when_it_is_needed(self) -> None:
        assert ProviderState.objects.current() == ProviderState.objects.current()
        assert ProviderState.objects.count() == 1

    def test_a_pause_ends_when_a_person_resumes(self) -> None:
        self.pause(Pause.ACCESS, timezone.now() + MINUTE)
        assert ProviderState.objects.resume()
        assert not self.is_paused()
        assert not ProviderState.objects.resume()

    def test_a_pause_that_is_over_cannot_be_ended_by_a_person(self) -> None:
        self.pause(Pause.RATE, timezone.now())
        ProviderState.objects.update(paused_until=timezone.now() - MINUTE)
        assert not ProviderState.objects.resume()

    @pytest.mark.parametrize(
        ("first", "second", "is_replaced", "still_paused_after"),
        [
            ((Pause.RATE, 60), (Pause.ACCESS, 180), True, 120),
            ((Pause.OUTAGE, 1), (Pause.RATE, 60), True, 30),
            ((Pause.RATE, 60), (Pause.OUTAGE, 1), False, 30),
            # A worse pause does not shorten the one that it replaces.
            ((Pause.OUTAGE, 60), (Pause.RATE, 5), True, 30),
            ((Pause.ACCESS, 180), (Pause.RATE, 60), False, 120),
            # The first pause is over.
            ((Pause.RATE, -60), (Pause.RATE, 60), True, 30),
        ],
    )
    def test_a_pause_is_replaced_by_a_worse_one_and_never_shortened(
        self,
        first: tuple[Pause, int],
        second: tuple[Pause, int],
        is_replaced: bool,
        still_paused_after: int,
    ) -> None:
        self.pause(first[0], ago(-first[1]))
        assert self.pause(second[0], ago(-second[1])) == is_replaced
        assert self.is_paused(after=timedelta(seconds=still_paused_after))
        state = ProviderState.objects.current()
        reason = second[0] if is_replaced else first[0]
        assert (state.pause, state.pause_detail) == (reason, f"({reason})")

    def test_a_machine_whose_clock_is_behind_honours_the_longest_pause(self) -> None:
        self.pause(Pause.ACCESS, timezone.now() + 15 * MINUTE)
        assert self.is_paused(after=-MINUTE)

    def test_each_pause_is_explained_in_words(self) -> None:
        state = ProviderState.objects.current()
        assert (str(state), state.explain()) == ("in service", "In service.")
        assert (state.paused_because, state.why_paused()) == ("", "")
        self.pause(Pause.RATE, timezone.now() + MINUTE)
        state = ProviderState.objects.current()
        assert str(state) == "The provider asked for fewer requests."
        assert state.paused_because == "rate"
        assert state.explain() == (
            "The provider asked for fewer requests. (rate) Requests will resume automatically."
        )


class TestApiKey:
    OWN, OTHER = "own", "other"

    def refuse(self, key: str = OWN) -> bool:
        return ApiKey.objects.refuse(key, detail=f"({key})")

    def holding_up(self, own: str | None) -> str | None:
        key = ApiKey.objects.holding_up(own, timezone.now())
        return key and key.pk

    def test_a_process_without_a_key_is_told_of_a_refused_one_without_time_zones(
        self, settings: Any
    ) -> None:
        settings.USE_TZ = False
        self.refuse()
        ApiKey.objects.current(self.OTHER)  # never used
        assert self.holding_up(None) == self.OWN

    def test_a_success_from_before_a_refusal_proves_nothing_after_resuming(self) -> None:
        before = ApiKey.objects.current(self.OWN)
        self.refuse()
        assert not ApiKey.objects.accept(before)
        ProviderState.objects.resume()
        assert not ApiKey.objects.accept(before)
        resumed = ApiKey.objects.current(self.OWN)
        assert not resumed.is_proven(timezone.now())
        assert ApiKey.objects.accept(resumed)
        assert ApiKey.objects.current(self.OWN).is_proven(timezone.now())

    def test_the_proof_of_a_key_ends_when_it_is_doubted(self) -> None:
        ApiKey.objects.accept(ApiKey.objects.current(self.OWN))
        ApiKey.objects.doubt()
        assert not ApiKey.objects.current(self.OWN).is_proven(timezone.now())

    @pytest.mark.parametrize("away", [timedelta(minutes=3), -timedelta(minutes=3)])
    def test_the_proof_of_a_key_ends_if_the_clock_is_three_minutes_off_either_way(
        self, away: timedelta
    ) -> None:
        ApiKey.objects.accept(key := ApiKey.objects.current(self.OWN))
        assert not key.is_proven(timezone.now() + away)
        assert key.is_proven(timezone.now() + timedelta(seconds=100))

    def test_a_refused_key_that_no_process_has_any_more_stops_nothing(self) -> None:
        self.refuse(self.OTHER)
        assert self.holding_up(self.OWN) is None

    def test_a_refused_key_of_another_running_process_is_noticed(self) -> None:
        self.refuse(self.OTHER)
        ApiKey.objects.update(stopped_at=timezone.now() - 2 * MINUTE)
        assert self.holding_up(self.OWN) == self.OTHER
        ApiKey.objects.update(stopped_at=timezone.now() - 4 * MINUTE)
        assert self.holding_up(self.OWN) is None

    def test_the_processs_own_refused_key_is_reported_first(self) -> None:
        self.refuse()
        self.refuse(self.OTHER)
        ApiKey.objects.update(stopped_at=timezone.now())
        assert self.holding_up(self.OWN) == self.OWN

    def test_a_process_without_a_key_reports_the_key_used_last(self) -> None:
        assert self.holding_up(None) is None
        self.refuse(self.OTHER)
        assert self.holding_up(None) == self.OTHER
        ApiKey.objects.accept(ApiKey.objects.current(self.OWN))
        assert self.holding_up(None) is None

    def test_a_refused_key_is_explained_in_words(self) -> None:
        refuse_key("(refused)")
        state = ProviderState.objects.current()
        assert state.paused_because == "access"
        assert state.explain() == (
            "The provider refuses the API key or this server's address. (refused) Enter a working"
            " key in the settings, or run `manage.py giftcards_poll --resume` after the current key"
            " works again."
        )
