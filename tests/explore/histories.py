"""Histories: drawn from a seed, run in a separate process, and reduced if they end badly."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import multiprocessing
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection, connections
from django.utils import timezone
from django_q.models import OrmQ

from giftcards.books.months import CHECKED, check_closed_month
from giftcards.delivery.models import OPEN, Delivery, Installation, StaffDigest
from giftcards.models import Order, StatusChange
from giftcards.privacy.retention import purge
from giftcards.statuses import FINAL
from tests.builders import make_offer
from tests.explore import shop as people
from tests.explore import simulation
from tests.explore.invariants import violations
from tests.explore.provider import LIES, SCARCE, STOCK, Provider
from tests.explore.shop import (
    ACTIONS,
    EVENTS,
    LINES,
    OTHER_KEY,
    THEMES,
    UNSEEN,
    Shop,
    cast,
    lie_now_and_then,
    use_key,
)

# How long people act, how long things go wrong, how long settling then takes at most, and how long
# an order that waits for a person may still settle by itself (seconds).
_BUSY, _LENGTH, _QUIET, _HOPE = 150.0, 330.0, 5_400.0, 1_200.0
# How long the shop uses the other account's key again, for orders sent with it (seconds).
_OTHER_KEY = 300.0
# Together, they show one order in the place of another, and the shop could not notice it.
_SWAP = ("placing: the id of another", "check: the answer about another")
# What providers may do with references.
_WAYS = ["ignored", "told", "cut", "cut", "unique", "refused"]
# The longest duration of a history (real seconds).
_PATIENCE = 300.0
# The highest number of rounds in which a history is made shorter.
_MOST_TRIES = 12


class Event(NamedTuple):
    """An event at a given moment, whose own seed decides its details."""

    number: int
    moment: float
    name: str
    seed: int


class Unfinished(Exception):
    """Work that has to end well when nothing goes wrong did not do so."""


@dataclass
class Report:
    """How a history ended."""

    seed: int
    only: tuple[int, ...] | None
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    digest: str = ""

    def __str__(self) -> str:
        figures = ", ".join(f"{count} {name}" for name, count in self.figures.items())
        return f"{self.digest}  {figures}{'  BAD' if self.violations else ''}"

    @property
    def kinds(self) -> frozenset[str]:
        """The names of the violated invariants, without details."""
        return frozenset(each.partition(":")[0] for each in self.violations)


def draw(seed: int) -> list[Event]:
    """Return the events of a history."""
    chance = Random(f"history {seed}")
    kinds = {**ACTIONS, **EVENTS}
    theme = _choose_theme(seed)
    # In each history, other events are frequent, rare or absent. Customers always buy, and the
    # provider always lies.
    weights = {name: of * chance.choice([0, 1, 1, 6]) for name, (of, _do) in kinds.items()}
    if theme:
        weights = {
            name: 6 if name.startswith(theme) else chance.choice([0, 0, 0.5]) for name in weights
        }
    weights |= {"buy": sum(weights.values()) / 2, "lie": weights["lie"] or 3}
    # Some shops are quiet, because other events can hide a mistake.
    count = chance.choice([8, 8, 20, 60])
    moments = [chance.uniform(0, _BUSY) for _event in range(count)]
    # Some things happen at the same moment.
    moments = sorted(chance.choice([moment, moment, chance.choice(moments)]) for moment in moments)
    names = ["buy", *chance.choices(list(weights), list(weights.values()), k=len(moments) - 1)]
    return [
        Event(number, moment, name, chance.getrandbits(32))
        for number, (moment, name) in enumerate(zip(moments, names, strict=True))
    ]


@contextmanager
def open_shop(seed: object, vendor: str) -> Iterator[Shop]:
    """Open a new shop beside a new provider, and end its processes with the context."""
    random.seed(str(seed))
    history = simulation.begin(seed, vendor=vendor)
    shop = Shop(history, Provider(history, (settings.GIFTCARDS["API_KEY"], OTHER_KEY)))
    shop.open()
    root = logging.getLogger()
    root.handlers = [_Lines(shop)]
    root.setLevel(logging.INFO)
    logging.getLogger("django-q").handlers = []
    with shop.provider.running() as address:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": address}
        try:
            yield shop
        finally:
            history.end()


def live(seed: int, only: Sequence[int] | None, workers: int) -> Report:
    """Run a history to its end in this process."""
    report = Report(seed, None if only is None else tuple(only))
    with open_shop(seed, connection.vendor) as shop:
        history = shop.simulation
        # Each history has few kinds of orders, because a failure may need several of the same kind.
        chance = Random(f"shop {seed}")
        shop.lines = chance.sample(LINES, chance.randint(1, 3))
        shop.lies = _choose_lies(chance, _choose_theme(seed))
        is_unseen = _choose_theme(seed) == UNSEEN
        if is_unseen:
            lie_now_and_then(shop, chance, odds=(0.5, 1, 1))
        elif chance.random() < 0.8:
            lie_now_and_then(shop, chance)
        settings.GIFTCARDS = {**settings.GIFTCARDS, **_choose_rules(seed)}
        # Some shops hand gifts over themselves.
        mode = Random(f"mode {seed}").choice(["link", "off", "off"])
        settings.GIFTCARDS_DELIVERY = {**settings.GIFTCARDS_DELIVERY, "MODE": {"gift": mode}}
        ways = ["unique", "told", "cut"] if is_unseen else _WAYS
        references = Random(f"references {seed}").choice(ways)
        for account in shop.provider.accounts.values():
            account.references = references
        has_mixed_ids = _SWAP[0] in shop.lies
        _begin_troubles(shop, seed)
        shop.provider.account.shifted_ids = chance.random() < (0.8 if has_mixed_ids else 0.2)
        for _worker in range(workers):
            shop.start_worker()
        for event in draw(seed):
            if only is None or event.number in only:
                history.at(event.moment, partial(_happen, shop, event))
        try:
            history.run(until=_LENGTH)
            settle(shop)
            # The invariants must hold both before and after the codes are destroyed.
            report.violations = violations(shop)
            purge(settled_before=timezone.now())
            report.violations = report.violations or violations(shop)
        except Exception as error:  # noqa: BLE001 (it is reported)
            report.violations = ["".join(traceback.format_exception(error)[-3:])]
        report.violations += [
            f"{each.name} failed: {type(each.error).__name__}: {each.error}"
            for each in history.processes
            if each.error is not None
        ]
        report.trace = history.trace
        report.digest = hashlib.sha256("\n".join(history.trace).encode()).hexdigest()[:12]
        report.figures = {
            "orders": len(shop.provider.orders),
            "requests": len(shop.provider.requests),
            "steps": history.steps,
            "notes": len(history.trace),
        }
    return report


def _begin_troubles(shop: Shop, seed: int) -> None:
    """Set up the troubles that most histories have, whatever else happens."""
    chance = Random(f"troubles {seed}")
    # Pages are small in some shops, because otherwise no shop here would have a second page.
    shop.provider.usual_page_size = chance.choice([100, 3, 2])
    shop.provider.page_size = shop.provider.usual_page_size
    shop.digests_fail = chance.choice([0, 1, 2])
    if chance.random() < 0.5:
        cast(shop, "placing: no stock", chance, sys.maxsize, math.inf, odds=0.1)
    if chance.random() < 0.6:
        shop.simulation.at(chance.uniform(10, 140), partial(people.rush, shop, chance))
    if chance.random() < 0.7:
        # Buy gifts for later, and destroy codes before their delivery.
        give = partial(people.buy, line=("type_001", 1), seconds=_LENGTH + 60)
        for _gift in range(2):
            _plan(shop, chance.uniform(0, 20), give, chance)
        _plan(shop, chance.uniform(60, 200), people.destroy, chance)
    if chance.random() < 0.8:
        # A card that comes after its customer was paid back.
        buy = partial(people.buy, line=("TEST_PARTIAL", 2))
        for _order in range(2):
            _plan(shop, chance.uniform(0, 20), buy, chance)
        for moment in (80, 140, 170, 200):
            _plan(shop, moment, people.pay_back, chance)
        shop.simulation.at(chance.uniform(210, 300), partial(people.deliver_late, shop, chance))


def _plan(
    shop: Shop, moment: float, action: Callable[[Shop, Random], object], chance: Random
) -> None:
    """Plan an action of somebody at a given moment of the history."""
    what = partial(shop.act, f"plan at {moment:.0f}", action, Random(chance.random()))
    shop.simulation.at(moment, what)


def _choose_rules(seed: int) -> dict[str, Any]:
    """Return the shop's rules for reviews and for missing cards."""
    chance = Random(f"rules {seed}")
    again = {"times": chance.choice([1, 2, 3]), "hours": chance.choice([0.1, 0.2])}
    return {
        "REVIEW_ORDER": chance.choice([None, None, "tests.explore.shop.review"]),
        "REORDER_MISSING": chance.choice([None, None, again]),
        "SEND_REFERENCE": chance.random() < 0.7 or _choose_theme(seed) == UNSEEN,
    }


