from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

import giftcards.checks  # noqa: F401 (registers them)


class GiftcardsConfig(AppConfig):
    name = "giftcards"
    verbose_name = _("Gift cards")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # The import is here because these modules import the models.
        from giftcards.plugins import CORE, install

        install(CORE)
