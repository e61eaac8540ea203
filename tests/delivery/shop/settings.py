"""A shop that has the app if ``SHOP_HAS_DELIVERY`` is 1, and knows nothing of it otherwise."""

from __future__ import annotations

import os

import django

from tests.settings import *  # noqa: F403
from tests.settings import GIFTCARDS, INSTALLED_APPS

GIFTCARDS = {**GIFTCARDS, "BASE_URL": os.environ["SHOP_PROVIDER"]}
ROOT_URLCONF = "tests.delivery.shop.urls"
if django.VERSION < (6, 1):  # later ones read MAILERS
    EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
if os.environ["SHOP_HAS_DELIVERY"] == "1":
    GIFTCARDS_DELIVERY = {"BASE_URL": "https://shop.example"}
else:
    INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "giftcards.delivery"]
    del GIFTCARDS_DELIVERY
