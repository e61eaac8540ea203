"""A mail server of raw sockets that fails at a chosen phase, and Django backends that fail."""

from __future__ import annotations

import contextlib
import email
import email.policy
import socket
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import django
from django.core.mail.backends.base import BaseEmailBackend

SMTP = "django.core.mail.backends.smtp.EmailBackend"
FILES = "django.core.mail.backends.filebased.EmailBackend"
# What the server does instead of answering.
DROP, HANG = "drop", "hang"
_REPLIES = {
    "connect": "220 fake",
    "ehlo": "250 fake",
    "mail": "250 2.1.0 Ok",
    "rcpt": "250 2.1.5 Ok",
    "data": "354 Go on",
    "end": "250 2.0.0 Ok",
    "quit": "221 Bye",
    "rset": "250 Ok",
}


class Fault(NamedTuple):
    """A failure in ``phase``: the server drops the connection, hangs, or gives another reply."""

    phase: str
    action: str


class Received(NamedTuple):
    """A mail that the server got completely, and whether it confirmed this to the sender."""

    recipient: str
    raw: bytes
    is_acknowledged: bool

    @property
    def mail(self) -> EmailMessage:
        return email.message_from_bytes(self.raw, policy=email.policy.default)


class MailServer:
    """A mail server on a port of this machine.

    ``plan`` returns the fault of each connection, counted from 1.
    """

    def __init__(self, plan: Callable[[int], Fault | None] = lambda _number: None) -> None:
        self.plan = plan
        self.received: list[Received] = []
        self.connections = 0
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> MailServer:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            fault = self.plan(self.connections)
            thread = threading.Thread(target=self._serve, args=[connection, fault])
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, fault: Fault | None) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            connection.settimeout(10)
            _Conversation(self, connection, fault).run()

    def take(self, recipient: str, raw: bytes, *, is_acknowledged: bool) -> None:
        with self._lock:
            self.received.append(Received(recipient, raw, is_acknowledged))

    def hang(self) -> None:
        self._stopping.wait(30)


class _Conversation:
    def __init__(self, server: MailServer, connection: socket.socket, fault: Fault | None) -> None:
        self._server, self._connection, self._fault = server, connection, fault
        self._file = connection.makefile("rb")
        self._recipient = ""

    def run(self) -> None:
        self._answer("connect")
        while line := self._file.readline():
            word = line[:4].decode().strip().lower()
            phase = word if word in _REPLIES else "ehlo"
            if phase == "rcpt":
                self._recipient = line.partition(b"<")[2].partition(b">")[0].decode()
            self._answer(phase)
            if phase == "data" and not self._fails_in("data"):
                self._read_message()
            if phase == "quit":
                return

    def _read_message(self) -> None:
        lines = []
        while (line := self._file.readline()) != b".\r\n":
            if not line:
                return
            lines.append(line.removeprefix(b"."))
        is_taken = not (self._fails_in("end") and self._fault and self._fault.action[0] in "45")
        if is_taken:
            self._server.take(
                self._recipient, b"".join(lines), is_acknowledged=not self._fails_in("end")
            )
        self._answer("end")

    def _fails_in(self, phase: str) -> bool:
        return self._fault is not None and self._fault.phase == phase

    def _answer(self, phase: str) -> None:
        reply = _REPLIES[phase]
        if self._fault and self._fails_in(phase):
            reply = self._fault.action
        if reply == HANG:
            self._server.hang()
        if reply in {DROP, HANG}:
            raise EOFError
        self._connection.sendall(f"{reply}\r\n".encode())


class Silent(BaseEmailBackend):
    """A backend that reports that it has sent nothing, without a reason."""

    def send_messages(self, email_messages: Any) -> int:
        return 0


class Uncounting(BaseEmailBackend):
    """A backend that does not report how many messages it has sent."""

    def send_messages(self, email_messages: Any) -> None:
        pass


class Refusing(BaseEmailBackend):
    """A backend whose server is away, and whose error contains the message."""

    def send_messages(self, email_messages: Any) -> int:
        raise ConnectionRefusedError(f"CANARY-WORDS {email_messages[0].body}")


SILENT, UNCOUNTING, REFUSING = (
    f"{__name__}.{name}" for name in ("Silent", "Uncounting", "Refusing")
)


def smtp_settings(port: int, *, timeout: float = 5) -> dict[str, Any]:
    """Return the settings with which Django sends through this server."""
    if django.VERSION >= (6, 1):
        options = {"host": "127.0.0.1", "port": port, "timeout": timeout}
        return {"MAILERS": {"default": {"BACKEND": SMTP, "OPTIONS": options}}}
    return {
        "EMAIL_BACKEND": SMTP,
        "EMAIL_HOST": "127.0.0.1",
        "EMAIL_PORT": port,
        "EMAIL_TIMEOUT": timeout,
    }


def file_settings(folder: Path) -> dict[str, Any]:
    """Return the settings with which Django writes mails into files."""
    if django.VERSION >= (6, 1):
        options = {"file_path": folder}
        return {"MAILERS": {"default": {"BACKEND": FILES, "OPTIONS": options}}}
    return {"EMAIL_BACKEND": FILES, "EMAIL_FILE_PATH": folder}


def backend_settings(path: str, **options: Any) -> dict[str, Any]:
    """Return the settings with which Django sends through the backend at ``path``."""
    if django.VERSION >= (6, 1):
        return {"MAILERS": {"default": {"BACKEND": path, "OPTIONS": options}}}
    return {"EMAIL_BACKEND": path}
