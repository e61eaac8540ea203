"""Lost orders: found again in the provider's list, or proven absent, and never bought twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import responses
from django.db import IntegrityError, connection
from django.db.models import F
from django.utils import timezone

from giftcards.conf import conf
from giftcards.exceptions import OutcomeUnknown
from giftcards.following import sweep
from giftcards.fulfilment import claim
from giftcards.gateway import Gateway
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.provider import Client
from giftcards.recovery import adopt, declare_absent, find_orphans, read_listing, recover
from giftcards.simulator import SPECIAL_TYPES, Simulator, Special
from giftcards.statuses import Status
from tests.engine import PROVIDER, PSN, ago, buy, history, in_threads, make_order, posts

pytest_plugins = ["tests.engine_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

LIST = f"{PROVIDER}/v3/gift-cards/list"
ADOPTED = ["PLACING", "UNCONFIRMED", "HANDLING", "FULFILLED"]
SOURCE = StatusChange.Source.RECOVERY


@pytest.fixture
def _settings(set_conf: Callable[..., None]) -> None:
    set_conf(PROOF_OF_ABSENCE=60, REQUESTS_PER_MINUTE=6000, POLL_INTERVAL=0.1)


def look(times: int = 1) -> None:
    """Sweep, with everything due."""
    for _ in range(times):
        Order.objects.filter(due_at__isnull=False).update(due_at=timezone.now())
        with Gateway() as gateway:
            sweep(gateway)


def pass_time(seconds: float) -> None:
    """Let time go by for the lost orders."""
    passed = timedelta(seconds=seconds)
    lost = Order.objects.filter(status=Status.UNCONFIRMED)
    lost.update(sent_at=F("sent_at") - passed)
    lost.filter(absent_since__isnull=False).update(absent_since=F("absent_since") - passed)


def buy_elsewhere(type_id: str, quantity: int = 2) -> str:
    """Another system of the shop buys on the same account; the order's id."""
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        return client.place(product_id=PSN, type_id=type_id, quantity=quantity).order_id


def behave(monkeypatch: pytest.MonkeyPatch, *type_ids: str) -> None:
    """From now on the special types are like any other."""
    for type_id in type_ids:
        monkeypatch.setitem(SPECIAL_TYPES, type_id, Special(summary=""))


def statuses() -> list[str]:
    return list(Order.objects.order_by("pk").values_list("status", flat=True))


def codes(order: Order) -> list[str]:
    return sorted(card.value for card in order.cards.all())


def row(order: Order | None = None, **changes: Any) -> dict[str, Any]:
    """A row of the list that may be ``order``."""
    made = {"_id": "B1", "status": "HANDLING", "quantity": 2, "product": PSN, "type": "type_001"}
    at = timezone.now() if order is None or order.sent_at is None else order.sent_at
    return made | {"time": at.isoformat()} | changes


def listed(*rows: Any, **pagination: Any) -> dict[str, Any]:
    pages = {"page": 1, "pageSize": 100, "totalPages": 1, "totalResults": len(rows)} | pagination
    return {"success": True, "data": {"items": list(rows), "pagination": pages}}


def lose(**values: Any) -> Order:
    values = {"sent_at": ago(300), "absent_since": ago(100), "due_at": ago(1)} | values
    return make_order(Status.UNCONFIRMED, **values)


