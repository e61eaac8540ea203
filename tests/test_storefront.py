"""The example's storefront: it buys once, and customers see only their own data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone, translation

from example_project import storefront
from example_project.storefront import catalogue as shelf
from example_project.storefront import checkout, mailbox
from example_project.storefront.models import OF_GIFT, Purchase
from giftcards.delivery.models import Delivery
from giftcards.engine.tuning import tuning
from giftcards.fulfilment import change_customer
from giftcards.models import ApiKey, Order, Product, ProductType, ProviderState, Reservation
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from tests.builders import change_cost, set_shelf
from tests.catalogues import (
    LANGUAGES,
    assert_same_texts,
    catalogue,
    entries,
    needs,
    placeholders,
    run,
)
from tests.example_shop import fill_shelf, kind, opened, work
from tests.pages import plain, read, text
from tests.stage import ago, in_threads, sharing_database

PACKAGE = Path(storefront.__file__).parent


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def shop(db: None, settings: Any, simulator: Simulator, mails: Path) -> Iterator[Simulator]:
    """A shop with a full shelf; the value is its provider."""
    fill_shelf()
    with opened(settings, mails):
        yield simulator
    translation.deactivate()


@pytest.fixture
def browser(shop: Simulator) -> Client:
    """The browser of a visitor of the shop."""
    return Client()


def form_of(browser: Client, wanted: ProductType, **changed: Any) -> tuple[str, dict[str, Any]]:
    """Return the address of a card's page, and the form that the customer would send."""
    page = f"/buy/{wanted.pk}/"
    found = browser.get(page).content.decode()
    hidden = dict(re.findall(r'type="hidden" name="(key|price)" value="([^"]+)"', found))
    return page, {**hidden, "quantity": 5, "email": "you@example.com", "language": "en", **changed}


def begun(browser: Client, type_id: str = "TEST_PARTIAL", **changed: Any) -> str:
    """Press "Buy" and return the address of the payment page."""
    page, form = form_of(browser, kind(type_id), **changed)
    answer = browser.post(page, form)
    assert answer.status_code == 302, answer.content.decode()
    return str(answer.url)


def bought(browser: Client, type_id: str = "TEST_PARTIAL", **changed: Any) -> str:
    """Buy cards and return the address of the order's page."""
    answer = browser.post(begun(browser, type_id, **changed))
    assert answer.status_code == 302, answer.content.decode()
    return str(answer.url)


def told(browser: Client, page: str, form: dict[str, Any] | None = None) -> list[str]:
    """Send a form to the page and return the errors that it shows."""
    shown = browser.post(page, form or {}).content.decode()
    return re.findall(r'role="alert">([^<]+)<', shown)


def stock_is(cards: int | None, type_id: str = "type_001") -> None:
    """Set the stock at the provider, as if the shop had just read it."""
    ProductType.objects.filter(type_id=type_id).update(stock=cards, read_at=timezone.now())


def end_reservations() -> None:
    """End the reservations of all customers."""
    for held in (
        Reservation.objects.update(until=ago(1)),
        Purchase.objects.update(reserved_until=ago(1)),
    ):
        assert held


def links_to_mails(browser: Client) -> list[str]:
    return re.findall(r'href="(/mailbox/[^"]+/)"', browser.get("/mailbox/").content.decode())


# The shelf


def test_a_visitor_without_a_purchase_is_led_from_the_page_of_cards_to_one_that_exists(
    shop: Simulator,
) -> None:
    answer = Client().get("/cards/", follow=True)
    assert (answer.status_code, answer.redirect_chain) == (200, [("/orders/?next=/cards/", 302)])


