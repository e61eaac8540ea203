"""The sentences at the top of an order's page.

The sentences say what happened, what happens next, and what prevents the next step.
:func:`summarise` does not query the database, but :func:`why_at_a_standstill` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, gettext_lazy, ngettext

from giftcards.engine.approvals import on_hold_objection, on_hold_price
from giftcards.models import ApiKey, Order, ProviderState
from giftcards.models.provider import configured_key
from giftcards.rules.money import (
    CustomerBreakdown,
    RefundBreakdown,
    customer_breakdown,
    refund_breakdown,
)
from giftcards.rules.problems import Problem
from giftcards.rules.states import FOLLOWED, STATES, Status
from giftcards.settlement import is_past, promised_day
from giftcards.text.display import (
    bdi,
    day_text,
    duration_text,
    explained,
    filled,
    moment,
    money,
    when,
    worked_out,
)


@dataclass(frozen=True, slots=True)
class SummaryInput:
    """The input of :func:`summarise`.

    Each string is HTML, or "" if it does not apply. ``reason`` explains the current status.
    ``was_reordered`` is True if the missing cards were ordered again. ``reordered_as`` names the
    new order, if the person is allowed to see the new order. ``standstill`` says why automatic work
    has stopped. ``not_received`` says that the cards did not reach their recipient.
    """

    order: Order
    shows_costs: bool
    reason: Problem | None = None
    was_reordered: bool = False
    reordered_as: str = ""
    standstill: str = ""
    not_received: str = ""


def summarise(story: SummaryInput) -> SafeString:
    """Return sentences about what has happened to the order and what is next.

    The sentences are HTML.
    """
    sentences = [story.not_received, *_what_happened(story), *_what_is_next(story)]
    return format_html_join(" ", "{}", ((sentence,) for sentence in filter(None, sentences)))


def _what_happened(story: SummaryInput) -> Iterator[str]:
    status, breakdown = story.order.status, refund_breakdown(story.order)
    if breakdown is not None:
        yield from _settled(story, breakdown)
    elif status in FOLLOWED:
        yield from _followed(story.order)
    elif status == Status.PENDING and story.order.is_on_hold:
        yield from _on_hold(story.order, shows_costs=story.shows_costs)
    elif status == Status.PENDING:
        yield _pending(story)
    elif status == Status.PLACING:
        yield gettext("The order is being sent to the provider now.")
    elif status == Status.UNCONFIRMED:
        yield _unconfirmed(story.order)
    else:
        yield _reason(story, otherwise=gettext("The order was rejected. Nothing was bought."))


def _what_is_next(story: SummaryInput) -> Iterator[str]:
    order = story.order
    yield from _next_look(story)
    yield from _waited(order)
    yield from _paid(order)
    if order.deliver_at and order.is_put_off:
        yield filled(
            gettext("The order is a gift that will be delivered on %(at)s."),
            at=moment(order.deliver_at),
        )
    if story.was_reordered:
        yield from _repeated(story)
    else:
        yield from _owed(order)
    # The sentences about an order on hold already describe its problem.
    problems = 0 if order.is_on_hold else len(order.open_problems)
    if problems:
        text = ngettext(
            "%(count)s problem needs attention: see below.",
            "%(count)s problems need attention: see below.",
            problems,
        )
        yield filled(text, count=problems)


def _pending(story: SummaryInput) -> str:
    if story.order.open_problems:
        # An open problem, further down on the page, says why the order could not be sent.
        return gettext("Nothing has been bought yet.")
    return _reason(story, otherwise=gettext("The order is recorded. Nothing has been bought yet."))


def _on_hold(order: Order, *, shows_costs: bool) -> Iterator[str]:
    if order.is_waiting and order.send_after:
        text = gettext("The order will be sent automatically on %(at)s.")
        yield filled(text, at=moment(order.send_after))
        return
    objection, price, ceiling = on_hold_objection(order), on_hold_price(order), order.price_ceiling
    if objection is not None:
        text = gettext("The order is on hold until somebody reviews it. Reason: “%(objection)s”.")
        yield filled(text, objection=bdi(objection))
        yield gettext("The cards will be bought only if somebody approves the order.")
        return
    if not shows_costs or price is None or ceiling is None:
        yield gettext("The order is on hold because a card costs more than your limit.")
    else:
        text = gettext(
            "The order is on hold because a card costs %(price)s, and your limit is %(ceiling)s."
        )
        yield filled(text, price=money(price), ceiling=money(ceiling))
    yield gettext(
        "The cards will be bought only if somebody approves the price, or if the price falls to the"
        " limit or below it."
    )


def _unconfirmed(order: Order) -> str:
    if order.open_problems:
        # An open problem, further down on the page, says why this is not known.
        return gettext("It is not yet known whether the cards were bought.")
    return gettext("The order was sent, but it is not known whether the cards were bought.")


def _reason(story: SummaryInput, *, otherwise: str) -> str:
    if story.reason is None:
        return otherwise
    return explained(story.reason, shows_costs=story.shows_costs).text


def _followed(order: Order) -> Iterator[str]:
    accepted_at = moment(order.accepted_at) if order.accepted_at else gettext("unknown")
    if order.status == Status.HANDLING:
        text = ngettext(
            "The provider accepted the order on %(at)s. The card will arrive automatically, usually"
            " within a minute.",
            "The provider accepted the order on %(at)s. The cards will arrive automatically,"
            " usually within a minute.",
            order.quantity,
        )
    else:
        text = gettext(
            "The provider accepted the order on %(at)s and is taking longer than usual. Ask the"
            " customer to wait."
        )
    yield filled(text, at=accepted_at)
    if order.fulfilled_quantity:
        text = ngettext(
            "%(arrived)s of %(count)s card has arrived so far.",
            "%(arrived)s of %(count)s cards have arrived so far.",
            order.quantity,
        )
        yield filled(text, arrived=order.fulfilled_quantity, count=order.quantity)


# The waiting time of a customer is not shown before this time has passed.
_SHORTEST_WAIT = timedelta(minutes=1)
# A moment that is less than this far in the future is shown as "in a moment".
_SOON = timedelta(minutes=1)
_AGAIN = gettext_lazy("The app will try again automatically %(when)s.")


def _next_look(story: SummaryInput) -> Iterator[str]:
    """Yield a sentence about the next automatic step, or why there is none."""
    order = story.order
    step = STATES[order.status].next_step
    if order.is_on_hold or not step:
        return
    if order.due_at is None or order.candidates:
        yield from _up_to_a_person(order)
    elif story.standstill:
        yield story.standstill
    else:
        is_soon = order.due_at < timezone.now() + _SOON
        at = gettext("in a moment") if is_soon else when(order.due_at)
        is_again = order.status == Status.PENDING and order.open_problems
        yield filled(str(_AGAIN if is_again else step), when=at)


def _up_to_a_person(order: Order) -> Iterator[str]:
    if order.status == Status.UNCONFIRMED:
        yield gettext("Somebody has to record what happened to the order.")
    elif not any(problem.code == "watch_ended" for problem in order.open_problems):
        yield gettext(
            "The order is no longer checked automatically. Contact the provider's support."
        )


def _waited(order: Order) -> Iterator[str]:
    waited = timezone.now() - order.created_at
    if (order.is_late or order.is_on_hold) and waited >= _SHORTEST_WAIT:
        text = gettext("The customer has been waiting for %(time)s.")
        yield filled(text, time=duration_text(waited))


def _paid(order: Order) -> Iterator[str]:
    """Yield a sentence about the payment for an open order.

    The page of a final order contains a table about the payment.
    """
    if order.sale_amount is not None and not order.is_final:
        amount = worked_out(order.quantity, order.sale_price, order.sale_amount)
        yield filled(gettext("The customer paid %(amount)s."), amount=amount)


def _settled(story: SummaryInput, breakdown: RefundBreakdown) -> Iterator[str]:
    order = story.order
    yield _brought(order) if story.not_received else _delivered(order)
    if breakdown.refunded_quantity:
        yield _credited_back(story, breakdown)
    elif story.shows_costs and breakdown.charged_amount is None:
        yield gettext("The provider did not report how much it charged.")
    elif story.shows_costs:
        text = gettext("The provider charged %(amount)s.")
        amount = worked_out(order.quantity, order.price_per_card, breakdown.charged_amount)
        yield filled(text, amount=amount)


def _delivered(order: Order) -> str:
    at = moment(order.finalized_at) if order.finalized_at else gettext("unknown")
    if order.status == Status.REFUNDED:
        return gettext("No card was delivered.")
    if order.status == Status.PARTIALLY_FILLED:
        text = ngettext(
            "%(delivered)s of %(count)s card delivered.",
            "%(delivered)s of %(count)s cards delivered.",
            order.quantity,
        )
        return filled(text, delivered=order.fulfilled_quantity, count=order.quantity)
    text = ngettext(
        "The card was delivered on %(at)s.",
        "All %(count)s cards were delivered on %(at)s.",
        order.quantity,
    )
    return filled(text, count=order.quantity, at=at)


def _brought(order: Order) -> str:
    """Return a sentence about how many cards the provider delivered.

    The sentence is used if the cards that the provider delivered did not reach their recipient.
    """
    at = moment(order.finalized_at) if order.finalized_at else gettext("unknown")
    if order.fulfilled_quantity == order.quantity:
        text = ngettext(
            "The provider delivered the card on %(at)s.",
            "The provider delivered all %(count)s cards on %(at)s.",
            order.quantity,
        )
    else:
        text = gettext("The provider delivered %(delivered)s of %(count)s cards on %(at)s.")
    return filled(text, delivered=order.fulfilled_quantity, count=order.quantity, at=at)


def _credited_back(story: SummaryInput, breakdown: RefundBreakdown) -> str:
    order, quantity, amount = story.order, breakdown.refunded_quantity, breakdown.refunded_amount
    at = moment(order.finalized_at) if order.finalized_at else gettext("unknown")
    if story.shows_costs and amount is not None:
        text = gettext("The provider credited back %(amount)s on %(at)s.")
        return filled(text, amount=worked_out(quantity, order.price_per_card, amount), at=at)
    if not story.shows_costs:
        text = ngettext(
            "The provider credited back the price of %(count)s card on %(at)s.",
            "The provider credited back the price of %(count)s cards on %(at)s.",
            quantity,
        )
    else:
        text = ngettext(
            "The provider credited back the price of %(count)s card on %(at)s. The amount is"
            " unknown.",
            "The provider credited back the price of %(count)s cards on %(at)s. The amount is"
            " unknown.",
            quantity,
        )
    return filled(text, count=quantity, at=at)


def _repeated(story: SummaryInput) -> Iterator[str]:
    if story.reordered_as:
        text = gettext("The missing cards were ordered again: %(order)s.")
        yield filled(text, order=story.reordered_as)
    else:
        yield gettext("The missing cards were ordered again.")
    breakdown = customer_breakdown(story.order)
    if breakdown is not None and breakdown.owed_amount:
        yield gettext("The customer's payment for these cards was transferred to the new order.")


def _owed(order: Order) -> Iterator[str]:
    missing = order.quantity - order.fulfilled_quantity
    if not order.is_final or not missing:
        return
    breakdown = customer_breakdown(order)
    if breakdown is None:
        yield gettext(
            "The amount owed to the customer is unknown because the order has no sale amount."
        )
    elif order.paid_back_amount:
        yield from _paid_back(breakdown)
    elif breakdown.owed_amount:
        text = gettext("The customer is owed %(amount)s.")
        amount = worked_out(missing, order.sale_price, breakdown.owed_amount)
        yield filled(text, amount=amount)
    if breakdown is None or breakdown.open_amount:
        yield from _promised(order)


def _promised(order: Order) -> Iterator[str]:
    if (day := promised_day(order)) is None:
        return
    if is_past(day):
        yield filled(
            gettext("The refund is overdue. It was due by %(day)s."), day=bdi(day_text(day))
        )
    else:
        yield filled(gettext("The refund is due by %(day)s."), day=bdi(day_text(day)))


def _paid_back(breakdown: CustomerBreakdown) -> Iterator[str]:
    if breakdown.paid_back_amount:
        text = gettext("The customer was paid back %(amount)s.")
        yield filled(text, amount=money(breakdown.paid_back_amount))
    if breakdown.open_amount:
        text = gettext("The customer is still owed %(amount)s.")
        yield filled(text, amount=money(breakdown.open_amount))


def why_at_a_standstill(order: Order) -> str:
    """Explain why automatic work on ``order`` has stopped, as HTML.

    Returns "" if the work continues. Returns "" without a query if the order is final or is waiting
    for a person.
    """
    if order.is_final or order.due_at is None or order.status == Status.PLACING:
        return ""
    now, state = timezone.now(), ProviderState.objects.current()
    if ApiKey.objects.holding_up(configured_key(), now):
        return gettext(
            "Orders are not sent or checked until the provider accepts the shop's key again."
        )
    if state.is_paused(now):
        text = gettext(
            "Requests to the provider are paused. Orders are not sent or checked until the pause"
            " ends, %(when)s at the earliest."
        )
        return filled(text, when=when(state.pause_end(now)))
    if state.worker_problem(now):
        return gettext("Orders are not sent or checked until background work runs again.")
    return ""
