"""The example's storefront: it buys once, and shows each customer what is theirs."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import translation

from example_project import storefront
from example_project.storefront import mailbox
from example_project.storefront.checkout import buy, sale_price
from example_project.storefront.models import Purchase
from giftcards.models import ApiKey, Order, ProductType
from giftcards.settlement import record_refund
from giftcards.simulator import Simulator
from tests.example_shop import fill_shelf, kind, opened, work
from tests.test_locale import LANGUAGES, catalogue, entries, needs, placeholders, run

PACKAGE = Path(storefront.__file__).parent
KEY = "5d3b7a52-9a0f-4c60-8d0f-3a8f2f0c9b11"


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def shop(db: None, settings: Any, simulator: Simulator, mails: Path) -> Iterator[Simulator]:
    """The shop with a full shelf; its provider."""
    fill_shelf()
    with opened(settings, mails):
        yield simulator
    translation.deactivate()


def form_of(browser: Client, wanted: ProductType, **changed: Any) -> tuple[str, dict[str, Any]]:
    """The address of the page of a card, and its form as the customer sends it."""
    page = f"/buy/{wanted.pk}/"
    found = browser.get(page).content.decode()
    hidden = dict(re.findall(r'type="hidden" name="(key|price)" value="([^"]+)"', found))
    return page, {**hidden, "quantity": 5, "email": "you@example.com", "language": "en", **changed}


def bought(browser: Client, type_id: str = "TEST_PARTIAL", **changed: Any) -> str:
    """Buy cards; the address of the order's page."""
    page, form = form_of(browser, kind(type_id), **changed)
    answer = browser.post(page, form)
    assert answer.status_code == 302, answer.content.decode()
    return str(answer.url)


def links_to_mails(browser: Client) -> list[str]:
    return re.findall(r'href="(/mailbox/[^"]+/)"', browser.get("/mailbox/").content.decode())


# Buying


def test_a_form_that_is_sent_twice_buys_once(shop: Simulator) -> None:
    browser = Client()
    page, form = form_of(browser, kind("type_001"))
    assert browser.post(page, form).url == browser.post(page, form).url
    work()
    [purchase] = Purchase.objects.all()
    [order] = shop.orders.values()
    assert (purchase.amount, order.quantity) == (5 * 550, 5)


def test_two_clicks_of_a_new_customer_are_one_customer(shop: Simulator) -> None:
    """Neither of the two requests knows of the session that the other one begins."""
    browser, other = Client(), Client()
    page, form = form_of(browser, kind("type_001"))
    other.cookies["visitor"] = browser.cookies["visitor"].value
    assert browser.post(page, form).url == other.post(page, form).url
    assert Order.objects.count() == 1


def test_a_purchase_that_cannot_be_ordered_is_not_recorded(shop: Simulator) -> None:
    customer = get_user_model().objects.create_user("lina")
    with pytest.raises(ValidationError):
        buy(customer, KEY, kind("type_001"), quantity=2, email="a@example.com", language="en\n")  # type: ignore[arg-type]
    assert not Purchase.objects.exists()


def test_nothing_is_bought_at_a_price_that_the_customer_has_not_seen(shop: Simulator) -> None:
    browser = Client()
    page, form = form_of(browser, kind("type_001"))
    ProductType.objects.filter(type_id="type_001").update(price=600)
    answer = browser.post(page, form)
    assert "The price has changed" in answer.content.decode()
    # The page shows the new one, and accepts it.
    assert 'name="price" value="680"' in answer.content.decode()
    assert browser.post(page, {**form, "price": "680"}).status_code == 302
    assert Purchase.objects.get().amount == 5 * 680


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": 0},
        {"quantity": 121},
        {"email": "nobody"},
        # What a form field accepts, and an order does not.
        {"email": f"{'a' * 60}@{'.'.join(['b' * 60] * 4)}.example.com"},
        {"email": "a@ex\u202eample.com"},
        {"language": "xx"},
        {"key": "1"},
    ],
)
def test_nothing_is_bought_with_a_wrong_value(wrong: dict[str, Any], shop: Simulator) -> None:
    browser = Client()
    page, form = form_of(browser, kind("type_001"), **wrong)
    assert browser.post(page, form).status_code == 200
    assert not Order.objects.exists()


def test_what_is_sold_out_or_not_for_sale_cannot_be_bought(shop: Simulator) -> None:
    browser = Client()
    sold_out = ProductType.objects.get(type_id="type_003")
    page, form = form_of(browser, sold_out)
    assert "There are not so many." in browser.post(page, form).content.decode()
    ProductType.objects.filter(pk=sold_out.pk).update(price=None)
    assert browser.post(page, form).status_code == 404


