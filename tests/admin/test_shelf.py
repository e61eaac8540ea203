"""The pages on which an owner sets margins, fixed prices, and what is sold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from html import unescape
from threading import Barrier
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from giftcards.catalogue import keep_prices, offers
from giftcards.models import Category, Product, ProductType, Shelf, ShelfChange
from tests.builders import PRICE, TYPE, category, change_cost, make_offer, set_rule, set_shelf
from tests.pages import errors, facts_of, plain, read, section, sign_in, text, told
from tests.stage import in_threads

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Conf = Callable[..., None]
SHOP, CATEGORIES = "/admin/giftcards/shelf/", "/admin/giftcards/category/"
PRODUCTS = "/admin/giftcards/product/"
NOTHING_SAVED = "Somebody else has changed these values in the meantime, so nothing was saved."
OWNER = ("view_product", "change_shelf", "view_cost")


def page_of(row: Any) -> str:
    """Return the page on which the values of a row are set."""
    if isinstance(row, ProductType):
        return f"{PRODUCTS}{row.product_id}/change/"
    return (
        f"{PRODUCTS}{row.pk}/change/"
        if isinstance(row, Product)
        else (CATEGORIES if isinstance(row, Category) else SHOP)
    )


def owner(**options: Any) -> Client:
    return sign_in(*OWNER, **options)


def fields(html: str) -> dict[str, str]:
    """Return what the forms of the page would submit without any changes."""
    found = {}
    for tag in re.findall(r"<input\b[^>]*>", html):
        name, value = (re.search(rf' {key}="([^"]*)"', tag) for key in ("name", "value"))
        kind = re.search(r' type="(\w+)"', tag)
        is_box = kind is not None and kind[1] in {"checkbox", "submit"}
        if name and not (is_box and " checked" not in tag):
            found[name[1]] = unescape(value[1]) if value else "on" if is_box else ""
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', html, re.DOTALL):
        chosen = re.search(r'<option value="([^"]*)" selected>', options)
        found[name] = chosen[1] if chosen else ""
    found.pop("csrfmiddlewaretoken", None)
    return found


def field(row: Any, name: str) -> str:
    return f"{row._meta.model_name}-{row.pk}-{name}"


def typed(row: Any, **values: Any) -> dict[str, Any]:
    return {field(row, name): value for name, value in values.items()}


def ask(browser: Client, address: str, values: dict[str, Any], **options: Any) -> Any:
    """Type the values into the page, and press "Continue"."""
    posted = {**fields(read(browser.get(address))), **values}
    return browser.post(address, {k: v for k, v in posted.items() if v is not None}, **options)


def save(browser: Client, asked: Any, **values: Any) -> Any:
    """Press "Save" on the preview."""
    address = f"{asked.request['PATH_INFO']}?{asked.request['QUERY_STRING']}"
    return browser.post(address, {**fields(read(asked)), **values}, follow=True)


def change(browser: Client, row: Any, **values: Any) -> Any:
    return save(browser, ask(browser, page_of(row), typed(row, **values)))


def page_numbers(html: str) -> list[int]:
    return [int(number) for number in re.findall(r'<a href="\?p=(\d+)"', html)]


def copied(kind: ProductType, **values: Any) -> ProductType:
    kept = {field.attname: getattr(kind, field.attname) for field in kind._meta.concrete_fields}
    return ProductType(**{**kept, "id": None, **values})


def test_a_margin_of_the_shop_is_previewed_and_then_saved() -> None:
    set_shelf(margin_percent=10)
    make_offer()
    make_offer("dear", name="PSN 900 DA", cost=Decimal(900))
    browser, shelf = owner(name="amina"), Shelf.objects.get()
    asked = ask(browser, SHOP, typed(shelf, margin_percent="12", round_to="5"))
    html = read(asked)
    assert section(html, "changes") == [
        {"Value": "shop – Margin in per cent", "Before": "10%", "After": "12%"},
        {"Value": "shop – Round up to a multiple of", "Before": "0 DA", "After": "5 DA"},
    ]
    assert facts_of(html, "effects") == {"More expensive": "2 cards"}
    card = {"Card": "PlayStation – PSN 500 DA", "Cost per card": "490 DA"}
    assert section(html, "effects")[0] == {
        **card,
        "Price now": "539 DA",
        "New price": "550 DA",
        "Effect": "+11 DA",
    }
    assert ProductType.objects.get(type_id="dear").price == 990
    assert told(save(browser, asked)) == ["Saved. 2 prices have changed."]
    assert [kind.price for kind in ProductType.objects.order_by("cost")] == [550, 1_010]
    [_rounding, margin, _first] = section(read(browser.get(SHOP)), "history")
    assert {**margin, "When": ""} == {
        "When": "",
        "Who": "amina",
        "Value": "Margin in per cent",
        "Before": "10%",
        "After": "12%",
    }


LEVELS: dict[str, Callable[[ProductType], Any]] = {
    "category": lambda kind: kind.product.category,
    "product": lambda kind: kind.product,
    "type": lambda kind: kind,
}


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_has_a_margin_in_per_cent_or_in_dinars(level: str) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser, row = owner(), LEVELS[level](kind)
    for values, price in (
        ({"margin_percent": "20"}, Decimal(588)),
        ({"margin_percent": "", "margin_fixed": "9.50"}, Decimal("499.50")),
        ({"margin_fixed": ""}, Decimal(539)),
    ):
        assert told(change(browser, row, **values)) == ["Saved. 1 price has changed."]
        assert ProductType.objects.get().price == price


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_not_sold_leaves_the_shelf_and_returns(level: str) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser, row = owner(), LEVELS[level](kind)
    yes, no = ("on", None) if level == "category" else ("true", "false")
    asked = ask(browser, page_of(row), typed(row, is_sold=no))
    [line] = section(read(asked), "effects")
    assert line["Effect"] == (
        "The card will no longer be for sale. This card is not sold in your shop."
    )
    assert told(save(browser, asked)) == ["Saved. 0 prices have changed."]
    assert not offers().exists()
    asked = ask(browser, page_of(row), typed(row, is_sold=yes))
    assert section(read(asked), "effects")[0]["Effect"] == "The card will be for sale."
    save(browser, asked)
    assert offers().exists()


def test_an_empty_field_shows_what_it_inherits_and_from_where(set_conf: Conf) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    games = category("Games")
    Product.objects.update(category=games)
    browser = owner()

    def inherited() -> tuple[str, str]:
        html = read(browser.get(page_of(kind)))
        hint = facts_of(html, "sale")["Margin"].partition("this applies: ")[2]
        return hint, section(html, "types")[0]["Price in the shop"]

    assert inherited() == ("10%, from the shop.", "539 DA10%, from the shop")
    change(browser, games, margin_fixed="50")
    assert inherited() == (
        "50 DA, from the category Games.",
        "540 DA50 DA, from the category Games",
    )
    change(browser, kind.product, margin_percent="7.5")
    assert inherited()[1] == "526.75 DA7.5%, as set for the product"
    change(browser, kind, margin_percent="8")
    assert inherited()[1] == "529.20 DA8%"
    change(browser, kind, fixed_price="600")
    assert inherited()[1] == "600 DAfixed price"
    html = read(browser.get(CATEGORIES))
    assert [row["At present"] for row in section(html, "categories")] == [
        "10%, from the shop",
        "50 DA",
    ]
    set_conf(PRICING=f"{__name__}.fail")
    html = read(browser.get(CATEGORIES))
    assert section(html, "categories")[0]["At present"] == "the rule in your settings"
    assert "Your settings contain a rule for prices," in text(read(browser.get(SHOP)))


def test_a_price_below_cost_is_saved_only_by_who_knows_it() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    asked = ask(browser, page_of(kind), typed(kind, fixed_price="480"))
    html = read(asked)
    assert facts_of(html, "effects")["Sold below cost"] == "1 card"
    assert section(html, "effects")[0]["Effect"] == "Loss per card: 10 DA"
    refused = save(browser, asked)
    assert (
        "Nothing was saved. To save the changes, confirm that cards will be sold below their cost."
    ) in text(read(refused))
    assert ProductType.objects.get().fixed_price is None
    assert told(save(browser, refused, accepts_loss="on")) == ["Saved. 1 price has changed."]
    kind = ProductType.objects.get()
    assert (kind.price, kind.accepted_loss) == (480, 10)
    # Hiding the card loses nothing. Pricing or selling it while it is hidden needs another
    # confirmation.
    assert told(change(browser, kind, is_sold="false")) == ["Saved. 0 prices have changed."]
    for values in ({"fixed_price": "470"}, {"is_sold": "true"}):
        assert "Sold below cost" in facts_of(
            read(ask(browser, page_of(kind), typed(kind, **values))), "effects"
        )
    # A larger loss needs a decision of its own.
    change_cost(kind.type_id, Decimal(500))
    assert ProductType.objects.get().price is None
    change(browser, kind, fixed_price="510")
    kind = ProductType.objects.get()
    assert (kind.price, kind.accepted_loss) == (510, 0)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"margin_percent": "-1"}, "greater than or equal to 0"),
        ({"margin_percent": "1001"}, "less than or equal to 1000"),
        ({"margin_percent": "12,5"}, "Enter an amount such as 550"),
        ({"margin_percent": "١٢"}, "Enter an amount such as 550"),
        ({"margin_percent": "1e3"}, "Enter an amount such as 550"),
        ({"margin_percent": "NaN"}, "Enter an amount such as 550"),
        ({"margin_percent": "12.345"}, "no more than 2 decimal places"),
        ({"margin_fixed": "99999999999"}, "no more than"),
        (
            {"margin_percent": "5", "margin_fixed": "5"},
            "Enter only one margin, either in per cent or in dinars.",
        ),
        ({"fixed_price": "0"}, "greater than or equal to 0.01"),
        ({"fixed_price": "9999999999999999"}, "no more than"),
        ({"is_sold": "perhaps"}, ""),
    ],
)
def test_bad_input_gets_a_message_and_changes_nothing(values: dict[str, str], error: str) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    answer = ask(browser, page_of(kind), typed(kind, **values), follow=True)
    html = read(answer)
    assert error in plain(" ".join(errors(html)))
    assert bool(errors(html)) == bool(error)
    assert "Please correct" in text(html) or not error
    # The typed values are still shown.
    if error:
        assert fields(html)[field(kind, next(iter(values)))] == next(iter(values.values()))
    assert not ShelfChange.objects.exclude(by="").exists()
    assert ProductType.objects.get().price == 539


def test_a_price_that_would_be_too_large_leaves_the_shelf_and_says_so() -> None:
    kind = make_offer(cost=Decimal(999999999999))
    asked = ask(owner(), page_of(kind), typed(kind, margin_percent="1000"))
    assert section(read(asked), "effects")[0]["Effect"].endswith("The price would be too large.")


def test_two_people_with_the_same_margin_do_not_overwrite_each_other() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    first, second = owner(name="amina"), owner(name="karim")
    typed_by_second = {
        **fields(read(second.get(SHOP))),
        **typed(Shelf.objects.get(), margin_percent="15"),
    }
    previewed = ask(second, SHOP, typed(Shelf.objects.get(), margin_percent="14"))
    change(first, Shelf.objects.get(), margin_percent="12")
    now = f"{NOTHING_SAVED} The current values are: shop, Margin in per cent: 12%."
    assert told(second.post(SHOP, typed_by_second, follow=True)) == [now]
    assert told(save(second, previewed)) == [now]
    assert fields(read(second.get(SHOP)))[field(Shelf.objects.get(), "margin_percent")] == "12"
    kind.refresh_from_db()
    assert kind.price == Decimal("548.80")


def test_a_margin_in_dinars_does_not_meet_one_in_per_cent_of_somebody_else() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    first, second = owner(), owner()
    page = page_of(kind)
    old = {**fields(read(second.get(page))), **typed(kind, margin_fixed="50")}
    change(first, kind, margin_percent="12")
    assert told(second.post(page, old, follow=True)) == [
        f"{NOTHING_SAVED} The current values are: PlayStation – PSN 500 DA, Margin in per cent:"
        " 12%."
    ]


def test_a_button_that_is_pressed_twice_saves_once_and_says_so() -> None:
    set_shelf(margin_percent=10)
    make_offer()
    browser = owner(name="amina")
    asked = ask(browser, SHOP, typed(Shelf.objects.get(), margin_percent="12"))
    assert told(save(browser, asked)) == ["Saved. 1 price has changed."]
    assert told(save(browser, asked)) == ["These changes were already saved."]
    assert ShelfChange.objects.filter(by="amina").count() == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
@pytest.mark.parametrize("is_same", [True, False])
def test_two_people_who_save_at_the_same_moment_do_not_overwrite_each_other(is_same: bool) -> None:
    set_shelf(margin_percent=10)
    make_offer()
    shelf = Shelf.objects.get()
    people = [owner(name=f"person-{number}") for number in range(3)]
    shown = [
        ask(browser, SHOP, typed(shelf, margin_percent="12" if is_same else f"1{number + 2}"))
        for number, browser in enumerate(people)
    ]
    starts, turns, answers = Barrier(3, timeout=60), iter(range(3)), []

    def press() -> None:
        number = next(turns)
        starts.wait()
        answers.append(" ".join(told(save(people[number], shown[number]))))

    assert in_threads(3, press) == [None] * 3
    [change] = ShelfChange.objects.exclude(by="").filter(what="margin_percent")
    assert Decimal(change.new) == Shelf.objects.get().margin_percent
    # The other people get an explanation, or the preview again.
    assert sorted(answer == "Saved. 1 price has changed." for answer in answers) == [
        False,
        False,
        True,
    ]


def test_two_people_with_different_values_of_one_row_keep_both() -> None:
    set_shelf(margin_percent=10)
    make_offer()
    first, second = owner(), owner()
    old = {**fields(read(second.get(SHOP))), **typed(Shelf.objects.get(), round_to="10")}
    change(first, Shelf.objects.get(), margin_percent="12")
    asked = second.post(SHOP, old)
    save(second, asked)
    shelf = Shelf.objects.get()
    assert (shelf.margin_percent, shelf.round_to) == (12, 10)
    assert ProductType.objects.get().price == 550


def test_a_cost_that_moves_before_the_confirmation_is_shown_first() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    asked = ask(browser, page_of(kind), typed(kind, fixed_price="500"))
    change_cost(kind.type_id, Decimal(510))
    again = save(browser, asked)
    assert "Costs or prices have changed in the meantime," in text(read(again))
    assert ProductType.objects.get().fixed_price is None
    assert facts_of(read(again), "effects")["Sold below cost"] == "1 card"


def test_a_rule_that_raises_does_not_disturb_the_owner_who_saves(set_conf: Conf) -> None:
    set_rule(set_conf, f"{__name__}.fail")
    kind = make_offer(margin_percent=Decimal(10))
    browser = owner()
    asked = ask(browser, page_of(kind), typed(kind, margin_percent=""))
    [line] = section(read(asked), "effects")
    assert line["Effect"].startswith(
        "The card will no longer be for sale. The rule in your settings has not calculated"
    )
    save(browser, asked)
    keep_prices()
    kind = ProductType.objects.get()
    assert (kind.price, kind.margin_percent) == (None, None)
    html = read(browser.get(page_of(kind)))
    assert "The rule in your settings did not return a price." in text(html)


def fail(kind: ProductType) -> Decimal:
    """A shop's price rule that contains a mistake."""
    raise ZeroDivisionError(kind)


