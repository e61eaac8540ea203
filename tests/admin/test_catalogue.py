"""The catalogue pages: which costs, prices, margins and recent changes staff can see."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.catalogue import keep_current, keep_prices, offers
from giftcards.models import OfferChange, Product, ProductType
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.builders import make_offer, make_order, set_rule, set_shelf
from tests.pages import START, element, facts_of, plain, read, section, sign_in, text, tiles
from tests.stage import ago, refill_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Conf = Callable[..., None]
LIST = "/admin/giftcards/product/"
RULE = {"margin_percent": 10, "round_to": 10, "least_margin": 40}


def look(client: Client, address: str) -> str:
    return plain(text(read(client.get(address))))


def page(kind: ProductType) -> str:
    return f"{LIST}{kind.product_id}/change/"


def move(kind: ProductType, old: Any, new: Any, *, days: int = 0, price: Any = None) -> None:
    """Record that the provider changed the cost of the type ``days`` ago.

    ``price`` is the price for customers at that time.
    """
    at = timezone.now() - timedelta(days=days)
    old, new = (None if price is None else f"{price:.2f}" for price in (old, new))
    OfferChange.objects.create(type=kind, what="price", old=old, new=new, at=at, price=price)


def fail(kind: ProductType) -> Decimal:
    """A shop's price rule that contains a mistake."""
    return Decimal(1) / 0


@pytest.mark.parametrize(
    ("permissions", "pricing", "seen", "unseen"),
    [
        (["view_cost"], RULE, ["490 DA", "540 DA", "50 DA"], []),
        (["view_cost"], None, ["490 DA"], ["540 DA", "Earned", "Price in the shop"]),
        ([], RULE, ["540 DA"], ["490 DA", "50 DA", "Margin", "Earned", "10%"]),
        ([], None, [], ["490 DA", "540 DA", "Price in the shop"]),
        (["view_cost"], {"margin_percent": 1, "least_margin": 5}, ["490 DA", "not for sale"], []),
        (["view_cost"], f"{__name__}.fail", ["490 DA", "not for sale"], []),
    ],
)
def test_who_may_see_costs_sees_the_margin(
    set_conf: Conf, permissions: list[str], pricing: Any, seen: list[str], unseen: list[str]
) -> None:
    set_rule(set_conf, pricing)
    kind = make_offer()
    keep_prices()
    html = look(sign_in("view_product", *permissions), page(kind))
    assert [each for each in seen if each not in html] == []
    assert [each for each in unseen if each in html.replace("540 DA", "", not seen)] == []


# For each case: the values of the shop, the product and the type, and whether the type is on the
# shelf.
SHELF: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], bool]] = {
    "in stock": ({}, {}, {}, True),
    "stock unknown": ({"stock_buffer": 9}, {}, {"stock": None}, True),
    "more than is to be left": ({"stock_buffer": 9}, {}, {"stock": 10}, True),
    "priced by the rule": (RULE, {}, {}, True),
    "disabled": ({}, {"is_enabled": False}, {}, False),
    "product hidden": ({}, {"is_sold": False}, {}, False),
    "type hidden": ({}, {}, {"is_sold": False}, False),
    "no more than is to be left": ({"stock_buffer": 10}, {}, {"stock": 10}, False),
    "sold out": ({}, {}, {"stock": 0}, False),
    "without a price": ({}, {}, {"cost": None}, False),
    "read long ago": ({}, {}, {"read_at": ago(8 * 24 * 3600)}, False),
    "taken off by the rule": ({**RULE, "least_margin": 400}, {}, {}, False),
    "at a loss": ({}, {}, {"fixed_price": 480}, False),
}


@pytest.mark.parametrize(("shelf", "product", "values", "is_on_shelf"), SHELF.values(), ids=SHELF)
def test_the_list_its_filter_and_the_page_agree_with_the_shelf(
    shelf: dict[str, Any],
    product: dict[str, Any],
    values: dict[str, Any],
    is_on_shelf: bool,
) -> None:
    set_shelf(**shelf)
    kind = make_offer(**values)
    Product.objects.update(**{"name": "PlayStation", **product})
    staff = sign_in("view_product")
    assert offers().exists() == is_on_shelf
    for choice, is_listed in (("yes", is_on_shelf), ("no", not is_on_shelf)):
        assert ("PlayStation" in look(staff, f"{LIST}?shelf={choice}")) == is_listed
    column = re.findall(r"field-on_shelf.*?icon-(yes|no)", read(staff.get(LIST)), re.DOTALL)
    assert column == ["yes" if is_on_shelf else "no"]
    html = read(staff.get(page(kind)))
    word = "Yes" if is_on_shelf else "No"
    assert facts_of(html, "product")["For sale"] == word
    assert [row["For sale"] for row in section(html, "types")] == [word]


