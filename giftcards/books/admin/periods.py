"""The parameters of a report, and the forms for reports and downloads.

The parameters are the period, the grouping and the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.orders.filters import ProductChoices
from giftcards.books.exports import can_write_xlsx
from giftcards.books.reports import By, Report, Row, first_day, last_day
from giftcards.models import Product
from giftcards.rules.times import today
from giftcards.text.display import day_text, isolated

# The first possible day of a report. No shop sold cards before 2000, and some time zones cannot
# express very early times.
_FIRST = date(2000, 1, 1)
_LAST = date(2100, 12, 31)
# The maximum number of days in a report by day, because people have to be able to read all of its
# rows. The maximum number of years in any report.
_MOST_DAYS = 366
_MOST_YEARS = 10
# The form lists at most this many products whose names contain the typed text.
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Question:
    """The parameters of a report.

    The period includes both ``start`` and ``end``.
    """

    start: date
    end: date
    by: By = By.DAY
    product_id: str = ""  # "" means all products

    @property
    def parameters(self) -> dict[str, str]:
        """The values of the form fields that are not empty, by name."""
        fields = {
            "from": self.start.isoformat(),
            "to": self.end.isoformat(),
            "by": self.by.value,
            "product": self.product_id,
        }
        return {name: value for name, value in fields.items() if value}


class ReportForm(forms.Form):
    """The form for a report.

    The form's fields are part of the URL, so every report has its own URL.
    """

    by = forms.ChoiceField(label=_("By"), choices=By.choices)
    # The id of a product. In a large catalogue, staff type the id or a part of the name; otherwise
    # they choose from a list.
    product = forms.CharField(label=_("Product"), required=False, max_length=200)
    # "from" is a keyword of Python, so ``__init__`` adds the field.
    field_order = ("from", "to", "by", "product")

    def __init__(self, data: Mapping[str, Any]) -> None:
        day = today()
        this_month = Question(first_day(day, By.MONTH), day)
        # A URL may name a field several times: the last value counts.
        given = {name: data[name] for name in self.field_order if name in data}
        super().__init__({**this_month.parameters, **given}, auto_id="giftcards-report-%s")
        self.fields["from"] = _date_field(_("From"))
        self.fields["to"] = _date_field(_("To"))
        products = ProductChoices.of_catalogue(str(self.data.get("product", "")))
        if products.is_whole:
            choices = [("", _("All products")), *products.choices]
            self.fields["product"].widget = forms.Select(choices=choices)
        self.order_fields(self.field_order)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        start, end = cleaned.get("from"), cleaned.get("to")
        if not (start and end):
            return cleaned
        if end < start:
            self.add_error("to", gettext("The last day is before the first day."))
        elif cleaned.get("by") == By.DAY and (end - start).days >= _MOST_DAYS:
            text = gettext(
                "A report by day can cover at most %(count)d days. Choose weeks or months instead."
            )
            self.add_error("to", text % {"count": _MOST_DAYS})
        elif (end - start).days >= _MOST_YEARS * _MOST_DAYS:
            text = gettext("A report can cover at most %(count)d years.")
            self.add_error("to", text % {"count": _MOST_YEARS})
        return cleaned

    def clean_product(self) -> str:
        typed: str = self.cleaned_data["product"]
        if not typed or isinstance(self.fields["product"].widget, forms.Select):
            return typed
        if Product.objects.filter(product_id=typed).exists():
            return typed
        found = list(Product.objects.filter(name__icontains=typed).order_by("name")[: _NAMED + 1])
        if len(found) > 1:
            names = ", ".join(
                f"{isolated(each)} ({isolated(each.product_id)})" for each in found[:_NAMED]
            )
            text = gettext(
                "Several products match this name. Enter the ID of one of them: %(names)s."
            )
            raise ValidationError(text % {"names": names})
        return found[0].product_id if found else typed

    @property
    def question(self) -> Question:
        """The period, grouping and product of a valid form, as a ``Question``."""
        given = self.cleaned_data
        return Question(given["from"], given["to"], By(given["by"]), given["product"])


class DownloadForm(forms.Form):
    """The form to download the report or its orders.

    The form has one button for the report and one button for the orders.
    """

    what = forms.ChoiceField(choices=[("report", ""), ("orders", "")])
    format = forms.ChoiceField(label=_("File"))
    has_contacts = forms.BooleanField(
        label=_("Orders with the customers' e-mail addresses and phone numbers"), required=False
    )

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(data, auto_id="giftcards-download-%s", label_suffix="")
        choices = [("csv", _("CSV with commas and decimal points"))]
        if can_write_xlsx():
            # The format xlsx comes first, because its numbers and dates do not depend on the
            # spreadsheet's language.
            choices.insert(0, ("xlsx", _("Excel (xlsx), for spreadsheet programs in any language")))
        self.fields["format"].choices = choices  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("what") == "report":
            cleaned["has_contacts"] = False
        return cleaned


def links(question: Question | None) -> list[tuple[str, str, bool]]:
    """Return links to common periods, and mark the selected period."""
    day = today()
    this_month = first_day(day, By.MONTH)
    last_month = this_month - timedelta(days=1)
    product_id = question.product_id if question else ""
    offers = (
        (gettext("This month"), this_month, day, By.DAY),
        (gettext("Last month"), first_day(last_month, By.MONTH), last_month, By.DAY),
        (gettext("This year"), day.replace(month=1, day=1), day, By.MONTH),
    )
    found = ((text, Question(start, end, by, product_id)) for text, start, end, by in offers)
    return [(text, f"?{urlencode(offer.parameters)}", offer == question) for text, offer in found]


def row_text(row: Row, report: Report) -> str:
    """Return the product, the month or the days of ``row`` as plain text."""
    if isinstance(row.key, tuple):
        return isolated(row.label)
    if report.by is By.MONTH:
        return day_text(row.key, "F Y")
    days = sorted({row.key, last_day(row.key, report.by)})
    # If all days are in one year, the page's title names the year.
    years = {day.year for day in (report.start, report.end, *days)}
    return " – ".join(day_text(day, "j N" if len(years) == 1 else "j N Y") for day in days)


def month_of(text: str) -> date | None:
    """Return the first day of a month in the format ``YYYY-MM``.

    The result is ``None`` if ``text`` is not a month in this format, or if the month is before 2000
    or after 2100.
    """
    try:
        first = date.fromisoformat(f"{text}-01")
    except ValueError:
        return None
    return first if _FIRST <= first <= _LAST and f"{first:%Y-%m}" == text else None


def _date_field(label: Any) -> forms.DateField:
    # Browsers show a calendar in their own language, and always send this format.
    widget = forms.DateInput(
        format="%Y-%m-%d", attrs={"type": "date", "min": str(_FIRST), "max": str(_LAST)}
    )
    text = _("Enter a year from 2000 to 2100.")
    years = [MinValueValidator(_FIRST, text), MaxValueValidator(_LAST, text)]
    return forms.DateField(label=label, widget=widget, input_formats=["%Y-%m-%d"], validators=years)
