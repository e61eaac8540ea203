"""Addresses in texts of the shop become links, and other text does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.text.display import linked

LINE = '<div class="giftcards-line" dir="auto">{}</div>'


def link(address: str) -> str:
    return f'<a href="{address}" rel="noopener noreferrer" dir="ltr">{address}</a>'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("Enter the code.", ["Enter the code."]),
        ("https://a.example", [link("https://a.example")]),
        ("HTTP://A.EXAMPLE/X", [link("HTTP://A.EXAMPLE/X")]),
        ("Open https://a.example/x.", [f"Open {link('https://a.example/x')}."]),
        ("(https://a.example/x)", [f"({link('https://a.example/x')})"]),
        ("افتح https://a.example/x، ثم", [f"افتح {link('https://a.example/x')}، ثم"]),
        ("a\n\nb", ["a", "\u00a0", "b"]),
        ("https://a.example/?a=1&b=2", [link("https://a.example/?a=1&amp;b=2")]),
        ("<b>bold</b> & more", ["&lt;b&gt;bold&lt;/b&gt; &amp; more"]),
        ("<a href='https://a.example'>x</a>", None),
        ('https://a.example/" onclick="alert(1)', None),
        ("javascript:alert(1)", ["javascript:alert(1)"]),
        (
            "data:text/html,x www.a.example a@b.example",
            ["data:text/html,x www.a.example a@b.example"],
        ),
    ],
)
def test_addresses_become_links_and_markup_is_shown(text: str, lines: list[str] | None) -> None:
    html = linked(text)
    assert lines is None or html == "".join(map(LINE.format, lines))
    assert "'" not in html
    assert html.count('href="') == html.count("<a ")
    assert "onclick=&quot;" in html or "onclick" not in html


@given(st.text(st.sampled_from("https://a.b<>\"'& \n،)")))
def test_no_text_adds_an_element_or_an_attribute(text: str) -> None:
    html = linked(text)
    for known in ('<div class="giftcards-line" dir="auto">', "</div>", "</a>"):
        html = html.replace(known, "")
    parts = html.split("<")
    assert all(part.startswith('a href="http') for part in parts[1:])
    assert html.count('"') == 6 * html.count("<a ")