class TestFound:
    @pytest.mark.parametrize("type_id", ["SIM_LOST", "SIM_ERROR"])
    def test_one(self, type_id: str, simulator: Simulator) -> None:
        order = buy(type_id=type_id)
        assert order.status == "UNCONFIRMED"
        look(3)
        order.refresh_from_db()
        [bought] = simulator.orders.values()
        assert history(order) == ADOPTED
        assert order.provider_order_id == bought.id
        assert order.problem == ""
        assert codes(order) == sorted(card.value for card in bought.cards)
        assert posts(simulator) == 1

    def test_says_so(self, simulator: Simulator) -> None:
        order = buy(type_id="SIM_LOST")
        look()
        [change] = order.changes.filter(to_status=Status.HANDLING)
        [bought] = simulator.orders
        assert (change.source, change.detail) == (
            "recovery",
            f"Found at the provider as {bought}.",
        )

    def test_two_of_a_kind_in_turn(self, simulator: Simulator) -> None:
        orders = [buy(type_id="SIM_LOST") for _ in range(2)]
        look(2)
        for order, bought in zip(orders, simulator.orders.values(), strict=True):
            order.refresh_from_db()
            assert (order.status, order.provider_order_id) == ("FULFILLED", bought.id)
            assert codes(order) == sorted(card.value for card in bought.cards)
        assert posts(simulator) == 2

    def test_different_lines(self, simulator: Simulator) -> None:
        types = ["SIM_LOST", "SIM_ERROR"]
        orders = [buy(type_id=type_id, quantity=n) for type_id in types for n in (1, 2)]
        look()
        for order in orders:
            order.refresh_from_db()
            bought = simulator.orders[order.provider_order_id or ""]
            assert (bought.type, bought.quantity) == (order.type_id, order.quantity)

    def test_one_of_two_was_bought(
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

    def test_what_is_not_due_is_left_alone(self, simulator: Simulator) -> None:
        order = buy(type_id="SIM_LOST")
        with Gateway() as gateway:
            assert recover(Order.objects.all(), gateway, lambda: True) == 0
            Order.objects.update(due_at=ago(1))
            assert recover(Order.objects.all(), gateway, lambda: False) == 0
            assert recover(Order.objects.all(), gateway, lambda: True) == 1
        order.refresh_from_db()
        assert order.status == "HANDLING"

    def test_looking_for_one_of_two(self, simulator: Simulator) -> None:
        """Both are explained: with one alone, there would seem to be one row too many."""
        _first, second = (buy(type_id="SIM_LOST") for _ in range(2))
        Order.objects.update(due_at=ago(1))
        with Gateway() as gateway:
            assert recover(Order.objects.filter(pk=second.pk), gateway, lambda: True) == 2
        assert statuses() == ["HANDLING", "HANDLING"]

    def test_an_old_one_does_not_keep_the_others_back(self, wire: responses.RequestsMock) -> None:
        old, new = lose(sent_at=ago(86_400 * 20), due_at=ago(1)), lose()
        wire.get(LIST, json=listed(row(new)))
        with Gateway() as gateway:
            assert recover(Order.objects.filter(pk=new.pk), gateway, lambda: True) == 1
        assert len([call for call in wire.calls if "/list" in call.request.url]) == 1
        old.refresh_from_db()
        assert old.status == "UNCONFIRMED"

    def test_the_dead_process_of_an_order_that_was_bought(self, simulator: Simulator) -> None:
        order = make_order(type_id="SIM_LOST")
        assert claim(order)
        with pytest.raises(OutcomeUnknown):
            buy_elsewhere("SIM_LOST")
        Order.objects.update(claimed_until=ago(1))
        look(3)
        order.refresh_from_db()
        assert history(order) == ADOPTED
        assert posts(simulator) == 1


class TestOnlyListed:
    """Found in the list under an id by which the provider does not know it otherwise."""

    CHECK = f"{PROVIDER}/v3/gift-cards/check-order/B1"

    @pytest.mark.parametrize("is_late", [False, True])
    def test_settles_by_the_list(self, is_late: bool, wire: responses.RequestsMock) -> None:
        lost = lose()
        unknown = {"success": False, "error": {"code": "NOT_FOUND"}}
        asked = wire.get(self.CHECK, json=unknown, status=404)
        shown = wire.get(LIST, json=listed(row(lost)))
        look(3)
        if is_late:
            Order.objects.update(status=Status.DELAYED, accepted_at=ago(400))
            # The list's failing is no reason not to ask it: nothing else tells.
            ProviderState.objects.update(list_at=ago(-99))
            look(2)
        lost.refresh_from_db()
        assert (lost.status, lost.problem) == ("DELAYED" if is_late else "HANDLING", "")
        assert asked.call_count == 1
        assert shown.call_count >= 2
        cards = [{"value": f"CANARY-{number}"} for number in range(2)]
        done = {"status": "FULFILLED", "fulfilled_quantity": 2, "cards": cards}
        wire.replace("GET", LIST, json=listed(row(lost, **done)))
        look()
        lost.refresh_from_db()
        assert (lost.status, lost.cards.count()) == ("FULFILLED", 2)

    def test_not_in_the_list_any_more(self, wire: responses.RequestsMock) -> None:
        lost = lose()
        wire.get(self.CHECK, json={"success": False, "error": {"code": "NOT_FOUND"}}, status=404)
        wire.get(LIST, json=listed(row(lost)))
        look(2)
        wire.replace("GET", LIST, json=listed())
        look()
        lost.refresh_from_db()
        assert lost.problem == "The provider says that it does not know this order."


class TestRivals:
    """Orders whose row may be the one that seems to be nobody's: ``R1``."""

    def test_one_of_the_same_line_whose_name_is_not_known(
        self, wire: responses.RequestsMock
    ) -> None:
        lost = lose()
        other = make_order(Status.HANDLING, sent_at=ago(400), accepted_at=ago(399), due_at=None)
        wire.get(LIST, json=listed(row(lost, _id="R1")))
        look()
        lost.refresh_from_db()
        assert lost.status == "UNCONFIRMED"
        # A person may know.
        assert [candidate["id"] for candidate in lost.candidates] == ["R1"]
        # It is asked about, and called something else.
        Order.objects.filter(pk=other.pk).update(checked_at=ago(1), provider_alias="R2")
        look()
        lost.refresh_from_db()
        assert (lost.status, lost.provider_order_id) == ("HANDLING", "R1")

    def test_one_whose_id_a_person_typed(self, wire: responses.RequestsMock) -> None:
        """It may be the one that placing answers, and its row called something else."""
        lost, other = lose(), lose()
        assert adopt(other, "A7", source=StatusChange.Source.STAFF)
        Order.objects.filter(pk=other.pk).update(due_at=None)
        wire.get(LIST, json=listed(row(lost, _id="R1")))
        look()
        lost.refresh_from_db()
        assert (lost.status, len(lost.candidates)) == ("UNCONFIRMED", 1)

    def test_another_ones_turn_is_not_this_ones(self, wire: responses.RequestsMock) -> None:
        lost, other = lose(), lose(due_at=ago(-500), failures=3)
        wire.get(LIST, status=502)
        with Gateway() as gateway:
            sweep(gateway)
        lost.refresh_from_db()
        assert lost.failures == 1
        due_at = other.due_at
        other.refresh_from_db()
        assert (other.failures, other.due_at) == (3, due_at)

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
    def test_one_that_cannot_own_it(
        self, known: dict[str, Any], wire: responses.RequestsMock
    ) -> None:
        lost = lose()
        values = {"sent_at": ago(400), "accepted_at": ago(399), "due_at": None} | known
        make_order(Status.FULFILLED, **values)
        shown = row(_id="R3", type="type_003")
        wire.get(LIST, json=listed(row(lost, _id="R1"), shown))
        look()
        lost.refresh_from_db()
        assert (lost.status, lost.provider_order_id) == ("HANDLING", "R1")

    @pytest.mark.parametrize(
        "moved",
        [
            {"status": "HANDLING", "provider_order_id": "A7", "accepted_at": ago(0)},
            {"status": "UNCONFIRMED"},
        ],
    )
    def test_one_that_moves_while_the_list_is_read(
        self, moved: dict[str, Any], wire: responses.RequestsMock
    ) -> None:
        lost = lose()
        other = make_order(Status.PLACING, claimed_until=ago(-60))
        wire.get(LIST, json=listed(row(lost, _id="R1")))

        def move(execute: Any, sql: str, *arguments: Any) -> Any:
            """The list has been read: whose are its rows?"""
            if "BETWEEN" in sql:
                Order.objects.filter(pk=other.pk).update(**moved)
            return execute(sql, *arguments)

        with connection.execute_wrapper(move):
            look()
        lost.refresh_from_db()
        other.refresh_from_db()
        assert (lost.status, other.status) == ("UNCONFIRMED", moved["status"])

    def test_one_whose_row_would_be_newer(self, wire: responses.RequestsMock) -> None:
        """Where a line is sold all the time, one of it is always being sent."""
        lost = lose(sent_at=ago(700))
        make_order(Status.PLACING, claimed_until=ago(-60))
        wire.get(LIST, json=listed(row(lost, _id="R1")))
        look()
        lost.refresh_from_db()
        assert (lost.status, lost.provider_order_id) == ("HANDLING", "R1")

    def test_a_row_without_a_name_names_nobody(self, wire: responses.RequestsMock) -> None:
        lost = lose()
        make_order(Status.HANDLING, sent_at=ago(400), accepted_at=ago(399), due_at=None)
        wire.get(LIST, json=listed(row(lost, _id="R1"), row(_id=None)))
        look()
        lost.refresh_from_db()
        assert lost.status == "UNCONFIRMED"


class TestAbsent:
    def test_two_looks_are_a_proof(
        self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        order = buy(type_id="SIM_DROP")
        behave(monkeypatch, "SIM_DROP")
        look()
        order.refresh_from_db()
        assert order.status == "UNCONFIRMED"
        assert order.absent_since is not None
        assert posts(simulator) == 1
        pass_time(61)
        look()
        order.refresh_from_db()
        assert order.status == "PENDING"
        assert (order.absent_since, order.problem) == (None, "")
        look(4)
        order.refresh_from_db()
        assert order.status == "FULFILLED"
        assert history(order) == ["PLACING", "UNCONFIRMED", "PENDING", "PLACING", *ADOPTED[2:]]
        assert posts(simulator) == 2
        assert len(simulator.orders) == 1

    @pytest.mark.parametrize(
        ("since_sending", "since_first_look"),
        [(59, 59), (300, None), (300, 29), (59, 31)],
    )
    def test_not_too_soon(
        self, since_sending: float, since_first_look: float | None, wire: responses.RequestsMock
    ) -> None:
        first_look = since_first_look and ago(since_first_look)
        lose(sent_at=ago(since_sending), absent_since=first_look)
        wire.get(LIST, json=listed())
        look()
        assert statuses() == ["UNCONFIRMED"]

    def test_late_row(self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        order = buy(type_id="SIM_DROP")
        look()
        behave(monkeypatch, "SIM_DROP")
        buy_elsewhere("SIM_DROP")
        pass_time(61)
        look(2)
        order.refresh_from_db()
        assert (order.status, order.absent_since) == ("FULFILLED", None)
        assert posts(simulator) == 2  # of which one was somebody else's

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ({"status": 502}, [30, 30, 60, 120, 240]),
            # It is only too soon after sending.
            ({"json": {"items": []}}, [30] * 5),
        ],
    )
    def test_looks_become_rare_unless_the_next_one_may_tell(
        self, answer: dict[str, Any], expected: list[int], wire: responses.RequestsMock
    ) -> None:
        order = lose(sent_at=ago(1), absent_since=None)
        wire.get(LIST, **(answer if "status" in answer else {"json": listed()}))
        waits = []
        for _ in range(5):
            look()
            ProviderState.objects.update(paused_until=ago(1))
            order.refresh_from_db()
            assert order.due_at is not None
            waits.append(round((order.due_at - timezone.now()).total_seconds()))
        assert waits == expected

    @pytest.mark.parametrize(
        "answer",
        [
            {"status": 500, "json": {"success": False, "error": {"code": "INTERNAL_ERROR"}}},
            {"status": 404, "json": {"message": "no such path", "statusCode": 404}},
            {"status": 502, "body": "<html>Bad Gateway</html>"},
            {"body": "null"},
            {"body": "<html></html>"},
            {"json": {"success": True, "data": []}},
            {"json": {"success": True, "data": {"items": None}}},
            {"json": {"success": True, "data": {"items": []}}},
            {"json": listed(totalPages=None, totalResults=None)},
            {"json": listed(row(quantity=7), totalPages=None, totalResults=2)},
            {"json": listed(totalPages="many")},
            {"json": listed(totalPages=60)},
            {"json": listed(totalResults=1)},
            {"json": listed(None)},
            {"json": listed("row")},
            {"json": listed(row(_id=None, quantity=7))},
            {"json": listed(row(_id=7, quantity=7))},
            {"json": listed(row(time="yesterday", quantity=7))},
            {"json": listed(row(quantity=7, time=None))},
            {"body": ConnectionResetError()},
        ],
    )
    def test_a_list_that_proves_nothing(self, answer: Any, wire: responses.RequestsMock) -> None:
        lose()
        wire.get(LIST, **answer)
        look()
        assert statuses() == ["UNCONFIRMED"]
        assert not [call for call in wire.calls if call.request.method == "POST"]

    def test_a_list_of_which_a_page_failed(self, wire: responses.RequestsMock) -> None:
        lose()
        wire.get(LIST, json=listed(row(quantity=7), totalPages=2, totalResults=2))
        wire.get(LIST, status=500)
        look()
        assert statuses() == ["UNCONFIRMED"]

    def test_a_list_that_sends_the_same_page_again(self, wire: responses.RequestsMock) -> None:
        lose()
        wire.get(LIST, json=listed(row(quantity=7), totalPages=2, totalResults=2))
        look()
        assert statuses() == ["UNCONFIRMED"]

    def test_a_list_that_lags(self, wire: responses.RequestsMock) -> None:
        """An order that was accepted at about the same time is not shown either."""
        lose()
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298))
        wire.get(LIST, json=listed())
        look()
        assert statuses() == ["UNCONFIRMED", "FULFILLED"]

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_a_list_that_shows_our_orders(self, name: str, wire: responses.RequestsMock) -> None:
        lose()
        values = {"provider_order_id": "A1", "provider_alias": "", name: "B1"}
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), **values)
        wire.get(LIST, json=listed(row(status="FULFILLED")))
        look()
        assert statuses() == ["PENDING", "FULFILLED"]

    @pytest.mark.parametrize(("is_shown", "minutes"), [(True, [10]), (False, [10, 120])])
    def test_only_a_clock_that_may_be_wrong_makes_it_read_hours(
        self, is_shown: bool, minutes: list[int], wire: responses.RequestsMock
    ) -> None:
        lost = lose()
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), provider_order_id="B1")
        wire.get(LIST, json=listed(*[row()] * is_shown))
        look()
        read = [call.request.params["from"] for call in wire.calls]  # type: ignore[union-attr]
        assert lost.sent_at is not None
        before = [lost.sent_at - datetime.fromisoformat(start) for start in read]
        assert [round(span.total_seconds() / 60) for span in before] == minutes

    def test_a_row_that_could_not_be_adopted(self, wire: responses.RequestsMock) -> None:
        """It is there, so the order is not sent again, whatever the reason."""
        lost = lose()
        wire.get(LIST, json=listed(row(lost)))

        def refuse(execute: Any, sql: str, *arguments: Any) -> Any:
            if sql.startswith("UPDATE") and "provider_alias" in sql:
                raise IntegrityError("taken")
            return execute(sql, *arguments)

        with connection.execute_wrapper(refuse):
            look()
        lost.refresh_from_db()
        assert lost.status == "UNCONFIRMED"
        assert [candidate["id"] for candidate in lost.candidates] == ["B1"]

    def test_an_order_that_is_never_shown_keeps_only_its_neighbours_back(
        self, wire: responses.RequestsMock
    ) -> None:
        found, near, far = (lose(type_id=f"type_00{number}") for number in (2, 3, 4))
        Order.objects.filter(pk=far.pk).update(sent_at=ago(400))
        make_order(Status.FULFILLED, sent_at=ago(299), accepted_at=ago(298), type_id="type_009")
        wire.get(LIST, json=listed(row(found, type="type_002")))
        look()
        status = dict(Order.objects.values_list("pk", "status"))
        assert [status[order.pk] for order in (found, near, far)] == [
            "HANDLING",
            "UNCONFIRMED",
            "PENDING",
        ]

    @pytest.mark.parametrize("source", [SOURCE, StatusChange.Source.STAFF])
    def test_only_a_person_makes_it_younger(self, source: StatusChange.Source) -> None:
        """Or what is lost again and again would be bought when nobody wants it any more."""
        lost = lose(queued_at=ago(900))
        assert declare_absent(lost, send_again=True, source=source)
        lost.refresh_from_db()
        assert (lost.queued_at > ago(60)) == (source == StatusChange.Source.STAFF)

    def test_what_is_not_there_any_more_is_not_offered(self, wire: responses.RequestsMock) -> None:
        lost = lose(candidates=[{"id": "B9"}], problem="May be one of these: 1.")
        wire.get(LIST, status=500)
        look()
        lost.refresh_from_db()
        assert lost.candidates == []
        assert lost.problem == (
            "The answer to sending it was lost, and the provider's list does not show it."
        )


