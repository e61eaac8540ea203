"""The purposes of requests, each with its share of the request quota."""

from __future__ import annotations

from enum import Enum, auto


class Purpose(Enum):
    """The purpose of a request, which determines its share of the quota."""

    PLACING = auto()
    # LISTING is the first page of the list, PAGES are further pages, and SEARCHING is any page that
    # is read for lost orders.
    LISTING = auto()
    PAGES = auto()
    SEARCHING = auto()
    CHECKING = auto()
    CHECKING_LATE = auto()
    PRICING = auto()
    # PAYING is for requests about customers' payments.
    PAYING = auto()
    BACKGROUND = auto()