def test_the_shelf_has_the_shops_prices_and_what_is_sold_out_in_three_queries(
    shop: Simulator, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(3):
        cards = shelf.read().cards
    assert [(item.name, item.price, item.is_sold_out) for item in cards] == [
        ("PSN 500 DA", 550, False),
        ("PSN 2000 DA", 2200, True),
        ("Steam 5 USD", 1410, False),
    ]
    assert Client().get("/").content.decode().count("Sold out") == 1


@pytest.mark.parametrize(
    ("stock", "held", "is_sold_out"), [(3, 2, False), (3, 3, True), (0, 0, True), (None, 3, False)]
)
def test_a_card_is_sold_out_when_all_that_the_provider_has_are_taken(
    stock: int | None, held: int, is_sold_out: bool, shop: Simulator
) -> None:
    stock_is(stock)
    if held:
        begun(Client(), "type_001", quantity=held)
    page = f"/buy/{kind('type_001').pk}/"
    assert [item.is_sold_out for item in shelf.read().cards] == [is_sold_out, True, False]
    assert ("Sold out" in Client().get(page).content.decode()) is is_sold_out


@pytest.mark.parametrize("least_margin", [60, 61])
def test_a_card_that_earns_too_little_is_not_on_the_shelf(
    least_margin: int, shop: Simulator
) -> None:
    set_shelf(least_margin=least_margin)
    is_sold = least_margin == 60
    shown = Client().get("/").content.decode()
    assert ("PSN 500 DA" in shown, "Steam 5 USD" in shown) == (is_sold, True)
    page = f"/buy/{kind('type_001').pk}/"
    assert Client().get(page).status_code == (200 if is_sold else 404)


def test_an_empty_shelf_says_how_it_is_filled(db: None) -> None:
    assert "giftcards_catalogue" in Client().get("/").content.decode()


# Buying


def test_forms_that_are_sent_twice_buy_once(shop: Simulator, browser: Client) -> None:
    page, form = form_of(browser, kind("type_001"))
    payment = browser.post(page, form).url
    assert browser.post(page, form).url == payment
    assert not Order.objects.exists()
    order = browser.post(payment).url
    # Neither sending the forms again nor opening the page starts a new purchase.
    assert [browser.post(payment).url, browser.get(payment).url] == [order, order]
    assert browser.get(browser.post(page, form).url).url == order
    work()
    [purchase] = Purchase.objects.all()
    [placed] = shop.orders.values()
    assert (purchase.amount, placed.quantity) == (5 * 550, 5)
    assert not Reservation.objects.current(timezone.now()).exists()


def test_two_clicks_of_a_new_customer_are_one_customer(shop: Simulator) -> None:
    """Neither request has the session that the other one starts."""
    browser, other = Client(), Client()
    page, form = form_of(browser, kind("type_001"))
    other.cookies["visitor"] = browser.cookies["visitor"].value
    assert browser.post(page, form).url == other.post(page, form).url
    assert Purchase.objects.count() == Reservation.objects.count() == 1


def test_a_purchase_that_cannot_be_ordered_is_not_paid(shop: Simulator) -> None:
    begun(Client(), "type_001")
    Purchase.objects.update(language="en\n")
    purchase = Purchase.objects.get()
    with pytest.raises(ValidationError):
        checkout.pay(purchase, customer="somebody")
    purchase.refresh_from_db()
    assert purchase.paid_at is None


def test_what_is_not_paid_does_not_look_as_if_it_were(browser: Client) -> None:
    payment = begun(browser, "type_001")
    page = payment.removesuffix("pay/")
    assert browser.get(page).status_code == 404
    assert Purchase.objects.get().reference not in browser.get("/orders/").content.decode()
    assert f'href="{payment}"' in browser.get("/orders/").content.decode()
    end_reservations()
    assert f'href="{payment}"' not in browser.get("/orders/").content.decode()
    assert browser.post(payment).url == page
    orders = browser.get("/orders/").content.decode()
    assert f'href="{page}"' in orders
    assert f'href="{payment}"' not in orders


GIFT = {
    "recipient_email": "lina@example.com",
    "recipient_name": "Lina",
    "customer_name": "Amina",
    "gift_message": "Happy birthday!",
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            GIFT,
            "A gift for Lina The mail with the cards goes to lina@example.com. It names Amina as"
            " the giver. Happy birthday! You get a receipt without the codes at"
            " you@example.com.",
        ),
        (
            {"recipient_email": "lina@example.com"},
            "A gift for lina@example.com The mail with the cards goes to lina@example.com. It does"
            " not say who the gift is from. You get a receipt without the codes at"
            " you@example.com.",
        ),
        ({}, "The mail with the cards goes to you@example.com."),
    ],
    ids=["a gift", "a gift to an address alone", "no gift"],
)
def test_the_payment_page_says_who_gets_what(
    browser: Client, given: dict[str, str], said: str
) -> None:
    html = browser.get(begun(browser, "type_001", **given)).content.decode()
    shown = text(html)
    assert said in shown
    assert ("A gift for" in shown) == bool(given)


