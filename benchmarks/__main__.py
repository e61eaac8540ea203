"""Runs the benchmarks: ``python -m benchmarks [--quick]``, or one: ``… following 100 app``.

Each runs in processes and on databases of its own, which are removed afterwards; one alone runs on
``DATABASE_URL`` where that is set. What ``pipeline`` takes: ``… pipeline --help``. ``upkeep`` runs
only alone: it takes five minutes.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

PARTS = (
    "following",
    "pipeline",
    "backlog",
    "recording",
    "queries",
    "memory",
    "history",
    "shelf",
    "pricing",
    "reports",
    "links",
    "keys",
    "upkeep",
    "journeys",
)
POSTGRES = os.environ.get("BENCH_POSTGRES", "postgres://root@127.0.0.1:5432/postgres")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="the only one, with its arguments")
    parser.add_argument("--quick", action="store_true", help="two minutes in all, coarser figures")
    options, args = parser.parse_known_args()
    if options.part and "DATABASE_URL" in os.environ:
        run(options.part, args, is_quick=options.quick)
    elif options.part:
        flags = ["--quick"] if options.quick else []
        with tempfile.TemporaryDirectory(prefix="giftcards-bench-") as folder:
            sys.exit(start(folder, options.part, *args, *flags).wait())
    elif args:
        parser.error(f"unknown: {' '.join(args)}")
    else:
        run_all(is_quick=options.quick)


def run(part: str, args: list[str], *, is_quick: bool) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.core.management import call_command

    django.setup()
    for name in ("giftcards", "django-q"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    call_command("migrate", verbosity=0)
    importlib.import_module(f"benchmarks.{part}").run(*args, is_quick=is_quick)


def run_all(*, is_quick: bool) -> None:
    started_at = time.monotonic()
    flags = ["--quick"] if is_quick else []
    with tempfile.TemporaryDirectory(prefix="giftcards-bench-") as folder:
        say("Requests and delay; the limit is 60 a minute in the sandbox, 120 in production")
        # They wait most of the time, so they run side by side.
        runs: list[tuple[str, ...]] = [("10", "seed"), ("10", "app"), ("100", "app")]
        if not is_quick:
            runs += [("1000", "app"), ("1000", "app", "120")]
        together = [start(folder, "following", *args, *flags) for args in runs]
        for process in together:
            process.wait()
        if not is_quick:
            say("  the seed's loop with 100 and 1,000 orders: 1,200 and 12,000 requests a minute,")
            say("  computed (12 a minute and order)")
        say("\nOrders that come evenly, sent and followed by a process of their own")
        rates = [("97", "120")] if is_quick else [("97", "120"), ("43", "60")]
        together = [
            start(folder, "pipeline", "--rate", rate, "--limit", limit, *flags)
            for rate, limit in rates
        ]
        for process in together:
            process.wait()
        say("\nCodes while thousands of orders wait to be sent")
        limits = ["120"] if is_quick else ["120", "60"]
        together = [start(folder, "backlog", "--limit", limit, *flags) for limit in limits]
        for process in together:
            process.wait()
        say("\nOrders settled in a second, encryption included")
        start(folder, "recording", "sqlite", *flags).wait()
        with_postgres(folder, "recording", flags)
        say("\nQueries in one sweep over unchanged orders")
        start(folder, "queries", *flags).wait()
        say("\nMemory of a process that settles orders")
        start(folder, "memory", *flags).wait()
        say("\nWhat a history of orders costs")
        start(folder, "history", "sqlite", *flags).wait()
        with_postgres(folder, "history", flags)
        say("\nThe shelf while many buy")
        start(folder, "shelf", "sqlite", *flags).wait()
        with_postgres(folder, "shelf", flags)
        say("\nA report of a month, and its orders as a file")
        start(folder, "reports", "sqlite", *flags).wait()
        with_postgres(folder, "reports", flags)
        say("\nLinks to cards: right ones, wrong ones, and one to many cards")
        start(folder, "links", *flags).wait()
        say("\nSealing all cards anew, opening them, destroying their codes")
        start(folder, "keys", *flags).wait()
        with_postgres(folder, "keys", flags)
        say("\nThe way through the code of four journeys")
        start(folder, "journeys", *flags).wait()
    say(f"\n{time.monotonic() - started_at:.0f} s in all.")


def start(
    folder: str, part: str, *args: str, database: str | None = None
) -> subprocess.Popen[bytes]:
    url = database or f"sqlite:///{Path(folder, uuid.uuid4().hex)}.sqlite3"
    command = [sys.executable, "-m", "benchmarks", part, *args]
    return subprocess.Popen(command, env={**os.environ, "DATABASE_URL": url})


def with_postgres(folder: str, part: str, flags: list[str]) -> None:
    try:
        import psycopg

        server = psycopg.connect(
            POSTGRES.replace("postgres://", "postgresql://"), autocommit=True, connect_timeout=3
        )
    except (ImportError, psycopg.OperationalError):
        say("  PostgreSQL: skipped, there is none at BENCH_POSTGRES")
        return
    name = f"giftcards_bench_{uuid.uuid4().hex[:8]}"
    with server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            url = f"{POSTGRES.rpartition('/')[0]}/{name}"
            start(folder, part, "postgresql", *flags, database=url).wait()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
