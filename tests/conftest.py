"""Fixtures for all test modules, such as a provider to talk to and a way to run commands."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zlib import crc32
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.core.management.commands import flush
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.utils import translation

from giftcards.simulator import Simulator
from tests.pages import sign_in
from tests.site import Site

# Set this variable where everything that tests need has to be installed, as in CI. A skipped test
# then fails.
REQUIRE_ALL = bool(os.environ.get("GIFTCARDS_TESTS_REQUIRE_ALL"))

# A busy machine does not fail a test. CI tries the same examples as long as the code is the same.
# By default, hypothesis tries a hundred examples, which takes twice as long. To explain failures,
# hypothesis would trace every example, which takes as long as the test.
hypothesis.settings.register_profile(
    "default-giftcards",
    deadline=None,
    max_examples=50,
    derandomize=REQUIRE_ALL,
    phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],
)
hypothesis.settings.load_profile("default-giftcards")
# All mutants (tests/mutation.py) meet the same examples. It does not matter which example fails.
hypothesis.settings.register_profile(
    "mutation",
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)

# Imports of an optional app, or of helpers that its tests share.
_OPTIONAL = re.compile(
    r"^\s*from (giftcards\.(books|delivery|oscar)|example_project\.(api|demo|storefront)"
    r"|tests\.(books|delivery|docs|history|example_shop))\b",
    re.MULTILINE,
)
# Folders of these tests that have a conftest.py.
_OPTIONAL_FOLDERS = {"books", "browser", "delivery"}
_OSCAR = Path(__file__).parent / "oscar"
# The markers of tests that drive other programs.
_EXTERNAL = {"browser", "cluster", "office", "packaging"}
# The time limit of these tests in seconds. For all other tests, pyproject.toml sets it.
_EXTERNAL_SECONDS = 1_200
# The key of pytest-django's blocker, which blocks the database for tests that do not declare it.
_BLOCKER = pytest.StashKey[Any]()
# The rows that `migrate` has made for other apps: content types and permissions.
_ROWS: list[list[Model]] = []


class Outcome(NamedTuple):
    out: str
    err: str
    code: int


class Call(Protocol):
    def __call__(self, name: str, *args: str, **options: Any) -> Outcome: ...


@pytest.fixture
def call() -> Call:
    """Run a management command as a shell would. Return its output, errors and exit code."""

    def run(name: str, *args: str, **options: Any) -> Outcome:
        out, err, code = StringIO(), StringIO(), 0
        try:
            call_command(name, *args, stdout=out, stderr=err, no_color=True, **options)
        except CommandError as error:
            print(error, file=err)
            code = error.returncode
        return Outcome(out.getvalue(), err.getvalue(), code)

    return run


@pytest.fixture
def boss() -> Client:
    """Return a browser in which a superuser is signed in."""
    return sign_in(superuser=True)


@pytest.fixture(autouse=True)
def _one_day() -> None:
    """Wait if the day is about to end in Algiers or in UTC, so that no day ends within a test."""
    for zone in (ZoneInfo("Africa/Algiers"), UTC):
        now = datetime.now(zone)
        midnight = datetime.combine(now + timedelta(days=1), datetime.min.time(), zone)
        if midnight - now < timedelta(seconds=10):
            time.sleep((midnight - now).total_seconds())


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove proxy settings, so that tests reach the servers on this machine directly."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def _new_process() -> None:
    """Reset the process, so that each test starts as if it were the first one in it."""
    from giftcards.engine.loop import try_stored_cards

    try_stored_cards.cache_clear()
    # A page in another language leaves that language active in the thread.
    translation.deactivate()


@pytest.fixture
def simulator(settings: Any) -> Iterator[Simulator]:
    """Yield a provider that settles at once and has no limits; the settings point at it."""
    with Simulator(delay=(0, 0), rate_limit=0) as running:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "BASE_URL": running.url}
        yield running


@pytest.fixture(scope="session")
def live_server() -> Iterator[Site]:
    """Yield the site, which only answers tests that use the fixture ``site``."""
    running = Site()
    yield running
    running.stop()


@pytest.fixture
def site(
    live_server: Site, transactional_db: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Yield the address of the site; all requests are answered before the test ends."""
    from tests.stage import sharing_database

    with sharing_database(tmp_path_factory.mktemp("site") / "shared.sqlite3"):
        live_server.door.open()
        yield live_server.url
        live_server.door.shut()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> None:
    """Create the tables of other apps from their models, because their many migrations are slow."""
    from tests.stage import apps_of_others

    settings.MIGRATION_MODULES = {app.label: None for app in apps_of_others()}


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_setup: None, django_db_blocker: Any, pytestconfig: pytest.Config
) -> None:
    """Prepare the test database with the request slots, because most tests need these many rows."""
    from django.contrib.auth.models import Permission
    from django.contrib.contenttypes.models import ContentType

    pytestconfig.stash[_BLOCKER] = django_db_blocker
    with django_db_blocker.unblock():
        # In this sequence, because permissions refer to content types.
        _ROWS[:] = [list(model.objects.all()) for model in (ContentType, Permission)]
        # Otherwise, these rows would be created again each time the tables are emptied, which is
        # slow.
        flush.emit_post_migrate_signal = lambda *_given, **_named: None
        _fill_database()
        if connection.vendor == "postgresql":
            connection.ops.sql_flush = _sql_delete


