"""What the commands have in common: exit codes, ``--json``, and what they need to start."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from giftcards.conf import conf, require
from giftcards.exceptions import ConfigurationError, GiftcardsError
from giftcards.models import Order
from giftcards.refunds import RefundBreakdown, refund_breakdown
from giftcards.statuses import Status

UNFINISHED = 1
COULD_NOT_START = 2

# Everything that placing and following read.
WORKING_SETTINGS = (
    "API_KEY",
    "BASE_URL",
    "CURRENCY",
    "ENCRYPTION_KEYS",
    "LATE_WATCH_HOURS",
    "POLL_INTERVAL",
    "POLL_TIMEOUT",
    "PROOF_OF_ABSENCE",
    "REQUESTS_PER_MINUTE",
    "REQUEST_TIMEOUT",
    "SEND_TIMEOUT",
)


class GiftcardsCommand(BaseCommand):
    """Exit code 0: done. 1: something failed or is unfinished. 2: it could not start.

    ``needs`` names the settings without which the command cannot work; they are checked here, with
    one sentence, instead of by the system checks. So is the database, before anything is begun:
    once it is, a failure is never taken for "nothing happened".
    """

    requires_system_checks = ()
    needs: ClassVar[Sequence[str]] = ()
    has_json: ClassVar[bool] = True
    has_database: ClassVar[bool] = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        if self.has_json:
            parser.add_argument("--json", action="store_true", help="Print the result as JSON.")

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            if self.needs:
                require(*self.needs)
            if self.has_database:
                _probe_database()
        except ConfigurationError as error:
            raise refuse(str(error)) from None
        except Error as error:
            raise CommandError(
                f"The database did not work ({type(error).__name__}). Is it running, and has"
                " `manage.py migrate` been run?",
                returncode=COULD_NOT_START,
            ) from error
        try:
            return super().execute(*args, **options)
        except ConfigurationError as error:
            raise refuse(str(error)) from None
        except Error as error:
            raise database_failure(
                error,
                "What the command had begun may be half done."
                " `manage.py giftcards_status` shows how things are.",
            ) from error

    def say(self, text: str, options: dict[str, Any]) -> None:
        """Print for a person: not with ``-v0``, nor where a machine is to read JSON."""
        if options["verbosity"] > 0 and not options.get("json"):
            self.stdout.write(text)

    def write_json(self, result: Any) -> None:
        self.stdout.write(json.dumps(result, indent=2))


def _probe_database() -> None:
    """Read a row of every table, with all its columns: is the database there, and migrated?"""
    for model in apps.get_app_config("giftcards").get_models():
        model._default_manager.order_by("pk").first()  # noqa: SLF001


def database_failure(error: Error, what_now: str) -> CommandError:
    """The error for a database that failed after the command had begun its work."""
    return CommandError(
        f"The database failed ({type(error).__name__}). {what_now}", returncode=UNFINISHED
    )


def refuse(reason: str) -> CommandError:
    """The error for a mistake of the person at the keyboard: nothing was started."""
    return CommandError(reason, returncode=COULD_NOT_START)


def sentences(error: ValidationError | GiftcardsError) -> str:
    """The text of an error as one line, naming the arguments it is about."""
    if isinstance(error, ValidationError) and hasattr(error, "error_dict"):
        return " ".join(
            f"{name}: {message}"
            for name, messages in error.message_dict.items()
            for message in messages
        )
    return str(error)


def find_order(reference: str) -> Order:
    order = Order.objects.filter(reference=reference).first()
    if order is None:
        raise refuse(
            f"There is no order {reference!r}. `manage.py giftcards_status` counts the orders;"
            " the admin lists them."
        )
    return order


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else f"{amount:.2f}"


def order_as_dict(order: Order) -> dict[str, Any]:
    """What ``--json`` prints of an order: amounts are texts with two decimals, times ISO 8601."""
    breakdown = refund_breakdown(order)
    return {
        "reference": order.reference,
        "provider_order_id": order.provider_order_id,
        "status": order.status,
        "is_final": order.is_final,
        "product_id": order.product_id,
        "type_id": order.type_id,
        "quantity": order.quantity,
        "fulfilled_quantity": order.fulfilled_quantity,
        "price_per_card": _amount(order.price_per_card),
        "fulfilled_amount": _amount(order.fulfilled_amount),
        "cards": order.cards.count(),
        "refund": None if breakdown is None else _breakdown_as_dict(breakdown),
        "created_at": order.created_at.isoformat(),
        "settled_at": None if order.settled_at is None else order.settled_at.isoformat(),
    }


def _breakdown_as_dict(breakdown: RefundBreakdown) -> dict[str, Any]:
    return {
        "ordered_amount": _amount(breakdown.ordered_amount),
        "charged_amount": _amount(breakdown.charged_amount),
        "refunded_quantity": breakdown.refunded_quantity,
        "refunded_amount": _amount(breakdown.refunded_amount),
        "is_consistent": breakdown.is_consistent,
    }


def describe(order: Order) -> str:
    """The order for a person at a terminal, with its refund breakdown."""
    currency = conf.currency
    lines = [
        f"Order {order.reference}",
        f"  status      {order.status}",
        f"  provider    {order.provider_order_id or 'has not named it'}",
        f"  line        {order.quantity} × {order.type_id} ({order.product_id})",
        f"  delivered   {order.fulfilled_quantity} of {order.quantity}",
        f"  cards       {order.cards.count()} stored, encrypted",
    ]
    if breakdown := refund_breakdown(order):
        lines += ["  refund breakdown"]
        lines += [
            f"    {label:<10}{'unknown' if amount is None else f'{amount:.2f} {currency}'}"
            for label, amount in (
                ("ordered", breakdown.ordered_amount),
                ("charged", breakdown.charged_amount),
                ("refunded", breakdown.refunded_amount),
            )
        ]
        if not breakdown.is_consistent:
            lines += ["    The provider's figures contradict each other."]
    if order.problem:
        lines += [f"  attention   {order.problem}"]
    elif order.status == Status.REJECTED and (last := order.changes.last()):
        lines += [f"  refused     {last.detail}"]
    return "\n".join(lines)