def test_a_product_that_the_provider_has_dropped_is_marked_and_can_still_be_set() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    Product.objects.update(is_enabled=False)
    browser = owner()
    html = read(browser.get(page_of(kind)))
    assert facts_of(html, "product")["Sold by the provider"] == "No"
    change(browser, kind.product, margin_percent="20")
    assert Product.objects.get().margin_percent == 20


def test_a_name_of_the_shop_is_in_the_history_and_set_elsewhere() -> None:
    product = make_offer().product
    for name in ("Cartes <b>PSN</b>", ""):
        product.own_name = name
        product.save(by="amina")
    html = read(owner().get(page_of(product)))
    shown = [(row["Before"], row["After"]) for row in section(html, "history")]
    assert shown == [("Cartes <b>PSN</b>", "none"), ("none", "Cartes <b>PSN</b>")]
    assert field(product, "own_name") not in fields(html)


def test_a_stock_buffer_says_how_many_cards_it_takes_off_the_shelf() -> None:
    set_shelf(margin_percent=10, stock_buffer=5)
    make_offer(stock=7)
    make_offer("few", stock=3)
    browser, shelf = owner(), Shelf.objects.get()
    for buffer, counts in (
        ("8", {"No longer for sale because of the stock buffer": "1 card"}),
        ("0", {"Newly for sale": "1 card"}),
    ):
        asked = ask(browser, SHOP, typed(shelf, stock_buffer=buffer))
        assert facts_of(read(asked), "effects") == counts
    assert "The prices stay the same" in text(
        read(ask(browser, SHOP, typed(shelf, stock_buffer="6")))
    )


