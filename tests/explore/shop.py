"""An explored shop: its workers, the actions of staff and customers, and their messages."""

from __future__ import annotations

import math
import re
import smtplib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any

from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import CommandError, call_command
from django.db import Error, InterfaceError, OperationalError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.module_loading import import_string

from giftcards.books.months import Month, close_month, last_finished_month
from giftcards.catalogue import release, reserve
from giftcards.engine.approvals import send_at_once
from giftcards.exceptions import (
    CustomerConflict,
    NotForSale,
    ReferenceConflict,
    RefundError,
    ReorderError,
)
from giftcards.fulfilment import (
    approve_price,
    approve_review,
    cancel_order,
    change_customer,
    check_soon,
    place_order,
    reorder_missing,
)
from giftcards.models import Card, Category, CustomerRefund, Order, Product, ProductType, Shelf
from giftcards.privacy.retention import purge
from giftcards.settlement import cancel_refund, record_refund
from giftcards.signals import order_kept_waiting, order_status_changed
from giftcards.statuses import FINAL, FOLLOWED, Status
from tests.builders import PRODUCT
from tests.explore.provider import LIES, SCARCE, Provider, Spell
from tests.explore.simulation import (
    FIRST_MACHINE,
    SECOND_MACHINE,
    Process,
    Simulation,
    Trouble,
)
from tests.pages import hidden, order_page

#: The types and quantities that customers buy. There are few, so that many orders are alike.
LINES = (
    *(("type_001", 1), ("type_001", 2), ("TEST_PARTIAL", 3)),
    *(("TEST_REFUND", 1), ("SIM_SLOW", 1), ("SIM_GROW", 3)),
)
SALE_PRICE = 550
#: The key of another account.
OTHER_KEY = "explore-key-5b9e20aa"
#: The address that gets digests.
STAFF = "boss@example.com"
TOKEN = re.compile(r"/cards/([A-Za-z0-9_-]{20,})/")


class Busy(Exception):
    """Raised by a function of the shop that fails."""


class Mailbox(BaseEmailBackend):
    """A mail backend that keeps its mails, unless it is told to fail."""

    def send_messages(self, messages: Any) -> int:
        shop = the_shop()
        if shop.mails_fail > 0:
            shop.mails_fail -= 1
            raise ConnectionError("the mail server is away")
        if shop.digests_fail > 0 and any(mail.to == [STAFF] for mail in messages):
            shop.digests_fail -= 1
            raise ConnectionError("the mail server is away")
        if refused := shop.refused.intersection(*(mail.to for mail in messages)):
            no_such_user = (550, b"5.1.1 No such user")
            raise smtplib.SMTPRecipientsRefused(dict.fromkeys(refused, no_such_user))
        shop.mails += messages
        return len(messages)


@dataclass(frozen=True)
class Heard:
    """A change that was announced to a receiver."""

    reference: str
    change: int


@dataclass
class Reserved:
    """Cards that were certainly reserved, from ``since`` to ``until`` on the steady clock.

    With ``is_ordered``, they stay reserved until their order is sent.
    """

    reference: str
    quantity: int
    since: float
    until: float
    is_ordered: bool = False


@dataclass(frozen=True)
class Refreshed:
    """A press on "Refresh" that requested a check, from ``began`` to ``ended``."""

    reference: str
    began: float
    ended: float


