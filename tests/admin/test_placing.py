"""Placing orders by hand: the form, its results, and the permissions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import requests
import responses
from django.contrib.admin.models import LogEntry
from django.db import connection, models
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.models import Order, Product, ProductPrices, ProductType, ProviderState
from giftcards.models.orders import OF_GIFT
from giftcards.simulator import Denomination, Simulator
from giftcards.simulator import Product as SoldProduct
from giftcards.statuses import Status
from tests.builders import ODD_AMOUNTS, PRODUCT, TYPE, category, hide, make_offer, set_shelf
from tests.pages import (
    ADD,
    FORM,
    LIST,
    WRITE_IT,
    count_queries,
    errors,
    hidden,
    messages,
    order_page,
    place,
    plain,
    read,
    rows,
    sign_in,
    text,
)
from tests.stage import (
    PRICES,
    PROVIDER,
    PSN,
    ago,
    run_sweep,
    spend_budget,
)

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

OnCommit = Callable[..., Any]
RECORDED = "Order ⁨web-1042⁩ was recorded and is being sent."
REPEATED = "Order ⁨web-1042⁩ has already been recorded. Its cards will not be bought twice."
TAKEN = "This reference is already in use. Use a different reference for a new order."
PRODUCT_URL = f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}"
BALANCE_URL = f"{PROVIDER}/v3/account/balance"


class TestWhoMayOnlyAdd:
    """Staff who may only add orders learn nothing about other people's orders."""

    @pytest.fixture
    def browser(self) -> Client:
        return sign_in("add_order")

    @pytest.mark.parametrize("quantity", ["5", "4"])
    def test_a_reference_of_somebody_else_is_taken_for_staff_who_may_only_add(
        self, browser: Client, boss: Client, quantity: str
    ) -> None:
        confirmed = hidden(read(browser.post(ADD, FORM)))
        place(boss, FORM)
        html = read(browser.post(ADD, {**FORM, "quantity": quantity}))
        late = read(browser.post(ADD, {**confirmed, "quantity": quantity}))
        assert errors(html) == errors(late) == [TAKEN]
        assert f'name="quantity" value="{quantity}"' in html
        if quantity == "4":
            assert errors(read(boss.post(ADD, {**FORM, "quantity": quantity}))) == [TAKEN]
        assert LogEntry.objects.count() == 1
        assert Order.objects.get().quantity == 5

    def test_a_double_click_of_staff_who_may_only_add_is_no_error(self, browser: Client) -> None:
        confirmed = hidden(read(browser.post(ADD, FORM)))
        for said in (RECORDED, REPEATED):
            response = browser.post(ADD, confirmed, follow=True)
            assert response.redirect_chain == [("/admin/", 302)]
            assert messages(read(response)) == [said]
        assert Order.objects.count() == LogEntry.objects.count() == 1
        assert browser.get(LIST).status_code == 403

    @pytest.mark.parametrize("button", ["_save", "_continue", "_addanother"])
    def test_no_button_leads_staff_who_may_only_add_to_the_order(
        self, browser: Client, button: str
    ) -> None:
        response = place(browser, {**FORM, button: "1"})
        assert response["Location"] == (ADD if button == "_addanother" else "/admin/")


# Placing.


