"""The conditions that monitors, commands, pages and digests report.

All of them use the same list of conditions. Each condition is judged from the database alone, with
the help of an index. Each app declares its conditions in its plugin. The conditions of the core are
in :mod:`giftcards.watch.core_conditions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Self, TypeVar

from django.db.models import Exists, QuerySet
from django.utils import timezone
from django.utils.translation import gettext

from giftcards.models import Order, ProviderState
from giftcards.models.order_queries import leaves_some_out

T = TypeVar("T")

#: Upper bound of the counts of rows.
MOST = 1_000


class Severity(StrEnum):
    #: Something does not work until a person sees to it.
    URGENT = "urgent"
    #: A person has something to do.
    WARNING = "warning"
    #: Good to know.
    NOTE = "note"


class Standing:
    """The facts from which conditions are judged at one moment.

    Each fact is read when it is first needed, and only once.
    """

    def __init__(self, *, leaves_out_problems: bool = False) -> None:
        self.now = timezone.now()
        #: True for a start page that shows the tile about orders with problems. Then no other tile
        #: counts these orders.
        self.leaves_out_problems = leaves_out_problems
        self._read: dict[Callable[[], Any], Any] = {}

    @cached_property
    def state(self) -> ProviderState:
        return ProviderState.objects.current()

    @cached_property
    def is_refused(self) -> bool:
        return self.state.paused_because == ProviderState.Pause.ACCESS

    def once(self, read: Callable[[], T]) -> T:
        """The result of ``read``, which is kept after the first call."""
        if read not in self._read:
            self._read[read] = read()
        result: T = self._read[read]
        return result

    def keep(self, read: Callable[[], T], result: T) -> None:
        """Store ``result``, so that :meth:`once` returns it without calling ``read``."""
        self._read[read] = result


@dataclass(frozen=True, slots=True)
class Finding:
    """The details of a condition that holds.

    ``sentence`` is for monitors: it is in English, and contains no secrets. ``count`` is the number
    of orders, or of other rows, that the condition is about. It is at most :data:`MOST`; if there
    are more rows, ``has_more`` is True. ``since`` is the time when the condition began, if it is
    known. ``orders`` maps the primary keys of the orders to their references. ``explain`` returns
    the details for staff in their language, or "".
    """

    sentence: str
    count: int = 1
    has_more: bool = False
    since: datetime | None = None
    orders: Mapping[int, str] = field(default_factory=dict)
    explain: Callable[[], str] = field(default=str, repr=False, compare=False)

    @classmethod
    def of_rows(cls, number: int, *, one: str, many: str, **more: Any) -> Self | None:
        """A finding about ``number`` rows; ``None`` for 0.

        A ``number`` of ``MOST + 1`` stands for any larger number. ``one`` is the sentence for a
        single row, and ``many`` is the sentence for several rows, with ``%s`` for the count.
        ``more`` are further fields of the finding.
        """
        if not number:
            return None
        count, has_more = min(number, MOST), number > MOST
        sentence = one if number == 1 else many % (f"{count} or more" if has_more else count)
        return cls(sentence, count, has_more, **more)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A piece of news for staff: its texts, and who gets it.

    ``headline`` is part of a sentence; it may contain ``%(count)s``.
    """

    code: str
    severity: Severity
    #: A permission, such as `giftcards.check_order`. The news is for people whose role has this
    #: permission.
    permission: str
    headline: Any = ""
    remedy: Any = ""
    #: The permissions that the remedy requires. People who lack such a permission read whom to ask.
    takes: tuple[str, ...] = ()
    #: True if the finding counts orders or messages about orders, or adds up amounts of orders.
    is_about_orders: bool = False
    #: The name of the admin's page that lists the counted rows. The next field is the query string
    #: of that list.
    page: str = ""
    query: str = ""

    def visible_part(self, finding: Finding, visible: QuerySet[Order]) -> Finding | None:
        """The part of ``finding`` that a person may see.

        ``visible`` are the orders that the person sees. If the person may see nothing of the
        finding, the result is ``None``.
        """
        if not (self.is_about_orders and leaves_some_out(visible)):
            return finding
        shown = visible.filter(pk__in=finding.orders).order_by()
        keys = dict(shown.values_list("pk", "reference"))
        # The sentence is left out, because it may name a sum over all orders.
        return Finding("", len(keys), orders=keys) if keys else None

    def in_words(self, count: int, *, has_more: bool = False) -> str:
        """The headline with its count, such as "2 orders to do"."""
        text = str(self.headline % {"count": count})
        return gettext("%(what)s or more") % {"what": text} if has_more else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition(Alert):
    """Something that is wrong as long as ``judge`` returns a finding.

    ``holds`` completes a sentence of the documentation that begins with "It holds if". A condition
    without a ``headline`` is for monitors only. ``ended`` tells staff that the condition no longer
    holds. A condition without ``ended`` is about orders, and staff are told of each order once.
    """

    holds: str
    judge: Callable[[Standing], Finding | None]
    ended: Any = ""
    #: Two flags: whether digests name the condition, and whether the start page shows it. If two
    #: conditions are about the same rows, each place names only one of them.
    is_in_digests: bool = True
    is_on_start_page: bool = True
    #: True if the condition may be about orders with problems; see
    #: ``Standing.leaves_out_problems``.
    overlaps_problems: bool = False
    #: True if no card can be bought, or handed over, while the condition holds.
    stops_sales: bool = False
    #: True if cards can still be bought while the condition holds, but not for long.
    limits_sales: bool = False
    #: True if staff see the condition above the list of orders, as the text that
    #: ``Finding.explain`` returns.
    is_above_list: bool = False

    def find(self, standing: Standing, visible: QuerySet[Order]) -> Finding | None:
        """The finding for a person who sees the orders ``visible``, and no other orders."""
        finding = self.judge(standing)
        return finding and self.visible_part(finding, visible)

    def sentence(self, standing: Standing) -> str:
        """The finding's sentence for monitors; "" if nothing is wrong."""
        finding = self.judge(standing)
        return finding.sentence if finding else ""


