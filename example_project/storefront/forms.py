from __future__ import annotations

import uuid
from contextlib import suppress
from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import get_language, gettext
from django.utils.translation import gettext_lazy as _

from example_project.storefront.catalogue import Item
from example_project.storefront.models import OF_GIFT
from giftcards.catalogue import check_offer
from giftcards.exceptions import NotForSale

_MOST = 20


class BuyForm(forms.Form):
    """The form of a purchase; ``price`` is the price that the page has shown."""

    quantity = forms.IntegerField(label=_("Quantity"), min_value=1, max_value=_MOST, initial=1)
    email = forms.EmailField(
        label=_("E-mail address"),
        max_length=254,  # as in an order
        initial="you@example.com",
        widget=forms.EmailInput(attrs={"dir": "ltr"}),
        help_text=_("Nothing leaves this computer: all mails are in the mailbox of this demo."),
    )
    language = forms.ChoiceField(label=_("Language of the mails"), choices=settings.LANGUAGES)
    # The details of a gift, named like the fields of an order.
    recipient_email = forms.EmailField(
        label=_("Recipient's e-mail address"),
        required=False,
        max_length=254,
        widget=forms.EmailInput(attrs={"dir": "ltr"}),
    )
    recipient_name = forms.CharField(
        label=_("Recipient's name"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"dir": "auto"}),
    )
    customer_name = forms.CharField(
        label=_("Your name"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"dir": "auto"}),
        help_text=_("The recipient sees who the gift is from."),
    )
    gift_message = forms.CharField(
        label=_("Your message"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto"}),
    )
    deliver_at = forms.DateTimeField(
        label=_("When they receive it"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text=_("If empty, as soon as the cards arrive."),
    )
    price = forms.DecimalField(widget=forms.HiddenInput)
    key = forms.UUIDField(widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, item: Item) -> None:
        super().__init__(data, initial={"language": get_language()})
        self.item = item
        #: The ``key`` of the next form sent from this page, also after an error.
        self.next_key = uuid.uuid4()

    @property
    def own_fields(self) -> list[forms.BoundField]:
        """The fields that every purchase needs."""
        return [field for field in self.visible_fields() if field.name not in OF_GIFT]

    @property
    def gift_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in OF_GIFT]

    def clean_price(self) -> Decimal:
        if self.cleaned_data["price"] != self.item.price:
            raise ValidationError(
                gettext("The price has changed. Check it and press the button again.")
            )
        return self.item.price

    def clean(self) -> None:
        """Refuse values that could not be ordered, before the customer pays."""
        super().clean()
        if self.errors:
            return
        try:
            # Only the values are checked here. The view checks the stock and the price again, and
            # takes the customer's own reservation into account.
            with suppress(NotForSale):
                self._check()
        except ValidationError as error:
            # The errors are not assigned to fields, because an order's fields have other names than
            # the form's.
            raise ValidationError(error.messages) from None

    def _check(self) -> None:
        check_offer(
            product_type=self.item.kind,
            quantity=self.cleaned_data["quantity"],
            sale_price=self.item.price,
            customer_email=self.cleaned_data["email"],
            customer_language=self.cleaned_data["language"],
            **{name: value for name in OF_GIFT if (value := self.cleaned_data[name])},
        )
