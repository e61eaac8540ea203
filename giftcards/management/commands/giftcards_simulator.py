from __future__ import annotations

import errno
import signal
import threading
import time
from argparse import ArgumentTypeError
from contextlib import suppress
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandError

from giftcards.management.output import ConsoleCommand, OutputClosed
from giftcards.models.fields import read_amount
from giftcards.simulator import LEDGER_ODDITIES, SPECIAL_TYPES, Request, Simulator

if TYPE_CHECKING:
    from argparse import ArgumentParser


_SECONDS = {"type": float, "metavar": "SECONDS"}
_COUNT = {"type": int, "metavar": "N"}


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


# The options of the command, by the attribute of the simulator that each one sets. An option
# without a default has that of the attribute.
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "host": ("--host", {"help": "address to listen on"}),
    "port": ("--port", {"type": int, "default": 8378, "help": "0 takes a free one"}),
    "keys": (
        "--key",
        {
            "metavar": "KEY",
            "action": "append",
            "default": [],
            "help": "accept this API key, may be repeated (default: every key is accepted)",
        },
    ),
    "key_type": (
        "--key-type",
        {"choices": ["SANDBOX", "PRODUCTION"], "help": "what /v3/validate says of the key"},
    ),
    "opening_balance": (
        "--balance",
        {"type": _amount, "metavar": "BALANCE", "help": "in dinar"},
    ),
    "price_factor": (
        "--price-factor",
        {"type": _factor, "metavar": "FACTOR", "help": "multiply every price by this"},
    ),
    "least_delay": ("--min-delay", {**_SECONDS, "default": 3, "help": "least time to settle"}),
    "most_delay": ("--max-delay", {**_SECONDS, "default": 45, "help": "most time to settle"}),
    "slow_delay": ("--slow-delay", {**_SECONDS, "help": "time to settle of SIM_SLOW"}),
    "rate_limit": ("--rate-limit", {**_COUNT, "help": "requests a minute; 0: no limit"}),
    "lockout": ("--lockout", {**_COUNT, "help": "wrong keys until a block; 0: none"}),
    "lockout_time": ("--lockout-time", {**_SECONDS, "help": "length of the block"}),
    "spelling": (
        "--spelling",
        {
            "choices": ["both", "check-order", "checkOrder"],
            "help": "which path of the order check exists",
        },
    ),
    "has_list": (
        "--no-list",
        {
            "action": "store_false",
            "help": "do not know /v3/gift-cards/list (default: know it)",
        },
    ),
    "lists_test_types": (
        "--unlisted-test-types",
        {
            "action": "store_false",
            "help": "leave TEST_REFUND and TEST_PARTIAL out of a product's types"
            " (default: list them)",
        },
    ),
    "repeat_codes": (
        "--repeat-codes",
        {
            "action": "store_true",
            "help": "the same codes in every order (default: codes of its own)",
        },
    ),
    "shifted_ids": (
        "--shifted-ids",
        {
            "action": "store_true",
            "help": "show an _id that is not the order's id (default: the id)",
        },
    ),
    "ledger_oddities": (
        "--ledger-oddities",
        {
            "type": _names,
            "default": "",
            "metavar": "NAMES",
            "help": f"what the ledger is like: {', '.join(LEDGER_ODDITIES)}, with commas between "
            "(default: as documented)",
        },
    ),
    "ledger_delay": (
        "--ledger-delay",
        {**_SECONDS, "help": "time until entries show that are late"},
    ),
}


class Command(ConsoleCommand):
    help = (
        "Runs a stand-in for the gift-card provider, for development and tests. It needs no "
        "settings and no database, and forgets everything when it stops (Ctrl+C)."
    )
    examples = (
        ("On the usual port:", ""),
        ("Every order settles at once:", "--min-delay 0 --max-delay 0"),
        ("A provider that refuses the key:", "--key another-key"),
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        defaults = {field.name: field.default for field in fields(Simulator)}
        for name, (flag, option) in _OPTIONS.items():
            option = {"default": defaults.get(name), **option, "dest": name}
            if "(default: " not in option["help"]:
                option["help"] += " (default: %(default)s)"
            parser.add_argument(flag, **option)

    def handle(self, *, verbosity: int, **options: Any) -> None:
        # SIGINT, too: a shell makes commands in the background ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            simulator = self._start({name: options[name] for name in _OPTIONS}, verbosity)
            try:
                if verbosity:
                    self._greet(simulator)
                self._output_closed.wait()
                raise OutputClosed
            finally:
                simulator.stop()

    def _start(self, values: dict[str, Any], verbosity: int) -> Simulator:
        delay = values.pop("least_delay"), values.pop("most_delay")
        on_request = self._log if verbosity else None
        try:
            return Simulator(**values, delay=delay, on_request=on_request).start()
        except ValueError as error:
            raise CommandError(str(error), returncode=2) from error
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            message = f"Cannot listen on {values['host']}:{values['port']}: {reason}."
            raise CommandError(message, returncode=2) from error

    @cached_property
    def _output_closed(self) -> threading.Event:
        return threading.Event()

    def _greet(self, simulator: Simulator) -> None:
        key = "one of those given with --key" if simulator.keys else "any-text"
        special = "\n".join(f"  {name:<13} {s.summary}" for name, s in SPECIAL_TYPES.items())
        self.put(
            f"The simulator listens on {simulator.url}. Ctrl+C stops it.\n\n"
            f'  GIFTCARDS["BASE_URL"] = "{simulator.url}"\n'
            f'  GIFTCARDS["API_KEY"] = "{key}"\n\n'
            f"Types that any product also has:\n\n{special}\n"
        )

    def _log(self, request: Request) -> None:
        # The path is untrusted: control characters in it could manipulate the terminal.
        path = "".join(c if c.isprintable() else "?" for c in request.path)
        status = request.status or "closed"
        try:
            self.put(f"{time.strftime('%H:%M:%S')} {request.method} {path} {status}")
        except OutputClosed:
            # This is the thread of a request; the main one ends the command.
            self._output_closed.set()
