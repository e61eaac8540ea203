"""A limit on the address of a list: it may ask only what a filter of the list asks.

Django lets an address use any lookup on a model's own columns. A person could then find out a
masked column letter by letter, or keep the process busy with a regular expression.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from django.contrib.admin import FieldListFilter, ListFilter, SimpleListFilter
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin

    AnyModelAdmin = ModelAdmin[Any]
    AnyChangeList = ChangeList
else:
    AnyModelAdmin = AnyChangeList = object

# The most values of one lookup: with more, the condition would be too long for SQLite. The links of
# a filter give one.
_MOST_VALUES = 100
# The attribute in which a request caches the allowed lookups: it may ask for a thousand.
_KNOWN = "giftcards_parameters"


class OnlyFilters(AnyModelAdmin):
    """A mixin for the admin of a model: the address of its list may ask only for ``list_filter``.

    The list can also be sorted only by the columns that the page offers for sorting.
    """

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        if len(request.GET.getlist(lookup)) > _MOST_VALUES:
            return False
        # No text in a database has this character, and PostgreSQL raises an error for it.
        return "\0" not in value and lookup in self._parameters(request)

    def _parameters(self, request: HttpRequest) -> Collection[str | None]:
        known: dict[Any, set[str | None]] = vars(request).setdefault(_KNOWN, {})
        if self not in known:
            filters = self.get_list_filter(request)
            known[self] = {name for each in filters for name in self._asked_by(each, request)}
        return known[self]

    def _asked_by(self, each: Any, request: HttpRequest) -> Iterable[str | None]:
        """The parameters of the filter ``each``, which is made as Django makes it."""
        if isinstance(each, type) and issubclass(each, SimpleListFilter):
            # But without __init__: its choices may take queries, which the parameters do not need.
            made: ListFilter = each.__new__(each)
        elif callable(each):
            made = each(request, {}, self.model, self)
        else:
            path, kind = each if isinstance(each, (tuple, list)) else (each, FieldListFilter.create)
            field = get_fields_from_path(self.model, path)[-1]
            made = kind(field, request, {}, self.model, self, field_path=path)
        return made.expected_parameters()

    def get_changelist(self, request: HttpRequest, **named: Any) -> type[ChangeList]:
        # A theme may have a change list of its own.
        base = super().get_changelist(request, **named)
        return type("ChangeList", (_SortedAsOffered, base), {})


class _SortedAsOffered(AnyChangeList):
    """A change list sorted only by the columns it offers; Django lets an address sort by any."""

    def get_ordering_field(self, field_name: Any) -> Any:
        is_offered = self.sortable_by is None or field_name in self.sortable_by
        return super().get_ordering_field(field_name) if is_offered else None
