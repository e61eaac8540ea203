"""Sphinx's configuration. Build with ``make docs``; a warning is a failure."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
