from __future__ import annotations

import itertools
import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from giftcards.management.base import GiftcardsCommand, refuse, unfinished
from giftcards.management.output import counted
from giftcards.models import Order
from giftcards.privacy.erasure import REASONS, Erasure, SharedNumber, erase, find_orders, why_kept
from giftcards.privacy.export import describe, write_new
from giftcards.privacy.person import CUSTOMER, RECIPIENT, Person, find_account

# The maximum number of references that a message lists.
_NAMED = 20


class Command(GiftcardsCommand):
    help = (
        "Export all stored data about a customer, or erase the customer. After an"
        " erasure, the orders and the ledger remain, but without the customer's data"
        " and the card codes. An erasure cannot be undone."
    )
    notes = (
        "Recipients of gifts count as customers.",
        "Exit code 1 means that the customer has no orders, or that a part of the data"
        " must not be erased yet and therefore nothing was erased. Exit code 2 also"
        " means that orders with this phone number have different e-mail addresses, or"
        " that FILE exists already.",
    )
    examples = (
        (
            "Export the stored data about a customer:",
            "amina@example.com --export amina.json",
        ),
        ("Show what an erasure would do:", "'0555 12 34 56' --erase --dry-run"),
        ("Export, then erase:", "amina@example.com --export amina.json --erase"),
        ("Erase a customer who has an account:", "--user amina --erase"),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "customer",
            metavar="EMAIL",
            nargs="?",
            default="",
            help="The customer's e-mail address or phone number (default: none; give --user).",
        )
        parser.add_argument(
            "--user",
            default="",
            metavar="NAME",
            help="The user name of the customer's account, instead of EMAIL (default: none).",
        )
        parser.add_argument(
            "--export",
            type=Path,
            metavar="FILE",
            help="Write the stored data to a new JSON file that only you can read (default: none).",
        )
        parser.add_argument(
            "--language",
            default="",
            help="The language of the export (default: the language of the customer's last order).",
        )
        parser.add_argument(
            "--erase",
            action="store_true",
            help="Erase the customer. With --export, the data is exported first (default: do not).",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help=(
                "With --erase, only show what would be done. Nothing is changed, and no file"
                " is written (default: erase)."
            ),
        )
        parser.add_argument(
            "--yes",
            action="store_true",
            help="With --erase, do not ask for confirmation (default: ask).",
        )

    def handle(self, **options: Any) -> None:
        person = _person(options)
        try:
            orders, others = find_orders(person)
        except SharedNumber as error:
            raise refuse(
                f"The orders that were found have {error.addresses} different e-mail addresses,"
                f" which may belong to different people: {_some(error.references)}. Nothing was"
                " written or erased. The pages of the orders in the admin show the addresses. Run"
                " the command once for each address instead."
            ) from None
        self.say(_found(person, orders), options)
        other_references = [order.reference for order in others]
        if others:
            text = (
                f"Not included: {counted(len(others), 'order')} with a further address,"
                f" number or account: {_some(other_references)}. If these details belong to the"
                " same customer, run the command for them, too."
            )
            self.say(text, options)
        done = Erasure()
        if options["erase"]:
            reasons = ((order, why_kept(order, person.roles_in(order))) for order in orders)
            done.kept = {order.reference: reason for order, reason in reasons if reason}
        # If an order is kept, the command has to be run again, and that run would refuse to
        # overwrite an existing file. Therefore, this run does not write a file.
        if orders and not done.kept:
            done = self._do(person, orders, options)
        if options["json"]:
            self.write_json(
                {
                    "orders": len(orders),
                    "erased": len(done.erased),
                    "kept": done.kept,
                    "named_by_reference": done.telling,
                    "others": other_references,
                }
            )
        if not orders:
            raise unfinished("No order of this customer was found. Nothing was done.")
        if done.kept:
            raise unfinished(_why_unfinished(done))

    def _do(self, person: Person, orders: Sequence[Order], options: dict[str, Any]) -> Erasure:
        if options["dry_run"]:
            self._foretell(orders, options)
            return Erasure()
        if options["erase"]:
            self._ask(person, options)
        if options["export"]:
            self._export(person, orders, options)
        return self._erase(person, orders, options) if options["erase"] else Erasure()

    def _foretell(self, orders: Sequence[Order], options: dict[str, Any]) -> None:
        path = options["export"]
        # lexists() also finds a dangling symbolic link, at which the file could not be created
        # either.
        if path and os.path.lexists(path):
            raise _in_the_way(path)
        number = counted(len(orders), "order")
        self.say(f"The customer can be erased: the data in {number} would be erased.", options)
        if path:
            self.say(f"{path} would be written.", options)

    def _export(self, person: Person, orders: Sequence[Order], options: dict[str, Any]) -> None:
        path = options["export"]
        try:
            write_new(path, describe(person, orders, language=options["language"]))
        except FileExistsError:
            raise _in_the_way(path) from None
        except OSError as error:
            text = f"{path} could not be written ({error.strerror}). Nothing was erased."
            raise unfinished(text) from None
        self.say(
            f"The data was written to {path}, which only you can read. Hand the file over safely.",
            options,
        )

    def _ask(self, person: Person, options: dict[str, Any]) -> None:
        if options["yes"]:
            return
        if options["json"] or not sys.stdin.isatty():
            raise refuse("Nothing was erased: add --yes if you are sure.")
        what = "user name" if options["user"] else "address or number"
        self.put(f"Erased data cannot be restored. To confirm, type the {what} again:", ending=" ")
        try:
            typed = input()
        except EOFError:
            typed = ""
        is_same = typed == options["user"] if options["user"] else Person.of(typed) == person
        if not is_same:
            raise refuse("This text does not match your search. Nothing was erased.")

    def _erase(self, person: Person, orders: Sequence[Order], options: dict[str, Any]) -> Erasure:
        text, number = f"Erasing {counted(len(orders), 'order')}", itertools.count(1)
        with self.progress(options) as progress:

            def should_continue() -> bool:
                progress.advance(text, next(number), len(orders))
                return True

            done = erase(person, orders, should_continue=should_continue)
        lines = [
            f"The {role.label} of {counted(done.roles[role], noun)} was erased."
            for role, noun in ((CUSTOMER, "order"), (RECIPIENT, "gift"))
            if done.roles[role] or role == CUSTOMER
        ]
        if done.telling:
            lines += [
                "These references contain details of the customer and are kept:"
                f" {_some(done.telling)}."
            ]
        self.say("\n".join(lines), options)
        return done


