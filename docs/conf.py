"""The configuration of Sphinx. Build with ``make docs``, which fails on warnings."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.glossary import PAGE, link_words
from docs.manual_pages import with_manual
from giftcards.conf import VERSION

project = "django-giftcards"
author = "The django-giftcards contributors"
copyright = f"2026, {author}"  # noqa: A001
version = release = VERSION

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
# Headings get anchors as on GitHub, so that links work in both places.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"django-giftcards {release}"
html_show_sphinx = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    app.connect("source-read", _include_manual)
    app.connect("doctree-resolved", _link_words)


def _include_manual(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = with_manual(source[0])


def _link_words(app: Sphinx, page: nodes.document, name: str) -> None:
    is_english = not name.endswith((".fr", ".ar"))
    if is_english and name not in {PAGE, "changelog"}:
        link_words(page, app.builder.get_relative_uri(name, PAGE))
