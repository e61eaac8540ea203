"""What customers read about a card: its name, its region, and how to redeem it."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import translation

from giftcards.catalogue import Description, descriptions, offers, redemption_instructions
from giftcards.fulfilment import place_order
from giftcards.models import Category, OfferChange, Product, RedemptionInstructions, ShelfChange
from giftcards.models.redemption import LONGEST_INSTRUCTIONS
from tests.builders import category, make_offer, make_order

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


def write(row: Product | Category, language: str, text: str = "", region: str = "") -> None:
    of = {"product": row} if isinstance(row, Product) else {"category": row}
    RedemptionInstructions.objects.create(**of, language=language, text=text, region=region)


# The texts of the product and of the category by language, the requested language, and the result.
TEXTS: dict[str, tuple[dict[str, str], dict[str, str], str, str]] = {
    "none": ({}, {}, "fr", ""),
    "its own language": ({"en": "enter", "fr": "entrez"}, {}, "fr", "entrez"),
    "a variant of the language": ({"en": "enter", "fr": "entrez"}, {}, "fr-ca", "entrez"),
    "the site's language instead": ({"en": "enter", "fr": "entrez"}, {}, "ar", "enter"),
    "a language that the site lacks": ({"en": "enter"}, {}, "de", "enter"),
    "another language only": ({"fr": "entrez"}, {}, "ar", ""),
    "the category's": ({}, {"en": "all", "fr": "tous"}, "fr", "tous"),
    "the category's in the site's language": ({}, {"en": "all"}, "ar", "all"),
    "the product before the category": ({"en": "enter"}, {"fr": "tous"}, "fr", "enter"),
    "an empty text": ({"fr": ""}, {"fr": "tous"}, "fr", "tous"),
}


@pytest.mark.parametrize(("own", "shared", "language", "told"), TEXTS.values(), ids=TEXTS)
def test_the_most_specific_text_in_the_best_language_is_told(
    own: dict[str, str], shared: dict[str, str], language: str, told: str
) -> None:
    kind = make_offer()
    for row, texts in ((kind.product, own), (kind.product.category, shared)):
        for code, text in texts.items():
            write(row, code, text)
    assert redemption_instructions(kind, language) == told
    with translation.override(language):
        assert redemption_instructions(kind) == told


# The provider's region, the shop's regions by language, the requested language, and the result.
REGIONS: list[tuple[str, dict[str, str], str, str]] = [
    ("", {}, "en", ""),
    ("TR", {}, "en", "Turkey"),
    ("TR", {}, "fr", "Turquie"),
    ("tr", {}, "ar", "تركيا"),
    ("GLOBAL", {}, "fr", "Tous les pays"),
    ("Mars & Moon", {}, "fr", "Mars & Moon"),
    ("TR", {"en": "Türkiye"}, "en", "Türkiye"),
    ("TR", {"en": "Cyprus"}, "fr", "Cyprus"),
    ("TR", {"fr": "Chypre"}, "en", "Turkey"),
    ("", {"fr": "Chypre"}, "fr", "Chypre"),
]


@pytest.mark.parametrize(("region", "own", "language", "told"), REGIONS)
def test_the_region_is_named_in_the_customers_language_and_can_be_corrected(
    region: str, own: dict[str, str], language: str, told: str
) -> None:
    kind = make_offer()
    Product.objects.update(region=region)
    kind.refresh_from_db()
    for code, text in own.items():
        write(kind.product, code, region=text)
    assert descriptions([kind], language)[kind.pk].region == told


def test_a_list_of_any_length_takes_one_query(django_assert_num_queries: Any) -> None:
    for number in range(12):
        kind = make_offer(f"type-{number}", product_id=f"product-{number % 4}")
    write(kind.product, "en", "enter")
    write(kind.product.category, "en", "all")
    kinds = list(offers())
    with django_assert_num_queries(1):
        told = descriptions(kinds)
    assert sorted(each.instructions for each in told.values()) == ["all"] * 9 + ["enter"] * 3
    with django_assert_num_queries(0):
        assert descriptions([]) == {}


def test_any_number_of_orders_takes_two_queries(django_assert_num_queries: Any) -> None:
    kind = make_offer()
    write(kind.product, "fr", "entrez", region="Turquie")
    orders = [make_order(quantity=number) for number in (1, 2, 3)]
    other = make_order(product_id="unlisted")
    with django_assert_num_queries(2):
        told = descriptions([*orders, other], "fr")
    description = Description("PlayStation", "Turquie", "entrez")
    assert told == {**{order.pk: description for order in orders}, other.pk: Description()}


def test_a_product_has_the_name_that_its_shop_gives_it_and_an_order_keeps_it() -> None:
    kind = make_offer()
    kind.product.own_name = "بطاقة PSN"
    kind.product.save(by="amina")
    [offer] = offers()
    assert str(offer) == "بطاقة PSN – PSN 500 DA"
    assert descriptions([offer])[offer.pk] == Description("بطاقة PSN", "", "")
    order = place_order(product_type=offer, quantity=1)
    kind.product.own_name = ""
    kind.product.save()
    order.refresh_from_db()
    assert (order.product_name, order.type_name) == ("بطاقة PSN", "PSN 500 DA")
    assert place_order(product_type=offer, quantity=1).product_name == "PlayStation"
    named = [change.new for change in OfferChange.objects.filter(what="name")]
    assert named == ["بطاقة PSN – PSN 500 DA", "PlayStation – PSN 500 DA"]
    kept = ShelfChange.objects.values_list("what", "old", "new", "by")
    assert list(kept) == [("own_name", "", "بطاقة PSN", "amina"), ("own_name", "بطاقة PSN", "", "")]


BAD: dict[str, dict[str, Any]] = {
    "too long": {"text": "x" * (LONGEST_INSTRUCTIONS + 1)},
    "control character": {"text": "a\x00b"},
    "direction character": {"text": "\u202ereversed"},
    "region of two lines": {"region": "a\nb"},
    "region too long": {"region": "x" * 101},
}


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_a_text_that_nobody_can_read_is_refused(values: dict[str, Any]) -> None:
    row = RedemptionInstructions(product=make_offer().product, language="en", **values)
    with pytest.raises(ValidationError):
        row.full_clean(exclude=["category"])


@pytest.mark.parametrize("of", ["both", "neither", "category with a region", "twice"])
def test_a_text_is_of_one_product_or_one_category(of: str) -> None:
    product = make_offer().product
    both = {"product": product, "category": product.category}
    values: dict[str, Any] = {
        "both": both,
        "neither": {},
        "category with a region": {"category": category(), "region": "DZ"},
        "twice": {"product": product},
    }[of]
    if of == "twice":
        write(product, "en", "first")
    with pytest.raises(IntegrityError), transaction.atomic():
        RedemptionInstructions.objects.create(language="en", text="x", **values)
