"""The site, for tests that look at it from outside: a live server that keeps its tests apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from django.db import connections
from pytest_django.live_server_helper import LiveServer

App = Callable[..., Iterable[bytes]]


class Site(LiveServer):
    """Its threads have connections of their own to the database, as those of a real site have.

    Django would have them share the test's connection if the database is in memory.
    """

    def __init__(self) -> None:
        super().__init__("localhost", start=False)
        self.thread.connections_override = {}
        self.start()
        self.door = Door(self.thread.httpd.get_app())
        self.thread.httpd.set_app(self.door)


class Door:
    """Lets requests in while it is open; when it has been shut, all of them are answered.

    A page that a test has left can still be asking, for longer than the test's tables are there.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._changed = threading.Condition()
        self.is_open = False
        self._inside = 0

    def open(self) -> None:
        with self._changed:
            self.is_open = True

    def shut(self) -> None:
        with self._changed:
            self.is_open = False
            assert self._changed.wait_for(lambda: not self._inside, 60), "A request has no end."

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        with self._changed:
            if not self.is_open:
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            self._inside += 1
        # The browser's connection, and so this thread, may have served the tests before, whose
        # database was another one.
        for used in connections.all(initialized_only=True):
            del connections[used.alias]
        try:
            return _Answer(self._app(environ, start_response), self._leave)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


class _Answer:
    """An answer that says when the server is done with it."""

    def __init__(self, answer: Any, leave: Callable[[], None]) -> None:
        self._answer = answer
        self._leave = leave

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._answer)

    def close(self) -> None:
        try:
            self._answer.close()
        finally:
            self._leave()
