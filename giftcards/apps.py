from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _

import giftcards.checks  # noqa: F401 (registers them)
from giftcards.keys.wiping import overwrite_deleted


class GiftcardsConfig(AppConfig):
    name = "giftcards"
    verbose_name = _("Gift cards")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # Imported here, because they import the models.
        from giftcards.conditions import register
        from giftcards.core_conditions import CONDITIONS
        from giftcards.engine.clock import clock_set_back
        from giftcards.engine.task_queue import follow_clock

        register(CONDITIONS)
        clock_set_back.connect(follow_clock, dispatch_uid="giftcards.follow_clock")
        connection_created.connect(overwrite_deleted, dispatch_uid="giftcards.overwrite_deleted")
