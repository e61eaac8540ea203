"""URLs of a shop with the customer's pages and no others."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("cards/", include("giftcards.delivery.urls"))]
