"""Correcting the customer of an order, so that cards do not go to a mistyped address."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.admin import extensions, revealing
from giftcards.admin.pages import OrderButton, OrderPages
from giftcards.admin.reauthentication import address_of_proof
from giftcards.admin.revealing import RevealForm, needs_other_proof
from giftcards.exceptions import CustomerConflict
from giftcards.fulfilment import change_customer
from giftcards.models import Order
from giftcards.models.orders import OF_CUSTOMER


class CorrectionForm(RevealForm):
    """The corrected customer and a reason; with ``takes_proof``, also a password if one is due."""

    customer_email = forms.CharField(label=_("E-mail"), required=False, max_length=254)
    customer_phone = forms.CharField(label=_("Phone"), required=False, max_length=50)
    customer_name = forms.CharField(label=_("Name"), required=False, max_length=200)
    customer_language = forms.CharField(
        label=_("Language"),
        required=False,
        max_length=20,
        help_text=_("A code such as en, fr or ar. Empty: the language of the site."),
    )
    # The fingerprint of the customer that the page showed.
    seen = forms.CharField(required=False, widget=forms.HiddenInput)

    field_order = (*OF_CUSTOMER, "reason", "password")

    def __init__(
        self, request: HttpRequest, order: Order, *, takes_proof: bool, data: Any = None
    ) -> None:
        super().__init__(request, data)
        self.initial = {**_customer(order), "seen": _fingerprint(order)}
        reason = self.fields["reason"]
        reason.help_text = _("For your colleagues, such as: the address was typed wrong.")
        for name in OF_CUSTOMER:
            self.fields[name].widget.attrs |= {"autocomplete": "off", "dir": "auto"}
        if not takes_proof:
            self.fields.pop("password", None)

    @property
    def customer(self) -> dict[str, str]:
        return {name: self.cleaned_data[name] for name in OF_CUSTOMER}


class CorrectingPages(OrderPages):
    """The page that corrects the customer of an order."""

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        buttons = super().get_order_buttons(request, order)
        if not self.has_correct_permission(request):
            return buttons
        label = gettext("Correct the customer's address")
        return [*buttons, OrderButton(label, self.address("customer", order.pk), is_minor=True)]

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.customer_view)
        view = sensitive_post_parameters("password")(view)
        page = path("<path:object_id>/customer/", view, name="giftcards_order_customer")
        return [page, *super().get_urls()]

    def customer_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        allowed = self.has_correct_permission(request)
        order = self.order_for(request, object_id, allowed=allowed)
        takes_proof = order.cards.all().readable().exists()
        if takes_proof and needs_other_proof(request):
            back_to = self.address("customer", order.pk)
            return HttpResponseRedirect(address_of_proof(back_to=back_to))
        data = request.POST if request.method == "POST" else None
        form = CorrectionForm(request, order, takes_proof=takes_proof, data=data)
        if form.is_valid():
            try:
                return self._correct(request, order, form)
            except ValidationError as error:
                form.add_error(None, error)
        return self.render_page(
            request,
            "customer",
            title=gettext("Correct the customer's address"),
            original=order,
            form=form,
            errors=form.errors,
            has_cards=takes_proof,
            consequences=extensions.listed("consequences", request, order),
            same=self._others_with_same_address(request, order),
        )

    def _correct(self, request: HttpRequest, order: Order, form: CorrectionForm) -> HttpResponse:
        """Correct the customer and leave a trace, or do neither. Raises ``ValidationError``."""
        # On the second press of the button, the correction is already made.
        is_done = form.customer == _customer(order)
        seen = form.cleaned_data["seen"]
        if not (is_done or constant_time_compare(seen, _fingerprint(order))):
            return self.refuse_late(request, order)
        try:
            with transaction.atomic(using=router.db_for_write(Order)):
                self._write(request, order, form)
        except revealing.TooManyReveals:
            self.message_user(request, revealing.refuse(request, order), messages.ERROR)
            return self.to_order(order)
        except CustomerConflict:
            return self.refuse_late(request, order)
        self.message_user(request, gettext("The order has these details now."), messages.SUCCESS)
        return self.to_order(order)

    def _write(self, request: HttpRequest, order: Order, form: CorrectionForm) -> None:
        by = request.user.get_username()
        given = {name.removeprefix("customer_"): text for name, text in form.customer.items()}
        if change_customer(order, **given, by=by, reason=form.cleaned_data["reason"]):
            revealing.count(request)
            # Without address and reason: everybody who may see the order can read the log.
            self.log_change(request, order, "Corrected the customer.")

    def _others_with_same_address(self, request: HttpRequest, order: Order) -> list[Order]:
        """Orders with the same address that have the same group, or are about the same cards."""
        about = self.get_queryset(request).exclude(pk=order.pk)
        found = list(about.filter(repeats=order.pk))
        if order.repeats_id is not None:
            found += about.filter(pk=order.repeats_id)
        if order.group:
            found += about.filter(group=order.group).order_by("-pk")[:_MOST_OTHERS]
        mine = (order.customer_email, order.customer_phone)
        same = {
            other.pk: other
            for other in found
            if (other.customer_email, other.customer_phone) == mine and any(mine)
        }
        return list(same.values())


# The most orders of a group that are looked at.
_MOST_OTHERS = 20


def _customer(order: Order) -> dict[str, str]:
    return {name: getattr(order, name) for name in OF_CUSTOMER}


def _fingerprint(order: Order) -> str:
    """A hash that the form carries; it changes once somebody has corrected the customer."""
    text = json.dumps([order.pk, _customer(order)], sort_keys=True)
    return salted_hmac("giftcards.admin.customer", text, algorithm="sha256").hexdigest()