def test_placing_an_order_records_it_queues_a_sweep_and_leaves_a_trace(
    boss: Client, django_capture_on_commit_callbacks: OnCommit
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        response = place(boss, FORM)
    order = Order.objects.get()
    assert response["Location"] == order_page(order)
    placed = {name: str(getattr(order, name)) for name in FORM}
    assert placed == {**FORM, "sale_price": "550.00"}
    assert (order.status, order.provider_order_id) == (Status.PENDING, None)
    html = read(boss.get(order_page(order)))
    assert messages(html) == [RECORDED]
    assert "Waiting to be sent" in text(html)
    (queued,) = OrmQ.objects.all()
    task = queued.task
    assert (task["func"], task["args"], task["kwargs"]) == ("giftcards.tasks.sweep", (), {})
    (entry,) = LogEntry.objects.all()
    assert (entry.object_repr, entry.get_change_message()) == ("web-1042", "Added.")


def test_the_add_form_offers_a_new_reference_that_can_be_read_out(boss: Client) -> None:
    def offered() -> str:
        found = re.search(r'name="reference" value="([^"]+)"', read(boss.get(ADD)))
        assert found
        return found[1]

    first = offered()
    assert re.fullmatch(r"[0-9]{6}-[0-9A-Z]{6}", first)
    assert offered() != first


def test_numbers_and_references_are_not_turned_round_on_a_page_in_arabic(boss: Client) -> None:
    inputs = re.findall(r'<input type="(?:text|email)" name="(?!find)[^>]+>', read(boss.get(ADD)))
    assert len(inputs) > 8
    assert [each for each in inputs if ' dir="auto"' not in each] == []


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"quantity": "0"}, ["Ensure this value is greater than or equal to 1."]),
        ({"quantity": "-1"}, ["Ensure this value is greater than or equal to 0."]),
        ({"quantity": "1.5"}, ["Enter a whole number."]),
        ({"quantity": "2001"}, ["Ensure this value is less than or equal to 2000."]),
        ({"quantity": ""}, ["This field is required."]),
        ({"product_id": ""}, ["This field is required."]),
        ({"product_id": "a b"}, ["Use letters, digits and punctuation only, without spaces."]),
        ({"type_id": "\u202etype"}, ["Use letters, digits and punctuation only, without spaces."]),
        ({"type_id": "x\0y"}, ["Null characters are not allowed."]),
        ({"type_id": "x" * 300}, ["Ensure this value has at most 100 characters (it has 300)."]),
        ({"reference": ""}, ["This field is required."]),
        ({"sale_price": "-1"}, ["Ensure this value is greater than or equal to 0."]),
        ({"sale_price": "1.005"}, ["Ensure that there are no more than 2 decimal places."]),
        *(
            ({name: text}, [WRITE_IT])
            for name in ("sale_price", "max_price")
            for text in ODD_AMOUNTS
        ),
        ({"customer_email": "nobody"}, ["Enter a valid email address."]),
        (
            {"customer_email": "a@\u202eexample.com"},
            [
                "Enter one line of text, without control characters or characters that change the"
                " text direction."
            ],
        ),
    ],
)
def test_values_that_cannot_be_ordered_are_refused_by_the_form(
    boss: Client,
    wrong: dict[str, str],
    expected: list[str],
    django_capture_on_commit_callbacks: OnCommit,
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        html = read(boss.post(ADD, {**FORM, **wrong}))
    assert errors(html) == expected
    assert (Order.objects.count(), callbacks) == (0, [])


def test_only_the_line_and_the_sale_can_be_given_in_the_add_form(boss: Client) -> None:
    place(boss, {**FORM, "status": "FULFILLED", "provider_order_id": "x", "problems": "y"})
    order = Order.objects.get()
    assert (order.status, order.provider_order_id, order.problems) == ("PENDING", None, [])
    assert set(re.findall(r' name="(\w+)"', read(boss.get(ADD)))) & {
        field.name for field in Order._meta.get_fields() if isinstance(field, models.Field)
    } == {*FORM, "sale_amount", "max_price", "group", "customer_name", "customer_phone", *OF_GIFT}


def test_the_add_form_is_protected_against_forgery() -> None:
    browser = sign_in(superuser=True, enforce_csrf_checks=True)
    for values in (FORM, {**FORM, "confirmed_card": f"{PRODUCT} {TYPE}"}):
        assert browser.post(ADD, values).status_code == 403
    assert not Order.objects.exists()


# Choosing from the catalogue.


@pytest.fixture
def read_in(simulator: Simulator) -> Simulator:
    """A provider that answers, and a catalogue and balance that were read a moment ago."""
    now = timezone.now()
    read = {"listed_at": now, "types_read_at": now, "asked_at": now}
    hide("Mobile & Internet")
    for key, sold in simulator.catalogue.items():
        named = {"product_id": key, "name": sold.title, "category": category(sold.category)}
        product = Product.objects.create(**named, **read)
        for type_id, kind in sold.types.items():
            values = {"name": kind.name, "cost": kind.price, "stock": kind.stock}
            ProductType.objects.create(product=product, type_id=type_id, read_at=now, **values)
    ProviderState.objects.current()
    ProviderState.objects.update(balance=simulator.balance, balance_read_at=now)
    return simulator


CHOSEN = {"card": f"{PRODUCT} {TYPE}", "quantity": "2", "reference": "web-1042"}


def options(html: str) -> dict[str, list[str]]:
    """Return the choices in the list of cards, by group."""
    found = re.findall(r'<optgroup label="([^"]*)">(.*?)</optgroup>', html, re.DOTALL)
    return {
        plain(label): [plain(text(option)) for option in re.findall(r"<option.*?</option>", group)]
        for label, group in found
    }


def facts(html: str) -> dict[str, str]:
    pairs = re.findall(
        r"<label>(.*?)</label>\s*<div class=\"readonly\">(.*?)</div>", html, re.DOTALL
    )
    return {text(label).rstrip(":"): text(value).replace("\xa0", " ") for label, value in pairs}


def costs(html: str) -> list[list[str]]:
    found = rows(html, "giftcards-breakdown")
    return [[cell.replace("\xa0", " ") for cell in row] for row in found]


def warnings(html: str) -> list[str]:
    found = re.findall(r'<p class="giftcards-warning">(.*?)</p>', html, re.DOTALL)
    return [text(warning) for warning in found]


def button(html: str) -> str:
    found = re.search(r'<button type="submit" class="default.*?</button>', html, re.DOTALL)
    assert found
    return text(found[0]).replace("\xa0", " ")


def asked(simulator: Simulator) -> list[str]:
    return [request.path.split("/")[3] for request in simulator.requests]


def test_cards_are_chosen_by_name_with_price_and_stock(boss: Client, read_in: Simulator) -> None:
    html = read(boss.get(ADD))
    shown = options(html)
    assert list(shown) == ["Gaming – PlayStation Network", "Gaming – Steam"]
    psn = shown["Gaming – PlayStation Network"]
    assert "PSN 500 DA · costs 490 DA · 100,000 in stock" in psn
    assert "PSN 2000 DA · costs 1,960 DA · none in stock" in psn
    assert "Steam 5 USD · costs 1,250.50 DA · 100,000 in stock" in shown["Gaming – Steam"]
    assert "The catalogue was read on" in text(html)
    assert "By ID" in text(html)
    assert read_in.requests == []


@pytest.mark.usefixtures("read_in")
def test_who_may_not_see_costs_sees_the_price_of_the_shop_alone() -> None:
    set_shelf(margin_percent=10, round_to=10)
    browser = sign_in("add_order", "view_order")
    psn = options(read(browser.get(ADD)))["Gaming – PlayStation Network"]
    assert "PSN 500 DA · 540 DA · 100,000 in stock" in psn
    html = read(browser.post(ADD, CHOSEN))
    assert 'name="sale_price" value="540"' in html
    assert not re.search(r"490|980|1,960|1,000,000", text(html).replace("type_", ""))


@pytest.mark.parametrize(
    ("given", "left", "expected"),
    [
        ({}, {}, ("540.00", None)),
        ({}, {"sale_price": "600"}, ("600.00", None)),
        ({}, {"sale_price": ""}, ("None", None)),
        # This price is below the cost, so the order is put on hold, as if the price had been in the
        # first form.
        ({}, {"sale_price": "400"}, ("400.00", "price_above")),
        ({"sale_price": "500"}, {}, ("500.00", None)),
        ({"sale_amount": "1010"}, {}, ("None", None)),
    ],
)
def test_the_confirmation_proposes_the_price_of_the_shop(
    boss: Client,
    read_in: Simulator,
    given: dict[str, str],
    left: dict[str, str],
    expected: tuple[str, str | None],
) -> None:
    set_shelf(margin_percent=10, round_to=10)
    html = read(boss.post(ADD, {**CHOSEN, **given}))
    field = re.search(r'<input type="number" name="sale_price" value="(.*?)"', html)
    assert bool(field) == (not given)
    proposed = {"sale_price": field[1]} if field else {}
    boss.post(ADD, {**hidden(html), **proposed, **left})
    run_sweep()
    order = Order.objects.get()
    held = [problem["code"] for problem in order.problems]
    assert (str(order.sale_price), next(iter(held), None)) == expected


def test_a_proposed_price_that_is_no_amount_is_asked_for_again(
    boss: Client, read_in: Simulator
) -> None:
    set_shelf(margin_percent=10)
    html = read(boss.post(ADD, CHOSEN))
    answer = read(boss.post(ADD, {**hidden(html), "sale_price": "5,40"}))
    assert errors(answer) == [WRITE_IT]
    assert not Order.objects.exists()


@pytest.mark.usefixtures("read_in")
def test_who_may_not_see_costs_sees_no_cost_in_the_form_nor_the_confirmation() -> None:
    browser = sign_in("add_order", "view_order")
    form = read(browser.get(ADD))
    assert "PSN 500 DA · 100,000 in stock" in options(form)["Gaming – PlayStation Network"]
    asked_for = read(browser.post(ADD, CHOSEN))
    for html in (form, asked_for):
        assert not re.search(r"490|980|1,960|1,000,000", text(html).replace("type_", ""))
        assert not re.search(r'value="490[.,"]', html)
    assert "confirmed_price" not in asked_for
    assert button(asked_for) == "Buy 2 cards"
    place(browser, CHOSEN)
    assert Order.objects.get().max_price is None


def test_what_is_not_for_sale_is_not_offered(boss: Client, read_in: Simulator) -> None:
    ProductType.objects.filter(type_id="type_003").update(cost=0)
    ProductType.objects.filter(type_id="TEST_REFUND").update(cost=None)
    Product.objects.filter(name="Steam").update(is_enabled=False)
    shown = options(read(boss.get(ADD)))
    assert list(shown) == ["Gaming – PlayStation Network"]
    names = " ".join(shown["Gaming – PlayStation Network"])
    assert "PSN 500 DA" in names
    assert "PSN 2000 DA" not in names
    assert "TEST_REFUND" not in names


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["This field is required."]),
        ({"product_id": PRODUCT}, ["This field is required."]),
        (
            {"card": f"{PRODUCT} {TYPE}", "type_id": "other"},
            ["Choose a card or enter its IDs, but not both."],
        ),
        ({"card": "one"}, ["Select a valid choice. one is not one of the available choices."]),
        ({"card": "\u202ea b"}, ["Use letters, digits and punctuation only, without spaces."]),
    ],
)
def test_a_card_or_both_of_its_ids_are_needed(
    boss: Client, read_in: Simulator, given: dict[str, str], expected: list[str]
) -> None:
    html = read(boss.post(ADD, {"quantity": "1", "reference": "web-1", **given}))
    assert errors(html) == expected
    assert read_in.requests == []
    assert not Order.objects.exists()


