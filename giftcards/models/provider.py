"""The state of the provider that all processes share."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Self

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.translation import get_language_bidi, gettext
from django.utils.translation import gettext_lazy as _

from giftcards.conf import LARGEST_AMOUNT, conf
from giftcards.exceptions import ConfigurationError
from giftcards.keys.keyring import key_fingerprint
from giftcards.models.fields import MONEY
from giftcards.rules.problems import ASK_DEVELOPER, Explanation
from giftcards.rules.times import ahead, is_ahead, is_recent, past

# A key counts as proven for this time after the provider accepted it. The time is longer than the
# minute between two ticks of a worker. It is short, because parallel requests would all fail once
# the key is revoked.
_PROOF_HOLDS = timedelta(minutes=2)
# If a key was accepted less than this time ago, another success is not recorded.
_PROOF_IS_FRESH = timedelta(seconds=30)
# The longest pause that ends automatically: 15 minutes, and a margin for differing clocks.
LONGEST_PAUSE = timedelta(minutes=20)
# A pause is reported for this time after its end, because a few requests may succeed in the middle
# of an outage.
_STILL_TOLD = timedelta(minutes=1)
# A process counts as gone if it has given no sign of life in the database for this time. Workers
# give one every minute.
_SIGN_HOLDS = timedelta(minutes=3)
# A process that follows orders, or only reads the balance, uses its key at least this often.
_AT_WORK = timedelta(minutes=10)
# Monitors get a warning if a chore has not ended within this time.
_CHORES_WITHIN = timedelta(hours=1)
# Staff are told if no request has succeeded for this time, and this many sweeps in a row failed.
_DISTURBANCE, _FEW_OUTAGES = timedelta(minutes=5), 3
# The shortest time between two readings of the balance.
BALANCE_EVERY = timedelta(minutes=5)

_LONGEST_NAME = 100

# The values of ProviderState.Pause, the worst last.
_SEVERITY = ("", "outage", "rate", "access")


_START_WORKER = _(
    "Start a worker: `manage.py giftcards_worker`, `manage.py qcluster` or that of your own"
    " queue of tasks."
)


def this_machine() -> str:
    """Return the name of this machine, or of this container."""
    return socket.gethostname()[:_LONGEST_NAME]


class Environment(models.TextChoices):
    """The provider's environments; the API key determines which one is used.

    Both are on the same host.
    """

    # These values are the provider's names.
    SANDBOX = "SANDBOX", _("Sandbox")
    PRODUCTION = "PRODUCTION", _("Production")


def is_test_type(type_id: str) -> bool:
    """True if the type is a test type.

    The sandbox sells test types without listing them.
    """
    return type_id.startswith("TEST_")


def configured_key() -> str | None:
    """Return the fingerprint of the API key in the settings, or ``None``."""
    try:
        return key_fingerprint(conf.api_key)
    except ConfigurationError:
        return None


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def current(self, fingerprint: str) -> ApiKey:
        return self.get_or_create(pk=fingerprint)[0]

    def accept(self, key: ApiKey) -> bool:
        """Record that the provider accepts ``key``; False if it was refused since."""
        now = timezone.now()
        # The filter compares refused_at, because a success from before a refusal proves nothing,
        # even after staff have resumed calls.
        row = self.filter(pk=key.pk, is_refused=False, refused_at=key.refused_at)
        if not row.update(accepted_at=now):
            return False
        key.accepted_at = now
        return True

    def learn(self, key: ApiKey, environment: str) -> None:
        """Store the environment that the provider named for ``key``, if known."""
        if environment in Environment.values and environment != key.environment:
            self.filter(pk=key.pk).update(environment=environment)
            key.environment = environment

    def note_unwanted_references(self, key: ApiKey) -> None:
        """Record that purchases with ``key`` are accepted only without a reference."""
        key.references_unwanted_at = timezone.now()
        row = self.filter(pk=key.pk, references_unwanted_at=None)
        row.update(references_unwanted_at=key.references_unwanted_at)

    def forget_unwanted_references(self, key: ApiKey) -> None:
        """Send the next order with a reference again, if the settings ask for it."""
        if key.references_unwanted_at is not None:
            self.filter(pk=key.pk).update(references_unwanted_at=None)
            key.references_unwanted_at = None

    def refuse(self, fingerprint: str, *, detail: str) -> bool:
        """Stop all calls with the key until :meth:`resume`.

        Returns False if they were stopped already.
        """
        self.current(fingerprint)
        row = self.filter(pk=fingerprint, is_refused=False)
        refused = {"is_refused": True, "refused_at": timezone.now(), "refusal": detail}
        return bool(row.update(**refused, accepted_at=None))

    def doubt(self) -> None:
        """Forget that keys were accepted.

        One call then tries each key before parallel calls are made.
        """
        self.exclude(accepted_at=None).update(accepted_at=None)

    def resume(self) -> bool:
        """Allow calls with refused keys again, at first a single call.

        Returns False if no key is refused.
        """
        return bool(self.filter(is_refused=True).update(is_refused=False))

    def at_work(self, now: datetime) -> list[str]:
        """Return the keys that were used within the last 10 minutes, as short texts."""
        at_work = sorted((key for key in self if key.is_at_work(now)), key=lambda key: key.pk)
        return [f"{key.pk[:8]} ({key.environment or 'unknown'})" for key in at_work]

    def holding_up(self, own: str | None, now: datetime) -> ApiKey | None:
        """Return a refused key that stops this process, or else another process.

        ``own`` is the fingerprint of this process's key. If it is ``None``, the key that was used
        last is taken instead.
        """
        # There are few rows: one for each key that the shop has had.
        keys = list(self)
        if own is None and keys:
            own = max(keys, key=ApiKey.last_use).pk
        refused = [key for key in keys if key.is_refused and (key.pk == own or key.is_in_use(now))]
        return max(refused, key=lambda key: (key.pk == own, key.last_use()), default=None)


class ApiKey(models.Model):
    """The provider's verdict on an API key, shared by all processes that have the key.

    Each key has its own row, so that one key's success never hides another key's refusal: after a
    few calls with a refused key, the provider blocks the shop's IP address.
    """

    fingerprint = models.CharField(primary_key=True, max_length=32, editable=False)
    # The environment of the key's account; "" if the provider did not say.
    environment = models.CharField(max_length=10, choices=Environment, blank=True)
    # True if calls with this key are stopped, until a person resumes them.
    is_refused = models.BooleanField(default=False)
    # The time of the last refusal. This time stays when calls are resumed: see
    # ApiKeyQuerySet.accept. NULL if the key was never refused.
    refused_at = models.DateTimeField(null=True)
    refusal = models.TextField(blank=True)
    # The time when the key was last accepted. NULL if a single call has to try the key first.
    accepted_at = models.DateTimeField(null=True)
    # The time when the provider began to accept orders with this key only without a reference. NULL
    # if it accepts references, or if this is unknown.
    references_unwanted_at = models.DateTimeField(null=True)
    # The last time when the refusal of the key kept a process from making calls. NULL if it never
    # did.
    stopped_at = models.DateTimeField(null=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        # Staff see only the text of ProviderState.explain.
        default_permissions = ()

    def __str__(self) -> str:
        return self.fingerprint

    def is_proven(self, now: datetime) -> bool:
        """True if the key was accepted in the last 2 minutes.

        Calls with a proven key may be parallel.
        """
        return self._was_accepted_within(_PROOF_HOLDS, now)

    def is_freshly_proven(self, now: datetime) -> bool:
        """True if the key was accepted a moment ago.

        Another success then need not be recorded.
        """
        return self._was_accepted_within(_PROOF_IS_FRESH, now)

    def _was_accepted_within(self, span: timedelta, now: datetime) -> bool:
        return not self.is_refused and is_recent(self.accepted_at, now, within=span)

    def is_in_use(self, now: datetime) -> bool:
        """True if a refusal of this key stops a running process."""
        return is_recent(self.stopped_at, now, within=_SIGN_HOLDS)

    def is_at_work(self, now: datetime) -> bool:
        """True if a process has used the key, or tried to, within the last 10 minutes."""
        times = (self.accepted_at, self.stopped_at)
        return any(is_recent(at, now, within=_AT_WORK) for at in times)

    def last_use(self) -> float:
        """Return the timestamp at which a process last used the key, or tried to; 0 if never."""
        times = (self.refused_at, self.accepted_at, self.stopped_at)
        return max((at.timestamp() for at in times if at), default=0)


class ProviderStateQuerySet(models.QuerySet["ProviderState"]):
    def current(self) -> ProviderState:
        return self.get_or_create(pk=1)[0]

    def note_tick(self, by: str = "") -> None:
        """Record that a worker, named ``by``, runs; called once a minute."""
        now, state = timezone.now(), self.current()
        since = state.ticking_since if state.is_ticking(now) else None
        ticked = {
            "last_tick_at": now,
            "last_tick_by": by[:_LONGEST_NAME],
            "ticking_since": since or now,
        }
        self.filter(pk=1).update(**ticked)

    def note_chores(self, begun: str, ended: Mapping[str, datetime | None]) -> None:
        times = {name: at and at.isoformat() for name, at in ended.items()}
        self.filter(pk=1).update(chores={"begun": begun, "ended": times})

    def pause(self, reason: ProviderState.Pause, *, detail: str, until: datetime) -> bool:
        """Pause calls with any key; False if they are already paused.

        An outage pauses only the calls of this machine, because its network may be the cause. If
        another machine also has an outage before any call succeeds, the calls of all machines are
        paused. The refusal of a key does not pause calls with other keys: see
        :meth:`ApiKeyQuerySet.refuse`.
        """
        now = timezone.now()
        while True:
            state = self.current()
            is_worse = _SEVERITY.index(reason) > _SEVERITY.index(state.pause)
            if state.is_paused(now) and not is_worse:
                break
            # A worse pause replaces a milder pause, but never ends before the milder one would have
            # ended.
            longest = max(until, state.pause_end(now))
            began = state.paused_at if state.goes_on_with(reason, now) else now
            # The filter has the values that were read. If another process starts a pause at the
            # same time, the state is read again.
            read = {"pause": state.pause, "paused_until": state.paused_until}
            by = state.machine_to_pause(reason, now)
            paused = {"paused_at": began, "paused_until": longest, "paused_by": by}
            if self.filter(pk=1, **read).update(pause=reason, pause_detail=detail, **paused):
                if reason != ProviderState.Pause.RATE:
                    # After any pause except a rate limit, each key has to be tried again by a
                    # single call.
                    ApiKey.objects.doubt()
                return True
        if state.pause == reason:
            # Several answers may ask for a pause at the same time: the longest pause counts.
            self.filter(pk=1, pause=reason, paused_until__lt=until).update(paused_until=until)
        return False

    def resume(self) -> bool:
        """End every pause, and allow refused keys to be tried again.

        Returns False if there was nothing to end.
        """
        paused = self.filter(pk=1).exclude(pause="")
        is_on = ahead(
            "paused_until", timezone.now() - _STILL_TOLD, longest=LONGEST_PAUSE + _STILL_TOLD
        )
        # If two people end pauses simultaneously, the number of changed rows shows who was first.
        # The write comes before any read, because otherwise SQLite would fail the second
        # transaction.
        was_paused = bool(paused.filter(is_on).update(pause="", paused_until=None))
        paused.update(pause="", paused_until=None)
        was_refused = ApiKey.objects.resume()
        ApiKey.objects.doubt()
        return was_paused or was_refused

    def note_queued(self) -> None:
        """Record that a task now waits in the queue, unless one waits already."""
        self.filter(pk=1, queue_waits_since=None).update(queue_waits_since=timezone.now())

    def note_queue_read(self) -> None:
        """Record that a worker has taken a task from the queue."""
        self.filter(pk=1).exclude(queue_waits_since=None).update(queue_waits_since=None)

    def with_unread_queue(self, since: datetime) -> Self:
        """Return the row if tasks have waited in the queue since ``since``."""
        return self.filter(queue_waits_since__lte=since)

    def note_final_orders(self, counts: Mapping[str, int], *, until: datetime) -> None:
        """Store for each status the number of orders that had become final at ``until``."""
        self.filter(pk=1).update(final_orders=dict(counts), final_orders_until=until)

    # The balance.

    def claim_balance(self) -> bool:
        """Claim the reading of the balance.

        Returns False if it is not due, or if another process has claimed it.
        """
        now = timezone.now()
        due = self.filter(past("balance_due_at", now, longest=BALANCE_EVERY), pk=1)
        return bool(due.update(balance_due_at=now + BALANCE_EVERY))

    def keep_balance(self, balance: Decimal, *, asked_at: datetime) -> None:
        """Store the balance of ``asked_at``, unless a later balance is known."""
        older = self.filter(past("balance_read_at", asked_at, longest=timedelta(0)), pk=1)
        older.update(balance=balance, balance_read_at=asked_at)

    def note_spending(self, amount: Decimal) -> None:
        # The cap keeps wrong amounts of the provider from overflowing the column.
        self.filter(pk=1).update(spent_lately=min(amount, LARGEST_AMOUNT))

    def doubt_balance(self, needed: Decimal | None) -> None:
        """Schedule an immediate reading of the balance.

        The provider refused an order for lack of money. ``needed`` is the cost of the order in
        dinars, or ``None`` if it is unknown. Does nothing if the known balance is lower than
        ``needed``, because the provider is then right.
        """
        row = self.filter(pk=1)
        if needed is not None:
            row = row.filter(Q(balance=None) | Q(balance__gte=min(needed, LARGEST_AMOUNT)))
        row.update(balance_due_at=None)

    def note_low_balance(self, state: ProviderState) -> bool:
        """Record that the balance is low.

        Returns False if this was recorded before, or if a newer balance is known.
        """
        latest = self.filter(pk=1, balance_read_at=state.balance_read_at)
        return bool(latest.filter(low_balance_since=None).update(low_balance_since=timezone.now()))

    def forget_low_balance(self, state: ProviderState) -> None:
        """Record that the balance is not low, unless a newer balance is known."""
        self.filter(pk=1, balance_read_at=state.balance_read_at).update(low_balance_since=None)


class ProviderState(models.Model):
    """The provider's state as last seen by any process: a single row."""

    class Pause(models.TextChoices):
        ACCESS = "access", _("The provider refuses the API key or this server's address.")
        RATE = "rate", _("The provider asked for fewer requests.")
        OUTAGE = "outage", _("The provider does not answer.")

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)

    # The reason why all calls are paused, with any key; "" if they are not paused. ACCESS means
    # that the IP address is blocked. The refusal of a key is recorded in ApiKey.
    pause = models.CharField(_("paused because"), max_length=10, blank=True, choices=Pause)
    pause_detail = models.TextField(_("detail"), blank=True)
    # The time when the pause began. Several pauses count as one if no call succeeded between them.
    paused_at = models.DateTimeField(_("paused at"), null=True)
    paused_until = models.DateTimeField(_("paused until"), null=True)
    # The machine whose calls are paused; "" if the calls of all machines are paused.
    paused_by = models.CharField(max_length=_LONGEST_NAME, blank=True)

    # The number of sweeps in a row in which no call succeeded, of the machines that are paused.
    outages = models.PositiveIntegerField(default=0)

    balance = models.DecimalField(_("balance"), null=True, **MONEY)
    balance_read_at = models.DateTimeField(null=True)
    # The amount spent in the 24 hours before a worker last read the balance. NULL if no worker has
    # read it.
    spent_lately = models.DecimalField(null=True, **MONEY)
    # The time when the balance is to be read next. NULL if it is to be read now.
    balance_due_at = models.DateTimeField(null=True)
    # The time since when the balance has been low, as the shop was told. NULL if it is not low.
    low_balance_since = models.DateTimeField(_("low balance since"), null=True)

    # The provider's list of orders is not used before this time, because a request for it failed,
    # or because it showed none of our orders.
    list_usable_at = models.DateTimeField(null=True)
    # The time of the last request for the list of orders. NULL if the list is not in use.
    list_read_at = models.DateTimeField(null=True)
    # The number of requests that a reading of the list of orders recently needed after its first
    # page. For an incomplete reading, the number is estimated.
    list_questions = models.PositiveIntegerField(default=0)
    # The spelling of the URL path for checks of orders that last succeeded, or is to be tried next;
    # "" at first.
    check_path = models.CharField(max_length=20, blank=True)
    succeeded_at = models.DateTimeField(_("last answer"), null=True)
    # The machine to which the provider gave its last answer.
    succeeded_by = models.CharField(max_length=_LONGEST_NAME, blank=True)
    failed_at = models.DateTimeField(_("last failure"), null=True)
    failure = models.TextField(_("last failure's text"), blank=True)

    swept_at = models.DateTimeField(_("last sweep"), null=True)
    last_tick_at = models.DateTimeField(_("last tick"), null=True)
    # The program that last called `note_tick`, and its machine, such as "qcluster@web-2".
    last_tick_by = models.CharField(max_length=_LONGEST_NAME, blank=True)
    # The time since when `note_tick` has been called without interruption.
    ticking_since = models.DateTimeField(null=True)
    # The stored form of `chores_record`.
    chores = models.JSONField(default=dict)

    # The time since when tasks have waited in the queue. NULL if a worker has taken one since the
    # last one was queued.
    queue_waits_since = models.DateTimeField(null=True)

    # The number of orders in each status that had become final at ``final_orders_until``: see
    # giftcards.watch.overview.orders_by_status. The time is NULL if they were never counted.
    final_orders = models.JSONField(default=dict)
    final_orders_until = models.DateTimeField(null=True)

    # The end of the last complete purge of old codes. NULL if no purge was ever complete.
    purged_at = models.DateTimeField(null=True)
    # The time at which orders settled with which an unfinished purge continues. NULL if no purge is
    # unfinished.
    purge_place = models.DateTimeField(null=True)

    # The readings and jumps of the machines' wall clocks: see giftcards.engine.clock. Each write
    # checks the version, and increments it.
    clock = models.JSONField(default=dict)
    clock_version = models.PositiveIntegerField(default=0)

    objects = ProviderStateQuerySet.as_manager()

    class Meta:
        verbose_name = _("provider's state")
        verbose_name_plural = _("provider's state")
        permissions = (("resume_provider", "Can resume calls to the provider"),)
        constraints = (
            models.CheckConstraint(condition=Q(pk=1), name="giftcards_providerstate_one_row"),
        )

    def __str__(self) -> str:
        is_paused = self.is_pause_told(timezone.now())
        return str(self.get_pause_display() if is_paused else _("in service"))

    @cached_property
    def api_keys(self) -> ApiKeyQuerySet:
        """The rows of all API keys, read once, when they are first needed."""
        return ApiKey.objects.all()

    def is_paused(self, now: datetime) -> bool:
        """True if the calls of this machine are paused, with any key."""
        return self.is_of_this_machine and self._is_paused_anywhere(now)

    def is_cut_off(self, now: datetime) -> bool:
        """True if the calls of this machine are paused because of an outage."""
        return self.pause == self.Pause.OUTAGE and self.is_paused(now)

    @property
    def is_of_this_machine(self) -> bool:
        """True if the last pause is about the calls of this machine."""
        return self.paused_by in {"", this_machine()}

    def _is_paused_anywhere(self, now: datetime) -> bool:
        return bool(self.pause) and is_ahead(self.paused_until, now, longest=LONGEST_PAUSE)

    @property
    def is_of_one_machine(self) -> bool:
        """True if the last pause is about one machine and another one works."""
        is_other = self.succeeded_by != self.paused_by
        return bool(self.paused_by) and is_other and self._has_answered_since(self.paused_at)

    def _has_answered_since(self, moment: datetime | None) -> bool:
        return moment is not None and self.succeeded_at is not None and self.succeeded_at > moment

    @property
    def was_blocked(self) -> bool:
        """True if the IP address was blocked, and no call has succeeded since."""
        if self.pause != self.Pause.ACCESS or self.paused_until is None:
            return False
        return self.succeeded_at is None or self.succeeded_at < self.paused_until

    def goes_on_with(self, reason: str, now: datetime) -> bool:
        """True if a pause for ``reason`` continues the last pause.

        This is so if no call has succeeded since.
        """
        if reason != self.pause or self.paused_at is None:
            return False
        has_succeeded = self._has_answered_since(self.paused_at)
        return not has_succeeded and self._is_paused_anywhere(now - _AT_WORK)

    def machine_to_pause(self, reason: str, now: datetime) -> str:
        """Return the machine whose calls a pause for ``reason`` stops.

        The result is "" if the pause stops the calls of all machines.
        """
        machine = this_machine()
        is_confirmed = self.goes_on_with(reason, now) and self.paused_by != machine
        return machine if reason == self.Pause.OUTAGE and not is_confirmed else ""

    def is_pause_told(self, now: datetime) -> bool:
        """True during a pause and for a minute after it.

        False if staff have ended the pause.
        """
        return self._is_paused_anywhere(now) or self._is_paused_anywhere(now - _STILL_TOLD)

    def pause_end(self, now: datetime) -> datetime:
        return self.paused_until if self.paused_until and self._is_paused_anywhere(now) else now

    def is_out_of_service(self, now: datetime) -> bool:
        """True if orders cannot be sent now or, probably, in the next minutes."""
        is_refused = self.api_keys.holding_up(configured_key(), now) is not None
        is_paused = self._is_paused_anywhere(now) and not self.is_of_one_machine
        return is_refused or is_paused or self.is_failing(now)

    @property
    def paused_because(self) -> str:
        """The reason why calls are paused, a :class:`Pause`; "" if calls are not paused.

        A pause still counts for a minute after its end. A refused key counts, too, if it stops this
        process or another running process.
        """
        now = timezone.now()
        if self.api_keys.holding_up(configured_key(), now):
            return self.Pause.ACCESS
        return self.pause if self.is_pause_told(now) else ""

    @property
    def paused_since(self) -> datetime | None:
        now = timezone.now()
        refused = self.api_keys.holding_up(configured_key(), now)
        if refused:
            return refused.refused_at
        return self.paused_at if self.is_pause_told(now) else None

    def explain_pause(self) -> Explanation:
        """Return why calls are paused, and what to do.

        The text is "" if calls are not paused.
        """
        now, own = timezone.now(), configured_key()
        refused = self.api_keys.holding_up(own, now)
        if refused and own in {None, refused.pk}:
            text = str(self.Pause.ACCESS.label)
            remedy = _(
                "Put a working key into the settings, or run"
                " `manage.py giftcards_poll --resume` once it works again."
            )
            return _for_developer(text, refused.refusal, remedy)
        if self.is_pause_told(now):
            text, go_on = (
                str(self.get_pause_display()),
                gettext("Requests will resume automatically."),
            )
            if self.is_of_one_machine:
                text = gettext("The server %(name)s cannot reach the provider.")
                text %= {"name": self.paused_by}
                go_on = gettext(
                    "Other servers can reach it, and do the work of this server. Check this"
                    " server's network."
                )
            return Explanation(text, go_on, _english(self.pause_detail))
        if refused:
            text = gettext(
                "A running process has a different API key, and the provider refuses that key."
            )
            remedy = _("Put a working key into the settings of that process and restart it.")
            return _for_developer(text, refused.refusal, remedy)
        return Explanation("")

    def why_paused(self) -> str:
        return self.explain_pause().for_developers

    def explain(self) -> str:
        """Return a text for developers about the pause, or "In service.".

        The text says why calls are paused and what to do.
        """
        return self.why_paused() or gettext("In service.")

    def is_balance_due(self, now: datetime) -> bool:
        return not is_ahead(self.balance_due_at, now, longest=BALANCE_EVERY)

    @property
    def is_balance_low(self) -> bool:
        limit = conf.low_balance
        return limit is not None and self.balance is not None and self.balance < limit

    def is_ticking(self, now: datetime) -> bool:
        """True if a worker has called :meth:`~ProviderStateQuerySet.note_tick` within 3 minutes."""
        return is_recent(self.last_tick_at, now, within=_SIGN_HOLDS)

    @property
    def chores_ended_at(self) -> datetime | None:
        """The earliest of the times at which the chores last ended.

        It is ``None`` if a chore has never ended.
        """
        ended = self.chores_record[1].values()
        return None if None in ended else min(filter(None, ended), default=None)

    def overdue_chores(self, now: datetime) -> list[str]:
        """Return the chores that did not end in the last hour.

        The result is empty unless a worker has been running for that time.
        """
        if not self.is_ticking(now) or is_recent(self.ticking_since, now, within=_CHORES_WITHIN):
            return []
        times = self.chores_record[1].items()
        return [name for name, at in times if not is_recent(at, now, within=_CHORES_WITHIN)]

    @property
    def chores_record(self) -> tuple[str, dict[str, datetime | None]]:
        """The chore that began last, and the time when each chore last ended."""
        times = sorted(self.chores.get("ended", {}).items())
        ended = {name: at and datetime.fromisoformat(at) for name, at in times}
        return self.chores.get("begun", ""), ended

    def is_failing(self, now: datetime) -> bool:
        """True if all requests have failed for some minutes.

        Shorter disturbances do not count.
        """
        is_lasting = not is_recent(self.succeeded_at, now, within=_DISTURBANCE)
        return is_lasting and self.fails_in_a_row(now)

    def explain_silence(self) -> str:
        """Return a sentence for staff if the provider cannot be reached, or "".

        The sentence is returned if the last sweep has failed, or if calls are refused.
        """
        if self.paused_because == self.Pause.ACCESS:
            return str(self.Pause.ACCESS.label)
        is_away = self.outages and not self.is_of_one_machine
        return str(self.Pause.OUTAGE.label) if is_away else ""

    def fails_in_a_row(self, now: datetime) -> bool:
        """True if several sweeps in a row failed.

        Also True if the provider asks for fewer requests.
        """
        is_slowed_down = self.pause == self.Pause.RATE and self.is_pause_told(now)
        return is_slowed_down or self.outages >= _FEW_OUTAGES

    @property
    def environment(self) -> str:
        """The environment of this process's API key, or "" if it is unknown."""
        key = ApiKey.objects.filter(pk=configured_key()).first()
        return key.environment if key else ""

    def is_queue_read(self, now: datetime) -> bool:
        """False if tasks have waited in the queue for minutes."""
        waits_since = self.queue_waits_since
        return waits_since is None or is_recent(waits_since, now, within=_SIGN_HOLDS)

    def explain_worker(self, now: datetime) -> Explanation:
        """Return why no worker seems to be running, or an empty text."""
        heartbeats = (self.last_tick_at, self.swept_at)
        if not any(heartbeats):
            text = gettext("Background work has not begun yet.")
            return Explanation(text, str(ASK_DEVELOPER), str(_START_WORKER))
        if any(is_recent(at, now, within=_SIGN_HOLDS) for at in heartbeats):
            return Explanation("")
        text = gettext(
            "Background work has stopped: there has been no sign of it for more than 3 minutes."
        )
        last = gettext("The last worker was %(worker)s.") % {"worker": self.last_tick_by}
        hint = f"{last} {_START_WORKER}" if self.last_tick_by else str(_START_WORKER)
        return Explanation(text, str(ASK_DEVELOPER), hint)

    def worker_problem(self, now: datetime) -> str:
        return self.explain_worker(now).for_developers


def _for_developer(text: str, refusal: str, remedy: Any) -> Explanation:
    hint = " ".join(filter(None, (_english(refusal), str(remedy))))
    return Explanation(text, str(ASK_DEVELOPER), hint)


class Desk(ProviderState):
    """The start page of staff.

    This is a model without rows, so that the menus of the admin list the page.
    """

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("At a glance")
        # In each language, the first letter sorts the name above the other entries of the menu.
        verbose_name_plural = _("At a glance")


def _english(text: str) -> str:
    """Return the English ``text``, isolated if the active language is written right to left."""
    return f"\u2068{text}\u2069" if text and get_language_bidi() else text
