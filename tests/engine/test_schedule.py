"""The time of an order's next check."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from giftcards.engine.schedule import next_check
from giftcards.statuses import Status
from tests.builders import build_guide_order
from tests.stage import Setter

pytest_plugins = ["tests.stage_fixtures"]

NOW = datetime.fromisoformat("2025-10-29T01:00:00+00:00")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class TestNextCheck:
    @pytest.mark.parametrize(
        ("late_for", "pause"),
        [
            (-MINUTE, MINUTE),  # the time-out was lengthened meanwhile
            (0 * MINUTE, MINUTE),
            (1 * MINUTE, MINUTE),
            (2 * MINUTE, 3 * MINUTE),
            (5 * MINUTE, 10 * MINUTE),
            (15 * MINUTE, HOUR),
            (71 * HOUR, HOUR),
        ],
    )
    def test_a_late_order_is_checked_at_growing_intervals_up_to_an_hour(
        self, late_for: timedelta, pause: timedelta
    ) -> None:
        order = build_guide_order(Status.DELAYED, accepted_at=NOW - 5 * MINUTE - late_for)
        assert next_check(order, NOW) == NOW + pause

    @pytest.mark.parametrize(
        ("configured", "seconds", "watched"),
        [({}, 5, 72 * HOUR), ({"POLL_INTERVAL": 7, "LATE_WATCH_HOURS": 1}, 7, HOUR)],
    )
    def test_an_order_is_checked_as_the_settings_say_and_without_end_while_it_is_fresh(
        self, configured: dict[str, float], seconds: int, watched: timedelta, set_conf: Setter
    ) -> None:
        set_conf(**configured)
        fresh_order = build_guide_order(accepted_at=NOW - 1000 * HOUR)
        assert next_check(fresh_order, NOW) == NOW + seconds * SECOND
        late = build_guide_order(Status.DELAYED, accepted_at=NOW - watched - SECOND)
        assert next_check(late, NOW) is None
