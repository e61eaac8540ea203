from __future__ import annotations

import re
from argparse import ArgumentParser
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.db import Error

from giftcards.exceptions import ReferenceConflict
from giftcards.following import watch
from giftcards.fulfilment import record_order, send_now, wake_worker
from giftcards.gateway import Gateway
from giftcards.management.base import (
    UNFINISHED,
    WORKING_SETTINGS,
    GiftcardsCommand,
    database_failure,
    describe,
    order_as_dict,
    refuse,
    sentences,
)
from giftcards.models import Order, ProviderState
from giftcards.statuses import FOLLOWED, SETTLED


class Command(GiftcardsCommand):
    help = "Place an order and send it; with --wait, follow it until it settles."
    needs = WORKING_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("product", help="The product's id in the provider's catalogue.")
        parser.add_argument("type", help="The id of the type (denomination).")
        parser.add_argument("quantity", help="How many cards.")
        parser.add_argument("--reference", help="Your own unique name for the order.")
        parser.add_argument("--sale-price", help="What your customer pays for one card.")
        parser.add_argument("--email", default="", help="Your customer's e-mail address.")
        parser.add_argument("--wait", action="store_true", help="Follow the order to its end.")

    def handle(self, **options: Any) -> None:
        try:
            order = record_order(
                product_id=options["product"],
                type_id=options["type"],
                quantity=_whole_number(options["quantity"]),
                reference=options["reference"],
                sale_price=_amount(options["sale_price"]),
                customer_email=options["email"],
            )
        except (ValidationError, ReferenceConflict) as error:
            raise refuse(sentences(error)) from None
        try:
            self._send(order, options)
        except Error as error:
            # A script that took this for "nothing happened" would buy the cards a second time.
            raise database_failure(
                error,
                f"The order {order.reference} is recorded, and may have been sent: do not place"
                f" it again under another reference. `manage.py giftcards_status"
                f" {order.reference}` shows what became of it.",
            ) from error

    def _send(self, order: Order, options: dict[str, Any]) -> None:
        with Gateway() as gateway:
            order = send_now(order, gateway)
            if options["wait"]:
                for seen in watch(order, gateway):
                    order = seen
                    self.say(_progress(order), options)
        if not order.is_final:
            wake_worker()
        if options["json"]:
            self.write_json(order_as_dict(order))
        self.say(describe(order), options)
        if order.status not in (SETTLED if options["wait"] else SETTLED | FOLLOWED):
            raise CommandError(_unfinished(order), returncode=UNFINISHED)


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise refuse(
            f"quantity: {text!r} is not a whole number. Give the number of cards, as in 2."
        )
    return int(text)


def _amount(text: str | None) -> Decimal | None:
    if text is None:
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise refuse(
            f"sale_price: {text!r} is not an amount. Write it like 550 or 549.90."
        ) from None


def _progress(order: Order) -> str:
    return f"{order.status}: {order.fulfilled_quantity} of {order.quantity} cards delivered"


def _unfinished(order: Order) -> str:
    last = order.changes.last()
    why = order.problem or (last.detail if last else ProviderState.objects.current().explain())
    return f"The order {order.reference} is {order.status}. {why}".strip()
