"""axe-core in the browser: what of a page is out of reach for people with disabilities.

The driver runs the script, not an element of the page: a content security policy does not matter.

``axe.min.js`` is axe-core as its makers distribute it in their npm package. A newer one takes its
place as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.browser.browser import Browser

AXE = Path(__file__).with_name("axe.min.js")

THEMES = ("light", "dark")
# A desktop, and the narrowest window in which no page may have to be moved sideways.
WIDE, NARROW = (1280, 900), (360, 740)
Look = tuple[str, tuple[int, int]]
# Light in a wide window, and dark in a narrow one.
LOOKS: tuple[Look, ...] = (("light", WIDE), ("dark", NARROW))

# What Django's own templates and styles do: the rule, the elements, and why it is not ours.
OF_DJANGO = (
    ("link-in-text-block", ".breadcrumbs a", "Django's style does not underline its breadcrumbs"),
    ("link-in-text-block", "#changelist-search a", "nor the link that ends a search"),
    ("empty-table-header", ".inline-group th", "its tables of related rows have empty headings"),
    ("label-title-only", "#searchbar", "its label is an image, and its description is no label"),
)

# While a colour changes slowly, axe would measure one in between. The sheet is constructed, because
# a policy may forbid elements.
_AT_ONCE = """
const sheet = new CSSStyleSheet();
sheet.replaceSync("* { transition: none !important; animation: none !important; }");
document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
"""

# Without loading the style sheets again, which takes as long as the rest: only the rule about the
# orientation of the screen needs them.
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
    """Load axe-core into the current page, and end its transitions."""
    browser.run(_AT_ONCE)
    browser.run(AXE.read_text("utf-8"))


def violations(browser: Browser) -> list[Violation]:
    """The violations that axe-core finds in the current page as it looks now, except Django's."""
    known = [(rule, selector) for rule, selector, _why in OF_DJANGO]
    return [Violation(*found) for found in browser.driver.execute_async_script(_RUN, known)]
