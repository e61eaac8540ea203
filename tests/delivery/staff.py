"""Orders with messages to customers, and staff who look at them in the admin."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from django.test import Client
from django.urls import reverse

from giftcards.delivery import links
from giftcards.delivery.models import CardLink, Delivery, LinkVisit, key_of
from giftcards.keys.secrecy import CardSecret, Masked
from giftcards.models import Order
from tests.builders import receive
from tests.pages import element, hidden, order_page, plain, read, sign_in, text

MESSAGES = "/admin/giftcards_delivery/delivery/"
LINKS = "/admin/giftcards_delivery/cardlink/"
CODES = ("CANARY-CODE-4711", "CANARY-CODE-8822")
SERIALS = ("CANARY-SERIAL-1", "CANARY-SERIAL-2")
EMAIL = "lina@example.com"
PASSWORD = "correct horse"
#: The permissions that support and managers have here.
SUPPORT = ("view_delivery", "view_cardlink", "view_linkvisit", "resend_delivery")


def delivered(reference: str = "web-1042", **values: Any) -> Order:
    """Create an order whose two cards have come."""
    order = receive(reference, *map(CardSecret, CODES, SERIALS))
    values = {"customer_email": EMAIL, "customer_language": "ar", **values}
    Order.objects.filter(pk=order.pk).update(**values)
    order.refresh_from_db()
    return order


def message(order: Order, **values: Any) -> Delivery:
    """Create a message about the order, which waits unless ``values`` say something else."""
    values = {"kind": "delivered", "address": EMAIL, "language": "en", **values}
    key = key_of(str(Delivery.objects.count()), "mail", values["address"])
    if values.get("status") in {"sent", "failed", "cancelled"}:
        values = {"next_attempt_at": None, **values}
    return Delivery.objects.create(order=order, key=key, **values)


def link(order: Order, **values: Any) -> tuple[CardLink, Masked]:
    made = links.issue(order, origin=values.pop("origin", CardLink.Origin.MESSAGE))
    CardLink.objects.filter(pk=made[0].pk).update(**values)
    made[0].refresh_from_db()
    return made


def visit(visited: CardLink, *what: str, **values: Any) -> None:
    values = {"address": "41.200.1.2", "agent": "Firefox on a phone", **values}
    for each in what:
        LinkVisit.objects.create(link=visited, what=each, **values)


def person(*permissions: str, name: str = "amina", **options: Any) -> Client:
    """Return a browser in which a member of staff with ``view_order`` has just signed in."""
    return sign_in("view_order", *permissions, name=name, password=PASSWORD, **options)


def messages_section(browser: Client, order: Order) -> str:
    """Return what the page of the order says about its messages."""
    html = read(browser.get(order_page(order)))
    return plain(text(element(html, 'aria-labelledby="giftcards-messages"', "section")))


def to(page: str, key: int) -> str:
    return reverse(f"admin:giftcards_delivery_{page}", args=[key])


def filled_in(browser: Client, order: Order, **values: Any) -> dict[str, str]:
    """Return the form as the browser would send it."""
    html = read(browser.get(to("send_again", order.pk)))
    typed = {
        "kind": "delivered",
        "address": EMAIL,
        "language": "ar",
        "reason": "Lost the mail",
        "links": "elsewhere",
    }
    once = html.split('name="once" value="')[1].split('"')[0]
    return {**hidden(html), "channel": "mail", "once": once, **typed, **values}


def send_again(browser: Client, order: Order, **values: Any) -> Any:
    form = filled_in(browser, order, **values)
    return browser.post(to("send_again", order.pk), form, follow=True)


def ask_for_link(browser: Client, order: Order) -> dict[str, str]:
    html = read(browser.get(to("new_link", order.pk)))
    known = re.search(r'name="newest"(?: value="(\d*)")?', html)
    assert known
    return {"reason": "On the phone", "withdraws": "on", "newest": known[1] or ""}


def make_link(browser: Client, order: Order, **values: str) -> Any:
    return browser.post(to("new_link", order.pk), {**ask_for_link(browser, order), **values})


def link_on(answer: Any) -> str:
    """Return the address that the page shows."""
    found = re.search(r'<bdi dir="ltr" class="giftcards-secret"[^>]*>(.*?)</bdi>', read(answer))
    assert found
    return unescape(found[1])
