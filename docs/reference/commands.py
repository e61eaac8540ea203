"""The page of commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from docs.reference.source import APPS
from docs.reference.texts import coded, page, table
from giftcards.watch.conditions import CONDITIONS

_INTRO = """\
This page is for people who run the shop's server. It describes the management commands. To run a command, type
`python manage.py NAME`. With `--help`, each command also prints examples.

| exit code | meaning |
|---|---|
| 0 | The command did its work. |
| 1 | A part of the work failed or was not completed. |
| 2 | The command could not start and has changed nothing. For example, an argument is wrong, a setting is missing, \
or the database does not answer. |

If the database fails after a command has started its work, the exit code is 1. A command that runs until it is
stopped, for example a worker, exits with code 0 after Ctrl-C or SIGTERM.

With `--json`, a command prints [one JSON object](json.md) to standard output, and nothing else. If a command
fails, it prints a one-sentence error message to standard error. With `-v0`, a command prints only errors. All texts
are in English, and never contain a card code or an API key. While a command waits, it shows what it is waiting for, and
when the wait began."""
_CONDITIONS = """\
### Conditions for monitors

A monitor can call `giftcards_status --fail-on` with some of these conditions. If one of the conditions holds, the
command prints one line about it to standard error and exits with code 1. With `-v0`, it prints nothing else."""


# These are left out of the page: the table lists the conditions, and readers expect these defaults
# anyway.
_CONDITIONS_OF_STATUS = re.compile(r": attention, [^(.]*")
_DEFAULT = re.compile(r" \(default: (?:none|all|create none|not \w+)[^)]*\)")
_DEFAULT_OF_FLAG = re.compile(r" \(default:[^)]*\)")


def commands() -> str:
    parts = [_INTRO]
    for name, app in sorted(COMMANDS.items()):
        command: Any = load_command_class(app, name)
        parts += [f"## {name}", coded(command.help)]
        if name == "giftcards_simulator":
            parts.append("[Simulator](../simulator.md) describes its options.")
            continue
        if rows := [_row(action) for action in own_arguments(name) if action.dest != "json"]:
            parts.append(table(("argument", "meaning"), rows))
        parts += map(coded, command.notes)
        if name == "giftcards_status":
            held = [(f"`{code}`", it.severity, it.holds) for code, it in CONDITIONS.items()]
            parts += [_CONDITIONS, table(("condition", "severity", "meaning"), held)]
    return page("Commands", *parts)


_ROOT = Path(__file__).parent.parent.parent
# The app of each command.
COMMANDS = {
    path.stem: app
    for app in APPS
    for path in (_ROOT / app.replace(".", "/")).glob("management/commands/giftcards_*.py")
}


def own_arguments(name: str) -> list[Any]:
    """Return the arguments and options that the command itself defines."""
    command = load_command_class(COMMANDS[name], name)
    own, common = (it.create_parser("", name)._actions for it in (command, BaseCommand()))
    known = {option for action in common for option in action.option_strings}
    return [action for action in own if not known.intersection(action.option_strings)]


def _row(action: Any) -> tuple[str, str]:
    name = action.dest.upper() if action.option_strings else action.dest
    value = "|".join(action.choices) if action.choices else action.metavar or name
    if action.nargs == "?":
        value = f"[{value}]"
    shown = " ".join([*action.option_strings, *([value] if action.nargs != 0 else [])])
    text = action.help % {"default": action.default}
    text = (_DEFAULT_OF_FLAG if action.nargs == 0 else _DEFAULT).sub("", text)
    return f"`{shown}`", coded(_CONDITIONS_OF_STATUS.sub("", text))