@pytest.mark.usefixtures("read_in")
def test_ids_are_out_of_the_way_unless_something_is_wrong_with_them(boss: Client) -> None:
    # One section is for the IDs and one for gifts.
    assert read(boss.get(ADD)).count("<details") == 2
    wrong = {"quantity": "1", "reference": "web-1", "product_id": PRODUCT}
    assert read(boss.post(ADD, wrong)).count("<details") == 1


def test_an_order_can_be_placed_in_a_pop_up(boss: Client, read_in: Simulator) -> None:
    chosen = {**CHOSEN, "_popup": "1"}
    shown = read(boss.post(f"{ADD}?_popup=1", chosen))
    assert "Welcome" not in text(shown)
    html = read(boss.post(f"{ADD}?_popup=1", hidden(shown)))
    assert "popup_response" in html
    assert f"&quot;value&quot;: &quot;{Order.objects.get().pk}&quot;" in html


@pytest.mark.usefixtures("read_in")
def test_a_card_is_chosen_or_given_by_its_ids_whether_the_catalogue_has_it_or_not(
    boss: Client,
) -> None:
    ids = {"product_id": PRODUCT, "type_id": TYPE}
    for reference, typed in (("web-1", CHOSEN), ("web-2", {**CHOSEN, **ids})):
        place(boss, {**typed, "reference": reference})
        order = Order.objects.get(reference=reference)
        assert order.line == (PRODUCT, TYPE, 2)
        assert (order.product_name, order.type_name) == ("PlayStation Network", "PSN 500 DA")
    ProductType.objects.all().delete()
    Product.objects.filter(name="Steam").delete()
    place(boss, FORM)
    assert Order.objects.get(reference="web-1042").line == (PRODUCT, TYPE, 5)


