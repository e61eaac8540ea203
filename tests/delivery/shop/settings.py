"""A shop that has the app only if ``SHOP_HAS_DELIVERY`` is 1.

If ``SHOP_HAS_ADMIN`` is 0, it has no admin, no messages between pages, no sessions and no
middleware.
"""

from __future__ import annotations

import os

import django

from tests.settings import *  # noqa: F403
from tests.settings import GIFTCARDS, INSTALLED_APPS

GIFTCARDS = {**GIFTCARDS, "BASE_URL": os.environ["SHOP_PROVIDER"]}
ROOT_URLCONF = "tests.delivery.shop.urls"
if django.VERSION < (6, 1):  # later ones read MAILERS
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
if os.environ.get("SHOP_HAS_ADMIN") == "0":
    without = {f"django.contrib.{name}" for name in ("admin", "messages", "sessions")}
    INSTALLED_APPS = [name for name in INSTALLED_APPS if name not in without]
    MIDDLEWARE = []
    ROOT_URLCONF = "tests.delivery.shop.pages_alone"
if os.environ["SHOP_HAS_DELIVERY"] == "1":
    GIFTCARDS_DELIVERY = {
        "SHOP_URL": "https://shop.example",
        "STAFF_EMAILS": os.environ.get("SHOP_STAFF", "").split(),
    }
else:
    INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "giftcards.delivery"]
    del GIFTCARDS_DELIVERY
