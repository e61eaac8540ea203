"""A server of raw sockets that handles each connection by a script, and some scripts."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable

CODE = "CANARY-CODE-1111"
ORDER = (
    b'{"success": true, "data": {"_id": "A1", "status": "FULFILLED", "quantity": 1,'
    b' "cards": [{"value": "' + CODE.encode() + b'"}]}}'
)

Script = Callable[["Server", socket.socket], object]


class Server:
    """A server on a port of this machine that handles each connection by its script."""

    def __init__(
        self, script: Script, context: ssl.SSLContext | None = None, *, port: int = 0
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Server:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=[connection])
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        try:
            if self._context:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._script(self, connection)
        except OSError:
            pass  # the client may hang up whenever it likes
        finally:
            connection.close()

    def read(self, connection: socket.socket) -> bytes:
        """Return one request, or ``b""`` if the client has hung up."""
        request = b""
        while b"\r\n\r\n" not in request:
            received = connection.recv(65536)
            if not received:
                return b""
            request += received
        head, _, body = request.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                while len(body) < int(line[15:]):
                    received = connection.recv(65536)
                    if not received:
                        return b""
                    body += received
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def answer(*pieces: bytes, pause: float = 0.0) -> Script:
    """Return a script that answers each request with ``pieces``, with a pause between them."""

    def script(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            for number, piece in enumerate(pieces):
                if number and server.stopping.wait(pause):
                    return
                connection.sendall(piece)

    return script


def drip(head: bytes, byte: bytes) -> Script:
    """Return a script that answers with ``head``, and then with one byte every 20 ms.

    It ends after 3 s, or when the client hangs up.
    """

    def script(server: Server, connection: socket.socket) -> None:
        server.requests.append(connection.recv(65536))
        connection.sendall(head)
        for _ in range(150):
            if server.stopping.wait(0.02):
                return
            connection.sendall(byte)

    return script


def pass_on(connect: Callable[[], socket.socket]) -> Script:
    """Return a script that passes on all data to and from another server, however long it takes."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def script(server: Server, connection: socket.socket) -> None:
        connection.settimeout(None)
        with connect() as onward:
            back = threading.Thread(target=pump, args=(onward, connection))
            back.start()
            pump(connection, onward)
            back.join()

    return script


def tunnel_to(port: int) -> Script:
    """Return a script that answers CONNECT, and then passes on all data to and from ``port``."""
    onward = pass_on(lambda: socket.create_connection(("127.0.0.1", port)))

    def script(server: Server, connection: socket.socket) -> None:
        server.read(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        onward(server, connection)

    return script


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_and_reset(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    reset(connection)


def read_and_close(server: Server, connection: socket.socket) -> None:
    server.read(connection)  # the caller closes: over TLS, without a close_notify


def reset_unread(server: Server, connection: socket.socket) -> None:
    select.select([connection], [], [], 5)  # any earlier, and connecting itself may fail
    reset(connection)


def break_off(server: Server, connection: socket.socket) -> None:
    server.read(connection)
    connection.sendall(response(ORDER)[:-20])


def garble(server: Server, connection: socket.socket) -> None:
    """Answer over TLS with bytes that are not a valid TLS record."""
    server.read(connection)
    with socket.socket(fileno=connection.detach()) as plain:
        plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)


def first(then: Script, otherwise: Script) -> Script:
    def script(server: Server, connection: socket.socket) -> None:
        (then if server.connections == 1 else otherwise)(server, connection)

    return script