def test_who_changes_nothing_is_told_so() -> None:
    make_offer()
    browser = owner()
    for address in (SHOP, CATEGORIES, page_of(Product.objects.get())):
        assert told(ask(browser, address, {}, follow=True)) == ["You have not changed anything."]


# For each group of permissions: the pages that open, and the columns that the person may set.
SOLD, BUFFER = {"is_sold"}, {"stock_buffer"}
PRICES = {"margin_percent", "margin_fixed", "round_to", "least_margin", "fixed_price"}
ROLES: list[tuple[tuple[str, ...], set[str], set[str]]] = [
    (OWNER, {SHOP, CATEGORIES, PRODUCTS}, SOLD | BUFFER | PRICES),
    (("view_product", "change_shelf"), {SHOP, CATEGORIES, PRODUCTS}, SOLD | BUFFER),
    (
        ("change_shelf", "view_cost"),
        {SHOP, CATEGORIES},
        SOLD | BUFFER | PRICES - {"fixed_price"},
    ),
    (("view_product", "view_cost"), {PRODUCTS}, set()),
    (("view_product",), {PRODUCTS}, set()),
    (("view_order", "view_cost"), set(), set()),
]


@pytest.mark.parametrize(("permissions", "pages", "columns"), ROLES)
def test_who_may_set_what(permissions: tuple[str, ...], pages: set[str], columns: set[str]) -> None:
    set_shelf(margin_percent=10)
    kind = make_offer(margin_percent=Decimal("11.37"), cost=Decimal("491.37"))
    browser, boss = sign_in(*permissions), owner()
    change(boss, Shelf.objects.get(), margin_percent="13.33")
    found: set[str] = set()
    for address in (SHOP, CATEGORIES, PRODUCTS):
        page = page_of(kind) if address == PRODUCTS else address
        answer = browser.get(page)
        assert answer.status_code == (200 if address in pages else 403)
        posted = {**fields(read(boss.get(page))), field(kind, "is_sold"): "false"}
        if address not in pages or "change_shelf" not in permissions:
            assert browser.post(page, posted).status_code == 403
            assert browser.post(page, {"draft": "x"}).status_code == 403
        if address in pages:
            html = read(answer)
            found |= {name.rpartition("-")[2] for name in fields(html) if name.count("-") == 2}
            found |= {"is_sold"} if "category" in html and "-is_sold" in html else set()
            if "view_cost" not in permissions:
                assert not re.search(r"491\.37|11\.37|13\.33|55\.87", html)
    assert found - {"is_sold"} == columns - {"is_sold"}


