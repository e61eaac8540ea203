"""The purposes of requests to the provider, each with its share of the request budget."""

from __future__ import annotations

from enum import Enum, auto


class Purpose(Enum):
    """The purpose of a request: it decides which slots of the budget the request may take."""

    PLACING = auto()
    # LISTING is for the first page of the list, PAGES is for further pages, and SEARCHING is for
    # any page that is read to find lost orders.
    LISTING = auto()
    PAGES = auto()
    SEARCHING = auto()
    CHECKING = auto()
    CHECKING_LATE = auto()
    PRICING = auto()
    # PAYING is for requests about payments by customers.
    PAYING = auto()
    BACKGROUND = auto()
