"""Refunds to customers.

Staff see which amounts are owed, and record payments that were made elsewhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.forms import model_to_dict
from django.http import HttpResponse, QueryDict
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import LATE, Answer, Attempt, OrderAction, Outcome, in_words, may
from giftcards.admin.frame.forms import AmountField
from giftcards.admin.frame.pages import about, customer_of, facts
from giftcards.admin.frame.rows import OrderRows, column, orders_named
from giftcards.admin.orders.breakdown import customer_lines
from giftcards.admin.orders.filters import DateFilter
from giftcards.exceptions import RefundError
from giftcards.fulfilment import record_sale_amount
from giftcards.models import CustomerRefund, Order
from giftcards.models.customer_refunds import check_amount, refundable_amount, sale_obstacle
from giftcards.models.fields import MONEY, plain_line
from giftcards.settlement import cancel_refund, record_refund
from giftcards.text.display import badge, bdi, filled, moment, money, money_text, payment

_State = CustomerRefund.State


def refund_rows(refunds: Iterable[CustomerRefund]) -> list[dict[str, Any]]:
    """Return ``refunds`` as rows for the page of an order.

    The texts are HTML.
    """
    return [
        {
            "key": refund.pk,
            "amount": money(refund.amount),
            "badge": _badge_of(refund),
            "payment": payment(refund.method, refund.reference),
            "steps": _steps(refund),
            "notes": [bdi(text) for text in (refund.comment, refund.cancel_reason) if text],
            "is_cancelled": refund.state == _State.CANCELLED,
        }
        for refund in refunds
    ]


def _steps(refund: CustomerRefund) -> list[SafeString]:
    by = refund.created_by or refund.get_source_display()
    steps = (
        ("", refund.executed_at, by),
        (gettext("cancelled"), refund.cancelled_at, refund.cancelled_by),
    )
    return [
        format_html("{} {} {}", label, moment(at), bdi(name)) for label, at, name in steps if at
    ]


class SaleForm(forms.Form):
    """A form for the sale amount of an order that was placed without one."""

    amount = AmountField(
        label=_("Paid by the customer for all cards"),
        help_text=_("The amount is recorded once and cannot be changed later."),
        min_value=Decimal(0),
        **MONEY,
        widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "decimal"}),
    )


def _say_sale(attempt: Attempt) -> Outcome:
    if not record_sale_amount(attempt.order, attempt.form.cleaned_data["amount"], by=attempt.by):
        return Outcome(gettext("This amount has already been recorded."), level=messages.INFO)
    return Outcome(
        gettext("Recorded: the customer paid %(amount)s.")
        % {"amount": money_text(attempt.order.sale_amount)},
        "Recorded the amount that the customer paid.",
    )


def _why_no_sale(attempt: Attempt) -> Outcome | None:
    obstacle = sale_obstacle(attempt.order)
    if attempt.request.method == "POST" or not obstacle:
        return None
    return Outcome(obstacle, level=messages.ERROR)


SALE = OrderAction(
    name="order_sale",
    help_topic="refunds",
    route="<key>/sale/",
    label=_("Enter what the customer paid"),
    permission=may("giftcards.settle_refund"),
    is_offered=lambda order: not sale_obstacle(order),
    is_final=True,
    before=_why_no_sale,
    token=None,
    form=lambda _attempt, data: SaleForm(data),
    template="sale",
    context=lambda attempt: {"facts": facts(attempt.order)},
    act=_say_sale,
)


class RefundForm(forms.ModelForm):  # type: ignore[type-arg]
    """A form for a new refund.

    The form is posted once to open the confirmation page, and a second time to confirm.
    """

    class Meta:
        model = CustomerRefund
        fields = ("amount", "method", "reference", "comment")
        field_classes: ClassVar = {"amount": AmountField}
        widgets: ClassVar = {
            name: forms.TextInput(attrs={"dir": "auto", "autocomplete": "off"})
            for name in ("method", "reference", "comment")
        }
        widgets["reference"].attrs["data-selects"] = ""

    def __init__(self, order: Order, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._order = order

    @property
    def is_confirmed(self) -> bool:
        return "_confirmed" in self.data

    @property
    def is_known(self) -> bool:
        """True if a refund with this reference was already recorded."""
        given = self.data.get("reference", "").strip()
        return self._order.refunds.filter(reference=given).exists()

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if not self.is_confirmed:
            try:
                check_amount(self._order, amount)
            except RefundError as error:
                raise ValidationError(error.shown(in_words)) from None
        return amount

    def is_valid(self) -> bool:
        # The "_change" button leads from the confirmation page back to the form.
        return super().is_valid() and "_change" not in self.data


def _refund_form(attempt: Attempt, data: QueryDict | None) -> RefundForm:
    if data is not None:
        return RefundForm(attempt.order, data)
    # A payment may not have a number, so its reference is random. Because the reference is unique,
    # a double click does not record two refunds.
    reference = f"R-{uuid.uuid4().hex[:12].upper()}"
    initial = {"amount": attempt.order.open_amount, "reference": reference}
    return RefundForm(attempt.order, initial=initial)


def _why_nothing_is_owed(attempt: Attempt) -> Outcome | None:
    if attempt.request.method != "POST":
        try:
            refundable_amount(attempt.order)
        except RefundError as error:
            return Outcome(error.shown(in_words), level=messages.ERROR)
    return None


def _pay_back(attempt: Attempt) -> Answer:
    order, form = attempt.order, attempt.form
    if not (form.is_known or order.open_amount):
        return LATE
    given = form.cleaned_data
    if not form.is_confirmed:
        return _confirmation(attempt, given)
    source = CustomerRefund.Source.STAFF
    refund = record_refund(order, **given, by=attempt.by, source=source)
    if not refund.has_changed:
        text = gettext("This refund has already been recorded. It was not recorded again.")
        return Outcome(text, level=messages.INFO)
    text = gettext("Recorded: the customer was paid back %(amount)s.")
    return Outcome(
        text % {"amount": money_text(refund.amount)},
        f"Recorded a refund to the customer: {_in_log(refund)}.",
    )


def _confirmation(attempt: Attempt, given: Mapping[str, Any]) -> HttpResponse:
    order = attempt.order
    return attempt.page(
        "pay_back_confirm",
        consequence=_consequence(order, given),
        afterwards=_afterwards(order, given),
        facts=[*about(order), *_payment_facts(given)],
        # The values are strings, because the template would localise numbers.
        posted=[(name, str(given[name])) for name in attempt.form.fields],
        action=_action(given),
    )


PAY_BACK = OrderAction(
    name="order_pay_back",
    help_topic="refunds",
    route="<key>/pay-back/",
    label=_("Pay back the customer"),
    permission=may("giftcards.settle_refund"),
    takes=("giftcards.settle_refund",),
    is_offered=lambda order: bool(order.open_amount),
    before=_why_nothing_is_owed,
    form=_refund_form,
    is_repeated=lambda attempt: attempt.form.is_known,
    template="pay_back",
    context=lambda attempt: {
        "facts": about(attempt.order),
        "lines": customer_lines(attempt.order, replacement=None),
    },
    act=_pay_back,
)


def _refund_context(attempt: Attempt) -> Mapping[str, Any]:
    given = model_to_dict(attempt.row)
    return {
        "heading": gettext("The refund"),
        "facts": [*about(attempt.order), *_payment_facts(given)],
        "action": attempt.action.label,
    }


class TakeBackForm(forms.Form):
    reason = forms.CharField(
        label=_("Reason"),
        max_length=200,
        validators=[plain_line],
        help_text=_("A note for your colleagues, for example “The transfer was returned”."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"}),
    )


def _cancel(attempt: Attempt) -> Outcome:
    reason = attempt.form.cleaned_data["reason"]
    refund = cancel_refund(attempt.row, by=attempt.by, reason=reason)
    if not refund.has_changed:
        return Outcome(gettext("The refund has already been cancelled."), level=messages.INFO)
    return Outcome(
        gettext("The refund was cancelled. You owe the customer this amount again."),
        f"Cancelled a refund: {_in_log(refund)}.",
    )


def _late_if_cancelled(attempt: Attempt) -> Outcome | None:
    is_cancelled = attempt.row.state == _State.CANCELLED
    return LATE if is_cancelled and attempt.request.method != "POST" else None


CANCEL = OrderAction(
    name="refund_cancel",
    help_topic="refunds",
    route="refunds/<key>/take-back/",
    label=_("Cancel the refund"),
    permission=may("giftcards.settle_refund"),
    is_final=True,
    of=CustomerRefund,
    place="",
    token=None,
    before=_late_if_cancelled,
    form=lambda _attempt, data: TakeBackForm(data),
    template="ask",
    context=lambda attempt: {
        **_refund_context(attempt),
        "consequence": gettext(
            "You will owe the customer this amount again. The refund will not be deleted, but"
            " will be shown as cancelled. Cancel a refund only if the customer did not receive"
            " the money or returned it."
        ),
    },
    act=_cancel,
)


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
    customer = customer_of(order)
    named = bdi(customer) if customer else gettext("the customer")
    return filled(text, amount=money(given["amount"]), customer=named)


def _afterwards(order: Order, given: Mapping[str, Any]) -> str:
    if owed := refundable_amount(order) - given["amount"]:
        return filled(gettext("After this refund, %(owed)s will still be owed."), owed=money(owed))
    return gettext("After this refund, the customer will be fully paid back.")


def _action(given: Mapping[str, Any]) -> str:
    return gettext("Record %(amount)s as paid back") % {"amount": money_text(given["amount"])}


def _in_log(refund: CustomerRefund) -> str:
    """Describe the refund in English, for the admin's log."""
    return f"{refund.amount:.2f}, {refund.reference}"


