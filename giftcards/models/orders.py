"""Orders, with their queries and their status changes.

Queries are methods of the queryset, and changes are methods of the row. Only this module assigns
``status``. Each change is a single UPDATE that finds the row only if no other process has changed
it since it was read. The number of updated rows shows whether the change was made.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Self, TypedDict, Unpack, cast

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import DEFAULT_DB_ALIAS, IntegrityError, models, router, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from giftcards.exceptions import ConfigurationError, ReferenceConflict
from giftcards.models.catalogue import Names, Product
from giftcards.models.fields import (
    MONEY,
    ExactCharField,
    ExactEmailField,
    MomentField,
    PlainTextField,
    assign,
    complaint_about_metadata,
    has_digits,
    is_same_json,
    new_reference,
    plain_line,
)
from giftcards.models.history import Acknowledgement, StatusChange
from giftcards.models.order_queries import (
    NEEDING_ATTENTION,
    ON_HOLD_FOR_PRICE,
    ON_HOLD_FOR_REVIEW,
    OrderQueries,
    batches,
)
from giftcards.models.provider import ApiKey, Environment
from giftcards.models.searching import OrderTerm
from giftcards.rules.ceiling import price_ceiling
from giftcards.rules.money import final_figures
from giftcards.rules.problems import Entry, Problem, history, revise
from giftcards.rules.states import (
    ACCEPTED,
    FINAL,
    FOLLOWED,
    SETTLED,
    STATES,
    Kind,
    Review,
    Status,
    check_move,
)
from giftcards.rules.times import LONGEST_HOLD, ahead, is_ahead, past
from giftcards.text.search_terms import SEARCHED

# If an order had more cards, the provider's answer about it would exceed the client's size limit.
MAX_QUANTITY = 2_000

# SQLite allows at most 32,766 parameters in a statement.
_MOVED_AT_ONCE = 1_000

_not_negative = MinValueValidator(Decimal(0))
# A string of these characters is safe in URLs, logs and terminals.
plain_text = RegexValidator(
    r"\A[!-~]+\Z", _("Use letters, digits and punctuation only, without spaces.")
)

OF_CUSTOMER = ("customer_email", "customer_name", "customer_phone", "customer_language")
OF_RECIPIENT = ("recipient_email", "recipient_name", "recipient_language")
#: The columns that describe a gift. They are empty in orders that are not gifts.
OF_GIFT = (*OF_RECIPIENT, "gift_message", "deliver_at")
#: The columns that can be corrected. Other values from the caller cannot be corrected.
CORRECTABLE = (*OF_CUSTOMER, *OF_GIFT)
# The columns with values from the caller, except the reference, the user, the metadata and
# CORRECTABLE.
_TEXTS = ("product_id", "type_id", "group")
_LINE = (*_TEXTS, "quantity")
_AMOUNTS = ("sale_price", "sale_amount", "max_price")
# A delivery time further in the future than this is treated as a typing error.
_LONGEST_AHEAD = timedelta(days=366)


class OrderQuerySet(OrderQueries["Order"]):
    def of_user(self, user: Any) -> Self:
        """Return the orders that ``user`` owns.

        The result is empty for guests, for deactivated users, and for users of a model other than
        ``AUTH_USER_MODEL``, because users of two models can have the same primary key.
        """
        is_owner = _is_account(user) and user.is_authenticated and getattr(user, "is_active", True)
        return self.filter(user=user) if is_owner else self.none()

    def with_reorders(self) -> OrderQuerySet:
        """Return these orders and all orders that replace their missing cards.

        The queryset must not be sliced.
        """
        found = set(self.order_by().values_list("pk", flat=True))
        newest: Collection[int] = found
        while newest:
            rows = (Order.objects.filter(repeats__in=some).order_by() for some in batches(newest))
            newest = {key for some in rows for key in some.values_list("pk", flat=True)}
            found |= newest
        return Order.objects.filter(pk__in=found)

    def record(self, order: Order) -> Order:
        """Insert ``order``, or return the existing order with the same reference.

        Raises the same errors as :func:`~giftcards.fulfilment.place_order`.
        """
        if router.db_for_write(Order) != DEFAULT_DB_ALIAS:
            raise ConfigurationError(
                "Orders are routed to a database other than 'default', so an order would still"
                " be bought if the transaction that placed it were rolled back. Run `manage.py"
                " check`."
            )
        order.check_values()
        try:
            with transaction.atomic():
                order.save(force_insert=True)
                # The catalogue is read after the INSERT, because SQLite may fail a transaction that
                # reads before it writes.
                recorded = Product.objects.recorded(order.product_id, order.type_id)
                if any(recorded):
                    assign(order, recorded._asdict())
                    order.save(update_fields=recorded._fields)
                else:
                    order.check_product()
        except IntegrityError:
            known = self.filter(reference=order.reference).first()
            if known is None:
                raise
            if not known.was_given_as(order):
                # The error does not describe the other order, because the caller may not be allowed
                # to see it.
                raise ReferenceConflict(
                    gettext(
                        "The reference %(reference)s is already used for another order, or for the"
                        " same order with different details. Use a new reference for a new order."
                        " To repeat an order, pass exactly the same details as the first time."
                    )
                    % {"reference": order.reference}
                ) from None
            return known
        order.is_new = True
        return order

    def checkable(self, *, now: datetime, interval: timedelta) -> Self:
        """Return accepted orders that can be checked now.

        These orders are unclaimed, and were not checked within ``interval``.
        """
        rested = past("checked_at", now - interval, max_distance=interval)
        return self.filter(rested, status__in=FOLLOWED).unclaimed(now)

    def check_soon(self, *, now: datetime, interval: timedelta) -> int:
        """Make the :meth:`checkable` orders due now, and return their number."""
        return self.checkable(now=now, interval=interval).update(due_at=now)

    def want_check(self, *, now: datetime, interval: timedelta) -> int:
        """Request an immediate check of accepted orders, and return their number.

        An order is left out if its last check, or the last call of this method for the order, was
        less than one ``interval`` ago. If an order is being checked now, it becomes due again after
        that check (see :func:`due_after_check`).
        """
        rested = [
            past(name, now - interval, max_distance=interval)
            for name in ("checked_at", "check_wanted_at")
        ]
        # If an order is already due, it keeps its due time, and therefore its place in the queue.
        is_to_wait = Q(due_at=None) | Q(due_at__gt=now)
        hurried = models.When(is_to_wait, then=models.Value(now))
        return self.filter(*rested, status__in=FOLLOWED).update(
            check_wanted_at=now, due_at=models.Case(hurried, default=F("due_at"))
        )

    def claim(
        self, wanted: Sequence[Order], *, now: datetime, due_by: datetime, until: datetime
    ) -> list[Order]:
        """Claim orders that :meth:`to_check` has just returned.

        Returns the orders that were claimed. An order is not claimed if another process has claimed
        it. An order is also not claimed if the provider's id of the order has changed since it was
        read, because the check would then use the old id.
        """
        token = uuid.uuid4().hex
        rows = self.filter(pk__in=[order.pk for order in wanted]).order_by()
        ids = [order.provider_order_id for order in wanted]
        free = rows.filter(status__in=FOLLOWED, due_at__lte=due_by, provider_order_id__in=ids)
        free = free.unclaimed(now)
        if free.update(claim=token, claimed_until=until) < len(wanted):
            return list(rows.filter(claim=token))
        for order in wanted:
            order.claim, order.claimed_until = token, until
        return list(wanted)

    def move_all(
        self, origin: Status, target: Status, *, source: StatusChange.Source, **values: Any
    ) -> int:
        """Change the status of up to 1,000 orders, and return their number.

        The status changes from ``origin`` to ``target``. The orders must be unclaimed, because the
        method writes a token to ``claim``, by which it identifies the rows that were moved.
        ``target`` must not be final, because a final status requires separate figures for each
        order.
        """
        check_move(origin, target)
        token = uuid.uuid4().hex
        # The keys are read before the transaction, because SQLite may fail a transaction that reads
        # before it writes.
        found = self.filter(status=origin).order_by().values_list("pk", flat=True)
        keys = list(found[:_MOVED_AT_ONCE])
        if not keys:
            return 0
        with transaction.atomic(using=self.db):
            moved = self.filter(pk__in=keys, status=origin).update(
                status=target, claim=token, claimed_until=None, **values
            )
            if moved < len(keys):
                rows = Order.objects.filter(pk__in=keys, claim=token)
                keys = list(rows.order_by().values_list("pk", flat=True))
            StatusChange.objects.bulk_create(
                StatusChange(order_id=key, from_status=origin, to_status=target, source=source)
                for key in keys
            )
        return moved

    def write_terms(self, key: int) -> None:
        """Write the current search terms of an order.

        The caller must have locked the row of the order.
        """
        OrderTerm.objects.filter(order=key).delete()
        OrderTerm.objects.add_for(self.filter(pk=key).order_by().only(*SEARCHED))

    def write_batch(
        self, updates: Sequence[OrderUpdate], *, source: StatusChange.Source
    ) -> list[StatusChange]:
        """Write new values of claimed orders in the caller's transaction.

        Returns the status changes. Raises :exc:`Overtaken`, which rolls the transaction back, if a
        row has changed since it was read.
        """
        now = timezone.now()
        groups: dict[str, list[OrderUpdate]] = defaultdict(list)
        for update in updates:
            # The keys are the results of repr(), because the values may be unhashable.
            groups[repr((update.guard, update.columns(now)))].append(update)
        for group in groups.values():
            keys = [update.order.pk for update in group]
            rows = self.filter(pk__in=keys, **group[0].guard).order_by()
            if rows.update(**group[0].columns(now)) < len(group):
                raise Overtaken
        return StatusChange.objects.bulk_create(
            StatusChange(
                order=update.order,
                from_status=update.order.status,
                to_status=update.target,
                source=source,
                details=update.details,
            )
            for update in updates
            if update.target
        )


class Overtaken(Exception):
    """Another process has moved or claimed an order in the meantime."""


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """New values for a claimed order.

    If ``target`` is set, the order also receives this status, and ``details`` are stored with the
    status change.
    """

    order: Order
    values: Mapping[str, Any]
    target: Status | None = None
    details: Sequence[Entry] = ()

    @property
    def guard(self) -> dict[str, Any]:
        """Lookups that match the row only if the order has not changed.

        An order has changed if it was moved or claimed, or if a problem was acknowledged.
        """
        return _as_read(self.order, "status", "claim", "needs_attention")

    def columns(self, now: datetime) -> dict[str, Any]:
        columns = {"claimed_until": None, **self.values}
        if self.target is None:
            return columns
        check_move(self.order.status, self.target)
        return columns | _status_columns(self.order, self.target, columns, now)


def _is_account(user: Any) -> bool:
    """Return True if ``user`` is a saved user account.

    The model of the user is ``AUTH_USER_MODEL``, or inherits from it.
    """
    concrete: Any = get_user_model()._meta.concrete_model  # noqa: SLF001
    return isinstance(user, concrete) and user.pk is not None


def due_after_check(due_at: datetime | None, *, checked_at: datetime, again_at: datetime) -> Any:
    """Return the due time after a check that began at ``checked_at``.

    If another check was requested after ``checked_at``, the order becomes due no later than
    ``again_at``.
    """
    if due_at is not None and due_at <= again_at:
        return due_at
    is_wanted = ahead("check_wanted_at", checked_at, max_distance=again_at - checked_at)
    regular = models.Value(due_at, output_field=models.DateTimeField())
    return models.Case(models.When(is_wanted, then=models.Value(again_at)), default=regular)


def cleared_provider_columns() -> dict[str, Any]:
    """Return values that reset all columns about the provider's order."""
    return {
        "provider_order_id": None,
        "provider_alias": "",
        "identified_at": None,
        "is_insisted": False,
        "is_only_listed": False,
        "accepted_at": None,
        "checked_at": None,
        "absent_since": None,
        "candidates": [],
    }


