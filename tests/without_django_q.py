"""The settings of processes that cannot import django-q2; see ``tests/test_workers.py``."""

from __future__ import annotations

import sys

# Imports fail as if django-q2 was not installed.
sys.modules["django_q"] = None  # type: ignore[assignment]

from tests.delivery.worker_settings import *  # noqa: E402, F403

INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "django_q"]  # noqa: F405
del Q_CLUSTER  # noqa: F821
