"""The storefront of the example project, run in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.core.management import CommandError, call_command
from django.db.models import Model
from django.utils import timezone

from example_project.storefront.catalogue import open_shop
from giftcards.delivery.models import Installation
from giftcards.delivery.tasks import deliver
from giftcards.models import (
    ApiKey,
    Category,
    Product,
    ProductType,
    ProviderState,
    Shelf,
    ShelfChange,
)
from tests.delivery.connecting import connect, disconnect
from tests.fakes.mail import file_settings
from tests.stage import fill_catalogue

_SHELF: list[list[Model]] = []


@contextmanager
def opened(settings: Any, folder: Path, url: str = "http://127.0.0.1:8000") -> Iterator[None]:
    """Open the shop at ``url``, which writes its mails to customers into files in ``folder``."""
    settings.MAIL_DIR = folder
    for name, value in file_settings(folder).items():
        setattr(settings, name, value)
    settings.GIFTCARDS_DELIVERY = {
        "SHOP_URL": url,
        "FROM_EMAIL": "Example Shop <shop@example.com>",
        "SHOP_NAME": "Example Shop",
    }
    # The tables were emptied, so the time of the installation is recorded again.
    Installation.begin()
    connect()
    try:
        yield
    finally:
        disconnect()


def fill_shelf() -> None:
    """Fill the shelf as a worker does.

    The first call reads the catalogue. Later calls copy the rows that it has read.
    """
    if not _SHELF:
        open_shop()
        fill_catalogue()
        models = (ApiKey, ProviderState, Category, Product, ProductType, Shelf, ShelfChange)
        _SHELF.extend(list(model._base_manager.all()) for model in models)
        return
    for model in (Product, Category, Shelf):
        model._base_manager.all().delete()
    for rows in _SHELF:
        type(rows[0])._base_manager.bulk_create(rows)
    now = timezone.now()
    Product.objects.update(listed_at=now, types_read_at=now, asked_at=now)
    ProductType.objects.update(read_at=now)


def kind(type_id: str) -> ProductType:
    """Return the product type that the shop sells under this id."""
    found = ProductType.objects.for_sale().filter(type_id=type_id).first()
    assert found
    return found


def work(*arguments: str) -> None:
    """Do the worker's job once.

    ``--reference`` also checks an order that is not due.
    """
    with suppress(CommandError):  # the provider has refused an order, which the test looks at
        call_command("giftcards_poll", *arguments, verbosity=0)
    deliver()