def test_the_payment_page_of_a_gift_says_when_it_is_sent(browser: Client) -> None:
    at = timezone.now() + timedelta(days=3)
    given = {**GIFT, "deliver_at": at.strftime("%Y-%m-%dT09:00")}
    shown = text(browser.get(begun(browser, "type_001", **given)).content.decode())
    assert re.search(r"goes to lina@example.com on .*9:00", shown)


def test_a_gift_goes_to_its_recipient_and_its_customer_sees_no_way_to_the_cards(
    browser: Client, mails: Path
) -> None:
    page = bought(browser, "type_001", **GIFT)
    work()
    sent = {mail.to: mail for mail in mailbox.read(mails)}
    assert sent.keys() == {"lina@example.com", "you@example.com"}
    assert "Happy birthday!" in sent["lina@example.com"].text
    assert "Amina" in sent["lina@example.com"].text
    purchase = Purchase.objects.get()
    assert [getattr(purchase, name) for name in OF_GIFT] == ["", "", "", "", None]
    html = browser.get(page).content.decode()
    assert "A gift for <bdi>Lina</bdi>" in html
    assert "/cards/" not in html.replace('action="/cards/"', "")
    shown = [browser.get(link).content.decode() for link in links_to_mails(browser)]
    assert [("you@example.com" in one, "/cards/" in one) for one in shown] == [(True, False)]


@pytest.mark.parametrize(
    "wrong",
    [
        {**GIFT, "recipient_email": ""},
        {**GIFT, "recipient_email": "lina"},
        {**GIFT, "deliver_at": "2036-01-01T09:00"},
    ],
    ids=["nobody", "no address", "too late"],
)
def test_a_gift_that_cannot_be_ordered_is_not_paid(browser: Client, wrong: dict[str, str]) -> None:
    page, form = form_of(browser, kind("type_001"), **wrong)
    assert 'role="alert"' in browser.post(page, form).content.decode()
    assert not Purchase.objects.exists()


def test_nothing_is_bought_at_a_price_that_the_customer_has_not_seen(browser: Client) -> None:
    page, form = form_of(browser, kind("type_001"))
    change_cost("type_001", 600)
    answer = browser.post(page, form)
    assert "The price has changed" in answer.content.decode()
    # The page shows the new price, and accepts it.
    assert 'name="price" value="680.00"' in answer.content.decode()
    assert browser.post(page, {**form, "price": "680"}).status_code == 302
    assert Purchase.objects.get().amount == 5 * 680


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": 0},
        {"quantity": 121},
        {"email": "nobody"},
        # A form field accepts these values, but an order does not.
        {"email": f"{'a' * 60}@{'.'.join(['b' * 60] * 4)}.example.com"},
        {"email": "a@ex\u202eample.com"},
        {"language": "xx"},
        {"key": "1"},
    ],
)
def test_nothing_is_bought_with_a_wrong_value(wrong: dict[str, Any], browser: Client) -> None:
    page, form = form_of(browser, kind("type_001"), **wrong)
    assert browser.post(page, form).status_code == 200
    assert not Purchase.objects.exists()


