"""The rows: orders, their cards, their history, and what processes remember of the provider.

Questions live on the querysets, changes on the rows. A change of status is one conditional UPDATE
whose row count says who won; nobody else assigns ``status``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, Self

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models import Exists, F, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_variables

from giftcards.cards import CardSecret
from giftcards.crypto import Keyring
from giftcards.fields import ExactCharField
from giftcards.statuses import ACCEPTED, FINAL, FOLLOWED, SETTLED, URGENT, Status, check_move

# More cards than this in one order would not fit into the largest answer the client reads.
MAX_QUANTITY = 2_000

# These travel in addresses, logs and terminals: no spaces, no control or bidirectional characters.
plain_text = RegexValidator(
    r"\A[!-~]+\Z", _("Use letters, digits and punctuation only, without spaces.")
)


def new_reference() -> str:
    return str(uuid.uuid4())


class OrderQuerySet(models.QuerySet["Order"]):
    def urgent(self) -> Self:
        """Orders that need the loop: they move within seconds, not minutes."""
        return self.filter(status__in=URGENT)

    def unclaimed(self, now: datetime) -> Self:
        """Orders that no process is working on (a claim ends when its lease has run out)."""
        return self.filter(Q(claimed_until=None) | Q(claimed_until__lte=now))

    def chores(self, now: datetime, *, poll_timeout: timedelta) -> Self:
        """Orders that something has to be done about other than asking, the oldest first.

        To be sent; lost by the process that was sending them; not settled in time; to be looked
        for at the provider.
        """
        return (
            self.unclaimed(now)
            .filter(
                Q(status__in=[Status.PENDING, Status.UNCONFIRMED], due_at__lte=now)
                | Q(status=Status.PLACING)
                | Q(status=Status.HANDLING, accepted_at__lte=now - poll_timeout)
            )
            .order_by("due_at", "pk")
        )

    def to_send(self, now: datetime) -> Self:
        """Orders that are to be sent by now, the one that waits longest first."""
        waiting = self.filter(status=Status.PENDING, due_at__lte=now)
        return waiting.unclaimed(now).order_by("due_at", "pk")

    def to_check(self, *, now: datetime, due_by: datetime) -> Self:
        """Accepted orders that are due by ``due_by``, fresh ones before late ones."""
        due = self.filter(status__in=FOLLOWED, due_at__lte=due_by)
        # HANDLING sorts after DELAYED.
        return due.unclaimed(now).order_by("-status", "due_at", "pk")

    def known_as(self, names: Iterable[str]) -> Self:
        """Orders that the provider calls by one of ``names``, in a list or anywhere else."""
        names = set(names) - {""}
        return self.filter(Q(provider_order_id__in=names) | Q(provider_alias__in=names))

    def needing_attention(self) -> Self:
        """Orders that staff have to look at."""
        return self.exclude(problem="")

    def check_soon(self, *, now: datetime, interval: timedelta) -> int:
        """Make these orders due now; return how many.

        Leaves alone those that are not at the provider, that were asked about within ``interval``,
        or are being asked about.
        """
        return (
            self.filter(status__in=FOLLOWED)
            .filter(Q(checked_at=None) | Q(checked_at__lte=now - interval))
            .unclaimed(now)
            .update(due_at=now)
        )

    def count_by_status(self) -> dict[str, int]:
        """How many orders are in each status, the ones without any included."""
        counts = self.order_by().values_list("status").annotate(models.Count("pk"))
        return dict.fromkeys(Status.values, 0) | dict(counts)

    def claim(
        self, wanted: Sequence[Order], *, now: datetime, due_by: datetime, until: datetime
    ) -> list[Order]:
        """Claim these orders, read a moment ago by :meth:`to_check`, for this process.

        One guarded UPDATE decides between processes; an order that another one took first is not
        returned. The claim ends at ``until`` if it is neither renewed nor given back before.
        """
        token = uuid.uuid4().hex
        rows = self.filter(pk__in=[order.pk for order in wanted])
        free = rows.filter(status__in=FOLLOWED, due_at__lte=due_by).unclaimed(now)
        if free.update(claim=token, claimed_until=until) < len(wanted):
            return list(rows.filter(claim=token))
        for order in wanted:
            order.claim, order.claimed_until = token, until
        return list(wanted)

    def move_all(
        self, origin: Status, target: Status, *, source: StatusChange.Source, **values: Any
    ) -> int:
        """Move those of these orders that are in ``origin`` to ``target``; return how many.

        Only for orders that nobody has claimed: it takes their claim to know them again. Not for
        final targets, which each order reaches with figures of its own.
        """
        check_move(origin, target)
        token = uuid.uuid4().hex
        with transaction.atomic(using=self.db):
            moved = self.filter(status=origin).update(
                status=target, claim=token, claimed_until=None, **values
            )
            if moved:
                StatusChange.objects.bulk_create(
                    StatusChange(order=order, from_status=origin, to_status=target, source=source)
                    for order in Order.objects.filter(claim=token)
                )
        return moved


class Order(models.Model):
    """One line bought from the provider: a product, a type (denomination), a quantity."""

    reference: models.CharField[str, str] = ExactCharField(
        _("reference"),
        max_length=100,
        unique=True,
        validators=[plain_text],
        default=new_reference,
        help_text=_("Your own unique name for the order. Reusing it never buys twice."),
    )
    product_id: models.CharField[str, str] = ExactCharField(
        _("product"), max_length=100, validators=[plain_text]
    )
    type_id: models.CharField[str, str] = ExactCharField(
        _("type"),
        max_length=100,
        validators=[plain_text],
        help_text=_("The denomination, as the provider's catalogue names it."),
    )
    quantity = models.PositiveIntegerField(
        _("quantity"),
        validators=[
            MinValueValidator(1),
            MaxValueValidator(MAX_QUANTITY),
        ],
    )
    sale_price = models.DecimalField(
        _("sale price"),
        max_digits=14,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(Decimal(0))],
        help_text=_("What your customer pays for one card; optional."),
    )
    customer_email = models.EmailField(_("customer e-mail"), blank=True, db_index=True)
    customer_language = models.CharField(
        _("customer language"), max_length=20, blank=True, validators=[plain_text]
    )

    status = models.CharField(
        _("status"), max_length=20, choices=Status, default=Status.PENDING, editable=False
    )
    # NULL until the provider has named the order, so that the constraint can be unique.
    provider_order_id: models.CharField[str | None, str | None] = ExactCharField(
        _("provider's order id"), max_length=100, null=True, unique=True, editable=False
    )
    # The `_id` of its answers, where that is not the order id: rows of a list may carry either.
    provider_alias: models.CharField[str, str] = ExactCharField(
        max_length=100, blank=True, db_index=True, editable=False
    )
    # Its id was learnt from the list, and asking about it by that id found nothing.
    is_only_listed = models.BooleanField(default=False, editable=False)
    fulfilled_quantity = models.PositiveIntegerField(_("delivered"), default=0, editable=False)
    fulfilled_amount = models.DecimalField(
        _("charged"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    price_per_card = models.DecimalField(
        _("price per card"), max_digits=14, decimal_places=2, null=True, editable=False
    )
    problem = models.TextField(
        _("needs attention"),
        blank=True,
        editable=False,
        help_text=_("What could not be believed or done the last time; empty when all is well."),
    )

    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    sent_at = models.DateTimeField(_("sent"), null=True, editable=False)
    accepted_at = models.DateTimeField(_("accepted"), null=True, editable=False)
    checked_at = models.DateTimeField(_("last checked"), null=True, editable=False)
    settled_at = models.DateTimeField(_("settled"), null=True, editable=False)
    # Since when it has been waiting to be sent: not for ever.
    queued_at = models.DateTimeField(default=timezone.now, editable=False)
    # When to send (PENDING), to ask (HANDLING, DELAYED) or to look for it at the provider
    # (UNCONFIRMED) next; NULL: not by itself.
    due_at = models.DateTimeField(null=True, default=timezone.now, editable=False)
    # Consecutive tries to send or to ask that failed.
    failures = models.PositiveIntegerField(default=0, editable=False)
    # UNCONFIRMED: when it was first not found at the provider; and, where more was found than can
    # be told apart, what a person has to choose from.
    absent_since = models.DateTimeField(null=True, editable=False)
    candidates = models.JSONField(default=list, blank=True, editable=False)
    # Which process works on the order, and until when that holds.
    claim = models.CharField(max_length=32, blank=True, editable=False)
    claimed_until = models.DateTimeField(null=True, editable=False)

    objects = OrderQuerySet.as_manager()

    class Meta:
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        ordering = ("-created_at", "-pk")
        indexes = (
            models.Index(fields=("-created_at", "-id"), name="giftcards_order_newest"),
            models.Index(fields=("status", "due_at"), name="giftcards_order_due"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=Status.values), name="giftcards_order_status"
            ),
            models.CheckConstraint(
                condition=Q(quantity__gte=1, quantity__lte=MAX_QUANTITY),
                name="giftcards_order_quantity",
            ),
            models.CheckConstraint(
                condition=Q(fulfilled_quantity__gte=0, fulfilled_quantity__lte=F("quantity")),
                name="giftcards_order_fulfilled_quantity",
            ),
            models.CheckConstraint(
                condition=Q(status__in=FINAL, settled_at__isnull=False)
                | (~Q(status__in=FINAL) & Q(settled_at__isnull=True)),
                name="giftcards_order_final_is_settled",
            ),
            # The other way round as well: what the provider has named is never sent again.
            models.CheckConstraint(
                condition=Q(
                    status__in=ACCEPTED, provider_order_id__isnull=False, accepted_at__isnull=False
                )
                | ~Q(status__in=ACCEPTED)
                & Q(provider_order_id__isnull=True, accepted_at__isnull=True),
                name="giftcards_order_accepted_is_named",
            ),
            models.CheckConstraint(
                condition=~Q(status__in=SETTLED)
                | Q(status=Status.FULFILLED, fulfilled_quantity=F("quantity"))
                | Q(
                    status=Status.PARTIALLY_FILLED,
                    fulfilled_quantity__gt=0,
                    fulfilled_quantity__lt=F("quantity"),
                )
                | Q(status=Status.REFUNDED, fulfilled_quantity=0),
                name="giftcards_order_settled_is_whole",
            ),
            models.CheckConstraint(
                condition=~Q(reference="") & ~Q(product_id="") & ~Q(type_id=""),
                name="giftcards_order_line_is_named",
            ),
            models.CheckConstraint(
                condition=Q(price_per_card__isnull=True) | Q(price_per_card__gte=0),
                name="giftcards_order_price",
            ),
            models.CheckConstraint(
                condition=Q(fulfilled_amount__isnull=True) | Q(fulfilled_amount__gte=0),
                name="giftcards_order_charged",
            ),
            models.CheckConstraint(
                condition=Q(sale_price__isnull=True) | Q(sale_price__gte=0),
                name="giftcards_order_sale_price",
            ),
        )

    def __str__(self) -> str:
        return self.reference

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_settled(self) -> bool:
        """Final, and known to the provider: cards and money are what they will be."""
        return self.status in SETTLED

    def is_lost(self, now: datetime) -> bool:
        """Whether the process that was sending it has died."""
        return self.claimed_until is None or self.claimed_until <= now

    def move(
        self,
        target: Status,
        *,
        source: StatusChange.Source,
        detail: str = "",
        **values: Any,
    ) -> StatusChange | None:
        """Move to ``target``, setting the columns ``values`` with it, and record the change.

        ``None`` if the row is not where this instance saw it last: another process was first, and
        nothing was changed. A move that the table does not allow is a programming error.
        """
        origin = Status(self.status)
        check_move(origin, target)
        if target in FINAL:
            values |= {"settled_at": timezone.now(), "due_at": None}
        values = {"claimed_until": None, **values, "status": target}
        change = StatusChange(
            order=self, from_status=origin, to_status=target, source=source, detail=detail
        )
        with transaction.atomic():
            row = Order.objects.filter(pk=self.pk, status=origin, claim=self.claim)
            if not row.update(**values):
                return None
            change.save(force_insert=True)
        for name, value in values.items():
            setattr(self, name, value)
        return change


class CardQuerySet(models.QuerySet["Card"]):
    @sensitive_variables()
    def with_code(self, text: str) -> Self:
        """Cards whose full code or serial is ``text``, found without opening any.

        Case, spaces and dashes do not matter. Looks under every key of the list.
        """
        keyring = Keyring.from_settings()
        return self.filter(
            Q(value_fingerprint__in=keyring.value_fingerprints(text))
            | Q(serial_fingerprint__in=keyring.serial_fingerprints(text))
        )

    def with_repeats(self) -> Self:
        """Annotate ``is_repeated``: the same code was delivered on another card as well."""
        twins = Card.objects.filter(value_fingerprint=OuterRef("value_fingerprint"))
        return self.annotate(is_repeated=Exists(twins.exclude(pk=OuterRef("pk"))))


class Card(models.Model):
    """One delivered code. The row, and so every copy of it, holds ciphertext only."""

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.PROTECT, related_name="cards"
    )
    # From 1, in the order in which the cards first came.
    position = models.PositiveIntegerField(_("card"))
    sealed = models.TextField(editable=False)
    # HMACs with keys of their own: of exactly this card; and of code and serial, for searching.
    identity = models.CharField(max_length=64, editable=False)
    value_fingerprint = models.CharField(max_length=64, editable=False, db_index=True)
    serial_fingerprint = models.CharField(max_length=64, blank=True, editable=False, db_index=True)
    received_at = models.DateTimeField(_("received"), default=timezone.now, editable=False)

    objects = CardQuerySet.as_manager()

    class Meta:
        verbose_name = _("card")
        verbose_name_plural = _("cards")
        ordering = ("order", "position")
        constraints = (
            models.UniqueConstraint(
                fields=("order", "position"), name="giftcards_card_order_position"
            ),
            models.CheckConstraint(
                condition=Q(position__gte=1) & ~Q(sealed="") & ~Q(value_fingerprint=""),
                name="giftcards_card_is_sealed",
            ),
        )

    def __str__(self) -> str:
        return str(_("card %(position)s") % {"position": self.position})

    @property
    def value(self) -> str:
        """The code in the clear; :exc:`~giftcards.exceptions.DecryptionError` if it won't open."""
        return self._open().value

    @property
    def serial(self) -> str:
        """The serial in the clear, ``""`` if there is none; raises like :attr:`value`."""
        return self._open().serial

    def _open(self) -> CardSecret:
        return Keyring.from_settings().open(self.sealed, reference=self.order.reference)


