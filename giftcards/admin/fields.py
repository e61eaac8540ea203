"""Fields of the forms for staff: amounts, moments, languages, and texts of several lines."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.display import read_amount


class AmountField(forms.DecimalField):
    """An amount as people write it: see :func:`~giftcards.display.read_amount`."""

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
