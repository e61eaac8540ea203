"""Invariants: what holds once everything has settled, whatever happened before.

Each function compares the shop's rows and what people have seen with the provider's own records,
and yields a sentence for each violation.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal

from django.utils import timezone

from giftcards.books.models import MonthClosing
from giftcards.books.months import differences, month_figures
from giftcards.books.reports import By, last_day
from giftcards.catalogue.offers import offers, with_available
from giftcards.conf import conf
from giftcards.delivery.conf import Kind
from giftcards.delivery.models import OPEN, Delivery, DeliveryStatus, LinkVisit, StaffDigest
from giftcards.engine.tuning import tuning
from giftcards.exceptions import DecryptionError
from giftcards.models import Card, Order, ProductType, Reservation, Shelf, StatusChange
from giftcards.refunds import refund_breakdown
from giftcards.rules.prices import find_price
from giftcards.rules.problems import Problem
from giftcards.rules.states import UNSERVED
from giftcards.rules.times import within
from giftcards.rules.verdict import most_cards
from giftcards.settlement import customer_breakdown
from giftcards.simulator.account import Order as Bought
from giftcards.statuses import FINAL, SETTLED, Review, Status
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.explore.provider import SCARCE, STOCK
from tests.explore.shop import STAFF, TOKEN, Refreshed, Shop, objects_to
from tests.explore.simulation import EPOCH
from tests.leaks import raw_database, traces

Invariant = Callable[[Shop], Iterator[str]]
# How many requests may already be on their way when the provider asks for a pause.
_ON_THEIR_WAY = 2
# All secrets are longer than this.
_SHORT = 8
# The time that a new worker needs to look at all orders.
_LEEWAY = timedelta(minutes=3)
# How long a press on "Refresh" takes at most if nothing delays it (seconds).
_AT_ONCE = 0.5
# How much later than a newer order an order may be sent, depending on the workers' turns.
_A_WHILE = timedelta(seconds=20)
# How many orders of a condition a digest names at most.
_NAMED = 5
# Types whose stock was last read before this time are not for sale.
_DAY = timedelta(days=1)


def bought_once_or_never(shop: Shop) -> Iterator[str]:
    """Each order is at most one purchase at the provider, and each purchase belongs to an order."""
    theirs = shop.provider.orders
    owners: dict[str, list[str]] = defaultdict(list)
    # Staff look for the purchases of these orders.
    sought: Counter[tuple[str, int]] = Counter()
    for order in Order.objects.exclude(provider_order_id=None):
        known = shop.provider.find(order.provider_order_id)
        if _has_wrong_id(order, known):
            sought[order.type_id, order.quantity] += 1
            continue
        owners[known.id if known else str(order.provider_order_id)].append(order.reference)
    for name, references in owners.items():
        if name not in theirs:
            yield f"{references} have an id that the provider does not know: {name}"
        elif len(references) > 1:
            yield f"{references} share the provider's order {name}"
    shown = [row["id"] for order in Order.objects.all() for row in order.candidates]
    offered = {known.id for name in shown if (known := shop.provider.find(name))}
    repeated = {name for order in Order.objects.all() for name in _told_as_repeated(shop, order)}
    for name in sorted(theirs.keys() - owners.keys() - offered - repeated):
        line = (theirs[name].type, theirs[name].quantity)
        sought[line] -= 1
        if sought[line] < 0:
            yield f"the provider's order {name} ({theirs[name].type}) is nobody's"
    lines = Counter(Order.objects.values_list("type_id", "quantity"))
    bought = Counter(
        (each.type, each.quantity) for name, each in theirs.items() if name not in repeated
    )
    for line, count in (bought - lines).items():
        yield f"{count} more of {line} were bought than ordered"


def what_was_bought_twice_is_told(shop: Shop) -> Iterator[str]:
    """Staff are told about every further purchase with an order's reference, and about no other."""
    account = shop.provider.account.orders
    owned = {known.id for order, known in _pairs(shop)}
    for order in Order.objects.filter(status__in=SETTLED).exclude(provider_reference=""):
        own = shop.provider.find(order.provider_order_id)
        told = _told_as_repeated(shop, order)
        further = {
            each.id
            for each in account.values()
            if each.reference == order.provider_reference and each is not own
        }
        if told - further:
            yield f"{order} is said to be bought as {told - further}, too, which is wrong"
        is_of_account = own is not None and own.id in account
        if is_of_account and further - told - owned:
            yield f"{order} was bought as {further - told - owned}, too, and nobody is told"


