"""The JSON of the API: what customers can send, and what they receive."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import Any

from django.utils.functional import cached_property
from rest_framework import serializers

from giftcards.catalogue import Description, check_offer, descriptions
from giftcards.exceptions import NotForSale
from giftcards.models import Order, ProductType
from giftcards.settlement import customer_breakdown
from giftcards.statuses import Status

_STATES = {
    Status.UNCONFIRMED: "delayed",
    Status.DELAYED: "delayed",
    Status.FULFILLED: "delivered",
    Status.PARTIALLY_FILLED: "partly_delivered",
    Status.REFUNDED: "not_delivered",
    Status.REJECTED: "not_delivered",
}


class OfferSerializer(serializers.Serializer[Any]):
    """An item of the shelf."""

    id = serializers.IntegerField(source="kind.pk")
    name = serializers.CharField()
    note = serializers.CharField()
    price = serializers.DecimalField(max_digits=12, decimal_places=2)
    is_sold_out = serializers.BooleanField()
    region = serializers.CharField(source="told.region")
    instructions = serializers.CharField(source="told.instructions")


class KeySerializer(serializers.Serializer[Any]):
    """The customer's key; a second request with the same key repeats the first one."""

    key = serializers.UUIDField()


class LineSerializer(KeySerializer):
    """The cards that a customer buys, at the price shown to the customer."""

    offer = serializers.PrimaryKeyRelatedField(
        queryset=ProductType.objects.select_related("product")
    )
    quantity = serializers.IntegerField(min_value=1, max_value=100)
    price = serializers.DecimalField(max_digits=12, decimal_places=2)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        # The framework answers 400 if no order can have these values. The view answers 409 if the
        # cards cannot be sold.
        with suppress(NotForSale):
            check_offer(
                product_type=attrs["offer"],
                quantity=attrs["quantity"],
                sale_price=attrs["price"],
            )
        return attrs


class OrderSerializer(serializers.ModelSerializer[Order]):
    """An order for its customer. With ``fields = "__all__"``, it would also contain the costs."""

    name = serializers.SerializerMethodField()
    region = serializers.SerializerMethodField()
    instructions = serializers.SerializerMethodField()
    state = serializers.SerializerMethodField()
    delivered = serializers.SerializerMethodField()
    paid = serializers.SerializerMethodField()
    paid_back = serializers.DecimalField(12, 2, source="paid_back_amount")
    to_pay_back = serializers.SerializerMethodField()
    is_reordered = serializers.SerializerMethodField()
    codes = serializers.SerializerMethodField()

    class Meta:
        model = Order
        fields = (
            *("reference", "name", "region", "quantity", "state", "is_final", "delivered"),
            *("paid", "paid_back", "to_pay_back", "is_reordered", "codes", "instructions"),
        )

    @cached_property
    def told(self) -> dict[int, Description]:
        """The texts about the products for customers, read once for all orders of an answer."""
        shown: Any = self.root.instance
        return descriptions([shown] if isinstance(shown, Order) else shown)

    def get_name(self, order: Order) -> str:
        return order.type_name or order.type_id

    def get_region(self, order: Order) -> str:
        return self.told[order.pk].region

    def get_instructions(self, order: Order) -> str:
        return self.told[order.pk].instructions

    def get_state(self, order: Order) -> str:
        status = Status.DELAYED if order.is_late else Status(order.status)
        return _STATES.get(status, "in_progress")

    def get_delivered(self, order: Order) -> int:
        return order.fulfilled_quantity if order.is_final else 0

    def get_paid(self, order: Order) -> str | None:
        """Return the amount paid, or ``None`` while the order is open, like ``to_pay_back``."""
        breakdown = customer_breakdown(order)
        return None if breakdown is None else _text(breakdown.paid_amount)

    def get_to_pay_back(self, order: Order) -> str | None:
        breakdown = customer_breakdown(order)
        return None if breakdown is None else _text(breakdown.open_amount)

    def get_is_reordered(self, order: Order) -> bool:
        """Return True if the missing cards come with another order instead of a refund."""
        return order.reordered_amount is not None

    def get_codes(self, order: Order) -> str:
        """Return ``none`` (also for gifts), ``ready`` to be shown, or ``shown``."""
        if not self.get_delivered(order) or order.is_gift:
            return "none"
        return "shown" if hasattr(order, "api_reveal") else "ready"


def _text(amount: Decimal) -> str:
    return f"{amount:.2f}"
