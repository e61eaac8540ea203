"""Releases with a known security hole; the warning about them is in test_checks."""

from __future__ import annotations

import re

import pytest

from giftcards.checks import LISTED_ON, SAFE, is_safe
from tests.stage import ROOT

SERIES = ("5.2.19", "6.0.10", "6.1.3")


@pytest.mark.parametrize(
    ("installed", "safe", "expected"),
    [
        ("5.2", SERIES, False),
        ("5.2.18", SERIES, False),
        ("5.2.19", SERIES, True),
        ("5.2.20", SERIES, True),
        ("6.0", SERIES, False),
        ("6.0.9", SERIES, False),
        ("6.0.10", SERIES, True),
        ("6.1.2", SERIES, False),
        ("6.1.3", SERIES, True),
        ("6.2a1", SERIES, True),
        ("7.0", SERIES, True),
        ("49.0.0", ("50.0.2",), False),
        ("50.0.2", ("50.0.2",), True),
        ("51", ("50.0.2",), True),
        ("2.33", ("2.33.0",), False),
        ("2.33.0.post1", ("2.33.0",), True),
    ],
)
def test_a_release_is_safe_from_the_one_of_its_series_that_is_listed(
    installed: str, safe: tuple[str, ...], expected: bool
) -> None:
    assert is_safe(installed, safe) is expected


def test_the_security_policy_lists_the_same_releases_of_the_same_day() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = re.findall(r"^\| (\w+) \| ([\d., ]+) \|", text, re.MULTILINE)
    assert {name: tuple(re.findall(r"\d[\d.]+", cell)) for name, cell in rows} == SAFE
    assert f"As of {LISTED_ON:%-d %B %Y}" in text
