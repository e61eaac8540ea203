"""Chargily Pay as a shop sees it: the answers of its API, and the events that it signs.

It follows https://dev.chargily.com/pay-v2, and includes fields that a shop does not read and has to
ignore.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from typing import Any

import requests
import responses

Data = dict[str, Any]
_TEXTS = ("success_url", "failure_url", "webhook_endpoint")
_KNOWN = {"amount", "currency", "locale", *_TEXTS}


class Chargily:
    """A fake that answers the requests that ``mock`` catches, and keeps checkouts by id."""

    def __init__(self, mock: responses.RequestsMock, *, url: str, secret: str) -> None:
        self.checkouts: dict[str, Data] = {}
        #: The bodies of the requests that have opened a checkout.
        self.asked: list[Data] = []
        #: The ids of checkouts that get no answer; "" stands for a checkout that is to be opened.
        self.is_silent_about: set[str] = set()
        self._secret = secret
        self._numbers = itertools.count(1)
        mock.add_callback(responses.POST, f"{url}checkouts", self._open)
        one = re.compile(rf"{re.escape(url)}checkouts/\w+$")
        mock.add_callback(responses.GET, one, self._show)

    def _open(self, request: requests.PreparedRequest) -> Any:
        if "" in self.is_silent_about:
            return requests.ReadTimeout("Read timed out.")
        if refusal := self._refuse(request):
            return refusal
        body = json.loads(request.body or "")
        is_valid = (
            body.keys() <= _KNOWN
            and type(body.get("amount")) is int
            and body.get("currency") == "dzd"
            and body.get("locale") in {"ar", "en", "fr"}
            and all(str(body.get(name)).startswith("https://") for name in _TEXTS)
        )
        if not is_valid:
            return 422, {}, json.dumps({"message": "The given data was invalid."})
        self.asked.append(body)
        checkout_id = f"01hjjj9aymmrwe664nbzrv{next(self._numbers):04}"
        self.checkouts[checkout_id] = {
            "id": checkout_id,
            "entity": "checkout",
            "livemode": False,
            "fees": 0,
            "pass_fees_to_customer": None,
            "chargily_pay_fees_allocation": "customer",
            "status": "pending",
            "description": None,
            "metadata": None,
            "payment_method": None,
            "invoice_id": None,
            "customer_id": None,
            "created_at": 1703577693,
            "updated_at": 1703577693,
            **body,
            "checkout_url": f"https://pay.chargily.dz/test/checkouts/{checkout_id}/pay",
        }
        return 200, {}, json.dumps(self.checkouts[checkout_id])

    def _show(self, request: requests.PreparedRequest) -> Any:
        checkout_id = str(request.url).rpartition("/")[2]
        if checkout_id in self.is_silent_about:
            return requests.ConnectTimeout("Connection timed out.")
        found = self.checkouts.get(checkout_id)
        missing = 404, {}, json.dumps({"message": "Not found."})
        return self._refuse(request) or (missing if found is None else (200, {}, json.dumps(found)))

    def _refuse(self, request: requests.PreparedRequest) -> Any:
        if request.headers.get("Authorization") == f"Bearer {self._secret}":
            return None
        return 401, {}, json.dumps({"message": "Unauthenticated."})

    def event(self, checkout_id: str, status: str, **changes: Any) -> tuple[bytes, str]:
        """Set the ``status`` of the checkout; return the body and the signature of the event."""
        checkout = self.checkouts.setdefault(checkout_id, {"id": checkout_id, "amount": 1100})
        checkout["status"] = status
        shown = {name: value for name, value in checkout.items() if name != "currency"}
        body = json.dumps(
            {
                "id": f"01hjjjzf7wbc454te45mw{next(self._numbers):05}",
                "entity": "event",
                "livemode": "false",
                "type": f"checkout.{status}",
                "data": shown | changes,
                "created_at": 1703578418,
                "updated_at": 1703578418,
            },
            indent=1,
        ).encode()
        return body, self.sign(body)

    def sign(self, body: bytes) -> str:
        return hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
