"""URLs of the shop, including those of the app while it is installed."""

from __future__ import annotations

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if apps.is_installed("giftcards.delivery"):
    urlpatterns.append(path("cards/", include("giftcards.delivery.urls")))
