"""The timeline of an order.

The timeline shows what happened, when it happened and who did it. The oldest events come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from django.contrib.admin.utils import label_for_field
from django.template.defaultfilters import linebreaksbr
from django.utils.html import escape
from django.utils.translation import gettext, gettext_lazy

from giftcards.admin.frame.pages import log_entries
from giftcards.admin.frame.rows import for_developer
from giftcards.models import (
    Acknowledgement,
    CardReveal,
    CustomerChange,
    CustomerRefund,
    Note,
    Order,
    StatusChange,
)
from giftcards.models.orders import CORRECTABLE
from giftcards.rules.problems import Problem
from giftcards.rules.states import STATES, Kind
from giftcards.text.display import (
    bdi,
    exact_moment,
    explained,
    filled,
    lines,
    moment,
    money,
    payment,
    status_badge,
)


@dataclass(frozen=True, slots=True)
class Event:
    """An event in the history of an order.

    The texts are HTML.
    """

    at: datetime
    text: str
    # The badge of the order's new status, or "" if the status did not change.
    badge: str = ""
    details: Sequence[str] = ()
    warning: str = ""

    @property
    def moment(self) -> str:
        return exact_moment(self.at)


@dataclass(frozen=True, slots=True)
class RelatedOrder:
    order: Order
    # The link to the order, as HTML.
    link: str

    @property
    def badge(self) -> str:
        return status_badge(self.order.status)


class Timeline:
    """The history of an order, with its events and the reason for its status.

    If ``shows_reasons`` is True, the events include the reasons for revealing codes. ``repeats`` is
    the earlier order whose missing cards this order replaces. ``reordered_as`` is the later order
    that replaces missing cards of this order. Each of these two arguments is ``None`` if there is
    no such order, or if the person is not allowed to see the order.
    """

    def __init__(
        self,
        order: Order,
        *,
        shows_costs: bool,
        shows_hints: bool = False,
        shows_reasons: bool = False,
        repeats: RelatedOrder | None,
        reordered_as: RelatedOrder | None,
    ) -> None:
        self._order = order
        self._shows_costs, self._shows_hints = shows_costs, shows_hints
        self._shows_reasons = shows_reasons
        self._repeats, self._repeated_by = repeats, reordered_as
        self._moves = [_read(change, shows_costs=shows_costs) for change in order.changes.all()]
        self._recorded = list(order.acknowledgements.all())
        #: The refunds to the customer, oldest first.
        self.refunds = list(order.refunds.order_by("pk"))
        self._first_entry = log_entries(order).select_related("user").order_by("pk").first()

    @property
    def has_history(self) -> bool:
        """True if the admin's log has an entry about the order."""
        return self._first_entry is not None

    @property
    def reason(self) -> Problem | None:
        """The recorded reason for the last status change or decision, or ``None``."""
        moves = [(move.change.at, move.reason) for move in self._moves if move.change.is_move]
        # Decisions about a final order are left out, because they were made after the status
        # change, and cannot have caused it.
        recorded = () if self._order.is_final else self._recorded
        decisions = [
            (decision.at, Problem(decision.code, decision.parameters)) for decision in recorded
        ]
        moves += [(at, problem) for at, problem in decisions if problem.kind is Kind.HISTORY]
        return max(moves, key=itemgetter(0))[1] if moves else None

    @property
    def events(self) -> list[Event]:
        first = _recorded(self._order, by=self._placed_by, repeats=self._repeats)
        return [first, *sorted(self._later(), key=attrgetter("at"))]

    @property
    def _placed_by(self) -> str:
        """The name of the person who placed the order by hand.

        The name is "" if the shop's code placed the order.
        """
        entry = self._first_entry
        return entry.user.get_username() if entry and entry.is_addition() else ""

    def _later(self) -> Iterator[Event]:
        order, shows_costs = self._order, self._shows_costs
        for move in self._moves:
            yield _moved(order, move, shows_hints=self._shows_hints)
        for decision in self._recorded:
            if self._hides(decision):
                yield Event(decision.at, _told(_REORDERED, decision.by))
            else:
                yield _acknowledged(decision, shows_costs)
        if self._repeated_by and not self._is_told(self._repeated_by.order):
            yield _repeated(self._repeated_by)
        for refund in self.refunds:
            yield from _refunded(refund)
        for note in order.notes.all():
            yield _noted(note)
        after: CustomerChange | Order = order
        # A correction records the details before the correction. The details after the correction
        # are in the next correction, or in the order.
        for correction in order.customer_changes.order_by("-pk"):
            yield _corrected(correction, after)
            after = correction
        reveals = CardReveal.objects.filter(card__order=order).select_related("card", "user")
        for reveal in reveals.defer("card__sealed").order_by("pk"):
            yield _revealed(reveal, shows_reason=self._shows_reasons)

    def _hides(self, decision: Acknowledgement) -> bool:
        """Return True if ``decision`` names an order that the person may not see."""
        if decision.code not in {"staff_reordered", "reordered_by_rule"}:
            return False
        seen = self._repeated_by and self._repeated_by.order.reference
        return bool(decision.parameters.get("order") != seen)

    def _is_told(self, other: Order) -> bool:
        """Return True if a recorded decision already names the other order."""
        return any(
            decision.parameters.get("order") == other.reference for decision in self._recorded
        )


def _recorded(order: Order, *, by: str, repeats: RelatedOrder | None) -> Event:
    text: str = gettext("The order was recorded.")
    if by:
        text = filled(gettext("%(by)s placed the order."), by=bdi(by))
    details = []
    if repeats:
        what = gettext("This order replaces missing cards of %(order)s.")
        details.append(filled(what, order=repeats.link))
    return Event(order.created_at, text, details=details)