def _choose_theme(seed: int) -> tuple[str, ...]:
    """Return the prefixes of the lies and events that are frequent in the history.

    In some histories there is no theme, and all are possible.
    """
    chance = Random(f"theme {seed}")
    return chance.choice(THEMES) if chance.random() < 0.8 else ()


def _choose_lies(chance: Random, theme: tuple[str, ...]) -> list[str]:
    """Choose one failure and two false answers for each step, within the theme if there is one."""
    chosen = []
    for step in ("place", "check", "list", "price", "ledger"):
        for is_early, count in ((True, 1), (False, 2)):
            names = [
                name
                for name, (of, _lie, early) in LIES.items()
                if (of, early) == (step, is_early) and name.startswith(theme or "")
            ]
            chosen += chance.sample(names, min(count, len(names)))
    if set(_SWAP) <= set(chosen):
        chosen.remove(_SWAP[0])
    return chosen


def _happen(shop: Shop, event: Event) -> None:
    chance = Random(event.seed)
    shop.simulation.note(f"{event.number}: {event.name}")
    if event.name in ACTIONS:
        # Some click twice, and some do what a colleague does at the same moment.
        for clerk in "ab" if chance.random() < 0.4 else "a":
            name = f"{event.name} {event.number}{clerk}"
            shop.act(name, ACTIONS[event.name][1], Random(event.seed))
    else:
        EVENTS[event.name][1](shop, chance)


