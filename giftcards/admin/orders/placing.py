"""Placing orders by hand.

Staff fill in a form, and confirm the purchase on a second page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

from django import forms
from django.contrib import messages
from django.contrib.admin.models import ADDITION
from django.contrib.admin.options import IS_POPUP_VAR
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied, ValidationError
from django.db import models, router, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.defaultfilters import linebreaksbr
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.admin.cards.revealing import ProofForm, needs_page_of_shop, other_proof
from giftcards.admin.frame.forms import (
    NO_LANGUAGE,
    WORDS,
    AmountField,
    MomentField,
    language_choices,
)
from giftcards.admin.frame.pages import OrderPages, column_label, log_entries, recorded
from giftcards.admin.frame.reauthentication import is_confirmed, url_of_proof
from giftcards.admin.orders.breakdown import earned, earned_in_words
from giftcards.admin.orders.customer import double_of
from giftcards.admin.orders.describing import told_to_customers
from giftcards.catalogue import Quote, quote
from giftcards.catalogue.descriptions import Description, of_products
from giftcards.engine.approvals import confirm_price
from giftcards.engine.resolving import NoAnswer
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import OrderDetails, place_order
from giftcards.models import Order, ProductType, ProviderState
from giftcards.models.catalogue import is_called
from giftcards.models.orders import OF_GIFT
from giftcards.rules.times import today
from giftcards.text.display import (
    bdi,
    count_text,
    duration_text,
    filled,
    is_whole,
    isolated,
    moment,
    money,
    money_text,
    named,
)

_LINE = {"product_id", "type_id"}
_GIVEN = {*_LINE, "quantity", *OrderDetails.__annotations__}
# Columns with addresses to which cards, or links to cards, may be sent.
_ADDRESSES = ("customer_email", "customer_phone", "recipient_email")
# The error code of a form without the proof of identity.
_UNPROVEN = "unproven"


class CardField(forms.ChoiceField):
    """A form field to choose a product and one of its types.

    The field also accepts the ids of a product and a type that are not among its choices.
    """

    def valid_value(self, value: Any) -> bool:
        return len(str(value).split(" ")) == 2

    def clean(self, value: Any) -> Any:
        """Return the product id and the type id of the chosen card.

        The result is ``None`` if the person has not chosen a card.
        """
        chosen = super().clean(value)
        return tuple(chosen.split(" ")) if chosen else None


def card_choices(
    kinds: Iterable[ProductType], descriptions: Mapping[str, Description], *, with_costs: bool
) -> list[Any]:
    """Return the choices of a :class:`CardField`.

    The choices are the product types in ``kinds``, grouped by product. ``descriptions`` maps the
    provider's product ids to the descriptions of the products.
    """
    groups: list[Any] = [("", _("Choose a card"))]
    for product, of_product in groupby(kinds, key=lambda kind: kind.product):
        texts = [
            (f"{product.product_id} {kind.type_id}", _card(kind, with_costs=with_costs))
            for kind in of_product
        ]
        names = filter(
            None, (product.category.title, str(product), descriptions[product.product_id].region)
        )
        groups.append((" – ".join(map(isolated, names)), texts))
    return groups


def _card(kind: ProductType, *, with_costs: bool) -> str:
    parts = [isolated(kind.title)]
    if kind.price is not None:
        parts.append(money_text(kind.price))
    if with_costs:
        parts.append(gettext("costs %(cost)s") % {"cost": money_text(kind.cost)})
    if kind.stock == 0:
        parts.append(gettext("none in stock"))
    elif kind.stock is not None:
        parts.append(gettext("%(count)s in stock") % {"count": count_text(kind.stock)})
    return " · ".join(parts)


# Letters and digits that look alike are left out.
_SPOKEN = "23456789ABCDEFGHJKLMNPQRSTVWXYZ"


def _readable_reference() -> str:
    """Return a new reference that is easy to read out.

    An example is 261124-7K3M9Q.
    """
    return f"{today():%y%m%d}-{get_random_string(6, _SPOKEN)}"


class OrderForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form for a new order.

    The form is posted once to open the confirmation page, and a second time to confirm. The
    confirmed form places the order at the end of validation, because the reference can only be
    checked when the order is placed. If the order contains an address, a proof of identity is
    required, because cards are sent to that address.
    """

    card = CardField(label=_("Card"), required=False)
    # The card and the price that the confirmation page showed. This price is the limit for the cost
    # of one card, unless a maximum price was entered.
    confirmed_card = CardField(required=False)
    confirmed_price = AmountField(required=False, min_value=0, max_digits=14, decimal_places=2)

    #: After the confirmation, this is the order that the form has placed. Before the confirmation,
    #: it is an existing order with the same reference and cards, if there is one.
    placed: Order | None = None
    #: The choices of the ``card`` field, set by the page.
    cards: Sequence[Any] = ()
    #: True if the person has just proven their identity. The page sets this attribute.
    is_proven = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("initial") or {}
        kwargs["initial"] = {"reference": _readable_reference(), **given}
        super().__init__(*args, **kwargs)
        self.fields["card"].choices = self.cards  # type: ignore[attr-defined]
        for field in self.fields.values():
            # On a page that is written from right to left, a reference or a phone number would be
            # displayed in the wrong direction.
            if isinstance(field.widget, forms.TextInput | forms.EmailInput):
                field.widget.attrs["dir"] = "auto"
        if "reference" in self.fields:
            self.fields["reference"].widget.attrs["data-selects"] = ""
        if self.cards or self.is_confirmed:
            # The choice of a card includes the ids, so they do not have to be typed.
            for name in _LINE & self.fields.keys():
                self.fields[name].required = False

    @property
    def is_confirmed(self) -> bool:
        return bool(self.data.get("confirmed_card"))

    @property
    def lacks_proof(self) -> bool:
        return not self.is_proven and any(map(self.cleaned_data.get, _ADDRESSES))

    @property
    def is_reopened(self) -> bool:
        """True if the person has returned from the confirmation page to the form."""
        return "_change" in self.data

    def is_valid(self) -> bool:
        return super().is_valid() and not self.is_reopened

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        if confirmed := cleaned.get("confirmed_card"):
            cleaned["product_id"], cleaned["type_id"] = confirmed
        elif chosen := cleaned.get("card"):
            if {cleaned.get("product_id"), cleaned.get("type_id")} - {"", None, *chosen}:
                self.add_error("card", gettext("Choose a card or enter its IDs, but not both."))
            cleaned["product_id"], cleaned["type_id"] = chosen
        elif self.cards and "card" not in self.errors:
            self._require_ids(cleaned)
        return cleaned

    def _require_ids(self, cleaned: dict[str, Any]) -> None:
        missing = [name for name in ("product_id", "type_id") if cleaned.get(name) == ""]
        if len(missing) == 2:
            missing = ["card"]
        for name in missing:
            self.add_error(name, self.fields[name].error_messages["required"])

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound or self.errors or self.is_reopened:
            return
        try:
            self.instance.check_gift()
        except ValidationError as error:
            self.add_error(None, error)
            return
        if self.is_confirmed and self.lacks_proof:
            # Because of this error, the page shows the confirmation again, and requests the proof.
            self.add_error(None, ValidationError("", code=_UNPROVEN))
        elif self.is_confirmed:
            self._place()
        else:
            self._look_for_repetition()

    def _place(self) -> None:
        try:
            # A subclass may have fields that place_order does not accept.
            given = {name: self.cleaned_data[name] for name in _GIVEN & self.cleaned_data.keys()}
            with transaction.atomic():
                self.placed = place_order(**given)
                shown = self.cleaned_data.get("confirmed_price")
                if self.placed.is_new and shown is not None:
                    _approve(self.placed, shown)
        except ValidationError as error:
            self.add_error(None, error)
        except ReferenceConflict:
            self._add_taken()
        else:
            if not self.placed.is_new and not self.is_known(self.placed):
                self._add_taken()

    def _look_for_repetition(self) -> None:
        """Look for an order that this form repeats, and store it as ``placed``.

        A form repeats an order if it has the same reference, product, type and quantity, and the
        person is allowed to know that the order exists. If the reference belongs to any other
        order, the function adds an error.
        """
        known = Order.objects.filter(reference=self.cleaned_data.get("reference")).first()
        if known is None:
            return
        line = tuple(self.cleaned_data.get(name) for name in ("product_id", "type_id", "quantity"))
        if known.line == line and self.is_known(known):
            self.placed = known
        else:
            self._add_taken()

    def _add_taken(self) -> None:
        # The message does not describe the order that has the reference, because that order may be
        # hidden from the person.
        taken = gettext(
            "This reference is already in use. Use a different reference for a new order."
        )
        self.add_error("reference", taken)

    def is_known(self, order: Order) -> bool:
        """Return True if the person is allowed to know that ``order`` exists.

        By default, returns False. :meth:`PlacingPage.get_form` overrides the method.
        """
        return False

    def validate_unique(self) -> None:
        """Do not validate.

        The second request of a double click must not cause an error.
        """