def every_paid_card_is_stored_and_opens(shop: Shop) -> Iterator[str]:
    """The delivered cards are stored once each, and can be decrypted unless they were destroyed.

    An order whose codes were destroyed may get further cards. A card may be left out if the
    provider has shown too many cards that it did not deliver, and if staff are told.
    """
    for order, theirs in _pairs(shop):
        cards = list(Card.objects.filter(order=order).select_related("order"))
        if order.codes_destroyed_at is not None:
            if any(not card.is_destroyed for card in cards):
                yield f"{order} is half destroyed"
            continue
        readable = [card for card in cards if not card.is_destroyed]
        try:
            stored = Counter((card.value, card.serial) for card in readable)
        except DecryptionError:
            yield f"a card of {order} does not open"
            continue
        delivered = Counter((card.value, card.serial) for card in theirs.cards)
        missing = (delivered - stored).total()
        is_full = len(cards) >= most_cards(order.quantity)
        if is_full and missing and "cards_left_out" in _told_codes(order):
            continue
        if order.status in SETTLED and missing > len(cards) - len(readable):
            yield f"{order} has {len(cards)} cards; the provider delivered {len(theirs.cards)}"
        elif stored - delivered and not _is_told(order):
            yield f"{order} has cards that the provider did not deliver"


def disputed_codes_are_kept(shop: Shop) -> Iterator[str]:
    """A disputed code is not destroyed before staff acknowledge the complaint."""
    for order in Order.objects.filter(pk__in=shop.complaints, codes_destroyed_at__isnull=False):
        if any(problem.code == "disputed" for problem in order.open_problems):
            yield f"the codes of {order} were destroyed, and the customer waits for an answer"


def sums_are_equal_on_both_sides(shop: Shop) -> Iterator[str]:
    """Status, cards and amounts of a settled order match the provider's, or staff were told.

    The number of cards is the one that answers report, even if they show more cards. If a single
    answer lacks the additional cards, the shop cannot know about them: the refund looks complete,
    and is not read a second time.
    """
    for order, theirs in _pairs(shop):
        if order.status not in SETTLED:
            continue
        delivered = shop.provider.delivered(theirs)
        if (order.status, order.fulfilled_quantity) != (theirs.status, delivered):
            yield (
                f"{order} is {order.status} with {order.fulfilled_quantity} cards, at the provider"
                f" {theirs.status} with {delivered}"
            )
            continue
        breakdown = refund_breakdown(order)
        amounts = breakdown and (breakdown.charged_amount, breakdown.refunded_amount)
        if amounts != (theirs.charged, theirs.refunded) and not _is_told(order):
            yield f"{order}: charged and refunded {amounts}, not {theirs.charged, theirs.refunded}"


def cards_beyond_the_figures_are_told(shop: Shop) -> Iterator[str]:
    """Staff are told if a settled order has more cards than its figures, paid back or not."""
    for order in Order.objects.filter(status__in=SETTLED):
        count = order.cards.count()
        if count > order.fulfilled_quantity and not _is_told_of_cards(order):
            yield f"{order} settled with {order.fulfilled_quantity} cards and has {count}"


def stored_figures_are_those_of_the_order(shop: Shop) -> Iterator[str]:
    """The stored figures equal those that are computed from the final order now."""
    for order in Order.objects.filter(status__in=FINAL):
        customer, provider = customer_breakdown(order), refund_breakdown(order)
        for name, now in (
            ("open_amount", customer and customer.open_amount),
            ("is_consistent", provider and provider.is_consistent),
        ):
            if getattr(order, name) != now:
                yield f"{name} of {order} is stored as {getattr(order, name)}, and is {now}"


