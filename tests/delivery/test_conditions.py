"""Conditions about messages for monitors: ``giftcards_status --fail-on mail,untold``."""

from __future__ import annotations

import pytest

from giftcards.delivery.models import Delivery
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, give_up, make_message
from tests.stage import ago

pytestmark = pytest.mark.django_db


def asked(call: Call, condition: str) -> tuple[str, int]:
    """The errors of the command, and its exit code."""
    out, err, code = call("giftcards_status", "--fail-on", condition, "-v0")
    assert ADDRESS not in out + err
    return err, code


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (1, "1 message to customers has waited to be sent for more than 5 minutes.\n"),
        (2, "2 messages to customers have waited to be sent for more than 5 minutes.\n"),
    ],
)
def test_fail_on_mail_counts_messages_that_wait_for_more_than_five_minutes(
    messages: int, sentence: str, call: Call
) -> None:
    make_message(created_at=ago(290))
    assert asked(call, "mail") == ("", 0)
    for _number in range(messages):
        # Also while they are tried again later.
        make_message(created_at=ago(310), next_attempt_at=ago(-600))
    assert asked(call, "mail") == (sentence, 1)
    assert asked(call, "untold") == ("", 0)
    Delivery.objects.update(status="sent", next_attempt_at=None)
    assert asked(call, "mail") == ("", 0)


def test_fail_on_untold_counts_messages_given_up_within_a_day_that_no_later_one_makes_up_for(
    call: Call,
) -> None:
    first = make_message()
    give_up(first, 60)
    give_up(make_message(), 24 * 3600 + 60)
    wrong = "1 message to customers was given up within the last day.\n"
    assert asked(call, "untold") == (wrong, 1)
    assert asked(call, "mail") == ("", 0)
    make_message(order=first.order)
    assert asked(call, "untold") == ("", 0)