@pytest.mark.usefixtures("simulator")
def test_without_a_catalogue_the_ids_are_asked_for_and_names_shown_all_the_same(
    boss: Client,
) -> None:
    html = read(boss.get(ADD))
    assert 'name="card"' not in html
    assert "The provider's catalogue has not been read yet" in text(html)
    wrong = errors(read(boss.post(ADD, {**FORM, "product_id": "", "type_id": ""})))
    assert wrong == ["This field is required."] * 2
    html = read(boss.post(ADD, FORM))
    assert facts(html)["Product"] == f"PlayStation Network {PRODUCT}"
    assert not Product.objects.exists()


@pytest.mark.usefixtures("read_in")
def test_the_form_takes_the_same_queries_whatever_the_catalogue_holds(boss: Client) -> None:
    few = count_queries(boss, ADD)
    add_types(80)
    assert count_queries(boss, ADD) == few
    add_types(300)
    # With so many cards, the form offers none before a search, so it does not read regions.
    assert count_queries(boss, ADD) == few - 1


def add_types(count: int) -> None:
    product = Product.objects.get(product_id=PRODUCT)
    known = ProductType.objects.count()
    ProductType.objects.bulk_create(
        ProductType(product=product, type_id=f"x{known}-{number}", name=f"PSN {number} EUR", cost=1)
        for number in range(count)
    )


