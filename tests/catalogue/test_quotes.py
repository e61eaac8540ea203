"""Quotes: the current cost of a card, with one request to the provider for many callers."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from giftcards.catalogue import check_offer, quote, reserve
from giftcards.engine.resolving import NoAnswer
from giftcards.models import Category, Product, ProviderState
from giftcards.simulator import Denomination, Simulator
from giftcards.simulator import Product as SoldProduct
from giftcards.statuses import Status
from tests.builders import PRODUCT, TYPE, make_offer, make_order, set_rule
from tests.stage import ago, in_threads, refill_budget, refuse_key, spend_budget

pytest_plugins = ["tests.stage_fixtures"]

DEARER = Denomination("PSN 500 DA", Decimal(530), 7)
QUESTION = f"/v3/gift-cards/checkProduct/{PRODUCT}"


@pytest.fixture(autouse=True)
def dearer(simulator: Simulator) -> None:
    """Raise the provider's price from 490 to 530 DA, with seven cards in stock."""
    simulator.catalogue = {PRODUCT: SoldProduct("PlayStation", "DZ", {TYPE: DEARER})}


def asked(simulator: Simulator) -> list[str]:
    return [request.path for request in simulator.requests]


@pytest.mark.django_db
class TestQuote:
    @pytest.mark.parametrize(
        ("age", "max_age", "price"),
        [(59, 60, 490), (61, 60, 530), (61, 90, 490), (0, 0, 530), (-60, 60, 530), (None, 60, 530)],
    )
    def test_asks_if_the_facts_are_older_than_they_may_be(
        self, simulator: Simulator, age: float | None, max_age: float, price: int
    ) -> None:
        make_offer(read_at=None if age is None else ago(age))
        told = quote(PRODUCT, TYPE, max_age=max_age)
        assert told.cost == price
        assert asked(simulator) == [QUESTION] * (price == 530)
        assert told.no_answer is None

    @pytest.mark.parametrize("type_id", [TYPE, "other"])
    def test_a_category_that_is_not_sold_is_not_asked_about(
        self, simulator: Simulator, type_id: str
    ) -> None:
        make_offer(read_at=ago(120))
        Category.objects.update(is_sold=False)
        told = quote(PRODUCT, type_id, max_age=0)
        assert (told.is_sold_here, told.is_for_sale) == (False, False)
        assert told.cost == (490 if type_id == TYPE else None)
        assert asked(simulator) == []

    def test_says_all_there_is_to_know(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_rule(set_conf, {"margin_percent": 10, "round_to": 10})
        make_offer(read_at=ago(120))
        make_order(Status.PENDING)
        reserve(reference="cart-1", product_id=PRODUCT, type_id=TYPE, quantity=1)
        ProviderState.objects.update(balance=9_000, balance_read_at=ago(100))
        before = timezone.now()
        told = quote(PRODUCT, TYPE, 3)
        assert (told.stock, told.available, told.price) == (7, 4, 590)
        assert (told.cost, told.total_cost, told.balance) == (530, 1_590, 9_000)
        assert told.read_at is not None
        assert before <= told.read_at <= timezone.now()
        assert tuple(told.names) == ("PlayStation", "PSN 500 DA")
        # The next caller gets the same quote without a request.
        simulator.forget_requests()
        assert quote(PRODUCT, TYPE, 3) == told
        assert asked(simulator) == []

    def test_a_product_that_the_catalogue_never_listed_is_asked_for(
        self, simulator: Simulator
    ) -> None:
        told = quote(PRODUCT, TYPE)
        assert (told.cost, told.stock, told.is_for_sale) == (530, 7, True)
        assert tuple(told.names) == ("PlayStation", "PSN 500 DA")
        assert quote(PRODUCT, TYPE).cost == 530
        assert asked(simulator) == [QUESTION]

    @pytest.mark.parametrize("type_id", [TYPE, "other"])
    def test_what_the_provider_does_not_list_is_not_for_sale(
        self, simulator: Simulator, type_id: str
    ) -> None:
        make_offer(read_at=ago(120))
        simulator.catalogue = {PRODUCT: SoldProduct("PlayStation", "DZ", {})}
        told = quote(PRODUCT, type_id)
        assert (told.is_for_sale, told.cost, told.no_answer) == (False, None, None)

    @pytest.mark.parametrize(
        ("trouble", "why"),
        [
            ("silent", NoAnswer.UNREACHABLE),
            ("unknown product", NoAnswer.NOT_FOUND),
            ("no slot", NoAnswer.BUSY),
            ("refused key", NoAnswer.PAUSED),
            ("no key", NoAnswer.NOT_CONFIGURED),
            ("asked by another", NoAnswer.BUSY),
        ],
    )
    def test_without_an_answer_it_is_what_is_known_and_how_old_that_is(
        self,
        simulator: Simulator,
        set_conf: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
        trouble: str,
        why: NoAnswer,
    ) -> None:
        read_at = ago(120)
        make_offer(read_at=read_at)
        Product.objects.update(types_read_at=read_at, asked_at=read_at)
        match trouble:
            case "silent":
                simulator.outage = True
            case "unknown product":
                simulator.catalogue = {}
            case "no slot":
                spend_budget()
            case "refused key":
                refuse_key()
            case "no key":
                set_conf(API_KEY="")
            case _:
                # The last request was more than a second ago, so nobody waits for its slow answer.
                Product.objects.update(asked_at=ago(1.1))
                monkeypatch.setattr(time, "sleep", pytest.fail)
        told = quote(PRODUCT, TYPE)
        assert (told.cost, told.stock, told.read_at, told.no_answer) == (490, 10, read_at, why)
        # There is at most one request, although the client would repeat most requests.
        assert len(asked(simulator)) == (trouble in {"silent", "unknown product"})

    def test_a_question_that_was_not_asked_can_be_asked_at_once(self, simulator: Simulator) -> None:
        make_offer(read_at=ago(120))
        Product.objects.update(types_read_at=ago(120), asked_at=ago(120))
        spend_budget()
        assert quote(PRODUCT, TYPE).no_answer == NoAnswer.BUSY
        refill_budget()
        assert quote(PRODUCT, TYPE).cost == 530

    def test_a_question_whose_asker_died_is_asked_by_another(
        self, simulator: Simulator, shorten: Callable[..., None]
    ) -> None:
        shorten(request_timeout=5)
        make_offer(read_at=ago(120))
        Product.objects.update(types_read_at=ago(120), asked_at=ago(6))
        assert quote(PRODUCT, TYPE).cost == 530


@pytest.mark.parametrize("quantity", [0, -5, 2_001, "1"])
def test_what_cannot_be_ordered_has_no_quote_and_is_no_offer(quantity: Any) -> None:
    for ask in (quote, check_offer):
        with pytest.raises(ValidationError):
            ask(PRODUCT, TYPE, quantity)


@pytest.mark.django_db(transaction=True)
def test_a_quote_in_a_transaction_is_a_mistake(simulator: Simulator) -> None:
    make_offer()
    with transaction.atomic(), pytest.raises(RuntimeError):
        quote(PRODUCT, TYPE)
    assert asked(simulator) == []


@pytest.mark.usefixtures("shared_database")
def test_many_callers_at_once_ask_once(simulator: Simulator, shorten: Callable[..., None]) -> None:
    # The test passes even on a busy machine.
    shorten(quote_patience=60)
    make_offer(read_at=ago(120))
    Product.objects.update(types_read_at=ago(120), asked_at=ago(120))
    simulator.latency = (0.3, 0.3)
    told = in_threads(20, lambda: quote(PRODUCT, TYPE, max_age=10))
    assert {(each.cost, each.no_answer) for each in told} == {(530, None)}
    assert asked(simulator) == [QUESTION]
