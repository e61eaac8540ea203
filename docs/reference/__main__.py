"""Writes the pages; with ``--names``, also the list of public names."""

from __future__ import annotations

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
django.setup()

from docs.reference.names import FILE, FOLDER, names  # noqa: E402
from docs.reference.pages import PAGES  # noqa: E402

for name, write in PAGES.items():
    (FOLDER / name).write_text(write())
if "--names" in sys.argv:
    FILE.write_text(names())