HELP = "Enter part of the name of the product or card."


@pytest.mark.parametrize(
    ("typed", "found", "told"),
    [
        ("", [], HELP),
        ("STEAM usd", ["Steam 5 USD"], HELP),
        # The words can come from the names of the product and the card, in any order. IDs work,
        # too.
        ("eur 299 playstation", ["PSN 299 EUR"], HELP),
        (f"{PRODUCT} {TYPE}", ["PSN 500 DA"], HELP),
        (
            "nothing\0",
            [],
            (
                "The catalogue does not contain a card with this name. Enter a shorter part of the"
                " name."
            ),
        ),
    ],
)
def test_a_card_of_a_large_catalogue_is_found_by_its_name(
    boss: Client, read_in: Simulator, typed: str, found: list[str], told: str
) -> None:
    add_types(300)
    html = read(boss.get(ADD, {"find": typed, "_popup": "1"}))
    names = [name.partition(" · ")[0] for names in options(html).values() for name in names]
    assert names == found
    assert told in text(html)
    assert 'name="_popup" value="1"' in html
    assert read_in.requests == []


def test_a_card_that_was_found_is_offered_again_beside_an_error_and_can_be_bought(
    boss: Client, read_in: Simulator
) -> None:
    add_types(300)
    html = read(boss.get(ADD, {"find": "psn"}))
    assert sum(map(len, options(html).values())) == 100
    assert "Only the first cards are shown." in text(html)
    html = read(boss.post(ADD, {**CHOSEN, "quantity": "0"}))
    assert re.search(rf'<option value="{PRODUCT} {TYPE}" selected', html)
    place(boss, CHOSEN)
    assert Order.objects.get().line == (PRODUCT, TYPE, 2)


# The confirmation.


def test_the_confirmation_says_what_is_bought_for_how_much(
    boss: Client, read_in: Simulator
) -> None:
    html = read(boss.post(ADD, {**CHOSEN, "customer_name": "أمينة", "sale_amount": "1100"}))
    assert facts(html) == {
        "Product": f"PlayStation Network {PRODUCT}",
        "Type": f"PSN 500 DA {TYPE}",
        "Quantity": "2",
        "Reference": "web-1042",
        "Sale amount": "1,100 DA",
        "Customer name": "أمينة",
    }
    assert costs(html) == [
        ["Price per card", "490 DA", ""],
        ["Total", "980 DA", ""],
        ["Account balance", "1,000,000 DA", ""],
    ]
    assert warnings(html) == []
    assert button(html) == "Buy 2 for 980 DA"
    assert asked(read_in) == ["checkProduct"]
    assert not Order.objects.exists()
    assert not LogEntry.objects.exists()


