"""Form fields for staff, and tokens that show whether a form is outdated."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.models import Order
from giftcards.rules.states import Status
from giftcards.text.display import read_amount

#: The text of the choice "no language", for each column that contains a language.
NO_LANGUAGE = {
    "customer_language": _("The language of the site"),
    "recipient_language": _("The customer's language"),
}
#: The widget for texts of several lines, which can be written from left to right or from right to
#: left.
WORDS = forms.Textarea({"rows": 4, "dir": "auto"})


class AmountField(forms.DecimalField):
    """A form field for an amount.

    :func:`~giftcards.text.display.read_amount` parses the amount.
    """

    default_error_messages: ClassVar = {
        "invalid": _(
            "Enter an amount such as 550 or 549.90. Use the digits 0 to 9 and a decimal point."
        )
    }

    def to_python(self, value: Any) -> Any:
        if value in self.empty_values:
            return None
        amount = read_amount(str(value).strip())
        if amount is None:
            raise ValidationError(self.error_messages["invalid"], code="invalid")
        return amount


class MomentField(forms.DateTimeField):
    """A field for a date and a time, with the browser's date picker."""

    # The format includes seconds. Otherwise, saving an unchanged form would change the stored time.
    widget = forms.DateTimeInput(
        attrs={"type": "datetime-local", "step": 1}, format="%Y-%m-%dT%H:%M:%S"
    )


def language_choices(empty: Any, *others: str) -> list[tuple[str, Any]]:
    """Return the choices for a language field.

    The first choice means "no language", and its label is ``empty``. The language codes in
    ``others`` and the site's languages follow.
    """
    known = {code: gettext(str(name)) for code, name in settings.LANGUAGES}
    return [("", empty), *({code: code for code in others if code} | known).items()]


def token(purpose: str, values: list[Any]) -> str:
    """Return a hash of the values that a page has shown.

    Only this site can compute the hash.
    """
    text = json.dumps(values, sort_keys=True)
    return salted_hmac(f"giftcards.admin.{purpose}", text, algorithm="sha256").hexdigest()


def state_token(order: Order) -> str:
    """Return a hash of the parts of ``order`` that matter for decisions.

    A form that is posted with an old hash is refused, because staff have not seen the current state
    of the order.
    """
    # The claim of an unconfirmed order identifies the attempt to send it whose outcome is unknown.
    # In other statuses, a worker that checks the order may change the claim, but this must not make
    # the form outdated.
    attempt = order.claim if order.status == Status.UNCONFIRMED else ""
    sent_at = order.sent_at and order.sent_at.isoformat()
    # An order on hold may be approved and then put on hold again for the same reason. The hash
    # therefore contains ``queued_at``, which changes when the order is approved.
    on_hold_for = [order.queued_at.isoformat(), order.problems] if order.is_on_hold else []
    seen = [order.pk, order.status, sent_at, attempt, order.provider_order_id, order.candidates]
    seen += [on_hold_for, f"{order.paid_back_amount:.2f}"]
    return token("state_token", seen)