def _fill_database() -> None:
    """Create the rows that migrations make in a new database, and the request slots."""
    from giftcards.conf import conf
    from giftcards.models import RequestSlot
    from giftcards.plugins import make_shelf

    RequestSlot.objects.make(conf.requests_per_minute)
    # Tests set the clock back, but only by a few years.
    RequestSlot.objects.update(until=datetime(2000, 1, 1, tzinfo=UTC))
    if apps.is_installed("giftcards.delivery"):
        from giftcards.delivery.models import Installation

        Installation.begin()
    make_shelf(connection.alias)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Fill the tables again after a test that commits, because it ends by emptying all tables.

    Tests that commit run last, but only within the part that one of several processes gets at a
    time. Some request their database only while they run, so this function looks at the tables.
    """
    yield
    # After the last test, the test database is gone.
    if nextitem is None or _BLOCKER not in item.config.stash:
        return
    from giftcards.models import RequestSlot

    with item.config.stash[_BLOCKER].unblock():
        if not RequestSlot.objects.exists():
            for rows in filter(None, _ROWS):
                type(rows[0])._base_manager.bulk_create(rows)
            _fill_database()


def _sql_delete(_style: Any, tables: list[str], **_options: Any) -> list[str]:
    """Return the statements that empty tables after a test that commits.

    Django would truncate the tables. PostgreSQL then creates new files for each table and index,
    which takes a second, whereas deleting a few rows takes no time.
    """
    return [f"DELETE FROM {connection.ops.quote_name(table)}" for table in tables]


@pytest.fixture(scope="module", autouse=True)
def _no_dead_rows(request: pytest.FixtureRequest) -> None:
    """Remove the rows that rolled-back tests have left in the table that most tests change.

    PostgreSQL keeps these rows until it vacuums, and it may not be set up to do that. A query that
    finds no row at all would then read many thousands.
    """
    items = request.session.items
    if not any(item.path == request.path and "database" in item.keywords for item in items):
        return
    request.getfixturevalue("django_db_setup")
    with request.getfixturevalue("django_db_blocker").unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("VACUUM giftcards_requestslot")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the tests of optional apps that are not installed, as in ``core_settings``.

    The tests of django-oscar have their own settings and environment; see ``make test-oscar``.
    """
    if collection_path == _OSCAR:
        return None if apps.is_installed("giftcards.oscar") else True
    if apps.is_installed("giftcards.books"):
        return None
    if collection_path.is_dir():
        return True if collection_path.name in _OPTIONAL_FOLDERS else None
    return True if _OPTIONAL.search(collection_path.read_text("utf-8", "replace")) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        type=int,
        default=1,
        metavar="N",
        help="of the rows of parameters that a test has, run one in N",
    )
    parser.addoption(
        "--part",
        default="1/1",
        metavar="K/N",
        help="of the tests that need no transactions of their own, run the K-th N-th",
    )
    parser.addoption(
        "--rest",
        default="",
        metavar="K/N",
        help="of the rows that --sample leaves out, run the K-th N-th, and nothing else",
    )


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests that use the test database, and tests that drive other programs.

    pytest-django blocks the database for all tests that do not declare that they use it.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("django_db") or fixtures & {"db", "transactional_db"}:
            item.add_marker(pytest.mark.database)
        if _EXTERNAL & {marker.name for marker in item.iter_markers()}:
            item.add_marker(pytest.mark.external)
            item.add_marker(pytest.mark.timeout(_EXTERNAL_SECONDS))
    chosen = set(_sample(items, one_in=config.getoption("sample")))
    if not apps.is_installed("giftcards.books"):
        chosen = {item for item in chosen if not item.get_closest_marker("all_apps")}
    part, parts = map(int, config.getoption("part").split("/"))
    chosen = {item for item in chosen if _commits(item) or _number(item) % parts == part - 1}
    if rest := config.getoption("rest"):
        share, shares = map(int, rest.split("/"))
        left = sorted(set(items) - chosen, key=lambda item: item.nodeid)
        chosen = set(left[share - 1 :: shares])
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are processors.

    The tests spend a third of the time waiting.
    """
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Run the garbage collector seldom, and exclude the objects that collection has created.

    This saves a fifth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _sample(items: list[pytest.Item], *, one_in: int) -> Iterator[pytest.Item]:
    """Yield one in ``one_in`` rows of each test, at least one, and always the same rows."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in sorted(items, key=lambda item: item.nodeid):  # their own order may be random
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for rows in tests.values():
        step = 1 if rows[0].get_closest_marker("every_row") else one_in
        yield from rows[_number(rows[0]) % min(step, len(rows)) :: step]


def _number(item: pytest.Item) -> int:
    """Return a number of the test that is the same for all its rows and in each run."""
    return crc32(item.nodeid.partition("[")[0].encode())


def _commits(item: pytest.Item) -> bool:
    """Return True if the test needs its own transactions, for example for threads or processes."""
    marker = item.get_closest_marker("django_db")
    is_marked = marker is not None and marker.kwargs.get("transaction")
    return bool(is_marked or "transactional_db" in getattr(item, "fixturenames", ()))


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"This may not be left out (GIFTCARDS_TESTS_REQUIRE_ALL): {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    _refuse_skip(report)
    return report