@dataclass(eq=False)
class Shop:
    """A shop beside its provider, and everything that people outside of it have seen."""

    simulation: Simulation
    provider: Provider
    mails: list[EmailMessage] = field(default_factory=list)
    mails_fail: int = 0
    digests_fail: int = 0
    #: Addresses that the mail server refuses for good.
    refused: set[str] = field(default_factory=set)
    receivers_fail: int = 0
    heard: list[Heard] = field(default_factory=list)
    #: Logs and output, and the pages shown before a reveal. They must not contain secrets.
    logged: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    #: Encryption keys and API keys that were ever in use.
    keys: set[str] = field(default_factory=set)
    workers: int = 0
    #: The orders whose codes customers disputed before the codes were destroyed.
    complaints: set[int] = field(default_factory=set)
    #: The orders that were reported to staff as cancelled.
    cancelled: set[int] = field(default_factory=set)
    #: The references of the orders for which the shop's own rule failed.
    unreviewed: set[str] = field(default_factory=set)
    #: The time since which nothing goes wrong, or ``None`` before that.
    well_since: datetime | None = None
    is_clock_set: bool = False
    #: What its customers buy, and how the provider lies to it.
    lines: Sequence[tuple[str, int]] = LINES
    lies: Sequence[str] = tuple(LIES)
    #: The delivery times of gifts, by reference.
    gifts: dict[str, datetime] = field(default_factory=dict)
    reservations: list[Reserved] = field(default_factory=list)
    refreshed: list[Refreshed] = field(default_factory=list)
    #: The factors of the provider's prices, each with its start time.
    factors: list[tuple[datetime, Decimal]] = field(default_factory=list)
    #: How often a worker looks for tasks (seconds).
    rest: float = 2

    def open(self) -> None:
        """Start listening to the app's signals."""
        _shops[:] = [self]
        for signal in (order_status_changed, order_kept_waiting):
            signal.connect(self._hear, weak=False, dispatch_uid="explore")
        self.keys = {*self.provider.keys, *settings.GIFTCARDS["ENCRYPTION_KEYS"]}

    def lowest_factor(self, since: datetime, until: datetime) -> Decimal:
        """Return the lowest price factor at any time of the period."""
        before = [factor for at, factor in self.factors if at <= since]
        during = [factor for at, factor in self.factors if since < at <= until]
        return min([before[-1] if before else Decimal(1), *during])

    def _hear(self, order: Order, change: Any, **_named: object) -> None:
        if self.receivers_fail > 0:
            self.receivers_fail -= 1
            raise Busy
        self.heard.append(Heard(order.reference, change.pk))
        known = self.provider.find(order.provider_order_id)
        if change.to_status in FINAL and known is not None:
            self.provider.ends_known.add(known.id)

    # Workers.

    def start_worker(self, machine: str = "") -> Process:
        """Start a worker of django-q2, which runs queued tasks and, once a minute, the schedule.

        Without a ``machine``, workers run on the two machines in turn.
        """
        self.workers += 1
        machine = machine or (FIRST_MACHINE, SECOND_MACHINE)[self.workers % 2]
        name = f"worker {self.workers}"
        return self.simulation.start(name, self._work, after=0.1, machine=machine)

    def _work(self) -> None:
        from django_q.brokers.orm import ORM
        from django_q.signing import SignedPackage

        broker = ORM(list_key="example")
        tick_at = self.simulation.now
        while True:
            with surviving_cuts():
                if self.simulation.now >= tick_at:
                    tick_at += 60
                    import_string("giftcards.tasks.tick")()
                for ack_id, package in broker.dequeue() or ():
                    task = SignedPackage.loads(package)
                    import_string(task["func"])(*task["args"], **task["kwargs"])
                    broker.acknowledge(ack_id)
            self.simulation.sleep(self.rest)

    # What staff and customers do.

    def act(self, name: str, action: Callable[[Shop, Random], object], random: Random) -> None:
        """Have somebody do something, in a process of its own."""

        def work() -> None:
            refusals = (
                *(RefundError, ReorderError, CustomerConflict, CommandError),
                *(NotForSale, ReferenceConflict),
            )
            with suppress(*refusals), surviving_cuts():
                action(self, random)

        self.simulation.start(name, work)

    def staff(self) -> Client:
        """Return the browser of a staff member with all permissions."""
        from django.contrib.auth import get_user_model

        client = Client()
        client.force_login(get_user_model().objects.get(username="amina"))
        return client


@contextmanager
def surviving_cuts() -> Iterator[None]:
    """Reconnect after the connection was cut, as django-q2 and web servers do."""
    try:
        yield
    except (OperationalError, InterfaceError, TransactionManagementError, UpdateError):
        # If its COMMIT is lost, a session does not exist. A savepoint that cannot be rolled back
        # breaks its transaction.
        with suppress(Error):
            connection.close()


_shops: list[Shop] = []


def the_shop() -> Shop:
    return _shops[-1]


def pick(random: Random, **where: Any) -> Order | None:
    """Return one of the orders, often a recent one, or ``None`` if there is none."""
    keys = list(Order.objects.filter(**where).order_by("pk").values_list("pk", flat=True))
    some = random.choice([keys, keys[-2:]])
    return Order.objects.get(pk=random.choice(some)) if some else None