def settle(shop: Shop) -> None:
    """Stop all troubles, and let a new worker bring everything to its end.

    A machine without a route to the provider stays without one, and also has a worker.
    """
    history = shop.simulation
    history.note("nothing goes wrong any more")
    shop.provider.be_well()
    shop.well_since = shop.provider.account._now()
    shop.mails_fail = shop.digests_fail = shop.receivers_fail = 0
    shop.rest = 10
    for process in history.processes:
        process.trouble = None
        # One worker per machine is enough, and takes less time. Halted processes come back later.
        if process.name.startswith("worker") and not process.is_halted:
            history.kill(process)
    for machine in sorted({simulation.FIRST_MACHINE, *history.without_route}):
        shop.start_worker(machine)
    first, *others = shop.provider.keys
    for key in others:
        if shop.provider.accounts[key].orders:
            use_key(shop, key)
            # Without this comparison, the next search could come after the key was changed back.
            history.start("comparison", partial(_compare_list, shop))
            _run_until_settled(shop, _OTHER_KEY)
    use_key(shop, first)
    shop.well_since = shop.provider.account._now()
    _run_until_settled(shop, _QUIET)
    # Processes that were halted for minutes return to a shop in which everything is done.
    history.wake()
    _run_until_settled(shop, _QUIET)
    books, end = history.start("books", partial(_close_books, shop)), history.now + _QUIET
    while not books.is_over and history.now < end:
        history.run(until=history.now + 1)
    if not books.is_over:
        raise Unfinished("The books are still being read.")
    for process in history.processes:
        history.kill(process)


def _close_books(shop: Shop) -> None:
    """Compare the list, read the ledger and check closed months, as every night."""
    _compare_list(shop)
    people.read_ledger(shop, shop.simulation.random)
    for _month in range(CHECKED):
        check_closed_month(lambda: True)


def _compare_list(shop: Shop) -> None:
    """Compare the list. Orders that are different or unknown make the command fail."""
    lines: list[str] = []
    try:
        people.run(shop, "giftcards_reconcile", "--json", lines=lines)
    except CommandError as error:
        if not (lines and json.loads("".join(lines))["is_whole"]):
            raise Unfinished("The list was not compared completely.") from error


def _run_until_settled(shop: Shop, seconds: float) -> None:
    history = shop.simulation
    end, hope_ends = history.now + seconds, history.now + _HOPE
    history.run(until=history.now + 1)
    while history.now < end and not _is_settled(is_hopeless=history.now > hope_ends):
        history.run(until=history.now + 60)


