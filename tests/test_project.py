"""The project's own files: facts in several files, supported versions, and checks for a release."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from release import HEADING, RECORDED, problems, unfit_python
from tests.stage import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = [it.rpartition(" ")[2] for it in PROJECT["classifiers"] if ":: Python :: 3." in it]
# The default worker is an extra.
REQUIRED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["q2"]]
FLOORS = {
    requirement.name: bound.version
    for requirement in map(Requirement, REQUIRED)
    for bound in requirement.specifier
    if bound.operator == ">="
}
TODAY = datetime.now().astimezone().date()


def git(*arguments: str, cwd: Path = ROOT) -> str:
    # The checkout may belong to a different user, as in a container.
    person = ("-c", "safe.directory=*", "-c", "user.name=A", "-c", "user.email=a@example.com")
    return subprocess.run(
        ("git", *person, *arguments), cwd=cwd, check=True, capture_output=True, text=True
    ).stdout


def text(name: str) -> str:
    return (ROOT / name).read_text()


def test_the_addresses_of_the_project_are_in_one_file() -> None:
    hosts = {
        re.sub(r"^https://([^/]+/(OWNER/[\w-]+)?).*", r"\1", url)
        for url in PROJECT["urls"].values()
    }
    assert len(hosts) == 2
    for host in hosts:
        assert git("grep", "--files-with-matches", "--fixed-strings", host.strip("/")).split() == [
            "pyproject.toml"
        ]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        (".github/workflows/ci.yml", r"uses: (?!\$/)\S+@(.*)"),
        (".github/workflows/release.yml", r"uses: (?!\$/)\S+@(.*)"),
        (".pre-commit-config.yaml", r"rev: (.*)"),
    ],
)
def test_what_others_bring_is_frozen_to_a_commit_with_its_version(file: str, pattern: str) -> None:
    frozen = re.findall(pattern, text(file))
    assert frozen
    assert [
        it for it in frozen if not re.fullmatch(r"[0-9a-f]{40}  # (frozen: )?v?[\d.]+", it)
    ] == []


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("Dockerfile", r"^FROM (\S+)"), ("compose.yaml", r"^ +image: (?!giftcards-example$)(\S+)")],
)
def test_images_of_others_are_named_by_tag_and_digest(file: str, pattern: str) -> None:
    named = re.findall(pattern, text(file), re.MULTILINE)
    assert named
    assert [it for it in named if not re.fullmatch(r"\w+:[\w.-]+@sha256:[0-9a-f]{64}", it)] == []


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        (".github/workflows/ci.yml", r"--python (\S+)"),
        (".github/workflows/release.yml", r"--python (\S+)"),
        (".readthedocs.yaml", r'python: "(.*)"'),
        ("Dockerfile", r"FROM python:(3\.\d+)"),
        ("noxfile.py", r'python="([\d.]+)"'),
    ],
)
def test_the_python_that_a_file_names_is_supported(file: str, pattern: str) -> None:
    named = re.findall(pattern, text(file))
    assert named
    assert set(named) <= set(PYTHONS)


def test_every_library_has_a_lowest_version() -> None:
    libraries = ["cryptography", "django", "django-q2", "markdown-it-py", "requests", "urllib3"]
    assert sorted(FLOORS) == libraries


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_a_page_asks_for_the_systems_of_the_classifiers_and_the_lowest_django(page: str) -> None:
    systems = {it for it in PROJECT["classifiers"] if it.startswith("Operating System")}
    assert systems == {"Operating System :: MacOS", "Operating System :: POSIX :: Linux"}
    assert "- Linux or macOS, Python 3.11" in text(page)
    assert f"Django {FLOORS['django']} or later" in text(page).replace("\n", " ")


@pytest.mark.packaging
def test_ci_runs_every_session_that_the_hosted_workflow_asks_nox_for() -> None:
    pytest.importorskip("nox")
    [asked] = re.findall(r"\$NOX (--list .*?) \|", text(".github/workflows/ci.yml"))
    command = (sys.executable, "-m", "nox", *asked.split())
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    hosted = {it["name"] for it in json.loads(listed) if "hosted" in it["tags"]}
    lanes = " ".join(re.findall(r'^    "([a-z ]+)"', text(".ci/run"), re.MULTILINE)).split()
    assert '" .ci/readme\n' in text(".ci/run")
    # "tests" needs more Python versions, and "hooks" needs files that are not in a package index.
    assert hosted == {*lanes, "readme", "tests", "hooks"}


@pytest.mark.packaging
def test_make_says_first_that_a_python_is_too_old(tmp_path: Path) -> None:
    older = tmp_path / "python3.10"
    pretend = "import sys; sys.version_info = (3, 10); exec(sys.argv[1])"
    older.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    older.chmod(0o755)
    command = (
        "make",
        "--no-print-directory",
        "test",
        f"PYTHON={older}",
        f"VENV={tmp_path / 'venv'}",
    )
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("Python 3.11 or later is needed")
    assert not (tmp_path / "venv").exists()


@pytest.mark.cluster
def test_the_names_of_all_tests_are_the_same_in_each_process() -> None:
    """Otherwise, the processes of ``make test`` collect different tests and run none."""

    def collect(hash_seed: str) -> subprocess.Popen[str]:
        command = (sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:randomly")
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        options: Any = {"stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=environment, **options)

    processes = [collect(hash_seed) for hash_seed in "12"]
    first, second = (process.communicate()[0].splitlines() for process in processes)
    names = [line for line in first if "::" in line]
    assert len(names) > 10_000
    assert [line for line in second if "::" in line] == names


def test_the_changelog_begins_with_the_version_that_comes_next() -> None:
    [version, _date] = HEADING.findall(text("CHANGELOG.md"))[0]
    released = git("tag", "--list", "[0-9]*").split()
    assert version not in released or git("tag", "--points-at", "HEAD").split() == [version]


def test_a_tag_that_is_a_version_starts_the_hosted_release() -> None:
    # This YAML parser reads the key "on" as a boolean.
    [trigger] = yaml.safe_load(text(".github/workflows/release.yml"))[True].values()
    assert trigger == {"tags": ["[0-9]+.[0-9]+*"]}


def test_an_older_python_than_django_6_needs_is_refused_before_anything_is_built() -> None:
    [python] = re.findall(r'session\(python="([\d.]+)"\)\ndef release', text("noxfile.py"))
    assert unfit_python(*map(int, python.split("."))) == ""
    assert unfit_python(3, 11) == (
        "Python 3.11 has no Django 6, which a release is tried with too. `nox -s release` takes"
        f" Python {python}."
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that can be released as 0.2.0."""
    git("init", "--quiet", cwd=tmp_path)
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n## 0.2.0 ({TODAY})\n\n## 0.1.0 (2026-12-01)\n"
    )
    (tmp_path / RECORDED).mkdir(parents=True)
    for version in ("0.2", "0.2.0", "v0.2.0"):
        (tmp_path / RECORDED / f"{version}.json").write_text("{}")
    git("add", "--all", cwd=tmp_path)
    git("commit", "--quiet", "--message", "Version 0.2.0", cwd=tmp_path)
    return tmp_path


