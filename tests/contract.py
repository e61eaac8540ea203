"""Test what the app assumes about the provider's API at the provider itself: `make contract`.

With a sandbox key in ``GIFTCARDS_API_KEY``, the program asks the provider's sandbox. It places up
to seven orders and creates a payment link that nobody uses, which costs nothing. Other keys are
refused. Without a key, it asks the simulator.

Each assumption is a line: "holds" with what was seen, "differs", or "not tried" with the reason.
Requests are sent a second apart. With ``--limit``, so many requests follow at once that they reach
the rate limit; the key cannot be used for a minute afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import requests

from giftcards.provider.answers import (
    OrderAnswer,
    Unreadable,
    read_balance,
    read_catalogue,
    read_key_info,
    read_ledger,
    read_order,
    read_page,
    read_payment,
    read_payment_link,
    read_placed,
    read_product,
)
from giftcards.simulator import Simulator

LIVE = "https://api.oneclickdz.com"
PRODUCT, TYPE = "507f1f77bcf86cd799439011", "type_001"
FINAL = ("FULFILLED", "PARTIALLY_FILLED", "REFUNDED")
# How soon the list must show an order, because the app treats an order that is missing from it
# after two minutes as not placed; and how long orders are followed (seconds).
LISTED_WITHIN, SETTLED_WITHIN = 60.0, 300.0
# The maximum difference between two clocks.
CLOCK_SKEW = timedelta(minutes=10)
# The least amount of a customer's payment, and the prefix of payment references, by which the
# entries of the ledger are recognised.
_LEAST_PAYMENT, _PAYMENT_REFS = 500, "OCPL-"
# More requests than any known limit allows.
_ABOVE_LIMIT = 150


class Differs(Exception):
    """The provider behaves differently; the text says how."""


class NotTried(Exception):
    """The text gives the reason."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any = field(repr=False)
    body: Any = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """Return the data of a successful answer."""
        if (
            self.status != 200
            or not isinstance(self.body, dict)
            or self.body.get("success") is not True
        ):
            raise Differs(f"answered with {self}")
        data = self.body.get("data")
        if not isinstance(data, dict):
            raise Differs("the answer has no data")
        return data

    @property
    def code(self) -> str:
        """Return the error code in an envelope, or "" if there is none."""
        if isinstance(self.body, dict) and self.body.get("success") is False:
            return str((self.body.get("error") or {}).get("code", ""))
        return ""

    def __str__(self) -> str:
        return f"{self.status} {self.code or 'without a code'}"


@dataclass(frozen=True)
class Placed:
    """An order that was placed for these tests."""

    id: str
    at: datetime
    is_answered_at: float


