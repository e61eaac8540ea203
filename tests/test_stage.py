"""The shared fixtures: each test leaves in place what the next one needs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Never
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from django.db import connection
from pytest_django.live_server_helper import LiveServer

from tests.site import Door, Site
from tests.stage import sharing_database, wait_until


@pytest.mark.django_db(transaction=True)
def test_a_request_that_ends_while_a_copy_takes_the_databases_place_leaves_the_database(
    tmp_path: Path,
) -> None:
    tables = connection.introspection.table_names()
    others = set(threading.enumerate())
    # This is Django's own server: its threads share the test's connection, and close it.
    server = LiveServer("localhost")
    with sharing_database(tmp_path / "copy"):
        urlopen(f"{server}/admin/login/").close()
        server.stop()
        for thread in set(threading.enumerate()) - others:
            thread.join(60)
    assert connection.introspection.table_names() == tables


def test_a_request_that_comes_after_its_test_is_turned_away(live_server: Site) -> None:
    with pytest.raises(HTTPError, match="503"):
        urlopen(live_server.url)


def test_a_request_does_not_use_the_connection_of_the_test(site: str) -> None:
    def fail(*_anything: Any) -> Never:
        raise AssertionError

    with connection.execute_wrapper(fail), urlopen(f"{site}/admin/login/") as answer:
        assert answer.status == 200


def test_a_test_does_not_end_before_its_last_request() -> None:
    has_come, may_go, is_shut = (threading.Event() for _ in range(3))

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        has_come.set()
        may_go.wait(60)
        return Body([b"done"])

    door = Door(slow)
    door.open()
    request = threading.Thread(target=lambda: door({}, print).close())
    request.start()
    assert has_come.wait(60)
    test = threading.Thread(target=lambda: (door.shut(), is_shut.set()))
    test.start()
    wait_until(lambda: not door.is_open)
    assert not is_shut.wait(0.1)
    may_go.set()
    assert is_shut.wait(60)
    request.join()
    test.join()


class Body(list[bytes]):
    def close(self) -> None: ...
