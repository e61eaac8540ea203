"""Texts of the code as Markdown that looks the same on GitHub and in Sphinx."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

NOTE = "<!-- Written by `python -m docs.reference`, from texts of the code. -->"
_WIDTH = 120
# Matches code in texts for people. Code that is already in backticks stays as it is.
_CODE = re.compile(
    r"`[^`]+`|\b[A-Z]\w*(?:\['\w+'\])+|'[A-Za-z_.]+'|\b[A-Z]+(?:_[A-Z]+)+\b"
    r"|\bgiftcards_\w+|(?<![\w-])--[a-z][a-z-]+|\bGIFTCARDS\b"
)


def page(title: str, *parts: str) -> str:
    """Return a page of these parts, with its prose wrapped into lines."""
    text = "\n\n".join([f"# {title}", NOTE, *parts])
    return "\n".join(_in_lines(text)) + "\n"


def _in_lines(text: str) -> Iterator[str]:
    is_code = False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if is_code or len(line) <= _WIDTH or line.startswith("|"):
            yield line
        else:
            yield from textwrap.wrap(
                line,
                _WIDTH,
                subsequent_indent="  " if line.startswith("- ") else "",
                break_long_words=False,
                break_on_hyphens=False,
            )


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    head, *body = (f"|{'|'.join(line)}|" for line in lines)
    return "\n".join([head, f"|{'---|' * len(headings)}", *body])


def coded(text: str) -> str:
    """Return the text with its code in backticks."""
    return _CODE.sub(lambda found: f"`{found[0].strip('`')}`", text)
