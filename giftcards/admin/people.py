"""The people of an order, with whom its page begins: the customer, and the recipient of a gift."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language_info, gettext

from giftcards.display import bdi, filled, moment
from giftcards.models import Order
from giftcards.privacy.person import ROLES, Person
from giftcards.spelling import digits, numbers

# No number has more digits.
_MOST_DIGITS = 15


class Someone(NamedTuple):
    """A person as the page shows them; the parts are HTML, or "" if they are unknown."""

    label: str
    name: str
    phone: str
    email: str
    language: str

    @property
    def is_known(self) -> bool:
        return any(self[1:])


def people(order: Order) -> dict[str, Any]:
    """The people of ``order`` as template context."""
    customer = Someone(
        gettext("customer"),
        bdi(order.customer_name) if order.customer_name else "",
        _phone(order.customer_phone),
        _email(order.customer_email),
        _language(order.customer_language),
    )
    recipient = Someone(
        gettext("recipient"),
        bdi(order.recipient_name) if order.recipient_name else "",
        "",
        _email(order.recipient_email),
        _language(order.recipient_language),
    )
    return {
        "people": [one for one in (customer, recipient) if one.is_known],
        "nobody": "" if customer.is_known else _why_nobody(order),
        "privacy_commands": list(_privacy_commands(order)),
    }


def _privacy_commands(order: Order) -> Iterator[str]:
    """The commands that hand out, and erase, what is kept about the people of ``order``."""
    for role in ROLES:
        named = next(filter(Person.of, role.contacts_in(order)), None)
        if named is not None:
            command = f"python manage.py giftcards_customer {shlex.quote(named)}"
            yield f"{command} --export customer.json"
            yield f"{command} --erase"


def _why_nobody(order: Order) -> str:
    if order.customer_erased_at is None:
        return gettext("The order names no customer.")
    text = gettext("The customer's details were erased on %(at)s, as the customer had asked.")
    return filled(text, at=moment(order.customer_erased_at))


def _phone(text: str) -> SafeString | str:
    """The number as a link that dials it; as text if it is none, or several."""
    if not text:
        return ""
    shown = format_html('<bdi dir="ltr">{}</bdi>', text)
    number = digits(text.replace("(0)", ""))
    if len(numbers(text)) != 1 or len(number) > _MOST_DIGITS:
        return shown
    plus = "+" if text.strip().startswith("+") else ""
    return format_html('<a href="tel:{}{}">{}</a>', plus, number, shown)


def _email(address: str) -> SafeString | str:
    if not address:
        return ""
    return format_html('<a href="mailto:{}">{}</a>', quote(address, safe="@"), bdi(address))


def _language(code: str) -> SafeString | str:
    """The name of the language in the active one; the code, if Django does not know it."""
    try:
        return bdi(get_language_info(code)["name_translated"]) if code else ""
    except KeyError:
        return bdi(code)
