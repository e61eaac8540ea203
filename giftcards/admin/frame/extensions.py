"""The parts that the optional apps add to the admin's pages."""

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
    """The HTML that one app adds to the page of an order.

    An empty string means that the app does not add anything. The HTML is inserted into the form of
    that page, so it must not contain another form. Buttons in this HTML need the attributes
    ``form="giftcards-act"`` and ``formaction``.
    """

    #: A section of the page.
    section: Html = ""
    #: The end of the section with the refund breakdown.
    money: Html = ""
    #: Sentences about cards that the recipient did not receive. They say what happened and what to
    #: do.
    not_received: Html = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnList:
    """The parts that one app adds to the list of orders."""

    #: HTML above the list, or "".
    notice: Html = ""
    #: The ``not_received`` texts as in :class:`OnOrder`, by the primary key of the order.
    not_received: Mapping[int, Html] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The parts that one app adds to the admin's pages.

    See ``order_pages`` in the app's plugin. Each function is called once for each request, and must
    check what the person is allowed to see.
    """

    actions: tuple[OrderAction, ...] = ()
    pages: tuple[Page, ...] = ()
    on_order: Callable[[Pages, HttpRequest, Order], OnOrder] | None = None
    #: The orders are those on the displayed page of the list.
    on_list: Callable[[Pages, HttpRequest, Standing, Sequence[Order]], OnList] | None = None
    #: Sentences, as HTML, that say what happens if staff correct the customer's details.
    consequences: Callable[[Pages, HttpRequest, Order], Iterable[Html]] | None = None
    #: Sections of the provider's page.
    provider_sections: Callable[[HttpRequest], Sequence[Section]] | None = None
    #: Figures of the start page, as HTML, or "".
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
    """Call the ``part`` function of each extension, and return the results.

    Extensions without this function are skipped.
    """
    functions = (getattr(extension, part) for extension in installed())
    return [function(*args) for function in functions if function]
