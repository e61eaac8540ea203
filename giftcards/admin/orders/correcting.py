"""Corrections of customers and recipients.

A correction prevents cards from going to a mistyped address.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.models import fields_for_model
from django.http import HttpResponse, QueryDict
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from giftcards.admin.cards import revealing
from giftcards.admin.cards.revealing import RevealForm, other_proof
from giftcards.admin.frame import extensions
from giftcards.admin.frame.actions import LATE, Answer, Attempt, OrderAction, Outcome, Refused, may
from giftcards.admin.frame.forms import NO_LANGUAGE, WORDS, MomentField, language_choices, token
from giftcards.admin.frame.pages import column_label
from giftcards.exceptions import CustomerConflict
from giftcards.fulfilment import change_customer
from giftcards.models import Order
from giftcards.models.fields import tidied_lines
from giftcards.models.orders import CORRECTABLE, OF_CUSTOMER, OF_GIFT


class CorrectionForm(RevealForm):
    """A form for the corrected details, a reason, and a proof of identity.

    The proof is required in every status, because more cards can be sent to the new address.
    """

    customer_email = forms.CharField(label=_("E-mail"), required=False, max_length=254)
    customer_phone = forms.CharField(label=_("Phone"), required=False, max_length=50)
    customer_name = forms.CharField(label=_("Name"), required=False, max_length=200)
    customer_language = forms.ChoiceField(label=_("Language"), required=False)
    field_order = (*OF_CUSTOMER, "reason", "password")

    def __init__(self, attempt: Attempt, data: QueryDict | None) -> None:
        super().__init__(attempt.request, data)
        order = attempt.order
        self.initial = _details(order)
        if order.is_gift:
            self.fields |= _gift_fields(order)
            self.order_fields((*CORRECTABLE, *self.field_order))
            # The form also contains details of the recipient, so the labels have to say "customer".
            for name in OF_CUSTOMER:
                self.fields[name].label = capfirst(column_label(name))
        for name in NO_LANGUAGE.keys() & self.fields.keys():
            choices = language_choices(NO_LANGUAGE[name], self.initial[name])
            self.fields[name].choices = choices  # type: ignore[attr-defined]
        reason = self.fields["reason"]
        reason.help_text = _("A note for your colleagues, for example “The address had a typo”.")
        for name in self.initial:
            self.fields[name].widget.attrs |= {"autocomplete": "off", "dir": "auto"}

    @property
    def details(self) -> dict[str, Any]:
        """The customer's and recipient's details after the correction, by column."""
        return {
            name: self.cleaned_data.get(name, "") if name in self.changed_data else value
            for name, value in self.initial.items()
        }

    def clean_gift_message(self) -> str:
        return tidied_lines(self.cleaned_data["gift_message"])


def _gift_fields(order: Order) -> dict[str, forms.Field]:
    fields = fields_for_model(
        Order,
        fields=OF_GIFT,
        field_classes={"deliver_at": MomentField},
        widgets={"deliver_at": MomentField.widget, "gift_message": WORDS},
    )
    # ``field_classes`` does not work here, because a field with choices does not accept
    # ``max_length``.
    label = fields["recipient_language"].label
    fields["recipient_language"] = forms.ChoiceField(label=label, required=False)
    # A gift needs the recipient's address. Its time of delivery may be changed, but not removed.
    fields["recipient_email"].required = True
    fields["deliver_at"].required = order.deliver_at is not None
    return fields


def _to_proof(attempt: Attempt) -> HttpResponse | None:
    return other_proof(attempt.pages, attempt.request, back_to=attempt.request.path)


def _correct(attempt: Attempt) -> Answer:
    request, order, form = attempt.request, attempt.order, attempt.form
    given = {name.removeprefix("customer_"): value for name, value in form.details.items()}
    reason = form.cleaned_data["reason"]
    try:
        is_new = change_customer(order, **given, by=attempt.by, reason=reason)
        if is_new:
            revealing.count(request)
    except ValidationError as error:
        form.add_error(None, error)
        return attempt.page()
    except CustomerConflict:
        return LATE
    except revealing.TooManyReveals:
        raise Refused(partial(revealing.refuse, request, order)) from None
    # All people who may see the order can read the log, so the entry does not contain the address
    # or the reason.
    log = "Corrected the customer." if is_new else ""
    return Outcome(gettext("The new details were saved."), log)


def _context(attempt: Attempt) -> Mapping[str, Any]:
    pages, request, order = attempt.pages, attempt.request, attempt.order
    return {
        "has_cards": order.cards.all().readable().exists(),
        "consequences": list(
            chain.from_iterable(extensions.called("consequences", pages, request, order))
        ),
        "same": _others_with_same_address(attempt),
    }


def _others_with_same_address(attempt: Attempt) -> list[Order]:
    """Return related orders with the same customer or recipient address.

    The addresses in the related orders are compared with the addresses in the order that is being
    corrected. Two orders are related if they are in the same group, or if one of them replaces
    missing cards from the other.
    """
    order = attempt.order
    about = attempt.pages.get_queryset(attempt.request).exclude(pk=order.pk)
    found = list(about.filter(repeats=order.pk))
    if order.repeats_id is not None:
        found += about.filter(pk=order.repeats_id)
    if order.group:
        found += about.filter(group=order.group).order_by("-pk")[:_MOST_OTHERS]
    same = {other.pk: other for other in found if _has_same_address(order, other)}
    return list(same.values())


def _has_same_address(order: Order, other: Order) -> bool:
    mine, theirs = ((one.customer_email, one.customer_phone) for one in (order, other))
    is_for_same = order.is_gift and other.recipient_email == order.recipient_email
    return is_for_same or (any(mine) and mine == theirs)


_MOST_OTHERS = 20


def _details(order: Order) -> dict[str, Any]:
    return {name: getattr(order, name) for name in (CORRECTABLE if order.is_gift else OF_CUSTOMER)}


def _fingerprint(order: Order) -> str:
    return token("customer", [order.pk, *map(str, _details(order).values())])


def _label(order: Order) -> str:
    if order.is_gift:
        return gettext("Correct the details of the customer or recipient")
    return gettext("Correct the customer's address")


CUSTOMER = OrderAction(
    name="order_customer",
    help_topic="correcting",
    route="<key>/customer/",
    label=_label,
    permission=may("giftcards.correct_customer"),
    is_minor=True,
    token=_fingerprint,
    before=_to_proof,
    # ``is_repeated`` returns True for the second request of a double click.
    is_repeated=lambda attempt: attempt.form.details == _details(attempt.order),
    form=CorrectionForm,
    template="customer",
    context=_context,
    act=_correct,
    decorators=(sensitive_post_parameters("password"),),
)