class TestAmbiguous:
    def test_more_rows_than_orders(self, simulator: Simulator) -> None:
        order = buy(type_id="SIM_LOST")
        with pytest.raises(OutcomeUnknown):
            buy_elsewhere("SIM_LOST")
        look(2)
        pass_time(300)
        look(2)
        order.refresh_from_db()
        assert order.status == "UNCONFIRMED"
        assert {candidate["id"] for candidate in order.candidates} == set(simulator.orders)
        assert order.problem == (
            "The answer to sending it was lost. Orders at the provider that may be this one: 2."
            " Choose on the order's page in the admin."
        )
        assert posts(simulator) == 2
        secrets = [c for bought in simulator.orders.values() for c in bought.cards]
        assert len(secrets) == 4
        stored = json.dumps(order.candidates)
        assert not [c for c in secrets if c.value in stored or c.serial in stored]

    def test_a_person_decides(self, simulator: Simulator) -> None:
        order = buy(type_id="SIM_LOST")
        with pytest.raises(OutcomeUnknown):
            buy_elsewhere("SIM_LOST")
        look()
        order.refresh_from_db()
        chosen = order.candidates[1]["id"]
        assert adopt(order, chosen, source=StatusChange.Source.STAFF, detail="By hand.")
        look()
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == ("FULFILLED", chosen)
        assert (order.candidates, order.problem) == ([], "")
        assert codes(order) == sorted(card.value for card in simulator.orders[chosen].cards)

    @pytest.mark.parametrize(
        "changes",
        [
            {"product": None},
            {"type": None},
            {"product": "string", "type": "string"},
            {"quantity": None},
            {"quantity": "two"},
            {"time": None, "product": None},
        ],
    )
    def test_a_row_that_does_not_say_what_it_is(
        self, changes: dict[str, Any], wire: responses.RequestsMock
    ) -> None:
        order = lose()
        wire.get(LIST, json=listed(row(order, **changes)))
        look()
        order.refresh_from_db()
        assert order.status == "UNCONFIRMED"
        assert [candidate["id"] for candidate in order.candidates] == ["B1"]

    def test_a_vague_row_beside_a_clear_one(self, wire: responses.RequestsMock) -> None:
        order, _other = lose(), lose()
        wire.get(LIST, json=listed(row(order), row(order, _id="B2", product=None)))
        with Gateway() as gateway:
            recover(Order.objects.all(), gateway, lambda: True)
        assert statuses() == ["HANDLING", "UNCONFIRMED"]

    @pytest.mark.parametrize(
        ("seconds", "status"),
        [
            (-7300, "PENDING"),
            # As if times came without their zone: not ours to say, and not to be bought again.
            (-3600, "UNCONFIRMED"),
            (660, "UNCONFIRMED"),
            (7300, "PENDING"),
        ],
    )
    def test_a_row_of_another_time(
        self, seconds: float, status: str, wire: responses.RequestsMock
    ) -> None:
        order = lose()
        assert order.sent_at is not None
        at = order.sent_at + timedelta(seconds=seconds)
        wire.get(LIST, json=listed(row(time=at.isoformat())))
        look()
        assert statuses() == [status]
        order.refresh_from_db()
        assert len(order.candidates) == (status == "UNCONFIRMED")

    def test_of_another_quantity(self, wire: responses.RequestsMock) -> None:
        order = lose()
        wire.get(LIST, json=listed(row(order, quantity=3)))
        look()
        assert statuses() == ["PENDING"]

    def test_what_another_lost_order_bought_is_no_candidate(
        self, wire: responses.RequestsMock
    ) -> None:
        first, other = lose(), lose(type_id="type_003")
        wire.get(LIST, json=listed(row(other, type="type_003")))
        with Gateway() as gateway:
            recover(Order.objects.all(), gateway, lambda: True)
        first.refresh_from_db()
        assert statuses() == ["PENDING", "HANDLING"]
        assert first.candidates == []


