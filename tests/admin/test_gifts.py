"""Gifts in the admin: placing, viewing, finding and correcting them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from giftcards.models import CustomerChange, Order
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.pages import (
    ADD,
    FORM,
    LIST,
    element,
    errors,
    hidden,
    messages,
    order_page,
    person,
    place,
    plain,
    read,
    text,
    timeline,
)

pytestmark = pytest.mark.django_db

WRONG, RIGHT = "lina@exmaple.com", "lina@example.com"
WORDS = "Happy birthday!\n\n<b>Amina</b>"


def typed(at: datetime) -> str:
    """Return the time as a browser submits it, in the time zone of the site."""
    return timezone.localtime(at).strftime("%Y-%m-%dT%H:%M")


def make_gift(status: Status = Status.FULFILLED, **values: Any) -> Order:
    gift = {"recipient_email": WRONG, "recipient_name": "Lina", "gift_message": WORDS}
    return make_guide_order(status, **{"customer_email": "amina@example.com", **gift, **values})


class TestPlacing:
    TIME = timezone.now().replace(second=0, microsecond=0) + timedelta(days=3)

    def form(self, **values: str) -> dict[str, str]:
        gift = {"recipient_email": RIGHT, "recipient_name": "Lina", "recipient_language": "fr"}
        return {**FORM, **gift, "gift_message": WORDS.replace("\n", "\r\n"), **values}

    def test_a_gift_is_shown_before_it_is_bought_and_recorded_as_it_was_shown(
        self, boss: Client
    ) -> None:
        # The gift fields are in a collapsed section, and the browser offers a date picker.
        folded = element(read(boss.get(ADD)), "", "details")
        assert 'name="recipient_email"' in folded
        assert re.search(r'<input type="datetime-local" name="deliver_at"', folded)
        form = self.form(deliver_at=typed(self.TIME))
        asked = read(boss.post(ADD, form))
        assert "Happy birthday!<br><br>&lt;b&gt;Amina" in asked
        for part in (RIGHT, "Lina", str(timezone.localtime(self.TIME).day)):
            assert part in text(asked)
        place(boss, form)
        order = Order.objects.get()
        assert (order.recipient_email, order.recipient_language) == (RIGHT, "fr")
        assert (order.gift_message, order.deliver_at) == (WORDS, self.TIME)

    @pytest.mark.parametrize(
        ("values", "complaint"),
        [
            ({"recipient_email": ""}, "A gift needs the e-mail address of its recipient."),
            ({"recipient_email": "lina"}, "Enter a valid email address."),
            (
                {"gift_message": "a\u202eb"},
                "Enter text without control characters or characters that change the text"
                " direction.",
            ),
            ({"deliver_at": "tomorrow"}, "Enter a valid date/time."),
            ({"deliver_at": "2036-01-01T09:00"}, "A gift must be delivered within a year."),
        ],
    )
    def test_what_is_wrong_with_a_gift_is_said_before_the_confirmation(
        self, boss: Client, values: dict[str, str], complaint: str
    ) -> None:
        assert errors(read(boss.post(ADD, self.form(**values)))) == [complaint]
        assert not Order.objects.exists()


class TestOrderPage:
    def test_the_page_says_for_whom_when_and_with_which_words(self, boss: Client) -> None:
        order = make_gift(deliver_at=timezone.now() + timedelta(days=1), recipient_language="fr")
        html = read(boss.get(order_page(order)))
        shown = text(html)
        for part in ("Gift", "Recipient", "French", WRONG, "Lina", "Happy birthday! <b>Amina</b>"):
            assert part in re.sub("\xa0", "", shown).replace("!  <b>", "! <b>")
        assert "The order is a gift that will be delivered on" in shown
        other = make_guide_order(reference="web-8")
        assert "ecipient" not in text(read(boss.get(order_page(other))))
        found = read(boss.get(LIST, {"q": WRONG}))
        assert order.reference in found
        assert "web-8" not in found


class TestCorrecting:
    @pytest.fixture
    def amina(self) -> Client:
        return person("view_order", "correct_customer")

    def filled_in(self, browser: Client, order: Order, **values: str) -> dict[str, str]:
        """Return the submitted form, in which fields without a new value keep the shown one."""
        html = read(browser.get(order_page(order, "customer")))
        shown = dict(re.findall(r'<input type="[\w-]+" name="(\w+)" value="([^"]*)"', html))
        shown |= {"gift_message": WORDS.replace("\n", "\r\n"), "reason": "She called"}
        return {**hidden(html), **shown, **values}

    def correct(self, browser: Client, order: Order, **values: str) -> str:
        form = self.filled_in(browser, order, **values)
        return read(browser.post(order_page(order, "customer"), form, follow=True))

    def test_the_recipient_is_corrected_and_nothing_else(self, amina: Client) -> None:
        # A shop stores microseconds, but the form has only seconds. The difference is not a change.
        at = timezone.now() + timedelta(days=2)
        order = make_gift(deliver_at=at)
        html = self.correct(amina, order, recipient_email=RIGHT)
        assert messages(html) == ["The new details were saved."]
        stored = Order.objects.get()
        assert (stored.recipient_email, stored.recipient_name) == (RIGHT, "Lina")
        assert (stored.gift_message, stored.deliver_at) == (WORDS, at)
        assert stored.customer_email == "amina@example.com"
        [entry] = [entry for entry in map(plain, timeline(html)) if "corrected" in entry]
        assert f"recipient's e-mail before the change: {WRONG}" in entry
        assert entry.count("before the change") == 1
        html = self.correct(
            amina, order, gift_message="Bravo", deliver_at=typed(timezone.now()), recipient_name=""
        )
        assert "Happy birthday!<br><br>&lt;b&gt;Amina&lt;/b&gt;" in html
        [_first, entry] = [entry for entry in map(plain, timeline(html)) if "corrected" in entry]
        for part in ("message to the recipient before the change:", "to be delivered on before"
        " the change:",
                     "recipient's name before the change: Lina"):  # fmt: skip
            assert part in entry

    @pytest.mark.parametrize(
        ("values", "complaint"),
        [
            ({"recipient_email": ""}, "This field is required."),
            ({"recipient_email": "lina"}, "Enter a valid email address."),
            ({"deliver_at": ""}, "This field is required."),
            (
                {"gift_message": "a\u202eb"},
                "Enter text without control characters or characters that change the text"
                " direction.",
            ),
        ],
    )
    def test_an_unusable_form_changes_nothing(
        self, amina: Client, values: dict[str, str], complaint: str
    ) -> None:
        order = make_gift(deliver_at=timezone.now() + timedelta(days=2))
        assert complaint in self.correct(amina, order, **values)
        assert not CustomerChange.objects.exists()

    def test_the_other_gifts_for_the_same_person_in_a_group_are_named(self, amina: Client) -> None:
        first, second, other = (
            make_gift(recipient_email=address, group="cart 7", customer_email=f"{number}@x.example")
            for number, address in enumerate((WRONG, WRONG, RIGHT))
        )
        html = read(amina.get(order_page(first, "customer")))
        assert order_page(second, "customer") in html
        assert order_page(other, "customer") not in html
