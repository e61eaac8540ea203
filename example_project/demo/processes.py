"""Starting processes, noticing when one of them ends, and leaving none behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MANAGE = Path(__file__).resolve().parents[2] / "manage.py"
HOST = "127.0.0.1"
# One that is told to stop has this long before it is killed (seconds).
GRACE = 5
# One that is started has this long until it works (seconds).
PATIENCE = 60


class DemoError(Exception):
    """The demo cannot go on; the text says what to do."""


class Stopped(Exception):
    """A person, or the system, asked the demo to end."""


@dataclass
class Processes:
    """The processes of the demo by name, each with a log of its own."""

    log_dir: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    is_stopped: bool = False

    def listen_to_signals(self) -> None:
        """Note the wish to end; raising here could lose a process that is just being started."""

        def note(*_: object) -> None:
            self.is_stopped = True

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, note)

    def log(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def start(self, name: str, *command: str) -> None:
        """Start ``manage.py command`` in a session of its own, so that Ctrl-C is for us only."""
        with self.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603 (our own manage.py)
                [sys.executable, MANAGE, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def wait(self, seconds: float) -> None:
        """Let time pass; raise if the demo is to end or one of the processes has ended."""
        time.sleep(seconds)
        if self.is_stopped:
            raise Stopped
        for name, process in self.running.items():
            if process.poll() is not None:
                raise DemoError(f"The {name} ended by itself; {self.log(name)} says why.")

    def wait_until(self, condition: Callable[[], bool], name: str) -> None:
        """Return when ``condition`` holds, which shows that ``name`` works."""
        give_up_at = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > give_up_at:
                raise DemoError(f"The {name} does not answer; {self.log(name)} may say why.")
            self.wait(0.1)

    def stop(self) -> None:
        """End all of them, the last one first."""
        for process in reversed(self.running.values()):
            # Only the main process: a cluster whose processes are all told at once waits for ever.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.running.clear()


def free_port(wanted: int) -> int:
    """Return the port, or another one if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise DemoError(f"There is no free port on {HOST}.")


def answers(port: int, server: str) -> bool:
    """Whether an HTTP server of that name answers, whatever it says."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().headers.get("Server", "").startswith(server)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
