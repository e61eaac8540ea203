"""Rows: what the database refuses, who wins a move or a claim, and how cards are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import ProtectedError
from django.utils import timezone, translation

from giftcards.cards import CardSecret
from giftcards.crypto import generate_key
from giftcards.exceptions import DecryptionError
from giftcards.models import Card, Lease, Order, ProviderState, StatusChange
from giftcards.provider import OrderAnswer
from giftcards.recording import record_answers
from giftcards.statuses import ACCEPTED, FINAL, MOVES, Status
from tests.builders import CARDS, PARTIAL, build_order, claim, make_order, settled

pytestmark = pytest.mark.django_db

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
MINUTE = timedelta(minutes=1)
Source = StatusChange.Source
Pause = ProviderState.Pause


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """A test of the admin may have left another language behind."""
    with translation.override("en"):
        yield


def use_keys(settings: Any, *keys: str) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": list(keys)}


def delivered(order: Order | None = None, answered: OrderAnswer = PARTIAL) -> Order:
    """An order with the three cards of the guide, recorded as a sweep records them."""
    [held] = claim(order or make_order())
    assert record_answers([(held, answered)], now=timezone.now()) == 1
    return Order.objects.get(pk=held.pk)


class TestConstraints:
    """What must always be true, also for raw SQL, a shell or a bug of ours."""

    @pytest.mark.parametrize("status", Status)
    def test_a_row_of_every_status_can_be_stored(self, status: Status) -> None:
        order = make_order(status)
        assert Order.objects.get(pk=order.pk).status == status

    @pytest.mark.parametrize(
        ("status", "values", "constraint"),
        [
            ("PENDING", {"status": "CANCELLED"}, "status"),
            ("PENDING", {"status": ""}, "status"),
            ("PENDING", {"quantity": 0}, "quantity"),
            ("PENDING", {"quantity": 2001}, "quantity"),
            ("HANDLING", {"fulfilled_quantity": 6}, "fulfilled_quantity"),
            # Final and settled_at go together.
            ("HANDLING", {"settled_at": NOW}, "final_is_settled"),
            ("REFUNDED", {"settled_at": None}, "final_is_settled"),
            ("REJECTED", {"settled_at": None}, "final_is_settled"),
            # So do accepted and named: what has a name is never sent again.
            ("HANDLING", {"provider_order_id": None}, "accepted_is_named"),
            ("HANDLING", {"accepted_at": None}, "accepted_is_named"),
            ("REFUNDED", {"provider_order_id": None}, "accepted_is_named"),
            ("PENDING", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("PLACING", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("UNCONFIRMED", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("REJECTED", {"provider_order_id": "A1"}, "accepted_is_named"),
            ("PENDING", {"accepted_at": NOW}, "accepted_is_named"),
            # A final status says how many cards there are.
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
    def test_no_other_row_can(self, status: str, values: dict[str, Any], constraint: str) -> None:
        order = make_order(Status(status))
        # MariaDB calls a violated check an OperationalError.
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            Order.objects.filter(pk=order.pk).update(**values)
        assert f"giftcards_order_{constraint}" in str(caught.value)

    @pytest.mark.parametrize("field", ["quantity", "fulfilled_quantity"])
    def test_nothing_is_negative(self, field: str) -> None:
        order = make_order()
        with pytest.raises(DatabaseError), transaction.atomic():
            Order.objects.filter(pk=order.pk).update(**{field: -1})

    @pytest.mark.parametrize("field", ["reference", "provider_order_id"])
    def test_names_are_unique(self, field: str) -> None:
        order = make_order()
        with pytest.raises(IntegrityError), transaction.atomic():
            make_order(**{field: getattr(order, field)})

    def test_many_orders_may_have_no_name_yet(self) -> None:
        make_order(Status.PENDING)
        make_order(Status.PENDING)

    @pytest.mark.parametrize("values", [{"position": 0}, {"sealed": ""}, {"value_fingerprint": ""}])
    def test_a_card_is_sealed_and_numbered(self, values: dict[str, Any]) -> None:
        card = delivered().cards.get(position=1)
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            Card.objects.filter(pk=card.pk).update(**values)
        assert "giftcards_card_is_sealed" in str(caught.value)

    def test_no_two_cards_of_an_order_have_one_number(self) -> None:
        cards = delivered().cards
        with pytest.raises(IntegrityError), transaction.atomic():
            cards.filter(position=1).update(position=2)

    def test_there_is_one_row_about_the_provider(self) -> None:
        with pytest.raises(DatabaseError) as caught, transaction.atomic():
            ProviderState.objects.create(pk=2)
        assert "giftcards_providerstate_one_row" in str(caught.value)

    def test_an_order_with_cards_cannot_be_deleted(self) -> None:
        order = delivered()
        with pytest.raises(ProtectedError):
            order.delete()
        assert Card.objects.count() == 3

    def test_the_migration_is_the_models(self, call: Any) -> None:
        outcome = call("makemigrations", "giftcards", check=True, dry_run=True, verbosity=1)
        assert outcome.out == "No changes detected in app 'giftcards'\n"


class TestFields:
    @pytest.mark.parametrize("reference", ["", "a b", "a\n", "a\0", "\u202eabc", "é", "x" * 101])
    def test_a_reference_is_plain(self, reference: str) -> None:
        with pytest.raises(ValidationError) as caught:
            build_order(Status.PENDING, reference=reference).full_clean()
        assert list(caught.value.message_dict) == ["reference"]

    @pytest.mark.parametrize("quantity", [0, -1, 2001, 10**9, None, "two"])
    def test_a_quantity_can_be_ordered(self, quantity: Any) -> None:
        order = build_order(Status.PENDING, quantity=quantity, fulfilled_quantity=0)
        with pytest.raises(ValidationError) as caught:
            order.clean_fields()
        assert list(caught.value.message_dict) == ["quantity"]

    def test_a_reference_is_made_up_where_there_is_none(self) -> None:
        one, other = make_order(Status.PENDING), make_order(Status.PENDING)
        assert one.reference != other.reference
        one.full_clean()

    def test_texts(self) -> None:
        order = make_order(reference="order-1")
        change = StatusChange(order=order, from_status="HANDLING", to_status="DELAYED")
        assert [str(order), str(change), str(Card(order=order, position=2))] == [
            "order-1",
            "HANDLING → DELAYED",
            "card 2",
        ]


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
def test_by_either_of_its_names(names: list[str], found: list[str]) -> None:
    make_order(reference="one", provider_order_id="A1")
    make_order(reference="two", provider_order_id="A2", provider_alias="B2")
    assert sorted(order.reference for order in Order.objects.known_as(names)) == found


class TestMove:
    def test_it_writes_the_status_its_columns_and_the_history(self) -> None:
        order = make_order(Status.PENDING)
        change = order.move(
            Status.PLACING,
            source=Source.PLACING,
            detail="First try.",
            claim="c1",
            claimed_until=NOW,
            sent_at=NOW,
            due_at=None,
        )
        assert change is not None
        fresh = Order.objects.get(pk=order.pk)
        for row in (order, fresh):
            assert (row.status, row.claim, row.claimed_until, row.sent_at, row.due_at) == (
                "PLACING",
                "c1",
                NOW,
                NOW,
                None,
            )
        stored = fresh.changes.get()
        assert stored == change
        assert (
            stored.from_status,
            stored.to_status,
            stored.source,
            stored.detail,
            stored.announced_at,
        ) == ("PENDING", "PLACING", "placing", "First try.", None)

    @pytest.mark.parametrize(
        ("origin", "target"),
        [(origin, target) for origin in Status for target in Status if target in MOVES[origin]],
    )
    def test_every_move_of_the_table(self, origin: Status, target: Status) -> None:
        order = make_order(origin)
        values: dict[str, Any] = {}
        if target in ACCEPTED - {origin} and origin not in ACCEPTED:
            values = {"provider_order_id": "A1", "accepted_at": NOW}
        if target in {Status.FULFILLED, Status.PARTIALLY_FILLED}:
            values["fulfilled_quantity"] = {"FULFILLED": 5, "PARTIALLY_FILLED": 3}[target]
        assert order.move(target, source=Source.STAFF, **values)
        fresh = Order.objects.get(pk=order.pk)
        assert fresh.status == target
        assert (fresh.settled_at is not None) is (target in FINAL)
        assert fresh.settled_at == order.settled_at

    @pytest.mark.parametrize(
        ("origin", "target"),
        [(origin, target) for origin in Status for target in Status if target not in MOVES[origin]],
    )
    def test_no_other_move(self, origin: Status, target: Status) -> None:
        order = make_order(origin)
        with pytest.raises(
            ValueError, match=rf"\AAn order does not move from {origin} to {target}\.\Z"
        ):
            order.move(target, source=Source.STAFF)
        assert Order.objects.get(pk=order.pk).status == origin
        assert not StatusChange.objects.exists()

    def test_it_gives_the_claim_back(self) -> None:
        [order] = claim(make_order())
        assert order.claimed_until is not None
        order.move(Status.DELAYED, source=Source.CLOCK)
        assert Order.objects.get(pk=order.pk).claimed_until is None

    @pytest.mark.parametrize(
        "values",
        [{"status": "UNCONFIRMED"}, {"claim": "another process"}],
        ids=["moved by another", "claimed by another"],
    )
    def test_who_comes_second_changes_nothing(self, values: dict[str, str]) -> None:
        stale = make_order(Status.PLACING)
        Order.objects.filter(pk=stale.pk).update(**values)
        before = Order.objects.filter(pk=stale.pk).values().get()
        assert stale.move(Status.REJECTED, source=Source.PLACING, problem="x") is None
        assert (stale.status, stale.problem) == ("PLACING", "")
        assert Order.objects.filter(pk=stale.pk).values().get() == before
        assert not StatusChange.objects.exists()

    def test_status_and_history_are_one_transaction(self) -> None:
        order = make_order()

        def no_history(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if "giftcards_statuschange" in sql:
                raise DatabaseError("disk full")
            return execute(sql, *args)

        with (
            pytest.raises(DatabaseError, match="disk full"),
            connection.execute_wrapper(no_history),
        ):
            order.move(Status.DELAYED, source=Source.CLOCK)
        assert order.status == "HANDLING"
        assert Order.objects.get(pk=order.pk).status == "HANDLING"


class TestMoveAll:
    def test_those_that_are_there_move(self) -> None:
        late, later = make_order(), make_order()
        done = make_order(Status.REFUNDED)
        moved = Order.objects.all().move_all(
            Status.HANDLING, Status.DELAYED, source=Source.CLOCK, due_at=NOW
        )
        assert moved == 2
        for order in (late, later):
            order.refresh_from_db()
            assert (order.status, order.due_at, order.claimed_until) == ("DELAYED", NOW, None)
            change = order.changes.get()
            assert (change.from_status, change.to_status, change.source) == (
                "HANDLING",
                "DELAYED",
                "clock",
            )
        assert not done.changes.exists()

    def test_nobody_there_costs_one_query(self, django_assert_num_queries: Any) -> None:
        make_order(Status.REFUNDED)
        # With the savepoint that stands for the transaction.
        with django_assert_num_queries(3):
            moved = Order.objects.all().move_all(
                Status.HANDLING, Status.DELAYED, source=Source.CLOCK
            )
        assert moved == 0

    def test_the_table_holds_here_too(self) -> None:
        order = make_order(Status.FULFILLED)
        with pytest.raises(
            ValueError, match=r"\AAn order does not move from FULFILLED to HANDLING\.\Z"
        ):
            Order.objects.all().move_all(Status.FULFILLED, Status.HANDLING, source=Source.STAFF)
        order.refresh_from_db()
        assert order.status == "FULFILLED"


class TestClaim:
    @staticmethod
    def wanted(at: datetime) -> list[Order]:
        return list(Order.objects.to_check(now=at, due_by=at))

    @staticmethod
    def claimed(wanted: list[Order], at: datetime = NOW) -> list[Order]:
        return Order.objects.claim(wanted, now=at, due_by=at, until=at + MINUTE)

    def test_it_takes_what_nobody_has(self) -> None:
        orders = [make_order(due_at=NOW) for _ in range(3)]
        first = self.claimed(self.wanted(NOW)[:2])
        second = self.claimed(self.wanted(NOW))
        assert [len(first), len(second)] == [2, 1]
        assert {order.pk for order in first + second} == {order.pk for order in orders}
        assert len({order.claim for order in first}) == 1
        assert first[0].claim != second[0].claim
        assert {order.claimed_until for order in first + second} == {NOW + MINUTE}

    def test_what_is_returned_is_what_the_rows_say(self) -> None:
        make_order(due_at=NOW)
        [order] = self.claimed(self.wanted(NOW))
        row = Order.objects.get()
        assert (order.claim, order.claimed_until) == (row.claim, row.claimed_until)

    def test_those_that_another_process_took_meanwhile_are_not_given(self) -> None:
        make_order(due_at=NOW)
        early = self.wanted(NOW)
        theirs = self.claimed(self.wanted(NOW))
        later = make_order(due_at=NOW)
        assert self.claimed(early) == []
        assert [order.pk for order in self.claimed([*early, later])] == [later.pk]
        assert Order.objects.get(pk=theirs[0].pk).claim == theirs[0].claim

    def test_what_settled_meanwhile_is_not_given(self) -> None:
        make_order(due_at=NOW)
        early = self.wanted(NOW)
        early[0].move(Status.REFUNDED, source=Source.CHECK)
        assert self.claimed(early) == []

    def test_a_claim_ends(self) -> None:
        order = make_order(due_at=NOW)
        [dead] = self.claimed(self.wanted(NOW))
        assert self.wanted(NOW) == []
        assert self.claimed([order]) == []
        [taken] = self.claimed(self.wanted(NOW + MINUTE), NOW + MINUTE)
        assert taken.pk == dead.pk == order.pk
        assert taken.claim != dead.claim

    @pytest.mark.parametrize("status", sorted(set(Status) - {"HANDLING", "DELAYED"}))
    def test_only_orders_at_the_provider(self, status: Status) -> None:
        order = make_order(status, due_at=NOW)
        assert self.wanted(NOW) == []
        assert self.claimed([order]) == []

    @pytest.mark.parametrize("due_at", [NOW + MINUTE, None])
    def test_only_what_is_due(self, due_at: datetime | None) -> None:
        order = make_order(due_at=due_at)
        assert self.wanted(NOW) == []
        assert self.claimed([order]) == []

    def test_it_costs_one_query(self, django_assert_num_queries: Any) -> None:
        for _ in range(9):
            make_order(due_at=NOW)
        wanted = self.wanted(NOW)
        with django_assert_num_queries(1):
            assert len(self.claimed(wanted)) == 9

    def test_fresh_ones_come_first(self) -> None:
        late = make_order(Status.DELAYED, due_at=NOW - MINUTE)
        second, first = make_order(due_at=NOW), make_order(due_at=NOW - MINUTE)
        assert self.wanted(NOW) == [first, second, late]


class TestQuestions:
    @staticmethod
    def chores() -> list[Order]:
        return list(Order.objects.chores(NOW, poll_timeout=5 * MINUTE))

    @pytest.mark.parametrize("status", [Status.PENDING, Status.UNCONFIRMED])
    def test_chores_to_send_and_to_look_for(self, status: Status) -> None:
        second = make_order(status, due_at=NOW)
        first = make_order(status, due_at=NOW - MINUTE)
        make_order(status, due_at=NOW + MINUTE)
        make_order(status, due_at=None)
        make_order(status, due_at=NOW, claimed_until=NOW + MINUTE)
        make_order(Status.HANDLING, due_at=NOW, accepted_at=NOW)
        assert self.chores() == [first, second]

    def test_to_check_takes_the_fresh_ones_first(self) -> None:
        late = make_order(Status.DELAYED, due_at=NOW - MINUTE)
        fresh = make_order(due_at=NOW)
        fresher = make_order(due_at=NOW - MINUTE)
        back = make_order(due_at=NOW, claimed_until=NOW)
        make_order(due_at=NOW, claimed_until=NOW + MINUTE)
        soon = make_order(due_at=NOW + MINUTE)
        make_order(due_at=None)
        make_order(Status.PENDING, due_at=NOW)
        due = Order.objects.to_check(now=NOW, due_by=NOW)
        assert list(due) == [fresher, fresh, back, late]
        ahead = Order.objects.to_check(now=NOW, due_by=NOW + MINUTE)
        assert list(ahead) == [fresher, fresh, back, soon, late]

    def test_chores_lost(self) -> None:
        dead = make_order(Status.PLACING, claimed_until=NOW)
        alive = make_order(Status.PLACING, claimed_until=NOW + MINUTE)
        make_order(claimed_until=NOW, accepted_at=NOW)
        assert self.chores() == [dead]
        assert dead.is_lost(NOW)
        assert not alive.is_lost(NOW)

    def test_chores_overdue(self) -> None:
        late = make_order(accepted_at=NOW - 5 * MINUTE)
        make_order(accepted_at=NOW - 5 * MINUTE, claimed_until=NOW + MINUTE)
        make_order(accepted_at=NOW - 4 * MINUTE)
        make_order(Status.DELAYED, accepted_at=NOW - 5 * MINUTE)
        assert self.chores() == [late]

    def test_check_soon(self) -> None:
        interval, later = 5 * MINUTE, NOW + 60 * MINUTE
        never = make_order(due_at=later)
        long_ago = make_order(Status.DELAYED, due_at=None, checked_at=NOW - interval)
        others = [
            make_order(due_at=later, checked_at=NOW - 4 * MINUTE),
            make_order(due_at=later, claimed_until=NOW + MINUTE),
            make_order(Status.PENDING, due_at=later),
            make_order(Status.REFUNDED),
        ]
        before = [order.due_at for order in others]
        assert Order.objects.all().check_soon(now=NOW, interval=interval) == 2
        for order in (never, long_ago, *others):
            order.refresh_from_db()
        assert never.due_at == long_ago.due_at == NOW
        assert [order.due_at for order in others] == before

    def test_by_status(self) -> None:
        orders = {status: make_order(status) for status in Status}
        make_order(Status.REFUNDED)
        urgent = {order.status for order in Order.objects.urgent()}
        assert urgent == {"PENDING", "PLACING", "HANDLING"}
        assert {status for status, order in orders.items() if order.is_final} == {
            "REJECTED",
            "FULFILLED",
            "PARTIALLY_FILLED",
            "REFUNDED",
        }
        assert {status for status, order in orders.items() if order.is_settled} == {
            "FULFILLED",
            "PARTIALLY_FILLED",
            "REFUNDED",
        }

    def test_counts(self) -> None:
        make_order(Status.REFUNDED)
        make_order(Status.REFUNDED)
        make_order(Status.HANDLING)
        assert Order.objects.count_by_status() == {
            "PENDING": 0,
            "PLACING": 0,
            "UNCONFIRMED": 0,
            "REJECTED": 0,
            "HANDLING": 1,
            "DELAYED": 0,
            "FULFILLED": 0,
            "PARTIALLY_FILLED": 0,
            "REFUNDED": 2,
        }

    def test_needing_attention(self) -> None:
        order = make_order(problem="Look at this.")
        make_order()
        assert list(Order.objects.needing_attention()) == [order]


class TestReadingCards:
    def test_an_explicit_read_opens(self) -> None:
        cards = delivered().cards.all()
        assert [(card.value, card.serial) for card in cards] == [
            ("AAAA-AAAA-AAAA-AAAA", "111111111"),
            ("BBBB-BBBB-BBBB-BBBB", "222222222"),
            ("CCCC-CCCC-CCCC-CCCC", "333333333"),
        ]

    def test_loading_rows_opens_nothing(self, settings: Any) -> None:
        delivered()
        use_keys(settings, generate_key())
        assert len(Card.objects.select_related("order")) == 3

    @pytest.mark.parametrize("name", ["value", "serial"])
    def test_another_key(self, settings: Any, name: str) -> None:
        card = delivered().cards.get(position=1)
        use_keys(settings, generate_key())
        with pytest.raises(DecryptionError) as caught:
            getattr(card, name)
        assert str(caught.value) == (
            "This card cannot be opened: none of GIFTCARDS['ENCRYPTION_KEYS'] fits,"
            " or the stored text is damaged."
        )

    def test_another_orders_token(self) -> None:
        card = delivered().cards.get(position=1)
        other = delivered().cards.get(position=2)
        Card.objects.filter(pk=card.pk).update(sealed=other.sealed)
        card.refresh_from_db()
        with pytest.raises(DecryptionError) as caught:
            _ = card.value
        assert str(caught.value) == (
            "This card cannot be opened: its stored text belongs to another order."
        )

    def test_a_card_that_was_given_to_another_order(self) -> None:
        card = delivered().cards.get(position=1)
        Card.objects.filter(pk=card.pk).update(order=make_order())
        card = Card.objects.get(pk=card.pk)
        with pytest.raises(DecryptionError, match="its stored text belongs to another order"):
            _ = card.serial

    def test_saving_a_card_that_cannot_be_opened_keeps_its_token(self, settings: Any) -> None:
        card = delivered().cards.get(position=1)
        sealed, keys = card.sealed, settings.GIFTCARDS["ENCRYPTION_KEYS"]
        use_keys(settings, generate_key())
        card.save()
        use_keys(settings, *keys)
        card = Card.objects.get(pk=card.pk)
        assert card.sealed == sealed
        assert card.value == "AAAA-AAAA-AAAA-AAAA"

    def test_a_new_key_opens_the_old_cards(self, settings: Any) -> None:
        order = delivered()
        use_keys(settings, generate_key(), *settings.GIFTCARDS["ENCRYPTION_KEYS"])
        assert order.cards.get(position=1).value == "AAAA-AAAA-AAAA-AAAA"


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
    def test_by_code_or_serial(self, typed: str) -> None:
        order = delivered()
        assert list(Card.objects.all().with_code(typed)) == [order.cards.get(position=1)]

    @pytest.mark.parametrize("typed", ["AAAA-AAAA-AAAA", "11111111", "", " ", "-", "\0", "\ud800"])
    def test_nothing_else(self, typed: str) -> None:
        delivered()
        delivered(answered=settled("FULFILLED", [*CARDS[:4], CardSecret("FFFF", "")]))
        assert list(Card.objects.all().with_code(typed)) == []

    def test_without_decrypting(self, settings: Any, django_assert_num_queries: Any) -> None:
        card = delivered().cards.get(position=1)
        Card.objects.update(sealed="damaged")
        with django_assert_num_queries(1):
            assert list(Card.objects.all().with_code("AAAA-AAAA-AAAA-AAAA")) == [card]

    def test_under_every_key_of_the_list(self, settings: Any) -> None:
        old_keys = settings.GIFTCARDS["ENCRYPTION_KEYS"]
        before = delivered()
        new_key = generate_key()
        use_keys(settings, new_key, *old_keys)
        after = delivered()
        found = Card.objects.all().with_code("111111111")
        assert {card.order for card in found} == {before, after}
        use_keys(settings, new_key)
        assert [card.order for card in Card.objects.all().with_code("111111111")] == [after]

    def test_in_a_selection(self) -> None:
        one, other = delivered(), delivered()
        assert Card.objects.all().with_code("111111111").count() == 2
        assert [card.order for card in other.cards.all().with_code("111111111")] == [other]
        assert one != other

    def test_repeats_in_two_orders(self) -> None:
        one, other = delivered(), delivered()
        repeated = Card.objects.with_repeats().filter(is_repeated=True)
        assert {(card.order, card.position) for card in repeated} == {
            (order, position) for order in (one, other) for position in (1, 2, 3)
        }

    def test_repeats_in_one_order(self) -> None:
        order = delivered(answered=settled("PARTIALLY_FILLED", [CARDS[0], CARDS[1], CARDS[0]]))
        found = {card.position: card.is_repeated for card in order.cards.with_repeats()}
        assert found == {1: True, 2: False, 3: True}


class TestProviderState:
    KEY = "0123456789abcdef"

    def pause(self, reason: Pause, until: datetime | None = None, key: str = KEY) -> bool:
        return ProviderState.objects.pause(reason, detail=f"({reason})", until=until, key=key)

    def is_paused(self, *, key: str = KEY, after: timedelta = timedelta(0)) -> bool:
        return ProviderState.objects.current().is_paused(key=key, now=timezone.now() + after)

    def test_there_is_one_row_and_asking_makes_it(self) -> None:
        assert ProviderState.objects.current() == ProviderState.objects.current()
        assert ProviderState.objects.count() == 1

    def test_a_wait_ends_by_itself_whatever_the_key(self) -> None:
        assert self.pause(Pause.RATE, timezone.now() + MINUTE)
        assert self.is_paused()
        assert self.is_paused(key="another")
        assert not self.is_paused(after=2 * MINUTE)

    def test_a_refused_key_stops_until_there_is_another(self) -> None:
        assert self.pause(Pause.ACCESS)
        assert self.is_paused(after=timedelta(days=365))
        assert not self.is_paused(key="another")

    def test_or_until_a_person_resumes(self) -> None:
        self.pause(Pause.ACCESS)
        assert ProviderState.objects.resume()
        assert not self.is_paused()
        assert not ProviderState.objects.resume()

    def test_only_the_first_to_say_so_is_told(self) -> None:
        assert [self.pause(Pause.ACCESS) for _ in range(4)] == [True, False, False, False]

    def test_a_refused_key_outranks_a_wait(self) -> None:
        self.pause(Pause.RATE, timezone.now() + MINUTE)
        assert self.pause(Pause.ACCESS)
        assert self.is_paused(after=2 * MINUTE)
        state = ProviderState.objects.current()
        assert (state.pause, state.pause_detail, state.paused_key) == (
            "access",
            "(access)",
            self.KEY,
        )

    def test_a_wait_does_not_shorten_a_refusal(self) -> None:
        self.pause(Pause.ACCESS)
        assert not self.pause(Pause.RATE, timezone.now() + MINUTE)
        assert self.is_paused(after=2 * MINUTE)

    def test_a_wait_of_which_the_time_is_over_can_be_followed_by_another(self) -> None:
        self.pause(Pause.RATE, timezone.now() - MINUTE)
        assert self.pause(Pause.RATE, timezone.now() + MINUTE)
        assert self.is_paused()

    def test_a_key_that_was_replaced_can_be_refused_as_well(self) -> None:
        self.pause(Pause.ACCESS)
        assert self.pause(Pause.ACCESS, key="another")
        assert self.is_paused(key="another")

    def test_in_words(self) -> None:
        state = ProviderState.objects.current()
        assert (str(state), state.explain()) == ("in service", "In service.")
        self.pause(Pause.RATE, timezone.now() + MINUTE)
        state = ProviderState.objects.current()
        assert str(state) == "The provider asked for fewer requests."
        assert state.explain() == (
            "The provider asked for fewer requests. (rate) Calls go on by themselves."
        )
        self.pause(Pause.ACCESS)
        state = ProviderState.objects.current()
        assert state.explain() == (
            "The provider refuses the API key or this server's address. (access)"
            " Put a working key into the settings, or run"
            " `manage.py giftcards_poll --resume` once it works again."
        )


class TestLeases:
    LEASE = timedelta(seconds=10)

    @pytest.mark.parametrize("name", ["loop", "outbox", "probe"])
    def test_one_process_has_it(self, name: Lease) -> None:
        states = ProviderState.objects
        token = states.take_lease(name, now=NOW, length=self.LEASE)
        assert token is not None
        assert states.take_lease(name, now=NOW, length=self.LEASE) is None
        assert states.keep_lease(name, token, now=NOW + self.LEASE / 2, length=self.LEASE)
        assert states.take_lease(name, now=NOW + self.LEASE, length=self.LEASE) is None

    @pytest.mark.parametrize("name", ["loop", "outbox", "probe"])
    def test_a_lease_that_ran_out_is_taken_over(self, name: Lease) -> None:
        states = ProviderState.objects
        dead = states.take_lease(name, now=NOW, length=self.LEASE)
        heir = states.take_lease(name, now=NOW + self.LEASE, length=self.LEASE)
        assert dead is not None
        assert heir is not None
        assert not states.keep_lease(name, dead, now=NOW + self.LEASE, length=self.LEASE)
        # Nor can the one that was taken for dead end what is not its own any more.
        states.release_lease(name, dead)
        assert states.take_lease(name, now=NOW + self.LEASE, length=self.LEASE) is None

    @pytest.mark.parametrize("name", ["loop", "outbox", "probe"])
    def test_it_is_given_back(self, name: Lease) -> None:
        states = ProviderState.objects
        token = states.take_lease(name, now=NOW, length=self.LEASE)
        assert token is not None
        states.release_lease(name, token)
        assert states.take_lease(name, now=NOW, length=self.LEASE) is not None

    def test_each_is_one_of_its_own(self) -> None:
        states = ProviderState.objects
        assert states.take_lease("loop", now=NOW, length=self.LEASE) is not None
        token = states.take_lease("outbox", now=NOW, length=self.LEASE)
        assert token is not None
        assert not states.keep_lease("loop", token, now=NOW, length=self.LEASE)

    def test_a_kick_is_given_once_and_only_where_no_loop_runs(self) -> None:
        states = ProviderState.objects
        assert states.take_kick(now=NOW, lease=self.LEASE)
        assert not states.take_kick(now=NOW, lease=self.LEASE)
        assert states.take_kick(now=NOW + self.LEASE, lease=self.LEASE)
        states.take_lease("loop", now=NOW + 2 * self.LEASE, length=self.LEASE)
        assert not states.take_kick(now=NOW + 2 * self.LEASE, lease=self.LEASE)
        assert states.take_kick(now=NOW + 3 * self.LEASE, lease=self.LEASE)
