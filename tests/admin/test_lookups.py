"""List addresses: the query string can contain only what the filters offer."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models.constants import LOOKUP_SEP
from django.http import QueryDict
from django.test import Client, RequestFactory
from django.urls import path
from django.utils import timezone

from giftcards.admin import OrderAdmin
from giftcards.books.models import LedgerEntry
from giftcards.models import CardReveal, CustomerRefund, Order
from giftcards.rules.roles import ROLES
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.staff import delivered, link, message, person
from tests.pages import LIST, read, references, rows, sign_in

pytestmark = pytest.mark.django_db

LABELS = ("giftcards", "giftcards_books", "giftcards_delivery")
COSTS = {"ledger"}
# The parameters of the filters of each list.
ASKED = {
    "order": {
        *("attention", "status__exact", "status__isnull", "refund", "product_id", "group"),
        *("environment__exact", "environment__isnull", "ledger", "figures"),
        *("finalized_at__gte", "finalized_at__lt", "finalized_at__isnull"),
        *("created_at__gte", "created_at__lt"),
    },
    "customerrefund": {"state__exact", "state__isnull", "executed_at__gte", "executed_at__lt"},
    "cardreveal": set(),
    "product": {"shelf", "price", "category__id__exact", "category__isnull"},
    "ledgerentry": {"period", "type", "order"},
    "producttype": set(),
    "providerstate": set(),
    "shelf": set(),
    "category": set(),
    "delivery": {
        *("customers", "status__exact", "status__isnull", "kind__exact", "kind__isnull"),
        *("channel__exact", "channel__isnull"),
    },
    "cardlink": set(),
    "staffdigest": set(),
}
# The entry of the start page is left out, because it is not a list.
PAGES = [
    page
    for model, page in admin.site._registry.items()
    if model._meta.app_label in LABELS and not model._meta.proxy
]
NAMES = [page.opts.model_name for page in PAGES]
# These pages show all rows, whatever the query string asks for. The list of types leads to
# products.
WHOLE = {"producttype", "providerstate", "shelf", "category"}
LISTS = [page for page in PAGES if page.opts.model_name not in WHOLE]
each_list = pytest.mark.parametrize("page", LISTS, ids=lambda page: page.opts.model_name)


def address(page: Any) -> str:
    return f"/admin/{page.opts.app_label}/{page.opts.model_name}/"


def columns(model: Any, depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Yield the paths and fields of a model's columns, including those of related models."""
    for field in model._meta.get_fields():
        yield field.name, field
        if field.is_relation and field.related_model and depth:
            for further, other in columns(field.related_model, depth - 1):
                yield f"{field.name}{LOOKUP_SEP}{further}", other


def questions(model: Any) -> Iterator[str]:
    """Yield every lookup that Django could accept in a list's address, two relations deep."""
    for name, field in columns(model):
        yield name
        for lookup in [*models.Field.get_lookups(), *getattr(field, "get_lookups", dict)()]:
            yield f"{name}{LOOKUP_SEP}{lookup}"
    yield from ("pk", "pk__in", "id__gt", "nothing", "nothing__regex", "times_opened__gte")


def test_every_list_is_in_the_table() -> None:
    assert sorted(NAMES) == sorted(ASKED)


@pytest.mark.parametrize("role", [*ROLES, "superuser", "clerk"])
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_nothing_is_answered_but_what_a_filter_asks(page: Any, role: str) -> None:
    browser = sign_in(*ROLES.get(role, ()), superuser=role == "superuser")
    request = RequestFactory().get("/")
    request.user = get_user_model().objects.get(pk=browser.session["_auth_user_id"])
    wanted = ASKED[page.opts.model_name]
    if role in {"Gift card support", "clerk"}:
        wanted = wanted - COSTS
    asked = {*questions(page.model), *ASKED[page.opts.model_name]}
    allowed = {each for each in asked if page.lookup_allowed(each, "1", request)}
    assert len(asked) > 100
    assert allowed == wanted


