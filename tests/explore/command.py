"""Run random histories of a shop until the time is over or a few have ended badly.

With --deaths, processes die at each statement of chosen scenarios instead. With --planted, bugs are
put into copies of the project and have to be found.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

from tests.explore import planting
from tests.explore.simulation import monotonic

if TYPE_CHECKING:
    from tests.explore import histories

    Live = Callable[..., histories.Report]

# The search stops after this many bad histories.
_MOST_BAD = 3


def main() -> int:
    """Run what the arguments ask for; return 1 if something is wrong."""
    options = _parse()
    if options.planted is not None:
        how = {name: getattr(options, name) for name in ("seconds", "seed", "jobs", "database")}
        return planting.run(options.planted, **how)
    with tempfile.TemporaryDirectory(prefix="giftcards-explore-") as folder:
        os.environ["DATABASE_URL"] = options.database or f"sqlite:///{folder}/explored"
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.explore.settings"
    import django

    django.setup()
    if options.deaths is not None:
        return _die(options)
    first = SystemRandom().randrange(10**6) if options.seed is None else options.seed
    say(f"commit {_commit()}, seeds from {first}, on {_vendor()}")
    return _side_by_side(options, partial(_explore, first=first, options=options))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make explore", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, metavar="N", help="begin with this one")
    parser.add_argument("--histories", type=int, metavar="N", help="end after so many")
    parser.add_argument("--only", metavar="N,N", help="only these events, of one history")
    parser.add_argument("--trace", action="store_true", help="what happened in the history")
    parser.add_argument("--workers", type=int, default=2, help="of each shop (default: 2)")
    # One more than there are processors: a shop waits half of the time.
    jobs = (os.cpu_count() or 1) + 1
    parser.add_argument("--jobs", type=int, default=jobs, help="shops side by side")
    parser.add_argument("--database", metavar="URL", help="default: SQLite, a file for a time")
    parser.add_argument("--first", action="store_true", help="end with the first bad one")
    parser.add_argument("--deaths", nargs="*", metavar="SCENARIO", help="all, or these")
    parser.add_argument("--planted", nargs="*", metavar="NAME", help="all, or these")
    options = parser.parse_args()
    options.is_single = options.only is not None or options.trace
    options.events = options.only and [int(number) for number in options.only.split(",")]
    return options


def _side_by_side(options: argparse.Namespace, lane: Callable[[int], bool]) -> int:
    """Call ``lane`` with each number, in processes of their own; return 1 if one returns False."""
    context = multiprocessing.get_context("fork")
    count = 1 if options.is_single else options.jobs
    lanes = [context.Process(target=_exit, args=(lane, number)) for number in range(count)]
    for process in lanes:
        process.start()
    for process in lanes:
        process.join()
    return int(any(process.exitcode for process in lanes))


def _exit(lane: Callable[[int], bool], number: int) -> None:
    sys.exit(not lane(number))


def _explore(number: int, *, first: int, options: argparse.Namespace) -> bool:
    """Run one history after the other in one lane; return False if one ended badly."""
    from tests.explore import histories

    database = histories.Database(number)
    database.prepare()
    live = partial(histories.run, workers=options.workers, database=database)
    ends_at = monotonic() + options.seconds
    bad, figures = 0, Counter[str]()
    for seed in itertools.count(first + number, options.jobs):
        report = live(seed, options.events)
        figures += Counter(report.figures | {"histories": 1})
        say(f"{seed}  {report}")
        if options.trace:
            say("\n".join(report.trace))
        if report.violations:
            bad += 1
            _explain(report, live, options)
        is_last = options.is_single or seed - first + 1 >= (options.histories or sys.maxsize)
        is_enough = bad == (1 if options.first else _MOST_BAD)
        if is_last or is_enough or monotonic() > ends_at:
            break
    say(", ".join(f"{count:,} {name}" for name, count in figures.items()) + f"; {bad} bad")
    database.remove()
    return not bad


def _explain(report: histories.Report, live: Live, options: argparse.Namespace) -> None:
    """Show what is wrong, and the shortest history that shows it."""
    from tests.explore import histories

    _show(report)
    if not (options.is_single or options.first):
        report = histories.reduce(report, partial(live, report.seed))
        say("\nThe shortest history that was found with it:")
        say("\n".join(report.trace))
        _show(report)
    again = f"--seed {report.seed} --workers {options.workers} --trace"
    if report.only is not None:
        again += f" --only {','.join(map(str, report.only))}"
    say(f'Again: make explore ARGS="{again}"\n')


def _die(options: argparse.Namespace) -> int:
    from tests.explore import deaths

    names = options.deaths or list(deaths.SCENARIOS)
    say(f"commit {_commit()}, {len(names)} scenarios, on {_vendor()}")

    def lane(number: int) -> bool:
        ended = [deaths.try_all(name, number, say) for name in names[number :: options.jobs]]
        return all(ended)

    return _side_by_side(options, lane)


def _show(report: histories.Report) -> None:
    say("\n".join(f"  ! {each}" for each in report.violations))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def _vendor() -> str:
    from django.db import connection

    return connection.vendor


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
