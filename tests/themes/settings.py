"""The tests' settings with a theme for the admin: GIFTCARDS_TESTS_THEME names its package."""

from __future__ import annotations

import os

from tests.settings import *  # noqa: F403

THEME = os.environ["GIFTCARDS_TESTS_THEME"]
INSTALLED_APPS = [THEME, *INSTALLED_APPS]  # noqa: F405
GIFTCARDS_DELIVERY = {
    "SHOP_URL": "https://shop.example",
    "SHOP_NAME": "The Shop",
    "STAFF_EMAILS": ["boss@shop.example", "books@shop.example"],
}
ROOT_URLCONF = "tests.themes.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("GIFTCARDS_TESTS_THEME_DB", ":memory:"),
    }
}
# Grappelli has no default for this setting.
GRAPPELLI_ADMIN_TITLE = "Site"
