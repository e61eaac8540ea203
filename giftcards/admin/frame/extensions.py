"""The additions of the optional apps to the admin's pages; see :class:`Extension`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.contrib.admin import ListFilter
from django.http import HttpRequest
from django.utils.module_loading import import_string
from django.utils.safestring import SafeString

from giftcards.admin.frame.actions import OrderAction, Page, Pages
from giftcards.admin.frame.sections import Section
from giftcards.models import Order
from giftcards.plugins import INSTALLED
from giftcards.watch.conditions import Standing

Html = SafeString | str


class OnOrder(NamedTuple):
    """One app's additions to the page of an order, as HTML; "" to show nothing.

    The HTML stands inside the form of that page, so it must not contain another form. A button in
    it needs the attributes ``form="giftcards-act"`` and ``formaction``.
    """

    #: A section of the page.
    section: Html = ""
    #: The end of the section with the refund breakdown.
    money: Html = ""
    #: Sentences on cards that did not reach their recipient: what happened, and what to do.
    not_received: Html = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnList:
    """One app's additions to the list of orders."""

    #: HTML above the list; "" to show nothing.
    notice: Html = ""
    #: What :class:`OnOrder` has as ``not_received``, by the primary key of the order.
    not_received: Mapping[int, Html] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One app's additions to the admin's pages; see ``order_pages`` of the app's plugin.

    Each function is called once for a request. It has to check what the person may see.
    """

    actions: tuple[OrderAction, ...] = ()
    pages: tuple[Page, ...] = ()
    on_order: Callable[[Pages, HttpRequest, Order], OnOrder] | None = None
    #: The orders are those on the page of the list that is shown.
    on_list: Callable[[Pages, HttpRequest, Standing, Sequence[Order]], OnList] | None = None
    #: Sentences, as HTML, that say what happens if staff correct the customer's details.
    consequences: Callable[[Pages, HttpRequest, Order], Iterable[Html]] | None = None
    #: Sections of the provider's page.
    provider_sections: Callable[[HttpRequest], Sequence[Section]] | None = None
    #: Figures of the start page, as HTML; "" to show none.
    on_start: Callable[[Pages, HttpRequest, Standing], Html] | None = None
    #: The topics that the app adds to the manual.
    help_topics: tuple[str, ...] = ()
    #: Filters of the list of orders, for people who may see costs.
    filters: tuple[type[ListFilter], ...] = ()


def installed() -> list[Extension]:
    """Return the extensions of the installed apps."""
    paths = (plugin.order_pages for plugin in INSTALLED.values())
    return [import_string(path) for path in paths if path]


def called(part: str, *args: Any) -> list[Any]:
    """Call the ``part`` function of each extension that has it, and return the results."""
    functions = (getattr(extension, part) for extension in installed())
    return [function(*args) for function in functions if function]
