"""Unconfirmed changes to prices and to what the shop sells.

The preview page contains the changes in a signed form, so that exactly the changes that the person
has seen are saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self

from django.apps import apps
from django.core import signing
from django.http import HttpRequest

from giftcards.admin.frame.forms import token
from giftcards.admin.shelf.words import column_label, column_text, name_of
from giftcards.catalogue import PricePreview, preview, save_rows, sold_out_by_buffer
from giftcards.models import Shelf
from giftcards.models.pricing import ShelfRow, told

# A page that was opened longer ago has to be opened again (seconds).
_LASTS = 3600


class Change(NamedTuple):
    """A change of one row.

    For each column, the change contains the value that the person saw before, and the new value.
    The values can be stored as JSON, so amounts are strings.
    """

    model: str
    pk: Any
    values: Mapping[str, tuple[Any, Any]]

    @classmethod
    def of(cls, row: ShelfRow, values: Mapping[str, tuple[Any, Any]]) -> Self:
        return cls(row._meta.model_name or "", row.pk, values)  # noqa: SLF001 (documented)


class _Entry(NamedTuple):
    """A row with unsaved values, its requested change, and its stored values."""

    row: Any
    change: Change
    before: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        return all(self.before[name] == new for name, (_seen, new) in self.change.values.items())


# The related rows that are loaded together with the rows of a model, because names and prices
# depend on them.
_RELATED = {"product": "category", "producttype": "product__category"}


class Draft:
    """The requested ``changes``, applied to the rows as they are stored now."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        stored = {model: self._stored(model) for model in {change.model for change in changes}}
        found = ((stored[change.model].get(change.pk), change) for change in changes)
        # If a row was deleted in the meantime, it does not have an entry.
        self._entries = [_set(row, change) for row, change in found if row is not None]

    @property
    def rows(self) -> list[ShelfRow]:
        """The rows with their new values."""
        return [entry.row for entry in self._entries]

    def _stored(self, model: str) -> dict[Any, Any]:
        if model == "shelf":
            return {1: Shelf.objects.current()}
        rows: Any = apps.get_model("giftcards", model)
        keys = [each.pk for each in self.changes if each.model == model]
        return dict(rows.objects.select_related(_RELATED.get(model)).in_bulk(keys))

    @classmethod
    def posted(cls, request: HttpRequest) -> Self | None:
        """Return the draft in a request, or ``None`` if the draft is too old."""
        try:
            changes = signing.loads(
                request.POST.get("draft", ""), salt=_salt(request), max_age=_LASTS
            )
        except signing.BadSignature:
            return None
        return cls([Change(*change) for change in changes])

    def signed(self, request: HttpRequest) -> str:
        return signing.dumps(list(self.changes), salt=_salt(request), compress=True)

    @property
    def is_whole(self) -> bool:
        """True if all rows still exist."""
        return len(self._entries) == len(self.changes)

    @property
    def is_done(self) -> bool:
        """True if all values were already stored, for example by a double click."""
        return self.is_whole and all(entry.is_done for entry in self._entries)

    @property
    def conflicts(self) -> Iterator[str]:
        """The values that another person has changed since this person saw them."""
        for row, change, before in self._entries:
            for name, (seen, _new) in change.values.items():
                if before[name] != seen:
                    label = column_label(type(row), name)
                    yield f"{name_of(row)}, {label}: {column_text(name, before[name])}"

    @cached_property
    def effects(self) -> list[PricePreview]:
        """The effects that saving the draft would have on product types.

        The most important effects come first.
        """
        return sorted(preview(self.rows), key=_importance)

    @property
    def losses(self) -> list[PricePreview]:
        """The types that would be sold below their cost."""
        return [effect for effect in self.effects if effect.loss]

    @cached_property
    def sold_out(self) -> tuple[int, int]:
        """The numbers of types that a new stock buffer would affect.

        The first number counts types that customers could no longer buy. The second number counts
        types that customers could buy again.
        """
        changed = (row for row in self.rows if isinstance(row, Shelf))
        return next((sold_out_by_buffer(row.stock_buffer) for row in changed), (0, 0))

    @property
    def token(self) -> str:
        """A hash of the effects that the preview page shows.

        If the effects have changed by the time the person confirms the changes, nothing is saved.
        """
        shown = [
            [effect.kind.pk, told(effect.kind.cost), *map(told, effect[1:3]), *effect[3:]]
            for effect in sorted(self.effects, key=lambda effect: effect.kind.pk)
        ]
        return token("shelf", shown)

    def table(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the old value and the new value of each change."""
        for row, change, before in self._entries:
            for name, (_seen, new) in change.values.items():
                if new != before[name]:
                    label = f"{name_of(row)} – {column_label(type(row), name)}"
                    yield label, column_text(name, before[name]), column_text(name, new)

    @property
    def columns(self) -> Iterator[tuple[type[ShelfRow], str]]:
        """The model and the name of each column that the draft changes."""
        for row, change, _before in self._entries:
            yield from ((type(row), name) for name in change.values)

    def save(self, *, by: str) -> None:
        """Save the rows and the resulting prices, or raise ``ValidationError``."""
        save_rows(self.rows, by=by)


def _set(row: Any, change: Change) -> _Entry:
    before = {name: told(getattr(row, name)) for name in change.values}
    for name, (_seen, new) in change.values.items():
        setattr(row, name, row._meta.get_field(name).to_python(new))  # noqa: SLF001 (documented)
    if "fixed_price" in change.values:
        # The loss counts as accepted when the change is saved, because the preview page shows it
        # and asks for confirmation.
        is_loss = row.fixed_price is not None and row.cost and row.fixed_price < row.cost
        row.accepted_loss = row.cost - row.fixed_price if is_loss else 0
    return _Entry(row, change, before)


def _salt(request: HttpRequest) -> str:
    return f"giftcards.shelf.{request.user.pk}"


def _importance(effect: PricePreview) -> tuple[bool, ...]:
    return (
        not effect.loss,
        not (effect.was_on_shelf and not effect.is_on_shelf),
        not (effect.is_on_shelf and not effect.was_on_shelf),
        not effect.is_on_shelf,
    )
