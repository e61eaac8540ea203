"""Lost orders: found again in the provider's list, or proven absent, and never bought twice."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

import pytest
from django.db import IntegrityError, connection
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.listing import Listing, find_orphans, read_listing
from giftcards.engine.pool import Pulse
from giftcards.engine.recovering import adopt, declare_absent, recover
from giftcards.exceptions import OutcomeUnknown
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.provider.client import Client
from giftcards.rules.problems import Problem
from giftcards.simulator import SPECIAL_TYPES, Simulator, Special
from giftcards.statuses import Status
from tests.builders import details, make_order, problems
from tests.stage import (
    LIST,
    PLACE,
    PROVIDER,
    PSN,
    Setter,
    Wire,
    ago,
    buy,
    claim_to_send,
    failing,
    fresh,
    history,
    in_threads,
    list_page,
    look,
    pass_time,
    posts,
    run_sweep,
    statuses,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

ADOPTED = ["PLACING", "UNCONFIRMED", "HANDLING", "FULFILLED"]
SOURCE = StatusChange.Source.RECOVERY


@pytest.fixture
def _settings(set_conf: Setter, shorten: Setter) -> None:
    set_conf(REQUESTS_PER_MINUTE=1200, POLL_INTERVAL=0.1)
    shorten(proof_of_absence=60)


def buy_elsewhere(type_id: str, quantity: int = 2) -> str:
    """Buy on the same account with another system of the shop, and return the order's id."""
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        return client.place(product_id=PSN, type_id=type_id, quantity=quantity)


def behave(monkeypatch: pytest.MonkeyPatch, *type_ids: str) -> None:
    """Make the special types behave like any other type from now on."""
    for type_id in type_ids:
        monkeypatch.setitem(SPECIAL_TYPES, type_id, Special(summary=""))


def codes(order: Order) -> list[str]:
    return sorted(card.value for card in order.cards.all())


def row(order: Order | None = None, **changes: Any) -> dict[str, Any]:
    """Return a row of the list that may belong to ``order``."""
    made = {"_id": "B1", "status": "HANDLING", "quantity": 2, "product": PSN, "type": "type_001"}
    at = timezone.now() if order is None or order.sent_at is None else order.sent_at
    return made | {"time": at.isoformat()} | changes


BY_HAND = Problem("staff_rejected", {"by": "amina"})
TWO_PAGES = {"json": list_page(row(quantity=7), totalPages=2, totalResults=2)}


def lose(**values: Any) -> Order:
    values = {"sent_at": ago(300), "absent_since": ago(100), "due_at": ago(1)} | values
    return make_order(Status.UNCONFIRMED, **values)


def refusing_adoption() -> AbstractContextManager[None]:
    """Make adoptions fail because another order has taken the row."""
    return failing("UPDATE", "provider_alias", error=IntegrityError("taken"))


