"""A small HTTP server: it hands over each request as a :class:`Call` and sends the :class:`Reply`.

Of the provider it knows nothing. It keeps track of its connections, so that stopping it closes
even one that waits for its answer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BODY = 100 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """An HTTP request as it came; ``key`` is ``""`` where there is none.

    ``body`` may be cut off after ``MAX_BODY + 1`` bytes.
    """

    method: str
    path: str
    query: str
    key: str = field(repr=False)
    body: bytes = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer: the JSON it carries and its headers beyond the usual."""

    status: int
    payload: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Listens from the start, in threads of its own; ``OSError`` if the port is not free.

    ``respond`` answers a call, or returns ``None`` to have the connection closed instead.
    """

    request_queue_size = 128  # a burst of clients must not wait for TCP to try again

    def __init__(
        self,
        host: str,
        port: int,
        respond: Callable[[Call], Reply | None],
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.respond = respond
        self.ssl_context = ssl_context
        self.connections: dict[socket.socket, threading.Thread] = {}
        super().__init__((host, port), _Handler)
        self.listener = threading.Thread(
            # The interval is how long stop() may have to wait.
            target=self.serve_forever,
            kwargs={"poll_interval": 0.02},
            name="giftcards-simulator",
            daemon=True,
        )
        self.listener.start()

    def stop(self) -> None:
        self.shutdown()
        self.listener.join()
        self.server_close()
        # A thread that waits for the next request of a kept connection would answer it.
        for connection, thread in list(self.connections.items()):
            with contextlib.suppress(OSError):  # closed in the meantime
                # Not SSLSocket.shutdown: it takes the TLS layer away from under the thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            thread.join()

    # What the base class calls.

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for the name of the host, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.ssl_context is not None:
            # The handshake comes later, in the connection's own thread: here, a client that says
            # nothing would keep every other one waiting.
            connection = self.ssl_context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self.connections[request] = thread
        thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that go away are what a simulator is for; anything else is a bug in it.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "giftcards-simulator"
    sys_version = ""
    wbufsize = -1  # headers and body leave in one packet
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.send_error(411)
            return
        body, rest = b"", int(length)
        # What is too large is read all the same: a client sees no answer before it has sent all.
        while rest and (chunk := self.rfile.read(min(rest, 65536))):
            rest -= len(chunk)
            body = (body + chunk)[: MAX_BODY + 1]
        if rest:  # the client broke off: what it began to ask for is not done
            self.close_connection = True
            return
        path, _, query = self.path.partition("?")
        key = self.headers.get("X-Access-Token", "")
        call = Call(self.command, path, query, key, body, self.client_address[0])
        reply = self.server.respond(call)
        if reply is None:
            self.close_connection = True
            return
        content = json.dumps(reply.payload, default=_number).encode()
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Nothing: the simulator has a log of its own, and it leaves the query out."""


def _number(value: Decimal) -> int | float:
    """Turn money into a JSON number, as the provider sends it: 490, 1250.5."""
    return int(value) if value == value.to_integral_value() else float(value)
