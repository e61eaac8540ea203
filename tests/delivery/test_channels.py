"""The documented example of another channel, run as it stands there: from a move to the gateway."""

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

from giftcards.checks import TAG
from giftcards.delivery.channels import AddressRefused, Channel
from giftcards.delivery.handover import Limits
from giftcards.delivery.messages import compose
from giftcards.delivery.models import Delivery
from giftcards.delivery.sending import send_due
from giftcards.engine import outbox
from giftcards.models import StatusChange
from giftcards.secrecy import Masked
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.test_docs import blocks, page, section

pytestmark = pytest.mark.django_db

GATEWAY = "https://sms.example/v1/messages"
TOKEN = "CANARY-TOKEN-5d1f0a"


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[None]:
    """The shop of the documentation: its channel, and the settings that name it."""
    channel, configured = blocks(section(page("delivery"), "Another channel"), "python")
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "sms.py").write_text(channel)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    names: dict[str, Any] = {"GIFTCARDS_DELIVERY": settings.GIFTCARDS_DELIVERY}
    exec(configured, names)
    settings.GIFTCARDS_DELIVERY = names["GIFTCARDS_DELIVERY"]
    settings.SMS_KEY = "CANARY-SMS-KEY"
    yield
    for name in ("shop", "shop.sms"):
        sys.modules.pop(name, None)


@pytest.fixture
def gateway() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mocked:
        yield mocked


@pytest.mark.parametrize(
    ("answer", "status"),
    [(200, "sent"), (422, "failed"), (401, "retrying"), (503, "retrying"), (500, "retrying")],
)
def test_the_worker_sends_over_both_channels_and_records_each(
    answer: int, status: str, gateway: responses.RequestsMock
) -> None:
    gateway.post(GATEWAY, status=answer, json={"id": "sms-1"})
    settle(customer_email="lina@example.com", customer_phone="+213550000000")
    send_due(Limits())
    by_mail, by_sms = Delivery.objects.order_by("channel")
    assert (by_mail.status, by_sms.status) == ("sent", status)
    assert by_sms.message_id == ("sms-1" if status == "sent" else "")
    # Of the gateway's answers, only 500 leaves open whether it has sent the message.
    assert by_sms.unanswered == (answer == 500)
    assert GATEWAY not in by_sms.error
    [sent] = mail.outbox
    [call] = gateway.calls
    in_mail, in_message = (
        re.findall(r"https://shop\.example/cards/[\w-]{32}/", text)
        for text in (str(sent.body), json.loads(call.request.body or "")["text"])
    )
    assert re.fullmatch(r"\w{32}", call.request.headers["Idempotency-Key"])
    # Each has a link of its own.
    assert len({*in_mail, *in_message}) == 2


def test_a_gateway_that_answers_with_something_else_has_taken_the_message(
    gateway: responses.RequestsMock,
) -> None:
    gateway.post(GATEWAY, json={"status": "queued"})
    settle(customer_phone="+213550000000")
    send_due(Limits())
    assert Delivery.objects.get().status == "sent"


def settle(**customer: str) -> None:
    order = make_guide_order(Status.FULFILLED, customer_language="ar", **customer)
    StatusChange.objects.create(
        order=order, from_status=Status.HANDLING, to_status=Status.FULFILLED, source="check"
    )
    outbox.announce()


def send() -> str | None:
    """Send the message by SMS that is queued, as the worker does."""
    channel: Channel = importlib.import_module("shop.sms").Sms()
    message = Delivery.objects.select_related("order").get(channel=channel.name)
    return channel.send(compose(message, Masked(TOKEN)))


def test_a_customer_with_a_phone_gets_a_mail_and_a_short_message(
    gateway: responses.RequestsMock,
) -> None:
    gateway.post(GATEWAY, json={"id": "sms-1"})
    settle(customer_email="lina@example.com", customer_phone="+213550000000")
    queued = Delivery.objects.order_by("channel").values_list("channel", "address", "language")
    assert list(queued) == [("mail", "lina@example.com", "ar"), ("sms", "+213550000000", "ar")]
    assert send() == "sms-1"
    [call] = gateway.calls
    assert call.request.headers["Authorization"] == "Bearer CANARY-SMS-KEY"
    assert call.request.req_kwargs["timeout"] == 10
    body = json.loads(call.request.body or "")
    assert body["to"] == "+213550000000"
    assert f"https://shop.example/cards/{TOKEN}/" in body["text"]


@pytest.mark.parametrize(
    ("customer", "channels"),
    [
        ({"customer_phone": "+213550000000"}, ["sms"]),
        ({"customer_email": "lina@example.com"}, ["mail"]),
        ({}, []),
    ],
)
def test_a_channel_that_does_not_reach_the_customer_is_left_out(
    customer: dict[str, str], channels: list[str]
) -> None:
    settle(**customer)
    assert list(Delivery.objects.values_list("channel", flat=True)) == channels


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_number_that_the_gateway_refuses_is_not_tried_again(
    status: int, gateway: responses.RequestsMock
) -> None:
    gateway.post(GATEWAY, status=status)
    settle(customer_phone="12")
    with pytest.raises(AddressRefused) as raised:
        send()
    assert str(raised.value) == ""


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_gateway_that_is_not_in_service_is_tried_again(
    status: int, gateway: responses.RequestsMock
) -> None:
    gateway.post(GATEWAY, status=status)
    settle(customer_phone="+213550000000")
    with pytest.raises(requests.HTTPError):
        send()


def test_a_gateway_that_does_not_answer_is_tried_again(gateway: responses.RequestsMock) -> None:
    gateway.post(GATEWAY, body=requests.ReadTimeout())
    settle(customer_phone="+213550000000")
    with pytest.raises(requests.ReadTimeout):
        send()


def test_the_settings_with_the_channel_pass_the_checks() -> None:
    assert run_checks(tags=[TAG]) == []
