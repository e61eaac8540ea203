"""The groups of staff that ``giftcards_setup`` creates, and what each of them may do.

An app that adds pages for staff has ``roles`` in its plugin: a mapping like :data:`ROLES`, of
codenames of its own permissions.

A group is created once. After that it belongs to the shop: permissions that the shop adds stay, and
those that it removes come back only by a repair.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from django.contrib.auth.models import Group, Permission
from django.db import IntegrityError, router, transaction
from django.utils.translation import gettext

from giftcards.exceptions import ConfigurationError
from giftcards.plugins import INSTALLED

#: Codenames of permissions of the app ``giftcards``, by the name of the group. The names are
#: data of the shop's database: they are not translated.
ROLES: Mapping[str, Collection[str]] = {
    # "Give me my code", "What did I pay?", "Why was this refunded?", "Is anybody working on it?"
    # "I typed my address wrong."
    "Gift card support": (
        "view_order",
        "check_order",
        "correct_customer",
        "find_card",
        "reveal_card",
    ),
    # Everything. Nobody edits or deletes orders.
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
        "view_product",
        "view_producttype",
        "view_providerstate",
        "resume_provider",
    ),
    # All of the money, and none of the codes.
    "Gift card accountant": (
        "view_order",
        "view_cost",
        "export_order",
        "settle_refund",
        "view_customerrefund",
    ),
}


def whom_to_ask(may: Callable[[str], bool], permissions: Collection[str]) -> str:
    """A sentence with the roles of those who may do it all; "" for a person who may.

    ``permissions`` are such as ``giftcards.add_order``; ``may`` tells whether the person has one.
    """
    if all(map(may, permissions)):
        return ""
    wanted = {permission.removeprefix("giftcards.") for permission in permissions}
    roles = [name for name, held in ROLES.items() if wanted <= set(held)]
    text = gettext("For what you may not do yourself, ask a colleague with this role: %(roles)s.")
    return text % {"roles": " / ".join(f"\u2068{name}\u2069" for name in roles)}


class Role(NamedTuple):
    """The outcome for one group."""

    name: str
    #: "created", "repaired" or "in place", as for the schedule.
    outcome: str
    #: The codenames of the role's permissions that the group lacks.
    missing: Collection[str] = ()


#: A permission by the label of its app and its codename.
_Key = tuple[str, str]


def ensure_roles(permissions: Mapping[_Key, Permission], *, repair: bool = False) -> list[Role]:
    """Create missing groups; with ``repair``, give existing ones the ``permissions`` they lack."""
    return [_ensure(name, permissions, repair=repair) for name in ROLES]


def role_permissions() -> dict[_Key, Permission]:
    """The permissions of all roles, by the label of their app and their codename."""
    wanted = {key for name in ROLES for key in _wanted(name)}
    found = Permission.objects.select_related("content_type").filter(
        content_type__app_label__in={label for label, _codename in wanted},
        codename__in={codename for _label, codename in wanted},
    )
    permissions = {(one.content_type.app_label, one.codename): one for one in found}
    if missing := wanted - permissions.keys():
        names = ", ".join(sorted(codename for _label, codename in missing))
        raise ConfigurationError(
            f"These permissions are not there yet: {names}. Django creates"
            " them at the end of `manage.py migrate`: run it to its end, then run this again."
        )
    return permissions


def _wanted(name: str) -> list[_Key]:
    """The permissions of a role: ours first, then those of optional apps."""
    of_plugins = {plugin.app: plugin.roles for plugin in INSTALLED.values() if plugin.roles}
    roles = {"giftcards": ROLES, **of_plugins}
    return [
        (label, codename) for label, of_app in roles.items() for codename in of_app.get(name, ())
    ]


def _ensure(name: str, permissions: Mapping[_Key, Permission], *, repair: bool) -> Role:
    wanted = [permissions[key] for key in _wanted(name)]
    group = Group.objects.filter(name=name).first()
    if group is None:
        try:
            # Together with its permissions: an existing group is left as it is.
            with transaction.atomic(using=router.db_for_write(Group)):
                Group.objects.create(name=name).permissions.add(*wanted)
        except IntegrityError:
            # Another process was first.
            group = Group.objects.get(name=name)
        else:
            return Role(name, "created")
    held = set(group.permissions.values_list("pk", flat=True))
    missing = [permission for permission in wanted if permission.pk not in held]
    if not (missing and repair):
        return Role(name, "in place", [permission.codename for permission in missing])
    group.permissions.add(*missing)
    return Role(name, "repaired")
