"""Placing an order by hand: a form, and a confirmation page before anything is bought."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from django.contrib.admin.models import ADDITION
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.utils import flatten_fieldsets, label_for_field
from django.core.exceptions import PermissionDenied
from django.db import models, router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.forms import AmountField, OrderForm, card_choices
from giftcards.admin.pages import OrderPages, log_entries
from giftcards.admin.provider import pause_in_words
from giftcards.catalogue import Quote, quote
from giftcards.display import bdi, filled, moment, money, named
from giftcards.engine.resolving import NoAnswer
from giftcards.models import Order, ProductType

# A value younger than this is shown without its age.
_FRESH = timedelta(minutes=1)
# Posted fields that the confirmation does not repeat: its own, and the CSRF token.
_NOT_HANDED_ON = {"csrfmiddlewaretoken", "confirmed_card", "confirmed_price", "_change"}
# For PAUSED, the provider's state has better words.
_NO_ANSWER = {
    NoAnswer.BUSY: _("The provider is being asked too much else: the price is not up to date."),
    NoAnswer.UNREACHABLE: _("The provider could not be asked: the price is not up to date."),
    NoAnswer.NOT_CONFIGURED: _(
        "This server has no key for the provider: the price is not up to date."
    ),
}
_SALE: Any = (
    _("Your sale"),
    {
        "fields": (
            ("sale_price", "sale_amount"),
            "max_price",
            "group",
            "customer_name",
            "customer_phone",
            "customer_email",
            "customer_language",
        )
    },
)


class PlacingPage(OrderPages):
    """The form for a new order, and its confirmation."""

    form = OrderForm
    formfield_overrides: ClassVar = {models.DecimalField: {"form_class": AmountField}}
    add_form_template = "admin/giftcards/order/add_form.html"
    #: The form's fields while the catalogue has not been read.
    add_fieldsets: Any = (
        (
            None,
            {
                "fields": ("product_id", "type_id", "quantity", "reference"),
                "description": _(
                    "The provider's catalogue has not been read yet: give the ids that it names."
                ),
            },
        ),
        _SALE,
    )
    #: The same once it has been read.
    add_fieldsets_with_catalogue: Any = (
        (None, {"fields": ("card", "quantity", "reference")}),
        _SALE,
        # In rows of their own: Django opens a collapsed part for errors in such fields only.
        (_("By id"), {"classes": ("collapse",), "fields": ("product_id", "type_id")}),
    )

    def get_urls(self) -> list[URLPattern]:
        # The provider is asked outside any transaction, whatever ATOMIC_REQUESTS says.
        outside = transaction.non_atomic_requests(using=router.db_for_write(Order))
        view = outside(self.admin_site.admin_view(self.add_view))
        return [path("add/", view, name="giftcards_order_add"), *super().get_urls()]

    # The form.

    def get_fieldsets(self, request: HttpRequest, obj: Order | None = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        kinds = _kinds(request)
        if not kinds:
            return self.add_fieldsets
        (title, options), *others = self.add_fieldsets_with_catalogue
        return ((title, {"description": _as_read(kinds), **options}), *others)

    def get_form(
        self, request: HttpRequest, obj: Order | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        person: Any = request.user.pk

        def is_known(_form: OrderForm, order: Order) -> bool:
            """True if this person may see the order, or placed it, as after a double click."""
            return (
                self.may_see(request, order)
                or log_entries(order).filter(user_id=person, action_flag=ADDITION).exists()
            )

        kinds = [] if obj else _kinds(request)
        cards = kinds and card_choices(kinds, with_prices=self.may_see_costs(request))
        return type(form.__name__, (form,), {"is_known": is_known, "cards": cards})

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        # Read before the transaction: SQLite may fail one that reads before it writes.
        _kinds(request)
        if request.method == "POST" and not request.POST.get("confirmed_card"):
            names = flatten_fieldsets(self.get_fieldsets(request))
            form = self.get_form(request, fields=names)(request.POST, request.FILES)
            if form.is_valid() and form.placed is None:
                return self._confirmation(request, form)
        return super().add_view(request, form_url, extra_context)

    # The confirmation.

    def _confirmation(self, request: HttpRequest, form: OrderForm) -> HttpResponse:
        """The page that says what will be bought, for how much, and what speaks against it."""
        order: Order = form.instance
        known = quote(order.product_id, order.type_id)
        sees_costs = self.may_see_costs(request)
        price = known.price if sees_costs and known.is_for_sale else None
        posted = [
            (name, value)
            for name, values in request.POST.lists()
            if name not in _NOT_HANDED_ON
            for value in values
        ]
        posted.append(("confirmed_card", f"{order.product_id} {order.type_id}"))
        if price is not None and not _is_too_dear(order, price):
            posted.append(("confirmed_price", str(price)))
        return self.render_page(
            request,
            "confirm",
            title=gettext("Buy these cards?"),
            is_popup=IS_POPUP_VAR in request.POST,
            facts=_bought(order, known),
            costs=_costs(order, known) if sees_costs else None,
            sale=_sale(form),
            warnings=_warnings(order, known, sees_costs=sees_costs),
            pause=pause_in_words(),
            posted=posted,
            button=_button(order.quantity, price),
        )

    # After it.

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Order:
        super().save_form(request, form, change)
        placed: Order = form.placed
        return placed

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        """Do nothing: :func:`~giftcards.fulfilment.place_order` has written the row."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        # No entry for a person who typed the reference of an existing order.
        return super().log_addition(request, obj, message) if obj.is_new else None

    def response_add(
        self, request: HttpRequest, obj: Order, post_url_continue: str | None = None
    ) -> HttpResponse:
        if IS_POPUP_VAR in request.POST:
            return super().response_add(request, obj, post_url_continue)
        self.say_recorded(request, obj)
        if "_addanother" in request.POST:
            return HttpResponseRedirect(request.path)
        if self.may_see(request, obj):
            return self.to_order(obj)
        return self.response_post_save_add(request, obj)


