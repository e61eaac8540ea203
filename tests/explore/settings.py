"""The settings of an explored shop: the example's, with short times and mails kept in memory."""

from __future__ import annotations

import os

import django

os.environ["DJANGO_SECRET_KEY"] = "explored"
os.environ["GIFTCARDS_API_KEY"] = "explore-key-1f0c77d2"
os.environ["GIFTCARDS_BASE_URL"] = "http://127.0.0.1:9"
os.environ["GIFTCARDS_ENCRYPTION_KEYS"] = "bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM="

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, GIFTCARDS, GIFTCARDS_DELIVERY

DEBUG = False
ALLOWED_HOSTS = ["*"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
if "sqlite" in DATABASES["default"]["ENGINE"]:
    # While a process waits for a lock, the simulation lets other processes run.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 0,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;",
    }
_MAILBOX = "tests.explore.shop.Mailbox"
if django.VERSION < (6, 1):
    EMAIL_BACKEND = _MAILBOX
else:
    MAILERS = {"default": {"BACKEND": _MAILBOX}}
GIFTCARDS = {
    **GIFTCARDS,
    "POLL_TIMEOUT": 60,
    # Exactly what the provider allows, so that one request too many is noticed.
    "REQUESTS_PER_MINUTE": 40,
    "LATE_WATCH_HOURS": 0.25,
}
GIFTCARDS_DELIVERY = {**GIFTCARDS_DELIVERY, "STAFF_EMAILS": ["boss@example.com"]}
LOGGING = {"version": 1, "disable_existing_loggers": False}