def buy(
    shop: Shop,
    random: Random,
    *,
    line: tuple[str, int] | None = None,
    seconds: float | None = None,
) -> None:
    """A customer has paid, and the order is placed.

    With ``seconds``, the order is a gift that is delivered after that time.
    """
    kind, quantity = line or random.choice(shop.lines)
    number = random.randrange(10**6)
    details: dict[str, Any] = {
        "reference": f"web-{number:06}",
        "sale_amount": Decimal(SALE_PRICE * quantity),
        "customer_email": f"c{number % 40}@example.com",
        "customer_language": random.choice(["en", "fr", "ar"]),
    }
    if random.random() < 0.2:
        details["max_price"] = Decimal(random.choice([480, 495]))
    if seconds is None and random.random() < 0.3:
        seconds = random.choice([-30, 60, 400])
    if seconds is not None:
        details |= {"recipient_email": f"r{number % 40}@example.com", "gift_message": "Bravo"}
        at = timezone.now() + timedelta(seconds=seconds)
        # A caller who repeats a call passes the delivery time that was promised at first.
        details["deliver_at"] = shop.gifts.setdefault(details["reference"], at)
    with transaction.atomic():
        place_order(product_id=PRODUCT, type_id=kind, quantity=quantity, **details)


def hold_and_pay(shop: Shop, random: Random) -> None:
    """A customer reserves scarce cards, perhaps twice, and then pays or leaves."""
    history, reference = shop.simulation, f"cart-{random.randrange(10**6):06}"
    quantity, kept = 0, None
    for _time in range(random.choice([1, 1, 2])):
        quantity, minutes = random.randint(1, 3), random.choice([0.5, 2])
        begins = history.now
        reserve(reference=reference, quantity=quantity, minutes=minutes, **SCARCE)
        end_reservations(shop, reference, begins)
        kept = Reserved(reference, quantity, history.now, begins + minutes * 60)
        shop.reservations.append(kept)
        history.pause("pays", random.choice([1, 20, 60]))
    assert kept is not None
    if random.random() < 0.3:
        end_reservations(shop, reference, history.now)
        release(reference)
        return
    paid = Decimal(2_000) * quantity
    place_order(
        reference=reference,
        quantity=quantity,
        sale_amount=paid,
        customer_email="c1@example.com",
        **SCARCE,
    )
    kept.is_ordered = history.now < kept.until


def end_reservations(shop: Shop, reference: str, moment: float) -> None:
    """Treat the reservations of this reference as uncertain from ``moment`` on.

    They are replaced or released at about that time.
    """
    for each in shop.reservations:
        if each.reference == reference:
            each.until = min(each.until, moment)


def refresh(shop: Shop, random: Random) -> None:
    """A customer who waits for cards presses "Refresh", perhaps again and again."""
    order = pick(random, status__in=FOLLOWED)
    if order is None:
        return
    for _time in range(random.choice([1, 3, 5])):
        began = shop.simulation.now
        if check_soon(order.reference):
            pressed = Refreshed(order.reference, began, shop.simulation.now)
            shop.refreshed.append(pressed)
        shop.simulation.pause("waits", random.choice([0, 0.5, 3, 6]))


def close_last_month(shop: Shop, random: Random) -> None:
    """Somebody closes the month that has ended, even if work is left."""
    month = Month.now(last_finished_month())
    shop.simulation.pause("thinks", random.choice([1, 20]))
    close_month(month, by="amina", note="explored")


def pay_back(shop: Shop, random: Random) -> None:
    order = pick(random, open_amount__gt=0)
    if order is not None and order.open_amount:
        # People sometimes mistype amounts.
        amount = random.choice([order.open_amount, Decimal(random.randint(1, 1200))])
        # A colleague who does the same has a different receipt.
        name = f"r-{shop.simulation.random.randrange(6)}"
        record_refund(order, amount=amount, reference=name, by="amina")


def take_refund_back(shop: Shop, random: Random) -> None:
    """The transfer of a refund comes back."""
    refunds = list(CustomerRefund.objects.filter(state="done").order_by("pk"))
    if refunds:
        cancel_refund(random.choice(refunds), by="amina")


def order_again(shop: Shop, random: Random) -> None:
    order = pick(random, status__in=["PARTIALLY_FILLED", "REFUNDED"])
    if order is not None:
        reorder_missing(order, by="amina")


def acknowledge(shop: Shop, random: Random) -> None:
    order = pick(random, needs_attention=True, status__in=FINAL)
    if order is not None:
        for problem in order.open_problems:
            order.acknowledge(problem, by="amina")


