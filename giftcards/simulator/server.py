"""A small HTTP server for the simulator.

The server converts each request into a :class:`Call` and sends a :class:`Reply`. The server tracks
its connections, so that :meth:`Server.stop` can also close connections that are waiting for a
response.
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
    """An HTTP request.

    ``key`` is "" if the request did not contain a key. ``body`` contains at most the first
    ``MAX_BODY + 1`` bytes of the request body.
    """

    method: str
    path: str
    query: str
    key: str = field(repr=False)
    body: bytes = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response: JSON or an HTML page, and additional headers."""

    status: int
    payload: Mapping[str, Any] | str
    headers: Mapping[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """An HTTP server that starts to listen when it is created.

    The server runs in its own threads. Raises :exc:`OSError` if the port is in use. ``respond``
    returns the reply to a call, or ``None`` to close the connection without a reply.
    """

    request_queue_size = 128  # a burst of clients must not wait for TCP retries

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
            # The interval is short, because stop() may have to wait for the end of an interval.
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
        # Keep-alive connections would go on answering requests, so they are closed.
        for connection, thread in list(self.connections.items()):
            with contextlib.suppress(OSError):  # already closed
                # SSLSocket.shutdown() would remove the TLS layer that the thread uses.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            thread.join()

    # Overridden methods of the base class.

    def server_bind(self) -> None:
        # HTTPServer.server_bind() looks up the host name, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.ssl_context is not None:
            # The connection's own thread does the handshake. If it were done here, a client that
            # sends nothing would block all other clients.
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
        # Clients may disconnect at any time; any other error is a bug in the simulator.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "giftcards-simulator"
    sys_version = ""
    wbufsize = -1  # send headers and body in one packet
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.send_error(411)
            return
        body, rest = b"", int(length)
        # Clients do not read an answer before they have sent the whole body, so the whole body is
        # read.
        while rest and (chunk := self.rfile.read(min(rest, 65536))):
            rest -= len(chunk)
            body = (body + chunk)[: MAX_BODY + 1]
        if rest:  # the client disconnected: ignore the incomplete request
            self.close_connection = True
            return
        path, _, query = self.path.partition("?")
        key = self.headers.get("X-Access-Token", "")
        call = Call(self.command, path, query, key, body, self.client_address[0])
        reply = self.server.respond(call)
        if reply is None:
            self.close_connection = True
            return
        kind, text = "text/html", reply.payload
        if not isinstance(text, str):
            kind, text = "application/json", json.dumps(text, default=_number)
        content = text.encode("ascii", "xmlcharrefreplace")
        # send_response() would add this machine's date, but the reply has its own.
        self.send_response_only(reply.status)
        self.send_header("Server", self.version_string())
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _handle  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Log nothing, because the simulator has its own log without queries."""


def _number(value: Decimal) -> int | float:
    """Convert an amount to a JSON number, such as 490 or 1250.5.

    The provider sends amounts in the same form.
    """
    return int(value) if value == value.to_integral_value() else float(value)
