"""Static files of a site whose owner forgot to collect them."""

from __future__ import annotations

from django.contrib.staticfiles.storage import StaticFilesStorage

WITHOUT_SCRIPT = f"{__name__}.WithoutScript"


class WithoutScript(StaticFilesStorage):
    """Storage with which the page of a revealed code breaks at its script, below the code."""

    def url(self, name: str | None) -> str:
        if str(name).endswith("reveal.js"):
            raise ValueError("Missing staticfiles manifest entry")
        return super().url(name)
