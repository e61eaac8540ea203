"""Copy prices and stock from the shelf to oscar's stock records."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from oscar.apps.catalogue.categories import create_from_breadcrumbs
from oscar.core.loading import get_model

from giftcards.catalogue import offers, stale_after
from giftcards.conf import CURRENCY
from giftcards.models import (
    Category,
    Lease,
    OfferChange,
    Order,
    ProductType,
    ProviderState,
    Reservation,
    Shelf,
)
from giftcards.models import Product as ProviderProduct
from giftcards.models.orders import MAX_QUANTITY
from giftcards.models.provider import Environment, is_test_type
from giftcards.oscar.lines import PARTNER_CODE, StockRecord, ids_of, sku_of, stock_records

logger = logging.getLogger(__name__)

Partner = get_model("partner", "Partner")
Product = get_model("catalogue", "Product")
ProductClass = get_model("catalogue", "ProductClass")

# The names of the partner, product class and category that this app creates.
_PARTNER = "OneClickDz"
_CLASS = _CATEGORY = "Gift cards"
# The name of a row in the table of leases that is not a lease. It stores the time of the last run,
# a hash of the shelf's settings, and the last record that was written.
_MEMORY = "oscar's stock"
# A transaction may commit some time after its changes were made. Therefore, each run also reads
# changes from this long before the last run.
_OVERLAP = timedelta(minutes=1)
# If the last run was longer ago than this, all records are written.
_LONGEST = timedelta(days=1)
_BATCH = 1_000


def follow_changes(should_continue: Callable[[], bool]) -> None:
    """Update the stock records of cards whose offer has changed.

    A run updates the records of cards that might have changed since the last run. Once a day, and
    after a change to the stock buffer or to the choice of cards that the shop sells, it updates all
    stock records.
    """
    now = timezone.now()
    since, rest = _remembered(now)
    changed = sorted(_changed(since - _OVERLAP)) if since else []
    while changed:
        if not should_continue():
            return
        batch, changed = changed[:_BATCH], changed[_BATCH:]
        _follow_batch(batch)
    while rest and should_continue():
        records = stock_records().filter(pk__gt=int(rest)).order_by("pk")
        found = list(records.values_list("pk", "partner_sku")[:_BATCH])
        _follow_batch([sku for _pk, sku in found])
        rest = str(found[-1][0]) if found else ""
    Lease.objects.filter(name=_MEMORY).update(until=now, token=f"{_settings()}/{rest}")


def _remembered(now: datetime) -> tuple[datetime | None, str]:
    """Return the time of the last run, and where to resume the update.

    The second value is the primary key of the last stock record that an update of all records has
    written. It is "0" if an update of all records has to begin, and "" if none is needed. The time
    is ``None`` if there was no run within the last day, or if the stock buffer or the choice of
    cards has changed since.
    """
    memory, _is_new = Lease.objects.get_or_create(name=_MEMORY)
    settings, _, rest = memory.token.partition("/")
    since = memory.until
    if since is None or not now - _LONGEST < since <= now or settings != _settings():
        return None, "0"
    is_new_day = since.date() != now.date()
    return since, rest or ("0" if is_new_day else "")


def _settings() -> str:
    """Return a hash of the stock buffer and the choice of cards for sale.

    Prices are not included.
    """
    decisive: list[object] = [Shelf.objects.current().stock_buffer]
    for rows in (Category.objects, ProviderProduct.objects, ProductType.objects):
        decided = rows.exclude(is_sold=None).order_by("pk")
        decisive.append(list(decided.values_list("pk", "is_sold")))
    return hashlib.sha256(repr(decisive).encode()).hexdigest()[:12]


def _changed(since: datetime) -> set[str]:
    """Return the SKUs of cards that might have changed after ``since``."""
    now = timezone.now()
    lines: set[tuple[str, str]] = set()
    orders, reservations = Order.objects.order_by(), Reservation.objects.all()
    for few in (
        orders.filter(finalized_at=None).distinct(),
        orders.filter(finalized_at__gte=since).distinct(),
        reservations.filter(until__gte=since),
    ):
        lines |= {*few.values_list("product_id", "type_id")}
    kinds = ProductType.objects.order_by()
    changes = OfferChange.objects.filter(at__gte=since)
    for changed in (
        kinds.filter(read_at__gte=since),
        # The price and stock of these types have become out of date since the last run, so the
        # types are no longer for sale.
        kinds.filter(read_at__gte=since - stale_after(), read_at__lte=now - stale_after()),
        kinds.filter(priced_at__gte=since),
        kinds.filter(pk__in=changes.order_by().values("type")),
    ):
        lines |= {*changed.values_list("product__product_id", "type_id")}
    touched = stock_records().filter(date_updated__gte=since).values_list("partner_sku", flat=True)
    return {*touched} | {sku_of(*line) for line in lines}


def follow_ended_reservation(instance: Reservation, **_: Any) -> None:
    """Mark the stock record of an ended reservation.

    This function receives the signal ``post_delete``. The next run updates the marked record.
    """
    sku = sku_of(instance.product_id, instance.type_id)
    # The record is marked after the commit, so that no transaction has to wait for its lock.
    transaction.on_commit(lambda: _touch(sku), robust=True)


def _touch(sku: str) -> None:
    stock_records().filter(partner_sku=sku).update(date_updated=timezone.now())


def follow_offers(skus: Collection[str] | None = None) -> int:
    """Write the shelf's prices and stock to the stock records.

    ``skus`` selects the records. By default, all records are written. Cards that are not on the
    shelf can no longer be bought. If a record cannot be written, an error is logged. Returns the
    number of changed records.
    """
    if skus is None:
        skus = stock_records().order_by("pk").values_list("partner_sku", flat=True)
    waiting = list(skus)
    batches = (waiting[first : first + _BATCH] for first in range(0, len(waiting), _BATCH))
    return sum(map(_follow_batch, batches))


def _follow_batch(skus: Collection[str]) -> int:
    changed = 0
    is_sandbox = ProviderState.objects.current().environment == Environment.SANDBOX
    lines = [ids_of(sku) for sku in skus]
    kinds = offers().filter(
        product__product_id__in={product_id for product_id, _type_id in lines},
        type_id__in={type_id for _product_id, type_id in lines},
    )
    shelf = {sku_of(kind.product.product_id, kind.type_id): kind for kind in kinds}
    for record in stock_records().filter(partner_sku__in=skus):
        sku = record.partner_sku
        kind = shelf.get(sku)
        if kind is None and is_sandbox and is_test_type(ids_of(sku)[1]):
            # A type for tests can be bought even if the sandbox does not list it.
            continue
        try:
            changed += _follow(record, kind)
        except Exception as error:  # noqa: BLE001 (receivers of the shop may raise anything)
            logger.error(  # noqa: TRY400 (a traceback may hold a row)
                "The stock record of %s cannot be written: %s", sku, type(error).__name__
            )
            # The next run writes the record again, because its date has changed.
            _touch(sku)
    return changed


def _follow(record: Any, kind: ProductType | None) -> bool:
    price, left = record.price, _left(kind)
    if kind is not None and kind.price is not None and record.price_currency == CURRENCY:
        price = kind.price
    if price is None:
        left = 0
    if (price, left) == (record.price, record.net_stock_level):
        return False
    # Cards that oscar has allocated are reserved or ordered, so the shelf does not count them.
    record.price, record.num_in_stock, record.num_allocated = price, left, 0
    # The instance is saved, because oscar then notifies customers who wait for the card.
    record.save(update_fields=["price", "num_in_stock", "num_allocated", "date_updated"])
    return True


def _left(kind: ProductType | None) -> int:
    """Return the number of cards that can be bought.

    If the stock is unknown, the result is the maximum quantity of an order.
    """
    if kind is None:
        return 0
    return MAX_QUANTITY if kind.available is None else kind.available


def lock_stock(instance: Any, **_: Any) -> None:
    """Lock the stock records for a new oscar order.

    This function receives the signal ``pre_save``.

    In MariaDB, oscar locks the records for reading when it inserts lines, and for writing when it
    allocates cards. If the records were not locked earlier, two customers who buy the same card at
    the same time would cause a deadlock.
    """
    if instance._state.adding and instance.basket_id and connection.vendor == "mysql":  # noqa: SLF001
        of_basket = stock_records().filter(basket_lines__basket=instance.basket_id)
        # Two statements are needed. A single statement that reads and locks the rows would fail
        # whenever it had to wait for a lock.
        keys = list(of_basket.values_list("pk", flat=True))
        StockRecord.objects.filter(pk__in=keys).update(num_allocated=F("num_allocated"))


def create_products(product_ids: Collection[str] = (), *, with_tests: bool = False) -> int:
    """Create the missing oscar products for product types on the shelf.

    ``product_ids`` are the provider's ids of the products to include. By default, all products are
    included. Test types are left out unless ``with_tests`` is True, because any customer could buy
    them. Returns the number of created products.
    """
    kinds = offers()
    if product_ids:
        kinds = kinds.filter(product__product_id__in=product_ids)
    known = set(stock_records().values_list("partner_sku", flat=True))
    missing = [
        kind
        for kind in kinds
        if sku_of(kind.product.product_id, kind.type_id) not in known
        and (with_tests or not kind.is_for_tests)
    ]
    for kind in missing:
        _create(kind)
    return len(missing)


@transaction.atomic
def _create(kind: ProductType) -> None:
    partner, _ = Partner.objects.get_or_create(code=PARTNER_CODE, defaults={"name": _PARTNER})
    product_class, _ = ProductClass.objects.get_or_create(
        name=_CLASS, defaults={"requires_shipping": False, "track_stock": True}
    )
    product = Product.objects.create(
        product_class=product_class,
        title=kind.offer.name[: Product._meta.get_field("title").max_length],  # noqa: SLF001
    )
    product.categories.add(create_from_breadcrumbs(kind.product.category.title or _CATEGORY))
    StockRecord.objects.create(
        product=product,
        partner=partner,
        partner_sku=sku_of(kind.product.product_id, kind.type_id),
        price_currency=CURRENCY,
        price=kind.price,
        num_in_stock=0 if kind.price is None else _left(kind),
    )
