"""What a finger has to hit: the buttons of a page, and its links that act or lead on."""

from __future__ import annotations

from tests.browser.browser import Browser

# Pixels, of the WCAG (2.5.5) and of the makers of phones.
LEAST = 44

# Links in a sentence or a table are as high as their line, and no buttons.
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
    """What of the current page is too small for a finger, with its size."""
    return [str(found) for found in browser.run(_SMALL, _ACTING, LEAST)]
