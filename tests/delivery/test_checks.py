"""Checks for settings with which messages would not reach customers."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.test import Client

from giftcards.delivery.channels import Mail
from tests.delivery.conftest import SHOP
from tests.fakes.mail import SMTP, backend_settings, smtp_settings

# In Django 6.1, all checks access the database.
pytestmark = pytest.mark.django_db

MAIL = "giftcards.delivery.channels.Mail"
HERE = "tests.delivery.test_checks"


class Second(Mail):
    pass


class Nameless:
    pass


class Chatty(Mail):
    name = "x" * 41


class Letters(Mail):
    name = "letters"


def found(settings: Any, **values: Any) -> list[CheckMessage]:
    settings.GIFTCARDS_DELIVERY = {**SHOP, **values}
    return [
        message
        for message in run_checks(tags=["giftcards"])
        if str(message.id).startswith("giftcards_delivery.")
    ]


def ids(settings: Any, **values: Any) -> list[str]:
    return [str(message.id)[-4:] for message in found(settings, **values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"CHANNELS": [MAIL, "shop.missing.Channel"]}, ["E010"]),
        ({"CHANNELS": [f"{HERE}.HERE"]}, ["E010"]),
        ({"PIN": "shop.missing.pin"}, ["E010"]),
        ({"OWNED_ORDERS": "shop.orders"}, ["E001"]),
        ({"CHANNELS": [MAIL, f"{HERE}.Second"]}, ["E011"]),
        ({"CHANNELS": [MAIL, MAIL]}, ["E011"]),
        ({"CHANNELS": [f"{HERE}.Nameless"]}, ["E012"]),
        ({"CHANNELS": [f"{HERE}.Chatty"]}, ["E012"]),
        ({"STAFF_EMAILS": ["boss@shop.example", {"address": "-1", "channel": "chat"}]}, ["E015"]),
        ({"STAFF_EMAILS": [{"address": "-1"}]}, ["E009"]),
        ({"STAFF_EMAILS": [{"address": " ", "channel": "mail"}]}, ["E009"]),
        ({"STAFF_EMAILS": [{"address": "-1", "channel": 5}]}, ["E009"]),
        ({"SHOP_URL": ""}, ["E005"]),
        ({"SHOP_URL": "https://sh\N{CYRILLIC SMALL LETTER O}p.example"}, ["E005"]),
        ({"MODE": "codes", "PIN": "shop.missing.pin"}, ["E010"]),
    ],
)
def test_what_the_settings_name_has_to_be_there(
    values: dict[str, Any], expected: list[str], settings: Any
) -> None:
    assert ids(settings, **values) == expected


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("5", ["E007"]),
        ("The Shop", ["E007"]),
        ("The Shop <orders>", ["E007"]),
        ("orders@shop.example", []),
        ("The Shop <orders@shop.example>", []),
        ("متجر <shop@متجر.example>", []),
    ],
)
def test_the_sender_has_to_be_an_address(sender: str, expected: list[str], settings: Any) -> None:
    assert ids(settings, FROM_EMAIL=sender) == expected


class TestLinks:
    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            (["shop.example"], []),
            ([".shop.example"], []),
            (["*"], []),
            (["www.shop.example", "localhost"], ["W004"]),
            ([], ["W004"]),
        ],
    )
    @pytest.mark.parametrize("mode", ["link", "codes", "off"])
    def test_the_site_has_to_answer_at_the_address_of_the_shop(
        self, hosts: list[str], expected: list[str], mode: str, settings: Any, client: Client
    ) -> None:
        """Otherwise, each click of a customer causes an error mail with the link's token."""
        settings.ALLOWED_HOSTS = hosts
        assert ids(settings, MODE=mode) == (expected if mode != "off" else [])
        # The site really answers as the check predicts.
        answer = client.get("/cards/nobody/", headers={"host": "shop.example"})
        assert (answer.status_code == 400) is bool(expected)

    def test_the_host_is_named_as_the_setting_wants_it(self, settings: Any) -> None:
        settings.ALLOWED_HOSTS = ["other.example"]
        [message] = found(settings, SHOP_URL="https://Shop.example:8443")
        assert message.hint == "Add 'shop.example' to ALLOWED_HOSTS, or correct the address."

    @pytest.mark.parametrize("url", ["http://[::1]:8000", "http://127.0.0.1:8000"])
    def test_the_hosts_of_development_need_not_be_listed(self, url: str, settings: Any) -> None:
        settings.ALLOWED_HOSTS = []
        assert ids(settings, SHOP_URL=url) == ["W004"]
        settings.DEBUG = True
        assert ids(settings, SHOP_URL=url) == []

    def test_links_need_the_address_of_the_shop(self, settings: Any) -> None:
        settings.GIFTCARDS_DELIVERY = {}
        errors = [str(message.id)[-4:] for message in run_checks(tags=["giftcards"])]
        assert "E013" in errors

    @pytest.mark.parametrize(
        ("mode", "urls"),
        [
            ("codes", "tests.recipes.urls"),
            ("off", "tests.recipes.urls"),
            ({"delivered": "codes", "partly_delivered": "off"}, "tests.recipes.urls"),
            ("off", "tests.delivery.no_urls"),
        ],
    )
    def test_a_shop_without_links_needs_no_address_and_one_without_messages_no_pages(
        self, mode: Any, urls: str, settings: Any
    ) -> None:
        settings.ROOT_URLCONF = urls
        settings.GIFTCARDS_DELIVERY = {"MODE": mode}
        errors = [str(message.id) for message in run_checks(tags=["giftcards"])]
        assert not any(error.startswith("giftcards_delivery") for error in errors)

    @pytest.mark.parametrize("kept_days", [30, 0], ids=["right", "wrong"])
    def test_links_need_the_pages_of_the_app_whatever_the_days_of_the_codes(
        self, kept_days: int, settings: Any
    ) -> None:
        settings.ROOT_URLCONF = "tests.delivery.no_urls"
        settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": kept_days}
        assert ids(settings) == ["E014"]

    @pytest.mark.parametrize(
        ("kept_days", "values", "expected"),
        [
            (29, {}, ["W003"]),
            (30, {}, []),
            (30, {"LINK_DAYS": 31}, ["W003"]),
            # Long messages and staff still hand over links.
            (29, {"MODE": "codes"}, ["W003"]),
            (29, {"MODE": "off"}, []),
            (None, {"LINK_DAYS": 3_650}, []),
        ],
    )
    def test_links_do_not_outlive_the_codes(
        self, kept_days: int | None, values: Any, expected: list[str], settings: Any
    ) -> None:
        if kept_days is not None:
            settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": kept_days}
        assert ids(settings, **values) == expected

    def test_links_that_outlive_the_codes_are_told_with_both_numbers(self, settings: Any) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": 14}
        # Without links, no link can outlive the codes.
        settings.GIFTCARDS_DELIVERY = {"MODE": "codes"}
        assert not [found for found in run_checks(tags=["giftcards"]) if "Links" in found.msg]
        [message] = found(settings)
        assert message.msg == (
            "Messages say that links to cards work for 30 days, but the codes are destroyed"
            " 14 days after the order has settled. Customers would be promised codes that no"
            " longer exist."
        )
        assert message.hint == (
            "Set GIFTCARDS_DELIVERY['LINK_DAYS'] to at most 14, or GIFTCARDS['CODES_KEPT_DAYS'] to"
            " at least 30."
        )


class TestMail:
    def use(self, settings: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(settings, name, value)

    @pytest.mark.parametrize(("timeout", "expected"), [(None, ["W001"]), (10, [])])
    def test_a_mail_server_needs_a_time_out(
        self, timeout: Any, expected: list[str], settings: Any
    ) -> None:
        self.use(settings, smtp_settings(25, timeout=timeout))
        assert ids(settings) == expected
        name = "MAILERS" if "MAILERS" in smtp_settings(25) else "EMAIL_TIMEOUT"
        assert [name in message.hint for message in found(settings)] == [True] * len(expected)

    @pytest.mark.parametrize("name", ["console", "dummy"])
    def test_a_backend_that_delivers_nothing_is_for_development(
        self, name: str, settings: Any
    ) -> None:
        self.use(settings, backend_settings(f"django.core.mail.backends.{name}.EmailBackend"))
        assert ids(settings) == ["W002"]
        settings.DEBUG = True
        assert ids(settings) == []

    def test_a_shop_that_sends_no_mail_needs_no_mail_server(self, settings: Any) -> None:
        self.use(settings, backend_settings(SMTP))
        assert ids(settings, CHANNELS=[f"{HERE}.Letters"]) == []
