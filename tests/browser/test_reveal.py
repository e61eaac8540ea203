"""Revealing a code in a real browser: two clicks, a copy, and nothing left afterwards."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session

from giftcards.keys.secrecy import CardSecret
from giftcards.models import CardReveal, Order
from tests.browser.browser import Browser
from tests.builders import CARDS, receive
from tests.pages import page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (390, 844)
CODE = CARDS[1].value
SECRET = ".giftcards-secret"


def link_to(position: int, reference: str = "web-1042") -> str:
    card = Order.objects.get(reference=reference).cards.get(position=position)
    return f'a[href$="/cards/{card.pk}/"]'


def reveal(window: Browser, position: int = 2, reference: str = "web-1042") -> None:
    window.open(page_of(reference))
    window.press(link_to(position, reference))
    window.fill(reason="Lost the e-mail")
    window.press(".submit-row [type=submit]")


def test_a_code_is_revealed_with_two_clicks_and_a_reason(boss: Browser) -> None:
    reveal(boss)

    assert boss.texts(SECRET) == [CODE, CARDS[1].serial]
    assert CardReveal.objects.get().reason == "Lost the e-mail"
    assert boss.complaints() == []


def test_who_has_not_proven_who_they_are_lately_types_the_password(boss: Browser) -> None:
    get_user_model().objects.update(last_login=None)
    session = Session.objects.get()
    store = Session.get_session_store_class()(session.pk)
    store["giftcards_proof"] = {**store["giftcards_proof"], "at": 0}
    store.save()
    boss.open(page_of("web-1042"))
    boss.press(link_to(2))
    boss.fill(reason="Lost the e-mail", password="wrong")
    boss.press(".submit-row [type=submit]")
    assert boss.texts(".errorlist li") == ["That did not work. Try again."]
    assert boss.find("[name=reason]").get_attribute("value") == "Lost the e-mail"
    assert boss.find("[name=password]").get_attribute("value") == ""

    boss.fill(password="correct horse")
    boss.press(".submit-row [type=submit]")

    assert boss.texts(SECRET) == [CODE, CARDS[1].serial]


def test_the_code_is_copied_with_one_click(boss: Browser) -> None:
    for permission in ("clipboardReadWrite", "clipboardSanitizedWrite"):
        boss.driver.execute_cdp_cmd(
            "Browser.grantPermissions", {"origin": boss.site, "permissions": [permission]}
        )
    reveal(boss)

    boss.find("[data-copies]").click()

    boss.wait_for_text(".giftcards-revealed [role=status]", "Copied.")


def test_the_code_is_selected_where_the_browser_refuses_to_copy(boss: Browser) -> None:
    reveal(boss)
    boss.run("navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))")

    boss.find("[data-copies]").click()

    boss.wait_for_text(".giftcards-revealed [role=status]", "Selected: copy it now.")
    assert boss.run("return getSelection().toString()") == CODE


def test_the_code_goes_away_after_a_minute_and_does_not_come_back(boss: Browser) -> None:
    reveal(boss)
    boss.run("const now = Date.now(); Date.now = () => now + 60_000")

    boss.run("dispatchEvent(new Event('focus'))")

    boss.find("#giftcards-cards")
    assert boss.path() == page_of("web-1042")
    boss.driver.back()
    assert CODE not in boss.driver.page_source


def test_a_page_of_a_code_that_was_left_shows_nothing_when_one_comes_back(boss: Browser) -> None:
    reveal(boss)
    boss.press(".giftcards-decide a")
    assert boss.path() == page_of("web-1042")

    boss.driver.back()

    assert CODE not in boss.driver.page_source
    assert CardReveal.objects.count() == 1


def test_one_can_log_out_from_the_page_of_a_code(boss: Browser) -> None:
    """With the policy "no-referrer", browsers hide the origin of forms, and Django refuses them."""
    reveal(boss)

    boss.press("#logout-form button")

    assert boss.path() == "/admin/logout/"
    assert boss.complaints() == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_long_codes_are_shown_whole_on_a_phone(boss: Browser, language: str) -> None:
    code = "ABCDEFGHIJ" * 6
    order = receive("web-9", CardSecret(code, "1" * 40))
    boss.speak(language)
    boss.resize(*PHONE)
    boss.open(f"/admin/giftcards/order/cards/{order.cards.get().pk}/")
    assert boss.overflow() == 0
    boss.fill(reason="ضاع البريد")
    boss.press(".submit-row [type=submit]")

    assert boss.texts(SECRET) == [code, "1" * 40]
    assert boss.overflow() == 0
    for secret in boss.find_all(SECRET):
        box = secret.rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE[0]
