"""The customer's pages: ``path("cards/", include("giftcards.delivery.urls"))``."""

from __future__ import annotations

from django.urls import path

from giftcards.delivery import views

app_name = "giftcards_delivery"
urlpatterns = [
    path("<str:token>/", views.cards, name="cards"),
    path("", views.my_cards, name="my_cards"),
]
