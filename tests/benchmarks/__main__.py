"""Runs the benchmarks: ``python -m tests.benchmarks [--quick]``, or one: ``… following 100``.

Each runs in processes and on databases of its own, which are removed afterwards.
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

PARTS = ("following", "recording", "queries", "memory")
POSTGRES = os.environ.get("BENCH_POSTGRES", "postgres://root@127.0.0.1:5432/postgres")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="in this process, on DATABASE_URL")
    parser.add_argument("args", nargs="*", help="what the part takes")
    parser.add_argument("--quick", action="store_true", help="less than a minute, coarser figures")
    options = parser.parse_args()
    if options.part:
        run(options.part, options.args, is_quick=options.quick)
    else:
        run_all(is_quick=options.quick)


def run(part: str, args: list[str], *, is_quick: bool) -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django
    from django.core.management import call_command

    django.setup()
    logging.getLogger("giftcards").setLevel(logging.CRITICAL)
    call_command("migrate", verbosity=0)
    importlib.import_module(f"tests.benchmarks.{part}").run(*args, is_quick=is_quick)


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
        say("\nOrders settled in a second, encryption included")
        start(folder, "recording", "sqlite", *flags).wait()
        with_postgres(folder, flags)
        say("\nQueries in one sweep over unchanged orders")
        start(folder, "queries", *flags).wait()
        say("\nMemory of a process that settles orders")
        start(folder, "memory", *flags).wait()
    say(f"\n{time.monotonic() - started_at:.0f} s in all.")


def start(
    folder: str, part: str, *args: str, database: str | None = None
) -> subprocess.Popen[bytes]:
    url = database or f"sqlite:///{Path(folder, uuid.uuid4().hex)}.sqlite3"
    command = [sys.executable, "-m", "tests.benchmarks", part, *args]
    return subprocess.Popen(command, env={**os.environ, "DATABASE_URL": url})


def with_postgres(folder: str, flags: list[str]) -> None:
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
            start(folder, "recording", "postgresql", *flags, database=url).wait()
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
