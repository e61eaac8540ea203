"""Read the provider's catalogue, one product at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain, zip_longest
from typing import Any, TypeVar

from django.db.models import Q
from django.utils import timezone

from giftcards.catalogue.pricing import keep_prices
from giftcards.conf import conf
from giftcards.engine.gateway import Gateway, Stopped, ask_when_free
from giftcards.exceptions import ProviderError, Refused
from giftcards.models import Lease, OfferChange, Order, Product, ProductType, Reservation
from giftcards.provider.answers import ListedProduct
from giftcards.rules.purposes import Purpose
from giftcards.rules.times import LONGEST_HOLD, is_recent

logger = logging.getLogger(__name__)

T = TypeVar("T")

# An interrupted reading can be resumed for this time.
_RESUMABLE = timedelta(hours=6)
# Products that were ordered within _LATELY, or are reserved, are read _TIMES times as often.
_LATELY = timedelta(days=1)
_TIMES = 4
# The token of the lease for a requested reading, after the list of products has been read.
_LISTED = "listed"
# How long a worker reads the catalogue before it stops sending requests (seconds).
_SECONDS = 5.0
# The pause between two checks of whether another reading has ended (seconds).
_LOOK = 0.2
# The pause of workers after a failed reading.
_PAUSE = timedelta(minutes=2)
# The provider counts as unreachable after this many products in a row without an answer.
_MOST_SILENT = 3


@dataclass(frozen=True, slots=True)
class CatalogueReading:
    """The progress of reading the catalogue.

    ``total`` is the number of products to read. ``failed`` is the number of products and catalogue
    rows that could not be read. ``trouble`` describes the last failure, or the reason why the
    reading ended early.
    """

    total: int = 0
    read: int = 0
    failed: int = 0
    trouble: str = ""
    # True if the reading waits for paused calls, False if it waits for the request quota.
    is_paused: bool = False

    @property
    def is_whole(self) -> bool:
        return not self.trouble and not self.failed and self.read == self.total


def read_catalogue(
    gateway: Gateway, *, on_wait: Callable[[CatalogueReading], None]
) -> CatalogueReading:
    """Read the catalogue, and then the types of each product on sale.

    The function makes one request for each product, and uses at most a tenth of the quota of
    requests to the provider. While the function waits until it is allowed to make the next request,
    it calls ``on_wait`` repeatedly. If a reading was interrupted less than six hours ago, the
    function continues it.
    """
    reader = _Reader(gateway, on_wait)
    return reader.run(reader.read_whole)


def keep_current(has_time: Callable[[], bool]) -> None:
    """Read the parts of the catalogue that are due, and set prices.

    A call takes a few seconds. The list of products and the types of each product are due every
    ``CATALOGUE_INTERVAL`` seconds. The types of a product are due four times as often if the
    product is reserved or was ordered within the last day.

    The function also deletes old reservations, and old catalogue changes that have been announced.
    """
    every = timedelta(seconds=conf.catalogue_interval)
    is_wanted = reading_wanted() is not None
    if (every or is_wanted) and not Lease.objects.is_taken(Lease.CATALOGUE_PAUSE):
        _read_part(every, has_time)
    # The shop's receivers may read the offers, so the prices are stored before any receiver is
    # called.
    ends_at = time.monotonic() + _SECONDS
    keep_prices(lambda: time.monotonic() < ends_at and has_time())
    OfferChange.objects.all().forget()
    Reservation.objects.all().forget()


def read_soon() -> None:
    """Ask a worker to read the whole catalogue.

    The worker starts within a minute, and does not exceed the quota of requests to the provider.
    """
    Lease.objects.get_or_create(name=Lease.CATALOGUE_WANTED)
    Lease.objects.revoke(Lease.CATALOGUE_PAUSE)


def reading_wanted() -> tuple[int, int] | None:
    """Return the progress of a requested reading of the catalogue.

    The result contains the number of products that have been read, and the total number of
    products. Both numbers are 0 until the list of products has been read. The result is ``None`` if
    no requested reading is in progress.
    """
    wanted = Lease.objects.filter(name=Lease.CATALOGUE_WANTED).first()
    if wanted is None:
        return None
    if not wanted.token:
        return 0, 0
    total = Product.objects.on_sale().count()
    return total - Product.objects.to_ask(timezone.now()).count(), total


def _read_part(interval: timedelta, may_go_on: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + _SECONDS
    with Gateway() as gateway:
        if not gateway.try_open():
            return
        reader = _Reader(gateway, _do_not_wait, lambda: time.monotonic() < ends_at and may_go_on())
        reading = reader.run(lambda: reader.read_due(interval))
    if reading.trouble:
        logger.warning("The catalogue could not be read. %s", reading.trouble)
    if reader.is_away:
        Lease.objects.take(Lease.CATALOGUE_PAUSE, _PAUSE)


def _do_not_wait(_reading: CatalogueReading) -> None:
    # The reading ends instead of waiting, because requests about orders come first. The next tick
    # tries again.
    raise Stopped


class _Reader:
    def __init__(
        self,
        gateway: Gateway,
        on_wait: Callable[[CatalogueReading], None],
        should_continue: Callable[[], bool] = lambda: True,
    ) -> None:
        self.reading = CatalogueReading()
        #: True if the list could not be read, or the provider does not answer.
        self.is_away = False
        self._gateway = gateway
        self._on_wait = on_wait
        self._should_continue = should_continue
        self._silent = 0

    def run(self, read: Callable[[], None]) -> CatalogueReading:
        """Read the catalogue with the given function, and return the progress.

        If another process is reading the catalogue, the method first waits for the other process,
        and calls ``on_wait`` repeatedly during this time. If an error or a limit ends the wait or
        the reading early, the method returns the progress so far.
        """
        try:
            token = self._take_lease()
            try:
                read()
            finally:
                Lease.objects.release(Lease.CATALOGUE, token)
        except (Stopped, ProviderError) as error:
            # If the error has no text, ``trouble`` keeps describing the failure of the last
            # product.
            if str(error):
                self.note(trouble=str(error))
                self.is_away = True
        return self.reading

    def note(self, **changes: Any) -> None:
        self.reading = replace(self.reading, **changes)

    def _take_lease(self) -> str:
        while (token := Lease.objects.take(Lease.CATALOGUE, LONGEST_HOLD)) is None:
            self._on_wait(self.reading)
            time.sleep(_LOOK)
        return token

    def read_whole(self) -> None:
        if not (_is_listed(_RESUMABLE) and Product.objects.to_read().exists()):
            self._read_list()
        self._read_products(Product.objects.to_read())

    def read_due(self, interval: timedelta) -> None:
        """Read the list of products and the types that are due.

        The types of products that customers buy or reserve are due more often than others. If
        somebody has requested a reading, the list and all types are due. If ``interval`` is 0, the
        catalogue is read only on request.
        """
        wanted = Lease.objects.filter(name=Lease.CATALOGUE_WANTED)
        if wanted.filter(token="").exists() or (interval and not _is_listed(interval)):
            self._read_list()
            wanted.update(token=_LISTED)
        now = timezone.now()
        self._read_products(self._due_products(interval, now))
        if not Product.objects.to_ask(now).exists():
            wanted.filter(token=_LISTED).delete()

    def _due_products(self, interval: timedelta, now: datetime) -> Iterable[Product]:
        if not interval:
            return Product.objects.to_ask(now)
        sold = Order.objects.filter(created_at__gte=now - _LATELY).order_by().values("product_id")
        reserved = Reservation.objects.current(now).values("product_id")
        wanted = Product.objects.on_sale().filter(
            Q(product_id__in=sold) | Q(product_id__in=reserved)
        )
        selling = wanted.filter(asked_at__lt=now - interval / _TIMES)
        # Products that sell and other due products take turns, so neither group starves.
        both = zip_longest(selling.order_by("asked_at", "pk"), Product.objects.to_ask(now))
        return dict.fromkeys(filter(None, chain.from_iterable(both)))

    def _read_products(self, products: Iterable[Product]) -> None:
        products = list(products)
        self.note(total=len(products))
        for product in products:
            if not self._should_continue():
                break
            # Another process may have read the types in the meantime.
            unread = Product.objects.filter(pk=product.pk, types_read_at=product.types_read_at)
            if unread.exists():
                self._read_types(product.product_id)
            else:
                self.note(total=self.reading.total - 1)

    def _read_list(self) -> None:
        at = timezone.now()
        client = self._gateway.client
        catalogue = self._ask(lambda: self._gateway.ask(client.catalogue, Purpose.BACKGROUND))
        if catalogue.unreadable:
            trouble = "The catalogue has rows that could not be read."
            self.note(failed=catalogue.unreadable, trouble=trouble)
        if catalogue.absent:
            trouble = (
                f"The catalogue lists {catalogue.absent} fewer products than it counts, so no"
                " product counts as missing."
            )
            # A product that counts as absent may be one of the unreadable rows, so adding the two
            # numbers could count it twice.
            self.note(failed=max(catalogue.absent, catalogue.unreadable), trouble=trouble)
        columns = map(_columns_of_product, catalogue.products)
        Product.objects.keep(columns, at=at, is_whole=not catalogue.absent)

    def _read_types(self, product_id: str) -> None:
        try:
            self._ask(lambda: self._gateway.prices.product(product_id, Purpose.BACKGROUND))
        except ProviderError as error:
            self._note_failure(product_id, error)
        else:
            self._silent = 0
            self.note(read=self.reading.read + 1)

    def _note_failure(self, product_id: str, error: ProviderError) -> None:
        Product.objects.filter(product_id=product_id).update(asked_at=timezone.now())
        trouble = f"The product {product_id} could not be read. {error}"
        self.note(failed=self.reading.failed + 1, trouble=trouble)
        # Even an unusable answer shows that the provider is there.
        is_answer = isinstance(error, Refused) or error.status == 200
        self._silent = 0 if is_answer else self._silent + 1
        if self._silent == _MOST_SILENT:
            self.is_away = True
            raise Stopped

    def _ask(self, call: Callable[[], T | None]) -> T:
        return ask_when_free(self._gateway, call, self._wait)

    def _wait(self, is_paused: bool) -> None:
        self._on_wait(replace(self.reading, is_paused=is_paused))


def _is_listed(within: timedelta) -> bool:
    return is_recent(Product.objects.last_listed_at(), timezone.now(), period=within)


def _columns_of_product(product: ListedProduct) -> dict[str, Any]:
    return {
        "product_id": product.product_id,
        "name": product.title,
        "category": product.category,
        "region": product.region,
        "is_enabled": product.is_enabled,
    }


def counts() -> dict[str, int]:
    """Return the numbers of products and types in the catalogue.

    ``hidden`` is the number of products that the provider sells but the shop does not. ``to_read``
    is the number of products whose types must still be read.
    """
    return {
        "products": Product.objects.count(),
        "on_sale": Product.objects.on_sale().count(),
        "hidden": Product.objects.hidden().count(),
        "types": ProductType.objects.count(),
        "types_for_sale": ProductType.objects.for_sale().count(),
        "to_read": Product.objects.to_read().count(),
    }
