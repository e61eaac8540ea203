"""The documented channels of a shop, run as documented, from a status change to the service."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from django.core import mail
from django.core.checks import run_checks
from django.utils import timezone

from giftcards.checks import TAG
from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.models import Delivery
from giftcards.delivery.sending import send_due
from giftcards.engine import outbox
from giftcards.models import ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.mails import note_tick
from tests.docs.pages import blocks, page

pytestmark = pytest.mark.django_db

GATEWAY = "https://sms.example/v1/messages"
TELEGRAM = "https://api.telegram.org/botCANARY-TOKEN/sendMessage"
# The values by which each channel reaches a customer, and the URL of each service.
BY_SMS = {"customer_phone": "0550 00-00-00"}
BY_TELEGRAM = {"metadata": {"telegram_chat": 664743441}}
SERVICES = {"sms": (GATEWAY, BY_SMS), "telegram": (TELEGRAM, BY_TELEGRAM)}


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    """Set up the shop of the recipe, with its channels and the settings that name them."""
    configured, channels = blocks(page("recipes/messengers"), "python")
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "messengers.py").write_text(channels)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setenv("SMS_KEY", "CANARY-SMS-KEY")
    monkeypatch.setenv("TELEGRAM_TOKEN", "CANARY-TOKEN")
    names: dict[str, Any] = {"GIFTCARDS_DELIVERY": {**settings.GIFTCARDS_DELIVERY}}
    exec(configured, names)
    for name in filter(str.isupper, names):
        setattr(settings, name, names[name])
    yield
    for name in ("shop", "shop.messengers"):
        sys.modules.pop(name, None)


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mocked:
        yield mocked


def test_a_customer_gets_one_message_on_each_channel(wire: responses.RequestsMock) -> None:
    wire.post(GATEWAY, json={"id": "sms-1"})
    wire.post(TELEGRAM, json={"ok": True, "result": {"message_id": 7}})
    settle(customer_email="lina@example.com", **BY_SMS, **BY_TELEGRAM)
    queued = Delivery.objects.order_by("channel").values_list("channel", "address", "language")
    assert list(queued) == [
        ("mail", "lina@example.com", "ar"),
        ("sms", "0550 00-00-00", "ar"),
        ("telegram", "664743441", "ar"),
    ]
    send_due(Limits())
    sent = Delivery.objects.order_by("channel").values_list("status", "message_id")[1:]
    assert list(sent) == [("sent", "sms-1"), ("sent", "7")]
    by_url = {call.request.url: call.request for call in wire.calls}
    assert all(request.req_kwargs["timeout"] == 10 for request in by_url.values())
    by_sms, by_telegram = (json.loads(by_url[url].body or "") for url in (GATEWAY, TELEGRAM))
    assert by_url[GATEWAY].headers["Authorization"] == "Bearer CANARY-SMS-KEY"
    assert re.fullmatch(r"\w{32}", by_url[GATEWAY].headers["Idempotency-Key"])
    assert by_sms["to"] == "+213550000000"
    assert by_telegram["chat_id"] == "664743441"
    # A service that loads the link in advance would be taken for the customer.
    assert by_telegram["link_preview_options"] == {"is_disabled": True}
    texts = [str(mail.outbox[0].body), by_sms["text"], by_telegram["text"]]
    links = [re.findall(r"https://shop\.example/cards/[\w-]{32}/", text) for text in texts]
    # Each message has its own link.
    assert [len(found) for found in links] == [1, 1, 1]
    assert len({found[0] for found in links}) == 3


def test_a_chat_of_staff_is_told_what_is_wrong(wire: responses.RequestsMock) -> None:
    wire.post(TELEGRAM, json={"ok": True, "result": {"message_id": 7}})
    ProviderState.objects.current()
    note_tick()
    make_guide_order(Status.HANDLING, reference="order-7", problems=[Problem("not_whole", {})])
    assert digests.send_due(Limits()) == 2
    [told] = [json.loads(call.request.body or "") for call in wire.calls]
    assert told["chat_id"] == "-1001234567890"
    assert "1 order with a problem\n" in told["text"]
    assert "- order-7\n" in told["text"]


@pytest.mark.parametrize(
    ("channel", "answer", "status", "is_unanswered"),
    [
        ("sms", {"status": 400}, "failed", False),
        ("sms", {"status": 404}, "failed", False),
        ("sms", {"status": 422}, "failed", False),
        ("sms", {"status": 401}, "retrying", False),
        ("sms", {"status": 403}, "retrying", False),
        ("telegram", {"status": 400}, "failed", False),
        ("telegram", {"status": 403}, "failed", False),
        ("telegram", {"status": 401}, "retrying", False),
        *((name, {"status": 429}, "retrying", False) for name in SERVICES),
        *((name, {"status": 503}, "retrying", False) for name in SERVICES),
        *((name, {"body": requests.ConnectTimeout()}, "retrying", False) for name in SERVICES),
        # A successful answer with other content means that the service has accepted the message.
        *((name, {"json": {"status": "queued"}}, "sent", False) for name in SERVICES),
        # After these answers, it is unknown whether the service has sent the message.
        *((name, {"status": 500}, "retrying", True) for name in SERVICES),
        *((name, {"body": requests.ReadTimeout()}, "retrying", True) for name in SERVICES),
    ],
    ids=str,
)
def test_an_answer_of_the_service_decides_whether_the_message_is_tried_again(
    channel: str,
    answer: dict[str, Any],
    status: str,
    is_unanswered: bool,
    wire: responses.RequestsMock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, customer = SERVICES[channel]
    wire.post(url, **answer)
    settle(**customer)
    send_due(Limits())
    message = Delivery.objects.get()
    assert (message.status, message.unanswered) == (status, is_unanswered)
    assert message.message_id == ""
    assert "CANARY" not in message.error + caplog.text


@pytest.mark.parametrize(
    ("channel", "answer", "seconds"),
    [
        ("sms", {"headers": {"Retry-After": "40"}}, 40),
        # The usual pause applies to a date, which HTTP allows, and to values below the usual pause.
        ("sms", {"headers": {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}}, 10),
        ("telegram", {"json": {"ok": False, "parameters": {"retry_after": 40}}}, 40),
        ("telegram", {"json": {"ok": False, "parameters": {"retry_after": 3}}}, 10),
        ("telegram", {"json": {"ok": False, "parameters": {"retry_after": 10**9}}}, 3600),
        ("telegram", {"json": {"ok": False}}, 10),
        ("telegram", {"body": "<h1>Too many requests</h1>"}, 10),
    ],
    ids=str,
)
def test_a_service_that_wants_a_pause_gets_it(
    channel: str, answer: dict[str, Any], seconds: float, wire: responses.RequestsMock
) -> None:
    url, customer = SERVICES[channel]
    wire.post(url, status=429, **answer)
    settle(**customer)
    began = timezone.now()
    send_due(Limits())
    [next_attempt_at] = Delivery.objects.values_list("next_attempt_at", flat=True)
    assert (next_attempt_at - began).total_seconds() == pytest.approx(seconds, abs=5)


def settle(**customer: Any) -> None:
    order = make_guide_order(Status.FULFILLED, customer_language="ar", **customer)
    StatusChange.objects.create(
        order=order, from_status=Status.HANDLING, to_status=Status.FULFILLED, source="check"
    )
    outbox.announce()


@pytest.mark.parametrize(
    ("customer", "channels"),
    [
        (BY_SMS, ["sms"]),
        (BY_TELEGRAM, ["telegram"]),
        ({"customer_phone": "0550 00 00 00 / 0660 00 00 00"}, []),
        ({"customer_email": "lina@example.com"}, ["mail"]),
        ({}, []),
    ],
)
def test_a_channel_that_does_not_reach_the_customer_is_left_out(
    customer: dict[str, Any], channels: list[str]
) -> None:
    settle(**customer)
    assert list(Delivery.objects.values_list("channel", flat=True)) == channels
    assert run_checks(tags=[TAG]) == []
