"""A revealed code in a real browser: its script works, and nothing is left afterwards."""

from __future__ import annotations

import pytest

from giftcards.keys.secrecy import CardSecret
from giftcards.models import CardReveal, Order
from tests.browser.browser import Browser
from tests.builders import CARDS, receive
from tests.pages import page_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = (390, 844)
CODE = CARDS[1].value
SECRET = ".giftcards-secret"


def reveal(window: Browser) -> None:
    window.open(page_of("web-1042"))
    card = Order.objects.get(reference="web-1042").cards.get(position=2)
    window.press(f'a[href$="/cards/{card.pk}/"]')
    window.fill(reason="Lost the e-mail")
    window.press(".submit-row [type=submit]")


def test_a_code_that_the_browser_refuses_to_copy_is_selected_and_one_can_log_out(
    boss: Browser,
) -> None:
    reveal(boss)
    boss.run("navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))")
    boss.find("[data-copies]").click()
    boss.wait_for_text(".giftcards-revealed [role=status]", "The text is selected. Copy it now.")
    assert boss.run("return getSelection().toString()") == CODE
    # With the policy "no-referrer", browsers hide the origin of forms, and Django refuses them.
    boss.press("#logout-form button")
    assert boss.path() == "/admin/logout/"
    assert boss.complaints() == []


def test_a_code_goes_away_after_a_minute_or_when_its_page_is_left_and_does_not_come_back(
    boss: Browser,
) -> None:
    reveal(boss)
    boss.run("const now = Date.now(); Date.now = () => now + 60_000")
    boss.run("dispatchEvent(new Event('focus'))")
    boss.find("#giftcards-cards")
    assert boss.path() == page_of("web-1042")
    boss.driver.back()
    assert CODE not in boss.driver.page_source
    reveal(boss)
    boss.press(".giftcards-decide a")
    assert boss.path() == page_of("web-1042")
    boss.driver.back()
    assert CODE not in boss.driver.page_source
    assert CardReveal.objects.count() == 2


def test_long_codes_are_shown_whole_on_a_phone(boss: Browser) -> None:
    code = "ABCDEFGHIJ" * 6
    order = receive("web-9", CardSecret(code, "1" * 40))
    boss.speak("ar")
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
