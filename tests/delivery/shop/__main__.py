"""Run a chapter in its own process: ``python -m tests.delivery.shop CHAPTER``.

The process prints what the chapter leaves as JSON. Its settings are in this folder.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import django

if __name__ == "__main__":
    django.setup()
    # This import comes after the setup, because it imports models, which need the settings.
    chapters = import_module("tests.delivery.shop.chapters")
    sys.stdout.write(json.dumps(getattr(chapters, sys.argv[1])()))