@dataclass
class Provider:
    """The provider at ``url``; ``pause`` (seconds) comes before each request."""

    url: str
    key: str = field(repr=False)
    pause: float = 1.0
    product: str = PRODUCT
    type: str = TYPE
    listed_within: float = LISTED_WITHIN
    #: True if requests above the limit, and with a wrong key, do no harm.
    is_simulator: bool = False
    meets_limit: bool = False
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def get(self, path: str, *, key: str | None = None, **params: Any) -> Reply:
        return self._ask("GET", path, key=key, params=params)

    def post(self, quantity: int, *, type_id: str = "", reference: str = "") -> Reply:
        order = {"productId": self.product, "typeId": type_id or self.type, "quantity": quantity}
        if reference:
            order["ref"] = reference
        return self._ask("POST", "gift-cards/placeOrder", json=order)

    def create_link(self, title: str, amount: int) -> Reply:
        """Request a page on which a customer could pay; the page is never opened."""
        product = {"title": title, "amount": amount}
        return self._ask("POST", "ocpay/createLink", json={"productInfo": product})

    def _ask(self, method: str, path: str, *, key: str | None = None, **more: Any) -> Reply:
        time.sleep(self.pause)
        headers = {"X-Access-Token": self.key if key is None else key}
        try:
            answer = requests.request(
                method, f"{self.url}/v3/{path}", headers=headers, timeout=10, **more
            )
        except requests.RequestException as error:
            raise Differs(f"no answer ({type(error).__name__})") from None
        try:
            body = answer.json()
        except ValueError:
            body = None
        return Reply(answer.status_code, answer.headers, body)

    def page(self, number: int = 1, size: int = 100, *, until: datetime | None = None) -> Reply:
        """Request a page of the orders that were placed since these tests began."""
        return self.get("gift-cards/list", page=number, pageSize=size, **self.period(until))

    def period(self, until: datetime | None = None) -> dict[str, str]:
        """Return the time since these tests began, by the provider's clock or ours."""
        ends = (self.began - CLOCK_SKEW, until or datetime.now(UTC) + CLOCK_SKEW)
        first, last = (each.isoformat(timespec="milliseconds")[:23] + "Z" for each in ends)
        return {"from": first, "to": last}

    def place(self, quantity: int, type_id: str = "") -> Placed:
        at = datetime.now(UTC)
        return Placed(read_placed(self.post(quantity, type_id=type_id).data), at, time.monotonic())

    @cached_property
    def ordinary(self) -> Placed:
        return self.place(2)

    @cached_property
    def partial(self) -> Placed:
        return self.place(4, "TEST_PARTIAL")

    @cached_property
    def refunded(self) -> Placed:
        return self.place(2, "TEST_REFUND")

    @property
    def placed(self) -> list[Placed]:
        return [self.ordinary, self.partial, self.refunded]

    @cached_property
    def spellings(self) -> list[str]:
        """Return the spellings of the order path that the provider accepts."""
        known = []
        for spelling in ("check-order", "checkOrder"):
            reply = self.get(f"gift-cards/{spelling}/{self.ordinary.id}")
            if reply.status == 200:
                known.append(spelling)
        return known

    def check(self, placed: Placed) -> dict[str, Any]:
        spelling = next(iter(self.spellings), "check-order")
        return self.get(f"gift-cards/{spelling}/{placed.id}").data

    @cached_property
    def ends(self) -> dict[str, tuple[OrderAnswer, float]]:
        """Return the final answer about each order, and how long it took, by the order's id."""
        found: dict[str, tuple[OrderAnswer, float]] = {}
        while len(found) < len(self.placed):
            for placed in self.placed:
                took = time.monotonic() - placed.is_answered_at
                if placed.id in found:
                    continue
                answer = read_order(self.check(placed))
                if answer.status in FINAL:
                    found[placed.id] = answer, took
                elif took > SETTLED_WITHIN:
                    raise Differs(f"an order is {answer.status} after {took:.0f} s")
            time.sleep(3 * self.pause)
        return found

    def end(self, placed: Placed) -> OrderAnswer:
        return self.ends[placed.id][0]


Assumption = Callable[[Provider], str]
ASSUMPTIONS: dict[str, Assumption] = {}


def assume(sentence: str) -> Callable[[Assumption], Assumption]:
    """Register a function that returns what it saw, or raises one of the exceptions above."""

    def register(function: Assumption) -> Assumption:
        ASSUMPTIONS[sentence] = function
        return function

    return register


@assume("The key says which environment it is for")
def _(provider: Provider) -> str:
    key = read_key_info(provider.get("validate").data)
    if key.key_type not in ("SANDBOX", "PRODUCTION"):
        raise Differs(f"it is for {key.key_type or 'nothing'}")
    return f"{key.key_type}, {key.scope}"


@assume("A path that does not exist is answered with 404 and no envelope")
def _(provider: Provider) -> str:
    reply = provider.get("gift-cards/nothing-of-the-kind")
    if reply.status != 404 or (isinstance(reply.body, dict) and "success" in reply.body):
        raise Differs(str(reply))
    return str(reply.status)


@assume("The catalogue lists the product")
def _(provider: Provider) -> str:
    catalogue = read_catalogue(provider.get("gift-cards/catalog").data)
    if provider.product not in {each.product_id for each in catalogue.products}:
        raise Differs(f"it lists {len(catalogue.products)} others; choose one with --product")
    return f"{len(catalogue.products)} products, {catalogue.unreadable} unreadable"


@assume("The catalogue lists as many products as it counts")
def _(provider: Provider) -> str:
    answer = provider.get("gift-cards/catalog")
    listed = len(read_catalogue(answer.data).products)
    parts = [part for part in (answer.data, answer.body, answer.body.get("meta")) if part]
    counts = [part["totalProducts"] for part in parts if "totalProducts" in part]
    if counts[:1] != [listed]:
        raise Differs(f"it lists {listed}, and counts {counts[0] if counts else 'none'}")
    return str(listed)


