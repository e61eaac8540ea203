"""Lives a chapter in a process of its own: ``python -m tests.delivery.shop CHAPTER``.

Prints what it leaves as JSON. The settings are those beside this file.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import django

if __name__ == "__main__":
    django.setup()
    # Imported here: it imports models, which need the settings.
    chapters = import_module("tests.delivery.shop.chapters")
    sys.stdout.write(json.dumps(getattr(chapters, sys.argv[1])()))
