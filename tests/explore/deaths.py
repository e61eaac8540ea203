"""Death at each statement: a scenario is repeated, and dies one step later each time.

A step is the time before a statement, around a COMMIT, or around a request. The preconditions of a
scenario are prepared first, without deaths. Afterwards, a new worker has to bring everything to its
end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any, Literal

from django.conf import settings
from django.db import connection
from django.utils import timezone
from django.utils.module_loading import import_string

from giftcards.fulfilment import approve_price, cancel_order, place_order, reorder_missing
from giftcards.models import Order
from giftcards.privacy.retention import purge
from giftcards.settlement import record_refund
from tests.builders import PRODUCT
from tests.explore import shop as people
from tests.explore.histories import Database, Report, in_child, open_shop, settle
from tests.explore.invariants import violations
from tests.explore.provider import (
    Lie,
    Spell,
    about_orders,
    be_blind,
    close,
    go_back,
    name_another,
)
from tests.explore.shop import Shop
from tests.explore.simulation import Trouble

# The longest times for preparing a scenario and for carrying it out (seconds of its clock).
_PREPARED, _DONE = 60.0, 200.0
_MOST_STEPS = 1_000
# When the provider settles an order (seconds). The order is checked twice before that and once
# after. With a later time, the same statements would only be repeated more often.
_SETTLED = 7.0

Step = Callable[[Shop], object]


@dataclass(frozen=True)
class Scenario:
    """A scenario in which the process dies during ``act``.

    Before that, the steps in ``needs`` run with a worker, and then those in ``waiting`` without
    one.
    """

    act: Step
    needs: tuple[Step, ...] = ()
    waiting: tuple[Step, ...] = ()


def buying(kind: str = "type_001", quantity: int = 2, **details: Any) -> Step:
    def buy(shop: Shop) -> None:
        paid = Decimal(people.SALE_PRICE * quantity)
        line = {"product_id": PRODUCT, "type_id": kind, "quantity": quantity}
        place_order(**line, sale_amount=paid, customer_email="c1@example.com", **details)

    return buy


def task(name: str) -> Step:
    """Return a step that runs a task of django-q2."""
    return lambda _shop: import_string(name)()


def lying(step: str, lie: Lie, *, times: int = 1, is_early: bool = False) -> Step:
    """Return a step that makes the provider lie in its next answers."""

    def begin(shop: Shop) -> None:
        now = shop.simulation.now
        shop.provider.spells.append(Spell(step, lie, now, times, Random(1), is_early))

    return begin


def the_order() -> Order:
    return Order.objects.earliest("pk")


def pay_back(_shop: Shop) -> None:
    order = the_order()
    record_refund(order, amount=order.open_amount or 0, reference="r-1", by="amina")


def approve(_shop: Shop) -> None:
    approve_price(the_order(), 600, by="amina")


def order_by_rule(_shop: Shop) -> None:
    """Order missing cards again by rule from now on."""
    rule = {"REORDER_MISSING": {"times": 1, "hours": 0.1}}
    settings.GIFTCARDS = {**settings.GIFTCARDS, **rule}


def wait(_shop: Shop) -> None:
    """Do nothing, while the time that each step takes passes."""


def sending_references(provider: Literal["told", "unique"]) -> Step:
    """Return a step that makes the shop send its references to the provider.

    From then on, the provider shows them in answers or refuses repeated ones.
    """

    def begin(shop: Shop) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "SEND_REFERENCE": True}
        shop.provider.account.references = provider

    return begin


SWEEP, TICK, DELIVER = map(
    task, ("giftcards.tasks.sweep", "giftcards.tasks.tick", "giftcards.delivery.tasks.deliver")
)


def again_with_references(provider: Literal["told", "unique"]) -> Scenario:
    """Return the second attempt to buy, after a blind list has seemed to prove an absence."""
    lies = lying("place", close), lying("list", be_blind, times=9)
    needs = sending_references(provider), *lies, buying(), wait
    # The time passes without a worker, until the second search is due.
    return Scenario(SWEEP, needs, waiting=(wait,))


SCENARIOS: dict[str, Scenario] = {
    "placing": Scenario(buying()),
    "sending": Scenario(SWEEP, waiting=(buying(),)),
    "lost": Scenario(SWEEP, waiting=(lying("place", close), buying())),
    "not bought": Scenario(SWEEP, waiting=(lying("place", close, is_early=True), buying())),
    "sending with a reference": Scenario(SWEEP, waiting=(sending_references("unique"), buying())),
    "bought before": again_with_references("unique"),
    "bought twice": again_with_references("told"),
    "settling three": Scenario(
        SWEEP, waiting=(buying(), buying("TEST_PARTIAL", 5), buying("TEST_REFUND"))
    ),
    "the id of another": Scenario(
        SWEEP, (buying(),), (lying("place", name_another), buying(quantity=1))
    ),
    "at work again": Scenario(TICK, (buying(), lying("check", about_orders(go_back)))),
    "refund": Scenario(pay_back, (buying("TEST_REFUND"),)),
    "reordering": Scenario(
        lambda _shop: reorder_missing(the_order(), by="amina"), (buying("TEST_PARTIAL", 5),)
    ),
    "reordering by rule": Scenario(SWEEP, waiting=(order_by_rule, buying("TEST_PARTIAL", 5))),
    "announcing": Scenario(TICK, waiting=(buying(),)),
    "message": Scenario(DELIVER, waiting=(buying(), SWEEP)),
    "rotation": Scenario(lambda shop: people.rotate(shop, Random(1)), (buying(quantity=5),)),
    "purge": Scenario(lambda _shop: purge(settled_before=timezone.now()), (buying(quantity=5),)),
    "erasure": Scenario(lambda shop: people.erase(shop, Random(1)), (buying(),)),
    "ledger reading": Scenario(
        lambda shop: people.read_ledger(shop, Random(1)), (buying("TEST_PARTIAL", 5),)
    ),
    "cancelling": Scenario(
        lambda _shop: cancel_order(the_order(), by="amina"), waiting=(buying(),)
    ),
    "cancelling one on hold": Scenario(
        lambda _shop: cancel_order(the_order(), by="amina"), (buying(max_price=480),)
    ),
    "a customer kept waiting": Scenario(TICK, waiting=(buying(max_price=480), wait)),
    "approving a price": Scenario(approve, (buying(max_price=480),)),
}


def try_all(name: str, lane: int, say: Callable[[str], object]) -> bool:
    """Let the scenario die at each of its steps; return False if an invariant was violated."""
    database = Database(lane)
    database.prepare()
    bad = step = 0
    for step in range(1, _MOST_STEPS):
        report = in_child(partial(die, name, step), database)
        if report.violations:
            bad += 1
            say(f"{name}, step {step}:")
            say("\n".join(f"  ! {each}" for each in report.violations))
        if not report.figures.get("deaths"):
            break
    say(f"{name}: {step - 1} steps, {bad} bad")
    database.remove()
    return not bad


def die(name: str, step: int) -> Report:
    """Run the scenario in this process, with a death at its ``step``."""
    scenario, report = SCENARIOS[name], Report(step, None)
    with open_shop(name, connection.vendor) as shop:
        history = shop.simulation
        shop.provider.account.delay = (_SETTLED, _SETTLED)
        if scenario.needs:
            worker = shop.start_worker()
            _prepare(shop, scenario.needs)
            history.kill(worker)
        _prepare(shop, scenario.waiting)
        victim = history.start("victim", partial(scenario.act, shop))
        victim.trouble = Trouble("kill", step)
        history.run(until=history.now + _DONE)
        report.figures = {"deaths": int(victim.is_dead)}
        settle(shop)
        report.violations = violations(shop)
        if victim.error is not None:
            report.violations.append(f"it failed: {victim.error!r}")
    report.trace = history.trace
    return report


def _prepare(shop: Shop, steps: tuple[Step, ...]) -> None:
    """Take the steps, one after the other."""
    for step in steps:
        made = shop.simulation.start("preparation", partial(step, shop))
        shop.simulation.run(until=shop.simulation.now + _PREPARED)
        assert made.error is None, made.error
