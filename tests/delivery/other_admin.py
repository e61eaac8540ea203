"""URLs of a shop with its own admin, in which only orders are registered."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from giftcards.admin import OrderAdmin
from giftcards.models import Order

site = admin.AdminSite(name="other")
site.register(Order, OrderAdmin)
urlpatterns = [path("other/", site.urls)]