# What customers read, in their language, if a card cannot be sold.
REFUSALS = {
    "out_of_stock": "Cette carte est épuisée pour le moment.",
    "fewer": "Il ne reste que \u20684\u2069 de ces cartes.",
    "below_cost": "Le prix a changé.",
    "balance": "Cette carte ne peut pas être achetée pour le moment. Veuillez réessayer plus tard.",
    "paused": "Cette carte ne peut pas être achetée pour le moment. Veuillez réessayer plus tard.",
}


@pytest.mark.parametrize("when", ["buying", "paying late"])
@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_sold_is_neither_reserved_nor_paid_and_the_customer_reads_why(
    why: str, when: str, shop: Simulator
) -> None:
    browser = Client(headers={"accept-language": "fr"})
    page, form = form_of(browser, kind("type_001"))
    if when == "paying late":
        page = browser.post(page, form).url
        end_reservations()
    match why:
        case "out_of_stock" | "fewer":
            stock_is(4 if why == "fewer" else 0)
        case "below_cost":
            # The last prices are too old, so the shop reads the provider again and notices the
            # change.
            shop.price_factor = 2
            ProductType.objects.update(read_at=ago(61))
        case "balance":
            ProviderState.objects.keep_balance(Decimal(2000), asked_at=timezone.now())
        case "paused":
            ProviderState.objects.pause(
                ProviderState.Pause.OUTAGE, detail="", until=timezone.now() + timedelta(minutes=5)
            )
    [sentence] = told(browser, page, form)
    assert sentence.startswith(REFUSALS[why])
    assert not Reservation.objects.current(timezone.now()).exists()
    assert not Order.objects.exists()
    assert not Purchase.objects.paid().exists()


def test_guests_of_one_address_buy_beside_each_other_until_it_has_ten_times_as_many_cards(
    shop: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "cards_of_customer", 2)
    monkeypatch.setattr(tuning, "customers_of_network", 10)
    browsers = [Client(REMOTE_ADDR="41.100.0.1") for _cookie in range(11)]
    page, form = form_of(browsers[0], kind("type_001"), quantity=3)
    [sentence] = told(browsers[0], page, form)
    assert sentence == (
        "You have reserved too many cards. Buy fewer cards, or pay for the reserved cards first."
    )
    payments = [begun(browser, "type_001", quantity=2) for browser in browsers[:10]]
    page, form = form_of(browsers[10], kind("type_001"), quantity=1)
    [sentence] = told(browsers[10], page, form)
    assert sentence == (
        "Too many cards are reserved for visitors with the same internet connection as yours."
        " Please try again in a few minutes."
    )
    assert begun(Client(REMOTE_ADDR="41.100.0.2"), "type_001", quantity=2)
    # An account counts as one customer, and a customer who has paid makes room for others.
    user = get_user_model().objects.create_user("amina", password="secret")
    amina = Client(REMOTE_ADDR="41.100.0.1")
    amina.force_login(user)
    assert begun(amina, "type_001", quantity=2)
    assert browsers[0].post(payments[0]).status_code == 302
    assert browsers[10].post(page, form).status_code == 302


@pytest.mark.parametrize("how", ["cancelled", "left alone"])
def test_whoever_comes_back_later_is_asked_again_if_the_cards_are_dearer(
    browser: Client, how: str
) -> None:
    payment = begun(browser, "type_001")
    if how == "cancelled":
        browser.post(payment, {"cancel": "1"})
    else:
        end_reservations()
    ProductType.objects.update(read_at=timezone.now())
    change_cost("type_001", 600)
    other_window = {"amount": "2750.00"}
    for _press in range(2):
        shown = browser.post(payment, other_window).content.decode()
        assert "The price has changed" in shown
        assert 'name="amount" value="3400.00"' in shown
    assert not Order.objects.exists()
    browser.post(payment, {"amount": "3400.00"})
    assert Order.objects.get().sale_amount == 5 * 680


def test_what_is_reserved_keeps_its_price_and_what_is_cheaper_is_asked_about_by_nobody(
    shop: Simulator,
) -> None:
    for cost, is_on_hold in ((600, True), (400, False)):
        browser = Client()
        payment = begun(browser, "type_001")
        if not is_on_hold:
            end_reservations()
        before = ProductType.objects.get(pk=kind("type_001").pk).cost
        change_cost("type_001", cost)
        assert browser.post(payment).status_code == 302
        change_cost("type_001", before)
    assert [order.sale_amount for order in Order.objects.all()] == [2750, 2750]