def test_the_price_is_asked_for_afresh_and_kept(boss: Client, read_in: Simulator) -> None:
    read_in.price_factor = 2
    html = read(boss.post(ADD, CHOSEN))
    assert button(html) == "Buy 2 for 1,960 DA"
    assert ProductPrices.objects.get(pk=PRODUCT).prices[TYPE] == Decimal(980)
    assert ProductType.objects.get(product__product_id=PRODUCT, type_id=TYPE).cost == Decimal(980)


@pytest.mark.parametrize(
    ("given", "ceiling", "held"),
    [
        ({}, Decimal(490), False),
        ({"max_price": "600"}, Decimal(600), False),
        ({"max_price": "400"}, Decimal(400), True),
        ({"sale_price": "550"}, Decimal(490), False),
        # The order would be put on hold, like every order that is sold below its cost.
        ({"sale_price": "450"}, Decimal(450), True),
        ({"sale_amount": "900"}, Decimal(450), True),
    ],
)
def test_nobody_pays_more_than_the_button_said_without_being_asked(
    boss: Client, read_in: Simulator, given: dict[str, str], ceiling: Decimal, held: bool
) -> None:
    html = read(boss.post(ADD, {**CHOSEN, **given}))
    assert ("A card costs more than your limit" in text(html)) == held
    boss.post(ADD, hidden(html))
    assert Order.objects.get().price_ceiling == ceiling
    run_sweep()
    assert [bought.price for bought in read_in.orders.values()] == [Decimal(490)] * (not held)


@pytest.mark.parametrize(("given", "limit"), [({}, 490), ({"max_price": "600"}, 600)])
def test_an_order_whose_price_rises_after_the_button_above_its_limit_is_on_hold(
    boss: Client, read_in: Simulator, given: dict[str, str], limit: int
) -> None:
    confirmed = hidden(read(boss.post(ADD, {**CHOSEN, **given})))
    read_in.price_factor = 2
    boss.post(ADD, confirmed)
    run_sweep()
    order = Order.objects.get()
    assert order.is_on_hold
    assert read_in.orders == {}
    said = f"The order is on hold because a card costs 980 DA, and your limit is {limit} DA."
    assert said in plain(text(read(boss.get(order_page(order)))))


def test_a_form_that_is_confirmed_again_at_another_price_finds_the_same_order(
    boss: Client, read_in: Simulator
) -> None:
    first = hidden(read(boss.post(ADD, CHOSEN)))
    read_in.price_factor = 2
    second = hidden(read(boss.post(ADD, CHOSEN)))
    for confirmed in (first, second):
        response = boss.post(ADD, confirmed, follow=True)
        assert errors(read(response)) == []
    assert Order.objects.get().price_ceiling == 490


NO_BALANCE = "The account balance is too low, so the provider will refuse this order."
# The order costs more than the account holds.
TOO_MANY = {**CHOSEN, "quantity": "2000", "card": "507f1f77bcf86cd799439012 type_101"}


@pytest.mark.usefixtures("read_in")
def test_a_balance_that_does_not_suffice_is_said_before_the_button_to_who_may_see_costs() -> None:
    html = read(sign_in("add_order", "view_cost").post(ADD, TOO_MANY))
    assert NO_BALANCE in warnings(html)
    assert html.index(NO_BALANCE) < html.index('class="default giftcards-button"')
    # Other staff must not be able to find out the balance by trying quantities.
    assert warnings(read(sign_in("add_order").post(ADD, TOO_MANY))) == []


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("type_003", "The provider has only 0 of these cards in stock."),
        ("gone", "The provider does not sell this card at the moment."),
        ("free", "The provider does not sell this card at the moment."),
    ],
)
def test_what_speaks_against_it_is_said_before_the_button(
    boss: Client, read_in: Simulator, kind: str, said: str
) -> None:
    sold = read_in.catalogue[PRODUCT]
    free = {"free": Denomination("Free", Decimal(0))}
    read_in.catalogue = {PRODUCT: SoldProduct(sold.title, "DZ", {**sold.types, **free})}
    html = read(boss.post(ADD, {**CHOSEN, "card": f"{PRODUCT} {kind}"}))
    assert warnings(html) == [said]
    if kind != "type_003":
        assert button(html) == "Buy 2 cards"
        assert costs(html)[1] == ["Total", "unknown", ""]