def test_a_product_with_one_type_on_the_shelf_is_there_and_shows_the_cards_that_are_left() -> None:
    make_offer("type_001", stock=0)
    kind = make_offer("type_002", stock=1_234)
    make_order(Status.PENDING, type_id="type_002")
    html = read(sign_in("view_product").get(page(kind)))
    assert facts_of(html, "product")["For sale"] == "Yes"
    shown = [(row["For sale"], row["In stock"], row["Available"]) for row in section(html, "types")]
    assert shown == [("No", "0", "0"), ("Yes", "1,234", "1,232")]


def test_the_page_of_a_product_tells_what_a_move_did_to_the_margin() -> None:
    set_shelf(**RULE)
    kind = make_offer(cost=Decimal(530))
    move(kind, 480, 490, price=530)
    move(kind, 490, 530, price=540)
    dear = make_offer("type_002", name="PSN 100 DA", cost=Decimal(110))
    move(dear, 400, 110, price=440)
    same = make_offer("type_003", name="PSN 900 DA", cost=Decimal(900))
    move(same, 900, 910)
    move(same, 910, 900)
    boss = sign_in("view_product", "view_cost")
    html = look(boss, page(kind))
    assert "PSN 500 DA: 480 DA → 530 DA, noticed on" in html
    assert "Margin: 50 DA → 60 DA." in html
    assert "PSN 100 DA: 400 DA → 110 DA" in html
    assert "Margin: 40 DA → not for sale." in html
    assert "PSN 900 DA: " not in html
    OfferChange.objects.update(price=None)
    set_shelf(margin_percent=None)
    assert "Margin:" not in look(boss, page(kind))
    assert "noticed on" not in look(sign_in("view_product"), page(kind))


def test_what_is_not_known_of_a_product_is_shown_as_a_dash() -> None:
    set_shelf(**RULE)
    kind = make_offer(cost=None, read_at=None)
    Product.objects.update(types_read_at=None)
    html = read(sign_in("view_product", "view_cost").get(page(kind)))
    assert "None" not in text(html)
    assert facts_of(html, "product")["Prices changed since yesterday"] == "-"


FOUND: dict[str, list[str]] = {
    "": ["PlayStation – PSN 1000 DA", "PlayStation – PSN 500 DA", "Steam – Steam 5 USD"],
    "psn 1000": ["PlayStation – PSN 1000 DA"],
    "type_101": ["Steam – Steam 5 USD"],
    "بلايستيشن": ["PlayStation – PSN 1000 DA", "PlayStation – PSN 500 DA"],
    "xbox": [],
    "500%": [],
}


@pytest.mark.parametrize(("typed", "found"), FOUND.items())
def test_the_shop_chooses_a_type_for_its_product_by_a_part_of_the_name(
    typed: str, found: list[str]
) -> None:
    make_offer("type_002", name="PSN 1000 DA", cost=980)
    make_offer()
    make_offer("type_101", name="Steam 5 USD", product_id="steam")
    Product.objects.filter(product_id="steam").update(name="Steam")
    # Django's autocomplete view can be asked for any foreign key to a type, including one in a
    # shop's model.
    asked = {"app_label": "storefront", "model_name": "purchase", "field_name": "product_type"}
    address = "/admin/autocomplete/"
    for permission in ("view_product", "view_producttype"):
        viewer = sign_in(permission)
        answer = read(viewer.get(address, {**asked, "term": typed}))
        assert sorted(row["text"] for row in json.loads(answer)["results"]) == found
        assert "490" not in answer
    assert sign_in("view_order").get(address, {**asked, "term": typed}).status_code == 403


def test_the_page_of_a_type_is_that_of_its_product() -> None:
    kind = make_offer()
    viewer, list_of_types = sign_in("view_product"), "/admin/giftcards/producttype/"
    assert viewer.get(list_of_types).url == LIST
    assert viewer.get(f"{list_of_types}{kind.pk}/change/").url == page(kind)
    assert viewer.get(f"{list_of_types}0/change/").status_code == 404
    stranger = sign_in("view_order")
    for address in (list_of_types, f"{list_of_types}{kind.pk}/change/"):
        assert stranger.get(address).status_code == 403
    assert list_of_types not in read(viewer.get("/admin/"))


