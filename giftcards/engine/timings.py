"""The rhythms and sizes of the engine's work that no setting governs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from giftcards.conf import LOOP_SECONDS


@dataclass(slots=True)
class Timings:
    """The values that tests shorten, read whenever they are needed; spans in seconds."""

    # The lease of the process that runs the loop, or that announces: after a crash, another process
    # takes over within this time.
    lease: timedelta = timedelta(seconds=10)
    # How often a process that waits for the lease of another process checks that lease.
    lease_poll: float = 1.0

    # How long one task runs the loop.
    task_seconds: float = LOOP_SECONDS
    # How long a tick waits for the loop of another process: longer than the lease, so that the
    # lease of a dead process expires.
    tick_patience: timedelta = timedelta(seconds=11)
    # How long a task waits for work that is due soon, and how often the task looks for more work.
    task_wait: float = 15.0
    task_poll: float = 1.0

    # How often, at least, the loop queries for due orders and renews its lease.
    loop_look: float = 1.0
    # How often an endless loop records that it runs, as the schedule would otherwise do.
    loop_tick: float = 60.0
    # How long each lane of work may take at the end of a tick, if orders wait for this worker.
    chores_seconds: float = 10.0
    # How often turns are given beside an endless loop.
    chores_every: float = 60.0
    # ``turn_seconds``: without a sign of life for this time, work beside the loop is left behind,
    # and other work goes on. ``turns_pause``: how long work that has failed is left alone.
    # ``turns_end``: how much longer than one request the end of the loop waits for turns.
    turn_seconds: float = 120.0
    turns_pause: float = 10.0
    turns_end: float = 10.0

    # A request must go out within this time after the claim began, or the order is handed back.
    # This is enough for the commit of the claim and for connecting. No other process sends the
    # order in this time: the claim lasts for the sum of this time, REQUEST_TIMEOUT and
    # database_patience, and PROOF_OF_ABSENCE counts from the end of this time.
    start_within: float = 10.0
    # How long recording the outcome of a request to buy is retried while the database fails.
    database_patience: float = 30.0
    # The pause after a failure of the database.
    database_pause: float = 2.0

    # The most orders that one sweep claims.
    sweep_orders: int = 1_000
    # How often a long sweep renews its claims and sends newly placed orders.
    sweep_renewal: float = 2.0
    # The shortest time of one round of sending before due orders are checked.
    shortest_sending: float = 0.3
    # How often a shop may have one order checked before its time.
    check_soon_every: timedelta = timedelta(seconds=5)
    # How many rows a page of the provider's list has.
    page_size: int = 100
    # How often the pulse beats while requests are in flight.
    polling_pulse: float = 1.0
    # The longest wait before the next attempt to make a call in the background.
    background_wait: float = 1.0

    # How many changes are announced at a time.
    announcing_batch: int = 100
    # How often the lease is renewed while receivers run.
    announcing_renewal: float = 3.0
    # For how long the lease is renewed while the receivers of one change run. Receivers that take
    # longer may hang; then another process may call the same receivers.
    announcing_longest: float = 120.0

    # The most orders at the provider that a person is offered as candidates. If there are more, the
    # earliest orders are offered.
    candidates: int = 20
    # How long a caller waits for the answer to another caller's question about a card. Each waiting
    # caller occupies a thread of the site, which other visitors then cannot use.
    quote_patience: float = 1.0
    # How long a shop's function may take for the price of one type.
    pricing_slow: float = 3.0

    # How many rows of the database are read at a time for a file; and how many rows go into one
    # sheet of a workbook (a sheet can hold 1,048,576 rows).
    file_batch: int = 1_000
    sheet_rows: int = 1_000_000
    # Shorter waits than this are not logged.
    short_wait: float = 2.0


timings = Timings()
