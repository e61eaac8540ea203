"""The settings of the example project: which values they generate, and in which cases."""

from __future__ import annotations

import os
import re
import runpy
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.utils.module_loading import import_string
from rest_framework.throttling import BaseThrottle

SETTINGS = Path(__file__).resolve().parent.parent / "example_project" / "settings.py"
SECRETS = {
    "DJANGO_SECRET_KEY": "secret",
    "GIFTCARDS_API_KEY": "key",
    "GIFTCARDS_ENCRYPTION_KEYS": "one,two",
}

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Return a function that reads the settings with only ``variables`` in the environment."""

    def load(**variables: str) -> dict[str, Any]:
        for name in list(os.environ):
            if name.startswith(("GIFTCARDS_", "DJANGO_", "DATABASE_URL", "EXAMPLE_")):
                monkeypatch.delenv(name)
        defaults = {
            "EXAMPLE_DIR": str(tmp_path / "files"),
            "DATABASE_URL": f"sqlite:///{tmp_path / 'shop.sqlite3'}",
        }
        for name, value in {**defaults, **variables}.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS))

    return load


@pytest.fixture
def contained(load: Load, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Callable[..., None]:
    """Return a function that gives the site the container's settings in this environment."""

    def contained(**variables: str) -> None:
        load(**variables)
        added = runpy.run_path(str(SETTINGS.with_name("container.py")))
        ours = [name for name in added["MIDDLEWARE"] if name.startswith("example_project.")]
        for name in added:
            if name.startswith(("SECURE_", "SESSION_", "CSRF_", "LANGUAGE_COOKIE", "PROXIES")):
                setattr(settings, name, added[name])
        settings.ALLOWED_HOSTS = added["ALLOWED_HOSTS"]
        settings.MIDDLEWARE = [*ours, *settings.MIDDLEWARE]

    return contained


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    "variables", [{}, {"GIFTCARDS_BASE_URL": "http://localhost:9", "GIFTCARDS_API_KEY": "key"}]
)
def test_the_example_makes_up_secrets_for_the_simulator_once(
    variables: dict[str, str], load: Load
) -> None:
    first, second = load(**variables), load(**variables)
    assert len(first["SECRET_KEY"]) > 50
    assert first["GIFTCARDS"]["API_KEY"]
    [key] = first["GIFTCARDS"]["ENCRYPTION_KEYS"]
    Fernet(key)
    for name in ("SECRET_KEY", "GIFTCARDS"):
        assert second[name] == first[name]


def test_files_of_the_example_are_readable_by_their_owner_only(load: Load, tmp_path: Path) -> None:
    load()
    folder = tmp_path / "files"
    files = [tmp_path / "shop.sqlite3", *(path for path in folder.iterdir() if path.is_file())]
    assert len(files) == 5
    assert {permissions(path) for path in files} == {0o600}
    assert {permissions(path) for path in (folder, folder / "mails")} == {0o700}


def test_an_existing_database_of_the_example_is_left_as_it_is(load: Load, tmp_path: Path) -> None:
    database = tmp_path / "shop.sqlite3"
    database.write_text("content")
    database.chmod(0o640)
    load()
    assert (database.read_text(), permissions(database)) == ("content", 0o640)


@pytest.mark.parametrize(
    ("missing", "url"),
    [
        ("DJANGO_SECRET_KEY", {}),
        ("GIFTCARDS_ENCRYPTION_KEYS", {}),
        # Without an API key, only the address shows that this is a provider.
        *((name, {"GIFTCARDS_BASE_URL": "https://api.example.com"}) for name in SECRETS),
    ],
)
def test_the_example_refuses_a_missing_secret_for_a_provider(
    missing: str, url: dict[str, str], load: Load, tmp_path: Path
) -> None:
    given = {name: value for name, value in SECRETS.items() if name != missing}
    with pytest.raises(ImproperlyConfigured, match=f"^{missing} is not set, and GIFTCARDS"):
        load(**given, **url)
    assert not (tmp_path / "files").exists()


def test_the_example_uses_the_secrets_that_are_given_for_a_provider(load: Load) -> None:
    settings = load(**SECRETS)
    assert settings["GIFTCARDS"]["BASE_URL"] == "https://api.oneclickdz.com"
    assert settings["GIFTCARDS"]["ENCRYPTION_KEYS"] == ["one", "two"]


