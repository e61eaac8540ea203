"""The environments that the project is tried in, and what is tried in each: ``nox --list``.

Each session runs a command of the Makefile, in an environment that sessions share. Arguments after
``--`` go to pytest: ``nox -s postgresql -- -k refund``.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "docs"]

CLASSIFIERS = nox.project.load_toml("pyproject.toml")["project"]["classifiers"]
PYTHONS = nox.project.python_versions({"project": {"classifiers": CLASSIFIERS}})
DJANGOS = [name.split(" :: ")[2] for name in CLASSIFIERS if "Framework :: Django :: " in name]
LTS, NEWEST = DJANGOS[0], DJANGOS[-1]
# Django 6 needs Python 3.12.
MATRIX = [
    nox.param(python, django, id=f"{python}-django{django}")
    for python in PYTHONS
    for django in DJANGOS
    if python != "3.11" or django < "6"
]

SQLITE = "sqlite://:memory:"
# The user may create databases: the test runner makes them.
POSTGRESQL = os.environ.get("GIFTCARDS_CI_POSTGRESQL", "postgres://root@/giftcards_ci")
MARIADB = os.environ.get("GIFTCARDS_CI_MARIADB", "mysql://root@127.0.0.1:3306/giftcards_ci")

# What starts processes, drives a browser or LibreOffice, builds a wheel or breaks the wire does so
# once, on SQLite.
IN_PROCESS = "-m 'not external'"
# PostgreSQL and MariaDB both meet the tests that commit, and each a sixteenth of the others that
# use a database, with one in sixteen of the cases of each table. What the core prints and renders
# is not repeated there: it meets the newest Django on SQLite.
ON_A_SERVER = (
    "-m 'database and not external' --sample=16"
    " --ignore=tests/faults --ignore=tests/admin --ignore=tests/commands"
)


# The environments. ``requires`` makes them first, and --no-dependencies takes them as they are.


@nox.session(name="env-lts")
def env_lts(session: nox.Session) -> None:
    """Environment: Django's LTS, and of all else what uv.lock says."""
    # So what a linter finds changes with the lock, and not overnight.
    export = ("uv", "export", "--quiet", "--frozen", "--no-hashes", "--no-emit-project")
    locked = f"{session.create_tmp()}/locked.txt"
    session.run_install(*export, "--no-emit-package=django", f"--output-file={locked}")
    install(session, "dev", f"django~={LTS}.0", f"--constraint={locked}")


@nox.session(name="env-newest")
def env_newest(session: nox.Session) -> None:
    """Environment: the newest release of everything."""
    install(session, "test", f"django~={NEWEST}.0", "--upgrade")


@nox.session(name="env-oldest", python=PYTHONS[0])
def env_oldest(session: nox.Session) -> None:
    """Environment: the lowest releases that pyproject.toml admits, of everything."""
    install(session, "test", "--resolution=lowest-direct")


@nox.session(name="env-oscar")
def env_oscar(session: nox.Session) -> None:
    """Environment: the newest django-oscar, which limits the version of Django."""
    install(session, "oscar", "--upgrade")


def install(session: nox.Session, group: str, *more: str) -> None:
    session.install("--quiet", "--editable=.", f"--group={group}", *more)


# What is tried in them.


class Make:
    """Runs commands of the Makefile in an environment; arguments of the session go to pytest."""

    def __init__(self, session: nox.Session, folder: str) -> None:
        self.session = session
        self.folder = Path(folder)

    def __call__(
        self,
        target: str,
        args: str = "",
        *,
        database: str = SQLITE,
        settings: str = "",
        **variables: str,
    ) -> None:
        (self.folder / ".installed").touch()  # for make: there is nothing to install
        environment = {"DATABASE_URL": database, "COVERAGE_CORE": "sysmon"}
        if settings:
            environment["DJANGO_SETTINGS_MODULE"] = settings
        variables |= {
            "VENV": str(self.folder),
            "ARGS": f"{args} {shlex.join(self.session.posargs)}".strip(),
        }
        assigned = [f"{name}={value}" for name, value in variables.items()]
        self.session.run("make", target, *assigned, env=environment, external=True)


def lane(environment: str) -> Callable[[Callable[[Make], None]], object]:
    """A session that runs commands of the Makefile in one of the environments."""

    def session_of(commands: Callable[[Make], None]) -> object:
        @functools.wraps(commands)
        def run(session: nox.Session) -> None:
            commands(Make(session, f".nox/{environment}"))

        return nox.session(run, venv_backend="none", requires=[environment], tags=["hosted"])

    return session_of


