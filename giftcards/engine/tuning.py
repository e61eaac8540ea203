"""Intervals, time limits and sizes of the engine's work.

They are constants instead of settings, because shops do not need to change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from giftcards.conf import LOOP_SECONDS, REQUEST_TIMEOUT


@dataclass(slots=True)
class Tuning:
    """Values that tests may change; times are in seconds.

    The values are read whenever they are needed.
    """

    # The length of the two leases, of the loop and of announcing. After a crash, another process
    # takes over within this time.
    lease: timedelta = timedelta(seconds=10)
    # The interval at which a waiting process checks another's lease.
    lease_poll: float = 1.0

    # The longest time for one request, from connecting to the last byte.
    request_timeout: float = REQUEST_TIMEOUT
    # The time after sending until an order without an answer counts as not placed, if two readings
    # of the provider's list have not shown it. It is then sent again.
    proof_of_absence: float = 120.0
    # The time for which a price of the provider counts as current. An order with a price limit is
    # not sent without a current price. A shorter time costs more requests.
    price_max_age: float = 600.0

    # The most cards and reservations of one customer, and how many times as much all guests of one
    # network have: mobile carriers give one address to many people. A third of the customers of a
    # shop with 50 orders a minute may share a network, each for the 20 minutes of a reservation.
    cards_of_customer: int = 100
    reservations_of_customer: int = 20
    customers_of_network: int = 20
    # The longest wait of a reservation for a locked SQLite: the customer waits for the page.
    reservation_patience: float = 2.0

    task_seconds: float = LOOP_SECONDS
    # The longest wait of each minute's task for another process's loop. It is longer than the lease
    # of a dead process.
    tick_patience: timedelta = timedelta(seconds=11)
    # The longest wait of a task for work that is due soon, and the interval at which it looks.
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
    # Background work that has not called its callback for this time is abandoned.
    turn_seconds: float = 120.0
    turns_pause: float = 10.0
    # An ending loop waits this long for background work, in addition to the time of one request.
    turns_end: float = 10.0

    # A purchase request must start within this time after the claim began, or the order is handed
    # back. The time is enough to commit the claim and to connect. No other process sends the order
    # in this time: the claim lasts longer, and ``proof_of_absence`` counts from the end of this
    # time.
    start_within: float = 10.0
    # The time for which the outcome of a purchase request is retried while the database fails.
    database_patience: float = 30.0
    database_pause: float = 2.0

    sweep_orders: int = 1_000
    # The interval at which a long sweep renews its claims and sends new orders.
    sweep_renewal: float = 2.0
    # The shortest time for which orders are sent before due orders are checked.
    shortest_sending: float = 0.3
    # The shortest interval between early checks of an order, which the shop requests.
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

    # The most orders at the provider that staff are offered as candidates: the earliest ones.
    candidates: int = 20
    # The wait for another caller's answer about the same card. Each waiting caller occupies a
    # thread of the site.
    quote_patience: float = 1.0
    # A shop's function that takes longer than this for the price of one type is reported as slow.
    pricing_slow: float = 3.0

    # The rows that are read at a time for a file, and the rows of one sheet of a workbook (which
    # can hold 1,048,576).
    file_batch: int = 1_000
    sheet_rows: int = 1_000_000
    # The shortest wait that a command shows.
    short_wait: float = 2.0


tuning = Tuning()
