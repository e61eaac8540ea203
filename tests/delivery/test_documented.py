"""The examples of the page about messages, run as they stand there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse

from giftcards.checks import TAG
from giftcards.delivery.messages import compose
from giftcards.delivery.models import Delivery
from giftcards.statuses import Status
from tests.builders import make_guide_order
from tests.delivery.conftest import SHOP
from tests.docs.pages import blocks, page, section

pytestmark = pytest.mark.django_db


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Run the blocks under a heading; the names that they define."""
    for block in blocks(section(page("delivery"), heading), "python"):
        exec(block, names)
    return names


@pytest.mark.parametrize("installed", [["shop"], ("shop",)])
def test_a_shop_that_adds_the_app_keeps_its_settings_and_passes_the_checks(
    installed: Any, settings: Any
) -> None:
    names = run("1. Settings", INSTALLED_APPS=installed)
    assert names["INSTALLED_APPS"] == ["shop", "giftcards.delivery"]
    settings.GIFTCARDS_DELIVERY = names["GIFTCARDS_DELIVERY"]
    assert run_checks(tags=[TAG]) == []


def test_the_documented_pages_are_those_that_messages_link_to() -> None:
    [pattern] = run("2. Pages")["urlpatterns"]
    assert reverse("giftcards_delivery:my_cards") == f"/{pattern.pattern}"


class Line:
    """Of the shop: what its customers have paid for."""

    objects = SimpleNamespace(filter=lambda cart__user: CARTS[cart__user.username])


CARTS = {
    "lina": [SimpleNamespace(reference="line-1"), SimpleNamespace(reference="line-3")],
    "sara": [SimpleNamespace(reference="line-2")],
}


@pytest.mark.parametrize(
    ("name", "owned"), [("lina", {"line-1", "line-3"}), ("sara", {"line-2", "line-5"})]
)
def test_a_customer_sees_the_orders_of_their_carts_and_their_gifts_and_no_others(
    name: str, owned: set[str], client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, models, gifts = (ModuleType(part) for part in ("shop", "shop.models", "shop.my_cards"))
    for module in (shop, models, gifts):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    vars(models)["Line"] = Line
    shop_user: Any = get_user_model()
    monkeypatch.setattr(
        shop_user, "proven_addresses", lambda user: [f"{user}@shop.example"], raising=False
    )
    names = run("My cards", GIFTCARDS_DELIVERY={**SHOP})
    vars(gifts).update(names)
    settings.GIFTCARDS_DELIVERY = names["GIFTCARDS_DELIVERY"]
    for reference in ("line-1", "line-2", "line-3", "line-4"):
        make_guide_order(Status.FULFILLED, reference=reference)
    for reference, name_of in (("line-5", "sara"), ("line-6", "amina")):
        gift = {"reference": reference, "recipient_email": f"{name_of}@shop.example"}
        make_guide_order(Status.FULFILLED, **gift)
    client.force_login(get_user_model().objects.create_user(name))
    shown = client.get(reverse("giftcards_delivery:my_cards")).content.decode()
    assert set(re.findall(r"line-\d", shown)) == owned


def test_the_documented_pin_is_that_of_the_order() -> None:
    _, block = blocks(section(page("delivery"), "A PIN"), "python")
    names: dict[str, Any] = {}
    exec(block, names)
    order = make_guide_order(Status.FULFILLED, metadata={"pin": "4711"})
    assert names["pin"](order) == "4711"
    assert names["pin"](make_guide_order(Status.FULFILLED)) == ""


def test_the_logo_of_the_shop_stands_in_its_mails_and_the_rest_stays(
    settings: Any, tmp_path: Path
) -> None:
    [template] = blocks(section(page("delivery"), "Of messages"), "html")
    path = tmp_path / "giftcards_delivery" / "messages" / "message.html"
    path.parent.mkdir(parents=True)
    path.write_text(template)
    [engine] = settings.TEMPLATES
    settings.TEMPLATES = [{**engine, "DIRS": [tmp_path]}]
    order = make_guide_order(Status.DELAYED)
    message = compose(Delivery(order=order, kind="delayed", language="en"), None)
    assert "<b>Games of Oran</b>" in message.html
    assert order.reference in message.html
