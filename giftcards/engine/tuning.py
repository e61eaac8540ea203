"""Intervals, time limits and sizes of the engine's work; none of them is a setting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from giftcards.conf import LOOP_SECONDS


@dataclass(slots=True)
class Tuning:
    """The values that tests shorten, read whenever they are needed; spans in seconds."""

    # The lease of the process that runs the loop, or that announces: after a crash, another process
    # takes over within this time.
    lease: timedelta = timedelta(seconds=10)
    # The interval at which a waiting process checks the lease that another process holds.
    lease_poll: float = 1.0

    # The time for which one task runs the loop.
    task_seconds: float = LOOP_SECONDS
    # The time for which a tick waits for another process's loop: longer than the lease, so that the
    # lease of a dead process expires.
    tick_patience: timedelta = timedelta(seconds=11)
    # The longest wait of a task for work that is due soon, and the interval at which the task looks
    # for work.
    task_wait: float = 15.0
    task_poll: float = 1.0

    # The longest interval at which the loop queries for due orders and renews its lease.
    loop_look: float = 1.0
    # The interval at which an endless loop records that a worker runs. Without an endless loop, the
    # schedule records this.
    loop_tick: float = 60.0
    # The time that each lane of work may take at the end of a tick, if orders wait for this worker.
    chores_seconds: float = 10.0
    # The interval at which turns start beside an endless loop.
    chores_every: float = 60.0
    # If work beside the loop gives no sign of life for this time, other work goes on without it.
    turn_seconds: float = 120.0
    # The pause of work that has failed.
    turns_pause: float = 10.0
    # The ending loop waits for turns for this time, in addition to the time of one request.
    turns_end: float = 10.0

    # A request must go out within this time after the claim began, or the order is handed back.
    # This is enough for the commit of the claim and for connecting. No other process sends the
    # order in this time: the claim lasts for the sum of this time, REQUEST_TIMEOUT and
    # database_patience, and PROOF_OF_ABSENCE counts from the end of this time.
    start_within: float = 10.0
    # The time for which we keep trying to record the outcome of a purchase request while the
    # database fails.
    database_patience: float = 30.0
    # The pause after a failure of the database.
    database_pause: float = 2.0

    # The maximum number of orders that one sweep claims.
    sweep_orders: int = 1_000
    # The interval at which a long sweep renews its claims and sends newly placed orders.
    sweep_renewal: float = 2.0
    # The shortest time of one round of sending before due orders are checked.
    shortest_sending: float = 0.3
    # The shortest interval between early checks of an order, which the shop requests.
    check_soon_every: timedelta = timedelta(seconds=5)
    # The number of rows on a page of the provider's list.
    page_size: int = 100
    # The interval at which the pulse beats while requests are in flight.
    polling_pulse: float = 1.0
    # The longest wait before the next attempt to make a call in the background.
    background_wait: float = 1.0

    # The number of changes that are announced at a time.
    announcing_batch: int = 100
    # The interval at which the lease is renewed while receivers run.
    announcing_renewal: float = 3.0
    # The longest time for which the lease is renewed while the receivers of one change run.
    # Receivers that take longer may hang; after this time, another process may call the same
    # receivers.
    announcing_longest: float = 120.0

    # The maximum number of provider orders that a person is offered as candidates. If there are
    # more, the earliest orders are offered.
    candidates: int = 20
    # The time for which a caller waits while another caller gets the answer about the same card.
    # Each waiting caller occupies a thread of the site, which other visitors then cannot use.
    quote_patience: float = 1.0
    # The time that a shop's function may take for the price of one type.
    pricing_slow: float = 3.0

    # The number of database rows that are read at a time for a file, and the number of rows in one
    # sheet of a workbook (a sheet can hold 1,048,576 rows).
    file_batch: int = 1_000
    sheet_rows: int = 1_000_000
    # The shortest wait that is logged.
    short_wait: float = 2.0


tuning = Tuning()