def _status_columns(
    order: Order, target: Status, values: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return the columns that change together with the status."""
    if target not in FINAL:
        return {"status": target}
    final = copy(order)
    assign(final, {**values, "status": target})
    return {"status": target, "finalized_at": now, "due_at": None, **final_figures(final)}


def _as_read(row: models.Model, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def correctable(row: models.Model) -> dict[str, Any]:
    """Return the values of ``row`` that staff can correct."""
    return _as_read(row, *CORRECTABLE)


def _problem_columns(problems: list[Entry]) -> dict[str, Any]:
    is_open = any("acknowledged_at" not in entry for entry in problems)
    return {"problems": problems, "needs_attention": is_open}


def _is_more_than_nothing(amount: str) -> models.GeneratedField:
    """Return a generated column that is True if ``amount`` is above 0.

    The column is used in an index.
    """
    is_above = models.ExpressionWrapper(Q((f"{amount}__gt", 0)), output_field=models.BooleanField())
    return models.GeneratedField(
        expression=is_above, output_field=models.BooleanField(), db_persist=True, editable=False
    )


def _newest(name: str, *columns: str) -> models.Index:
    return models.Index(fields=(*columns, "-created_at", "-id"), name=f"giftcards_order_{name}")


def _not_below_zero(amount: str, name: str) -> models.CheckConstraint:
    condition = Q((f"{amount}__isnull", True)) | Q((f"{amount}__gte", 0))
    return models.CheckConstraint(condition=condition, name=f"giftcards_order_{name}")


class ReferenceAnswer(models.TextChoices):
    """The provider's answers that refuse a purchase because of its reference."""

    # The provider says that an earlier attempt bought the order. Even then, a search might not find
    # the order.
    REPEATED = "repeated"
    # The provider does not accept a reference, so the order is sent again without it.
    UNWANTED = "unwanted"


class Order(models.Model):
    """A line that is bought from the provider: a number of cards of one type."""

    reference: models.CharField[str, str] = ExactCharField(
        _("reference"),
        max_length=100,
        unique=True,
        validators=[plain_text],
        default=new_reference,
        help_text=_(
            "Your own unique name for the order. If you use the same name again, the cards are not"
            " bought twice."
        ),
    )
    product_id: models.CharField[str, str] = ExactCharField(
        _("product"), max_length=100, validators=[plain_text]
    )
    type_id: models.CharField[str, str] = ExactCharField(
        _("type"),
        max_length=100,
        validators=[plain_text],
        help_text=_("The denomination, exactly as it is named in the provider's catalogue."),
    )
    # The names in the catalogue when the order was recorded, or "" if the catalogue did not contain
    # them.
    product_name = models.CharField(_("product's name"), max_length=200, editable=False, blank=True)
    type_name = models.CharField(_("type's name"), max_length=200, editable=False, blank=True)
    quantity = models.PositiveIntegerField(
        _("quantity"), validators=[MinValueValidator(1), MaxValueValidator(MAX_QUANTITY)]
    )
    sale_price = models.DecimalField(
        _("sale price"),
        null=True,
        blank=True,
        validators=[_not_negative],
        help_text=_("The amount that your customer pays for one card (optional)."),
        **MONEY,
    )
    sale_amount = models.DecimalField(
        _("sale amount"),
        null=True,
        blank=True,
        validators=[_not_negative],
        help_text=_("The amount that your customer pays for all the cards (optional)."),
        **MONEY,
    )
    max_price = models.DecimalField(
        _("highest price"),
        null=True,
        blank=True,
        validators=[_not_negative],
        help_text=_(
            "The highest amount that one card may cost you. If a card costs more, staff decide"
            " whether to buy it."
        ),
        **MONEY,
    )
    group: models.CharField[str, str] = ExactCharField(
        _("group"),
        max_length=100,
        validators=[plain_line],
        help_text=_(
            "The object in your shop that the order belongs to, such as a cart or an invoice."
        ),
        blank=True,
    )
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    # The user account that owns the order. NULL for guests, and after the account was deleted or
    # the customer was erased.
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("account"),
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
        # The index below begins with this column.
        db_index=False,
    )
    customer_email: models.CharField[str, str] = ExactEmailField(
        _("customer e-mail"), blank=True, validators=[plain_line]
    )
    customer_name: models.CharField[str, str] = ExactCharField(
        _("customer name"), max_length=200, validators=[plain_line], blank=True
    )
    customer_phone: models.CharField[str, str] = ExactCharField(
        _("customer phone"), max_length=50, validators=[plain_line, has_digits], blank=True
    )
    customer_language = models.CharField(
        _("customer language"), max_length=20, blank=True, validators=[plain_text]
    )
    # If this address is set, the order is a gift, and the cards are sent to this address.
    recipient_email: models.CharField[str, str] = ExactEmailField(
        _("recipient's e-mail"),
        validators=[plain_line],
        help_text=_(
            "If you enter an address here, the order is a gift, and the cards are sent to this"
            " address."
        ),
        blank=True,
    )
    recipient_name = models.CharField(
        _("recipient's name"), max_length=200, validators=[plain_line], blank=True
    )
    recipient_language = models.CharField(
        _("recipient's language"),
        max_length=20,
        validators=[plain_text],
        help_text=_(
            "A language code such as en, fr or ar. If this field is empty, the customer's language"
            " is used."
        ),
        blank=True,
    )
    gift_message = PlainTextField(_("message to the recipient"), max_length=1_000, blank=True)
    # The cards are bought without delay. The recipient is not notified of them before this time.
    deliver_at = MomentField(
        _("to be delivered on"),
        null=True,
        blank=True,
        help_text=_(
            "The cards are bought immediately, whatever date you enter. If this field is empty,"
            " the recipient receives the cards as soon as they arrive."
        ),
    )

    status = models.CharField(
        _("status"), max_length=20, choices=Status, default=Status.PENDING, editable=False
    )
    # NULL if the provider has not reported an id yet. The value cannot be an empty string, because
    # the column is unique.
    provider_order_id: models.CharField[str | None, str | None] = ExactCharField(
        _("provider's order ID"), max_length=100, null=True, unique=True, editable=False
    )
    # A second id of the order at the provider: the `_id` in an answer, if it differs from the order
    # id. If the order id came from the list or from staff, see `was_adopted`. The provider's list
    # of orders may contain either id.
    provider_alias: models.CharField[str, str] = ExactCharField(
        max_length=100, blank=True, editable=False
    )
    # The time when the id was first confirmed, by a later answer of the provider or by a person.
    # NULL if only the answer to the purchase has contained the id so far.
    identified_at = models.DateTimeField(null=True, editable=False)
    # True if staff have decided that this order is the one at the provider, although the product or
    # type differs.
    is_insisted = models.BooleanField(default=False, editable=False)
    # The id in the answer to the purchase, if it turned out to belong to another order or to no
    # order. The cards may have been bought even if searches do not find them. The id is kept until
    # the order is sent again or declared absent.
    answered_id: models.CharField[str, str] = ExactCharField(
        max_length=100, editable=False, blank=True
    )
    # The reference that was sent with the order at each attempt, or "" if no reference was sent.
    provider_reference: models.CharField[str, str] = ExactCharField(
        _("reference at the provider"), max_length=32, editable=False, blank=True
    )
    # The provider's answer if it refused the purchase because of ``provider_reference``, or else
    # "".
    reference_answer = models.CharField(
        max_length=10, choices=ReferenceAnswer, editable=False, blank=True
    )
    # True if the id came from the provider's list of orders or from staff, and a single check with
    # this id did not find the order.
    is_only_listed = models.BooleanField(default=False, editable=False)
    fulfilled_quantity = models.PositiveIntegerField(_("delivered"), default=0, editable=False)
    fulfilled_amount = models.DecimalField(_("cost"), null=True, editable=False, **MONEY)
    price_per_card = models.DecimalField(_("price per card"), null=True, editable=False, **MONEY)
    # The price in the catalogue just before the order was sent. The price in the provider's final
    # answer may differ.
    price_at_placing = models.DecimalField(
        _("price when the order was placed"), null=True, editable=False, **MONEY
    )
    # The amount in dinars by which the owner sells a card below its cost, copied from the catalogue
    # at the sale.
    accepted_loss = models.DecimalField(default=0, editable=False, **MONEY)
    # The highest price per card that staff have approved. This price replaces any other limit.
    approved_price = models.DecimalField(
        _("approved price"), null=True, editable=False, validators=[_not_negative], **MONEY
    )
    # The state of the review by staff, or "" if a review is not needed.
    review = models.CharField(max_length=10, choices=Review, editable=False, blank=True)
    # The fingerprint of the API key with which the order was sent, or "" if it was not sent yet.
    # Only the list of orders in that key's account can show whether the order was bought.
    sent_with = models.CharField(max_length=32, editable=False, blank=True)
    # The environment of the account that bought the order, or "" if it is unknown or the order was
    # not bought yet. An order for missing cards always has the environment of the order that it
    # repeats.
    environment = models.CharField(
        _("environment"), max_length=10, choices=Environment, editable=False, blank=True
    )
    # The order whose missing cards this order repeats. The column is unique, so that the missing
    # cards cannot be ordered twice.
    repeats = models.OneToOneField(
        "self",
        verbose_name=_("replaces missing cards of"),
        on_delete=models.PROTECT,
        null=True,
        editable=False,
        related_name="reordered_as",
    )
    # ``send_after`` and ``send_before`` are only set in orders that ``REORDER_MISSING`` created.
    # Such an order stays on hold until ``send_after``, which is NULL if the order does not wait for
    # a time. An order that is still on hold at ``send_before`` is rejected.
    send_after = models.DateTimeField(null=True, editable=False)
    send_before = models.DateTimeField(null=True, editable=False)
    # The sum of the refunds that were paid to the customer.
    paid_back_amount = models.DecimalField(
        _("paid back"), default=Decimal(0), editable=False, **MONEY
    )
    # The amount that is still owed to the customer for missing cards. NULL if the order is open, or
    # if it is unknown what the customer paid.
    open_amount = models.DecimalField(_("still owed"), null=True, editable=False, **MONEY)
    has_paid_back = _is_more_than_nothing("paid_back_amount")
    is_owing = _is_more_than_nothing("open_amount")
    # The part of the customer's payment that moved to the order for the missing cards. NULL if
    # there is no such order.
    reordered_amount = models.DecimalField(null=True, editable=False, **MONEY)
    # True if the provider's figures agree with each other. NULL if the order is not settled.
    is_consistent = models.BooleanField(_("figures agree"), null=True, editable=False)
    # True if the credit in the ledger equals the promised credit. NULL if a credit was neither
    # promised nor made, if the promised amount is unknown, or if the credit may still arrive.
    is_credited = models.BooleanField(_("credited"), null=True, editable=False)
    # The time when the codes were destroyed, because of their age or together with the customer's
    # data.
    codes_destroyed_at = models.DateTimeField(_("codes destroyed"), null=True, editable=False)
    # True if a purge of old codes found that the order has no cards. Purges then skip the order
    # until a card arrives.
    is_without_cards = models.BooleanField(default=False, editable=False)
    # The order's problems, as entries {"code", "parameters"}: see giftcards.rules.problems. Once a
    # problem is acknowledged, its entry also has "acknowledged_by" and "acknowledged_at".
    problems = models.JSONField(_("problems"), default=list, blank=True, editable=False)
    # True if a problem is not acknowledged. Only `_problem_columns` computes this.
    needs_attention = models.BooleanField(_("to do"), default=False, editable=False)
    customer_erased_at = models.DateTimeField(null=True, editable=False)

    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    sent_at = models.DateTimeField(_("sent"), null=True, editable=False)
    accepted_at = models.DateTimeField(_("accepted"), null=True, editable=False)
    checked_at = models.DateTimeField(_("last checked"), null=True, editable=False)
    finalized_at = models.DateTimeField(_("settled"), null=True, editable=False)
    # The time when the order began to wait to be sent. SEND_TIMEOUT starts at this time.
    queued_at = models.DateTimeField(default=timezone.now, editable=False)
    # The time when the order is due to be sent (PENDING), checked (HANDLING, DELAYED) or searched
    # for (UNCONFIRMED). NULL if no such step is planned: a PENDING order is then on hold, see
    # `is_on_hold`.
    due_at = models.DateTimeField(null=True, default=timezone.now, editable=False)
    # The time when the app noted that the customer had waited too long: the provider had not
    # accepted the order within POLL_TIMEOUT after the order was recorded. NULL if this has never
    # happened.
    kept_waiting_at = models.DateTimeField(null=True, editable=False)
    # The last time when an early check was requested.
    check_wanted_at = models.DateTimeField(null=True, editable=False)
    # The number of consecutive failed attempts to send, check or find the order.
    failures = models.PositiveIntegerField(default=0, editable=False)
    # The time when a search for an UNCONFIRMED order first suggested that the provider does not
    # have it. NULL if no search suggested this.
    absent_since = models.DateTimeField(null=True, editable=False)
    # Orders at the provider, one of which may be this UNCONFIRMED order. Staff decide which one it
    # is.
    candidates = models.JSONField(default=list, blank=True, editable=False)
    # The claim: the token of the process that works on the order, and the time when the claim
    # expires.
    claim = models.CharField(max_length=32, blank=True, editable=False)
    claimed_until = models.DateTimeField(null=True, editable=False)

    objects = OrderQuerySet.as_manager()

    # True if `record` inserted this instance.
    is_new = False

    class Meta:
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        ordering = ("-created_at", "-pk")
        permissions = (
            ("check_order", "Can have orders checked and acknowledge problems"),
            ("resolve_order", "Can decide about lost orders, and cancel orders that wait"),
            ("correct_customer", "Can correct the customer of an order"),
            ("find_card", "Can find orders by the code of a card"),
            ("settle_refund", "Can record what was paid back to customers"),
            ("export_order", "Can export orders and reports"),
            ("view_cost", "Can see what the provider charges, and margins"),
            ("export_customer", "Can download the data of customers"),
            ("erase_customer", "Can erase customers"),
        )
        # Each index is for a query that would be slow without it. Partial indexes are not used,
        # because MariaDB does not have them.
        indexes = (
            # For the engine's queries for open orders, whose finalized_at is NULL, and for the
            # latest orders that have settled.
            models.Index(
                fields=("finalized_at", "status", "due_at", "id"), name="giftcards_order_due"
            ),
            # For retention, which looks for the oldest orders with codes.
            models.Index(
                fields=("is_without_cards", "codes_destroyed_at", "finalized_at", "id"),
                name="giftcards_order_kept",
            ),
            # For recovery, which looks for the orders that fit a row of the provider's list of
            # orders.
            models.Index(fields=("sent_at",), name="giftcards_order_sent"),
            models.Index(fields=("provider_alias",), name="giftcards_order_alias"),
            models.Index(fields=("provider_reference",), name="giftcards_order_sent_as"),
            # For the admin's list, with and without each filter, and for counting by status. The
            # search uses the indexes of OrderTerm.
            _newest("newest"),
            _newest("attention", "needs_attention"),
            _newest("by_status", "status"),
            _newest("product", "product_id"),
            _newest("environment", "environment"),
            _newest("consistent", "is_consistent"),
            _newest("credited", "is_credited"),
            _newest("has_paid_back", "has_paid_back"),
            _newest("owing", "is_owing"),
            # For the page of a customer's own orders.
            _newest("user", "user"),
            # For the shop's own queries about a person or a cart.
            models.Index(fields=("customer_email",), name="giftcards_order_email"),
            models.Index(fields=("recipient_email",), name="giftcards_order_recipient"),
            models.Index(fields=("group",), name="giftcards_order_group"),
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
                condition=Q(status__in=FINAL, finalized_at__isnull=False)
                | (~Q(status__in=FINAL) & Q(finalized_at__isnull=True)),
                name="giftcards_order_final_is_settled",
            ),
            # An order has a provider's id if and only if its status is in ACCEPTED. Therefore, an
            # order with an id is never sent again.
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
            _not_below_zero("price_per_card", "price"),
            _not_below_zero("fulfilled_amount", "charged"),
            _not_below_zero("sale_price", "sale_price"),
            _not_below_zero("sale_amount", "sale_amount"),
            _not_below_zero("max_price", "max_price"),
            _not_below_zero("approved_price", "approved_price"),
            # Refunds never exceed the owed amount, even if two refunds are recorded simultaneously.
            _not_below_zero("open_amount", "open_amount"),
            models.CheckConstraint(
                condition=Q(paid_back_amount__gte=0), name="giftcards_order_paid_back"
            ),
        )

    def __str__(self) -> str:
        return self.reference

    def save(self, *args: Any, **named: Any) -> None:
        """Save the row, and also its search terms if a searched column changes."""
        is_added, fields = self._state.adding, named.get("update_fields")
        if not (fields is None or set(SEARCHED).intersection(fields)):
            super().save(*args, **named)
            return
        with transaction.atomic(using=named.get("using") or router.db_for_write(Order)):
            super().save(*args, **named)
            if is_added:
                OrderTerm.objects.add_for([self])
            else:
                Order.objects.write_terms(self.pk)

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_settled(self) -> bool:
        """True if the order is final and was accepted.

        The figures of a settled order no longer change.
        """
        return self.status in SETTLED

    @property
    def is_gift(self) -> bool:
        """True if the cards are for a recipient instead of the customer."""
        return bool(self.recipient_email)

    @property
    def is_put_off(self) -> bool:
        return self.deliver_at is not None and self.deliver_at > timezone.now()

    def line_names(self) -> Names:
        """Return the names of the product and the type.

        If both names are empty in the row, they are read from the catalogue with a query.
        """
        if self.product_name or self.type_name:
            return Names(self.product_name, self.type_name)
        return Product.objects.names(self.product_id, self.type_id)

    @property
    def original(self) -> Order:
        """The order that the shop placed.

        If this order replaces missing cards, this is the first order in the chain.
        """
        order: Order = self
        while order.repeats:
            order = order.repeats
        return order

    @property
    def parts(self) -> list[Order]:
        """This order, followed by the chain of its reorders."""
        found: list[Order] = [self]
        while again := Order.objects.filter(repeats=found[-1]).first():
            found.append(again)
        return found

    @property
    def missing_quantity(self) -> int:
        """The number of missing cards of a final order, or 0 for an open order.

        Cards that arrived after the order was settled do not count as missing. The property makes a
        query if fewer cards were delivered than ordered.
        """
        if not self.is_final or self.fulfilled_quantity == self.quantity:
            return 0
        came = max(self.fulfilled_quantity, self.cards.count())
        return max(self.quantity - came, 0)

    @property
    def line(self) -> tuple[str, str, int]:
        return self.product_id, self.type_id, self.quantity

    @property
    def line_at_provider(self) -> tuple[str, str, int]:
        """The product, type and quantity that the provider's answers must have.

        If staff have insisted that one of the provider's orders is this order, product and type are
        "". In this case, an answer with any product and type is accepted.
        """
        return ("", "", self.quantity) if self.is_insisted else self.line

    @property
    def names(self) -> tuple[str, ...]:
        """The ids under which the order can appear in the provider's answers."""
        return tuple(filter(None, (self.provider_order_id, self.provider_alias)))

    @property
    def was_adopted(self) -> bool:
        """True if a search found the provider's order id, or staff chose it.

        Such an id is in both ``provider_order_id`` and ``provider_alias``. Even if the provider's
        list contains the order, a check of this single id might not find it.
        """
        return bool(self.provider_alias) and self.provider_alias == self.provider_order_id

    @property
    def is_on_hold(self) -> bool:
        """True if the order is on hold.

        The order waits until staff decide, until its price falls, or until ``send_after``.
        """
        return self.status == Status.PENDING and self.due_at is None

    @property
    def is_late(self) -> bool:
        """True if the order is open and its customer has waited too long.

        The limit is ``POLL_TIMEOUT``.
        """
        is_kept_waiting = self.kept_waiting_at is not None and not self.is_final
        return is_kept_waiting or self.status == Status.DELAYED

    @property
    def is_waiting(self) -> bool:
        return self.is_on_hold and self.send_after is not None

    @property
    def price_ceiling(self) -> Decimal | None:
        """The price limit of a card, or ``None`` if the order has no limit.

        If a card costs more, staff decide. The limit is the price that staff have approved, or else
        ``max_price``. If both are missing, the limit is the customer's payment for one card plus
        the loss that the owner accepts.
        """
        return price_ceiling(
            approved=self.approved_price,
            given=self.max_price,
            sale_price=self.sale_price,
            sale_amount=self.sale_amount,
            quantity=self.quantity,
            accepted_loss=self.accepted_loss,
        )

    def was_sent_with(self, key: ApiKey) -> bool:
        """Return True if the order was sent with this API key.

        The provider's list of orders for ``key`` then contains the order if it was bought. An
        unknown key or environment of the order counts as a match.
        """
        return self.sent_with in {"", key.pk} and self.environment in {"", key.environment}

    def was_sent_elsewhere(self, key: ApiKey) -> bool:
        """Return True if the order was sent to a different account.

        Returns True only if the environment of the order and the environment of ``key`` are known
        and different.
        """
        environments = {self.environment, key.environment}
        return len(environments) == 2 and "" not in environments

    def was_given_as(self, other: Order) -> bool:
        """Return True if the new order ``other`` has the values of this order.

        The new values are compared with the values with which this order was placed. If this order
        was corrected, its current values are also accepted. If this order does not have a user, any
        user is accepted, because the user's account might have been deleted in the meantime.
        """
        return (
            # Python compares the references, because the database may treat different references as
            # equal.
            self.reference == other.reference
            and _as_read(self, *_LINE) == _as_read(other, *_LINE)
            and self.user_id in {None, other.user_id}
            and self._is_sold_as(other)
            and is_same_json(other.metadata, self.metadata)
            and self._is_or_was_for(other)
        )

    def _is_sold_as(self, other: Order) -> bool:
        given, now = (_as_read(order, *_AMOUNTS) for order in (other, self))
        if self.is_final and self.sale_price is None and other.sale_amount is None:
            # A sale amount may have been added after the order was final, so it does not count as a
            # difference.
            now["sale_amount"] = None
        return given == now

    def _is_or_was_for(self, other: Order) -> bool:
        wanted = correctable(other)
        if correctable(self) == wanted:
            return True
        return any(correctable(change) == wanted for change in self.customer_changes.all())

    def check_values(self) -> None:
        """Raise ``ValidationError`` if a value is invalid for an order.

        Also sets ``sale_amount`` if only ``sale_price`` was passed.
        """
        self.check_columns()
        if self.sale_price is None:
            return
        total = self.sale_price * self.quantity
        if self.sale_amount is None:
            try:
                self.sale_amount = self.check_amount("sale_amount", total)
            except ValidationError as error:
                raise ValidationError({"sale_price": error}) from None
        if self.sale_amount != total:
            text = gettext(
                "This amount must be the sale price multiplied by the quantity. If the two amounts"
                " differ, enter only one of them."
            )
            raise ValidationError({"sale_amount": text})

    def check_product(self) -> None:
        """Raise ``ValidationError`` if a recent catalogue lacks the product."""
        if Product.objects.is_unknown(self.product_id):
            text = gettext(
                "The provider's catalogue does not contain a product with this ID. Use the"
                " provider's product ID, not the primary key of a database row."
            )
            raise ValidationError({"product_id": text})

    def check_columns(self, *, excluded: Collection[str] = ()) -> None:
        """Raise ``ValidationError`` if a column is invalid.

        The columns in ``excluded`` are not checked. Messages and times are also converted to their
        stored form.
        """
        self._check_types()
        # The user is excluded, because Django would run a query to check it, and SQLite may fail a
        # transaction that reads before it writes.
        self.clean_fields(exclude={"user", *excluded})
        self.check_gift()

    def check_gift(self) -> None:
        """Raise ``ValidationError`` if the columns of a gift are invalid."""
        if not self.is_gift and any(getattr(self, name) for name in OF_GIFT):
            text = gettext("A gift needs the e-mail address of its recipient.")
            raise ValidationError({"recipient_email": text})
        if self.deliver_at and self.deliver_at > timezone.now() + _LONGEST_AHEAD:
            text = gettext("A gift must be delivered within a year.")
            raise ValidationError({"deliver_at": text})

    def corrected(self, values: Mapping[str, Any]) -> Self:
        """Return a checked copy of the order with new ``values``.

        The copy is not saved. ``values`` maps names of columns in :data:`CORRECTABLE` to new
        values. Raises ``ValidationError`` if the order cannot be corrected in this way.
        """
        copied = copy(self)
        assign(copied, values)
        copied.check_columns(excluded={field.name for field in self._meta.fields} - values.keys())
        if copied.is_gift != self.is_gift:
            # The cards must not pass from the customer to a recipient or vice versa, because one of
            # them may have already seen the cards.
            text = gettext(
                "A gift cannot become an ordinary order, and an ordinary order cannot become a"
                " gift."
            )
            raise ValidationError({"recipient_email": text})
        return copied

    def check_amount(self, column: str, amount: Decimal | int) -> Decimal:
        """Return ``amount``, or raise ``ValidationError`` if it is invalid.

        ``column`` is the column in which the amount will be stored.
        """
        if type(amount) not in {int, Decimal}:
            raise ValidationError(gettext("This must be a decimal number."))
        field = cast("models.Field[Any, Any]", self._meta.get_field(column))
        checked: Decimal = field.clean(amount, self)
        return checked

    def _check_types(self) -> None:
        """Reject types that Django's own validation would convert.

        Examples are ``"2"``, ``True`` and ``1.5``.
        """
        wrong: dict[str, Any] = {}
        for name in ("reference", *_TEXTS, *OF_CUSTOMER, *OF_RECIPIENT, "gift_message"):
            if not isinstance(getattr(self, name), str):
                wrong[name] = gettext("This must be text.")
        if not (self.deliver_at is None or isinstance(self.deliver_at, datetime)):
            wrong["deliver_at"] = gettext("This must be a date and a time.")
        if type(self.quantity) is not int:
            wrong["quantity"] = gettext("This must be a whole number.")
        for name in _AMOUNTS:
            amount = getattr(self, name)
            if not (amount is None or type(amount) in {int, Decimal}):
                wrong[name] = gettext("This must be a decimal number.")
        if complaint := complaint_about_metadata(self.metadata):
            wrong["metadata"] = complaint
        if wrong:
            raise ValidationError(wrong)

    def lock(self) -> None:
        """Lock the row until the transaction ends.

        Call this method first in a transaction, because SQLite can fail a transaction that reads
        before it writes.
        """
        Order.objects.filter(pk=self.pk).update(group=F("group"))

    def stay_pending(self, problem: Problem | None, **values: Any) -> bool:
        """Set columns of a PENDING order without changing its status.

        Problems of the kind ``SENDING`` are replaced by ``problem``, or removed if ``problem`` is
        ``None``. Returns False without changing anything if another process was first. The other
        process might have moved, claimed or rescheduled the order, acknowledged a problem, or
        approved a price.
        """
        new = [] if problem is None else [problem]
        values |= self.problem_columns(ends={Kind.SENDING}, new=new)
        as_read = _as_read(self, "claim", "due_at", "approved_price", "needs_attention")
        row = Order.objects.filter(pk=self.pk, status=Status.PENDING, **as_read)
        if not row.unclaimed(timezone.now()).update(**values):
            return False
        assign(self, values)
        return True

    @property
    def open_problems(self) -> list[Problem]:
        return [Problem.of(entry) for entry in self.problems if "acknowledged_at" not in entry]

    def problem_columns(
        self, *, ends: Collection[Kind] = (), new: Iterable[Problem] = ()
    ) -> dict[str, Any]:
        """Return new values of the problem columns.

        The method removes problems whose kind is listed in ``ends``, and adds the ``new`` problems.
        If the order already has one of the new problems, the problem is not added a second time,
        and stays acknowledged if it was acknowledged.
        """
        return _problem_columns(revise(self.problems, ends=ends, new=new))

    def problems_of(self, kind: Kind) -> list[Problem]:
        return [each for each in map(Problem.of, self.problems) if each.kind is kind]

    def replace_problems(self, kind: Kind, problems: Iterable[Problem]) -> None:
        """Replace the problems of one kind.

        A problem that was acknowledged and stays the same remains acknowledged.
        """
        with transaction.atomic(using=self._state.db):
            self.lock()
            self.refresh_from_db(fields=["problems"])
            columns = self.problem_columns(ends={kind}, new=problems)
            Order.objects.filter(pk=self.pk).update(**columns)
        assign(self, columns)

    def add_acknowledgement(self, problem: Problem, *, by: str) -> Acknowledgement:
        """Record in the timeline that a person has dealt with a problem.

        ``by`` is the name of the person.
        """
        acknowledgement = Acknowledgement(order=self, by=by, **problem.as_dict())
        acknowledgement.save(force_insert=True)
        return acknowledgement

    def acknowledge(self, problem: Problem, *, by: str) -> bool:
        """Acknowledge ``problem``.

        ``by`` is the name of the person who has dealt with the problem. Returns False if the
        problem was already acknowledged or no longer exists.
        """
        with transaction.atomic(using=self._state.db):
            row = Order.objects.filter(pk=self.pk, needs_attention=True)
            # The update locks the row until the transaction ends.
            if not row.update(needs_attention=True):
                return False
            self.refresh_from_db(fields=["problems"])
            if problem not in self.open_problems:
                return False
            acknowledgement = self.add_acknowledgement(problem, by=by)
            fields = {"acknowledged_by": by, "acknowledged_at": acknowledgement.at.isoformat()}
            columns = _problem_columns(
                [
                    entry | fields if Problem.of(entry) == problem else entry
                    for entry in self.problems
                ]
            )
            row.update(**columns)
        assign(self, columns)
        return True

    def dispute(self, *, by: str, cards: Iterable[int]) -> bool:
        """Record a customer's complaint about cards as a problem.

        ``cards`` contains the positions of the cards. An earlier complaint that was acknowledged is
        replaced, but the timeline keeps both complaints. Returns False without changing anything if
        a complaint is already open.
        """
        positions = ", ".join(map(str, sorted(cards)))
        complaint = Problem("disputed", {"by": by, "positions": positions})
        with transaction.atomic(using=self._state.db):
            self.lock()
            self.refresh_from_db(fields=["problems"])
            if self.is_disputed:
                return False
            kept = [entry for entry in self.problems if entry.get("code") != complaint.code]
            columns = _problem_columns([*kept, complaint.as_dict()])
            Order.objects.filter(pk=self.pk).update(**columns)
        assign(self, columns)
        return True

    @property
    def may_be_disputed(self) -> bool:
        return self.is_final and self.fulfilled_quantity > 0

    @property
    def is_disputed(self) -> bool:
        return bool(self.disputed_cards)

    @property
    def disputed_cards(self) -> set[int]:
        """The positions of the cards that an open complaint is about."""
        texts = (
            str(problem.parameters.get("positions", ""))
            for problem in self.open_problems
            if problem.code == "disputed"
        )
        return {int(position) for text in texts for position in text.split(",") if position}

    def may_be_claimed(self, now: datetime, *, due_by: datetime) -> bool:
        is_claimed = is_ahead(self.claimed_until, now, max_distance=LONGEST_HOLD)
        is_due = self.due_at is not None and self.due_at <= due_by
        return self.status in FOLLOWED and not is_claimed and is_due

    def is_lost(self, now: datetime) -> bool:
        """Return True if the claim has expired.

        In this case, the process that was sending the order is assumed to have died.
        """
        return not is_ahead(self.claimed_until, now, max_distance=LONGEST_HOLD)

    def move(
        self,
        target: Status,
        *,
        source: StatusChange.Source,
        details: Iterable[Problem] = (),
        conditions: Mapping[str, Any] | None = None,
        after_update: Callable[[], object] = lambda: None,
        **values: Any,
    ) -> StatusChange | None:
        """Change the status to ``target``, and record the change.

        The columns in ``values`` are set in the same UPDATE. The function ``after_update`` is
        called after the UPDATE, in the same transaction.

        ``details`` are stored with the recorded change. The method also adds the problems among
        these details to the order, and removes the problems that end with the new status (see
        :class:`~giftcards.rules.states.State`). If ``target`` is a final status, the removed
        problems are added to the details of the change.

        Returns ``None`` without changing anything if another process was first. The other process
        has changed the status or the claim, or the row no longer matches the lookups in
        ``conditions``. Raises :exc:`ValueError` if :data:`~giftcards.rules.states.STATES` does not
        allow the change.
        """
        origin = Status(self.status)
        check_move(origin, target)
        details = tuple(details)
        columns = self.problem_columns(
            ends=STATES[target].ends,
            new=[detail for detail in details if detail.kind is not Kind.HISTORY],
        )
        if columns["problems"] != self.problems:
            values |= columns
        values = {"claimed_until": None, **values}
        values |= _status_columns(self, target, values, timezone.now())
        change = StatusChange(
            order=self,
            from_status=origin,
            to_status=target,
            source=source,
            details=history(self.problems if target in FINAL else (), columns["problems"], details),
        )
        with transaction.atomic():
            row = Order.objects.filter(pk=self.pk, status=origin, claim=self.claim)
            if not row.filter(**(conditions or {})).update(**values):
                return None
            change.save(force_insert=True)
            after_update()
        assign(self, values)
        return change

    def note_wait(self) -> bool:
        """Record a customer's wait without changing the order's status.

        Returns False without changing anything if the wait was recorded before, or if the status
        has changed in the meantime.
        """
        values = {"kept_waiting_at": timezone.now()}
        source = StatusChange.Source.CLOCK
        entry = StatusChange(
            order=self, from_status=self.status, to_status=self.status, source=source
        )
        with transaction.atomic():
            row = Order.objects.filter(pk=self.pk, status=self.status, kept_waiting_at=None)
            if not row.update(**values):
                return False
            entry.save(force_insert=True)
        assign(self, values)
        return True


