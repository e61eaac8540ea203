"""The glossary, and the links to it that the documentation gets when it is built."""

from __future__ import annotations

import pytest
from docutils import nodes

from docs.glossary import entries, link_words
from tests.docs.pages import PAGES

MOST_WORDS = 40
GLOSSARY = "docs/glossary.md"


def linked(*parts: nodes.Node) -> str:
    """Return a paragraph with its links to the glossary, each as ``[text](address)``."""
    page = nodes.paragraph("", "", *parts)
    link_words(page, "glossary.html")
    shown = [
        f"[{part.astext()}]({part['refuri']})"
        if isinstance(part, nodes.reference)
        else part.astext()
        for part in page.children
    ]
    return "".join(shown)


def test_the_glossary_is_sorted_and_short() -> None:
    assert entries() == sorted(entries(), key=str.lower)
    assert len(entries()) <= MOST_WORDS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A margin, and a margin.", "A [margin](glossary.html#margin), and a margin."),
        ("Margins and costs", "[Margins](glossary.html#margin) and [costs](glossary.html#cost)"),
        ("The stock\nbuffer", "The [stock\nbuffer](glossary.html#stock-buffer)"),
        ("Marginal prices", "Marginal [prices](glossary.html#price)"),
        ("Nothing of the kind", "Nothing of the kind"),
    ],
    ids=["the first use alone", "plurals", "two words", "a part of a word", "no word"],
)
def test_the_first_use_of_a_word_leads_to_its_entry(text: str, expected: str) -> None:
    assert linked(nodes.Text(text)) == expected


@pytest.mark.parametrize("kind", ["literal", "literal_block", "title", "reference"])
def test_a_word_in_code_a_heading_or_a_link_is_left_alone(kind: str) -> None:
    node = getattr(nodes, kind)("", "margin", refuri="elsewhere.html")
    assert linked(node, nodes.Text(" and margin")).endswith(
        "margin and [margin](glossary.html#margin)"
        if kind != "reference"
        else "[margin](elsewhere.html) and [margin](glossary.html#margin)"
    )


def test_every_word_of_the_glossary_is_used_on_other_pages() -> None:
    others = (" ".join(text.lower().split()) for name, text in PAGES.items() if name != GLOSSARY)
    text = " ".join(others)
    assert [word for word in entries() if word.lower() not in text] == []
