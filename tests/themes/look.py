"""Look at pages of the admin under a theme, in a browser: ``python -m tests.themes.look THEME``.

Prints a JSON object: for each page the text that a person sees in it, and what of our own buttons
and links is faint or cut off. It runs in a process of its own, because a theme is an app of its own
settings.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WINDOW = (1280, 2400)
# Our own, on pages of which the rest is the theme's.
_OURS = (
    ":is(.giftcards-section, .giftcards-decide, .giftcards-page, .giftcards-find,"
    " .giftcards-summary) :is(a, button, [type=submit]), .giftcards-summary, .giftcards-warning"
)
# Text of less contrast than the WCAG ask for (4.5), and words that their button has no room for.
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


def main(theme: str) -> None:
    with TemporaryDirectory(prefix="giftcards-theme-") as folder:
        os.environ["GIFTCARDS_TESTS_THEME"] = theme
        os.environ["GIFTCARDS_TESTS_THEME_DB"] = str(Path(folder) / "db.sqlite3")
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.themes.settings"
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        json.dump(dict(_look()), sys.stdout)


def _look() -> Iterator[tuple[str, Any]]:
    from django.contrib.auth import get_user_model
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.db import connections
    from django.test import Client
    from django.test.testcases import LiveServerThread

    from tests.browser import showcase
    from tests.browser.chromium import chromium, resize
    from tests.pages import ADD, FIND, LIST, PROVIDER_PAGE, page_of

    showcase.fill()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("amina", password=None))
    pages = {
        "list": LIST,
        "order": page_of("web-1042"),
        "lost": page_of("web-1040"),
        "provider": PROVIDER_PAGE,
        "report": f"{LIST}report/",
        "placing": ADD,
        "find": FIND,
        "resolve": page_of("web-1040", "resolve"),
        "pay back": page_of("web-1042", "pay_back"),
    }
    connections.close_all()
    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    site = f"http://127.0.0.1:{server.port}"
    try:
        with chromium() as driver:
            resize(driver, *WINDOW)
            driver.get(f"{site}/admin/login/")
            driver.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
            for name, address in pages.items():
                driver.get(site + address)
                yield name, driver.execute_script(_LOOK, _OURS)
    finally:
        server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
