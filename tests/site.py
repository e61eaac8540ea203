"""The site and the demo, for tests that use them from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connections
from pytest_django.live_server_helper import LiveServer

App = Callable[..., Iterable[bytes]]


class Site(LiveServer):
    """A live server whose threads have their own database connections, as those of a real site.

    Django would make them share the test's connection if the database is in memory.
    """

    def __init__(self) -> None:
        super().__init__("localhost", start=False)
        self.thread.connections_override = {}
        self.start()
        self.door = Door(self.thread.httpd.get_app())
        self.thread.httpd.set_app(self.door)


class Door:
    """A gate that lets requests in while it is open, and waits for their answers when it is shut.

    A page that a test has left can still send requests when the tables of the test are gone.
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
        # The browser reuses its connection, and with it this thread, which may have served earlier
        # tests with a different database.
        for used in connections.all(initialized_only=True):
            del connections[used.alias]
        try:
            return _Answer(self._app(environ, _kept(environ, start_response)), self._leave)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


def _kept(environ: dict[str, Any], start_response: Callable[..., Any]) -> Callable[..., Any]:
    """Let the browser cache static files, which it would request again while they are new."""
    if not environ.get("PATH_INFO", "").startswith(settings.STATIC_URL):
        return start_response

    def respond(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        return start_response(status, [*headers, ("Cache-Control", "max-age=3600")], *more)

    return respond


class _Answer:
    """A response that reports when the server has finished with it."""

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


class Demo:
    """A running demo with its own folder, in an environment that names a different database."""

    count = 0

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        # The demo's processes inherit this mark, which distinguishes them from all others.
        self._mark = f"DEMO_TEST={folder}"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GIFTCARDS_", "DJANGO_", "COVERAGE_", "COV_"))
        }
        environment |= {
            "DATABASE_URL": f"sqlite:///{folder / 'of-the-shop.sqlite3'}",
            "DEMO_TEST": str(folder),
            "EXAMPLE_DIR": str(folder / "files"),
            # The demo's output has to be readable in environments that support only ASCII.
            "LC_ALL": "C",
            "PYTHONIOENCODING": "ascii",
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "0",
        } | more
        Demo.count += 1
        self._output = (folder / f"output-{Demo.count}").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "example_project.demo", *arguments],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):  # it may end by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        self._output.close()

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text("ascii")

    def processes(self) -> dict[int, str]:
        """Return the command lines of the demo's processes, by process id."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes()
                    found[int(folder.name)] = command.replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # not a process, or not any more
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < give_up_at, self.output
            time.sleep(0.05)
