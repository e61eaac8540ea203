"""Conditions, which are reported by monitors, commands, pages and digests.

Conditions are evaluated using only the database, with queries that use an index. Apps declare their
conditions in their plugins. The conditions of the core are in
:mod:`giftcards.watch.core_conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Self, TypeVar

from django.db.models import Exists, QuerySet
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.models import Order, ProviderState
from giftcards.models.order_queries import leaves_some_out

T = TypeVar("T")

#: The maximum count of rows. Rows beyond this number are not counted.
MOST = 1_000
# A condition that staff cannot acknowledge, such as a locked link, holds for this long.
_LATELY = timedelta(days=1)
# The longest time for which such conditions hold after an outage; see ``Standing.since``.
_LONGEST = timedelta(days=30)


class Severity(StrEnum):
    #: Something does not work until somebody takes action.
    URGENT = "urgent"
    #: Staff or a developer should take action.
    WARNING = "warning"
    #: Good to know.
    NOTE = "note"


class Standing:
    """The state of the app at one moment, from which conditions are evaluated.

    Each value is read at most once. If ``since`` is more than a day ago, conditions about the last
    day cover the time from ``since`` instead. The period then begins at ``since``, but at most 30
    days ago.
    """

    def __init__(self, *, leaves_out_problems: bool = False, since: datetime | None = None) -> None:
        self.now = timezone.now()
        #: The beginning of the last day. If ``since`` is earlier, the value is ``since``, but at
        #: most 30 days ago.
        self.lately = min(self.now - _LATELY, max(since or self.now, self.now - _LONGEST))
        #: True if a tile of the start page shows the orders with problems, so that no other tile
        #: counts them.
        self.leaves_out_problems = leaves_out_problems
        self._read: dict[Callable[[], Any], Any] = {}

    @cached_property
    def state(self) -> ProviderState:
        return ProviderState.objects.current()

    @cached_property
    def is_refused(self) -> bool:
        return self.state.paused_because == ProviderState.Pause.ACCESS

    def once(self, read: Callable[[], T]) -> T:
        """Return the result of a function that is called only the first time."""
        if read not in self._read:
            self._read[read] = read()
        result: T = self._read[read]
        return result

    def keep(self, read: Callable[[], T], result: T) -> None:
        """Store a result that :meth:`once` returns instead of calling ``read``."""
        self._read[read] = result


@dataclass(frozen=True, slots=True)
class Finding:
    """The details of a condition that holds.

    - ``sentence`` is a description for monitors, in English and without secrets.
    - ``count`` is the number of orders or other rows, at most :data:`MOST`. ``has_more`` is True if
      there are more rows.
    - ``since`` is the time when the condition began, if this is known.
    - ``orders`` maps primary keys of orders to their references.
    - ``rows`` contains the primary keys of rows that are not orders. It is empty unless staff are
      notified once about each row.
    - ``explain`` is a function that returns details in the language of staff, or "".
    - ``allows_sales`` is True if cards can be bought although this kind of condition usually stops
      sales.
    """

    sentence: str
    count: int = 1
    has_more: bool = False
    since: datetime | None = None
    orders: Mapping[int, str] = field(default_factory=dict)
    rows: Sequence[int] = ()
    explain: Callable[[], str] = field(default=str, repr=False, compare=False)
    allows_sales: bool = False
    #: The page that lists the rows, and its query string. If they are "", the page and the query
    #: string of the condition apply.
    page: str = ""
    query: str = ""

    @classmethod
    def of_rows(cls, number: int, *, singular: str, plural: str, **more: Any) -> Self | None:
        """Return a finding about rows, or ``None`` if there are no rows.

        ``number`` is the number of rows, but at most ``MOST + 1``. ``singular`` is the sentence for
        a single row. ``plural`` is the sentence for several rows, with ``%s`` for the count.
        ``more`` contains other fields of the finding.
        """
        if not number:
            return None
        count, has_more = min(number, MOST), number > MOST
        sentence = singular if number == 1 else plural % (f"{count} or more" if has_more else count)
        return cls(sentence, count, has_more, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition that holds while its ``judge`` returns a finding.

    - ``holds`` is a description for the documentation, in whole sentences.
    - ``headline`` is a phrase that can contain ``%(count)s``. A condition without a headline is
      only for monitors.
    - ``ended`` is the message that tells staff that the condition no longer holds. If a condition
      does not have this message, staff are notified once about each order or other row that the
      condition is about.
    """

    code: str
    severity: Severity
    #: The permission that a person needs to get the news, such as `giftcards.check_order`.
    permission: str
    headline: Any = ""
    remedy: Any = ""
    #: The permissions that the remedy requires. People who lack one of them are told whom to ask
    #: instead.
    takes: tuple[str, ...] = ()
    #: True if the finding counts orders or messages about them, or adds up their amounts.
    is_about_orders: bool = False
    #: The name of the admin's page that lists the counted rows, and the query string of the list.
    page: str = ""
    query: str = ""
    holds: str
    judge: Callable[[Standing], Finding | None]
    ended: Any = ""
    #: ``is_in_digests`` is True if digests include the condition, and ``is_on_start_page`` is True
    #: if the start page does. If two conditions are about the same rows, each of these places
    #: includes only one of them.
    is_in_digests: bool = True
    is_on_start_page: bool = True
    #: True if the condition may be about orders with problems; see
    #: ``Standing.leaves_out_problems``.
    overlaps_problems: bool = False
    #: True if no card can be bought, or handed over, while the condition holds.
    stops_sales: bool = False
    #: True if cards can still be bought while the condition holds, but not for long.
    limits_sales: bool = False
    #: True if the start page shows the condition beside the figures, because it is about products.
    is_about_shelf: bool = False
    #: True if staff see ``Finding.explain`` above the list of orders.
    is_above_list: bool = False

    def visible_part(self, finding: Finding, visible: QuerySet[Order]) -> Finding | None:
        """Return the part of ``finding`` about visible orders, or ``None``.

        ``visible`` contains the orders that a person is allowed to see. The finding is returned
        unchanged if the condition is not about orders, or if the queryset ``visible`` does not have
        a filter.
        """
        if not (self.is_about_orders and leaves_some_out(visible)):
            return finding
        shown = visible.filter(pk__in=finding.orders).order_by()
        keys = dict(shown.values_list("pk", "reference"))
        # The sentence is left out, because it may name a sum over all orders.
        return Finding("", len(keys), orders=keys) if keys else None

    def in_words(self, count: int, *, has_more: bool = False) -> str:
        """Return the headline with its count, such as "2 delayed orders"."""
        text = str(self.headline % {"count": count})
        return gettext("%(what)s (at least)") % {"what": text} if has_more else text

    def find(self, standing: Standing, visible: QuerySet[Order]) -> Finding | None:
        """Return the finding for a person who may see only ``visible`` orders."""
        finding = self.judge(standing)
        return finding and self.visible_part(finding, visible)

    def sentence(self, standing: Standing) -> str:
        """Return the sentence for monitors, or "" if the condition does not hold."""
        finding = self.judge(standing)
        return finding.sentence if finding else ""


