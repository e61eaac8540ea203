"""The pages that are written from the code, by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from docs.reference.api import api, signals
from docs.reference.checks import checks
from docs.reference.commands import commands
from docs.reference.settings import settings

PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings,
    "checks.md": checks,
    "commands.md": commands,
    "signals.md": signals,
    "api.md": api,
}
