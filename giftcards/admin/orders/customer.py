"""The customer and recipient of an order, and the customer's other orders.

The other orders are counted up to a limit. The count includes only orders that the signed-in person
is allowed to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from django.utils.translation import get_language_info, gettext, ngettext

from giftcards.admin.frame.actions import Pages
from giftcards.admin.frame.rows import order_link
from giftcards.admin.orders.customer_data import ERASES, EXPORTS, links
from giftcards.models import Order
from giftcards.rules.roles import whom_to_ask
from giftcards.rules.states import Status
from giftcards.text.display import bdi, count_text, filled, moment, money
from giftcards.text.spelling import digits, numbers


class Someone(NamedTuple):
    """A customer or a recipient, as shown on the page.

    Each part is HTML, or "" if it is unknown.
    """

    label: str
    name: str
    phone: str
    email: str
    language: str

    @property
    def is_known(self) -> bool:
        return any(self[1:])


def people(pages: Pages, request: HttpRequest, order: Order) -> dict[str, Any]:
    """Return the customer and the recipient as template context."""
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
        "data_links": links(pages, request, order),
        "whom_to_ask_for_data": whom_to_ask(request.user.has_perm, (EXPORTS, ERASES)),
    }


def _why_nobody(order: Order) -> str:
    if order.customer_erased_at is None:
        return gettext("The order has no customer details.")
    text = gettext("The customer's details were erased on %(at)s at the customer's request.")
    return filled(text, at=moment(order.customer_erased_at))


_MOST_DIGITS = 15


def _phone(text: str) -> SafeString | str:
    """Return a phone number as HTML.

    If the text is a single phone number, the HTML is a link that dials it.
    """
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
    try:
        return bdi(get_language_info(code)["name_translated"]) if code else ""
    except KeyError:
        return bdi(code)


# The maximum number of orders that are counted. With more keys, MariaDB reads the whole table.
_MOST = 200


def other_orders(pages: Pages, request: HttpRequest, order: Order) -> dict[str, Any]:
    """Return the customer's other orders as template context.

    The context is empty if the order does not name a customer.
    """
    if not (order.customer_email or order.customer_phone):
        return {}
    found = _seen(pages, request, Order.objects.keys_of_customer(order, limit=_MOST + 1))
    others = found[:_MOST]
    if not others:
        return {"others": gettext("This customer has no other orders.")}
    count = count_text(len(others))
    if len(found) > _MOST:
        count = gettext("%(count)s or more") % {"count": count}
    owed = sum((other.open_amount or Decimal(0) for other in others), start=Decimal(0))
    unsettled = sum(not other.is_final for other in others)
    facts = []
    if unsettled:
        facts.append(filled(gettext("open: %(count)s"), count=count_text(unsettled)))
    if owed:
        facts.append(filled(gettext("owed: %(amount)s"), amount=money(owed)))
    return {
        "others": filled(gettext("Other orders of this customer: %(count)s"), count=count),
        "others_page": f"{pages.url_of('changelist')}?{urlencode({'customer_of': order.pk})}",
        "others_facts": facts,
    }


# An order is compared with at most this many earlier and this many later orders of the customer.
_NEIGHBOURS = 20
# The longest time between two orders that may be the same purchase, made twice by mistake.
_WITHIN = timedelta(hours=1)


def double_of(pages: Pages, request: HttpRequest, order: Order) -> SafeString | str:
    """Return a warning if the order might be a repeated purchase.

    An order might be a repeated purchase if the same customer placed another order for the same
    product type at most one hour before or after it. If there is no such order, returns "".
    ``order`` does not have to be saved in the database.
    """
    if order.status == Status.REJECTED:
        return ""
    orders = Order.objects.all()
    keys = orders.keys_of_customer(order, limit=_NEIGHBOURS, before=order.pk)
    if order.pk is not None:
        keys += orders.keys_of_customer(order, limit=_NEIGHBOURS, after=order.pk)
    same = [other for other in _seen(pages, request, keys) if _is_double(order, other)]
    if not same:
        return ""
    other = min(same, key=lambda other: abs(other.created_at - order.created_at))
    return _in_words(order, other, order_link(pages.admin_site, other))


# Large columns that the callers of :func:`_seen` do not need.
_LARGE = ("metadata", "candidates", "gift_message")


def _seen(pages: Pages, request: HttpRequest, keys: Iterable[int]) -> list[Order]:
    """Return the orders with these ``keys`` that the person is allowed to see.

    The newest orders come first.
    """
    keys = list(keys)
    if not keys or not pages.has_view_permission(request):
        return []
    rows = pages.get_queryset(request).filter(pk__in=keys).defer(*_LARGE).order_by()
    return sorted(rows, key=lambda other: -other.pk)


def _is_double(order: Order, other: Order) -> bool:
    is_same = (order.product_id, order.type_id) == (other.product_id, other.type_id)
    is_near = abs(other.created_at - order.created_at) <= _WITHIN
    is_repetition = other.repeats_id is not None or order.repeats_id is not None
    return is_same and is_near and not is_repetition and other.status != Status.REJECTED


def _in_words(order: Order, other: Order, link: str) -> SafeString:
    minutes = round(abs(other.created_at - order.created_at) / timedelta(minutes=1))
    if not minutes:
        text = gettext(
            "Possible duplicate: order %(order)s was placed at almost the same time as this order."
        )
    elif other.created_at < order.created_at:
        text = ngettext(
            "Possible duplicate: order %(order)s was placed %(count)s minute before this order.",
            "Possible duplicate: order %(order)s was placed %(count)s minutes before this order.",
            minutes,
        )
    else:
        text = ngettext(
            "Possible duplicate: order %(order)s was placed %(count)s minute after this order.",
            "Possible duplicate: order %(order)s was placed %(count)s minutes after this order.",
            minutes,
        )
    return filled(text, order=link, count=minutes)