def _among(orders: models.QuerySet[Order]) -> Q:
    # The condition is a subquery, because SQLite may read the whole table if a filter has
    # conditions on several columns.
    return Q(pk__in=orders.order_by().values("pk"))


# These conditions divide the orders in NEEDING_ATTENTION by what staff have to do. Each order is
# LOST, WITH_OTHER_PROBLEMS, or on hold because of its price or for a review.
_OPEN = Order.objects.open()
LOST = Q(status=Status.UNCONFIRMED) & NEEDING_ATTENTION
WITH_OTHER_PROBLEMS = NEEDING_ATTENTION & ~_among(
    _OPEN.filter(ON_HOLD_FOR_PRICE | ON_HOLD_FOR_REVIEW | Q(status=Status.UNCONFIRMED))
)
# The opposite of NEEDING_ATTENTION. Combine it with a condition that finds a few orders by an
# index.
WITHOUT_PROBLEMS = ~_among(Order.objects.filter(NEEDING_ATTENTION))


class OrderDetails(TypedDict, total=False):
    """The optional details of an order, as in :func:`place_order`."""

    reference: str | None
    sale_price: Decimal | int | None
    sale_amount: Decimal | int | None
    max_price: Decimal | int | None
    group: str
    metadata: dict[str, Any] | None
    user: Any
    customer_email: str
    customer_name: str
    customer_phone: str
    customer_language: str
    recipient_email: str
    recipient_name: str
    recipient_language: str
    gift_message: str
    deliver_at: datetime | None


def new_order(
    product_id: str, type_id: str, quantity: int, **details: Unpack[OrderDetails]
) -> Order:
    """Return an order with these values, without checking or saving it.

    If ``reference`` is missing, a UUID is generated. ``AnonymousUser`` has the same effect as
    ``None``. Raises ``TypeError`` for an unknown detail, and ``ValidationError`` for a user without
    an account.
    """
    if unknown := details.keys() - OrderDetails.__annotations__.keys():
        raise TypeError(f"Unknown order details: {', '.join(sorted(unknown))}.")
    values: dict[str, Any] = dict(details)
    if values.get("reference") is None:
        values["reference"] = new_reference()
    if values.get("metadata") is None:
        values["metadata"] = {}
    user = values.get("user")
    if getattr(user, "is_anonymous", False):
        values["user"] = None
    elif user is not None and not _is_account(user):
        raise ValidationError({"user": gettext("This must be a saved user account.")})
    return Order(product_id=product_id, type_id=type_id, quantity=quantity, **values)
