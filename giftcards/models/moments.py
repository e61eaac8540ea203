"""Comparing stored times with a clock that may have been set back since they were written.

Such a time can lie farther ahead than anything that is written today. It then counts as past:
otherwise a lease of seconds would last for as long as the clock was set back.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

# How far the clocks of the machines that share a database may differ.
SLACK = timedelta(seconds=5)
# No lease and no claim on an order is taken for longer.
LONGEST_HOLD = timedelta(minutes=2)


def with_zone(moment: datetime) -> datetime:
    """``moment`` comparable with the provider's times, also where ``USE_TZ`` is off."""
    return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


def as_stored(moment: datetime) -> datetime:
    """A time that the provider told as this site stores it: without zone if ``USE_TZ`` is off."""
    return moment if settings.USE_TZ else timezone.make_naive(moment, _site_zone())


def begin_of(day: date) -> datetime:
    """When ``day`` begins in the time zone of the site, as it would be stored."""
    midnight = datetime.combine(day, time.min)
    return timezone.make_aware(midnight, _site_zone()) if settings.USE_TZ else midnight


def day_of(moment: datetime) -> date:
    """The day of ``moment`` in the time zone of the site."""
    return timezone.localtime(with_zone(moment), _site_zone()).date()


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
