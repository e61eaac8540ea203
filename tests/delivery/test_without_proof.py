"""A session with an expired proof needs the password to send codes to a new address."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from giftcards.admin.frame.reauthentication import url_of_proof
from giftcards.delivery.models import CardLink, Delivery
from giftcards.models import CardReveal, CustomerChange, Order
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.gifts import make_gift
from tests.delivery.mails import send
from tests.delivery.staff import CODES, PASSWORD, delivered, link, message
from tests.pages import ADD, FORM, element, hidden, let_pass, order_page, read, sign_in

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

THIEF = "thief@elsewhere.example"
EVERYTHING = {
    "customer_email": THIEF,
    "recipient_email": THIEF,
    "address": THIEF,
    "reason": "Lost",
    "channel": "mail",
    "language": "en",
    "links": "elsewhere",
    "withdraws": "on",
    "note": "Called",
}


def page(name: str, *key: int) -> str:
    return reverse(f"admin:giftcards_{name}", args=key)


def opened() -> Order:
    return make_guide_order(Status.HANDLING, customer_email="lina@example.com")


def paid_back() -> Order:
    # The cards of this order may be ordered again.
    return make_guide_order(Status.REFUNDED, customer_email="lina@example.com")


def nothing() -> None:
    return None


# The name of each page, what it is about, and the values that are typed.
WITH_PROOF: list[tuple[str, Any, dict[str, str]]] = [
    ("order_customer", opened, {}),
    ("order_customer", delivered, {}),
    ("order_customer", paid_back, {}),
    ("order_customer", opened, {"customer_email": "", "customer_phone": "0550 12 34 56"}),
    ("order_customer", make_gift, {"deliver_at": ""}),
    ("delivery_send_again", delivered, {"kind": "delivered"}),
    ("delivery_send_again", make_gift, {"kind": "gift"}),
    ("delivery_send_link", delivered, {"kind": "delivered"}),
    ("delivery_new_link", delivered, {}),
    ("card_reveal", delivered, {}),
    ("order_add", nothing, {"customer_email": THIEF}),
    ("order_add", nothing, {"customer_email": "", "customer_phone": "0550 12 34 56"}),
    ("order_add", nothing, {"customer_email": "", "recipient_email": THIEF}),
]
# These pages set no address. Every new page must be added to one of the tables.
WITHOUT_ADDRESS = {
    *("order_resolve", "order_price", "order_review", "order_wait", "order_cancel"),
    *("order_pay_back", "order_reorder", "order_sale", "order_dispute"),
    *("order_check", "order_release", "order_acknowledge", "order_note"),
    *("refund_cancel", "order_fingerprint", "order_adopt", "order_search"),
    *("card_ask", "delivery_withdraw", "delivery_dispute"),
    *("delivery_try_now", "delivery_send_now", "delivery_cancel"),
    *("order_report", "order_report_download", "order_close_month", "customer_data"),
}
ABOUT_NO_ORDER = {
    *("order_search", "order_report", "order_report_download", "order_close_month"),
    "customer_data",
}


@pytest.fixture
def thief() -> Client:
    """The browser of a user with every permission, whose proof of identity has expired."""
    browser = sign_in(superuser=True, name="amina", password=PASSWORD)
    let_pass(browser, 601)
    return browser


def test_every_page_about_orders_is_in_one_of_the_tables() -> None:
    pages = {each.name for each in site.get_model_admin(Order).order_pages}
    with_proof = {name for name, _make, _typed in WITH_PROOF}
    assert pages | {"order_add"} == with_proof | WITHOUT_ADDRESS
    assert not with_proof & WITHOUT_ADDRESS


def address_of(name: str, order: Order | None) -> str:
    if order is None:
        return ADD
    subject = order.cards.all()[0] if name.startswith("card_") else order
    return page(name, subject.pk)


def asked(answer: Any) -> dict[str, str]:
    """Return the hidden values of the forms on the page."""
    html = answer.content.decode()
    once = re.search(r'name="once" value="([^"]+)"', html)
    return {**hidden(html), **({"once": once[1]} if once else {})}


def use(browser: Client, name: str, order: Order | None, typed: dict[str, str]) -> Any:
    """Fill in the page and submit it, as well as the page that asks for confirmation, if any."""
    address = address_of(name, order)
    asking = address.replace("/reveal/", "/")
    form = {**EVERYTHING, **asked(browser.get(asking)), **typed}
    if name == "order_add":
        form = {**FORM, **typed, "password": ""}
        form |= hidden(browser.post(address, form).content.decode()) | {
            "confirmed_card": f"{FORM['product_id']} {FORM['type_id']}",
            "password": typed.get("password", ""),
        }
    return browser.post(address, form)


def done() -> list[int]:
    rows = (CustomerChange, CardReveal, CardLink, Delivery)
    placed = Order.objects.filter(reference=FORM["reference"], status=Status.PENDING)
    return [*(model.objects.count() for model in rows), placed.count()]


@pytest.mark.parametrize(("name", "make", "typed"), WITH_PROOF)
def test_what_hands_cards_to_an_address_is_done_with_the_password_only(
    thief: Client, name: str, make: Any, typed: dict[str, str]
) -> None:
    order = make()
    before = done()
    for password in ("", "wrong"):
        html = read(use(thief, name, order, {**typed, "password": password}))
        assert 'name="password"' in html
        assert not [code for code in CODES if code in html]
        assert done() == before
        assert not Order.objects.filter(customer_email=THIEF).exists()
    # The same form works with the password, so only the password was missing.
    use(thief, name, order, {**typed, "password": PASSWORD})
    assert done() != before


@pytest.mark.parametrize(("name", "make", "typed"), {row[0]: row for row in WITH_PROOF}.values())
def test_a_shop_with_a_page_of_its_own_for_the_proof_takes_no_password(
    thief: Client, set_conf: Any, name: str, make: Any, typed: dict[str, str]
) -> None:
    set_conf(REAUTHENTICATE="admin:index")
    order = make()
    before = done()
    answer = use(thief, name, order, {**typed, "password": PASSWORD})
    back_to = address_of(name, order).replace("/reveal/", "/")
    assert answer["Location"] == url_of_proof(back_to=back_to)
    assert done() == before


@pytest.mark.parametrize(("name", "make", "typed"), {row[0]: row for row in WITH_PROOF}.values())
def test_who_has_no_password_reads_that_and_does_nothing_of_it(
    thief: Client, name: str, make: Any, typed: dict[str, str]
) -> None:
    order = make()
    before = done()
    get_user_model().objects.update(password="!")
    thief.force_login(get_user_model().objects.get())
    let_pass(thief, 601)
    html = read(use(thief, name, order, {**typed, "password": PASSWORD}), status=403)
    assert "your account has no password on this site" in html
    assert 'name="password"' not in html
    assert done() == before


def subject_of(name: str, order: Order) -> Any:
    if name.startswith("refund_"):
        refunded = make_guide_order(Status.REFUNDED, reference=name, sale_amount=500)
        return record_refund(refunded, amount=100, reference="CCP 1")
    if name in {"delivery_try_now", "delivery_send_now", "delivery_cancel"}:
        return message(order, status="retrying", next_attempt_at=timezone.now())
    return order.cards.all()[0] if name.startswith("card_") else order


def test_whatever_else_is_posted_changes_no_address(thief: Client) -> None:
    for name in sorted(WITHOUT_ADDRESS):
        subject = subject_of(name, delivered(f"web-{name}"))
        address = page(name) if name in ABOUT_NO_ORDER else page(name, subject.pk)
        thief.post(address, {**EVERYTHING, "state_token": "", **asked(thief.get(address))})
    send()
    assert mail.outbox
    assert not [each for each in mail.outbox if THIEF in each.to]
    assert not Order.objects.filter(customer_email=THIEF).exists()
    assert not CardLink.objects.filter(origin=CardLink.Origin.STAFF).exists()


def test_an_order_by_hand_without_an_address_or_after_a_password_asks_for_none(
    thief: Client,
) -> None:
    typed = dict.fromkeys(("customer_email", "customer_phone", "recipient_email"), "")
    html = read(thief.post(ADD, {**FORM, **typed}))
    assert 'name="password"' not in html
    assert thief.post(ADD, hidden(html)).status_code == 302
    assert Order.objects.get().reference == FORM["reference"]
    form = {**FORM, "reference": "web-2"}
    html = read(thief.post(ADD, form))
    assert 'name="password"' in html
    # The user can go back from the question for the password.
    assert "formnovalidate" in element(html, 'name="_change"', "button")
    html = read(thief.post(ADD, {**hidden(html), "password": "", "_change": "1"}))
    assert f'value="{FORM["customer_email"]}"' in html
    use(thief, "order_add", None, {"reference": "web-2", "password": PASSWORD})
    assert Order.objects.count() == 2
    # The password is still valid for the next order.
    html = read(thief.post(ADD, {**FORM, "reference": "web-3"}))
    assert 'name="password"' not in html


def test_a_link_goes_to_the_address_of_the_order_without_a_password(thief: Client) -> None:
    order = delivered()
    link(order)
    form = {**EVERYTHING, "kind": "delivered", "address": ""}
    address = page("delivery_send_link", order.pk)
    form = {**asked(thief.get(address)), **form}
    assert thief.post(address, form).url == order_page(order)
    assert Delivery.objects.get().address == order.customer_email
