"""A pytest plugin with the fixtures for the tests of placing and following orders."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from django.db import connection

from giftcards.engine.tuning import tuning
from tests.fakes.sockets import Server, pass_on
from tests.stage import PRICES, PROVIDER, PSN, ROOT, sharing_database, stop, unused_port
from tests.wall import Wall


@pytest.fixture
def wire(settings: Any) -> Iterator[responses.RequestsMock]:
    """A mock for provider answers that the simulator cannot give; it answers price requests."""
    settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": PROVIDER}
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}", json=PRICES)
        yield mock


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Shorten pauses and limits of the engine, so that a test does not have to wait for them."""

    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(tuning, name, value)

    return change


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which no process listens."""
    with socket.socket() as bound:  # bound and not listening: nobody else gets it
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers, which a command replaces because it is alone in its process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def set_conf(settings: Any) -> Callable[..., None]:
    """Change some of the settings of giftcards for the test."""

    def change(**values: Any) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, **values}

    return change


@pytest.fixture
def small_budget(set_conf: Callable[..., None]) -> None:
    """A quota of 16 requests: one is set aside for the list, and checks leave one for placing."""
    set_conf(REQUESTS_PER_MINUTE=16, POLL_INTERVAL=60)


@pytest.fixture
def quickly(set_conf: Callable[..., None]) -> None:
    """Check orders about ten times a second."""
    set_conf(POLL_INTERVAL=0.1)


@pytest.fixture
def shared_database(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The address of a database that threads and processes can open side by side."""
    with sharing_database(tmp_path / "shared.sqlite3") as address:
        yield address


@pytest.fixture
def absent_database(
    shared_database: str, tmp_path: Path
) -> Iterator[tuple[str, Callable[[], object]]]:
    """The address of a database that cannot be reached, and a function that makes it reachable.

    Until then, the connections of a server are refused, or SQLite's file is in a folder that does
    not exist.
    """
    with contextlib.ExitStack() as stack:
        if connection.vendor == "sqlite":
            folder = tmp_path / "absent"
            yield f"sqlite:///{folder}/shared.sqlite3", lambda: folder.symlink_to(tmp_path)
            return
        port = unused_port()
        values, script = connection.settings_dict, pass_on(_connect_to_database)
        kind = {"postgresql": "postgres"}.get(connection.vendor, connection.vendor)
        password = f":{values['PASSWORD']}" if values["PASSWORD"] else ""
        address = f"{kind}://{values['USER']}{password}@127.0.0.1:{port}/{values['NAME']}"
        yield address, lambda: stack.enter_context(Server(script, port=port))


def _connect_to_database() -> socket.socket:
    """Return a connection to the database server, by TCP or by its socket."""
    values = connection.settings_dict
    host, port = values["HOST"], int(values["PORT"] or 5432)
    if connection.vendor == "postgresql" and not host.strip("/").count("."):
        folder = host if host.startswith("/") else "/var/run/postgresql"
        local = socket.socket(socket.AF_UNIX)
        local.connect(f"{folder}/.s.PGSQL.{port}")
        return local
    return socket.create_connection((host or "127.0.0.1", port))


@pytest.fixture
def child(shared_database: str, settings: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts ``manage.py`` in a separate process with the same database."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, **variables: str) -> subprocess.Popen[str]:
        configured = settings.GIFTCARDS
        environment = {
            **os.environ,
            "DATABASE_URL": shared_database,
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DJANGO_SECRET_KEY": settings.SECRET_KEY,
            "GIFTCARDS_API_KEY": configured["API_KEY"],
            "GIFTCARDS_BASE_URL": configured["BASE_URL"],
            "GIFTCARDS_ENCRYPTION_KEYS": ",".join(configured["ENCRYPTION_KEYS"]),
            "GIFTCARDS_POLL_INTERVAL": str(configured["POLL_INTERVAL"]),
            "GIFTCARDS_REQUESTS_PER_MINUTE": str(configured["REQUESTS_PER_MINUTE"]),
            "PYTHONUNBUFFERED": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "manage.py", *args],
            cwd=ROOT,
            env=environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        stop(process)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)
