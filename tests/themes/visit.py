"""Open every page of the admin under a theme: ``python -m tests.themes.visit THEME [subclass]``.

Prints a JSON object that maps each page to its HTML, or to "HTTP " and the status if that is not
200. The module runs in a process of its own, because a theme is an app and needs its own settings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from tests.themes.set_up import set_up

FAR = "6901616fe9e88196b4eb64b9"


def main(theme: str, how: str = "") -> None:
    set_up(theme)
    if how == "subclass":
        _register_subclass()
    json.dump(dict(_visit()), sys.stdout)


def _register_subclass() -> None:
    """Register the subclass that the documentation describes for shops with this theme."""
    import unfold.admin
    from django.contrib import admin

    from giftcards.admin import OrderAdmin
    from giftcards.models import Order

    class MyOrderAdmin(OrderAdmin, unfold.admin.ModelAdmin):
        pass

    admin.site.unregister(Order)
    admin.site.register(Order, MyOrderAdmin)


def _visit() -> Iterator[tuple[str, str]]:
    import responses
    from django.test import Client
    from django.test.utils import setup_test_environment
    from django.urls import reverse
    from django.utils import timezone

    from giftcards.books.models import LedgerEntry
    from giftcards.models import CustomerRefund, Order, Product, ProviderState
    from tests.browser import showcase
    from tests.builders import CARDS, PRODUCT, TYPE
    from tests.pages import ADD, LIST, SEARCH, hidden

    setup_test_environment()
    showcase.fill()
    _take_for(FAR)
    browser = _boss(Client(raise_request_exception=False))

    def page(reference: str, name: str = "change") -> str:
        return f"{LIST}{Order.objects.get(reference=reference).pk}/{name}/"

    resolve = page("web-1040", "resolve")
    about = {"state_token": hidden(seen(browser.get(resolve))).get("state_token", "")}
    until = timezone.now() + timedelta(minutes=5)
    ProviderState.objects.pause("outage", detail="It is away.", until=until)
    entry = f"/admin/giftcards_books/ledgerentry/{LedgerEntry.objects.first().pk}/change/"
    yield "list", seen(browser.get(LIST))
    yield "provider", seen(browser.get("/admin/giftcards/providerstate/"))
    ProviderState.objects.resume()
    yield "search", seen(browser.get(LIST, {"q": "web-10", "attention": "needed"}))
    Product.objects.update(is_enabled=False)
    yield "add by id", seen(browser.get(ADD))
    Product.objects.update(is_enabled=True)
    product = Product.objects.get()
    yield "add", seen(browser.get(ADD))
    chosen = {"card": f"{PRODUCT} {TYPE}", "quantity": "2", "reference": "web-1051"}
    yield "confirm", (shown := seen(browser.post(ADD, chosen)))
    yield "change", seen(browser.post(ADD, {**hidden(shown), "_change": "1"}))
    yield "product", seen(browser.get(f"/admin/giftcards/product/{product.pk}/change/"))
    yield "products", seen(browser.get("/admin/giftcards/product/"))
    yield "shop", seen(browser.get("/admin/giftcards/shelf/"))
    yield "categories", seen(browser.get("/admin/giftcards/category/"))
    yield "add, wrong", seen(browser.post(ADD, {"quantity": "0"}))
    yield "settled", seen(browser.get(page("web-1042")))
    yield "lost", seen(browser.get(page("web-1040")))
    yield "adopted", seen(browser.get(page("web-1050")))
    yield "resolve", seen(browser.get(resolve))
    yield "resolve, wrong", seen(browser.post(resolve, about))
    yield "release", seen(browser.get(page("web-1050", "release")))
    with responses.RequestsMock() as wire:
        told = {"_id": "B2", "status": "HANDLING", "quantity": 3, "product": PRODUCT, "type": "x"}
        check = "http://127.0.0.1:9/v3/gift-cards/check-order/B2"
        wire.get(check, json={"success": True, "data": told})
        choice = {"outcome": "adopt-other", "provider_order_id": "B2", "is_sure": "on"}
        yield "adopt", seen(browser.post(resolve, {**about, **choice}))
    price = page("web-1035", "price")
    yield "held", seen(browser.get(page("web-1035")))
    yield "price", (shown := seen(browser.get(price)))
    held_about = {"state_token": hidden(shown).get("state_token", "")}
    yield "price, wrong", seen(browser.post(price, held_about))
    yield "reorder", seen(browser.get(page("web-1042", "reorder")))
    report = f"{LIST}report/"
    today = timezone.localdate()
    week = {"from": today - timedelta(days=7), "to": today}
    yield "report", seen(browser.get(report, week))
    yield "report by product", seen(browser.get(report, {**week, "by": "product"}))
    yield "close a month", seen(browser.get(f"{report}close/"))
    yield "report, wrong", seen(browser.get(report, {"from": "2026-11-31"}))
    yield "start", seen(browser.get("/admin/giftcards/desk/", follow=True))
    yield "app index", seen(browser.get("/admin/giftcards/"))
    yield "help", seen(browser.get("/admin/giftcards/desk/help/"))
    pay_back = page("web-1042", "pay-back")
    yield "pay back", (shown := seen(browser.get(pay_back)))
    payment = {**hidden(shown), "amount": "550", "reference": "CCP 12"}
    yield "pay back, confirm", seen(browser.post(pay_back, payment))
    yield "pay back, wrong", seen(browser.post(pay_back, {**payment, "amount": "5000"}))
    yield "paid back", seen(browser.get(page("web-1038")))
    refund = CustomerRefund.objects.get(reference="cart-38")
    address = reverse("admin:giftcards_refund_cancel", args=[refund.pk])
    yield "cancel refund", seen(browser.get(address))
    yield "refunds", seen(browser.get("/admin/giftcards/customerrefund/"))
    yield "found", seen(browser.post(SEARCH, {"secret": CARDS[0].value}))
    checked = {"action": "check_now", "_selected_action": [page("web-1043").split("/")[-3]]}
    # An order that is due is checked anyway, and the page would not record the request.
    Order.objects.filter(reference="web-1043").update(due_at=None)
    card = Order.objects.get(reference="web-1042").cards.get(position=1)
    ask, reveal = (
        reverse(f"admin:giftcards_card_{name}", args=[card.pk]) for name in ("ask", "reveal")
    )
    yield "ask", seen(browser.get(ask))
    yield "ask, wrong", seen(browser.post(reveal))
    yield "revealed", seen(browser.post(reveal, {"reason": "Lost the e-mail"}))
    yield "reveals", seen(browser.get("/admin/giftcards/cardreveal/"))
    yield "ledger", seen(browser.get("/admin/giftcards_books/ledgerentry/"))
    yield "ledger entry", seen(browser.get(entry))
    yield "checked", seen(browser.post(LIST, checked, follow=True))
    yield "history", seen(browser.get(page("web-1043", "history")))
    yield "index", seen(browser.get("/admin/"))
    yield from _visit_messages(browser)


def _visit_messages(browser: Any) -> Iterator[tuple[str, str]]:
    from django.contrib.auth import get_user_model

    from giftcards.delivery.models import CardLink, Delivery
    from tests.browser import showcase
    from tests.delivery.staff import PASSWORD, to
    from tests.pages import order_page

    order = showcase.tell()
    boss = get_user_model().objects.get()
    boss.set_password(PASSWORD)
    boss.save()
    assert browser.login(username=boss.get_username(), password=PASSWORD)
    messages = "/admin/giftcards_delivery/delivery/"
    waiting = Delivery.objects.get(status="retrying")
    send_again, new_link = to("send_again", order.pk), to("new_link", order.pk)
    yield "told", seen(browser.get(order_page(order)))
    yield "send again", seen(browser.get(send_again))
    yield "send again, wrong", seen(browser.post(send_again, {"address": "lina"}))
    yield "new link", seen(browser.get(new_link))
    yield "new link, made", seen(browser.post(new_link, {"reason": "On the phone"}))
    yield "proof", seen(browser.get(to("dispute", order.pk)))
    yield "messages", seen(browser.get(messages, {"status__exact": "failed"}))
    yield "message", seen(browser.get(to("delivery_change", waiting.pk)))
    yield "messages index", seen(browser.get("/admin/giftcards_delivery/"))
    yield "links", seen(browser.get("/admin/giftcards_delivery/cardlink/"))
    yield "link", seen(browser.get(to("cardlink_change", CardLink.objects.earliest("pk").pk)))
    yield "digests", seen(browser.get("/admin/giftcards_delivery/staffdigest/"))


def seen(response: Any) -> str:
    """Return the page, or "HTTP " and the status if there is an error."""
    from tests.pages import read

    if response.status_code != 200:
        return f"HTTP {response.status_code}"
    return read(response)


def _take_for(name: str) -> None:
    """Create a lost order that staff have matched with the provider's order ``name``."""
    from giftcards.engine.recovering import adopt
    from giftcards.models import Order, StatusChange
    from giftcards.statuses import Status
    from tests.builders import make_order

    make_order(Status.UNCONFIRMED, reference="web-1050")
    assert adopt(Order.objects.get(reference="web-1050"), name, source=StatusChange.Source.STAFF)


def _boss(browser: Any) -> Any:
    from django.contrib.auth import get_user_model

    browser.force_login(get_user_model().objects.create_superuser("amina", password=None))
    return browser


if __name__ == "__main__":
    main(*sys.argv[1:])