class StatusChangeQuerySet(models.QuerySet["StatusChange"]):
    def to_announce(self, now: datetime) -> Self:
        """Changes that some receiver has to be told of by now."""
        return self.filter(announce_at__lte=now)

    def given_up(self) -> Self:
        """Changes that some receiver has not taken, and is not told of again."""
        return self.filter(announced_at=None, announce_at=None)


class StatusChange(models.Model):
    """One move of an order: its history, and the outbox of the shop's receivers.

    ``announced_at`` is NULL until all receivers of :mod:`giftcards.signals` have taken it.
    """

    class Source(models.TextChoices):
        PLACING = "placing", _("Sending")
        CHECK = "check", _("Answer of the provider")
        CLOCK = "clock", _("Time limit")
        RECOVERY = "recovery", _("Recovery")
        STAFF = "staff", _("Staff")

    order = models.ForeignKey(
        Order, verbose_name=_("order"), on_delete=models.CASCADE, related_name="changes"
    )
    from_status = models.CharField(_("from"), max_length=20, choices=Status)
    to_status = models.CharField(_("to"), max_length=20, choices=Status)
    at = models.DateTimeField(_("when"), default=timezone.now)
    source = models.CharField(_("because of"), max_length=20, choices=Source)
    detail = models.TextField(_("detail"), blank=True)
    announced_at = models.DateTimeField(_("announced"), null=True, editable=False)
    # When to announce it next; NULL: done, or given up.
    announce_at = models.DateTimeField(
        null=True, default=timezone.now, db_index=True, editable=False
    )
    # The receivers that have taken it, by name; NULL: nobody has been told yet.
    heard = models.JSONField(null=True, editable=False)
    announce_failures = models.PositiveIntegerField(default=0, editable=False)
    announce_error = models.TextField(_("announcement failed"), blank=True, editable=False)

    objects = StatusChangeQuerySet.as_manager()

    class Meta:
        verbose_name = _("status change")
        verbose_name_plural = _("status changes")
        ordering = ("pk",)

    def __str__(self) -> str:
        return f"{self.from_status} → {self.to_status}"


