"""Touch targets: the buttons of a page, and links that act or lead to other pages."""

from __future__ import annotations

from tests.browser.browser import Browser

# In pixels, as recommended by WCAG 2.5.5 and by phone makers.
LEAST = 44

# Links in sentences and tables are not included: they are as high as their line, and are no
# buttons.
_ACTING = (
    "button, [type=submit], [type=button], summary, .button, .giftcards-button, .gc-button,"
    " .giftcards-back, .gc-back a, .object-tools a, nav a,"
    " :is(.giftcards-decide, .giftcards-acts, .giftcards-filters) a"
)
_SMALL = """
const [selector, least] = arguments;
const content = [...document.querySelectorAll("#content, body.gc-page")];
return content.flatMap(part => [...part.querySelectorAll(selector)]).flatMap(each => {
  const {width, height} = each.getBoundingClientRect();
  const isShown = each.checkVisibility({visibilityProperty: true}) && width > 1 && height > 1;
  // Heights of lines are fractions of a pixel.
  if (!isShown || Math.min(width, height) > least - 0.5) return [];
  const text = (each.innerText || each.value || each.title).trim();
  return [`${Math.round(width)} × ${Math.round(height)} px for a finger: ${text}`];
});
"""


def small_targets(browser: Browser) -> list[str]:
    """Return the touch targets in the current page that are too small, with their sizes."""
    return [str(found) for found in browser.run(_SMALL, _ACTING, LEAST)]
