"""The package's requirements: what works, and the same wherever it is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# With the default worker, which is an extra.
REQUIRED = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["q2"]]
]
FLOORS = {
    requirement.name: bound.version
    for requirement in REQUIRED
    for bound in requirement.specifier
    if bound.operator == ">="
}


def test_every_library_has_a_lowest_version() -> None:
    assert sorted(FLOORS) == ["cryptography", "django", "django-q2", "requests", "urllib3"]


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_the_lowest_version_of_django_is_documented(page: str) -> None:
    text = (ROOT / page).read_text()
    assert f"Django {FLOORS['django']} or later" in text.replace("\n", " ")
