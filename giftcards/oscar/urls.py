"""The URL of the "My cards" page.

Include the URLs like this: ``path("accounts/cards/", include("giftcards.oscar.urls"))``.
"""

from __future__ import annotations

from django.apps import apps
from django.urls import path

from giftcards.oscar.views import MyCardsView

app_name = "giftcards_oscar"
# The page and its tab need giftcards.delivery, which shows cards.
has_cards = apps.is_installed("giftcards.delivery")
urlpatterns = [path("", MyCardsView.as_view(), name="my_cards")] if has_cards else []
