"""The settings of a shop after following the installation page, for running the pages."""

from __future__ import annotations

import os

os.environ["CHARGILY_SECRET"] = "test_sk_CANARY"
os.environ["SMS_KEY"] = "CANARY-SMS-KEY"
os.environ["TELEGRAM_TOKEN"] = "CANARY-TOKEN"

from tests.settings import *  # noqa: F403

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
GIFTCARDS_DELIVERY = {
    "SHOP_URL": "https://shop.example",
    "FROM_EMAIL": "The Shop <orders@shop.example>",
    "SHOP_NAME": "The Shop",
}
ALLOWED_HOSTS = ["shop.example"]
# This is a setting of the shop itself.
CELERY_BEAT_SCHEDULE: dict[str, object] = {}
