from __future__ import annotations

import errno
import signal
import threading
import time
from argparse import ArgumentTypeError
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from django.core.management.base import CommandError

from giftcards.management.output import ConsoleCommand, OutputClosed
from giftcards.models.fields import read_amount
from giftcards.simulator import LEDGER_ODDITIES, SPECIAL_TYPES, Request, Simulator

if TYPE_CHECKING:
    from argparse import ArgumentParser


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
        add = parser.add_argument
        add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        add("--port", type=int, default=8378, help="0 takes a free one (default: %(default)s)")
        add(
            "--key",
            dest="keys",
            metavar="KEY",
            action="append",
            default=[],
            help="accept this API key, may be repeated (default: every key is accepted)",
        )
        add(
            "--key-type",
            choices=["SANDBOX", "PRODUCTION"],
            default="SANDBOX",
            help="what /v3/validate says of the key (default: %(default)s)",
        )
        add("--balance", type=_amount, default="1000000", help="in dinar (default: %(default)s)")
        add(
            "--price-factor",
            type=_factor,
            default="1",
            metavar="FACTOR",
            help="multiply every price by this (default: %(default)s)",
        )
        seconds = partial(add, type=float, metavar="SECONDS")
        seconds("--min-delay", default=3, help="least time to settle (default: %(default)s)")
        seconds("--max-delay", default=45, help="most time to settle (default: %(default)s)")
        seconds(
            "--slow-delay", default=360, help="time to settle of SIM_SLOW (default: %(default)s)"
        )
        count = partial(add, type=int, metavar="N")
        count(
            "--rate-limit", default=60, help="requests a minute; 0: no limit (default: %(default)s)"
        )
        count(
            "--lockout", default=5, help="wrong keys until a block; 0: none (default: %(default)s)"
        )
        seconds("--lockout-time", default=900, help="length of the block (default: %(default)s)")
        add(
            "--spelling",
            choices=["both", "check-order", "checkOrder"],
            default="both",
            help="which path of the order check exists (default: %(default)s)",
        )
        add(
            "--no-list",
            action="store_true",
            help="do not know /v3/gift-cards/list (default: know it)",
        )
        add(
            "--unlisted-test-types",
            action="store_true",
            help="leave TEST_REFUND and TEST_PARTIAL out of a product's types (default: list them)",
        )
        add(
            "--repeat-codes",
            action="store_true",
            help="the same codes in every order (default: codes of its own)",
        )
        add(
            "--shifted-ids",
            action="store_true",
            help="show an _id that is not the order's id (default: the id)",
        )
        add(
            "--ledger-oddities",
            type=_names,
            default="",
            metavar="NAMES",
            help=f"what the ledger is like: {', '.join(LEDGER_ODDITIES)}, with commas between "
            "(default: as documented)",
        )
        seconds(
            "--ledger-delay",
            default=60,
            help="time until entries show that are late (default: %(default)s)",
        )

    def handle(
        self,
        *,
        host: str,
        port: int,
        keys: list[str],
        key_type: Literal["SANDBOX", "PRODUCTION"],
        balance: Decimal,
        price_factor: Decimal,
        min_delay: float,
        max_delay: float,
        slow_delay: float,
        rate_limit: int,
        lockout: int,
        lockout_time: float,
        spelling: Literal["both", "check-order", "checkOrder"],
        no_list: bool,
        unlisted_test_types: bool,
        repeat_codes: bool,
        shifted_ids: bool,
        ledger_oddities: list[str],
        ledger_delay: float,
        verbosity: int,
        **_: Any,
    ) -> None:
        # Set SIGINT, too: a shell that starts this in the background has it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            try:
                simulator = Simulator(
                    host=host,
                    port=port,
                    opening_balance=balance,
                    price_factor=price_factor,
                    keys=keys,
                    key_type=key_type,
                    delay=(min_delay, max_delay),
                    slow_delay=slow_delay,
                    rate_limit=rate_limit,
                    lockout=lockout,
                    lockout_time=lockout_time,
                    spelling=spelling,
                    has_list=not no_list,
                    lists_test_types=not unlisted_test_types,
                    repeat_codes=repeat_codes,
                    shifted_ids=shifted_ids,
                    ledger_oddities=ledger_oddities,
                    ledger_delay=ledger_delay,
                    on_request=self._log if verbosity else None,
                ).start()
            except ValueError as error:
                raise CommandError(str(error), returncode=2) from error
            except OSError as error:
                reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
                message = f"Cannot listen on {host}:{port}: {reason}."
                raise CommandError(message, returncode=2) from error
            try:
                if verbosity:
                    self._greet(simulator)
                self._output_closed.wait()
                raise OutputClosed
            finally:
                simulator.stop()

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