class TestFound:
    @pytest.mark.parametrize("type_id", ["SIM_LOST", "SIM_ERROR"])
    def test_a_lost_order_that_was_bought_is_adopted_and_settles(
        self, type_id: str, simulator: Simulator
    ) -> None:
        order = buy(type_id=type_id)
        assert order.status == "UNCONFIRMED"
        look(3)
        order.refresh_from_db()
        [bought] = simulator.orders.values()
        assert history(order) == ADOPTED
        assert order.provider_order_id == bought.id
        assert problems(order) == []
        assert codes(order) == sorted(card.value for card in bought.cards)
        assert posts(simulator) == 1
        [change] = order.changes.filter(from_status=Status.UNCONFIRMED)
        assert change.source == "recovery"
        assert details(change) == [Problem("found", {"provider_order_id": bought.id})]

    def test_of_two_identical_lost_orders_the_one_that_was_not_bought_is_resent(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orders = [buy(type_id="SIM_LOST")]
        monkeypatch.setitem(SPECIAL_TYPES, "SIM_LOST", SPECIAL_TYPES["SIM_DROP"])
        orders.append(buy(type_id="SIM_LOST"))
        behave(monkeypatch, "SIM_LOST")
        look()
        assert statuses() == ["HANDLING", "UNCONFIRMED"]
        pass_time(70)
        look(3)
        assert statuses() == ["FULFILLED", "FULFILLED"]
        assert posts(simulator) == 3
        assert len(simulator.orders) == 2

    def test_a_lost_order_is_not_looked_for_before_it_is_due(self, simulator: Simulator) -> None:
        order = buy(type_id="SIM_LOST")
        with Gateway() as gateway:
            assert recover(Order.objects.all(), gateway, Pulse()) == 0
            Order.objects.update(due_at=ago(1))
            assert recover(Order.objects.all(), gateway, Pulse(lambda: False)) == 0
            assert recover(Order.objects.all(), gateway, Pulse()) == 1
        assert fresh(order).status == "HANDLING"

    @pytest.mark.usefixtures("simulator")
    def test_looking_for_one_of_two_identical_lost_orders_finds_both(self) -> None:
        """Both orders explain a row.

        With one order alone, there would seem to be one row too many.
        """
        _first, second = (buy(type_id="SIM_LOST") for _ in range(2))
        Order.objects.update(due_at=ago(1))
        with Gateway() as gateway:
            assert recover(Order.objects.filter(pk=second.pk), gateway, Pulse()) == 2
        assert statuses() == ["HANDLING", "HANDLING"]

    def test_an_old_lost_order_does_not_keep_newer_ones_from_being_found(self, wire: Wire) -> None:
        old, new = lose(sent_at=ago(86_400 * 20), due_at=ago(1)), lose()
        wire.get(LIST, json=list_page(row(new)))
        with Gateway() as gateway:
            assert recover(Order.objects.filter(pk=new.pk), gateway, Pulse()) == 1
        assert len([call for call in wire.calls if "/list" in call.request.url]) == 1
        assert fresh(old).status == "UNCONFIRMED"

    def test_a_bought_order_whose_sender_died_is_adopted(self, simulator: Simulator) -> None:
        order = make_order(type_id="SIM_LOST")
        assert claim_to_send(order)
        with pytest.raises(OutcomeUnknown):
            buy_elsewhere("SIM_LOST")
        Order.objects.update(claimed_until=ago(1))
        look(3)
        assert history(order) == ADOPTED
        assert posts(simulator) == 1


class TestOnlyListed:
    """Orders that are in the list under an id that the provider does not know otherwise."""

    CHECK = f"{PROVIDER}/v3/gift-cards/check-order/B1"

    @pytest.mark.parametrize("is_late", [False, True])
    def test_an_order_known_only_from_the_list_settles_by_the_list(
        self, is_late: bool, wire: Wire
    ) -> None:
        lost = lose()
        unknown = {"success": False, "error": {"code": "NOT_FOUND"}}
        asked = wire.get(self.CHECK, json=unknown, status=404)
        shown = wire.get(LIST, json=list_page(row(lost)))
        look(3)
        if is_late:
            Order.objects.update(status=Status.DELAYED, accepted_at=ago(400))
            # The list is read although it has failed, because there is no other source.
            ProviderState.objects.update(list_usable_at=ago(-99))
            look(2)
        assert (fresh(lost).status, problems(lost)) == ("DELAYED" if is_late else "HANDLING", [])
        assert asked.call_count == 1
        assert shown.call_count >= 2
        cards = [{"value": f"CANARY-{number}"} for number in range(2)]
        done = {"status": "FULFILLED", "fulfilled_quantity": 2, "cards": cards}
        wire.replace("GET", LIST, json=list_page(row(lost, **done)))
        look()
        assert (fresh(lost).status, lost.cards.count()) == ("FULFILLED", 2)

    def test_an_order_known_only_from_the_list_needs_a_look_if_it_disappears(
        self, wire: Wire
    ) -> None:
        lost = lose()
        wire.get(self.CHECK, json={"success": False, "error": {"code": "NOT_FOUND"}}, status=404)
        wire.get(LIST, json=list_page(row(lost)))
        look(2)
        wire.replace("GET", LIST, json=list_page())
        look()
        assert problems(lost) == [Problem("not_known")]


def first_answer_is_about(wire: Wire, order_id: str, **about: Any) -> None:
    told = row(_id=order_id, **about)
    url = f"{PROVIDER}/v3/gift-cards/check-order/{order_id}"
    wire.get(url, json={"success": True, "data": told})


class TestMisnamed:
    """The placing answer named an id that is not the order's."""

    def accept(self, order_id: str, **values: Any) -> Order:
        made = {"sent_at": ago(300), "accepted_at": ago(299), "due_at": ago(1)}
        return make_order(Status.HANDLING, **{**made, "provider_order_id": order_id, **values})

    def test_an_order_with_a_wrong_id_finds_its_own_purchase(self, wire: Wire) -> None:
        order = self.accept("S1")
        stranger = row(order, _id="S1", type="type_009", quantity=7)
        wire.get(LIST, json=list_page(stranger, row(order, _id="B1")))
        first_answer_is_about(wire, "S1", type="type_009", quantity=7)
        look()
        assert history(order) == ["UNCONFIRMED", "HANDLING"]
        # The acceptance stays on record, even if staff release the order again.
        assert (fresh(order).provider_order_id, order.answered_id) == ("B1", "S1")
        assert order.identified_at is not None
        assert problems(order) == []

    def test_the_true_owner_gets_the_id_back_from_an_order_with_a_wrong_id(
        self, wire: Wire
    ) -> None:
        first = self.accept("B2")
        second = make_order(type_id="type_002")
        wire.get(f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}", status=404)
        wire.post(PLACE, json={"success": True, "data": {"orderId": "B2"}})
        rows = [row(first, _id="B1"), row(_id="B2", type="type_002")]
        wire.get(LIST, json=list_page(*rows))
        first_answer_is_about(wire, "B1")
        first_answer_is_about(wire, "B2", type="type_002")
        look(4)
        for order, order_id in ((first, "B1"), (second, "B2")):
            assert (fresh(order).status, order.provider_order_id) == ("HANDLING", order_id)
            assert problems(order) == []
        wire.assert_call_count(PLACE, 1)

    @pytest.mark.parametrize(
        "values", [{"answered_id": "S1"}, {"answered_id": "S1", "absent_since": None}]
    )
    def test_an_order_with_a_wrong_id_is_never_absent_nor_are_its_neighbours(
        self, values: dict[str, Any], wire: Wire
    ) -> None:
        """The provider said that it had placed the order, so the list must lack a row."""
        lose(sent_at=ago(301), **values)
        near, far = lose(type_id="type_002"), lose(type_id="type_002", sent_at=ago(300 + 700))
        wire.get(LIST, json=list_page())
        look(3)
        assert statuses()[:2] == ["UNCONFIRMED", "UNCONFIRMED"]
        assert fresh(near).due_at is not None
        assert "PENDING" in history(far)

    @pytest.mark.parametrize(
        ("shown", "is_sent_again"),
        [
            ({}, True),
            # The neighbour's id is unconfirmed, and may be the lost order's.
            ({"type": "type_009"}, False),
            ({"product": None}, False),
            (None, False),
        ],
    )
    def test_no_order_is_declared_absent_before_a_neighbours_id_is_confirmed(
        self, shown: dict[str, Any] | None, is_sent_again: bool, wire: Wire
    ) -> None:
        other = self.accept("B1", type_id="type_002", sent_at=ago(500), due_at=None)
        lost = lose()
        about = {"_id": "B1", "type": "type_002", "quantity": 2}
        rows = [] if shown is None else [row(other, **about | shown)]
        wire.get(LIST, json=list_page(*rows))
        wire.post(PLACE, status=502)
        look()
        assert ("PENDING" in history(lost)) is is_sent_again
        # An answer about the neighbour confirms its id.
        if not is_sent_again:
            Order.objects.filter(pk=other.pk).update(identified_at=ago(1))
            Order.objects.filter(pk=lost.pk).update(absent_since=ago(100))
            wire.replace("GET", LIST, json=list_page(row(other, **about)))
            look(2)
            assert "PENDING" in history(lost)

    def test_an_order_accepted_just_now_keeps_no_lost_order_from_being_resent(
        self, wire: Wire
    ) -> None:
        """A busy shop has an order of this kind at any time."""
        self.accept("B1", type_id="type_002", sent_at=ago(3), accepted_at=ago(2), due_at=None)
        lost = lose()
        wire.get(LIST, json=list_page())
        wire.post(PLACE, status=502)
        look()
        assert "PENDING" in history(lost)

    def test_a_row_that_an_order_of_another_line_has_is_offered_not_adopted(
        self, wire: Wire
    ) -> None:
        """The row stays with the order that has its id until staff have looked at it."""
        self.accept("B1", type_id="type_002", due_at=None)
        lost = lose()
        wire.get(LIST, json=list_page(row(lost, _id="B1")))
        look()
        assert fresh(lost).status == "UNCONFIRMED"
        assert [candidate["id"] for candidate in lost.candidates] == ["B1"]

    def test_a_lost_order_does_not_take_the_row_of_an_order_with_a_wrong_id(
        self, wire: Wire
    ) -> None:
        """The row may be the purchase of the order that has the wrong id."""
        self.accept("S1", due_at=None)
        lost = lose()
        rows = [row(lost, _id="S1", type="type_009", quantity=7), row(lost, _id="B1")]
        wire.get(LIST, json=list_page(*rows))
        look()
        assert fresh(lost).status == "UNCONFIRMED"

    @pytest.mark.parametrize(
        ("is_insisted", "about", "shown"),
        [
            (False, {"type": "type_009"}, [Problem("line_differs", {"field": "type"})]),
            # Staff may insist on a different product and type, but not on a different quantity.
            (True, {"type": "type_009", "product": "another"}, []),
            (True, {"quantity": 7}, [Problem("quantity_differs", {"told": 7, "ordered": 2})]),
        ],
    )
    def test_an_id_that_staff_chose_stays_and_answers_that_do_not_fit_are_shown(
        self, is_insisted: bool, about: Any, shown: list[Problem], wire: Wire
    ) -> None:
        order = lose()
        assert adopt(order, "S1", source=StatusChange.Source.STAFF, is_insisted=is_insisted)
        wire.get(LIST, json=list_page())
        first_answer_is_about(wire, "S1", **about)
        look()
        assert (fresh(order).status, order.provider_order_id) == ("HANDLING", "S1")
        assert problems(order) == shown


class TestRivals:
    """Orders that may own the row ``R1``, which seems to belong to no order."""

    def test_a_row_is_not_adopted_while_an_order_of_its_line_was_never_checked(
        self, wire: Wire
    ) -> None:
        lost = lose()
        other = make_order(Status.HANDLING, sent_at=ago(400), accepted_at=ago(399), due_at=None)
        wire.get(LIST, json=list_page(row(lost, _id="R1")))
        look()
        assert fresh(lost).status == "UNCONFIRMED"
        # Staff may know who owns the row.
        assert [candidate["id"] for candidate in lost.candidates] == ["R1"]
        # The other order is checked, and its row has a different id.
        Order.objects.filter(pk=other.pk).update(checked_at=ago(1), provider_alias="R2")
        look()
        assert (fresh(lost).status, lost.provider_order_id) == ("HANDLING", "R1")

    def test_a_failed_look_does_not_postpone_a_lost_order_that_is_not_due(self, wire: Wire) -> None:
        lost, other = lose(), lose(due_at=ago(-500), failures=3)
        wire.get(LIST, status=502)
        run_sweep()
        assert fresh(lost).failures == 1
        due_at = other.due_at
        assert (fresh(other).failures, other.due_at) == (3, due_at)

    @pytest.mark.parametrize(
        "known",
        [
            {"type_id": "type_002"},
            {"checked_at": ago(9)},
            {"provider_alias": "R2"},
            {"provider_order_id": "R3"},
            {"sent_at": ago(9000), "accepted_at": ago(8999)},
        ],
    )
    def test_a_row_is_adopted_if_no_other_order_can_own_it(
        self, known: dict[str, Any], wire: Wire
    ) -> None:
        lost = lose()
        values = {"sent_at": ago(400), "accepted_at": ago(399), "due_at": None} | known
        make_order(Status.FULFILLED, **values)
        # A row that belongs to the other order has the line of that order.
        shown = row(_id="R3", type="type_001" if "provider_order_id" in known else "type_003")
        wire.get(LIST, json=list_page(row(lost, _id="R1"), shown))
        look()
        assert (fresh(lost).status, lost.provider_order_id) == ("HANDLING", "R1")

    @pytest.mark.parametrize(
        "moved",
        [
            {"status": "HANDLING", "provider_order_id": "A7", "accepted_at": ago(0)},
            {"status": "UNCONFIRMED"},
        ],
    )
    def test_a_row_is_not_adopted_if_another_order_moves_during_the_look(
        self, moved: dict[str, Any], wire: Wire
    ) -> None:
        lost = lose()
        other = make_order(Status.PLACING, claimed_until=ago(-60), created_at=lost.sent_at)
        wire.get(LIST, json=list_page(row(lost, _id="R1")))

        def move(execute: Any, sql: str, *arguments: Any) -> Any:
            """Move the other order between reading the list and finding the owners of its rows."""
            if "BETWEEN" in sql:
                Order.objects.filter(pk=other.pk).update(**moved)
            return execute(sql, *arguments)

        with connection.execute_wrapper(move):
            look()
        lost.refresh_from_db()
        assert (lost.status, fresh(other).status) == ("UNCONFIRMED", moved["status"])

    def test_a_row_is_adopted_if_the_row_of_another_order_would_be_newer(self, wire: Wire) -> None:
        """If a line is sold all the time, there is always an order of it that is being sent."""
        lost = lose(sent_at=ago(700))
        make_order(Status.PLACING, claimed_until=ago(-60))
        wire.get(LIST, json=list_page(row(lost, _id="R1")))
        look()
        assert (fresh(lost).status, lost.provider_order_id) == ("HANDLING", "R1")

    @pytest.mark.parametrize("has_typed_id", [True, False])
    def test_a_row_without_an_id_settles_no_doubt_about_an_order_never_checked_or_of_a_typed_id(
        self, has_typed_id: bool, wire: Wire
    ) -> None:
        """The typed id may be that of the placing answer, while the row has a different id."""
        lost, other = lose(), lose()
        assert adopt(other, "A7", source=StatusChange.Source.STAFF if has_typed_id else SOURCE)
        Order.objects.filter(pk=other.pk).update(due_at=None)
        wire.get(LIST, json=list_page(row(lost, _id="R1"), row(_id=None)))
        look()
        assert (fresh(lost).status, len(lost.candidates)) == ("UNCONFIRMED", 1)


class TestAbsent:
    def test_a_lost_order_missing_at_two_looks_is_sent_again(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = buy(type_id="SIM_DROP")
        behave(monkeypatch, "SIM_DROP")
        look()
        assert fresh(order).status == "UNCONFIRMED"
        assert order.absent_since is not None
        assert posts(simulator) == 1
        pass_time(120 + 10)
        look()
        assert fresh(order).status == "PENDING"
        assert (order.absent_since, problems(order)) == (None, [])
        look(4)
        assert fresh(order).status == "FULFILLED"
        assert history(order) == ["PLACING", "UNCONFIRMED", "PENDING", "PLACING", *ADOPTED[2:]]
        assert posts(simulator) == 2
        assert len(simulator.orders) == 1

    def test_a_row_that_appears_at_the_second_look_is_adopted(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = buy(type_id="SIM_DROP")
        look()
        behave(monkeypatch, "SIM_DROP")
        buy_elsewhere("SIM_DROP")
        pass_time(61)
        look(2)
        assert (fresh(order).status, order.absent_since) == ("FULFILLED", None)
        assert posts(simulator) == 2  # of which one was somebody else's

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ({"status": 502}, [30, 30, 60, 120, 240]),
            # The list is usable, but the order was sent too recently.
            ({"json": {"items": []}}, [30] * 5),
        ],
    )
    def test_looks_become_rare_unless_the_next_one_may_prove_absence(
        self, answer: dict[str, Any], expected: list[int], wire: Wire
    ) -> None:
        order = lose(sent_at=ago(1), absent_since=None)
        wire.get(LIST, **(answer if "status" in answer else {"json": list_page()}))
        waits = []
        for _ in range(5):
            look()
            ProviderState.objects.update(paused_until=ago(1))
            assert fresh(order).due_at is not None
            waits.append((order.due_at - timezone.now()).total_seconds())
        assert waits == pytest.approx(expected, abs=10)

    @pytest.mark.parametrize(
        "answers",
        [
            [{"status": 500, "json": {"success": False, "error": {"code": "INTERNAL_ERROR"}}}],
            [{"status": 404, "json": {"message": "no such path", "statusCode": 404}}],
            [{"status": 502, "body": "<html>Bad Gateway</html>"}],
            [{"body": "null"}],
            [{"body": "<html></html>"}],
            [{"json": {"success": True, "data": []}}],
            [{"json": {"success": True, "data": {"items": None}}}],
            [{"json": {"success": True, "data": {"items": []}}}],
            [{"json": list_page(totalPages=None, totalResults=None)}],
            [{"json": list_page(row(quantity=7), totalPages=None, totalResults=2)}],
            [{"json": list_page(totalPages="many")}],
            [{"json": list_page(totalPages=60)}],
            [{"json": list_page(totalResults=1)}],
            [{"json": list_page(None)}],
            [{"json": list_page("row")}],
            [{"json": list_page(row(_id=None, quantity=7))}],
            [{"json": list_page(row(_id=7, quantity=7))}],
            [{"json": list_page(row(time="yesterday", quantity=7))}],
            [{"json": list_page(row(quantity=7, time=None))}],
            [{"body": ConnectionResetError()}],
            # The second page is the first one again, or fails.
            [TWO_PAGES],
            [TWO_PAGES, {"status": 500}],
        ],
    )
    def test_an_unusable_or_incomplete_list_proves_no_absence(
        self, answers: Any, wire: Wire
    ) -> None:
        lose()
        for answer in answers:
            wire.get(LIST, **answer)
        look()
        assert statuses() == ["UNCONFIRMED"]
        assert not [call for call in wire.calls if call.request.method == "POST"]

    @pytest.mark.parametrize(
        ("name", "shown", "expected"),
        [
            ("provider_order_id", ["B1"], "PENDING"),
            ("provider_alias", ["B1"], "PENDING"),
            ("provider_order_id", [], "UNCONFIRMED"),
        ],
    )
    def test_a_list_proves_absence_if_it_shows_the_accepted_neighbour(
        self, name: str, shown: list[str], expected: str, wire: Wire
    ) -> None:
        lose()
        values = {"provider_order_id": "A1", "provider_alias": "", name: "B1"}
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), **values)
        rows = [row(_id=order_id, status="FULFILLED") for order_id in shown]
        wire.get(LIST, json=list_page(*rows))
        look()
        assert statuses() == [expected, "FULFILLED"]

    @pytest.mark.parametrize(("is_shown", "minutes"), [(True, [10]), (False, [10, 120])])
    def test_hours_of_the_list_are_read_only_if_the_clock_may_be_wrong(
        self, is_shown: bool, minutes: list[int], wire: Wire
    ) -> None:
        lost = lose()
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), provider_order_id="B1")
        wire.get(LIST, json=list_page(*[row()] * is_shown))
        look()
        read = [call.request.params["from"] for call in wire.calls]  # type: ignore[union-attr]
        before = [lost.sent_at - datetime.fromisoformat(start) for start in read]
        assert [round(span.total_seconds() / 60) for span in before] == minutes

    def test_no_order_of_a_line_is_resent_if_a_row_of_it_could_not_be_adopted(
        self, wire: Wire
    ) -> None:
        lost, other, _unlike = lose(), lose(), lose(type_id="type_003")
        wire.get(LIST, json=list_page(row(lost)))
        with refusing_adoption(), Gateway() as gateway:
            assert recover(Order.objects.all(), gateway, Pulse()) == 1
        assert statuses() == ["UNCONFIRMED", "UNCONFIRMED", "PENDING"]
        for order in (lost, other):
            assert [candidate["id"] for candidate in fresh(order).candidates] == ["B1"]

    def test_an_order_that_the_list_never_shows_holds_back_only_its_neighbours(
        self, wire: Wire
    ) -> None:
        found, near, far = (lose(type_id=f"type_00{number}") for number in (2, 3, 4))
        Order.objects.filter(pk=far.pk).update(sent_at=ago(400))
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), type_id="type_009")
        wire.get(LIST, json=list_page(row(found, type="type_002")))
        look()
        status = dict(Order.objects.values_list("pk", "status"))
        expected = ["HANDLING", "UNCONFIRMED", "PENDING"]
        assert [status[order.pk] for order in (found, near, far)] == expected

    @pytest.mark.parametrize("source", [SOURCE, StatusChange.Source.STAFF])
    def test_only_a_person_who_resends_an_order_restarts_its_send_timeout(
        self, source: StatusChange.Source
    ) -> None:
        """Otherwise a repeatedly lost order could be bought long after the customer has left."""
        lost = lose(queued_at=ago(900))
        assert declare_absent(lost, send_again=True, source=source)
        assert (fresh(lost).queued_at > ago(60)) == (source == StatusChange.Source.STAFF)

    def test_a_candidate_that_is_no_longer_listed_is_not_offered(self, wire: Wire) -> None:
        how_it_was_lost = Problem("sender_died")
        offered = [how_it_was_lost, Problem("choose", {"count": 1})]
        lost = lose(candidates=[{"id": "B9"}], problems=offered)
        wire.get(LIST, status=500)
        look()
        assert fresh(lost).candidates == []
        assert problems(lost) == [how_it_was_lost, Problem("not_listed")]


