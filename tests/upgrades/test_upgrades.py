"""Upgrades from each released version: no data is lost, and open orders continue.

A recording is restored under the migrations of its version, and migrated. Then this version's
engine continues the work, alone or beside a worker of that version. The present state is recorded
and restored as well, which tests the recorder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from giftcards.delivery.models import Delivery
from giftcards.delivery.tasks import deliver
from giftcards.engine.outbox import announce
from giftcards.engine.tuning import tuning
from giftcards.models import Card, CustomerRefund, Order, StatusChange
from giftcards.simulator import Simulator
from giftcards.statuses import FINAL
from tests.delivery.conftest import SHOP
from tests.delivery.connecting import connect, disconnect
from tests.explore import invariants
from tests.stage import ROOT, posts, run_sweep, stop, wait_until
from tests.upgrades.recording import FOLDER, PRESENT, Recording, load, restore, unpack

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db(transaction=True)

RELEASES = sorted(path.stem for path in FOLDER.glob("*.json"))
# The invariants that need neither earlier requests nor earlier notifications of receivers.
HOLD = (
    invariants.bought_once_or_never,
    invariants.every_paid_card_is_stored_and_opens,
    invariants.sums_are_equal_on_both_sides,
    invariants.cards_beyond_the_figures_are_told,
    invariants.stored_figures_are_those_of_the_order,
    invariants.never_paid_back_above_what_is_owed,
    invariants.never_paid_back_and_ordered_again,
    invariants.statuses_follow_one_way,
    invariants.nothing_is_open_that_nobody_looks_at,
    invariants.whatever_needs_a_person_is_told,
    invariants.each_customer_is_told,
    invariants.no_secret_is_outside_its_place,
)


@pytest.fixture(params=[*RELEASES, PRESENT])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def present(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recording of the present state."""
    folder = tmp_path_factory.mktemp("recorded")
    subprocess.run([sys.executable, "-m", "tests.upgrades", PRESENT, folder], cwd=ROOT, check=True)
    return folder


@pytest.fixture
def recording(name: str, request: pytest.FixtureRequest) -> Recording:
    folder = request.getfixturevalue("present") if name == PRESENT else FOLDER
    return load(name, folder)


@pytest.fixture
def provider(
    recording: Recording, settings: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulator]:
    """The provider, which settles open orders at once; the database is that of the recording."""
    settings.GIFTCARDS = {
        **settings.GIFTCARDS,
        "API_KEY": recording["api_key"],
        "ENCRYPTION_KEYS": recording["encryption_keys"],
        "POLL_INTERVAL": 0.2,
    }
    monkeypatch.setattr(tuning, "proof_of_absence", 1.0)
    settings.GIFTCARDS_DELIVERY = SHOP
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "shop.example"]
    restore(recording, simulator)
    for order in simulator.orders.values():
        simulator.settle(order.id)
    make_due()
    connect()
    yield simulator
    disconnect()


def recorded(recording: Recording, model: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = recording["rows"][model]
    return rows


def make_due() -> None:
    """Make all orders due, because a delayed order would otherwise wait for an hour."""
    Order.objects.exclude(due_at=None).update(due_at=timezone.now())


def is_all_done() -> bool:
    # An order that waits for a person is not due.
    waiting = Order.objects.filter(needs_attention=True, due_at=None)
    is_open = Order.objects.exclude(status__in=FINAL).exclude(pk__in=waiting).exists()
    return not is_open and not StatusChange.objects.filter(announced_at=None).exists()


def check(recording: Recording, provider: Simulator) -> None:
    """Check that no data was lost, that open orders have settled, and that both sides agree."""
    shop: Any = SimpleNamespace(
        provider=SimpleNamespace(
            orders=provider.orders,
            find=provider.orders.get,
            delivered=lambda order: len(order.cards),
        ),
        keys={recording["api_key"], *recording["encryption_keys"]},
        logged=[],
        pages=[],
        mails=[sent.message() and sent for sent in mail.outbox],
    )
    assert [violation for holds in HOLD for violation in holds(shop)] == []
    before = recorded(recording, "giftcards.Order")
    for row in before:
        if row["status"] in FINAL:
            assert Order.objects.get(pk=row["id"]).status == row["status"]
    assert Order.objects.count() == len(before)
    for model, label in (
        (Card, "giftcards.Card"),
        (CustomerRefund, "giftcards.CustomerRefund"),
        (Delivery, "giftcards_delivery.Delivery"),
    ):
        keys = {row["id"] for row in recorded(recording, label)}
        assert keys <= set(model.objects.values_list("pk", flat=True))
    # Two orders had not been sent, and one of these waits for staff.
    assert posts(provider) == 1


def test_every_released_version_is_recorded() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert sorted(re.findall(r"^## (\S+) \(\d", changelog, re.MULTILINE)) == RELEASES


def test_each_table_is_recorded(present: Path) -> None:
    rows = load(PRESENT, present)["rows"]
    # Users are not recorded, so nobody has revealed a card.
    assert [label for label in rows if not rows[label]] == ["giftcards.CardReveal"]


def test_the_project_of_a_release_comes_from_its_tag(tmp_path: Path) -> None:
    assert not unpack("0.0.never", tmp_path)
    if not unpack("HEAD", tmp_path):
        pytest.skip("Needs the project's history.")
    assert (tmp_path / "manage.py").read_text() == (ROOT / "manage.py").read_text()


def test_a_recorded_shop_goes_on_under_this_version(
    recording: Recording, provider: Simulator
) -> None:
    for _round in range(10):
        make_due()
        run_sweep()
    announce()
    deliver()
    assert is_all_done()
    check(recording, provider)


@pytest.mark.cluster
def test_a_worker_of_the_recorded_version_goes_on_beside_one_of_this(
    name: str,
    recording: Recording,
    provider: Simulator,
    child: Any,
    shared_database: str,
    tmp_path: Path,
) -> None:
    if not unpack(name, tmp_path):
        pytest.skip(f"Needs the project's history, with the tag {name}.")
    loop = ["giftcards_worker"]
    new = child(*loop)
    older = subprocess.Popen(
        [sys.executable, "manage.py", *loop],
        cwd=tmp_path,
        env={**os.environ, **environment(recording, provider, shared_database)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(is_all_done)
        assert [older.poll(), new.poll()] == [None, None]
    finally:
        said = [stop(older), stop(new)]
    assert all("Traceback" not in each for each in said), said
    deliver()
    check(recording, provider)


def environment(recording: Recording, provider: Simulator, database: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database,
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "DJANGO_SECRET_KEY": "older",
        "GIFTCARDS_API_KEY": recording["api_key"],
        "GIFTCARDS_BASE_URL": provider.url,
        "GIFTCARDS_ENCRYPTION_KEYS": ",".join(recording["encryption_keys"]),
        "GIFTCARDS_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
    }