def _repeated(other: RelatedOrder) -> Event:
    text = gettext("The missing cards were ordered again: %(order)s.")
    return Event(other.order.created_at, filled(text, order=other.link))


class _Move(NamedTuple):
    """A status change, and the text and hints that describe it, as HTML.

    ``text`` describes the ``reason``, or is "" if there is no reason. ``hints`` contains messages
    for developers, which are the provider's message and the error that occurred when the shop was
    notified.
    """

    change: StatusChange
    reason: Problem | None
    text: str
    details: list[str]
    hints: list[str]


def _read(change: StatusChange, *, shows_costs: bool) -> _Move:
    reason, text = None, ""
    details: list[str] = []
    hints: list[str] = []
    for entry in change.details:
        problem = Problem.of(entry)
        told = explained(problem, shows_costs=shows_costs)
        hints.append(told.hint)
        if "ended" in entry:
            details.append(filled(gettext("Resolved: %(problem)s"), problem=told.text))
        elif reason is None and problem.kind is Kind.HISTORY:
            reason, text = problem, told.text
        else:
            details.append(told.text)
    hints.append(change.announce_error)
    return _Move(change, reason, text, details, [*filter(None, hints)])


def _moved(order: Order, move: _Move, *, shows_hints: bool) -> Event:
    change = move.change
    if not change.is_move:
        text = gettext(
            "The customer had to wait because the provider had not accepted the order yet."
        )
        return Event(change.at, text, warning=_trouble(change))
    text = move.text or _move_in_words(order, change)
    details = [*move.details, *(map(for_developer, move.hints) if shows_hints else ())]
    return Event(change.at, text, status_badge(change.to_status), details, _trouble(change))


# These texts are for people who may not see the new order. The first text names the person who
# placed it.
_REORDERED = (
    gettext_lazy("%(by)s ordered the missing cards again."),
    gettext_lazy("The missing cards were ordered again."),
)


def _acknowledged(decision: Acknowledgement, shows_costs: bool) -> Event:
    problem = Problem(decision.code, decision.parameters)
    text = explained(problem, shows_costs=shows_costs).text
    if problem.kind is Kind.HISTORY:
        return Event(decision.at, text)
    what = filled(gettext("%(by)s acknowledged a problem:"), by=bdi(decision.by))
    return Event(decision.at, what, details=[text])


def _noted(note: Note) -> Event:
    what = filled(gettext("%(by)s wrote a note:"), by=bdi(note.by))
    return Event(note.at, what, details=[lines(note.text)])


# The texts with and without the name of a person.
_CORRECTED = (
    gettext_lazy("%(by)s corrected the customer's details."),
    gettext_lazy("The customer's details were corrected."),
)


def _corrected(change: CustomerChange, after: CustomerChange | Order) -> Event:
    """Return the event of a correction.

    The event contains the details from before the correction, because messages may have been sent
    to the former address.
    """
    text = _told(_CORRECTED, change.by)
    details = [
        filled(
            gettext("%(detail)s before the change: %(value)s"),
            detail=label_for_field(name, CustomerChange),
            value=_earlier(getattr(change, name)),
        )
        for name in CORRECTABLE
        if getattr(change, name) != getattr(after, name)
    ]
    if change.reason:
        details.append(bdi(change.reason))
    return Event(change.at, text, details=details)


def _earlier(value: str | datetime | None) -> str:
    if not value:
        return gettext("none")
    if isinstance(value, datetime):
        return moment(value)
    return bdi(linebreaksbr(value))


_PAID = (
    gettext_lazy("%(by)s recorded a refund of %(amount)s to the customer."),
    gettext_lazy("A refund of %(amount)s to the customer was recorded."),
)
_TAKEN_BACK = (
    gettext_lazy("%(by)s cancelled a refund of %(amount)s. The amount is owed again."),
    gettext_lazy("A refund of %(amount)s was cancelled. The amount is owed again."),
)


def _refunded(refund: CustomerRefund) -> Iterator[Event]:
    source = "" if refund.created_by else refund.get_source_display()
    said = [
        text
        for text in (payment(refund.method, refund.reference), bdi(refund.comment), source)
        if text
    ]
    amount = money(refund.amount)
    text = _told(_PAID, refund.created_by, amount=amount)
    yield Event(refund.executed_at, text, details=said)
    if refund.cancelled_at:
        text = _told(_TAKEN_BACK, refund.cancelled_by, amount=amount)
        why = [bdi(refund.cancel_reason)] if refund.cancel_reason else []
        yield Event(refund.cancelled_at, text, details=why)


def _told(texts: tuple[Any, Any], by: str, **parts: str) -> str:
    named, unnamed = texts
    return filled(str(named if by else unnamed), by=bdi(by), **parts)


def _revealed(reveal: CardReveal, *, shows_reason: bool) -> Event:
    text = gettext("%(by)s revealed the code of card %(card)s.")
    what = filled(text, by=bdi(reveal.user.get_username()), card=reveal.card.position)
    reason = reveal.reason if shows_reason else ""
    return Event(reveal.at, what, details=[bdi(reason)] if reason else [])


def _move_in_words(order: Order, change: StatusChange) -> str:
    counts = {"delivered": order.fulfilled_quantity, "count": order.quantity}
    return escape(STATES[change.to_status].moved % counts)


def _trouble(change: StatusChange) -> str:
    if not change.announce_error:
        return ""
    if change.announce_at:
        return gettext("The shop could not be notified. The app will try again.")
    return gettext("The app could not notify the shop within a day and will not try again.")
