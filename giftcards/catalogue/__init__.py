"""The provider's catalogue, the cards that can be sold, and reservations."""

from giftcards.catalogue.descriptions import Description, descriptions, redemption_instructions
from giftcards.catalogue.offers import (
    Quote,
    check_offer,
    is_on_shelf,
    offers,
    quote,
    sold_out_by_buffer,
    stale_after,
    with_available,
)
from giftcards.catalogue.pricing import (
    PriceMove,
    PricePreview,
    inherited,
    keep_prices,
    preview,
    price_moves,
    save_rows,
    since_yesterday,
)
from giftcards.catalogue.reading import (
    CatalogueReading,
    counts,
    keep_current,
    read_catalogue,
    read_soon,
    reading_wanted,
)
from giftcards.catalogue.reservations import release, reserve
from giftcards.catalogue.visitors import Guest, customer_of
from giftcards.text.addresses import client_network

__all__ = [
    "CatalogueReading",
    "Description",
    "Guest",
    "PriceMove",
    "PricePreview",
    "Quote",
    "check_offer",
    "client_network",
    "counts",
    "customer_of",
    "descriptions",
    "inherited",
    "is_on_shelf",
    "keep_current",
    "keep_prices",
    "offers",
    "preview",
    "price_moves",
    "quote",
    "read_catalogue",
    "read_soon",
    "reading_wanted",
    "redemption_instructions",
    "release",
    "reserve",
    "save_rows",
    "since_yesterday",
    "sold_out_by_buffer",
    "stale_after",
    "with_available",
]
