"""Times in the database, and days in the time zone of the site.

A stored time in the future, for example the end of a lease, can only be a limited time ahead. If a
time is farther ahead, the clock must have been set back since the time was stored, and the app
treats the time as past. Otherwise, a lease of a few seconds could last an hour.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from giftcards.conf import LONGEST_SEARCH

# The largest difference between the clocks of machines that share a database.
SLACK = timedelta(seconds=5)
# The longest lease, and the longest claim on an order.
LONGEST_HOLD = timedelta(minutes=2)
# The longest time for which an order created by ``REORDER_MISSING`` is on hold.
LONGEST_WAIT = timedelta(hours=LONGEST_SEARCH)
_NO_TIME = timedelta(0)
# Some databases cannot store earlier or later days, and a ``datetime`` cannot represent them in
# every time zone.
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(9998, 12, 31)
# The site's zone is the default zone. Django's current zone may be that of a page's reader.
_site_zone = timezone.get_default_timezone


def with_zone(moment: datetime) -> datetime:
    """Return ``moment`` with a time zone.

    The result can be compared with the provider's times.
    """
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def as_stored(moment: datetime) -> datetime:
    """Convert a time from the provider to its stored form.

    The stored form does not have a time zone if ``USE_TZ`` is off.
    """
    return moment if settings.USE_TZ else local(moment)


def local(moment: datetime) -> datetime:
    """Return ``moment`` as a naive datetime in the time zone of the site."""
    return moment if timezone.is_naive(moment) else timezone.make_naive(moment, _site_zone())


def as_given(moment: datetime) -> datetime:
    """Convert a time from a caller to its stored form.

    The time can have any time zone. Raises ``ValueError`` if the year cannot be stored, or if
    ``USE_TZ`` is on and the time zone is missing.
    """
    if not _is_storable(moment):
        raise ValueError("This time is outside the years that can be stored.")
    if timezone.is_aware(moment):
        # The time is converted to UTC, because in Python a time in a repeated hour never equals a
        # time in another zone.
        return as_stored(moment.astimezone(UTC))
    if settings.USE_TZ:
        raise ValueError("This time has no time zone.")
    return moment


def _is_storable(moment: datetime) -> bool:
    return _FIRST_DAY <= moment.date() <= _LAST_DAY


def read_moment(text: str) -> datetime:
    """Parse ``text`` as a time, and return the time in its stored form.

    If ``text`` does not contain a time zone, the time zone of the site is used. Raises
    ``ValueError`` if ``text`` is not a time, or if its year cannot be stored.
    """
    moment = parse_datetime(text)
    if moment is None or not _is_storable(moment):
        raise ValueError("This time is outside the years that can be stored.")
    if not settings.USE_TZ:
        return local(moment)
    is_aware = timezone.is_aware(moment)
    return moment if is_aware else timezone.make_aware(moment, _site_zone())


def repeated_for(moment: datetime) -> timedelta:
    """Return the length of the clock change if a time occurs twice.

    Otherwise, the result is 0. When clocks are set back in autumn, the times of one hour occur
    twice, and a naive ``moment`` does not show which of the two times is meant. For an aware
    ``moment``, the result is 0.
    """
    if timezone.is_aware(moment):
        return _NO_TIME
    zone = _site_zone()
    first, second = (moment.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    return max((first or _NO_TIME) - (second or _NO_TIME), _NO_TIME)


def day_of(moment: datetime) -> date:
    """Return the day of ``moment`` in the time zone of the site."""
    return local(moment).date()


def today() -> date:
    """Return the current day in the time zone of the site.

    The result does not depend on Django's current time zone.
    """
    return day_of(timezone.now())


def begin_of(day: date) -> datetime:
    """Return the time at which ``day`` starts in the time zone of the site.

    The result is naive if ``USE_TZ`` is off. A day without a midnight starts at one o'clock. A day
    with two midnights starts at the first midnight.
    """
    midnight = datetime.combine(min(max(day, _FIRST_DAY), _LAST_DAY), time.min)
    return timezone.make_aware(midnight, _site_zone()) if settings.USE_TZ else midnight


def bounds(first: date, last: date) -> tuple[datetime, datetime]:
    """Return the start of the first day and the end of the last day.

    The end is the start of the next day. The start and the end are in their stored form.
    """
    return begin_of(first), begin_of(min(last, _LAST_DAY) + timedelta(days=1))


def within(field: str, first: date, last: date) -> Q:
    """Return a condition for times in a period of whole days.

    The condition applies to the column ``field``. The days ``first`` and ``last`` are included.
    """
    start, end = bounds(first, last)
    return Q(**{f"{field}__gte": start, f"{field}__lt": end})


def is_ahead(moment: datetime | None, now: datetime, *, max_distance: timedelta) -> bool:
    """Return True if ``moment`` is at most ``max_distance`` after ``now``.

    Returns False if ``moment`` is ``None`` or is not after ``now``.
    """
    return moment is not None and now < moment <= now + max_distance + SLACK


def ahead(field: str, now: datetime, *, max_distance: timedelta) -> Q:
    """Return a ``Q`` that applies :func:`is_ahead` to a column."""
    return Q(**{f"{field}__gt": now, f"{field}__lte": now + max_distance + SLACK})


def past(field: str, now: datetime, *, max_distance: timedelta) -> Q:
    """Return the opposite of the ``Q`` that :func:`ahead` returns.

    Rows in which the column is NULL are included.
    """
    return (
        Q(**{field: None})
        | Q(**{f"{field}__lte": now})
        | Q(**{f"{field}__gt": now + max_distance + SLACK})
    )


def is_recent(moment: datetime | None, now: datetime, *, period: timedelta) -> bool:
    """Return True if the time since ``moment`` is shorter than ``period``.

    Returns False if ``moment`` is ``None`` or is more than ``SLACK`` in the future.
    """
    return moment is not None and -SLACK <= now - moment < period