@each_list
def test_every_other_question_is_refused(page: Any) -> None:
    boss = sign_in(superuser=True)
    asked = {
        f"{name}{suffix}"
        for name, _field in columns(page.model, 0)
        for suffix in ("", "__startswith", "__regex", "__in")
    }
    for each in asked - ASKED[page.opts.model_name]:
        assert boss.get(address(page), {each: "1"}).status_code == 400, each


# Letters for guessing, most of which occur in the hidden order's texts.
LETTERS = "acmoxz179.@"


def recovered(browser: Client, page: Any, column: str) -> str:
    """Return the text that is recovered by guessing the beginning of a column letter by letter."""
    known = ""
    for lookup in ("startswith", "gte"):
        while len(known) < 5:
            asked = (f"{column}__{lookup}", known)
            more = [each for each in LETTERS if row_count(browser, page, asked[0], known + each)]
            if not more:
                break
            known += more[-1]
    return known


COLUMNS = {
    "delivery": ("address", "reason", "order__reference", "requested_by"),
    "customerrefund": ("reference", "comment", "method", "order__reference"),
    "cardreveal": ("reason", "address", "card__order__reference"),
    "cardlink": ("reason", "token_hash", "order__customer_email"),
    "ledgerentry": ("objid", "order__reference"),
}


@pytest.fixture
def hidden() -> Order:
    """An order that the clerk may not see, with rows about it in every list."""
    order = delivered("zac7", customer_email="zoe@example.com")
    message(order, address="zoa@example.com", reason="zoo", requested_by="zac")
    link(order, reason="zoo")
    CustomerRefund.objects.create(
        order=order, amount=10, reference="zac1", method="zac", comment="zoo", created_by="zac"
    )
    CardReveal.objects.create(
        card=order.cards.all()[0],
        user=get_user_model().objects.create(username="zac"),
        address="1.9.1.7",
        reason="zoo",
    )
    LedgerEntry.objects.create(
        provider_id="e1", type="ORDER", amount=-1, time=timezone.now(), objid="zzz1", order=order
    )
    return order


@pytest.fixture
def clerk(hidden: Order) -> Client:
    """A person who may open every list but may not see orders."""
    browser = reader()
    permissions = get_user_model().objects.get(username="amina").user_permissions
    permissions.remove(permissions.get(codename="view_order"))
    return browser


def reader() -> Client:
    """Return a client who may open every list."""
    return person(
        *("view_delivery", "view_cardlink", "view_customerrefund", "view_cardreveal"),
        *("view_ledgerentry", "view_cost"),
    )


def row_count(browser: Client, page: Any, *asked: str) -> int:
    response = browser.get(address(page), dict([asked]) if asked else {})
    if response.status_code != 200 or b'id="result_list"' not in response.content:
        return 0
    return len(rows(response.content.decode(), 'id="result_list"')) - 1


each_of_orders = pytest.mark.parametrize(
    "page",
    [page for page in LISTS if page.opts.model_name in COLUMNS],
    ids=lambda page: page.opts.model_name,
)


@each_of_orders
def test_a_column_is_not_read_letter_by_letter(hidden: Order, page: Any) -> None:
    browser = reader()
    assert row_count(browser, page) == 1
    read = {name: recovered(browser, page, name) for name in COLUMNS[page.opts.model_name]}
    assert read == dict.fromkeys(read, "")


@each_of_orders
def test_a_row_about_an_order_that_is_not_seen_is_not_listed_found_or_opened(
    clerk: Client, page: Any
) -> None:
    assert row_count(clerk, page) == 0
    for typed in ("e1", "zac7", "zoe@example.com", "zoo", "zac1", "zac", "z", "zzz1", "1.9.1.7"):
        assert row_count(clerk, page, "q", typed) == 0, typed
    key = page.model.objects.get().pk
    for name in ("change", "history"):
        assert clerk.get(f"{address(page)}{key}/{name}/").status_code == 302


def test_choosing_by_typing_names_nothing_of_an_order_that_is_not_seen(clerk: Client) -> None:
    """Django's autocomplete view accepts any relation between models, even if no page uses it."""
    for model in apps.get_models():
        for field in model._meta.get_fields():
            if field.is_relation and field.concrete:
                asked = {"app_label": model._meta.app_label, "model_name": model._meta.model_name}
                answer = clerk.get(
                    "/admin/autocomplete/", asked | {"field_name": field.name, "term": ""}
                )
                assert "zac" not in answer.content.decode(), (model, field)


