"""One exchange with the provider over HTTP: a request goes out, what came back is returned.

The only module that speaks HTTP. It never raises and never logs what was sent or received: how an
exchange failed is a field of the :class:`Reply`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.connection import allowed_gai_family
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from giftcards.conf import VERSION

MAX_BODY = 2**20
_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back for one request, decoded.

    ``status`` is ``None`` if nothing did, ``body`` if it did not come whole; ``trouble`` says why.
    ``is_unsent`` means that the provider provably did not get a byte of the request;
    ``was_dropped`` that the connection broke, as one may that has idled too long.
    """

    status: int | None
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    trouble: str = ""
    is_unsent: bool = False
    was_dropped: bool = False

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Transport:
    """Sends requests to ``base_url`` with the API key.

    A call is one request and takes at most ``timeout`` seconds. Threads may :meth:`get` at once.
    """

    def __init__(self, *, base_url: str, api_key: str, timeout: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._session = _Session(api_key)

    def close(self) -> None:
        self._session.close()

    def get(
        self, path: str, *, params: Mapping[str, str] | None = None, limit: int = MAX_BODY
    ) -> Reply:
        """Ask, over a connection that may be one of an earlier question."""
        return self._exchange(self._session, "GET", path, params=params, limit=limit)

    def post(self, path: str, *, json: Mapping[str, object]) -> Reply:
        """Send once, over a fresh connection: nobody could tell how far a stale one got."""
        with _Session(self._api_key) as session:
            session.headers["Connection"] = "close"
            return self._exchange(session, "POST", path, json=json, limit=MAX_BODY)

    def _exchange(
        self,
        session: _Session,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, object] | None = None,
        limit: int,
    ) -> Reply:
        """Send one request once, and read the answer as far as it comes in the time left."""
        status: int | None = None
        headers: Mapping[str, str] = {}
        _clock.ends = time.monotonic() + self._timeout
        try:
            left = _clock.left()
            with session.request(
                method,
                self._base_url + path,
                params=params,
                json=json,
                timeout=(min(_CONNECT_TIMEOUT, left), left),
                allow_redirects=False,
                stream=True,
            ) as response:
                status, headers = response.status_code, response.headers
                body = _read_body(response, limit)
        except _TRANSPORT_ERRORS as exc:
            if status is None and _is_unsent(exc):
                trouble = "it could not be reached"
                return Reply(status, headers, trouble=trouble, is_unsent=True)
            if _clock.is_over() or isinstance(exc, requests.Timeout):
                trouble = f"no complete answer within {self._timeout:g} s"
                return Reply(status, headers, trouble=trouble)
            # After a 401, say, asking again would do harm and tell nothing new.
            was_dropped = isinstance(exc, _DROPPED) and status in (None, 200)
            trouble = "the connection broke before the answer was complete"
            return Reply(status, headers, trouble=trouble, was_dropped=was_dropped)
        if body is None:
            return Reply(status, headers, trouble=f"an answer of more than {limit // 2**20} MiB")
        return Reply(status, headers, body)


class _Clock(threading.local):
    """When the call that this thread is making has to be over, in ``time.monotonic()``.

    The timeouts of requests are for one receive each: a body that drips a byte a second never
    meets them. So the sockets below ask this clock before every receive. A reused connection may
    have been opened by another thread, and is bound by the call of the one that uses it.
    """

    ends = 0.0

    def is_over(self) -> bool:
        return time.monotonic() >= self.ends

    def left(self) -> float:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("the call's time is up")
        return left


_clock = _Clock()


# Sending is not bounded here: a request is far smaller than the kernel's buffer for it.
class _Socket(socket.socket):
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(_clock.left())
        return super().recv_into(buffer, nbytes, flags)


class _TLSSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        self.settimeout(_clock.left())
        super().do_handshake(block)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(_clock.left())
        return super().recv_into(buffer, nbytes, flags)


