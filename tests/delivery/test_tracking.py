"""Bounces that a mail provider reports through anymail."""

from __future__ import annotations

from typing import Any

import pytest
from anymail.signals import AnymailTrackingEvent, tracking

from giftcards.delivery.models import Delivery
from tests.delivery.mails import again, make_message

pytestmark = pytest.mark.django_db


def report(event_type: str, message_id: Any = "<1@shop.example>", **values: Any) -> None:
    event = AnymailTrackingEvent(
        event_type=event_type,
        message_id=message_id,
        recipient="lina@example.com",
        description="CANARY lina@example.com does not exist",
        mta_response="550 CANARY",
        **values,
    )
    for _receiver, result in tracking.send_robust(object, event=event, esp_name="Test"):
        assert not isinstance(result, Exception), result


def make_sent(message_id: str = "<1@shop.example>") -> Delivery:
    message = make_message(message_id=message_id, next_attempt_at=None)
    message.status = "sent"
    message.save()
    return message


@pytest.mark.parametrize(
    ("event_type", "reason", "error"),
    [
        ("bounced", "bounced", "bounced: bounced"),
        ("bounced", "CANARY", "bounced: other"),
        ("rejected", "spam", "rejected: spam"),
        ("failed", None, "failed: other"),
    ],
)
def test_a_message_that_did_not_arrive_counts_as_failed(
    event_type: str, reason: str | None, error: str
) -> None:
    message, other = make_sent(), make_sent(message_id="<2@shop.example>")
    report(event_type, reject_reason=reason)
    assert (again(message).status, again(message).error) == ("failed", error)
    assert (again(other).status, again(other).error) == ("sent", "")


@pytest.mark.parametrize(
    ("event_type", "noted"),
    [
        ("complained", "complained"),
        *((name, "") for name in ("delivered", "deferred", "opened", "clicked", "unknown")),
    ],
)
def test_a_message_stays_sent_after_any_other_event_and_a_complaint_is_noted(
    event_type: str, noted: str
) -> None:
    message = make_sent()
    report(event_type)
    assert (again(message).status, again(message).error) == ("sent", noted)


@pytest.mark.parametrize("message_id", [None, "", "<3@shop.example>", "x" * 500, "\0"])
def test_an_event_about_another_mail_changes_nothing(message_id: str | None) -> None:
    rows = [make_sent(), make_sent(message_id=""), make_message()]
    report("bounced", message_id, reject_reason="bounced")
    assert [again(row).status for row in rows] == ["sent", "sent", "queued"]


def test_an_id_longer_than_its_column_is_found() -> None:
    message = make_sent(message_id="x" * 200)
    report("bounced", "x" * 500, reject_reason="bounced")
    assert again(message).status == "failed"