def test_only_the_owner_reads_the_mails_of_the_example_whoever_makes_its_secrets(
    load: Load,
) -> None:
    settings = load(**SECRETS)
    assert permissions(settings["MAIL_DIR"]) == 0o700


@pytest.mark.parametrize(
    ("version", "name"), [((5, 2, 19), "EMAIL_BACKEND"), ((6, 1, 3), "MAILERS")]
)
def test_the_example_has_the_mail_settings_of_the_django_that_reads_it(
    version: tuple[int, ...], name: str, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Newer versions of Django refuse a project that has both settings."""
    monkeypatch.setattr("django.VERSION", version)
    settings = load()
    assert [key for key in ("EMAIL_BACKEND", "MAILERS") if key in settings] == [name]
    assert "filebased" in str(settings[name])


@pytest.mark.parametrize(("value", "debug"), [(None, False), ("0", False), ("1", True)])
def test_debug_is_off_unless_it_is_asked_for(value: str | None, debug: bool, load: Load) -> None:
    assert load(**({} if value is None else {"DJANGO_DEBUG": value}))["DEBUG"] is debug


# The container behind proxies.

BEHIND_TLS = {"DJANGO_ALLOWED_HOSTS": "shop.example", "DJANGO_PROXIES": "1"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("variables", "headers", "origin"),
    [
        ({}, {"host": "shop.example", "x-forwarded-proto": "https"}, "https://shop.example"),
        (
            {"DJANGO_PROXY_SSL_HEADER": "X-Scheme"},
            {"host": "shop.example", "x-scheme": "https"},
            "https://shop.example",
        ),
        # The proxy passes on a different host than the one that the visitor asked for.
        (
            {"DJANGO_CSRF_TRUSTED_ORIGINS": "https://shop.example:8443"},
            {"host": "localhost:8000", "x-forwarded-proto": "https"},
            "https://shop.example:8443",
        ),
    ],
)
def test_behind_a_proxy_with_tls_people_sign_in_and_their_cookies_are_for_tls_only(
    variables: dict[str, str],
    headers: dict[str, str],
    origin: str,
    contained: Callable[..., None],
    admin_user: Any,
) -> None:
    contained(**BEHIND_TLS, **variables)
    browser = Client(enforce_csrf_checks=True, headers=headers)
    page = browser.get("/admin/login/").content.decode()
    [token] = re.findall(r'csrfmiddlewaretoken" value="(\w+)"', page)
    given = {"username": "admin", "password": "password", "csrfmiddlewaretoken": token}
    sent = {"origin": origin, "referer": f"{origin}/admin/login/"}
    answer = browser.post("/admin/login/", given, headers=headers | sent)
    assert (answer.status_code, answer["Strict-Transport-Security"]) == (302, "max-age=3600")
    expected = {"csrftoken": True, "sessionid": True}
    assert {name: bool(each["secure"]) for name, each in answer.cookies.items()} == expected


def test_behind_a_proxy_with_tls_whoever_asks_without_is_sent_on(
    contained: Callable[..., None],
) -> None:
    contained(**BEHIND_TLS)
    answer = Client(headers={"host": "shop.example"}).get("/")
    assert (answer.status_code, answer["Location"]) == (301, "https://shop.example/")


@pytest.mark.parametrize(
    ("proxies", "told", "address"),
    [
        ("0", "203.0.113.1", "127.0.0.1"),
        ("1", "203.0.113.1", "203.0.113.1"),
        # An address that a visitor has forged comes before the addresses that the proxies add.
        ("1", "9.9.9.9, 203.0.113.1", "203.0.113.1"),
        ("2", "9.9.9.9, 203.0.113.1, 192.0.2.7", "203.0.113.1"),
        # The request did not pass through both proxies.
        ("2", "203.0.113.1", "127.0.0.1"),
        ("1", "", "127.0.0.1"),
    ],
)
def test_throttles_and_traces_go_by_the_address_that_the_proxies_tell(
    proxies: str, told: str, address: str, contained: Callable[..., None], settings: Any
) -> None:
    contained(DJANGO_PROXIES=proxies)
    seen: list[str] = []

    def page(request: HttpRequest) -> HttpResponse:
        seen.append(BaseThrottle().get_ident(request))
        return HttpResponse()

    request = RequestFactory(headers={"x-forwarded-for": told}).get("/")
    for name in settings.MIDDLEWARE:
        if name.startswith("example_project."):
            page = import_string(name)(page)
    page(request)
    assert seen == [address]