def test_a_browser_without_cookies_is_told_so(shop: Simulator) -> None:
    page, form = form_of(Client(), kind("type_001"))
    assert "cookies" in Client().post(page, form).content.decode()
    assert not Order.objects.exists()


def test_cards_cost_an_eighth_more_rounded_up_to_ten_dinars(shop: Simulator) -> None:
    prices = {name: sale_price(kind(name)) for name in ("type_001", "type_101")}
    assert prices == {"type_001": 550, "type_101": 1410}


@pytest.mark.parametrize(
    ("environment", "url", "is_open"),
    [
        ("SANDBOX", "https://api.oneclickdz.com", True),
        ("PRODUCTION", "https://api.oneclickdz.com", False),
        ("PRODUCTION", "http://127.0.0.1:9", False),
        # Nobody has told yet: on this machine, it is the simulator.
        ("", "https://api.oneclickdz.com", False),
        ("", "http://127.0.0.1:9", True),
    ],
)
def test_the_checkout_sells_nothing_for_real_money_that_nobody_has_paid(
    shop: Simulator, environment: str, url: str, is_open: bool, settings: Any
) -> None:
    page, form = form_of(Client(), kind("type_001"))
    ApiKey.objects.update(environment=environment)
    settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": url}
    browser = Client()
    browser.get(page)
    answer = browser.post(page, form)
    assert Order.objects.exists() is is_open
    assert Purchase.objects.exists() is is_open
    assert ("This demo takes no money" in answer.content.decode()) is not is_open


def test_an_empty_shelf_says_how_it_is_filled(db: None) -> None:
    assert "giftcards_catalogue" in Client().get("/").content.decode()


# Whose is what


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
    """The mails lead to the cards."""
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
    # A name that the shop has not signed moves nothing.
    stranger.cookies["visitor"] = guest.cookies["visitor"].value.split(":")[0]
    for browser, status in ((stranger, 404), (guest, 200)):
        browser.post("/admin/login/", {"username": "admin", "password": "correct horse"})
        assert browser.get(page).status_code == status
    assert Purchase.objects.get().user == admin


def test_a_guest_cannot_log_in_with_a_password(shop: Simulator) -> None:
    bought(Client())
    assert not Purchase.objects.get().user.has_usable_password()


# The mails


def test_a_mail_is_shown_in_a_frame_that_runs_and_loads_nothing(shop: Simulator) -> None:
    browser = Client()
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
    shop: Simulator, django_capture_on_commit_callbacks: Any
) -> None:
    browser = Client()
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
    shop: Simulator, django_capture_on_commit_callbacks: Any
) -> None:
    browser = Client()
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
    assert "paid back on" in paid
    assert "Pay back the customer" not in paid
    assert len(links_to_mails(browser)) == 2


# Erasing a customer


def test_an_erased_customer_leaves_no_address_in_the_shop(shop: Simulator, tmp_path: Path) -> None:
    bought(Client(), type_id="type_001", email="amina@example.com")
    bought(Client(), type_id="type_001", email="karim@example.com")
    work()
    file = tmp_path / "amina.json"
    options = {"export": str(file), "erase": True, "yes": True, "verbosity": 0}
    call_command("giftcards_customer", "amina@example.com", **options)
    erased, other = Purchase.objects.order_by("pk")
    assert (erased.email, erased.amount) == ("", 5 * 550)
    assert other.email == "karim@example.com"
    assert "In the shop" in file.read_text()


# Languages


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_of_the_storefront_is_left_untranslated(language: str, tmp_path: Path) -> None:
    needs("xgettext", "msgmerge", "msguniq", "msgattrib", "msgfmt")
    copy = tmp_path / "storefront"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.mo"))
    options = (f"--locale={language}", "--no-location", "--no-obsolete")
    run(sys.executable, "-m", "django", "makemessages", *options, cwd=copy)

    written = entries(catalogue(language, "po", PACKAGE))
    assert set(written) == set(entries(catalogue(language, "po", copy)))
    for ids, [translated] in written.items():
        assert translated, ids
        assert placeholders(translated) == placeholders(ids[0]), ids
    fresh = tmp_path / "django.mo"
    run("msgfmt", "--check", "-o", fresh, catalogue(language, "po", PACKAGE), cwd=PACKAGE)
    assert fresh.read_bytes() == catalogue(language, "mo", PACKAGE).read_bytes()
