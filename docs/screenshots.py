"""Make the screenshots of the documentation: ``python -m docs.screenshots``, from the checkout.

This needs Debian's chromium and chromium-driver, and the dependency group ``test``. With ``--to
DIRECTORY``, the pictures are written to a different folder. With ``--all``, they show every page in
every language, for the desktop and the phone, light and dark.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

IMAGES = Path(__file__).parent / "images"
LANGUAGES = ("en", "fr", "ar")
WINDOWS = {"desktop": (1280, 600), "phone": (390, 844)}
THEMES = ("light", "dark")
# Scripts that fill in and submit a form before the picture is taken.
BEFORE = {
    "product-preview": """
        const type = (end, value) => { document.querySelector(`[name$="${end}"]`).value = value; };
        type("-margin_percent", "15");
        type("-fixed_price", "480");
        document.querySelector(".giftcards-shelf").submit();
    """,
    "products-many": """
        document.querySelector(".action-select").click();
        document.querySelector("[name=action]").value = "change_shelf";
        document.querySelector("#changelist-form .actions button").click();
    """,
    "order-confirm": """
        const card = document.querySelector("[name=card]");
        card.value = card.querySelector("optgroup option").value;
        document.querySelector("[name=quantity]").value = "2";
        document.querySelector("[name=_save]").click();
    """,
}
# The size of the picture in the README: the beginning of the page about a partial refund.
FIRST_SCREEN = (1080, 732)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("--to", type=Path, default=IMAGES, help="where to write the pictures")
    parser.add_argument("--all", action="store_true", help="every page, language, window and theme")
    parser.add_argument("names", nargs="*", help="only these pages, such as order-list")
    options = parser.parse_args(arguments)
    options.to.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="giftcards-screenshots-") as directory:
        os.environ["DATABASE_URL"] = f"sqlite:///{directory}/db.sqlite3"
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        _photograph(options.to, everything=options.all, names=options.names)
    return 0


def _photograph(directory: Path, *, everything: bool, names: Sequence[str]) -> None:
    # These imports need the settings.
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.management import call_command
    from django.db import connections
    from django.test import Client
    from django.test.testcases import LiveServerThread

    from giftcards.books.models import LedgerEntry
    from giftcards.delivery.models import CardLink, Delivery
    from giftcards.models import Card, CustomerRefund, Order, Product, ProviderState
    from tests.browser import showcase
    from tests.browser.chromium import chromium, photograph, prefer, resize

    call_command("migrate", verbosity=0)
    showcase.fill()
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("amina", password=None))
    ProviderState.objects.note_tick()
    order_list = "admin/giftcards/order/"
    ledger = "admin/giftcards_books/ledgerentry/"

    def page_of(reference: str, name: str = "change") -> str:
        return f"{order_list}{Order.objects.get(reference=reference).pk}/{name}/"

    # The pages that the documentation shows.
    pages = {
        "order-list": order_list,
        "order-page": page_of("web-1042"),
        "report": f"{order_list}report/",
        "start": "admin/giftcards/",
        "order-add": f"{order_list}add/",
        "resolve": page_of("web-1040", "resolve"),
        "pay-back": page_of("web-1042", "pay-back"),
        "ledger-period": f"{ledger}?period=week",
        "product": f"admin/giftcards/product/{Product.objects.get().pk}/change/",
    }
    if everything:
        other = {
            "unconfirmed": "web-1040",
            "large": "web-1037",
            "held": "web-1035",
            "paid-back": "web-1038",
        }
        pages |= {name: page_of(reference) for name, reference in other.items()}
        # The settings of the tests send no messages.
        settings.GIFTCARDS_DELIVERY = {
            "SHOP_URL": "https://shop.example",
            "STAFF_EMAILS": ["boss@shop.example", "books@shop.example"],
        }
        told = showcase.tell()
        messages = "admin/giftcards_delivery/"
        about_told = f"{order_list}{told.pk}/"
        paid = CustomerRefund.objects.get(reference="cart-38")
        pages |= {
            "help": "admin/giftcards/desk/help/",
            "start": "admin/giftcards/",
            "order-add": f"{order_list}add/",
            "order-confirm": f"{order_list}add/",
            "report-products": f"{order_list}report/?by=product",
            "correct-customer": pages["order-page"].replace("/change/", "/customer/"),
            "price": pages["held"].replace("/change/", "/price/"),
            "order-again": pages["order-page"].replace("/change/", "/reorder/"),
            "refund-take-back": f"{order_list}refunds/{paid.pk}/take-back/",
            "refunds": "admin/giftcards/customerrefund/",
            "reveal": f"{order_list}cards/{Card.objects.first().pk}/",
            "provider": "admin/giftcards/providerstate/",
            "products": "admin/giftcards/product/",
            "product-texts": f"admin/giftcards/product/{Product.objects.get().pk}/redemption/",
            "category-texts": (
                f"admin/giftcards/product/category/{Product.objects.get().category_id}/redemption/"
            ),
            "product-preview": f"admin/giftcards/product/{Product.objects.get().pk}/change/",
            "products-many": "admin/giftcards/product/",
            "shop": "admin/giftcards/shelf/",
            "categories": "admin/giftcards/category/",
            "reveals": "admin/giftcards/cardreveal/",
            "ledger": ledger,
            "ledger-entry": f"{ledger}{LedgerEntry.objects.first().pk}/change/",
            "messages": f"{messages}delivery/",
            "message": f"{messages}delivery/{Delivery.objects.get(status='retrying').pk}/change/",
            "links": f"{messages}cardlink/",
            "link": f"{messages}cardlink/{CardLink.objects.earliest('pk').pk}/change/",
            "digests": f"{messages}staffdigest/",
            "send-again": f"{about_told}send-again/",
            "new-link": f"{about_told}new-link/",
            "proof-of-delivery": f"{about_told}proof/",
        }
    pages = {name: pages[name] for name in names or pages}
    connections.close_all()

    server = LiveServerThread("127.0.0.1", StaticFilesHandler)
    server.daemon = True
    server.start()
    server.is_ready.wait()
    site = f"http://127.0.0.1:{server.port}/"
    try:
        with chromium() as driver:
            driver.get(f"{site}admin/login/")
            driver.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})
            for language in LANGUAGES if everything else ("en",):
                driver.add_cookie({"name": "django_language", "value": language})
                for name, address in pages.items():
                    resize(driver, *WINDOWS["desktop"])
                    driver.get(site + address)
                    # If an object does not exist, Django shows the site's index instead.
                    if driver.current_url != site + address:
                        raise LookupError(address)
                    if name in BEFORE:
                        driver.execute_script(BEFORE[name])
                    if not everything:
                        photograph(driver, directory / f"{name}.png")
                        if name == "order-page":
                            width, height = FIRST_SCREEN
                            resize(driver, width, height)
                            photograph(driver, directory / "partial-refund.png", height=height)
                        continue
                    for window, theme in product(WINDOWS, THEMES):
                        resize(driver, *WINDOWS[window])
                        prefer(driver, theme)
                        photograph(driver, directory / f"{name}-{language}-{window}-{theme}.png")
    finally:
        server.terminate()


if __name__ == "__main__":
    sys.exit(main())
