"""HTTP exchanges with the provider: one request, one :class:`Reply`.

Only this module sends HTTP requests to the provider. A failed exchange does not raise an exception.
Instead, the :class:`Reply` says how it failed. Requests and responses are never logged.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import http.client
import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from giftcards.conf import VERSION, is_loopback
from giftcards.keys.secrecy import Masked

T = TypeVar("T")

MAX_BODY = 2**20
_CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request.

    - ``status`` is ``None`` if no response arrived.
    - ``body`` is ``None`` unless the complete body arrived.
    - ``trouble`` says why there is no status or no body.
    - ``is_unsent`` is True if it is certain that no byte of the request reached the provider.
    - ``is_withheld`` is True if the caller stopped the request before it was sent completely.
    - ``was_dropped`` is True if the connection broke, as idle connections often do.
    """

    status: int | None
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    trouble: str = ""
    is_unsent: bool = False
    is_withheld: bool = False
    was_dropped: bool = False

    @property
    def is_success(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class Transport:
    """Sends requests to ``base_url``. The :meth:`get` method is thread-safe.

    Each call makes one request and takes at most ``timeout`` seconds.
    """

    def __init__(self, *, base_url: str, api_key: str, timeout: float) -> None:
        self._base_url = base_url.rstrip("/")
        self._api_key = Masked(api_key)
        self._timeout = timeout
        self._session = _Session(self._api_key)

    def close(self) -> None:
        self._session.close()

    def get(
        self, path: str, *, params: Mapping[str, str] | None = None, limit: int = MAX_BODY
    ) -> Reply:
        """Make a GET request, and accept a response of at most ``limit`` bytes.

        The request reuses an idle connection if there is one.
        """
        return self._exchange(self._session, "GET", path, params=params, limit=limit)

    def post(self, path: str, *, json: Mapping[str, object], may_send: Callable[[], bool]) -> Reply:
        """Make a POST request once, on a new connection.

        A new connection is used because an idle connection can break during the request.
        ``may_send`` is called immediately before each part of the request is written. The body is
        the last part. If ``may_send`` returns False, the rest of the request is not sent.
        """
        with _Session(self._api_key) as session:
            session.headers["Connection"] = "close"
            return self._exchange(session, "POST", path, json=json, may_send=may_send)

    def _exchange(
        self,
        session: _Session,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Mapping[str, object] | None = None,
        limit: int = MAX_BODY,
        may_send: Callable[[], bool] = lambda: True,
    ) -> Reply:
        status: int | None = None
        headers: Mapping[str, str] = {}
        _call.ends = time.monotonic() + self._timeout
        _call.stage = _Stage.UNKNOWN
        _call.may_send = may_send
        _call.is_going_on = True
        try:
            with session.request(
                method,
                self._base_url + path,
                params=params,
                json=json,
                timeout=(min(_CONNECT_TIMEOUT, self._timeout), self._timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                status, headers = response.status_code, response.headers
                read = functools.partial(_read_body, response, limit)
                body = _in_time(read, response.raw.connection)
        except _TRANSPORT_ERRORS as exc:
            if _call.stage is _Stage.PREPARING:
                return Reply(None, {}, trouble=_why_unsent(exc), is_unsent=True)
            if _call.stage is _Stage.WITHHELD:
                return Reply(
                    None, {}, trouble="the process was delayed before sending", is_withheld=True
                )
            if time.monotonic() >= _call.ends or isinstance(exc, requests.Timeout):
                trouble = f"no complete answer within {self._timeout:g} s"
                return Reply(status, headers, trouble=trouble)
            # After a dropped connection, the call may be repeated, unless the status was an error.
            # After a 401, for example, a retry would count as another call with a wrong key.
            was_dropped = isinstance(exc, _DROPPED) and status in (None, 200)
            trouble = "the connection broke before the answer was complete"
            return Reply(status, headers, trouble=trouble, was_dropped=was_dropped)
        finally:
            _call.is_going_on = False
        if body is None:
            return Reply(status, headers, trouble=f"an answer of more than {limit // 2**20} MiB")
        return Reply(status, headers, body)


class _Stage(enum.Enum):
    """The last stage that a call is known to have reached."""

    # The first stage of every call. If tests replace the code that sends requests, it is the only
    # stage.
    UNKNOWN = enum.auto()
    # A :class:`_Connection` has not begun to send the request. If the proxy, the TLS handshake or
    # the certificate file causes an error at this stage, the provider has not received any byte of
    # the request.
    PREPARING = enum.auto()
    SENDING = enum.auto()
    # The rest of the request was not sent, because the caller no longer allowed it.
    WITHHELD = enum.auto()


# The state of the thread's current call: the deadline ``ends`` (monotonic), the ``stage``, the
# caller's ``may_send``, and ``is_going_on``.
_call = threading.local()


class _Connection(urllib3.connection.HTTPConnection):
    """A mixin for urllib3's connections that enforces the call's deadline.

    The time-outs of urllib3 apply to a single connection attempt or a single read, so a server that
    sends one byte per second never exceeds them. Name resolution has no time-out. Sending does not
    need a time-out, because a request fits into the kernel's buffer.
    """

    _opened: Any = None
    # The level is set to 0 here, because http.client prints every header, including the API key, if
    # any code sets a level on its class.
    debuglevel = 0

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()  # before the stage SENDING: connecting sends nothing of the request
        _call.stage = _Stage.SENDING
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        # The thread that connects has no stage. It may send data to a proxy, but this data is not
        # part of the request.
        if getattr(_call, "stage", None) is _Stage.SENDING and not _call.may_send():
            _call.stage = _Stage.WITHHELD
            raise http.client.HTTPException("withheld")
        super().send(data)

    def connect(self) -> None:
        try:
            _in_time(super().connect, self, on_late_result=self.close)
        except (TimeoutError, RuntimeError, ValueError) as exc:
            if self.sock is None:
                raise urllib3.exceptions.NewConnectionError(self, "not connected") from exc
            raise

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override] # as urllib3 does
        self._opened = self.sock  # urllib3 clears ``sock`` after "Connection: close"
        return _in_time(super().getresponse, self)

    def shutdown(self) -> None:
        """Shut down the socket, which wakes any thread that is waiting for it."""
        sock: Any = self.sock or self._opened
        sock = getattr(sock, "socket", sock)  # TLS in TLS wraps the socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _in_time(
    step: Callable[[], T], connection: Any, *, on_late_result: Callable[[], object] | None = None
) -> T:
    """Return ``step()``, or raise :exc:`TimeoutError` at the call's deadline.

    The step runs in its own thread. At the deadline, ``connection`` is shut down and the error is
    raised without waiting for the thread. The thread ends soon afterwards, because name resolution,
    connecting and the TLS handshake have time-outs. When the thread ends, it calls
    ``on_late_result``.

    If no thread can be started and ``on_late_result`` is passed, the function raises
    :exc:`RuntimeError`. If no thread can be started and ``on_late_result`` is not passed, the step
    runs in the current thread, because it reads an answer that must not be lost. In the current
    thread, only the time-out for each single read applies.
    """
    result: Future[T] = Future()
    try:
        threading.Thread(target=_run, args=(step, result), name=_THREAD_NAME, daemon=True).start()
    except RuntimeError:
        if on_late_result:
            raise
        return step()
    try:
        return result.result(_call.ends - time.monotonic())
    finally:
        if connection and not result.done():
            connection.shutdown()
            if on_late_result:
                result.add_done_callback(lambda _: on_late_result())
        del result  # its exception refers to this frame: the cycle would keep sockets open


def _run(step: Callable[[], T], result: Future[T]) -> None:
    try:
        result.set_result(step())
    except BaseException as exc:  # noqa: BLE001 (re-raised in the waiting thread)
        result.set_exception(exc)


_THREAD_NAME = "giftcards-transport"


def _may_be_logged(record: logging.LogRecord) -> bool:
    """Return False for log records about malformed header lines.

    A malformed line could be part of a body, which must not be logged.
    """
    is_ours = threading.current_thread().name == _THREAD_NAME
    return not (record.exc_info and (is_ours or getattr(_call, "is_going_on", False)))


# The version of urllib3 determines which logger and which thread create the records about malformed
# headers.
for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_may_be_logged)