def test_the_list_can_be_filtered_for_prices_that_changed_since_yesterday() -> None:
    for name, days in (("new", 0), ("old", 3)):
        move(make_offer(product_id=name), 480, 490, days=days)
        Product.objects.filter(product_id=name).update(name=f"Product {name}")
    viewer = sign_in("view_product")
    assert "Product old" in look(viewer, LIST)
    html = look(viewer, f"{LIST}?price=changed")
    assert "Product new" in html
    assert "Product old" not in html


@pytest.mark.parametrize(
    ("moves", "sentence", "detail"),
    [
        ([], "", ""),
        ([(480, 490, 3)], "", ""),
        (
            [(480, 490, 0)],
            "1 price has changed since yesterday.",
            "More expensive: 1. Cheaper: 0. No longer for sale: 0.",
        ),
        (
            [(480, 490, 0), (900, 490, 0)],
            "2 prices have changed since yesterday.",
            "More expensive: 1. Cheaper: 1. No longer for sale: 0.",
        ),
    ],
)
def test_staff_are_told_of_prices_that_changed(
    moves: list[tuple[int, int, int]], sentence: str, detail: str
) -> None:
    set_shelf(**RULE)
    for number, (old, new, days) in enumerate(moves):
        move(make_offer(f"type-{number}", cost=Decimal(new)), old, new, days=days)
    finding = CONDITIONS["costs_changed"].judge(Standing())
    assert (finding.sentence if finding else "") == sentence
    assert (finding.explain() if finding else "") == detail


def test_a_person_has_the_catalogue_read_by_the_worker(
    simulator: Simulator, set_conf: Conf
) -> None:
    set_conf(CATALOGUE_INTERVAL=0)
    button, read_it = "Read the catalogue now", f"{LIST}read/"
    viewer, owner = sign_in("view_product"), sign_in("view_product", "change_shelf")
    assert button not in look(viewer, LIST)
    assert viewer.post(read_it).status_code == 403
    assert owner.get(read_it).status_code == 405
    keep_current(lambda: True)
    assert simulator.requests == []
    assert button in look(owner, LIST)
    assert "within a few minutes" in plain(text(read(owner.post(read_it, follow=True))))
    html = look(owner, LIST)
    assert "The catalogue is being read: 0 of 0 products." in html
    assert button not in html
    # The first run has time for one product only. Later runs read the others.
    turns = iter([True])
    keep_current(lambda: next(turns, False))
    assert "The catalogue is being read: 1 of 3 products." in look(owner, LIST)
    for _minute in range(2):
        refill_budget()
        keep_current(lambda: True)
    assert len(simulator.requests) == 1 + 3
    assert button in look(owner, LIST)


def test_staff_are_told_of_new_products_and_find_them() -> None:
    assert CONDITIONS["products_new"].judge(Standing()) is None
    now = timezone.now()
    for name, days in (("new", 0), ("old", 3)):
        kind = make_offer(product_id=name)
        Product.objects.filter(product_id=name).update(name=f"Product {name}")
        at = now - timedelta(days=days)
        OfferChange.objects.create(type=kind, what="new", new="490.00", at=at)
    # The start page reports new cards next to the figures, not as a tile.
    start = read(sign_in("view_product").get(START))
    assert "New cards have been added to 1 product since yesterday" in text(
        element(start, "desk-lines", "ul")
    )
    assert tiles(start) == {}
    finding = CONDITIONS["products_new"].judge(Standing())
    assert finding is not None
    assert finding.sentence == "1 product has new types since yesterday."
    html = look(sign_in("view_product"), f"{LIST}?price=new")
    assert ("Product new" in html, "Product old" in html) == (True, False)


@pytest.mark.parametrize("why", ["", "disabled", "hidden"])
def test_a_price_of_what_is_not_sold_any_more_has_not_moved(why: str) -> None:
    kind = make_offer()
    move(kind, 480, 490)
    Product.objects.update(is_enabled=why != "disabled", is_sold=why != "hidden")
    html = look(sign_in("view_product", "view_cost"), page(kind))
    assert ("480 DA → 490 DA" in html) == (why == "")
