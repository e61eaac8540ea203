"""The catalogue of the provider: reading it, and quoting a card before it is bought."""

from giftcards.catalogue.quotes import Quote, quote
from giftcards.catalogue.reading import CatalogueReading, counts, keep_current, read_catalogue

__all__ = ["CatalogueReading", "Quote", "counts", "keep_current", "quote", "read_catalogue"]
