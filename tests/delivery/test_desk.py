"""The tiles about messages on the start page, each with a link to exactly its rows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.delivery.conditions import CONDITIONS
from giftcards.delivery.models import Delivery
from tests.builders import PARTIAL, settle
from tests.delivery.staff import MESSAGES, message
from tests.pages import START, listed, plain, read, tiles
from tests.stage import ago

pytestmark = pytest.mark.django_db


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
    ("untold", _untold, "1 message that a customer did not get", "Send it again"),
    ("mail", _unsent, "Urgent 1 message to a customer could not be sent yet", "The first has"),
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
    assert told == {row[0] for row in ABOUT_MESSAGES} | {"digests"}
