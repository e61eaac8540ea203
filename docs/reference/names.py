"""The list of promised names; changing it is a decision, see ``docs/versions.md``."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from docs.reference.api import SIGNALS, errors, functions, signals_of
from docs.reference.commands import COMMANDS, own_arguments
from docs.reference.settings import DICTS, default_of
from docs.reference.source import definition, tree_of
from giftcards import exceptions
from giftcards.delivery.conf import Kind
from giftcards.delivery.templatetags.giftcards_delivery import register as tags
from giftcards.fulfilment import OrderDetails
from giftcards.rules.roles import ROLES
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS
from giftcards.watch.metrics import FAMILIES

FOLDER = Path(__file__).parent
FILE = FOLDER / "names.txt"
_PACKAGE = FOLDER.parent.parent / "giftcards"
_HEAD = """\
# The public names of this version. Other names in the reference are information, and may change in
# a feature release. JSON keys that equal an attribute of a model or class below are not repeated.
"""
# Names that other pages than that of the API describe. The functions of that page are added. The
# fields of a class are in parentheses; its methods, properties and attributes follow a colon.
_PYTHON = (
    "giftcards.admin OrderAdmin: get_order_buttons has_report_permission",
    "giftcards.admin ProviderStateAdmin: get_sections",
    "giftcards.admin.frame.actions OrderButton(label url is_post is_minor is_final)",
    "giftcards.admin.frame.reauthentication record_proof",
    "giftcards.admin.frame.rows OnlyFilters",
    "giftcards.admin.frame.rows OrderRows: order_lookup",
    "giftcards.books.reports By",
    "giftcards.books.reports Report(rows total)",
    "giftcards.books.reports Row(key label figures)",
    "giftcards.books.summary Summary(gap promised_not_credited credited_not_promised"
    " charged_unknown ordered_not_charged)",
    "giftcards.catalogue Guest(visitor network)",
    "giftcards.catalogue Quote(cost price stock available balance read_at no_answer):"
    " total_cost is_for_sale",
    "giftcards.delivery.channels AddressRefused",
    "giftcards.delivery.channels Channel: name address_of recipient_address_of send",
    "giftcards.delivery.channels Mail",
    "giftcards.delivery.channels Message(kind reference language address subject text html short"
    " link id): phone",
    "giftcards.delivery.channels OutcomeUnknown",
    "giftcards.delivery.channels SlowDown",
    "giftcards.delivery.pins last_digits_of_phone",
    "giftcards.delivery.tasks deliver",
    "giftcards.models Category",
    "giftcards.models RedemptionInstructions",
    "giftcards.models Shelf",
    "giftcards.oscar.checkout BasketRefused: sentences",
    "giftcards.oscar.checkout GiftCardsCheckout: get_customer",
    "giftcards.oscar.checkout check_cards",
    "giftcards.oscar.checkout release_cards",
    "giftcards.oscar.checkout reserve_cards",
    "giftcards.payments PaymentAnswer(status amount currency is_sandbox)",
    "giftcards.payments PaymentLink(ref url is_sandbox)",
    "giftcards.privacy.person CUSTOMER",
    "giftcards.privacy.person Keeper: app_label orders addresses describe erase",
    "giftcards.privacy.person RECIPIENT",
    "giftcards.privacy.person Traces: are_in",
    "giftcards.privacy.person add_keeper",
    "giftcards.refunds RefundBreakdown(ordered_amount charged_amount refunded_quantity"
    " refunded_amount is_consistent)",
    "giftcards.rules.problems Problem(code parameters): text remedy",
    "giftcards.settlement CustomerBreakdown(paid_amount kept_amount owed_amount paid_back_amount"
    " open_amount)",
    "giftcards.simulator Simulator",
    "giftcards.statuses Status",
    "giftcards.tasks sweep",
    "giftcards.text.spelling international_phone",
    "giftcards.watch.health GiftcardsCondition(condition)",
    "giftcards.watch.metrics GiftcardsCollector",
    "giftcards.watch.metrics metrics",
)
# The columns, properties and managers' methods that a shop may use.
MODELS = (
    "giftcards.models Order: reference provider_order_id product_id type_id quantity status"
    " fulfilled_quantity fulfilled_amount price_per_card sale_price sale_amount max_price group"
    " metadata user customer_email customer_name customer_phone customer_language recipient_email"
    " recipient_name recipient_language gift_message deliver_at problems repeats created_at"
    " finalized_at paid_back_amount open_amount cards changes refunds is_final is_gift"
    " is_on_hold is_late provider_reference product_name type_name needs_attention open() needing_attention()",
    "giftcards.models Card: order value serial sealed",
    "giftcards.models StatusChange: order from_status to_status at source details announced_at",
    "giftcards.models CustomerRefund: order amount state method reference executed_at created_by"
    " comment",
    "giftcards.models CardReveal: card user at address reason",
    "giftcards.models Product: product_id name category",
    "giftcards.models ProductType: product type_id name cost stock price available read_at"
    " for_sale()",
    "giftcards.models ProviderState: balance balance_read_at",
    "giftcards.books.models LedgerEntry: provider_id type amount balance_after time order is_guess",
    "giftcards.delivery.models Delivery: order change kind address language status attempts"
    " next_attempt_at error",
    "giftcards.delivery.models CardLink: order token_hash expires_at revoked_at",
    "giftcards.delivery.models LinkVisit: link at what address agent",
)
# The promised sections of the page about JSON. The objects listed with a section are not promised
# in detail: they help to find a cause, have data as keys, or print a class or model above.
_JSON: Mapping[str, tuple[str, ...]] = {
    "An order": ("refund", "customer", "refunds"),
    "giftcards_status": (
        "orders",
        "provider",
        "requests",
        "waiting",
        "encryption_keys",
        "api_keys",
        "versions",
    ),
    "giftcards_report": (),
    "giftcards_ledger": (),
}
# The simulator does not serve customers, so only its option in the tutorial is promised.
_PROMISED_OPTIONS = {"giftcards_simulator": ("--port",)}
_PERMISSIONS = (
    "view_order",
    "add_order",
    "check_order",
    "resolve_order",
    "find_card",
    "reveal_card",
    "settle_refund",
    "export_order",
    "view_cost",
    "export_customer",
    "erase_customer",
    "resume_provider",
)
_TEMPLATES = (
    "admin/giftcards/index.html",
    "giftcards_delivery/digest/mail.txt",
    "giftcards_delivery/digest/subject.txt",
    "giftcards_delivery/messages/<kind>/body.txt",
    "giftcards_delivery/messages/<kind>/short.txt",
    "giftcards_delivery/messages/<kind>/subject.txt",
)


def names() -> str:
    """Return the names by heading, one in a line, sorted."""
    sections = {
        "Python, with parameters": _python(),
        "Errors": _errors(),
        "Signals": (f"{module}.{name}" for module in SIGNALS for name in signals_of(module)),
        "Attributes of models, and methods of their managers": _models(),
        "Statuses": Status.values,
        "Kinds of messages": Kind.values,
        "Settings, with defaults": _settings(),
        "Commands": _commands(),
        "JSON of the commands": _json(),
        "Conditions for monitors": CONDITIONS,
        "Metrics, with their label": (f"{it.name} {it.label}".strip() for it in FAMILIES),
        "Groups of staff": ROLES,
        "Permissions": (f"giftcards.{codename}" for codename in _PERMISSIONS),
        "Names of URLs": [
            "admin:giftcards_card_reveal",
            "admin:giftcards_customer_data",
            "admin:giftcards_help",
            *_urls(),
        ],
        "Templates, with blocks": _templates(),
        "Template tags and filters": {**tags.tags, **tags.filters, "giftcards_desk": None},
    }
    parts = ["\n".join([f"# {head}", *sorted(set(lines))]) for head, lines in sections.items()]
    return "\n\n".join([_HEAD, *parts]).replace("\n\n\n", "\n\n") + "\n"


def promised() -> list[str]:
    """Return the lines of the list that contain a name."""
    return [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]


def _python() -> Iterator[str]:
    for entry in (*functions(), *_PYTHON):
        path, fields, members = _parts(entry)
        module, name = path.split()
        path = f"{module}.{name}"
        if name.isupper():
            yield path
            continue
        node, _lines = definition(module, name)
        if not isinstance(node, ast.ClassDef):
            yield f"{path}({_parameters(node)})"
            continue
        known = {it.target.id for it in node.body if isinstance(it, ast.AnnAssign)}
        if unknown := set(fields) - known:
            raise LookupError(f"{path} has no {unknown}.")
        yield f"{path}({', '.join(fields)})" if fields else path
        yield from (f"{path}.{_member(node, module, it)}" for it in members)


def _parts(entry: str) -> tuple[str, list[str], list[str]]:
    """Return the module and name of an entry, the fields in parentheses, and the other members."""
    path, _, members = entry.partition(":")
    path, _, fields = path.rstrip(")").partition("(")
    return path, fields.split(), members.split()


def _member(node: ast.ClassDef, module: str, member: str) -> str:
    """Return a method with its parameters, or an attribute; the class may have inherited it."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == member:
            is_property = any(ast.unparse(it) == "property" for it in each.decorator_list)
            return member if is_property else f"{member}({_parameters(each)})"
        if member in {getattr(getattr(each, "target", None), "id", ""), *_assigned(each)}:
            return member
    kind = getattr(importlib.import_module(module), node.name)
    home = next(it for it in kind.__mro__[1:] if member in vars(it))
    return _member(definition(home.__module__, home.__name__)[0], home.__module__, member)


