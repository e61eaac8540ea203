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

# After the provider has accepted a key, the key counts as proven for this long. The period is
# longer than the minute between two ticks of a worker. It is nevertheless short, because all
# parallel requests would fail if the key is revoked.
_PROOF_HOLDS = timedelta(minutes=2)
# If a key was accepted less than this time ago, another success is not recorded.
_PROOF_IS_FRESH = timedelta(seconds=30)
# The longest pause that ends automatically, which is 15 minutes plus a margin for differing clocks.
LONGEST_PAUSE = timedelta(minutes=20)
# A pause is still reported for this long after its end, because a few requests may succeed in the
# middle of an outage.
_STILL_TOLD = timedelta(minutes=1)
# A process counts as gone if it has not written a sign of life to the database for this long.
# Workers give a sign of life every minute.
_SIGN_HOLDS = timedelta(minutes=3)
# A process that follows orders, or only reads the balance, uses its key at least this often.
_AT_WORK = timedelta(minutes=10)
# Monitors get a warning if a chore has not been completed for this long.
_CHORES_WITHIN = timedelta(hours=1)
# Staff are notified if no request has succeeded for this long, and at least this many consecutive
# sweeps have failed.
_DISTURBANCE, _FEW_OUTAGES = timedelta(minutes=5), 3
# The shortest time between two readings of the balance.
BALANCE_EVERY = timedelta(minutes=5)

_LONGEST_NAME = 100

# The values of ProviderState.Pause, sorted from the least to the most serious.
_SEVERITY = ("", "outage", "rate", "access")


_START_WORKER = _(
    "Start a worker: `manage.py giftcards_worker`, `manage.py qcluster` or the worker of your own"
    " task queue."
)


def this_machine() -> str:
    """Return the name of this machine or container."""
    return socket.gethostname()[:_LONGEST_NAME]


class Environment(models.TextChoices):
    """The provider's environments.

    The API key determines which environment answers a request. Requests to both environments go to
    the same host.
    """

    # These values are the provider's names.
    SANDBOX = "SANDBOX", _("Sandbox")
    PRODUCTION = "PRODUCTION", _("Production")


