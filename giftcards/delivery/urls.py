"""The URLs of the customer's pages.

Include these URLs in the site with ``path("cards/", include("giftcards.delivery.urls"))``.
"""

from __future__ import annotations

from django.urls import path, re_path

from giftcards.delivery import views
from giftcards.delivery.links import TOKEN_LENGTH

app_name = "giftcards_delivery"
urlpatterns = [
    path("<str:token>/", views.cards, name="cards"),
    # Programs may cut off or lengthen the URL of a link. Without this pattern, Django would log the
    # secret URL as not found.
    re_path(
        rf"^(?P<token>[A-Za-z0-9_-]{{{TOKEN_LENGTH}}})(?:[^A-Za-z0-9_-][\s\S]*)?$", views.cards
    ),
    path("", views.my_cards, name="my_cards"),
]
