"""Histories and deaths with fixed seeds: exploring runs, finds bugs, and is repeatable."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.explore import planting
from tests.stage import ROOT

pytestmark = pytest.mark.cluster


def explore(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.explore", *args]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )


def test_a_seed_tells_the_same_history_again_and_it_ends_well() -> None:
    ended = [explore("--seed", "302", "--trace") for _time in range(2)]
    assert [each.returncode for each in ended] == [0, 0], ended[0].stdout + ended[0].stderr
    first, second = (each.stdout for each in ended)
    assert first == second
    assert "nothing goes wrong any more" in first


def test_no_death_at_a_statement_breaks_an_invariant() -> None:
    names = ["placing", "refund"]
    ended = explore("--deaths", *names, "--jobs", "2")
    for name in names:
        assert re.search(rf"{name}: \d\d+ steps, 0 bad", ended.stdout), ended.stdout + ended.stderr


def test_each_planted_bug_still_fits_the_package() -> None:
    patches = list(planting.FOLDER.glob("*.patch"))
    outdated = [
        patch.stem
        for patch in patches
        if subprocess.run(
            ["patch", "-p1", "--dry-run", "--silent", "-i", patch],
            cwd=ROOT,
            capture_output=True,
            check=False,
        ).returncode
    ]
    assert (outdated, bool(patches)) == ([], True)


def test_a_planted_bug_is_found_and_told() -> None:
    ended = explore("--planted", "code_in_the_log", "--seconds", "400", "--seed", "1")
    assert "1 of 1 found" in ended.stdout, ended.stdout + ended.stderr
    assert "no_secret_is_outside_its_place" in ended.stdout
