"""The start page: one tile for each condition that holds, with a link to exactly its rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin import AdminSite
from django.test import Client
from django.urls import path, reverse
from django.utils import timezone, translation

from giftcards.admin import DeskAdmin, OrderAdmin
from giftcards.engine.approvals import put_on_hold_for_price, put_on_hold_for_review
from giftcards.engine.task_queue import ensure_schedule
from giftcards.models import Desk, Order, ProviderState
from giftcards.rules.problems import Problem
from giftcards.rules.roles import ROLES
from giftcards.rules.states import Kind, Status
from giftcards.settlement import record_refund
from giftcards.watch.conditions import CONDITIONS, Standing
from giftcards.watch.core_conditions import CONDITIONS as CORE
from giftcards.watch.overview import Waiting
from tests.builders import PARTIAL, PRODUCT, REFUNDED, TYPE, make_guide_order, make_order, settle
from tests.pages import (
    START,
    count_queries,
    element,
    for_others,
    listed,
    order_page,
    plain,
    read,
    references,
    sign_in,
    text,
    tiles,
)
from tests.stage import ago, record_order, refuse_key

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def at_work(db: None) -> None:
    """Make background work appear healthy, so that a test causes every problem itself."""
    ensure_schedule()
    ProviderState.objects.note_tick()


def _with_problem() -> None:
    _on_hold_for_price()
    order = settle("w-2", PARTIAL)
    order.replace_problems(Kind.ANSWER, [Problem("figure_unknown", {"field": "price_per_card"})])


def _unconfirmed() -> None:
    lost: Any = {"status": Status.UNCONFIRMED, "problems": [Problem("answer_lost")]}
    make_order(reference="w-1", **lost, due_at=None)
    make_order(reference="w-2", **lost, due_at=timezone.now())


def _recorded(reference: str) -> Order:
    return record_order(reference=reference, product_id=PRODUCT, type_id=TYPE, quantity=5)


def _on_hold_for_price() -> None:
    put_on_hold_for_price(_recorded("h-1"), price=Decimal(570), ceiling=Decimal(550))
    _recorded("h-2")


def _on_hold_for_review() -> None:
    put_on_hold_for_review(_recorded("w-1"), objection="A large order.")
    _recorded("w-2")


def _owed() -> None:
    settle("w-1", PARTIAL, sale_price=Decimal(550))
    settle("w-2", REFUNDED, sale_price=Decimal(550))
    settle("w-3", PARTIAL)


def _delayed() -> None:
    make_guide_order(Status.DELAYED, reference="w-1")


def _silent() -> None:
    ProviderState.objects.update(outages=5, failed_at=timezone.now(), succeeded_at=ago(3600))
    pause = {"pause": ProviderState.Pause.OUTAGE, "paused_at": ago(5), "paused_until": ago(-30)}
    ProviderState.objects.update(**pause)


def _no_worker() -> None:
    ProviderState.objects.update(last_tick_at=ago(3600))


# The condition, a function that causes it, the title of the tile, the beginning of its text, and
# the number of rows if the tile is about rows.
ON_HOLD = [
    ("order_problems", _with_problem, "1 order with a problem", "Each order's page shows", 1),
    ("orders_unconfirmed", _unconfirmed, "2 unconfirmed orders", "Somebody has to record what", 2),
    (
        "on_hold_price",
        _on_hold_for_price,
        "1 order on hold because of its price",
        "For each order, approve the price",
        1,
    ),
    (
        "on_hold_review",
        _on_hold_for_review,
        "1 order on hold for review",
        "Approve or",
        1,
    ),
    (
        "customers_owed",
        _owed,
        "2 orders whose customers are owed money",
        "The total is 3,850 DA. For each order, order the",
        2,
    ),
    ("orders_delayed", _delayed, "1 delayed order", "The app checks these orders again", 1),
    (
        "access_refused",
        refuse_key,
        "Urgent Requests to the provider are paused",
        "The provider ref",
        None,
    ),
    (
        "provider_failing",
        _silent,
        "Urgent Requests to the provider are failing",
        "The provider does not answer. The app repeats the requests automatically.",
        None,
    ),
    ("worker", _no_worker, "Urgent Background work has stopped", "Background work has", None),
]


def test_every_condition_of_the_core_that_staff_are_told_of_is_tried_here_or_elsewhere() -> None:
    elsewhere = {
        "queue",
        "daily_work_overdue",
        "api_keys",
        "encryption_keys",
        "balance",
        "costs_changed",
        "products_new",
        "reference_refused",
    }
    told = {each.code for each in CORE if each.headline and each.is_on_start_page}
    assert told == {row[0] for row in ON_HOLD} | elsewhere


@pytest.mark.parametrize(
    ("code", "make", "title", "sentence", "rows"), ON_HOLD, ids=[row[0] for row in ON_HOLD]
)
def test_what_is_wrong_has_a_tile_that_leads_to_exactly_its_rows(
    code: str, make: Callable[[], Any], title: str, sentence: str, rows: int | None, boss: Client
) -> None:
    make()
    found = tiles(read(boss.get(START)))
    assert title in found
    shown, address = found[title]
    assert plain(shown).startswith(sentence)
    condition = CONDITIONS[code]
    apart = "&attention=none" if condition.overlaps_problems else ""
    assert address == reverse(f"admin:{condition.page}") + condition.query + apart
    if rows is None:
        assert boss.get(address).status_code == 200
    else:
        assert listed(boss, address) == rows


def test_when_nothing_is_wrong_the_page_says_so_and_shows_no_tile(boss: Client) -> None:
    html = read(boss.get(START))
    assert "Nothing is waiting for you" in text(html)
    assert tiles(html) == {}
    assert "There have been no orders today." in text(html)


def test_the_day_is_told_in_one_line_and_the_margin_to_those_who_may_see_costs(
    boss: Client,
) -> None:
    settle("w-1", PARTIAL, sale_price=Decimal(550))
    settle("w-2", PARTIAL, sale_price=Decimal(550))
    settle("w-3", PARTIAL)
    yesterday = settle("w-0", PARTIAL, sale_price=Decimal(550))
    day = timedelta(days=1)
    Order.objects.filter(pk=yesterday.pk).update(
        created_at=timezone.now() - day, finalized_at=timezone.now() - day
    )
    line = "Today: 3 orders · 9 cards delivered · sold for 3,300 DA"
    assert f"{line} · margin 360 DA" in plain(text(read(boss.get(START))))
    seen = plain(text(read(sign_in("view_order").get(START))))
    assert line in seen
    assert "margin" not in seen


@pytest.mark.parametrize(
    ("permissions", "titles"),
    [
        (("view_order",), set()),
        (("view_order", "check_order"), {"1 order with a problem"}),
        (("view_order", "settle_refund"), {"1 order whose customer is owed money"}),
        (("view_cardreveal",), None),
    ],
)
def test_each_role_sees_its_own_tiles(
    permissions: tuple[str, ...], titles: set[str] | None
) -> None:
    order = settle("w-1", PARTIAL, sale_price=Decimal(550))
    order.replace_problems(Kind.ANSWER, [Problem("figure_unknown", {"field": "price_per_card"})])
    client = sign_in(*permissions)
    html = read(client.get(START))
    assert ('class="giftcards-desk"' in html) == (titles is not None)
    assert ('giftcards/desk/"' in html) == (titles is not None)
    status = client.get("/admin/giftcards/desk/").status_code
    assert status == (403 if titles is None else 200)
    assert set(tiles(html)) == (titles or set())


def _of_each_kind() -> None:
    """Make orders for each kind of task, some of which also have a problem of another kind."""
    trouble = Problem("figure_unknown", {"field": "price_per_card"})
    _on_hold_for_price()
    put_on_hold_for_review(_recorded("h-3"), objection="A large order.")
    lost: Any = {"status": Status.UNCONFIRMED, "problems": [Problem("answer_lost")]}
    make_order(reference="l-1", **lost, due_at=None)
    make_order(reference="l-2", status=Status.UNCONFIRMED)
    for number, answer in enumerate((PARTIAL, REFUNDED, PARTIAL)):
        order = settle(f"o-{number}", answer, sale_price=Decimal(550))
        if number:
            order.replace_problems(Kind.ANSWER, [trouble])
    partly = settle("p-2", PARTIAL, sale_price=Decimal(550))
    record_refund(partly, amount=100, reference="r-2")
    make_guide_order(Status.DELAYED, reference="d-1", problems=[trouble])
    make_guide_order(Status.DELAYED, reference="d-2")


@pytest.mark.parametrize("role", [*ROLES, ""])
def test_an_order_is_on_one_tile_and_orders_to_do_are_as_many_everywhere(
    role: str, boss: Client
) -> None:
    _of_each_kind()
    client = sign_in(*ROLES[role]) if role else boss
    html = read(client.get(START))
    found = tiles(html)
    if role == "Gift card support":
        found |= for_others(html)
    on_tiles = [name for shown, _to in found.values() for name in re.findall(r"[a-z]-\d", shown)]
    assert len(on_tiles) == len(set(on_tiles))
    assert {title: listed(client, to) for title, (_shown, to) in found.items()} == {
        title: int(title.split()[0]) for title in found
    }
    to_do = [listed(client, to) for _shown, to in found.values() if "?attention=" in to]
    number = listed(boss, "/admin/giftcards/order/?attention=needed")
    assert number == 6
    assert sum(to_do) == (number if "check_order" in ROLES.get(role, ["check_order"]) else 0)
    assert Order.objects.needing_attention().count() == Waiting.read().needing_attention == number
    told = CONDITIONS["attention"].judge(Standing())
    assert told
    assert told.count == number


@pytest.mark.parametrize(
    ("role", "own", "of_others", "asked"),
    [
        (
            "Gift card support",
            set(),
            {"1 order on hold because of its price": "Gift card manager"},
            "Gift card manager",
        ),
        (
            "Gift card accountant",
            {"1 order whose customer is owed money"},
            {},
            "Gift card manager",
        ),
        (
            "Gift card manager",
            {"1 order on hold because of its price", "1 order whose customer is owed money"},
            {},
            "",
        ),
    ],
)
def test_what_a_person_may_not_do_is_one_line_that_says_who_may(
    role: str, own: set[str], of_others: dict[str, str], asked: str
) -> None:
    _on_hold_for_price()
    owed = settle("w-1", PARTIAL, sale_price=Decimal(550))
    client = sign_in(*ROLES[role])
    html = read(client.get(START))
    assert set(tiles(html)) == own
    lines = for_others(html) if of_others else {}
    assert {title: plain(roles) for title, (roles, _to) in lines.items()} == of_others
    sentence = "If you lack a permission, ask a colleague with this role: "
    asking = f"{sentence}{asked}." if asked else ""
    page = plain(text(read(client.get(order_page(owed)))))
    assert (sentence in page) == bool(asked)
    assert asking in page


@pytest.mark.parametrize(
    ("values", "told"),
    [
        # One sweep failed a few seconds ago.
        ({"outages": 1}, "orders are waiting. The provider does not answer."),
        ({"outages": 0}, ""),
    ],
)
def test_the_page_says_within_a_minute_that_nothing_can_be_bought(
    values: dict[str, Any], told: str
) -> None:
    ProviderState.objects.update(failed_at=ago(4), succeeded_at=ago(9), **values)
    _recorded("w-1")
    _recorded("w-2")
    _on_hold_for_price()
    Order.objects.filter(reference="h-2").delete()
    shown = plain(text(read(sign_in("view_order").get(START))))
    assert ("Cards cannot be bought at the moment. 2 orders are waiting." in shown) == bool(told)
    assert told in shown
    assert "Cards cannot be bought" not in read(sign_in("view_product").get(START))


def test_orders_that_wait_for_too_long_are_listed_without_those_on_hold(boss: Client) -> None:
    _on_hold_for_price()
    Order.objects.update(queued_at=ago(600), due_at=ago(600))
    Order.objects.filter(reference="h-1").update(due_at=None)
    make_guide_order(Status.HANDLING, reference="l-1", due_at=ago(600))
    make_guide_order(Status.HANDLING, reference="l-2", due_at=ago(60))
    shown, to = tiles(read(boss.get(START)))[
        "Urgent Orders or notifications have been waiting for too long"
    ]
    assert plain(shown).startswith("2 orders should have been sent or checked by now.")
    assert references(read(boss.get(to))) == ["l-1", "h-2"]


def test_the_figures_of_two_weeks_are_for_who_may_see_the_report(boss: Client) -> None:
    settle("w-1", PARTIAL, sale_price=Decimal(550))
    seen = read(boss.get(START))
    assert len(re.findall("<title>", element(seen, "giftcards-plot", "svg"))) == 1
    assert "giftcards-funds" in seen
    for permission in ("view_order", "view_product"):
        other = read(sign_in(permission).get(START))
        assert ("giftcards-plot" in other) == (permission == "view_order")
        assert "giftcards-funds" not in other


def test_every_tile_says_what_to_do() -> None:
    # Their details say what to do.
    detailed = {"access_refused", "balance"}
    shown = {code for code, one in CONDITIONS.items() if one.headline and one.is_on_start_page}
    assert {code for code in shown - detailed if not CONDITIONS[code].remedy} == set()


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_open_whatever_its_tiles_link_to(role: str) -> None:
    _owed()
    _silent()
    _no_worker()
    client = sign_in(*ROLES[role])
    found = tiles(read(client.get(START))).values()
    assert found
    assert {client.get(address).status_code for _text, address in found if address} <= {200}
    # Support staff see the tile about the provider, but without a link, because they may not open
    # that page.
    told = tiles(read(client.get(START))).get("Urgent Background work has stopped")
    assert (told is not None and told[1] == "") == (role == "Gift card support")


def test_a_tile_names_its_first_orders_and_counts_the_others(boss: Client) -> None:
    for number in range(7):
        make_guide_order(Status.DELAYED, reference=f"w-{number}")
    html = read(boss.get(START))
    assert "and 2 more" in text(html)
    named = re.findall(r'<a href="([^"]*/change/)"><bdi>w-\d', html)
    assert len(named) == 5
    assert boss.get(named[0]).status_code == 200


def test_a_number_that_is_cut_off_says_so(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("watch.conditions", "watch.core_conditions"):
        monkeypatch.setattr(f"giftcards.{module}.MOST", 2)
    for number in range(4):
        settle(f"w-{number}", PARTIAL, sale_price=Decimal(550))
    shown, _address = tiles(read(boss.get(START)))[
        "2 orders whose customers are owed money (at least)"
    ]
    assert plain(shown).startswith("The total is more than 2,200 DA.")


def test_the_number_of_queries_does_not_grow(boss: Client) -> None:
    settle("w-1", PARTIAL, sale_price=Decimal(550))
    few = count_queries(boss, START)
    for number in range(2, 8):
        settle(f"w-{number}", PARTIAL, sale_price=Decimal(550))
    assert count_queries(boss, START) == few


def test_the_menu_begins_with_the_page_in_each_language(boss: Client) -> None:
    for language in ("en", "fr", "ar"):
        with translation.override(language):
            apps = admin.site.get_app_list(boss.get(START).wsgi_request, "giftcards")
            first = apps[0]["models"][0]
        assert first["object_name"] == "Desk"
        assert "Nothing is waiting for you" in text(read(boss.get(first["admin_url"])))


class BranchOrderAdmin(OrderAdmin):
    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).exclude(reference="other")


branch = AdminSite(name="branch")
# Several sites can have the same name. The tiles have to be those of the site that shows the page.
twins = [AdminSite(name="branch"), AdminSite()]
branch.register(Order, BranchOrderAdmin)
branch.register(Desk, DeskAdmin)
branch.index_template = "admin/giftcards/index.html"
urlpatterns = [path("branch/", branch.urls), path("admin/", admin.site.urls)]


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("page", ["/branch/", "/branch/giftcards/", "/branch/giftcards/desk/"])
def test_a_site_that_hides_orders_neither_counts_nor_adds_them_up(page: str, boss: Client) -> None:
    settle("mine", PARTIAL, sale_price=Decimal(550))
    settle("other", REFUNDED, sale_price=Decimal(550))
    refuse_key()
    html = read(boss.get(page))
    # The tile has no link because this site does not register the provider's page.
    assert tiles(html)["Urgent Requests to the provider are paused"][1] == ""
    shown, address = tiles(html)["1 order whose customer is owed money"]
    assert address == "/branch/giftcards/order/?refund=owed&attention=none"
    assert "The total is" not in shown
    assert "other" not in text(html).split("Waiting for you")[1].split("Gift cards")[0]
    assert "Today" not in text(html)


@pytest.mark.urls(__name__)
def test_the_index_of_a_site_is_left_alone_unless_it_names_the_template(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing is waiting for you" in text(read(boss.get("/branch/")))
    monkeypatch.setattr(branch, "index_template", None)
    assert 'class="giftcards-desk"' not in read(boss.get("/branch/"))
