"""Checking many orders with few requests: with the list, and one by one for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
import responses
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from responses import matchers

from giftcards.engine.checking import BATCH
from giftcards.engine.gateway import Gateway
from giftcards.engine.request_budget import Shares
from giftcards.engine.sweep import Swept, sweep
from giftcards.models import Card, Order, ProviderState, RequestSlot
from giftcards.rules.purposes import Purpose
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import make_order
from tests.stage import (
    LIST,
    Setter,
    Wire,
    ago,
    buy_many,
    check_url,
    checks,
    leave_questions,
    list_page,
    list_row,
    lists,
    provider_state,
    refill_budget,
    run_sweep,
    settled_answer,
    spend_budget,
    statuses,
    without_list,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def run_sweeps(count: int) -> None:
    for _sweep in range(count):
        Order.objects.filter(due_at__isnull=False).update(due_at=ago(1))
        run_sweep()


def tell(wire: Wire, *orders: Order) -> None:
    """Let the provider answer that each of the orders is fulfilled."""
    for order in orders:
        wire.get(check_url(order), json=settled_answer(order))


HANDLING = {
    "status": "HANDLING",
    "cards": None,
    "fulfilled_quantity": None,
    "fulfilled_amount": None,
    "price_per_card": None,
}


class TestList:
    def test_a_hundred_orders_are_checked_by_one_request(self, simulator: Simulator) -> None:
        orders = buy_many(simulator, 100)
        assert run_sweep() == Swept(checked=100, settled=100)
        assert [request.path for request in simulator.requests] == ["/v3/gift-cards/list"]
        for order in orders:
            order.refresh_from_db()
            bought = simulator.orders[order.provider_order_id or ""]
            assert [(card.value, card.serial) for card in order.cards.all()] == [
                (card.value, card.serial) for card in bought.cards
            ]

    def test_more_pages_of_the_list_are_read_where_they_are_cheaper(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(page_size=20)
        buy_many(simulator, 46)
        assert run_sweep() == Swept(checked=46, settled=46)
        assert (lists(simulator), checks(simulator)) == (3, [])

    @pytest.mark.parametrize(("count", "pages"), [(1, 0), (2, 0), (3, 1)])
    def test_fewer_than_three_orders_are_checked_one_by_one(
        self, count: int, pages: int, simulator: Simulator
    ) -> None:
        buy_many(simulator, count)
        assert run_sweep().settled == count
        assert (lists(simulator), len(checks(simulator))) == (pages, 0 if pages else count)

    @pytest.mark.parametrize(
        "told", [{"totalPages": None}, {"totalPages": None, "totalResults": None}]
    )
    def test_the_list_is_read_to_its_end_if_it_does_not_say_how_many_pages_it_has(
        self, told: dict[str, Any], wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        orders = [make_order(Status.HANDLING, sent_at=ago(5)) for _order in range(5)]
        rows = list(map(list_row, orders))
        total = {"totalResults": 5} | told
        # The provider ignores the requested page size.
        for number, shown in enumerate([rows[:2], rows[2:4], rows[4:], []], 1):
            query = matchers.query_param_matcher({"page": number}, strict_match=False)
            wire.get(LIST, json=list_page(*shown, **total), match=[query])
        # For a single order, a page would save no request.
        tell(wire, orders[4])
        assert run_sweep() == Swept(checked=5, settled=5)

    def test_orders_that_are_due_soon_are_checked_by_a_page_read_for_others(
        self, simulator: Simulator
    ) -> None:
        orders = buy_many(simulator, 6)
        pks = [order.pk for order in orders[:2]]
        Order.objects.filter(pk__in=pks).update(due_at=timezone.now() + timedelta(seconds=2))
        assert run_sweep() == Swept(checked=6, settled=6)
        assert len(simulator.requests) == 1

    def test_a_sweep_over_a_hundred_unchanged_orders_needs_one_request_and_few_queries(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 100, type_id="SIM_NEVER")
        run_sweeps(1)
        simulator.forget_requests()
        Order.objects.update(due_at=ago(1))
        with Gateway() as gateway, CaptureQueriesContext(connection) as queries:
            assert sweep(gateway) == Swept(checked=100)
        assert [request.path for request in simulator.requests] == ["/v3/gift-cards/list"]
        assert len(queries) <= 18, "\n".join(query["sql"] for query in queries)

    def test_orders_of_others_on_the_account_are_never_stored(self, simulator: Simulator) -> None:
        buy_many(simulator, 9)
        kept = list(Order.objects.order_by("pk")[:5])
        Order.objects.exclude(pk__in=[order.pk for order in kept]).update(
            provider_order_id=None, status=Status.PENDING, accepted_at=None, due_at=None
        )
        Order.objects.filter(status=Status.PENDING).delete()
        assert run_sweep() == Swept(checked=5, settled=5)
        assert Order.objects.count() == 5
        assert Card.objects.count() == 10
        assert {card.order_id for card in Card.objects.all()} == {order.pk for order in kept}


class TestPages:
    """The first page is read in every interval.

    Further pages take slots that single checks may use.
    """

    @pytest.fixture(autouse=True)
    def few_slots(self, shorten: Setter, set_conf: Setter) -> None:
        """Of 40 slots, the list has 10 and late orders have one. The other 29 are common."""
        shorten(page_size=20)
        set_conf(REQUESTS_PER_MINUTE=40, POLL_INTERVAL=5)

    @pytest.fixture
    def read(self, wire: Wire) -> list[int]:
        """The numbers of the requested pages, which show the orders, newest first."""
        read: list[int] = []
        self.rows: list[dict[str, Any]] = []

        def show(request: Any) -> tuple[int, dict[str, str], str]:
            number = int(request.params["page"])
            read.append(number)
            shown = self.rows[20 * number - 20 : 20 * number]
            total = {"totalPages": -(-len(self.rows) // 20), "totalResults": len(self.rows)}
            body = list_page(*shown, page=number, **total)
            return 200, {}, json.dumps(body)

        wire.add_callback(responses.GET, LIST, callback=show)
        return read

    def make_orders(self, count: int) -> None:
        for number in range(count):
            sent_at = ago(5 + number / 100)
            order = make_order(Status.HANDLING, sent_at=sent_at, identified_at=ago(1))
            self.rows.append(list_row(order, **HANDLING))

    def spend(self, *, but: int = 0) -> None:
        """Use up the budget, except for the slots of the list itself and ``but`` further pages.

        If placing leaves slots to these pages, the pages have to leave two slots to placing.
        """
        spend_budget(but=but + 2)
        own = Shares.of(limit=40, poll_interval=5).listing
        RequestSlot.objects.filter(number__in=own).update(until=ago(1))

    def test_further_pages_leave_the_lists_own_slots_to_its_first_page(
        self, read: list[int]
    ) -> None:
        self.make_orders(46)
        self.spend()
        assert run_sweep() == Swept(checked=20, postponed=26)
        # A second sweep does not use these slots either. The other orders wait for the next turn of
        # the list. They are not checked one by one, because one page contains all of them.
        assert run_sweep() == Swept()
        assert read == [1]
        with Gateway() as gateway:
            assert Order.objects.filter(due_at=gateway.list_turn()).count() == 26

    def test_the_next_reading_goes_on_with_the_page_that_was_left_out(
        self, read: list[int]
    ) -> None:
        self.make_orders(78)
        with Gateway() as gateway:
            gateway.note_questions(1, page_size=100, free_rows=100)
            for last, checked in ((2, 40), (3, 40), (4, 38), (2, 40)):
                self.spend(but=1)
                assert sweep(gateway) == Swept(checked=checked, postponed=78 - checked)
                assert read == [1, last]
                read.clear()
                Order.objects.update(due_at=ago(1))

    def test_no_page_is_read_for_an_order_that_has_to_be_checked_by_itself(
        self, read: list[int], wire: Wire
    ) -> None:
        self.make_orders(18)
        oldest = Order.objects.earliest("sent_at")
        Order.objects.filter(pk=oldest.pk).update(accepted_at=ago(100), checked_at=ago(10))
        # These rows belong to other orders and fill a second page.
        self.rows += [list_row(oldest, _id=f"other-{number}") for number in range(9)]
        tell(wire, oldest)
        assert run_sweep() == Swept(checked=18, settled=1)
        assert read == [1]

    def test_placing_leaves_as_many_slots_as_the_pages_took(
        self, read: list[int], set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=120, POLL_INTERVAL=5)
        self.make_orders(46)
        assert run_sweep() == Swept(checked=46)
        assert sorted(read) == [1, 2, 3]
        refill_budget()
        with Gateway() as gateway:
            assert sum(1 for _ in iter(partial(gateway.begin, Purpose.PLACING), None)) == 107 - 24
            # This applies as long as the list is in use.
            ProviderState.objects.update(list_read_at=ago(11))
            assert gateway.try_open()
            assert sum(1 for _ in iter(partial(gateway.begin, Purpose.PLACING), None)) == 24

    @pytest.mark.parametrize(
        ("questions", "waiting", "room", "pages"),
        [
            (1, 0, 0, 1),
            (2, 0, 0, 2),
            # The orders that are sent in that minute fill a further page, or the last one.
            (1, 100, 50, 2),
            (0, 100, 50, 1),
            (0, 40, 50, 0),
            (1, 40, 50, 1),
        ],
    )
    def test_the_readings_of_a_minute_share_the_slots_that_placing_leaves(
        self, questions: int, waiting: int, room: int, pages: int, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=120, POLL_INTERVAL=5)
        with Gateway() as gateway:
            gateway.waiting = waiting
            gateway.note_list_read()
            gateway.note_questions(questions, page_size=100, free_rows=room)
            while gateway.begin(Purpose.PLACING):
                pass
            begun = []
            for _reading in range(12):
                begun += [gateway.begin(Purpose.PAGES) for _page in range(gateway.pages_at_once())]
        assert sum(slot is not None for slot in begun) == 12 * pages

    def test_a_page_that_is_nearly_full_has_slots_left_for_the_next_one_while_orders_wait(
        self, set_conf: Setter
    ) -> None:
        """Slots are left even if all are taken.

        They become free while orders are being sent.
        """
        set_conf(REQUESTS_PER_MINUTE=120, POLL_INTERVAL=5)
        for waiting, room, left in ((100, 20, 12), (100, 30, 0), (0, 20, 0)):
            refill_budget()
            with Gateway() as gateway:
                gateway.note_list_read()
                gateway.waiting = waiting
                RequestSlot.objects.filter(number__gte=30).update(until=ago(-30))
                gateway.note_questions(0, page_size=100, free_rows=room)
                RequestSlot.objects.update(until=ago(1))
                placing = sum(1 for _ in iter(partial(gateway.begin, Purpose.PLACING), None))
            assert placing == 107 - left

    def test_slots_are_left_to_pages_for_a_minute_after_a_reading_took_some(
        self, set_conf: Setter
    ) -> None:
        """A slot that is left only then would not be free in time for the next reading."""
        set_conf(REQUESTS_PER_MINUTE=120, POLL_INTERVAL=5)
        with Gateway() as gateway:
            gateway.note_list_read()
            gateway.note_questions(2, page_size=100, free_rows=100)
            for _reading in range(11):
                gateway.note_questions(0, page_size=100, free_rows=100)
            assert sum(1 for _ in iter(partial(gateway.begin, Purpose.PLACING), None)) == 107 - 24
            gateway.note_questions(0, page_size=100, free_rows=100)
            assert sum(1 for _ in iter(partial(gateway.begin, Purpose.PLACING), None)) == 24


class TestLateOrders:
    """Late orders. After an outage, there may be as many of them as fresh orders."""

    def make_late(self) -> None:
        Order.objects.update(status=Status.DELAYED, due_at=ago(1))

    def test_late_orders_that_have_settled_are_checked_by_one_page(
        self, simulator: Simulator
    ) -> None:
        count = BATCH + 5
        buy_many(simulator, count)
        self.make_late()
        assert run_sweep() == Swept(checked=count, settled=count)
        assert (lists(simulator), checks(simulator)) == (1, [])

    def test_late_orders_that_the_list_shows_as_open_are_checked_one_by_one(
        self, simulator: Simulator
    ) -> None:
        """If the app relied on an outdated list, these orders would stay late."""
        orders = buy_many(simulator, 6, type_id="SIM_NEVER")
        self.make_late()
        assert run_sweep() == Swept(checked=6)
        assert lists(simulator) == 1
        assert sorted(checks(simulator)) == sorted(o.provider_order_id or "" for o in orders)
        # The list has shown the orders, so it counts as usable.
        assert provider_state().list_usable_at is None

    def test_old_late_orders_do_not_widen_the_list_read_for_fresh_ones(self, wire: Wire) -> None:
        made = {"accepted_at": ago(400_000), "sent_at": ago(200_000)}
        old = [make_order(Status.DELAYED, **made) for _ in range(3)]
        new = [make_order(Status.HANDLING, sent_at=ago(5)) for _ in range(3)]
        of = {1: list_page(*map(list_row, new)), 2: list_page(*map(list_row, old))}
        for number, (start, end) in enumerate([(65, -55), (200_060, 199_940)], 1):
            spans = {"from": start, "to": end}
            wire.get(LIST, json=of[number], match=[near(spans)])
        assert run_sweep() == Swept(checked=6, settled=6)


def near(seconds_ago: dict[str, float]) -> Callable[[Any], tuple[bool, str]]:
    """Return a matcher for requests with these times, allowing for the duration of a test."""

    def match(request: Any) -> tuple[bool, str]:
        for name, seconds in seconds_ago.items():
            moment = datetime.fromisoformat(request.params[name])
            if abs(moment - ago(seconds)) > timedelta(seconds=30):
                return False, f"{name} is {moment}"
        return True, ""

    return match


def test_the_list_is_read_for_a_longer_time_if_the_providers_clock_is_off(wire: Wire) -> None:
    orders = [make_order(Status.HANDLING, sent_at=ago(5)) for _ in range(3)]
    for shown, skew in (([], 60), (orders, 600)):
        spans = {"from": 5 + skew, "to": 5 - skew}
        wire.get(LIST, json=list_page(*map(list_row, shown)), match=[near(spans)])
    assert run_sweep() == Swept(checked=3, settled=3)
    assert ProviderState.objects.get().list_usable_at is None


class TestListThatIsNoHelp:
    """All orders still settle, because the app checks each of them."""

    def test_orders_are_checked_one_by_one_if_the_list_is_not_routed(
        self, simulator: Simulator
    ) -> None:
        simulator.has_list = False
        buy_many(simulator, 12)
        began = timezone.now()
        assert run_sweep() == Swept(checked=12, settled=12)
        assert (lists(simulator), len(checks(simulator))) == (1, 12)
        # The list is not requested again soon.
        assert timedelta(minutes=1) < provider_state().list_usable_at - began < timedelta(minutes=3)
        buy_many(simulator, 12)
        assert run_sweep() == Swept(checked=12, settled=12)
        assert lists(simulator) == 0

    def test_orders_settle_though_the_list_shows_them_under_other_ids(
        self, simulator: Simulator
    ) -> None:
        simulator.shifted_ids = True
        orders = buy_many(simulator, 12, type_id="SIM_NEVER")
        run_sweeps(3)
        assert set(statuses()) == {"HANDLING"}
        for order in orders:
            simulator.settle(order.provider_order_id or "", delivered=1)
        run_sweeps(1)
        assert statuses() == ["PARTIALLY_FILLED"] * 12
        for order in orders:
            bought = simulator.orders[order.provider_order_id or ""]
            assert [card.value for card in order.cards.all()] == [
                card.value for card in bought.cards
            ]

    def test_other_ids_in_the_list_are_learnt_so_that_it_is_of_use_again(
        self, simulator: Simulator
    ) -> None:
        simulator.shifted_ids = True
        buy_many(simulator, 12, type_id="SIM_NEVER")
        run_sweeps(1)
        ProviderState.objects.update(list_usable_at=None)
        simulator.forget_requests()
        run_sweeps(1)
        assert (lists(simulator), checks(simulator)) == (1, [])

    def test_orders_that_a_lagging_list_lacks_are_checked_one_by_one(self, wire: Wire) -> None:
        orders = [make_order(Status.HANDLING, sent_at=ago(5)) for _order in range(6)]
        wire.get(LIST, json=list_page(*[list_row(order) for order in orders[:2]]))
        tell(wire, *orders[2:])
        assert run_sweep() == Swept(checked=6, settled=6)

    @pytest.mark.parametrize(
        ("trouble", "age", "minutes"),
        [
            # The list shows none of our orders.
            ({"json": list_page()}, 5, 0.5),
            ({"json": list_page()}, 90, 2),
            ({"status": 500, "body": "<html>"}, 5, 0.5),
            (
                {"status": 400, "json": {"success": False, "error": {"code": "ERR_VALIDATION"}}},
                5,
                0.5,
            ),
            ({"body": "null"}, 5, 0.5),
            ({"body": ConnectionResetError(104, "reset")}, 5, 0.5),
        ],
    )
    def test_a_list_that_fails_or_shows_none_of_our_orders_is_not_read_for_a_while(
        self, trouble: dict[str, Any], age: int, minutes: float, wire: Wire
    ) -> None:
        times = {"sent_at": ago(age), "accepted_at": ago(age), "checked_at": ago(1)}
        orders = [make_order(Status.HANDLING, **times) for _order in range(4)]
        wire.get(LIST, **trouble)
        tell(wire, *orders)
        began = timezone.now()
        assert run_sweep() == Swept(checked=4, settled=4)
        pause = provider_state().list_usable_at - began
        assert round(pause / timedelta(minutes=0.5)) == 2 * minutes

    def test_the_oldest_order_is_checked_by_itself_though_the_list_shows_it_open(
        self, wire: Wire
    ) -> None:
        orders = [
            make_order(Status.HANDLING, sent_at=ago(age), accepted_at=ago(age))
            for age in (70, 90, 80, 30, 30, 30)
        ]
        wire.get(LIST, json=list_page(*[list_row(order, **HANDLING) for order in orders]))
        tell(wire, *orders[:3])
        for settled in range(1, 4):
            Order.objects.filter(finalized_at=None).update(due_at=ago(1))
            assert run_sweep() == Swept(checked=7 - settled, settled=1)
        asked = [url for call in wire.calls if "/check-order/" in (url := call.request.url or "")]
        assert asked == [check_url(orders[number]) for number in (1, 2, 0)]

    @pytest.mark.parametrize(
        "torn",
        [
            {"cards": []},
            {"cards": [None, {}]},
            {"status": "CANCELLED"},
            {"status": None},
            {"quantity": 3},
            {"fulfilled_quantity": -1},
        ],
    )
    def test_an_order_whose_row_is_incomplete_is_checked_by_itself(
        self, torn: dict[str, Any], wire: Wire
    ) -> None:
        orders = [make_order(Status.HANDLING, sent_at=ago(5)) for _order in range(4)]
        rows = [list_row(orders[0], **torn), *[list_row(order) for order in orders[1:]]]
        wire.get(LIST, json=list_page(*rows))
        asked = wire.get(check_url(orders[0]), json=settled_answer(orders[0]))
        assert run_sweep() == Swept(checked=4, settled=4)
        assert asked.call_count == 1
        assert not Order.objects.needing_attention().exists()


@pytest.mark.usefixtures("small_budget")
class TestShortBudget:
    def test_checks_beyond_the_budget_are_postponed_without_a_failure(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 12)
        without_list()
        leave_questions(4)
        assert run_sweep() == Swept(checked=4, settled=4, postponed=8)
        assert len(checks(simulator)) == 4
        assert not Order.objects.exclude(claimed_until=None).exists()
        assert not Order.objects.exclude(failures=0).exists()

    def test_a_late_order_is_checked_though_fresh_ones_use_up_the_budget(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        """One request of each minute is for late orders only."""
        late, *_fresh = buy_many(simulator, 12, type_id="SIM_NEVER")
        Order.objects.filter(pk=late.pk).update(status=Status.DELAYED)
        without_list()
        set_conf(REQUESTS_PER_MINUTE=30)
        spend_budget()
        own = Shares.of(limit=30, poll_interval=60).late
        RequestSlot.objects.filter(number__in=own).update(until=ago(1))
        assert run_sweep() == Swept(checked=1, postponed=11)
        assert checks(simulator) == [late.provider_order_id]

    def test_an_order_is_sent_while_checks_have_to_wait_for_the_budget(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 2, type_id="SIM_NEVER")
        without_list()
        leave_questions(0)
        make_order()
        done = run_sweep()
        assert (done.sent, done.checked, done.postponed) == (1, 0, 3)

    def test_the_list_is_read_though_placing_used_up_the_rest_of_the_budget(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 12)
        spend_budget()
        own = Shares.of(limit=16, poll_interval=60).listing
        RequestSlot.objects.filter(number__in=own).update(until=ago(1))
        assert run_sweep() == Swept(checked=12, settled=12)
        assert lists(simulator) == 1

    def test_single_checks_leave_the_list_its_share_of_the_budget(
        self, simulator: Simulator
    ) -> None:
        buy_many(simulator, 2)
        with Gateway() as gateway:
            gateway.note_list_read()
            gateway.flush()
        spend_budget()
        own = Shares.of(limit=16, poll_interval=60).listing
        RequestSlot.objects.filter(number__in=own).update(until=ago(1))
        assert run_sweep() == Swept(postponed=2)
        assert simulator.requests == []
