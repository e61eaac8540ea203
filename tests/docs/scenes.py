"""The situation before the blocks of some pages, and what runs blocks that cannot run here.

Pages whose blocks need only the names that every page has are in none of these tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import requests
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.management import call_command
from django.http import HttpRequest
from django.test import RequestFactory

from giftcards.models import Order, ProductType, ProviderState
from giftcards.simulator import Simulator
from tests.builders import LINE, PRODUCT, make_guide_order, make_offer
from tests.docs.pages import PAGES, Block, all_blocks

# Names that Python code on any page may use. Each is made when a page first uses it.
NAMES: dict[str, Callable[[Simulator], Any]] = {
    "app": lambda _simulator: SimpleNamespace(autodiscover_tasks=lambda **_options: None),
    "cart": lambda _simulator: SimpleNamespace(
        pk=1042,
        amount=1100,
        email="amina@example.com",
        name="Amina",
        product_type=ProductType.objects.first() or make_offer(),
        user=None,
    ),
    "order": lambda _simulator: make_guide_order(),
    "request": lambda _simulator: _request_of_guest(),
    "simulator": lambda simulator: simulator,
}


def _request_of_guest() -> HttpRequest:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return request


def bought(reference: str, *arguments: str) -> Callable[[Simulator], None]:
    """Return a scene with an order of four cards for 550 DA each, of which two have come."""

    def place(_simulator: Simulator) -> None:
        line = (PRODUCT, "TEST_PARTIAL", "4", "--sale-price", "550")
        call_command("giftcards_place", *line, "--reference", reference, *arguments, "--wait")

    return place


def restored(simulator: Simulator) -> None:
    """Make a database that lacks three of the provider's orders and has three unsent orders."""
    for type_id in ("type_001", "type_101", "type_101"):
        product = PRODUCT if type_id == "type_001" else "507f1f77bcf86cd799439012"
        answer = requests.post(
            f"{simulator.url}/v3/gift-cards/placeOrder",
            json={"productId": product, "typeId": type_id, "quantity": 2},
            headers={"X-Access-Token": "any-text"},
            timeout=10,
        )
        answer.raise_for_status()
    for reference, quantity in (("cart-1042", 2), ("cart-1043", 3), ("cart-1044", 5)):
        Order.objects.create(**LINE | {"reference": reference, "quantity": quantity})


def customer_of_two_orders(simulator: Simulator) -> None:
    for reference in ("cart-1042", "cart-1043"):
        bought(reference, "--email", "amina@example.com")(simulator)


def ticked(_simulator: Simulator) -> None:
    """Record that a worker runs."""
    ProviderState.objects.note_tick()


def with_a_catalogue(_simulator: Simulator) -> None:
    call_command("giftcards_catalogue", verbosity=0)


def with_a_mail_server(_simulator: Simulator) -> None:
    """Since Django 6.1, its checks for a deployment refuse the mail backend of tests."""
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.smtp.EmailBackend"}}


# What has happened before the reader comes to a heading of a page.
SCENES: dict[tuple[str, str], Callable[[Simulator], None]] = {
    ("docs/going-live.md", "Before you go live"): with_a_mail_server,
    ("docs/installation.md", "8. Test the installation"): ticked,
    ("docs/moving.md", "The move"): with_a_mail_server,
    ("docs/privacy.md", "Providing the data"): customer_of_two_orders,
    ("docs/privacy.fr.md", "Remettre ses données à un client"): customer_of_two_orders,
    ("docs/restoring.md", "Before the workers start"): restored,
    ("docs/shelf.md", "A shelf in ten lines"): with_a_catalogue,
}

# The page with the shop that others build on: they add to its files, or import them.
SHOP = "docs/recipes/plain-cart.md"

# Where code is run that is not run with the pages: in a test, in a session of nox, or nowhere, with
# the reason.

# Pages that are followed as a whole.
PAGES_ELSEWHERE = {
    "docs/oscar.md": "tests/oscar/test_settings.py",
    "docs/tutorial.md": "tests/docs/test_tutorial.py",
}
# Libraries that may not be installed, and the test that runs the blocks that import them.
ABSENT = {"celery": "tests/test_packaging.py", "django.tasks": "tests/test_packaging.py"}
# Shell lines, by the pattern with which they begin.
LINES_ELSEWHERE = {
    r"make demo": ".ci/readme: make demo",
    r"make test( |$)": ".ci/readme: make test",
    r"(DATABASE_URL=\S+ )?make test-all": 'noxfile.py: make("test-all"',
    r"\S*nox -s (postgresql|\"tests)": "noxfile.py: def postgresql",
    r"\S*nox -s release": "Builds and tags a release: tried by hand, with --rehearse.",
    r"docker compose ": "Needs Docker; what the containers run is in tests/test_packaging.py.",
    r"make explore": "tests/explore/test_explore.py",
    r"(GIFTCARDS_API_KEY=… )?make contract": "tests/test_contract.py",
    r"make mutation": "Takes three quarters of an hour.",
    r"python3 -m venv |\S*pip install ": (
        "tests/test_packaging.py: test_a_new_site_with_the_wheel_places_and_settles_an_order"
    ),
    r"(\S+=\S+ )?\S*python manage\.py (qcluster|runserver)": "tests/docs/test_tutorial.py",
    r"\S*python manage\.py giftcards_simulator": "tests/commands/test_simulator.py",
    r"\S+python manage\.py createsuperuser": "Django's own: asks for a name and a password.",
    r"python manage\.py migrate giftcards NAME": "The name is that of a later version.",
}


def line_elsewhere(typed: str) -> str | None:
    """Return the row of :data:`LINES_ELSEWHERE` that matches a line."""
    return next((row for row in LINES_ELSEWHERE if re.match(row, typed)), None)


def blocks_to_run(page: str) -> list[Block]:
    return [] if page in PAGES_ELSEWHERE else list(all_blocks(page))


PAGES_TO_RUN = [page for page in sorted(PAGES) if blocks_to_run(page)]