def _assigned(node: ast.stmt) -> list[str]:
    """Return the attributes that a class body or a constructor sets."""
    if isinstance(node, ast.Assign):
        return [it.id for it in node.targets if isinstance(it, ast.Name)]
    is_constructor = isinstance(node, ast.FunctionDef) and node.name == "__init__"
    return [
        it.attr
        for it in ast.walk(node)
        if is_constructor and isinstance(it, ast.Attribute) and isinstance(it.ctx, ast.Store)
    ]


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Return the parameters without types, because a type checker compares types better."""
    given = node.args
    if given.kwarg and ast.unparse(given.kwarg.annotation or given.kwarg) == "Unpack[OrderDetails]":
        details = OrderDetails.__annotations__
        given.kwonlyargs += [ast.arg(name) for name in details]
        given.kw_defaults += [ast.Constant(...) for _ in details]
        given.kwarg = None
    for argument in ast.walk(given):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(given)


def _errors() -> Iterator[str]:
    for name in (*errors(), "ProviderError", "Refused"):
        yield f"giftcards.exceptions.{name}({getattr(exceptions, name).__base__.__name__})"
    yield from (f"giftcards.exceptions.NotForSale.{name}" for name in ("code", "for_customer"))


def attributes() -> dict[str, list[str]]:
    """Return the promised attributes by the path of their model."""
    entries = (entry.partition(": ") for entry in MODELS)
    return {path.replace(" ", "."): members.split() for path, _, members in entries}


def _models() -> Iterator[str]:
    for model, members in attributes().items():
        yield from (f"{model}.{member}" for member in members)


def _settings() -> Iterator[str]:
    for each in DICTS:
        for key, setting in each.declared.items():
            default = "" if setting.required else f" = {default_of(setting)}"
            yield f'{each.dict_name}["{key}"]{default}'


def _commands() -> Iterator[str]:
    printing = []
    for command in COMMANDS:
        actions = own_arguments(command)
        if any("--json" in it.option_strings for it in actions):
            printing.append(command)
        yield " ".join([command, *(it.dest.upper() for it in actions if not it.option_strings)])
        for action in actions:
            option = next((it for it in action.option_strings if it.startswith("--")), "")
            promised = _PROMISED_OPTIONS.get(command, (option,))
            if option in promised and option not in {"", "--json"}:
                yield f"{command} {option}"
    yield " ".join(["--json, of", *sorted(printing)])


def _json() -> Iterator[str]:
    """Yield the keys on the page about JSON, which a test compares with the printed keys."""
    columns = attributes()["giftcards.models.Order"]
    for title, information in _JSON.items():
        keys = json_keys()[title]
        for key in keys:
            stem = re.sub("_(amount|references)$", "", key)
            is_listed = title == "An order" and key in columns
            if key.partition(".")[0] not in information and not is_listed:
                more = [f"{stem}_amount", f"{stem}_references"]
                yield f"{title}: {' '.join([stem, *more]) if more[1] in keys else key}"
        yield from (f"{title}: {key}" for key in information)


def json_keys() -> dict[str, list[str]]:
    """Return the documented keys by section title or by command; inner keys have dots."""
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


def _urls() -> Iterator[str]:
    for app in ("giftcards.delivery", "giftcards.oscar"):
        for name in re.findall(
            r'name="(\w+)"', ast.unparse(tree_of(f"{app}.urls")).replace("'", '"')
        ):
            yield f"{app.replace('.', '_')}:{name}"


def _templates() -> Iterator[str]:
    yield from _TEMPLATES
    root = _PACKAGE / "delivery" / "templates"
    for path in (root / "giftcards_delivery").rglob("*.html"):
        if blocks := re.findall(r"{% block (\w+) ", path.read_text()):
            yield " ".join([path.relative_to(root).as_posix(), *sorted(set(blocks))])
