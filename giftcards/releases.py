"""The libraries' releases: the lowest ones without a known security hole, and those installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from django.utils.version import get_version_tuple

#: The day on which the list below was made. SECURITY.md has it too, with the reasons.
LISTED_ON = date(2026, 11, 29)
#: The lowest release without a known hole of each series that has one, by library.
SAFE: Mapping[str, tuple[str, ...]] = {
    "Django": ("5.2.19", "6.0.10", "6.1.3"),
    "cryptography": ("50.0.2",),
    "requests": ("2.33.0",),
    "urllib3": ("2.8.0",),
}


class Hole(NamedTuple):
    """An installed release with a known security hole, and the releases that have none."""

    library: str
    installed: str
    safe: tuple[str, ...]


def known_holes() -> Iterator[Hole]:
    """Yield the installed libraries of which a security hole is known."""
    for library, safe in SAFE.items():
        try:
            installed = version(library)
        except PackageNotFoundError:
            continue  # such as a distribution under another name
        if not is_safe(installed, safe):
            yield Hole(library, installed, safe)


def is_safe(installed: str, safe: tuple[str, ...]) -> bool:
    """Return whether the release is one of ``safe``, a later one of its series, or above all."""
    number = get_version_tuple(installed)
    listed = [get_version_tuple(release) for release in safe]
    return number >= max(listed) or any(
        number[:2] == release[:2] and number >= release for release in listed
    )
