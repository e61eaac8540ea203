"""The shelf: the provider's catalogue, what of it can be sold, and holding cards for customers."""

from giftcards.catalogue.holds import hold, release
from giftcards.catalogue.offers import check_offer, offers
from giftcards.catalogue.pricing import shop_price
from giftcards.catalogue.quotes import Quote, quote
from giftcards.catalogue.reading import CatalogueReading, counts, keep_current, read_catalogue

__all__ = [
    "CatalogueReading",
    "Quote",
    "check_offer",
    "counts",
    "hold",
    "keep_current",
    "offers",
    "quote",
    "read_catalogue",
    "release",
    "shop_price",
]
