"""Fixtures for the tests of django-oscar, which use their own settings and environment."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from giftcards.simulator import Simulator


def pytest_configure(config: pytest.Config) -> None:
    # Oscar still calls functions that a later version of treebeard will move.
    moved = "ignore::treebeard.deprecation.RemovedInTreebeard8Warning"
    config.addinivalue_line("filterwarnings", moved)


@pytest.fixture
def shop(db: None, simulator: Simulator) -> Simulator:
    """The provider of an open shop that has not sent any requests yet."""
    from tests.oscar.shop import open_shop

    open_shop()
    simulator.forget_requests()
    return simulator


@pytest.fixture
def till(monkeypatch: pytest.MonkeyPatch) -> list[Decimal]:
    """The amounts that customers have paid; oscar's ``handle_payment`` takes the payments."""
    from tests.oscar.shop import payment_view

    taken: list[Decimal] = []

    def handle_payment(view: Any, order_number: str, total: Any, **_: Any) -> None:
        taken.append(total.incl_tax)

    monkeypatch.setattr(payment_view(), "handle_payment", handle_payment)
    return taken
