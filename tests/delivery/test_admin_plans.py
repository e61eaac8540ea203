"""Query plans of the staff's pages about messages: they use indexes, even on large tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client, RequestFactory

from giftcards.admin.cards import revealing
from giftcards.delivery.admin import handing_over
from giftcards.delivery.models import CardLink, Delivery, LinkVisit
from giftcards.fulfilment import change_customer
from giftcards.models import Order, OrderTerm
from giftcards.statuses import Status
from tests.builders import build_guide_order
from tests.delivery.staff import LINKS, MESSAGES, SUPPORT, person, to
from tests.history import OF_MESSAGES, analyze, compact
from tests.pages import order_page, read
from tests.plans import Statement, explained

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_history")]

INDEX = "/admin/giftcards_delivery/"
_OURS = [model._meta.db_table for model in OF_MESSAGES]
# A database server may prefer to read smaller tables as a whole. SQLite chooses the same plans with
# fewer rows.
_COUNT = 1_000 if connection.vendor == "sqlite" else 4_000


@pytest.fixture(scope="module")
def _history(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Create messages about many orders, each with an opened link; few failed or were delayed."""
    with django_db_blocker.unblock():
        compact()
        Order.objects.bulk_create(
            build_guide_order(Status.FULFILLED, reference=f"past-{number}")
            for number in range(_COUNT // 2)
        )
        orders = list(Order.objects.filter(reference__startswith="past-"))
        OrderTerm.objects.add_for(orders)
        Delivery.objects.bulk_create(
            Delivery(
                order=orders[number // 2],
                kind="delayed" if number % 500 == 0 else "delivered",
                address=f"customer-{number}@example.com",
                language="en",
                status="failed" if number % 400 == 0 else "sent",
                next_attempt_at=None,
                key=str(number),
            )
            for number in range(_COUNT)
        )
        CardLink.objects.bulk_create(
            CardLink(order=orders[number // 2], origin="message", token_hash=str(number))
            for number in range(_COUNT)
        )
        links = list(CardLink.objects.order_by("pk"))
        LinkVisit.objects.bulk_create(LinkVisit(link=link, what="opened") for link in links)
        analyze(*OF_MESSAGES)
        yield
        for model in (LinkVisit, CardLink, Delivery):
            model.objects.all().delete()
        Order.objects.filter(reference__startswith="past-").delete()
        analyze()


@pytest.fixture
def boss() -> Client:
    return person(*SUPPORT, "correct_customer")


def scans(statements: list[Statement]) -> list[Statement]:
    """Return the statements that read a whole table of ours; the tables of the core are small."""
    ours = [each for each in statements if any(table in each.sql for table in _OURS)]
    assert ours
    return [statement for statement in ours if statement.scans]


@pytest.mark.parametrize(
    "chosen",
    [
        {"status__exact": "failed"},
        {"kind__exact": "delayed"},
        {"status__exact": "failed", "kind__exact": "delayed"},
        {"customers": "untold"},
        {"q": "past-7"},
    ],
    ids=str,
)
def test_a_filter_or_a_search_of_the_messages_reads_no_whole_table(
    boss: Client, chosen: dict[str, str]
) -> None:
    with explained() as statements:
        read(boss.get(MESSAGES, chosen))
    assert scans(statements) == []


@pytest.mark.parametrize(
    ("address", "chosen"),
    [
        (MESSAGES, {}),
        (MESSAGES, {"status__exact": "sent"}),
        (MESSAGES, {"status__exact": "sent", "kind__exact": "delayed"}),
        (LINKS, {}),
        (LINKS, {"q": "past-7"}),
    ],
    ids=str,
)
def test_the_lists_read_the_first_rows_only(
    boss: Client, address: str, chosen: dict[str, str]
) -> None:
    with explained() as statements:
        read(boss.get(address, chosen))
    assert [each for each in scans(statements) if "LIMIT" not in each.sql] == []


def test_the_index_and_the_pages_about_an_order_read_no_whole_table(boss: Client) -> None:
    order = Order.objects.get(reference="past-7")
    one = CardLink.objects.filter(order=order).latest("pk")
    with explained() as statements:
        read(boss.get(INDEX))
        read(boss.get("/admin/giftcards/order/", {"q": "past-7"}))
        read(boss.get(order_page(order)))
        read(boss.get(to("dispute", order.pk)))
        read(boss.get(to("cardlink_change", one.pk)))
        boss.post(to("withdraw", order.pk))
    assert scans(statements) == []


def test_what_a_person_has_handed_out_is_counted_without_reading_a_whole_table(
    boss: Client,
) -> None:
    request = RequestFactory().post("/")
    request.user = get_user_model().objects.get()
    order = Order.objects.get(reference="past-7")
    with explained() as statements:
        handing_over.count(request, order, is_handed_out=True)
        revealing.count(request)
    assert scans(statements) == []


def test_an_address_is_corrected_without_reading_a_whole_table(boss: Client) -> None:
    order = Order.objects.get(reference="past-7")
    change_customer(order, email=order.deliveries.latest("pk").address)
    page = order_page(order, "customer")
    with explained() as statements:
        read(boss.get(page))
        change_customer(order, email="lina@example.com", language="fr", by="amina")
        read(boss.get(order_page(order)))
    assert scans(statements) == []
