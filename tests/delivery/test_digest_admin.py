"""The digests in the admin: their list, and a notice above the orders if one cannot be sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client
from django.utils import timezone

from giftcards.admin.frame.extensions import Extension, OnList
from giftcards.delivery.models import StaffDigest
from giftcards.management.groups import ensure_roles, role_permissions
from giftcards.plugins import INSTALLED, Plugin, install
from tests.delivery.staff import person
from tests.pages import LIST, PROVIDER_PAGE, count_queries, element, read, rows, sign_in, text

pytestmark = pytest.mark.django_db

DIGESTS = "/admin/giftcards_delivery/staffdigest/"
ACCOUNT = "The staff account with this address"
ACCOUNTANT = "Gift card accountant"
NOTICE = "A digest for staff cannot be sent, so 1 person is not being notified of problems."


@pytest.fixture(autouse=True)
def _listed(settings: Any) -> None:
    people = ["boss@shop.example", "books@shop.example"]
    settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "STAFF_EMAILS": people}


@pytest.fixture
def browser() -> Client:
    """Return a browser of a person who may see orders and digests."""
    return person("view_staffdigest")


def failing(address: str = "boss@shop.example", **values: Any) -> StaffDigest:
    values = {
        "failures": 3,
        "error": "ConnectionRefusedError at /srv/<b>smtp.py:12",
        "retry_at": timezone.now() + timedelta(minutes=5),
    } | values
    return StaffDigest.objects.create(address=address, **values)


def test_the_list_says_who_was_told_when_and_what(browser: Client) -> None:
    last = [
        ["order_problems", 2, False],
        ["access_refused", 1, True],
        ["of a later version", 1, False],
    ]
    StaffDigest.objects.create(address="boss@shop.example", sent_at=timezone.now(), said=last)
    shown = rows(read(browser.get(DIGESTS)), 'id="result_list"')
    [boss] = shown[1:]
    assert boss[0] == "boss@shop.example"
    assert boss[2] == "2 orders with problemsRequests to the provider are no longer paused."
    assert boss[3:] == ["in order", ""]


def test_a_digest_that_cannot_be_sent_is_shown_with_class_and_place(browser: Client) -> None:
    failing()
    html = read(browser.get(DIGESTS))
    assert "cannot be sent: 3 attempts failed" in text(html)
    assert "ConnectionRefusedError" not in html
    developer = person("view_staffdigest", "resume_provider", name="karim")
    html = read(developer.get(DIGESTS))
    assert "ConnectionRefusedError at /srv/&lt;b&gt;smtp.py:12" in html


def test_a_failing_digest_is_told_above_the_list_of_orders(browser: Client) -> None:
    assert NOTICE not in text(read(browser.get(LIST)))
    before = count_queries(browser, LIST)
    failing()
    failing("books@shop.example", failures=0)
    html = read(browser.get(LIST))
    assert NOTICE in text(html)
    assert f'href="{DIGESTS}"' in html
    assert count_queries(browser, LIST) == before
    # A person without permission to see digests sees neither the notice nor the list.
    other = sign_in("view_order")
    assert NOTICE not in text(read(other.get(LIST)))
    read(other.get(DIGESTS), status=403)


NO_DIGESTS = 'aria-labelledby="giftcards-unreached"'


class TestProviderPage:
    """The provider page shows the addresses that get no digests."""

    @pytest.fixture
    def books(self) -> Any:
        ensure_roles(role_permissions())
        values = {"email": "Books@shop.example", "is_staff": True}
        user = get_user_model().objects.create(username="nadia", **values)
        user.groups.add(Group.objects.get(name=ACCOUNTANT))
        return user

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (
                lambda user: user.groups.clear(),
                f"{ACCOUNT} does not have permission to see any part of the digest.",
            ),
            (
                lambda _user: get_user_model().objects.update(is_active=False),
                f"{ACCOUNT} is deactivated.",
            ),
            (
                lambda user: user.groups.get().permissions.clear(),
                f"The group \u2068{ACCOUNTANT}\u2069 does not have permission to see any part of"
                " the digest.",
            ),
            (
                lambda _user: failing("books@shop.example"),
                "cannot be sent: 3 attempts failed",
            ),
        ],
        ids=["role taken away", "deactivated", "group empty", "mail fails"],
    )
    def test_an_address_that_gets_nothing_is_shown_with_the_reason(
        self, change: Callable[[Any], Any], reason: str, books: Any, settings: Any
    ) -> None:
        people = ["boss@shop.example", {"address": "books@shop.example", "role": ACCOUNTANT}]
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "STAFF_EMAILS": people}
        change(books)
        html = read(person("view_providerstate", "view_staffdigest").get(PROVIDER_PAGE))
        section = element(html, NO_DIGESTS, "section")
        assert text(element(section, "", "dl")) == f"books@shop.example{reason}"

    @pytest.mark.parametrize(
        ("permissions", "is_active"),
        [(("view_providerstate", "view_staffdigest"), True), (("view_providerstate",), False)],
        ids=["everybody is told", "reader may not see digests"],
    )
    @pytest.mark.usefixtures("books")
    def test_otherwise_nothing_is_shown(
        self, permissions: tuple[str, ...], is_active: bool
    ) -> None:
        get_user_model().objects.update(is_active=is_active)
        # The account of a customer with this address changes nothing.
        get_user_model().objects.create(username="stranger", email="boss@shop.example")
        assert NO_DIGESTS not in read(person(*permissions).get(PROVIDER_PAGE))


@pytest.mark.parametrize("page", ["add/", "{}/change/", "{}/delete/"])
def test_digests_are_only_looked_at(page: str) -> None:
    digest = failing()
    browser = sign_in(superuser=True)
    address = DIGESTS + page.format(digest.pk)
    read(browser.post(address, {"address": "x@example.com"}), status=403)
    digest.refresh_from_db()
    assert digest.address == "boss@shop.example"


CLOSED_ON_FRIDAY = Extension(on_list=lambda *_args: OnList(notice="Closed on Friday."))


def test_a_plugin_that_is_installed_twice_shows_its_notice_once(
    browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Plugin(app="shop", order_pages=f"{__name__}.CLOSED_ON_FRIDAY")
    monkeypatch.setitem(INSTALLED, "shop", plugin)
    install(plugin)
    assert read(browser.get(LIST)).count("Closed on Friday.") == 1