class _HTTPResponse(http.client.HTTPResponse):
    def begin(self) -> None:
        super().begin()
        # Text that is no header would be logged by urllib3, and may be a body that came too early.
        if self.msg.get_payload():
            raise http.client.HTTPException("malformed headers")


class _HTTPConnection(urllib3.connection.HTTPConnection):
    response_class = _HTTPResponse

    def _new_conn(self) -> socket.socket:
        """Connect as urllib3 does, but to all addresses of the host within the time left."""
        try:
            # The one wait without an end of ours: the resolver cannot be interrupted.
            found = socket.getaddrinfo(
                self._dns_host.strip("[]"), self.port, allowed_gai_family(), socket.SOCK_STREAM
            )
        except (OSError, UnicodeError) as exc:
            raise urllib3.exceptions.NewConnectionError(self, "no address") from exc
        for family, kind, protocol, _, address in found:
            with contextlib.suppress(OSError):
                return self._connect_to(family, kind, protocol, address)
        raise urllib3.exceptions.NewConnectionError(self, "no address answers")

    def _connect_to(
        self, family: int, kind: int, protocol: int, address: tuple[Any, ...]
    ) -> socket.socket:
        sock = _Socket(family, kind, protocol)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(min(_CONNECT_TIMEOUT, _clock.left()))
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock


class _HTTPSConnection(_HTTPConnection, urllib3.connection.HTTPSConnection):
    def connect(self) -> None:
        # The context that urllib3 would make by itself, except for the class of its sockets.
        self.ssl_context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        self.ssl_context.sslsocket_class = _TLSSocket
        super().connect()


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class _Adapter(HTTPAdapter):
    """Connections that keep to the clock, and no retries.

    ``max_retries=0`` is the default, and matters: urllib3's ``Retry`` sends a POST again over a
    TLS connection that breaks, whatever its ``allowed_methods``. Behind an ``https://`` or SOCKS
    proxy the clock is asked once a receive has ended, not before it.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _equip(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> urllib3.ProxyManager:
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):  # that one has pools of its own
            _equip(manager)
        return manager


def _equip(manager: urllib3.PoolManager) -> None:
    manager.pool_classes_by_scheme = _POOLS
    # Otherwise connections close when the pool is collected, which an exception can put off.
    manager.pools.dispose_func = urllib3.HTTPConnectionPool.close


class _Session(requests.Session):
    """A session that sends what this module put into it and nothing else."""

    def __init__(self, api_key: str) -> None:
        super().__init__()
        self.headers.update(
            {
                "X-Access-Token": api_key,
                "User-Agent": f"django-giftcards/{VERSION}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        self.auth = lambda request: request  # or requests takes a password from ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Know of no redirects.

        ``allow_redirects=False`` alone still reads the body of one whole, whatever its size.
        """


def _read_body(response: requests.Response, limit: int) -> bytes | None:
    """Return the body, or ``None`` without reading on as soon as it is longer than ``limit``."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limit:
        return None
    body = bytearray()
    for chunk in response.iter_content(2**16):  # decoded, so a small bomb counts as what it holds
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


# Everything that a transport in pieces has been seen to raise, ours (TimeoutError) included.
_TRANSPORT_ERRORS = (
    OSError,  # requests.RequestException is one
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,
    zlib.error,
)
_DROPPED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


def _is_unsent(error: Exception) -> bool:
    """Whether ``error`` proves that no byte of the request reached the provider."""
    cause = error.args[0] if error.args else None
    if isinstance(cause, urllib3.exceptions.MaxRetryError):
        cause = cause.reason
    # By itself this proves nothing: urllib3 also says so of a connection that a reset has closed.
    if isinstance(cause, urllib3.exceptions.ProxyError):
        cause = cause.original_error
        if str(cause).startswith("Tunnel connection failed:"):
            return True
    if isinstance(cause, urllib3.exceptions.SSLError):
        cause = cause.args[0]
    return isinstance(cause, urllib3.exceptions.ConnectTimeoutError | ssl.SSLCertVerificationError)