class TestAmbiguous:
    def test_more_rows_than_lost_orders_are_offered_to_a_person_without_codes(
        self, simulator: Simulator
    ) -> None:
        order = buy(type_id="SIM_LOST")
        with pytest.raises(OutcomeUnknown):
            buy_elsewhere("SIM_LOST")
        look(2)
        pass_time(300)
        look(2)
        assert fresh(order).status == "UNCONFIRMED"
        assert {candidate["id"] for candidate in order.candidates} == set(simulator.orders)
        how_it_was_lost, choice = problems(order)
        assert how_it_was_lost.code == "answer_lost"
        assert choice == Problem("choose", {"count": 2})
        assert posts(simulator) == 2
        secrets = [c for bought in simulator.orders.values() for c in bought.cards]
        assert len(secrets) == 4
        stored = json.dumps(order.candidates)
        assert not [c for c in secrets if c.value in stored or c.serial in stored]
        # The order settles with the row that a person chooses.
        chosen = order.candidates[1]["id"]
        assert adopt(order, chosen, source=StatusChange.Source.STAFF, detail=BY_HAND)
        look()
        assert (fresh(order).status, order.provider_order_id) == ("FULFILLED", chosen)
        assert (order.candidates, problems(order)) == ([], [])
        assert codes(order) == sorted(card.value for card in simulator.orders[chosen].cards)


