"""Sections for status pages, such as the provider's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of a section: a label and its value."""

    #: A text, or safe HTML.
    label: Any
    #: A text, or safe HTML.
    value: Any
    #: True if a person has to act on the fact.
    is_wrong: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page, with facts or with a table."""

    #: The anchor of the section, without its prefix ``giftcards-``.
    name: str
    title: Any
    facts: Sequence[Fact] = ()
    #: The headings and the cells of the table.
    columns: Sequence[Any] = ()
    cells: Sequence[Sequence[Any]] = ()
    #: The text below the table or the facts.
    note: Any = ""
    #: True if staff need the section only to show it to a developer.
    is_for_developer: bool = False

    @property
    def rows(self) -> list[list[tuple[Any, Any]]]:
        """The rows of the table, with a heading and a value for each cell.

        Narrow pages show the heading beside each value.
        """
        return [list(zip(self.columns, row, strict=True)) for row in self.cells]
