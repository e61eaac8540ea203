"""Paying customers back: staff see what is owed, and record what they pay. No money moves here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import router, transaction
from django.forms import model_to_dict
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from giftcards.admin.breakdown import customer_lines
from giftcards.admin.forms import RefundForm, TakeBackForm
from giftcards.admin.pages import OrderButton, OrderPages, state_token
from giftcards.display import (
    bdi,
    filled,
    isolated,
    moment,
    money,
    money_text,
    payment,
    refund_badge,
)
from giftcards.exceptions import RefundError
from giftcards.models import CustomerRefund, Order
from giftcards.models.money import check_amount, refundable_amount
from giftcards.settlement import cancel_refund, complete_refund, record_refund

_State = CustomerRefund.State
_Source = CustomerRefund.Source


@dataclass(frozen=True, slots=True)
class RefundRow:
    """A refund as the page of its order shows it. The texts are HTML."""

    key: int
    amount: str
    badge: str
    payment: str
    # What became of the refund, each with when and by whom.
    steps: list[SafeString]
    notes: list[SafeString]
    is_planned: bool
    is_cancelled: bool


def refund_rows(refunds: Iterable[CustomerRefund]) -> list[RefundRow]:
    return [
        RefundRow(
            refund.pk,
            money(refund.amount),
            refund_badge(refund),
            payment(refund),
            _steps(refund),
            [bdi(text) for text in (refund.comment, refund.cancel_reason) if text],
            is_planned=refund.state == _State.CREATED,
            is_cancelled=refund.state == _State.CANCELLED,
        )
        for refund in refunds
    ]


def _steps(refund: CustomerRefund) -> list[SafeString]:
    by = refund.created_by or refund.get_source_display()
    paid_at = refund.executed_at if refund.was_planned else None
    steps = (
        ("", refund.created_at, by),
        (gettext("paid"), paid_at, refund.executed_by),
        (gettext("taken back"), refund.cancelled_at, refund.cancelled_by),
    )
    return [
        format_html("{} {} {}", label, moment(at), bdi(name)) for label, at, name in steps if at
    ]


class RefundingPages(OrderPages):
    """The pages that record a refund to the customer, mark it as paid, or take it back."""

    def get_order_buttons(self, request: HttpRequest, order: Order) -> list[OrderButton]:
        mine = []
        if order.open_amount and self.has_settle_permission(request):
            label = gettext("Pay back the customer")
            mine.append(OrderButton(label, self.address("pay_back", order.pk)))
        return [*mine, *super().get_order_buttons(request, order)]

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view
        return [
            path(
                "refunds/<int:refund_id>/paid/",
                page(self.complete_refund_view),
                name="giftcards_refund_complete",
            ),
            path(
                "refunds/<int:refund_id>/take-back/",
                page(self.cancel_refund_view),
                name="giftcards_refund_cancel",
            ),
            path(
                "<path:object_id>/pay-back/",
                page(self.pay_back_view),
                name="giftcards_order_pay_back",
            ),
            *super().get_urls(),
        ]

    # A new refund: the form, its confirmation, and the record.

    def pay_back_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        order = self.order_for(request, object_id, allowed=self.has_settle_permission(request))
        if request.method == "POST":
            return self._answer_refund(request, order)
        try:
            initial = {"amount": refundable_amount(order), "reference": _new_reference()}
        except RefundError as error:
            return self._refuse_refund(request, order, error)
        return self._ask_for_refund(request, order, RefundForm(initial=initial))

    def _answer_refund(self, request: HttpRequest, order: Order) -> HttpResponse:
        form = RefundForm(request.POST)
        is_valid = form.is_valid()
        # The second request of a double click is about a refund that exists already.
        is_known = order.refunds.filter(reference=form.cleaned_data.get("reference")).exists()
        is_possible = self.is_current(request, order) and order.open_amount
        if not (is_known or is_possible):
            return self.refuse_late(request, order)
        if not is_valid:
            return self._ask_for_refund(request, order, form)
        if form.is_confirmed:
            return self._record_refund(request, order, form.cleaned_data)
        try:
            check_amount(order, form.cleaned_data["amount"])
        except RefundError as error:
            form.add_error("amount", error.shown(_in_words))
            return self._ask_for_refund(request, order, form)
        return self._confirm_refund(request, order, form)

    def _ask_for_refund(self, request: HttpRequest, order: Order, form: RefundForm) -> HttpResponse:
        return self.render_page(
            request,
            "pay_back",
            title=gettext("Pay back the customer"),
            original=order,
            state_token=state_token(order),
            facts=_whom(order),
            lines=customer_lines(order, again=None),
            form=form,
            errors=form.errors,
        )

    def _confirm_refund(self, request: HttpRequest, order: Order, form: RefundForm) -> HttpResponse:
        given = form.cleaned_data
        return self.render_page(
            request,
            "pay_back_confirm",
            title=gettext("Pay back the customer"),
            original=order,
            state_token=state_token(order),
            consequence=_consequence(order, given),
            afterwards=_afterwards(order, given),
            facts=[*_whom(order), *_payment_facts(given)],
            # As texts, because numbers would be localised.
            posted=[(name, str(given[name])) for name in form.fields],
            action=_action(given),
            form=form,
        )

    def _record_refund(
        self, request: HttpRequest, order: Order, given: Mapping[str, Any]
    ) -> HttpResponse:
        is_paid = given["state"] == _State.DONE
        values = {name: given[name] for name in ("amount", "method", "reference", "comment")}
        try:
            # Both or neither: no refund without a trace.
            with transaction.atomic(using=router.db_for_write(Order)):
                refund = record_refund(
                    order,
                    **values,
                    by=request.user.get_username(),
                    is_paid=is_paid,
                    source=_Source.STAFF,
                )
                if refund.has_changed:
                    done = "Recorded a refund" if is_paid else "Planned a refund"
                    self.log_change(request, order, f"{done} to the customer: {_in_log(refund)}.")
        except (RefundError, ValidationError) as error:
            return self._refuse_refund(request, order, error)
        if not refund.has_changed:
            text = gettext("This refund was recorded already. It is not paid twice.")
            return self._tell_of_refund(request, order, text, messages.INFO)
        text = gettext("Recorded: the customer was paid back %(amount)s.")
        if not is_paid:
            text = gettext("Recorded: the customer is to be paid back %(amount)s.")
        return self._tell_of_refund(request, order, text % {"amount": money_text(refund.amount)})

    # An existing refund.

    def complete_refund_view(self, request: HttpRequest, refund_id: int) -> HttpResponse:
        refund, order = self._refund_for(request, refund_id)
        if request.method == "POST":
            return self._complete_refund(request, order, refund)
        if refund.state != _State.CREATED:
            return self.refuse_late(request, order)
        return self._show_refund(
            request,
            order,
            refund,
            title=gettext("Mark as paid"),
            consequence=gettext("It will be recorded that the customer has been paid."),
            form=forms.Form(),
        )

    def _complete_refund(
        self, request: HttpRequest, order: Order, refund: CustomerRefund
    ) -> HttpResponse:
        try:
            with transaction.atomic(using=router.db_for_write(Order)):
                complete_refund(refund, by=request.user.get_username())
                if refund.has_changed:
                    self.log_change(request, order, f"Marked as paid: {_in_log(refund)}.")
        except (RefundError, ValidationError) as error:
            return self._refuse_refund(request, order, error)
        if not refund.has_changed:
            text = gettext("The refund was recorded as paid already.")
            return self._tell_of_refund(request, order, text, messages.INFO)
        return self._tell_of_refund(request, order, gettext("The refund is recorded as paid."))

    def cancel_refund_view(self, request: HttpRequest, refund_id: int) -> HttpResponse:
        refund, order = self._refund_for(request, refund_id)
        form = TakeBackForm(request.POST if request.method == "POST" else None)
        if form.is_valid():
            return self._cancel_refund(request, order, refund, form.cleaned_data["reason"])
        if refund.state == _State.CANCELLED:
            return self.refuse_late(request, order)
        return self._show_refund(
            request,
            order,
            refund,
            title=gettext("Take back the refund"),
            consequence=gettext(
                "Its amount is owed again; the refund stays on record. Do this if the customer has"
                " not got the money, or has given it back."
            ),
            form=form,
            errors=form.errors,
        )

    def _cancel_refund(
        self, request: HttpRequest, order: Order, refund: CustomerRefund, reason: str
    ) -> HttpResponse:
        try:
            with transaction.atomic(using=router.db_for_write(Order)):
                cancel_refund(refund, by=request.user.get_username(), why=reason)
                if refund.has_changed:
                    self.log_change(request, order, f"Took back a refund: {_in_log(refund)}.")
        except ValidationError as error:
            return self._refuse_refund(request, order, error)
        if not refund.has_changed:
            text = gettext("The refund was taken back already.")
            return self._tell_of_refund(request, order, text, messages.INFO)
        text = gettext("The refund was taken back. Its amount is owed again.")
        return self._tell_of_refund(request, order, text)

    def _refund_for(self, request: HttpRequest, key: int) -> tuple[CustomerRefund, Order]:
        """The refund of a page, and its order. Raises ``PermissionDenied`` if not allowed."""
        refund = CustomerRefund.objects.filter(pk=key).first()
        if refund is None:
            raise PermissionDenied
        allowed = self.has_settle_permission(request)
        return refund, self.order_for(request, str(refund.order_id), allowed=allowed)

    def _show_refund(
        self,
        request: HttpRequest,
        order: Order,
        refund: CustomerRefund,
        *,
        title: str,
        **context: Any,
    ) -> HttpResponse:
        facts = [*_whom(order), *_payment_facts(model_to_dict(refund))]
        return self.render_page(
            request, "refund", title=title, action=title, original=order, facts=facts, **context
        )

    # How it ends.

    def _refuse_refund(
        self, request: HttpRequest, order: Order, error: RefundError | ValidationError
    ) -> HttpResponse:
        if isinstance(error, RefundError):
            text = error.shown(_in_words)
        else:
            text = " ".join(error.messages)
        return self._tell_of_refund(request, order, text, messages.ERROR)

    def _tell_of_refund(
        self, request: HttpRequest, order: Order, text: str, level: int = messages.SUCCESS
    ) -> HttpResponse:
        self.message_user(request, text, level)
        return self.to_order(order)


def _new_reference() -> str:
    """A unique reference for a refund without a number; it makes a double click harmless."""
    return f"R-{uuid.uuid4().hex[:12].upper()}"


def _customer(order: Order) -> str:
    return order.customer_name or order.customer_email or order.customer_phone


def _whom(order: Order) -> list[tuple[str, object]]:
    facts = [(gettext("order"), order.reference), (gettext("customer"), _customer(order))]
    return [(label, value) for label, value in facts if value]


def _payment_facts(given: Mapping[str, Any]) -> list[tuple[str, object]]:
    facts = [
        (gettext("amount"), money(given["amount"])),
        (gettext("method"), given["method"]),
        (gettext("reference"), given["reference"]),
        (gettext("comment"), given["comment"]),
    ]
    return [(label, value) for label, value in facts if value]


def _consequence(order: Order, given: Mapping[str, Any]) -> SafeString:
    text = gettext("%(amount)s will be recorded as paid back to %(customer)s.")
    if given["state"] != _State.DONE:
        text = gettext("It will be recorded that %(amount)s is to be paid back to %(customer)s.")
    customer = _customer(order)
    named = bdi(customer) if customer else gettext("the customer")
    return filled(text, amount=money(given["amount"]), customer=named)


def _afterwards(order: Order, given: Mapping[str, Any]) -> SafeString:
    """A sentence about what is planned and still owed once the refund is recorded."""
    planned, owed = order.planned_amount, refundable_amount(order) - given["amount"]
    if given["state"] != _State.DONE:
        planned += given["amount"]
    if planned and owed:
        text = gettext("After that, %(planned)s is to be paid back, and %(owed)s is still owed.")
    elif planned:
        text = gettext("After that, %(planned)s is to be paid back, and is owed until it is paid.")
    elif owed:
        text = gettext("After that, %(owed)s is still owed.")
    else:
        text = gettext("After that, nothing is owed any more.")
    return filled(text, planned=money(planned), owed=money(owed))


def _action(given: Mapping[str, Any]) -> str:
    text = gettext("Record %(amount)s as paid back")
    if given["state"] != _State.DONE:
        text = gettext("Record %(amount)s as to be paid back")
    return text % {"amount": money_text(given["amount"])}


def _in_words(part: Decimal | str) -> str:
    return money_text(part) if isinstance(part, Decimal) else isolated(part)


def _in_log(refund: CustomerRefund) -> str:
    """The refund as text for Django's log, which is in English and not localised."""
    return f"{refund.amount:.2f}, {refund.reference}"