def _badge_of(refund: CustomerRefund) -> SafeString:
    return badge(f"refund-{refund.state}", refund.get_state_display())


_MOST_FOUND = 1_000


@admin.register(CustomerRefund)
class CustomerRefundAdmin(OrderRows):
    """The list of refunds to customers.

    Staff record refunds on the pages of orders.
    """

    help_topic = "refunds"
    list_display = (
        "when",
        "its_order",
        "how_much",
        "its_state",
        "its_method",
        "its_reference",
        "by",
    )
    list_select_related = ("order",)
    list_filter = (("state", admin.ChoicesFieldListFilter), ("executed_at", DateFilter))
    fields = readonly_fields = (*list_display, "its_comment")
    # Django shows the search box only if ``search_fields`` is set. The search itself is in
    # search_rows().
    search_fields = ("reference",)
    search_help_text = _(
        "Enter an order reference or a refund reference. The beginning of the reference is enough."
    )

    when = column(CustomerRefund, "executed_at")
    how_much = column(CustomerRefund, "amount")
    its_state = column(CustomerRefund, "state", lambda refund, _state: _badge_of(refund))
    its_reference = column(CustomerRefund, "reference")
    its_comment = column(CustomerRefund, "comment")

    def search_rows(self, rows: QuerySet[Any], name: str) -> QuerySet[Any]:
        orders = orders_named(name)
        refunds = [] if orders.is_whole else CustomerRefund.objects.search(name, limit=_MOST_FOUND)
        if refunds:
            return rows.filter(pk__in=[refund.pk for refund in refunds])
        return self.rows_of(rows, orders)

    @admin.display(description=_("method"), empty_value="")
    def its_method(self, refund: CustomerRefund) -> str:
        return bdi(refund.method) if refund.method else ""

    @admin.display(description=_("by"))
    def by(self, refund: CustomerRefund) -> SafeString:
        return bdi(refund.created_by or refund.get_source_display())
