"""Additions of other apps to the admin's pages; see :class:`Extension`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib.admin import ListFilter
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.safestring import SafeString

from giftcards.admin.frame.actions import OrderAction, OrderButton, Page, Pages
from giftcards.admin.frame.rows import NOT_RECEIVED
from giftcards.admin.frame.sections import Section
from giftcards.models import Order
from giftcards.plugins import INSTALLED
from giftcards.watch.conditions import Standing

Html = SafeString | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One app's additions to the admin's pages; see ``order_pages`` of the app's plugin.

    Each function has to check what the person may see.

    HTML for the page of an order stands inside that page's form, so it must not contain another
    form. A button in it needs the attributes ``form="giftcards-act"`` and ``formaction``.
    """

    actions: tuple[OrderAction, ...] = ()
    pages: tuple[Page, ...] = ()
    #: Links to other pages, on the page of an order.
    buttons: Callable[[Pages, HttpRequest, Order], Iterable[OrderButton]] | None = None
    #: A section of the page of an order, as HTML; "" to show nothing.
    section: Callable[[Pages, HttpRequest, Order], Html] | None = None
    #: HTML at the end of the section with the refund breakdown; "" to show nothing.
    money: Callable[[Pages, HttpRequest, Order], Html] | None = None
    #: Sentences, as HTML, that say what happens if staff correct the customer's details.
    consequences: Callable[[Pages, HttpRequest, Order], Iterable[Html]] | None = None
    #: HTML above the list of orders; "" to show nothing.
    above_list: Callable[[Pages, HttpRequest, Standing], Html] | None = None
    #: A function that finds orders whose cards did not reach their recipient. The result maps
    #: primary keys to sentences, as HTML: what happened, and what to do.
    not_received: Callable[[Pages, HttpRequest, Sequence[Order]], Mapping[int, Html]] | None = None
    #: Sections of the provider's page.
    provider_sections: Callable[[HttpRequest], Sequence[Section]] | None = None
    #: Filters of the list of orders, for people who may see costs.
    filters: tuple[type[ListFilter], ...] = ()


def _installed() -> list[Extension]:
    paths = (plugin.order_pages for plugin in INSTALLED.values())
    return [import_string(path) for path in paths if path]


def items(part: str) -> Iterator[Any]:
    """Yield the items of the field ``part`` of each extension."""
    return (item for extension in _installed() for item in getattr(extension, part))


def note_not_received(pages: Any, request: HttpRequest, orders: Sequence[Order]) -> None:
    """Ask the extensions which of the ``orders`` have cards that were not received.

    Each answer is stored in its order, where ``rows.not_received`` reads it.
    """
    for found in called("not_received", pages, request, orders):
        for order in orders:
            if order.pk in found:
                setattr(order, NOT_RECEIVED, found[order.pk])


def called(part: str, *args: Any) -> Iterator[Any]:
    """Call each function in the field ``part``, and yield the results that are not empty."""
    functions = (getattr(extension, part) for extension in _installed())
    return (found for call in functions if call and (found := call(*args)))