class TestOrphans:
    def test_what_another_order_owns_is_never_adopted(self, wire: responses.RequestsMock) -> None:
        order = lose()
        far = {"sent_at": ago(3600), "accepted_at": ago(3600)}
        make_order(Status.FULFILLED, provider_order_id="B1", **far)
        make_order(Status.FULFILLED, provider_order_id="A9", provider_alias="B2", **far)
        wire.get(LIST, json=listed(row(order), row(order, _id="B2")))
        look()
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == ("PENDING", None)

    def test_are_found(self, simulator: Simulator) -> None:
        buy()
        foreign = [buy_elsewhere("type_001"), buy_elsewhere("TEST_REFUND", 1)]
        with Gateway() as gateway:
            listing = read_listing(gateway, lambda: True, start=ago(60), end=ago(-60))
        assert listing.is_whole
        assert len(listing.rows) == 3
        orphans = find_orphans(listing)
        assert {orphan.provider_id for orphan in orphans} == set(foreign)
        times = [orphan.created_at for orphan in orphans if orphan.created_at]
        assert times == sorted(times)
        assert len(times) == 2

    def test_many_pages(self, simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("giftcards.asking.PAGE_SIZE", 2)
        foreign = {buy_elsewhere("type_001") for _ in range(5)}
        with Gateway() as gateway:
            listing = read_listing(gateway, lambda: True, start=ago(60), end=ago(-60))
        assert listing.is_whole
        assert {orphan.provider_id for orphan in find_orphans(listing)} == foreign

    def test_none(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            listing = read_listing(gateway, lambda: True, start=ago(60), end=ago(-60))
        assert (listing.is_whole, find_orphans(listing)) == (True, [])

    def test_calls_had_to_stop(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            listing = read_listing(gateway, lambda: False, start=ago(60), end=ago(-60))
        assert not listing.is_whole


class TestAdopting:
    def test_what_is_taken(self) -> None:
        make_order(Status.HANDLING, provider_order_id="B1")
        order = lose()
        assert not adopt(order, "B1", source=SOURCE)
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == ("UNCONFIRMED", None)
        assert history(order) == []

    def test_an_order_that_has_moved(self) -> None:
        order = lose()
        stale = Order.objects.get(pk=order.pk)
        assert adopt(order, "B1", source=SOURCE)
        assert not adopt(stale, "B2", source=SOURCE)
        assert not declare_absent(stale, send_again=True, source=SOURCE)
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == ("HANDLING", "B1")

    def test_by_an_attempt_that_is_not_the_last(self) -> None:
        """It was proven absent, sent again and lost again: the earlier look says nothing of it."""
        order = lose()
        stale = Order.objects.get(pk=order.pk)
        assert declare_absent(order, send_again=True, source=SOURCE)
        Order.objects.update(status=Status.UNCONFIRMED, claim="another")
        assert not adopt(stale, "B1", source=SOURCE)
        assert not declare_absent(stale, send_again=True, source=SOURCE)

    def test_two_orders_race_for_one_row(self, shared_database: str) -> None:
        orders = [lose() for _ in range(2)]
        left = list(orders)
        results = in_threads(2, lambda: adopt(left.pop(), "B1", source=SOURCE))
        assert sorted(results) == [False, True]
        assert sorted(statuses()) == ["HANDLING", "UNCONFIRMED"]

    def test_two_processes_race_for_one_order(self, shared_database: str) -> None:
        order = lose()
        rows = ["B1", "B2"]
        results = in_threads(
            2, lambda: adopt(Order.objects.get(pk=order.pk), rows.pop(), source=SOURCE)
        )
        assert results.count(True) == 1
        assert history(order) == ["HANDLING"]

    def test_two_recoveries_at_once(self, simulator: Simulator, shared_database: str) -> None:
        for _ in range(3):
            buy(type_id="SIM_LOST")
        Order.objects.update(due_at=ago(1))

        def work() -> int:
            with Gateway() as gateway:
                return recover(Order.objects.all(), gateway, lambda: True)

        assert sum(in_threads(2, work)) == 3
        look(2)
        assert statuses() == ["FULFILLED"] * 3
        assert Card.objects.count() == 6
        assert posts(simulator) == 3


class TestDeclaring:
    def test_send_again(self) -> None:
        order = lose(problem="lost", failures=3, queued_at=ago(9999), candidates=[{"id": "B1"}])
        assert declare_absent(order, send_again=True, source=StatusChange.Source.STAFF)
        order.refresh_from_db()
        assert (order.status, order.problem, order.failures) == ("PENDING", "", 0)
        assert (order.candidates, order.absent_since) == ([], None)
        assert order.queued_at > ago(10)
        assert order.due_at is not None
        [change] = order.changes.all()
        assert (change.source, change.detail) == (
            "staff",
            "The provider's list does not show it: it was not placed.",
        )

    def test_reject(self, simulator: Simulator) -> None:
        order = lose()
        assert declare_absent(order, send_again=False, source=SOURCE, detail="By hand.")
        look(2)
        order.refresh_from_db()
        assert (order.status, order.problem) == ("REJECTED", "")
        assert order.settled_at is not None
        assert order.changes.get().detail == "By hand."
        assert posts(simulator) == 0