def no_more_cards_are_held_than_are_left(shop: Shop) -> Iterator[str]:
    """Cards in reservations, and in unsent orders after a reservation, never exceed the stock.

    Once an order was sent, the provider counts its cards.
    """
    if shop.is_clock_set:
        return
    sent = _first_claims()
    ends: dict[str, float] = defaultdict(lambda: math.inf)
    for order in Order.objects.filter(**SCARCE):
        ends[order.reference] = min(
            (
                moment.timestamp() - EPOCH
                for moment in (sent.get(order.pk), order.finalized_at)
                if moment
            ),
            default=math.inf,
        )
    for each in shop.reservations:
        at_once = [
            one
            for one in shop.reservations
            if one.since <= each.since < (ends[one.reference] if one.is_ordered else one.until)
        ]
        if (count := sum(one.quantity for one in at_once)) > STOCK:
            yield f"{count} of {STOCK} cards were held: {[one.reference for one in at_once]}"


def the_shelf_has_what_nobody_else_gets(shop: Shop) -> Iterator[str]:
    """The available cards of a type: stock less buffer, open, delivered and reserved cards.

    The stock does not include cards of orders that the provider accepted before it reported the
    stock.
    """
    if shop.is_clock_set:
        return
    now, buffer = timezone.now(), Shelf.objects.current().stock_buffer
    for kind in with_available(ProductType.objects.filter(read_at__gt=now - _DAY), now=now):
        line = {"product_id": kind.product.product_id, "type_id": kind.type_id}
        taken = sum(held.quantity for held in Reservation.objects.current(now).filter(**line))
        for order in Order.objects.filter(**line):
            if order.accepted_at is None or order.accepted_at > kind.read_at:
                taken += order.fulfilled_quantity if order.is_final else order.quantity
        left = None if kind.stock is None else max(kind.stock - taken - buffer, 0)
        if kind.available != left:
            yield f"{kind.available} cards of {kind.type_id} are on the shelf, and {left} are left"


def each_price_follows_from_its_cost(shop: Shop) -> Iterator[str]:
    """Each stored price is the rule's, whatever was edited or read and whichever process died."""
    terms = Shelf.objects.current().terms
    for kind in ProductType.objects.select_related("product__category"):
        price = find_price(kind.terms, terms).price
        if kind.price != price:
            yield f"{kind.type_id} of {kind.cost} is sold at {kind.price}, and not {price}"


def nothing_hidden_is_offered(shop: Shop) -> Iterator[str]:
    """Types that the owner does not sell are not offered, and their last change says so."""
    for kind in offers():
        if not kind.is_sold_here:
            yield f"{kind.type_id} is hidden, and offered"
    for kind in ProductType.objects.select_related("product__category"):
        last = kind.changes.exclude(what__in=["stock", "name"]).last()
        if last is not None and not kind.is_sold_here and last.what != "gone":
            yield f"{kind.type_id} is hidden, and its last change is {last.what}"


def orders_are_sent_in_sequence(shop: Shop) -> Iterator[str]:
    """If nothing holds them, orders are sent roughly in the sequence in which they were placed.

    An order is postponed for up to five minutes if the shop's own rule failed to review it. It may
    also be postponed if a price could not be read while the order waited.
    """
    if shop.is_clock_set:
        return
    sent = _first_claims()
    unpriced = [EPOCH + at for at, path in shop.simulation.failed if "checkProduct" in path]
    postponed = shop.unreviewed | {
        order.reference
        for order in Order.objects.filter(pk__in=sent)
        if any(order.created_at.timestamp() <= at <= sent[order.pk].timestamp() for at in unpriced)
    }
    free = Order.objects.filter(pk__in=sent, repeats=None, max_price=None, review="")
    free = free.exclude(changes__source=StatusChange.Source.STAFF)
    orders = free.exclude(reference__in=postponed).order_by("created_at")
    for order, later in itertools.combinations(orders, 2):
        apart = later.created_at - order.created_at, sent[order.pk] - sent[later.pk]
        if min(apart) > _A_WHILE:
            yield f"{order} was sent {apart[1]} after {later}, and placed {apart[0]} before it"


