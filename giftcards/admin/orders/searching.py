"""The search box for orders and cards.

The search finds orders by the words that they contain, and cards by their codes. The typed text is
posted. The text becomes part of a URL only if the search has found orders and the text does not
look like a code. In the URL, the text is encrypted, because it might name a person.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from django import forms
from django.contrib.admin.views.main import ERROR_FLAG, PAGE_VAR, SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.cards.finding import HIDING, cards_with
from giftcards.admin.frame.actions import Page, Pages
from giftcards.exceptions import ConfigurationError
from giftcards.keys.keyring import TAIL, normalised, sealed
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Card, Order, Product
from giftcards.models.catalogue import is_called
from giftcards.text.spelling import after_code_labels, is_phone

MOST_FOUND = 1_000
# The maximum number of orders on a page that also shows cards, and of products.
_MOST_LISTED = 20
# The minimum length of a text with digits that may be a code. If the text consists only of digits
# and the search has found orders, the second minimum applies instead.
_FEWEST_MIXED, _FEWEST_DIGITS = 8, 10
# The minimum length of a code without digits. Most names are shorter.
_FEWEST_LETTERS = 12
# The help text for people who may search for cards but may not see orders.
_HELP_WITH_CODES = _(
    "Enter the whole code or serial, or the last four characters of the code. Case, spaces and"
    " dashes do not matter."
)
# A code that is written in groups of capitals, such as ABCD-EFGH.
_GROUPS = re.compile(r"[A-Z]{3,}([-\s][A-Z]{3,})+")


class _UnrepeatedInput(forms.PasswordInput):
    """A text input that never renders its value."""

    input_type = "text"


class SearchForm(forms.Form):
    # The typed text may be a code. Error trackers such as Sentry filter out fields with this name.
    secret = forms.CharField(
        label=_("Search"),
        max_length=200,
        widget=_UnrepeatedInput(
            attrs={"autocomplete": "off", "spellcheck": "false", "dir": "auto"}
        ),
    )
    #: The filters of the list, as the query string of the list's URL.
    filters = forms.CharField(required=False, max_length=2_000, widget=forms.HiddenInput)

    #: The path of the page that processes the form, below the list of orders.
    path = "find-order/"

    def clean_secret(self) -> Masked:
        return Masked(self.cleaned_data["secret"])


# The last parts of the paths to which codes, passwords or addresses of customers are posted.
_HIDDEN = (f"/{SearchForm.path}", "/reveal/", "/customer-data/")


@receiver(got_request_exception, dispatch_uid="giftcards.hide_typed_secret")
def hide_typed_secret(request: HttpRequest, **_named: object) -> None:
    """Hide posted codes, passwords and addresses from Django's error e-mails.

    This function also covers failures in middleware, before ``sensitive_post_parameters`` takes
    effect.
    """
    if getattr(request, "path_info", "").endswith(_HIDDEN):
        request.sensitive_post_parameters = "__ALL__"  # type: ignore[attr-defined]


@contained
def is_code_like(text: str, *, is_found: bool, is_known: bool) -> bool:
    """Return True if ``text`` could be a card's code or serial number.

    The result is also True for the last characters of a code. ``is_found`` is True if the search
    has found orders. ``is_known`` is True if the text is a whole word in an order that was found.
    """
    if after_code_labels(text):
        return True
    if is_known or "@" in text:
        return False
    code = normalised(text)
    if len(code) == TAIL:
        return any(map(str.isdecimal, code)) or not is_found
    return not is_phone(text) and _may_be_whole(text, code, is_found=is_found)


def _may_be_whole(text: str, code: str, *, is_found: bool) -> bool:
    groups = text.split()
    if not any(map(str.isdecimal, code)):
        is_even = len(set(map(len, groups))) == 1 and len(code) >= _FEWEST_LETTERS
        return not is_found and (is_even or bool(_GROUPS.fullmatch(text)))
    if code.isdecimal():
        return len(code) >= (_FEWEST_DIGITS if is_found else _FEWEST_MIXED)
    # A name with a number, such as "amina 2002", is not a code.
    has_one_number = sum(any(map(str.isdecimal, group)) for group in groups) == 1
    is_one = len(groups) == 1 or not (is_found or has_one_number)
    return is_one and len(code) >= _FEWEST_MIXED


def _is_code(text: str) -> bool:
    """Return True if ``text`` is certainly a code.

    This is the case if the text follows a word such as "Code:", or is the whole code of a card. The
    app searches only the cards for such a text, so that the text does not appear in logs of SQL
    statements.
    """
    if after_code_labels(text):
        return True
    if not is_code_like(text, is_found=False, is_known=False) or len(normalised(text)) == TAIL:
        return False
    try:
        return Card.objects.with_code(text).exists()
    except ConfigurationError:
        # The search for orders also works without keys.
        return False


class _Orders(NamedTuple):
    #: The newest orders, at most one more than a page shows.
    listed: list[Order]
    #: True if the text may be a code.
    is_code: bool
    is_certain: bool = False


@contained
def _orders_with(pages: Pages, request: HttpRequest, text: str) -> _Orders:
    # A person who may not see orders can only search for a code.
    if not pages.has_view_permission(request) or _is_code(text):
        return _Orders([], is_code=True, is_certain=True)
    found = Order.objects.search(text, limit=MOST_FOUND)
    listed = list(pages.get_queryset(request).filter(pk__in=found.keys)[: _MOST_LISTED + 1])
    is_found = bool(listed)
    is_code = is_code_like(text, is_found=is_found, is_known=is_found and found.is_whole)
    return _Orders(listed, is_code)


def _products_with(text: str) -> list[Product]:
    """Return products whose name contains the words of ``text``.

    The result contains at most one more product than a page shows.
    """
    called = Product.objects.filter(is_called(text, "name"))
    return list(called.order_by("name", "pk")[: _MOST_LISTED + 1])


def _search(pages: Pages, request: HttpRequest) -> HttpResponse:
    may_find = request.user.has_perm("giftcards.find_card")
    may_view = pages.has_view_permission(request)
    if not (may_find or may_view):
        raise PermissionDenied
    form = SearchForm(request.POST or None)
    found: dict[str, Any] = {}
    if form.is_valid():
        text = form.cleaned_data["secret"]
        orders = _orders_with(pages, request, text)
        if orders.listed and not orders.is_code:
            return _to_list(pages, form.cleaned_data["filters"], text)
        found = _found(pages, request, form, orders)
    elif may_view:
        return _to_list(pages, form.cleaned_data.get("filters", "") if form.is_bound else "")
    return pages.render_page(
        request,
        "search",
        title=gettext("Search"),
        form=form,
        help=pages.search_help_text if may_view else _HELP_WITH_CODES,
        offers_codes=may_find and may_view,
        may_find=may_find,
        **found,
    )


def _found(pages: Pages, request: HttpRequest, form: SearchForm, orders: _Orders) -> dict[str, Any]:
    """Search for cards and products, and return the context of the page."""
    text = form.cleaned_data["secret"]
    searches_codes = orders.is_code and request.user.has_perm("giftcards.find_card")
    cards = cards_with(pages, request, form) if searches_codes else {}
    is_anything_found = orders.listed or cards.get("cards")
    # The page is the same whether or not a card has the code. Otherwise, people who may not search
    # by code could find out codes by trying.
    searches_products = not is_anything_found and pages.has_view_permission(request)
    is_looked_up = searches_products and not orders.is_certain
    products = _products_with(text) if is_looked_up else []
    return {
        "is_searched": True,
        "orders": orders.listed[:_MOST_LISTED],
        "has_more_orders": len(orders.listed) > _MOST_LISTED,
        "searches_products": searches_products,
        "products": products[:_MOST_LISTED],
        "has_more_products": len(products) > _MOST_LISTED,
        # A page never repeats a text that looks like a code.
        "text": "" if orders.is_code else text,
        "searches_codes": searches_codes,
        **cards,
    }


def _to_list(pages: Pages, filters: str, text: str = "") -> HttpResponse:
    query = QueryDict(filters, mutable=True)
    for name in (SEARCH_VAR, PAGE_VAR, ERROR_FLAG):
        query.pop(name, None)
    if text:
        query[SEARCH_VAR] = sealed(text)
    url = pages.url_of("changelist")
    return HttpResponseRedirect(f"{url}?{query.urlencode()}" if query else url)


SEARCH = Page("order_search", SearchForm.path, _search, HIDING, "finding")
