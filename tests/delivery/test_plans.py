"""Query plans of the message engine on tables with many rows: no table is read as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from anymail.signals import AnymailTrackingEvent
from django.utils import timezone

from giftcards.delivery import queueing
from giftcards.delivery.models import CardLink, Delivery, Installation, LinkVisit
from giftcards.delivery.queueing import tell_of_lost_refunds
from giftcards.delivery.sending import SendingTally
from giftcards.models import CustomerRefund, Lease, Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.mails import make_message, send
from tests.fakes.mail import DROP, Fault, MailServer
from tests.history import OF_MESSAGES, ORDERS, add_history, analyze, remove_history
from tests.plans import explained
from tests.stage import ago

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_history")]

# The orders span a year, so that a month is only a part of them.
MINUTES_APART = 365 * 24 * 60 // ORDERS


@pytest.fixture(scope="module")
def _history(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """For each order a refund that was paid, a message about it, and a link that was opened."""
    with django_db_blocker.unblock():
        add_history(ORDERS)
        keys = list(Order.objects.order_by("-pk").values_list("pk", flat=True))
        now = timezone.now()
        refunds = CustomerRefund.objects.bulk_create(
            CustomerRefund(
                order_id=key,
                amount=1,
                reference=f"CCP {key}",
                state="done",
                executed_at=now - timedelta(minutes=MINUTES_APART * number),
            )
            for number, key in enumerate(keys)
        )
        messages = Delivery.objects.bulk_create(
            Delivery(
                order_id=refund.order_id,
                refund=refund,
                kind="paid_back",
                address=f"c{refund.order_id}@example.com",
                language="fr",
                status="sent",
                next_attempt_at=None,
                message_id=f"<{refund.order_id}@shop.example>",
                key=f"past {refund.order_id}",
            )
            for refund in refunds
        )
        CardLink.objects.bulk_create(
            CardLink(
                order_id=message.order_id,
                delivery=message,
                origin="message",
                token_hash=f"past {message.pk}",
            )
            for message in messages
        )
        links = CardLink.objects.values_list("pk", flat=True)
        LinkVisit.objects.bulk_create(LinkVisit(link_id=key, what="opened") for key in links)
        analyze(*OF_MESSAGES)
        yield
        LinkVisit.objects.all().delete()
        CardLink.objects.all().delete()
        Delivery.objects.all().delete()
        CustomerRefund.objects.all().delete()
        remove_history()


def test_a_pass_with_every_kind_of_end_reads_no_whole_table(server: MailServer) -> None:
    plans = {2: Fault("connect", DROP), 3: Fault("rcpt", "550 5.1.1 No")}
    server.plan = plans.get
    for number in range(3):
        make_message(address=f"c{number}@example.com")
    make_message(kind="delayed")
    with explained() as statements:
        assert send() == SendingTally(sent=1, retrying=1, failed=1, cancelled=1)
        Delivery.objects.next_due_at()
        Delivery.objects.waiting(timezone.now()).count()
        Delivery.objects.late(timezone.now())
    assert len(statements) > 10
    assert [statement for statement in statements if statement.scans] == []


def test_a_pass_with_nothing_to_do_reads_no_whole_table() -> None:
    with explained() as statements:
        assert send() == SendingTally()
    assert len(statements) == 1
    assert [statement for statement in statements if statement.scans] == []


def test_a_bounce_is_found_without_reading_all_messages() -> None:
    message = Delivery.objects.latest("pk")
    event = AnymailTrackingEvent(
        event_type="bounced", message_id=message.message_id, reject_reason="bounced"
    )
    with explained() as statements:
        queueing.on_report(event=event)
    assert [statement for statement in statements if statement.scans] == []
    message.refresh_from_db()
    assert message.status == "failed"


def test_lost_refunds_are_found_without_reading_all_refunds() -> None:
    Installation.objects.update_or_create(pk=1, defaults={"at": ago(900 * 86_400)})
    Lease.objects.all().delete()
    order = make_guide_order(Status.REFUNDED, sale_price=600, customer_email="lina@example.com")
    record_refund(order, amount=500, reference="R1")  # the signal waits for a commit
    with explained() as statements:
        assert tell_of_lost_refunds() == 1
    assert [statement for statement in statements if statement.scans] == []
