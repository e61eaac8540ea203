from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BooksConfig(AppConfig):
    name = "giftcards.books"
    label = "giftcards_books"
    verbose_name = _("Gift cards: the provider's ledger")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from giftcards.books.plugin import PLUGIN
        from giftcards.plugins import install

        install(PLUGIN)
