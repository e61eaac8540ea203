"""The pages that each group of staff can see, and actions that nobody may do.

The amounts are unlike any other number, so a page that contains one of them reveals a cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db.models import ProtectedError
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from giftcards.engine.approvals import put_on_hold_for_price
from giftcards.engine.recovering import adopt
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.models import (
    Card,
    CardReveal,
    CustomerRefund,
    Note,
    Order,
    Product,
    ProviderState,
    StatusChange,
)
from giftcards.rules.problems import Problem
from giftcards.rules.roles import ROLES
from giftcards.statuses import ACCEPTED, SETTLED, Status
from tests.builders import CARDS, make_guide_order, make_offer, set_shelf
from tests.pages import ADD, LIST, PROVIDER_PAGE, SEARCH, hidden, order_page, read, sign_in

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

SUPPORT, MANAGER, ACCOUNTANT = ROLES
# A card costs 491.37. Five of them are ordered for 550.50 each, and three are delivered.
PRICE, SALE = Decimal("491.37"), Decimal("550.50")
COSTS = {
    "price per card": PRICE,
    "ordered": 5 * PRICE,
    "charged": 3 * PRICE,
    "credited back": 2 * PRICE,
    "margin": 3 * (SALE - PRICE),
    "margin of all": 5 * (SALE - PRICE),
    "highest price": Decimal("601.19"),
    "approved price": Decimal("612.43"),
    "price above": Decimal("613.57"),
    "price above, all": 5 * Decimal("613.57"),
    "another figure": Decimal("499.83"),
    "provider's words": Decimal("777.31"),
    "balance": Decimal("88235.91"),
}
PROBLEMS = (
    Problem("price_changed", {"amount": "499.83", "expected": "491.37"}),
    Problem(
        "figure_changed", {"field": "price_per_card", "amount": "499.83", "expected": "491.37"}
    ),
    Problem("figure_unreadable", {"field": "price_per_card", "value": "499.83"}),
    Problem("figure_late", {"field": "fulfilled_amount", "amount": "499.83"}),
    Problem("figure_negative", {"field": "price_per_card", "value": "-499.83"}),
    Problem("not_known", {"message": "It costs 499.83 DA."}),
    Problem("not_sent", {"reason": "no_balance", "message": "You have 777.31 left."}),
)


def costs_in(html: str) -> list[str]:
    """Return the names of the amounts on the page, in any language's number format."""
    return [name for name, amount in COSTS.items() if _pattern(amount).search(html)]


def _pattern(amount: Decimal) -> re.Pattern[str]:
    whole, cents = f"{amount:,.2f}".split(".")
    separated = r"(?:[\s,.'’]|&nbsp;|&#160;)?".join(whole.split(","))
    return re.compile(rf"(?<!\d){separated}[.,٫]{cents}(?!\d)")


def person(*without: str) -> Client:
    """Return the browser of a manager without these permissions."""
    return sign_in(*(set(ROLES[MANAGER]) - set(without)))


@pytest.fixture(params=["en", "fr", "ar"])
def browser(request: pytest.FixtureRequest) -> Client:
    """A browser, in each language, of a manager who may not see costs."""
    browser = person("view_cost")
    browser.cookies["django_language"] = request.param
    return browser


def bought(status: Status, **values: Any) -> Order:
    """Return an order whose costs are all known."""
    values = {
        "reference": f"web-{status.lower()}",
        "sale_price": SALE,
        "max_price": COSTS["highest price"],
        "approved_price": COSTS["approved price"],
        "problems": PROBLEMS,
        **values,
    }
    if status in ACCEPTED:
        values = {"price_per_card": PRICE, "price_at_placing": PRICE, **values}
    if status in SETTLED:
        delivered = {Status.FULFILLED: 5, Status.PARTIALLY_FILLED: 3}.get(status, 0)
        values = {"fulfilled_amount": delivered * PRICE, **values}
    if status == Status.UNCONFIRMED:
        values = {"sent_at": timezone.now(), "claim": "first", **values}
    order = make_guide_order(status, **values)
    StatusChange.objects.create(
        order=order,
        from_status=Status.PENDING,
        to_status=status,
        details=[
            {**PROBLEMS[0].as_dict(), "ended": True},
            *(problem.as_dict() for problem in PROBLEMS),
        ],
    )
    approved = {"by": "amina", "price": "612.43", "ceiling": "601.19"}
    order.add_acknowledgement(Problem("staff_approved", approved), by="amina")
    order.add_acknowledgement(PROBLEMS[0], by="amina")
    return order


