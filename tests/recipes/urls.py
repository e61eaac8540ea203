"""The pages of the shop that the recipes build."""

from __future__ import annotations

from django.urls import path
from shop import async_views, navio_urls, urls, webhooks

urlpatterns = [
    *urls.urlpatterns,
    *navio_urls.urlpatterns,
    path("buy/<int:line_pk>/", async_views.buy),
    path("provider/", webhooks.provider),
]
