"""The pages that include the manual for staff, which the admin shows as well.

A topic begins at an anchor with its name. In the documentation, several languages share one set of
anchors, so each anchor also contains the language.
"""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "giftcards" / "manual"
_INCLUDED = re.compile(
    r"^```\{include\} \.\./giftcards/manual/(\w+)/([\w-]+)\.md\n```$", re.MULTILINE
)


def with_manual(text: str) -> str:
    """Return the source of a page with the texts of the manual that it includes."""
    return _INCLUDED.sub(_topic, text)


def _topic(included: re.Match[str]) -> str:
    language, topic = included.groups()
    source = (_FOLDER / language / f"{topic}.md").read_text(encoding="utf-8")
    return f"(manual-{language}-{topic})=\n{source.replace('](#', f'](#manual-{language}-')}"
