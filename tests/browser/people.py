"""The users of the pages: the roles of staff, and people whose browser runs no scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.management import call_command
from django.test import Client

from tests.browser.browser import Browser

# The groups that the app creates, and a role without a group that may only view orders.
ROLES = {
    "support": ("Gift card support",),
    "manager": ("Gift card manager",),
    "accountant": ("Gift card accountant",),
    "reader": (),
}
PASSWORD = "correct horse"


def log_in_as(browser: Browser, role: str) -> None:
    """Log in a user who has the role and its name, instead of the previous user."""
    users = get_user_model().objects
    person = users.filter(username=role).first()
    if person is None:
        call_command("giftcards_setup", verbosity=0)
        person = users.create_user(role, password=PASSWORD, is_staff=True)
        person.groups.set(Group.objects.filter(name__in=ROLES[role]))
        person.user_permissions.add(Permission.objects.get(codename="view_order"))
    client = Client()
    client.force_login(person)
    browser.set_cookie("sessionid", client.cookies["sessionid"].value)


@contextmanager
def without_script(browser: Browser) -> Iterator[None]:
    """Stop pages from running their own scripts. The driver's scripts still run."""
    command = "Emulation.setScriptExecutionDisabled"
    browser.driver.execute_cdp_cmd(command, {"value": True})
    try:
        yield
    finally:
        browser.driver.execute_cdp_cmd(command, {"value": False})