def _is_settled(*, is_hopeless: bool) -> bool:
    still_open = Order.objects.exclude(status__in=FINAL)
    if is_hopeless:
        still_open = still_open.filter(needs_attention=False)
    # An order by rule counts as open, because it waits for its turn or until its time is over.
    is_open = still_open.exclude(due_at=None, send_before=None).exists()
    is_waiting = Delivery.objects.filter(status__in=OPEN).exists()
    is_untold = StatusChange.objects.filter(announced_at=None).exists()
    return not (is_open or is_waiting or is_untold or OrmQ.objects.exists())


class _Lines(logging.Handler):
    def __init__(self, shop: Shop) -> None:
        super().__init__()
        self._shop = shop

    def emit(self, record: logging.LogRecord) -> None:
        self._shop.logged.append(self.format(record))


# Databases.


class Database:
    """A database with the tables and the staff of a new shop, renewed as often as needed."""

    def __init__(self, number: int) -> None:
        """Use a database of its own for each ``number``."""
        name = f"{settings.DATABASES['default']['NAME']}_{number}"
        self._template = f"{name}.template"
        _use(name)

    def prepare(self) -> None:
        """Create the database and its tables."""
        name = connection.settings_dict["NAME"]
        if connection.vendor == "sqlite":
            _remove(name)
        else:
            _on_server(f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name}")
        call_command("migrate", verbosity=0)
        _fill()
        connections.close_all()
        if connection.vendor == "sqlite":
            shutil.move(name, self._template)

    def renew(self) -> None:
        """Give this process a new database."""
        connections.close_all()
        if connection.vendor == "sqlite":
            _use(self._template.replace("template", str(os.getpid())))
            shutil.copy(self._template, connection.settings_dict["NAME"])
        else:
            call_command("flush", verbosity=0, interactive=False)
            _fill()

    def forget(self, process: int | None) -> None:
        """Remove the database of a process that has ended."""
        if connection.vendor == "sqlite":
            _remove(self._template.replace("template", str(process)))

    def remove(self) -> None:
        if connection.vendor == "sqlite":
            _remove(self._template)
        else:
            _on_server(f"DROP DATABASE IF EXISTS {connection.settings_dict['NAME']}")


def _use(name: str) -> None:
    settings.DATABASES["default"]["NAME"] = name
    connection.settings_dict["NAME"] = name


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _on_server(*statements: str) -> None:
    """Carry out statements from a database that is always there."""
    name = connection.settings_dict["NAME"]
    connections.close_all()
    _use({"postgresql": "postgres", "mysql": "mysql"}[connection.vendor])
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connections.close_all()
        _use(name)


def _fill() -> None:
    get_user_model().objects.create_superuser("amina")
    Installation.begin()
    StaffDigest.objects.create(address=people.STAFF, covers_until=timezone.now())
    make_offer(stock=STOCK, cost=Decimal("1250.50"), **SCARCE)
    call_command("giftcards_setup", verbosity=0, stdout=io.StringIO())


# Processes.


def run(
    seed: int, only: Sequence[int] | None = None, *, workers: int = 2, database: Database
) -> Report:
    """Run a history in a child process."""
    report = in_child(lambda: live(seed, only, workers), database)
    report.seed, report.only = seed, None if only is None else tuple(only)
    return report


def in_child(tell: Callable[[], Report], database: Database) -> Report:
    """Return the report of ``tell``, which a child process calls on a new database."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        database.renew()
        theirs.send(tell())
        theirs.close()
        os._exit(0)

    child = context.Process(target=work)
    child.start()
    theirs.close()
    report = Report(0, None)
    try:
        if ours.poll(_PATIENCE):
            report = ours.recv()
        else:
            report.violations = ["it does not end"]
    except EOFError:
        report.violations = ["its process died"]
    child.kill()
    child.join()
    database.forget(child.pid)
    return report


def reduce(report: Report, again: Callable[[Sequence[int]], Report]) -> Report:
    """Return the shortest history with the same violation that leaving out events has found."""
    left = [event.number for event in draw(report.seed)]
    size = len(left) // 2
    for _try in range(_MOST_TRIES):
        shorter = next(
            (
                tried
                for start in range(0, len(left), size)
                if (tried := again(left[:start] + left[start + size :])).kinds & report.kinds
            ),
            None,
        )
        if shorter is not None:
            report, left = shorter, list(shorter.only or ())
        elif size == 1:
            break
        size = max(min(size if shorter else size // 2, len(left) // 2), 1)
    return report
