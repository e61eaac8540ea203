"""The top of the list of orders: the account balance, for people who may view costs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import translation

from giftcards.books.admin.on_orders import _in_words
from giftcards.models import ProductPrices, ProviderState
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE, make_guide_order, make_order
from tests.pages import LIST, PROVIDER_PAGE, element, plain, read, sign_in, text
from tests.stage import ago

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

LOW = "The balance is {} DA, which is below 5,000 DA. Top up your account at the provider."
SHORT = (
    "The orders that have not been sent yet cost 980 DA. This is more than the balance, so the"
    " provider will refuse some of them."
)


@pytest.fixture
def accountant() -> Client:
    return sign_in("view_order", "view_cost")


def hold(balance: str, *, read_at: float = 200) -> None:
    """Set the balance of the account, as it was read ``read_at`` seconds ago."""
    ProviderState.objects.current()
    ProviderState.objects.update(balance=Decimal(balance), balance_read_at=ago(read_at))


def head(html: str) -> dict[str, str]:
    """Return the texts above the list, by label."""
    section = element(html, 'class="giftcards-funds"', "section")
    pairs = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", section, re.DOTALL)
    return {text(label): plain(text(value)).replace("\xa0", " ") for label, value in pairs}


def warnings(html: str) -> list[str]:
    found = re.findall(r'<p class="giftcards-warning giftcards-funds-warning">.*?</p>', html)
    return [plain(text(warning)).replace("\xa0", " ") for warning in found]


def test_the_balance_its_age_open_orders_and_how_long_it_lasts_are_shown(
    accountant: Client,
) -> None:
    hold("12450.50")
    make_guide_order()
    make_order()
    make_order(Status.HANDLING, type_id="unknown")
    ProviderState.objects.update(spent_lately=2450)
    ProductPrices.objects.keep(PRODUCT, {TYPE: Decimal(490)}, key="k", asked_at=ago(60))
    html = read(accountant.get(LIST))
    assert head(html) == {
        "Balance": "12,450.50 DA 3 minutes ago",
        "Cost of open orders": (
            "3,430 DA including 980 DA for orders that are not sent yet and 1 order with an unknown"
            " price"
        ),
        "Enough for": "about 5 days based on the last 24 hours",
    }
    assert warnings(html) == []


def test_a_shop_that_has_just_begun_sees_what_is_not_known(accountant: Client) -> None:
    assert head(read(accountant.get(LIST))) == {
        "Balance": "not read yet",
        ("Cost of open orders"): "0 DA",
    }


def test_a_filtered_list_shows_what_takes_no_query(
    accountant: Client, set_conf: Callable[..., None]
) -> None:
    set_conf(LOW_BALANCE=5000)
    hold("490")
    make_order()
    for query in ({"q": "web"}, {"status__exact": "PENDING"}):
        html = read(accountant.get(LIST, query))
        assert head(html) == {"Balance": "490 DA 3 minutes ago"}
        assert warnings(html) == [LOW.format("490")]
    for query in ({"o": "1"}, {"p": "1"}):
        assert "Cost of open orders" in head(read(accountant.get(LIST, query)))


def test_a_low_balance_is_said_above_the_list_and_on_the_page_of_the_provider(
    set_conf: Callable[..., None],
) -> None:
    set_conf(LOW_BALANCE=5000)
    browser = sign_in("view_order", "view_cost", "view_providerstate")
    hold("5000")
    assert warnings(read(browser.get(LIST))) == []
    assert "Top up" not in text(read(browser.get(PROVIDER_PAGE)))
    hold("4999.99")
    assert warnings(read(browser.get(LIST))) == [LOW.format("4,999.99")]
    page = read(browser.get(PROVIDER_PAGE))
    assert LOW.format("4,999.99") in plain(text(page)).replace("\xa0", " ")
    assert re.search(r'<dd class="giftcards-warning">[^\n]*4,999\.99', page)


def test_open_orders_that_the_balance_does_not_cover_are_a_warning(accountant: Client) -> None:
    make_order()
    ProductPrices.objects.keep(PRODUCT, {TYPE: Decimal(490)}, key="k", asked_at=ago(60))
    hold("979.99")
    assert warnings(read(accountant.get(LIST))) == [SHORT]
    hold("980")
    assert warnings(read(accountant.get(LIST))) == []


def test_without_seeing_costs_there_is_nothing_of_it(set_conf: Callable[..., None]) -> None:
    set_conf(LOW_BALANCE=5000)
    hold("4321.98")
    make_order()
    browser = sign_in("view_order", "view_providerstate", "check_order", "add_order")
    for page in (LIST, PROVIDER_PAGE):
        html = read(browser.get(page))
        assert "giftcards-funds" not in html
        assert "4,321" not in html
        assert "below" not in html


def test_the_page_of_the_provider_is_linked_for_those_who_may_open_it(accountant: Client) -> None:
    link = f'<a href="{PROVIDER_PAGE}">The provider</a>'
    assert link not in read(accountant.get(LIST))
    assert link in read(sign_in("view_order", "view_cost", "view_providerstate").get(LIST))


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        (timedelta(0), "less than an hour"),
        (timedelta(minutes=59), "less than an hour"),
        (timedelta(hours=1, minutes=5), "about 1 hour"),
        (timedelta(hours=17, minutes=50), "about 17 hours"),
        (timedelta(days=3, hours=5), "about 3 days"),
        (timedelta(days=365), "about 1 year"),
        (timedelta(days=36_500), "more than a year"),
    ],
)
def test_how_long_it_lasts_is_told_in_one_unit(span: timedelta, shown: str) -> None:
    assert _in_words(span).replace("\xa0", " ") == shown


@pytest.mark.parametrize("language", ["fr", "ar"])
def test_the_amounts_are_shown_in_the_way_of_the_language(
    accountant: Client, language: str
) -> None:
    hold("1234567.50")
    html = read(accountant.get(LIST, headers={"accept-language": language}))
    figures = element(html, 'class="giftcards-funds"', "section")
    with translation.override(language):
        assert "567,50" in figures
    assert '<bdi class="giftcards-money">' in figures
