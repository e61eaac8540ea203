"""Connections, request bodies and TLS of the simulator."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path

import pytest
import requests

from tests.simulator.shop import LOST, PSN, Shop, raw

pytest_plugins = ["tests.fakes.tls"]


def test_stop_closes_kept_connections_and_start_keeps_orders(shop: Shop) -> None:
    order_id = shop.order()
    url = shop.simulator.url
    shop.simulator.stop()
    shop.simulator.stop()
    with pytest.raises(requests.ConnectionError):
        shop.check(order_id)
    shop.simulator.start()
    with pytest.raises(RuntimeError, match=r"^The simulator is running already.$"):
        shop.simulator.start()
    assert shop.simulator.url == url
    assert shop.check(order_id)["status"] == "FULFILLED"


def test_a_connection_is_kept_for_the_next_request(shop: Shop) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.simulator.port, timeout=30)
    ports = set()
    for _ in range(3):
        connection.request("GET", "/v3/account/balance", headers={"X-Access-Token": "key"})
        connection.getresponse().read()
        assert isinstance(connection.sock, socket.socket)
        ports.add(connection.sock.getsockname())
    connection.close()
    assert len(ports) == 1


def test_an_answer_to_head_has_no_body(shop: Shop) -> None:
    assert (shop.ask("/v3/validate", method="HEAD").status_code, shop.ask("/").status_code) == (
        404,
        404,
    )


@pytest.mark.parametrize("header", ["Content-Length: -1", "Transfer-Encoding: chunked"])
def test_a_body_of_unknown_length_is_refused(shop: Shop, header: str) -> None:
    answer = raw(
        shop.simulator.port, f"POST /v3/gift-cards/placeOrder HTTP/1.1\r\n{header}\r\n\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"Connection: close" in answer


def test_a_request_that_breaks_off_is_not_carried_out(shop: Shop) -> None:
    body = b'{"productId": "%s", "typeId": "type_001", "quantity": 1}' % PSN.encode()
    head = b"POST /v3/gift-cards/placeOrder HTTP/1.1\r\nX-Access-Token: key\r\n"
    head += b"Content-Length: %d\r\n\r\n"
    assert raw(shop.simulator.port, head % (len(body) + 1) + body) == b""
    assert shop.simulator.orders == {}
    assert raw(shop.simulator.port, head % len(body) + body).startswith(b"HTTP/1.1 200 ")
    assert len(shop.simulator.orders) == 1


def test_a_bug_in_the_simulator_is_printed(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    shop.simulator.clock = lambda: 1 / 0
    with pytest.raises(LOST):
        shop.ask("/")
    shop.simulator.stop()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_simulator_speaks_tls(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with Shop(ssl_context=context) as shop:
        shop.session.verify = str(certificate)
        assert shop.simulator.url.startswith("https://127.0.0.1:")
        # A client that connects and sends nothing does not block the others.
        with socket.create_connection(("127.0.0.1", shop.simulator.port)):
            assert shop.check(shop.order())["status"] == "FULFILLED"
            with pytest.raises(LOST):
                shop.place("SIM_LOST")
            with pytest.raises(LOST):
                requests.get(shop.simulator.url.replace("https", "http"), timeout=30)
            shop.simulator.stop()
        with pytest.raises(requests.ConnectionError):
            shop.ask("/")
