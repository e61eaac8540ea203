"""The groups of staff that ``giftcards_setup`` creates, and what each of them may do.

A group is created once. After that it is the shop's: nothing that the shop adds is taken away, and
nothing that it takes away comes back, unless it asks for a repair.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from django.contrib.auth.models import Group, Permission
from django.db import IntegrityError, router, transaction

from giftcards.exceptions import ConfigurationError

#: Codenames of permissions of the app ``giftcards``, by the name of the group. The names are
#: data of the shop's database: they are not translated.
ROLES: Mapping[str, Collection[str]] = {
    # "Give me my code", "What did I pay?", "Why was this refunded?", "Is anybody working on it?"
    "Gift card support": ("view_order", "check_order", "find_card", "reveal_card"),
    # Everything that there is. Nobody edits or deletes orders.
    "Gift card manager": (
        "view_order",
        "add_order",
        "check_order",
        "resolve_order",
        "find_card",
        "reveal_card",
        "view_cardreveal",
        "settle_refund",
        "view_customerrefund",
        "export_order",
        "view_cost",
        "view_ledgerentry",
        "view_product",
        "view_producttype",
        "view_providerstate",
        "resume_provider",
    ),
    # All of the money, and none of the codes.
    "Gift card accountant": (
        "view_order",
        "view_cost",
        "view_ledgerentry",
        "export_order",
        "settle_refund",
        "view_customerrefund",
    ),
}


@dataclass(frozen=True, slots=True)
class Role:
    """What has become of a group."""

    name: str
    #: "created", "repaired" or "in place", as for the schedule.
    outcome: str
    #: The permissions of the role that the group does not have.
    missing: Collection[str] = ()


def ensure_roles(permissions: Mapping[str, Permission], *, repair: bool = False) -> list[Role]:
    """Create the groups that do not exist; with ``repair``, add what others of them lack.

    ``permissions``: see :func:`role_permissions`.
    """
    return [_ensure(name, permissions, repair=repair) for name in ROLES]


def role_permissions() -> dict[str, Permission]:
    """The permissions of all roles, by codename.

    Raises :exc:`~giftcards.exceptions.ConfigurationError` if they are not there yet: Django creates
    them at the end of ``manage.py migrate``.
    """
    wanted = {codename for role in ROLES.values() for codename in role}
    found = Permission.objects.filter(content_type__app_label="giftcards", codename__in=wanted)
    permissions = {permission.codename: permission for permission in found}
    if missing := wanted - permissions.keys():
        raise ConfigurationError(
            f"These permissions are not there yet: {', '.join(sorted(missing))}. Django creates"
            " them at the end of `manage.py migrate`: run it to its end, then run this again."
        )
    return permissions


def _ensure(name: str, permissions: Mapping[str, Permission], *, repair: bool) -> Role:
    wanted = [permissions[codename] for codename in ROLES[name]]
    group = Group.objects.filter(name=name).first() or _create(name, wanted)
    if group is None:
        return Role(name, "created")
    held = set(group.permissions.values_list("pk", flat=True))
    missing = [permission for permission in wanted if permission.pk not in held]
    if not (missing and repair):
        return Role(name, "in place", [permission.codename for permission in missing])
    group.permissions.add(*missing)
    return Role(name, "repaired")


def _create(name: str, wanted: Collection[Permission]) -> Group | None:
    """Create the group; the one of another process if that was first."""
    try:
        # With its permissions or not at all: it is not looked after a second time.
        with transaction.atomic(using=router.db_for_write(Group)):
            Group.objects.create(name=name).permissions.add(*wanted)
    except IntegrityError:
        return Group.objects.get(name=name)
    return None
