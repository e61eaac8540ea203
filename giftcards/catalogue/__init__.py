"""The catalogue of the provider: reading it, and quoting a card before it is bought."""

from giftcards.catalogue.quotes import Quote, quote
from giftcards.catalogue.reading import CatalogueReading, counts, read_catalogue

__all__ = ["CatalogueReading", "Quote", "counts", "quote", "read_catalogue"]
