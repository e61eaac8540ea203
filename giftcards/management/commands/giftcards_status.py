from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.utils import translation

from giftcards.conf import CURRENCY, conf
from giftcards.engine.task_queue import Backlog, next_tick, schedule_problem
from giftcards.exceptions import ConfigurationError
from giftcards.management.base import (
    GiftcardsCommand,
    add_fail_on,
    fail_on,
    find_order,
    named_conditions,
    refuse,
    status_label,
)
from giftcards.management.output import counted, iso
from giftcards.models import ProviderState
from giftcards.watch.conditions import CONDITIONS, Condition, Standing, most_urgent_first
from giftcards.watch.overview import (
    KeyInUse,
    KnownKey,
    Requests,
    Waiting,
    api_keys,
    encryption_keys,
    orders_by_status,
    versions,
)

_TIMES = (
    "paused_until",
    "succeeded_at",
    "failed_at",
    "swept_at",
    "last_tick_at",
    "chores_ended_at",
)


class Command(GiftcardsCommand):
    needs = ("LOW_BALANCE",)
    help = (
        "Show one order with its refund breakdown. Without a reference, show the number"
        " of orders by status and all conditions that need attention. The command reads"
        " the database without changing it."
    )
    notes = ("Exit code 1 means that a condition named in --fail-on holds.",)
    examples = (
        ("Show an overview:", ""),
        ("Show one order:", "cart-1042"),
        (
            "Report problems to a monitor, with exit code 1:",
            "--fail-on attention,paused,worker,queue,balance",
        ),
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "reference",
            nargs="?",
            help="The reference of an order (default: an overview of all orders).",
        )
        add_fail_on(parser, CONDITIONS)

    def handle(self, **options: Any) -> None:
        conditions = named_conditions(options["fail_on"], CONDITIONS)
        if conditions and options["reference"] is not None:
            raise refuse("Use either a reference or --fail-on, which is about all orders.")
        # The output is in English, regardless of the site's language.
        with translation.override(None):
            if options["reference"] is not None:
                self.show_order(find_order(options["reference"]), options)
            else:
                self._show_overview(conditions, options)

    def _show_overview(self, conditions: Mapping[str, Condition], options: dict[str, Any]) -> None:
        overview = _Overview()
        self.show(overview.as_dict(), str(overview), options)
        if "balance" in conditions and overview.unjudged:
            self.say(overview.unjudged, options)
        fail_on(condition.sentence(overview.standing) for condition in conditions.values())


