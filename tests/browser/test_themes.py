"""How our pages look under other themes of the admin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import django
import pytest
from selenium.webdriver import Chrome

from tests.browser.chromium import prefer, resize

if TYPE_CHECKING:
    from tests.themes.processes import Start

pytest_plugins = ["tests.themes.processes"]
pytestmark = pytest.mark.browser

WINDOW = (1280, 2400)
# Our own elements on pages that otherwise belong to the theme.
_OURS = (
    ":is(.giftcards-section, .giftcards-decide, .giftcards-page, .giftcards-find,"
    " .giftcards-summary) :is(a, button, [type=submit]), .giftcards-summary, .giftcards-warning"
)
# Find text with less contrast than WCAG requires (4.5), and buttons whose words do not fit.
_LOOK = """
const ink = colour => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data;
};
const brightness = ([red, green, blue]) => {
  const [r, g, b] = [red, green, blue].map(part => {
    const share = part / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = element => {
  for (let each = element; each; each = each.parentElement) {
    const colour = ink(getComputedStyle(each).backgroundColor);
    if (colour[3] > 127) return colour;
  }
  return [255, 255, 255];
};
const wrong = [];
for (const element of document.querySelectorAll(arguments[0])) {
  const text = (element.innerText ?? "").trim() || element.value || "";
  if (!text || !element.checkVisibility()) continue;
  const [dark, light] = [ink(getComputedStyle(element).color), ground(element)]
    .map(brightness).sort((one, other) => one - other);
  const contrast = (light + 0.05) / (dark + 0.05);
  if (contrast < 4.5) wrong.push(`${text}: contrast ${contrast.toFixed(1)}`);
  const isCut = element.scrollWidth > element.clientWidth + 1
    || element.scrollHeight > element.clientHeight + 1;
  if (getComputedStyle(element).display !== "inline" && isCut) wrong.push(`${text}: cut off`);
}
return {text: document.body.innerText, wrong: wrong};
"""
# The text that each page must show before the details; on pages about an order, its reference.
SEEN = {
    "list": "web-1042",
    "order": "web-1042",
    "lost": "web-1040",
    "provider": "Balance",
    "report": "Key figures",
    "help": "Finding an order or a card",
    "placing": "Your sale",
    "resolve": "web-1040",
    "pay back": "web-1042",
}


@pytest.fixture(scope="module", params=["unfold", "jazzmin", "grappelli", "simpleui"])
def seen(request: pytest.FixtureRequest, driver: Chrome, start: Start) -> dict[str, Any]:
    """Return the visible text of each page, and our texts on it that are faint or cut off."""
    if request.param == "simpleui" and django.VERSION >= (6, 1):
        pytest.skip("simpleui 2026.1 itself shows no list under Django 6.1.")
    found = {}
    with start("serve", request.param) as process:
        assert process.stdout
        told = json.loads(process.stdout.readline())
        resize(driver, *WINDOW)
        prefer(driver, "light")
        driver.get(f"{told['site']}/static/giftcards/admin.css")
        driver.add_cookie({"name": "sessionid", "value": told["session"]})
        for name, path in told["pages"].items():
            driver.get(told["site"] + path)
            found[name] = driver.execute_script(_LOOK, _OURS)
        driver.delete_all_cookies()
        driver.get("about:blank")
    return found


def test_our_words_can_be_read_under_a_theme(seen: dict[str, Any]) -> None:
    """Our buttons and links stand out from their background and are not cut off."""
    assert {name: page["wrong"] for name, page in seen.items() if page["wrong"]} == {}


def test_every_page_says_what_it_is_about_under_a_theme(seen: dict[str, Any]) -> None:
    """The text is visible and comes before the details.

    A theme may capitalise headings.
    """
    shown = {name: page["text"].partition("Refund breakdown")[0] for name, page in seen.items()}
    assert shown.keys() == SEEN.keys()
    missing = [name for name, text in SEEN.items() if text.lower() not in shown[name].lower()]
    assert missing == []
