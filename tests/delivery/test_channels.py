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
from giftcards.delivery.channels import Limits
from giftcards.delivery.models import Delivery
from giftcards.delivery.sending import send_due
from giftcards.engine import outbox
from giftcards.models import StatusChange
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.docs.pages import blocks, page, section

pytestmark = pytest.mark.django_db

GATEWAY = "https://sms.example/v1/messages"


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
    names: dict[str, Any] = {"GIFTCARDS_DELIVERY": {**settings.GIFTCARDS_DELIVERY}}
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


def test_a_customer_with_a_phone_gets_a_mail_and_a_short_message(
    gateway: responses.RequestsMock,
) -> None:
    gateway.post(GATEWAY, json={"id": "sms-1"})
    settle(customer_email="lina@example.com", customer_phone="+213550000000")
    queued = Delivery.objects.order_by("channel").values_list("channel", "address", "language")
    assert list(queued) == [("mail", "lina@example.com", "ar"), ("sms", "+213550000000", "ar")]
    send_due(Limits())
    by_mail, by_sms = Delivery.objects.order_by("channel")
    assert (by_mail.status, by_sms.status, by_sms.message_id) == ("sent", "sent", "sms-1")
    [sent] = mail.outbox
    [call] = gateway.calls
    assert call.request.headers["Authorization"] == "Bearer CANARY-SMS-KEY"
    assert re.fullmatch(r"\w{32}", call.request.headers["Idempotency-Key"])
    assert call.request.req_kwargs["timeout"] == 10
    body = json.loads(call.request.body or "")
    assert body["to"] == "+213550000000"
    in_mail, in_message = (
        re.findall(r"https://shop\.example/cards/[\w-]{32}/", text)
        for text in (str(sent.body), body["text"])
    )
    # Each has a link of its own.
    assert len({*in_mail, *in_message}) == 2


@pytest.mark.parametrize(
    ("answer", "status", "is_unanswered"),
    [
        ({"status": 400}, "failed", False),
        ({"status": 404}, "failed", False),
        ({"status": 422}, "failed", False),
        ({"status": 401}, "retrying", False),
        ({"status": 429}, "retrying", False),
        ({"status": 503}, "retrying", False),
        # These leave open whether the gateway has sent the message.
        ({"status": 500}, "retrying", True),
        ({"body": requests.ReadTimeout()}, "retrying", True),
    ],
    ids=str,
)
def test_an_answer_of_the_gateway_decides_whether_the_message_is_tried_again(
    answer: dict[str, Any], status: str, is_unanswered: bool, gateway: responses.RequestsMock
) -> None:
    gateway.post(GATEWAY, **answer)
    settle(customer_phone="+213550000000")
    send_due(Limits())
    message = Delivery.objects.get()
    assert (message.status, message.unanswered) == (status, is_unanswered)
    assert message.message_id == ""
    assert GATEWAY not in message.error


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


def test_the_settings_with_the_channel_pass_the_checks() -> None:
    assert run_checks(tags=[TAG]) == []
