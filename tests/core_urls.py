"""URLs of a site with the core alone."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("language/", include("django.conf.urls.i18n"))]
