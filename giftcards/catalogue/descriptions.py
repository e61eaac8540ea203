"""Descriptions of cards for customers: name, region and instructions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q
from django.utils import translation

from giftcards.models import Order, Product, ProductType, RedemptionInstructions
from giftcards.text.display import supported_language
from giftcards.text.regions import region_name


@dataclass(frozen=True, slots=True)
class Description:
    """The description of a product for customers, in one language.

    An unknown value is "". The ``name`` is the product's name in your shop. If your shop has not
    set a name, it is the provider's name. The ``instructions`` are plain text that can contain
    several lines. To show the instructions in HTML, escape the text and turn URLs into links.
    """

    name: str = ""
    region: str = ""
    instructions: str = ""


def descriptions(
    rows: Iterable[ProductType | Order], language: str | None = None
) -> dict[int, Description]:
    """Return a dict that maps each row's primary key to its description.

    The ``rows`` can be product types or orders. For product types, the function makes one query if
    their products are already loaded, as in the result of :func:`offers`. For orders, the function
    makes two queries. If the product of an order is not in the catalogue, its description is empty.

    ``language`` is the active language by default. If a text is missing in this language, the text
    in the site's default language is used.
    """
    listed = list(rows)
    ids = {
        row.pk: row.product_id if isinstance(row, Order) else row.product.product_id
        for row in listed
    }
    products = {row.product for row in listed if isinstance(row, ProductType)}
    if ordered := {row.product_id for row in listed if isinstance(row, Order)}:
        products |= {*Product.objects.filter(product_id__in=ordered)}
    found = of_products(products, language)
    return {key: found.get(product_id, Description()) for key, product_id in ids.items()}


def redemption_instructions(product_type: ProductType, language: str | None = None) -> str:
    """Return instructions for redeeming a card of this type, as plain text.

    Instructions for the product take precedence over instructions for its category. By default,
    ``language`` is the active language. If the text is missing in this language, the text in the
    site's default language is used. Returns "" if there are no instructions.
    """
    return descriptions([product_type], language)[product_type.pk].instructions


def of_products(products: Iterable[Product], language: str | None = None) -> dict[str, Description]:
    """Return the descriptions of ``products``, by ``product_id``."""
    listed = list(products)
    languages = _languages(language)
    rows = RedemptionInstructions.objects.filter(
        Q(product__in={product.pk for product in listed})
        | Q(category__in={product.category_id for product in listed}),
        language__in=languages,
    )
    known = {(row.product_id, row.category_id, row.language): row for row in rows}

    def first(column: str, *places: tuple[int | None, int | None]) -> str:
        told = (known.get((*place, code)) for place in places for code in languages)
        return next((text for row in told if row and (text := getattr(row, column))), "")

    with translation.override(languages[0]):
        return {
            product.product_id: Description(
                name=product.own_name or product.name,
                region=first("region", (product.pk, None)) or region_name(product.region),
                instructions=first("text", (product.pk, None), (None, product.category_id)),
            )
            for product in listed
        }


def _languages(language: str | None) -> list[str]:
    """Return the codes of the languages to try for a description, best first."""
    wanted = supported_language(language or translation.get_language())
    codes = (wanted, supported_language(None))
    return list(dict.fromkeys(each for code in codes for each in (code, code.partition("-")[0])))