@each_list
def test_no_number_of_a_column_sorts_by_what_the_page_does_not_offer(
    page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column that a shop has added must not be sortable: it may be masked or have no index."""
    request = sign_in(superuser=True).get(address(page)).wsgi_request
    own = [field.name for field in page.opts.fields]
    monkeypatch.setattr(page, "list_display", (*page.list_display, *own))
    monkeypatch.setattr(page, "sortable_by", ("id",))

    def listed(number: int) -> Any:
        request.GET = QueryDict(f"o={number}")
        return page.get_changelist_instance(request)

    usual = listed(999)
    numbers = [usual.list_display.index(name) for name in own if name != "id"]
    orderings = {listed(number).queryset.query.order_by for number in numbers}
    assert orderings == {usual.queryset.query.order_by}


class Between(admin.FieldListFilter):
    """A filter with custom parameters, like those that some themes provide."""

    def expected_parameters(self) -> list[str]:
        return ["cards_from", "cards_to"]

    def choices(self, changelist: Any) -> Iterator[Any]:
        yield {"selected": True, "query_string": "?", "display": "All"}

    def queryset(self, request: Any, queryset: Any) -> Any:
        [least] = self.used_parameters.get("cards_from", [0])
        return queryset.filter(quantity__gte=least)


class ShopOrderAdmin(OrderAdmin):
    list_filter = (*OrderAdmin.list_filter, "type_id", "repeats__status", ("quantity", Between))

    def lookup_allowed(self, lookup: str, value: str, request: Any) -> bool:
        return lookup == "sent_at__gte" or super().lookup_allowed(lookup, value, request)


site = AdminSite()
site.register(Order, ShopOrderAdmin)
urlpatterns = [path("admin/", site.urls)]


@pytest.mark.urls(__name__)
def test_a_shop_that_adds_a_filter_adds_its_parameters_and_no_others(boss: Client) -> None:
    first = make_guide_order(Status.REFUNDED, reference="web-1", type_id="t-1")
    make_guide_order(reference="web-2", repeats=first, quantity=7, sent_at=timezone.now())

    def found(**asked: str) -> list[str]:
        return references(read(boss.get(LIST, asked)))

    assert found(type_id="t-1") == ["web-1"]
    assert found(repeats__status__exact="REFUNDED") == ["web-2"]
    assert found(cards_from="7") == ["web-2"]
    assert found(status__exact="REFUNDED", type_id="t-1") == ["web-1"]
    tomorrow = str(timezone.now() + timedelta(days=1))
    assert found(sent_at__gte=tomorrow) == []
    for more in (
        *("type_id__startswith", "repeats__reference", "repeats__status__regex", "quantity"),
        *("cards_from__gte", "sent_at__lt", "customer_email__startswith"),
    ):
        assert boss.get(LIST, {more: "1"}).status_code == 400, more


# Malformed or extreme parameter values.

ODD = {
    "NUL": ["a\0b"],
    "text": ["x"],
    "long": ["x" * 20_000],
    "huge": ["9" * 400],
    "no date": ["2026-02-31"],
    "a day": ["2026-02-03"],
    "first": ["0001-01-01 00:00:00+14:00"],
    "last": ["9999-12-31 23:59:59-12:00"],
    "zone": ["2026-02-03 10:00+99:99"],
    "signs": ["\U0010ffff\ud7ff\u202e"],
    "many": [str(number) for number in range(990)],
    "words": ["a " * 2_000],
    "commas": [",".join(str(number) for number in range(2_000))],
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@each_list
def test_a_value_that_nobody_means_is_no_error(page: Any, value: list[str]) -> None:
    boss = sign_in(superuser=True)
    make_guide_order(Status.REFUNDED)
    for name in (*ASKED[page.opts.model_name], "p", "o", "q", "_to_field"):
        response = boss.get(address(page), {name: value})
        # If Django cannot answer a query, it redirects to the list with ``?e=1``.
        is_led_back = response.get("Location", "").endswith("?e=1")
        assert response.status_code in {200, 400} or is_led_back, name
