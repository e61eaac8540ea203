"""Purchases with our reference, and how each kind of provider treats them."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.recovering import declare_absent
from giftcards.models import Order, StatusChange
from giftcards.provider.client import Client
from giftcards.rules.problems import Problem
from giftcards.simulator import SPECIAL_TYPES, Simulator, Special
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import problems
from tests.conftest import Call
from tests.stage import PSN, Setter, buy, fresh, history, look, pass_time, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

OWN, OTHER = (urlsafe_b64encode(bytes(range(n, n + 32))).decode() for n in (1, 2))
FOUND = ["PLACING", "UNCONFIRMED", "HANDLING", "FULFILLED"]
AGAIN = ["PLACING", "UNCONFIRMED", "PENDING", "PLACING"]
WITHOUT = ["PLACING", "PENDING", "PLACING"]


@pytest.fixture
def _settings(set_conf: Setter, shorten: Setter) -> None:
    set_conf(SEND_REFERENCE=True, REQUESTS_PER_MINUTE=1200, POLL_INTERVAL=0.1)
    shorten(proof_of_absence=60)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes the answers about the type SIM_LOST arrive from then on."""
    return lambda: monkeypatch.setitem(SPECIAL_TYPES, "SIM_LOST", Special(summary=""))


def conditions() -> set[str]:
    standing = Standing()
    return {code for code, condition in CONDITIONS.items() if condition.judge(standing)}


def buy_elsewhere(reference: str) -> None:
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        client.place(product_id=PSN, type_id="SIM_LOST", quantity=2, reference=reference)


def buy_twice(simulator: Simulator, answered: Callable[[], None]) -> tuple[Order, str, str]:
    """Return an order that was bought twice because the list was blind, and both purchase ids."""
    simulator.references = "told"
    simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST", reference="cart-1")
    answered()
    look_until_settled()
    assert (fresh(order).status, order.problems) == ("FULFILLED", [])
    simulator.list_delay = 0
    first, second = simulator.orders
    assert order.provider_order_id == second
    return order, first, second


def compare_with_list() -> None:
    with suppress(CommandError):
        call_command("giftcards_reconcile", verbosity=0)


def search_for_another() -> None:
    lost = buy(type_id="SIM_ERROR")
    look(3)
    assert fresh(lost).status == "FULFILLED"


def follow_others() -> None:
    for _order in range(4):
        buy(quantity=3)
    look(3)


def look_until_settled() -> None:
    for _ in range(2):
        look(2)
        pass_time(70)
    look(3)


# The provider, the situation, the order's statuses, how often it was bought, and how often it was
# requested.
CASES: list[tuple[str, str, list[str], int, int]] = [
    ("told", "", FOUND, 1, 1),
    ("told", "others", FOUND, 1, 1),
    ("unique", "", FOUND, 1, 1),
    ("unique", "others", FOUND, 1, 1),
    ("unique", "blind", [*AGAIN, "UNCONFIRMED", "HANDLING", "FULFILLED"], 1, 2),
    ("unique", "blind, others", [*AGAIN, "UNCONFIRMED", "HANDLING", "FULFILLED"], 1, 2),
    ("ignored", "", FOUND, 1, 1),
    ("cut", "", FOUND, 1, 1),
    ("cut", "told before", FOUND, 1, 1),
    # Staff decide in these cases.
    ("ignored", "others", ["PLACING", "UNCONFIRMED"], 1, 1),
    ("cut", "others", ["PLACING", "UNCONFIRMED"], 1, 1),
    ("refused", "", [*WITHOUT, "UNCONFIRMED", "HANDLING", "FULFILLED"], 1, 2),
    ("refused", "others", [*WITHOUT, "UNCONFIRMED"], 1, 2),
]


@pytest.mark.parametrize(("references", "situation", "way", "bought", "requested"), CASES)
def test_an_order_whose_answer_is_lost_is_bought_once(
    references: Any,
    situation: str,
    way: list[str],
    bought: int,
    requested: int,
    simulator: Simulator,
    answered: Callable[[], None],
) -> None:
    others = 0
    if "told before" in situation:
        simulator.references = "told"
        buy()
        look(2)
        others += 1
    simulator.references = references
    if "blind" in situation:
        simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST")
    if order.status == "PENDING":
        look()
    answered()
    if "others" in situation:
        for number in range(2):
            buy_elsewhere("" if references == "refused" else f"other-{number}")
        others += 2
    look_until_settled()
    if "blind" in situation:
        assert [problem.code for problem in problems(order)] == ["bought_before"]
        simulator.list_delay = 0
        look(3)
    assert history(order) == way
    assert len(simulator.orders) - others == bought
    assert posts(simulator) - others == requested


