from __future__ import annotations

import errno
import signal
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from django.core.management.base import CommandError

from giftcards.management.output import ConsoleCommand, OutputClosed
from giftcards.simulator import (
    LEDGER_ODDITIES,
    SPECIAL_TYPES,
    OfferChange,
    Request,
    Shortfall,
    Simulator,
)
from giftcards.text.display import read_amount

_SECONDS = {"type": float, "metavar": "SECONDS"}
_COUNT = {"type": int, "metavar": "N"}
_DEFAULTS = {field.name: field.default for field in fields(Simulator)}


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _factor(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError(f"{text!r} is not a number") from None


def _amount(text: str) -> Decimal:
    amount = read_amount(text)
    if amount is None:
        raise ArgumentTypeError(f"{text!r} is not an amount in dinar")
    return amount


def _offer_change(after: str, type_id: str, field: str, value: str) -> OfferChange:
    with suppress(ValueError, InvalidOperation):
        match field:
            case "price":
                return OfferChange(float(after), type_id, price=Decimal(value))
            case "stock":
                return OfferChange(float(after), type_id, stock=int(value))
    given = " ".join((after, type_id, field, value))
    raise ValueError(f"--offer-change is not valid: {given}")


def _shortfall(type_id: str, quantity: str, delivered: str) -> Shortfall:
    with suppress(ValueError):
        return Shortfall(type_id, int(quantity), int(delivered))
    raise ValueError(f"--shortfall is not valid: {type_id} {quantity} {delivered}")


def _add(parser: ArgumentParser, flag: str, name: str, text: str, **more: Any) -> None:
    if "(default: " not in text:
        text += " (default: %(default)s)"
    parser.add_argument(flag, dest=name, help=text, **{"default": _DEFAULTS.get(name), **more})


class Command(ConsoleCommand):
    help = (
        "Run a simulator of the provider, for development and tests. The simulator"
        " works without settings and without a database. When you stop the simulator"
        " with Ctrl-C, it loses all its data."
    )
    examples = (
        ("Use the default port:", ""),
        ("Settle every order immediately:", "--min-delay 0 --max-delay 0"),
        ("Refuse the API key:", "--key another-key"),
        ("Make a card sold out after a minute:", "--offer-change 60 type_001 stock 0"),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        keys = "accept this API key; can be repeated (default: accept every key)"
        environments = ["SANDBOX", "PRODUCTION"]
        spellings = ["both", "check-order", "checkOrder"]
        oddities = (
            f"how the ledger differs from the documentation: {', '.join(LEDGER_ODDITIES)},"
            " separated by commas (default: as documented)"
        )
        on, off = {"action": "store_true"}, {"action": "store_false"}
        add = partial(_add, parser)
        add("--host", "host", "address to listen on")
        add("--port", "port", "0 selects a free port", type=int, default=8378)
        add("--key", "keys", keys, metavar="KEY", action="append", default=[])
        add(
            "--key-type",
            "key_type",
            "type of the key that /v3/validate returns",
            choices=environments,
        )
        add("--balance", "opening_balance", "in dinar", type=_amount, metavar="BALANCE")
        add(
            "--price-factor",
            "price_factor",
            "multiply every price by this",
            type=_factor,
            metavar="FACTOR",
        )
        add(
            "--offer-change",
            "offer_changes",
            "after SECONDS, change the price or stock (WHAT) of the TYPE; can be repeated"
            " (default: no changes)",
            nargs=4,
            metavar=("SECONDS", "TYPE", "WHAT", "VALUE"),
            action="append",
            default=[],
        )
        add(
            "--shortfall",
            "shortfalls",
            "for the first order of QUANTITY cards of the TYPE, deliver only this many cards;"
            " can be repeated (default: deliver all)",
            nargs=3,
            metavar=("TYPE", "QUANTITY", "DELIVERED"),
            action="append",
            default=[],
        )
        add("--min-delay", "least_delay", "minimum time to settle", **_SECONDS, default=3)
        add("--max-delay", "most_delay", "maximum time to settle", **_SECONDS, default=45)
        add("--slow-delay", "slow_delay", "time to settle for SIM_SLOW", **_SECONDS)
        add("--rate-limit", "rate_limit", "requests per minute; 0: no limit", **_COUNT)
        add("--lockout", "lockout", "wrong keys before the address is blocked; 0: never", **_COUNT)
        add("--lockout-time", "lockout_time", "length of the block", **_SECONDS)
        add(
            "--spelling",
            "spelling",
            "spelling of the order check's path that the simulator accepts",
            choices=spellings,
        )
        add("--list-delay", "list_delay", "time until the list shows an order", **_SECONDS)
        add(
            "--references",
            "references",
            "what happens to the `ref` of a purchase: it is ignored (`ignored`), returned"
            " (`told`), returned in part (`cut`), or returned and refused if it is repeated"
            " (`unique`); or the purchase is refused (`refused`)",
            choices=["ignored", "told", "cut", "unique", "refused"],
            metavar="WHAT",
        )
        add("--no-list", "has_list", "do not offer /v3/gift-cards/list (default: offer it)", **off)
        add(
            "--unlisted-test-types",
            "lists_test_types",
            "leave TEST_REFUND and TEST_PARTIAL out of a product's types (default: list them)",
            **off,
        )
        add(
            "--repeat-codes",
            "repeat_codes",
            "deliver the same codes in every order (default: different codes)",
            **on,
        )
        add(
            "--shifted-ids",
            "shifted_ids",
            "show an _id that differs from the order's id (default: the same id)",
            **on,
        )
        add(
            "--ledger-oddities",
            "ledger_oddities",
            oddities,
            type=_names,
            metavar="NAMES",
            default="",
        )
        add("--ledger-delay", "ledger_delay", "time until late entries appear", **_SECONDS)

    def handle(self, *, verbosity: int, **options: Any) -> None:
        self._output_closed = threading.Event()
        # A shell makes a background command ignore SIGINT, so SIGINT gets its usual handler back.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            simulator = self._start(options, verbosity)
            try:
                if verbosity:
                    self._greet(simulator)
                self._output_closed.wait()
                raise OutputClosed
            finally:
                simulator.stop()

    def _start(self, options: dict[str, Any], verbosity: int) -> Simulator:
        values = {name: value for name, value in options.items() if name in _DEFAULTS}
        delay = options["least_delay"], options["most_delay"]
        on_request = self._log if verbosity else None
        try:
            values["offer_changes"] = [_offer_change(*words) for words in options["offer_changes"]]
            values["shortfalls"] = [_shortfall(*words) for words in options["shortfalls"]]
            return Simulator(**values, delay=delay, on_request=on_request).start()
        except ValueError as error:
            raise CommandError(str(error), returncode=2) from error
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            message = f"Cannot listen on {values['host']}:{values['port']}: {reason}."
            raise CommandError(message, returncode=2) from error

    def _greet(self, simulator: Simulator) -> None:
        key = "one of the keys given with --key" if simulator.keys else "any-text"
        special = "\n".join(f"  {name:<13} {s.summary}" for name, s in SPECIAL_TYPES.items())
        self.put(
            f"The simulator listens on {simulator.url}. Ctrl+C stops it.\n\n"
            f'  GIFTCARDS["BASE_URL"] = "{simulator.url}"\n'
            f'  GIFTCARDS["API_KEY"] = "{key}"\n\n'
            f"Every product also has these types:\n\n{special}\n"
        )

    def _log(self, request: Request) -> None:
        # A path comes from outside; its control characters could manipulate the terminal.
        path = "".join(c if c.isprintable() else "?" for c in request.path)
        status = request.status or "closed"
        try:
            self.put(f"{time.strftime('%H:%M:%S')} {request.method} {path} {status}")
        except OutputClosed:
            # This method runs in the thread of a request; only the main thread can end the command.
            self._output_closed.set()