def held(reference: str = "web-held") -> Order:
    """Return an order on hold because a card costs more than its limit."""
    values = {"reference": reference, "sale_price": SALE, "max_price": COSTS["highest price"]}
    order = make_guide_order(Status.PENDING, **values)
    put_on_hold_for_price(order, price=COSTS["price above"], ceiling=COSTS["highest price"])
    order.refresh_from_db()
    return order


def test_the_amounts_are_found_in_every_way_of_writing_them() -> None:
    assert costs_in("491.37 DA") == costs_in("491,37&nbsp;DA") == ["price per card"]
    for charged in ("1,474.11", "1 474,11", "1\u202f474,11", "1\xa0474,11", "1474.11", "1.474,11"):
        assert costs_in(charged) == ["charged"]
    assert costs_in("2491.37 491.375 550.50 2,752.50") == []


class TestWithoutCosts:
    """A manager without permission to see costs: no page shows what the provider charges."""

    def pages(self) -> Iterator[str]:
        lost, settled = bought(Status.UNCONFIRMED), bought(Status.PARTIALLY_FILLED)
        adopted = bought(Status.UNCONFIRMED, reference="web-adopted", claim="other")
        assert adopt(adopted, "B9", source=StatusChange.Source.STAFF)
        yield order_page(settled, "pay_back")
        yield order_page(lost, "resolve")
        yield order_page(adopted, "release")
        yield from (order_page(order, "history") for order in (lost, settled, adopted))
        yield from (ADD, f"{LIST}report/", PROVIDER_PAGE, f"{PROVIDER_PAGE}1/history/")
        yield from ("/admin/", "/admin/giftcards/")

    @pytest.mark.all_apps
    def test_no_page_tells_them(self, browser: Client) -> None:
        _set_balance()
        for address in self.pages():
            assert (address, costs_in(read(browser.get(address)))) == (address, [])

    def test_a_search_by_code_and_the_page_that_it_leads_to_tell_none(
        self, browser: Client
    ) -> None:
        order = bought(Status.PARTIALLY_FILLED)
        store_cards([Arrival(order, CARDS[:3])])
        html = read(browser.post(SEARCH, {"secret": CARDS[0].value}))
        assert order.reference in html
        assert costs_in(html) == []
        assert costs_in(read(browser.get(order_page(order)))) == []

    def test_the_page_of_the_price_is_shut(self, browser: Client) -> None:
        order = held()
        assert browser.get(order_page(order, "price")).status_code == 403
        answer = browser.post(order_page(order, "price"), {"outcome": "approve"})
        assert answer.status_code == 403
        order.refresh_from_db()
        assert order.is_on_hold

    def test_the_history_of_a_decision_about_a_price_tells_none(self, browser: Client) -> None:
        order, manager = held(), person()
        token = hidden(read(manager.get(order_page(order, "price"))))["state_token"]
        manager.post(order_page(order, "price"), {"state_token": token, "outcome": "approve"})
        assert LogEntry.objects.filter(object_id=str(order.pk)).exists()
        html = read(browser.get(order_page(order, "history")))
        assert "approved the price of a card." in html
        assert costs_in(html) == []

    def test_the_wrong_choices_of_a_page_tell_none(self, browser: Client) -> None:
        order = bought(Status.UNCONFIRMED)
        form = hidden(read(browser.get(order_page(order, "resolve"))))
        assert costs_in(read(browser.post(order_page(order, "resolve"), form))) == []
        assert costs_in(read(browser.post(ADD, {"quantity": "0"}))) == []


@pytest.mark.parametrize(
    "lookup",
    [
        "price_per_card__gte",
        "price_at_placing__lt",
        "fulfilled_amount",
        "max_price__gte",
        "approved_price__gte",
        "problems__0__parameters__amount__gte",
    ],
)
def test_the_list_cannot_be_filtered_by_a_cost_without_seeing_costs(lookup: str) -> None:
    """Otherwise, staff could find out the cost with a few filters, halving the range each time."""
    bought(Status.PARTIALLY_FILLED)
    assert person("view_cost").get(LIST, {lookup: "400"}).status_code == 400