# What only one process does at a time: running the loop, announcing changes, finding out with one
# call whether the provider accepts the key.
Lease = Literal["loop", "outbox", "probe"]
# How long a key is taken for good after the provider has accepted it. Short, because one that is
# revoked meanwhile is refused to several requests at once; longer than from one tick to the next.
_PROOF_HOLDS = timedelta(minutes=2)


class ProviderStateQuerySet(models.QuerySet["ProviderState"]):
    def current(self) -> ProviderState:
        """The one row; made when it is first asked for."""
        return self.get_or_create(pk=1)[0]

    def take_lease(self, name: Lease, *, now: datetime, length: timedelta) -> str | None:
        """Become the one process that has the lease: its token, or ``None`` if there is one."""
        self.current()
        token = uuid.uuid4().hex
        until = f"{name}_until"
        free = self.filter(Q(**{until: None}) | Q(**{f"{until}__lte": now}), pk=1)
        taken = free.update(**{f"{name}_token": token, until: now + length})
        return token if taken else None

    def keep_lease(self, name: Lease, token: str, *, now: datetime, length: timedelta) -> bool:
        """Renew the lease; false if another process has it by now."""
        held = self.filter(pk=1, **{f"{name}_token": token})
        return bool(held.update(**{f"{name}_until": now + length}))

    def release_lease(self, name: Lease, token: str) -> None:
        self.filter(pk=1, **{f"{name}_token": token}).update(**{f"{name}_until": None})

    def take_kick(self, *, now: datetime, lease: timedelta) -> bool:
        """Whether a sweep has to be queued: no loop is running, and nobody has just queued one."""
        self.current()
        return bool(
            self.filter(
                Q(loop_until=None) | Q(loop_until__lte=now),
                Q(kicked_at=None) | Q(kicked_at__lte=now - lease),
                pk=1,
            ).update(kicked_at=now)
        )

    def pause(
        self,
        reason: ProviderState.Pause,
        *,
        detail: str,
        until: datetime | None,
        key: str,
    ) -> bool:
        """Stop every call to the provider; false if another process has done so already.

        ``until=None``: until another key than the one with the fingerprint ``key`` is in the
        settings, or a person resumes.
        """
        now = timezone.now()
        values = {
            "pause": reason,
            "pause_detail": detail,
            "paused_at": now,
            "paused_until": until,
            "paused_key": key,
        }
        if reason != ProviderState.Pause.RATE:
            # Who is told to wait has a good key; after anything else, one call goes first.
            values["proven_key"] = ""
        while True:
            state = self.current()
            # A refused key outranks a wait of a minute.
            is_worse = reason == ProviderState.Pause.ACCESS and state.pause != reason
            if state.is_paused(key=key, now=now) and not is_worse:
                break
            # Another process may have begun a pause at the same moment: then look again.
            if self.filter(pk=1, paused_at=state.paused_at).update(**values):
                return True
        if until is not None and state.pause == reason:
            # The longest of several answers that were under way counts.
            self.filter(pk=1, pause=reason, paused_until__lt=until).update(paused_until=until)
        return False

    def resume(self) -> bool:
        """End the pause; false if there was none."""
        paused = self.filter(pk=1).exclude(pause="")
        return bool(paused.update(pause="", paused_until=None, proven_key=""))