def test_a_person_can_go_back_and_change_what_was_typed(boss: Client, read_in: Simulator) -> None:
    confirmed = hidden(read(boss.post(ADD, {**CHOSEN, "customer_name": "Amina"})))
    html = read(boss.post(ADD, {**confirmed, "_change": "1"}))
    assert errors(html) == []
    assert f'<option value="{PRODUCT} {TYPE}" selected>' in html
    assert 'value="Amina"' in html
    assert 'name="reference" value="web-1042"' in html
    assert "confirmed_" not in html
    assert not Order.objects.exists()


def test_a_form_that_is_filled_in_again_after_buying_leads_to_the_order(
    boss: Client, read_in: Simulator
) -> None:
    read(place(boss, CHOSEN, follow=True))
    read_in.forget_requests()
    response = boss.post(ADD, CHOSEN, follow=True)
    assert response.redirect_chain[0][0] == order_page(Order.objects.get())
    assert messages(read(response)) == [REPEATED]
    assert LogEntry.objects.count() == 1
    assert read_in.requests == []


def test_a_confirmation_that_is_posted_late_finds_the_same_order(
    boss: Client, read_in: Simulator
) -> None:
    confirmed = hidden(read(boss.post(ADD, CHOSEN)))
    read(boss.post(ADD, confirmed, follow=True))
    Product.objects.update(is_enabled=False)
    read_in.price_factor = 3
    Order.objects.update(status=Status.REJECTED, finalized_at=timezone.now(), due_at=None)
    response = boss.post(ADD, confirmed, follow=True)
    assert messages(read(response)) == [REPEATED]
    assert Order.objects.count() == 1


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.django_db(transaction=True)
def test_the_provider_is_asked_outside_any_transaction(
    boss: Client, wire: responses.RequestsMock, atomic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic)
    states = []

    def answer(_request: Any) -> Any:
        states.append(connection.in_atomic_block)
        return 200, {}, json.dumps(PRICES)

    wire.remove("GET", PRODUCT_URL)
    wire.add_callback("GET", PRODUCT_URL, answer)
    wire.get(BALANCE_URL, json={"success": True, "data": {"balance": 5}})
    read(boss.post(ADD, FORM))
    assert states == [False]


# When the provider cannot be asked.


def test_without_an_answer_the_last_known_price_is_shown_with_its_age(
    boss: Client, read_in: Simulator
) -> None:
    read(boss.post(ADD, CHOSEN))
    ProductType.objects.update(read_at=ago(3 * 3600))
    ProviderState.objects.update(balance_read_at=ago(2 * 86_400))
    read_in.outage = True
    read_in.forget_requests()
    html = read(boss.post(ADD, CHOSEN))
    assert costs(html) == [
        ["Price per card", "490 DA", "read 3 hours ago"],
        ["Total", "980 DA", "read 3 hours ago"],
        ["Account balance", "1,000,000 DA", "read 2 days ago"],
    ]
    assert warnings(html) == ["The provider could not be reached, so the price may be out of date."]
    assert button(html) == "Buy 2 for 980 DA"
    assert asked(read_in) == ["checkProduct"]
    boss.post(ADD, hidden(html))
    assert Order.objects.get().price_ceiling == Decimal(490)


def test_a_price_that_was_never_known_is_said_to_be_unknown(boss: Client) -> None:
    html = read(boss.post(ADD, FORM))
    assert [amount for _label, amount, _age in costs(html)] == ["unknown"] * 3
    assert button(html) == "Buy 5 cards"
    place(boss, FORM)
    assert Order.objects.get().max_price is None


def test_a_question_whose_connection_breaks_is_not_repeated_while_a_person_waits(
    boss: Client, wire: responses.RequestsMock
) -> None:
    wire.replace("GET", PRODUCT_URL, body=requests.ConnectionError("reset"))
    read(boss.post(ADD, FORM))
    wire.assert_call_count(PRODUCT_URL, 1)


