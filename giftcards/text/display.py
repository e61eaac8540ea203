"""Format statuses, amounts, dates, durations and foreign text for display.

The module does not use Django's words for durations, because in Arabic they have the wrong case
after "in".
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from decimal import ROUND_DOWN, Decimal
from typing import Any

from django.conf import settings
from django.utils import numberformat, timezone, translation
from django.utils.formats import date_format, get_format
from django.utils.html import escape, format_html, format_html_join, strip_tags
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import capfirst
from django.utils.translation import get_supported_language_variant, gettext, ngettext_lazy

from giftcards.rules.problems import AMOUNTS, COUNTED, Explanation, Problem
from giftcards.rules.states import Status
from giftcards.rules.times import with_zone

#: The non-breaking spaces: inside amounts, and before the currency sign.
NO_BREAKS = frozenset("\u00a0\u202f")
# The format of dates on all pages. Django's own formats for the languages are long, or consist only
# of numbers, which are easy to misread: 5/11 and 11/5.
_DATE = "j N Y"
_AMOUNT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")


def read_amount(text: str) -> Decimal | None:
    """Parse an amount that a person entered, such as ``549.90``.

    Returns ``None`` if the text is not an amount. Unlike Python, the function refuses exponents,
    underscores, infinity and digits of other scripts. The decimal marks of other scripts are easy
    to misread.
    """
    return Decimal(text) if _AMOUNT.fullmatch(text) else None


def supported_language(language: str | None) -> str:
    """Return the site language that is closest to ``language``.

    If the site does not have a similar language, the result is the default language.
    """
    try:
        return get_supported_language_variant(language or settings.LANGUAGE_CODE)
    except LookupError:
        return settings.LANGUAGE_CODE


def status_badge(status: str, *, is_received: bool = True) -> SafeString:
    """Return a coloured badge with the status, or with "Not received"."""
    if not is_received:
        return badge("unconfirmed", gettext("Not received"))
    return badge(status.lower().replace("_", "-"), Status(status).label)


def money(amount: Decimal | int | None) -> str:
    """Return the amount with its currency as HTML, such as 1,470 DA.

    The amount is formatted for the active language. Decimals are shown if they are not zero. The
    amount is isolated from the direction of the surrounding text, and the number is isolated from
    the direction of the currency sign.
    """
    if amount is None:
        return gettext("unknown")
    amount = Decimal(amount)
    return _with_currency(_grouped(amount), amount)


def signed_money(amount: Decimal) -> str:
    """Return :func:`money` with a sign, such as +980 DA or −2,450 DA.

    The sign distinguishes incoming amounts from outgoing amounts.
    """
    sign = "+" if amount > 0 else "\N{MINUS SIGN}" if amount < 0 else ""
    return _with_currency(sign + _grouped(abs(amount)), amount)


def bare_money(amount: Decimal | None, *, has_decimals: bool) -> str:
    """Return :func:`money` without the currency.

    Use this function for a column whose heading names the currency. If ``has_decimals`` is True,
    whole amounts are also shown with decimals. Use the same value for all amounts in a column.
    """
    if amount is None:
        # The word is for screen readers only: if visible, it would widen its column.
        return format_html(
            '<span aria-hidden="true">{}</span><span class="giftcards-unseen">{}</span>',
            gettext("?"),
            gettext("unknown"),
        )
    figure = _grouped(amount, has_decimals=has_decimals)
    return format_html('<bdi class="giftcards-money" dir="ltr">{}</bdi>', figure)


def _with_currency(figure: str, amount: Decimal) -> str:
    # The class says whether the decimals are missing. Style sheets need it to align digits in a
    # column.
    kind = "giftcards-whole" if is_whole(amount) else "giftcards-exact"
    return format_html(
        '<bdi class="giftcards-money"><span class="{}" dir="ltr">{}</span>\u00a0{}</bdi>',
        kind,
        figure,
        currency(),
    )


def calculation(formula: str, **amounts: Decimal | int) -> SafeString:
    """Return a formula such as ``{quantity} × {price}`` as HTML.

    The formula runs from left to right in all languages.
    """
    shown = {name: _grouped(Decimal(amount)) for name, amount in amounts.items()}
    return format_html('<bdi class="giftcards-money" dir="ltr">{}</bdi>', formula.format(**shown))


def worked_out(quantity: int, price: Decimal | None, total: Decimal | None) -> str:
    """Return the total of ``quantity`` cards with its calculation as HTML.

    For example, the result for two cards can be 2 × 490 = 980 DA. The calculation is left out if
    there are fewer than two cards, or if ``price`` is unknown or does not match the total.
    """
    if total is None or price is None or quantity < 2 or quantity * price != total:
        return money(total)
    product = calculation("{quantity} × {price}", quantity=quantity, price=price)
    # The formula and the total are isolated, so that the direction of the surrounding text decides
    # which of them comes first.
    return format_html('<span class="giftcards-money">{} = {}</span>', product, money(total))


def moment(at: datetime) -> SafeString:
    """Return the local date and time as HTML, such as 24 Nov 23:59.

    The year is added if it is not the current year.
    """
    is_of_this_year = _local(at).year == _local(timezone.now()).year
    return _time(at, bdi(_formatted(at, "j N H:i" if is_of_this_year else f"{_DATE} H:i")))


def _is_of_today(at: datetime) -> bool:
    return _local(at).date() == _local(timezone.now()).date()


def brief_moment(at: datetime) -> SafeString:
    """Return the local time as HTML, with the date unless ``at`` is today."""
    return _time(at, bdi(_formatted(at, "H:i"))) if _is_of_today(at) else moment(at)


def when(at: datetime) -> SafeString:
    """Return :func:`brief_moment` with a preposition.

    The result is, for example, "at 23:59" or "on 24 Nov 23:59".
    """
    text = gettext("at %(time)s") if _is_of_today(at) else gettext("on %(time)s")
    return filled(text, time=brief_moment(at))


def exact_moment(at: datetime) -> SafeString:
    """Return the local date and time as HTML, such as 24 Nov 2026 23:59:30.

    The year and the seconds are always included.
    """
    return _time(at, bdi(_formatted(at, f"{_DATE} H:i:s")))


def zoned_moment(at: datetime) -> SafeString:
    """Return the result of :func:`exact_moment` with the time zone.

    The provider might use another time zone.
    """
    return _time(at, bdi(_formatted(at, f"{_DATE} H:i:s (T)")))


def moment_text(at: datetime) -> str:
    """Return the local date and time in plain text: 24 Nov 2026 23:59.

    The year is always included.
    """
    return isolated(_formatted(at, f"{_DATE} H:i"))


def day_text(day: date, form: str = _DATE) -> str:
    """Return the date in plain text: 24 Nov 2026."""
    return isolated(_formatted(day, form))


def period_text(first: date, last: date) -> str:
    """Return the period in plain text: 1 Nov 2026 – 30 Nov 2026.

    A period of one day is shown as a single date.
    """
    return day_text(first) if first == last else f"{day_text(first)} – {day_text(last)}"


def _time(at: datetime, shown: SafeString) -> SafeString:
    machine_readable = _local(at).isoformat(timespec="seconds")
    return format_html('<time datetime="{}">{}</time>', machine_readable, shown)


def _local(at: datetime) -> datetime:
    return timezone.localtime(with_zone(at))


def _formatted(at: date | datetime, form: str) -> str:
    at = _local(at) if isinstance(at, datetime) else at
    match (translation.get_language() or "").partition("-")[0]:
        case "fr":
            # 1er déc. 2026 à 23:59
            form = form.replace(" H:i", r" \à H:i")
            return date_format(at, form.replace("j", r"1\e\r", 1) if at.day == 1 else form)
        case "ar":
            # Algeria has names of its own for half of the months.
            with translation.override("ar-dz"):
                return date_format(at, form)
    return date_format(at, form).replace(".", "")


_MINUTE = timedelta(minutes=1)
# The longest unit comes first. The lengths of months and years are approximate.
_UNITS = (
    (timedelta(days=365), ngettext_lazy("%(count)s year", "%(count)s years", "count")),
    (timedelta(days=30), ngettext_lazy("%(count)s month", "%(count)s months", "count")),
    (timedelta(days=7), ngettext_lazy("%(count)s week", "%(count)s weeks", "count")),
    (timedelta(days=1), ngettext_lazy("%(count)s day", "%(count)s days", "count")),
    (timedelta(hours=1), ngettext_lazy("%(count)s hour", "%(count)s hours", "count")),
    (_MINUTE, ngettext_lazy("%(count)s minute", "%(count)s minutes", "count")),
)


def duration_text(span: timedelta) -> str:
    """Return ``span`` in its largest unit, rounded down, such as "2 hours".

    If ``span`` is shorter than a minute, the result is "less than a minute". In Arabic, the unit is
    in the grammatical case that follows a preposition.
    """
    for unit, text in _UNITS:
        if (count := span // unit) > 0:
            return text % {"count": count}
    return gettext("less than a minute")


def exact_duration_text(seconds: int) -> str:
    """Return a duration in at most two units: 45 s, 3 min 5 s, 26 h 10 min."""
    hours, rest = divmod(seconds, 3_600)
    minutes, rest = divmod(rest, 60)
    parts = [
        (hours, gettext("%(count)s h")),
        (minutes, gettext("%(count)s min")),
        (0 if hours else rest, gettext("%(count)s s")),
    ]
    shown = [text % {"count": count_text(number)} for number, text in parts if number]
    return isolated(" ".join(shown) or gettext("%(count)s s") % {"count": count_text(0)})


def distance_text(moment: datetime, now: datetime) -> str:
    """Return the time from ``now`` to ``moment``, such as "in 2 hours".

    For a moment in the past, the result is a text such as "2 hours ago".
    """
    if now <= moment:
        return gettext("in %(time)s") % {"time": duration_text(moment - now)}
    return gettext("%(time)s ago") % {"time": duration_text(now - moment)}


def is_whole(amount: Decimal) -> bool:
    """True if the amount is a whole number, such as 490 or 490.00."""
    return amount == amount.to_integral_value()


def money_text(amount: Decimal | None) -> str:
    """Return :func:`money` in plain text, for example for a choice in a form."""
    return isolated(strip_tags(money(amount)))


def count_text(number: int) -> str:
    """Return a count, formatted for the active language: 100,000."""
    return isolated(_grouped(Decimal(number)))


def share_text(fraction: Decimal) -> str:
    """Return ``fraction`` as a percentage rounded down: 0.9999 becomes 99.9%."""
    return percent_text((fraction * 100).quantize(Decimal("0.1"), ROUND_DOWN))


def percent_text(percent: Decimal) -> str:
    """Return a percentage, with decimals if they are not zero: 12% or 7.5%."""
    decimals = 1 if percent == percent.quantize(Decimal("0.1"), ROUND_DOWN) else 2
    return isolated(gettext("%(share)s%%") % {"share": _grouped(percent, decimals=decimals)})


def _grouped(amount: Decimal, *, decimals: int = 2, has_decimals: bool = False) -> str:
    """Format the amount for the active language.

    Decimals are shown if they are not zero, or if ``has_decimals`` is True.
    """
    # Django's formats for Arabic have no grouping.
    has_grouping = get_format("NUMBER_GROUPING") != 0
    return numberformat.format(
        amount,
        get_format("DECIMAL_SEPARATOR"),
        decimals if has_decimals or not is_whole(amount) else 0,
        grouping=3,
        thousand_sep=get_format("THOUSAND_SEPARATOR") if has_grouping else "\u00a0",
        force_grouping=True,
    )


def currency() -> str:
    """Return the currency sign in the active language."""
    return gettext("DA")


def bdi(part: object) -> SafeString:
    """Return foreign text as escaped HTML with its own text direction."""
    return format_html("<bdi>{}</bdi>", part)


def lines(text: str) -> SafeString:
    """Return several lines of foreign text as HTML.

    Each line has its own text direction.
    """
    line = '<div class="giftcards-line" dir="auto">{}</div>'
    return format_html_join("", line, ((part or "\u00a0",) for part in text.split("\n")))


# The addresses in a text that become links, and the signs after an address that are not part of it.
_ADDRESS = re.compile(r"https?://[^\s<>\"'`]+", re.IGNORECASE)
_AFTER_ADDRESS = ".,;:!?…)»]”’،؛؟"


def linked(text: str) -> SafeString:
    """Return several lines of foreign text as HTML with links.

    The function works like :func:`lines`, but http and https URLs become links. The text is
    escaped.
    """
    line = '<div class="giftcards-line" dir="auto">{}</div>'
    parts = ((_with_links(part) or "\u00a0",) for part in text.split("\n"))
    return format_html_join("", line, parts) if text else SafeString("")


def _with_links(line: str) -> SafeString:
    shown, end = SafeString(""), 0
    for found in _ADDRESS.finditer(line):
        address = found[0].rstrip(_AFTER_ADDRESS)
        link = '{}<a href="{}" rel="noopener noreferrer" dir="ltr">{}</a>'
        shown += format_html(link, line[end : found.start()], address, address)
        end = found.start() + len(address)
    return shown + escape(line[end:])


def labelled(label: str, value: str) -> SafeString:
    """Return a value with its label as HTML, for tables without headings."""
    return format_html('<span class="giftcards-label">{}</span> {}', capfirst(label), value)


def filled(text: str, **parts: object) -> SafeString:
    """Escape the translated ``text``, and insert ``parts`` into it.

    The parts must be HTML or numbers, because they are not escaped.
    """
    return mark_safe(escape(text) % parts)  # noqa: S308


def named(name: str, identifier: str) -> SafeString:
    """Return the name of a product or type and its ``identifier`` as HTML.

    If ``name`` is empty, the result contains only the identifier.
    """
    if not name:
        return bdi(identifier)
    return format_html('{} <span class="giftcards-id">{}</span>', bdi(name), bdi(identifier))


def payment(method: str, reference: str) -> SafeString:
    """Return the method and reference of a refund as HTML."""
    parts = (bdi(part) for part in (method, reference) if part)
    return format_html_join(" · ", "{}", ((part,) for part in parts))


def badge(kind: str, label: object) -> SafeString:
    """Return a coloured badge with the CSS class ``giftcards-{kind}``."""
    return format_html('<span class="giftcards-badge giftcards-{}">{}</span>', kind, label)


def isolated(part: object) -> str:
    """Enclose ``part`` in directional isolates for use in plain text."""
    return f"\u2068{part}\u2069"


def one_line(text: str) -> str:
    """Return ``text`` with single spaces between its words.

    Non-breaking spaces are kept.
    """
    spaced = (" " if char.isspace() and char not in NO_BREAKS else char for char in text)
    return " ".join(filter(None, "".join(spaced).split(" ")))


def explained(problem: Problem, *, shows_costs: bool) -> Explanation:
    """Return the explanation of a problem as HTML.

    Foreign text is escaped and isolated from the surrounding text direction. If ``shows_costs`` is
    False, the explanation does not reveal what the provider charges.
    """
    shown = Problem(problem.code, {**problem.parameters, **_amounts(problem)})
    # Every part is escaped already, by ``show`` or by ``own``.
    parts = shown.explain(format_value=_parameter, format_text=escape, shows_costs=shows_costs)
    return Explanation(*(mark_safe(part) for part in parts))  # noqa: S308


def _parameter(value: object) -> str:
    return money(value) if isinstance(value, Decimal) else bdi(value)


def _amounts(problem: Problem) -> dict[str, Any]:
    if problem.parameters.get("field") in COUNTED:
        return {}
    given = AMOUNTS & problem.parameters.keys()
    amounts = {name: read_amount(str(problem.parameters[name])) for name in given}
    return {name: amount for name, amount in amounts.items() if amount is not None}
