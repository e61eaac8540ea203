from __future__ import annotations

import os
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")
django.setup()

from docs.reference.pages import PAGES  # noqa: E402

for name, write in PAGES.items():
    (Path(__file__).parent / name).write_text(write())
