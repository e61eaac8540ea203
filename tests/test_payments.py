"""Requests about payments have the same pauses, quota and secrecy as all other requests."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
import responses
from django.db import transaction

from giftcards.exceptions import AccessDenied, OutcomeUnknown, ProviderError, RateLimited, Refused
from giftcards.payments import PaymentAnswer, check_payment, create_payment_link
from giftcards.simulator import Simulator
from tests.stage import PROVIDER, prove_key, provider_state, slots_in_use, spend_budget

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

CREATE = f"{PROVIDER}/v3/ocpay/createLink"
REF = "OCPL-ABC123-XY12"
CHECK = f"{PROVIDER}/v3/ocpay/checkPayment/{REF}"


def create() -> object:
    return create_payment_link(title="Cart 7", amount=1100)


def check() -> object:
    return check_payment(REF)


EITHER = pytest.mark.parametrize("ask", [create, check])


def test_what_a_customer_pays_by_a_link_is_confirmed_and_in_the_balance(
    simulator: Simulator,
) -> None:
    link = create_payment_link(
        title="Cart 7",
        amount=1100,
        description="Two cards",
        fee_mode="NO_FEE",
        success_message="Thank you",
        redirect_url="https://shop.example/paid/",
    )
    assert link.is_sandbox is True
    assert check_payment(link.ref) == PaymentAnswer("PENDING", None, "", None)
    simulator.pay(link.ref)
    assert check_payment(link.ref) == PaymentAnswer("CONFIRMED", Decimal(1100), "DZD", True)
    assert simulator.balance == 1_000_000 + 1100
    assert slots_in_use() == len(simulator.requests) == 3


def test_only_what_is_given_is_sent(simulator: Simulator) -> None:
    create()
    [payment] = simulator.payments.values()
    assert payment.told == {"productInfo": {"title": "Cart 7", "amount": 1100}}


@EITHER
def test_a_wrong_key_is_refused_once_and_stops_all_requests(
    ask: Callable[[], object], simulator: Simulator
) -> None:
    simulator.keys = ["another"]
    with pytest.raises(AccessDenied):
        ask()
    with pytest.raises(ProviderError, match=r"^Requests to the provider are paused\.$"):
        ask()
    assert len(simulator.requests) == 1


@EITHER
@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(429, "RATE_LIMIT_EXCEEDED", RateLimited), (403, "IP_BLOCKED", AccessDenied)],
)
def test_a_limit_and_a_block_pause_all_requests(
    ask: Callable[[], object],
    status: int,
    code: str,
    error: type[ProviderError],
    wire: responses.RequestsMock,
) -> None:
    body = {"success": False, "error": {"code": code, "message": "no"}}
    for method, url in (("POST", CREATE), ("GET", CHECK)):
        wire.add(method, url, json=body, status=status)
    prove_key()
    with pytest.raises(error):
        ask()
    assert provider_state().paused_until
    with pytest.raises(ProviderError, match=r"^Requests to the provider are paused\.$"):
        ask()
    assert len(wire.calls) == 1


@EITHER
def test_nothing_is_asked_while_orders_need_the_whole_budget(
    ask: Callable[[], object], simulator: Simulator
) -> None:
    prove_key()
    spend_budget()
    with pytest.raises(
        ProviderError, match=r"^Requests to the provider about orders have priority\.$"
    ):
        ask()
    assert simulator.requests == []


@EITHER
def test_a_request_whose_answer_is_lost_is_not_repeated(
    ask: Callable[[], object], wire: responses.RequestsMock
) -> None:
    for method, url in (("POST", CREATE), ("GET", CHECK)):
        wire.add(method, url, body=ConnectionError("broken"))
    with pytest.raises(OutcomeUnknown):
        ask()
    assert len(wire.calls) == 1


def test_a_link_that_the_provider_does_not_make_is_refused_and_pauses_nothing(
    simulator: Simulator,
) -> None:
    with pytest.raises(Refused) as caught:
        create_payment_link(title="Cart 7", amount=499)
    assert str(caught.value) == (
        "The provider refused the request (ERR_VALIDATION): The request is not valid."
    )
    assert create()
    assert len(simulator.requests) == 2


@pytest.mark.django_db(transaction=True)
@EITHER
def test_a_question_in_a_transaction_is_a_mistake(
    ask: Callable[[], object], simulator: Simulator
) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError):
        ask()
    assert simulator.requests == []
