"""The package's requirements: the same lowest versions wherever they are named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = [
    Requirement(text)
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]
FLOORS = {
    requirement.name: bound.version
    for requirement in REQUIRED
    for bound in requirement.specifier
    if bound.operator == ">="
}


def test_every_library_has_a_lowest_version() -> None:
    assert sorted(FLOORS) == ["cryptography", "django", "django-q2", "requests", "urllib3"]


@pytest.mark.parametrize("name", FLOORS)
def test_the_security_policy_names_the_lowest_version(name: str) -> None:
    rows = re.findall(r"^\| (\S+) \| ([\d.]+)", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    assert {library.lower(): floor for library, floor in rows}[name] == FLOORS[name]


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_the_lowest_version_of_django_is_documented(page: str) -> None:
    text = (ROOT / page).read_text()
    assert f"Django {FLOORS['django']} or later" in text.replace("\n", " ")


@pytest.mark.parametrize("version", ["5.2.18", "6.0", "6.0.9", "6.1", "6.1.2"])
def test_a_django_with_a_known_hole_is_not_installed(version: str) -> None:
    [django] = [requirement for requirement in REQUIRED if requirement.name == "django"]
    assert version not in django.specifier
    assert {"5.2.19", "6.0.10", "6.1.3", "6.2"} == set(
        django.specifier.filter(["5.2.19", "6.0.10", "6.1.3", "6.2"])
    )


def test_ci_tests_the_lowest_versions() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    [listed] = re.findall(r"^OLDEST_RELEASES=\(([^)]*)\)$", ci, re.MULTILINE)
    assert dict(pin.split("==") for pin in listed.split()) == FLOORS
