"""A database that commits a claim on an order, but delays its answer to the COMMIT."""

from __future__ import annotations

import contextlib
import selectors
import socket
import sqlite3
import threading
from collections.abc import Iterator

from django.db import connection, connections


class Answer:
    """The answer to the COMMIT, which is held back.

    ``is_due`` is set once the database has committed.
    """

    def __init__(self) -> None:
        self.is_due = threading.Event()
        self._may_go = threading.Event()

    def hold(self) -> None:
        self.is_due.set()
        self._may_go.wait(120)

    def let_go(self) -> None:
        self._may_go.set()


@contextlib.contextmanager
def through_a_slow_pooler(answer: Answer) -> Iterator[None]:
    """Use the database in this thread through a connection that holds back ``answer``."""
    settings = {**connection.settings_dict, "OPTIONS": dict(connection.settings_dict["OPTIONS"])}
    with contextlib.ExitStack() as stack:
        if connection.vendor == "sqlite":
            settings["OPTIONS"]["factory"] = _holding(answer)
        else:
            is_postgresql = connection.vendor == "postgresql"
            port = int(settings["PORT"] or (5432 if is_postgresql else 3306))
            there = (settings["HOST"] or "127.0.0.1", port)
            settings |= {"HOST": "127.0.0.1", "PORT": stack.enter_context(_proxy(there, answer))}
            # Encrypted data could not be read on its way.
            settings["OPTIONS"] |= (
                {"sslmode": "disable"} if is_postgresql else {"ssl_disabled": True}
            )
        connections["default"] = type(connections["default"])(settings, "default")
        try:
            yield
        finally:
            connections["default"].close()
            del connections["default"]


def _holding(answer: Answer) -> type[sqlite3.Connection]:
    class Connection(sqlite3.Connection):
        def commit(self) -> None:
            super().commit()
            claims = "SELECT count(*) FROM giftcards_order WHERE status = 'PLACING'"
            if self.execute(claims).fetchone()[0]:
                answer.hold()

    return Connection


@contextlib.contextmanager
def _proxy(there: tuple[str, int], answer: Answer) -> Iterator[int]:
    """Yield a port that leads to the server ``there``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, there, answer), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(10)


def _serve(listener: socket.socket, there: tuple[str, int], answer: Answer) -> None:
    """Pass on one client's data; hold back the answer to the COMMIT after a claim."""
    client, _ = listener.accept()
    with client, socket.create_connection(there) as server:
        is_claim = is_commit = False
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ)
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _events in selector.select():
                    data = key.fileobj.recv(2**16)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is client:
                        is_claim = is_claim or (b"INSERT" in data and b"PLACING" in data)
                        is_commit = is_claim and b"COMMIT" in data
                        server.sendall(data)
                        continue
                    if is_commit:
                        is_claim = is_commit = False
                        answer.hold()
                    client.sendall(data)
