"""The PIN of a link: what a shop's function may return, and which inputs count as equal."""

from __future__ import annotations

from typing import Any

import pytest

from giftcards.delivery.pins import help_text, is_right, last_digits_of_phone, pin_of
from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import Masked
from giftcards.models import Order


@pytest.mark.parametrize(
    ("phone", "pin"),
    [
        ("+213 550 12 34 56", "3456"),
        ("٠٥٥٠ ١٢ ٣٤ ٥٦", "3456"),
        ("0550123456 ext.", "3456"),
        ("123", ""),
        ("", ""),
    ],
)
def test_the_pin_is_the_end_of_the_phone_number(phone: str, pin: str) -> None:
    assert last_digits_of_phone(Order(customer_phone=phone)) == pin


@pytest.mark.parametrize(
    ("typed", "pin", "right"),
    [
        ("ab-12", "AB12", True),
        ("١٢٣٤", "1234", True),
        ("1234", "۱۲۳۴", True),
        ("", "1234", False),
        ("01234", "1234", False),
        ("12345", "1234", False),
    ],
)
def test_case_separators_and_script_do_not_matter(typed: str, pin: str, *, right: bool) -> None:
    assert is_right(typed, pin) is right


@pytest.mark.parametrize(
    ("returned", "pin"), [("x", "x"), ("", ""), (None, ""), (False, ""), (1234, "1234"), (0, "0")]
)
def test_what_a_function_of_the_shop_returns_is_taken_as_text(
    settings: Any, monkeypatch: pytest.MonkeyPatch, returned: Any, pin: str
) -> None:
    monkeypatch.setattr("tests.delivery.test_pins.hook", lambda order: returned)
    settings.GIFTCARDS_DELIVERY = {"PIN": "tests.delivery.test_pins.hook"}
    found = pin_of(Order())
    assert found == pin
    assert isinstance(found, Masked)
    assert help_text() == ""


def hook(order: Order) -> Any:
    raise NotImplementedError


def test_without_the_setting_nothing_is_asked(settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {}
    assert pin_of(Order(customer_phone="0550123456")) == ""
    assert help_text() == ""


@pytest.mark.parametrize("returned", [" ", "\t\n"])
def test_a_pin_that_an_empty_field_would_match_is_refused(
    settings: Any, monkeypatch: pytest.MonkeyPatch, returned: str
) -> None:
    monkeypatch.setattr("tests.delivery.test_pins.hook", lambda order: returned)
    settings.GIFTCARDS_DELIVERY = {"PIN": "tests.delivery.test_pins.hook"}
    with pytest.raises(ConfigurationError):
        pin_of(Order())
