from __future__ import annotations

import re
from argparse import ArgumentParser
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import Error
from django.utils import translation

from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import send_now
from giftcards.engine.sweep import watch
from giftcards.engine.task_queue import wake_worker
from giftcards.exceptions import ReferenceConflict
from giftcards.management.base import (
    PRODUCT,
    WORKING_SETTINGS,
    GiftcardsCommand,
    database_failure,
    provider_state,
    reason,
    refuse,
    sentences,
    standing,
    status_label,
    typed_amount,
    unfinished,
    what_it_waits_for,
)
from giftcards.management.output import OutputClosed, Progress
from giftcards.models import MAX_QUANTITY, Order, new_reference
from giftcards.rules.states import ACCEPTED, SETTLED


class Command(GiftcardsCommand):
    help = (
        "Place an order and send it to the provider. With --wait, the command follows"
        " the order until it settles. With a production API key, the order costs money."
    )
    notes = (
        "Exit code 0 means that the provider accepted the order or, with --wait, that the"
        " order has settled. Exit code 1 means that the order may exist. If you repeat the"
        " command, use the same --reference, so that the order is not bought twice. Exit"
        " code 2 also means that an order with this reference exists and has other values.",
    )
    examples = (
        ("Buy two cards, and wait for them:", f"{PRODUCT} type_001 2 --wait"),
        (
            "Buy one card, and record what the customer pays for it:",
            f"{PRODUCT} type_001 1 --sale-price 550",
        ),
    )
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("product", help="The id of the product in the provider's catalogue.")
        parser.add_argument("type", help="The id of the product type.")
        parser.add_argument("quantity", help=f"The number of cards, from 1 to {MAX_QUANTITY}.")
        parser.add_argument(
            "--reference",
            help="Your unique name for the order. Two calls with the same reference buy one order"
            " (default: a generated UUID).",
        )
        parser.add_argument(
            "--sale-price",
            help="The price that the customer pays for one card (default: not recorded).",
        )
        parser.add_argument(
            "--max-price",
            help="The price limit. If a card costs more, the order is put on hold until staff"
            " decide (default: the sale price).",
        )
        parser.add_argument(
            "--email", default="", help="The customer's e-mail address (default: none)."
        )
        parser.add_argument(
            "--wait",
            action="store_true",
            help="Follow the order until it settles, and show what it waits for (default: return"
            " when the provider has accepted the order).",
        )

    def handle(self, **options: Any) -> None:
        wanted = Order(
            product_id=options["product"],
            type_id=options["type"],
            quantity=_whole_number(options["quantity"]),
            reference=new_reference() if options["reference"] is None else options["reference"],
            sale_price=_amount("sale_price", options),
            max_price=_amount("max_price", options),
            customer_email=options["email"],
        )
        try:
            with translation.override(None):  # a conflict is reported in English
                order = Order.objects.record(wanted)
        except (ValidationError, ReferenceConflict) as error:
            raise refuse(sentences(error)) from None
        try:
            self._send(order, options)
        except Error as error:
            # The message must say that the order may have been sent. Otherwise, people would buy
            # the cards again.
            raise database_failure(
                error,
                f"The order {order.reference} was recorded and may have been sent. Do not place"
                " it again with another reference. `manage.py giftcards_status"
                f" {order.reference}` shows what happened to the order.",
            ) from error

    def _send(self, order: Order, options: dict[str, Any]) -> None:
        try:
            with Gateway() as gateway, self.progress(options) as progress:
                order = _follow(order, gateway, progress, wait=options["wait"])
        except (OutputClosed, KeyboardInterrupt):
            # The user no longer sees the output, but a worker continues with the order.
            wake_worker()
            raise
        if not (order.is_final or order.is_on_hold):
            wake_worker()
        self.show_order(order, options)
        if order.status not in (SETTLED if options["wait"] else ACCEPTED):
            raise unfinished(_why_unfinished(order))


def _follow(order: Order, gateway: Gateway, progress: Progress, *, wait: bool) -> Order:
    order = send_now(order, gateway, on_wait=lambda seen: _show(seen, progress, unless_short=True))
    if wait:
        _show(order, progress)
        for seen in watch(order, gateway):
            order = seen
            _show(order, progress)
    return order


def _show(order: Order, progress: Progress, *, unless_short: bool = False) -> None:
    delivered = f"{order.fulfilled_quantity} of {order.quantity} cards delivered"
    text = f"{status_label(order.status)}: {delivered}"
    if (wait := what_it_waits_for(order)) is None:
        progress.end(text)
    else:
        what, since = wait
        progress.show(f"{text}, {what}", since=since, unless_short=unless_short)


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise refuse(
            f"quantity: {text!r} is not a whole number. Enter the number of cards, for example 2."
        )
    return int(text)


def _amount(name: str, options: dict[str, Any]) -> Decimal | None:
    return None if options[name] is None else typed_amount(name, options[name])


def _why_unfinished(order: Order) -> str:
    # An order that was never sent may wait because calls to the provider are paused.
    has_reason = order.open_problems or order.changes.exists()
    why = reason(order) if has_reason else provider_state()
    return f"{standing(order)} {why}".strip()
