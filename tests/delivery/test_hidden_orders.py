"""Orders that a shop hides from a person: no page, number, action or file reveals them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import Client
from django.urls import URLResolver, path, reverse
from django.utils import timezone

from giftcards.admin import OrderAdmin
from giftcards.books.models import LedgerEntry, MonthClosing
from giftcards.delivery import digests
from giftcards.delivery.channels import Limits
from giftcards.delivery.models import CardLink, Delivery, StaffDigest
from giftcards.engine.approvals import put_on_hold_for_price, put_on_hold_for_review
from giftcards.fulfilment import change_customer
from giftcards.keys.secrecy import CardSecret
from giftcards.models import (
    Card,
    CardReveal,
    CustomerRefund,
    Note,
    Order,
    ProductPrices,
    ProviderState,
    StatusChange,
)
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import PRODUCT, TYPE, make_guide_order, receive
from tests.delivery.mails import let_pass, note_tick
from tests.delivery.staff import EMAIL, link, message, visit
from tests.pages import read, sign_in, text
from tests.stage import undone

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]

# The texts of a hidden order begin with this.
HIDDEN = "hidden-"
CODE = "CANARY-HIDDEN-4711"
GROUP = "cart-7"


class BranchOrderAdmin(OrderAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).exclude(reference__startswith=HIDDEN)


site = AdminSite()
for model, pages in admin.site._registry.items():
    if model.__module__.startswith("giftcards"):
        site.register(model, BranchOrderAdmin if model is Order else type(pages))
urlpatterns = [path("admin/", site.urls)]


class World(NamedTuple):
    """An order, and the rows about it."""

    order: Order
    card: Card
    refund: CustomerRefund
    message: Delivery
    link: CardLink
    reveal: CardReveal
    entry: LedgerEntry


def make_world(prefix: str, code: str) -> World:
    """Create rows of every kind about an order whose reference begins with ``prefix``."""
    order = receive(f"{prefix}1", CardSecret(code, f"{code}-S"))
    Order.objects.filter(pk=order.pk).update(
        customer_email=EMAIL, customer_name=f"{prefix}Lina", group=GROUP
    )
    order.refresh_from_db()
    change_customer(order, email=EMAIL, phone="0550 12 34 56", name=f"{prefix}Lina", by="karim")
    Note.objects.add(order, f"{prefix}note", by="karim")
    user = sign_in(name=f"{prefix}karim").session["_auth_user_id"]
    card = order.cards.get()
    reveal = CardReveal.objects.create(card=card, user_id=user, reason=f"{prefix}why")
    refunded = make_guide_order(Status.REFUNDED, reference=f"{prefix}2", sale_amount=500)
    refund = record_refund(refunded, amount=100, reference=f"{prefix}CCP")
    waiting = message(order, status="retrying", next_attempt_at=timezone.now(), address=EMAIL)
    made, _token = link(order, reason=f"{prefix}reason")
    visit(made, "opened")
    entry = LedgerEntry.objects.create(
        type="ORDER", amount=-491, provider_id=f"{prefix}entry", time=timezone.now(), order=order
    )
    return World(order, card, refund, waiting, made, reveal, entry)


def of(reference: str) -> Order:
    return Order.objects.get(reference=reference)


LACKS = Problem("credit_differs", {"expected": "490.00", "amount": "0.00"})


def make_trouble(prefix: str) -> None:
    """Create orders for each condition about orders, and for each status."""
    make = partial(make_guide_order, customer_email=EMAIL, group=GROUP, sale_amount=500)
    for number, status in enumerate(Status):
        make(status, reference=f"{prefix}s{number}")
    make(Status.HANDLING, reference=f"{prefix}late", problems=[Problem("late", {})])
    paid_back = make(Status.REFUNDED, reference=f"{prefix}paid-back")
    record_refund(paid_back, amount=500, reference=f"{prefix}all")
    make(Status.UNCONFIRMED, reference=f"{prefix}lost", problems=[Problem("answer_lost")])
    for reference in ("price", "review"):
        make(Status.PENDING, reference=f"{prefix}{reference}", max_price=400)
    put_on_hold_for_price(of(f"{prefix}price"), price=Decimal(490), ceiling=Decimal(400))
    put_on_hold_for_review(of(f"{prefix}review"), objection=f"{prefix}objection")
    lacking = make(Status.REFUNDED, reference=f"{prefix}lacks", problems=[LACKS], is_credited=False)
    long_ago = timezone.now() - timedelta(hours=1)
    failed = message(lacking, status="failed", failed_at=timezone.now(), address=EMAIL)
    queued = message(of(f"{prefix}late"), next_attempt_at=long_ago, address=EMAIL)
    Delivery.objects.filter(pk__in=[failed.pk, queued.pk]).update(created_at=long_ago)
    shown, _token = link(lacking)
    visit(shown, "locked", "revealed", unreadable=1)
    StatusChange.objects.create(
        order=lacking, from_status="HANDLING", to_status="REFUNDED", announce_error="Error"
    )
    MonthClosing.objects.create(month=date(2025, 1, 1), number=1, figures={}, has_changed=True)


# The pages without a key, and how each is requested: by GET with these queries, or by POST with
# these values.
_OF_LISTS = ("", f"?q={HIDDEN}1", "?q=lina")
PAGES: dict[str, tuple[Any, ...]] = {
    "order_changelist": (
        *_OF_LISTS,
        f"?group={GROUP}",
        "?attention=needed",
        "?attention=on_hold_price",
        "?refund=owed",
        "?ledger=missing",
        "?status__exact=PENDING",
    ),
    "order_search": tuple(
        {"secret": each}
        for each in (f"{HIDDEN}1", "lina", EMAIL, CODE, f"{CODE}-S", f"code: {CODE[-4:]}")
    ),
    "customer_data": ("", {"by": "contact", "customer": EMAIL}),
    "order_add": ("",),
    "order_report": ("", "?start=2020-01-01"),
    "order_report_download": ({"format": "csv"},),
    "order_close_month": ("", "?month=2025-01"),
    "desk_changelist": ("",),
    "help": ("",),
    "providerstate_changelist": ("", "?cards=all"),
    "providerstate_resume": ("",),
    "catalogue_read": ("",),
    "customerrefund_changelist": (*_OF_LISTS, f"?q={HIDDEN}CCP", "?state__exact=done"),
    "cardreveal_changelist": _OF_LISTS,
    "product_changelist": ("",),
    "books_ledgerentry_changelist": (*_OF_LISTS, "?period=today", "?order=unknown"),
    "delivery_delivery_changelist": (*_OF_LISTS, f"?q={EMAIL}", "?customers=untold"),
    "delivery_cardlink_changelist": _OF_LISTS,
    "delivery_staffdigest_changelist": ("",),
}
# The pages about an order or one of its rows, with the field of ``World`` that has it.
KEYS = {
    **dict.fromkeys(
        (
            *("order_resolve", "order_price", "order_review", "order_wait", "order_cancel"),
            *("order_pay_back", "order_reorder", "order_sale", "order_dispute"),
            *("order_check", "order_release", "order_customer", "order_acknowledge", "order_note"),
            *("order_fingerprint", "order_adopt"),
            *("delivery_send_again", "delivery_send_link", "delivery_new_link"),
            *("delivery_withdraw", "delivery_dispute"),
        ),
        "order",
    ),
    **dict.fromkeys(("card_ask", "card_reveal"), "card"),
    **dict.fromkeys(("refund_cancel",), "refund"),
    **dict.fromkeys(("delivery_try_now", "delivery_send_now", "delivery_cancel"), "message"),
}
# The same for Django's pages about a row. Other models are not about orders.
ROWS = {
    "order": "order",
    "customerrefund": "refund",
    "cardreveal": "reveal",
    "books_ledgerentry": "entry",
    "delivery_delivery": "message",
    "delivery_cardlink": "link",
}
NO_ORDER = ("product", "producttype", "providerstate", "delivery_staffdigest")
_DJANGO = ("history", "delete", "change")
KEYS |= {f"{model}_{page}": field for model, field in ROWS.items() for page in _DJANGO}


def names(patterns: Any) -> Iterator[str]:
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from names(each.url_patterns)
        elif (each.name or "").startswith("giftcards_"):
            yield each.name.removeprefix("giftcards_")


def to(page: str, *keys: Any) -> str:
    return reverse(f"admin:giftcards_{page}", args=keys)


@pytest.fixture
def boss() -> Client:
    return sign_in(superuser=True, name="boss")


@pytest.fixture(autouse=True)
def _visible() -> None:
    said = [("problems", 12, False)]
    StaffDigest.objects.create(address="boss@shop.example", said=said)
    ProviderState.objects.current()
    ProviderState.objects.update(balance=1, balance_read_at=timezone.now())
    # This is the price that the orders to be sent will cost.
    ProductPrices.objects.keep(PRODUCT, {TYPE: Decimal(490)}, key="k", asked_at=timezone.now())


def test_every_page_of_the_admin_is_in_one_of_the_tables() -> None:
    others = {f"{model}_{page}" for model in NO_ORDER for page in _DJANGO}
    others |= {f"{model}_changelist" for model in ("category", "producttype", "shelf")}
    others |= {"product_redemption", "category_redemption"}
    adding = {f"{model}_add" for model in (*ROWS, *NO_ORDER)}
    assert set(names(site.urls[0])) == PAGES.keys() | KEYS.keys() | others | adding


def ask(browser: Client, page: str, asked: Any) -> Any:
    if isinstance(asked, str):
        return browser.get(to(page) + asked)
    return browser.post(to(page), asked, follow=True)


def shown(browser: Client, world: World) -> dict[Any, Any]:
    """Return everything that the pages show, except for times.

    Pages about a row are requested for the row of ``world``.
    """
    pages = {(page, str(each)): ask(browser, page, each) for page in PAGES for each in PAGES[page]}
    for page, field in KEYS.items():
        pages[page] = browser.get(to(page, getattr(world, field).pk))
    pages["index"] = browser.get("/admin/")
    pages["app"] = browser.get("/admin/giftcards/")
    return {page: (answer.status_code, said(answer)) for page, answer in pages.items()}


def said(answer: Any) -> str:
    return re.sub(r"\d+:\d\d(:\d\d)?", "TIME", text(answer.content.decode()))


def test_pages_say_the_same_as_if_there_were_no_hidden_orders(boss: Client) -> None:
    world = make_world("web-", "VISIBLE-4712")
    with undone():
        make_world(HIDDEN, CODE)
        make_trouble(HIDDEN)
        with_hidden = shown(boss, world)
    without = shown(boss, world)
    assert {page: it for page, it in with_hidden.items() if it != without[page]} == {}
    # Pages only repeat what was typed.
    told = [page for page, (_status, said) in with_hidden.items() if HIDDEN in said]
    assert [page for page in told if f"{HIDDEN}1" not in str(page)] == []
    # The last digest counted all orders, so its count is not shown.
    assert "orders with problems" not in without["delivery_staffdigest_changelist", ""][1]
    # None of the pages failed.
    assert [page for page, (status, _said) in without.items() if status == 500] == []


def stored() -> dict[str, list[Any]]:
    ours = [app for app in apps.get_app_configs() if app.name.startswith("giftcards")]
    return {
        model.__name__: list(model._default_manager.order_by("pk").values())
        for app in ours
        for model in app.get_models(include_auto_created=True)
    }


FORM = {"reason": "x", "note": "x", "state_token": "", "action": "check_now"}


def test_nothing_is_shown_of_a_hidden_order_and_nothing_done_about_it(boss: Client) -> None:
    world = make_world(HIDDEN, CODE)
    before = stored()
    for page, field in KEYS.items():
        address = to(page, getattr(world, field).pk)
        for answer in (boss.get(address), boss.post(address, FORM)):
            # For rows that do not exist, Django redirects to its index.
            refused = answer.status_code in {403, 404, 405} or answer.get("Location") == "/admin/"
            assert refused, (page, answer.status_code)
            assert HIDDEN not in said(answer)
    chosen = {**FORM, "_selected_action": [str(world.order.pk)]}
    read(boss.post(to("order_changelist"), chosen, follow=True))
    assert stored() == before


@pytest.mark.parametrize("page", ["order_report", "order_report_download", "order_close_month"])
def test_there_are_no_files_and_no_sums_over_all_orders(boss: Client, page: str) -> None:
    for asked in PAGES[page]:
        assert ask(boss, page, asked).status_code == 403


# Conditions about the shop and not about orders.
OF_THE_SHOP = {
    *(
        "paused",
        "access_refused",
        "worker",
        "provider_failing",
        "queue",
        "api_keys",
        "balance",
        "costs_changed",
        "products_new",
        "encryption_keys",
    ),
    *(
        "ledger_unmatched",
        "ledger_gap",
        "digests_failed",
        "daily_work_overdue",
        "old_charges_unmatched",
        "reference_refused",
        "reveals_refused",
    ),
}


def test_a_condition_that_holds_of_hidden_orders_alone_is_not_told() -> None:
    make_trouble(HIDDEN)
    make_world(HIDDEN, CODE)
    visible = Order.objects.exclude(reference__startswith=HIDDEN)
    about_orders = CONDITIONS.keys() - OF_THE_SHOP
    assert about_orders == {code for code, each in CONDITIONS.items() if each.is_about_orders}
    everything, standing = Order.objects.all(), Standing()
    found = {code: CONDITIONS[code].find(standing, everything) for code in about_orders}
    assert [code for code, finding in found.items() if finding is None] == []
    found = {code: CONDITIONS[code].find(standing, visible) for code in about_orders}
    assert [code for code, finding in found.items() if finding] == []


class Careful(BranchOrderAdmin):
    def has_report_permission(self, request: Any) -> bool:
        return False

    def get_queryset(self, request: Any) -> Any:
        return OrderAdmin.get_queryset(self, request)


def test_sums_of_the_day_are_for_who_may_see_the_report(boss: Client, monkeypatch: Any) -> None:
    make_world("web-", "VISIBLE-4712")
    monkeypatch.setitem(site._registry, Order, Careful(Order, site))
    assert "Today:" not in said(boss.get(to("desk_changelist")))
    monkeypatch.setitem(site._registry, Order, OrderAdmin(Order, site))
    assert "Today: \u20682\u2069 orders" in said(boss.get(to("desk_changelist")))


class Broken(OrderAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).filter(group=request.session["branch"])


@pytest.mark.parametrize(
    ("pages", "address", "told"),
    [
        (BranchOrderAdmin, "boss@shop.example", "mine"),
        (Broken, "boss@shop.example", "none"),
        (OrderAdmin, "boss@shop.example", "all"),
        # The address of an office belongs to no account.
        (BranchOrderAdmin, "office@shop.example", "all"),
    ],
)
def test_digests_tell_the_owner_of_an_account_of_no_hidden_order(
    settings: Any, monkeypatch: Any, pages: type[OrderAdmin], address: str, told: str
) -> None:
    monkeypatch.setitem(admin.site._registry, Order, pages(Order, admin.site))
    get_user_model().objects.create_superuser("boss", "boss@shop.example")
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "STAFF_EMAILS": [address]}
    note_tick()
    digests.send_due(Limits())
    let_pass(minutes=60)
    make_trouble(HIDDEN)
    make_guide_order(Status.HANDLING, reference="web-late", problems=[Problem("late", {})])
    make_guide_order(Status.REFUNDED, reference="web-refunded", finalized_at=timezone.now())
    let_pass(minutes=40)
    mail.outbox.clear()
    digests.send_due(Limits())
    said = "".join(str(each.body) for each in mail.outbox)
    assert (HIDDEN in said) == (told == "all")
    assert ("web-late" in said and "web-refunded" in said) == (told in {"all", "mine"})
    assert ("1 order with a problem" in said) == (told == "mine")
    assert ("The total is" in said) == (told == "all")