def test_who_may_not_see_costs_decides_what_is_sold_and_learns_no_cost() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer(cost=Decimal("491.37"), fixed_price=Decimal(480), accepted_loss=Decimal(20))
    browser = sign_in("view_product", "change_shelf")
    asked = ask(browser, page_of(kind), typed(kind, is_sold="false", fixed_price="1"))
    html = read(asked)
    assert section(html, "effects") == [
        {
            "Card": "PlayStation – PSN 500 DA",
            "Price now": "480 DA",
            "New price": "480 DA",
            "Effect": "The card will no longer be for sale. This card is not sold in your shop.",
        }
    ]
    assert "loss" not in html.replace("gloss", "")
    save(browser, asked)
    kind = ProductType.objects.get()
    assert (kind.is_sold, kind.fixed_price) == (False, 480)
    assert told(change(browser, kind, is_sold="true")) == ["Saved. 0 prices have changed."]
    shown = {row["Value"] for row in section(read(browser.get(page_of(kind))), "history")}
    assert shown == {"Sold here"}


def test_a_confirmation_of_somebody_else_or_of_another_text_saves_nothing() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    asked = ask(owner(), page_of(kind), typed(kind, fixed_price="600"))
    shown = fields(read(asked))
    for browser, draft in ((owner(), shown["draft"]), (owner(), "x")):
        answer = browser.post(page_of(kind), {**shown, "draft": draft}, follow=True)
        assert told(answer) == [
            "This page was open for too long, so nothing was saved. Make the change again."
        ]
    assert ProductType.objects.get().fixed_price is None


