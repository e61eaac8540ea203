"""The roles of staff, with their permissions.

Another app can define its own roles in the ``roles`` attribute of its plugin. The attribute has the
same structure as :data:`ROLES`, with codenames of the other app's permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from django.utils.translation import gettext

#: The codenames of each group's permissions in the ``giftcards`` app, by the name of the group.
#: Groups are rows in the shop's database, so their names are not translated.
ROLES: Mapping[str, Collection[str]] = {
    # Answers customers: "Give me my code", "What did I pay?", "I typed my address wrong".
    "Gift card support": (
        "view_order",
        "check_order",
        "correct_customer",
        "find_card",
        "reveal_card",
    ),
    # Can do everything that staff can do. Editing or deleting an order is not possible.
    "Gift card manager": (
        "view_order",
        "add_order",
        "check_order",
        "resolve_order",
        "correct_customer",
        "find_card",
        "reveal_card",
        "view_cardreveal",
        "settle_refund",
        "view_customerrefund",
        "export_order",
        "view_cost",
        "export_customer",
        "erase_customer",
        "view_product",
        "view_producttype",
        "change_shelf",
        "view_providerstate",
        "resume_provider",
    ),
    # Can see and pay back money, but cannot see codes.
    "Gift card accountant": (
        "view_order",
        "view_cost",
        "export_order",
        "settle_refund",
        "view_customerrefund",
    ),
}

#: The roles of each installed app, by the app's label.
BY_APP: dict[str, Mapping[str, Collection[str]]] = {}


def whom_to_ask(has_permission: Callable[[str], bool], permissions: Collection[str]) -> str:
    """Return a sentence that says which roles have ``permissions``, or "".

    The sentence tells a person whom to ask, and names the roles that have all these permissions.
    ``has_permission`` is a function that takes a permission, for example ``giftcards.add_order``,
    and returns True if the person has it. The result is "" if the person has all permissions.
    """
    if all(map(has_permission, permissions)):
        return ""
    text = gettext("If you lack a permission, ask a colleague with this role: %(roles)s.")
    return text % {"roles": roles_with(permissions)}


def roles_with(permissions: Collection[str]) -> str:
    """Return the names of the roles with all these ``permissions``.

    The result has the form "A / B".
    """
    wanted = {permission.removeprefix("giftcards.") for permission in permissions}
    roles = [name for name, held in ROLES.items() if wanted <= set(held)]
    return " / ".join(f"\u2068{name}\u2069" for name in roles)