def read_list(pulse: Pulse | None = None) -> Listing:
    with Gateway() as gateway:
        return read_listing(gateway, pulse or Pulse(), start=ago(60), end=ago(-60))


class TestOrphans:
    def test_a_row_that_another_order_owns_is_never_adopted(self, wire: Wire) -> None:
        order = lose()
        far = {"sent_at": ago(3600), "accepted_at": ago(3600)}
        make_order(Status.FULFILLED, provider_order_id="B1", **far)
        make_order(Status.FULFILLED, provider_order_id="A9", provider_alias="B2", **far)
        wire.get(LIST, json=list_page(row(order), row(order, _id="B2")))
        look()
        assert (fresh(order).status, order.provider_order_id) == ("PENDING", None)

    @pytest.mark.usefixtures("simulator")
    @pytest.mark.parametrize("page_size", [100, 2])
    def test_orphans_are_found_on_all_pages_and_sorted_by_time(
        self, page_size: int, shorten: Setter
    ) -> None:
        shorten(page_size=page_size)
        buy()
        foreign = [*(buy_elsewhere("type_001") for _ in range(4)), buy_elsewhere("TEST_REFUND", 1)]
        listing = read_list()
        assert (listing.is_whole, len(listing.rows)) == (True, 6)
        orphans = find_orphans(listing)
        assert {orphan.provider_id for orphan in orphans} == set(foreign)
        times = [orphan.created_at for orphan in orphans if orphan.created_at]
        assert times == sorted(times)
        assert len(times) == 5

    @pytest.mark.usefixtures("simulator")
    def test_an_empty_list_has_no_orphans_and_is_whole_unless_calls_had_to_stop(self) -> None:
        listing = read_list()
        assert (listing.is_whole, find_orphans(listing)) == (True, [])
        assert not read_list(Pulse(lambda: False)).is_whole