def test_a_permission_that_was_taken_back_meanwhile_ends_the_change() -> None:
    from django.contrib.auth.models import Permission

    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    asked = ask(browser, page_of(kind), typed(kind, fixed_price="600"))
    Permission.objects.get(codename="view_cost").user_set.clear()
    assert browser.post(page_of(kind), fields(read(asked))).status_code == 403
    assert ProductType.objects.get().fixed_price is None


def test_a_type_that_was_deleted_meanwhile_keeps_the_others_from_being_saved() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    changes = {**typed(kind.product, margin_percent="20"), **typed(kind, fixed_price="600")}
    asked = ask(browser, page_of(kind), changes)
    kind.delete()
    assert told(save(browser, asked)) == [NOTHING_SAVED]
    assert Product.objects.get().margin_percent is None


def test_the_categories_lead_to_their_texts_for_customers() -> None:
    kind = make_offer()
    html = read(owner().get(page_of(kind.product.category)))
    assert reverse("admin:giftcards_category_redemption", args=[kind.product.category_id]) in html


def test_a_page_without_the_values_it_has_shown_saves_nothing() -> None:
    set_shelf(margin_percent=10)
    kind = make_offer()
    browser = owner()
    for seen in ("", "[]", "{", json.dumps({field(kind, "")[:-1]: 1})):
        answer = ask(
            browser, page_of(kind), {**typed(kind, fixed_price="600"), "seen": seen}, follow=True
        )
        assert told(answer)[0].startswith(NOTHING_SAVED)
    assert ProductType.objects.get().fixed_price is None