class TestListAndOrderWithoutCosts:
    """The same for the list and for the page of an order, in each status and on hold."""

    @pytest.mark.parametrize("status", Status)
    def test_an_orders_page_tells_none(self, status: Status, browser: Client) -> None:
        order = bought(status)
        html = read(browser.get(order_page(order)))
        assert order.reference in html
        assert costs_in(html) == []

    def test_the_page_of_an_order_on_hold_tells_none(self, browser: Client) -> None:
        order = held()
        html = read(browser.get(order_page(order)))
        assert order_page(order, "price") not in html
        assert costs_in(html) == []

    def test_the_list_tells_none(self, browser: Client) -> None:
        orders = [bought(status) for status in Status] + [held()]
        for query in ({}, {"q": "web-"}, {"status__exact": Status.PARTIALLY_FILLED.value}):
            html = read(browser.get(LIST, query))
            assert "web-partially_filled" in html
            assert costs_in(html) == []
        chosen = {"action": "check_now", "_selected_action": [str(order.pk) for order in orders]}
        assert costs_in(read(browser.post(LIST, chosen, follow=True))) == []

    def test_the_history_of_a_problem_that_was_acknowledged_tells_none(
        self, browser: Client
    ) -> None:
        order, manager = bought(Status.FULFILLED), person()
        token = hidden(read(manager.get(order_page(order))))["state_token"]
        for problem in PROBLEMS:
            form = {"problem": problem.key, "state_token": token}
            manager.post(order_page(order, "acknowledge"), form)
        assert LogEntry.objects.count() == len(PROBLEMS)
        assert costs_in(read(browser.get(order_page(order, "history")))) == []
        assert costs_in(read(browser.get(order_page(order)))) == []

    def test_the_pages_of_the_shelf_tell_none(self, browser: Client) -> None:
        for page in (*shelf_pages(), SHELF_LIST):
            assert costs_in(read(browser.get(page))) == []
        product = Product.objects.get()
        chosen = {"action": "change_shelf", "_selected_action": [product.pk]}
        asked = browser.post(SHELF_LIST, {**chosen, "is_asked": "1", "sold": "no"})
        assert "Network" in (html := read(asked))
        assert costs_in(html) == []


SHELF_LIST = "/admin/giftcards/product/"


def shelf_pages() -> list[str]:
    """Return the pages of the shelf; the amounts in their values and history occur nowhere else."""
    set_shelf(least_margin=COSTS["price above"])
    kind = make_offer(cost=PRICE, fixed_price=SALE)
    kind.accepted_loss = COSTS["another figure"]
    kind.save()
    kind.product.name = "Network"
    kind.product.margin_fixed = COSTS["highest price"]
    kind.product.save()
    page = f"{SHELF_LIST}{kind.product_id}/change/"
    return ["/admin/giftcards/shelf/", "/admin/giftcards/category/", page]


class TestWithCosts:
    """The counterpart: the same person with the permission sees the costs."""

    def test_the_order_and_the_list_show_what_it_cost(self) -> None:
        order, browser = bought(Status.PARTIALLY_FILLED), person()
        shown = costs_in(read(browser.get(order_page(order))))
        assert {"ordered", "charged", "credited back"} <= set(shown)
        assert "charged" in costs_in(read(browser.get(LIST)))

    def test_the_price_and_the_balance_are_shown(self) -> None:
        _set_balance()
        browser = person()
        expected = ["highest price", "price above", "price above, all"]
        assert costs_in(read(browser.get(order_page(held(), "price")))) == expected
        assert costs_in(read(browser.get(PROVIDER_PAGE))) == ["balance"]
        resolve = read(browser.get(order_page(bought(Status.UNCONFIRMED), "resolve")))
        assert costs_in(resolve) == ["price per card", "another figure"]

    def test_the_pages_of_the_shelf_show_costs_and_margins(self) -> None:
        shown = [costs_in(read(person().get(page))) for page in shelf_pages()]
        assert shown == [["price above"], [], ["price per card", "highest price", "another figure"]]


def _set_balance() -> None:
    ProviderState.objects.current()
    ProviderState.objects.update(balance=COSTS["balance"], balance_read_at=timezone.now())


