"""WCAG 2.1 AA: axe-core checks every page in two languages, themes and windows.

On a phone, pages must not scroll sideways, and every button must be large enough for a finger.
French has the longest words. The tests of the roles check that English fits.
"""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.urls import resolve

from giftcards.simulator import Simulator
from tests.browser.axe import LOOKS, NARROW, THEMES, WIDE, Look, load, violations
from tests.browser.browser import Browser
from tests.browser.people import log_in_as
from tests.browser.targets import small_targets
from tests.browser.visits import PAGES, Findings
from tests.pages import LIST

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


# Why nobody sees these pages.
UNSEEN = {
    "giftcards_order_adopt": "a POST of the comparison, which leads to the order",
    "giftcards_order_report_download": "a file",
    "giftcards_order_check": "a POST that leads to the order",
    "giftcards_order_fingerprint": "read by a script",
    "giftcards_providerstate_resume": "a POST that leads to the provider",
    "giftcards_order_delete": "nobody deletes orders",
    "giftcards_providerstate_add": "there is one",
    "giftcards_providerstate_change": "nobody edits it",
    "giftcards_providerstate_delete": "nobody deletes it",
    "giftcards_providerstate_history": "nothing leads there",
    "giftcards_catalogue_read": "a POST that leads to the list of products",
    **{
        f"giftcards_{model}_{page}": "catalogue, ledger, refunds and trace are read only"
        for model in ("product", "cardreveal", "customerrefund", "books_ledgerentry")
        for page in ("add", "delete", "history")
    },
    **{
        f"giftcards_producttype_{page}": "types are shown on the pages of their products"
        for page in ("add", "change", "changelist", "delete", "history")
    },
    "giftcards_cardreveal_change": "nothing leads there",
    "giftcards_customerrefund_change": "nothing leads there",
}


@pytest.mark.parametrize(
    ("language", "look"), [("fr", LOOKS[0]), ("ar", LOOKS[1])], ids=["fr", "ar"]
)
def test_axe_finds_nothing_of_ours(
    boss: Browser, simulator: Simulator, language: str, look: Look
) -> None:
    boss.speak(language)
    boss.look(*look)
    found, names = Findings(), set()
    for name, visit in PAGES.items():
        visit(boss)
        names.add(resolve(boss.run("return location.pathname")).url_name)
        found.look_at(boss, name, [look])
    assert not found, str(found)
    # A new page has to be listed in ``PAGES`` or in ``UNSEEN``.
    assert ours() - names == UNSEEN.keys()


def ours() -> set[str]:
    """Return the names of the app's admin URLs, except those about messages."""
    return {
        pattern.name
        for model, pages in admin.site._registry.items()
        if model._meta.app_label in {"giftcards", "giftcards_books"}
        for pattern in pages.get_urls()
        if pattern.name and not pattern.name.startswith("giftcards_delivery_")
    }


def test_axe_finds_nothing_in_what_a_role_sees(browser: Browser) -> None:
    found = Findings()
    for role in ("support", "accountant", "reader"):
        log_in_as(browser, role)
        for name in ("list", "lost", "partly delivered", "held", "report"):
            PAGES[name](browser)
            found.look_at(browser, f"{name}, for {role}", LOOKS[:1])
    assert not found, str(found)


def test_axe_does_find_what_is_wrong(boss: Browser) -> None:
    """The test above can fail: in each theme, axe finds errors in markup and colour.

    Targets that are too small are found as well.
    """
    boss.open(LIST)
    boss.run(
        "const content = document.querySelector('#content');"
        "content.insertAdjacentHTML('beforeend', '<img src=\"/static/giftcards/none.png\">');"
        "document.querySelectorAll('.giftcards-badge').forEach(badge => {"
        " badge.style.setProperty('color', '#777'); });"
    )
    boss.resize(*NARROW)
    assert small_targets(boss) == []
    boss.run("document.querySelector('.giftcards-filters summary').style.padding = 0;")
    boss.run("document.querySelector('.giftcards-filters summary').style.minBlockSize = 0;")
    [small] = small_targets(boss)
    assert small.endswith("px for a finger: Filter")
    load(boss)
    for theme in THEMES:
        boss.look(theme, WIDE)
        assert {violation.rule for violation in violations(boss)} >= {"image-alt", "color-contrast"}
        assert any("giftcards-badge" in str(violation) for violation in violations(boss))
