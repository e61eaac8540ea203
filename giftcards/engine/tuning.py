"""Intervals, time limits and sizes of the engine's work.

These values are constants instead of settings, because shops do not need to change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from giftcards.conf import LOOP_SECONDS, REQUEST_TIMEOUT


@dataclass(slots=True)
class Tuning:
    """Values that tests can change.

    Times are in seconds, unless they are of the type ``timedelta``. The values are read whenever
    they are needed.
    """

    # The length of the leases for the loop and for announcements, and of the lease that prevents a
    # second queued sweep. After a crash, another process takes over within this time.
    lease: timedelta = timedelta(seconds=10)
    # The interval at which a waiting process checks the lease of another process.
    lease_poll: float = 1.0

    # The longest time for one request, from connecting to the last byte.
    request_timeout: float = REQUEST_TIMEOUT
    # An order that was sent without an answer counts as not placed after this time, and is sent
    # again, if two readings of the provider's list do not contain it.
    proof_of_absence: float = 120.0
    # The maximum age of a price from the provider that counts as current. An order with a price
    # limit is not sent without a current price. A lower value causes more requests.
    price_max_age: float = 600.0

    # The maximum number of cards and reservations of one customer. All guests on one network
    # together may have ``customers_of_network`` times as many, because mobile carriers assign one
    # address to many people. This is enough for a shop with 50 orders a minute, if a third of its
    # customers share a network and each reservation lasts 20 minutes.
    cards_of_customer: int = 100
    reservations_of_customer: int = 20
    customers_of_network: int = 20
    # The longest time for which a reservation waits for a locked SQLite database. It is short,
    # because the customer waits for the page.
    reservation_patience: float = 2.0

    task_seconds: float = LOOP_SECONDS
    # How long the task of each minute waits at most for another process's loop. This is longer than
    # a lease, so that the task can take over if the other process has died.
    tick_patience: timedelta = timedelta(seconds=11)
    # The longest time for which a task waits for work that is due soon, and the interval at which
    # it checks for work.
    task_wait: float = 15.0
    task_poll: float = 1.0

    # The longest interval at which the loop queries for due orders and renews its lease.
    loop_look: float = 1.0
    # The interval at which an endless loop records that a worker runs, as the schedule does.
    loop_tick: float = 60.0
    # The longest time for which a task works in each lane of background work while new orders wait.
    chores_seconds: float = 10.0
    # The interval at which background work begins beside an endless loop.
    chores_every: float = 60.0
    # Background work is abandoned if it has not called its callback for this long.
    turn_seconds: float = 120.0
    turns_pause: float = 10.0
    # An ending loop waits this long for background work, in addition to the time of one request.
    turns_end: float = 10.0

    # A purchase request must start within this time after the claim began. Otherwise, the request
    # is not sent, and the order returns to the queue. The time is long enough to commit the claim
    # and to connect. The claim lasts longer than this, so no other process can send the order in
    # the meantime. The time of ``proof_of_absence`` begins after this time.
    start_within: float = 10.0
    # How long a process tries to record the outcome of a purchase request while the database is
    # failing.
    database_patience: float = 30.0
    database_pause: float = 2.0

    sweep_orders: int = 1_000
    # The interval at which a long sweep renews its claims and sends new orders.
    sweep_renewal: float = 2.0
    # The shortest time for which orders are sent before due orders are checked.
    shortest_sending: float = 0.3
    # The shortest interval between the early checks of an order that the shop requests.
    check_soon_every: timedelta = timedelta(seconds=5)
    page_size: int = 100
    # The interval at which ``Pulse.beat`` is called while requests are in flight.
    polling_pulse: float = 1.0
    # The longest wait before the next attempt to make a call in the background.
    background_wait: float = 1.0

    announcing_batch: int = 100
    # The interval at which the lease is renewed while receivers run.
    announcing_renewal: float = 3.0
    # The longest time for which the lease is renewed for one change. Slower receivers may hang, and
    # may be called by another process.
    announcing_longest: float = 120.0

    # The maximum number of orders at the provider that are shown to staff as candidates. The
    # earliest orders are shown.
    candidates: int = 20
    # How long a caller waits for the answer to another caller's request about the same card. Each
    # waiting caller occupies a thread of the site.
    quote_patience: float = 1.0
    # A shop's function that takes longer than this for the price of one type is reported as slow.
    pricing_slow: float = 3.0

    # The number of rows that are read at a time for a file, and the maximum number of rows in one
    # sheet of a workbook. A sheet can contain up to 1,048,576 rows.
    file_batch: int = 1_000
    sheet_rows: int = 1_000_000
    # The shortest waiting time that a command reports.
    short_wait: float = 2.0


tuning = Tuning()
