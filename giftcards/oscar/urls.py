"""The customer's page: ``path("accounts/cards/", include("giftcards.oscar.urls"))``."""

from __future__ import annotations

from django.urls import path

from giftcards.oscar.views import MyCardsView

app_name = "giftcards_oscar"
urlpatterns = [path("", MyCardsView.as_view(), name="my_cards")]
