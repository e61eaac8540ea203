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
Run all commands as `python manage.py …`. `--help` has examples.

| exit code | means |
|---|---|
| 0 | done |
| 1 | something failed or is unfinished |
| 2 | it could not start and has done nothing: wrong arguments, a missing setting, or no database |

If the database fails after a command has begun, the exit code is 1. Commands that run until they are stopped exit
with 0 at Ctrl-C or SIGTERM.

With `--json`, a command prints [one JSON object](json.md) to standard output, and nothing else there. Errors go to
standard error, as one sentence; `-v0` prints nothing else. All texts are in English, without codes and API keys. A
command that waits says what for, and since when."""
_CONDITIONS = """\
### Conditions for monitors

`--fail-on` names what holds, in one line on standard error. With `-v0`, nothing else is printed."""


# Left out: the table of conditions has them, and without an option nothing else is expected.
_CONDITIONS_OF_STATUS = re.compile(r": attention, [^(.]*")
_DEFAULT = re.compile(r" \(default: (?:none|all|create none|not \w+)[^)]*\)")
_DEFAULT_OF_FLAG = re.compile(r" \(default:[^)]*\)")


def commands() -> str:
    parts = [_INTRO]
    for name, app in sorted(COMMANDS.items()):
        command: Any = load_command_class(app, name)
        parts += [f"## {name}", coded(command.help)]
        if name == "giftcards_simulator":
            parts.append("Its options are on [the page of the simulator](../simulator.md).")
            continue
        if rows := [_row(action) for action in own_arguments(name) if action.dest != "json"]:
            parts.append(table(("argument", "meaning"), rows))
        parts += map(coded, command.notes)
        if name == "giftcards_status":
            held = [(f"`{code}`", it.severity, it.holds) for code, it in CONDITIONS.items()]
            parts += [_CONDITIONS, table(("condition", "severity", "holds if"), held)]
    return page("Commands", *parts)


_ROOT = Path(__file__).parent.parent.parent
# The app of each command.
COMMANDS = {
    path.stem: app
    for app in APPS
    for path in (_ROOT / app.replace(".", "/")).glob("management/commands/giftcards_*.py")
}


def own_arguments(name: str) -> list[Any]:
    """The arguments and options that are the command's own."""
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
