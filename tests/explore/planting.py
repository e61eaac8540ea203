"""Planted bugs: each patch in ``planted`` is put into a copy of the project and must be found.

Histories find the bug, or the tests that the patch names in a line ``Found by: pytest …``. With a
line ``Database: postgresql``, the bug shows only on that database, whose address ``--database``
gives.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.explore.simulation import monotonic

FOLDER = Path(__file__).parent / "planted"
ROOT = Path(__file__).parents[2]
_COPIED = ("giftcards", "example_project", "tests", "pyproject.toml")


def run(
    names: Collection[str], *, seconds: float, seed: int | None, jobs: int, database: str | None
) -> int:
    """Look for the named bugs, or all, for a limited time each; return 1 if one is not found."""
    options = ["--first", f"--seconds={seconds}", f"--jobs={jobs}"]
    options += [] if seed is None else [f"--seed={seed}"]
    options += [] if database is None else [f"--database={database}"]
    patches = sorted(each for each in FOLDER.glob("*.patch") if not names or each.stem in names)
    found = tried = 0
    for patch in patches:
        facts = dict(re.findall(r"^(Found by|Database): (.+)$", patch.read_text(), re.MULTILINE))
        needed = facts.get("Database", "")
        if needed[:5] not in (database or ""):
            says = f"left out: it shows on {needed} only"
        else:
            began = monotonic()
            how = _find(patch, facts.get("Found by", ""), options, database)
            tried, found = tried + 1, found + bool(how)
            took = monotonic() - began
            says = f"found after {took:.0f} s: {how}" if how else f"not found in {took:.0f} s"
        sys.stdout.write(f"{patch.stem:28} {says}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{found} of {tried} found\n")
    return int(found < tried)


def _find(patch: Path, tests: str, options: Sequence[str], database: str | None) -> str:
    """Return how the bug was found in a copy of the project, or "" if it was not."""
    with tempfile.TemporaryDirectory(prefix="giftcards-planted-") as folder:
        for name in _COPIED:
            source, target = ROOT / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        subprocess.run(["patch", "-p1", "-s", "-i", patch], cwd=folder, check=True)
        environment = {**os.environ, "PYTHONPATH": folder}
        if database is not None:
            environment["DATABASE_URL"] = database
        if tests:
            return _test(tests, folder, environment)
        return _explore(folder, environment, options)


def _test(command: str, folder: str, environment: dict[str, str]) -> str:
    """Return the name of the first failing test, or "" if none fails."""
    _pytest, *tests = shlex.split(command)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    return failed[1] if failed else ""


def _explore(folder: str, environment: dict[str, str], options: Sequence[str]) -> str:
    """Return the first violation in a history and its seed, or "" if there is none."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.explore", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        found_by = found = ""
        for line in process.stdout:
            if line.startswith("  ! "):
                found = line.removeprefix("  ! ").strip()
                break
            found_by = line.partition(" ")[0]
        os.killpg(process.pid, signal.SIGKILL)
    return found and f"{found} (seed {found_by})"
