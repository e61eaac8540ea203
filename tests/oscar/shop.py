"""Helpers that act as customers, staff and the worker in the test shop and read its pages."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from oscar.core.loading import get_class, get_model

from giftcards.engine import background
from giftcards.models import Order, ProductType
from giftcards.models import Product as ProviderProduct
from giftcards.oscar.lines import sku_of, stock_records
from tests.builders import PRODUCT, TYPE, make_offer, set_shelf
from tests.stage import ago, run_sweep

Basket = get_model("basket", "Basket")
Line = get_model("order", "Line")
OscarOrder = get_model("order", "Order")
Partner = get_model("partner", "Partner")
Product = get_model("catalogue", "Product")
ProductClass = get_model("catalogue", "ProductClass")
StockRecord = get_model("partner", "StockRecord")

# A card costs 490 DA. The shelf adds 8 % and rounds up to 10 DA.
PRICE = Decimal(530)
_numbers = itertools.count(1)


def open_shop() -> None:
    """Put 100 cards of each type on the shelf, just read, and create oscar products for them."""
    set_shelf(margin_percent=8, round_to=10)
    for type_id in (TYPE, "TEST_PARTIAL", "TEST_REFUND", "SIM_REJECT"):
        make_offer(type_id, name=type_id, stock=100)
    call_command("giftcards_oscar_sync", "--create", "--with-tests", verbosity=0)


def age(seconds: float) -> None:
    """Pretend that the catalogue was read ``seconds`` ago."""
    then = ago(seconds)
    ProductType.objects.update(read_at=then)
    ProviderProduct.objects.update(types_read_at=then, asked_at=then)


def record_of(type_id: str = TYPE) -> Any:
    """Return the current stock record of a card."""
    return stock_records().get(partner_sku=sku_of(PRODUCT, type_id))


def card(type_id: str = TYPE) -> Any:
    """Return the oscar product of a card."""
    return record_of(type_id).product


def book(price: int = 900) -> Any:
    """Create and return a product that another partner sells."""
    product_class, _ = ProductClass.objects.get_or_create(
        name="Book", defaults={"requires_shipping": False, "track_stock": True}
    )
    partner, _ = Partner.objects.get_or_create(name="A publisher")
    product = Product.objects.create(product_class=product_class, title="A book")
    number = next(_numbers)
    StockRecord.objects.create(
        product=product, partner=partner, partner_sku=f"book-{number}", price=price, num_in_stock=99
    )
    return product


def give_voucher(percent: int) -> str:
    """Create a voucher for ``percent`` off everything, and return its code."""
    number = next(_numbers)
    everything = get_model("offer", "Range").objects.create(
        name=f"All {number}", includes_all_products=True
    )
    offer = get_model("offer", "ConditionalOffer").objects.create(
        name=f"{percent} % off {number}",
        offer_type="Voucher",
        condition=get_model("offer", "Condition").objects.create(
            range=everything, type="Count", value=1
        ),
        benefit=get_model("offer", "Benefit").objects.create(
            range=everything, type="Percentage", value=percent
        ),
    )
    now = timezone.now()
    voucher = get_model("voucher", "Voucher").objects.create(
        name=f"Voucher {number}",
        code=f"OFF{number}",
        start_datetime=now - timedelta(days=1),
        end_datetime=now + timedelta(days=1),
    )
    voucher.offers.add(offer)
    return str(voucher.code)


class Customer:
    """A customer with a browser, who is logged in unless ``is_guest`` is true."""

    def __init__(self, *, language: str = "en", is_guest: bool = False) -> None:
        self.browser = Client(headers={"accept-language": language})
        self.email = f"customer-{next(_numbers)}@example.com"
        self.is_guest = is_guest
        #: The messages on the last page.
        self.told: list[str] = []
        if not is_guest:
            self.user = get_user_model().objects.create_user(self.email, self.email, "secret")
            self.browser.force_login(
                self.user, backend="oscar.apps.customer.auth_backends.EmailBackend"
            )

    def put(self, product: Any, quantity: int = 1) -> None:
        """Put a product into the basket."""
        self._go("post", reverse("basket:add", args=[product.pk]), {"quantity": quantity})

    def use_voucher(self, code: str) -> None:
        self._go("post", reverse("basket:vouchers-add"), {"code": code})

    def go_to_pay(self) -> str:
        """Go through the steps of the checkout, and return the address where they end."""
        if self.is_guest:
            self._go(
                "post", reverse("checkout:index"), {"username": self.email, "options": "anonymous"}
            )
        return self._go("get", reverse("checkout:index"))

    def pay(self) -> Any | None:
        """Go through the checkout and pay; return the oscar order, or ``None`` if there is none."""
        self.go_to_pay()
        return self.press()

    def press(self) -> Any | None:
        """Press the button that pays; return the oscar order, or ``None`` if there is none."""
        end = self._go("post", reverse("checkout:preview"), {"action": "place_order"})
        if end != reverse("checkout:thank-you"):
            return None
        return OscarOrder.objects.get(pk=self.browser.session["checkout_order_id"])

    def buy(self, product: Any, quantity: int = 1, *, voucher: str = "") -> Any | None:
        """Buy a product; return the oscar order, or ``None`` if there is none."""
        self.put(product, quantity)
        if voucher:
            self.use_voucher(voucher)
        return self.pay()

    def _go(self, method: str, address: str, data: Any = None) -> str:
        page = getattr(self.browser, method)(address, data, follow=True)
        assert page.status_code == 200
        self.told = [plain(str(message)) for message in page.context["messages"]]
        return page.redirect_chain[-1][0] if page.redirect_chain else address


def bought(product: Any, quantity: int = 1) -> Any:
    """Have a new customer buy the product, and return the line of the paid order."""
    order = Customer().buy(product, quantity)
    assert order is not None
    return order.lines.get()


def work() -> None:
    """Run what the worker does within a minute or two."""
    run_sweep()
    daily = max(background.lanes(), key=len)
    background.give_turns(daily, threading.Event(), lambda: True)


def order_for(line: Any) -> Order:
    return Order.objects.get(reference=f"oscar-line-{line.pk}")


def status_of(line: Any) -> str:
    return str(Line.objects.get(pk=line.pk).status)


def notes(line: Any) -> list[str]:
    """Return the notes on the order of the line, the oldest first."""
    found = line.order.notes.order_by("pk").values_list("message", flat=True)
    return list(map(plain, found))


def plain(text: str) -> str:
    """Return the text without directional marks, and with ordinary spaces."""
    return text.translate({0x2068: None, 0x2069: None, 0xA0: " "})


def paths(simulator: Any) -> Sequence[str]:
    """Return the paths of the requests to the provider, in order, without their common prefix."""
    return [request.path.removeprefix("/v3/gift-cards/") for request in simulator.requests]


def payment_view() -> Any:
    return get_class("checkout.views", "PaymentDetailsView")
