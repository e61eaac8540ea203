"""What all test modules share: a provider to talk to, and a way to run a command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from typing import Any, NamedTuple, Protocol

import hypothesis
import pytest
from django.core.management import CommandError, call_command

from giftcards.simulator import Simulator

# Set where everything that a test may need has to be there, as in CI: then a skip is a failure.
REQUIRE_ALL = bool(os.environ.get("GIFTCARDS_TESTS_REQUIRE_ALL"))

# A machine that is busy with other things fails no test; CI tries the same examples every time.
hypothesis.settings.register_profile("default-giftcards", deadline=None, derandomize=REQUIRE_ALL)
hypothesis.settings.load_profile("default-giftcards")


class Outcome(NamedTuple):
    out: str
    err: str
    code: int


class Call(Protocol):
    def __call__(self, name: str, *args: str, **options: Any) -> Outcome: ...


@pytest.fixture
def call() -> Call:
    """Run a management command as a shell would: what it prints, and its exit code."""

    def run(name: str, *args: str, **options: Any) -> Outcome:
        out, err, code = StringIO(), StringIO(), 0
        try:
            call_command(name, *args, stdout=out, stderr=err, no_color=True, **options)
        except CommandError as error:
            print(error, file=err)
            code = error.returncode
        return Outcome(out.getvalue(), err.getvalue(), code)

    return run


@pytest.fixture
def simulator(settings: Any) -> Iterator[Simulator]:
    """The provider, settling at once and without limits; the settings point at it."""
    with Simulator(delay=(0, 0), rate_limit=0) as running:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": running.url}
        yield running


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"This may not be left out (GIFTCARDS_TESTS_REQUIRE_ALL): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report
