"""axe-core in the browser, which finds barriers for people with disabilities.

The driver runs the script, so a content security policy does not block it.

``axe.min.js`` is axe-core as its makers distribute it in their npm package. To update it, replace
the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.browser.browser import Browser

AXE = Path(__file__).with_name("axe.min.js")

THEMES = ("light", "dark")
# A desktop, and the narrowest window in which pages must not scroll sideways.
WIDE, NARROW = (1280, 900), (360, 740)
Look = tuple[str, tuple[int, int]]
# Light in a wide window, and dark in a narrow one.
LOOKS: tuple[Look, ...] = (("light", WIDE), ("dark", NARROW))

# Violations in Django's own templates and styles: the rule, the elements, and the reason why they
# are not ours.
OF_DJANGO = (
    ("link-in-text-block", ".breadcrumbs a", "Django's style does not underline its breadcrumbs"),
    ("link-in-text-block", "#changelist-search a", "nor the link that ends a search"),
    ("empty-table-header", ".inline-group th", "its tables of related rows have empty headings"),
    ("label-title-only", "#searchbar", "its label is an image, and its description is no label"),
)

# During a transition, axe would measure an intermediate colour. The style sheet is constructed,
# because a policy may forbid style elements.
_AT_ONCE = """
const sheet = new CSSStyleSheet();
sheet.replaceSync("* { transition: none !important; animation: none !important; }");
document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
"""

# Style sheets are not loaded again (``preload``), because that doubles the time and only the rule
# about the orientation of the screen needs it.
_RUN = """
const [known, done] = arguments;
const isKnown = (rule, element) =>
  known.some(([id, selector]) => id === rule && element.matches(selector));
const options = {resultTypes: ["violations"], elementRef: true, iframes: false, preload: false};
axe.run(document, options).then(
  ({violations}) => done(violations.flatMap(({id, nodes}) => nodes
    .filter(({element}) => !isKnown(id, element))
    .map(({target, failureSummary}) => [id, target.join(" "), failureSummary]))),
  error => done([["axe", "", String(error)]])
);
"""


class Violation(NamedTuple):
    rule: str
    element: str
    summary: str

    def __str__(self) -> str:
        # The first line only says whether any or all of the following have to be fixed.
        _all, *reasons = self.summary.splitlines()
        return f"{self.rule}: {self.element}: {' '.join(reason.strip() for reason in reasons)}"


def load(browser: Browser) -> None:
    """Load axe-core into the current page, and switch off transitions."""
    browser.run(_AT_ONCE)
    browser.run(AXE.read_text("utf-8"))


def violations(browser: Browser) -> list[Violation]:
    """Return the violations that axe-core finds in the current page, except Django's own."""
    known = [(rule, selector) for rule, selector, _why in OF_DJANGO]
    return [Violation(*found) for found in browser.driver.execute_async_script(_RUN, known)]