def a_month_is_the_sum_of_its_orders(shop: Shop) -> Iterator[str]:
    """A closed month has the sums of its orders, and later changes are reported."""
    for closing in MonthClosing.objects.valid():
        figures = month_figures(closing.month)
        orders = Order.objects.filter(
            within("finalized_at", closing.month, last_day(closing.month, By.MONTH))
        )
        provider = [each for order in orders if (each := refund_breakdown(order))]
        sums = {
            "rejected": sum(order.status == Status.REJECTED for order in orders),
            "cards_delivered": sum(order.fulfilled_quantity or 0 for order in orders),
            "charged_amount": sum(
                (each.charged_amount or Decimal(0) for each in provider), Decimal(0)
            ),
            "refunded_amount": sum(
                (each.refunded_amount or Decimal(0) for each in provider), Decimal(0)
            ),
            "sale_amount": sum((order.sale_amount or Decimal(0) for order in orders), Decimal(0)),
        }
        for name, value in sums.items():
            if figures[name] != value:
                yield f"{name} of {closing.month} is {figures[name]}, and of its orders {value}"
        told = closing in MonthClosing.objects.changed()
        if told != bool(differences(closing, figures)):
            yield f"{closing.month} differs in {differences(closing, figures)}, and is told: {told}"


def never_paid_back_above_what_is_owed(shop: Shop) -> Iterator[str]:
    """Refunds of an order are at most what was paid for its missing cards."""
    for order in Order.objects.all():
        breakdown = customer_breakdown(order)
        if breakdown is None:
            continue
        given = breakdown.paid_back_amount
        if given > breakdown.owed_amount:
            yield f"{given} were paid back of {order}, which owes {breakdown.owed_amount}"
        made = order.refunds.exclude(state="cancelled").values_list("amount", flat=True)
        if sum(made, Decimal(0)) != given:
            yield f"{order} counts {given} as paid back, and its refunds are {list(made)}"


def never_paid_back_and_ordered_again(shop: Shop) -> Iterator[str]:
    """If missing cards were ordered again, it was done once and the order was not paid back."""
    for order in Order.objects.filter(repeats__isnull=False).select_related("repeats"):
        if order.repeats and order.repeats.refunds.exclude(state="cancelled").exists():
            yield f"{order.repeats} was paid back, and ordered again as {order}"
    repeated = Counter(Order.objects.exclude(repeats=None).values_list("repeats", flat=True))
    for key, count in repeated.items():
        if count > 1:
            yield f"{Order.objects.get(pk=key)} was ordered again {count} times"


def missing_cards_are_ordered_again_for_what_was_paid(shop: Shop) -> Iterator[str]:
    """A repeat order contains only missing cards, and is paid with the money for them."""
    for order in Order.objects.exclude(repeats=None).select_related("repeats"):
        old = order.repeats
        assert old is not None
        if order.quantity > old.quantity - old.fulfilled_quantity:
            yield f"{order} orders {order.quantity} cards, and {old} does not miss so many"
        if old.open_amount or (order.sale_amount or 0) != old.reordered_amount:
            yield f"{order} was paid {order.sale_amount}, and {old} {old.reordered_amount} less"


def no_chain_brings_more_cards_than_were_ordered(shop: Shop) -> Iterator[str]:
    """An order and its repetitions by rule have no more cards than were ordered.

    An exception is a card that came after its order had settled, and about which staff were told.
    """
    for order in Order.objects.filter(repeats=None):
        chain = list(_chain(order))
        bought = [shop.provider.find(each.provider_order_id) for each in chain]
        cards = sum(len(each.cards) for each in bought if each is not None)
        if cards > order.quantity and not any(map(_is_told_of_cards, chain)):
            yield f"{order} is for {order.quantity} cards, and with those after it has {cards}"


def no_rule_orders_more_often_than_it_may(shop: Shop) -> Iterator[str]:
    """A rule orders missing cards again only a limited number of times in a row."""
    rule = conf.reorder_missing
    for order in Order.objects.filter(repeats=None):
        times = 0
        for each in _chain(order):
            times = 0 if each.send_before is None else times + 1
            if times > (rule.times if rule else 0):
                yield f"{each} is number {times} in a row"


def what_the_rule_objects_to_is_approved_before_it_is_bought(shop: Shop) -> Iterator[str]:
    """If the shop's own rule objects to an order, it is bought only after a person approved it."""
    if conf.review_order is None:
        return
    for order, _theirs in _pairs(shop):
        if order.repeats_id is None and objects_to(order) and order.review != Review.APPROVED:
            yield f"{order} was bought, and nobody had looked at it"


