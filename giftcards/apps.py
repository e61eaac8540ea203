from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _

from giftcards.checks import (
    TAG,
    check_api_keys,
    check_cluster,
    check_databases,
    check_passwords,
    check_settings,
    check_stored_cards,
    check_urls,
)
from giftcards.keys.wiping import overwrite_deleted


class GiftcardsConfig(AppConfig):
    name = "giftcards"
    verbose_name = _("Gift cards")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        connection_created.connect(overwrite_deleted, dispatch_uid="giftcards.overwrite_deleted")
        register(check_settings, TAG)
        register(check_cluster, TAG)
        register(check_databases, TAG)
        register(check_urls, TAG)
        register(check_passwords, TAG)
        register(check_stored_cards, TAG, Tags.database)
        register(check_api_keys, TAG, Tags.database)
