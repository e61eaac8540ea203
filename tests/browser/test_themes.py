"""What a person sees of our pages under other themes of the admin."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import django
import pytest

from tests.browser import chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing()),
]

ROOT = Path(__file__).resolve().parent.parent.parent
# What has to be seen, first of all; of the pages about an order, which order it is.
SEEN = {
    "list": "web-1042",
    "order": "web-1042",
    "lost": "web-1040",
    "provider": "Balance",
    "report": "Key figures",
    "placing": "Your sale",
    "find": "Find by card code",
    "resolve": "web-1040",
    "pay back": "web-1042",
}


@pytest.fixture(scope="module", params=["unfold", "jazzmin", "grappelli", "simpleui"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"Needs django-{request.param}.")
    if request.param == "simpleui" and django.VERSION >= (6, 1):
        pytest.skip("simpleui 2026.1 itself shows no list under Django 6.1.")
    look = subprocess.run(
        [sys.executable, "-m", "tests.themes.look", request.param],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    assert look.returncode == 0, look.stderr
    found: dict[str, Any] = json.loads(look.stdout)
    return found


def test_our_words_can_be_read_under_a_theme(seen: dict[str, Any]) -> None:
    """Buttons and links of ours: none is of the colour of its ground, and none is cut off."""
    assert {name: page["wrong"] for name, page in seen.items() if page["wrong"]} == {}


def test_every_page_says_what_it_is_about_under_a_theme(seen: dict[str, Any]) -> None:
    """Not further down among the details, and not hidden. A theme may capitalise headings."""
    shown = {name: page["text"].partition("Refund breakdown")[0] for name, page in seen.items()}
    assert shown.keys() == SEEN.keys()
    missing = [name for name, text in SEEN.items() if text.lower() not in shown[name].lower()]
    assert missing == []
