"""The forms of the orders' pages: a new order, a card to find, decisions about a lost order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib.admin.utils import label_for_field
from django.core.exceptions import ValidationError
from django.core.signals import got_request_exception
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.display import (
    count_text,
    filled,
    isolated,
    moment_text,
    money,
    money_text,
    zoned_moment,
)
from giftcards.engine.price_holds import confirm_price
from giftcards.engine.resolving import Fit, Row
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import OrderDetails, place_order
from giftcards.keys.secrecy import Masked
from giftcards.models import CustomerRefund, Order, ProductType
from giftcards.models.fields import plain_line, read_amount
from giftcards.provider.answers import IDENTIFIER

if TYPE_CHECKING:
    AddForm = forms.ModelForm[Order]
    RefundModelForm = forms.ModelForm[CustomerRefund]
else:
    AddForm = RefundModelForm = forms.ModelForm


_LINE = {"product_id", "type_id"}
_GIVEN = {*_LINE, "quantity", *OrderDetails.__annotations__}


class AmountField(forms.DecimalField):
    """An amount as people write it: see :func:`~giftcards.models.fields.read_amount`."""

    default_error_messages: ClassVar = {
        "invalid": _("Write the amount like 550 or 549.90: digits from 0 to 9, and a point.")
    }

    def to_python(self, value: Any) -> Any:
        if value in self.empty_values:
            return None
        amount = read_amount(str(value).strip())
        if amount is None:
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        return amount


class CardField(forms.ChoiceField):
    """A product and a type of the catalogue. Other ids are valid too: the list is only an offer."""

    def valid_value(self, value: Any) -> bool:
        return len(str(value).split(" ")) == 2

    def clean(self, value: Any) -> Any:
        """The ids of product and type; ``None`` if none was chosen."""
        chosen = super().clean(value)
        return tuple(chosen.split(" ")) if chosen else None


def card_choices(kinds: Iterable[ProductType], *, with_prices: bool) -> list[Any]:
    """The types of the catalogue, grouped by product, for a :class:`CardField`."""
    groups: list[Any] = [("", _("Choose a card"))]
    for product, of_product in groupby(kinds, key=lambda kind: kind.product):
        texts = [
            (f"{product.product_id} {kind.type_id}", _card(kind, with_prices=with_prices))
            for kind in of_product
        ]
        names = filter(None, (product.category, str(product)))
        groups.append((" – ".join(map(isolated, names)), texts))
    return groups


def _card(kind: ProductType, *, with_prices: bool) -> str:
    parts = [isolated(kind)]
    if with_prices:
        parts.append(money_text(kind.price))
    if kind.stock == 0:
        parts.append(gettext("none in stock"))
    elif kind.stock is not None:
        parts.append(gettext("%(count)s in stock") % {"count": count_text(kind.stock)})
    return " · ".join(parts)


class OrderForm(AddForm):
    """A new order, posted twice: to see the confirmation page, and to confirm.

    A confirmed form places the order as its last validation, which tells whether the reference is
    free.
    """

    card = CardField(label=_("Card"), required=False)
    # The card and its price on the confirmation page. Unless a maximum price was given, the card
    # may not cost more than this.
    confirmed_card = CardField(required=False)
    confirmed_price = AmountField(required=False, min_value=0, max_digits=14, decimal_places=2)

    #: The order that was placed, or the existing one that an unconfirmed form repeats.
    placed: Order | None = None
    #: The choices of ``card``; the page replaces them.
    cards: Sequence[Any] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["card"].choices = self.cards  # type: ignore[attr-defined]
        if self.cards or self.is_confirmed:
            # The chosen card may give them instead.
            for name in _LINE & self.fields.keys():
                self.fields[name].required = False

    @property
    def is_confirmed(self) -> bool:
        return bool(self.data.get("confirmed_card"))

    @property
    def is_reopened(self) -> bool:
        """True if the person goes back from the confirmation to change something."""
        return "_change" in self.data

    def is_valid(self) -> bool:
        return super().is_valid() and not self.is_reopened

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        if confirmed := cleaned.get("confirmed_card"):
            cleaned["product_id"], cleaned["type_id"] = confirmed
        elif chosen := cleaned.get("card"):
            if {cleaned.get("product_id"), cleaned.get("type_id")} - {"", None, *chosen}:
                self.add_error("card", gettext("Choose a card, or give its ids: not both."))
            cleaned["product_id"], cleaned["type_id"] = chosen
        elif self.cards and "card" not in self.errors:
            self._require_ids(cleaned)
        return cleaned

    def _require_ids(self, cleaned: dict[str, Any]) -> None:
        """Add an error for a missing id, or for the missing card if both ids are missing."""
        missing = [name for name in ("product_id", "type_id") if cleaned.get(name) == ""]
        if len(missing) == 2:
            missing = ["card"]
        for name in missing:
            self.add_error(name, self.fields[name].error_messages["required"])

    def full_clean(self) -> None:
        super().full_clean()
        if not self.is_bound or self.errors or self.is_reopened:
            return
        if self.is_confirmed:
            self._place()
        else:
            self._look_for_repetition()

    def _place(self) -> None:
        try:
            # A subclass may have fields of its own.
            given = {name: self.cleaned_data[name] for name in _GIVEN & self.cleaned_data.keys()}
            with transaction.atomic():
                self.placed = place_order(**given)
                self._limit_price(self.placed)
        except ValidationError as error:
            self.add_error(None, error)
        except ReferenceConflict:
            self._add_taken()
        else:
            if not self.placed.is_new and not self.is_known(self.placed):
                self._add_taken()

    def _limit_price(self, order: Order) -> None:
        """Approve the given maximum price for a card, or else the price that the page showed."""
        shown = self.cleaned_data.get("confirmed_price")
        if order.is_new and shown is not None:
            confirm_price(order, shown if order.max_price is None else order.max_price)

    def _look_for_repetition(self) -> None:
        """Set ``placed`` if the form repeats an order; add an error if its reference is taken."""
        known = Order.objects.filter(reference=self.cleaned_data.get("reference")).first()
        if known is None:
            return
        line = tuple(self.cleaned_data.get(name) for name in ("product_id", "type_id", "quantity"))
        if known.line == line and self.is_known(known):
            self.placed = known
        else:
            self._add_taken()

    def _add_taken(self) -> None:
        # This tells nothing of the other order, which the person may not be allowed to see.
        taken = gettext("This reference is taken. Use another one for another order.")
        self.add_error("reference", taken)

    def is_known(self, order: Order) -> bool:
        """True if the person may learn that ``order`` exists; the page overrides this."""
        return False

    def validate_unique(self) -> None:
        """Skip this check: the second request of a double click is no error."""


class UnrepeatedInput(forms.PasswordInput):
    """A text input that, like a password input, is never rendered with its value."""

    input_type = "text"


class FindCardForm(forms.Form):
    # Sentry and others know by this name that they must not collect the field.
    secret = forms.CharField(
        label=_("Code or serial"),
        max_length=200,
        help_text=_(
            "The whole code or serial, or the last four characters of the code. Case, spaces and"
            " dashes do not matter."
        ),
        widget=UnrepeatedInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "ltr"}),
    )

    #: The path that the form is posted to, below the list of orders.
    path = "find-card/"

    def clean_secret(self) -> Masked:
        return Masked(self.cleaned_data["secret"])


@receiver(got_request_exception, dispatch_uid="giftcards.hide_typed_secret")
def hide_typed_secret(request: HttpRequest, **_named: object) -> None:
    """Keep codes and passwords out of Django's error mail, even if a middleware has failed.

    ``sensitive_post_parameters`` does the same, but only once the view runs.
    """
    if getattr(request, "path_info", "").endswith((f"/{FindCardForm.path}", "/reveal/")):
        request.sensitive_post_parameters = "__ALL__"  # type: ignore[attr-defined]


def _candidate(row: dict[str, Any]) -> str:
    created_at = row["created_at"] and datetime.fromisoformat(row["created_at"])
    shown = {
        "id": row["id"],
        "time": moment_text(created_at) if created_at else "?",
        "quantity": row["quantity"],
        "type": row["type"],
    }
    text = gettext("It is the provider's order %(id)s of %(time)s: %(quantity)s × %(type)s.")
    return text % {name: isolated(part) for name, part in shown.items()}


def facts(order: Order) -> list[tuple[str, object]]:
    """The facts to compare with the provider: reference, line and, if known, time of sending."""
    values = {"reference": order.reference, **_line(order)}
    if order.sent_at is None:
        del values["sent_at"]
    return [(_label(name), value) for name, value in values.items()]


def _line(order: Order) -> dict[str, object]:
    return {
        "product_id": order.product_id,
        "type_id": order.type_id,
        "quantity": order.quantity,
        "sent_at": zoned_moment(order.sent_at) if order.sent_at else gettext("unknown"),
    }


def _label(name: str) -> str:
    return label_for_field(name, Order, return_attr=False)


_FITS = {Fit.FITS: "", Fit.DIFFERS: _("different"), Fit.NOT_TOLD: _("not told")}


def facts_at_provider(
    order: Order, row: Row, fits: Mapping[str, Fit]
) -> list[tuple[str, object, object, Any]]:
    """The facts about ``order`` beside those of ``row``: name, ours, theirs, how they differ."""
    created_at = row["created_at"] and datetime.fromisoformat(row["created_at"])
    theirs = {
        "product_id": (row["product"], fits["product"]),
        "type_id": (row["type"], fits["type"]),
        "quantity": (row["quantity"], fits["quantity"]),
        "sent_at": (created_at and zoned_moment(created_at), fits["created_at"]),
    }
    compared = [
        (_label(name), ours, theirs[name][0] or "", _FITS[theirs[name][1]])
        for name, ours in _line(order).items()
    ]
    if fits["key"] is Fit.DIFFERS:
        ours, theirs_too = gettext("the one it was sent with"), gettext("the one in use now")
        compared.append((gettext("API key"), ours, theirs_too, _FITS[Fit.DIFFERS]))
    return [*compared, (_label("status"), order.get_status_display(), row["status"] or "", "")]


class ResolveForm(forms.Form):
    """The decision about an order whose placing answer was lost."""

    ADOPT_OTHER = "adopt-other"
    SEND_AGAIN = "send-again"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("What became of it"), widget=forms.RadioSelect)
    # Not a CharField, which would validate the value even if it is ignored.
    provider_order_id = forms.Field(
        label=_("provider's order id"),
        required=False,
        # Without maxlength: browsers truncate pasted text, and the rest would be another id.
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "dir": "ltr"}),
    )
    is_sure = forms.BooleanField(label=_("I have made sure of this in the provider's dashboard."))

    def __init__(self, order: Order, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        outcomes = [(f"adopt:{row['id']}", _candidate(row)) for row in order.candidates]
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            *outcomes,
            (self.ADOPT_OTHER, _("It is the order at the provider with this id:")),
            (self.SEND_AGAIN, _("It was not placed: send it again.")),
            (self.REJECT, _("It was not placed: reject it.")),
        ]

    def clean_provider_order_id(self) -> str:
        """The typed id, valid for the client; "" if the outcome needs none."""
        if self.cleaned_data.get("outcome") != self.ADOPT_OTHER:
            return ""
        typed: str = (self.cleaned_data["provider_order_id"] or "").strip()
        if not typed:
            raise ValidationError(self.fields["provider_order_id"].error_messages["required"])
        if not IDENTIFIER.fullmatch(typed):
            raise ValidationError(_("Use letters, digits, “_” and “-” only, at most 100 in all."))
        return typed

    @property
    def adopted(self) -> str:
        """The provider's id of the adopted order; "" if the order was not placed."""
        typed: str = self.cleaned_data["provider_order_id"]
        action, _colon, candidate = self.cleaned_data["outcome"].partition(":")
        return candidate if action == "adopt" else typed


