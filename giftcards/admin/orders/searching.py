"""The search box, which finds orders by any of their words, and cards by their codes.

The typed text is posted. It becomes a part of a URL only if it has found orders and does not look
like a code. In the URL, the text is encrypted, because it may name a person.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from django import forms
from django.contrib.admin.views.main import ERROR_FLAG, PAGE_VAR, SEARCH_VAR
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.cards.finding import HIDING, FindCardForm, UnrepeatedInput, cards_with
from giftcards.admin.frame.actions import Page, Pages
from giftcards.keys.keyring import TAIL, normalised, sealed
from giftcards.keys.secrecy import contained
from giftcards.models import Order, Product
from giftcards.models.catalogue import is_called
from giftcards.text.spelling import after_code_labels, is_phone

MOST_FOUND = 1_000
# The maximum number of orders on a page that also shows cards, and of products.
_MOST_LISTED = 20
# The minimum length of a text with digits that may be a code. If a text of only digits has found
# orders, it has to be longer.
_FEWEST_MIXED, _FEWEST_DIGITS = 8, 10
# The minimum length of a code without digits: most names are shorter.
_FEWEST_LETTERS = 12
# A code that is written in groups of capitals, such as ABCD-EFGH.
_GROUPS = re.compile(r"[A-Z]{3,}([-\s][A-Z]{3,})+")


class SearchForm(FindCardForm):
    secret = forms.CharField(
        label=_("Search"),
        max_length=200,
        widget=UnrepeatedInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "auto"}),
    )
    #: The filters of the list, as the query string of the list's URL.
    filters = forms.CharField(required=False, max_length=2_000, widget=forms.HiddenInput)

    path = FindCardForm.path_of_search


@contained
def is_code_like(text: str, *, is_found: bool, is_known: bool) -> bool:
    """True if ``text`` may be a card's code or serial, or the end of a code.

    ``is_found``: True if the text has found orders. ``is_known``: True if the text is a whole word
    of such an order.
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
    # A name beside a number, such as "amina 2002", is no code.
    has_one_number = sum(any(map(str.isdecimal, group)) for group in groups) == 1
    is_one = len(groups) == 1 or not (is_found or has_one_number)
    return is_one and len(code) >= _FEWEST_MIXED


class _Orders(NamedTuple):
    #: The newest orders, at most one more than a page shows.
    listed: list[Order]
    is_code: bool


@contained
def _orders_with(pages: Pages, request: HttpRequest, text: str) -> _Orders:
    if not pages.has_view_permission(request):
        return _Orders([], is_code_like(text, is_found=False, is_known=False))
    found = Order.objects.search(text, limit=MOST_FOUND)
    listed = list(pages.get_queryset(request).filter(pk__in=found.keys)[: _MOST_LISTED + 1])
    is_found = bool(listed)
    is_code = is_code_like(text, is_found=is_found, is_known=is_found and found.is_whole)
    return _Orders(listed, is_code)


def _products_with(text: str) -> list[Product]:
    """Return products whose name has the words of ``text``, at most one more than a page shows."""
    called = Product.objects.filter(is_called(text, "name"))
    return list(called.order_by("name", "pk")[: _MOST_LISTED + 1])


def _search(pages: Pages, request: HttpRequest) -> HttpResponse:
    may_find = request.user.has_perm("giftcards.find_card")
    if not (may_find or pages.has_view_permission(request)):
        raise PermissionDenied
    form = SearchForm(request.POST or None)
    if not form.is_valid():
        return _to_list(pages, form.cleaned_data.get("filters", "") if form.is_bound else "")
    text = form.cleaned_data["secret"]
    orders, is_code = _orders_with(pages, request, text)
    if orders and not is_code:
        return _to_list(pages, form.cleaned_data["filters"], text)
    searches_codes = is_code and may_find
    context: dict[str, Any] = cards_with(pages, request, form) if searches_codes else {}
    is_anything_found = orders or context.get("cards")
    searches_products = not is_anything_found and pages.has_view_permission(request)
    products = _products_with(text) if searches_products else []
    return pages.render_page(
        request,
        "search",
        title=gettext("Search"),
        form=form,
        help=pages.search_help_text,
        orders=orders[:_MOST_LISTED],
        has_more_orders=len(orders) > _MOST_LISTED,
        searches_products=searches_products,
        products=products[:_MOST_LISTED],
        has_more_products=len(products) > _MOST_LISTED,
        # A page never repeats a text that looks like a code.
        text="" if is_code else text,
        searches_codes=searches_codes,
        may_find=may_find,
        **context,
    )


def _to_list(pages: Pages, filters: str, text: str = "") -> HttpResponse:
    query = QueryDict(filters, mutable=True)
    for name in (SEARCH_VAR, PAGE_VAR, ERROR_FLAG):
        query.pop(name, None)
    if text:
        query[SEARCH_VAR] = sealed(text)
    url = pages.url_of("changelist")
    return HttpResponseRedirect(f"{url}?{query.urlencode()}" if query else url)


SEARCH = Page("order_search", SearchForm.path, _search, HIDING)
