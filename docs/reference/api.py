"""The pages of the Python API and of signals."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.reference.source import definition, source_of
from docs.reference.texts import page, table
from giftcards import exceptions
from giftcards import signals as core_signals
from giftcards.exceptions import GiftcardsError, ProviderError

_INTRO = """\
This page is for developers of shops. It describes the functions that your code calls, and what they return and raise.
[The list of public names](names.md) also contains the names that other pages describe.

Some functions take the `by` argument, which is the name of the person who made the decision. These functions do not
check permissions. Your code has to check permissions before it calls them."""
_ERRORS = """\
All errors are in `giftcards.exceptions`. The texts of errors never contain a card code, an API key or the body of an
answer. Only the functions of `giftcards.payments` raise `ProviderError` and its subclasses, such as `Refused`. For the
other functions, errors of the provider appear in the status and the problems of an order."""
# By heading: the module and the name of each function and class. A class is listed below the
# function that returns it, and its methods and properties follow a colon.
API: Mapping[str, tuple[str, ...]] = {
    "Placing and correcting": (
        "giftcards.fulfilment place_order",
        "giftcards.fulfilment OrderDetails",
        "giftcards.fulfilment aplace_order",
        "giftcards.fulfilment check_soon",
        "giftcards.fulfilment change_customer",
        "giftcards.fulfilment record_sale_amount",
        "giftcards.fulfilment reorder_missing",
    ),
    "Orders that wait": (
        "giftcards.fulfilment cancel_order",
        "giftcards.fulfilment approve_price",
        "giftcards.fulfilment approve_review",
    ),
    "The shelf": (
        "giftcards.catalogue offers",
        "giftcards.catalogue descriptions",
        "giftcards.catalogue Description",
        "giftcards.catalogue redemption_instructions",
        "giftcards.catalogue quote",
        "giftcards.catalogue Quote: is_for_sale total_cost",
        "giftcards.catalogue check_offer",
        "giftcards.catalogue reserve",
        "giftcards.catalogue customer_of",
        "giftcards.catalogue Guest",
        "giftcards.catalogue client_network",
        "giftcards.catalogue release",
    ),
    "Payments": (
        "giftcards.payments create_payment_link",
        "giftcards.payments PaymentLink",
        "giftcards.payments check_payment",
        "giftcards.payments PaymentAnswer",
    ),
    "Refunds": (
        "giftcards.refunds refund_breakdown",
        "giftcards.refunds RefundBreakdown",
        "giftcards.settlement customer_breakdown",
        "giftcards.settlement CustomerBreakdown",
        "giftcards.settlement record_refund",
        "giftcards.settlement cancel_refund",
    ),
    "Reports and the ledger": (
        "giftcards.books.reports report",
        "giftcards.books.reports Report",
        "giftcards.books.exports report_rows",
        "giftcards.books.exports order_rows",
        "giftcards.books.exports as_csv",
        "giftcards.books.exports write_xlsx",
        "giftcards.books.conditions money_in_open_orders",
        "giftcards.books.summary ledger_summary",
    ),
    "Problems": ("giftcards.rules.problems Problem: of text remedy hint",),
    "Tasks": ("giftcards.tasks tick",),
}
# The page about reports describes these functions in detail.
_IN_SHORT = ("report_rows", "order_rows", "as_csv", "write_xlsx")
SIGNALS = ("giftcards.signals",)
MODELS = {
    "giftcards.models": [
        "Order",
        "Card",
        "CustomerRefund",
        "CustomerChange",
        "StatusChange",
        "Product",
        "ProductType",
        "RedemptionInstructions",
        "OfferChange",
        "ProviderState",
        "CardReveal",
    ],
    "giftcards.books.models": ["LedgerEntry"],
    "giftcards.delivery.models": ["Delivery", "CardLink", "LinkVisit", "StaffDigest"],
}


def api() -> str:
    parts = [_INTRO]
    for heading, entries in API.items():
        parts.append(f"## {heading}")
        for entry in entries:
            module, name, members = parsed(entry)
            node, lines = definition(module, name)
            is_class = isinstance(node, ast.ClassDef)
            if not is_class:
                parts.append(f"### {name}")
            code = _class(node, lines, members) if is_class else _function(node, lines)
            parts.append("\n".join(["```python", f"# {module}", *code, "```"]))
            text = in_markdown(ast.get_docstring(node) or "")
            parts.append(text.partition("\n\n")[0] if name in _IN_SHORT else text)
    parts += ["## Errors", _ERRORS, table(("error", "means"), _errors())]
    return page("Python API", *parts)


def parsed(entry: str) -> tuple[str, str, list[str]]:
    """Return the module, the name and the members of an entry of ``API``."""
    path, _, members = entry.partition(":")
    module, name = path.split()
    return module, name, members.split()


def _function(node: Any, lines: list[str]) -> list[str]:
    code = inspect.cleandoc("\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1]))
    return f"{code} ...".splitlines()


def _class(node: ast.ClassDef, lines: list[str], members: list[str]) -> list[str]:
    """Return the class with its fields, and the signatures of its members."""
    fields = [it for it in node.body if isinstance(it, ast.AnnAssign)]
    code = [lines[node.lineno - 1]]
    code += [f"    {ast.unparse(it.target)}: {ast.unparse(it.annotation)}" for it in fields]
    for name in members:
        [method] = [it for it in node.body if getattr(it, "name", "") == name]
        code += ["", *(f"    @{ast.unparse(it)}" for it in getattr(method, "decorator_list", []))]
        code += [f"    {line}" for line in _function(method, lines)]
    return code


def _errors() -> Iterator[tuple[str, str]]:
    for name, kind in errors().items():
        text = (inspect.getdoc(kind) or "").replace("\n\n", "\n")
        yield f"`{name}({kind.__mro__[1].__name__})`", in_markdown(text)


def errors() -> dict[str, type[GiftcardsError]]:
    """Return the errors that any function may raise."""
    return {
        name: kind
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type)
        and issubclass(kind, GiftcardsError)
        and not issubclass(kind, ProviderError)
    }


def functions() -> list[str]:
    """Return the entries of ``API`` that are functions."""
    entries = (entry for entries in API.values() for entry in entries)
    return [entry for entry in entries if parsed(entry)[1].islower()]


def signals() -> str:
    parts = [in_markdown(inspect.getdoc(core_signals) or "")]
    for module in SIGNALS:
        for name, comment in signals_of(module).items():
            parts += [f"## {name}", f"`{module}.{name}`", in_markdown(comment)]
    return page("Signals", *parts)


def signals_of(module: str) -> dict[str, str]:
    """Return the comment of each signal of the module."""
    found = re.findall(r"^((?:#: .*\n)+)(\w+) = \w*Signal\(\)$", source_of(module), re.MULTILINE)
    return {name: re.sub(r"^#: ", "", comment, flags=re.MULTILINE) for comment, name in found}


def in_markdown(text: str) -> str:
    """Return a docstring or comment as Markdown, with links to names of the reference."""
    text = re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(text))
    text = "\n\n".join(_joined(part) for part in text.split("\n\n"))
    return re.sub(r":\w+:`~?([^`]+)`", lambda found: _link(found[1]), text)


def _joined(paragraph: str) -> str:
    """Return the paragraph as one line, or a list with one line for each item."""
    return "\n".join(" ".join(item.split()) for item in re.split(r"\n(?=- )", paragraph))


def _link(path: str) -> str:
    name = path.rpartition(".")[2]
    target = _targets().get(name)
    return f"[`{name}`]({target})" if target else f"`{name}`"


def _targets() -> dict[str, str]:
    functions = [parsed(entry)[1] for entries in API.values() for entry in entries]
    return {
        **{name: f"api.md#{name}" for name in functions if name[0].islower()},
        **{name: f"models.md#{name.lower()}" for names in MODELS.values() for name in names},
        **{name: f"signals.md#{name}" for module in SIGNALS for name in signals_of(module)},
        "Problem": "api.md#problems",
    }