def complain(shop: Shop, random: Random) -> None:
    """A customer says that a code does not work."""
    order = pick(random, fulfilled_quantity__gt=0, codes_destroyed_at=None)
    if order is not None and order.dispute(by="amina", cards=[1]):
        order.refresh_from_db()
        if order.codes_destroyed_at is None:
            shop.complaints.add(order.pk)


def decide(shop: Shop, random: Random) -> None:
    """Staff decide about an order that is on hold, for whatever reason."""
    order = pick(random, status=Status.PENDING, due_at=None)
    if order is None:
        return
    if random.random() < 0.7:
        approve_price(order, 600, by="amina")
        approve_review(order, by="amina")
        send_at_once(order, by="amina")
    else:
        stop(shop, order)


def cancel(shop: Shop, random: Random) -> None:
    """Staff cancel an order, often one that waits, and sometimes one that they read a while ago."""
    order = pick(random, **random.choice([{}, {"status": Status.PENDING}]))
    if order is not None:
        shop.simulation.pause("thinks", random.choice([0, 0, 5]))
        stop(shop, order)


def stop(shop: Shop, order: Order) -> None:
    if cancel_order(order, by="amina"):
        shop.cancelled.add(order.pk)


def review(order: Order) -> str | None:
    """The shop's own rule, if it has one: it objects to some orders, and fails now and then."""
    shop = the_shop()
    if shop.well_since is None and int(order.reference[-6:], 36) % 4 == 0:
        shop.unreviewed.add(order.reference)
        raise Busy
    return "It looks odd" if objects_to(order) else None


def objects_to(order: Order) -> bool:
    return int(order.reference[-6:], 36) % 3 == 0


def resolve(shop: Shop, random: Random) -> None:
    """Staff look into the provider's dashboard, and say what became of a lost order."""
    order = pick(random, status=Status.UNCONFIRMED, needs_attention=True)
    if order is None:
        return
    page, client = order_page(order, "resolve"), shop.staff()
    shown = client.get(page)
    if shown.status_code != 200:
        return
    token = hidden(shown.content.decode())["state_token"]
    names = Order.objects.values_list("provider_order_id", flat=True)
    known = [shop.provider.find(name) for name in names]
    alike = [
        theirs.id
        for theirs in shop.provider.orders.values()
        if theirs not in known
        and (theirs.product, theirs.type, theirs.quantity)
        == (order.product_id, order.type_id, order.quantity)
    ]
    shop.simulation.pause("thinks", random.choice([1, 20]))
    choice = {"is_sure": "on", "state_token": token, "provider_order_id": ""}
    if alike:
        choice |= {"outcome": "adopt-other", "provider_order_id": random.choice(alike)}
    else:
        choice["outcome"] = random.choice(["send-again", "reject"])
    answer = client.post(page, choice).content.decode()
    # Staff do not insist on an order that does not match.
    if "seen" in hidden(answer) and "giftcards-warning" not in answer:
        seen = {"seen": hidden(answer)["seen"], "is_sure": "on"}
        client.post(order_page(order, "adopt"), seen)


def reveal(shop: Shop, random: Random) -> None:
    """Staff read a code to a customer on the phone."""
    cards = list(Card.objects.filter(order__status__in=FINAL).order_by("pk").values_list("pk"))
    if not cards:
        return
    (key,) = random.choice(cards)
    shop.staff().post(reverse("admin:giftcards_card_reveal", args=[key]), {"reason": "It fails"})


def open_link(shop: Shop, random: Random) -> None:
    """A customer opens a mail and has the cards shown."""
    links = [found[1] for mail in shop.mails if (found := TOKEN.search(str(mail.body)))]
    if not links:
        return
    client, address = Client(), f"/cards/{random.choice(links)}/"
    html = client.get(address).content.decode()
    shop.pages.append(html)
    shop.simulation.sleep(random.choice([2, 30]))
    client.post(address, hidden(html))


def correct(shop: Shop, random: Random) -> None:
    order = pick(random)
    if order is not None and order.customer_email:
        number = random.randrange(10**6)
        right: dict[str, Any] = {"email": f"new{number}@example.com"}
        if order.is_gift and random.random() < 0.7:
            right = {"recipient_email": f"r-new{number}@example.com"}
        change_customer(order, **right, by="amina", reason="typo")