@assume("A product tells the price and the stock of each type")
def _(provider: Provider) -> str:
    types = _types(provider)
    if vague := [name for name, (price, stock) in types.items() if None in (price, stock)]:
        raise Differs(f"not those of {', '.join(vague)}")
    if provider.type not in types:
        raise Differs(f"{provider.type} is not among them; choose one with --type")
    return f"{len(types)} types"


@assume("The types for tests are listed with their prices")
def _(provider: Provider) -> str:
    missing = {"TEST_REFUND", "TEST_PARTIAL"} - _types(provider).keys()
    if missing:
        raise Differs(f"not {' and '.join(sorted(missing))}, which cannot have a ceiling then")
    return "both"


@assume("An order of no cards is refused with a code")
def _(provider: Provider) -> str:
    reply = provider.post(0)
    if not 400 <= reply.status < 500 or not reply.code:
        raise Differs(str(reply))
    return str(reply)


@assume("Placing is answered with the order's id")
def _(provider: Provider) -> str:
    return f"{len(provider.ordinary.id)} characters"


@assume(f"The list shows an order within {LISTED_WITHIN:.0f} s")
def _(provider: Provider) -> str:
    placed = provider.place(1)
    while True:
        took = time.monotonic() - placed.is_answered_at
        if placed.id in {row.provider_id for row in read_page(provider.page().data).items}:
            return f"after {took:.1f} s"
        if took > provider.listed_within:
            raise Differs(f"not after {took:.0f} s")


@assume("A purchase with a reference is accepted, or refused by a code")
def _(provider: Provider) -> str:
    reference = f"contract-{uuid.uuid4().hex[:24]}"
    reply = provider.post(1, type_id="TEST_REFUND", reference=reference)
    if reply.status != 200:
        if not reply.code:
            raise Differs(str(reply))
        return f"{reply}: leave SEND_REFERENCE off"
    placed = Placed(read_placed(reply.data), datetime.now(UTC), time.monotonic())
    again = provider.post(1, type_id="TEST_REFUND", reference=reference)
    page = provider.page()
    rows = read_page(page.data).items if page.status == 200 else ()
    told = {
        "told in answers": read_order(provider.check(placed)).reference == reference,
        "told in the list": reference in {row.reference for row in rows},
        "refused if it is repeated": again.code.replace("-", "_") == "DUPLICATED_REF",
    }
    seen = [what if holds else f"not {what}" for what, holds in told.items()]
    return f"accepted, {', '.join(seen)}"


@assume("Orders are asked about as check-order, or else as checkOrder")
def _(provider: Provider) -> str:
    if not provider.spellings:
        raise Differs("neither is known")
    return " and ".join(provider.spellings)


@assume("An order that is at work has neither cards nor amounts")
def _(provider: Provider) -> str:
    data = provider.check(provider.place(1))
    if data.get("status") in FINAL:
        raise NotTried("it had settled before it was asked about")
    if told := {"cards", "fulfilled_amount", "fulfilled_quantity"} & data.keys():
        raise Differs(f"it has {', '.join(sorted(told))}")
    return str(data.get("status"))


@assume(f"Every order settles within {SETTLED_WITHIN / 60:.0f} minutes")
def _(provider: Provider) -> str:
    return ", ".join(f"{took:.0f} s" for _answer, took in provider.ends.values())


@assume("An answer about an order has the id that placing told")
def _(provider: Provider) -> str:
    if {answer.provider_id for answer, _took in provider.ends.values()} != provider.ends.keys():
        raise Differs("it has another one; the app accepts both")
    return "the same"


@assume("An ordinary order is delivered")
def _(provider: Provider) -> str:
    return _ended(provider.end(provider.ordinary), "FULFILLED", 2)


@assume("Of TEST_PARTIAL, half is delivered")
def _(provider: Provider) -> str:
    return _ended(provider.end(provider.partial), "PARTIALLY_FILLED", 2)


@assume("Of TEST_REFUND, nothing is delivered")
def _(provider: Provider) -> str:
    return _ended(provider.end(provider.refunded), "REFUNDED", 0)


@assume("What was charged is the price of the delivered cards")
def _(provider: Provider) -> str:
    for answer, _took in provider.ends.values():
        delivered, price = answer.fulfilled_quantity, answer.price_per_card
        if delivered is None or price is None or answer.fulfilled_amount != delivered * price:
            raise Differs(f"{answer.fulfilled_amount} for {delivered} cards of {price}")
    return f"at {provider.end(provider.ordinary).price_per_card} DA a card"


