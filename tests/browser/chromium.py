"""A headless Chromium without background traffic or data from earlier runs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

BROWSER = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip


def missing() -> str:
    """Return the reason for skipping if the browser or its driver is missing, or ""."""
    absent = [str(path) for path in (BROWSER, DRIVER) if not path.exists()]
    return f"Needs {' and '.join(absent)} (Debian: chromium, chromium-driver)." if absent else ""


@contextmanager
def chromium() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with TemporaryDirectory(prefix="giftcards-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options=options, service=ChromeService(executable_path=str(DRIVER)))
        try:
            driver.set_page_load_timeout(60)
            driver.set_script_timeout(60)
            resize(driver, 1280, 900)
            yield driver
        finally:
            driver.quit()


def resize(driver: Chrome, width: int, height: int) -> None:
    """Emulate a window of this size, because real windows cannot be as narrow as a phone."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def prefer(driver: Chrome, theme: str, *, media: str = "") -> None:
    """Set the preferred theme, "light" or "dark", and the medium."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})


def photograph(driver: Chrome, path: Path, *, height: int | None = None) -> None:
    """Write the page, as wide as the window, into a PNG file.

    With ``height``, only the top of the page is written.
    """
    width, whole = driver.execute_script(
        "return [innerWidth, document.documentElement.scrollHeight]"
    )
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot",
        {
            "captureBeyondViewport": True,
            "clip": {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1},
        },
    )
    path.write_bytes(base64.b64decode(shot["data"]))
