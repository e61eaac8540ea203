from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BooksConfig(AppConfig):
    name = "giftcards.books"
    label = "giftcards_books"
    verbose_name = _("Gift cards: the provider's ledger")
    default_auto_field = "django.db.models.BigAutoField"
    #: The permissions that giftcards_setup gives to groups of staff: see management/roles.py.
    giftcards_roles: ClassVar[Mapping[str, Collection[str]]] = {
        "Gift card manager": ("view_ledgerentry", "close_month"),
        "Gift card accountant": ("view_ledgerentry", "close_month"),
    }

    def ready(self) -> None:
        from giftcards.books.closing import check_closed_month
        from giftcards.books.conditions import CONDITIONS
        from giftcards.books.nightly import read_if_due
        from giftcards.conditions import register
        from giftcards.tasks import add_chore

        register(CONDITIONS)
        add_chore("the reading of the provider's ledger", read_if_due)
        add_chore("the comparison of closed months", check_closed_month)
