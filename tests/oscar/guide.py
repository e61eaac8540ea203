"""The blocks of code on the pages of the documentation; imported by the settings."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def block_of(page: str, begin: str) -> str:
    """The block of a page that begins like this."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    [block] = [block for block in found if block.startswith(begin)]
    return str(block)
