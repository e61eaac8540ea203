"""Sphinx's configuration. Build with ``make docs``; a warning is a failure."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
from django.conf import settings

# autodoc imports the app, which needs settings; none of them is used.
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_q", "giftcards"],
    Q_CLUSTER={"orm": "default", "timeout": 90, "retry": 240},
    USE_TZ=True,
)
django.setup()

from giftcards.conf import VERSION  # noqa: E402

project = "django-giftcards"
author = "The django-giftcards contributors"
copyright = f"2026, {author}"  # noqa: A001
version = release = VERSION

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
# Headings get anchors as on GitHub, so that links work in both places.
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"django-giftcards {release}"
html_show_sphinx = False
html_copy_source = False