def _approve(order: Order, shown: Decimal) -> None:
    """Approve the order's maximum price, or else the price that was shown.

    ``shown`` is the price on the confirmation page. If this price exceeds the order's limit, for
    example because the person lowered the sale price on that page, the function does nothing.
    """
    if not _is_too_dear(order, shown):
        confirm_price(order, shown if order.max_price is None else order.max_price)


class ProposalForm(forms.Form):
    """A form that contains the sale price proposed by the confirmation page.

    If the person did not type a price, the page proposes the shop's price.
    """

    sale_price = AmountField(
        label=capfirst(_("sale price")),
        required=False,
        help_text=_(
            "The amount that the customer pays for a card. The shop's price is entered"
            " automatically, and you can change it."
        ),
    )

    @classmethod
    def of(cls, order: Order, price: Decimal | None) -> ProposalForm | None:
        """Return a form that proposes ``price``, which is the shop's price.

        Returns ``None`` if the shop does not have a price, or if the person has typed a sale price
        or a sale amount.
        """
        if price is None or order.sale_price is not None or order.sale_amount is not None:
            return None
        return cls(initial={"sale_price": int(price) if is_whole(price) else price})


# The age of a price or balance is not shown if it is less than this.
_FRESH = timedelta(minutes=1)
# Posted fields that the confirmation page does not copy into its form.
_NOT_HANDED_ON = {
    "csrfmiddlewaretoken",
    "confirmed_card",
    "confirmed_price",
    "_change",
    "password",
}
# There is no text for a pause of requests, because the provider's state already explains it.
_NO_ANSWER = {
    NoAnswer.BUSY: _(
        "There are too many other requests to the provider, so the price may be out of date."
    ),
    NoAnswer.UNREACHABLE: _("The provider could not be reached, so the price may be out of date."),
    NoAnswer.NOT_CONFIGURED: _("This server has no API key, so the price may be out of date."),
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


_GIFT: Any = (
    _("Gift"),
    {
        "classes": ("collapse",),
        "fields": OF_GIFT,
        "description": _(
            "If you enter an address here, the cards will be sent to that address. The customer"
            " will receive a receipt without codes."
        ),
    },
)


class PlacingPage(OrderPages):
    form = OrderForm
    formfield_overrides: ClassVar = {
        models.DecimalField: {"form_class": AmountField},
        models.DateTimeField: {"form_class": MomentField, "widget": MomentField.widget},
        models.TextField: {"widget": WORDS},
    }
    add_form_template = "admin/giftcards/order/add_form.html"

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **named: Any) -> Any:
        if db_field.name not in NO_LANGUAGE:
            return super().formfield_for_dbfield(db_field, request, **named)
        choices = language_choices(NO_LANGUAGE[db_field.name])
        label = capfirst(db_field.verbose_name)
        return forms.ChoiceField(label=label, choices=choices, required=False)

    #: The fields of the form before the catalogue was read.
    add_fieldsets: Any = (
        (
            None,
            {
                "fields": ("product_id", "type_id", "quantity", "reference"),
                "description": _(
                    "The provider's catalogue has not been read yet. Enter the provider's IDs."
                ),
            },
        ),
        _SALE,
        _GIFT,
    )
    #: The fields of the form after the catalogue was read.
    add_fieldsets_with_catalogue: Any = (
        (None, {"fields": ("card", "quantity", "reference")}),
        _SALE,
        _GIFT,
        # Each id has its own row, because otherwise Django would not open the collapsed part for an
        # error.
        (_("By ID"), {"classes": ("collapse",), "fields": ("product_id", "type_id")}),
    )

    def get_urls(self) -> list[URLPattern]:
        # Requests to the provider are made outside any transaction, even with ATOMIC_REQUESTS.
        outside = transaction.non_atomic_requests(using=router.db_for_write(Order))
        hiding = sensitive_post_parameters("password")
        view = hiding(outside(self.admin_site.admin_view(self.add_view)))
        vars(view)["model_admin"] = self
        return [path("add/", view, name="giftcards_order_add"), *super().get_urls()]

    def get_fieldsets(self, request: HttpRequest, obj: Order | None = None) -> Any:
        if obj is not None:
            return super().get_fieldsets(request, obj)
        kinds, is_whole, _told = _offered(request)
        if is_whole and not kinds:
            return self.add_fieldsets
        description = gettext("Search for a card by part of its name.")
        if kinds:
            read_at = min(kind.product.types_read_at or kind.product.listed_at for kind in kinds)
            text = gettext(
                "The catalogue was read on %(date)s. The app will request the current price before"
                " it shows the next page."
            )
            description = filled(text, date=moment(read_at))
        (title, options), *others = self.add_fieldsets_with_catalogue
        return ((title, {"description": description, **options}), *others)

    def get_form(
        self, request: HttpRequest, obj: Order | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        person: Any = request.user.pk

        def is_known(_form: OrderForm, order: Order) -> bool:
            """Return True if the person may see the order, or has placed it."""
            return (
                self.may_see(request, order)
                or log_entries(order).filter(user_id=person, action_flag=ADDITION).exists()
            )

        kinds, is_whole, told = _Offered([], True, {}) if obj else _offered(request)
        is_empty = is_whole and not kinds
        sees_costs = self.may_see_costs(request)
        cards = [] if is_empty else card_choices(kinds, told, with_costs=sees_costs)
        is_proven = is_confirmed(request)
        named = {"is_known": is_known, "cards": cards, "is_proven": is_proven}
        return type(form.__name__, (form,), named)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.method != "POST" and needs_page_of_shop(request):
            # The proof of identity comes before the form. It is on another page, so the typed text
            # would be lost if the proof came later.
            return HttpResponseRedirect(url_of_proof(back_to=request.get_full_path()))
        # The catalogue is read before the transaction, because SQLite may fail a transaction that
        # reads before it writes.
        finder = None if _offered(request).is_whole else _finder(request)
        proof = ProofForm(request, request.POST if "password" in request.POST else None)
        proof.is_valid()
        if request.method == "POST" and not request.POST.get("confirmed_card"):
            names = flatten_fieldsets(self.get_fieldsets(request))
            form = self.get_form(request, fields=names)(request.POST, request.FILES)
            if form.is_valid() and form.placed is None:
                return self._confirmation(request, form, proof)
        context = {"finder": finder, **(extra_context or {})}
        answer = super().add_view(request, form_url, context)
        shown = (getattr(answer, "context_data", None) or {}).get("adminform")
        if shown and shown.form.has_error(NON_FIELD_ERRORS, _UNPROVEN):
            return self._confirmation(request, shown.form, proof)
        return answer

    def _confirmation(
        self, request: HttpRequest, form: OrderForm, proof: ProofForm
    ) -> HttpResponse:
        if form.lacks_proof:
            answer = other_proof(self, request, back_to=request.get_full_path())
            if answer is not None:
                return answer
        order: Order = form.instance
        known = quote(order.product_id, order.type_id, order.quantity, max_age=0)
        sees_costs = self.may_see_costs(request)
        proposal = ProposalForm.of(order, known.price)
        if proposal is not None:
            # The confirmation page proposes this price, so its warnings must apply to this price.
            order.sale_price = known.price
        price = known.cost if sees_costs and known.is_for_sale else None
        posted = [
            (name, value)
            for name, values in request.POST.lists()
            if name not in _NOT_HANDED_ON and not (proposal and name in proposal.fields)
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
            facts=[
                (column_label("product_id"), named(known.names.product, order.product_id)),
                (column_label("type_id"), named(known.names.type, order.type_id)),
                (column_label("quantity"), order.quantity),
            ],
            told=told_to_customers(order),
            costs=_costs(order, known) if sees_costs else None,
            sale=_sale(form),
            proposal=proposal,
            warnings=[
                *filter(None, [double_of(self, request, order)]),
                *_warnings(order, known, sees_costs=sees_costs),
            ],
            pause=ProviderState.objects.current().explain_pause().for_staff,
            posted=posted,
            button=_button(order.quantity, price),
            proof=proof if form.lacks_proof else None,
        )

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Order:
        super().save_form(request, form, change)
        placed: Order = form.placed
        return placed

    def save_model(self, request: HttpRequest, obj: Order, form: Any, change: bool) -> None:
        """Do not save the row.

        :func:`~giftcards.fulfilment.place_order` has already saved it.
        """

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        # If the order already existed, no row was added, so there is nothing to log.
        return super().log_addition(request, obj, message) if obj.is_new else None

    def response_add(
        self, request: HttpRequest, obj: Order, post_url_continue: str | None = None
    ) -> HttpResponse:
        if IS_POPUP_VAR in request.POST:
            return super().response_add(request, obj, post_url_continue)
        self.message_user(request, recorded(obj), messages.INFO)
        if "_addanother" in request.POST:
            return HttpResponseRedirect(request.path)
        if self.may_see(request, obj):
            return self.to_order(obj)
        return self.response_post_save_add(request, obj)


class _Offered(NamedTuple):
    """The product types that the form offers.

    If there are too many types, ``is_whole`` is False, and the form offers only the chosen type and
    the types that match the "find" parameter.
    """

    kinds: list[ProductType]
    is_whole: bool
    #: The descriptions of the products.
    told: Mapping[str, Description]


# The maximum number of types on offer.
_OFFERED = 100
_NAMES = ("name", "type_id", "product__name", "product__own_name", "product__product_id")


def _offered(request: HttpRequest) -> _Offered:
    if not hasattr(request, "giftcards_offered"):
        request.giftcards_offered = _read_offered(request)  # type: ignore[attr-defined]
    offered: _Offered = request.giftcards_offered  # type: ignore[attr-defined]
    return offered


def _read_offered(request: HttpRequest) -> _Offered:
    sold = ProductType.objects.for_sale()
    is_whole = len(sold.order_by().values_list("pk")[: _OFFERED + 1]) <= _OFFERED
    if not is_whole:
        wanted = is_called(_typed(request), *_NAMES)
        product_id, _space, type_id = request.POST.get("card", "").partition(" ")
        sold = sold.filter(wanted | Q(product__product_id=product_id, type_id=type_id))
    kinds = list(sold[:_OFFERED])
    return _Offered(kinds, is_whole, of_products({kind.product for kind in kinds}))


def _typed(request: HttpRequest) -> str:
    return request.GET.get("find", "")[:200].replace("\0", "")


def _finder(request: HttpRequest) -> dict[str, Any]:
    typed, found = _typed(request).strip(), len(_offered(request).kinds)
    told = gettext("Enter part of the name of the product or card.")
    if typed and not found:
        told = gettext(
            "The catalogue does not contain a card with this name. Enter a shorter part of the"
            " name."
        )
    elif found == _OFFERED:
        told = gettext(
            "Only the first cards are shown. Enter a longer part of the name to see others."
        )
    kept = [(name, value) for name, value in request.GET.items() if name != "find"]
    return {"typed": typed, "told": told, "kept": kept}


def _is_too_dear(order: Order, price: Decimal) -> bool:
    """Return True if the price per card exceeds the order's limit.

    In this case, the order would be put on hold.
    """
    return order.price_ceiling is not None and price > order.price_ceiling


def _costs(order: Order, known: Quote) -> list[tuple[str, str, str]]:
    """Return the price per card, the total and the balance.

    Each entry consists of a label, an amount, and a text about the age of the amount. The text is
    "" if the amount is recent.
    """
    price = known.cost if known.is_for_sale else None
    total = None if price is None else price * order.quantity
    age = _age(price, known.read_at)
    return [
        (gettext("price per card"), money(price), age),
        (gettext("total"), money(total), age),
        (
            gettext("account balance"),
            money(known.balance),
            _age(known.balance, known.balance_read_at),
        ),
    ]


def _age(amount: Decimal | None, read_at: datetime | None) -> str:
    if amount is None or read_at is None or timezone.now() - read_at < _FRESH:
        return ""
    return gettext("read %(age)s ago") % {"age": duration_text(timezone.now() - read_at)}


def _sale(form: OrderForm) -> list[tuple[str, object]]:
    names = [name for name in flatten_fieldsets((_SALE, _GIFT)) if form.cleaned_data.get(name)]
    values = {name: form.cleaned_data[name] for name in ("reference", *names)}
    return [(column_label(name), _shown(value)) for name, value in values.items()]


def _shown(value: object) -> str:
    match value:
        case Decimal():
            return money(value)
        case datetime():
            return moment(value)
    return bdi(linebreaksbr(str(value)))


def _warnings(order: Order, known: Quote, *, sees_costs: bool) -> Iterator[str]:
    """Yield warnings that the person should read before the purchase.

    People who are not allowed to see costs receive no warnings about amounts, because they could
    find out the amounts by trying many quantities.
    """
    if known.no_answer in _NO_ANSWER:
        yield str(_NO_ANSWER[known.no_answer])
    if not known.is_sold_here:
        yield gettext("Your shop does not sell this card.")
    elif not known.is_for_sale:
        yield gettext("The provider does not sell this card at the moment.")
    if known.stock is not None and known.stock < order.quantity:
        text = ngettext(
            "The provider has only %(count)d of these cards in stock.",
            "The provider has only %(count)d of these cards in stock.",
            known.stock,
        )
        yield text % {"count": known.stock}
    if not (sees_costs and known.cost):
        return
    if _is_too_dear(order, known.cost):
        yield gettext(
            "A card costs more than your limit, so the order will be put on hold until somebody"
            " approves or cancels it."
        )
    gain = earned(order, known.cost)
    if gain is not None and gain < 0:
        yield earned_in_words(gain)
    if known.balance is not None and known.balance < known.cost * order.quantity:
        yield gettext("The account balance is too low, so the provider will refuse this order.")


def _button(quantity: int, price: Decimal | None) -> str:
    if price is not None:
        text = gettext("Buy %(count)s for %(total)s")
        return filled(text, count=quantity, total=money(price * quantity))
    return ngettext("Buy %(count)d card", "Buy %(count)d cards", quantity) % {"count": quantity}
