"""The "Closing a month" page, which shows the steps and the figures.

The page also shows earlier closings. The page requires the permissions to see reports and costs,
because it shows both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django import forms
from django.contrib import messages
from django.contrib.admin.models import ADDITION, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.crypto import constant_time_compare
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.admin.frame.actions import Page, Pages
from giftcards.admin.frame.forms import token
from giftcards.books.admin.periods import Question, month_of
from giftcards.books.admin.reports import list_url
from giftcards.books.figures import FIGURES as OF_REPORTS
from giftcards.books.models import LedgerEntry, MonthClosing
from giftcards.books.months import (
    FIGURES,
    Month,
    MonthFigure,
    Part,
    Step,
    StepState,
    Value,
    as_read,
    as_stored,
    close_month,
    last_finished_month,
)
from giftcards.books.reports import By, first_day
from giftcards.text.display import (
    bdi,
    count_text,
    day_text,
    filled,
    moment,
    money,
    signed_money,
)

# The number of finished months that the page offers.
_MONTHS = 24
# The value of the parameter "month" for the latest month that has changed since its closing.
_CHANGED = "changed"
_BY_NAME = {figure.name: figure for figure in FIGURES}
_SIGNS = {StepState.DONE: "✓", StepState.TO_DO: "!", StepState.NOTHING: "–"}


class _Text(NamedTuple):
    title: Any
    done: Any
    nothing: Any
    advice: Any
    counts: tuple[str, ...]


_TEXTS: Mapping[str, _Text] = {
    "read": _Text(
        _("The provider's ledger up to the end of the month"),
        "",
        "",
        _("The ledger is read automatically every night."),
        ("entries",),
    ),
    "explained": _Text(
        _("Comparison of the ledger with the balance and the orders"),
        _("The entries explain the whole change in the balance and match the orders."),
        _("There are no entries and no orders."),
        _("Find out what each entry is for. The provider's support can explain the transactions."),
        (
            "breaks",
            "not_credited",
            "charged_unknown",
            "credited_unknown",
            "charged_unfit",
            "credited_unfit",
            "never_charged",
        ),
    ),
    "sales": _Text(
        _("Sale amounts"),
        _("The sale amount of each order is known."),
        _("There are no orders."),
        _("On each order's page, enter how much the customer paid."),
        ("unpaid",),
    ),
    "owed": _Text(
        _("Money still owed to customers"),
        _("No more money is owed to customers."),
        _("No money was owed to customers."),
        _(
            "Pay the customers back and record the refunds on the pages of their orders, or order"
            " the missing cards again there."
        ),
        ("owing",),
    ),
}
# Maps the name of a count to the amount that is shown beside it.
_AMOUNTS = {"breaks": "gap", "owing": "open_amount"}
# The filters that limit the list of orders to the orders that a figure counts.
_OF_ORDERS: Mapping[str, Mapping[str, str]] = {
    "not_credited": {"ledger": "credits_missing"},
    "unpaid": OF_REPORTS["unpaid"].filters or {},
    "owing": OF_REPORTS["open_amount"].filters or {},
}
_AFTER_ORDERING_AGAIN = {"reordered_amount", "paid_amount", "owed_amount"}
# The first figure of a pair is left out if it equals the second.
_BEYOND = {"charged_unfit": "charged_unknown", "credited_unfit": "credited_unknown"}
# The filters that limit the ledger to the entries that a figure counts. Other figures about the
# ledger link to lists on the ledger's page.
_OF_ENTRIES: Mapping[str, Mapping[str, str]] = {
    "charged_unknown": {"order": "charged"},
    "credited_unknown": {"order": "credited"},
}


class ClosingForm(forms.ModelForm):  # type: ignore[type-arg]
    """The form to close a month.

    The form asks for a reason if a step has not been completed.
    """

    is_sure = forms.BooleanField(label=_("I have checked the steps and the figures."))

    class Meta:
        model = MonthClosing
        fields = ("note",)
        widgets = {"note": forms.Textarea(attrs={"rows": 3, "dir": "auto"})}

    def __init__(self, month: Month, data: Any = None) -> None:
        super().__init__(data, auto_id="giftcards-closing-%s", label_suffix="")
        note = self.fields["note"]
        note.required = bool(month.open_steps)
        note.label = (
            gettext("Reason for closing the month before all steps are done")
            if note.required
            else gettext("A note (optional)")
        )


def closing_view(pages: Pages, request: HttpRequest) -> HttpResponse:
    if not (pages.has_report_permission(request) and pages.may_see_costs(request)):
        raise PermissionDenied
    first = _asked_for(request)
    if first is None:
        pages.message_user(request, gettext("There is no such month."), messages.ERROR)
        return HttpResponseRedirect(pages.url_of("close_month"))
    month = Month.now(first)
    if request.method != "POST":
        return _page(pages, request, month, ClosingForm(month))
    if not _may_close(request):
        raise PermissionDenied
    form = ClosingForm(month, request.POST)
    refusal = _refusal(request, month)
    if not refusal:
        if not form.is_valid():
            return _page(pages, request, month, form)
        refusal = _close(pages, request, month, form.cleaned_data["note"])
    if refusal:
        pages.message_user(request, refusal, messages.ERROR)
    return HttpResponseRedirect(f"{pages.url_of('close_month')}?month={_value(first)}")


def _page(pages: Pages, request: HttpRequest, month: Month, form: ClosingForm) -> HttpResponse:
    return pages.render_page(
        request,
        "admin/giftcards_books/close_month.html",
        title=gettext("Closing a month: %(month)s") % {"month": month_text(month.first)},
        errors=form.errors,
        form=form if _may_close(request) and _may_be_closed(month) else None,
        state_token=_token(month),
        **_shown(pages, request, month),
    )


def _may_close(request: HttpRequest) -> bool:
    return request.user.has_perm("giftcards_books.close_month")


def month_text(first: date) -> str:
    return day_text(first, "F Y")


def _value(first: date) -> str:
    return f"{first:%Y-%m}"


def _asked_for(request: HttpRequest) -> date | None:
    asked = request.GET.get("month", "")
    if asked in {"", _CHANGED}:
        changed = MonthClosing.objects.changed().first() if asked else None
        return changed.month if changed else last_finished_month()
    return month_of(asked)


def _token(month: Month) -> str:
    number = month.closing.number if month.closing else 0
    seen = [month.first.isoformat(), number, as_stored(month.figures), month.open_steps]
    return token("close_month", seen)


def _may_be_closed(month: Month) -> bool:
    was = month.closing
    return month.is_over and (was is None or was.figures != as_stored(month.figures))


def _refusal(request: HttpRequest, month: Month) -> str:
    if not month.is_over:
        return gettext("The month was not closed because it is not over yet.")
    if not constant_time_compare(request.POST.get("state_token", ""), _token(month)):
        return gettext(
            "The month was not closed because the figures have changed since the page was shown, or"
            " because somebody else has closed it. Check the page again."
        )
    return ""


def _close(pages: Pages, request: HttpRequest, month: Month, note: str) -> str:
    """Close the month, or return the reason why the month was not closed.

    Returns "" if the month was closed.
    """
    with transaction.atomic(using=router.db_for_write(MonthClosing)):
        closing = close_month(month, by=request.user.get_username(), note=note)
        if closing is None:
            return gettext("Somebody else has just closed the month. Nothing was recorded twice.")
        person: Any = request.user.pk
        LogEntry.objects.log_actions(person, [closing], ADDITION, "Closed the month.")
    text = gettext("%(month)s is closed.") % {"month": month_text(month.first)}
    pages.message_user(request, text, messages.SUCCESS)
    return ""


def _shown(pages: Pages, request: HttpRequest, month: Month) -> dict[str, Any]:
    steps = list(_steps(pages, request, month))
    report = urlencode(Question(month.first, month.last).parameters)
    return {
        "months": list(_offered(month)),
        "month": month,
        "value": _value(month.first),
        "month_text": month_text(month.first),
        "is_first": month.closing is None,
        "steps": steps,
        "groups": list(_groups(month.figures)),
        "differences": [
            {
                "label": each.figure.label,
                "then": value_text(each.figure, each.then),
                "now": value_text(each.figure, each.now),
                "by": _change(each.then, each.now),
            }
            for each in month.differences
        ],
        "closings": list(_records(month.closings)),
        "report": f"{pages.url_of('report')}?{report}",
    }


def _offered(chosen: Month) -> Iterator[tuple[str, str, bool]]:
    """Yield the value and label of each month, and whether it is selected."""
    valid = {closing.month: closing for closing in MonthClosing.objects.valid()}
    months = [last_finished_month()]
    while len(months) < _MONTHS:
        months.append(first_day(months[-1] - timedelta(days=1), By.MONTH))
    for first in sorted({*months, chosen.first}, reverse=True):
        text, closing = month_text(first), valid.get(first)
        if closing:
            # The figures of the chosen month have just been compared with its record. For other
            # months, the result of an earlier comparison is shown.
            is_chosen = first == chosen.first
            has_changed = bool(chosen.differences) if is_chosen else closing.has_changed
            state = gettext("has changed") if has_changed else gettext("closed")
            text = f"{text} · {state}"
        yield _value(first), text, first == chosen.first


def _steps(pages: Pages, request: HttpRequest, month: Month) -> Iterator[dict[str, Any]]:
    for step in month.steps:
        text = _TEXTS[step.name]
        yield {
            "title": text.title,
            "state": step.state,
            "sign": _SIGNS[step.state],
            "sentence": _sentence(step, month),
            "advice": text.advice if step.state is StepState.TO_DO else "",
            "rows": list(_rows(pages, request, month, text.counts)),
        }


def _sentence(step: Step, month: Month) -> str:
    text = _TEXTS[step.name]
    if step.name == "read":
        if month.read_until is None:
            return gettext("The ledger has not been read yet.")
        return filled(
            gettext("The ledger has been read up to %(at)s."), at=moment(month.read_until)
        )
    if step.state is StepState.DONE:
        return str(text.done)
    if step.state is StepState.NOTHING:
        return str(text.nothing)
    if step.name == "explained" and month.figures["gap"] is None and month.figures["entries"]:
        return gettext(
            "The provider did not report the balances, so the app cannot check whether the"
            " entries explain the change in the balance."
        )
    return ""


def _rows(
    pages: Pages, request: HttpRequest, month: Month, names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Yield the counts of a step that are not 0, with links.

    Each link leads to the list of counted rows, or is "" if the person may not open this list. A
    count is left out if it includes another count of the step and is not larger than that count.
    """
    for name in names:
        number, lesser = month.figures[name], _BEYOND.get(name)
        if not number or (lesser and number == month.figures[lesser]):
            continue
        amount = _AMOUNTS.get(name)
        figure = _BY_NAME[amount] if amount else None
        yield {
            "label": _BY_NAME[name].label,
            "number": value_text(_BY_NAME[name], number),
            "amount": value_text(figure, month.figures[figure.name]) if figure else "",
            "url": _url_of(pages, request, month, name),
        }


