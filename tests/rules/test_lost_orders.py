"""The plan for lost orders: what is decided after a search of the provider's list."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giftcards.provider.answers import OrderAnswer
from giftcards.rules.lost_orders import (
    Absent,
    Adopt,
    AskPerson,
    Decision,
    Elsewhere,
    Line,
    SentOrder,
    Survey,
    Wait,
    ask_about_failed,
    plan,
)
from tests.builders import answer

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
SKEW, FARTHEST = timedelta(minutes=10), timedelta(hours=2)
PROOF = timedelta(minutes=2)
LINE = ("product", "type", 2)
LINES = [LINE, ("product", "type", 3), ("product", "other", 2)]
MINUTE = timedelta(minutes=1)


def at(minutes: float) -> datetime:
    return START + minutes * MINUTE


def sent(key: int = 1, minutes: float = 0, line: Line = LINE, **values: Any) -> SentOrder:
    """Return a lost order that a search missed long ago, unless ``absent_since`` says otherwise."""
    return SentOrder(key, line, at(minutes), **{"absent_since": at(minutes + 1), **values})


def row(name: str = "R1", minutes: float | None = 0, line: Any = LINE) -> OrderAnswer:
    product, type_id, quantity = line
    created = None if minutes is None else at(minutes)
    return answer(
        provider_id=name, product_id=product, type_id=type_id, quantity=quantity, created_at=created
    )


def named(
    name: str, reference: str = "", minutes: float | None = 0, line: Any = LINE
) -> OrderAnswer:
    return replace(row(name, minutes, line), reference=reference)


def survey(lost: Sequence[SentOrder], *rows: OrderAnswer, **values: Any) -> Survey:
    """Return a search, hours later, of a complete list that contains only ``rows``."""
    values = {"rivals": (), "unseen": (), "doubts": (), "is_whole": True, **values}
    now = values.pop("now", at(600))
    return Survey(
        lost=lost,
        rows=rows,
        half_proof_ago=now - PROOF / 2,
        proof_ago=now - PROOF,
        proof_of_absence=PROOF,
        **values,
    )


def ids(rows: Sequence[OrderAnswer]) -> list[str]:
    return [row.provider_id for row in rows]


def adoptions(decisions: Sequence[Decision]) -> list[Adopt]:
    return [decision for decision in decisions if isinstance(decision, Adopt)]


class TestAdopted:
    @pytest.mark.parametrize("minutes", [0, -10, 10, None])
    def test_a_row_without_a_time_or_up_to_ten_minutes_off_is_adopted(
        self, minutes: float | None
    ) -> None:
        assert plan(survey([sent()], row(minutes=minutes))) == [Adopt(sent(), row(minutes=minutes))]

    def test_identical_orders_adopt_rows_in_turn(self) -> None:
        lost = [sent(1), sent(2, 3)]
        rows = [row("R1", 1), row("R2", 4)]
        expected = [Adopt(*pair) for pair in zip(lost, rows, strict=True)]
        assert plan(survey(lost, *rows)) == expected
        assert plan(survey(lost[::-1], *rows[::-1])) == expected

    def test_an_undated_row_is_left_to_the_order_that_no_dated_row_fits(self) -> None:
        lost = [sent(1), sent(2, 15)]
        rows = [row("R1", None), row("R2", -5)]
        assert plan(survey(lost, *rows)) == [Adopt(lost[0], rows[1]), Adopt(lost[1], rows[0])]

    @pytest.mark.parametrize(
        ("first_accepted", "minutes", "adopting"), [(False, 10, 1), (False, 11, 0), (True, 10, 0)]
    )
    def test_a_row_is_left_to_an_accepted_order_that_it_may_be(
        self, first_accepted: bool, minutes: float, adopting: int
    ) -> None:
        lost = [sent(1, was_accepted=first_accepted), sent(2, minutes, was_accepted=True)]
        assert adoptions(plan(survey(lost, row()))) == [Adopt(lost[adopting], row())]

    def test_a_row_of_another_lost_orders_line_is_left_to_that_order(self) -> None:
        lost = [sent(1), sent(2, line=LINES[2])]
        found = row(line=LINES[2])
        assert plan(survey(lost, found)) == [Absent(lost[0]), Adopt(lost[1], found)]


class TestNamed:
    """Orders that were sent with their reference."""

    OURS = sent(reference="ours", not_before=at(-2))

    @pytest.mark.parametrize(
        ("order", "rows", "decision"),
        [
            # The row with our reference is found among equal rows, whatever its time.
            (OURS, [named("A", "x"), named("B", "ours"), named("C", "")], "adopt B"),
            (OURS, [named("B", "ours", minutes=300)], "adopt B"),
            (replace(OURS, is_elsewhere=True), [named("A"), named("B", "ours")], "adopt B"),
            # A row from before the order was recorded was bought by another shop with the same
            # account.
            (OURS, [named("B", "ours", minutes=-2)], "adopt B"),
            (OURS, [named("B", "ours", minutes=-3)], "ask B"),
            (OURS, [named("A", "ours"), named("B", "ours", minutes=-3)], "ask A B"),
            (OURS, [named("B", "", minutes=-2)], "adopt B"),
            (OURS, [named("B", "", minutes=-3)], "ask B"),
            # One row has our reference but cannot be the order.
            (OURS, [named("B", "ours", line=LINES[1])], "ask B"),
            (OURS, [named("A", "ours"), named("B", "ours", line=LINES[1])], "ask A B"),
            # The order was bought several times: the first purchase is the order.
            (OURS, [named("A", "ours", minutes=5), named("B", "ours")], "adopt B A"),
            (OURS, [named("A", "ours", minutes=None), named("B", "ours")], "adopt B A"),
            (OURS, [named(name, "ours") for name in "CAB"], "adopt A B C"),
            # Different references prove nothing, because the provider may have changed ours.
            (OURS, [named("A", "our")], "adopt A"),
            (OURS, [named("A", "x"), named("B", "y")], "ask A B"),
            (OURS, [named("A", "x"), named("B", "")], "ask A B"),
            (replace(OURS, reference=""), [named("A", "x")], "adopt A"),
            # The order was sent from a different account.
            (replace(OURS, is_elsewhere=True), [named("A", "")], "elsewhere"),
            # One of several attempts has bought the order.
            (replace(OURS, was_accepted=True), [], "wait"),
            (replace(OURS, was_accepted=True), [named("A", "", minutes=100)], "ask A"),
            (
                replace(OURS, was_accepted=True, last_sent_at=at(100)),
                [named("A", "", minutes=50)],
                "adopt A",
            ),
        ],
    )
    def test_a_row_with_the_reference_is_the_order_and_others_are_judged_as_without_references(
        self, order: SentOrder, rows: list[OrderAnswer], decision: str
    ) -> None:
        match plan(survey([order], *rows)):
            case [Adopt(row=first, repeated=others)]:
                assert decision == " ".join(["adopt", *ids([first, *others])])
            case [AskPerson(rows=found)]:
                assert decision == " ".join(["ask", *ids(found)])
            case [other]:
                assert decision == type(other).__name__.lower()

    def test_an_order_that_may_be_elsewhere_is_a_rival_of_its_equals(self) -> None:
        lost = [replace(self.OURS, is_elsewhere=True), sent(2)]
        assert plan(survey(lost, row())) == [
            Elsewhere(lost[0]),
            AskPerson(lost[1], (row(),), is_soon=True),
        ]


class TestLeftToAPerson:
    def test_more_rows_than_lost_orders_are_left_to_a_person(self) -> None:
        rows = row("R1"), row("R2")
        assert plan(survey([sent()], *rows)) == [AskPerson(sent(), rows)]

    def test_two_rows_that_only_one_of_two_orders_can_be_are_left_to_a_person(self) -> None:
        lost = [sent(1), sent(2, 15)]
        rows = row("R1", -5), row("R2", -4)
        assert plan(survey(lost, *rows)) == [AskPerson(order, rows) for order in lost]

    def test_a_row_that_a_rival_may_own_is_left_to_a_person(self) -> None:
        rival = sent(9, 10)
        expected = [AskPerson(sent(), (row(),), is_soon=True)]
        assert plan(survey([sent()], row(), rivals=[rival])) == expected

    @pytest.mark.parametrize("rival", [sent(9, 11), sent(9, line=LINES[1]), sent(9, line=LINES[2])])
    def test_a_row_is_adopted_despite_a_rival_of_another_time_or_line(
        self, rival: SentOrder
    ) -> None:
        assert plan(survey([sent()], row(), rivals=[rival])) == [Adopt(sent(), row())]

    @pytest.mark.parametrize(
        "doubtful",
        [
            *(row(minutes=minutes) for minutes in (-120, -11, 11, 120)),
            row(line=("", "type", 2)),
            row(line=("product", "", 2)),
            row(line=("product", "type", None)),
            row(line=("string", "string", 2)),
        ],
    )
    def test_a_row_up_to_two_hours_off_or_without_the_whole_line_is_left_to_a_person(
        self, doubtful: OrderAnswer
    ) -> None:
        assert plan(survey([sent()], doubtful)) == [AskPerson(sent(), (doubtful,))]

    def test_beside_an_exact_row_only_the_vague_row_is_left_to_a_person(self) -> None:
        lost = [sent(1), sent(2)]
        vague = row("R2", line=("", "type", 2))
        expected = [Adopt(lost[0], row()), AskPerson(lost[1], (vague,))]
        assert plan(survey(lost, row(), vague)) == expected


class TestAbsent:
    @pytest.mark.parametrize(
        "others",
        [
            [],
            # Rows that cannot be the order.
            [row(minutes=-121)],
            [row(minutes=121)],
            [row(line=LINES[1])],
            [row(minutes=11, line=("", "type", 2))],
        ],
    )
    def test_an_order_that_is_not_shown_at_the_second_look_is_absent(
        self, others: list[OrderAnswer]
    ) -> None:
        assert plan(survey([sent()], *others)) == [Absent(sent())]

    def test_the_first_look_without_a_row_is_evidence_of_absence(self) -> None:
        order = sent(absent_since=None)
        assert plan(survey([order])) == [Wait(order, is_evidence=True)]

    @pytest.mark.parametrize(
        ("now", "absent_since", "is_proven"),
        [(2, 1, True), (1.99, 0.5, False), (2.5, 1.51, False), (60, 59.01, False), (60, 59, True)],
    )
    def test_absence_needs_two_looks_and_the_full_time_since_sending(
        self, now: float, absent_since: float, is_proven: bool
    ) -> None:
        order = sent(absent_since=at(absent_since))
        expected = Absent(order) if is_proven else Wait(order, is_evidence=True)
        assert plan(survey([order], now=at(now))) == [expected]

    def test_an_unfinished_list_is_no_evidence_of_absence(self) -> None:
        assert plan(survey([sent()], is_whole=False)) == [Wait(sent(), is_evidence=False)]

    def test_a_list_that_lacks_a_neighbour_is_no_evidence_of_absence(self) -> None:
        lost = [sent(1), sent(2, 1.01)]
        decisions = plan(survey(lost, unseen=[sent(9, -1)]))
        assert decisions == [Wait(lost[0], is_evidence=False), Absent(lost[1])]

    @pytest.mark.parametrize(("minutes", "is_near"), [(-10, True), (10, True), (10.01, False)])
    def test_a_doubt_about_an_order_of_that_time_prevents_evidence_of_absence(
        self, minutes: float, is_near: bool
    ) -> None:
        """The row in doubt may belong to this order, whatever its line."""
        decisions = plan(survey([sent()], doubts=[sent(9, minutes, LINES[2])]))
        assert decisions == [Wait(sent(), is_evidence=False) if is_near else Absent(sent())]

    def test_an_order_that_was_accepted_is_never_absent_nor_are_its_neighbours(self) -> None:
        accepted = sent(1, was_accepted=True)
        near, far = sent(2, 10, LINES[1]), sent(3, 10.01, LINES[2])
        expected = [Wait(accepted, is_evidence=False), Wait(near, is_evidence=False), Absent(far)]
        assert plan(survey([accepted, near, far])) == expected

    def test_the_doubt_about_neighbours_ends_with_the_row_of_an_accepted_order(self) -> None:
        """The only row belongs to the accepted order; the other order may not have been placed."""
        other, accepted = sent(1), sent(2, 1, was_accepted=True)
        found = row("R1", 1)
        assert plan(survey([other, accepted], found))[0] == Adopt(accepted, found)
        assert plan(survey([other])) == [Absent(other)]


class TestConceding:
    def test_decisions_stay_as_planned_if_no_adoption_failed(self) -> None:
        decisions = [Absent(sent()), Wait(sent(2), is_evidence=True)]
        assert ask_about_failed(decisions, []) == decisions

    def test_a_failed_adoption_leaves_all_orders_of_its_line_to_a_person(self) -> None:
        lost = [sent(1), sent(2), sent(3, line=LINES[1])]
        failed, *rest = plan(survey(lost, row()))
        assert isinstance(failed, Adopt)
        expected = [AskPerson(lost[1], (row(),)), Absent(lost[2]), AskPerson(lost[0], (row(),))]
        assert ask_about_failed(rest, [failed]) == expected

    def test_the_rows_of_all_failed_adoptions_of_a_line_are_offered(self) -> None:
        lost = [sent(1), sent(2, 3)]
        rows = row("R1", 1), row("R2", 4)
        failed = adoptions(plan(survey(lost, *rows)))
        assert ask_about_failed([], failed) == [AskPerson(order, rows) for order in lost]

    def test_the_row_of_a_failed_adoption_is_offered_beside_those_in_doubt(self) -> None:
        far = row("R2", 60)
        failed, *rest = plan(survey([sent(1), sent(2)], row(), far))
        assert isinstance(failed, Adopt)
        assert [decision.rows for decision in ask_about_failed(rest, [failed])] == [  # type: ignore[union-attr]
            (row(), far),
            (row(),),
        ]


# Properties. Times are whole minutes, so that the bounds are hit often.

some = settings(max_examples=40)
LINE_CHOICES = st.sampled_from(LINES)
MINUTES = st.integers(-40, 40)
ROW_LINES = st.one_of(
    LINE_CHOICES,
    st.tuples(st.sampled_from(["product", "string", ""]), st.just("type"), st.just(2)),
    st.tuples(st.just("product"), st.just("type"), st.none()),
)


@st.composite
def orders(draw: st.DrawFn, first_key: int, *, min_size: int = 0) -> list[SentOrder]:
    since = st.none() | st.integers(0, 100)
    made = st.tuples(MINUTES, LINE_CHOICES, since, st.sampled_from([False, False, True]))
    return [
        sent(
            key,
            minutes,
            line,
            absent_since=None if since is None else at(since),
            was_accepted=was_accepted,
        )
        for key, (minutes, line, since, was_accepted) in enumerate(
            draw(st.lists(made, min_size=min_size, max_size=6)), first_key
        )
    ]


@st.composite
def surveys(draw: st.DrawFn) -> Survey:
    places = st.tuples(st.none() | st.integers(-170, 170), ROW_LINES)
    rows = [row(f"R{n}", *place) for n, place in enumerate(draw(st.lists(places, max_size=8)))]
    return survey(
        draw(orders(1, min_size=1)),
        *rows,
        rivals=draw(st.just([]) | orders(100)),
        unseen=draw(st.just([]) | orders(200)),
        doubts=draw(st.just([]) | orders(300)),
        is_whole=draw(st.sampled_from([True, True, False])),
        now=at(draw(st.integers(40, 110))),
    )


def is_exact(row: OrderAnswer, order: SentOrder, within: timedelta) -> bool:
    if (row.product_id, row.type_id, row.quantity) != order.line:
        return False
    return row.created_at is None or abs(row.created_at - order.sent_at) <= within


@some
@given(surveys())
def test_every_lost_order_gets_exactly_one_decision(look: Survey) -> None:
    decided = Counter(decision.order for decision in plan(look))
    assert decided == Counter(look.lost)


@some
@given(surveys())
def test_adopted_rows_are_distinct_and_of_the_orders_line_and_time(look: Survey) -> None:
    adopted = adoptions(plan(look))
    names = ids([adoption.row for adoption in adopted])
    assert len(set(names)) == len(names)
    for adoption in adopted:
        assert adoption.row in look.rows
        assert is_exact(adoption.row, adoption.order, SKEW)
        assert not any(is_exact(adoption.row, rival, SKEW) for rival in look.rivals)


@some
@given(surveys())
def test_absence_is_declared_only_where_it_is_proven(look: Survey) -> None:
    decisions = plan(look)
    adopted = ids([adoption.row for adoption in adoptions(decisions)])
    unowned = [row for row in look.rows if row.provider_id not in adopted]
    for order in (decision.order for decision in decisions if isinstance(decision, Absent)):
        assert look.is_whole
        assert not any(is_exact(row, order, FARTHEST) for row in unowned)
        assert not any(abs(other.sent_at - order.sent_at) <= PROOF / 2 for other in look.unseen)
        assert not order.was_accepted
        doubts = [*look.doubts, *(other for other in look.lost if other.was_accepted)]
        assert not any(abs(other.sent_at - order.sent_at) <= SKEW for other in doubts)
        assert order.absent_since <= look.half_proof_ago
        assert order.sent_at <= look.proof_ago
        assert order.is_dated


@some
@given(surveys())
def test_a_person_is_never_offered_rows_that_are_adopted(look: Survey) -> None:
    decisions = plan(look)
    adopted = ids([adoption.row for adoption in adoptions(decisions)])
    for decision in decisions:
        if isinstance(decision, AskPerson):
            assert decision.rows
            assert set(decision.rows) <= set(look.rows)
            assert not set(ids(decision.rows)) & set(adopted)


@some
@given(surveys(), st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_its_input(look: Survey, random: Any) -> None:
    def shuffled(items: Sequence[Any]) -> list[Any]:
        return random.sample(items, len(items))

    other = replace(
        look,
        lost=shuffled(look.lost),
        rows=shuffled(look.rows),
        rivals=shuffled(look.rivals),
        unseen=shuffled(look.unseen),
        doubts=shuffled(look.doubts),
    )
    assert Counter(plan(other)) == Counter(plan(look))


@some
@given(surveys())
def test_which_of_two_identical_orders_is_which_does_not_matter_to_the_plan(look: Survey) -> None:
    def anonymous(order: SentOrder) -> SentOrder:
        return replace(order, key=0, absent_since=None)

    keys: defaultdict[SentOrder, list[int]] = defaultdict(list)
    for order in look.lost:
        keys[anonymous(order)].append(order.key)
    # Identical orders swap their keys: the first order gets the last key.
    renamed = replace(
        look, lost=[replace(order, key=keys[anonymous(order)].pop()) for order in look.lost]
    )

    def outcomes(decisions: Sequence[Decision]) -> Counter[Decision]:
        return Counter(
            replace(decision, order=anonymous(decision.order))
            for decision in decisions
            if isinstance(decision, Adopt | AskPerson)
        )

    assert outcomes(plan(renamed)) == outcomes(plan(look))


@some
@given(surveys(), st.data())
def test_failed_adoptions_never_lead_to_absence_in_their_line(
    look: Survey, data: st.DataObject
) -> None:
    decisions = plan(look)
    adopted = adoptions(decisions)
    failed = [adoption for adoption in adopted if data.draw(st.booleans())]
    rest = [decision for decision in decisions if not isinstance(decision, Adopt)]
    left = ask_about_failed(rest, failed)
    assert Counter(decision.order for decision in left) == Counter(
        decision.order for decision in (*rest, *failed)
    )
    lines = {adoption.order.line for adoption in failed}
    assert all(isinstance(d, AskPerson) for d in left if d.order.line in lines)
    assert [d for d in left if d.order.line not in lines] == [
        d for d in rest if d.order.line not in lines
    ]


# The minutes by which the provider's clock may be off. With a right clock, the list shows orders
# where the app looks for them. With a wrong clock, it shows them far from there, but within two
# hours of everything that was sent.
RIGHT_CLOCKS = (0, 0, 9, -10)
WRONG_CLOCKS = (11, -11, 40, -40)


@st.composite
def ledgers(draw: st.DrawFn, clocks: Sequence[int]) -> tuple[Survey, list[SentOrder]]:
    """Draw a search of the provider's list, and the lost orders that the provider has placed.

    Rows ``P…`` belong to the orders with these keys; rows ``E…`` were bought elsewhere.
    """
    lost, rivals = draw(orders(1, min_size=1)), draw(st.just([]) | orders(100))
    clock = draw(st.sampled_from(clocks))
    placed = [o for o in (*lost, *rivals) if o.was_accepted or draw(st.booleans())]
    rows = [
        row(f"P{order.key}", (order.sent_at - START) / MINUTE + clock, order.line)
        for order in placed
    ]
    elsewhere = draw(st.just([]) | st.lists(st.tuples(MINUTES, LINE_CHOICES), max_size=2))
    rows += [row(f"E{n}", *place) for n, place in enumerate(elsewhere)]
    look = survey(lost, *rows, rivals=rivals, now=at(110))
    return look, [order for order in lost if order in placed]


@settings(max_examples=100)
@given(ledgers(RIGHT_CLOCKS + WRONG_CLOCKS))
def test_an_order_that_was_placed_is_never_bought_again(
    ledger: tuple[Survey, list[SentOrder]],
) -> None:
    """Identical orders are counted together, because each may have the row of the other."""
    look, placed = ledger
    absent = Counter(d.order.line for d in plan(look) if isinstance(d, Absent))
    unplaced = Counter(order.line for order in look.lost if order not in placed)
    assert absent <= unplaced


@some
@given(ledgers(RIGHT_CLOCKS))
def test_a_rivals_row_is_never_adopted(ledger: tuple[Survey, list[SentOrder]]) -> None:
    look, _placed = ledger
    theirs = {f"P{rival.key}" for rival in look.rivals}
    assert not theirs & set(ids([adoption.row for adoption in adoptions(plan(look))]))


def test_planning_the_recovery_imports_no_model_and_no_http_client() -> None:
    code = (
        "import sys, giftcards.rules.lost_orders\n"
        "print({'giftcards.models', 'requests', 'urllib3'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
