"""Purchases with our reference: what each kind of provider makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.recovering import declare_absent
from giftcards.models import ApiKey, Order, StatusChange
from giftcards.provider.client import Client
from giftcards.rules.problems import Problem
from giftcards.simulator import SPECIAL_TYPES, Simulator, Special
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import answer, problems
from tests.stage import PSN, Setter, buy, fresh, history, look, own_key, pass_time, posts

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_settings")]

FOUND = ["PLACING", "UNCONFIRMED", "HANDLING", "FULFILLED"]
AGAIN = ["PLACING", "UNCONFIRMED", "PENDING", "PLACING"]
WITHOUT = ["PLACING", "PENDING", "PLACING"]


@pytest.fixture
def _settings(set_conf: Setter) -> None:
    set_conf(SEND_REFERENCE=True, PROOF_OF_ABSENCE=60, REQUESTS_PER_MINUTE=1200, POLL_INTERVAL=0.1)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, the answers about the type SIM_LOST arrive."""
    return lambda: monkeypatch.setitem(SPECIAL_TYPES, "SIM_LOST", Special(summary=""))


def conditions() -> set[str]:
    standing = Standing()
    return {code for code, condition in CONDITIONS.items() if condition.judge(standing)}


def buy_elsewhere(reference: str) -> None:
    with Client(base_url=conf.base_url, api_key=conf.api_key, timeout=5) as client:
        client.place(product_id=PSN, type_id="SIM_LOST", quantity=2, reference=reference)


def buy_twice(simulator: Simulator, answered: Callable[[], None]) -> tuple[Order, str, str]:
    """An order that was sent again because the list was blind, and the ids of both purchases."""
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


# The provider; the situation; the order's way; how often the order was bought, and requested.
CASES: list[tuple[str, str, list[str], int, int]] = [
    ("told", "", FOUND, 1, 1),
    ("told", "others", FOUND, 1, 1),
    ("unique", "", FOUND, 1, 1),
    ("unique", "others", FOUND, 1, 1),
    ("unique", "blind", [*AGAIN, "UNCONFIRMED", "HANDLING", "FULFILLED"], 1, 2),
    ("unique", "blind, others", [*AGAIN, "UNCONFIRMED", "HANDLING", "FULFILLED"], 1, 2),
    ("ignored", "", FOUND, 1, 1),
    # A person decides.
    ("ignored", "others", ["PLACING", "UNCONFIRMED"], 1, 1),
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
    simulator.references = references
    if "blind" in situation:
        simulator.list_delay = 10**9
    order = buy(type_id="SIM_LOST")
    if order.status == "PENDING":
        look()
    answered()
    others = 2 if "others" in situation else 0
    for number in range(others):
        buy_elsewhere("" if references == "refused" else f"other-{number}")
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
    assert order.tick_off(twice, by="amina")
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


@pytest.mark.parametrize("is_held", [True, False])
def test_an_order_that_waits_to_be_sent_again_is_not_once_the_list_shows_its_reference(
    simulator: Simulator, answered: Callable[[], None], is_held: bool
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_LOST")
    answered()
    assert declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    Order.objects.update(due_at=None if is_held else timezone.now() + timedelta(hours=1))
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
    ("reference", "is_sendable"),
    [("cart-1", True), ("a" * 40, True), ("a" * 41, False), ("cart:1", False), ("~!", False)],
)
def test_a_purchase_carries_its_reference_or_the_digest_of_it(
    reference: str, is_sendable: bool, simulator: Simulator
) -> None:
    simulator.references = "told"
    order = buy(reference=reference)
    order.refresh_from_db()
    [bought] = simulator.orders.values()
    digest = hashlib.sha256(reference.encode()).hexdigest()[:40]
    expected = reference if is_sendable else digest
    assert (bought.reference, order.provider_reference) == (expected, expected)


def test_no_reference_is_sent_unless_the_setting_asks_for_it(
    simulator: Simulator, set_conf: Setter
) -> None:
    set_conf(SEND_REFERENCE=False)
    simulator.references = "refused"
    order = buy()
    assert (order.status, order.provider_reference) == ("HANDLING", "")


def test_a_provider_that_refuses_the_field_gets_it_once_until_the_settings_change(
    simulator: Simulator, set_conf: Setter
) -> None:
    simulator.references = "refused"
    first = buy()
    assert (first.status, [problem.code for problem in problems(first)]) == (
        "PENDING",
        ["reference_unwanted"],
    )
    look()
    assert (fresh(first).status, first.provider_reference, first.problems) == ("FULFILLED", "", [])
    assert "reference" in conditions()
    assert buy().status == "HANDLING"
    assert posts(simulator) == 3
    # The setting is turned off, and on again.
    set_conf(SEND_REFERENCE=False)
    assert "reference" not in conditions()
    assert buy().status == "HANDLING"
    set_conf(SEND_REFERENCE=True)
    assert "reference" not in conditions()
    assert buy().status == "PENDING"
    # Another key.
    look()
    assert "reference" in conditions()
    set_conf(API_KEY="another-key")
    assert "reference" not in conditions()
    simulator.references = "told"
    order = buy()
    assert (order.status, order.provider_reference) == ("HANDLING", order.reference)


def test_an_order_that_is_refused_with_and_without_its_reference_is_rejected(
    simulator: Simulator,
) -> None:
    simulator.references = "refused"
    order = buy(type_id="SIM_REJECT")
    look()
    assert (fresh(order).status, history(order)) == ("REJECTED", [*WITHOUT, "REJECTED"])
    assert "reference" not in conditions()


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
    ("rows", "is_told"),
    [(["ours"], True), (["theirs"], False), ([""], False), (["ours", "theirs", "ours"], False)],
)
def test_references_are_trusted_once_the_list_has_shown_them_and_never_left_one_out(
    rows: list[str], is_told: bool
) -> None:
    with Gateway() as gateway:
        for told in rows:
            order = Order(provider_reference="ours")
            gateway.note_reference(order, answer(reference=told))
    assert own_key().tells_references is is_told


@pytest.mark.parametrize(
    ("tells", "expected"),
    [
        # Rows of others are no candidates: the absence is proven, and the order is sent again.
        (True, "FULFILLED"),
        # The references may be made up by the provider: one of the rows may be the order.
        (None, "UNCONFIRMED"),
        (False, "UNCONFIRMED"),
    ],
)
def test_rows_with_other_references_are_candidates_unless_references_are_trusted(
    tells: bool | None, expected: str, simulator: Simulator, answered: Callable[[], None]
) -> None:
    simulator.references = "told"
    order = buy(type_id="SIM_DROP")
    Order.objects.update(type_id="SIM_LOST")
    ApiKey.objects.update(tells_references=tells)
    answered()
    buy_elsewhere("other-1")
    buy_elsewhere("other-2")
    look_until_settled()
    assert fresh(order).status == expected
    assert len(order.candidates) == (0 if tells else 2)


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
    # The first attempt was made hours before the last one, and the list shows it at last.
    hours = timedelta(hours=5)
    first = order.changes.filter(to_status=Status.PLACING).earliest("pk")
    StatusChange.objects.filter(pk=first.pk).update(at=first.at - hours)
    [bought] = simulator._orders.values()
    bought.created_at -= hours
    simulator.list_delay = 0
    look(3)
    assert (fresh(order).status, posts(simulator)) == ("FULFILLED", 2)
