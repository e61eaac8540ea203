"""The URLs of the shop that the recipes build."""

from __future__ import annotations

from shop import navio_urls, urls

urlpatterns = [
    *urls.urlpatterns,
    *navio_urls.urlpatterns,
]
