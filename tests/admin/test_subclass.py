"""A shop's subclass of the orders admin: orders that it hides are hidden everywhere."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.contrib.admin import AdminSite
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import path

from example_project.api.admin import RevealAdmin
from example_project.api.models import Reveal
from giftcards.admin import OrderAdmin
from giftcards.admin.frame.pages import OrderButton
from giftcards.models import Order
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import ADD, LIST, errors, hidden, messages, order_page, orders, read, sign_in, text

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]


class BranchOrderAdmin(OrderAdmin):
    """The orders of one branch of the shop."""

    list_display = (*OrderAdmin.list_display, "customer_email")

    def get_order_buttons(self, request: Any, order: Order) -> list[OrderButton]:
        mine = OrderButton("Call the customer", f"/call/{order.pk}/")
        return [*super().get_order_buttons(request, order), mine]

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).exclude(reference=HIDDEN)


site = AdminSite()
site.register(Order, BranchOrderAdmin)
site.register(Reveal, RevealAdmin)
urlpatterns = [path("admin/", site.urls)]

HIDDEN = "other-1"


def test_a_subclass_of_the_admin_can_add_columns_and_buttons(boss: Client) -> None:
    customer = {"customer_email": "amina@example.com"}
    order = make_guide_order(Status.UNCONFIRMED, reference="web-1", **customer)
    [row] = orders(read(boss.get(LIST)))
    assert (row[0], row[-1]) == ("web-1", "amina@example.com")
    html = read(boss.get(order_page(order)))
    assert "What happened to this order?" in html
    assert f'href="/call/{order.pk}/">Call the customer</a>' in html


def test_no_page_names_a_related_order_that_a_subclass_hides(boss: Client) -> None:
    shown = make_guide_order(Status.PARTIALLY_FILLED, reference="web-1", group="cart")
    again = make_guide_order(reference=HIDDEN, group="cart", repeats=shown)
    make_guide_order(reference="web-2", group="cart", repeats=again)
    for order in (shown, Order.objects.get(reference="web-2")):
        html = read(boss.get(order_page(order)))
        assert HIDDEN not in html
        assert order_page(again) not in html


def test_a_repetition_of_an_order_that_a_subclass_hides_is_a_taken_reference(boss: Client) -> None:
    line = {"product_id": "p", "type_id": "t", "quantity": 1, "reference": HIDDEN}
    Order.objects.record(Order(**line))
    html = read(boss.post(ADD, line))
    assert errors(html) == [
        "This reference is already in use. Use a different reference for a new order."
    ]


def test_the_owner_of_an_id_is_not_named_if_a_subclass_hides_it(boss: Client) -> None:
    make_guide_order(reference=HIDDEN, provider_order_id="B1")
    lost = make_guide_order(Status.UNCONFIRMED, reference="web-1")
    page = order_page(lost, "resolve")
    choice = {"outcome": "adopt-other", "provider_order_id": "B1", "is_sure": "on"}
    html = read(boss.post(page, {**hidden(read(boss.get(page))), **choice}))
    assert messages(html) == ["This ID already belongs to another of your orders."]
    assert HIDDEN not in text(html)


def test_a_list_of_the_shop_shows_no_row_about_an_order_that_a_subclass_hides(
    boss: Client,
) -> None:
    user = get_user_model().objects.create(username="amina")
    orders = [make_guide_order(reference=reference) for reference in (HIDDEN, "web-1")]
    hidden_one, shown = [
        Reveal.objects.create(order=order, user=user, key=uuid.uuid4()) for order in orders
    ]
    listed = "/admin/api/reveal/"
    for query in ("", "?q=other", f"?q={HIDDEN}", "?q=web"):
        html = read(boss.get(listed + query))
        # The search box repeats the typed text.
        assert (HIDDEN in html) is (HIDDEN in query)
        assert order_page(hidden_one.order) not in html
        assert (order_page(shown.order) in html) is (query in {"", "?q=web"})
    assert "web-1" in read(boss.get(f"{listed}{shown.pk}/change/"))
    assert boss.get(f"{listed}{hidden_one.pk}/change/").status_code == 302
    # A person who may not view orders sees no rows about any order.
    clerk = sign_in(name="clerk")
    account = get_user_model().objects.get(username="clerk")
    account.user_permissions.add(Permission.objects.get(codename="view_reveal"))
    assert "web-1" not in read(clerk.get(listed))
