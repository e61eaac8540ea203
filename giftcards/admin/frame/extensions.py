"""Additions of other apps to the pages of orders; see :class:`Extension`."""

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
from giftcards.models import Order
from giftcards.plugins import INSTALLED
from giftcards.watch.conditions import Standing

Html = SafeString | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The additions of one app, which its plugin names.

    Its functions get the ``OrderAdmin`` and the request, and have to check what the person may see.

    HTML on the page of an order stands inside the form of the page, so it must not hold a form: a
    button in it names the form ``giftcards-act`` and its own ``formaction``.
    """

    actions: tuple[OrderAction, ...] = ()
    pages: tuple[Page, ...] = ()
    #: Links to other pages, on the page of an order.
    buttons: Callable[[Pages, HttpRequest, Order], Iterable[OrderButton]] | None = None
    #: A section of the page of an order, as HTML; "" to show nothing.
    section: Callable[[Pages, HttpRequest, Order], Html] | None = None
    #: The same inside the section with the refund breakdown.
    money: Callable[[Pages, HttpRequest, Order], Html] | None = None
    #: Sentences on what follows if the customer of an order is corrected, as HTML.
    consequences: Callable[[Pages, HttpRequest, Order], Iterable[Html]] | None = None
    #: HTML above the list of orders; "" to show nothing.
    above_list: Callable[[Pages, HttpRequest, Standing], Html] | None = None
    #: Of some orders, those whose cards did not get to whom they are for, by their primary keys:
    #: sentences that say so, and what to do, as HTML.
    not_received: Callable[[Pages, HttpRequest, Sequence[Order]], Mapping[int, Html]] | None = None
    #: Filters of the list of orders, for people who may see costs.
    filters: tuple[type[ListFilter], ...] = ()


def _installed() -> list[Extension]:
    """The extensions of the plugins, each imported when it is first asked for."""
    paths = (plugin.order_pages for plugin in INSTALLED.values())
    return [import_string(path) for path in paths if path]


def items(part: str) -> Iterator[Any]:
    """The items of this part of every extension."""
    return (item for extension in _installed() for item in getattr(extension, part))


def note_not_received(pages: Any, request: HttpRequest, orders: Sequence[Order]) -> None:
    """Note for :func:`~giftcards.admin.frame.rows.not_received` what is said of the ``orders``."""
    for found in called("not_received", pages, request, orders):
        for order in orders:
            if order.pk in found:
                setattr(order, NOT_RECEIVED, found[order.pk])


def called(part: str, *args: Any) -> Iterator[Any]:
    """The results of this part of the extensions that have it, called with ``args``; none empty."""
    functions = (getattr(extension, part) for extension in _installed())
    return (found for call in functions if call and (found := call(*args)))