def no_card_is_bought_above_its_ceiling(shop: Shop) -> Iterator[str]:
    """As far as the shop could know, no order was sent above its price limit."""
    for order, theirs in _pairs(shop):
        ceiling = order.price_ceiling
        # An order that staff chose, or that a search found, may belong to another customer.
        was_lost = order.changes.filter(to_status=Status.UNCONFIRMED).exists()
        if ceiling is None or was_lost or shop.is_clock_set:
            continue
        known_since = theirs.created_at - timedelta(seconds=tuning.price_max_age) - _LEEWAY
        paid = shop.lowest_factor(theirs.created_at, theirs.created_at)
        lowest = theirs.price / paid * shop.lowest_factor(known_since, theirs.created_at)
        if lowest > ceiling:
            yield f"{order} was sent at {lowest} a card, above {ceiling}"


def the_limit_of_requests_is_kept(shop: Shop) -> Iterator[str]:
    """The shop kept the request limit and the pauses, and never used a wrong key.

    A few requests may be on their way when the provider asks for a pause.
    """
    requests = shop.provider.requests
    refused = [each for each in requests if each.status == 429]
    if refused:
        yield f"{len(refused)} requests were above the limit, the first at {refused[0].at:.1f} s"
    if wrong := [each for each in requests if not each.key_ok]:
        yield f"{len(wrong)} requests had a wrong key"
    for begins, ends in shop.provider.pauses:
        early = [each for each in shop.provider.account.requests if begins < each.at < ends]
        if len(early) > _ON_THEIR_WAY:
            yield f"{len(early)} requests came before {ends:.1f} s, as if nobody had said to wait"


def no_order_is_wanted_checked_more_often_than_it_may(shop: Shop) -> Iterator[str]:
    """Pressing "Refresh" causes at most one check of an order in five seconds.

    A press that was delayed does not count.
    """
    if shop.is_clock_set:
        return
    seconds = tuning.check_soon_every.total_seconds()
    presses: dict[str, list[Refreshed]] = defaultdict(list)
    for each in shop.refreshed:
        if each.ended - each.began < _AT_ONCE:
            presses[each.reference].append(each)
    for reference, some in presses.items():
        some.sort(key=lambda each: each.began)
        for one, other in itertools.pairwise(some):
            if other.began - one.began < seconds - _AT_ONCE:
                apart = other.began - one.began
                yield f"{reference} was wanted checked twice within {apart:.1f} s"


def each_change_is_announced_in_order(shop: Shop) -> Iterator[str]:
    """Each change of an order was announced, and the first announcements were in sequence."""
    if count := StatusChange.objects.filter(announced_at=None).count():
        yield f"{count} changes were not announced"
    heard: dict[str, list[int]] = defaultdict(list)
    for each in shop.heard:
        heard[each.reference].append(each.change)
    for order in Order.objects.all():
        told = list(dict.fromkeys(heard[order.reference]))
        # A wait has a separate signal, whose receivers do not wait for those of status changes.
        for is_move in (True, False):
            made = [each.pk for each in order.changes.order_by("pk") if each.is_move == is_move]
            if (found := [key for key in told if key in made]) != made:
                yield f"{order} made the changes {made}, and the shop heard {found}"


def statuses_follow_one_way(shop: Shop) -> Iterator[str]:
    """The changes of an order lead from PENDING to its status, and a final status stays."""
    for order in Order.objects.all():
        status: str = Status.PENDING
        for change in order.changes.order_by("pk"):
            if change.from_status != status or status in FINAL:
                yield f"{order} went from {change.from_status} to {change.to_status}, from {status}"
            status = change.to_status
        if status != order.status:
            yield f"{order} is {order.status}; its last change says {status}"


def a_cancelled_order_is_never_sent(shop: Shop) -> Iterator[str]:
    """An order reported to staff as cancelled was waiting then, and is not claimed later."""
    for order in Order.objects.filter(pk__in=shop.cancelled):
        last = order.changes.order_by("pk").last()
        moved = last and (last.from_status, last.to_status)
        if moved != (Status.PENDING, Status.REJECTED):
            yield f"{order} was cancelled, and its last change is {moved}"


