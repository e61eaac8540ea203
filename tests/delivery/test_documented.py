"""The examples on the pages about messages, run as documented."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
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
from tests.docs.pages import blocks, page, section

pytestmark = pytest.mark.django_db


def run(heading: str, **names: Any) -> dict[str, Any]:
    """Run the code blocks under a heading, and return the names that they define."""
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


def test_a_customer_sees_the_order_that_was_placed_as_documented_and_nobody_else_does() -> None:
    lina, sara = map(get_user_model().objects.create_user, ("lina", "sara"))
    run("My cards", request=SimpleNamespace(user=lina))
    for user, is_shown in ((lina, True), (sara, False)):
        browser = Client()
        browser.force_login(user)
        shown = browser.get(reverse("giftcards_delivery:my_cards")).content.decode()
        assert ("cart-1045" in shown) == is_shown


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
    [template] = blocks(page("templates"), "html")
    path = tmp_path / "giftcards_delivery" / "messages" / "message.html"
    path.parent.mkdir(parents=True)
    path.write_text(template)
    [engine] = settings.TEMPLATES
    settings.TEMPLATES = [{**engine, "DIRS": [tmp_path]}]
    order = make_guide_order(Status.DELAYED)
    message = compose(Delivery(order=order, kind="delayed", language="en"), None)
    assert "<b>Games of Oran</b>" in message.html
    assert order.reference in message.html
