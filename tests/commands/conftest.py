"""Run commands as a shell would, and check that no secret is in what they print."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from giftcards.simulator import Simulator
from tests.conftest import Call, Outcome
from tests.stage import secrets_of


@pytest.fixture
def call(
    call: Call, simulator: Simulator, caplog: pytest.LogCaptureFixture, settings: Any
) -> Iterator[Call]:
    printed: list[str] = []
    caplog.set_level(logging.DEBUG)

    def run(name: str, *args: str, **options: Any) -> Outcome:
        outcome = call(name, *args, **options)
        printed.append(outcome.out + outcome.err)
        return outcome

    yield run
    text = "\n".join([*printed, caplog.text])
    for secret in secrets_of(settings, simulator):
        assert secret not in text
