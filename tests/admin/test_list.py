"""The list of orders: what each person sees, filters and search."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.utils import timezone, translation

from giftcards.admin.frame.rows import LimitedPaginator
from giftcards.fulfilment import reorder_missing
from giftcards.models import Order, OrderTerm, Product
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import PRICE, PRODUCT, TYPE, build_guide_order, category, make_guide_order
from tests.pages import LIST, count_queries, element, orders, read, references, rows, sign_in, text

pytestmark = pytest.mark.django_db

LOST = Problem("status_unknown", {"status": "LOST"})
COLUMNS = ["name", "badge", "bought", "sold_to", "delivered", "cost", "credited_back", "owed"]


@pytest.fixture
def seller() -> Client:
    """A person who may view orders but not costs."""
    return sign_in("view_order")


def listed(browser: Client, **query: str) -> list[str]:
    return references(read(browser.get(LIST, query)))


def cells(html: str, column: str) -> list[str]:
    """Return the texts of a column in the desktop layout, from top to bottom."""
    hidden = r'<span class="giftcards-(label|unseen)">.*?</span>'
    found = re.findall(rf'<t[hd] class="field-{column}[^>]*>(.*?)</t[hd]>', html)
    return [text(re.sub(hidden, "", cell)).replace("\xa0", " ") for cell in found]


def test_each_order_shows_what_it_is_whose_it_is_and_what_became_of_the_money(boss: Client) -> None:
    now = timezone.now()
    for age, status, charged in (
        (4, Status.FULFILLED, 5 * PRICE),
        (3, Status.PARTIALLY_FILLED, 3 * PRICE),
        (2, Status.REFUNDED, 0),
        (1, Status.REJECTED, None),
        (0, Status.HANDLING, None),
    ):
        make_guide_order(
            status,
            reference=f"web-{age}",
            created_at=now - timedelta(minutes=age),
            fulfilled_amount=charged,
            sale_price=Decimal("550.50"),
        )
    html = read(boss.get(LIST))
    assert rows(html, 'id="result_list"')[0][1:] == [
        "Reference",
        "Status",
        "Product",
        "Customer",
        "Delivered",
        "Cost",
        "Credited back",
        "Still owed",
        "When",
    ]
    shown = [cells(html, column) for column in ("name", "badge", "delivered")]
    assert list(zip(*shown, strict=True)) == [
        ("web-0", "In progress", "0 of 5"),
        ("web-1", "Rejected", "0 of 5"),
        ("web-2", "Not delivered, credited back", "0 of 5"),
        ("web-3", "Partly delivered", "3 of 5"),
        ("web-4", "Delivered", "5 of 5"),
    ]
    amounts = [cells(html, column) for column in ("cost", "credited_back", "owed")]
    assert list(zip(*amounts, strict=True)) == [
        ("", "", ""),
        ("", "", "2,752.50 DA"),
        ("0 DA", "2,450 DA", "2,752.50 DA"),
        ("1,470 DA", "980 DA", "1,101 DA"),
        ("2,450 DA", "0 DA", "0 DA"),
    ]


NAMED = {"customer_name": "أمينة", "customer_email": "a@example.com", "customer_phone": "+213 5"}
BOUGHT = {"product_name": "PSN <US>", "type_name": "10 USD"}


@pytest.mark.parametrize(
    ("column", "made", "shown", "html"),
    [
        # The group is shown under the reference.
        (
            "name",
            [{"reference": "web-1", "group": "invoice-7"}, {"reference": "web-2"}],
            ["web-2", "web-1 invoice-7"],
            "invoice-7",
        ),
        # Names are shown if known, otherwise IDs.
        (
            "bought",
            [BOUGHT, {"product_name": "PSN <US>"}, {}],
            [f"{PRODUCT} {TYPE}", f"PSN <US> {TYPE}", "PSN <US> 10 USD"],
            "<bdi>PSN &lt;US&gt;</bdi>",
        ),
        # The first known detail of the customer: name, e-mail address or phone.
        (
            "sold_to",
            [dict(list(NAMED.items())[number:]) for number in range(4)],
            ["", "+213 5", "a@example.com", "أمينة"],
            "<bdi>أمينة</bdi>",
        ),
    ],
    ids=["name", "bought", "customer"],
)
def test_a_cell_shows_the_best_that_is_known(
    boss: Client, column: str, made: list[dict[str, str]], shown: list[str], html: str
) -> None:
    for values in made:
        make_guide_order(**values)
    page = read(boss.get(LIST))
    assert cells(page, column) == shown
    assert html in page


def test_a_row_shows_the_share_that_came_its_cost_and_its_age(boss: Client) -> None:
    created_at = timezone.now() - timedelta(hours=3, minutes=5)
    make_guide_order(Status.PARTIALLY_FILLED, created_at=created_at, fulfilled_amount=3 * PRICE)
    html = read(boss.get(LIST))
    bar = element(html, "giftcards-small-bar", "svg")
    assert 'aria-hidden="true"' in bar
    assert re.findall(r'<rect width="(\d+)"', bar) == ["100", "60"]
    assert cells(html, "cost") == ["1,470 DA"]
    # The age is available on hover and to screen readers.
    assert 'title="3 hours ago"' in html
    assert '<span class="giftcards-unseen">3 hours ago</span>' in html


def test_unknown_amounts_are_unknown_and_not_0(boss: Client) -> None:
    make_guide_order(Status.REFUNDED, price_per_card=None)
    make_guide_order(Status.FULFILLED, price_per_card=None)
    html = read(boss.get(LIST))
    assert cells(html, "cost") == ["unknown", "0 DA"]
    assert cells(html, "credited_back") == ["0 DA", "unknown"]
    # The shop has not recorded what the customer paid. Nothing can be owed for an order that is
    # complete.
    assert cells(html, "owed") == ["", "unknown"]


@pytest.mark.parametrize(
    ("language", "shown"),
    [("en", "24 Nov 2025 23:59"), ("fr", "24 nov. 2025 à 23:59"), ("ar", "24 نوفمبر 2025 23:59")],
)
def test_the_time_is_local_and_reads_the_same_way_round_the_clock(
    boss: Client, settings: Any, language: str, shown: str
) -> None:
    settings.TIME_ZONE = "Africa/Algiers"
    created_at = datetime.fromisoformat("2025-11-24T22:59:30+00:00")
    make_guide_order(created_at=created_at)
    boss.cookies["django_language"] = language
    # A request leaves its language active after it ends.
    with translation.override("en"):
        assert cells(read(boss.get(LIST)), "when") == [shown]


def test_every_status_has_a_colour_of_its_own(boss: Client) -> None:
    css = Path(str(finders.find("giftcards/admin.css"))).read_text()
    for status in Status:
        make_guide_order(status)
    html = read(boss.get(LIST))
    for status in Status:
        name = status.lower().replace("_", "-")
        badge = f'<span class="giftcards-badge giftcards-{name}">{status.label}</span>'
        assert badge in html
        # Orders that wait to be sent are grey, the colour of badges without one of their own.
        assert (f".giftcards-{name}" in css) == (status != Status.PENDING)


def test_orders_that_need_a_person_are_marked_with_what_is_wrong(boss: Client) -> None:
    make_guide_order(reference="web-1", problems=[LOST, Problem("not_known")])
    make_guide_order(reference="web-2")
    html = read(boss.get(LIST))
    assert html.count("giftcards-mark") == 1
    assert (
        '<span class="giftcards-mark" title="The provider reported an unknown status. The provider'
        ' says that it does not know this order."><span role="img" aria-label="To do">⚠</span>'
        " unusable answer</span>"
    ) in html


def test_the_list_shows_the_first_10000_and_says_that_there_are_more(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LimitedPaginator.limit == 10_000
    monkeypatch.setattr(LimitedPaginator, "limit", 100)
    Order.objects.bulk_create(build_guide_order() for _ in range(100))
    more = "There are more than 100 matching orders. These pages show only the first 100."
    assert more not in text(read(boss.get(LIST)))
    make_guide_order(Status.REFUNDED)
    page = read(boss.get(LIST))
    assert more in text(page)
    assert "100 orders" in text(page)
    assert len(orders(read(boss.get(LIST, {"p": 2})))) == 50
    assert more not in text(read(boss.get(LIST, {"status__exact": "REFUNDED"})))


@pytest.mark.all_apps
@pytest.mark.parametrize(("query", "title"), [("", "Orders"), ("?_popup=1", "Select order")])
def test_the_list_is_called_after_what_it_lists(boss: Client, query: str, title: str) -> None:
    assert text(element(read(boss.get(LIST + query)), "", "h1")) == title


@pytest.mark.parametrize(
    ("language", "count", "shown"),
    [
        ("ar", 0, "لا طلبات"), ("ar", 1, "طلب واحد"), ("ar", 2, "طلبان"), ("ar", 3, "3 طلبات"),
        ("ar", 11, "11 طلبًا"), ("ar", 100, "100 طلب"), ("fr", 1, "1 commande"),
        ("en", 2, "2 orders"),
    ],
)  # fmt: skip
def test_the_number_of_orders_is_told_in_the_words_of_the_language(
    boss: Client, language: str, count: int, shown: str
) -> None:
    Order.objects.bulk_create(build_guide_order() for _ in range(count))
    boss.cookies["django_language"] = language
    with translation.override("en"):
        html = read(boss.get(LIST))
    (pages,) = re.findall(r'class="paginator".*?>(.*?)</(?:p|nav)>', html, re.DOTALL)
    assert f" {shown} " in f" {text(pages)} "
    if count == 100:
        assert "اختيار 100 طلب جميعها" in text(html)


def test_the_list_takes_few_queries_whatever_it_shows_and_is_asked(boss: Client) -> None:
    statuses = list(Status)
    made = [
        build_guide_order(statuses[number % len(Status)], reference=f"web-{number}")
        for number in range(60)
    ]
    OrderTerm.objects.add_for(Order.objects.bulk_create(made))
    read(boss.get(LIST))
    # Queries: the session, the user, the provider's state, the API keys, the catalogue, the count,
    # and the orders; and, for the figures above the list, the open orders and the prices of unsent
    # ones.
    assert count_queries(boss, LIST) == 10
    # A search adds one query, for terms and the two IDs at the provider.
    assert count_queries(boss, f"{LIST}?q=web-59") == 11
    Order.objects.filter(status=Status.REFUNDED).update(sale_amount=1, open_amount=1)
    filtered = f"{LIST}?status__exact=REFUNDED&refund=owed&product_id={PRODUCT}"
    # Each filter adds a query that checks whether it leaves only a few orders.
    assert count_queries(boss, filtered) == 10
    assert count_queries(boss, f"{filtered}&q=web") == 12


class TestWithoutCosts:
    @pytest.fixture(autouse=True)
    def _orders(self) -> None:
        make_guide_order(
            Status.PARTIALLY_FILLED,
            reference="web-1",
            price_per_card=Decimal("571.25"),
            fulfilled_amount=Decimal("1713.75"),
            sale_price=600,
        )

    @pytest.mark.all_apps
    def test_what_the_ledger_lacks_is_a_filter_for_who_may_see_them(self) -> None:
        make_guide_order(Status.REFUNDED, reference="missing", is_credited=False)
        support, accountant = sign_in("view_order"), sign_in("view_order", "view_cost")
        assert references(read(accountant.get(LIST, {"ledger": "credits_missing"}))) == ["missing"]
        assert "ledger" not in read(support.get(LIST)).lower()
        assert support.get(LIST, {"ledger": "credits_missing"}).status_code == 400

    def test_a_column_of_the_shops_own_that_tells_a_price_is_left_out(
        self, seller: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from giftcards.admin import OrderAdmin

        more = ("price_per_card", "group")
        monkeypatch.setattr(OrderAdmin, "list_display", (*OrderAdmin.list_display, *more))
        assert rows(read(seller.get(LIST)), 'id="result_list"')[0][-1] == "Group"
        assert "571.25" not in read(seller.get(LIST))


def test_the_orders_of_a_group_have_an_address(boss: Client) -> None:
    make_guide_order(reference="web-1", group="invoice-7")
    make_guide_order(reference="web-2")
    html = read(boss.get(LIST, {"group": "invoice-7"}))
    assert references(html) == ["web-1"]
    assert "Group \u2068invoice-7\u2069 ✕" in text(element(html, "giftcards-chosen", "ul"))


def filters(html: str) -> dict[str, list[str]]:
    """Return the filters above the rows, with their choices."""
    groups = element(html, "giftcards-filters", "nav")
    return {
        text(title): [text(item) for item in re.findall(r"<li>.*?</li>", choices)]
        for title, choices in re.findall(
            r'(<p id="giftcards-filter-\d+">.*?</p>)\s*<ul[^>]*>(.*?)</ul>', groups, re.DOTALL
        )
    }


@pytest.mark.all_apps
def test_the_filters_stand_above_the_rows_and_are_closed(boss: Client) -> None:
    make_guide_order()
    html = read(boss.get(LIST))
    assert list(filters(html)) == [
        "To do",
        "Status",
        "Refund to the customer",
        "Sale amount",
        "Environment",
        "Settled",
        "Created",
        "Figures",
        "Ledger",
    ]
    assert html.index("<details>") < html.index('id="result_list"')
    assert "changelist-filter" not in html


def test_what_the_orders_are_filtered_by_is_shown_with_a_way_out(boss: Client) -> None:
    make_guide_order(Status.REFUNDED, reference="web-1")
    html = read(boss.get(LIST, {"status__exact": "REFUNDED", "attention": "needed"}))
    chosen = element(html, "giftcards-chosen", "ul")
    assert text(chosen) == (
        "To do Needs attention ✕ Status Not delivered, credited back ✕ Clear all filters"
    )
    expected = ["?status__exact=REFUNDED", "?attention=needed", "?"]
    assert re.findall(r'href="([^"]+)"', chosen) == expected
    assert "giftcards-chosen" not in read(boss.get(LIST))


def test_the_list_filters_by_status_and_dates(boss: Client) -> None:
    now = timezone.now()
    last_year = {"created_at": now - timedelta(days=400), "finalized_at": now - timedelta(days=399)}
    make_guide_order(Status.REFUNDED, reference="old", **last_year)
    make_guide_order(Status.REFUNDED, reference="new")
    make_guide_order(reference="open")
    assert listed(boss) == ["open", "new", "old"]
    assert listed(boss, status__exact="REFUNDED") == ["new", "old"]
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"gte": str(today), "lt": str(today + timedelta(days=1))}
    created = {f"created_at__{name}": value for name, value in days.items()}
    settled = {f"finalized_at__{name}": value for name, value in days.items()}
    assert listed(boss, **created) == ["open", "new"]
    assert listed(boss, **settled) == ["new"]
    assert listed(boss, finalized_at__lt=str(today)) == ["old"]


def test_orders_filtered_by_their_settled_date_come_as_they_settled(boss: Client) -> None:
    now = timezone.now()
    for name, created, settled in (("slow", 50, 10), ("quick", 40, 30)):
        make_guide_order(
            Status.FULFILLED,
            reference=name,
            created_at=now - timedelta(minutes=created),
            finalized_at=now - timedelta(minutes=settled),
        )
    since = {"finalized_at__gte": str(now - timedelta(days=1))}
    assert listed(boss) == ["quick", "slow"]
    assert listed(boss, **since) == ["slow", "quick"]
    when = str(len(COLUMNS) + 1)
    assert listed(boss, **since, o=f"-{when}") == ["quick", "slow"]


def test_an_order_that_was_ordered_again_owes_nothing_more(boss: Client) -> None:
    """The new order was paid with the amount that was owed."""
    order = make_guide_order(Status.PARTIALLY_FILLED, reference="web-1", sale_amount=2750)
    reorder_missing(order, by="amina")
    assert references(read(boss.get(LIST, {"refund": "owed"}))) == []
    assert cells(read(boss.get(LIST)), "owed") == ["", "ordered again"]


def test_the_list_filters_by_what_is_owed_to_the_customer(boss: Client) -> None:
    for status in Status:
        make_guide_order(status, reference=f"{status}-1", sale_price=550)
        make_guide_order(status, reference=f"{status}-2", sale_amount=2750)
        make_guide_order(status, reference=f"{status}-free", sale_amount=0)
        make_guide_order(status, reference=f"{status}-unsaid")
    owed = {"REJECTED", "PARTIALLY_FILLED", "REFUNDED"}
    found = listed(boss, refund="owed")
    assert sorted(found) == sorted(f"{status}-{number}" for status in owed for number in (1, 2))
    # The filter and the column agree.
    amounts = cells(read(boss.get(LIST)), "owed")
    assert len(found) == sum(amount not in {"", "0 DA", "unknown"} for amount in amounts)


def test_the_list_tells_and_filters_what_was_paid_back_and_what_is_owed(boss: Client) -> None:
    for parts in ((), (1_100,), (200, 300)):
        reference = "web" + "".join(f"-{part}" for part in parts)
        order = make_guide_order(Status.PARTIALLY_FILLED, reference=reference, sale_price=550)
        for number, part in enumerate(parts):
            record_refund(order, amount=part, reference=f"R{number}")
    assert listed(boss, refund="paid") == ["web-200-300", "web-1100"]
    assert listed(boss, refund="owed") == ["web-200-300", "web"]
    html = read(boss.get(LIST))
    assert filters(html)["Refund to the customer"] == ["All", "Paid back", "Still owed"]
    assert cells(html, "owed") == [
        "600 DA paid back: 500 DA",
        "0 DA paid back: 1,100 DA",
        "1,100 DA",
    ]


def test_the_list_filters_by_environment(boss: Client) -> None:
    make_guide_order(reference="web-1", environment="SANDBOX")
    make_guide_order(reference="web-2", environment="PRODUCTION")
    make_guide_order(reference="web-3")
    assert listed(boss, environment__exact="SANDBOX") == ["web-1"]
    assert filters(read(boss.get(LIST)))["Environment"] == ["All", "Sandbox", "Production"]


def test_the_list_filters_by_the_products_of_the_catalogue_by_name(boss: Client) -> None:
    now = timezone.now()
    Product.objects.create(product_id="p-2", name="Steam", category=category(), listed_at=now)
    Product.objects.create(product_id=PRODUCT, name="PSN <US>", category=category(), listed_at=now)
    make_guide_order(reference="web-1")
    make_guide_order(reference="web-2", product_id="p-2")
    shown = filters(read(boss.get(LIST)))["Product"]
    assert shown == ["All", "\u2068PSN <US>\u2069", "\u2068Steam\u2069"]
    assert listed(boss, product_id="p-2") == ["web-2"]


def test_a_product_that_the_catalogue_does_not_name_is_shown_once_it_is_asked_for(
    boss: Client,
) -> None:
    make_guide_order(reference="web-1", product_id="p-1")
    make_guide_order(reference="web-2", product_id="p-2")
    assert "Product" not in filters(read(boss.get(LIST)))
    html = read(boss.get(LIST, {"product_id": "p-1"}))
    assert filters(html)["Product"] == ["All", "\u2068p-1\u2069"]
    assert references(html) == ["web-1"]


def test_of_a_large_catalogue_only_the_product_that_is_asked_for_is_offered(boss: Client) -> None:
    Product.objects.bulk_create(
        Product(
            product_id=f"p-{number}",
            name=f"Product {number}",
            category=category(),
            listed_at=timezone.now(),
        )
        for number in range(101)
    )
    make_guide_order(reference="web-1", product_id="p-7")
    make_guide_order(reference="web-2", product_id="p-8")
    catalogue = "/admin/giftcards/product/"
    for asked_for, offered in (({}, []), ({"product_id": "p-7"}, ["Product 7"])):
        html = read(boss.get(LIST, asked_for))
        assert f'<a href="{catalogue}">Find a product in the catalogue</a>' in html
        assert re.findall(r"\u2068(Product \d+)\u2069</a>", html) == offered
    assert references(html) == ["web-1"]
    # In the catalogue, Django's own search finds the product.
    found = read(boss.get(catalogue, {"q": "product 8"}))
    assert re.findall(r'<a href="([^"]*product_id=p-8)">Show</a>', found) == [
        f"{LIST}?product_id=p-8"
    ]


def test_more_orders_than_are_looked_up_by_key_are_filtered_all_the_same(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("giftcards.admin.orders.filters._FEW", 20)
    monkeypatch.setattr("giftcards.admin.OrderAdmin.list_per_page", 10)
    Order.objects.bulk_create(
        build_guide_order(
            Status.REFUNDED,
            reference=f"web-{number}",
            environment="SANDBOX",
            sale_price=550,
            problems=[LOST],
        )
        for number in range(22)
    )
    make_guide_order(reference="other", environment="SANDBOX", problems=[LOST])
    OrderTerm.objects.add_for(Order.objects.all())
    chosen = {
        "attention": "needed",
        "refund": "owed",
        "status__exact": "REFUNDED",
        "environment__exact": "SANDBOX",
        "product_id": PRODUCT,
        "finalized_at__gte": str(timezone.now() - timedelta(days=1)),
    }
    for name, value in chosen.items():
        html = read(boss.get(LIST, {name: value}))
        assert len(references(html)) == 10, name
    html = read(boss.get(LIST, chosen))
    assert "22 orders" in text(html)
    assert "other" not in references(html)
    # Together with a filter that leaves few orders, or with a search.
    Order.objects.filter(reference="web-7").update(environment="PRODUCTION")
    few = {**chosen, "environment__exact": "PRODUCTION"}
    assert listed(boss, **few) == ["web-7"]
    assert listed(boss, **few, q="web-7") == ["web-7"]
    assert listed(boss, **few, q="web-8") == []
    assert listed(boss, **few, q="other") == []
    assert listed(boss, **{**few, "product_id": "other"}) == []


def test_the_time_alone_sorts_the_list_from_the_oldest_too(boss: Client) -> None:
    same = timezone.now()
    for name in ("a", "b", "c"):
        make_guide_order(reference=name, created_at=same)
    sortable = re.findall(r'class="[^"]*\bsortable column-(\w+)', read(boss.get(LIST)))
    assert sortable == ["when"]
    when = str(len(COLUMNS) + 1)
    assert listed(boss, o=when) == ["c", "b", "a"]
    assert listed(boss, o=f"-{when}") == ["a", "b", "c"]


# Search (the spellings are tested in test_search).

NAME = "6901616fe9e88196b4eb64b2"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        *((typed, "web-1") for typed in ("Web-1", "  web-1  ", NAME[:7], NAME)),
        ("web-1~", "web-1~~"),
        ("web-1_", "web-1~~ web-1"),
        *((typed, "other web-1~~ web-1") for typed in ("wéb", "w")),
        # Wildcards, parts from the middle of a name, and the product's ID find nothing.
        *((typed, "") for typed in (PRODUCT, "%", "eb-1", "*")),
    ],
)
def test_search_for_a_name_of_an_order_ignores_case_and_knows_no_wildcards(
    boss: Client, typed: str, found: str
) -> None:
    make_guide_order(reference="web-1", provider_order_id=NAME)
    make_guide_order(reference="web-1~~")
    make_guide_order(reference="other", customer_email="wéb@example.com")
    assert listed(boss, q=typed) == found.split()


def test_search_that_finds_too_many_says_so(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("giftcards.admin.orders.listing.MOST_FOUND", 100)
    Order.objects.bulk_create(build_guide_order(reference=f"web-{n}") for n in range(101))
    OrderTerm.objects.add_for(Order.objects.all())
    html = read(boss.get(LIST, {"q": "web-"}))
    assert (
        "Only the newest matching orders are shown. Make your search more specific to see others."
        in text(html)
    )
    assert "100 results" in text(html)
    Order.objects.filter(reference="web-7").delete()
    assert "Too many orders" not in text(read(boss.get(LIST, {"q": "web-"})))
