"""The page of system checks."""

from __future__ import annotations

import ast
import base64
import importlib
import re
from collections.abc import Mapping
from typing import Any

from django.test.utils import override_settings

from docs.reference.settings import DICTS
from docs.reference.source import definition, tree_of
from docs.reference.texts import coded, page, table

_INTRO = """\
This page is for developers who install or update the app. It lists the system checks, with the message of each check
and what to do about it. Words in *italics* stand for values in the message.

Django runs these checks before `migrate` and `runserver`. To run only these checks, use
`python manage.py check --tag giftcards`. Some checks read the database. To include them, add `--database default`.

The meaning of a check's id never changes. To silence a check, add its id to `SILENCED_SYSTEM_CHECKS`. The messages
never contain secrets."""
_SECRET = bytes(range(32))
_OTHER_KEY, _DERIVED_KEY = (
    base64.urlsafe_b64encode(key).decode() for key in (_SECRET[::-1], _SECRET)
)
# One mistake of each kind. The app's message about it is the text of the check.
_MISTAKES: Mapping[str, Mapping[str, Any]] = {
    "no_api_key": {},
    "api_key": {"API_KEY": "two words"},
    "no_encryption_keys": {},
    "encryption_key": {"ENCRYPTION_KEYS": ["…"]},
    "repeated_key": {"ENCRYPTION_KEYS": [_OTHER_KEY, _OTHER_KEY]},
    "derived_key": {"ENCRYPTION_KEYS": [_DERIVED_KEY]},
    "path": {"REVIEW_ORDER": "review", "PIN": "pin"},
    "base_url": {"BASE_URL": "shop", "SHOP_URL": "shop"},
    "insecure": {"BASE_URL": "http://shop.example", "SHOP_URL": "http://shop.example"},
    "mode": {"MODE": "sms"},
    "text": {"SHOP_NAME": "\n"},
    "staff": {"STAFF_EMAILS": [""]},
}
# Texts that replace a name in the code.
_SAID_ELSEWHERE = {"trouble": "A stored card cannot be decrypted"}
# Mistakes that any setting may have.
_OF_ANY = {
    "unknown": ("The dict has an unknown *key*.", "Correct the key or remove it."),
    "type": (
        "The value of a setting, or the whole dict, has the wrong type.",
        "Use one of [the permitted values](settings.md).",
    ),
    "range": (
        "The value of a setting is out of range.",
        "Use one of [the permitted values](settings.md).",
    ),
}


def checks() -> str:
    parts = [_INTRO]
    for label, rows in by_app().items():
        cells = [(f"`{name}`", *map(coded, texts)) for name, texts in sorted(rows.items())]
        parts += [f"## {label}", table(("id", "message", "what to do"), cells)]
    return page("System checks", *parts)


def by_app() -> dict[str, dict[str, tuple[str, str]]]:
    """Return, for each app, the message and the hint of each check by its id."""
    apps = ("giftcards", "giftcards.delivery", "giftcards.oscar")
    return {
        app.replace(".", "_"): {
            **_of_settings(conf, f"{app}.checks"),
            **_of_module(f"{app}.checks"),
        }
        for app, conf in zip(apps, DICTS, strict=True)
    }


def _of_settings(conf: Any, module: str) -> dict[str, tuple[str, str]]:
    ids = importlib.import_module(module).IDS
    return {name: _OF_ANY.get(kind) or _provoked(conf, kind) for kind, name in ids.items()}


def _provoked(conf: Any, kind: str) -> tuple[str, str]:
    configured = {key: it for key, it in _MISTAKES[kind].items() if key in conf.declared}
    with override_settings(SECRET_KEY=_SECRET, **{conf.dict_name: configured}):
        problem = next(found for found in conf.problems() if found.kind == kind)
    return _brief(problem.message), _brief(problem.hint)


def _of_module(module: str) -> dict[str, tuple[str, str]]:
    """Return the texts of the checks that are written in the module itself."""
    found = {}
    for node in ast.walk(tree_of(module)):
        if not isinstance(node, ast.Call):
            continue
        named = {word.arg: word.value for word in node.keywords}
        if isinstance(name := named.get("id"), ast.Constant):
            # Several checks share the text of check_path().
            call = node if "hint" in named else _call_in("check_path")
            found[str(name.value)] = _texts(call, module)
    return found


def _call_in(function: str) -> ast.Call:
    body, _lines = definition("giftcards.checks", function)
    calls = (node for node in ast.walk(body) if isinstance(node, ast.Call) and node.keywords)
    return next(calls)


def _texts(call: ast.Call, module: str) -> tuple[str, str]:
    constants = vars(importlib.import_module(module))
    [hint] = [word.value for word in call.keywords if word.arg == "hint"]
    return _brief(_as_text(call.args[0], constants)), _brief(_as_text(hint, constants))


def _brief(text: str) -> str:
    """Return the first sentence without its reasons, which help only readers of the message."""
    return re.split(r"(?:\.|:)(?: |$)", text)[0] + "."


def _as_text(node: ast.expr, constants: Mapping[str, Any]) -> str:
    """Return a text of the code, with the values of constants, and other names in italics."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_as_text(part, constants) for part in node.values)
    inner = node.value if isinstance(node, ast.FormattedValue) else node
    names = [it.id for it in ast.walk(node) if isinstance(it, ast.Name)]
    name = inner.attr if isinstance(inner, ast.Attribute) else names[-1]
    value = constants.get(name)
    if isinstance(value, str | int):
        return repr(value)
    return _SAID_ELSEWHERE.get(name) or f"*{name.strip('_').replace('_', ' ')}*"