def test_without_a_question_to_the_provider_the_page_says_why(
    boss: Client, read_in: Simulator, set_conf: Callable[..., None]
) -> None:
    spend_budget(but=10)
    html = read(boss.post(ADD, CHOSEN))
    assert warnings(html) == [
        "There are too many other requests to the provider, so the price may be out of date."
    ]
    assert button(html) == "Buy 2 for 980 DA"
    set_conf(API_KEY="")
    assert warnings(read(boss.post(ADD, FORM))) == [
        "This server has no API key, so the price may be out of date."
    ]
    assert read_in.requests == []


def test_a_refused_key_is_said_and_an_order_can_be_recorded_all_the_same(
    boss: Client, simulator: Simulator
) -> None:
    refused = "Requests to the provider are paused. The provider refuses the API key"
    simulator.keys = ["another"]
    assert refused in text(read(boss.post(ADD, FORM)))
    assert asked(simulator) == ["checkProduct"]
    # The app does not ask the provider again.
    html = read(boss.post(ADD, FORM))
    assert refused in text(html)
    assert button(html) == "Buy 5 cards"
    assert asked(simulator) == ["checkProduct"]
    response = boss.post(ADD, hidden(html), follow=True)
    assert messages(read(response)) == [
        "Order ⁨web-1042⁩ was recorded. It cannot be sent now, but will be sent as soon as possible."
    ]


# Looking at the catalogue.


def test_the_catalogue_can_be_looked_at_and_not_edited(read_in: Simulator) -> None:
    product = Product.objects.get(product_id=PRODUCT)
    address = f"/admin/giftcards/product/{product.pk}/change/"
    viewer, manager = sign_in("view_product"), sign_in("view_product", "view_cost")
    assert sign_in("view_order").get(address).status_code == 403
    assert "PlayStation Network" in text(read(viewer.get("/admin/giftcards/product/")))
    html = read(viewer.get(address))
    assert "PSN 500 DA" in text(html)
    assert TYPE in text(html)
    assert "490" not in text(html)
    assert "490 DA" in text(read(manager.get(address)))
    assert 'name="_save"' not in html
    assert viewer.post(address, {"name": "x"}).status_code == 403
    boss = sign_in(superuser=True)
    boss.post(address, {"name": "x", f"product-{product.pk}-name": "x"})
    assert Product.objects.get(pk=product.pk).name == product.name
    assert boss.get("/admin/giftcards/product/add/").status_code == 403
    assert boss.get(f"/admin/giftcards/product/{product.pk}/delete/").status_code == 403


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("read_in")
def test_the_transaction_that_records_the_order_begins_with_a_write(boss: Client) -> None:
    confirmed = hidden(read(boss.post(ADD, CHOSEN)))
    with CaptureQueriesContext(connection) as queries:
        boss.post(ADD, confirmed)
    statements = [query["sql"].replace("`", '"') for query in queries]
    insert = next(
        number
        for number, sql in enumerate(statements)
        if sql.startswith('INSERT INTO "giftcards_order"')
    )
    begin = max(n for n, sql in enumerate(statements[:insert]) if sql.startswith("BEGIN"))
    # The other statements check constraints, without reading a table.
    assert [sql for sql in statements[begin:insert] if " FROM " in sql] == []


def test_whoever_places_an_order_reads_where_and_how_the_card_is_redeemed(boss: Client) -> None:
    product = make_offer().product
    Product.objects.filter(pk=product.pk).update(region="TR", own_name="PSN Türkiye")
    told = "<script>alert(1)</script> https://psn.example"
    product.redemption_instructions.create(language="en", text=told)
    form = read(boss.get(ADD))
    assert re.search(r'<optgroup label="[^"]*PSN Türkiye[^"]*Turkey', form)
    card = {"card": f"{PRODUCT} {TYPE}", "quantity": 2, "reference": "web-9"}
    confirmation = read(boss.post(ADD, card))
    assert "Region" in text(confirmation)
    assert "Turkey" in text(confirmation)
    assert '<a href="https://psn.example" rel="noopener noreferrer" dir="ltr">' in confirmation
    assert "<script>alert(1)" not in confirmation
