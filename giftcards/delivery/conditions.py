"""Health conditions about messages, in addition to those of the core."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from giftcards.delivery.models import Delivery
from giftcards.engine.health import Condition, Standing
from giftcards.management.output import counted

# Upper bound of the counts.
_MOST = 1_000
# How long a message that was given up raises the alarm: nobody can tick it off.
_ALARM = timedelta(days=1)


def _waits(standing: Standing) -> str:
    """A sentence if messages have waited too long, otherwise "". Digests use the same limit."""
    number = len(Delivery.objects.late(standing.now, limit=_MOST))
    have = "has" if number == 1 else "have"
    what = f"{counted(number, 'message')} to customers {have} waited to be sent"
    return f"{what} for more than 5 minutes." if number else ""


def _is_untold(standing: Standing) -> str:
    """A sentence if messages were given up within the last day; otherwise ""."""
    lately = Delivery.objects.filter(failed_at__gt=standing.now - _ALARM)
    number = lately.untold().order_by()[:_MOST].count()
    were = "was" if number == 1 else "were"
    what = f"{counted(number, 'message')} to customers {were} given up"
    return f"{what} within the last day." if number else ""


#: By name, for :data:`giftcards.engine.health.CONDITIONS`.
CONDITIONS: Mapping[str, Condition] = {"mail": _waits, "untold": _is_untold}
