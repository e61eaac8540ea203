"""The order action buttons: irreversible actions need a confirmation and never come first."""

from __future__ import annotations

from typing import Any

import pytest
from django import forms
from django.contrib.admin import site
from django.test import Client
from django.urls import reverse

from giftcards.admin.frame.actions import OrderAction, OrderButton, Outcome, in_order, may
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.models import Order
from giftcards.rules.roles import ROLES
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order
from tests.pages import order_page, read, sign_in, text

ACTIONS = {action.name: action for action in site.get_model_admin(Order).order_actions}
# Actions whose button announces something that cannot be undone. The other actions can be undone,
# or their page offers several outcomes without a default.
FINAL = {
    "order_acknowledge", "order_dispute", "order_reorder", "order_sale", "order_release",
    "order_cancel",
    "refund_cancel", "delivery_withdraw", "delivery_send_now", "delivery_cancel",
}  # fmt: skip
# Actions that run at once, because they can be repeated or undone.
AT_ONCE = {"order_check", "delivery_try_now"}

# The permissions that each action about an order requires, besides the permission to see the order.
TAKES = {
    "order_adopt": ("resolve_order",),
    "order_cancel": ("resolve_order",),
    "order_check": ("check_order",),
    "order_customer": ("correct_customer",),
    "order_dispute": ("check_order",),
    "order_pay_back": ("settle_refund",),
    "order_price": ("resolve_order", "view_cost"),
    "order_release": ("resolve_order",),
    "order_reorder": ("add_order",),
    "order_resolve": ("resolve_order",),
    "order_review": ("resolve_order",),
    "order_sale": ("settle_refund",),
    "order_acknowledge": ("check_order",),
    "order_wait": ("resolve_order",),
    # Any one of these permissions is enough.
    "order_note": ("check_order", "resolve_order", "add_order"),
}


def action(**values: Any) -> OrderAction:
    return OrderAction(
        name="shop_act",
        route="<key>/act/",
        label="Act",
        permission=may("giftcards.check_order"),
        act=lambda _attempt: Outcome("Done."),
        **values,
    )


@pytest.mark.all_apps
def test_every_action_says_whether_it_can_be_undone_and_its_button_stands_last_if_not() -> None:
    assert {name for name, each in ACTIONS.items() if each.is_final} == FINAL
    assert {name for name, each in ACTIONS.items() if each.is_post} == AT_ONCE
    for name in FINAL:
        other = OrderButton("Other", "/2/")
        final = OrderButton(name, "/1/", is_final=ACTIONS[name].is_final)
        assert in_order([final, other]) == [other, final]


def test_an_action_that_cannot_be_undone_does_not_begin_without_a_page_that_asks() -> None:
    with pytest.raises(ValueError, match="shop_act cannot be undone, so it needs a page"):
        action(is_final=True)
    asks = action(is_final=True, form=lambda _attempt, data: forms.Form(data))
    assert not asks.is_post


def test_what_each_action_takes_is_in_the_table() -> None:
    named = {name for name in ACTIONS if name.startswith("order_")}
    # "order_adopt" completes "order_resolve".
    assert TAKES.keys() == named | {"order_adopt"}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (name, missing)
        for name, needed in TAKES.items()
        for missing in ([needed] if name == "order_note" else [(each,) for each in needed])
        + [("view_order",)]
    ],
)
def test_who_lacks_a_permission_for_an_action_is_offered_and_allowed_none(
    name: str, missing: tuple[str, ...]
) -> None:
    lost = name in {"order_resolve", "order_adopt"}
    order = make_guide_order(Status.UNCONFIRMED if lost else Status.PARTIALLY_FILLED)
    Order.objects.update(**({} if lost else {"sale_amount": 2750, "open_amount": 1100}))
    store_cards([Arrival(order, () if lost else CARDS[:3])])
    address = order_page(order, name.removeprefix("order_"))
    before = Order.objects.values().get()
    browser = sign_in(*(set(ROLES["Gift card manager"]) - set(missing)))
    if missing != ("view_order",):
        assert address not in read(browser.get(order_page(order)))
    assert browser.get(address).status_code in {403, 405}
    assert browser.post(address).status_code == 403
    assert Order.objects.values().get() == before


@pytest.mark.django_db
@pytest.mark.parametrize("name", [*TAKES, "refund_cancel"])
def test_an_action_takes_a_session_a_csrf_token_and_a_row_that_is_there(name: str) -> None:
    address = reverse(f"admin:giftcards_{name}", args=[make_guide_order().pk])
    assert Client().post(address).status_code == 302
    forged = sign_in(superuser=True, enforce_csrf_checks=True).post(address)
    assert (forged.status_code, b"CSRF" in forged.content) == (403, True)
    missing = reverse(f"admin:giftcards_{name}", args=[4711])
    assert sign_in(superuser=True).post(missing).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize("status", Status)
def test_the_first_button_is_the_likely_next_step_and_never_what_cannot_be_undone(
    boss: Client, status: Status
) -> None:
    html = read(boss.get(order_page(make_guide_order(status, sale_price=550))))
    begin = html.index('class="giftcards-decide"')
    part = html[begin : html.index("</div>", begin)].split(">", 1)[1]
    labels = [text(label) for label in part.replace("</button>", "</a>").split("</a>")][:-1]
    assert labels[0] not in {str(each.label) for each in ACTIONS.values() if each.is_final}
    if status == Status.PARTIALLY_FILLED:
        assert labels == [
            "Pay back the customer",
            "Order the missing cards again",
            "Correct the customer's address",
            "Record a complaint about a code",
        ]