@dataclass(frozen=True, slots=True)
class OfRows:
    """A ``judge`` that looks for rows in several querysets.

    The function ``rows`` returns the querysets, which are passed to the function ``tell``. If all
    querysets are empty, the condition does not hold, so ``tell`` must return ``None``. If
    ``is_enough`` is False, ``tell`` can return ``None`` even if a queryset contains rows.
    """

    rows: Callable[[Standing], Sequence[QuerySet[Any]]]
    tell: Callable[..., Finding | None]
    is_enough: bool = True

    def __call__(self, standing: Standing) -> Finding | None:
        return self.tell(*self.rows(standing))


#: The conditions of the core and of other installed plugins, by code.
CONDITIONS: dict[str, Condition] = {}


def most_urgent_first(conditions: Iterable[Condition]) -> list[Condition]:
    """Sort ``conditions`` by severity."""
    rank = list(Severity)
    return sorted(conditions, key=lambda condition: rank.index(condition.severity))


def signs(standing: Standing) -> dict[tuple[str, int], Exists]:
    """Return expressions that check each queryset of a condition for rows.

    There is one expression for each queryset of an :class:`OfRows` condition. Its key consists of
    the condition's code and the index of the queryset.
    """
    return {
        (code, number): Exists(rows)
        for code, condition in CONDITIONS.items()
        if isinstance(condition.judge, OfRows)
        for number, rows in enumerate(condition.judge.rows(standing))
    }


def which_hold(standing: Standing, values: Mapping[tuple[str, int], bool]) -> dict[str, bool]:
    """Map the code of each condition to whether the condition holds.

    ``values`` maps the keys of :func:`signs` to the values of its expressions.
    """
    with_rows = {code for (code, _number), is_there in values.items() if is_there}

    def holds(code: str, condition: Condition) -> bool:
        judge = condition.judge
        if isinstance(judge, OfRows) and (judge.is_enough or code not in with_rows):
            return code in with_rows
        return judge(standing) is not None

    return {code: holds(code, condition) for code, condition in CONDITIONS.items()}


def above_list(
    has_permission: Callable[[str], bool], standing: Standing, visible: QuerySet[Order]
) -> Iterator[tuple[Condition, Finding]]:
    """Yield the conditions that a person sees above the order list.

    The function yields only conditions that hold, each with its finding. ``has_permission`` is a
    function that takes a permission and returns True if the person has it. ``visible`` contains the
    orders that the person is allowed to see.
    """
    for condition in CONDITIONS.values():
        is_shown = condition.is_above_list and has_permission(condition.permission)
        if is_shown and (finding := condition.find(standing, visible)):
            yield condition, finding
