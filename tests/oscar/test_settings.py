"""The settings that a shop has to write, and what the system checks report about them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.checks import run_checks
from oscar.core.loading import get_class

from giftcards.exceptions import ConfigurationError
from giftcards.oscar.checkout import GiftCardsCheckout
from giftcards.oscar.checks import check_settings, check_shop
from giftcards.oscar.conf import conf
from tests.oscar.guide import ROOT, block_of
from tests.oscar.shop import payment_view

BLOCKS = (
    "# shop/settings.py, at its end",
    "# shop/checkout/views.py",
    "# shop/urls.py, at its end",
)


def found() -> list[str]:
    """Return the ids of the messages from this app's system checks."""
    return [message.id or "" for message in [*check_settings(), *check_shop()]]


def test_a_shop_writes_thirty_lines_at_most() -> None:
    blocks = [block_of("oscar", begin) for begin in BLOCKS]
    written = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(written) <= 30
    # The section contains no other code that a shop would need.
    page = (ROOT / "docs" / "oscar.md").read_text()
    setting_up = page[page.index("## Setting it up") : page.index("## Prices and stock")]
    assert re.findall(r"^```python\n(.*)$", setting_up, re.MULTILINE) == list(BLOCKS)


def test_the_shop_of_the_page_has_nothing_to_complain_about() -> None:
    assert issubclass(payment_view(), GiftCardsCheckout)
    assert get_class("checkout.views", "PaymentDetailsView") is payment_view()
    assert found() == []


@pytest.mark.django_db
def test_the_checks_are_among_those_of_manage_py(settings: Any) -> None:
    settings.GIFTCARDS_OSCAR = {"PAID": "Paid"}
    settings.OSCAR_DEFAULT_CURRENCY = "GBP"
    ids = {message.id for message in run_checks(tags=["giftcards"])}
    assert {"giftcards_oscar.E001", "giftcards_oscar.W001"} <= ids


def test_a_setting_that_is_not_given_has_its_default() -> None:
    assert conf.paid_statuses == ("Paid",)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("Paid", "GIFTCARDS_OSCAR must be a dict."),
        ({"PAID": "Paid"}, "GIFTCARDS_OSCAR has a setting 'PAID' that does not exist."),
        (
            {"PAID_STATUSES": "Paid"},
            "GIFTCARDS_OSCAR['PAID_STATUSES'] must be a list of at least one string.",
        ),
        (
            {"PAID_STATUSES": []},
            "GIFTCARDS_OSCAR['PAID_STATUSES'] must be a list of at least one string.",
        ),
        (
            {"PAID_STATUSES": [None]},
            "A status in GIFTCARDS_OSCAR['PAID_STATUSES'] must be a string.",
        ),
        (
            {"PAID_STATUSES": ["x" * 101]},
            "A status in GIFTCARDS_OSCAR['PAID_STATUSES'] must have from 1 to 100 characters.",
        ),
    ],
)
def test_what_is_wrong_with_a_setting_is_told(settings: Any, given: Any, complaint: str) -> None:
    settings.GIFTCARDS_OSCAR = given
    [problem] = conf.problems()
    assert problem.message == complaint
    if problem.setting in conf.declared:
        with pytest.raises(ConfigurationError, match=re.escape(complaint)):
            conf.require(problem.setting)
    assert len(found()) == 1


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"GIFTCARDS_OSCAR": {"PAID_STATUSES": ["Paied"]}}, "giftcards_oscar.E004"),
        ({"OSCAR_DEFAULT_CURRENCY": "GBP"}, "giftcards_oscar.W001"),
    ],
)
def test_a_shop_whose_settings_do_not_fit_is_told(
    settings: Any, changes: dict[str, Any], complaint: str
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    assert found() == [complaint]


def test_a_shop_that_does_not_check_its_baskets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import shop.checkout.views as views

    monkeypatch.setattr(views, "PaymentDetailsView", views.CorePaymentDetailsView)
    assert found() == ["giftcards_oscar.W002"]
