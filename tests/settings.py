"""The example project's settings with fixed secrets; DATABASE_URL chooses the database."""

from __future__ import annotations

import os

os.environ.setdefault("DATABASE_URL", "sqlite://:memory:")
os.environ["DJANGO_SECRET_KEY"] = "tests-only"
os.environ["GIFTCARDS_METRICS_TOKEN"] = ""
os.environ["GIFTCARDS_API_KEY"] = "CANARY-KEY-7f3a9c"
os.environ["GIFTCARDS_BASE_URL"] = "http://127.0.0.1:9"
# Only tests of the request quota wait for it.
os.environ["GIFTCARDS_REQUESTS_PER_MINUTE"] = "1200"
os.environ["GIFTCARDS_ENCRYPTION_KEYS"] = "bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM="

from example_project.settings import *  # noqa: F403

DEBUG = False
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# ``MAILERS``, further below, is the name of the mail setting in Django 6.1 and later. The core is
# tested without messages; see tests/delivery/conftest.py.
GIFTCARDS_DELIVERY = {"MODE": "off"}
# Only the tests of the catalogue have a worker that reads it.
GIFTCARDS = {**GIFTCARDS, "CATALOGUE_INTERVAL": 0}  # noqa: F405
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
