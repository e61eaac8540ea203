"""Moments as they are stored, and days in the time zone of the site.

A clock may have been set back since a moment was written, which can then lie farther ahead than
anything that is written today. Such a moment counts as past: otherwise a lease of seconds would
last for as long as the clock was set back.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django.utils.dateparse import parse_datetime

# How far the clocks of the machines that share a database may differ.
SLACK = timedelta(seconds=5)
# No lease and no claim on an order is taken for longer.
LONGEST_HOLD = timedelta(minutes=2)
# Nothing here is older or newer; the moments of far years fit neither into a datetime with every
# zone nor into every database.
_NO_TIME = timedelta(0)
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(9998, 12, 31)


def with_zone(moment: datetime) -> datetime:
    """``moment`` comparable with the provider's times, also where ``USE_TZ`` is off."""
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def as_stored(moment: datetime) -> datetime:
    """A time that the provider told as this site stores it: without zone if ``USE_TZ`` is off."""
    return moment if settings.USE_TZ else local(moment)


def local(moment: datetime) -> datetime:
    """``moment`` as the clocks of the site's time zone show it, without a zone."""
    return moment if timezone.is_naive(moment) else timezone.make_naive(moment, _site_zone())


def read_moment(text: str) -> datetime:
    """The moment that ``text`` names, as it would be stored; without a zone, it is in the site's.

    Raises ``ValueError`` if it names none, or one of a far year.
    """
    moment = parse_datetime(text)
    if moment is None or not _FIRST_DAY <= moment.date() <= _LAST_DAY:
        raise ValueError("This is not a moment of any year that is stored.")
    if not settings.USE_TZ:
        return local(moment)
    is_aware = timezone.is_aware(moment)
    return moment if is_aware else timezone.make_aware(moment, _site_zone())


def repeated_for(moment: datetime) -> timedelta:
    """How long the clock shows again what it shows around ``moment``: an hour in autumn; else 0.

    Only where ``USE_TZ`` is off: what is stored of that hour does not say which of the two it is.
    """
    if timezone.is_aware(moment):
        return _NO_TIME
    zone = _site_zone()
    first, second = (moment.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return max((first or _NO_TIME) - (second or _NO_TIME), _NO_TIME)


def day_of(moment: datetime) -> date:
    """The day of ``moment`` in the time zone of the site."""
    return local(moment).date()


def today() -> date:
    """The day in the time zone of the site, whatever that of the person who looks at a page."""
    return day_of(timezone.now())


def begin_of(day: date) -> datetime:
    """When ``day`` begins in the time zone of the site, as it would be stored.

    Where the clock is set at midnight, that may be one o'clock, or the first of two midnights.
    """
    midnight = datetime.combine(min(max(day, _FIRST_DAY), _LAST_DAY), time.min)
    return timezone.make_aware(midnight, _site_zone()) if settings.USE_TZ else midnight


def bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """When ``first`` begins, and when the day after ``last`` does, as they would be stored."""
    return begin_of(first), begin_of(min(last, _LAST_DAY) + timedelta(days=1))


def within(field: str, first: date, last: date) -> Q:
    """As a condition on a column: it lies on a day from ``first`` to ``last``."""
    start, end = bounds(first, last)
    return Q(**{f"{field}__gte": start, f"{field}__lt": end})


def _site_zone() -> tzinfo:
    # Not the current one: a page may be shown in that of the person who reads it.
    return timezone.get_default_timezone()


def is_ahead(moment: datetime, now: datetime, *, longest: timedelta) -> bool:
    """Whether ``moment`` is yet to come; False as well if it is ahead by more than ``longest``."""
    return now < moment <= now + longest + SLACK


def ahead(field: str, now: datetime, *, longest: timedelta) -> Q:
    """:func:`is_ahead` as a condition on a column."""
    return Q(**{f"{field}__gt": now, f"{field}__lte": now + longest + SLACK})


def past(field: str, now: datetime, *, longest: timedelta) -> Q:
    """The opposite of :func:`ahead`; NULL is past as well."""
    return (
        Q(**{field: None})
        | Q(**{f"{field}__lte": now})
        | Q(**{f"{field}__gt": now + longest + SLACK})
    )


def is_recent(moment: datetime, now: datetime, *, within: timedelta) -> bool:
    """Whether ``moment`` is less than ``within`` ago; a moment ahead of ``now`` is not recent."""
    return -SLACK <= now - moment < within
