"""A shop in miniature: a simulator, and a client that talks to it over real HTTP."""

from __future__ import annotations

import re
import socket
from typing import Any

import requests

from giftcards.simulator import Order, Simulator

PSN = "507f1f77bcf86cd799439011"
STEAM = "507f1f77bcf86cd799439012"
MOBILIS = "507f1f77bcf86cd799439013"
LOST = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


class Clock:
    """A clock that advances only when a test changes it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shop:
    """A simulator and a client that talks to it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        options = {"delay": (0, 0), "rate_limit": 0, "clock": self.clock} | options
        self.simulator = Simulator(**options)
        self.session = requests.Session()
        self.session.trust_env = False

    def __enter__(self) -> Shop:
        self.simulator.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.session.close()
        self.simulator.stop()

    def ask(
        self, path: str, *, method: str = "GET", key: str | None = "key", **more: Any
    ) -> requests.Response:
        headers = {} if key is None else {"X-Access-Token": key}
        url = self.simulator.url + path
        return self.session.request(method, url, headers=headers, timeout=5, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.ask(path, **more).json()["data"]

    def place(
        self, type_id: object = "type_001", quantity: object = 2, product_id: object = PSN
    ) -> requests.Response:
        body = {"productId": product_id, "typeId": type_id, "quantity": quantity}
        return self.ask("/v3/gift-cards/placeOrder", method="POST", json=body)

    def order(self, *args: Any) -> str:
        """Place an order that is accepted and return its id."""
        answer = self.place(*args)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["data"]["orderId"])

    def check(self, order_id: str) -> Any:
        return self.get(f"/v3/gift-cards/check-order/{order_id}")

    @property
    def only_order(self) -> Order:
        [order] = self.simulator.orders.values()
        return order


def error(answer: requests.Response) -> tuple[int, dict[str, Any]]:
    """Return the status code and the error of a response in the provider's envelope."""
    body = answer.json()
    assert body.keys() == {"success", "error", "requestId"}
    assert body["success"] is False
    assert answer.headers["X-Request-Id"] == body["requestId"]
    return answer.status_code, body["error"]


def is_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{24}", text) is not None


def raw(port: int, request: bytes) -> bytes:
    """Send bytes, then end of file, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()
