"""Export of everything that is kept about a customer, in one file that they can read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django.utils import timezone, translation
from django.utils.text import capfirst
from django.utils.translation import gettext

from giftcards.display import supported_language
from giftcards.models import (
    Card,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    Note,
    Order,
    StatusChange,
)
from giftcards.privacy.registry import keepers
from giftcards.privacy.words import Described, described, heading, several
from giftcards.problems import Problem

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
    "planned_amount",
    "open_amount",
    "created_at",
    "settled_at",
    "codes_destroyed_at",
    "customer_email",
    "customer_name",
    "customer_phone",
    "customer_language",
    "group",
    "metadata",
)
# Has the customer's details from before the correction.
_CHANGE = (
    "at",
    "customer_email",
    "customer_name",
    "customer_phone",
    "customer_language",
    "reason",
)
_REFUND = (
    "amount",
    "state",
    "method",
    "reference",
    "comment",
    "cancel_reason",
    "created_at",
    "executed_at",
)
_PRIVATE = 0o600


def describe(orders: Iterable[Order], *, language: str = "") -> dict[str, Any]:
    """Everything kept about the customer of ``orders``, as JSON with headings in ``language``.

    The default is the language of the last order that has one, or else the site's. The result has
    no codes, no amounts that the provider charges, and no names of staff.
    """
    orders = list(orders)
    given = [order.customer_language for order in reversed(orders) if order.customer_language]
    with translation.override(supported_language(language or next(iter(given), ""))):
        return {
            str(capfirst(gettext("made on"))): timezone.localtime().isoformat(timespec="seconds"),
            heading(Order): [_describe(order) for order in orders],
        }


def write_new(path: Path, value: Any) -> None:
    """Write ``value`` as JSON into a new file that only its owner may read.

    Raises ``FileExistsError`` if ``path`` exists, and any other ``OSError`` if it cannot be
    written; then no new file is left.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        with os.fdopen(file, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _describe(order: Order) -> Described:
    reveals = CardReveal.objects.filter(card__order=order).select_related("card").order_by("pk")
    parts: dict[str, Any] = {
        heading(Card): several(order.cards.order_by("position"), "position", "received_at"),
        heading(CustomerChange): several(order.customer_changes.order_by("pk"), *_CHANGE),
        heading(CustomerRefund): several(order.refunds.order_by("pk"), *_REFUND),
        heading(StatusChange): list(map(_change, order.changes.order_by("pk"))),
        str(capfirst(gettext("problems"))): list(_problems(order)),
        heading(Note): several(order.notes.order_by("pk"), "at", "text"),
        heading(CardReveal): [
            {str(capfirst(gettext("card"))): reveal.card.position}
            | described(reveal, "at", "reason")
            for reveal in reveals
        ],
    }
    for keeper in keepers():
        parts |= keeper.describe(order)
    return described(order, *_ORDER) | {name: rows for name, rows in parts.items() if rows}


def _change(change: StatusChange) -> Described:
    texts = [_text(entry) for entry in change.details]
    found = described(change, "at", "to_status")
    return found | ({str(capfirst(gettext("details"))): texts} if texts else {})


def _problems(order: Order) -> Iterator[str]:
    for entry in order.problems:
        yield _text(entry)


def _text(entry: dict[str, Any]) -> str:
    problem = Problem.of(entry)
    names = {name: "…" for name in ("by",) if name in problem.parameters}
    return Problem(problem.code, {**problem.parameters, **names}).explain(shows_costs=False).text
