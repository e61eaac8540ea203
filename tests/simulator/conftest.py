"""Fixtures of the tests of the simulator."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulator.shop import Shop


@pytest.fixture
def shop() -> Iterator[Shop]:
    with Shop() as shop:
        yield shop
