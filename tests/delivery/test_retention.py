"""Old codes are kept if the app could not notify the customer about them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from giftcards.delivery.links import issue
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import Order, StatusChange
from giftcards.statuses import Status
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, make_message
from tests.delivery.pages import make_old, purge_old

pytestmark = pytest.mark.django_db


@pytest.fixture
def order() -> Order:
    return make_old(customer_email=ADDRESS)


def tell(order: Order, status: str, **values: Any) -> Delivery:
    """Create a message about the cards that has ended with the given status."""
    message = make_message(Status.PARTIALLY_FILLED, order=order, **values)
    message.status, message.next_attempt_at = status, None
    message.save()
    return message


def reasons() -> dict[str, int]:
    """Return the number of orders that were left alone, by reason."""
    return dict(purge_old().left_alone)


UNTOLD = {"untold": 1}


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["failed"], UNTOLD),
        (["failed", "failed"], UNTOLD),
        (["failed", "cancelled"], UNTOLD),
        # The message was requested again because the first one did not arrive.
        (["sent", "failed"], UNTOLD),
        (["failed", "sent"], {}),
        (["sent"], {}),
        (["cancelled"], {}),
        ([], {}),
        # These messages are still to be sent, for example because the mail server is down.
        (["queued"], UNTOLD),
        (["sending"], UNTOLD),
        (["retrying"], UNTOLD),
        (["sent", "queued"], UNTOLD),
    ],
)
@pytest.mark.parametrize("kind", ["partly_delivered", "gift"])
def test_codes_are_kept_if_the_last_message_about_them_waits_or_was_given_up(
    order: Order, statuses: list[str], expected: dict[str, int], kind: str
) -> None:
    for status in statuses:
        tell(order, status, kind=kind)
    assert reasons() == expected
    order.refresh_from_db()
    assert (order.codes_destroyed_at is None) == bool(expected)


@pytest.mark.parametrize("channels", [("mail", "sms"), ("sms", "mail")])
def test_a_customer_who_was_told_over_another_channel_is_told(
    order: Order, channels: tuple[str, str]
) -> None:
    change = StatusChange.objects.filter(order=order).latest("pk")
    for channel, status in zip(channels, ("sent", "failed"), strict=True):
        tell(order, status, channel=channel, change=change)
    assert reasons() == {}


@pytest.mark.parametrize("origin", CardLink.Origin.values)
def test_a_customer_who_has_seen_the_cards_needs_no_message(order: Order, origin: str) -> None:
    tell(order, "failed")
    link, _token = issue(order, origin=CardLink.Origin(origin))
    assert reasons() == UNTOLD
    CardLink.objects.filter(pk=link.pk).update(reveals=1)
    assert reasons() == {}


def test_the_message_and_the_link_of_another_order_do_not_count(order: Order) -> None:
    other = make_old("web-2", customer_email=ADDRESS)
    tell(order, "failed")
    tell(other, "sent")
    issue(other, origin=CardLink.Origin.MESSAGE)
    CardLink.objects.update(reveals=1)
    assert reasons() == UNTOLD
    other.refresh_from_db()
    assert other.codes_destroyed_at is not None


def test_a_message_without_cards_keeps_no_codes(order: Order) -> None:
    tell(order, "failed", kind="delayed")
    assert reasons() == {}


def test_the_command_says_why_the_codes_are_kept(order: Order, call: Call) -> None:
    tell(order, "failed")
    outcome = call("giftcards_purge", "--settled-before", "365")
    assert outcome.out.splitlines() == [
        "0 codes of 0 orders destroyed.",
        "Skipped: 1 order with a customer who could not be notified.",
    ]
    outcome = call("giftcards_purge", "--settled-before", "365", "--json")
    assert json.loads(outcome.out)["left_alone"]["untold"] == 1
