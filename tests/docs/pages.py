"""The pages of the documentation, and functions that read headings, tables and blocks."""

from __future__ import annotations

import argparse
import importlib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

from docs.manual_pages import with_manual

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): with_manual(path.read_text())
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    if "_build" not in path.parts
}
# The labels of the apps in the package.
APPS = ("giftcards", "giftcards_books", "giftcards_delivery", "giftcards_oscar")
INSTALLED = [label for label in APPS if label in apps.app_configs]
# The label of the app that each command belongs to.
COMMANDS = {
    name: label
    for name, app in sorted(get_commands().items())
    for label in INSTALLED
    if app == apps.get_app_config(label).name
}
MODULES = sorted(
    path for path in (ROOT / "giftcards").rglob("*.py") if path.parts[-2] != "migrations"
)

FENCED = re.compile(r"^(```|:::).*?^\1$", re.DOTALL | re.MULTILINE)


def page(name: str) -> str:
    """Return the text of a page. Its name is its path in ``docs`` without ``.md``."""
    return PAGES[f"docs/{name}.md"]


def section(text: str, heading: str) -> str:
    """Return the text under a heading, including the texts under its subheadings."""
    # In a code block, a line of this form is a comment.
    prose = FENCED.sub(lambda block: re.sub(r"\S", " ", block[0]), text)
    found = re.search(rf"^(#+) {re.escape(heading)}\n", prose, re.MULTILINE)
    assert found, f"There is no heading {heading!r}."
    end = re.compile(rf"^#{{1,{len(found[1])}}} ", re.MULTILINE).search(prose, found.end())
    return text[found.end() : end.start() if end else None]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables in the text, without the header rows."""
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) <= set("-:")]
    return [row for number, row in enumerate(cells) if not {number, number + 1} & set(rules)]


def code(text: str) -> list[str]:
    """Return the texts between backticks, except those in code blocks."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", text))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code on a page."""

    #: The path of the page, and the heading above the block.
    page: str
    heading: str
    language: str
    text: str
    #: The number of the block's first line.
    line: int

    @property
    def named(self) -> re.Match[str] | None:
        """The file that the first line names, and whether the block is appended to that file."""
        return re.match(r"(?:# |\{# )([\w/]+\.\w+)(, at its end)?", self.text)

    def commands(self) -> Iterator[tuple[int, str, str]]:
        """Yield the shell lines: the line number, what is typed, and the output that is shown."""
        lines = r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)"
        for found in re.finditer(lines, self.text, re.MULTILINE):
            yield self.line + self.text.count("\n", 0, found.start()), found[1], found[2]


def all_blocks(name: str) -> Iterator[Block]:
    """Yield the code blocks of a page in sequence, including those in lists."""
    fences = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```$|^#+ ([^\n]*)$", re.DOTALL | re.MULTILINE)
    heading = ""
    text = (ROOT / name).read_text()
    for found in fences.finditer(text):
        if found[4] is not None:
            heading = found[4]
        elif not found[2].startswith("{"):
            line = text.count("\n", 0, found.start(3)) + 1
            yield Block(name, heading, found[2], textwrap.dedent(found[3]), line)


# The values that differ in each run: times, durations, and generated ids.
_CHANGING = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d)"
    r"|\(since [^)\n]*\)"
    r"|\b(?!507f1f77)(?:[0-9a-f]{24}|[0-9a-f]{16})\b"
)


def is_shown(expected: str, printed: str) -> bool:
    """Return True if the output is as shown, apart from values that change with each run.

    A line "…" stands for any number of lines.
    """
    parts = []
    for line in _CHANGING.sub("~", expected).splitlines():
        text = re.escape(line).replace("…", ".*")
        parts.append(r"(?:.*\n)*?" if line.strip() == "…" else f"{text}\n")
    # A page that shows no output does not promise any.
    return not expected or re.fullmatch("".join(parts), _CHANGING.sub("~", printed)) is not None


def resolve(name: str) -> Any:
    """Import and return the object with the dotted name.

    Objects that need django-oscar are checked in ``tests/oscar/test_docs.py``.
    """
    if name.startswith("giftcards.oscar.") and "giftcards_oscar" not in INSTALLED:
        return None
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(f"There is no {name}.")


def slugs(text: str) -> set[str]:
    """Return the anchors of a page: those of headings, as in GitHub and MyST, and named ones."""
    headings = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE),
        re.MULTILINE,
    )
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def options_of(command: str) -> set[str]:
    """Return the options that the command itself defines."""
    app = apps.get_app_config(COMMANDS[command]).name
    parser = load_command_class(app, command).create_parser("manage.py", command)
    common = BaseCommand().create_parser("manage.py", command)
    return long_options(parser) - long_options(common)


def long_options(parser: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


# A word for each check. It appears in its row of the reference and wherever the check is named.
CHECKS = {
    "giftcards.E001": "API_KEY",
    "giftcards.E002": "API_KEY",
    "giftcards.E003": "ENCRYPTION_KEYS",
    "giftcards.E004": "Fernet",
    "giftcards.E005": "unknown",
    "giftcards.E006": "type",
    "giftcards.E007": "range",
    "giftcards.E008": "BASE_URL",
    "giftcards.E009": "BASE_URL",
    "giftcards.E011": "timeout",
    "giftcards.E012": "retry",
    "giftcards.E013": "Q_CLUSTER",
    "giftcards.E014": "orm",
    "giftcards.E015": "Q_CLUSTER",
    "giftcards.E016": "twice",
    "giftcards.E017": "SECRET_KEY",
    "giftcards.E019": "tables",
    "giftcards.E020": "card",
    "giftcards.E021": "REAUTHENTICATE",
    "giftcards.E022": "cards",
    "giftcards.E023": "REVIEW_ORDER",
    "giftcards.E024": "path",
    "giftcards.E025": "overrides",
    "giftcards.W001": "worker",
    "giftcards.W002": "sync",
    "giftcards.W003": "broker",
    "giftcards.W004": "scheduler",
    "giftcards.W005": "password",
    "giftcards.W006": "key",
    "giftcards.W008": "same",
    "giftcards.W010": "isolation level",
    "giftcards.W011": "passwords",
    "giftcards.W012": "queue",
    "giftcards.W013": "synchronous",
}
