from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from giftcards.engine.task_queue import ensure_schedule
from giftcards.management.base import GiftcardsCommand
from giftcards.management.roles import ensure_roles, role_permissions


class Command(GiftcardsCommand):
    notes = (
        "It leaves alone when the schedule runs next, and whether it is paused (repeats is 0).",
        "Exit code 2: also if migrate has not made the permissions yet.",
    )
    examples = (
        ("After every deployment:", ""),
        ("Give the groups back what they lack of their permissions:", "--repair-groups"),
    )
    help = (
        "Create or repair the schedule that follows the orders, and create the groups of staff that"
        " do not exist. Safe to repeat."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--repair-groups",
            action="store_true",
            help="Also add the permissions that existing groups lack; none is ever taken away"
            " (default: existing groups are left alone).",
        )

    def handle(self, **options: Any) -> None:
        # The first two refuse if something is missing: then nothing has been done.
        permissions = role_permissions()
        schedule = ensure_schedule()
        roles = ensure_roles(permissions, repair=options["repair_groups"])
        groups = {role.name: {"outcome": role.outcome, "missing": role.missing} for role in roles}
        lines = [
            f"The schedule is {schedule.value}."
            " Orders are followed while `manage.py qcluster` runs."
        ]
        for role in roles:
            lines += [f"The group {role.name} is {role.outcome}."]
            if role.missing:
                lines[-1] += f" It lacks {', '.join(role.missing)}; --repair-groups adds that."
        self.show({"schedule": schedule.value, "groups": groups}, "\n".join(lines), options)
