"""The client over real sockets, plain and TLS: behaviour that no fake of ``requests`` can show."""

from __future__ import annotations

import contextlib
import datetime
import gc
import gzip
import http.client
import itertools
import logging
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from giftcards.conf import VERSION
from giftcards.exceptions import OutcomeUnknown, ProviderError, RateLimited, TryLater, Withheld
from giftcards.provider.answers import OrderAnswer
from giftcards.provider.client import Client
from tests.fakes.sockets import (
    CODE,
    ORDER,
    Script,
    Server,
    answer,
    break_off,
    drip,
    first,
    garble,
    read_and_close,
    read_and_reset,
    reset_unread,
    response,
    tunnel_to,
)

pytest_plugins = ["tests.fakes.tls", "tests.stage_fixtures"]

KEY = "CANARY-KEY-wire+1"
PLACED = b'{"success": true, "data": {"orderId": "A1"}}'
INCOMPLETE = r"no complete answer within 0\.5 s"
TOO_LARGE = "an answer of more than 1 MiB"


@pytest.fixture(params=["http", "https"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return request.getfixturevalue("tls") if request.param == "https" else None


def client_of(url: str, timeout: float = 5) -> Client:
    return Client(base_url=url, api_key=KEY, timeout=timeout)


def wait_for_threads() -> None:
    """Wait until no thread of the transport is left."""
    for thread in threading.enumerate():
        if thread.name == "giftcards-transport":
            thread.join(20)
            assert not thread.is_alive()


def place(client: Client) -> object:
    return client.place(product_id="p", type_id="t", quantity=1)


def check(client: Client) -> object:
    return client.check("A1")


CALLS = pytest.mark.parametrize("call", [place, check])


def ask(script: Script) -> OrderAnswer:
    """Return the answer to a check from a server that runs this script."""
    with Server(script) as server, client_of(server.url) as client:
        return client.check("A1")


def fail_to_send(url: str, timeout: float = 5) -> TryLater:
    """Send an order to ``url``, and return the error, which says that the order was not sent."""
    with (
        client_of(url, timeout) as client,
        pytest.raises(TryLater, match="it could not be reached") as caught,
    ):
        place(client)
    return caught.value


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Resolve every host name to these ports of this machine."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)


@contextlib.contextmanager
def lasting(least: float = 0) -> Iterator[None]:
    """Assert that the block ends at its deadline, whatever the server does."""
    began = time.monotonic()
    yield
    assert least < time.monotonic() - began < 5


class TestOnTheWire:
    def test_a_question_is_sent_once_and_answered(self, context: ssl.SSLContext | None) -> None:
        with Server(answer(response(ORDER)), context) as server, client_of(server.url) as client:
            assert client.check("A1").cards[0].value == CODE
        head = server.requests[0].decode()
        assert head.startswith("GET /v3/gift-cards/check-order/A1 HTTP/1.1\r\n")
        for header in (
            f"X-Access-Token: {KEY}",
            f"User-Agent: django-giftcards/{VERSION}",
            "Accept: application/json",
            "Accept-Encoding: identity",
        ):
            assert f"\r\n{header}\r\n" in head

    def test_questions_share_connections(self, context: ssl.SSLContext | None) -> None:
        with Server(answer(response(ORDER)), context) as server, client_of(server.url) as client:
            client.check("A1")
            client.check("A1")
        assert (server.connections, len(server.requests)) == (1, 2)

    def test_an_order_has_a_connection_of_its_own(self, context: ssl.SSLContext | None) -> None:
        script = answer(response(PLACED))
        with Server(script, context) as server, client_of(server.url + "/") as client:
            for _ in range(2):
                assert client.place(product_id="p", type_id="t", quantity=2) == "A1"
        assert server.connections == 2
        head, _, body = server.requests[1].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v3/gift-cards/placeOrder HTTP/1.1\r\n")
        assert b"\r\nConnection: close" in head
        assert body == b'{"productId": "p", "typeId": "t", "quantity": 2}'

    def test_cookies_and_netrc_are_not_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login someone password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        script = answer(response(ORDER, "Set-Cookie: a=b; Path=/"))
        with Server(script) as server, client_of(server.url) as client:
            client.check("A1")
            client.check("A1")
        assert b"cookie" not in server.requests[1].lower()
        assert b"authorization" not in server.requests[1].lower()

    @CALLS
    @pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
    def test_redirects_are_not_followed(
        self, call: Callable[[Client], object], status: str
    ) -> None:
        with Server(answer(response(ORDER))) as elsewhere:
            location = f"Location: {elsewhere.url}/"
            # By default, requests would read the whole body of a redirect, whatever its size.
            moved = response(b"", location, status=status).replace(b"th: 0", b"th: 1048577")
            with (
                Server(answer(moved)) as server,
                client_of(server.url) as client,
                pytest.raises(OutcomeUnknown, match="more than 1 MiB") as caught,
            ):
                call(client)
        assert caught.value.status == int(status[:3])
        assert elsewhere.connections == 0


class TestDeadline:
    @CALLS
    @pytest.mark.parametrize(
        ("head", "byte"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
            (b"", b"H"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ],
        ids=["body", "closing", "chunks", "headers", "status", "continue"],
    )
    def test_an_answer_that_drips_ends_at_the_deadline(
        self,
        head: bytes,
        byte: bytes,
        call: Callable[[Client], object],
        context: ssl.SSLContext | None,
    ) -> None:
        with Server(drip(head, byte), context) as server, client_of(server.url, 0.5) as client:
            with (
                lasting(0.2),
                pytest.raises(OutcomeUnknown, match=r"no complete answer within 0\.5 s"),
            ):
                call(client)
            wait_for_threads()  # while the server goes on
        assert len(server.requests) == 1

    @pytest.mark.parametrize("is_tls_in_tls", [True, False])
    def test_an_answer_that_drips_through_a_tunnel_ends_at_the_deadline(
        self, is_tls_in_tls: bool, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dripping = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ")
        with (
            Server(dripping, tls) as server,
            Server(tunnel_to(server.port), tls if is_tls_in_tls else None) as proxy,
        ):
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with client_of("https://behind-a-proxy.invalid", 0.5) as client:
                with (
                    lasting(),
                    pytest.raises(OutcomeUnknown, match=r"no complete answer within 0\.5"),
                ):
                    place(client)
                wait_for_threads()
        assert len(server.requests) == 1

    @pytest.mark.parametrize("is_dripping", [True, False])
    def test_a_handshake_that_does_not_end_is_given_up_at_the_deadline(
        self, tls: ssl.SSLContext, is_dripping: bool
    ) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            if is_dripping:  # a record of 16 KiB, or so it says
                drip(b"\x16\x03\x03\x40\x00", b"\x00")(server, connection)
            else:
                server.stopping.wait(3)

        with Server(script) as server:
            url = server.url.replace("http:", "https:")
            with lasting(0.2):
                fail_to_send(url, 0.3)
            wait_for_threads()

    def test_a_resolver_that_answers_too_late_is_given_up_at_the_deadline(
        self, context: ssl.SSLContext | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED)), context) as server:
            here = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))]
            resolved = threading.Event()

            def resolve(*args: object) -> object:
                resolved.wait(5)
                return here

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            with lasting(0.2):
                fail_to_send(server.url.replace("127.0.0.1", "localhost"), 0.3)
            resolved.set()
            wait_for_threads()
        assert server.requests == []

    def test_addresses_that_never_answer_are_given_up_at_the_deadline(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as full:
            address = listener.getsockname()
            full.connect(address)  # and now its queue is full
            resolve_to(monkeypatch, *[address[1]] * 5)
            with lasting(0.2):
                fail_to_send("http://provider.invalid", 0.3)

    def test_each_thread_has_a_deadline_of_its_own(self) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            while request := server.read(connection):
                if b"/slow " in request:
                    server.stopping.wait()
                connection.sendall(response(ORDER))

        def ask(order_id: str) -> str | None:
            try:
                return client.check(order_id).status
            except ProviderError as error:
                return str(error)

        with (
            Server(script) as server,
            client_of(server.url, 2) as client,
            ThreadPoolExecutor(4) as threads,
        ):
            slow = threads.submit(ask, "slow")
            assert set(threads.map(ask, ["A1"] * 60)) == {"FULFILLED"}
            assert "no complete answer" in str(slow.result())


class TestBrokenConnections:
    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, garble])
    def test_an_order_over_a_broken_tls_connection_is_sent_once(
        self, fault: Script, tls: ssl.SSLContext
    ) -> None:
        """urllib3 would repeat even a POST over TLS if it were allowed to retry at all."""
        with Server(fault, tls) as server, client_of(server.url) as client:
            for sent in range(1, 21):
                with pytest.raises(OutcomeUnknown, match="the connection broke"):
                    place(client)
                assert len(server.requests) == sent

    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, reset_unread, break_off])
    def test_an_order_over_a_broken_connection_is_sent_once(self, fault: Script) -> None:
        with (
            Server(fault) as server,
            client_of(server.url) as client,
            pytest.raises(OutcomeUnknown, match="the connection broke") as caught,
        ):
            place(client)
        assert server.connections == 1
        assert not caught.value.is_worth_repeating

    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, reset_unread, break_off])
    def test_a_question_over_a_broken_connection_is_worth_repeating(
        self, fault: Script, context: ssl.SSLContext | None
    ) -> None:
        """The caller repeats it, not the client, because each request counts against the quota."""
        script = first(fault, answer(response(ORDER)))
        with Server(script, context) as server, client_of(server.url) as client:
            with pytest.raises(OutcomeUnknown, match="the connection broke") as caught:
                client.check("A1")
            assert caught.value.is_worth_repeating
            assert server.connections == 1
            assert client.check("A1").status == "FULFILLED"

    def test_a_question_over_a_stale_connection_is_worth_repeating(
        self, context: ssl.SSLContext | None
    ) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            server.read(connection)
            connection.sendall(response(ORDER))
            server.read(connection)

        with Server(script, context) as server, client_of(server.url) as client:
            client.check("A1")
            with pytest.raises(OutcomeUnknown) as caught:
                client.check("A1")
            assert caught.value.is_worth_repeating
            assert client.check("A1").status == "FULFILLED"
        assert (server.connections, len(server.requests)) == (2, 3)

    def test_a_rate_limit_answer_that_breaks_off_still_counts(self) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            server.read(connection)
            connection.sendall(response(b"{}", "Retry-After: 7", status="429 Slow Down")[:-1])

        with pytest.raises(RateLimited) as caught:
            ask(script)
        assert caught.value.retry_after == 7
        assert not caught.value.is_worth_repeating

    def test_text_among_the_headers_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        early = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{CODE}\r\n\r\n".encode()
        with pytest.raises(OutcomeUnknown, match="the answer is not a JSON object"):
            ask(answer(early))
        assert caplog.text
        assert CODE not in caplog.text
        assert KEY not in caplog.text