@dataclass(frozen=True, slots=True)
class OfRows:
    """The judge of a condition that can hold only if one of several querysets has rows.

    ``rows`` returns the querysets. ``tell`` takes these querysets and returns the finding. If all
    querysets are empty, ``tell`` returns ``None``. If ``is_enough`` is False, ``tell`` may return
    ``None`` even if there are rows.
    """

    rows: Callable[[Standing], Sequence[QuerySet[Any]]]
    tell: Callable[..., Finding | None]
    is_enough: bool = True

    def __call__(self, standing: Standing) -> Finding | None:
        return self.tell(*self.rows(standing))


#: The conditions of the core and of every other installed plugin, keyed by code.
CONDITIONS: dict[str, Condition] = {}


def signs(standing: Standing) -> dict[tuple[str, int], Exists]:
    """Return database expressions that say which querysets of the conditions have rows.

    A key is the code of a condition, and the number of one of its querysets.
    """
    return {
        (code, number): Exists(rows)
        for code, condition in CONDITIONS.items()
        if isinstance(condition.judge, OfRows)
        for number, rows in enumerate(condition.judge.rows(standing))
    }


def which_hold(standing: Standing, found: Mapping[tuple[str, int], bool]) -> dict[str, bool]:
    """Return whether each condition holds, keyed by code.

    ``found`` has the values of the expressions that :func:`signs` returns.
    """
    with_rows = {code for (code, _number), is_there in found.items() if is_there}

    def holds(code: str, condition: Condition) -> bool:
        judge = condition.judge
        if isinstance(judge, OfRows) and (judge.is_enough or code not in with_rows):
            return code in with_rows
        return judge(standing) is not None

    return {code: holds(code, condition) for code, condition in CONDITIONS.items()}


def above_list(
    may: Callable[[str], bool], standing: Standing, visible: QuerySet[Order]
) -> Iterator[tuple[Condition, Finding]]:
    """The conditions that hold, and that staff see above the list of orders.

    ``may`` returns whether the person has a permission, and ``visible`` are the orders that the
    person sees.
    """
    for condition in CONDITIONS.values():
        is_shown = condition.is_above_list and may(condition.permission)
        if is_shown and (finding := condition.find(standing, visible)):
            yield condition, finding