def test_a_customer_who_is_refused_can_buy_fewer_with_the_same_page(browser: Client) -> None:
    stock_is(4)
    page, form = form_of(browser, kind("type_001"))
    refused = browser.post(page, form).content.decode()
    [key] = re.findall(r'name="key" value="([^"]+)"', refused)
    payment = browser.post(page, {**form, "key": key, "quantity": 4}).url
    assert "4 × <bdi>PSN 500 DA</bdi>" in browser.get(payment).content.decode()


def test_what_is_not_for_sale_cannot_be_bought(browser: Client) -> None:
    page, form = form_of(browser, kind("type_001"))
    change_cost("type_001", None)
    assert browser.post(page, form).status_code == 404


def test_a_browser_without_cookies_is_told_so(shop: Simulator) -> None:
    page, form = form_of(Client(), kind("type_001"))
    assert "cookies" in Client().post(page, form).content.decode()
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    ("environment", "url", "is_open"),
    [
        ("SANDBOX", "https://api.oneclickdz.com", True),
        ("PRODUCTION", "https://api.oneclickdz.com", False),
        ("PRODUCTION", "http://127.0.0.1:9", False),
        # The environment is not known yet, but on this machine it can only be the simulator.
        ("", "https://api.oneclickdz.com", False),
        ("", "http://127.0.0.1:9", True),
    ],
)
def test_the_checkout_sells_nothing_for_real_money_that_nobody_has_paid(
    shop: Simulator, environment: str, url: str, is_open: bool, settings: Any
) -> None:
    browser, other = Client(), Client()
    begun_before = begun(other, "type_001")
    page, form = form_of(browser, kind("type_001"))
    ApiKey.objects.update(environment=environment)
    settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": url}
    for customer, sent_to in ((browser, page), (other, begun_before)):
        answer = customer.post(sent_to, form)
        assert (answer.status_code == 302) is is_open
        assert ("This demo takes no money" in answer.content.decode()) is not is_open
    assert Purchase.objects.count() == (2 if is_open else 1)
    assert Order.objects.exists() is is_open


# Reservations


def test_of_two_customers_one_gets_the_last_card(shop: Simulator) -> None:
    """The first one keeps it until they cancel, or their time is over and somebody else buys it."""
    stock_is(1)
    amina, karim = Client(), Client()
    page, form = form_of(amina, kind("type_001"), quantity=1)
    _, other_form = form_of(karim, kind("type_001"), quantity=1)
    payment = amina.post(page, form).url
    sold_out = ["This card is sold out at the moment."]
    assert told(karim, page, other_form) == sold_out
    # The first customer cancels, and then tries to pay after all.
    assert amina.post(payment, {"cancel": "1"}).url == "/"
    other_payment = karim.post(page, other_form).url
    assert told(amina, payment) == sold_out
    # The second customer takes too long.
    end_reservations()
    assert "no longer reserved" in karim.get(other_payment).content.decode()
    assert amina.post(payment).url == payment.removesuffix("pay/")
    assert told(karim, other_payment) == sold_out
    assert Order.objects.count() == Purchase.objects.paid().count() == 1


def test_a_payment_after_the_time_is_over_buys_what_is_still_there(browser: Client) -> None:
    stock_is(5)
    payment = begun(browser, "type_001")
    end_reservations()
    assert browser.post(payment).status_code == 302
    assert Order.objects.get().quantity == 5


def test_a_customer_who_goes_back_is_not_kept_from_buying_by_their_own_cards(
    browser: Client,
) -> None:
    stock_is(5)
    first = begun(browser, "type_001", quantity=2)
    assert f'href="{first}"' in browser.get(f"/buy/{kind('type_001').pk}/").content.decode()
    second = begun(browser, "type_001", quantity=5)
    assert first != second
    assert Reservation.objects.get().quantity == 5
    # The first purchase can be paid in another window, but not while the second one reserves all
    # cards.
    assert told(browser, first) == ["This card is sold out at the moment."]


