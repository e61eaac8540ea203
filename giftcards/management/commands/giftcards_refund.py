from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import translation

from giftcards.conf import CURRENCY
from giftcards.exceptions import RefundError
from giftcards.management.base import (
    GiftcardsCommand,
    customer_as_dict,
    describe_customer,
    find_order,
    refund_as_dict,
    refuse,
    sentences,
    typed_amount,
    unfinished,
)
from giftcards.models import CustomerRefund, Order
from giftcards.settlement import cancel_refund, record_refund

_STATES: Mapping[str, str] = {
    CustomerRefund.State.DONE: "is paid back",
    CustomerRefund.State.CANCELLED: "was cancelled",
}


class Command(GiftcardsCommand):
    help = (
        "Record a refund that your shop paid to the customer of an order for undelivered"
        " cards. The command does not move any money. A second call with the same"
        " --payment-reference does not record a second refund."
    )
    notes = (
        "An amount consists of the digits 0 to 9 and an optional decimal point, for example"
        " 549.90.",
        "Exit code 1 means that the refund cannot be recorded, for example because it is"
        " more than you still owe.",
    )
    examples = (
        (
            "Record a bank transfer of 550 dinars:",
            "cart-1042 550 --payment-reference VIR-88",
        ),
        (
            "Cancel the refund, because the transfer was returned:",
            "cart-1042 --payment-reference VIR-88 --cancel",
        ),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("order", metavar="ORDER", help="The reference of the order.")
        parser.add_argument(
            "amount",
            metavar="AMOUNT",
            nargs="?",
            help="The amount. It is optional with --cancel (default: the whole refund).",
        )
        parser.add_argument(
            "--payment-reference",
            metavar="NUMBER",
            required=True,
            help="The number of the payment, unique within the order.",
        )
        parser.add_argument(
            "--method",
            default="",
            help="How the customer was paid, for example by bank transfer (default: not recorded).",
        )
        parser.add_argument(
            "--comment",
            default="",
            help="A comment for your colleagues. With --cancel, the reason (default: none).",
        )
        parser.add_argument(
            "--by",
            default="",
            help="The name of the person who paid the refund (default: not recorded).",
        )
        parser.add_argument(
            "--cancel",
            action="store_true",
            help="Cancel the refund, so that you owe its amount again (default: record it).",
        )

    def handle(self, **options: Any) -> None:
        order = find_order(options["order"])
        try:
            with translation.override(None):
                refund = _cancel(order, options) if options["cancel"] else _record(order, options)
        except ValidationError as error:
            raise refuse(sentences(error)) from None
        except RefundError as error:
            raise unfinished(str(error)) from None
        order = refund.order
        customer = customer_as_dict(order)
        result = {
            "order": order.reference,
            "has_changed": refund.has_changed,
            "refund": refund_as_dict(refund),
            "customer": customer,
        }
        text = "\n".join([_told(refund), *describe_customer(order, customer)])
        self.show(result, text, options)


def _record(order: Order, options: dict[str, Any]) -> CustomerRefund:
    if options["amount"] is None:
        raise refuse("Enter the amount that was paid back after the order's reference.")
    return record_refund(
        order,
        amount=typed_amount("amount", options["amount"]),
        reference=options["payment_reference"],
        method=options["method"],
        by=options["by"],
        comment=options["comment"],
        source=CustomerRefund.Source.COMMAND,
    )


def _cancel(order: Order, options: dict[str, Any]) -> CustomerRefund:
    if options["method"]:
        raise refuse("--method cannot be used with --cancel.")
    refund = order.refunds.filter(reference=options["payment_reference"].strip()).first()
    if refund is None:
        raise refuse(f"The order has no refund {options['payment_reference']!r}.")
    amount = options["amount"]
    if amount is not None and typed_amount("amount", amount) != refund.amount:
        raise refuse(f"The amount of this refund is {refund.amount:.2f}. Nothing was cancelled.")
    return cancel_refund(refund, by=options["by"], reason=options["comment"])


def _told(refund: CustomerRefund) -> str:
    already = "" if refund.has_changed else " (nothing changed)"
    amount = f"{refund.amount:.2f} {CURRENCY}"
    return f"Refund {refund.reference}: {amount} {_STATES[refund.state]}{already}."