def _kinds(request: HttpRequest) -> list[ProductType]:
    """The types of the catalogue that can be chosen; read once for a request."""
    if not hasattr(request, "giftcards_kinds"):
        request.giftcards_kinds = list(ProductType.objects.for_sale())  # type: ignore[attr-defined]
    kinds: list[ProductType] = request.giftcards_kinds  # type: ignore[attr-defined]
    return kinds


def _as_read(kinds: list[ProductType]) -> str:
    read_at = min(kind.product.types_read_at or kind.product.listed_at for kind in kinds)
    text = gettext("The catalogue was read on %(date)s; the next page asks the provider again.")
    return filled(text, date=moment(read_at))


def _is_too_dear(order: Order, price: Decimal) -> bool:
    """True if a card costs more than it may, so that the order would be held."""
    return order.price_ceiling is not None and price > order.price_ceiling


def _bought(order: Order, known: Quote) -> list[tuple[str, object]]:
    return [
        (_label("product_id"), named(known.names.product, order.product_id)),
        (_label("type_id"), named(known.names.type, order.type_id)),
        (_label("quantity"), order.quantity),
    ]


def _costs(order: Order, known: Quote) -> list[tuple[str, str, str]]:
    """The price per card, the total and the balance: label, amount and age of each."""
    price = known.price if known.is_for_sale else None
    total = None if price is None else price * order.quantity
    age = _age(price, known.price_read_at)
    return [
        (gettext("price per card"), money(price), age),
        (gettext("total"), money(total), age),
        (
            gettext("balance of the account"),
            money(known.balance),
            _age(known.balance, known.balance_read_at),
        ),
    ]


def _age(amount: Decimal | None, read_at: datetime | None) -> str:
    """The age of ``amount`` in words; "" if it is unknown, or under a minute."""
    if amount is None or read_at is None or timezone.now() - read_at < _FRESH:
        return ""
    return gettext("as known %(age)s ago") % {"age": timesince(read_at, depth=1)}


def _sale(form: OrderForm) -> list[tuple[str, object]]:
    """The reference and the sale fields that were given, as they were understood."""
    names = [name for name in flatten_fieldsets((_SALE,)) if form.cleaned_data.get(name)]
    values = {name: form.cleaned_data[name] for name in ("reference", *names)}
    return [
        (_label(name), money(value) if isinstance(value, Decimal) else bdi(value))
        for name, value in values.items()
    ]


def _label(name: str) -> str:
    return label_for_field(name, Order, return_attr=False)


def _warnings(order: Order, known: Quote, *, sees_costs: bool) -> list[str]:
    """The warnings that the person should read before buying.

    People who may not see costs get none about price and balance: the quantity at which such a
    warning appears would tell the amount.
    """
    warnings = []
    if known.no_answer in _NO_ANSWER:
        warnings.append(str(_NO_ANSWER[known.no_answer]))
    if not known.is_for_sale:
        warnings.append(gettext("The provider does not sell this card at present."))
    if known.stock is not None and known.stock < order.quantity:
        text = ngettext(
            "The provider has only %(count)d of these cards in stock.",
            "The provider has only %(count)d of these cards in stock.",
            known.stock,
        )
        warnings.append(text % {"count": known.stock})
    return [*warnings, *_warnings_of_costs(order, known)] if sees_costs else warnings


def _warnings_of_costs(order: Order, known: Quote) -> Iterator[str]:
    if not known.price:
        return
    if _is_too_dear(order, known.price):
        yield gettext("A card costs more than it may: the order will wait until somebody decides.")
    if known.balance is not None and known.balance < known.price * order.quantity:
        yield gettext("The balance of the account does not suffice: the provider will refuse this.")


def _button(quantity: int, price: Decimal | None) -> str:
    if price is not None:
        text = gettext("Buy %(count)s for %(total)s")
        return filled(text, count=quantity, total=money(price * quantity))
    return ngettext("Buy %(count)d card", "Buy %(count)d cards", quantity) % {"count": quantity}
