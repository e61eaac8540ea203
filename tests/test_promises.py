"""The main promises, tested over random sequences of answers, faults, crashes and staff actions.

Nothing is bought twice, no card is lost or doubled, and ordered = charged + refunded.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from giftcards.engine.gateway import Gateway
from giftcards.engine.outbox import announce
from giftcards.engine.recording import record_answers
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.exceptions import ProviderError
from giftcards.models import Card, Lease, Order, ProviderState, StatusChange
from giftcards.provider.answers import OrderAnswer
from giftcards.refunds import refund_breakdown
from giftcards.simulator import Simulator
from giftcards.statuses import FINAL, FOLLOWED, SETTLED, Status
from tests.laws import examples
from tests.stage import PSN, claim_to_send, record_order, refill_budget, run_sweep

pytest_plugins = ["tests.stage_fixtures"]

STAFF = StatusChange.Source.STAFF
KINDS = (
    "type_001", "TEST_PARTIAL", "TEST_REFUND", "SIM_NEVER", "SIM_GROW", "SIM_LOST", "SIM_ERROR",
    "SIM_DROP", "SIM_REJECT",
)  # fmt: skip
STEP = timedelta(seconds=2)
CONF = {
    "POLL_INTERVAL": 1,
    "POLL_TIMEOUT": 10,
    "REQUESTS_PER_MINUTE": 1200,
}
TUNING = {"proof_of_absence": 2.0, "request_timeout": 5.0}
picks = st.integers(0, 99)
# There are few different lines, so that many orders are alike.
lines = st.tuples(st.sampled_from(KINDS), st.integers(1, 2))


class Shop(RuleBasedStateMachine):
    """A shop and its provider; ``simulator`` is set by the test."""

    simulator: Simulator

    def __init__(self) -> None:
        super().__init__()
        for model in (StatusChange, Card, Order, ProviderState):
            model.objects.all().delete()
        self.simulator.reset()
        self.simulator.outage, self.simulator.keys = False, ()
        self.final: dict[int, str] = {}
        self.on_the_way: list[list[tuple[Order, OrderAnswer]]] = []

    # Actions of customers, and the passing of time.

    @initialize(lines=st.lists(lines, min_size=4, max_size=8))
    def place_some(self, lines: list[tuple[str, int]]) -> None:
        for line in lines:
            self.place(line)

    @rule(line=lines)
    def place(self, line: tuple[str, int]) -> None:
        kind, quantity = line
        record_order(product_id=PSN, type_id=kind, quantity=quantity, reference=None)

    @rule(is_late=st.booleans())
    def sweep(self, is_late: bool) -> None:
        if is_late:
            self.time_passes()
        run_sweep()

    def time_passes(self) -> None:
        """Make every order due, and end every claim and pause."""
        now = timezone.now()
        Order.objects.exclude(due_at=None).update(due_at=now)
        Order.objects.exclude(claimed_until=None).update(claimed_until=now)
        Order.objects.update(
            sent_at=F("sent_at") - STEP,
            accepted_at=F("accepted_at") - STEP,
            absent_since=F("absent_since") - STEP,
        )
        ProviderState.objects.exclude(paused_until=None).update(paused_until=now)
        ProviderState.objects.update(list_usable_at=None, list_read_at=None)
        Lease.objects.all().delete()
        refill_budget()

    # Actions of the provider.

    @rule(pick=picks, delivered=st.integers(0, 3))
    def settle(self, pick: int, delivered: int) -> None:
        still_open = [order for order in self.simulator.orders.values() if not order.is_settled]
        if still_open:
            order = still_open[pick % len(still_open)]
            count = min(max(delivered, len(order.cards)), order.quantity)
            self.simulator.settle(order.id, delivered=count)

    @rule(outage=st.booleans())
    def go_down_or_up(self, outage: bool) -> None:
        self.simulator.outage = outage

    @rule(is_known=st.booleans())
    def refuse_or_take_the_key(self, is_known: bool) -> None:
        self.simulator.keys = () if is_known else ("another",)
        if is_known:
            ProviderState.objects.resume()

    # Crashes of processes.

    @rule(pick=picks, has_sent=st.booleans())
    def die_while_placing(self, pick: int, has_sent: bool) -> None:
        pending = list(Order.objects.filter(status=Status.PENDING))
        if not pending:
            return
        order = pending[pick % len(pending)]
        assert claim_to_send(order)
        if has_sent:
            with Gateway() as gateway, contextlib.suppress(ProviderError):
                gateway.client.place(
                    product_id=order.product_id, type_id=order.type_id, quantity=order.quantity
                )

    @rule()
    def be_slow_while_asking(self) -> None:
        """Ask, but record the answers later or never; others may claim the orders meanwhile."""
        with Gateway() as gateway:
            answers = []
            for order in self._claim():
                try:
                    answers.append((order, gateway.client.check(order.provider_order_id or "")))
                except ProviderError:
                    continue
        if answers:
            self.on_the_way.append(answers)

    @rule(pick=picks)
    def record_late(self, pick: int) -> None:
        if self.on_the_way:
            answers = self.on_the_way.pop(pick % len(self.on_the_way))
            record_answers(answers, now=timezone.now())

    def _claim(self) -> list[Order]:
        now = timezone.now()
        wanted = list(Order.objects.to_check(now=now, due_by=now))
        until = now + timedelta(seconds=15)
        return Order.objects.claim(wanted, now=now, due_by=now, until=until) if wanted else []

    # Actions of staff, who check the provider's list first.

    @rule(pick=picks)
    def choose(self, pick: int) -> None:
        lost = list(Order.objects.filter(status=Status.UNCONFIRMED))
        if lost:
            order = lost[pick % len(lost)]
            orphans = self._orphans(order)
            if orphans:
                assert adopt(order, orphans[pick % len(orphans)], source=STAFF)

    @rule(pick=picks, other=picks)
    def choose_what_is_taken(self, pick: int, other: int) -> None:
        lost = list(Order.objects.filter(status=Status.UNCONFIRMED))
        taken = list(Order.objects.exclude(provider_order_id=None))
        if lost and taken:
            theirs = taken[other % len(taken)].provider_order_id or ""
            assert not adopt(lost[pick % len(lost)], theirs, source=STAFF)

    @rule(pick=picks, send_again=st.booleans())
    def find_nothing(self, pick: int, send_again: bool) -> None:
        lost = [o for o in Order.objects.filter(status=Status.UNCONFIRMED) if not self._orphans(o)]
        if lost:
            assert declare_absent(lost[pick % len(lost)], send_again=send_again, source=STAFF)

    def _orphans(self, order: Order) -> list[str]:
        owned = set(Order.objects.values_list("provider_order_id", flat=True))
        return [
            twin.id
            for twin in self.simulator.orders.values()
            if twin.id not in owned
            and (twin.type, twin.quantity) == (order.type_id, order.quantity)
        ]

    # Invariants, checked after each step.

    @invariant()
    def nothing_is_bought_twice(self) -> None:
        theirs = Counter((o.type, o.quantity) for o in self.simulator.orders.values())
        # The excluded orders were certainly not bought.
        ours = Order.objects.exclude(status__in=[Status.PENDING, Status.REJECTED])
        assert theirs <= Counter(ours.values_list("type_id", "quantity"))
        named = {o.provider_order_id for o in ours if o.provider_order_id}
        assert named <= set(self.simulator.orders)

    @invariant()
    def no_card_is_lost_or_doubled(self) -> None:
        stored: dict[int, Counter[str]] = {}
        for card in Card.objects.select_related("order"):
            stored.setdefault(card.order_id, Counter())[card.value] += 1
        theirs = self.simulator.orders
        for order in Order.objects.exclude(provider_order_id=None):
            delivered = Counter(c.value for c in theirs[order.provider_order_id or ""].cards)
            ours = stored.get(order.pk, Counter())
            assert ours <= delivered
            if order.is_settled:
                assert ours == delivered

    @invariant()
    def every_dinar_is_explained(self) -> None:
        theirs = self.simulator.orders
        for order in Order.objects.filter(status__in=SETTLED):
            money, twin = refund_breakdown(order), theirs[order.provider_order_id or ""]
            assert money is not None
            assert money.is_consistent
            assert money.charged_amount == twin.charged
            assert money.refunded_amount == twin.refunded

    @invariant()
    def what_is_final_stays(self) -> None:
        final = dict(Order.objects.filter(status__in=FINAL).values_list("pk", "status"))
        assert self.final.items() <= final.items()
        self.final = final

    @invariant()
    def every_history_is_a_chain(self) -> None:
        reached: dict[int, str] = {}
        for change in StatusChange.objects.order_by("pk"):
            assert change.from_status == reached.get(change.order_id, "PENDING")
            reached[change.order_id] = change.to_status
        assert reached.items() <= dict(Order.objects.values_list("pk", "status")).items()

    def teardown(self) -> None:
        """Check that in the end every order is settled and the shop has been notified."""
        self.simulator.outage, self.simulator.keys = False, ()
        ProviderState.objects.resume()
        while self.on_the_way:
            self.record_late(0)
        for _round in range(40):
            self.sweep(is_late=True)
            for twin in self.simulator.orders.values():
                self.simulator.settle(twin.id)
            # The simulator drops these orders each time that they are sent.
            for order in Order.objects.filter(status=Status.UNCONFIRMED, type_id="SIM_DROP"):
                declare_absent(order, send_again=False, source=STAFF)
            if not Order.objects.exclude(status__in=FINAL).exists():
                break
        announce()
        left = Order.objects.exclude(status__in=FINAL).values("type_id", "status", "problems")
        assert not list(left)
        bought = Order.objects.filter(status__in=SETTLED)
        assert set(bought.values_list("provider_order_id", flat=True)) == set(self.simulator.orders)
        assert not Order.objects.filter(status__in=FOLLOWED).exists()
        assert not StatusChange.objects.filter(announced_at=None).exists()
        for name in ("nothing_is_bought_twice", "no_card_is_lost_or_doubled"):
            getattr(self, name)()
        self.every_dinar_is_explained()
        self.what_is_final_stays()


@pytest.mark.django_db
def test_the_promises_hold_over_random_interleavings(
    simulator: Simulator, set_conf: Callable[..., None], shorten: Callable[..., None]
) -> None:
    set_conf(**CONF)
    shorten(**TUNING)
    simulator.lockout = 0
    simulator.delay = (0, 0.3)
    machine: Any = type("Shop", (Shop,), {"simulator": simulator})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(10),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