def test_a_clean_checkout_with_todays_heading_can_be_released(checkout: Path) -> None:
    assert list(problems(checkout, "0.2.0")) == []


def test_a_release_whose_shop_is_not_recorded_is_refused(checkout: Path) -> None:
    git("rm", "--quiet", "--", str(RECORDED / "0.2.0.json"), cwd=checkout)
    git("commit", "--quiet", "--message", "Version 0.2.0", cwd=checkout)
    told = "Its shop is not recorded: python -m tests.upgrades 0.2.0"
    assert list(problems(checkout, "0.2.0")) == [told]


@pytest.mark.parametrize(
    ("page", "line", "placeholder"),
    [
        ("README.md", "Version 0.1 is not on PyPI yet.", "not on PyPI"),
        ("README.md", 'pip install "./django-giftcards[q2]"', '"./django-giftcards'),
        ("pyproject.toml", 'Issues = "https://github.com/OWNER/"', "OWNER/"),
        ("docs/installation.md", "Version 0.1 is not on PyPI.", "not on PyPI"),
    ],
)
def test_a_release_with_a_placeholder_is_refused(
    checkout: Path, page: str, line: str, placeholder: str
) -> None:
    (checkout / page).parent.mkdir(exist_ok=True)
    (checkout / page).write_text(f"{line}\n")
    git("add", "--all", cwd=checkout)
    git("commit", "--quiet", "--message", "Version 0.2.0", cwd=checkout)
    told = f"{page} still says {placeholder!r}: see RELEASE.md."
    assert list(problems(checkout, "0.2.0")) == [told]


def test_a_tagged_commit_can_be_built_on_a_later_day(checkout: Path) -> None:
    yesterday = TODAY - timedelta(days=1)
    (checkout / "CHANGELOG.md").write_text(f"## 0.2.0 ({yesterday})\n")
    git("commit", "--quiet", "--all", "--message", "Version 0.2.0", cwd=checkout)
    git("tag", "0.2.0", cwd=checkout)
    assert list(problems(checkout, "0.2.0", is_tagged=True)) == []


@pytest.mark.parametrize(
    ("version", "is_tagged", "tag", "heading", "changed", "told"),
    [
        ("0.2", False, "", f"0.2.0 ({TODAY})", "", f"begins with 0.2.0 ({TODAY}), not with 0.2"),
        ("0.2.0", False, "", "0.2.0 (unreleased)", "", "begins with 0.2.0 (unreleased)"),
        ("0.2.0", False, "", "0.2.0 (2026-01-01)", "", "begins with 0.2.0 (2026-01-01)"),
        ("0.2.0", True, "0.2.0", "0.2.0 (unreleased)", "", "begins with 0.2.0 (unreleased)"),
        ("0.2.0", False, "0.2.0", f"0.2.0 ({TODAY})", "", "There is a tag 0.2.0 already."),
        ("0.2.0", True, "", f"0.2.0 ({TODAY})", "", "This commit is not tagged 0.2.0."),
        ("0.2.0", False, "", f"0.2.0 ({TODAY})", "new.py", "changes that are not committed"),
        ("v0.2.0", False, "", f"v0.2.0 ({TODAY})", "", "v0.2.0 is not a version"),
    ],
)
def test_what_keeps_a_checkout_from_being_released_is_told(
    checkout: Path, version: str, is_tagged: bool, tag: str, heading: str, changed: str, told: str
) -> None:
    (checkout / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
    git("commit", "--quiet", "--all", "--allow-empty", "--message", "Otherwise", cwd=checkout)
    if tag:
        git("tag", tag, cwd=checkout)
    if changed:
        (checkout / changed).touch()
    [found] = problems(checkout, version, is_tagged=is_tagged)
    assert told in found
