"""Settings of a minimal shop, configured by environment variables.

By default, it uses the provider's simulator (``manage.py giftcards_simulator``) and a local SQLite
file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import dj_database_url
import django
import pymysql
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parent.parent
# The folder of generated secrets, and of the demo's database and logs. It is not committed.
LOCAL_DIR = Path(os.environ.get("EXAMPLE_DIR", BASE_DIR / ".demo"))

SIMULATOR_URL = "http://127.0.0.1:8378"
PROVIDER_URL = "https://api.oneclickdz.com"
BASE_URL = os.environ.get(
    "GIFTCARDS_BASE_URL", PROVIDER_URL if "GIFTCARDS_API_KEY" in os.environ else SIMULATOR_URL
)
# A provider at any other host is not the simulator.
USES_SIMULATOR = urlsplit(BASE_URL).hostname in {"localhost", "127.0.0.1", "::1"}


def private_file(path: Path) -> Path:
    """Create ``path`` as an empty file that only its owner may read, unless it exists."""
    with contextlib.suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    return path


def _local_secret(name: str, fresh: str) -> str:
    """Return the content of the local file ``name``; if it is missing, create it with ``fresh``."""
    path = LOCAL_DIR / name
    LOCAL_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = private_file(LOCAL_DIR / f"{name}.{os.getpid()}")
    draft.write_text(fresh)
    try:
        # Linking is atomic and never overwrites, so concurrent processes share one secret.
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()


def _secret(variable: str, name: str, fresh: str) -> str:
    """Return the secret from the environment or, for the simulator only, a stored made-up one."""
    if variable in os.environ:
        return os.environ[variable]
    if USES_SIMULATOR:
        return _local_secret(name, fresh)
    raise ImproperlyConfigured(
        f"{variable} is not set, and GIFTCARDS['BASE_URL'] is {BASE_URL}. The example project makes"
        " up secrets for the simulator only."
    )


# With DEBUG, an error page shows the source and the local variables of every frame.
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
SECRET_KEY = _secret("DJANGO_SECRET_KEY", "secret-key", secrets.token_urlsafe(50))
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
# The number of proxies between the visitors and the shop, for proxies.py.
PROXIES = 0

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "django_q",
    "giftcards",
    "giftcards.books",
    "giftcards.delivery",
    "rest_framework",
    "rest_framework.authtoken",
    "example_project.storefront",
    "example_project.api",
]

MIDDLEWARE = [
    "corsheaders.middleware.CorsMiddleware",
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
SILENCED_SYSTEM_CHECKS: list[str] = []
match DATABASES["default"]["ENGINE"]:
    case "django.db.backends.sqlite3":
        if not str(DATABASES["default"]["NAME"]).startswith((":memory:", "file:")):
            # SQLite gives its other files, which hold the same data, the permissions of this one.
            with contextlib.suppress(OSError):  # which Django reports when it opens the file
                private_file(Path(DATABASES["default"]["NAME"]))
        # The site, the workers and the commands write concurrently: wait for locks.
        DATABASES["default"]["OPTIONS"] = {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
        }
    case "django.db.backends.mysql":
        DATABASES["default"]["OPTIONS"] = {
            "charset": "utf8mb4",
            "init_command": "SET sql_mode = 'STRICT_TRANS_TABLES'",
        }
        # django-q2 has a conditional index, which MySQL and MariaDB ignore.
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
    # One worker follows the orders; the others run the shop's other tasks.
    "workers": 4,
    "timeout": 90,
    "retry": 240,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    "poll": 0.5,
    "label": "Tasks",
}

# Anyone with this token can read the balance at /metrics. Without a token, the page is closed.
METRICS_TOKEN = os.environ.get("GIFTCARDS_METRICS_TOKEN")
if METRICS_TOKEN is None and USES_SIMULATOR:
    METRICS_TOKEN = _local_secret("metrics-token", secrets.token_hex(32))

GIFTCARDS = {
    "API_KEY": _secret("GIFTCARDS_API_KEY", "api-key", f"for-the-simulator-{secrets.token_hex(8)}"),
    "BASE_URL": BASE_URL,
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
    "SEND_REFERENCE": os.environ.get("GIFTCARDS_SEND_REFERENCE") == "1",
    "CATALOGUE_INTERVAL": float(os.environ.get("GIFTCARDS_CATALOGUE_INTERVAL", "3600")),
    "METRICS_TOKEN": METRICS_TOKEN or None,
}

# Mails to customers are files in a folder that only its owner may enter, because they contain links
# to cards. In your project, a mail server sends them.
MAIL_DIR = LOCAL_DIR / "mails"
with contextlib.suppress(OSError):  # which Django reports when it writes a mail
    MAIL_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
_MAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
if django.VERSION < (6, 1):
    EMAIL_BACKEND, EMAIL_FILE_PATH = _MAIL_BACKEND, MAIL_DIR
else:
    MAILERS = {"default": {"BACKEND": _MAIL_BACKEND, "OPTIONS": {"file_path": MAIL_DIR}}}
# Customers are guests and do not log in. This page explains that to a visitor without a purchase.
LOGIN_URL = "storefront:orders"
GIFTCARDS_DELIVERY = {
    "SHOP_URL": os.environ.get("EXAMPLE_SHOP_URL", "http://127.0.0.1:8000"),
    "FROM_EMAIL": "Example Shop <shop@example.com>",
    "SHOP_NAME": "Example Shop",
}

# The API, for a front end on another origin: docs/recipes/drf.md.
CORS_ALLOWED_ORIGINS = [os.environ.get("EXAMPLE_FRONT_END_URL", "http://127.0.0.1:8001")]
CORS_URLS_REGEX = r"^/api/"
CORS_EXPOSE_HEADERS = ["Retry-After"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    # The API uses JSON only, so no HTML page of the framework shows codes.
    "DEFAULT_PARSER_CLASSES": ["example_project.api.parsers.SafeJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_THROTTLE_CLASSES": ["rest_framework.throttling.ScopedRateThrottle"],
    "DEFAULT_THROTTLE_RATES": {"token": "10/min", "orders": "60/min", "cards": "10/min"},
    # With zero proxies here, REST framework uses REMOTE_ADDR as the client's address, also behind
    # proxies (see proxies.py). Without this setting, clients could invent any address.
    "NUM_PROXIES": 0,
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"giftcards": {"handlers": ["console"], "level": "INFO"}},
}
