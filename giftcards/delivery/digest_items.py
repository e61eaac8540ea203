"""The items of digests, which report current and ended conditions.

Items contain neither card codes nor customer names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Self

from django.urls import NoReverseMatch, reverse

from giftcards.delivery.conf import conf
from giftcards.rules.roles import whom_to_ask
from giftcards.watch.conditions import CONDITIONS, Condition, Finding, Severity, Standing

# The maximum number of orders that an item lists.
_NAMED = 5


def told_conditions() -> dict[str, Condition]:
    """Return the conditions that appear in digests, by code.

    The most important conditions come first.
    """
    rank = list(Severity)
    told = (each for each in CONDITIONS.values() if each.is_in_digests and each.headline)
    ordered = sorted(told, key=lambda each: rank.index(each.severity))
    return {condition.code: condition for condition in ordered}


class Mention(NamedTuple):
    """The reference of an order, and the URL of its page in the admin, or ""."""

    reference: str
    url: str


@dataclass(frozen=True, slots=True)
class Item:
    """A condition in a digest.

    Properties such as :attr:`headline` return text in the language that is active when they are
    accessed.
    """

    condition: Condition
    count: int = 1
    #: True if there are more orders than ``count``.
    has_more: bool = False
    #: True if the last digest did not contain the condition, or did not contain one of its orders.
    is_new: bool = True
    #: True if the condition has ended.
    has_ended: bool = False
    #: At most five of the orders that the item is about.
    orders: tuple[Mention, ...] = ()
    #: The number of further orders.
    unnamed: int = 0
    #: Returns the details as plain text, or "".
    explain: Callable[[], str] = field(default=str, repr=False, compare=False)
    #: Returns whether the reader has a permission.
    may: Callable[[str], bool] = field(default=bool, repr=False, compare=False)

    @classmethod
    def about(
        cls,
        condition: Condition,
        finding: Finding,
        *,
        first: Collection[int] = (),
        is_new: bool = True,
        may: Callable[[str], bool] = bool,
    ) -> Self:
        """Return an item whose list of orders starts with those in ``first``."""
        keys = sorted(finding.orders, key=lambda key: key not in first)
        named = tuple(
            Mention(finding.orders[key], admin_url("giftcards_order_change", key))
            for key in islice(keys, _NAMED)
        )
        return cls(
            condition,
            finding.count,
            finding.has_more,
            is_new=is_new,
            orders=named,
            unnamed=max(0, min(len(keys), finding.count) - len(named)),
            explain=finding.explain,
            may=may,
        )

    @property
    def code(self) -> str:
        return self.condition.code

    @property
    def severity(self) -> Severity:
        return Severity.NOTE if self.has_ended else self.condition.severity

    @property
    def headline(self) -> str:
        """A phrase such as "2 orders to do", or that the condition has ended."""
        if self.has_ended:
            return str(self.condition.ended)
        return self.condition.in_words(self.count, has_more=self.has_more)

    @property
    def detail(self) -> str:
        return "" if self.has_ended else self.explain()

    @property
    def remedy(self) -> str:
        """The advice on what to do and whom to ask, or "" if no action is needed."""
        parts = str(self.condition.remedy), whom_to_ask(self.may, self.condition.takes)
        return "" if self.has_ended else " ".join(filter(None, parts))

    @property
    def url(self) -> str:
        """The URL of the admin page about the condition, or "" if there is none."""
        if self.has_ended or not self.condition.page:
            return ""
        address = admin_url(self.condition.page)
        return address and address + self.condition.query


@dataclass(frozen=True, slots=True)
class Situation:
    """A snapshot of the conditions that digests report."""

    standing: Standing
    found: Mapping[str, Finding]
    #: Why requests to the provider have recently begun to fail. This may be the cause of findings
    #: about orders. ``None`` if requests are not failing, or if ``found`` already reports the
    #: failure.
    silence: Finding | None

    @classmethod
    def judge(cls, standing: Standing) -> Self:
        judged = {code: each.judge(standing) for code, each in told_conditions().items()}
        found = {code: finding for code, finding in judged.items() if finding}
        is_told = {"access_refused", "provider_failing"} & found.keys()
        fails = not is_told and standing.state.fails_in_a_row(standing.now)
        return cls(standing, found, CONDITIONS["paused"].judge(standing) if fails else None)


def admin_url(page: str, *args: object) -> str:
    """Return the absolute URL of an admin page, or "".

    The result is "" if ``SHOP_URL`` is not set, or if the admin does not have the page.
    """
    if not conf.shop_url:
        return ""
    try:
        return conf.shop_url + reverse(f"admin:{page}", args=args)
    except NoReverseMatch:
        return ""