class ProviderState(models.Model):
    """What the processes of a shop share about the provider: one row."""

    class Pause(models.TextChoices):
        ACCESS = "access", _("The provider refuses the API key or this server's address.")
        RATE = "rate", _("The provider asked for fewer requests.")
        OUTAGE = "outage", _("The provider does not answer.")

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)

    # Why all calls are stopped; "" when they are not.
    pause = models.CharField(_("paused because"), max_length=10, blank=True, choices=Pause)
    pause_detail = models.TextField(_("detail"), blank=True)
    paused_at = models.DateTimeField(_("paused at"), null=True)
    paused_until = models.DateTimeField(_("paused until"), null=True)
    # Fingerprint of the API key that was refused: a new key ends the pause by itself.
    paused_key = models.CharField(max_length=16, blank=True)

    # Consecutive sweeps in which no call succeeded.
    outages = models.PositiveIntegerField(default=0)

    # When the request budget will be unspent again; see giftcards.gateway.
    budget_at = models.DateTimeField(null=True)
    # The list of orders is of no use before this moment: it failed, or showed none of ours.
    list_at = models.DateTimeField(null=True)
    # The spelling of the check path that answered last, or is to be tried next; "" at first.
    check_path = models.CharField(max_length=20, blank=True)
    succeeded_at = models.DateTimeField(_("last answer"), null=True)
    # Fingerprint of the API key that was accepted last; "" once that may have changed.
    proven_key = models.CharField(max_length=16, blank=True)
    failed_at = models.DateTimeField(_("last failure"), null=True)
    failure = models.TextField(_("last failure's text"), blank=True)

    loop_token = models.CharField(max_length=32, blank=True)
    loop_until = models.DateTimeField(null=True)
    kicked_at = models.DateTimeField(null=True)
    outbox_token = models.CharField(max_length=32, blank=True)
    outbox_until = models.DateTimeField(null=True)
    probe_token = models.CharField(max_length=32, blank=True)
    probe_until = models.DateTimeField(null=True)
    swept_at = models.DateTimeField(_("last sweep"), null=True)
    ticked_at = models.DateTimeField(_("last tick"), null=True)

    objects = ProviderStateQuerySet.as_manager()

    class Meta:
        verbose_name = _("provider's state")
        verbose_name_plural = _("provider's state")
        constraints = (
            models.CheckConstraint(condition=Q(pk=1), name="giftcards_providerstate_one_row"),
        )

    def __str__(self) -> str:
        return str(self.get_pause_display()) if self.pause else str(_("in service"))

    def is_paused(self, *, key: str, now: datetime) -> bool:
        """Whether calls are stopped, for the API key with the fingerprint ``key``."""
        if not self.pause:
            return False
        if self.pause == self.Pause.ACCESS and self.paused_key != key:
            return False
        return self.paused_until is None or self.paused_until > now

    def is_proven(self, *, key: str, now: datetime) -> bool:
        """Whether the API key with the fingerprint ``key`` was accepted a moment ago."""
        if self.proven_key != key or self.succeeded_at is None:
            return False
        return now - self.succeeded_at < _PROOF_HOLDS

    def explain(self) -> str:
        """The state of the line to the provider, in words for staff."""
        if not self.pause or (self.paused_until and self.paused_until <= timezone.now()):
            return str(_("In service."))
        remedy = _("Calls go on by themselves.")
        if self.pause == self.Pause.ACCESS:
            remedy = _(
                "Put a working key into the settings, or run"
                " `manage.py giftcards_poll --resume` once it works again."
            )
        return f"{self.get_pause_display()} {self.pause_detail} {remedy}"

    def worker_problem(self, now: datetime) -> str:
        """Why nobody follows the orders, in words for staff; "" if somebody does."""
        signs = [at for at in (self.ticked_at, self.swept_at) if at]
        if not signs:
            return str(_("No worker has run yet: start `manage.py qcluster`."))
        if now - max(signs) > timedelta(minutes=3):
            return str(
                _("The worker is down: there has been no sign of it for more than 3 minutes.")
            )
        return ""