def test_the_page_of_a_payment_says_until_when_cards_are_reserved_with_or_without_scripts(
    browser: Client,
) -> None:
    payment = begun(browser, "type_001")
    until = timezone.now() + timedelta(seconds=90)
    Purchase.objects.update(reserved_until=until)
    shown = browser.get(payment).content.decode()
    assert f"reserved for you until <b>{timezone.localtime(until):%H:%M}</b>" in shown
    [left] = re.findall(r'data-left="(\d+)"', shown)
    assert 30 < int(left) <= 90
    # Without scripts, the browser reloads the page when the time is over.
    assert f'http-equiv="refresh" content="{left}; url={payment}"' in shown
    end_reservations()
    shown = browser.get(payment).content.decode()
    assert "no longer reserved" in shown
    assert "data-left" not in shown
    assert "http-equiv" not in shown


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("what", ["the last card", "one payment", "a payment that is late"])
def test_clicks_at_the_same_moment_buy_once(
    what: str, settings: Any, simulator: Simulator, tmp_path: Path
) -> None:
    """Several customers want the last card, or one customer clicks on "Pay" four times."""
    fill_shelf()
    stock_is(1)
    with opened(settings, tmp_path), sharing_database(tmp_path / "shared.sqlite3"):
        browsers = [Client() for _customer in range(4)]
        if what == "the last card":
            sent = [(b, *form_of(b, kind("type_001"), quantity=1)) for b in browsers]
        else:
            payment = begun(browsers[0], "type_001", quantity=1)
            sent = [(browsers[0], payment, {})] * 4
            if what == "a payment that is late":
                end_reservations()
        answers = in_threads(4, lambda: (lambda b, *form: b.post(*form))(*sent.pop()))
        codes = [answer.status_code for answer in answers]
        if what == "the last card":
            assert sorted(codes) == [200, 200, 200, 302]
            assert Reservation.objects.get().quantity == 1
        else:
            assert codes == [302] * 4
            assert Order.objects.count() == 1


# Who sees what


def test_a_customer_sees_own_orders_and_mails_and_nobody_else_does(
    shop: Simulator, mails: Path
) -> None:
    amina, karim = Client(), Client()
    page = bought(amina)
    other_page = bought(karim)  # to the same address
    work()
    [link], [other_link] = links_to_mails(amina), links_to_mails(karim)
    assert link != other_link
    for mine in (page, link, f"{link}html/"):
        assert amina.get(mine).status_code == 200, mine
        assert karim.get(mine).status_code == 404, mine
        assert "Buy a card first" in Client().get(mine).content.decode(), mine
    reference = Purchase.objects.earliest("pk").reference
    assert reference in amina.get("/orders/").content.decode()
    assert reference not in karim.get("/orders/").content.decode()
    assert karim.get(other_page).status_code == 200


@pytest.mark.parametrize(
    ("permissions", "seen"), [(("reveal_card",), 2), (("view_order", "check_order"), 0)]
)
def test_only_staff_who_may_reveal_cards_see_all_mails(
    shop: Simulator, permissions: tuple[str, ...], seen: int
) -> None:
    """Mails contain links to cards, so other staff must not see them."""
    for _customer in range(2):
        bought(Client())
    work()
    person = get_user_model().objects.create_user("amina", is_staff=True)
    person.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    staff, boss = Client(), Client()
    staff.force_login(person)
    boss.force_login(get_user_model().objects.create_superuser("admin"))
    assert len(links_to_mails(staff)) == seen
    for link in links_to_mails(boss):
        for address in (link, f"{link}html/"):
            assert staff.get(address).status_code == (200 if seen else 404)
    assert ("to all customers" in staff.get("/mailbox/").content.decode()) is bool(seen)


