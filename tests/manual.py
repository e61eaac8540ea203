"""The manual's files, read as a translator reads them: headings, links, and names of buttons."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from django.apps import apps
from django.utils import translation
from django.utils.text import capfirst

from giftcards.admin.frame.manual import FOLDER
from tests.catalogues import catalogue, entries

LANGUAGES = sorted(path.name for path in FOLDER.iterdir())
# The quotation marks of all languages.
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«\s*([^»]+?)\s*»")


def source(language: str, topic: str) -> str:
    return (FOLDER / language / f"{topic}.md").read_text(encoding="utf-8")


def quoted(text: str) -> list[str]:
    """Return the names of buttons, headings and statuses that are quoted in the text."""
    prose = " ".join(re.sub(r"`[^`]*`", "", text).split())
    return ["".join(found) for found in _QUOTED.findall(prose)]


def shape(text: str) -> tuple[list[int], list[str]]:
    """Return the levels of the headings, and the linked topics in alphabetical order."""
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    return levels, sorted(re.findall(r"\]\(#([\w-]+)\)", text))


@cache
def names(language: str) -> dict[str, set[str]]:
    """Return the pages' texts in a language by their English text, as used in a sentence."""
    known: dict[str, set[str]] = {}
    for original, text in _texts(language):
        # French texts contain non-breaking spaces.
        shown = " ".join(text.split())
        known.setdefault(capfirst(original), set()).add(capfirst(shown))
        known.setdefault(original, set()).add(shown)
    return known


def _texts(language: str) -> Iterator[tuple[str, str]]:
    for ids in entries(catalogue("fr", "po")):
        if language == "en":
            yield ids[0], ids[0]
        else:
            own = entries(catalogue(language, "po"))[ids]
            yield from ((ids[0], text) for text in own)
    # Django makes the name of this button from the name of a model.
    order = apps.get_model("giftcards", "order")._meta.verbose_name
    yield _add_order("en", order), _add_order(language, order)


def _add_order(language: str, noun: object) -> str:
    with translation.override(language):
        return translation.gettext("Add %(name)s") % {"name": str(noun)}