def nothing_is_open_that_nobody_looks_at(shop: Shop) -> Iterator[str]:
    """An order that is still open waits for a person."""
    for order in Order.objects.exclude(status__in=FINAL).filter(needs_attention=False):
        yield f"{order} is {order.status}, and needs nobody"


def what_settles_while_it_is_watched_is_settled(shop: Shop) -> Iterator[str]:
    """An order that the provider settles while it is watched is settled in the shop, too.

    Orders about which the provider contradicts itself are left out.
    """
    if shop.well_since is None or shop.is_clock_set:
        return
    watched_for = timedelta(hours=conf.late_watch_hours) - _LEEWAY
    odd = shop.provider.understated
    for order, theirs in _pairs(shop):
        is_watched = theirs.id in shop.provider.account.orders.keys() - odd.keys()
        if order.status in FINAL or not is_watched:
            continue
        watched_until = theirs.created_at + watched_for
        is_in_time = theirs.settle_at is not None and theirs.settle_at < watched_until
        if is_in_time and shop.well_since + _LEEWAY < watched_until:
            yield f"{order} is {order.status}, and was {theirs.status} while it was watched"


def whatever_needs_a_person_is_told(shop: Shop) -> Iterator[str]:
    """Each order and message that needs a person is covered by a condition.

    Digests and monitors report these conditions.
    """
    standing = Standing()
    found = {code: each.judge(standing) for code, each in CONDITIONS.items()}
    told = found["attention"].orders if found["attention"] else {}
    for order in Order.objects.filter(needs_attention=True).exclude(pk__in=told):
        yield f"{order} needs somebody, and no condition says so"
    if Delivery.objects.all().untold().exists() and not found["messages_failed"]:
        yield "a message was given up, and no condition says so"


def each_customer_is_told(shop: Shop) -> Iterator[str]:
    """No message is still waiting, and there was a message about each settled order.

    An order by rule needs no message if it brought no card and a further order follows it.
    """
    if waiting := Delivery.objects.filter(status__in=OPEN):
        yield f"{waiting.count()} messages wait"
    told = set(Delivery.objects.exclude(kind=Kind.DELAYED).values_list("order", flat=True))
    for order in Order.objects.filter(status__in=SETTLED).exclude(pk__in=told):
        is_news = order.send_before is None or order.reordered_amount is None
        if order.customer_email and (is_news or order.fulfilled_quantity):
            yield f"the customer of {order} got no message"


def who_is_kept_waiting_is_told_once(shop: Shop) -> Iterator[str]:
    """If an order waits or waited for long, its customer was asked once to wait."""
    asked = Counter(Delivery.objects.filter(kind=Kind.DELAYED).values_list("order", flat=True))
    for order in Order.objects.all():
        noted = [each for each in order.changes.all() if not each.is_move]
        if len(noted) != (order.kept_waiting_at is not None):
            yield f"it was noted {len(noted)} times that the customer of {order} was kept waiting"
        waits = order.status in UNSERVED and order.send_before is None
        if waits and order.kept_waiting_at is None and not shop.is_clock_set:
            yield f"{order} is {order.status}, and nobody has noted that its customer waits"
        is_certain = waits and order.customer_email and not order.customer_changes.exists()
        if is_certain and order.kept_waiting_at and not asked[order.pk]:
            yield f"the customer of {order} was not asked to wait"
        # After a correction, the message goes to the new address, too.
        if asked[order.pk] > 1 + order.customer_changes.count():
            yield f"the customer of {order} was asked to wait {asked[order.pk]} times"


def cards_of_gifts_go_to_their_recipients(shop: Shop) -> Iterator[str]:
    """Links to the cards of a gift are mailed only to recipients."""
    gifts = {*shop.gifts, *(order.reference for order in Order.objects.all() if order.is_gift)}
    for mail in shop.mails:
        text, (address, *_others) = str(mail.body), mail.to
        if TOKEN.search(text) and not address.startswith("r"):
            for name in gifts:
                if f"\u2068{name}\u2069" in text:
                    yield f"{address} was sent the cards of the gift {name}"


