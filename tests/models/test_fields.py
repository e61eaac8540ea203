"""Texts that people type: one line, in any script, without hidden characters."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from giftcards.fulfilment import place_order
from giftcards.models import Order
from giftcards.models.fields import plain_line
from tests.builders import LINE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Amina Ben Saïd",
        "أمينة بن سعيد",
        "مُسلَّم",
        # Persian words and the emoji of a family need joiners.
        "می\u200cخواهم",
        "👨\u200d👩\u200d👧",
        "O'Neil & Sons, 12/3 (Alger)",
        "a\u00a0b",
    ],
)
def test_a_line_in_any_script_is_accepted(text: str) -> None:
    plain_line(text)


@pytest.mark.parametrize(
    "char",
    [
        "\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f",
        "\u00ad", "\u200b", "\u2060", "\ufeff",
        "\u061c", "\u200e", "\u200f",
        *map(chr, range(0x202A, 0x202F)),
        *map(chr, range(0x2066, 0x206A)),
        "\u2028", "\u2029",
        "\ud800",
        "\U000e0041",
    ],
)  # fmt: skip
def test_characters_that_hide_or_reorder_text_are_refused(char: str) -> None:
    with pytest.raises(ValidationError, match="Enter one line of text, without control"):
        plain_line(f"Amina{char}Ben Saïd")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "address",
    ['"a\x08b"@example.com', "a@\u202eexample.com", "a@exam\u2066ple.com", "a@exa\u00admple.com"],
)
def test_an_email_address_that_reads_as_another_is_refused(address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        place_order(**LINE, customer_email=address)
    assert set(caught.value.message_dict) == {"customer_email"}
    assert not Order.objects.exists()


@pytest.mark.django_db
def test_a_customer_language_that_is_no_code_is_refused() -> None:
    with pytest.raises(ValidationError):
        place_order(**LINE, customer_language="a\u202er")