class TestDebugOutput:
    @CALLS
    def test_debug_output_of_http_client_is_suppressed(
        self,
        call: Callable[[Client], object],
        context: ssl.SSLContext | None,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """Developers may switch it on, because the documentation of requests recommends it."""
        monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
        script = answer(response(ORDER.replace(b'"_id"', b'"orderId": "A1", "_id"')))
        with Server(script, context) as server, client_of(server.url) as client:
            call(client)
        assert f"X-Access-Token: {KEY}\r\n".encode() in server.requests[0]
        assert capfd.readouterr() == ("", "")

    def test_the_api_key_has_a_masked_repr_in_the_transport(self) -> None:
        with client_of("http://127.0.0.1:9") as client:
            session = client._transport._session
            assert session.headers["X-Access-Token"] == KEY
            for thing in (vars(client._transport), session.headers, vars(session)):
                assert KEY not in repr(thing)


class TestUnsent:
    @pytest.mark.parametrize("parts", [0, 1])
    def test_an_order_is_withheld_if_it_may_no_longer_be_sent(
        self, parts: int, context: ssl.SSLContext | None
    ) -> None:
        """An order is sent in two parts, headers and body, and can be withheld before each."""
        allowed = iter([True] * parts)
        script = answer(response(PLACED))
        with Server(script, context) as server, client_of(server.url) as client:
            with pytest.raises(Withheld) as caught:
                client.place(
                    product_id="p", type_id="t", quantity=1, may_send=lambda: next(allowed, False)
                )
            client.check("A1")  # questions go on
        assert (
            str(caught.value) == "The order was not sent (the process was delayed before sending)."
        )
        assert [request.split()[0] for request in server.requests] == [b"GET"]

    def test_an_order_is_unsent_if_the_connection_is_refused(self, closed_port: int) -> None:
        failure = fail_to_send(f"http://127.0.0.1:{closed_port}")
        assert str(failure) == (
            "The provider has not processed the request (it could not be reached)."
        )
        assert failure.status is None

    def test_the_next_address_is_tried_if_the_first_refuses(
        self, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED))) as server:
            resolve_to(monkeypatch, closed_port, server.port)
            with client_of("http://provider.invalid") as client:
                place(client)
        assert len(server.requests) == 1

    def test_an_order_is_unsent_if_no_thread_can_be_started(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with Server(answer(response(PLACED))) as server, client_of(server.url) as client:
            monkeypatch.setattr(threading.Thread, "start", fail)
            with pytest.raises(TryLater, match="it could not be reached"):
                place(client)
            monkeypatch.undo()
        assert server.connections == 0

    @pytest.mark.parametrize("number", [2, 3], ids=["headers", "body"])
    def test_an_answer_is_read_even_if_no_thread_can_be_started_for_that(
        self, number: int, monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext | None
    ) -> None:
        start, started = threading.Thread.start, itertools.count(1)

        def fail(thread: threading.Thread) -> None:
            if thread.name == "giftcards-transport" and next(started) == number:
                raise RuntimeError("can't start new thread")
            start(thread)

        with Server(answer(response(PLACED)), context) as server, client_of(server.url) as client:
            monkeypatch.setattr(threading.Thread, "start", fail)
            placed = place(client)
            monkeypatch.undo()
        assert (placed, len(server.requests), next(started)) == ("A1", 1, 4)

    @pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("too long")])
    def test_an_order_is_unsent_if_the_host_is_unknown(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object) -> None:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        fail_to_send("http://provider.invalid")

    @pytest.mark.parametrize("is_wrong_name", [True, False])
    def test_an_order_is_unsent_if_the_certificate_is_not_trusted(
        self, is_wrong_name: bool, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED)), tls) as server:
            url = server.url
            if is_wrong_name:
                resolve_to(monkeypatch, server.port)
                url = "https://provider.invalid"
            else:
                monkeypatch.delenv("REQUESTS_CA_BUNDLE")
                monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
            fail_to_send(url)
        assert server.requests == []

    def test_an_order_is_unsent_if_the_proxy_cannot_be_reached(
        self, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port}")
        fail_to_send("https://provider.invalid")

    def test_an_order_is_unsent_if_the_proxy_opens_no_tunnel(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(b"", status="407 Who Are You"))) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            fail_to_send("https://provider.invalid")
        assert KEY.encode() not in proxy.requests[0]
        with warnings.catch_warnings():
            # Python 3.11 and urllib3 1 leave the proxy's answer to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def test_the_outcome_of_an_order_is_unknown_if_the_proxy_breaks_off(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """urllib3 also reports a ``ProxyError`` here, although the order was on its way."""
        with Server(read_and_reset) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with (
                client_of("http://provider.invalid") as client,
                pytest.raises(OutcomeUnknown, match="the connection broke"),
            ):
                place(client)
        assert len(proxy.requests) == 1

    def test_an_order_is_unsent_if_the_proxy_drips_until_the_deadline(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(drip(b"HTTP/1.1 200 OK\r\n", b"x")) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with lasting():
                fail_to_send("https://provider.invalid", 0.3)
            wait_for_threads()

    # The first proxy needs PySocks, which may be missing; the second one is not a valid address.
    @pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://[:9", "nonsense://x"])
    def test_an_order_is_unsent_if_the_proxy_is_unusable(
        self, proxy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with Server(answer(response(PLACED))) as server:
            resolve_to(monkeypatch, server.port)
            fail_to_send("http://provider.invalid")
        assert server.requests == []

    @CALLS
    @pytest.mark.parametrize("bundle", ["missing", "unreadable", "of nonsense", "empty"])
    @pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_an_order_is_unsent_if_the_certificates_cannot_be_read(
        self,
        variable: str,
        bundle: str,
        call: Callable[[Client], object],
        tls: ssl.SSLContext,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        path = tmp_path / "bundle.pem"
        if bundle == "unreadable":
            # Root can read any file despite its permissions, so this file is a special one.
            path.symlink_to("/proc/self/mem")
        elif bundle != "missing":
            path.write_text("nonsense" if bundle == "of nonsense" else "")
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        monkeypatch.setenv(variable, str(path))
        with (
            Server(answer(response(PLACED)), tls) as server,
            client_of(server.url) as client,
            pytest.raises(TryLater) as caught,
        ):
            call(client)
        assert server.requests == []
        assert str(caught.value) == (
            "The provider has not processed the request (it could not be reached: its certificate"
            " is not trusted, or REQUESTS_CA_BUNDLE is unusable)."
        )

    def test_an_order_is_unsent_if_the_server_speaks_no_tls(self) -> None:
        with Server(lambda _server, connection: connection.sendall(response(b""))) as server:
            url = server.url.replace("http:", "https:")
            fail_to_send(url)


class TestProxies:
    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LocalHost", "[::1]"])
    def test_no_proxy_is_used_for_the_machine_itself(
        self, host: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED))) as server, Server(read_and_close) as proxy:
            monkeypatch.setenv(name, proxy.url)
            here = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))]
            there = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", proxy.port))]
            monkeypatch.setattr(
                socket, "getaddrinfo", lambda _h, port, *_: there if port == proxy.port else here
            )
            with client_of(f"http://{host}:{server.port}") as client:
                place(client)
        assert (server.connections, proxy.connections) == (1, 0)

    def test_no_proxy_is_used_for_the_machine_itself_over_tls(
        self, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED)), tls) as server, Server(read_and_close) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with client_of(server.url) as client:
                place(client)
        assert (server.connections, proxy.connections) == (1, 0)

    def test_a_proxy_is_used_for_other_addresses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Server(answer(response(PLACED))) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with client_of("http://localhost.provider.invalid") as client:
                place(client)
        assert proxy.requests[0].startswith(b"POST http://localhost.provider.invalid/v3/")

    def test_no_proxy_is_used_for_an_address_in_no_proxy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED))) as server, Server(read_and_close) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "provider.invalid")
            resolve_to(monkeypatch, server.port)
            with client_of("http://provider.invalid") as client:
                place(client)
        assert (server.connections, proxy.connections) == (1, 0)


