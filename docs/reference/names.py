"""The list of public names; a change of it is a decision, see ``docs/versions.md``."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from docs.reference.api import API, MODELS, SIGNALS, parsed, signals_of
from docs.reference.checks import by_app
from docs.reference.commands import COMMANDS, own_arguments
from docs.reference.settings import DICTS, default_of
from docs.reference.source import definition, tree_of
from giftcards import exceptions
from giftcards.delivery.conf import Kind
from giftcards.delivery.templatetags.giftcards_delivery import register as tags
from giftcards.plugins import INSTALLED
from giftcards.rules.problems import WORDINGS
from giftcards.rules.roles import ROLES
from giftcards.simulator import SPECIAL_TYPES, Simulator
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS

FOLDER = Path(__file__).parent
FILE = FOLDER / "names.txt"
_PACKAGE = FOLDER.parent.parent / "giftcards"
# What other pages than that of the API show. After a colon are the only public attributes.
_MORE = (
    "giftcards.admin CardRevealAdmin",
    "giftcards.admin CustomerRefundAdmin",
    "giftcards.admin DeskAdmin",
    "giftcards.admin OrderAdmin: get_order_buttons",
    "giftcards.admin ProductAdmin",
    "giftcards.admin ProviderStateAdmin: get_sections",
    "giftcards.admin.frame.actions OrderButton",
    "giftcards.admin.frame.sections Section: is_for_developer",
    "giftcards.admin.frame.reauthentication confirm",
    "giftcards.admin.frame.rows OnlyFilters:",
    "giftcards.admin.frame.rows OrderRows: its_order order_lookup",
    "giftcards.books.exports can_write_xlsx",
    "giftcards.books.reports Figures: kept_amount open_amount fill_rate",
    "giftcards.books.reports Row",
    "giftcards.books.summary Summary",
    "giftcards.delivery.channels AddressRefused",
    "giftcards.delivery.channels Channel: address_of recipient_address_of send",
    "giftcards.delivery.channels Mail",
    "giftcards.delivery.channels Message: kind reference language address phone subject text html"
    " short link id",
    "giftcards.delivery.channels OutcomeUnknown",
    "giftcards.delivery.channels SlowDown",
    "giftcards.delivery.digest_items Item: code severity count has_more is_new has_ended headline detail"
    " remedy orders unnamed url",
    "giftcards.delivery.pins last_digits_of_phone",
    "giftcards.delivery.tasks deliver",
    "giftcards.engine.balance OpenMoney: total",
    "giftcards.watch.health GiftcardsCondition",
    "giftcards.oscar.checkout BasketRefused",
    "giftcards.oscar.checkout GiftCardsCheckout:",
    "giftcards.oscar.checkout check_cards",
    "giftcards.oscar.checkout reserve_cards",
    "giftcards.oscar.checkout release_cards",
    "giftcards.oscar.lines owned_orders",
    "giftcards.privacy.person Person: is_named_by rows",
    "giftcards.privacy.person Traces: are_in erased",
    "giftcards.privacy.person Keeper: orders addresses describe erase",
    "giftcards.privacy.person add_keeper",
    "giftcards.tasks sweep",
    "giftcards.text.spelling international_phone",
    "giftcards.watch.metrics GiftcardsCollector:",
    "giftcards.watch.metrics metrics",
)
# Templates that a shop may replace, and where the variables of each come from: the dicts in these
# functions, or the names themselves.
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "giftcards_delivery/messages/": (
        "giftcards.delivery.messages _words",
        "subject",
        "paragraphs",
    ),
    "giftcards_delivery/digest/": ("giftcards.delivery.digests _words",),
    "giftcards_delivery/page/": ("giftcards.delivery.views _shop", "csp_nonce"),
    "giftcards_delivery/page/ask.html": ("giftcards.delivery.views ask",),
    "giftcards_delivery/page/cards.html": ("giftcards.delivery.views show",),
    "giftcards_delivery/page/my_cards.html": ("giftcards.delivery.views my_cards",),
    "giftcards_delivery/tags/my_cards.html": (
        "giftcards.delivery.templatetags.giftcards_delivery my_cards",
    ),
    "giftcards_delivery/tags/order_cards.html": (
        "giftcards.delivery.templatetags.giftcards_delivery order_cards",
    ),
}


# By app: what the groups of staff may do.
_ROLES: Mapping[str, Any] = {
    "giftcards": ROLES,
    **{label: INSTALLED[label].roles for label in ("giftcards_books", "giftcards_delivery")},
}


def names() -> str:
    """The names by heading, one a line, sorted."""
    sections = {
        "Python": _python(),
        "Errors": _errors(),
        "Signals": (f"{module}.{name}" for module in SIGNALS for name in signals_of(module)),
        "Attributes of models": _models(),
        "Statuses": Status.values,
        "Codes of problems, with parameters": (
            " ".join([code, *sorted(wording.parameters)]) for code, wording in WORDINGS.items()
        ),
        "Kinds of messages": Kind.values,
        "Settings": _settings(),
        "System checks": (name for rows in by_app().values() for name in rows),
        "Commands": _commands(),
        "JSON of the commands": _json(),
        "Conditions for monitors": CONDITIONS,
        "Groups of staff": ROLES,
        "Permissions": _permissions(),
        "Names of URLs": _urls(),
        "Templates, with blocks": _templates(),
        "Variables of templates": _variables(),
        "Template tags and filters of giftcards_delivery": {**tags.tags, **tags.filters},
        "Template tags of giftcards_admin": ["giftcards_desk"],
        "Options of the simulator": (it.name for it in dataclasses.fields(Simulator) if it.init),
        "Types of the simulator": SPECIAL_TYPES,
    }
    parts = ["\n".join([f"# {head}", *sorted(set(lines))]) for head, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _python() -> Iterator[str]:
    for entry in (*(entry for entries in API.values() for entry in entries), *_MORE):
        module, name, members = parsed(entry)
        node, _lines = definition(module, name)
        path = f"{module}.{name}"
        if not isinstance(node, ast.ClassDef):
            yield f"{path}({_parameters(node)})"
            continue
        yield path
        targets = (it.target for it in node.body if isinstance(it, ast.AnnAssign))
        fields = [it.id for it in targets if isinstance(it, ast.Name)]
        if entry in _MORE and ":" in entry:
            fields = [field for field in fields if field in members]
        yield from (f"{path}.{field}" for field in fields)
        yield from (_method(module, name, it) for it in members if it not in fields)


def _method(module: str, name: str, member: str) -> str:
    """A method with its parameters, or a property; the class may have inherited it."""
    kind = getattr(importlib.import_module(module), name)
    home = next(it for it in kind.__mro__ if member in vars(it))
    body = definition(home.__module__, home.__name__)[0].body
    [node] = [it for it in body if getattr(it, "name", "") == member]
    is_property = any(ast.unparse(it) == "property" for it in node.decorator_list)
    path = f"{module}.{name}.{member}"
    return path if is_property else f"{path}({_parameters(node)})"


def _parameters(node: Any) -> str:
    """The parameters without their types, which a type checker compares better."""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(node.args)


def _errors() -> Iterator[str]:
    for name, kind in vars(exceptions).items():
        is_internal = isinstance(kind, type) and issubclass(kind, exceptions.ProviderError)
        if isinstance(kind, type) and (not is_internal or name in {"ProviderError", "Refused"}):
            yield f"giftcards.exceptions.{name}({kind.__mro__[1].__name__})"


def _models() -> Iterator[str]:
    """The attributes on the page of models, which a test compares with the code."""
    page = (FOLDER / "models.md").read_text()
    for module, models in MODELS.items():
        for model in models:
            [section] = re.findall(
                rf"^## {model}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE
            )
            cells = re.findall(r"^\|(`[^|]+)\|", section, re.MULTILINE)
            found = (name for cell in cells for name in re.findall(r"`([^`]+)`", cell))
            yield from (f"{module}.{model}.{name}" for name in found)


def _settings() -> Iterator[str]:
    for each in DICTS:
        for key, setting in each.declared.items():
            default = "" if setting.required else f" = {default_of(setting)}"
            yield f'{each.dict_name}["{key}"]{default}'


def _commands() -> Iterator[str]:
    for command in COMMANDS:
        yield command
        for action in own_arguments(command):
            option = next((it for it in action.option_strings if it.startswith("--")), action.dest)
            yield f"{command} {option}"


def _json() -> Iterator[str]:
    """The keys on the page of JSON, which a test compares with what is printed."""
    for title, keys in json_keys().items():
        yield from (f"{title}: {key}" for key in keys)


def json_keys() -> dict[str, list[str]]:
    """The documented keys by the title of their section, or by command; inner ones with dots."""
    page = (FOLDER / "json.md").read_text()
    found = {}
    for title, block in re.findall(
        r"^## ([^\n]+)\n[^#]*?^```text\n(.*?)^```", page, re.DOTALL | re.MULTILINE
    ):
        lines = re.sub(r"\n    ", " ", block).splitlines()
        found[title] = list(_keys_in(lines))
    for command, keys in re.findall(r"^\|`(giftcards_\w+)`\|(.*)\|$", page, re.MULTILINE):
        found[command] = " ".join(re.findall(r"`([^`]+)`", keys)).replace("--verify", "").split()
    return found


def _keys_in(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        outer, colon, inner = line.rpartition(":")
        if colon:
            yield outer
        yield from (f"{outer}.{key}" if colon else key for key in inner.split() if key != "…")


def _permissions() -> Iterator[str]:
    for label, roles in _ROLES.items():
        yield from (f"{label}.{codename}" for names in roles.values() for codename in names)


def _urls() -> Iterator[str]:
    for app in ("giftcards.delivery", "giftcards.oscar"):
        for name in re.findall(
            r'name="(\w+)"', ast.unparse(tree_of(f"{app}.urls")).replace("'", '"')
        ):
            yield f"{app.replace('.', '_')}:{name}"


def _templates() -> Iterator[str]:
    root = _PACKAGE / "delivery" / "templates"
    for path in (root / "giftcards_delivery").rglob("*.*"):
        blocks = re.findall(r"{% block (\w+) ", path.read_text())
        yield " ".join([path.relative_to(root).as_posix(), *sorted(set(blocks))])
    yield "admin/giftcards/index.html"
    yield "giftcards_oscar/my_cards.html"


def _variables() -> Iterator[str]:
    for template, sources in _TEMPLATES.items():
        for source in sources:
            module, _, function = source.rpartition(" ")
            found = _keys_of_dicts(module, function) if module else [source]
            yield from (f"{template}: {name}" for name in found)


def _keys_of_dicts(module: str, function: str) -> Iterator[str]:
    node, _lines = definition(module, function)
    for each in ast.walk(node):
        if isinstance(each, ast.Dict):
            yield from (it.value for it in each.keys if isinstance(it, ast.Constant))