@assume("A row of the list tells what an answer about the order tells")
def _(provider: Provider) -> str:
    ends = {each.id: provider.end(each) for each in provider.placed}
    for row in read_page(provider.page().data).items:
        answer = ends.pop(row.provider_id, None)
        if answer and (row.status, row.cards) != (answer.status, answer.cards):
            raise Differs(f"of {row.status}, {len(row.cards)} of {len(answer.cards)} cards")
    if ends:
        raise Differs(f"{len(ends)} orders are not in it")
    return "status and cards"


@assume("Pages neither repeat rows nor leave any out")
def _(provider: Provider) -> str:
    until = datetime.now(UTC) + CLOCK_SKEW
    whole = [row.provider_id for row in read_page(provider.page(until=until).data).items]
    pieces: list[str] = []
    for number in range(1, len(whole) // 2 + 2):
        page = read_page(provider.page(number, 2, until=until).data)
        pieces += [row.provider_id for row in page.items]
    if pieces != whole:
        raise Differs(f"{len(whole)} rows on one page are {len(set(pieces))} on pages of two")
    return f"{len(whole)} rows"


@assume("The newest order comes first")
def _(provider: Provider) -> str:
    times = [row.created_at for row in read_page(provider.page().data).items if row.created_at]
    if times != sorted(times, reverse=True):
        raise Differs("the order is another one; the app does not rely on it")
    return f"{len(times)} rows"


@assume("A period leaves out orders that were placed later")
def _(provider: Provider) -> str:
    rows = read_page(provider.page(until=provider.began - timedelta(minutes=5)).data).items
    known = {each.id for each in provider.placed}
    if any(row.provider_id in known for row in rows):
        raise Differs("they are shown")
    return f"{len(rows)} rows before"


@assume("The time of an order is that of its placing")
def _(provider: Provider) -> str:
    created_at = provider.end(provider.ordinary).created_at
    return _clock(created_at, provider.ordinary.at)


@assume("The Date of an answer is the time")
def _(provider: Provider) -> str:
    told = provider.get("account/balance").headers.get("Date")
    if told is None:
        raise Differs("there is none")
    return _clock(parsedate_to_datetime(told), datetime.now(UTC))


@assume("An order that does not exist is answered with 404 in an envelope")
def _(provider: Provider) -> str:
    spelling = next(iter(provider.spellings), "check-order")
    reply = provider.get(f"gift-cards/{spelling}/{'0' * 24}")
    if reply.status != 404 or not reply.code:
        raise Differs(str(reply))
    return str(reply)


@assume("The balance is a number")
def _(provider: Provider) -> str:
    read_balance(provider.get("account/balance").data)
    return "yes"


@assume("A transaction names its order, and tells the balance before and after")
def _(provider: Provider) -> str:
    reply = provider.get("account/transactions", page=1, pageSize=100, **provider.period())
    ledger = read_ledger(reply.data)
    known = {each.id for each in provider.placed}
    rows = [row for row in ledger.rows if row.type == "ORDER"]
    if not rows:
        raise NotTried("the sandbox lists no transaction")
    if not any(row.objid in known for row in rows):
        raise Differs("none of them does")
    if any(row.balance_after is None for row in rows):
        raise Differs("a balance is missing")
    return f"{len(rows)} transactions"


@assume("A link for a payment has a reference, and is open at first")
def _(provider: Provider) -> str:
    reply = provider.create_link(f"contract-{uuid.uuid4().hex[:24]}", _LEAST_PAYMENT)
    if reply.status in {400, 402, 403, 404} and reply.code not in {"", "ERR_VALIDATION"}:
        raise NotTried(f"the sandbox refuses payments ({reply})")
    link = read_payment_link(reply.data)
    if link.is_sandbox is False:
        raise Differs("the link is for real money")
    if not link.ref.startswith(_PAYMENT_REFS):
        raise Differs(f"the reference does not begin with {_PAYMENT_REFS}")
    told = provider.get(f"ocpay/checkPayment/{link.ref}").data
    status = read_payment(told, asked_for=link.ref).status
    if status != "PENDING":
        raise Differs(f"it is {status}")
    return f"{status}, {'of the sandbox' if link.is_sandbox else 'of the sandbox or not'}"


@assume("Above the limit, the answer is 429")
def _(provider: Provider) -> str:
    if not (provider.is_simulator or provider.meets_limit):
        raise NotTried("needs --limit")
    provider.pause, count = 0, 1
    while (reply := provider.get("account/balance")).status == 200 and count < _ABOVE_LIMIT:
        count += 1
    if reply.status != 429:
        raise Differs(f"{reply} after {count} requests")
    later = reply.headers.get("Retry-After")
    return f"{reply} after {count} requests, {f'Retry-After {later}' if later else 'no time given'}"


@assume("A wrong key is answered with 401, and with the attempts that are left")
def _(provider: Provider) -> str:
    if not provider.is_simulator:
        raise NotTried("wrong keys block the address")
    reply = provider.get("validate", key="wrong")
    details = reply.body["error"].get("details") if reply.code else None
    if reply.status != 401 or not isinstance(details, dict) or "attemptsLeft" not in details:
        raise Differs(str(reply))
    return f"{reply}, {details['attemptsLeft']} left"


def _types(provider: Provider) -> dict[str, tuple[Any, Any]]:
    data = provider.get(f"gift-cards/checkProduct/{provider.product}").data
    product = read_product(data, asked_for=provider.product)
    return {each.type_id: (each.price, each.stock) for each in product.types}


def _ended(answer: OrderAnswer, status: str, delivered: int) -> str:
    told = f"{answer.status}, {answer.fulfilled_quantity} delivered, {len(answer.cards)} cards"
    if (answer.status, answer.fulfilled_quantity, len(answer.cards)) != (
        status,
        delivered,
        delivered,
    ):
        raise Differs(told)
    return told


def _clock(told: datetime | None, ours: datetime) -> str:
    if told is None:
        raise Differs("it is not told")
    lead = told - ours
    if abs(lead) > CLOCK_SKEW:
        raise Differs(f"it is {lead.total_seconds():+.0f} s from ours")
    return f"{lead.total_seconds():+.1f} s from our clock"


def try_all(provider: Provider) -> Iterator[tuple[str, str]]:
    """Yield the result of each assumption as a word and a sentence."""
    for sentence, look in ASSUMPTIONS.items():
        try:
            yield "holds", f"{sentence}: {look(provider)}."
        except NotTried as reason:
            yield "not tried", f"{sentence}: {reason}."
        except (Differs, Unreadable) as difference:
            yield "differs", f"{sentence}: {difference}."


def refusal(provider: Provider) -> str:
    """Return the reason not to try anything with this key, or "" if it is for the sandbox."""
    try:
        key = read_key_info(provider.get("validate").data)
    except (Differs, Unreadable) as error:
        return f"The provider does not say what the key is for: {error}."
    return "" if key.key_type == "SANDBOX" else "The key is not for the sandbox."


@contextmanager
def the_provider(options: argparse.Namespace) -> Iterator[Provider]:
    key = os.environ.get("GIFTCARDS_API_KEY", "")
    chosen = {"product": options.product, "type": options.type}
    if key:
        url = os.environ.get("GIFTCARDS_BASE_URL", LIVE)
        yield Provider(url, key, options.pause, meets_limit=options.limit, **chosen)
        return
    sys.stdout.write("No key in GIFTCARDS_API_KEY: this is the simulator, not the provider.\n")
    with Simulator(delay=(0.5, 1), keys=["simulated"]) as simulator:
        pause = min(options.pause, 0.02)
        yield Provider(simulator.url, "simulated", pause, is_simulator=True, **chosen)


def main() -> int:
    """Print a line for each assumption; return 1 if one differs, and 2 if none may be tried."""
    parser = argparse.ArgumentParser(prog="make contract", description=__doc__)
    parser.add_argument("--product", default=PRODUCT)
    parser.add_argument("--type", default=TYPE)
    parser.add_argument("--pause", type=float, default=1, help="seconds before each request")
    parser.add_argument("--limit", action="store_true", help="meet the limit of requests")
    with the_provider(parser.parse_args()) as provider:
        if reason := refusal(provider):
            sys.stderr.write(f"{reason}\n")
            return 2
        results = []
        for word, sentence in try_all(provider):
            results.append(word)
            sys.stdout.write(f"{word:10} {sentence}\n")
            sys.stdout.flush()
    return int("differs" in results)


if __name__ == "__main__":
    sys.exit(main())
