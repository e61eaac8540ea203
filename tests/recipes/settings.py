"""The settings of the shop that the recipes build; see ``test_recipes.py``."""

from __future__ import annotations

SECRET_KEY = "tests-only"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django_q",
    "giftcards",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
ROOT_URLCONF = "tests.recipes.urls"
# The tables are created without migrations: the recipe has none, and those of other apps would take
# longer than the tests.
MIGRATION_MODULES = dict.fromkeys(app.rpartition(".")[2] for app in INSTALLED_APPS)
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
# ``MAILERS`` is the name in Django 6.1 and later, as in the settings of the other tests.
MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
SHOP_URL = "https://shop.example"
NAVIO_SANDBOX = True
CHARGILY_URL = "https://pay.chargily.net/test/api/v2/"
CHARGILY_SECRET = "test_sk_CANARY"

Q_CLUSTER = {"orm": "default", "workers": 2, "timeout": 90, "retry": 240}
GIFTCARDS = {
    "API_KEY": "any-text",
    "ENCRYPTION_KEYS": ["bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM="],
}
