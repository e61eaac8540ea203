"""The browser of the tests, whose methods are named after what a person sees and does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support import expected_conditions as ec
from selenium.webdriver.support.ui import Select, WebDriverWait

from tests.browser.chromium import prefer, resize

# The longest wait for a page, and the interval between checks (seconds).
PATIENCE, INTERVAL = 60, 0.05


class Browser:
    def __init__(self, driver: Chrome, site: str) -> None:
        self.driver = driver
        self.site = site
        self._theme, self._window = "", (0, 0)
        self._wait = WebDriverWait(driver, PATIENCE, INTERVAL)

    def reset(self) -> None:
        """Reset the window, the cookies and the console entries of the previous test."""
        self.look("light", (1280, 900))
        self.open("/static/giftcards/admin.css")
        self.driver.delete_all_cookies()
        self.complaints()

    def close_page(self) -> None:
        self.driver.get("about:blank")

    def set_cookie(self, name: str, value: str) -> None:
        self.driver.add_cookie({"name": name, "value": value})

    def speak(self, language: str) -> None:
        self.set_cookie("django_language", language)

    def look(self, theme: str, window: tuple[int, int]) -> None:
        """Show pages in a window of this size to a person who prefers the theme."""
        if theme != self._theme:
            prefer(self.driver, theme)
        if window != self._window:
            resize(self.driver, *window)
        self._theme, self._window = theme, window

    def resize(self, width: int, height: int) -> None:
        self.look(self._theme, (width, height))

    @contextmanager
    def on_paper(self, theme: str) -> Iterator[None]:
        """Show pages as they are printed by a person who prefers the theme."""
        prefer(self.driver, theme, media="print")
        try:
            yield
        finally:
            prefer(self.driver, self._theme)

    def open(self, path: str) -> None:
        self.driver.get(f"{self.site}{path}")

    def path(self) -> str:
        """Return the path of the page, without its query."""
        return self.driver.current_url.removeprefix(self.site).partition("?")[0]

    def find(self, selector: str) -> WebElement:
        """Wait for the first visible element that matches the CSS selector, and return it."""
        return self._wait.until(ec.visibility_of_element_located((By.CSS_SELECTOR, selector)))

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Wait for the first of these elements, and return the visible texts of all of them."""
        self.find(selector)
        return [" ".join(element.text.split()) for element in self.find_all(selector)]

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until the first element contains ``text``, even if the page is replaced."""
        said = "return document.querySelector(arguments[0])?.innerText ?? ''"
        wait = WebDriverWait(self.driver, PATIENCE, INTERVAL, [WebDriverException])
        wait.until(lambda driver: text in driver.execute_script(said, selector))

    def follow(self, link: str) -> None:
        """Click the link with this text, and wait for the page behind it."""
        self._leave(self._wait.until(ec.element_to_be_clickable((By.LINK_TEXT, link))))

    def press(self, selector: str) -> None:
        """Click a button, and wait for the page that answers."""
        self._leave(self._wait.until(ec.element_to_be_clickable((By.CSS_SELECTOR, selector))))

    def _leave(self, element: WebElement) -> None:
        with self.leaving():
            element.click()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """At the end of the block, wait for the page that its actions open."""
        page = self.driver.find_element(By.TAG_NAME, "html")
        yield
        # While a page is replaced, the driver may find neither the old one nor the new one.
        leaving = WebDriverWait(self.driver, PATIENCE, INTERVAL, [WebDriverException])
        leaving.until(ec.staleness_of(page))
        self._wait.until(
            lambda driver: driver.execute_script("return document.readyState") == "complete"
        )

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            field = self.find(f"[name={name}]")
            field.clear()
            field.send_keys(value)

    def choose(self, name: str, value: str) -> None:
        """Choose an option of a list."""
        Select(self.find(f"[name={name}]")).select_by_value(value)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(
            self.run(
                "const page = document.documentElement;"
                "return Math.max(page.scrollWidth, document.body.scrollWidth) - page.clientWidth;"
            )
        )

    def left_of(self, selector: str) -> float:
        """Return the element's distance from the left edge of the window, in pixels."""
        return float(self.find(selector).rect["x"])

    def complaints(self) -> list[str]:
        """Return the severe entries in the browser's console since the last call."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" and "/favicon.ico" not in entry["message"]
        ]