class _Overview:
    """The state of the app at one moment.

    A field that describes a problem is "" if there is no such problem.
    """

    def __init__(self) -> None:
        self.standing = Standing()
        self.state = self.standing.state
        self.schedule = schedule_problem()
        #: The conditions that hold, each with its sentence.
        self.holding = [
            (condition, sentence)
            for condition in most_urgent_first(CONDITIONS.values())
            if (sentence := condition.sentence(self.standing))
        ]
        self.requests = Requests.read()
        self.waiting = Waiting.read()
        self.orders = orders_by_status(self.state)
        self.encryption_keys = _encryption_keys()
        self.api_keys = api_keys()
        self.next_tick = next_tick(self.state)

    @property
    def unjudged(self) -> str:
        """A sentence that says why the balance cannot be assessed, or ""."""
        if conf.low_balance is None:
            return "LOW_BALANCE is not set, so the balance is not checked."
        return "The balance is not known yet." if self.state.balance is None else ""

    def as_dict(self) -> dict[str, Any]:
        state, tasks, changes = self.state, self.waiting.tasks, self.waiting.changes
        return {
            "orders": dict(self.orders),
            "needing_attention": self.waiting.needing_attention,
            "conditions": [
                {"code": condition.code, "severity": condition.severity, "sentence": sentence}
                for condition, sentence in self.holding
            ],
            "provider": self._provider(),
            "schedule": (self.schedule or "ok") if conf.uses_django_q else None,
            "next_tick_at": self.next_tick,
            "requests": asdict(self.requests),
            "waiting": {
                "tasks": tasks and tasks.number,
                "oldest_task_at": tasks and tasks.since,
                "changes": changes.number,
                "oldest_change_at": changes.since,
                "changes_given_up": self.waiting.given_up,
                "oldest_order_at": self.waiting.oldest_order,
            },
            "balance": state.balance,
            "balance_read_at": state.balance_read_at,
            "low_balance": conf.low_balance,
            "low_balance_since": state.low_balance_since,
            "encryption_keys": [
                {
                    "key": key.fingerprint,
                    "position": key.position,
                    "cards": key.cards,
                    "has_more": key.has_more,
                }
                for key in self.encryption_keys
            ],
            "api_keys": [
                {
                    "key": known.name,
                    "is_own": known.is_own,
                    "environment": known.key.environment or None,
                    "is_refused": known.key.is_refused,
                    "refused_at": known.key.refused_at,
                    "accepted_at": known.key.accepted_at,
                }
                for known in self.api_keys
            ],
            "versions": versions(),
        }

    def _provider(self) -> dict[str, Any]:
        state = self.state
        return {
            "pause": state.paused_because or None,
            "explanation": state.explain(),
            "last_failure": state.failure or None,
            **{name: getattr(state, name) for name in _TIMES},
            "last_tick_by": state.last_tick_by or None,
        }

    def __str__(self) -> str:
        state = self.state
        counts = {status_label(status): count for status, count in self.orders.items()}
        counts["need attention"] = self.waiting.needing_attention
        times = {
            "last answer": state.succeeded_at,
            "last failure": state.failed_at,
            "last sweep": state.swept_at,
            "last tick": state.last_tick_at,
            "last daily work": state.chores_ended_at,
        }
        if conf.uses_django_q and (self.next_tick or self.schedule):
            times["next tick"] = self.next_tick
        failure = f"The last failure: {state.failure}" if state.failure else ""
        lines = [f"{name:<30}{count}" for name, count in counts.items()]
        lines += [f"Provider: {state.explain()}"]
        lines += [f"  {label:<16}{iso(at) or 'never'}" for label, at in times.items()]
        lines += self._facts()
        lines += [failure]
        lines += [f"{each.severity:<9}{each.code}: {text}" for each, text in self.holding]
        return "\n".join(filter(None, lines))

    def _facts(self) -> list[str]:
        state, waiting = self.state, self.waiting
        facts = {
            "schedule": (self.schedule or "in order") if conf.uses_django_q else "",
            "worker": state.last_tick_by or "not known",
            "requests": f"{self.requests.used} of {self.requests.limit} in the last minute",
            "balance": _balance_in_words(state),
            "tasks": _backlog(waiting.tasks) if conf.uses_django_q else "",
            "changes": _backlog(waiting.changes),
            "given up": counted(waiting.given_up, "change"),
            "open orders": _backlog(
                Backlog(sum(one.number for one in waiting.orders.values()), waiting.oldest_order)
            ),
        }
        lines = [f"  {name:<16}{fact}" for name, fact in facts.items() if fact]
        lines += [f"  encryption key  {_key_in_words(key)}" for key in self.encryption_keys]
        lines += [f"  API key         {_known_in_words(known)}" for known in self.api_keys]
        running = ", ".join(f"{name} {number}" for name, number in versions().items())
        return [*lines, f"  versions        {running}"]


def _balance_in_words(state: ProviderState) -> str:
    if state.balance is None:
        return "not read yet"
    return f"{state.balance:.2f} {CURRENCY}, read {iso(state.balance_read_at)}"


def _encryption_keys() -> list[KeyInUse]:
    try:
        return encryption_keys()
    except ConfigurationError:
        return []  # the text about the cards reports this


def _backlog(backlog: Backlog | None) -> str:
    if backlog is None:
        return "the django-q2 queue is not in the database"
    since = f", since {iso(backlog.since)}" if backlog.since else ""
    return f"{backlog.number} waiting{since}" if backlog.number else "none waiting"


def _key_in_words(key: KeyInUse) -> str:
    place = "not in the settings" if key.position is None else f"number {key.position}"
    more = "more than " if key.has_more else ""
    return f"{key.fingerprint}, {place}: {more}{counted(key.cards, 'card')}"


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