def rotate(shop: Shop, random: Random) -> None:
    """A new encryption key comes first, and the cards are sealed anew."""
    key = Fernet.generate_key().decode()
    shop.keys.add(key)
    known = settings.GIFTCARDS["ENCRYPTION_KEYS"]
    settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [key, *known]}
    run(shop, "giftcards_rotate_keys")


def destroy(shop: Shop, random: Random) -> None:
    """Old codes are destroyed; here, codes are old after seconds."""
    purge(settled_before=timezone.now() - timedelta(seconds=random.choice([0, 30])))


def erase(shop: Shop, random: Random) -> None:
    order = pick(random, status__in=FINAL)
    if order is not None and order.customer_email:
        address = random.choice(
            [order.customer_email, order.recipient_email or order.customer_email]
        )
        run(shop, "giftcards_customer", address, "--erase", "--yes")


def read_ledger(shop: Shop, random: Random) -> None:
    run(shop, "giftcards_ledger")


def edit_the_shelf(shop: Shop, random: Random) -> None:
    """The owner changes a margin or what is sold, or a developer does so without ``save()``."""
    models = [*([Shelf, Category, Product] if random.random() < 0.5 else []), ProductType]
    rows = list(random.choice(models).objects.order_by("pk"))
    if not rows:
        return
    row: Any = random.choice(rows)
    values: dict[str, Any] = random.choice(
        [
            {
                "margin_percent": random.choice([None, Decimal(5), Decimal(12)]),
                "margin_fixed": None,
            },
            {"margin_fixed": random.choice([None, Decimal(20)]), "margin_percent": None},
        ]
    )
    if isinstance(row, Product | ProductType) and random.random() < 0.4:
        values = {"is_sold": random.choice([None, True, False])}
    if "is_sold" not in values and random.random() < 0.3:
        type(row).objects.filter(pk=row.pk).update(**values)
        return
    for name, value in values.items():
        setattr(row, name, value)
    row.save(by="amina")


def run(shop: Shop, command: str, *args: str, lines: list[str] | None = None) -> None:
    """Run a command and keep its output, which must not contain secrets.

    What it writes to the standard output is also added to ``lines``.
    """
    output = _Output(shop, [] if lines is None else lines)
    call_command(command, *args, stdout=output, stderr=_Output(shop, []))


