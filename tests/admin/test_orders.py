"""Staff pages about orders: viewing, placing and checking them, and the permissions for that."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.models import (
    ApiKey,
    CardReveal,
    Category,
    CustomerRefund,
    Desk,
    Order,
    Product,
    ProductType,
    ProviderState,
    Shelf,
)
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import (
    ADD,
    FORM,
    LIST,
    SEARCH,
    messages,
    order_page,
    read,
    references,
    sign_in,
    text,
)
from tests.stage import ago, refuse_key, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LOST = Problem("status_unknown", {"status": "LOST"})


def press_check_now(browser: Client, *chosen: Order) -> Any:
    return browser.post(
        LIST,
        {"action": "check_now", "_selected_action": [str(order.pk) for order in chosen]},
        follow=True,
    )


REFUSED = "The provider refused the API key (INVALID_ACCESS_TOKEN)."


def banner(html: str) -> str:
    found = re.search(r'<p class="giftcards-pause" role="alert">.*?</p>', html, re.DOTALL)
    return text(found[0]) if found else ""


def test_order_list_says_that_calls_are_paused(boss: Client, set_conf: Callable[..., None]) -> None:
    assert banner(read(boss.get(LIST))) == ""
    # The site no longer uses this key.
    refuse_key(REFUSED, api_key="another")
    assert banner(read(boss.get(LIST))) == ""
    refuse_key(REFUSED)
    paused = "Requests to the provider are paused."
    refused = "The provider refuses the API key or this server's address. Contact your developer."
    assert banner(read(boss.get(LIST))) == f"{paused} {refused}"
    # The site has no API key.
    set_conf(API_KEY="")
    assert banner(read(boss.get(LIST))).startswith(paused)


def test_order_list_does_not_show_a_pause_that_is_over(boss: Client) -> None:
    ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-1))
    ProviderState.objects.update(paused_until=ago(61))
    assert banner(read(boss.get(LIST))) == ""


def test_order_list_says_that_a_running_worker_has_another_key_that_is_refused(
    boss: Client, set_conf: Callable[..., None]
) -> None:
    set_conf(API_KEY="of-the-worker")
    refuse_key(REFUSED)
    run_sweep()
    set_conf(API_KEY="of-the-site")
    assert banner(read(boss.get(LIST))) == (
        "Requests to the provider are paused. A running process has a different API key, and the"
        " provider refuses that key. Contact your developer."
    )
    ApiKey.objects.update(stopped_at=ago(181))
    assert banner(read(boss.get(LIST))) == ""


def snapshot() -> list[dict[str, Any]]:
    return list(Order.objects.order_by("pk").values())


def test_who_is_not_staff_is_asked_to_log_in_and_staff_without_permission_see_nothing() -> None:
    order = make_guide_order()
    customer, browser = sign_in("view_order", "find_card", staff=False), sign_in()
    for address in (LIST, ADD, SEARCH, order_page(order), f"{LIST}{order.pk}/history/"):
        for visitor in (Client(), customer):
            for answer in (visitor.get(address), visitor.post(address, {"secret": "x"})):
                assert answer.status_code == 302
                assert answer["Location"] == f"/admin/login/?next={address}"
        assert browser.get(address).status_code == 403
        assert browser.post(address, {"secret": "x"}).status_code == 403
    assert "Gift cards" not in read(browser.get("/admin/"))


def test_staff_who_may_view_can_change_nothing() -> None:
    order, browser = make_guide_order(), sign_in("view_order")
    before = snapshot()
    html = read(browser.get(LIST))
    assert references(html) != []
    assert 'name="action"' not in html
    assert "card's code" not in text(html)
    assert "Add order" not in html
    page = read(browser.get(order_page(order)))
    assert not re.search(r'<input[^>]+type="(submit|text|number|email)"', page)
    assert "Delete" not in page
    assert browser.get(ADD).status_code == browser.post(ADD, FORM).status_code == 403
    assert browser.post(order_page(order), {**FORM, "_saveasnew": "1"}).status_code == 403
    assert messages(read(press_check_now(browser, order))) == []
    assert snapshot() == before
    assert OrmQ.objects.count() == 0


@pytest.mark.parametrize("permission", ["delete_order", "change_order", "everything"])
def test_no_order_can_be_edited_or_deleted(permission: str) -> None:
    order = make_guide_order(Status.PENDING)
    browser = sign_in("view_order", permission) if "_" in permission else sign_in(superuser=True)
    before = snapshot()
    html = read(browser.get(LIST))
    assert "delete_selected" not in html
    page = read(browser.get(order_page(order)))
    assert 'name="_save"' not in page
    assert f"{order.pk}/delete/" not in page
    forged = {**FORM, "quantity": "1", "status": "FULFILLED", "_save": "Save"}
    assert browser.post(order_page(order), forged).status_code == 403
    delete = f"{LIST}{order.pk}/delete/"
    assert browser.get(delete).status_code == 403
    assert browser.post(delete, {"post": "yes"}).status_code == 403
    browser.post(LIST, {"action": "delete_selected", "_selected_action": [order.pk], "post": "yes"})
    assert snapshot() == before


def test_cards_notes_and_what_the_engine_keeps_have_no_pages() -> None:
    ours = [model for model in admin.site._registry if model._meta.app_label == "giftcards"]
    read = {CardReveal, Category, CustomerRefund, Desk, Order, Product, ProductType}
    shown = read | {ProviderState, Shelf}
    assert set(ours) == shown


@pytest.mark.django_db(transaction=True)
def test_check_now_makes_orders_due_and_wakes_the_worker(boss: Client) -> None:
    later = timezone.now() + timedelta(hours=1)
    waiting = make_guide_order(Status.DELAYED, due_at=later)
    forgotten = make_guide_order(Status.DELAYED, due_at=None)
    other = make_guide_order(Status.DELAYED, due_at=later)
    html = read(press_check_now(boss, waiting, forgotten))
    assert messages(html) == ["2 orders will be checked in a moment."]
    due = set(Order.objects.filter(due_at__lte=timezone.now()))
    assert due == {waiting, forgotten}
    other.refresh_from_db()
    assert other.due_at == later
    assert OrmQ.objects.get().task["func"] == "giftcards.tasks.sweep"


def test_check_now_skips_orders_that_are_final_or_were_just_checked(boss: Client) -> None:
    alone = [
        make_guide_order(Status.FULFILLED),
        make_guide_order(Status.REJECTED),
        make_guide_order(Status.PENDING, due_at=None),
        make_guide_order(Status.UNCONFIRMED, due_at=None),
        make_guide_order(Status.HANDLING, checked_at=timezone.now()),
        make_guide_order(
            Status.HANDLING, claim="x", claimed_until=timezone.now() + timedelta(minutes=1)
        ),
    ]
    before = snapshot()
    html = read(press_check_now(boss, *alone))
    assert messages(html) == [
        "1 order was skipped because it has not been sent yet.",
        (
            "1 order was skipped because it is unconfirmed. The app automatically searches for"
            " it at the provider."
        ),
        "2 orders were skipped because their status is final.",
        "2 orders were skipped because they were checked a moment ago.",
    ]
    assert not LogEntry.objects.exists()
    assert snapshot() == before
    assert OrmQ.objects.count() == 0


@pytest.mark.parametrize("permission", ["check_order", "change_order", "resolve_order"])
def test_check_now_needs_its_own_permission(permission: str) -> None:
    order = make_guide_order(Status.DELAYED, due_at=None)
    html = read(press_check_now(sign_in("view_order", permission), order))
    is_asked = "1 order will be checked in a moment." in messages(html)
    assert is_asked == (permission == "check_order")
    order.refresh_from_db()
    assert (order.due_at is not None) == (permission == "check_order")
