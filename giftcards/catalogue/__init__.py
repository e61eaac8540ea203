"""The shelf: the provider's catalogue, what of it can be sold, and holding cards for customers."""

from giftcards.catalogue.holds import hold, release
from giftcards.catalogue.moves import PriceMove, price_moves, since_yesterday
from giftcards.catalogue.offers import check_offer, offers
from giftcards.catalogue.pricing import keep_prices, price_on_shelf, shop_price
from giftcards.catalogue.quotes import Quote, quote
from giftcards.catalogue.reading import CatalogueReading, counts, keep_current, read_catalogue
from giftcards.catalogue.stock import oldest, with_available

__all__ = [
    "CatalogueReading",
    "PriceMove",
    "Quote",
    "check_offer",
    "counts",
    "hold",
    "keep_current",
    "keep_prices",
    "offers",
    "oldest",
    "price_moves",
    "price_on_shelf",
    "quote",
    "read_catalogue",
    "release",
    "shop_price",
    "since_yesterday",
    "with_available",
]
