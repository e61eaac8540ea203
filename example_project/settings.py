"""A shop in miniature. Everything is read from the environment; with nothing set, the project runs
against the provider's simulator (``manage.py giftcards_simulator``) on a local SQLite file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import dj_database_url
import pymysql
from cryptography.fernet import Fernet
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parent.parent
# Made on first use and kept out of the repository: secrets of this checkout only.
LOCAL_DIR = BASE_DIR / ".demo"


def _local_secret(name: str, fresh: str) -> str:
    """Return what the local file ``name`` holds; the first to come writes ``fresh`` into it."""
    path = LOCAL_DIR / name
    LOCAL_DIR.mkdir(exist_ok=True)
    draft = LOCAL_DIR / f"{name}.{os.getpid()}"
    draft.touch(mode=0o600)
    draft.write_text(fresh)
    try:
        # Linking is atomic and never overwrites: two processes that start at once share one secret.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()


def _secret(variable: str, name: str, fresh: str) -> str:
    return os.environ[variable] if variable in os.environ else _local_secret(name, fresh)


DEBUG = os.environ.get("DJANGO_DEBUG", "1") == "1"
SECRET_KEY = _secret("DJANGO_SECRET_KEY", "secret-key", secrets.token_urlsafe(50))
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_q",
    "giftcards",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "example_project.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# The pure-Python driver, so that a MariaDB or MySQL address works without a compiler.
pymysql.install_as_MySQLdb()
DATABASES = {"default": dj_database_url.config(default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
match DATABASES["default"]["ENGINE"]:
    case "django.db.backends.sqlite3":
        # The site, its workers and the commands write at the same time: wait for each other.
        DATABASES["default"]["OPTIONS"] = {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        }
    case "django.db.backends.mysql":
        DATABASES["default"]["OPTIONS"] = {
            "charset": "utf8mb4",
            "init_command": "SET sql_mode = 'STRICT_TRANS_TABLES'",
        }
        # django-q2 has an index with a condition, which this database does without.
        SILENCED_SYSTEM_CHECKS = ["models.W037"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("fr", _("French")), ("ar", _("Arabic"))]
TIME_ZONE = "Africa/Algiers"
USE_TZ = True
STATIC_URL = "static/"

Q_CLUSTER = {
    "name": "example",
    "orm": "default",
    # One worker follows the orders; the others are for the rest of the shop.
    "workers": 4,
    "timeout": 90,
    "retry": 240,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "poll": 0.5,
    "label": "Tasks",
}

SIMULATOR_URL = "http://127.0.0.1:8378"
_uses_simulator = "GIFTCARDS_API_KEY" not in os.environ

GIFTCARDS = {
    "API_KEY": os.environ.get("GIFTCARDS_API_KEY", "any-key-will-do-for-the-simulator"),
    "BASE_URL": os.environ.get(
        "GIFTCARDS_BASE_URL",
        SIMULATOR_URL if _uses_simulator else "https://api.oneclickdz.com",
    ),
    "ENCRYPTION_KEYS": [
        key.strip()
        for key in _secret(
            "GIFTCARDS_ENCRYPTION_KEYS", "encryption-keys", Fernet.generate_key().decode()
        ).split(",")
        if key.strip()
    ],
    "POLL_INTERVAL": float(os.environ.get("GIFTCARDS_POLL_INTERVAL", "5")),
    "POLL_TIMEOUT": float(os.environ.get("GIFTCARDS_POLL_TIMEOUT", "300")),
    "REQUESTS_PER_MINUTE": int(os.environ.get("GIFTCARDS_REQUESTS_PER_MINUTE", "60")),
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"giftcards": {"handlers": ["console"], "level": "INFO"}},
}
