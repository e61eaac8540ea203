"""Looking after an order: on its page and in the list; taken, given back, and taken over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

from giftcards.admin.orders.follow_up import fingerprint
from giftcards.models import Order
from giftcards.models.staff_records import take
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import (
    LATE,
    LIST,
    element,
    hidden,
    order_page,
    read,
    references,
    sign_in,
    text,
    timeline,
    told,
)

pytestmark = pytest.mark.django_db

MINE = "You are looking after this order."


@pytest.fixture
def order() -> Order:
    return make_guide_order(Status.DELAYED, reference="web-1")


@pytest.fixture
def amina() -> Client:
    return sign_in("view_order", "check_order", name="amina")


@pytest.fixture
def karim() -> Client:
    return sign_in("view_order", "check_order", name="karim")


def post(browser: Client, order: Order, name: str, **form: str) -> list[str]:
    return told(browser.post(order_page(order, name), form, follow=True))


def owner_on(browser: Client, order: Order) -> str:
    html = read(browser.get(order_page(order)))
    return text(element(html, "giftcards-owner", "p")) if "giftcards-owner" in html else ""


def test_an_order_is_taken_and_given_back_with_entries_in_its_timeline(
    amina: Client, karim: Client, order: Order
) -> None:
    seen = fingerprint(order)
    assert post(amina, order, "take") == [MINE]
    since = timezone.localtime(Order.objects.get().looked_after_since).strftime("%H:%M")
    said = f"amina has been looking after it since {since}."
    assert owner_on(amina, order) == f"{said} Give it back"
    assert owner_on(karim, order) == f"{said} Take it over"
    assert owner_on(sign_in("view_order"), order) == said
    # A page that is open elsewhere shows itself again.
    assert fingerprint(Order.objects.get()) != seen
    assert post(amina, order, "give_back") == ["You do not look after this order any more."]
    html = read(karim.get(order_page(order)))
    assert "giftcards-owner" not in html
    assert "I am looking after it" in html
    assert timeline(html)[1:] == [
        "amina began to look after the order.",
        "amina does not look after the order any more.",
    ]
    # It is not why the order is where it is.
    assert "The provider accepted the order on" in text(html)


def test_a_colleague_is_told_who_has_the_order_before_taking_it_over(
    amina: Client, karim: Client, order: Order
) -> None:
    post(amina, order, "take")
    already = "amina is looking after this order already: you can take it over."
    assert post(karim, order, "take") == [already]
    html = read(karim.get(order_page(order, "take_over")))
    assert "amina has been looking after it since" in text(html)
    assert post(karim, order, "take_over", **hidden(html)) == [MINE]
    assert owner_on(karim, order).startswith("karim has been looking after it")
    assert timeline(read(karim.get(order_page(order))))[-1] == (
        "karim took the order over from amina."
    )
    # What amina saw is over, and so is what a page said that was open for longer.
    assert post(amina, order, "give_back") == ["You do not look after this order any more."]
    assert Order.objects.get().owner == "karim"
    assert post(amina, order, "take_over", **hidden(html)) == [LATE]


def test_it_needs_the_permission_to_check_orders_and_something_left_to_do(
    amina: Client, order: Order
) -> None:
    viewer = sign_in("view_order", "resolve_order")
    assert "I am looking after it" not in read(viewer.get(order_page(order)))
    for name in ("take", "take_over", "give_back"):
        assert viewer.post(order_page(order, name)).status_code == 403
    done = make_guide_order(Status.FULFILLED)
    assert "I am looking after it" not in read(amina.get(order_page(done)))
    assert post(amina, done, "take") == [LATE]


def test_whoever_is_renamed_or_deleted_can_be_replaced(karim: Client, order: Order) -> None:
    former = get_user_model().objects.create_user("sara")
    assert take(order, by="sara")
    former.delete()
    assert owner_on(karim, order).endswith("Take it over")
    html = read(karim.get(order_page(order, "take_over")))
    assert post(karim, order, "take_over", **hidden(html)) == [MINE]


def test_the_list_names_who_looks_after_an_order_and_can_be_filtered_by_it(
    amina: Client, karim: Client, order: Order
) -> None:
    todo: dict[str, Any] = {"problems": [Problem("not_known")]}
    mine = make_guide_order(Status.FULFILLED, reference="web-2", **todo)
    make_guide_order(Status.FULFILLED, reference="web-3", **todo)
    take(mine, by="amina")
    take(order, by="karim")
    html = read(amina.get(LIST))
    for name in ("amina", "karim"):
        assert html.count(f"looked after by <bdi>{name}</bdi>") == 1
    for chosen, expected in (("me", ["web-2"]), ("nobody", ["web-3"]), ("other", None)):
        found = references(read(amina.get(LIST, {"looked_after": chosen})))
        assert found == (expected or ["web-3", "web-2", "web-1"])
    # Who looked after a finished order is named only in its timeline.
    now = timezone.now() + timedelta(seconds=1)
    values = {"status": Status.REFUNDED, "finalized_at": now, "due_at": None}
    Order.objects.filter(pk=order.pk).update(**values)
    html = read(amina.get(order_page(order)))
    assert "giftcards-owner" not in html
    assert "karim began to look after the order." in timeline(html)
    assert "looked after by <bdi>karim" not in read(amina.get(LIST))
    assert references(read(karim.get(LIST, {"looked_after": "me"}))) == []