# For lanes that run beside others, and for what is measured.
ONE_PROCESS = {"PARALLEL": ""}
COVERED = {"PARALLEL": "", "RUNNER": "coverage run -m pytest"}


@lane("env-lts")
def lint(make: Make) -> None:
    """Style, types, complexity, imports, migrations, system checks, the lock."""
    make("lint")


@lane("env-lts")
def docs(make: Make) -> None:
    """The documentation."""
    make("docs")


@lane("env-newest")
def newest(make: Make) -> None:
    """A sixteenth of the rows that the quick tests leave out, with the newest Django."""
    make("test-all", f"{IN_PROCESS} --sample=8 --rest=1/16")


@lane("env-newest")
def core(make: Make) -> None:
    """The core alone. Its provider and engine ask no optional app for anything."""
    left_out = "--ignore=tests/faults --ignore=tests/engine --ignore=tests/provider"
    make(
        "test-all",
        f"{IN_PROCESS} --sample=16 --part=2/4 {left_out}",
        settings="tests.core_settings",
        **ONE_PROCESS,
    )


@lane("env-newest")
def postgresql(make: Make) -> None:
    """PostgreSQL, with the newest Django."""
    make("test-all", f"{ON_A_SERVER} --part=1/16", database=POSTGRESQL, **ONE_PROCESS)


@lane("env-lts")
def mariadb(make: Make) -> None:
    """MariaDB, with Django's LTS."""
    arguments = f"{ON_A_SERVER} --part=9/16 --ignore=tests/books/admin"
    make("test-all", arguments, database=MARIADB, **ONE_PROCESS)


@lane("env-oscar")
def oscar(make: Make) -> None:
    """giftcards.oscar on PostgreSQL, and on MariaDB what it may do otherwise: locks and plans."""
    # In databases beside those of other lanes.
    make("test-oscar", database=f"{POSTGRESQL}_oscar", **COVERED)
    make("test-oscar", "-k 'fifty_carts or plans'", database=f"{MARIADB}_oscar", **ONE_PROCESS)


@lane("env-lts")
def processes(make: Make) -> None:
    """What starts processes, opens LibreOffice or builds the wheel."""
    make("test-all", "-m 'external and not browser'", **ONE_PROCESS)


@lane("env-lts")
def browser(make: Make) -> None:
    """What drives a real Chromium."""
    make("test-all", "-m browser tests/browser", **ONE_PROCESS)


@lane("env-oldest")
def oldest(make: Make) -> None:
    """The path that spends money: how the libraries connect, seal and report failures."""
    arguments = f"{IN_PROCESS} --sample=16 --part=1/4 tests/engine tests/keys tests/models"
    make("test-all", arguments, **ONE_PROCESS)
    make("test-all", "tests/provider", **ONE_PROCESS)


@nox.session(tags=["hosted"])
@nox.parametrize("python, django", MATRIX)
def tests(session: nox.Session, django: str) -> None:
    """The quick tests, with each Python and each Django."""
    install(session, "test", f"django~={django}.0")
    Make(session, session.virtualenv.location)("test")


@nox.session(venv_backend="none", tags=["hosted"])
def readme(session: nox.Session) -> None:
    """README's two commands, as a newcomer has them: make alone, and pip."""
    session.run(".ci/readme", external=True)


@nox.session(tags=["hosted"])
def hooks(session: nox.Session) -> None:
    """The hooks of pre-commit that ``make lint`` does not run."""
    session.install("--quiet", "pre-commit")
    session.run(
        "pre-commit", "run", "--all-files", env={"SKIP": "ruff,ruff-format,mypy,complexipy"}
    )


@nox.session(venv_backend="none")
def coverage(session: nox.Session) -> None:
    """The coverage of what has been measured."""
    program = ".nox/env-lts/bin/coverage"
    session.run(program, "combine", external=True)
    session.run(program, "report", external=True)


# The Python of the hosted release, which has each Django and each worker.
@nox.session(python="3.13")
def release(session: nox.Session) -> None:
    """Builds and checks a release, and tags it: ``nox -s release -- 0.1.0``. See RELEASE.md."""
    install(session, "release")
    session.run("python", "release.py", *session.posargs)
