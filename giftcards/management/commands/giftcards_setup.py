from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from giftcards.conf import conf
from giftcards.engine.task_queue import ensure_schedule
from giftcards.management.base import GiftcardsCommand
from giftcards.management.groups import ensure_roles, role_permissions


class Command(GiftcardsCommand):
    notes = (
        "The command does not change the time of the next run of the schedule. If you paused"
        " the schedule (repeats is 0), it stays paused.",
        "Exit code 2 also means that `migrate` has not created the permissions yet.",
    )
    examples = (
        ("Run the command after every deployment:", ""),
        ("Restore missing permissions of the groups:", "--repair-groups"),
    )
    help = (
        "Create the staff groups that do not exist yet. If django-q2 follows the"
        " orders, also create or repair its schedule. You can run this command as often"
        " as you like."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--repair-groups",
            action="store_true",
            help="Add missing permissions to existing groups. Permissions are never removed"
            " (default: existing groups are not changed).",
        )

    def handle(self, **options: Any) -> None:
        # role_permissions() raises an error if a permission is missing, so the call comes before
        # any change.
        permissions = role_permissions()
        schedule = ensure_schedule()
        roles = ensure_roles(permissions, repair=options["repair_groups"])
        groups = {role.name: {"outcome": role.outcome, "missing": role.missing} for role in roles}
        if schedule is not None:
            worker = "`manage.py qcluster`"
            lines = [f"The schedule is {schedule.value}."]
        elif conf.queue_task is not None:
            worker = "its worker"
            lines = [
                f"Tasks go to the queue of QUEUE_TASK ({conf.queue_task}). Configure this queue"
                " or cron to call giftcards.tasks.tick once a minute."
            ]
        else:
            worker = "`manage.py giftcards_worker` or another worker"
            lines = ["No schedule is needed, because django-q2 does not run the tasks."]
        lines[0] += f" Orders are followed while {worker} runs."
        for role in roles:
            lines += [f"The group {role.name} is {role.outcome}."]
            if role.missing:
                lines[-1] += (
                    f" It lacks these permissions: {', '.join(role.missing)}. Use"
                    " --repair-groups to add them."
                )
        outcome = schedule and schedule.value
        self.show({"schedule": outcome, "groups": groups}, "\n".join(lines), options)
