"""Orders in the Django admin: viewing, placing and checking them. Only revealing shows a code."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from giftcards.admin.correcting import CUSTOMER
from giftcards.admin.deciding import (
    CHECK,
    DISPUTE,
    FINGERPRINT,
    NOTE,
    REPEAT,
    TICK_OFF,
)
from giftcards.admin.extensions import Extension
from giftcards.admin.finding import FIND_CARD
from giftcards.admin.held import PRICE, REVIEW, WAIT
from giftcards.admin.listing import OrderList
from giftcards.admin.order_page import OrderPage
from giftcards.admin.owning import GIVE_BACK, TAKE, TAKE_OVER
from giftcards.admin.placing import PlacingPage
from giftcards.admin.refunding import CANCEL, COMPLETE, PAY_BACK, SALE
from giftcards.admin.resolving import ADOPT, RELEASE, RESOLVE
from giftcards.admin.revealing import ASK, REVEAL
from giftcards.admin.searching import SEARCH
from giftcards.models import Order

EXTENSION = Extension(
    # In the order of their buttons; rare ones come last.
    actions=(
        RESOLVE,
        PRICE,
        REVIEW,
        WAIT,
        CHECK,
        PAY_BACK,
        REPEAT,
        SALE,
        TAKE,
        DISPUTE,
        RELEASE,
        CUSTOMER,
        TICK_OFF,
        NOTE,
        TAKE_OVER,
        GIVE_BACK,
        COMPLETE,
        CANCEL,
    ),
    pages=(FINGERPRINT, ADOPT, SEARCH, FIND_CARD, ASK, REVEAL),
)


@admin.register(Order)
class OrderAdmin(OrderList, OrderPage, PlacingPage):
    """The orders' pages. To use a subclass, unregister this class first, and register yours.

    Its ``get_queryset`` decides which orders a person is shown and told of, wherever that is.
    """

    class Media:
        css = {"all": ("giftcards/admin.css",)}

    # Orders are history: they are viewed, placed and checked, but never edited or deleted.

    def has_change_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Order | None = None) -> bool:
        return False
