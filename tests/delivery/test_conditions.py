"""Conditions about messages: for monitors, and as tiles of the start page with their rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.utils import timezone

from giftcards.delivery.conditions import CONDITIONS
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.models import Card, Order
from giftcards.models.staff_records import REFUSED_REVEAL
from tests.builders import PARTIAL, settle
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, give_up, make_message
from tests.delivery.staff import MESSAGES, link, message, visit
from tests.pages import START, listed, plain, read, tiles
from tests.stage import ago

pytestmark = pytest.mark.django_db


def asked(call: Call, condition: str) -> tuple[str, int]:
    """Return the errors and the exit code of the command."""
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
    assert asked(call, "messages_late") == ("", 0)
    for _number in range(messages):
        # These messages also count while another attempt is planned.
        make_message(created_at=ago(310), next_attempt_at=ago(-600))
    assert asked(call, "messages_late") == (sentence, 1)
    assert asked(call, "messages_failed") == ("", 0)
    Delivery.objects.update(status="sent", next_attempt_at=None)
    assert asked(call, "messages_late") == ("", 0)


def test_fail_on_untold_counts_messages_given_up_within_a_day_that_no_later_one_makes_up_for(
    call: Call,
) -> None:
    first = make_message()
    give_up(first, 60)
    give_up(make_message(), 24 * 3600 + 60)
    wrong = "1 message to customers was given up within the last day.\n"
    assert asked(call, "messages_failed") == (wrong, 1)
    assert asked(call, "messages_late") == ("", 0)
    make_message(order=first.order)
    assert asked(call, "messages_failed") == ("", 0)


def _visited(*what: str, **values: Any) -> CardLink:
    shown, _token = link(settle("w-1", PARTIAL))
    visit(shown, *what, **values)
    return shown


def _refuse() -> None:
    for model in (Card, CardLink):
        LogEntry.objects.create(
            user=get_user_model().objects.create(username=f"nosy {model.__name__}"),
            content_type=ContentType.objects.get_for_model(model),
            object_repr=REFUSED_REVEAL,
            action_flag=CHANGE,
        )


@pytest.mark.parametrize(
    ("code", "make", "end", "sentence"),
    [
        (
            "links_locked",
            partial(_visited, "opened", "locked"),
            lambda: CardLink.objects.revoke(Order.objects.get(), by="amina"),
            "The link to the cards of 1 order is locked after wrong PINs.\n",
        ),
        (
            "cards_not_shown",
            partial(_visited, "revealed", "revealed", unreadable=2),
            lambda: LinkVisit.objects.update(at=ago(86_500)),
            "The cards of 1 order could not be shown to the customer within the last day.\n",
        ),
        (
            "reveals_refused",
            _refuse,
            lambda: LogEntry.objects.update(action_time=ago(86_500)),
            "2 attempts to reveal more codes than allowed, within the last day.\n",
        ),
    ],
)
def test_trouble_with_links_and_codes_counts_for_a_day_or_until_it_is_over(
    code: str, make: Callable[[], Any], end: Callable[[], Any], sentence: str, call: Call
) -> None:
    assert asked(call, code) == ("", 0)
    make()
    assert asked(call, code) == (sentence, 1)
    end()
    assert asked(call, code) == ("", 0)


def _untold() -> None:
    now = timezone.now()
    message(settle("w-1", PARTIAL), status="failed", failed_at=now)
    message(settle("w-2", PARTIAL), status="failed", failed_at=now - timedelta(days=3))


def _unsent() -> None:
    order = settle("w-1", PARTIAL)
    message(order, next_attempt_at=timezone.now())
    late = message(order, next_attempt_at=timezone.now())
    Delivery.objects.filter(pk=late.pk).update(created_at=ago(600))


ABOUT_MESSAGES = [
    (
        "messages_failed",
        _untold,
        "1 message that a customer did not receive",
        "Send each message again",
    ),
    (
        "messages_late",
        _unsent,
        "Urgent 1 message to a customer could not be sent yet",
        "The oldest message has",
    ),
]


@pytest.mark.parametrize(
    ("code", "make", "title", "sentence"), ABOUT_MESSAGES, ids=[row[0] for row in ABOUT_MESSAGES]
)
def test_messages_that_need_a_person_have_a_tile_that_leads_to_exactly_these(
    code: str, make: Callable[[], Any], title: str, sentence: str, boss: Client
) -> None:
    make()
    [condition] = [each for each in CONDITIONS if each.code == code]
    shown, address = tiles(read(boss.get(START)))[title]
    assert plain(shown).startswith(sentence)
    assert address == f"{MESSAGES}{condition.query}"
    assert listed(boss, address) == 1


def test_every_condition_about_messages_that_staff_are_told_of_is_tried() -> None:
    told = {each.code for each in CONDITIONS if each.headline and each.is_on_start_page}
    assert told == {row[0] for row in ABOUT_MESSAGES} | {"digests_failed"}
