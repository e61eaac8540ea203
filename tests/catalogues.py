"""Reading catalogues of translations, and running gettext's tools."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import giftcards

PACKAGE = Path(giftcards.__file__).parent
LANGUAGES = ("fr", "ar")


def catalogue(language: str, suffix: str, root: Path = PACKAGE) -> Path:
    return root / "locale" / language / "LC_MESSAGES" / f"django.{suffix}"


def needs(*tools: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"Needs {', '.join(missing)} (Debian: gettext).")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        # Run the tool in a fixed language, whoever runs the tests, and without Django's settings.
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "", "LC_ALL": "C"},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@cache
def entries(po: Path) -> dict[tuple[str, ...], list[str]]:
    """Return the translations of a catalogue by msgid, or by msgid and msgid_plural."""
    found: dict[tuple[str, ...], list[str]] = {}
    for block in po.read_text().split("\n\n"):
        ids: list[str] = []
        translations: list[str] = []
        target = ids
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            keyword, quoted = line.split('"', 1)
            if keyword:
                target = translations if keyword.startswith("msgstr") else ids
                target.append("")
            target[-1] += ast.literal_eval(f'"{quoted}')
        found[tuple(ids)] = translations
    # The first entry describes the catalogue itself.
    del found[("",)]
    return found


def assert_same_texts(root: Path, folder: Path) -> None:
    """Check that the catalogues of ``root`` contain every text of its code and no others."""
    copy = folder / root.name
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("__pycache__", "*.mo"))
    options = (*(f"--locale={language}" for language in LANGUAGES), "--no-location")
    run(sys.executable, "-m", "django", "makemessages", *options, "--no-obsolete", cwd=copy)
    for language in LANGUAGES:
        before = set(entries(catalogue(language, "po", root)))
        after = set(entries(catalogue(language, "po", copy)))
        assert (language, after - before, before - after) == (language, set(), set())


def placeholders(message: str) -> list[str]:
    return sorted(re.findall(r"%(?:\(\w+\))?[a-z%]|{[^}]*}|`[^`]*`", message))