def _person(options: Mapping[str, Any]) -> Person:
    if options["user"] and options["customer"]:
        raise refuse("Use either EMAIL or --user, not both.")
    person = _with_account(options["user"]) if options["user"] else Person.of(options["customer"])
    if not person:
        raise refuse("Enter an e-mail address or a phone number of at least six digits.")
    if not options["export"] and not options["erase"]:
        raise refuse("Use --export FILE, --erase, or both.")
    if (options["dry_run"] or options["yes"]) and not options["erase"]:
        raise refuse("--dry-run and --yes can only be used with --erase.")
    return person


def _with_account(name: str) -> Person:
    account = find_account(name)
    if account is None:
        raise refuse("No account has this user name.")
    return Person.of_user(account)


def _found(person: Person, orders: Sequence[Order]) -> str:
    gifts = sum(role == RECIPIENT for _order, role in person.parts_of(orders))
    if not gifts:
        return f"{counted(len(orders), 'order')} of this customer."
    return f"{counted(len(orders), 'order')} of this person, including {counted(gifts, 'gift')}."


def _in_the_way(path: Path) -> CommandError:
    return refuse(f"{path} already exists. Nothing was written or erased.")


def _why_unfinished(done: Erasure) -> str:
    lines = [f"Order {name} is kept: {REASONS[reason]}." for name, reason in done.kept.items()]
    return "\n".join(lines if done.erased else ["Nothing can be erased yet.", *lines])


def _some(references: Sequence[str]) -> str:
    more = f" and {len(references) - _NAMED} more" if len(references) > _NAMED else ""
    return ", ".join(references[:_NAMED]) + more