def test_what_a_guest_bought_moves_to_the_account_that_the_same_browser_logs_in_to(
    shop: Simulator,
) -> None:
    admin = get_user_model().objects.create_superuser("admin", password="correct horse")
    guest, stranger = Client(), Client()
    page = bought(guest)
    assert not Purchase.objects.get().user.has_usable_password()
    # If the shop has not signed the visitor's name, nothing moves to the account.
    stranger.cookies["visitor"] = guest.cookies["visitor"].value.split(":")[0]
    for browser, status in ((stranger, 404), (guest, 200)):
        browser.post("/admin/login/", {"username": "admin", "password": "correct horse"})
        assert browser.get(page).status_code == status
    assert Purchase.objects.get().user == admin


def test_a_customer_does_not_see_the_mails_to_an_address_that_staff_have_set(
    browser: Client,
) -> None:
    bought(browser)
    change_customer(Order.objects.get(), email="karim@example.com", by="staff")
    work()
    assert Delivery.objects.get().address == "karim@example.com"
    assert links_to_mails(browser) == []


# The mails


def test_only_the_link_of_the_shop_is_opened_not_one_in_the_words_of_a_gift(
    shop: Simulator, mails: Path
) -> None:
    evil = "https://evil.example/cards/abcdefgh/"
    words = {"recipient_email": "lina@example.com", "gift_message": f"Look:\n{evil}\nBye"}
    bought(Client(), type_id="type_001", **words)
    work()
    [gift] = [mail for mail in mailbox.read(mails) if mail.to == "lina@example.com"]
    assert evil in gift.text
    assert gift.link.startswith(f"{settings.GIFTCARDS_DELIVERY['SHOP_URL']}/cards/")


def test_a_mail_is_shown_in_a_frame_that_runs_and_loads_nothing(browser: Client) -> None:
    bought(browser)
    work()
    [link] = links_to_mails(browser)
    frame = browser.get(f"{link}html/")
    policy = frame.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-top-navigation-by-user-activation; default-src 'none';")
    assert "allow-scripts" not in policy
    assert "allow-same-origin" not in policy
    assert frame.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "no-store" in frame.headers["Cache-Control"]
    assert '<base target="_top">' in frame.content.decode()
    page = browser.get(link)
    assert 'sandbox="allow-top-navigation-by-user-activation"' in page.content.decode()
    assert page.headers["X-Frame-Options"] == "DENY"


def test_mails_are_read_as_they_were_written(
    shop: Simulator, mails: Path, django_capture_on_commit_callbacks: Any
) -> None:
    bought(Client(), language="ar", email="amina@example.com")
    work()
    with django_capture_on_commit_callbacks(execute=True):
        record_refund(Order.objects.get(), amount=1650, reference="CCP 1")
    work()
    newest, first = mailbox.read(mails)
    assert (first.to, newest.to) == ("amina@example.com", "amina@example.com")
    assert first.link
    assert not newest.link
    assert first.link in first.html
    assert "بطاقتان" in first.subject


def test_no_line_breaks_inside_an_amount_in_the_heading_of_a_mail(
    browser: Client, django_capture_on_commit_callbacks: Any
) -> None:
    bought(browser, language="fr")
    work()
    with django_capture_on_commit_callbacks(execute=True):
        record_refund(Order.objects.get(), amount=Decimal("1000.50"), reference="CCP 1")
    work()
    [newest, _first] = links_to_mails(browser)
    for page in ("/mailbox/", newest, f"{newest}html/"):
        assert "1\u00a0000,50\u00a0DA" in browser.get(page).content.decode(), page


def test_a_mail_that_is_still_being_written_is_not_shown(shop: Simulator, mails: Path) -> None:
    bought(Client())
    work()
    [path] = mails.iterdir()
    whole = path.read_bytes()
    assert len(mailbox.read(mails)) == 1
    path.write_bytes(whole[:-40])
    assert mailbox.read(mails) == []
    path.write_bytes(whole + whole)
    assert len(mailbox.read(mails)) == 2


