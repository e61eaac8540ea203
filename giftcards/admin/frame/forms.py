"""Forms for staff: their fields, and tokens so that a late form decides about nothing."""

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


class AmountField(forms.DecimalField):
    """An amount as people write it: see :func:`~giftcards.text.display.read_amount`."""

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


class MomentField(forms.DateTimeField):
    """A date and a time, for which browsers have a control of their own."""

    # With seconds, so that a moment that nobody has changed stays the same.
    widget = forms.DateTimeInput(
        attrs={"type": "datetime-local", "step": 1}, format="%Y-%m-%dT%H:%M:%S"
    )


def language_choices(empty: Any, *others: str) -> list[tuple[str, Any]]:
    """The languages of the site, after an ``empty`` choice; and ``others``, which are codes."""
    known = {code: gettext(str(name)) for code, name in settings.LANGUAGES}
    return [("", empty), *({code: code for code in others if code} | known).items()]


#: The empty choices of the columns with a language.
NO_LANGUAGE = {
    "customer_language": _("The language of the site"),
    "recipient_language": _("That of the customer"),
}
#: A few lines of text.
WORDS = forms.Textarea({"rows": 4, "dir": "auto"})


def token(purpose: str, seen: list[Any]) -> str:
    """A hash of what a page has shown; nobody else can make it up."""
    text = json.dumps(seen, sort_keys=True)
    return salted_hmac(f"giftcards.admin.{purpose}", text, algorithm="sha256").hexdigest()


def state_token(order: Order) -> str:
    """A hash of the state of ``order`` that a form carries: it changes once the state does.

    It covers the attempt to send the order, its status, its id at the provider, the candidates that
    staff were offered, why it is held, and what was paid back or is planned to be. A form that is
    posted late must not decide about another attempt.
    """
    # In other statuses, a claim may be that of a check, which changes nothing that staff decide.
    attempt = order.claim if order.status == Status.UNCONFIRMED else ""
    sent_at = order.sent_at and order.sent_at.isoformat()
    # A held order may have gone on meanwhile, and been held again for the same reason.
    held_for = [order.queued_at.isoformat(), order.problems] if order.is_held else []
    seen = [order.pk, order.status, sent_at, attempt, order.provider_order_id, order.candidates]
    seen += [held_for, f"{order.paid_back_amount:.2f}", f"{order.planned_amount:.2f}"]
    return token("state_token", seen)