class TestAdopting:
    def test_an_id_that_another_order_has_cannot_be_adopted(self) -> None:
        make_order(Status.HANDLING, provider_order_id="B1")
        order = lose()
        assert not adopt(order, "B1", source=SOURCE)
        assert (fresh(order).status, order.provider_order_id) == ("UNCONFIRMED", None)
        assert history(order) == []

    def test_an_order_that_has_moved_can_be_neither_adopted_nor_declared_absent(self) -> None:
        order = lose()
        stale = Order.objects.get(pk=order.pk)
        assert adopt(order, "B1", source=SOURCE)
        assert not adopt(stale, "B2", source=SOURCE)
        assert not declare_absent(stale, send_again=True, source=SOURCE)
        assert (fresh(order).status, order.provider_order_id) == ("HANDLING", "B1")

    def test_a_stale_look_at_an_earlier_attempt_decides_nothing(self) -> None:
        """The order was sent again and lost again, so the earlier look is out of date."""
        order = lose()
        stale = Order.objects.get(pk=order.pk)
        assert declare_absent(order, send_again=True, source=SOURCE)
        Order.objects.update(status=Status.UNCONFIRMED, claim="another")
        assert not adopt(stale, "B1", source=SOURCE)
        assert not declare_absent(stale, send_again=True, source=SOURCE)

    def test_of_two_orders_that_race_for_one_row_one_adopts_it(self, shared_database: str) -> None:
        orders = [lose() for _ in range(2)]
        left = list(orders)
        results = in_threads(2, lambda: adopt(left.pop(), "B1", source=SOURCE))
        assert sorted(results) == [False, True]
        assert sorted(statuses()) == ["HANDLING", "UNCONFIRMED"]

    @pytest.mark.usefixtures("shared_database")
    def test_of_two_processes_that_race_for_one_order_one_adopts_it(self) -> None:
        order = lose()
        rows = ["B1", "B2"]
        results = in_threads(
            2, lambda: adopt(Order.objects.get(pk=order.pk), rows.pop(), source=SOURCE)
        )
        assert results.count(True) == 1
        assert history(order) == ["HANDLING"]

    @pytest.mark.usefixtures("shared_database")
    def test_two_concurrent_recoveries_adopt_each_order_once(self, simulator: Simulator) -> None:
        for _ in range(3):
            buy(type_id="SIM_LOST")
        Order.objects.update(due_at=ago(1))

        def work() -> int:
            with Gateway() as gateway:
                return recover(Order.objects.all(), gateway, Pulse())

        assert sum(in_threads(2, work)) <= 3
        # InnoDB may have ended a transaction of one of the processes because of a deadlock.
        Order.objects.filter(status=Status.UNCONFIRMED).update(due_at=ago(1))
        look(2)
        assert statuses() == ["FULFILLED"] * 3
        assert Card.objects.count() == 6
        assert posts(simulator) == 3

    def test_a_recovery_leaves_the_rest_to_another_process_that_is_at_work(
        self, simulator: Simulator
    ) -> None:
        orders = [buy(type_id="SIM_LOST") for _ in range(3)]
        Order.objects.update(due_at=ago(1))
        bought = list(simulator.orders)

        def adopt_the_first() -> None:
            adopt(Order.objects.get(pk=orders[0].pk), bought[0], source=SOURCE)

        with Gateway() as gateway:
            assert recover(Order.objects.all(), gateway, Pulse(beat=adopt_the_first)) == 0
        assert statuses() == ["HANDLING", "UNCONFIRMED", "UNCONFIRMED"]
        look(2)
        assert statuses() == ["FULFILLED"] * 3
        assert list(Order.objects.order_by("pk").values_list("provider_order_id", flat=True)) == (
            bought
        )


