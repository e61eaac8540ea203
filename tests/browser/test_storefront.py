"""The example's storefront in one window: the purchase, every outcome, and the money."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model

from example_project.storefront.models import Purchase
from giftcards.delivery.tuning import tuning
from giftcards.models import Order, ProductType, Reservation
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.browser.axe import LOOKS
from tests.browser.browser import Browser
from tests.browser.visits import Findings
from tests.example_shop import fill_shelf, kind, opened, work
from tests.stage import ago, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PASSWORD = "correct horse"
MAILS, BUTTON = ".shop-mails a", "main button"


@pytest.fixture
def window(
    tab: Browser,
    simulator: Simulator,
    settings: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Browser]:
    """Yield a window on the shop with a full shelf, in which nobody is logged in."""
    # An order becomes late immediately.
    settings.GIFTCARDS = {**settings.GIFTCARDS, "POLL_TIMEOUT": 1, "POLL_INTERVAL": 0.1}
    fill_shelf()
    get_user_model().objects.create_superuser("admin", password=PASSWORD)
    with opened(settings, tmp_path, tab.site):
        # The driver is quicker than a person.
        monkeypatch.setattr(tuning, "press_after", 0)
        yield tab


def begin(window: Browser, type_id: str) -> None:
    """Order five cards; the window then shows the payment page."""
    window.open(f"/buy/{kind(type_id).pk}/")
    window.fill(quantity="5")
    window.press(BUTTON)


def buy(window: Browser, type_id: str) -> Order:
    """Buy five cards and return the order; the window then shows the page of the order."""
    begin(window, type_id)
    window.press(BUTTON)
    return Order.objects.latest("pk")


def open_mail(window: Browser) -> str:
    """Open the newest mail on the page and return its visible text."""
    window.press(MAILS)
    frame = window.find("iframe")
    window.driver.switch_to.frame(frame)
    text = window.find("body").text
    window.driver.switch_to.default_content()
    return text


def follow_link_of_mail(window: Browser) -> None:
    """Click the mail's own link, which leads out of its frame."""
    frame = window.find("iframe")
    with window.leaving():
        window.driver.switch_to.frame(frame)
        window.find("a[href*='/cards/']").click()
        window.driver.switch_to.default_content()


def codes(order: Order) -> list[str]:
    return [card.value for card in order.cards.filter(position__lte=order.fulfilled_quantity)]


def test_the_whole_story_in_one_window(window: Browser, simulator: Simulator) -> None:
    window.open("/")
    window.press("[name=language][value=ar]")
    assert window.run("return document.dir") == "rtl"
    # Buy, wait, and the page says by itself that the cards are there; so does a mail.
    order = buy(window, "type_001")
    window.find(".gc-wait")
    work()
    window.find(".gc-delivered")
    window.find(MAILS)
    open_mail(window)
    follow_link_of_mail(window)
    assert window.find_all(".gc-secret") == []
    window.press(".gc-ask button")
    order.refresh_from_db()
    assert window.texts(".gc-secret:not(.gc-serial)") == codes(order)
    # The other outcomes of orders.
    rejected = buy(window, "SIM_REJECT")
    refunded = buy(window, "TEST_REFUND")
    slow = buy(window, "SIM_SLOW")

    def is_late() -> bool:
        work()
        return Order.objects.get(pk=slow.pk).status == Status.DELAYED

    wait_until(is_late)
    window.open("/orders/")
    kinds = [each.get_attribute("class") for each in window.find_all(".gc-state")]
    assert kinds == [
        f"gc-state gc-{kind}" for kind in ("delayed", *2 * ["not_delivered"], "delivered")
    ]
    for other in (rejected, refunded):
        other.refresh_from_db()
        assert other.open_amount == 2750
    simulator.settle(Order.objects.get(pk=slow.pk).provider_order_id)
    work("--reference", slow.reference)
    # The provider's answer is lost: the order is found, and not bought a second time.
    lost = buy(window, "SIM_LOST")

    def is_found() -> bool:
        work("--reference", lost.reference)
        return Order.objects.get(pk=lost.pk).status == Status.FULFILLED

    wait_until(is_found)
    bought = [order.type for order in simulator.orders.values()]
    assert bought.count("SIM_LOST") == 1
    window.open("/mailbox/")
    # The search for the lost order may have taken so long that its customer was asked to wait.
    others = [text for text in window.texts(MAILS) if "أطول من المعتاد" not in text]
    assert len(others) == 5
    # Only some of the cards arrive, and the customer reads what is missing.
    order = buy(window, "TEST_PARTIAL")
    page = window.path()
    work()
    window.open(page)
    window.find(".gc-partly_delivered")
    assert "1650" in "".join(filter(str.isdecimal, window.find(".gc-money").text))
    window.press(".gc-order button")
    order.refresh_from_db()
    assert window.texts(".gc-secret:not(.gc-serial)") == codes(order)
    window.press(".gc-back a")
    assert window.path() == f"{page}#gc-order-{order.pk}"
    assert not window.find_all(".gc-wait")
    # Staff see the partial refund and pay it back. The window keeps its purchases when somebody
    # logs in.
    window.press("section a[href*='/admin/']")
    window.fill(username="admin", password=PASSWORD)
    window.press("[type=submit]")
    assert len(window.find_all(".giftcards-breakdown")) > 0
    window.press("a[href$='/pay-back/'], [formaction$='/pay-back/']")
    window.press(".submit-row [type=submit]")
    window.press(".submit-row [type=submit]")
    order.refresh_from_db()
    assert order.open_amount == 0
    work()
    # The customer reads about the refund.
    window.open(page)
    assert len(window.texts(MAILS)) == 2
    assert "1650" in "".join(filter(str.isdecimal, open_mail(window)))
    assert window.complaints() == []


def test_the_time_for_the_payment_runs_out_and_the_shelf_changes_before_the_customers_eyes(
    window: Browser,
) -> None:
    ProductType.objects.filter(type_id="type_001").update(stock=5)
    begin(window, "type_001")
    assert re.fullmatch(r"Time left: [0-5]:[0-5]\d", window.texts("[data-left]")[0])
    payment = window.path()
    # The shelf notices by itself that the cards are reserved, and that they are not any more.
    window.open("/")
    window.wait_for_text(".shop-item", "Sold out")
    Reservation.objects.update(until=ago(1))
    window.wait_for_text(".shop-item", "Buy")
    # The payment page also shows by itself that its time has run out.
    window.open(payment)
    window.find("[data-left]")
    Purchase.objects.update(reserved_until=ago(1))
    window.run("const now = Date.now; Date.now = () => now() + 600_000;")
    window.wait_for_text("main form", "no longer reserved")
    # The cards can still be bought.
    window.press(BUTTON)
    assert Order.objects.get().quantity == 5
    assert window.complaints() == []


def test_axe_finds_nothing_and_every_page_fits(window: Browser) -> None:
    window.open("/")
    window.speak("ar")
    buy(window, "TEST_PARTIAL")
    page = window.path()
    found = Findings()
    found.look_at(window, "waiting", LOOKS)
    begin(window, "type_001")
    payment = window.path()
    work()
    window.open(page)
    mail = window.find(MAILS).get_attribute("href").removeprefix(window.site)
    buying = f"/buy/{kind('type_001').pk}/"
    pages = ["/", buying, payment, page, "/orders/", "/mailbox/", mail]
    for address in pages:
        window.open(address)
        found.look_at(window, address, LOOKS)
    assert not found, str(found)
    assert window.complaints() == []
