"""Export all stored data about a person to a readable file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from django.db import models
from django.db.models import Prefetch, prefetch_related_objects
from django.utils import timezone, translation
from django.utils.text import capfirst
from django.utils.translation import gettext

from giftcards.conf import CURRENCY
from giftcards.models import (
    Card,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    Note,
    Order,
    StatusChange,
)
from giftcards.models.order_queries import batches
from giftcards.models.orders import OF_CUSTOMER
from giftcards.privacy.person import CUSTOMER, RECIPIENT, Person, Role, all_keepers, keepers
from giftcards.rules.problems import Entry, Problem
from giftcards.rules.times import with_zone
from giftcards.text.display import supported_language

# A JSON object with headings in the active language.
Described = dict[str, Any]

_ORDER = (
    "reference",
    "product_id",
    "product_name",
    "type_id",
    "type_name",
    "quantity",
    "status",
    "fulfilled_quantity",
    "sale_price",
    "sale_amount",
    "paid_back_amount",
    "open_amount",
    "created_at",
    "finalized_at",
    "codes_destroyed_at",
    *OF_CUSTOMER,
    "user",
    "gift_message",
    "deliver_at",
    "group",
    "metadata",
)
# The related rows, which are read for a hundred orders at a time. The encrypted codes are not read.
_READ = (
    "user",
    Prefetch("cards", Card.objects.defer("sealed")),
    "cards__reveals",
    "customer_changes",
    "refunds",
    "changes",
    "notes",
)
# The columns that the recipient of a gift may see. They contain nothing about the customer or about
# money.
_GIFT = (
    "reference",
    "product_id",
    "product_name",
    "type_id",
    "type_name",
    "fulfilled_quantity",
    "created_at",
    "codes_destroyed_at",
    *RECIPIENT.columns,
)
_REFUND = (
    "amount",
    "state",
    "method",
    "reference",
    "comment",
    "cancel_reason",
    "executed_at",
)


def describe(person: Person, orders: Iterable[Order], *, language: str = "") -> dict[str, Any]:
    """Return all data that these orders contain about a person, as JSON.

    The headings are in ``language``. By default, this is the language of the person's newest order
    that has a language. If there is no such order, it is the site's language. The result does not
    contain codes, costs, names of staff, or data about the other person involved in a gift.
    """
    orders = list(orders)
    for some in batches(orders):
        prefetch_related_objects(some, *_READ, *_read_by_keepers())
    parts = person.parts_of(orders)
    given = (getattr(order, role.language) for order, role in reversed(parts))
    known = next(filter(None, given), "")
    with translation.override(supported_language(language or known)):
        bought = [_describe_order(order) for order, role in parts if role == CUSTOMER]
        received = [_describe_gift(order) for order, role in parts if role == RECIPIENT]
        gifts = {capfirst(gettext("gifts")): received} if received else {}
        return {
            capfirst(gettext("created on")): _local_time(timezone.now()),
            heading(Order): bought,
            **gifts,
        }


def _read_by_keepers() -> set[str]:
    return {name for keeper in all_keepers() for name in getattr(keeper, "prefetched", ())}


def as_json(value: Any) -> str:
    """Return ``value`` as human-readable JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def write_new(path: Path, value: Any) -> None:
    """Write ``value`` as JSON to a new file that only its owner can read.

    Raises ``FileExistsError`` if the file already exists. If writing fails, the incomplete file is
    deleted, and the error is raised.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(as_json(value))
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def described(row: models.Model, *names: str) -> Described:
    """Map the translated names of a row's columns to their values.

    ``names`` are the names of the columns. Empty values are left out.
    """
    found = {}
    for name in names:
        field: Any = row._meta.get_field(name)  # noqa: SLF001
        value = _readable(row, field)
        if value not in field.empty_values:
            found[str(capfirst(field.verbose_name))] = value
    return found


def rows(related: Any) -> list[Any]:
    """Return the rows of a related manager, oldest first.

    If the rows are prefetched, the function does not make a query.
    """
    return sorted(related.all(), key=lambda row: row.pk)


def several(found: Iterable[models.Model], *names: str) -> list[Described]:
    """Return the columns of each row: see :func:`described`."""
    return [described(row, *names) for row in found]


def heading(model: type[models.Model]) -> str:
    """Return the plural name of ``model`` in the active language."""
    return str(capfirst(str(model._meta.verbose_name_plural)))  # noqa: SLF001


def _readable(row: models.Model, field: Any) -> Any:
    """Return the value of ``field`` in a readable form for the export.

    The result is a label, an amount with its currency, a local time or a user name. Other values
    are returned unchanged.
    """
    value = getattr(row, field.name)
    if field.choices:
        return str(getattr(row, f"get_{field.name}_display")())
    match value:
        case datetime():
            return _local_time(value)
        case Decimal():
            return f"{value:.2f} {CURRENCY}"
        case models.Model():
            return cast("Any", value).get_username()
    return value


def _local_time(moment: datetime) -> str:
    return timezone.localtime(with_zone(moment)).isoformat(timespec="seconds")


def _describe_order(order: Order) -> Described:
    cards = order.cards.all()
    reveals = [(card.position, reveal) for card in cards for reveal in rows(card.reveals)]
    parts: dict[str, Any] = {
        heading(Card): _cards(order),
        heading(CustomerChange): _corrections(order, CUSTOMER),
        heading(CustomerRefund): several(rows(order.refunds), *_REFUND),
        heading(StatusChange): list(map(_change, rows(order.changes))),
        capfirst(gettext("problems")): list(map(_text, order.problems)),
        heading(Note): several(rows(order.notes), "at", "text"),
        heading(CardReveal): [
            {capfirst(gettext("card")): position} | described(reveal, "at", "reason")
            for position, reveal in sorted(reveals, key=lambda each: each[1].pk)
        ],
    }
    return _whole(order, _ORDER, parts, CUSTOMER)


def _describe_gift(order: Order) -> Described:
    parts: dict[str, Any] = {
        heading(Card): _cards(order),
        heading(CustomerChange): _corrections(order, RECIPIENT),
    }
    return _whole(order, _GIFT, parts, RECIPIENT)


def _cards(order: Order) -> list[Described]:
    in_order = sorted(order.cards.all(), key=lambda card: card.position)
    return several(in_order, "position", "received_at")


def _corrections(order: Order, role: Role) -> list[Described]:
    return several(rows(order.customer_changes), "at", *role.columns, "reason")


def _whole(order: Order, names: Iterable[str], parts: dict[str, Any], role: Role) -> Described:
    for keeper in keepers[role].values():
        parts |= keeper.describe(order)
    return described(order, *names) | {name: rows for name, rows in parts.items() if rows}


def _change(change: StatusChange) -> Described:
    texts = [_text(entry) for entry in change.details]
    found = described(change, "at", "to_status")
    return found | ({capfirst(gettext("details")): texts} if texts else {})


def _text(entry: Entry) -> str:
    """Return the text of a problem without names of staff."""
    problem = Problem.of(entry)
    names = {"by": "…"} if "by" in problem.parameters else {}
    text = Problem(problem.code, {**problem.parameters, **names}).explain(shows_costs=False).text
    # The provider's own words are part of the text, because they may name the person.
    return " ".join(filter(None, (text, problem.said())))
