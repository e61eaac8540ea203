"""Helpers that read the admin's pages as a person would: texts of tables, fields and messages."""

from __future__ import annotations

import re
import time
from html import unescape
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.html import strip_tags

from giftcards.models import Card, Order
from tests.builders import PRODUCT, TYPE

START = "/admin/giftcards/"
LIST = "/admin/giftcards/order/"
ADD = f"{LIST}add/"
SEARCH = f"{LIST}find-order/"
LEDGER = "/admin/giftcards_books/ledgerentry/"
PROVIDER_PAGE = "/admin/giftcards/providerstate/"
LATE = (
    "The order has changed since you opened this page, so nothing was done. Check the order again."
)
WRITE_IT = "Enter an amount such as 550 or 549.90. Use the digits 0 to 9 and a decimal point."
# The values that are typed into the form for a new order.
FORM = {
    "product_id": PRODUCT,
    "type_id": TYPE,
    "quantity": "5",
    "reference": "web-1042",
    "sale_price": "550",
    "customer_email": "customer@example.com",
    "customer_language": "ar",
}


def order_page(order: Order, name: str = "change") -> str:
    return reverse(f"admin:giftcards_order_{name}", args=[order.pk])


def page_of(reference: str, name: str = "change") -> str:
    return order_page(Order.objects.get(reference=reference), name)


def sign_in(
    *permissions: str,
    name: str = "",
    password: str = "",
    staff: bool = True,
    superuser: bool = False,
    **options: Any,
) -> Client:
    """Return the browser of a user with these permissions, who types the password, if any."""
    users = get_user_model().objects
    name = name or f"user{users.count()}"
    user = users.create_user(name, password=password, is_staff=staff, is_superuser=superuser)
    for codename in permissions:
        user.user_permissions.add(
            Permission.objects.get(
                content_type__app_label__startswith="giftcards", codename=codename
            )
        )
    browser = Client(**options)
    if password:
        assert browser.login(username=name, password=password)
    else:
        browser.force_login(user)
    return browser


def read(response: Any, status: int = 200) -> str:
    """Return the page without its CSRF tokens, which can contain any three digits by chance."""
    assert response.status_code == status, response
    return re.sub(r'(name="csrfmiddlewaretoken" value=")\w+', r"\1", response.content.decode())


def count_queries(browser: Client, address: str) -> int:
    """Return the number of queries for the page once the caches of the process are filled."""
    read(browser.get(address))
    with CaptureQueriesContext(connection) as queries:
        read(browser.get(address))
    return len(queries)


def place(browser: Client, line: dict[str, Any], **options: Any) -> Any:
    """Submit the form for a new order, and confirm the order on the page that follows."""
    asked = browser.post(ADD, line)
    shown = hidden(asked.content.decode())
    return browser.post(ADD, shown if "confirmed_card" in shown else line, **options)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(strip_tags(html))).strip()


def element(html: str, start: str, tag: str) -> str:
    """Return the first ``tag`` element whose opening tag contains ``start``, without nesting."""
    found = re.search(rf"<{tag}\b[^>]*{re.escape(start)}[^>]*>.*?</{tag}>", html, re.DOTALL)
    assert found, f"There is no <{tag} … {start} …>."
    return found[0]


def rows(html: str, table: str) -> list[list[str]]:
    """Return the cell texts, row by row, of the table whose opening tag contains ``table``."""
    return [
        [text(cell) for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL)]
        for row in re.findall(r"<tr\b.*?</tr>", element(html, table, "table"), re.DOTALL)
    ]


def section(html: str, name: str) -> list[dict[str, str]]:
    """Return the rows of the table in a section of a page: the texts of the cells by column."""
    found = element(html, f'aria-labelledby="giftcards-{name}"', "section")
    return [
        {
            unescape(label): plain(text(cell))
            for label, cell in re.findall(r'<td data-label="(.*?)">(.*?)</td>', row, re.DOTALL)
        }
        for row in re.findall(r"<tr>.*?</tr>", found, re.DOTALL)[1:]
    ]


def facts_of(html: str, name: str) -> dict[str, str]:
    """Return the facts in a section of a page, by label."""
    found = element(html, f'aria-labelledby="giftcards-{name}"', "section")
    pairs = re.findall(r"<dt>(.*?)</dt><dd.*?>(.*?)</dd>", found, re.DOTALL)
    return {plain(text(label)): plain(text(value)) for label, value in pairs}


def orders(html: str) -> list[list[str]]:
    """Return the rows of the list without heading, checkboxes and texts that desktops hide."""
    shown = re.sub(r'<span class="giftcards-(label|unseen)">.*?</span>', "", html)
    return [row[1:] for row in rows(shown, 'id="result_list"')[1:]]


