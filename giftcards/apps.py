from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _

from giftcards.checks import TAG, check_cluster, check_settings


class GiftcardsConfig(AppConfig):
    name = "giftcards"
    verbose_name = _("Gift cards")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        register(check_settings, TAG)
        register(check_cluster, TAG)