class TestRoles:
    def test_nobody_may_delete_anything_or_change_more_than_the_shelf(self) -> None:
        codenames = {codename for role in ROLES.values() for codename in role}
        changing = {name for name in codenames if name.startswith(("change_", "delete_"))}
        assert changing == {"change_shelf"}

    def test_support_sees_no_costs_and_accountants_no_codes(self) -> None:
        assert "view_cost" not in ROLES[SUPPORT]
        assert not {"reveal_card", "find_card"} & set(ROLES[ACCOUNTANT])

    def test_the_manager_has_every_permission_of_ours(self) -> None:
        others = {*ROLES[SUPPORT], *ROLES[ACCOUNTANT]}
        assert others < set(ROLES[MANAGER])
        of_ours = Permission.objects.filter(content_type__app_label="giftcards")
        special = of_ours.exclude(codename__regex="^(add|change|delete|view)_")
        assert set(special.values_list("codename", flat=True)) <= set(ROLES[MANAGER])

    @pytest.mark.parametrize("role", ROLES)
    def test_each_role_opens_its_pages_and_no_other(self, role: str) -> None:
        browser, may = sign_in(*ROLES[role]), set(ROLES[role])
        lost, waits, owing = bought(Status.UNCONFIRMED), held(), bought(Status.REJECTED)
        pages = {
            LIST: {"view_order"},
            order_page(lost): {"view_order"},
            ADD: {"add_order"},
            order_page(lost, "resolve"): {"view_order", "resolve_order"},
            order_page(waits, "price"): {"view_order", "resolve_order", "view_cost"},
            order_page(owing, "pay_back"): {"view_order", "settle_refund"},
            "/admin/giftcards/customerrefund/": {"view_customerrefund"},
            PROVIDER_PAGE: {"view_providerstate"},
        }
        statuses = {address: browser.get(address).status_code for address in pages}
        assert statuses == {
            address: 200 if needed <= may else 403 for address, needed in pages.items()
        }


class TestDeleting:
    """Orders, cards and their records are history: nobody can delete them, not even a superuser."""

    def test_no_page_and_no_action_of_the_list_deletes_an_order(self, boss: Client) -> None:
        order = make_guide_order(Status.REJECTED)
        address = order_page(order, "delete")
        assert boss.get(address).status_code == 403
        assert boss.post(address, {"post": "yes"}).status_code == 403
        assert address not in read(boss.get(order_page(order)))
        assert "delete_selected" not in read(boss.get(LIST))
        choice = {"action": "delete_selected", "_selected_action": str(order.pk), "post": "yes"}
        boss.post(LIST, choice)
        assert Order.objects.count() == 1

    def test_no_page_of_the_app_and_no_part_of_one_allows_deleting(self, boss: Client) -> None:
        request = RequestFactory().get("/")
        request.user = get_user_model().objects.get(is_superuser=True)
        pages = [
            model_admin
            for model, model_admin in admin.site._registry.items()
            if model._meta.app_label == "giftcards"
        ]
        parts = [part for one in pages for part in one.get_inline_instances(request)]
        assert len(pages) >= 2
        for one in (*pages, *parts):
            assert not one.has_delete_permission(request), one
            assert not one.has_change_permission(request), one

    @pytest.mark.parametrize("model", [Card, StatusChange, CardReveal, Note, CustomerRefund])
    def test_cards_and_traces_have_no_page_that_deletes_them(
        self, boss: Client, model: type[Any]
    ) -> None:
        order = make_guide_order(Status.PARTIALLY_FILLED)
        store_cards([Arrival(order, CARDS[:1])])
        address = f"/admin/giftcards/{model._meta.model_name}/1/delete/"
        assert boss.post(address, {"post": "yes"}).status_code in {403, 404}
        assert Card.objects.count() == 1

    def test_an_order_with_a_card_or_a_note_cannot_be_deleted_by_code(self) -> None:
        order, other = make_guide_order(Status.PARTIALLY_FILLED), make_guide_order(Status.REJECTED)
        store_cards([Arrival(order, CARDS[:1])])
        Note.objects.create(order=other, text="Asked the provider.", by="amina")
        for one in (order, other):
            with pytest.raises(ProtectedError):
                one.delete()
        with pytest.raises(ProtectedError):
            Order.objects.all().delete()

    def test_a_card_that_was_revealed_and_who_has_seen_it_stay(self, boss: Client) -> None:
        order = make_guide_order(Status.PARTIALLY_FILLED)
        store_cards([Arrival(order, CARDS[:1])])
        user = get_user_model().objects.create_user("karim", is_staff=True)
        CardReveal.objects.create(card=Card.objects.get(), user=user)
        with pytest.raises(ProtectedError):
            Card.objects.get().delete()
        address = reverse("admin:auth_user_delete", args=[user.pk])
        boss.post(address, {"post": "yes"})
        assert get_user_model().objects.filter(pk=user.pk).exists()
