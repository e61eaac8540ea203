from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DeliveryConfig(AppConfig):
    name = "giftcards.delivery"
    label = "giftcards_delivery"
    verbose_name = _("Gift cards: messages to customers")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from giftcards.delivery.plugin import PLUGIN
        from giftcards.plugins import install

        install(PLUGIN)