class _Output:
    """The output of a command, kept with the logs."""

    def __init__(self, shop: Shop, lines: list[str]) -> None:
        self._shop, self._lines = shop, lines

    def write(self, text: str) -> None:
        self._shop.logged.append(text)
        self._lines.append(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


ACTIONS: dict[str, tuple[float, Callable[[Shop, Random], object]]] = {
    "buy": (12, buy),
    "hold and pay": (3, hold_and_pay),
    "refresh": (4, refresh),
    "pay back": (4, pay_back),
    "finish a refund": (2, take_refund_back),
    "order again": (3, order_again),
    "complain": (2, complain),
    "acknowledge": (2, acknowledge),
    "decide about a held one": (2, decide),
    "cancel": (2, cancel),
    "resolve": (3, resolve),
    "reveal": (1, reveal),
    "open a link": (2, open_link),
    "correct an address": (1, correct),
    "rotate the keys": (1, rotate),
    "destroy codes": (2, destroy),
    "erase a customer": (1, erase),
    "read the ledger": (1, read_ledger),
    "close the month": (1, close_last_month),
    "edit the shelf": (2, edit_the_shelf),
}


# What goes wrong, and what the provider does.


def lie(shop: Shop, random: Random) -> None:
    times, lasts = random.choice([1, 1, 2, 5, 20]), random.choice([5, 30, 90, 240])
    if shop.lies:
        cast(shop, random.choice(shop.lies), random, times, lasts)


def lie_now_and_then(shop: Shop, random: Random, *, odds: Sequence[float] = (0.2, 0.5, 1)) -> None:
    """Each of the lies may be told at any time, with one of the ``odds``."""
    for name in shop.lies:
        _step, _lie, is_early = LIES[name]
        # A shop whose requests fail every time sells nothing.
        chosen = 0.2 if is_early else random.choice(odds)
        cast(shop, name, random, sys.maxsize, math.inf, odds=chosen)


def cast(
    shop: Shop, name: str, random: Random, times: int, lasts: float, *, odds: float = 1
) -> None:
    """Begin to tell the lie, for ``lasts`` seconds at most."""
    step, falsehood, is_early = LIES[name]
    now, chance = shop.simulation.now, Random(random.random())
    shop.provider.spells.append(
        Spell(step, falsehood, now, times, chance, is_early, now + lasts, odds)
    )


def trouble(
    kind: Any, seconds: Sequence[float] = (0,), *, places: Sequence[str] = ("",)
) -> Callable[[Shop, Random], None]:
    """Return an event that soon brings a process into trouble at one of the places."""

    def happen(shop: Shop, random: Random) -> None:
        alive = [each for each in shop.simulation.processes if not (each.is_dead or each.is_over)]
        if not alive:
            return
        process = random.choice(alive)
        place = random.choice(places)
        steps = random.choice([1, 1, 2, 4]) if place else random.randint(1, 60)
        process.trouble = Trouble(kind, steps, random.choice(seconds), place)
        if kind == "kill" and process.name.startswith("worker"):
            again = shop.simulation.now + random.choice([5, 30])
            shop.simulation.at(again, partial(shop.start_worker, process.machine))

    return happen


def lose_route(shop: Shop, random: Random) -> None:
    """The second machine cannot reach the provider, for a while or to the end of the history."""
    history = shop.simulation
    history.without_route.add(SECOND_MACHINE)
    history.note(f"{SECOND_MACHINE} has lost its route to the provider")
    seconds = random.choice([20, 200, None])
    if seconds is not None:
        moment = history.now + seconds
        history.at(moment, partial(history.without_route.discard, SECOND_MACHINE))


def set_clock(shop: Shop, random: Random) -> None:
    shop.simulation.set_by = random.choice([-3600, -90, -5, 0, 5, 90, 3600])
    shop.is_clock_set = True
    shop.simulation.note(f"the clock is set: {shop.simulation.set_by:+.0f} s")


def use_another_key(shop: Shop, random: Random) -> None:
    """For a while, the shop has the key of another account."""
    first, *others = shop.provider.keys
    shop.provider.accounts[others[0]].key_type = random.choice(["SANDBOX", "PRODUCTION"])
    use_key(shop, others[0])

    def put_back() -> None:
        if shop.well_since is None:
            use_key(shop, first)

    shop.simulation.at(shop.simulation.now + random.choice([10, 60]), put_back)


def use_key(shop: Shop, key: str) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "API_KEY": key}
    shop.simulation.note(f"the key is that of account {shop.provider.keys.index(key) + 1}")


def cut_pages(shop: Shop, random: Random) -> None:
    shop.provider.page_size = random.choice([2, 3, 5])


def keep_books_oddly(shop: Shop, random: Random) -> None:
    shop.provider.be_odd(random)


def slow_down(shop: Shop, random: Random) -> None:
    """Orders from now on settle later, some after the shop has given up following them."""
    shop.provider.account.delay = random.choice([(2, 40), (50, 200), (200, 900)])


def move_price(shop: Shop, random: Random) -> None:
    factor = Decimal(random.choice(["0.98", "1", "1.02", "1.1"]))
    account = shop.provider.account
    account.price_factor = factor
    shop.factors.append((account._now(), factor))


def settle_oddly(shop: Shop, random: Random) -> None:
    """The provider delivers another part of an order than its type says."""
    waiting = [each for each in shop.provider.account.orders.values() if not each.is_settled]
    if waiting:
        order = random.choice(waiting)
        shop.provider.account.settle(
            order.id, delivered=random.randint(len(order.cards), order.quantity)
        )


def fail_mails(shop: Shop, random: Random) -> None:
    shop.mails_fail += random.choice([1, 3])


def fail_digests(shop: Shop, random: Random) -> None:
    """The mail server is away when the next digests are sent."""
    shop.digests_fail += random.choice([1, 3])


def refuse_address(shop: Shop, random: Random) -> None:
    """The mail server refuses somebody's address from now on."""
    order = pick(random)
    if order is not None:
        shop.refused.add(order.recipient_email or order.customer_email)


def refund_with_cards(shop: Shop, random: Random) -> None:
    """The provider says that it has refunded an order, and shows a card of it all the same."""
    waiting = [each for each in shop.provider.account.orders.values() if not each.is_settled]
    if waiting:
        shop.provider.refund_with_card(random.choice(waiting).id)


