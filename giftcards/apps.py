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
        # Imported here, because it imports the models.
        from giftcards.plugins import CORE, install

        connection_created.connect(overwrite_deleted, dispatch_uid="giftcards.overwrite_deleted")
        install(CORE)
