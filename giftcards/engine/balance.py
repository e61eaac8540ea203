"""Reading the balance of the account, and calculating the free balance.

One process at a time reads the balance. The balance is read at most every five minutes, or sooner
if the provider refused an order because the balance was too low. Most other requests take
precedence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from queue import Empty, SimpleQueue
from typing import Any, Self

from django.db.models import QuerySet
from django.utils import timezone

from giftcards.conf import CURRENCY, conf
from giftcards.engine.gateway import Gateway
from giftcards.engine.request_budget import Slot
from giftcards.engine.threads import start_thread
from giftcards.models import Order, ProductPrices, ProviderState, Reservation
from giftcards.models.lines import Kind, Line, by_kind, read_lines
from giftcards.provider.client import Client
from giftcards.rules.purposes import Purpose
from giftcards.rules.states import Status

logger = logging.getLogger(__name__)

_ZERO = Decimal("0.00")


class BalanceReader:
    """A reader that requests the account balance in a separate thread.

    Because of the thread, orders do not have to wait for the provider's answer. If a request for
    the balance fails, this does not count as an outage of the provider. Only failed requests about
    orders can start the pause after an outage.
    """

    def __init__(self) -> None:
        self._gateway: Gateway | None = None
        # The quota slot of the request in flight, and the time when the request began.
        self._call: tuple[Slot, datetime] | None = None
        self._answers: SimpleQueue[Decimal | Exception] = SimpleQueue()

    def look_after(self) -> None:
        """Request the balance if it is due, and warn if it has become low."""
        state = ProviderState.objects.current()
        if self._call is None and state.is_balance_due(timezone.now()):
            self._ask()
        _note_fall(state)

    def close(self, *, seconds: float) -> None:
        """Wait up to the given seconds for an answer, and close the gateway."""
        try:
            if self.take_answer(seconds=seconds):
                _note_fall(ProviderState.objects.current())
        finally:
            if self._gateway is not None:
                self._gateway.close()

    def _ask(self) -> None:
        gateway = self._gateway = self._gateway or Gateway()
        slot = gateway.begin(Purpose.PRICING) if gateway.try_open() else None
        if slot is None:
            return
        is_claimed = False
        try:
            is_claimed = ProviderState.objects.claim_balance()
        finally:
            if not is_claimed:
                gateway.give_back(slot)
        if is_claimed:
            self._call = slot, timezone.now()
            if start_thread(self._request, gateway.client) is None:
                self._request(gateway.client)

    def _request(self, client: Client) -> None:
        try:
            self._answers.put(client.balance())
        except Exception as error:  # noqa: BLE001 (the owner looks at it)
            self._answers.put(error)

    def take_answer(self, *, seconds: float = 0) -> bool:
        """Wait for the balance, store it, and return whether it has arrived.

        ``seconds`` is the maximum waiting time.
        """
        if self._call is None or self._gateway is None:
            return False
        try:
            answer = self._answers.get(block=seconds > 0, timeout=seconds)
        except Empty:
            return False
        (slot, asked_at), self._call = self._call, None
        if isinstance(answer, Exception):
            self._gateway.finish(slot, answer)
            return False
        self._gateway.finish(slot, None)
        ProviderState.objects.keep_balance(answer, asked_at=asked_at)
        since = timezone.now() - timedelta(hours=24)
        settled = Order.objects.all().settled_lines(since)
        ProviderState.objects.note_spending(known_cost(read_lines(settled)))
        return True


def _note_fall(state: ProviderState) -> None:
    """Log a warning when the balance becomes low, and record when it recovers."""
    if state.is_balance_low == (state.low_balance_since is not None):
        return
    if not state.is_balance_low:
        ProviderState.objects.forget_low_balance(state)
    elif ProviderState.objects.note_low_balance(state):
        logger.warning(
            "The account balance is %.2f %s, which is below LOW_BALANCE (%.2f).",
            state.balance,
            CURRENCY,
            conf.low_balance,
        )


@dataclass(frozen=True, slots=True)
class OpenMoney:
    """The cost of all open orders that are not on hold, in dinars.

    ``sent`` is the cost of orders that were sent or might have been sent. The provider has taken
    this amount from the balance, and credits back the price of cards that it does not deliver.
    ``unsent`` is the cost of orders that have yet to be sent. ``unknown`` is the number of orders
    without a known price, which are not included in the amounts.
    """

    sent: Decimal = _ZERO
    unsent: Decimal = _ZERO
    unknown: int = 0

    @property
    def total(self) -> Decimal:
        return self.sent + self.unsent

    def exceeds(self, balance: Decimal | None) -> bool:
        """True if ``balance`` is known and too low for the unsent orders."""
        return balance is not None and balance < self.unsent


def money_in_open_orders() -> OpenMoney:
    """Return the cost of the open orders in dinars.

    The result has the attributes ``sent``, ``unsent`` and ``total``. These amounts do not include
    orders without a known price. The ``unknown`` attribute is the number of orders without a known
    price.
    """
    lines = read_lines(Order.objects.all().open_lines())
    return _in_open_orders(lines, _latest_prices(lines))


def _in_open_orders(lines: Iterable[Line], prices: Mapping[tuple[str, str], Decimal]) -> OpenMoney:
    return add_up((line for line in lines if not line.is_on_hold), prices)


def free_balance(*, reference: str = "") -> Decimal | None:
    """Return the balance minus the cost of unsent orders and reservations.

    Orders without a known price, and the reservation for ``reference``, are not subtracted. Returns
    ``None`` if the balance is unknown.
    """
    state = ProviderState.objects.current()
    if state.balance is None or state.balance_read_at is None:
        return None
    return Commitments.read(state, reference=reference).free


@dataclass(frozen=True, slots=True)
class Commitments:
    """The balance, with the orders and reservations that reduce it."""

    #: ``None`` if the balance is unknown. In this case, only open orders are read.
    balance: Decimal | None
    #: The lines by kind. The kinds are open orders, reservations, and settled orders that are not
    #: included in the balance yet.
    lines: Mapping[str, Sequence[Line]]
    #: The latest price of each type in an open order, by product and type.
    prices: Mapping[tuple[str, str], Decimal]

    @classmethod
    def read(cls, state: ProviderState, *beside: QuerySet[Any, Any], reference: str = "") -> Self:
        """Read the orders and reservations that reduce the free balance.

        The reservation for ``reference`` is left out. The same SQL statement also reads the lines
        of the additional queries in ``beside``.
        """
        orders, read_at, parts = Order.objects.all(), state.balance_read_at, [*beside]
        if read_at is not None:
            parts += [
                Reservation.objects.exclude(reference=reference).lines(timezone.now()),
                orders.settled_lines(read_at, accepted_since=read_at),
            ]
        lines = by_kind(read_lines(orders.open_lines(balance_read_at=read_at), *parts))
        balance = None if read_at is None else state.balance
        return cls(balance, lines, _latest_prices(lines[Kind.OPEN]))

    @property
    def in_open_orders(self) -> OpenMoney:
        """The result of :func:`money_in_open_orders`."""
        return _in_open_orders(self.lines[Kind.OPEN], self.prices)

    @property
    def free(self) -> Decimal | None:
        """The result of :func:`free_balance`."""
        if self.balance is None:
            return None
        uncharged = (line for line in self.lines[Kind.OPEN] if not line.is_charged)
        others = known_cost([*self.lines[Kind.SETTLED], *self.lines[Kind.RESERVATION]])
        return self.balance - add_up(uncharged, self.prices).total - others


def known_cost(lines: Iterable[Line]) -> Decimal:
    """Return the total cost of the ``lines`` that have a known price."""
    # Python computes the sum, because SQLite would use binary floating point.
    return sum((line.cards * line.cost for line in lines if line.cost is not None), start=_ZERO)


def _latest_prices(lines: Iterable[Line]) -> dict[tuple[str, str], Decimal]:
    wanted = {
        line.product_id for line in lines if line.cost is None or line.status == Status.PENDING
    }
    return {
        (row.product_id, type_id): price
        for row in ProductPrices.objects.filter(pk__in=wanted)
        for type_id, price in row.prices.items()
    }


def add_up(lines: Iterable[Line], latest_prices: Mapping[tuple[str, str], Decimal]) -> OpenMoney:
    """Add up the cost of ``lines``.

    ``latest_prices`` maps each tuple of a product id and a type id to the provider's latest price.
    The latest prices are used for unsent orders, and for sent orders without a recorded price.
    """
    sent = unsent = _ZERO
    unknown = 0
    for line in lines:
        is_unsent = line.status == Status.PENDING
        latest = latest_prices.get((line.product_id, line.type_id))
        known = (latest, line.cost) if is_unsent else (line.cost, latest)
        price = next((price for price in known if price is not None), None)
        if price is None:
            unknown += line.number
        elif is_unsent:
            unsent += line.cards * price
        else:
            sent += line.cards * price
    return OpenMoney(sent, unsent, unknown)