def no_gift_is_destroyed_before_its_delivery(shop: Shop) -> Iterator[str]:
    """The codes of a gift are not destroyed before its delivery time.

    If the app sends gifts, a message or a page must have delivered the cards before.
    """
    gone = Order.objects.exclude(codes_destroyed_at=None).filter(fulfilled_quantity__gt=0)
    for order in gone:
        messages = order.deliveries.filter(kind=Kind.GIFT)
        messages = messages.exclude(status=DeliveryStatus.CANCELLED)
        before = order.codes_destroyed_at
        if order.deliver_at and before and before < order.deliver_at and not shop.is_clock_set:
            yield f"the codes of {order} were destroyed at {before}, before {order.deliver_at}"
        was_sent = messages.filter(status=DeliveryStatus.SENT, sent_at__lte=before).exists()
        was_seen = LinkVisit.objects.filter(link__order=order, at__lte=before).exists()
        if messages.exists() and not (was_sent or was_seen):
            yield f"the codes of the gift {order} were destroyed, and nobody had got them"


def what_counts_as_told_is_in_a_digest(shop: Shop) -> Iterator[str]:
    """The last digest names each order that counts as told.

    Orders that still lack cards must count as told. If a process stops between its decision and its
    COMMIT, its order may be left out, because the digest may not wait for it.
    """
    digest = StaffDigest.objects.get(address=STAFF)
    mails = [str(mail.body) for mail in shop.mails if mail.to == [STAFF]]
    if digest.told and not mails:
        yield "staff count as told, and got no digest"
    about_orders = [code for code in digest.told if CONDITIONS[code].is_about_orders]
    told = {key for code in about_orders for key in digest.told[code]}
    if mails:
        words = set(re.findall(r"[\w-]+", mails[-1]))
        references = set(Order.objects.values_list("reference", flat=True))
        # A digest may leave out orders only if it names as many as it may.
        if len(named := references & words) < _NAMED:
            for order in Order.objects.filter(pk__in=told).exclude(reference__in=named):
                yield f"the last digest does not name {order}, which is {order.status}"
    finding = CONDITIONS["cards_missing"].judge(Standing())
    if finding and not (shop.is_clock_set or "halt" in shop.simulation.happened):
        # A cancelled refund does not make the order news again.
        lacking = Order.objects.filter(pk__in=finding.orders, refunds=None)
        known = lacking.filter(finalized_at__lte=digest.covers_until)
        for order in known.exclude(pk__in=told):
            yield f"staff were not told of {order}, which is {order.status}"


def what_is_marked_as_sent_was_sent(shop: Shop) -> Iterator[str]:
    """The mail server got each message that is marked as sent, at the same address."""
    got = Counter(address for mail in shop.mails for address in mail.to)
    # A message without an address belongs to an erased customer.
    sent = Delivery.objects.filter(status=DeliveryStatus.SENT).exclude(address="")
    missing = Counter(sent.values_list("address", flat=True)) - got
    if missing:
        yield f"{missing.total()} messages are marked as sent, and nobody got them"


def no_secret_is_outside_its_place(shop: Shop) -> Iterator[str]:
    """Codes, serials and keys are in no row, log or mail, and on no page before a reveal.

    The token of a link is in no row and no log.
    """
    codes = [
        text
        for order in shop.provider.orders.values()
        for card in order.cards
        for text in (card.value, card.serial)
    ]
    tokens = {token for mail in shop.mails for token in TOKEN.findall(str(mail.body))}
    for name, texts, secrets in (
        ("the database", {value for value in raw_database() if len(value) > _SHORT}, tokens),
        ("a log or an output", shop.logged, tokens),
        ("a page", shop.pages, set()),
        ("a mail", [str(mail.message()) for mail in shop.mails], set()),
    ):
        searched = re.compile("|".join(map(re.escape, {*codes, *shop.keys, *secrets})).encode())
        # Packed secrets are found, too.
        if found := {secret for text in texts for secret in traces(text, searched)}:
            yield f"{len(found)} secrets are in {name}"