def test_the_page_of_an_order_shows_what_is_to_be_paid_back_and_that_it_was(
    browser: Client, django_capture_on_commit_callbacks: Any
) -> None:
    page = bought(browser)
    assert "http-equiv" in browser.get(page).content.decode()  # where no script runs
    work()
    settled = browser.get(page).content.decode()
    assert "http-equiv" not in settled
    assert "Pay back the customer" in settled
    with django_capture_on_commit_callbacks(execute=True):
        record_refund(Order.objects.get(), amount=1650, reference="CCP 1")
    work()
    paid = browser.get(page).content.decode()
    assert "refunded on" in paid
    assert "Pay back the customer" not in paid
    assert len(links_to_mails(browser)) == 2


# Erasing a customer


def test_an_erased_customer_leaves_no_address_in_the_shop(shop: Simulator, tmp_path: Path) -> None:
    bought(Client(), type_id="type_001", email="amina@example.com")
    bought(Client(), type_id="type_001", email="karim@example.com")
    for details in ({"email": "Amina@example.com"}, {"recipient_email": "amina@example.com"}):
        begun(Client(), type_id="type_001", **details)
    work()
    file = tmp_path / "amina.json"
    options = {"export": str(file), "erase": True, "yes": True, "verbosity": 0}
    call_command("giftcards_customer", "amina@example.com", **options)
    erased, other = Purchase.objects.order_by("pk")
    assert (erased.email, erased.amount) == ("", 5 * 550)
    assert other.email == "karim@example.com"
    assert "In the shop" in file.read_text()


def test_a_purchase_that_is_not_paid_within_a_day_is_forgotten(browser: Client) -> None:
    browser.post(begun(browser, type_id="type_001"), {"cancel": ""})
    begun(Client(), type_id="type_001")
    bought(Client(), type_id="type_001")
    old = list(Purchase.objects.unpaid())
    assert Purchase.objects.unpaid().update(reserved_until=ago(24 * 60 * 60 + 1)) == len(old) == 2
    begun(Client(), type_id="type_001")
    assert Purchase.objects.count() == 2
    assert not Purchase.objects.filter(pk__in=[each.pk for each in old]).exists()


# Languages


def test_no_text_of_the_storefront_is_left_untranslated(tmp_path: Path) -> None:
    needs("xgettext", "msgmerge", "msguniq", "msgattrib", "msgfmt")
    assert_same_texts(PACKAGE, tmp_path)
    for language in LANGUAGES:
        po = catalogue(language, "po", PACKAGE)
        for ids, [translated] in entries(po).items():
            assert translated, ids
            assert placeholders(translated) == placeholders(ids[0]), ids
        fresh = tmp_path / "django.mo"
        run("msgfmt", "--check", "-o", fresh, po, cwd=PACKAGE)
        assert fresh.read_bytes() == catalogue(language, "mo", PACKAGE).read_bytes()


@pytest.mark.parametrize(
    ("language", "region", "heading"),
    [
        ("en", "Region: Turkey", "How to redeem the card"),
        ("fr", "Région : Turquie", "Comment utiliser la carte"),
        ("ar", "المنطقة: تركيا", "طريقة استخدام البطاقة"),
    ],
)
def test_customers_read_where_and_how_a_card_is_redeemed_before_they_buy(
    shop: Simulator, language: str, region: str, heading: str
) -> None:
    card = kind("type_101")
    Product.objects.filter(pk=card.product_id).update(region="TR", own_name="Steam Wallet")
    markup = "<script>alert(1)</script> https://steam.example"
    card.product.redemption_instructions.create(language=language, text=markup)
    client = Client(headers={"Accept-Language": language})
    shelf, page = read(client.get("/")), read(client.get(f"/buy/{card.pk}/"))
    for html in (shelf, page):
        assert region in plain(text(html)).replace("\u00a0", " ")
        assert "Steam Wallet" in html
    assert heading in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert '<a href="https://steam.example" rel="noopener noreferrer" dir="ltr">' in page
    assert "<script>alert(1)" not in page
