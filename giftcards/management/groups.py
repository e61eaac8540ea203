"""The groups of staff that ``giftcards_setup`` creates, one for each role.

The command creates a group if the group does not exist. After that, the shop can change the group.
Permissions that the shop adds are never removed. Permissions that the shop removes are only
restored with ``--repair-groups``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from django.contrib.auth.models import Group, Permission
from django.db import IntegrityError, router, transaction

from giftcards.exceptions import ConfigurationError
from giftcards.rules.roles import BY_APP, ROLES


class Role(NamedTuple):
    """The result of ``giftcards_setup`` for one role's group."""

    name: str
    #: "created", "repaired" or "in place".
    outcome: str
    #: The codenames of the permissions that the group lacks.
    missing: Collection[str] = ()


#: The app label and the codename of a permission.
_Key = tuple[str, str]


def ensure_roles(permissions: Mapping[_Key, Permission], *, repair: bool = False) -> list[Role]:
    """Create missing groups.

    If ``repair`` is True, missing ``permissions`` are added to existing groups.
    """
    return [_ensure(name, permissions, repair=repair) for name in ROLES]


def role_permissions() -> dict[_Key, Permission]:
    """Return the permissions of all roles.

    Raises ``ConfigurationError`` if a permission does not exist.
    """
    wanted = {key for name in ROLES for key in _wanted(name)}
    found = Permission.objects.select_related("content_type").filter(
        content_type__app_label__in={label for label, _codename in wanted},
        codename__in={codename for _label, codename in wanted},
    )
    permissions = {(one.content_type.app_label, one.codename): one for one in found}
    if missing := wanted - permissions.keys():
        names = ", ".join(sorted(codename for _label, codename in missing))
        raise ConfigurationError(
            f"These permissions do not exist yet: {names}. Django creates them at the end of"
            " `manage.py migrate`. Run `migrate` to its end, and then run this command again."
        )
    return permissions


def _wanted(name: str) -> list[_Key]:
    return [
        (label, codename) for label, roles in BY_APP.items() for codename in roles.get(name, ())
    ]


def _ensure(name: str, permissions: Mapping[_Key, Permission], *, repair: bool) -> Role:
    wanted = [permissions[key] for key in _wanted(name)]
    group = Group.objects.filter(name=name).first()
    if group is None:
        try:
            # The group and its permissions are created in one transaction, because a later run
            # might not complete a group without permissions.
            with transaction.atomic(using=router.db_for_write(Group)):
                Group.objects.create(name=name).permissions.add(*wanted)
        except IntegrityError:
            group = Group.objects.get(name=name)
        else:
            return Role(name, "created")
    held = set(group.permissions.values_list("pk", flat=True))
    missing = [permission for permission in wanted if permission.pk not in held]
    if not (missing and repair):
        return Role(name, "in place", [permission.codename for permission in missing])
    group.permissions.add(*missing)
    return Role(name, "repaired")
