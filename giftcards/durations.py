"""Lengths of time in words, from the catalogues of this package.

Django's own words take the wrong case in Arabic after "since" and "in".
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils.translation import gettext, ngettext_lazy

_MINUTE = timedelta(minutes=1)
# The longest first. Months and years are those of an average.
_UNITS = (
    (timedelta(days=365), ngettext_lazy("%(count)s year", "%(count)s years", "count")),
    (timedelta(days=30), ngettext_lazy("%(count)s month", "%(count)s months", "count")),
    (timedelta(days=7), ngettext_lazy("%(count)s week", "%(count)s weeks", "count")),
    (timedelta(days=1), ngettext_lazy("%(count)s day", "%(count)s days", "count")),
    (timedelta(hours=1), ngettext_lazy("%(count)s hour", "%(count)s hours", "count")),
    (_MINUTE, ngettext_lazy("%(count)s minute", "%(count)s minutes", "count")),
)


def duration_text(span: timedelta) -> str:
    """``span`` in its largest unit, rounded down: "2 hours"; below 1 minute "less than a minute".

    In Arabic it is in the case that follows a preposition.
    """
    for unit, text in _UNITS:
        if (count := span // unit) > 0:
            return text % {"count": count}
    return gettext("less than a minute")


def distance_text(moment: datetime, now: datetime) -> str:
    """The distance of ``moment`` from ``now``: "in 2 hours" or "2 hours ago"."""
    if now <= moment:
        return gettext("in %(time)s") % {"time": duration_text(moment - now)}
    return gettext("%(time)s ago") % {"time": duration_text(now - moment)}