class TestSize:
    @CALLS
    def test_an_answer_announced_as_too_large_is_not_read(
        self, call: Callable[[Client], object]
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"
        with (
            Server(answer(head)) as server,
            client_of(server.url) as client,
            lasting(),  # it does not wait for the body
            pytest.raises(OutcomeUnknown, match=TOO_LARGE),
        ):
            call(client)
        assert server.connections == 1

    @pytest.mark.every_row
    @pytest.mark.parametrize(
        ("sent", "trouble"),
        [
            (response(gzip.compress(b" " * 2**25), "Content-Encoding: gzip"), TOO_LARGE),
            ("HTTP/1.1 200 OK\r\nContent-Length: ²\r\n\r\n".encode("latin-1"), "no usable answer"),
        ],
        ids=["unpacks to too much", "length is no number"],
    )
    def test_an_answer_of_no_usable_length_raises_outcome_unknown(
        self, sent: bytes, trouble: str
    ) -> None:
        with pytest.raises(OutcomeUnknown, match=trouble):
            ask(answer(sent))

    def test_a_compressed_answer_is_read(self) -> None:
        packed = response(gzip.compress(ORDER), "Content-Encoding: gzip")
        assert ask(answer(packed)).status == "FULFILLED"

    def test_the_answer_of_the_list_may_be_larger(self) -> None:
        rows = b'{"success": true, "data": {"items": []}}' + b" " * 2**21
        with Server(answer(response(rows))) as server, client_of(server.url) as client:
            now = datetime.datetime.now(datetime.UTC)
            assert client.list_orders(start=now, end=now).items == ()
