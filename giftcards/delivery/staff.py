"""The people who receive digests, and what they are allowed to see."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.db.models import Q, QuerySet
from django.utils.translation import gettext, ngettext

from giftcards.delivery.channels import describe
from giftcards.delivery.conf import StaffPerson, conf
from giftcards.delivery.digest_items import told_conditions
from giftcards.delivery.models import StaffDigest
from giftcards.models import Order
from giftcards.models.order_queries import leaves_some_out
from giftcards.rules.roles import ROLES

logger = logging.getLogger(__name__)


def listed() -> dict[str, StaffPerson]:
    """Return a dict that maps addresses to the people who receive digests.

    If two people share an address, the dict contains only the first.
    """
    people: dict[str, StaffPerson] = {}
    for person in conf.staff_emails:
        people.setdefault(person.address, person)
    return people


def permissions_of(person: StaffPerson) -> Callable[[str], bool]:
    """Return a function that checks the permissions of ``person``.

    The returned function takes the name of a permission, and returns True if the person has this
    permission. If the person has a role, the person has at most the permissions of the role's
    group. If there are staff accounts with the person's address, at least one active account must
    also have the permission.
    """
    held = None if person.role is None else _permissions_of_role(person.role)
    accounts = _accounts_of_staff(person.address)

    def may(permission: str) -> bool:
        is_of_role = held is None or permission in held
        return is_of_role and (
            not accounts or any(user.is_active and user.has_perm(permission) for user in accounts)
        )

    return may


def _permissions_of_role(name: str) -> set[str]:
    """Return the permissions of the group with this name.

    If the group does not exist, the function returns the permissions of the role with this name.
    """
    if not Group.objects.filter(name=name).exists():
        return {f"giftcards.{codename}" for codename in ROLES[name]}
    of_group = Permission.objects.filter(group__name=name)
    labels = of_group.order_by().values_list("content_type__app_label", "codename")
    return {f"{label}.{codename}" for label, codename in labels}


def _accounts_of_staff(address: str) -> list[Any]:
    """Return the staff accounts that have this e-mail address.

    Customer accounts do not count, because anyone can sign up with any address.
    """
    users = get_user_model()
    column = users.get_email_field_name()
    if not hasattr(users, column):
        return []
    found = users._default_manager.filter(**{f"{column}__iexact": address})  # noqa: SLF001
    return [user for user in found if getattr(user, "is_staff", False)]


def orders_of(person: StaffPerson) -> QuerySet[Order]:
    """Return the orders that can be named in digests for ``person``.

    These are the orders that an active staff account with the person's address is allowed to see.
    If there is no such account, digests can name all orders.
    """
    accounts = [user for user in _accounts_of_staff(person.address) if user.is_active]
    if not (accounts and apps.is_installed("django.contrib.admin")):
        return Order.objects.all()
    from giftcards.admin.frame.rows import orders_shown_to

    try:
        shown = list(map(orders_shown_to, accounts))
    except Exception as error:  # noqa: BLE001 (an admin of the shop may raise anything)
        logger.error(  # noqa: TRY400 (its text may name a customer)
            "The orders that a person may see are unknown, so the digest does not name orders. %s",
            describe(error),
        )
        return Order.objects.none()
    if not all(map(leaves_some_out, shown)):
        return Order.objects.all()
    parts = (Q(pk__in=orders.order_by().values("pk")) for orders in shown)
    return Order.objects.filter(reduce(or_, parts))


def unreached() -> dict[str, str]:
    """Return a dict of addresses that get no digests, with the reasons."""
    people = listed()
    found = {address: _why_told_nothing(person) for address, person in people.items()}
    for digest in StaffDigest.objects.filter(failures__gt=0, address__in=people):
        found[digest.address] = found[digest.address] or failing_text(digest)
    return {address: reason for address, reason in found.items() if reason}


def _why_told_nothing(person: StaffPerson) -> str:
    """Return the reason why ``person`` does not receive digests, or ""."""

    def is_told(may: Callable[[str], bool]) -> bool:
        return any(may(condition.permission) for condition in told_conditions().values())

    if is_told(permissions_of(person)):
        return ""
    if person.role and not is_told(_permissions_of_role(person.role).__contains__):
        text = gettext(
            "The group %(group)s does not have permission to see any part of the digest."
        )
        return text % {"group": f"\u2068{person.role}\u2069"}
    if not any(user.is_active for user in _accounts_of_staff(person.address)):
        return gettext("The staff account with this address is deactivated.")
    return gettext(
        "The staff account with this address does not have permission to see any part of the"
        " digest."
    )


def failing_text(digest: StaffDigest) -> str:
    text = ngettext(
        "cannot be sent: %(count)s attempt failed",
        "cannot be sent: %(count)s attempts failed",
        digest.failures,
    )
    return text % {"count": digest.failures}
