"""The code blocks on the pages of the documentation. The settings import this module."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def block_of(page: str, begin: str) -> str:
    """Return the only code block on the page that starts with ``begin``."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    found = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    [block] = [block for block in found if block.startswith(begin)]
    return str(block)
