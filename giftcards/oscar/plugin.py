"""What the app for django-oscar adds to the core."""

from __future__ import annotations

from giftcards.engine.background import Work
from giftcards.oscar import receivers
from giftcards.oscar.buying import buy_missed
from giftcards.oscar.checks import check_settings, check_shop
from giftcards.oscar.stock import follow_changes
from giftcards.plugins import Plugin

PLUGIN = Plugin(
    app="giftcards_oscar",
    work=(
        Work(name="the lines that are paid", do=buy_missed),
        Work(name="the stock records", do=follow_changes),
    ),
    checks=(check_settings, check_shop),
    connect=receivers.connect,
)
