"""Query plans of a digest in a shop with a long history: indexes answer the queries.

The app looks for due digests once a minute.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.digest_items import Situation
from giftcards.delivery.models import CardLink, Delivery, LinkVisit, StaffDigest
from giftcards.models import Card, Order
from giftcards.models.staff_records import REFUSED_REVEAL
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from giftcards.watch.conditions import Standing
from tests.builders import make_guide_order, make_order
from tests.history import (
    OF_MESSAGES,
    ORDERS,
    STATISTICS,
    add_history,
    add_messages,
    analyze,
    forget_statistics,
    remove_history,
    remove_messages,
)
from tests.plans import explained

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_statistics")]

BOSS = "boss@shop.example"


@pytest.fixture(scope="module")
def _past(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        add_history(ORDERS)
        add_messages()
        user = add_entries()
        yield
        LogEntry.objects.all().delete()
        user.delete()
        remove_messages()
        remove_history()


@pytest.fixture(scope="module", params=STATISTICS, ids="{} statistics".format)
def _statistics(request: pytest.FixtureRequest, _past: None, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        analyze(*OF_MESSAGES, LogEntry) if request.param == "fresh" else forget_statistics()


def add_entries() -> Any:
    """Create many entries in the admin's log, and return their user."""
    user = get_user_model().objects.create(username="past")
    of_orders = ContentType.objects.get_for_model(Order)
    LogEntry.objects.bulk_create(
        LogEntry(user=user, content_type=of_orders, object_repr="-", action_flag=CHANGE)
        for _entry in range(2_000)
    )
    return user


@pytest.fixture
def _news() -> None:
    """Create something of each reported kind."""
    now = timezone.now()
    lately = now - timedelta(minutes=1)
    for status in (Status.PARTIALLY_FILLED, Status.REFUNDED, Status.REJECTED, Status.FULFILLED):
        make_guide_order(status, finalized_at=lately)
    make_guide_order(Status.DELAYED, problems=[Problem("late", {})])
    make_order(Status.UNCONFIRMED, problems=[Problem("answer_lost")])
    order = make_guide_order(Status.FULFILLED, finalized_at=lately)
    message = {"order": order, "kind": "delivered", "address": "x@example.com", "language": "fr"}
    failed = message | {"kind": "delayed", "status": "failed", "failed_at": lately}
    Delivery.objects.create(**failed, key="1")
    Delivery.objects.create(
        **message, key="2", status="retrying", created_at=now - timedelta(hours=1)
    )
    link = CardLink.objects.create(order=order, origin="message")
    LinkVisit.objects.create(link=link, what="locked", at=lately)
    LinkVisit.objects.create(link=link, what="revealed", at=lately, unreadable=1)
    LogEntry.objects.create(
        user=get_user_model().objects.get(username="past"),
        content_type=ContentType.objects.get_for_model(Card),
        object_repr=REFUSED_REVEAL,
        action_flag=CHANGE,
        action_time=lately,
    )


@pytest.mark.usefixtures("_news")
def test_looking_for_news_reads_no_whole_table() -> None:
    with explained(LogEntry) as statements:
        situation = Situation.judge(Standing())
    assert statements
    assert [statement for statement in statements if statement.scans] == []
    expected = {
        "order_problems",
        "orders_unconfirmed",
        "orders_delayed",
        "cards_missing",
        "messages_late",
        "messages_failed",
    }
    expected |= {"links_locked", "cards_not_shown", "reveals_refused"}
    assert set(situation.found) >= expected


def test_a_tick_asks_one_small_question(settings: Any, django_assert_num_queries: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "STAFF_EMAILS": [BOSS]}
    digests.send_due(Limits())
    with explained(LogEntry) as statements, django_assert_num_queries(1):
        assert digests.send_due(Limits()) == 0
    assert statements == []
    StaffDigest.objects.update(next_attempt_at=None)
    with django_assert_num_queries(25):
        assert digests.send_due(Limits()) == 0
