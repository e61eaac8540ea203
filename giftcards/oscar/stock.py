"""Stock records that follow the shelf: their prices, and how many cards can be bought."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

from django.db import connection, transaction
from django.db.models import F
from oscar.apps.catalogue.categories import create_from_breadcrumbs
from oscar.core.loading import get_model

from giftcards.catalogue import offers
from giftcards.conf import conf as core
from giftcards.models import ProductType, ProviderState
from giftcards.models.orders import MAX_QUANTITY
from giftcards.models.provider import Environment, is_test_type
from giftcards.oscar.conf import conf
from giftcards.oscar.lines import StockRecord, ids_of, sku_of, stock_records

logger = logging.getLogger(__name__)

Partner = get_model("partner", "Partner")
Product = get_model("catalogue", "Product")
ProductClass = get_model("catalogue", "ProductClass")

# The names of what is created.
_PARTNER = "OneClickDz"
_CLASS = _CATEGORY = "Gift cards"


def follow_offers(
    skus: Collection[str] | None = None, *, should_continue: Callable[[], bool] = lambda: True
) -> int:
    """Write to the stock records what the shelf says; return how many have changed.

    ``skus`` are those of the records, all by default. What is not on the shelf cannot be bought. A
    record that cannot be written is logged, and does not hold up the others.
    """
    records, kinds = stock_records(), offers()
    if skus is not None:
        records = records.filter(partner_sku__in=skus)
        products = {ids_of(sku)[0] for sku in skus}
        kinds = kinds.filter(product__product_id__in=products)
    shelf = {sku_of(kind.product.product_id, kind.type_id): kind for kind in kinds}
    is_sandbox = ProviderState.objects.current().environment == Environment.SANDBOX
    changed = 0
    for record in records:
        if not should_continue():
            break
        sku = record.partner_sku
        kind = shelf.get(sku)
        if kind is None and is_sandbox and is_test_type(ids_of(sku)[1]):
            # It can be bought although the sandbox may not list it.
            continue
        try:
            changed += _follow(record, kind)
        except Exception as error:  # noqa: BLE001 (receivers of the shop may raise anything)
            logger.error(  # noqa: TRY400 (a traceback may hold a row)
                "The stock record of %s cannot be written: %s", sku, type(error).__name__
            )
    return changed


def _follow(record: Any, kind: ProductType | None) -> bool:
    price, left = record.price, _left(kind)
    if kind is not None and kind.shop_price is not None and record.price_currency == core.currency:
        price = kind.shop_price
    if price is None:
        left = 0
    if (price, left) == (record.price, record.net_stock_level):
        return False
    # What oscar has allocated is on hold or ordered by now: the shelf has taken it off already.
    record.price, record.num_in_stock, record.num_allocated = price, left, 0
    # Not by a query, so that oscar tells those who wait for the card.
    record.save(update_fields=["price", "num_in_stock", "num_allocated", "date_updated"])
    return True


def _left(kind: ProductType | None) -> int:
    """The cards that can be bought; as many as one order may have if the stock is unknown."""
    if kind is None:
        return 0
    return MAX_QUANTITY if kind.available is None else kind.available


def lock_stock(instance: Any, **_: Any) -> None:
    """Lock the stock records of an order of oscar that is being placed. A receiver of a signal.

    In MariaDB, inserting its lines locks them for reading, and allocating the cards, later, for
    writing: of customers who buy the same card at once, some would fail in a deadlock.
    """
    if instance._state.adding and instance.basket_id and connection.vendor == "mysql":  # noqa: SLF001
        of_basket = stock_records().filter(basket_lines__basket=instance.basket_id)
        # Two statements: one that reads what it locks fails if it has to wait.
        keys = list(of_basket.values_list("pk", flat=True))
        StockRecord.objects.filter(pk__in=keys).update(num_allocated=F("num_allocated"))


def create_products(product_ids: Collection[str] = ()) -> int:
    """Create what the catalogue of oscar lacks of the shelf; return the number of new products.

    ``product_ids`` are those of the provider: all by default.
    """
    kinds = offers()
    if product_ids:
        kinds = kinds.filter(product__product_id__in=product_ids)
    known = set(stock_records().values_list("partner_sku", flat=True))
    missing = [kind for kind in kinds if sku_of(kind.product.product_id, kind.type_id) not in known]
    for kind in missing:
        _create(kind)
    return len(missing)


@transaction.atomic
def _create(kind: ProductType) -> None:
    partner, _ = Partner.objects.get_or_create(code=conf.partner, defaults={"name": _PARTNER})
    product_class, _ = ProductClass.objects.get_or_create(
        name=_CLASS, defaults={"requires_shipping": False, "track_stock": True}
    )
    product = Product.objects.create(
        product_class=product_class,
        title=kind.offer.name[: Product._meta.get_field("title").max_length],  # noqa: SLF001
    )
    product.categories.add(create_from_breadcrumbs(kind.product.category or _CATEGORY))
    StockRecord.objects.create(
        product=product,
        partner=partner,
        partner_sku=sku_of(kind.product.product_id, kind.type_id),
        price_currency=core.currency,
        price=kind.shop_price,
        num_in_stock=0 if kind.shop_price is None else _left(kind),
    )
