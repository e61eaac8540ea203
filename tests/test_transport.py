"""The provider's client over real sockets, plain and TLS: what no fake of ``requests`` can show."""

from __future__ import annotations

import datetime
import gzip
import ipaddress
import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from giftcards.exceptions import OutcomeUnknown, ProviderError, RateLimited, TryLater
from giftcards.provider import Client

KEY = "CANARY-KEY-wire+1"
CODE = "CANARY-CODE-1111"
ORDER = (
    b'{"success": true, "data": {"_id": "A1", "status": "FULFILLED", "quantity": 1,'
    b' "cards": [{"value": "' + CODE.encode() + b'"}]}}'
)
PLACED = b'{"success": true, "data": {"orderId": "A1"}}'

Script = Callable[["Server", socket.socket], object]


class Server:
    """A server on a port of this machine that does with every connection what its script says."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._script = script
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
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
        """Receive one request; ``b""`` if the client has hung up."""
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
                    body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        return self.requests[-1]


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


def answer(*pieces: bytes, pause: float = 0.0) -> Script:
    """Answer every request of a connection with ``pieces``, with a pause before each but one."""

    def script(server: Server, connection: socket.socket) -> None:
        while server.read(connection):
            for number, piece in enumerate(pieces):
                if number and server.stopping.wait(pause):
                    return
                connection.sendall(piece)

    return script


def drip(head: bytes, byte: bytes) -> Script:
    """Answer with ``head`` and then one byte every 20 ms, for 3 s or until the client hangs up."""

    def script(server: Server, connection: socket.socket) -> None:
        server.requests.append(connection.recv(65536))
        connection.sendall(head)
        for _ in range(150):
            if server.stopping.wait(0.02):
                return
            connection.sendall(byte)

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
    """Answer over TLS with something that is no TLS record."""
    server.read(connection)
    with socket.socket(fileno=connection.detach()) as plain:
        plain.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)


def first(then: Script, otherwise: Script) -> Script:
    def script(server: Server, connection: socket.socket) -> None:
        (then if server.connections == 1 else otherwise)(server, connection)

    return script


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "giftcards tests")])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    addresses = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True
        )
        .add_extension(identifier, critical=False)
        .add_extension(authority, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The context of a TLS server that the client trusts."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture(params=["http", "https"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return request.getfixturevalue("tls") if request.param == "https" else None


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound and not listening: nobody else gets it
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def client_of(url: str, timeout: float = 5) -> Client:
    return Client(base_url=url, api_key=KEY, timeout=timeout)


def place(client: Client) -> object:
    return client.place(product_id="p", type_id="t", quantity=1)


def check(client: Client) -> object:
    return client.check("A1")


CALLS = pytest.mark.parametrize("call", [place, check])


class TestOnTheWire:
    def test_a_question(self, context: ssl.SSLContext | None) -> None:
        with Server(answer(response(ORDER)), context) as server, client_of(server.url) as client:
            assert client.check("A1").cards[0].value == CODE
        head = server.requests[0].decode()
        assert head.startswith("GET /v3/gift-cards/check-order/A1 HTTP/1.1\r\n")
        for header in (
            f"X-Access-Token: {KEY}",
            "User-Agent: django-giftcards/0.1.0",
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
                assert client.place(product_id="p", type_id="t", quantity=2).order_id == "A1"
        assert server.connections == 2
        head, _, body = server.requests[1].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v3/gift-cards/placeOrder HTTP/1.1\r\n")
        assert b"\r\nConnection: close" in head
        assert body == b'{"productId": "p", "typeId": "t", "quantity": 2}'

    def test_cookies_and_netrc_are_left_alone(
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
            # Left to itself, requests reads the body of a redirect whole, whatever its size.
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
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
            (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
            (b"", b"H"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ],
        ids=["body", "chunks", "headers", "status", "continue"],
    )
    def test_a_dripping_answer(
        self,
        head: bytes,
        byte: bytes,
        call: Callable[[Client], object],
        context: ssl.SSLContext | None,
    ) -> None:
        with Server(drip(head, byte), context) as server, client_of(server.url, 0.3) as client:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown, match=r"no complete answer within 0\.3 s"):
                call(client)
            assert 0.2 < time.monotonic() - began < 1
        assert len(server.requests) == 1

    @pytest.mark.parametrize("is_dripping", [True, False])
    def test_a_handshake_that_does_not_end(self, tls: ssl.SSLContext, is_dripping: bool) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            if is_dripping:  # a record of 16 KiB, or so it says
                drip(b"\x16\x03\x03\x40\x00", b"\x00")(server, connection)
            else:
                server.stopping.wait(3)

        with Server(script) as server:
            url = server.url.replace("http:", "https:")
            with client_of(url, 0.3) as client:
                began = time.monotonic()
                with pytest.raises(OutcomeUnknown, match=r"no complete answer within 0\.3 s"):
                    client.check("A1")
                assert 0.2 < time.monotonic() - began < 1

    def test_addresses_that_swallow_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as full:
            address = listener.getsockname()
            full.connect(address)  # and now its queue is full
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)] * 5
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
            with client_of("http://provider.invalid", 0.3) as client:
                began = time.monotonic()
                with pytest.raises(TryLater, match="it could not be reached"):
                    place(client)
                assert 0.2 < time.monotonic() - began < 1

    def test_threads_have_one_each(self) -> None:
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
            client_of(server.url, 0.5) as client,
            ThreadPoolExecutor(4) as threads,
        ):
            slow = threads.submit(ask, "slow")
            assert set(threads.map(ask, ["A1"] * 60)) == {"FULFILLED"}
            assert "no complete answer" in str(slow.result())


class TestBrokenConnections:
    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, garble])
    def test_an_order_over_tls_is_sent_once(self, fault: Script, tls: ssl.SSLContext) -> None:
        """urllib3 sends a POST again over TLS whatever the method, if it may retry at all."""
        with Server(fault, tls) as server, client_of(server.url) as client:
            for sent in range(1, 21):
                with pytest.raises(OutcomeUnknown, match="the connection broke"):
                    place(client)
                assert len(server.requests) == sent

    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, reset_unread, break_off])
    def test_an_order_is_sent_once(self, fault: Script) -> None:
        with (
            Server(fault) as server,
            client_of(server.url) as client,
            pytest.raises(OutcomeUnknown, match="the connection broke") as caught,
        ):
            place(client)
        assert server.connections == 1
        assert not caught.value.is_worth_repeating

    @pytest.mark.parametrize("fault", [read_and_reset, read_and_close, reset_unread, break_off])
    def test_a_question_is_worth_repeating(
        self, fault: Script, context: ssl.SSLContext | None
    ) -> None:
        """Which is for the caller to do: each request has to be afforded."""
        script = first(fault, answer(response(ORDER)))
        with Server(script, context) as server, client_of(server.url) as client:
            with pytest.raises(OutcomeUnknown, match="the connection broke") as caught:
                client.check("A1")
            assert caught.value.is_worth_repeating
            assert server.connections == 1
            assert client.check("A1").status == "FULFILLED"

    def test_so_is_one_over_a_connection_that_has_idled_too_long(
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

    def test_half_a_refusal_is_a_refusal(self) -> None:
        def script(server: Server, connection: socket.socket) -> None:
            server.read(connection)
            connection.sendall(response(b"{}", "Retry-After: 7", status="429 Slow Down")[:-1])

        with (
            Server(script) as server,
            client_of(server.url) as client,
            pytest.raises(RateLimited) as caught,
        ):
            client.check("A1")
        assert caught.value.retry_after == 7
        assert not caught.value.is_worth_repeating

    def test_text_among_the_headers_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        early = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{CODE}\r\n\r\n".encode()
        with (
            Server(answer(early)) as server,
            client_of(server.url) as client,
            pytest.raises(OutcomeUnknown, match="the connection broke"),
        ):
            client.check("A1")
        assert caplog.text
        assert CODE not in caplog.text
        assert KEY not in caplog.text


class TestUnsent:
    def test_a_refused_connection(self, closed_port: int) -> None:
        with (
            client_of(f"http://127.0.0.1:{closed_port}") as client,
            pytest.raises(TryLater) as caught,
        ):
            place(client)
        assert str(caught.value) == (
            "The provider has not started on the request (it could not be reached)."
        )
        assert caught.value.status is None

    def test_the_next_address_is_tried(
        self, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED))) as server:
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
                for port in (closed_port, server.port)
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args: found)
            with client_of("http://provider.invalid") as client:
                place(client)
        assert len(server.requests) == 1

    @pytest.mark.parametrize("error", [socket.gaierror(-2, "unknown"), UnicodeError("too long")])
    def test_an_unknown_host(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*args: object) -> None:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with (
            client_of("http://provider.invalid") as client,
            pytest.raises(TryLater, match="it could not be reached"),
        ):
            place(client)

    @pytest.mark.parametrize("is_wrong_name", [True, False])
    def test_a_certificate_that_is_not_trusted(
        self, is_wrong_name: bool, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Server(answer(response(PLACED)), tls) as server:
            url = server.url
            if is_wrong_name:
                here = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))]
                monkeypatch.setattr(socket, "getaddrinfo", lambda *args: here)
                url = "https://provider.invalid"
            else:
                monkeypatch.delenv("REQUESTS_CA_BUNDLE")
                monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
            with client_of(url) as client, pytest.raises(TryLater, match="it could not be reached"):
                place(client)
        assert server.requests == []

    def test_a_proxy_that_is_not_there(
        self, closed_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{closed_port}")
        with (
            client_of("https://provider.invalid") as client,
            pytest.raises(TryLater, match="it could not be reached"),
        ):
            place(client)

    def test_a_proxy_that_opens_no_tunnel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Server(answer(response(b"", status="407 Who Are You"))) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with (
                client_of("https://provider.invalid") as client,
                pytest.raises(TryLater, match="it could not be reached"),
            ):
                place(client)
        assert KEY.encode() not in proxy.requests[0]

    def test_a_proxy_that_breaks_off_proves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """urllib3 reports a ``ProxyError`` here too, though the order was on its way."""
        with Server(read_and_reset) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with (
                client_of("http://provider.invalid") as client,
                pytest.raises(OutcomeUnknown, match="the connection broke"),
            ):
                place(client)
        assert len(proxy.requests) == 1

    def test_a_proxy_that_drips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Server(drip(b"HTTP/1.1 200 OK\r\n", b"x")) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with client_of("https://provider.invalid", 0.3) as client:
                began = time.monotonic()
                with pytest.raises(OutcomeUnknown, match="no complete answer"):
                    place(client)
                assert time.monotonic() - began < 1

    def test_nothing_is_sent_past_a_socks_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
        with (
            Server(answer(response(PLACED))) as server,
            client_of(server.url) as client,
            pytest.raises(ProviderError),
        ):  # which depends on whether PySocks is installed
            place(client)
        assert server.connections == 0


class TestSize:
    @CALLS
    def test_an_announced_excess_is_not_read(self, call: Callable[[Client], object]) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"
        with Server(answer(head)) as server, client_of(server.url) as client:
            began = time.monotonic()
            with pytest.raises(OutcomeUnknown, match="an answer of more than 1 MiB"):
                call(client)
            assert time.monotonic() - began < 1  # it did not wait for the body
        assert server.connections == 1

    def test_a_small_answer_that_unpacks_to_a_large_one(self) -> None:
        bomb = gzip.compress(b" " * 2**25)
        script = answer(response(bomb, "Content-Encoding: gzip"))
        with (
            Server(script) as server,
            client_of(server.url) as client,
            pytest.raises(OutcomeUnknown, match="an answer of more than 1 MiB"),
        ):
            client.check("A1")

    def test_a_packed_answer_is_read(self) -> None:
        script = answer(response(gzip.compress(ORDER), "Content-Encoding: gzip"))
        with Server(script) as server, client_of(server.url) as client:
            assert client.check("A1").status == "FULFILLED"

    def test_a_list_may_be_longer(self) -> None:
        rows = b'{"success": true, "data": {"items": []}}' + b" " * 2**21
        with Server(answer(response(rows))) as server, client_of(server.url) as client:
            now = datetime.datetime.now(datetime.UTC)
            assert client.list_orders(start=now, end=now).items == ()

    def test_nonsense_as_length(self) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Length: ²\r\n\r\n".encode("latin-1")
        with (
            Server(answer(head)) as server,
            client_of(server.url) as client,
            pytest.raises(OutcomeUnknown),
        ):
            client.check("A1")
