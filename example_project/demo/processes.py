"""The demo's lock, and its child processes: starting, detecting when one exits, stopping."""

from __future__ import annotations

import contextlib
import fcntl
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

GUARD = Path(__file__).resolve().with_name("guard.py")
MANAGE = Path(__file__).resolve().parents[2] / "manage.py"
HOST = "127.0.0.1"
# How long a process may take to stop before it is killed (seconds).
GRACE = 5
# How long a process may take to start (seconds).
PATIENCE = 60


class DemoError(Exception):
    """The demo cannot continue; the message says why or what to do."""


class Stopped(Exception):
    """The demo was asked to end by a signal."""


def lock(folder: Path) -> Callable[[], None]:
    """Lock ``folder`` until this process ends in any way; return the function that unlocks it.

    Raises :exc:`DemoError` if another demo has locked it.
    """
    path = folder / "lock"
    path.touch(mode=0o600)
    file = path.open("r+")
    try:
        # The system releases the lock when the process dies, so no lock is left behind.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise DemoError(
            f"Another demo is running in this checkout (process {file.read().strip() or '?'})."
            " Stop it with Ctrl-C in its terminal first."
        ) from None
    file.truncate(0)
    print(os.getpid(), file=file, flush=True)
    return file.close


@dataclass
class Processes:
    """The demo's child processes by name, each with its own log file."""

    log_dir: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    is_stopped: bool = False

    def listen_to_signals(self) -> None:
        """Set a flag on a signal; raising instead could lose a process that is being started."""

        def note(*_: object) -> None:
            self.is_stopped = True

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, note)

    def log(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def start(self, name: str, *command: str) -> None:
        """Start ``manage.py command``; see :meth:`run`."""
        self.run(name, str(MANAGE), *command)

    def run(self, name: str, *arguments: str) -> None:
        """Run Python with ``arguments`` in a new session, so that Ctrl-C reaches only the demo."""
        log_file = self.log(name)
        log_file.touch(mode=0o600)
        with log_file.open("wb") as log:
            self.running[name] = subprocess.Popen(  # noqa: S603 (our own words)
                [sys.executable, GUARD, sys.executable, *arguments],
                # The guard sees this pipe close when the demo is killed.
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def wait(self, seconds: float) -> None:
        """Sleep; raise :exc:`Stopped` after a signal, :exc:`DemoError` if a process exited."""
        time.sleep(seconds)
        if self.is_stopped:
            raise Stopped
        for name, process in self.running.items():
            if process.poll() is not None:
                raise DemoError(f"The {name} ended by itself; {self.log(name)} says why.")

    def wait_until(self, condition: Callable[[], bool], name: str) -> None:
        """Wait for ``condition``; raise :exc:`DemoError` about ``name`` after ``PATIENCE``."""
        give_up_at = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > give_up_at:
                raise DemoError(f"The {name} does not answer; {self.log(name)} may say why.")
            self.wait(0.1)

    def stop(self) -> None:
        """Stop all processes, in reverse order of starting."""
        for process in reversed(self.running.values()):
            # Only the main process gets the signal; a cluster hangs if all its processes get it at
            # once.
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None  # noqa: S101 (it is a pipe)
            process.stdin.close()
        self.running.clear()


def free_port(wanted: int) -> int:
    """Return ``wanted``, or another free port if it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise DemoError(f"There is no free port on {HOST}.")


def answers(port: int, server: str) -> bool:
    """Return True if an HTTP server whose ``Server`` header starts with ``server`` answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().headers.get("Server", "").startswith(server)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