def is_test_type(type_id: str) -> bool:
    """Return True if the type is a test type.

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
        """Record that the provider has accepted the API key.

        Returns False without changing anything if ``key`` was refused after it was read.
        """
        now = timezone.now()
        # A success does not prove a key that was refused afterwards, even if staff have resumed
        # calls since then. Therefore, the filter compares refused_at.
        row = self.filter(pk=key.pk, is_refused=False, refused_at=key.refused_at)
        if not row.update(accepted_at=now):
            return False
        key.accepted_at = now
        return True

    def learn(self, key: ApiKey, environment: str) -> None:
        """Store the environment of an API key if the provider has reported it."""
        if environment in Environment.values and environment != key.environment:
            self.filter(pk=key.pk).update(environment=environment)
            key.environment = environment

    def note_unwanted_references(self, key: ApiKey) -> None:
        """Record that purchases with this API key must omit the reference."""
        key.references_unwanted_at = timezone.now()
        row = self.filter(pk=key.pk, references_unwanted_at=None)
        row.update(references_unwanted_at=key.references_unwanted_at)

    def forget_unwanted_references(self, key: ApiKey) -> None:
        """Allow purchases with this API key to have a reference again.

        If the settings require references, the next order is then sent with a reference.
        """
        if key.references_unwanted_at is not None:
            self.filter(pk=key.pk).update(references_unwanted_at=None)
            key.references_unwanted_at = None

    def refuse(self, fingerprint: str, *, detail: str) -> bool:
        """Stop all calls with the API key until :meth:`resume` is called.

        Returns False if the calls were already stopped.
        """
        self.current(fingerprint)
        row = self.filter(pk=fingerprint, is_refused=False)
        refused = {"is_refused": True, "refused_at": timezone.now(), "refusal": detail}
        return bool(row.update(**refused, accepted_at=None))

    def doubt(self) -> None:
        """Forget that keys were accepted.

        Afterwards, calls with a key are made one at a time until one of them has succeeded.
        """
        self.exclude(accepted_at=None).update(accepted_at=None)

    def resume(self) -> bool:
        """Allow calls with keys that were refused.

        At first, only a single call is made with each key. Returns False if none of the keys is
        refused.
        """
        return bool(self.filter(is_refused=True).update(is_refused=False))

    def at_work(self, now: datetime) -> list[str]:
        """Return short names of the keys that were used in the last 10 minutes."""
        at_work = sorted((key for key in self if key.is_at_work(now)), key=lambda key: key.pk)
        return [f"{key.pk[:8]} ({key.environment or 'unknown'})" for key in at_work]

    def holding_up(self, own_fingerprint: str | None, now: datetime) -> ApiKey | None:
        """Return a refused key that stops the calls of a process, or ``None``.

        The key of this process takes precedence over the keys of other processes.
        ``own_fingerprint`` is the fingerprint of this process's key. If ``own_fingerprint`` is
        ``None``, the key that was used last counts as this process's key.
        """
        # There are only a few rows, one for each key that the shop has used.
        keys = list(self)
        if own_fingerprint is None and keys:
            own_fingerprint = max(keys, key=ApiKey.last_use).pk
        refused = [
            key
            for key in keys
            if key.is_refused and (key.pk == own_fingerprint or key.is_in_use(now))
        ]
        return max(
            refused, key=lambda key: (key.pk == own_fingerprint, key.last_use()), default=None
        )


class ApiKey(models.Model):
    """The status of an API key.

    The row contains a fingerprint of the key, but not the key. All processes that use the key share
    the row. Each key has a separate row, so that the success of one key never hides the refusal of
    another key. A refusal must not be missed, because the provider blocks the shop's IP address
    after a few calls with a refused key.
    """

    fingerprint = models.CharField(primary_key=True, max_length=32, editable=False)
    # The environment of the key's account, or "" if the provider did not report it.
    environment = models.CharField(max_length=10, choices=Environment, blank=True)
    # True if calls with this key are stopped, until a person resumes them.
    is_refused = models.BooleanField(default=False)
    # The time of the last refusal. This time is kept when calls are resumed (see
    # ApiKeyQuerySet.accept). NULL if the key was never refused.
    refused_at = models.DateTimeField(null=True)
    refusal = models.TextField(blank=True)
    # The time when the key was last accepted. NULL if a single call with the key has to succeed
    # before parallel calls are made.
    accepted_at = models.DateTimeField(null=True)
    # The time when the app found that the provider accepts orders with this key only if they have
    # no reference. NULL if the provider accepts references, or if this is unknown.
    references_unwanted_at = models.DateTimeField(null=True)
    # The last time when a process could not make calls because the key was refused. NULL if this
    # never happened.
    stopped_at = models.DateTimeField(null=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        # The admin has no pages for these rows, so permissions are not needed.
        default_permissions = ()

    def __str__(self) -> str:
        return self.fingerprint

    def is_proven(self, now: datetime) -> bool:
        """Return True if the key was accepted in the last 2 minutes.

        Several calls with a proven key can be made at the same time.
        """
        return self._was_accepted_within(_PROOF_HOLDS, now)

    def is_freshly_proven(self, now: datetime) -> bool:
        """Return True if the key was accepted in the last 30 seconds.

        During this time, further successes with the same key do not have to be recorded.
        """
        return self._was_accepted_within(_PROOF_IS_FRESH, now)

    def _was_accepted_within(self, span: timedelta, now: datetime) -> bool:
        return not self.is_refused and is_recent(self.accepted_at, now, period=span)

    def is_in_use(self, now: datetime) -> bool:
        """Return True if the refusal of this key is stopping a running process."""
        return is_recent(self.stopped_at, now, period=_SIGN_HOLDS)

    def is_at_work(self, now: datetime) -> bool:
        """Return True if a process used the key in the last 10 minutes.

        Attempts to use the key also count.
        """
        times = (self.accepted_at, self.stopped_at)
        return any(is_recent(at, now, period=_AT_WORK) for at in times)

    def last_use(self) -> float:
        """Return the timestamp of the last use of the key.

        A refused call also counts, and so does a call that was not made because the key was
        refused. Returns 0 if the key was never used.
        """
        times = (self.refused_at, self.accepted_at, self.stopped_at)
        return max((at.timestamp() for at in times if at), default=0)


class ProviderStateQuerySet(models.QuerySet["ProviderState"]):
    def current(self) -> ProviderState:
        return self.get_or_create(pk=1)[0]

    def note_tick(self, by: str = "") -> None:
        """Record that a worker is running.

        ``by`` is the name of the worker. The worker calls this method once a minute.
        """
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
        """Pause calls with any key, and return False if they are already paused.

        An outage pauses only the calls of this machine, because its network might be the cause. If
        another machine also has an outage before any call succeeds, the calls of all machines are
        paused. The refusal of a key does not pause calls with other keys (see
        :meth:`ApiKeyQuerySet.refuse`).
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
            # The filter contains the values that were read. If another process starts a pause at
            # the same time, the state is read again.
            read = {"pause": state.pause, "paused_until": state.paused_until}
            by = state.machine_to_pause(reason, now)
            paused = {"paused_at": began, "paused_until": longest, "paused_by": by}
            if self.filter(pk=1, **read).update(pause=reason, pause_detail=detail, **paused):
                if reason != ProviderState.Pause.RATE:
                    # After any pause except a rate limit, a single call must try each key before
                    # parallel calls are made.
                    ApiKey.objects.doubt()
                return True
        if state.pause == reason:
            # Several answers may request a pause at the same time. The longest pause counts.
            self.filter(pk=1, pause=reason, paused_until__lt=until).update(paused_until=until)
        return False

    def resume(self) -> bool:
        """End every pause, and allow refused keys to be tried again.

        Returns False if there was neither a pause nor a refused key.
        """
        paused = self.filter(pk=1).exclude(pause="")
        is_on = ahead(
            "paused_until", timezone.now() - _STILL_TOLD, max_distance=LONGEST_PAUSE + _STILL_TOLD
        )
        # If two people end pauses simultaneously, the number of changed rows shows who was first.
        # The write comes first, because SQLite may fail a transaction that reads before it writes.
        was_paused = bool(paused.filter(is_on).update(pause="", paused_until=None))
        paused.update(pause="", paused_until=None)
        was_refused = ApiKey.objects.resume()
        ApiKey.objects.doubt()
        return was_paused or was_refused

    def note_queued(self) -> None:
        """Record that a task is waiting in the queue.

        If another task was already waiting, the record does not change.
        """
        self.filter(pk=1, queue_waits_since=None).update(queue_waits_since=timezone.now())

    def note_queue_read(self) -> None:
        """Record that a worker has taken a task from the queue."""
        self.filter(pk=1).exclude(queue_waits_since=None).update(queue_waits_since=None)

    def with_unread_queue(self, since: datetime) -> Self:
        """Return the row if queued tasks began to wait at ``since`` or earlier."""
        return self.filter(queue_waits_since__lte=since)

    def note_final_orders(self, counts: Mapping[str, int], *, until: datetime) -> None:
        """Store the number of final orders in each status.

        The numbers include the orders that became final at the time ``until`` or earlier.
        """
        self.filter(pk=1).update(final_orders=dict(counts), final_orders_until=until)

    # The balance.

    def claim_balance(self) -> bool:
        """Claim the task of reading the balance.

        Returns False if the reading is not due, or if another process has claimed it.
        """
        now = timezone.now()
        due = self.filter(past("balance_due_at", now, max_distance=BALANCE_EVERY), pk=1)
        return bool(due.update(balance_due_at=now + BALANCE_EVERY))

    def keep_balance(self, balance: Decimal, *, asked_at: datetime) -> None:
        """Store the balance unless a later balance is known.

        ``asked_at`` is the time when the app requested the balance.
        """
        age = timezone.now() - asked_at
        older = self.filter(past("balance_read_at", asked_at, max_distance=age), pk=1)
        older.update(balance=balance, balance_read_at=asked_at)

    def note_spending(self, amount: Decimal) -> None:
        # The limit prevents wrong amounts from the provider from overflowing the column.
        self.filter(pk=1).update(spent_lately=min(amount, LARGEST_AMOUNT))

    def doubt_balance(self, needed: Decimal | None) -> None:
        """Schedule an immediate reading of the balance.

        Call this method if the provider refused an order because the balance was too low.
        ``needed`` is the cost of the order in dinars, or ``None`` if it is unknown. The method does
        nothing if the known balance is lower than ``needed``, because the refusal is then correct.
        """
        row = self.filter(pk=1)
        if needed is not None:
            row = row.filter(Q(balance=None) | Q(balance__gte=min(needed, LARGEST_AMOUNT)))
        row.update(balance_due_at=None)

    def note_low_balance(self, state: ProviderState) -> bool:
        """Record that the balance is low.

        Returns False if the low balance was already recorded, or if a newer balance is known.
        """
        latest = self.filter(pk=1, balance_read_at=state.balance_read_at)
        return bool(latest.filter(low_balance_since=None).update(low_balance_since=timezone.now()))

    def forget_low_balance(self, state: ProviderState) -> None:
        """Record that the balance is not low, unless a newer balance is known."""
        self.filter(pk=1, balance_read_at=state.balance_read_at).update(low_balance_since=None)


