"""The customer's page: ``path("accounts/cards/", include("giftcards.oscar.urls"))``."""

from __future__ import annotations

from django.apps import apps
from django.urls import path

from giftcards.oscar.views import MyCardsView

app_name = "giftcards_oscar"
# Without giftcards.delivery, which shows cards, there is neither the page nor the tab to it.
has_cards = apps.is_installed("giftcards.delivery")
urlpatterns = [path("", MyCardsView.as_view(), name="my_cards")] if has_cards else []
