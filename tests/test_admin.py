"""The staff's pages: the list, an order's page, placing and checking; who may do what."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.staticfiles import finders
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.following import sweep
from giftcards.fulfilment import place_order
from giftcards.gateway import Gateway
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.recording import record_answers
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import (
    CARDS,
    PARTIAL,
    PRICE,
    PRODUCT,
    REFUNDED,
    TYPE,
    claim,
    make_order,
    settled,
)
from tests.pages import (
    ADD,
    FIND,
    LIST,
    errors,
    messages,
    order_page,
    orders,
    read,
    references,
    rows,
    sign_in,
    text,
    timeline,
)

pytestmark = pytest.mark.django_db

OnCommit = Callable[..., Any]
LINE = {
    "product_id": PRODUCT,
    "type_id": TYPE,
    "quantity": "5",
    "reference": "web-1042",
    "sale_price": "550",
    "customer_email": "customer@example.com",
    "customer_language": "ar",
}


@pytest.fixture
def boss() -> Client:
    return sign_in(superuser=True)


def settle(reference: str, answer: Any, **values: Any) -> Order:
    """An order that the provider has answered about like this."""
    order = make_order(reference=reference, **values)
    record_answers([(claim(order)[0], answer)], now=timezone.now())
    order.refresh_from_db()
    return order


def press_check_now(browser: Client, *chosen: Order) -> Any:
    return browser.post(
        LIST,
        {"action": "check_now", "_selected_action": [str(order.pk) for order in chosen]},
        follow=True,
    )


# The list.


def test_list_reads_as_text(boss: Client) -> None:
    now = timezone.now()
    ages = {"created_at": now - timedelta(hours=3, minutes=5)}
    settle("web-1", settled("FULFILLED", CARDS), created_at=now - timedelta(days=2))
    settle("web-2", PARTIAL, **ages)
    settle("web-3", REFUNDED, created_at=now - timedelta(minutes=90))
    make_order(Status.REJECTED, reference="web-4", created_at=now - timedelta(minutes=30))
    make_order(reference="web-5", created_at=now - timedelta(minutes=2))
    make_order(Status.PENDING, reference="web-6", quantity=1)

    html = read(boss.get(LIST))

    assert rows(html, 'id="result_list"')[0][1:] == [
        "Reference",
        "Status",
        "Delivered",
        "Charged",
        "Refunded",
        "Age",
    ]
    assert [[cell.replace("\xa0", " ") for cell in row] for row in orders(html)] == [
        ["web-6", "Waiting to be sent", "0 of 1", "", "", "0 minutes"],
        ["web-5", "In progress", "0 of 5", "", "", "2 minutes"],
        ["web-4", "Rejected", "0 of 5", "", "", "30 minutes"],
        ["web-3", "Refunded", "0 of 5", "0.00 DZD", "2,450.00 DZD", "1 hour"],
        ["web-2", "Partially filled", "3 of 5", "1,470.00 DZD", "980.00 DZD", "3 hours"],
        ["web-1", "Fulfilled", "5 of 5", "2,450.00 DZD", "0.00 DZD", "2 days"],
    ]


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_colour_of_its_own(boss: Client, status: Status) -> None:
    make_order(status)
    name = status.lower().replace("_", "-")
    badge = f'<span class="giftcards-badge giftcards-{name}">{status.label}</span>'

    assert badge in read(boss.get(LIST))
    css = Path(str(finders.find("giftcards/admin.css"))).read_text()
    # What waits to be sent is grey, like every badge that no other colour is given to.
    assert (f".giftcards-{name}" in css) == (status != Status.PENDING)


def test_an_amount_that_is_not_known_is_not_0(boss: Client) -> None:
    make_order(Status.REFUNDED, price_per_card=None)
    make_order(Status.FULFILLED, price_per_card=None)

    fulfilled, refunded = (row[3:5] for row in orders(read(boss.get(LIST))))
    assert refunded == ["0.00 DZD", "unknown"]
    assert fulfilled == ["unknown", "0.00 DZD"]


def test_the_currency_is_the_shop_s(boss: Client, settings: Any) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "CURRENCY": "EUR"}
    settle("web-1", PARTIAL)

    assert orders(read(boss.get(LIST)))[0][3:5] == ["1,470.00 EUR", "980.00 EUR"]


def test_list_marks_what_needs_attention(boss: Client) -> None:
    make_order(reference="web-1", problem="The answer has no status that can be read.")
    make_order(reference="web-2")

    html = read(boss.get(LIST))

    assert html.count("giftcards-mark") == 1
    assert (
        '<span class="giftcards-mark" role="img" aria-label="Needs attention"'
        ' title="The answer has no status that can be read.">⚠</span>'
    ) in html
    assert references(read(boss.get(LIST, {"attention": "needed"}))) == ["web-1"]


def test_list_filters_by_status_and_date(boss: Client) -> None:
    last_year = timezone.now() - timedelta(days=400)
    make_order(Status.REFUNDED, reference="old", created_at=last_year)
    make_order(Status.REFUNDED, reference="new")
    make_order(reference="open")

    assert references(read(boss.get(LIST))) == ["open", "new", "old"]
    assert references(read(boss.get(LIST, {"status__exact": "REFUNDED"}))) == ["new", "old"]
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    since = {"created_at__gte": str(today), "created_at__lt": str(today + timedelta(days=1))}
    assert references(read(boss.get(LIST, since))) == ["open", "new"]
    assert "By status" in text(read(boss.get(LIST)))
    assert "By created" in text(read(boss.get(LIST)))


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("web-1042", ["web-1042"]),
        ("web-104", ["web-1042", "web-1041"]),
        ("6901616fe9e88196b4eb64b2", ["web-1041"]),
        ("6901616", ["web-1041"]),
        ("amina@example.com", ["web-1042"]),
        ("amina@", ["web-1042"]),
        ("  web-1042  ", ["web-1042"]),
        ("1042", []),
        (PRODUCT, []),
    ],
)
def test_search(boss: Client, typed: str, found: list[str]) -> None:
    make_order(reference="web-1041", provider_order_id="6901616fe9e88196b4eb64b2")
    make_order(reference="web-1042", customer_email="amina@example.com")
    make_order(reference="other")

    assert references(read(boss.get(LIST, {"q": typed}))) == found


def test_search_for_a_whole_name_prefers_it(boss: Client) -> None:
    make_order(reference="web-1")
    make_order(reference="web-10")

    assert references(read(boss.get(LIST, {"q": "web-1"}))) == ["web-1"]


def test_search_for_a_whole_name_reads_indexes_only(boss: Client) -> None:
    for number in range(20):
        make_order(reference=f"web-{number}")
    with CaptureQueriesContext(connection) as queries:
        assert references(read(boss.get(LIST, {"q": "web-7"}))) == ["web-7"]
    lookups = [query["sql"] for query in queries if "web-7" in query["sql"]]
    assert len(lookups) == 3  # is there one; how many; the page
    if connection.vendor != "sqlite":
        return  # the others read so small a table as a whole
    for lookup in lookups:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {lookup}")
            plan = " ".join(row[3] for row in cursor.fetchall())
        assert "SCAN" not in plan


def test_list_is_sorted_by_indexed_columns_only(boss: Client) -> None:
    make_order()
    html = read(boss.get(LIST))

    assert re.findall(r'class="[^"]*\bsortable column-(\w+)', html) == ["reference", "age"]


def count_queries(browser: Client, address: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        read(browser.get(address))
    return len(queries)


def test_the_number_of_queries_of_the_list_is_constant(boss: Client) -> None:
    for number in range(5):
        settle(f"web-{number}", PARTIAL)
    read(boss.get(LIST))
    few = count_queries(boss, LIST)
    for number in range(5, 50):
        make_order(list(Status)[number % len(Status)], reference=f"web-{number}")

    assert len(orders(read(boss.get(LIST)))) == 50
    # Session, user, the provider's state, how many, the orders.
    assert (few, count_queries(boss, LIST)) == (5, 5)
    assert count_queries(boss, f"{LIST}?q=web") == 6


def test_the_number_of_queries_of_an_order_s_page_is_constant(boss: Client) -> None:
    small = settle("web-1", settled("FULFILLED", CARDS[:1], quantity=1), quantity=1)
    large = make_order(
        Status.FULFILLED, reference="web-2", quantity=25, fulfilled_amount=25 * PRICE
    )
    Card.objects.bulk_create(
        Card(order=large, position=number, sealed="x", identity=f"{number}", value_fingerprint="v")
        for number in range(1, 26)
    )
    StatusChange.objects.bulk_create(
        StatusChange(order=large, from_status="PENDING", to_status="PLACING", source="placing")
        for _ in range(25)
    )
    read(boss.get(order_page(small)))

    # Session, user, the order, its changes, its cards.
    assert count_queries(boss, order_page(small)) == 5
    assert count_queries(boss, order_page(large)) == 5
    html = read(boss.get(order_page(large)))
    assert (html.count("giftcards-mask"), len(timeline(html))) == (25, 26)


# The pause of all calls.


def pause(reason: ProviderState.Pause, *, minutes: float | None, key: str = "fingerprint") -> None:
    ProviderState.objects.pause(
        reason,
        detail="The provider refused the API key (INVALID_ACCESS_TOKEN).",
        until=None if minutes is None else timezone.now() + timedelta(minutes=minutes),
        key=key,
    )


def banner(html: str) -> str:
    found = re.search(r'<p class="giftcards-pause" role="alert">.*?</p>', html, re.DOTALL)
    return text(found[0]) if found else ""


def test_list_says_that_calls_are_paused(boss: Client) -> None:
    assert banner(read(boss.get(LIST))) == ""
    with Gateway() as gateway:
        pause(ProviderState.Pause.ACCESS, minutes=None, key=gateway._key)

    assert banner(read(boss.get(LIST))) == (
        "Calls to the provider are paused."
        " The provider refuses the API key or this server's address."
        " The provider refused the API key (INVALID_ACCESS_TOKEN)."
        " Put a working key into the settings, or run `manage.py giftcards_poll --resume`"
        " once it works again."
    )


def test_a_site_without_the_key_says_so_as_well(boss: Client, settings: Any) -> None:
    pause(ProviderState.Pause.ACCESS, minutes=None)
    settings.GIFTCARDS = {**settings.GIFTCARDS, "API_KEY": ""}

    assert banner(read(boss.get(LIST))).startswith("Calls to the provider are paused.")


def test_a_pause_that_is_over_is_not_shown(boss: Client) -> None:
    pause(ProviderState.Pause.RATE, minutes=-1)
    assert banner(read(boss.get(LIST))) == ""


def test_a_refused_key_that_was_replaced_is_not_shown(boss: Client) -> None:
    pause(ProviderState.Pause.ACCESS, minutes=None, key="of another key")
    assert banner(read(boss.get(LIST))) == ""


# One order.


def fields(html: str) -> dict[str, str]:
    # Newer versions of Django have the help between the two.
    between = r"(?:(?!<label).)*?"
    pair = rf'<label[^>]*>([^<]*)</label>{between}<div class="readonly">(.*?)</div>'
    found = re.findall(pair, html, re.DOTALL)
    return {text(label).rstrip(":"): text(value) for label, value in found}


def test_page_explains_the_provider_s_example(boss: Client) -> None:
    order = make_order(
        reference="web-1042",
        provider_order_id="6901616fe9e88196b4eb64b2",
        customer_email="customer@example.com",
        customer_language="ar",
        sale_price=Decimal(550),
    )
    record_answers([(claim(order)[0], PARTIAL)], now=timezone.now())

    html = read(boss.get(order_page(order)))

    shown = fields(html)
    assert re.fullmatch(r"\w+\.? \d+, \d{4}, .+", shown.pop("Last checked"))
    assert shown == {
        "Status": "Partially filled",
        "Product": PRODUCT,
        "Type": TYPE,
        "Delivered": "3 of 5",
        "Sale price": "550.00 DZD",
        "Provider's order id": "6901616fe9e88196b4eb64b2",
        "Customer e-mail": "customer@example.com",
        "Customer language": "ar",
    }
    assert rows(html, "giftcards-breakdown") == [
        ["", "Cards", "Amount"],
        ["Ordered", "5", "2,450.00 DZD"],
        ["Delivered and charged", "3", "1,470.00 DZD"],
        ["Not delivered and refunded", "2", "980.00 DZD"],
    ]
    assert "Price per card: 490.00 DZD." in text(html)
    assert "contradict" not in html
    assert timeline(html) == ["Recorded", "In progress Partially filled Answer of the provider"]
    assert [row[:2] for row in rows(html, "giftcards-cards-table")] == [
        ["Card", "Code"],
        ["1", "••••••••"],
        ["2", "••••••••"],
        ["3", "••••••••"],
    ]


@pytest.mark.parametrize(
    ("answer", "breakdown"),
    [
        (settled("FULFILLED", CARDS), [("5", "2,450.00"), ("5", "2,450.00"), ("0", "0.00")]),
        (REFUNDED, [("5", "2,450.00"), ("0", "0.00"), ("5", "2,450.00")]),
    ],
)
def test_page_explains_every_settlement(
    boss: Client, answer: Any, breakdown: list[tuple[str, str]]
) -> None:
    html = read(boss.get(order_page(settle("web-1", answer))))

    assert [(row[1], row[2]) for row in rows(html, "giftcards-breakdown")[1:]] == [
        (cards, f"{amount} DZD") for cards, amount in breakdown
    ]


def test_page_says_that_an_amount_is_unknown(boss: Client) -> None:
    html = read(boss.get(order_page(make_order(Status.REFUNDED, price_per_card=None))))

    assert rows(html, "giftcards-breakdown")[1:] == [
        ["Ordered", "5", "unknown"],
        ["Delivered and charged", "0", "0.00 DZD"],
        ["Not delivered and refunded", "5", "unknown"],
    ]
    assert "Price per card: unknown." in text(html)


def test_page_warns_of_figures_that_contradict_each_other(boss: Client) -> None:
    order = settle("web-1", settled("PARTIALLY_FILLED", CARDS[:3], fulfilled_amount=Decimal(1500)))

    html = read(boss.get(order_page(order)))

    assert rows(html, "giftcards-breakdown")[2] == ["Delivered and charged", "3", "1,500.00 DZD"]
    assert (
        "The provider's figures contradict each other: what was ordered is not what was charged"
        " plus what was refunded, at this price. Ask the provider before you rely on them."
    ) in text(html)
    assert fields(html)["Needs attention"] == (
        "The provider's figures contradict each other: see the refund breakdown."
    )


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.PENDING, "The order is not settled yet."),
        (Status.UNCONFIRMED, "The order is not settled yet."),
        (Status.HANDLING, "The order is not settled yet."),
        (Status.DELAYED, "The order is not settled yet."),
        (Status.REJECTED, "The provider refused the order: no money moved."),
    ],
)
def test_page_has_no_breakdown_where_there_is_none(
    boss: Client, status: Status, sentence: str
) -> None:
    html = read(boss.get(order_page(make_order(status))))

    assert "giftcards-breakdown" not in html
    assert f"Refund breakdown {sentence} Timeline" in text(html)
    assert rows(html, "giftcards-cards-table")[1:] == [["No card has come yet."]]


def test_timeline_tells_who_and_why(boss: Client) -> None:
    order = make_order(Status.PENDING)
    sending, clock = StatusChange.Source.PLACING, StatusChange.Source.CLOCK
    order.move(Status.PLACING, source=sending)
    order.move(
        Status.HANDLING,
        source=sending,
        provider_order_id="6901616f",
        accepted_at=timezone.now(),
    )
    order.move(Status.DELAYED, source=clock, detail="It took more than 300 seconds.")

    assert timeline(read(boss.get(order_page(order)))) == [
        "Recorded",
        "Waiting to be sent Being sent Sending",
        "Being sent In progress Sending",
        "In progress Delayed Time limit It took more than 300 seconds.",
    ]


def test_page_shows_a_code_that_came_twice(boss: Client) -> None:
    first = settle("web-1", settled("FULFILLED", CARDS[:1], quantity=1), quantity=1)
    second = settle("web-2", settled("FULFILLED", CARDS[:2], quantity=2), quantity=2)

    for order, expected in ((first, 1), (second, 1)):
        html = read(boss.get(order_page(order)))
        assert html.count("The same code was delivered more than once.") == expected


def test_an_order_that_is_not_there(boss: Client) -> None:
    response = boss.get(f"{LIST}4711/change/", follow=True)
    assert messages(read(response)) == [
        "Order with ID “4711” doesn’t exist. Perhaps it was deleted?"
    ]


# Who may do what.


def snapshot() -> list[dict[str, Any]]:
    return list(Order.objects.order_by("pk").values())


def test_anonymous_is_asked_to_log_in() -> None:
    order = make_order()
    for address in (LIST, ADD, FIND, order_page(order), f"{LIST}{order.pk}/history/"):
        for answer in (Client().get(address), Client().post(address, {"code": "x"})):
            assert answer.status_code == 302
            assert answer["Location"] == f"/admin/login/?next={address}"


def test_who_is_not_staff_is_asked_to_log_in() -> None:
    browser = sign_in("view_order", "view_card", staff=False)
    assert browser.get(LIST).status_code == browser.get(FIND).status_code == 302


def test_staff_without_permission_see_nothing() -> None:
    order, browser = make_order(), sign_in()
    for address in (LIST, ADD, FIND, order_page(order), f"{LIST}{order.pk}/history/"):
        assert browser.get(address).status_code == 403
        assert browser.post(address, {"code": "x"}).status_code == 403
    assert "Gift cards" not in read(browser.get("/admin/"))


def test_who_may_view_may_only_view() -> None:
    order, browser = make_order(), sign_in("view_order")
    before = snapshot()

    html = read(browser.get(LIST))
    assert references(html) != []
    assert 'name="action"' not in html
    assert "Find by code" not in html
    assert "Add order" not in html
    page = read(browser.get(order_page(order)))
    assert not re.search(r'<input[^>]+type="(submit|text|number|email)"', page)
    assert "Delete" not in page
    for address in (ADD, FIND):
        assert browser.get(address).status_code == browser.post(address, LINE).status_code == 403
    assert messages(read(press_check_now(browser, order))) == []
    assert snapshot() == before
    assert OrmQ.objects.count() == 0


@pytest.mark.parametrize("permission", ["delete_order", "change_order", "everything"])
def test_nothing_is_edited_or_deleted(permission: str) -> None:
    order = make_order(Status.PENDING)
    browser = sign_in("view_order", permission) if "_" in permission else sign_in(superuser=True)
    before = snapshot()

    html = read(browser.get(LIST))
    assert "delete_selected" not in html
    page = read(browser.get(order_page(order)))
    assert 'name="_save"' not in page
    assert f"{order.pk}/delete/" not in page
    forged = {**LINE, "quantity": "1", "status": "FULFILLED", "_save": "Save"}
    assert browser.post(order_page(order), forged).status_code == 403
    delete = f"{LIST}{order.pk}/delete/"
    assert browser.get(delete).status_code == 403
    assert browser.post(delete, {"post": "yes"}).status_code == 403
    browser.post(LIST, {"action": "delete_selected", "_selected_action": [order.pk], "post": "yes"})
    assert snapshot() == before


def test_the_models_with_pages() -> None:
    ours = [model for model in admin.site._registry if model._meta.app_label == "giftcards"]
    assert set(ours) == {Order, ProviderState}


def test_who_may_only_add_is_led_back_to_the_index() -> None:
    browser = sign_in("add_order")

    response = browser.post(ADD, LINE, follow=True)

    assert response.redirect_chain == [("/admin/", 302)]
    assert messages(read(response)) == ["The order “web-1042” was added successfully."]
    assert browser.get(LIST).status_code == 403


def test_save_as_new_is_adding() -> None:
    order = make_order(reference="web-1")
    forged = {**LINE, "_saveasnew": "1"}

    assert sign_in("view_order").post(order_page(order), forged).status_code == 403
    assert Order.objects.get() == order


# Placing.


def test_placing_an_order(boss: Client, django_capture_on_commit_callbacks: OnCommit) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = boss.post(ADD, LINE)

    order = Order.objects.get()
    assert response["Location"] == order_page(order)
    placed = {name: str(getattr(order, name)) for name in LINE}
    assert placed == {**LINE, "sale_price": "550.00"}
    assert (order.status, order.provider_order_id) == (Status.PENDING, None)
    html = read(boss.get(order_page(order)))
    assert messages(html) == ["The order “web-1042” was added successfully."]
    (queued,) = OrmQ.objects.all()
    task = queued.task
    assert (task["func"], task["args"], task["kwargs"]) == ("giftcards.tasks.sweep", (), {})
    (entry,) = LogEntry.objects.all()
    assert (entry.object_repr, entry.get_change_message()) == ("web-1042", "Added.")


def test_nothing_is_sent_before_the_order_is_committed(
    boss: Client, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        boss.post(ADD, LINE)

    assert len(callbacks) == 1
    assert OrmQ.objects.count() == 0


def test_pressing_save_twice_places_one_order(
    boss: Client, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        first, second = boss.post(ADD, LINE), boss.post(ADD, LINE)

    assert first["Location"] == second["Location"] == order_page(Order.objects.get())
    assert OrmQ.objects.count() == 1


def test_the_form_offers_a_reference_of_its_own(boss: Client) -> None:
    def offered() -> str:
        found = re.search(r'name="reference" value="([^"]+)"', read(boss.get(ADD)))
        assert found
        return found[1]

    first = offered()
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", first)
    assert offered() != first


def test_a_reference_of_another_line_is_refused(boss: Client) -> None:
    boss.post(ADD, LINE)

    html = read(boss.post(ADD, {**LINE, "quantity": "4"}))

    assert errors(html) == [
        "The reference web-1042 already names an order of 5 × type_001"
        f" ({PRODUCT}). Use another reference for another line."
    ]
    assert 'name="quantity" value="4"' in html
    assert Order.objects.get().quantity == 5


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"quantity": "0"}, ["Ensure this value is greater than or equal to 1."]),
        ({"quantity": "-1"}, ["Ensure this value is greater than or equal to 0."]),
        ({"quantity": "1.5"}, ["Enter a whole number."]),
        ({"quantity": "2001"}, ["Ensure this value is less than or equal to 2000."]),
        ({"quantity": ""}, ["This field is required."]),
        ({"product_id": ""}, ["This field is required."]),
        ({"product_id": "a b"}, ["Use letters, digits and punctuation only, without spaces."]),
        ({"type_id": "\u202etype"}, ["Use letters, digits and punctuation only, without spaces."]),
        ({"type_id": "x\0y"}, ["Null characters are not allowed."]),
        (
            {"type_id": "x" * 300},
            ["Ensure this value has at most 100 characters (it has 300)."],
        ),
        ({"reference": ""}, ["This field is required."]),
        ({"sale_price": "-1"}, ["Ensure this value is greater than or equal to 0."]),
        ({"sale_price": "1.005"}, ["Ensure that there are no more than 2 decimal places."]),
        ({"sale_price": "NaN"}, ["Enter a number."]),
        ({"customer_email": "nobody"}, ["Enter a valid email address."]),
    ],
)
def test_what_could_not_be_ordered_is_refused(
    boss: Client,
    wrong: dict[str, str],
    expected: list[str],
    django_capture_on_commit_callbacks: OnCommit,
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        html = read(boss.post(ADD, {**LINE, **wrong}))

    assert errors(html) == expected
    assert (Order.objects.count(), callbacks) == (0, [])


def test_only_the_line_and_the_sale_can_be_given(boss: Client) -> None:
    boss.post(ADD, {**LINE, "status": "FULFILLED", "provider_order_id": "x", "problem": "y"})

    order = Order.objects.get()
    assert (order.status, order.provider_order_id, order.problem) == ("PENDING", None, "")
    assert set(re.findall(r' name="(\w+)"', read(boss.get(ADD)))) & {
        field.name for field in Order._meta.get_fields() if isinstance(field, models.Field)
    } == set(LINE)


def test_the_add_form_is_protected_against_forgery() -> None:
    browser = sign_in(superuser=True, enforce_csrf_checks=True)
    assert browser.post(ADD, LINE).status_code == 403
    assert not Order.objects.exists()


# Check now.


def test_check_now_makes_orders_due_and_wakes_the_worker(boss: Client) -> None:
    later = timezone.now() + timedelta(hours=1)
    waiting = make_order(Status.DELAYED, due_at=later)
    forgotten = make_order(Status.DELAYED, due_at=None)
    other = make_order(Status.DELAYED, due_at=later)

    html = read(press_check_now(boss, waiting, forgotten))

    assert messages(html) == ["2 orders will be checked as soon as the worker gets to them."]
    due = set(Order.objects.filter(due_at__lte=timezone.now()))
    assert due == {waiting, forgotten}
    other.refresh_from_db()
    assert other.due_at == later
    assert OrmQ.objects.get().task["func"] == "giftcards.tasks.sweep"


def test_check_now_leaves_orders_alone_that_are_final_or_were_just_checked(boss: Client) -> None:
    alone = [
        make_order(Status.FULFILLED),
        make_order(Status.REJECTED),
        make_order(Status.PENDING, due_at=None),
        make_order(Status.UNCONFIRMED, due_at=None),
        make_order(Status.HANDLING, checked_at=timezone.now()),
        make_order(Status.HANDLING, claim="x", claimed_until=timezone.now() + timedelta(minutes=1)),
    ]
    before = snapshot()

    html = read(press_check_now(boss, *alone))

    assert messages(html) == [
        "6 orders are left alone: they are final, not sent yet, or were just checked."
    ]
    assert snapshot() == before
    assert OrmQ.objects.count() == 0


def test_check_now_speaks_of_one_order_in_the_singular(boss: Client) -> None:
    order, final = make_order(), make_order(Status.REFUNDED)

    assert messages(read(press_check_now(boss, order, final))) == [
        "1 order will be checked as soon as the worker gets to it.",
        "1 order is left alone: it is final, not sent yet, or was just checked.",
    ]


def test_who_may_change_may_check() -> None:
    order = make_order(Status.DELAYED, due_at=None)
    html = read(press_check_now(sign_in("change_order"), order))

    assert messages(html) == ["1 order will be checked as soon as the worker gets to it."]


def test_check_now_pressed_twenty_times_asks_once(
    boss: Client, simulator: Simulator, settings: Any
) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "POLL_INTERVAL": 60}
    order = place_order(product_id=PRODUCT, type_id="SIM_NEVER", quantity=1)
    with Gateway() as gateway:
        sweep(gateway)
        late = timezone.now() - timedelta(minutes=2)
        Order.objects.update(checked_at=late, due_at=timezone.now() + timedelta(hours=1))
        asked = len(simulator.requests)
        for _ in range(20):
            read(press_check_now(boss, order))
            sweep(gateway)

    new = [request.path for request in simulator.requests[asked:]]
    order.refresh_from_db()
    assert new == [f"/v3/gift-cards/check-order/{order.provider_order_id}"]
    assert OrmQ.objects.count() == 1