class TestDeclaring:
    def test_an_order_that_was_accepted_after_all_is_not_declared_absent(self) -> None:
        order = lose()
        Order.objects.update(answered_id="S1")
        assert not declare_absent(order, send_again=True, source=SOURCE)
        assert fresh(order).status == "UNCONFIRMED"

    def test_an_order_declared_absent_can_be_sent_again_afresh(self) -> None:
        order = lose(
            problems=[Problem("sender_died"), Problem("choose", {"count": 1})],
            failures=3,
            queued_at=ago(9999),
            candidates=[{"id": "B1"}],
        )
        assert declare_absent(order, send_again=True, source=StatusChange.Source.STAFF)
        assert (fresh(order).status, problems(order), order.failures) == ("PENDING", [], 0)
        assert (order.candidates, order.absent_since) == ([], None)
        assert order.queued_at > ago(10)
        assert order.due_at is not None
        [change] = order.changes.all()
        assert (change.source, details(change)) == ("staff", [Problem("absent")])

    def test_an_order_declared_absent_can_be_rejected_for_good(self, simulator: Simulator) -> None:
        order = lose()
        assert declare_absent(order, send_again=False, source=SOURCE, detail=BY_HAND)
        look(2)
        assert (fresh(order).status, problems(order)) == ("REJECTED", [])
        assert order.finalized_at is not None
        assert details(order.changes.get()) == [BY_HAND]
        assert posts(simulator) == 0
