"""Erase a person, who can be a customer or a gift recipient, from orders.

The orders and the ledger are kept without the person's data. Each order is processed in its own
transaction. If an erasure is interrupted, the next erasure continues with the orders that still
name the person.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from django.apps import apps
from django.db import models, router, transaction
from django.db.models import Q
from django.utils import timezone

from giftcards.exceptions import GiftcardsError
from giftcards.models import CardReveal, CustomerChange, CustomerRefund, Order
from giftcards.models.order_queries import batches
from giftcards.models.orders import CORRECTABLE
from giftcards.privacy.person import (
    CUSTOMER,
    ERASED,
    RECIPIENT,
    Person,
    Role,
    Traces,
    all_keepers,
    is_anonymous,
    keepers,
)
from giftcards.privacy.retention import empty_log
from giftcards.text.spelling import folded

logger = logging.getLogger(__name__)

#: The reasons why a person cannot be erased from an order yet.
REASONS: Mapping[str, str] = {
    "open": "it is open",
    "problem": "it has a problem that has not been acknowledged",
    "owed": "money is still owed to the customer",
    "undelivered": "its gift has not been delivered yet",
}


# The columns that an erasure writes, besides the columns that staff may correct.
_ALSO_WRITTEN = (
    "metadata",
    "group",
    "problems",
    "codes_destroyed_at",
    "customer_erased_at",
    "user",
)


@dataclass(slots=True)
class Erasure:
    """The result of an erasure, with the references of the orders."""

    erased: list[str] = field(default_factory=list)
    #: The number of erased orders for each role of the person.
    roles: Counter[Role] = field(default_factory=Counter)
    #: Orders that must not be erased yet, with keys of :data:`REASONS`.
    kept: dict[str, str] = field(default_factory=dict)
    #: References of orders that name the person. They are listed because references are never
    #: erased.
    telling: list[str] = field(default_factory=list)


class SharedNumber(GiftcardsError):
    """Orders with the same phone number have different e-mail addresses.

    For example, a family might share a phone number. The error message does not contain e-mail
    addresses or phone numbers.
    """

    def __init__(self, addresses: int, references: Sequence[str]) -> None:
        super().__init__(f"The orders that were found have {addresses} different e-mail addresses.")
        self.addresses = addresses
        self.references = tuple(references)


def find_orders(person: Person) -> tuple[list[Order], list[Order]]:
    """Return the orders of a person and the doubtful orders, oldest first.

    An order belongs to the person if the person is its customer or gift recipient. An order without
    an account, an e-mail address or a phone number also belongs to the person if all messages about
    the order were sent to the person.

    Staff must decide whether a doubtful order belongs to the person. An order is doubtful for one
    of these reasons:

    - The order has an e-mail address, a phone number or an account in common with one of the
      person's orders.
    - The order named the person before a correction.
    - A message about the order was sent to the person.

    Raises :exc:`SharedNumber` if the person's orders have several e-mail addresses, unless the
    person is identified by an account.
    """
    named = _read(person.orders())
    _check_not_shared(person, named)
    behind = Person.behind(person.parts_of(named))
    others = behind.without(person).orders() | person.former_orders()
    for keeper in all_keepers():
        others.update(keeper.orders(person))
    found = _read(others - {order.pk for order in named})
    unnamed = [order for order in found if _is_only_sent_to(person, order)]
    orders = sorted([*named, *unnamed], key=lambda order: order.pk)
    return orders, [order for order in found if order not in unnamed]


def _check_not_shared(person: Person, named: Iterable[Order]) -> None:
    if person.users:
        return
    parts = person.parts_of(named)
    bought = [order for order, role in parts if role == CUSTOMER and order.customer_email]
    count = len({folded(order.customer_email) for order in bought})
    if count > 1:
        raise SharedNumber(count, [order.reference for order in bought])


def _is_only_sent_to(person: Person, order: Order) -> bool:
    """True if the order is anonymous and was sent only to the person.

    If a message was sent to another person, the codes might belong to that person. If no message
    was sent, the order is not known to belong to anybody.
    """
    if not is_anonymous(order):
        return False
    addresses = set(chain.from_iterable(keeper.addresses(order) for keeper in all_keepers()))
    return bool(addresses) and all(map(person.is_named_by, addresses))


def _read(keys: Iterable[int]) -> list[Order]:
    # The corrections are also read, because they contain former addresses.
    rows = Order.objects.prefetch_related("customer_changes").order_by("pk")
    return list(chain.from_iterable(rows.filter(pk__in=some) for some in batches(sorted(keys))))


def why_kept(order: Order, roles: Collection[Role]) -> str:
    """Return the reason why ``order`` must not be erased yet, or "".

    The result is a key of :data:`REASONS`. ``roles`` are the person's roles in the order.
    """
    if not order.is_final:
        return "open"
    if order.needs_attention:
        return "problem"
    if CUSTOMER in roles and order.open_amount:
        return "owed"
    # If an undelivered gift were erased, the recipient would not get it, or the customer could not
    # be notified of it.
    is_undelivered = order.is_put_off and order.cards.all().readable().exists()
    return "undelivered" if is_undelivered else ""


def erase(
    person: Person,
    orders: Sequence[Order],
    *,
    should_continue: Callable[[], bool] = lambda: True,
    record: Callable[[Order, Collection[Role]], object] = lambda _order, _roles: None,
) -> Erasure:
    """Erase the person from ``orders`` and from the admin log.

    Orders for which :func:`why_kept` gives a reason are not changed. ``should_continue`` is called
    before each order, and the erasure stops if it returns False. For each order from which the
    person is erased, ``record`` is called with the order and the person's roles, in the same
    transaction.
    """
    done, traces = Erasure(), Traces(person, orders)
    # The log is erased first: if this erasure is stopped, the next one finds only the orders that
    # still name the person.
    _erase_log(orders, traces)
    for order in orders:
        if not should_continue():
            break
        with transaction.atomic(using=router.db_for_write(Order)):
            roles = _roles_under_lock(person, order)
            if reason := why_kept(order, roles):
                done.kept[order.reference] = reason
            elif roles:
                _erase_order(order, roles, traces)
                done.erased.append(order.reference)
                done.roles.update(roles)
                record(order, roles)
                for role in roles:
                    logger.info("The %s of order %s was erased.", role.label, order.reference)
        if traces.are_in(order.reference):
            done.telling.append(order.reference)
    empty_log(router.db_for_write(Order))
    return done


def _roles_under_lock(person: Person, order: Order) -> list[Role]:
    """Lock and read ``order``, and return the person's current roles in it.

    The result is empty if a correction has replaced the person in the order, or if another process
    has erased the customer.
    """
    erased_at = order.customer_erased_at
    # The lock prevents other processes from adding a refund, note, correction or complaint.
    order.lock()
    order.refresh_from_db()
    is_late = is_anonymous(order) and order.customer_erased_at != erased_at
    return [] if is_late else person.roles_in(order)


def _erase_order(order: Order, roles: Collection[Role], traces: Traces) -> None:
    # After the erasure, only a recipient who is not erased can still ask for the codes. Without
    # such a recipient, the codes are destroyed.
    is_for_other = order.is_gift and RECIPIENT not in roles
    if is_for_other:
        order.recipient_language = order.recipient_language or order.customer_language
    elif order.cards.all().destroy():
        order.codes_destroyed_at = timezone.now()
    _empty(order, roles)
    if CUSTOMER in roles:
        order.customer_erased_at = timezone.now()
        order.user = None
    order.metadata = {} if CUSTOMER in roles else traces.erased(order.metadata)
    order.group = "" if traces.are_in(order.group) else order.group
    order.problems = traces.erased(order.problems)
    order.save(update_fields=(*CORRECTABLE, *_ALSO_WRITTEN))
    order.notes.update(text=ERASED)
    CardReveal.objects.filter(card__order=order).exclude(reason="").update(reason=ERASED)
    _erase_json(order.changes.all(), "details", traces)
    _erase_json(order.acknowledgements.all(), "parameters", traces)
    for change in order.customer_changes.all():
        _erase_correction(change, roles, traces)
    for refund in order.refunds.all():
        _erase_refund(refund, traces)
    for keeper in chain.from_iterable(keepers[role].values() for role in roles):
        keeper.erase(order, traces)


def _empty(row: Order | CustomerChange, roles: Collection[Role]) -> None:
    for name in chain.from_iterable(role.columns for role in roles):
        field: Any = row._meta.get_field(name)  # noqa: SLF001
        setattr(row, name, field.get_default())


def _erase_json(rows: models.QuerySet[models.Model], column: str, traces: Traces) -> None:
    for row in rows:
        value = getattr(row, column)
        if (erased := traces.erased(value)) != value:
            setattr(row, column, erased)
            row.save(update_fields=[column])


def _erase_correction(change: CustomerChange, roles: Collection[Role], traces: Traces) -> None:
    _empty(change, roles)
    change.by = traces.erased_name(change.by)
    change.reason = ERASED if change.reason else ""
    change.save()


def _erase_refund(refund: CustomerRefund, traces: Traces) -> None:
    # The payment's reference is on the bank's statement, so it stays unless it names the person.
    if traces.are_in(refund.reference):
        # The text contains the primary key, because a reference has to be unique within the order.
        refund.reference = f"{ERASED} {refund.pk}"
    if traces.are_in(refund.method):
        refund.method = ERASED
    refund.comment = ERASED if refund.comment else ""
    refund.cancel_reason = ERASED if refund.cancel_reason else ""
    for name in ("created_by", "cancelled_by"):
        setattr(refund, name, traces.erased_name(getattr(refund, name)))
    refund.save()


def _erase_log(orders: Sequence[Order], traces: Traces) -> None:
    """Erase the person from the admin log.

    In entries about ``orders``, the function also erases names. In other entries, it erases only
    addresses and numbers.
    """
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import LogEntry

    labels = {"giftcards", *(keeper.app_label for keeper in all_keepers())}
    ours = LogEntry.objects.filter(content_type__app_label__in=labels).order_by("pk")
    own = ours.filter(content_type__model="order", content_type__app_label="giftcards")
    for keys in batches([str(order.pk) for order in orders]):
        _erase_entries(own.filter(object_id__in=keys), traces.are_in)
    for text in traces.contacts:
        named = Q(change_message__icontains=text) | Q(object_repr__icontains=text)
        _erase_entries(ours.filter(named), traces.are_whole_in)


def _erase_entries(entries: models.QuerySet[Any], is_in: Callable[[str], bool]) -> None:
    for entry in entries:
        names = ("change_message", "object_repr")
        if erased := {name: ERASED for name in names if is_in(getattr(entry, name))}:
            entries.model.objects.filter(pk=entry.pk).update(**erased)
