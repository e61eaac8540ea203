"""``giftcards_catalogue`` reads the provider's catalogue and reports how far it has come."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from giftcards.models import Category, Product, ProductType, ProviderState
from giftcards.simulator import Simulator
from tests.builders import hide
from tests.conftest import Call
from tests.stage import PSN, end_pause, refill_budget, spend_budget, wait_until

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def top_ups(db: None) -> Category:
    """Return the category that the shop does not sell."""
    return hide("Mobile & Internet")


def test_the_command_reads_the_catalogue_and_counts_it(call: Call, simulator: Simulator) -> None:
    assert call("giftcards_catalogue") == (
        "2 products read, 0 failed, 0 still to read.\n"
        "The catalogue has 3 products, 2 on sale, and 21 types, 21 for sale.\n"
        "Your shop does not sell 1 product.\n",
        "",
        0,
    )
    assert ProductType.objects.get(type_id="type_001").name == "PSN 500 DA"


def test_a_shop_that_sells_everything_is_told_nothing_more(
    call: Call, simulator: Simulator, top_ups: Category
) -> None:
    top_ups.is_sold = True
    top_ups.save()
    assert "does not sell" not in call("giftcards_catalogue").out


def test_the_counts_can_be_had_as_json(call: Call, simulator: Simulator) -> None:
    out, err, code = call("giftcards_catalogue", "--json")
    assert json.loads(out) == {
        "products": 3,
        "on_sale": 2,
        "hidden": 1,
        "types": 21,
        "types_for_sale": 21,
        "to_read": 0,
        "read": 2,
        "failed": 0,
        "is_whole": True,
    }
    assert (err, code) == ("", 0)


def test_a_product_that_cannot_be_read_fails_the_run_and_is_named(
    call: Call, simulator: Simulator
) -> None:
    # The simulator has no path for an id with a slash.
    simulator.catalogue = {**simulator.catalogue, "a/b": simulator.catalogue[PSN]}
    out, err, code = call("giftcards_catalogue")
    assert out.startswith("2 products read, 1 failed, 0 still to read.\n")
    assert err.startswith("The product a/b could not be read. ")
    assert err.endswith(" Run the command again to read the rest.\n")
    assert code == 1


def test_a_provider_that_is_away_fails_the_run_and_leaves_the_catalogue(
    call: Call, simulator: Simulator
) -> None:
    call("giftcards_catalogue")
    simulator.outage = True
    out, err, code = call("giftcards_catalogue")
    assert out.startswith("0 products read, 0 failed, 0 still to read.\nThe catalogue has 3 ")
    assert "SERVICE_UNAVAILABLE" in err
    assert code == 1


def test_a_refused_key_is_named_once_and_nothing_waits_for_it(
    call: Call, simulator: Simulator
) -> None:
    simulator.keys = ["another"]
    _out, err, code = call("giftcards_catalogue")
    assert err.startswith("The provider refuses the API key or this server's address. ")
    assert code == 1
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    ("pause", "text"),
    [
        (False, "Reading the catalogue: waiting for its share of the request quota (since "),
        (True, "Reading the catalogue: The provider asked for fewer requests. Slowly. "),
    ],
)
@pytest.mark.django_db(transaction=True)
def test_a_wait_says_what_it_is_for(
    child: Callable[..., Any],
    simulator: Simulator,
    set_conf: Callable[..., None],
    pause: bool,
    text: str,
) -> None:
    set_conf(REQUESTS_PER_MINUTE=40)
    if pause:
        until = timezone.now() + timedelta(minutes=5)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slowly.", until=until)
    else:
        spend_budget()
    process = child("giftcards_catalogue")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(text)
    assert simulator.requests == []
    if pause:
        end_pause()
    else:
        refill_budget()
    wait_until(lambda: Product.objects.to_read().count() == 0 and Product.objects.exists())
    assert process.wait(30) == 0


def test_with_verbosity_0_nothing_is_printed(call: Call, simulator: Simulator) -> None:
    assert call("giftcards_catalogue", "-v0") == ("", "", 0)


def test_a_setting_that_is_wrong_is_a_mistake(call: Call, set_conf: Callable[..., None]) -> None:
    set_conf(REQUESTS_PER_MINUTE=0)
    _out, err, code = call("giftcards_catalogue")
    assert "REQUESTS_PER_MINUTE" in err
    assert code == 2
