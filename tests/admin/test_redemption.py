"""The pages for redemption instructions, regions, and a shop's own product names."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from giftcards.catalogue import descriptions, redemption_instructions
from giftcards.models import Product, ProductType, RedemptionInstructions, ShelfChange
from giftcards.models.redemption import LONGEST_INSTRUCTIONS
from tests.builders import make_offer
from tests.pages import errors, hidden, messages, read, sign_in, text

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

CHANGED = (
    "Somebody else has changed this information in the meantime. Nothing was saved, and your"
    " version is below. Open the page again to see the other version."
)


@pytest.fixture
def kind() -> ProductType:
    kind = make_offer()
    kind.product.region = "TR"
    kind.product.save()
    return kind


@pytest.fixture
def owner() -> Client:
    return sign_in("view_product", "change_shelf", name="amina")


def address(row: Any) -> str:
    folder = "" if isinstance(row, Product) else "category/"
    return f"/admin/giftcards/product/{folder}{row.pk}/redemption/"


def post(browser: Client, row: Any, *, seen: str = "", **texts: str) -> str:
    seen = seen or hidden(read(browser.get(address(row))))["seen"]
    return read(browser.post(address(row), {"seen": seen, **texts}, follow=True))


def test_the_owner_writes_what_customers_read_in_each_language(
    kind: ProductType, owner: Client
) -> None:
    html = post(
        owner,
        kind.product,
        own_name="Carte PSN",
        region_fr="Turquie (compte turc)",
        text_en="Open\r\nhttps://psn.example",
        text_ar="افتح https://psn.example",
    )
    assert messages(html) == ["The product information was saved."]
    kind = ProductType.objects.select_related("product").get()
    assert redemption_instructions(kind, "en") == "Open\nhttps://psn.example"
    assert redemption_instructions(kind, "ar") == "افتح https://psn.example"
    told = descriptions([kind], "fr")[kind.pk]
    assert (told.name, told.region) == ("Carte PSN", "Turquie (compte turc)")
    assert told.instructions == "Open\nhttps://psn.example"
    change = ShelfChange.objects.get()
    assert (change.what, change.new, change.by) == ("own_name", "Carte PSN", "amina")
    assert LogEntry.objects.get().user.get_username() == "amina"
    product_page = text(read(owner.get(f"/admin/giftcards/product/{kind.product_id}/change/")))
    assert "https://psn.example" in product_page


def test_the_category_holds_a_default(kind: ProductType, owner: Client) -> None:
    post(owner, kind.product.category, text_en="For all")
    assert redemption_instructions(kind) == "For all"
    html = read(owner.get(address(kind.product)))
    assert address(kind.product.category) in html
    assert "region" not in hidden(read(owner.get(address(kind.product.category))))


def test_an_emptied_text_is_that_of_the_category_again(kind: ProductType, owner: Client) -> None:
    post(owner, kind.product.category, text_en="For all")
    post(owner, kind.product, text_en="For one", own_name="Mine")
    assert redemption_instructions(kind) == "For one"
    post(owner, kind.product, text_en=" \r\n ", own_name="")
    assert redemption_instructions(kind) == "For all"
    assert not RedemptionInstructions.objects.filter(product=kind.product).exists()
    assert Product.objects.get().own_name == ""


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"text_fr": "x" * (LONGEST_INSTRUCTIONS + 1)}, "at most 2000 characters (it has 2001)"),
        (
            {"text_fr": "\u202ereversed"},
            "Enter text without control characters or characters that change the text direction.",
        ),
        (
            {"region_fr": "a\u2028b"},
            (
                "Enter one line of text, without control characters or characters that change the"
                " text direction."
            ),
        ),
        ({"region_fr": "x" * 101}, "at most 100 characters (it has 101)"),
        ({"own_name": "x" * 201}, "at most 200 characters (it has 201)"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_and_nothing_is_half_saved(
    kind: ProductType, owner: Client, texts: dict[str, str], complaint: str
) -> None:
    html = post(owner, kind.product, **{"text_en": "Good", **texts})
    assert complaint in " ".join(errors(html))
    assert not RedemptionInstructions.objects.exists()
    assert Product.objects.get().own_name == ""


def test_markup_is_kept_as_text(kind: ProductType, owner: Client) -> None:
    markup = "<script>alert(1)</script> <b>x</b>"
    html = post(owner, kind.product, text_en=markup, region_en=markup, own_name=markup)
    html += read(owner.get(f"/admin/giftcards/product/{kind.product_id}/change/"))
    html += read(owner.get("/admin/giftcards/product/"))
    assert redemption_instructions(kind) == markup
    assert "<script>alert" not in html
    assert "<b>x" not in html


def test_the_second_of_two_people_overwrites_nothing(kind: ProductType, owner: Client) -> None:
    seen = hidden(read(owner.get(address(kind.product))))["seen"]
    post(owner, kind.product, text_en="First")
    html = post(owner, kind.product, seen=seen, text_en="Second")
    assert CHANGED in text(html)
    assert "Second" in html
    assert redemption_instructions(kind) == "First"


@pytest.mark.parametrize("permissions", [["view_product"], ["change_shelf"], ["view_order"]])
def test_who_may_not_change_the_shelf_writes_nothing(
    kind: ProductType, permissions: list[str]
) -> None:
    browser = sign_in(*permissions)
    for row in (kind.product, kind.product.category):
        assert browser.get(address(row)).status_code == 403
        assert browser.post(address(row), {"text_en": "x"}).status_code == 403
    assert not RedemptionInstructions.objects.exists()
    assert sign_in(superuser=True).get(address(kind.product)[:-12] + "0/").status_code != 200


def test_a_row_that_is_not_there_is_not_found(owner: Client) -> None:
    for folder in ("", "category/"):
        assert owner.get(f"/admin/giftcards/product/{folder}0/redemption/").status_code == 404