def _url_of(pages: Pages, request: HttpRequest, month: Month, name: str) -> str:
    """Return the URL of the list that shows what a figure counts.

    The result is "" if the person may not open the list, or if the list is not in this admin site.
    """
    if name in _OF_ORDERS:
        period = Question(month.first, month.last)
        return list_url(pages.url_of("changelist"), period, **_OF_ORDERS[name])
    site = pages.admin_site
    if not site.is_registered(LedgerEntry):
        return ""
    if not site.get_model_admin(LedgerEntry).has_view_permission(request):
        return ""
    ledger = reverse("admin:giftcards_books_ledgerentry_changelist", current_app=site.name)
    chosen = _OF_ENTRIES.get(name)
    filters = {"period": _value(month.first), **(chosen or {})}
    place = "" if chosen or name == "entries" else f"#giftcards-unfit-{name}"
    return f"{ledger}?{urlencode(filters)}{place}"


def _groups(figures: Mapping[str, Value]) -> Iterator[tuple[Any, list[tuple[Any, str]]]]:
    """Yield the title and the figures of each part except ``Part.STEPS``."""
    # If no cards were ordered again, these figures equal other figures, and are left out.
    silent = set() if figures.get("reordered_amount") else _AFTER_ORDERING_AGAIN
    for part in Part:
        lines = [
            (figure.label, value_text(figure, figures[figure.name]))
            for figure in FIGURES
            if figure.part is part and figure.name in figures and figure.name not in silent
        ]
        if part is not Part.STEPS:
            yield part.label, lines


def _records(closings: Iterable[MonthClosing]) -> Iterator[dict[str, Any]]:
    for closing in closings:
        titles = [str(_TEXTS[name].title) for name in closing.open_steps if name in _TEXTS]
        text = gettext("Closed on %(at)s by %(person)s")
        yield {
            "title": filled(text, at=moment(closing.closed_at), person=bdi(closing.closed_by)),
            "open_steps": titles,
            "note": closing.note,
            "groups": list(_groups(as_read(closing.figures))),
        }


def value_text(figure: MonthFigure, value: Value) -> str:
    """Return the value of a figure as HTML."""
    if isinstance(value, int):
        return count_text(value)
    if value is not None and figure.is_signed:
        return signed_money(value)
    return money(value)


def _change(then: Value, now: Value) -> str:
    if then is None or now is None:
        return ""
    if isinstance(then, Decimal):
        return signed_money(Decimal(now) - then)
    change = int(now) - then
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return format_html('<bdi dir="ltr">{}{}</bdi>', sign, count_text(abs(change)))


PAGES = (Page("order_close_month", "report/close/", closing_view, help_topic="closing"),)
