"""A shop that runs without the app for years, installs it, and removes it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from giftcards.simulator import Simulator

ROOT = Path(__file__).resolve().parent.parent.parent

Live = Callable[..., dict[str, Any]]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """Yield a function that runs a chapter of the shop's life; see :mod:`tests.delivery.shop`."""
    with Simulator(delay=(0, 0), rate_limit=0) as provider:

        def live(chapter: str, *, has_app: bool, **environment: str) -> dict[str, Any]:
            done = subprocess.run(
                [sys.executable, "-m", "tests.delivery.shop", chapter],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DATABASE_URL": f"sqlite:///{tmp_path / 'shop.sqlite3'}",
                    "DJANGO_SETTINGS_MODULE": "tests.delivery.shop.settings",
                    "PYTHONPATH": str(ROOT),
                    "SHOP_HAS_DELIVERY": str(int(has_app)),
                    "SHOP_PROVIDER": provider.url,
                    **environment,
                },
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr
            left: dict[str, Any] = json.loads(done.stdout)
            return left

        yield live


def test_customers_and_staff_are_told_in_a_shop_without_the_admin(live: Live) -> None:
    boss = "boss@shop.example"
    day = live("a_day_without_admin", has_app=True, SHOP_HAS_ADMIN="0", SHOP_STAFF=boss)
    assert day == {
        "told": ["lina@example.com", boss],
        "codes": 3,
        "again": ["lina@example.com", boss, boss],
    }


def test_the_app_comes_to_a_shop_with_a_past_and_goes_again(live: Live) -> None:
    without = live("years_without", has_app=False)
    traces = {"modules": [], "tables": [], "settings": []}
    assert {name: without[name] for name in traces} == traces
    assert set(without["pages"].values()) == {200}
    assert len(without["pages"]) > 5
    assert (without["waiting"], without["given_up"]) == (1, 1)
    installed = live("install", has_app=True)
    assert installed["told_of_the_past"] == []
    assert installed["unannounced"] == 0
    expected = [["late", "not_delivered"], ["new", "partly_delivered"], ["told", "paid_back"]]
    assert installed["deliveries"] == expected
    assert installed["mails"] == ["lina@example.com"] * 3
    assert all(installed[name] for name in traces)
    tables = installed["tables"]
    # The app's rows refer to orders that the core migrates and changes.
    gone = live("take_out", has_app=False)
    assert {name: gone[name] for name in traces} == traces | {"tables": tables}
    assert set(gone["pages"].values()) == {200}
    assert gone["orders"] == installed["orders"] + 1
    undone = live("undo", has_app=True)
    assert undone["tables"] == []
    assert undone["orders"] == gone["orders"]