class ProviderState(models.Model):
    """The provider's state, as last seen by any process, in a single row."""

    class Pause(models.TextChoices):
        ACCESS = "access", _("The provider refuses the API key or this server's address.")
        RATE = "rate", _("The provider asked for fewer requests.")
        OUTAGE = "outage", _("The provider does not answer.")

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)

    # The reason why calls with any key are paused, or "" if they are not paused. ACCESS means that
    # the IP address is blocked. The refusal of a key is recorded in ApiKey.
    pause = models.CharField(_("paused because"), max_length=10, blank=True, choices=Pause)
    pause_detail = models.TextField(_("detail"), blank=True)
    # The time when the pause began. Several pauses count as one if no call succeeded between them.
    paused_at = models.DateTimeField(_("paused at"), null=True)
    paused_until = models.DateTimeField(_("paused until"), null=True)
    # The machine whose calls are paused, or "" if the calls of all machines are paused.
    paused_by = models.CharField(max_length=_LONGEST_NAME, blank=True)

    # The number of consecutive sweeps without a successful call, on the machines that are paused.
    outages = models.PositiveIntegerField(default=0)

    balance = models.DecimalField(_("balance"), null=True, **MONEY)
    balance_read_at = models.DateTimeField(null=True)
    # The amount spent in the 24 hours before a worker last read the balance. NULL if no worker has
    # read it.
    spent_lately = models.DecimalField(null=True, **MONEY)
    # The time when the balance is to be read next. NULL if it is to be read now.
    balance_due_at = models.DateTimeField(null=True)
    # The time when the app recorded that the balance had become low. NULL if the balance is not
    # low.
    low_balance_since = models.DateTimeField(_("low balance since"), null=True)

    # The time until which the provider's list of orders is ignored. The app ignores the list after
    # a failed request, and if the list did not contain any of our orders.
    list_usable_at = models.DateTimeField(null=True)
    # The time of the last request for the list of orders. NULL if the list is not in use.
    list_read_at = models.DateTimeField(null=True)
    # The highest number of requests that recent readings of the list of orders needed after the
    # first page. For an incomplete reading, the number is estimated.
    list_questions = models.PositiveIntegerField(default=0)
    # The URL path for checks that last succeeded, or the path to try next. The path is "" at first.
    check_path = models.CharField(max_length=20, blank=True)
    succeeded_at = models.DateTimeField(_("last answer"), null=True)
    # The machine that received the provider's last answer.
    succeeded_by = models.CharField(max_length=_LONGEST_NAME, blank=True)
    failed_at = models.DateTimeField(_("last failure"), null=True)
    failure = models.TextField(_("details of the last failure"), blank=True)

    swept_at = models.DateTimeField(_("last sweep"), null=True)
    last_tick_at = models.DateTimeField(_("last tick"), null=True)
    # The program that last called `note_tick`, and its machine, such as "qcluster@web-2".
    last_tick_by = models.CharField(max_length=_LONGEST_NAME, blank=True)
    # The time when the current series of `note_tick` calls began. A series ends if there is no call
    # for 3 minutes.
    ticking_since = models.DateTimeField(null=True)
    # The stored form of `chores_record`.
    chores = models.JSONField(default=dict)

    # The time when tasks began to wait in the queue. NULL if a worker has taken a task since the
    # last task was queued.
    queue_waits_since = models.DateTimeField(null=True)

    # The number of final orders in each status, as counted by a worker. Only orders that were final
    # at ``final_orders_until`` are counted: see giftcards.watch.overview.orders_by_status. The time
    # is NULL if the orders were never counted.
    final_orders = models.JSONField(default=dict)
    final_orders_until = models.DateTimeField(null=True)

    # The end of the last complete purge of old codes. NULL if a purge has never been complete.
    purged_at = models.DateTimeField(null=True)
    # An unfinished purge continues with orders that were settled at this time or later. NULL if the
    # next purge starts with the oldest orders.
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
        """The rows of all API keys, which are read when they are first needed."""
        return ApiKey.objects.all()

    def is_paused(self, now: datetime) -> bool:
        """Return True if this machine's calls are paused, whichever key they use."""
        return self.is_of_this_machine and self._is_paused_anywhere(now)

    def is_cut_off(self, now: datetime) -> bool:
        """Return True if this machine's calls are paused because of an outage."""
        return self.pause == self.Pause.OUTAGE and self.is_paused(now)

    @property
    def is_of_this_machine(self) -> bool:
        """True if the last pause applies to the calls of this machine."""
        return self.paused_by in {"", this_machine()}

    def _is_paused_anywhere(self, now: datetime) -> bool:
        return bool(self.pause) and is_ahead(self.paused_until, now, max_distance=LONGEST_PAUSE)

    @property
    def is_of_one_machine(self) -> bool:
        """True if the last pause applies to one machine and another gets answers."""
        is_other = self.succeeded_by != self.paused_by
        return bool(self.paused_by) and is_other and self._has_answered_since(self.paused_at)

    def _has_answered_since(self, moment: datetime | None) -> bool:
        return moment is not None and self.succeeded_at is not None and self.succeeded_at > moment

    @property
    def was_blocked(self) -> bool:
        """True if the IP address was blocked and no call has succeeded since then."""
        if self.pause != self.Pause.ACCESS or self.paused_until is None:
            return False
        return self.succeeded_at is None or self.succeeded_at < self.paused_until

    def goes_on_with(self, reason: str, now: datetime) -> bool:
        """Return True if a new pause counts as part of the last pause.

        The last pause must have the given ``reason``, and must not have ended more than 10
        minutes ago. In addition, no call may have succeeded since the last pause began.
        """
        if reason != self.pause or self.paused_at is None:
            return False
        has_succeeded = self._has_answered_since(self.paused_at)
        return not has_succeeded and self._is_paused_anywhere(now - _AT_WORK)

    def machine_to_pause(self, reason: str, now: datetime) -> str:
        """Return the name of the machine that a pause for ``reason`` stops.

        The result is "" if the pause applies to all machines.
        """
        machine = this_machine()
        is_confirmed = self.goes_on_with(reason, now) and self.paused_by != machine
        return machine if reason == self.Pause.OUTAGE and not is_confirmed else ""

    def is_pause_told(self, now: datetime) -> bool:
        """Return True during a pause and for a minute after it.

        Returns False if staff have ended the pause.
        """
        return self._is_paused_anywhere(now) or self._is_paused_anywhere(now - _STILL_TOLD)

    def pause_end(self, now: datetime) -> datetime:
        return self.paused_until if self.paused_until and self._is_paused_anywhere(now) else now

    def is_out_of_service(self, now: datetime) -> bool:
        """Return True if orders probably cannot be sent in the next minutes."""
        is_refused = self.api_keys.holding_up(configured_key(), now) is not None
        is_paused = self._is_paused_anywhere(now) and not self.is_of_one_machine
        return is_refused or is_paused or self.is_failing(now)

    @property
    def paused_because(self) -> str:
        """The reason why calls are paused, or "" if they are not paused.

        The value is a :class:`Pause`. A pause still counts for one minute after its end. The reason
        is ``ACCESS`` if this process or another running process has stopped because the provider
        refused its key.
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
        """Explain why calls are paused, and what to do.

        The text is "" if calls are not paused.
        """
        now, own = timezone.now(), configured_key()
        refused = self.api_keys.holding_up(own, now)
        if refused and own in {None, refused.pk}:
            text = str(self.Pause.ACCESS.label)
            remedy = _(
                "Enter a working key in the settings, or run `manage.py giftcards_poll --resume`"
                " after the current key works again."
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
                    "Other servers can reach the provider and are doing the work of this server."
                    " Check this server's network connection."
                )
            return Explanation(text, go_on, _english(self.pause_detail))
        if refused:
            text = gettext(
                "A running process has a different API key, and the provider refuses that key."
            )
            remedy = _(
                "Enter a working key in the settings of that process, and restart the process."
            )
            return _for_developer(text, refused.refusal, remedy)
        return Explanation("")

    def why_paused(self) -> str:
        return self.explain_pause().for_developers

    def explain(self) -> str:
        """Return a message for developers about the pause, or "In service.".

        The message says why calls are paused and what to do.
        """
        return self.why_paused() or gettext("In service.")

    def is_balance_due(self, now: datetime) -> bool:
        return not is_ahead(self.balance_due_at, now, max_distance=BALANCE_EVERY)

    @property
    def is_balance_low(self) -> bool:
        limit = conf.low_balance
        return limit is not None and self.balance is not None and self.balance < limit

    def is_ticking(self, now: datetime) -> bool:
        """Return True if a worker is running.

        A running worker has called :meth:`~ProviderStateQuerySet.note_tick` in the last 3 minutes.
        """
        return is_recent(self.last_tick_at, now, period=_SIGN_HOLDS)

    @property
    def chores_ended_at(self) -> datetime | None:
        """The earliest time at which one of the chores last ended.

        After this time, every chore has ended at least once. The value is ``None`` if a chore has
        never ended.
        """
        ended = self.chores_record[1].values()
        return None if None in ended else min(filter(None, ended), default=None)

    def overdue_chores(self, now: datetime) -> list[str]:
        """Return the chores that have not ended within the last hour.

        The result is empty unless workers have been running during the whole hour.
        """
        if not self.is_ticking(now) or is_recent(self.ticking_since, now, period=_CHORES_WITHIN):
            return []
        times = self.chores_record[1].items()
        return [name for name, at in times if not is_recent(at, now, period=_CHORES_WITHIN)]

    @property
    def chores_record(self) -> tuple[str, dict[str, datetime | None]]:
        """The chore that began last, and the time when each chore last ended."""
        times = sorted(self.chores.get("ended", {}).items())
        ended = {name: at and datetime.fromisoformat(at) for name, at in times}
        return self.chores.get("begun", ""), ended

    def is_failing(self, now: datetime) -> bool:
        """Return True if all requests have failed for some minutes.

        Failures that have lasted for a shorter time are ignored.
        """
        is_lasting = not is_recent(self.succeeded_at, now, period=_DISTURBANCE)
        return is_lasting and self.fails_in_a_row(now)

    def explain_silence(self) -> str:
        """Return a sentence for staff if the provider cannot be reached, or "".

        If the provider refuses calls, the sentence says so. The sentence reports an outage if the
        last sweep has failed and the failure is not limited to one machine.
        """
        if self.paused_because == self.Pause.ACCESS:
            return str(self.Pause.ACCESS.label)
        is_away = self.outages and not self.is_of_one_machine
        return str(self.Pause.OUTAGE.label) if is_away else ""

    def fails_in_a_row(self, now: datetime) -> bool:
        """Return True if several consecutive sweeps have failed.

        Also returns True if the provider has reported too many requests.
        """
        is_slowed_down = self.pause == self.Pause.RATE and self.is_pause_told(now)
        return is_slowed_down or self.outages >= _FEW_OUTAGES

    @property
    def environment(self) -> str:
        """The environment of the API key in the settings, or "" if it is unknown."""
        key = ApiKey.objects.filter(pk=configured_key()).first()
        return key.environment if key else ""

    def is_queue_read(self, now: datetime) -> bool:
        """Return False if tasks have been in the queue for several minutes."""
        waits_since = self.queue_waits_since
        return waits_since is None or is_recent(waits_since, now, period=_SIGN_HOLDS)

    def explain_worker(self, now: datetime) -> Explanation:
        """Return an explanation for staff if no worker seems to be running.

        The explanation is empty if a worker is running.
        """
        heartbeats = (self.last_tick_at, self.swept_at)
        if not any(heartbeats):
            text = gettext("Background work has not started yet.")
            return Explanation(text, str(ASK_DEVELOPER), str(_START_WORKER))
        if any(is_recent(at, now, period=_SIGN_HOLDS) for at in heartbeats):
            return Explanation("")
        text = gettext(
            "Background work has stopped. The workers have not reported for more than 3 minutes."
        )
        last = gettext("The last worker that reported was %(worker)s.") % {
            "worker": self.last_tick_by
        }
        hint = f"{last} {_START_WORKER}" if self.last_tick_by else str(_START_WORKER)
        return Explanation(text, str(ASK_DEVELOPER), hint)

    def worker_problem(self, now: datetime) -> str:
        return self.explain_worker(now).for_developers


def _for_developer(text: str, refusal: str, remedy: Any) -> Explanation:
    hint = " ".join(filter(None, (_english(refusal), str(remedy))))
    return Explanation(text, str(ASK_DEVELOPER), hint)


class Desk(ProviderState):
    """The start page of staff.

    This model does not have rows. The model exists so that the menus of the admin list the page.
    """

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = _("At a glance")
        # The admin sorts its menu by name. In each language, the first letter of this name puts it
        # above the other entries.
        verbose_name_plural = _("At a glance")


def _english(text: str) -> str:
    """Prepare the English ``text`` for a page in the active language.

    If the language is written from right to left, the text is enclosed in directional isolates.
    """
    return f"\u2068{text}\u2069" if text and get_language_bidi() else text
