"""An overview of the app's state, read from the database, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from giftcards.conditions import CONDITIONS, Standing
from giftcards.conf import conf
from giftcards.engine.health import (
    KeyInUse,
    KnownKey,
    Requests,
    Waiting,
    api_keys,
    encryption_keys,
    try_keys,
    versions,
)
from giftcards.engine.task_queue import Backlog, next_tick, schedule_problem
from giftcards.exceptions import ConfigurationError
from giftcards.management.base import ok_or_trouble
from giftcards.management.output import counted, iso
from giftcards.models import Order, ProviderState

# The conditions that it tells; of the worker and of the cards it tells more than that.
_JUDGED = ("queue", "keys", "balance")
_TIMES = ("paused_until", "succeeded_at", "failed_at", "swept_at", "ticked_at")


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of the app at one moment; its texts are sentences, or "" if nothing is wrong."""

    standing: Standing
    orders: Mapping[str, int]
    # For the newest and the oldest card: why the encryption keys do not open it, or "".
    cards: Mapping[str, str]
    state: ProviderState
    schedule: str
    worker: str
    # The sentences of conditions, by code.
    wrong: Mapping[str, str]
    requests: Requests
    waiting: Waiting
    encryption_keys: Sequence[KeyInUse]
    api_keys: Sequence[KnownKey]
    next_tick: datetime | None

    @classmethod
    def read(cls) -> Self:
        standing = Standing()
        return cls(
            standing=standing,
            orders=Order.objects.count_by_status(),
            cards=standing.once(try_keys),
            state=standing.state,
            schedule=schedule_problem(),
            worker=standing.state.worker_problem(standing.now),
            wrong={code: CONDITIONS[code].sentence(standing) for code in _JUDGED},
            requests=Requests.read(),
            waiting=Waiting.read(),
            encryption_keys=_encryption_keys(),
            api_keys=api_keys(),
            next_tick=next_tick(),
        )

    @property
    def unjudged(self) -> str:
        """The reason why the balance cannot be judged, as a sentence; "" if it can."""
        if conf.low_balance is None:
            return "LOW_BALANCE is not set, so no balance is too low."
        return "The balance is not known yet." if self.state.balance is None else ""

    def as_dict(self) -> dict[str, Any]:
        state = self.state
        return {
            "orders": dict(self.orders),
            "needing_attention": self.waiting.needing_attention,
            "cards": ok_or_trouble(self.cards),
            "provider": {
                "pause": state.paused_because or None,
                "explanation": state.explain(),
                "last_failure": state.failure or None,
                **{name: iso(getattr(state, name)) for name in _TIMES},
            },
            "schedule": self.schedule or "ok",
            "worker": self.worker or "ok",
            "queue": self.wrong["queue"] or "ok",
            "keys": self.wrong["keys"] or "ok",
            "next_tick_at": iso(self.next_tick),
            "requests": {"used": self.requests.used, "limit": self.requests.limit},
            "waiting": self._waiting_as_dict(),
            "balance": None if state.balance is None else f"{state.balance:.2f}",
            "balance_read_at": iso(state.balance_read_at),
            "low_balance": None if conf.low_balance is None else f"{conf.low_balance:.2f}",
            "low_balance_since": iso(state.low_balance_since),
            "encryption_keys": [
                {"key": key.fingerprint, "position": key.position, "cards": key.cards}
                for key in self.encryption_keys
            ],
            "api_keys": [_key_as_dict(known) for known in self.api_keys],
            "versions": versions(),
        }

    def _waiting_as_dict(self) -> dict[str, Any]:
        tasks, changes = self.waiting.tasks, self.waiting.changes
        return {
            "tasks": tasks and tasks.number,
            "oldest_task_at": iso(tasks and tasks.since),
            "changes": changes.number,
            "oldest_change_at": iso(changes.since),
            "changes_given_up": self.waiting.given_up,
            "oldest_order_at": iso(self.waiting.oldest_order),
        }

    def __str__(self) -> str:
        state = self.state
        counts = {**self.orders, "need attention": self.waiting.needing_attention}
        times = {
            "last answer": state.succeeded_at,
            "last failure": state.failed_at,
            "last sweep": state.swept_at,
            "last tick": state.ticked_at,
            "next tick": self.next_tick,
        }
        failure = f"The last failure: {state.failure}" if state.failure else ""
        lines = [f"{name:<18}{count}" for name, count in counts.items()]
        lines += [f"Provider: {state.explain()}"]
        lines += [f"  {label:<16}{iso(at) or 'never'}" for label, at in times.items()]
        lines += self._facts()
        lines += [failure, self.schedule, self.worker, *self.wrong.values()]
        lines += dict.fromkeys(self.cards.values())
        return "\n".join(filter(None, lines))

    def _facts(self) -> list[str]:
        """The lines about facts that are neither right nor wrong."""
        state, waiting = self.state, self.waiting
        requests = f"{self.requests.used} of {self.requests.limit} in the last minute"
        facts = {
            "requests": requests,
            "balance": _balance_in_words(state),
            "tasks": _backlog(waiting.tasks),
            "changes": _backlog(waiting.changes),
            "given up": f"{counted(waiting.given_up, 'change')}",
            "open orders": _backlog(
                Backlog(sum(one.number for one in waiting.orders.values()), waiting.oldest_order)
            ),
        }
        lines = [f"  {name:<16}{fact}" for name, fact in facts.items()]
        lines += [f"  encryption key  {_key_in_words(key)}" for key in self.encryption_keys]
        lines += [f"  API key         {_known_in_words(known)}" for known in self.api_keys]
        running = ", ".join(f"{name} {number}" for name, number in versions().items())
        return [*lines, f"  versions        {running}"]


def _balance_in_words(state: ProviderState) -> str:
    if state.balance is None:
        return "not read yet"
    return f"{state.balance:.2f} {conf.currency}, read {iso(state.balance_read_at)}"


def _encryption_keys() -> list[KeyInUse]:
    try:
        return encryption_keys(counts_all=True)
    except ConfigurationError:
        return []  # reported for the cards


def _backlog(backlog: Backlog | None) -> str:
    if backlog is None:
        return "the queue of django-q2 is not in the database"
    since = f", since {iso(backlog.since)}" if backlog.since else ""
    return f"{backlog.number} waiting{since}" if backlog.number else "none waiting"


def _key_in_words(key: KeyInUse) -> str:
    cards = counted(key.cards, "card")
    if not key.fingerprint:
        return f"not recorded: {cards}"
    place = "not in the settings" if key.position is None else f"number {key.position}"
    return f"{key.fingerprint}, {place}: {cards}"


def _known_in_words(known: KnownKey) -> str:
    key = known.key
    times = {"accepted": key.accepted_at, "refused": key.refused_at}
    return ", ".join(
        [
            f"{known.name}{' (in the settings)' if known.is_own else ''}",
            key.environment or "environment unknown",
            *(f"{what} {iso(at)}" for what, at in times.items() if at),
            *(["stopped"] if key.is_refused else []),
        ]
    )


def _key_as_dict(known: KnownKey) -> dict[str, Any]:
    key = known.key
    return {
        "key": known.name,
        "is_own": known.is_own,
        "environment": key.environment or None,
        "is_refused": key.is_refused,
        "refused_at": iso(key.refused_at),
        "accepted_at": iso(key.accepted_at),
    }