class AdoptForm(forms.Form):
    """The confirmation of a comparison; unless everything fits, a box has to be ticked too."""

    is_sure = forms.BooleanField()

    _LABELS: ClassVar = {
        Fit.DIFFERS: _(
            "I know that it does not match what was sent. It is this order all the same."
        ),
        Fit.NOT_TOLD: _("I have made sure in the provider's dashboard that it is this order."),
    }

    def __init__(self, fit: Fit, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.does_fit = fit is Fit.FITS
        self.differs = fit is Fit.DIFFERS
        if self.does_fit:
            del self.fields["is_sure"]
        else:
            self.fields["is_sure"].label = self._LABELS[fit]


class ReleaseForm(forms.Form):
    is_sure = forms.BooleanField(label=_("I have made sure that it is another order."))


class RefundForm(RefundModelForm):
    """A refund to the customer, posted twice: to see the confirmation page, and to confirm."""

    state = forms.ChoiceField(
        label=_("The payment"),
        choices=[
            (CustomerRefund.State.DONE, _("It has been made.")),
            (CustomerRefund.State.CREATED, _("It is still to be made.")),
        ],
        initial=CustomerRefund.State.DONE,
        widget=forms.RadioSelect,
    )

    class Meta:
        model = CustomerRefund
        fields = ("amount", "method", "reference", "comment")
        field_classes: ClassVar = {"amount": AmountField}
        widgets: ClassVar = {
            name: forms.TextInput(attrs={"dir": "auto", "autocomplete": "off"})
            for name in ("method", "reference", "comment")
        }

    @property
    def is_confirmed(self) -> bool:
        return "_confirmed" in self.data

    def is_valid(self) -> bool:
        # The person may go back from the confirmation, to change something.
        return super().is_valid() and "_change" not in self.data


class TakeBackForm(forms.Form):
    """The reason for taking back a refund."""

    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        validators=[plain_line],
        help_text=_("For your colleagues, such as: the transfer came back."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )


class PriceForm(forms.Form):
    """The decision whether to buy a held order at ``price`` a card, which is above its limit."""

    APPROVE = "approve"
    REJECT = "reject"

    outcome = forms.ChoiceField(label=_("Your decision"), widget=forms.RadioSelect)

    def __init__(self, order: Order, price: Decimal, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        text = gettext("Buy it: at most %(price)s a card, %(total)s in all.")
        buying = filled(text, price=money(price), total=money(price * order.quantity))
        self.fields["outcome"].choices = [  # type: ignore[attr-defined]
            (self.APPROVE, buying),
            (self.REJECT, _("Do not buy it: reject the order.")),
        ]
