"""The one search box: orders by any of their words, cards by their codes.

Its text is always posted. It comes into an address only if orders were found by it and it does not
look like a code; then it is sealed, because it may name a person.
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
from giftcards.models import Order
from giftcards.text.spelling import is_phone

# The most orders that a search shows.
MOST_FOUND = 1_000
# The most of them on a page with cards.
_MOST_LISTED = 20
# A text with letters and digits may be a code from this length on, and one of digits only.
_FEWEST_MIXED, _FEWEST_DIGITS = 8, 10
# One of letters only, which finds no order, may be a code from this length on: most names are
# shorter.
_FEWEST_LETTERS = 12
# Capitals in groups, such as ABCD-EFGH.
_GROUPS = re.compile(r"[A-Z]{3,}([-\s][A-Z]{3,})+")


class SearchForm(FindCardForm):
    secret = forms.CharField(
        label=_("Search"),
        max_length=200,
        widget=UnrepeatedInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "auto"}),
    )
    #: The query of the list: its filters.
    filters = forms.CharField(required=False, max_length=2_000, widget=forms.HiddenInput)

    path = FindCardForm.path_of_search


@contained
def is_code_like(text: str, *, is_found: bool, is_known: bool) -> bool:
    """True if ``text`` may be a card's code or serial, or the end of a code.

    ``is_found`` says that orders were found by it, and ``is_known`` that it is a whole word of one.
    """
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
    # A name beside a number is no code: "amina 2002".
    has_one_number = sum(any(map(str.isdecimal, group)) for group in groups) == 1
    is_one = len(groups) == 1 or not (is_found or has_one_number)
    return is_one and len(code) >= _FEWEST_MIXED


class _Orders(NamedTuple):
    """The visible orders found by a text, and what it seems to be."""

    #: The newest ones, and one more if there are more.
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


def _search(pages: Pages, request: HttpRequest) -> HttpResponse:
    """The answer to the search box: a list of orders, or a page with cards or without anything."""
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
    return pages.render_page(
        request,
        "search",
        title=gettext("Search"),
        form=form,
        help=pages.search_help_text,
        orders=orders[:_MOST_LISTED],
        has_more_orders=len(orders) > _MOST_LISTED,
        # Texts that look like a code are not repeated.
        text="" if is_code else text,
        searches_codes=searches_codes,
        may_find=may_find,
        **context,
    )


def _to_list(pages: Pages, filters: str, text: str = "") -> HttpResponse:
    """The list of orders with its filters, and what is found by ``text``."""
    query = QueryDict(filters, mutable=True)
    for name in (SEARCH_VAR, PAGE_VAR, ERROR_FLAG):
        query.pop(name, None)
    if text:
        query[SEARCH_VAR] = sealed(text)
    address = pages.address("changelist")
    return HttpResponseRedirect(f"{address}?{query.urlencode()}" if query else address)


SEARCH = Page("order_search", SearchForm.path, _search, HIDING)