class _Adapter(HTTPAdapter):
    """An adapter that never retries and respects the call's deadline.

    The default ``max_retries=0`` is essential. urllib3's ``Retry`` repeats a POST after a TLS
    connection breaks, even if ``allowed_methods`` excludes POST.
    """

    pool: Any = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        _call.stage = _Stage.PREPARING
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _bounded(pool.ConnectionCls)
        self.pool = pool
        return pool

    def close(self) -> None:
        # An open pool keeps its connections until it is garbage-collected, which an exception can
        # delay.
        if self.pool is not None:
            self.pool.close()
        super().close()


@functools.cache
def _bounded(kind: type) -> type:
    return kind if issubclass(kind, _Connection) else type(kind.__name__, (_Connection, kind), {})


class _Session(requests.Session):
    """A session without credentials, cookies and redirects."""

    def __init__(self, api_key: Masked) -> None:
        super().__init__()
        self.headers.update(
            {
                "X-Access-Token": api_key,
                "User-Agent": f"django-giftcards/{VERSION}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        self.auth = lambda request: request  # keeps requests from reading ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount("http://", _Adapter())
        self.mount("https://", _Adapter())

    def merge_environment_settings(self, url: Any, *args: Any) -> Any:
        """Do not use a proxy for an address of this machine.

        A proxy on another machine would connect to itself.
        """
        settings = super().merge_environment_settings(url, *args)
        if is_loopback(urlsplit(url).hostname or ""):
            settings["proxies"] = {}
        return settings

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Do not treat any response as a redirect.

        For a redirect, ``requests`` would read the complete body regardless of its size.
        """


def _read_body(response: requests.Response, limit: int) -> bytes | None:
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limit:
        return None
    # By default, urllib3 1 treats a truncated body as complete.
    response.raw.enforce_content_length = True
    body = bytearray()
    for chunk in response.iter_content(2**16):  # ``limit`` counts decompressed bytes
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


# The errors that broken connections are known to raise, and our own TimeoutError.
_TRANSPORT_ERRORS = (
    OSError,  # includes TimeoutError and requests.RequestException
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ValueError,
    RuntimeError,  # no thread can be started
    zlib.error,
)
_DROPPED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


def _why_unsent(error: Exception) -> str:
    trouble = "it could not be reached"
    # requests raises a plain OSError if the file of certificates is missing.
    if isinstance(error, requests.exceptions.SSLError) or type(error) is OSError:
        trouble += ": its certificate is not trusted, or REQUESTS_CA_BUNDLE is unusable"
    return trouble