def test_each_of_two_thousand_types_can_be_set() -> None:
    set_shelf(margin_percent=10)
    first = make_offer()
    ProductType.objects.bulk_create(
        copied(first, type_id=f"T{n}", cost=PRICE + n) for n in range(1, 2_000)
    )
    browser, last = owner(), ProductType.objects.order_by("cost")[1_999]
    for kind, page in ((first, 1), (last, 10)):
        asked = ask(browser, f"{page_of(kind)}?p={page}", typed(kind, fixed_price="9999"))
        assert told(save(browser, asked)) == ["Saved. 1 price has changed."]
    assert {kind.type_id for kind in offers().filter(price=9_999)} == {TYPE, "T1999"}
    html = read(browser.get(page_of(first)))
    assert [row["Value"] for row in section(html, "history")] == ["Fixed price"] * 2
    assert page_numbers(html) == [*range(1, 11)]


def test_each_of_a_thousand_categories_can_be_set() -> None:
    Category.objects.named([f"Games {n:04}" for n in range(1_000)])
    browser, row = owner(), Category.objects.get(title="Games 0999")
    address = f"{CATEGORIES}?p=5"
    answer = save(browser, ask(browser, address, typed(row, margin_percent="12")))
    assert told(answer) == ["Saved. 0 prices have changed."]
    assert answer.redirect_chain == [(address, 302)]
    row.refresh_from_db()
    assert row.margin_percent == 12