INVARIANTS: tuple[Invariant, ...] = (
    bought_once_or_never,
    what_was_bought_twice_is_told,
    every_paid_card_is_stored_and_opens,
    disputed_codes_are_kept,
    sums_are_equal_on_both_sides,
    cards_beyond_the_figures_are_told,
    stored_figures_are_those_of_the_order,
    no_more_cards_are_held_than_are_left,
    the_shelf_has_what_nobody_else_gets,
    each_price_follows_from_its_cost,
    nothing_hidden_is_offered,
    orders_are_sent_in_sequence,
    a_month_is_the_sum_of_its_orders,
    never_paid_back_above_what_is_owed,
    never_paid_back_and_ordered_again,
    missing_cards_are_ordered_again_for_what_was_paid,
    no_chain_brings_more_cards_than_were_ordered,
    no_rule_orders_more_often_than_it_may,
    what_the_rule_objects_to_is_approved_before_it_is_bought,
    no_card_is_bought_above_its_ceiling,
    the_limit_of_requests_is_kept,
    no_order_is_wanted_checked_more_often_than_it_may,
    each_change_is_announced_in_order,
    statuses_follow_one_way,
    a_cancelled_order_is_never_sent,
    nothing_is_open_that_nobody_looks_at,
    what_settles_while_it_is_watched_is_settled,
    whatever_needs_a_person_is_told,
    each_customer_is_told,
    who_is_kept_waiting_is_told_once,
    cards_of_gifts_go_to_their_recipients,
    no_gift_is_destroyed_before_its_delivery,
    what_counts_as_told_is_in_a_digest,
    what_is_marked_as_sent_was_sent,
    no_secret_is_outside_its_place,
)


def violations(shop: Shop) -> list[str]:
    """Return a line for each violation of the :data:`INVARIANTS`."""
    return [
        f"{invariant.__name__}: {violation}"
        for invariant in INVARIANTS
        for violation in invariant(shop)
    ]


def _pairs(shop: Shop) -> Iterator[tuple[Order, Bought]]:
    """Yield each order with its counterpart at the provider."""
    for order in Order.objects.exclude(provider_order_id=None):
        theirs = shop.provider.find(order.provider_order_id)
        if theirs is not None and not _has_wrong_id(order, theirs):
            yield order, theirs


def _told_as_repeated(shop: Shop, order: Order) -> set[str]:
    """Return the order's further purchases that staff are, or were, told about.

    If an earlier attempt of a rejected order was a purchase after all, the order has no purchase of
    its own.
    """
    problems = [Problem.of(entry) for entry in order.problems]
    names = [
        str(problem.parameters["provider_order_id"])
        for problem in problems
        if problem.code in {"bought_twice", "accepted_after_all"}
    ]
    return {known.id for name in names if (known := shop.provider.find(name))}


def _first_claims() -> dict[int, datetime]:
    """Return the time of each order's first claim for sending, by the order's primary key."""
    claims = StatusChange.objects.filter(to_status=Status.PLACING).order_by("-pk")
    return dict(claims.values_list("order", "at"))


def _chain(order: Order) -> Iterator[Order]:
    """Yield the order, then the order that repeats it, and so on."""
    following: Order | None = order
    while following is not None:
        yield following
        following = Order.objects.filter(repeats=following.pk).first()


def _is_told(order: Order) -> bool:
    """Return whether staff are told about a problem of the order, or have acknowledged one."""
    return order.needs_attention or order.acknowledgements.exists()


def _is_told_of_cards(order: Order) -> bool:
    """Return whether staff are, or were, told that the cards may differ from the first answer."""
    codes = {"late_cards", "surplus_cards", "accepted_after_all", "contradicted"}
    return not codes.isdisjoint(_told_codes(order))


def _told_codes(order: Order) -> set[str]:
    """Return the codes of the problems that staff are told about, or have acknowledged."""
    codes = {problem.code for problem in order.open_problems}
    return codes | set(order.acknowledgements.values_list("code", flat=True))


def _has_wrong_id(order: Order, theirs: Bought | None) -> bool:
    """Return whether staff are told that the order's id is wrong.

    The id may be that of another order, or unknown to the provider. An order can also settle with
    the id of another order: a final answer shows the quantity, but neither product nor type.
    """
    codes = {problem.code for problem in order.open_problems}
    if order.status not in FINAL:
        return not codes.isdisjoint({"answer_of_other", "not_known"})
    is_alike = theirs is not None and theirs.quantity == order.quantity
    return is_alike and theirs.type != order.type_id and "line_differs" in _told_codes(order)
