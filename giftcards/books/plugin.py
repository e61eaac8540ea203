"""The plugin that extends the core with the ledger and the reports."""

from __future__ import annotations

from giftcards.books.conditions import CONDITIONS
from giftcards.books.months import check_closed_month
from giftcards.books.reading import read_if_due
from giftcards.engine.background import Work
from giftcards.plugins import Plugin

PLUGIN = Plugin(
    app="giftcards_books",
    conditions=CONDITIONS,
    work=(
        Work(name="the reading of the provider's ledger", do=read_if_due),
        Work(name="the comparison of closed months", do=check_closed_month),
    ),
    order_pages="giftcards.books.admin.EXTENSION",
    roles={
        "Gift card manager": ("view_ledgerentry", "close_month"),
        "Gift card accountant": ("view_ledgerentry", "close_month"),
    },
)
