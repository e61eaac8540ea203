"""Changes of the shelf that wait for a person's confirmation.

The page that shows what they do carries them, signed. What is saved is what the person has seen.
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
    """A change of one row: the value that was seen before, and the new one, for each column.

    Both are values as JSON stores them: amounts are texts.
    """

    model: str
    pk: Any
    values: Mapping[str, tuple[Any, Any]]

    @classmethod
    def of(cls, row: ShelfRow, values: Mapping[str, tuple[Any, Any]]) -> Self:
        return cls(row._meta.model_name or "", row.pk, values)  # noqa: SLF001 (documented)


class _Entry(NamedTuple):
    """A row with its new values, its change, and the values that are stored now, by column."""

    row: Any
    change: Change
    before: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        return all(self.before[name] == new for name, (_seen, new) in self.change.values.items())


# The relations of a model that the names and prices of its rows need.
_RELATED = {"product": "category", "producttype": "product__category"}


class Draft:
    """The ``changes`` that a person wants, on the rows as they are stored now."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        stored = {model: self._stored(model) for model in {change.model for change in changes}}
        found = ((stored[change.model].get(change.pk), change) for change in changes)
        # A row that has been deleted in the meantime has no entry.
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
        """Return the draft that the page of this request carried; ``None`` if it is too old."""
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
        """False if a row has been deleted in the meantime."""
        return len(self._entries) == len(self.changes)

    @property
    def is_done(self) -> bool:
        """True if all values are stored already, as after the first of two clicks."""
        return self.is_whole and all(entry.is_done for entry in self._entries)

    @property
    def conflicts(self) -> Iterator[str]:
        """The values that somebody else has changed since this person has seen them."""
        for row, change, before in self._entries:
            for name, (seen, _new) in change.values.items():
                if before[name] != seen:
                    label = column_label(type(row), name)
                    yield f"{name_of(row)}, {label}: {column_text(name, before[name])}"

    @cached_property
    def effects(self) -> list[PricePreview]:
        """The effect of saving on each type, the most important first."""
        return sorted(preview(self.rows), key=_importance)

    @property
    def losses(self) -> list[PricePreview]:
        """The types that would be sold below their cost."""
        return [effect for effect in self.effects if effect.loss]

    @cached_property
    def sold_out(self) -> tuple[int, int]:
        """The numbers of types that another stock buffer sells out, and that it brings back."""
        changed = (row for row in self.rows if isinstance(row, Shelf))
        return next((sold_out_by_buffer(row.stock_buffer) for row in changed), (0, 0))

    @property
    def token(self) -> str:
        """A hash of what the page shows: a confirmation of something else is refused."""
        shown = [
            [effect.kind.pk, told(effect.kind.cost), *map(told, effect[1:3]), *effect[3:]]
            for effect in sorted(self.effects, key=lambda effect: effect.kind.pk)
        ]
        return token("shelf", shown)

    def table(self) -> Iterator[tuple[str, str, str]]:
        """Yield each value that changes: what it is, the value before, and the new one."""
        for row, change, before in self._entries:
            for name, (_seen, new) in change.values.items():
                if new != before[name]:
                    label = f"{name_of(row)} – {column_label(type(row), name)}"
                    yield label, column_text(name, before[name]), column_text(name, new)

    @property
    def columns(self) -> Iterator[tuple[type[ShelfRow], str]]:
        """The columns that change, each with its model."""
        for row, change, _before in self._entries:
            yield from ((type(row), name) for name in change.values)

    def save(self, *, by: str) -> None:
        """Save the rows with the prices that follow, or raise ``ValidationError``."""
        save_rows(self.rows, by=by)


def _set(row: Any, change: Change) -> _Entry:
    before = {name: told(getattr(row, name)) for name in change.values}
    for name, (_seen, new) in change.values.items():
        setattr(row, name, row._meta.get_field(name).to_python(new))  # noqa: SLF001 (documented)
    if "fixed_price" in change.values:
        # Nobody has to save this loss: the page shows it, and asks.
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