def deliver_late(shop: Shop, random: Random) -> None:
    """The provider shows a further card of an order that has settled without it.

    If possible, it is an order whose customer was paid back.
    """
    orders = shop.provider.account.orders.values()
    short = [
        each.id
        for each in orders
        if each.is_settled
        and each.id in shop.provider.ends_known
        and len(each.cards) < each.quantity
    ]
    rows = Order.objects.filter(refunds__isnull=False).values_list("provider_order_id", flat=True)
    paid_back = [name for name in short if name in set(rows)]
    if short:
        shop.provider.deliver_late(random.choice(paid_back or short))


def rush(shop: Shop, random: Random) -> None:
    """Some customers buy at once, and the answers to their orders are lost."""
    cast(shop, "placing: no answer, bought", random, 6, 30)
    for number in range(6):
        shop.act(f"rush {number}", buy, Random(random.random()))


def fail_receivers(shop: Shop, random: Random) -> None:
    shop.receivers_fail += random.choice([1, 3])


#: Where processes die or stop: anywhere, and more often at critical places.
PLACES = ("", "", "COMMIT", "committed", "purchase", "purchase", "request", "answered")

EVENTS: dict[str, tuple[float, Callable[[Shop, Random], object]]] = {
    "lie": (6, lie),
    "kill": (3, trouble("kill", places=PLACES)),
    "halt": (4, trouble("halt", (3, 70, 200, 900), places=PLACES)),
    "cut": (2, trouble("cut")),
    "late commit": (4, trouble("late commit", (3, 30, 900, 900), places=["committed"])),
    "lost commit": (2, trouble("lost commit", places=["committed"])),
    "lose the route": (1, lose_route),
    "set the clock": (1, set_clock),
    "another key": (0.3, use_another_key),
    "small pages": (1, cut_pages),
    "odd books": (1, keep_books_oddly),
    "slow down": (1, slow_down),
    "move a price": (1, move_price),
    "settle oddly": (2, settle_oddly),
    "refund with cards": (1, refund_with_cards),
    "deliver late": (1, deliver_late),
    "mails fail": (1, fail_mails),
    "digests fail": (2, fail_digests),
    "refuse an address": (1, refuse_address),
    "receivers fail": (1, fail_receivers),
}

#: Orders that the provider has, but does not show for a long time.
UNSEEN = ("placing: no answer, bought", "placing: half", "list: blind", "list: other references")
#: Prefixes of lies and events that belong together.
THEMES: tuple[tuple[str, ...], ...] = (
    # Lost orders, which are searched for in a list that is old or wrong.
    ("placing: no answer, bought", "placing: silence, bought", "list: that of"),
    ("placing: no answer, bought", "placing: half", "list: rows", "list: pages", "list: empty"),
    # This theme is listed twice, because its faults need a lost order and no visible order of the
    # same time.
    *(UNSEEN, UNSEEN),
    # Ids that are mixed up.
    ("placing: the id", "placing: no answer, bought", "check: unknown"),
    # Processes that stop, and that come back.
    ("halt", "late commit", "lost commit", "cut"),
    # Two machines, one of which cannot reach the provider.
    ("lose the route", "kill", "halt"),
    # Statuses that contradict each other.
    ("check:", "list: another end", "settle oddly", "slow down"),
    # Refunds to customers.
    ("pay back", "finish a refund", "order again", "acknowledge", "check: another amount"),
    # Cards that arrive after the customer was paid back.
    ("pay back", "finish a refund", "deliver late"),
    # Disputed codes, and destroyed codes.
    ("complain", "destroy", "erase", "rotate", "reveal", "pay back", "acknowledge"),
    # Messages to people.
    ("mails fail", "refuse", "receivers fail", "correct", "open a link", "erase", "kill"),
    # Delayed messages to staff.
    ("digests fail", "mails fail", "decide", "placing: no stock"),
    # Orders that are cancelled while workers are about to send them.
    ("cancel", "halt", "late commit", "placing: 429", "placing: no answer"),
    # Scarce cards, and processes that stop while they reserve them.
    ("hold and pay", "halt", "late commit"),
    # A month that is closed while its orders and ledger entries still arrive.
    ("close the month", "read the ledger", "pay back", "settle oddly", "refund with", "ledger:"),
    # Impatient customers, and a provider that answers late or not at all.
    ("refresh", "check:", "slow down", "small pages", "halt"),
    # Margins that are edited while costs change.
    ("edit the shelf", "move a price", "price:", "halt", "kill"),
    # Costs and prices.
    ("move a price", "decide", "price:", "ledger:", "odd books", "read the ledger"),
)
