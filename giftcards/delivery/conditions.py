"""What a monitor can ask about messages, beside the conditions of the core."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from giftcards.delivery.models import Delivery
from giftcards.engine.health import Condition, Standing
from giftcards.management.output import counted

# More are not counted.
_MOST = 1_000
# A message that was given up cannot be ticked off, so the alarm ends by itself.
_ALARM = timedelta(days=1)


def _waits(standing: Standing) -> str:
    """That messages cannot be sent, by what staff are told of."""
    number = len(Delivery.objects.late(standing.now, limit=_MOST))
    have = "has" if number == 1 else "have"
    what = f"{counted(number, 'message')} to customers {have} waited to be sent"
    return f"{what} for more than 5 minutes." if number else ""


def _is_untold(standing: Standing) -> str:
    """That customers were not told, and nothing more is tried."""
    lately = Delivery.objects.filter(failed_at__gt=standing.now - _ALARM)
    number = lately.untold().order_by()[:_MOST].count()
    were = "was" if number == 1 else "were"
    what = f"{counted(number, 'message')} to customers {were} given up"
    return f"{what} within the last day." if number else ""


#: By name, for :data:`giftcards.engine.health.CONDITIONS`.
CONDITIONS: Mapping[str, Condition] = {"mail": _waits, "untold": _is_untold}
