"""Planted bugs: each patch in ``planted`` is put into a copy of the project, to be found there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from tests.explore.simulation import monotonic

FOLDER = Path(__file__).parent / "planted"
ROOT = Path(__file__).parents[2]
_COPIED = ("giftcards", "example_project", "tests")


def run(names: Collection[str], *, seconds: float, seed: int | None) -> int:
    """Look for each bug, or for these, for so long; return 1 if one is not found."""
    patches = sorted(each for each in FOLDER.glob("*.patch") if not names or each.stem in names)
    missed = 0
    for patch in patches:
        began = monotonic()
        found = _find(patch, seconds, seed)
        took = monotonic() - began
        says = f"found after {took:.0f} s: {found}" if found else f"not found in {took:.0f} s"
        sys.stdout.write(f"{patch.stem:28} {says}\n")
        sys.stdout.flush()
        missed += not found
    sys.stdout.write(f"{len(patches) - missed} of {len(patches)} found\n")
    return int(missed > 0)


def _find(patch: Path, seconds: float, seed: int | None) -> str:
    """The first violation in a copy with the bug, and its seed; "" if there is none."""
    with tempfile.TemporaryDirectory(prefix="giftcards-planted-") as folder:
        for name in _COPIED:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(folder, name), ignore=ignored)
        subprocess.run(["patch", "-p1", "-s", "-i", patch], cwd=folder, check=True)
        command = [sys.executable, "-m", "tests.explore", "--first", "--seconds", str(seconds)]
        if seed is not None:
            command += ["--seed", str(seed)]
        with subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder},
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
