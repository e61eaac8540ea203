"""The settings of the example project: what they make up, and for whom."""

from __future__ import annotations

import os
import runpy
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

SETTINGS = Path(__file__).resolve().parent.parent / "example_project" / "settings.py"
SECRETS = {
    "DJANGO_SECRET_KEY": "secret",
    "GIFTCARDS_API_KEY": "key",
    "GIFTCARDS_ENCRYPTION_KEYS": "one,two",
}

Load = Callable[..., dict[str, Any]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Read the settings in an environment that has ``variables`` and nothing else of ours."""

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
    assert len(files) == 4
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
        # Without a key, only an address says that it is a provider.
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
    """A newer Django refuses both at once."""
    monkeypatch.setattr("django.VERSION", version)
    settings = load()
    assert [key for key in ("EMAIL_BACKEND", "MAILERS") if key in settings] == [name]
    assert "filebased" in str(settings[name])


@pytest.mark.parametrize(("value", "debug"), [(None, False), ("0", False), ("1", True)])
def test_debug_is_off_unless_it_is_asked_for(value: str | None, debug: bool, load: Load) -> None:
    assert load(**({} if value is None else {"DJANGO_DEBUG": value}))["DEBUG"] is debug
