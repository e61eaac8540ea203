"""Settings of the core without the optional apps, whose tests are left out."""

from __future__ import annotations

from tests.settings import *  # noqa: F403

INSTALLED_APPS = [
    name
    for name in INSTALLED_APPS  # noqa: F405
    if name not in {"giftcards.books", "giftcards.delivery"}
    and not name.startswith("example_project.")
]
ROOT_URLCONF = "tests.core_urls"
del GIFTCARDS_DELIVERY  # noqa: F821
