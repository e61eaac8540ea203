"""The page of the messages to customers."""

from __future__ import annotations

from django.contrib import admin

from giftcards.admin.readonly import ReadOnly
from giftcards.delivery.admin.previews import PreviewPages
from giftcards.delivery.models import Delivery


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly, PreviewPages):
    class Media:
        css = {"all": ("giftcards/admin.css", "giftcards_delivery/admin.css")}