def test_a_page_with_few_rows_has_no_other_pages() -> None:
    assert page_numbers(read(owner().get(page_of(make_offer())))) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"unit": "margin_percent", "margin": "20"}, {588, 1_080}),
        ({"unit": "margin_fixed", "margin": "10"}, {500, 910}),
        ({"unit": "inherited"}, {539, 990}),
        ({"sold": "no"}, set()),
    ],
)
def test_many_products_are_changed_at_once(values: dict[str, str], expected: set[int]) -> None:
    set_shelf(margin_percent=10)
    make_offer()
    make_offer(product_id="other", cost=Decimal(900))
    make_offer(product_id="third", cost=Decimal(100))
    selected = []
    for product in Product.objects.exclude(product_id="third"):
        product.margin_fixed = Decimal(3)
        product.save()
        selected.append(product.pk)
    browser = owner()
    action = {"action": "change_shelf", "_selected_action": selected}
    html = read(browser.post(PRODUCTS, action))
    assert "This changes 2 products" in plain(text(html))
    asked = browser.post(PRODUCTS, {**action, "is_asked": "1", **values})
    assert len(section(read(asked), "effects")) == 2
    save(browser, asked)
    chosen = offers().filter(product__in=selected)
    assert {kind.price for kind in chosen} == expected
    assert ProductType.objects.get(product__product_id="third").price == 110
    assert set(ShelfChange.objects.exclude(by="").values_list("product", flat=True)) == {*selected}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"unit": "margin_percent"}, "Enter the new margin."),
        ({"unit": "margin_percent", "margin": "-3"}, "greater than or equal to 0"),
        ({"unit": "margin_percent", "margin": "x"}, "Enter an amount such as 550"),
        ({"margin": "3"}, "Is the margin in per cent or in dinars?"),
    ],
)
def test_a_change_of_many_that_says_too_little_is_asked_for_again(
    values: dict[str, str], error: str
) -> None:
    make_offer()
    action = {"action": "change_shelf", "_selected_action": [Product.objects.get().pk]}
    html = read(owner().post(PRODUCTS, {**action, "is_asked": "1", **values}))
    assert error in " ".join(errors(html))


def test_the_action_on_many_is_for_who_may_change_the_shelf() -> None:
    make_offer()
    key = Product.objects.get().pk
    posted = {"action": "change_shelf", "_selected_action": [key], "is_asked": "1", "sold": "no"}
    assert "change_shelf" not in read(sign_in("view_product").get(PRODUCTS))
    sign_in("view_product").post(PRODUCTS, posted)
    assert Product.objects.get().is_sold is None
    browser = sign_in("view_product", "change_shelf")
    first = {**posted, "is_asked": ""}
    assert 'name="unit"' not in read(browser.post(PRODUCTS, {**first}))
    save(browser, browser.post(PRODUCTS, posted))
    assert Product.objects.get().is_sold is False
    assert told(browser.post(PRODUCTS, posted, follow=True)) == ["You have not changed anything."]
