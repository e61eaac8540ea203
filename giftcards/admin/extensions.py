"""What other apps add to the pages of orders; see :class:`Extension`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib.admin import AdminSite, ListFilter
from django.http import HttpRequest, HttpResponseBase
from django.utils.safestring import SafeString

from giftcards.conditions import Standing
from giftcards.models import Order

if TYPE_CHECKING:
    from giftcards.admin.pages import OrderButton

Html = SafeString | str


class Page(NamedTuple):
    """A page below the list of orders; ``view`` has to check what the person may do.

    Its URL is ``admin:giftcards_order_`` and the ``name``.
    """

    path: str
    name: str
    view: Callable[..., HttpResponseBase]


@dataclass(frozen=True, slots=True)
class Extension:
    """What an app adds. Each function has to check what the person may see, and do.

    HTML on the page of an order stands inside the form of the page, so it must not hold a form: a
    button in it names the form ``giftcards-act`` and its own ``formaction``.
    """

    #: Buttons on the page of an order.
    buttons: Callable[[HttpRequest, Order], Iterable[OrderButton]] | None = None
    #: A section of the page of an order, as HTML; "" to show nothing.
    section: Callable[[HttpRequest, Order], Html] | None = None
    #: The same inside the section with the refund breakdown.
    money: Callable[[HttpRequest, Order], Html] | None = None
    #: Sentences on what follows if the customer of an order is corrected, as HTML.
    consequences: Callable[[HttpRequest, Order], Iterable[Html]] | None = None
    #: HTML above the list of orders; "" to show nothing.
    above_list: Callable[[HttpRequest, AdminSite, Standing], Html] | None = None
    #: Filters of the list of orders, for people who may see costs.
    filters: tuple[type[ListFilter], ...] = ()
    pages: tuple[Page, ...] = ()


_extensions: list[Extension] = []


def register(extension: Extension) -> None:
    """Add an extension; call it once, from the admin module of an app."""
    if extension not in _extensions:
        _extensions.append(extension)


def each(part: str) -> Iterator[Any]:
    """This part of every extension that has it."""
    return (found for extension in _extensions if (found := getattr(extension, part)))


def rendered(part: str, *args: Any) -> list[str]:
    """The HTML of this part of all extensions for ``args``, without empty ones."""
    return [shown for render in each(part) if (shown := render(*args))]


def listed(part: str, *args: Any) -> list[Any]:
    """What this part of all extensions yields for ``args``."""
    return [item for offer in each(part) for item in offer(*args)]
