"""The forms in which staff set margins and choose which cards to sell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from decimal import Decimal
from typing import Any

from django import forms
from django.db import models
from django.forms.models import modelform_factory
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.forms import AmountField
from giftcards.admin.shelf.draft import Change
from giftcards.admin.shelf.words import name_of
from giftcards.models.pricing import ShelfRow, told
from giftcards.text.display import currency, is_whole

CHANGES, SEES_COSTS = "giftcards.change_shelf", "giftcards.view_cost"
# The columns that do not reveal costs. With any of the other columns, a person who knows the price
# could calculate the cost of a card. So could a person who sees when the card is no longer for
# sale.
_FREE_OF_COSTS = {"is_sold", "stock_buffer", "own_name"}
# The preview page of a change accepts a loss. Names are changed on the page with the other texts.
_SET_ELSEWHERE = {"accepted_loss", "own_name"}
#: The two columns of a row's margin. At most one of them has a value.
MARGIN = ("margin_percent", "margin_fixed")
_EMPTY = SafeString("")
# Stands for the value of a column that the page has not shown. A column of a form never has this
# value.
_UNSEEN = ""
#: The name of the field that contains the values that a page has shown.
SEEN = "seen"


def may_change(request: HttpRequest) -> bool:
    return request.user.has_perm(CHANGES)


def sees_costs(request: HttpRequest) -> bool:
    return request.user.has_perm(SEES_COSTS)


def shown_columns(request: HttpRequest, model: type[ShelfRow]) -> list[str]:
    """Return the columns in ``SET_BY_SHOP`` that the person is allowed to see.

    Columns that reveal costs are left out for people who are not allowed to see costs.
    """
    shows_all = sees_costs(request)
    return [name for name in model.SET_BY_SHOP if shows_all or name in _FREE_OF_COSTS]


def columns_to_set(request: HttpRequest, model: type[ShelfRow]) -> list[str]:
    """Return the columns that this person is allowed to set in a form."""
    if not may_change(request):
        return []
    return [name for name in shown_columns(request, model) if name not in _SET_ELSEWHERE]


class RowForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form with the values of one row.

    The form sets only the values that the person has changed. ``seen`` maps each column to the
    value that the page showed, in the form that JSON stores.
    """

    def __init__(self, *args: Any, seen: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen = seen
        self.changed: dict[str, Any] = {}
        for name, value in self.initial.items():
            if isinstance(value, Decimal) and is_whole(value):
                self.initial[name] = int(value)

    def clean(self) -> dict[str, Any]:
        """Return the changed values.

        The unchanged values are left out, because they might be older than the stored values.
        """
        cleaned, new = self.cleaned_data, set[str]()
        for name, value in cleaned.items():
            if told(value) != self.seen.get(name, _UNSEEN):
                new |= {*MARGIN} if name in MARGIN else {name}
        self.changed = {name: value for name, value in cleaned.items() if name in new}
        return self.changed

    @property
    def change(self) -> Change | None:
        """The change to the row, or ``None`` if nothing has changed."""
        if not self.changed:
            return None
        values = {
            name: (self.seen.get(name, _UNSEEN), told(new)) for name, new in self.changed.items()
        }
        return Change.of(self.instance, values)

    def cell(self, name: str) -> SafeString:
        """Return the field of a column with its errors, as HTML.

        Returns "" if the person is not allowed to set the column.
        """
        return format_html("{}{}", self.errors.get(name, ""), self[name]) if self.fields else _EMPTY

    @property
    def margin(self) -> SafeString:
        """The two fields of the margin with their errors, as HTML."""
        if MARGIN[0] not in self.fields:
            return _EMPTY
        return format_html(
            '{}<span class="giftcards-unit">{} %</span> <span class="giftcards-unit">{} {}</span>',
            self.non_field_errors(),
            *map(self.cell, MARGIN),
            currency(),
        )


class Sold(forms.NullBooleanSelect):
    """A choice between yes, no, and the inherited value."""

    def __init__(self, attrs: Any = None) -> None:
        super().__init__(attrs)
        self.choices = [("unknown", _("inherited")), ("true", _("Yes")), ("false", _("No"))]


def field_of(column: models.Field[Any, Any], **named: Any) -> forms.Field | None:
    """Return the form field for a column of a row."""
    if isinstance(column, models.DecimalField):
        widget = forms.TextInput({"inputmode": "decimal", "size": 6, "autocomplete": "off"})
        return column.formfield(form_class=AmountField, widget=widget, **named)
    if isinstance(column, models.BooleanField) and column.null:
        return column.formfield(form_class=forms.NullBooleanField, widget=Sold, **named)
    return column.formfield(**named)


class RowForms:
    """The forms of a page, one for each row."""

    def __init__(self, request: HttpRequest, rows: Sequence[ShelfRow]) -> None:
        self._data = request.POST if request.method == "POST" else None
        self._seen = _parsed(request.POST.get(SEEN, ""))
        self._forms = {row: self._form(request, row) for row in rows}

    def _form(self, request: HttpRequest, row: ShelfRow) -> RowForm:
        names = columns_to_set(request, type(row))
        prefix = f"{row._meta.model_name}-{row.pk}"  # noqa: SLF001 (documented)
        made: Any = modelform_factory(
            type(row), form=RowForm, fields=names, formfield_callback=field_of
        )
        # The form changes a copy, because a page with errors also shows the stored values.
        seen = self._seen.get(prefix, {})
        form: RowForm = made(self._data, instance=copy(row), prefix=prefix, seen=seen)
        for field in form.fields.values():
            field.widget.attrs["aria-label"] = f"{capfirst(field.label)} – {name_of(row)}"
        return form

    def __iter__(self) -> Iterator[RowForm]:
        return iter(self._forms.values())

    def __getitem__(self, row: ShelfRow) -> RowForm:
        return self._forms[row]

    @property
    def seen(self) -> str:
        """The values that the page shows, for the :data:`SEEN` field."""
        if self._data is not None:
            return json.dumps(self._seen)
        shown = {
            form.prefix: {name: told(getattr(row, name)) for name in form.fields}
            for row, form in self._forms.items()
        }
        return json.dumps(shown)

    @property
    def are_valid(self) -> bool:
        return not [form for form in self if not form.is_valid()]

    @property
    def errors(self) -> list[str]:
        return [str(error) for form in self for errors in form.errors.values() for error in errors]

    @property
    def changes(self) -> list[Change]:
        return [form.change for form in self if form.change]


def _parsed(posted: str) -> dict[str, dict[str, Any]]:
    """Return the values that a page has shown.

    If ``posted`` is not a JSON object that contains only objects, the result is {}.
    """
    try:
        seen = json.loads(posted)
    except (ValueError, RecursionError):
        return {}
    is_ours = isinstance(seen, dict) and all(isinstance(each, dict) for each in seen.values())
    return seen if is_ours else {}
