"""The pages that say how to do something, followed to the letter."""

from __future__ import annotations

import csv
import re
import shlex
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from giftcards.conf import conf
from giftcards.models import Card, Order
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import PARTIAL, make_guide_order, make_order, settle
from tests.conftest import Call
from tests.docs.pages import page, section
from tests.docs.test_tutorial import is_shown
from tests.stage import buy

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def steps(heading: str) -> list[tuple[list[str], str]]:
    """The commands under a heading, each in words without ``python manage.py``; what is shown."""
    text = section(page("howto"), heading)
    found = []
    for indented in re.findall(r"^ *```console\n.*?^ *```$", text, re.DOTALL | re.MULTILINE):
        block = textwrap.dedent(indented)
        for line, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ |```).*\n)*)", block, re.MULTILINE):
            words = shlex.split(line.partition(" > ")[0])
            assert words[:2] == ["python", "manage.py"]
            found.append((words[2:], shown))
    return found


def follow(call: Call, step: tuple[list[str], str]) -> str:
    """Run the command; it has to end well and to print what the page shows. Return the output."""
    (name, *arguments), shown = step
    out, err, code = call(name, *arguments)
    assert (err, code) == ("", 0)
    assert is_shown(shown, out), out
    return out


def test_an_encryption_key_is_replaced_and_every_card_opens_with_the_new_one(
    call: Call, set_conf: Callable[..., None]
) -> None:
    order = settle("web-1042", PARTIAL)
    codes = [card.value for card in order.cards.all()]
    [old] = conf.encryption_keys
    making, rotating, verifying, looking = steps("Replace an encryption key")
    new = follow(call, making).strip()
    set_conf(ENCRYPTION_KEYS=[new, old])
    follow(call, rotating)
    follow(call, verifying)
    set_conf(ENCRYPTION_KEYS=[new])
    assert follow(call, looking) == ""
    assert [card.value for card in Card.objects.select_related("order")] == codes


def test_a_month_is_closed_with_books_that_fit_and_a_file_of_its_orders(
    call: Call, simulator: Simulator
) -> None:
    order = buy(reference="web-1042", type_id="TEST_PARTIAL", quantity=4)
    call("giftcards_poll")
    november = datetime(2026, 11, 12, 9, tzinfo=UTC)
    Order.objects.filter(pk=order.pk).update(settled_at=november)
    reading, exporting = steps("Close a month")
    follow(call, reading)
    rows = list(
        csv.DictReader(follow(call, exporting).lstrip("\ufeff").splitlines(), delimiter=";")
    )
    assert [row["Reference"] for row in rows] == ["web-1042"]


def test_money_that_came_back_is_shown_and_its_payment_to_the_customer_recorded(call: Call) -> None:
    order = make_guide_order(Status.PARTIALLY_FILLED, reference="web-1042", sale_price=Decimal(550))
    make_order()
    looking, recording = steps("Money came back")
    follow(call, looking)
    follow(call, recording)
    assert [refund.amount for refund in order.refunds.all()] == [Decimal(1100)]
