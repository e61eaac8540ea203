from __future__ import annotations

import errno
import signal
import threading
import time
from argparse import ArgumentTypeError
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from django.core.management.base import BaseCommand, CommandError

from giftcards.simulator import SPECIAL_TYPES, Request, Simulator

if TYPE_CHECKING:
    from argparse import ArgumentParser


class Command(BaseCommand):
    help = (
        "Runs a stand-in for the gift-card provider, for development and tests. It needs no "
        "settings and no database, and forgets everything when it stops (Ctrl+C)."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        add = parser.add_argument
        add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
        add("--port", type=int, default=8378, help="0 takes a free one (%(default)s)")
        add(
            "--key",
            dest="keys",
            metavar="KEY",
            action="append",
            default=[],
            help="accept this API key, may be repeated; without it, every key is accepted",
        )
        add(
            "--key-type",
            choices=["SANDBOX", "PRODUCTION"],
            default="SANDBOX",
            help="what /v3/validate says of the key (%(default)s)",
        )
        add("--balance", type=_amount, default="1000000", help="in dinar (%(default)s)")
        seconds = partial(add, type=float, metavar="SECONDS")
        seconds("--min-delay", default=3, help="least time to settle (%(default)s)")
        seconds("--max-delay", default=45, help="most time to settle (%(default)s)")
        seconds("--slow-delay", default=360, help="time to settle of SIM_SLOW (%(default)s)")
        count = partial(add, type=int, metavar="N")
        count("--rate-limit", default=60, help="requests a minute; 0: no limit (%(default)s)")
        count("--lockout", default=5, help="wrong keys until a block; 0: none (%(default)s)")
        seconds("--lockout-time", default=900, help="length of the block (%(default)s)")
        add(
            "--spelling",
            choices=["both", "check-order", "checkOrder"],
            default="both",
            help="which path of the order check exists (%(default)s)",
        )
        add("--no-list", action="store_true", help="do not know /v3/gift-cards/list")
        add("--repeat-codes", action="store_true", help="the same codes in every order")
        add("--shifted-ids", action="store_true", help="show an _id that is not the order's id")

    def handle(
        self,
        *,
        host: str,
        port: int,
        keys: list[str],
        key_type: Literal["SANDBOX", "PRODUCTION"],
        balance: Decimal,
        min_delay: float,
        max_delay: float,
        slow_delay: float,
        rate_limit: int,
        lockout: int,
        lockout_time: float,
        spelling: Literal["both", "check-order", "checkOrder"],
        no_list: bool,
        repeat_codes: bool,
        shifted_ids: bool,
        verbosity: int,
        **_: Any,
    ) -> None:
        # Both, and both explicitly: a shell that starts us in the background ignores SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            try:
                simulator = Simulator(
                    host=host,
                    port=port,
                    opening_balance=balance,
                    keys=keys,
                    key_type=key_type,
                    delay=(min_delay, max_delay),
                    slow_delay=slow_delay,
                    rate_limit=rate_limit,
                    lockout=lockout,
                    lockout_time=lockout_time,
                    spelling=spelling,
                    has_list=not no_list,
                    repeat_codes=repeat_codes,
                    shifted_ids=shifted_ids,
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
                threading.Event().wait()
            finally:
                simulator.stop()

    def _greet(self, simulator: Simulator) -> None:
        key = "one of those given with --key" if simulator.keys else "any-text"
        special = "\n".join(f"  {name:<13} {s.summary}" for name, s in SPECIAL_TYPES.items())
        self._print(
            f"The simulator listens on {simulator.url}. Ctrl+C stops it.\n\n"
            f'  GIFTCARDS["BASE_URL"] = "{simulator.url}"\n'
            f'  GIFTCARDS["API_KEY"] = "{key}"\n\n'
            f"Types that any product also has:\n\n{special}\n"
        )

    def _log(self, request: Request) -> None:
        # A path comes from outside: what is not printable could steer the terminal.
        path = "".join(c if c.isprintable() else "?" for c in request.path)
        status = request.status or "closed"
        self._print(f"{time.strftime('%H:%M:%S')} {request.method} {path} {status}")

    def _print(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


def _amount(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ArgumentTypeError(f"{text!r} is not an amount in dinar") from None