@pytest.mark.parametrize("look_at_list", [compare_with_list, search_for_another, follow_others])
def test_a_second_purchase_is_told_whoever_reads_the_list_however_late(
    look_at_list: Callable[[], None], simulator: Simulator, answered: Callable[[], None]
) -> None:
    order, first, _second = buy_twice(simulator, answered)
    twice = Problem("bought_twice", {"provider_order_id": first})
    for _time in range(2):
        look_at_list()
        assert (fresh(order).status, problems(order)) == ("FULFILLED", [twice])
    assert order.acknowledge(twice, by="amina")
    look_at_list()
    assert not fresh(order).needs_attention


def test_of_two_rows_with_a_lost_orders_reference_the_first_is_adopted_and_the_other_told(
    simulator: Simulator,
) -> None:
    simulator.references = "told"
    simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST")
    look_until_settled()
    simulator.list_delay = 0
    look(3)
    order.refresh_from_db()
    first, second = simulator.orders
    assert (order.status, order.provider_order_id) == ("FULFILLED", first)
    assert problems(order) == [Problem("bought_twice", {"provider_order_id": second})]


@pytest.mark.parametrize("is_on_hold", [True, False])
def test_an_order_that_waits_to_be_sent_again_is_not_once_the_list_shows_its_reference(
    simulator: Simulator, answered: Callable[[], None], is_on_hold: bool
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_LOST")
    answered()
    assert declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    Order.objects.update(due_at=None if is_on_hold else timezone.now() + timedelta(hours=1))
    compare_with_list()
    assert [problem.code for problem in problems(order)] == ["bought_before"]
    look(3)
    assert (fresh(order).status, posts(simulator), problems(order)) == ("FULFILLED", 1, [])


def test_an_order_that_staff_had_rejected_is_told_once_the_list_shows_its_reference(
    simulator: Simulator,
) -> None:
    simulator.references = "told"
    simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST")
    assert declare_absent(order, send_again=False, source=StatusChange.Source.STAFF)
    simulator.list_delay = 0
    compare_with_list()
    order.refresh_from_db()
    [bought] = simulator.orders
    expected = [Problem("accepted_after_all", {"provider_order_id": bought})]
    assert (order.status, problems(order)) == ("REJECTED", expected)


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_list_with_ids_of_its_own_shows_no_second_purchase(
    simulator: Simulator, is_checked: bool
) -> None:
    simulator.references = "told"
    simulator.shifted_ids = True
    order = buy()
    if is_checked:
        look()
    compare_with_list()
    assert fresh(order).problems == []


@pytest.mark.parametrize(
    "values",
    [
        {"quantity": 1, "fulfilled_quantity": 1},
        {"provider_reference": "another"},
        {"environment": "PRODUCTION"},
    ],
    ids=str,
)
def test_a_row_of_another_order_is_no_second_purchase(
    values: dict[str, Any], simulator: Simulator, answered: Callable[[], None]
) -> None:
    order, _first, _second = buy_twice(simulator, answered)
    Order.objects.update(**values)
    compare_with_list()
    assert "bought_twice" not in [problem.code for problem in problems(order)]


@pytest.mark.parametrize(
    "reference", ["cart-1", "a" * 64, "cart:3", "gc0123456789abcdef0123456789abcd"]
)
def test_a_purchase_carries_a_digest_that_a_provider_need_not_change(
    reference: str, simulator: Simulator
) -> None:
    simulator.references = "told"
    order = buy(reference=reference)
    order.refresh_from_db()
    [bought] = simulator.orders.values()
    assert bought.reference == order.provider_reference
    assert re.fullmatch("gc[0-9a-f]{30}", order.provider_reference)
    assert order.provider_reference != order.reference


@pytest.mark.parametrize(
    ("keys", "are_equal"), [([OWN, OTHER], True), ([OTHER, OWN], False)], ids=["added", "replaced"]
)
def test_the_digest_is_made_with_the_first_encryption_key(
    keys: list[str], are_equal: bool, simulator: Simulator, set_conf: Setter
) -> None:
    set_conf(ENCRYPTION_KEYS=[OWN])
    [reference] = conf.keyring().sent_references("cart-1")
    set_conf(ENCRYPTION_KEYS=keys)
    order = buy(reference="cart-1")
    order.refresh_from_db()
    assert (order.provider_reference == reference) is are_equal
    assert reference in conf.keyring().sent_references("cart-1")


def test_no_reference_is_sent_unless_the_setting_asks_for_it(
    simulator: Simulator, set_conf: Setter
) -> None:
    set_conf(SEND_REFERENCE=False)
    simulator.references = "refused"
    order = buy()
    assert (order.status, order.provider_reference) == ("HANDLING", "")


def test_a_provider_that_refuses_the_field_gets_it_once_until_the_settings_change(
    simulator: Simulator, set_conf: Setter, call: Call
) -> None:
    simulator.references = "refused"
    first = buy()
    assert (first.status, [problem.code for problem in problems(first)]) == (
        "PENDING",
        ["reference_unwanted"],
    )
    look()
    assert (fresh(first).status, first.provider_reference, first.problems) == ("FULFILLED", "", [])
    assert "reference_refused" in conditions()
    assert "\nnote     reference_refused: " in call("giftcards_status").out
    assert buy().status == "HANDLING"
    assert posts(simulator) == 3
    # The setting is turned off, and on again.
    set_conf(SEND_REFERENCE=False)
    assert "reference_refused" not in conditions()
    assert buy().status == "HANDLING"
    set_conf(SEND_REFERENCE=True)
    assert "reference_refused" not in conditions()
    assert buy().status == "PENDING"
    # The API key changes.
    look()
    assert "reference_refused" in conditions()
    set_conf(API_KEY="another-key")
    assert "reference_refused" not in conditions()
    simulator.references = "told"
    order = buy()
    order.refresh_from_db()
    assert (order.status, bool(order.provider_reference)) == ("HANDLING", True)


def test_an_order_that_is_refused_with_and_without_its_reference_is_rejected(
    simulator: Simulator,
) -> None:
    simulator.references = "refused"
    order = buy(type_id="SIM_REJECT")
    look()
    assert (fresh(order).status, history(order)) == ("REJECTED", [*WITHOUT, "REJECTED"])
    assert "reference_refused" not in conditions()


def test_a_lost_order_is_found_by_its_reference_with_another_key_of_the_account(
    simulator: Simulator, set_conf: Setter, answered: Callable[[], None]
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_LOST")
    answered()
    buy_elsewhere("other-1")
    set_conf(API_KEY="the-key-after-a-rotation")
    look(3)
    assert (fresh(order).status, posts(simulator)) == ("FULFILLED", 2)


def test_without_its_row_another_key_proves_nothing_about_an_order_with_a_reference(
    simulator: Simulator, set_conf: Setter
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_DROP")
    set_conf(API_KEY="the-key-of-another-account")
    look_until_settled()
    assert (fresh(order).status, order.candidates, order.absent_since) == ("UNCONFIRMED", [], None)
    assert [problem.code for problem in problems(order)] == ["answer_lost", "other_account"]


@pytest.mark.parametrize(
    ("is_known", "expected", "candidates"),
    [
        # The rows belong to another order: the absence is proven, and the order is sent again.
        (True, "FULFILLED", 0),
        # The provider may have changed the references: one of the rows may be the order.
        (False, "UNCONFIRMED", 2),
    ],
)
def test_rows_with_other_references_are_candidates_unless_these_belong_to_an_order_here(
    is_known: bool,
    expected: str,
    candidates: int,
    simulator: Simulator,
    answered: Callable[[], None],
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_DROP")
    Order.objects.update(type_id="SIM_LOST")
    answered()
    other = buy(type_id="SIM_LOST")
    for number in range(2):
        buy_elsewhere(other.provider_reference if is_known else f"other-{number}")
    look_until_settled()
    assert (fresh(order).status, len(order.candidates)) == (expected, candidates)


@pytest.mark.parametrize(("minutes", "expected"), [(0, ("FULFILLED", 0)), (5, ("UNCONFIRMED", 1))])
def test_a_purchase_older_than_the_order_is_not_the_order_although_the_references_are_equal(
    minutes: int, expected: tuple[str, int], simulator: Simulator, answered: Callable[[], None]
) -> None:
    """Another shop with the same account and the same encryption keys made the purchase."""
    simulator.references = "unique"
    answered()
    buy_elsewhere(conf.keyring().sent_references("cart-1")[0])
    [bought] = simulator._orders.values()
    bought.created_at -= timedelta(minutes=minutes)
    order = buy(type_id="SIM_LOST", reference="cart-1")
    look_until_settled()
    assert (fresh(order).status, len(order.candidates)) == expected
    assert posts(simulator) == 2


def test_an_older_purchase_with_the_reference_of_an_order_is_not_told_as_its_second_one(
    simulator: Simulator, answered: Callable[[], None]
) -> None:
    order, first, _second = buy_twice(simulator, answered)
    simulator._orders[first].created_at -= timedelta(minutes=2)
    compare_with_list()
    assert fresh(order).problems == []


def test_an_order_stays_sought_while_the_provider_says_that_it_was_bought(
    simulator: Simulator, answered: Callable[[], None]
) -> None:
    simulator.references = "unique"
    simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST")
    answered()
    look_until_settled()
    look(10)
    assert (fresh(order).status, posts(simulator), len(simulator.orders)) == ("UNCONFIRMED", 2, 1)
    # The first attempt was made hours before the last one, and the list now shows it.
    hours = timedelta(hours=5)
    first = order.changes.filter(to_status=Status.PLACING).earliest("pk")
    StatusChange.objects.filter(pk=first.pk).update(at=first.at - hours)
    Order.objects.update(created_at=first.at - hours)
    [bought] = simulator._orders.values()
    bought.created_at -= hours
    simulator.list_delay = 0
    look(3)
    assert (fresh(order).status, posts(simulator)) == ("FULFILLED", 2)
