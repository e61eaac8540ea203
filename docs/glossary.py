"""Links from the first use of each glossary word on a page to its entry.

The links are made when the documentation is built, so authors do not write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes

PAGE = "glossary"
_SOURCE = Path(__file__).with_name(f"{PAGE}.md")
# In these nodes, a word is not running text, or is already part of a link.
_SKIPPED = (nodes.literal, nodes.FixedTextElement, nodes.reference, nodes.title, nodes.caption)


def entries() -> list[str]:
    """Return the words of the glossary, in their order."""
    return re.findall(r"^## (.+)$", _SOURCE.read_text(encoding="utf-8"), re.MULTILINE)


def anchor(word: str) -> str:
    return word.lower().replace(" ", "-")


def link_words(page: nodes.Element, glossary: str) -> None:
    """Link the first use of each word on a page; ``glossary`` is the address of the glossary."""
    # The longest words come first, so that "stock buffer" is not read as a shorter word.
    left = sorted(entries(), key=len, reverse=True)
    for text in list(page.findall(nodes.Text)):
        if not _is_skipped(text):
            parts = list(_parts(text.astext(), left, glossary))
            if len(parts) > 1:
                text.parent.replace(text, parts)


def _is_skipped(text: nodes.Text) -> bool:
    node: nodes.Node | None = text
    while node is not None and not isinstance(node, _SKIPPED):
        node = node.parent
    return node is not None


def _parts(text: str, left: list[str], glossary: str) -> Iterator[nodes.Node]:
    """Split the text into links and the text between them; remove linked words from ``left``."""
    while left:
        words = "|".join(re.escape(word).replace(r"\ ", r"\s") for word in left)
        found = re.search(rf"\b({words})(?:e?s)?\b", text, re.IGNORECASE)
        if found is None:
            break
        word = next(each for each in left if each.lower() == " ".join(found[1].lower().split()))
        left.remove(word)
        yield nodes.Text(text[: found.start()])
        yield nodes.reference("", found[0], internal=True, refuri=f"{glossary}#{anchor(word)}")
        text = text[found.end() :]
    yield nodes.Text(text)