def references(html: str) -> list[str]:
    return [text(name) for name in re.findall(r'<th class="field-name">.*?</bdi>', html)]


def messages(html: str) -> list[str]:
    """Return the page's messages about the action that led to it."""
    if '<ul class="messagelist">' not in html:
        return []
    return [
        text(item)
        for item in re.findall(r"<li\b.*?</li>", element(html, "messagelist", "ul"), re.DOTALL)
    ]


def told(response: Any) -> list[str]:
    """Return the messages on the page of the response, as plain text."""
    return [plain(message) for message in messages(read(response))]


def errors(html: str) -> list[str]:
    """Return the errors of the fields in the page's form."""
    found = re.findall(r'<ul class="errorlist[^>]*>.*?</ul>', html, re.DOTALL)
    return [text(item) for item in found]


def timeline(html: str) -> list[str]:
    items = re.findall(r"<li\b.*?</li>", element(html, "giftcards-timeline", "ol"), re.DOTALL)
    return [text(re.sub(r"<time.*?</time>", "", item, flags=re.DOTALL)) for item in items]


def hidden(html: str) -> dict[str, str]:
    """Return the hidden fields of the page's forms, which identify what a form is about."""
    inputs = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html)
    return {name: unescape(value) for name, value in inputs}


def plain(shown: str) -> str:
    """Return the text without the marks that isolate foreign text."""
    return shown.replace("\u2068", "").replace("\u2069", "")


def tiles(html: str) -> dict[str, tuple[str, str]]:
    """Return the tiles of the start page by title: the sentences, and the URL of the rows."""
    found = {}
    for tile in re.findall(r'<li class="giftcards-tile .*?</li>', html, re.DOTALL):
        title = re.search(r"<h3>(.*?)</h3>", tile, re.DOTALL)
        assert title
        link = re.search(r'href="([^"]*)"', title.group(1))
        sentences = " ".join(map(text, re.findall(r"<p>(.*?)</p>", tile, re.DOTALL)))
        found[text(title.group(1))] = sentences, unescape(link.group(1)) if link else ""
    return found


def for_others(html: str) -> dict[str, tuple[str, str]]:
    """Return the tasks for other roles on the start page: the roles and the URL, by task."""
    found = {}
    for line in re.findall(r"<li>.*?</li>", element(html, "giftcards-for-others", "ul"), re.DOTALL):
        link = re.search(r'<a href="([^"]*)">(.*?)</a>', line)
        assert link
        roles = text(element(line, "giftcards-role", "span"))
        found[text(link.group(2))] = roles, unescape(link.group(1))
    return found


def listed(client: Client, address: str) -> int:
    """Return the number of rows on the list at ``address``."""
    return int(client.get(address).context["cl"].result_count)


def found(html: str) -> str:
    """Return the text in which a page describes what it has found."""
    return text(element(html, "aria-live", "section"))


TOO_MANY_SEARCHES = "You have searched 30 times in the last hour. Try again later."


def search_often(browser: Client, times: int) -> None:
    """Record that the person has searched for cards ``times`` times."""
    LogEntry.objects.bulk_create(
        LogEntry(
            user_id=browser.session["_auth_user_id"],
            content_type=ContentType.objects.get_for_model(Card),
            object_repr="Search by card code",
            action_flag=CHANGE,
        )
        for _number in range(times)
    )


PASSWORD = " correct CANARY-KEY horse "
REASON = "Lost the e-mail"


def person(*permissions: str, **options: Any) -> Client:
    """Return the browser of a member of staff with a password, who has just signed in."""
    permissions = permissions or ("view_order", "reveal_card")
    return sign_in(*permissions, password=PASSWORD, **options)


def reveal_address(card: Card) -> str:
    return reverse("admin:giftcards_card_reveal", args=[card.pk])


def ask_address(card: Card) -> str:
    return reverse("admin:giftcards_card_ask", args=[card.pk])


def reveal(browser: Client, card: Card, reason: str = REASON, **values: Any) -> Any:
    return browser.post(reveal_address(card), {"reason": reason, **values})


def change_proof(browser: Client, **values: Any) -> None:
    session = browser.session
    session["giftcards_proof"] |= values
    session.save()


def let_pass(browser: Client, seconds: float) -> None:
    """Pretend that ``seconds`` have passed since the person confirmed their identity."""
    change_proof(browser, at=time.time() - seconds)


def codes_on(html: str) -> list[str]:
    """Return the code and the serial on a page."""
    return [text(item) for item in re.findall(r'<bdi dir="ltr"[^>]*>.*?</bdi>', html)]
