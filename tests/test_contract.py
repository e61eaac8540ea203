"""`make contract` reports what differs, and whether it has asked the provider."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import pytest
import responses

from giftcards.simulator import Simulator
from tests.contract import ASSUMPTIONS, Provider, main, refusal, try_all

LIMIT = "Above the limit"
OF_THE_LIST = (
    "The list shows an order",
    "A row of the list",
    "Pages neither repeat",
    "The newest order",
    "A period leaves out",
)
DIFFERENT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "nothing": ({}, ()),
    "one spelling": ({"spelling": "checkOrder"}, ()),
    "references": ({"references": "unique"}, ()),
    "no references": ({"references": "refused"}, ()),
    "repeated codes": ({"repeat_codes": True}, ()),
    "no list": ({"has_list": False}, OF_THE_LIST),
    "other ids": (
        {"shifted_ids": True},
        ("The list shows an order", "An answer about an order", "A row of the list"),
    ),
    "hidden test types": ({"lists_test_types": False}, ("The types for tests",)),
    "a bare ledger": ({"ledger_oddities": ["bare"]}, ("A transaction names",)),
    "no limit": ({"rate_limit": 0}, (LIMIT,)),
    "no lock-out": ({"lockout": 0}, ("A wrong key",)),
}


OF_PAYMENTS = "A link for a payment has a reference, and is open at first"
CREATE, CHECK = "POST createLink", "GET checkPayment/OCPL-ABC123-XY12"


def created(**changes: Any) -> tuple[int, dict[str, Any]]:
    data = {
        "paymentUrl": "https://pay.example/1",
        "paymentRef": "OCPL-ABC123-XY12",
        "paymentLink": {"isSandbox": True},
    }
    return 200, {"success": True, "data": data | changes}


def checked(status: str) -> tuple[int, dict[str, Any]]:
    return 200, {"success": True, "data": {"status": status}}


def refused(status: int, code: str) -> tuple[int, dict[str, Any]]:
    return status, {"success": False, "error": {"code": code, "message": "No."}}


# For each kind of sandbox: its answers about payments, and the resulting line of the report.
PAYMENTS: dict[str, tuple[dict[str, tuple[int, dict[str, Any]]], str, str]] = {
    "says so": (
        {CREATE: created(), CHECK: checked("PENDING")},
        "holds",
        "PENDING, of the sandbox",
    ),
    "does not say whose link it is": (
        {CREATE: created(paymentLink=None), CHECK: checked("PENDING")},
        "holds",
        "PENDING, of the sandbox or not",
    ),
    "refuses payments": (
        {CREATE: refused(403, "MERCHANT_NOT_VALIDATED")},
        "not tried",
        "the sandbox refuses payments (403 MERCHANT_NOT_VALIDATED)",
    ),
    "knows no payments": (
        {CREATE: refused(404, "NOT_FOUND")},
        "not tried",
        "the sandbox refuses payments (404 NOT_FOUND)",
    ),
    "has another path": (
        {CREATE: (404, {"message": "Cannot POST", "statusCode": 404})},
        "differs",
        "answered with 404 without a code",
    ),
    "wants other fields": (
        {CREATE: refused(400, "ERR_VALIDATION")},
        "differs",
        "answered with 400 ERR_VALIDATION",
    ),
    "names no page": (
        {CREATE: created(paymentUrl="")},
        "differs",
        "the answer does not contain a usable payment link",
    ),
    "takes real money": (
        {CREATE: created(paymentLink={"isSandbox": False})},
        "differs",
        "the link is for real money",
    ),
    "has other references": (
        {CREATE: created(paymentRef="PAY-1")},
        "differs",
        "the reference does not begin with OCPL-",
    ),
    "confirms at once": (
        {CREATE: created(), CHECK: checked("CONFIRMED")},
        "differs",
        "it is CONFIRMED",
    ),
}


def try_at(simulator: Simulator) -> dict[str, str]:
    provider = Provider(simulator.url, "simulated", pause=0, listed_within=0, is_simulator=True)
    return {sentence: word for word, sentence in try_all(provider)}


@pytest.mark.parametrize(("options", "sentences"), DIFFERENT.values(), ids=DIFFERENT)
def test_exactly_what_the_provider_does_otherwise_differs(
    options: dict[str, Any], sentences: tuple[str, ...]
) -> None:
    with Simulator(delay=(0, 0), keys=["simulated"], **options) as simulator:
        results = try_at(simulator)
        # One payment of the lowest amount is requested, but never made.
        [payment] = simulator.payments.values()
        assert (payment.amount, payment.status) == (500, "PENDING")
        assert ["ocpay" in request.path for request in simulator.requests].count(True) == 2
    assert len(results) == len(ASSUMPTIONS)
    different = [sentence for sentence, word in results.items() if word == "differs"]
    for found, expected in zip_longest(different, sentences, fillvalue="nothing"):
        assert found.startswith(expected)


@pytest.mark.parametrize(("answers", "word", "detail"), PAYMENTS.values(), ids=PAYMENTS)
def test_what_a_sandbox_says_of_payments_is_one_line(
    answers: dict[str, tuple[int, dict[str, Any]]],
    word: str,
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.contract.ASSUMPTIONS", {OF_PAYMENTS: ASSUMPTIONS[OF_PAYMENTS]})
    with (
        Simulator(delay=(0, 0), keys=["simulated"]) as simulator,
        responses.RequestsMock() as wire,
    ):
        wire.add_passthru(simulator.url)
        for request, (status, body) in answers.items():
            method, path = request.split()
            wire.add(method, f"{simulator.url}/v3/ocpay/{path}", status=status, json=body)
        assert try_at(simulator) == {f"{OF_PAYMENTS}: {detail}.": word}
    assert simulator.payments == {}


def test_a_key_that_is_not_for_the_sandbox_is_refused() -> None:
    with Simulator(key_type="PRODUCTION") as simulator:
        assert refusal(Provider(simulator.url, "key", pause=0)) == "The key is not for the sandbox."
        assert simulator.orders == {}


def test_without_a_key_the_simulator_is_asked_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GIFTCARDS_API_KEY", raising=False)
    monkeypatch.setattr("sys.argv", ["contract"])
    assert main() == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("No key in GIFTCARDS_API_KEY: this is the simulator")
    assert "differs" not in shown.out
    assert "SIM-" not in shown.out
    assert "simulated" not in shown.out


def test_with_a_key_the_provider_is_asked_and_nothing_that_does_harm_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Simulator(delay=(0, 0)) as simulator:
        monkeypatch.setenv("GIFTCARDS_API_KEY", "CANARY-KEY")
        monkeypatch.setenv("GIFTCARDS_BASE_URL", simulator.url)
        monkeypatch.setattr("sys.argv", ["contract", "--pause", "0"])
        assert main() == 0
        assert all(request.key_ok for request in simulator.requests)
    shown = capsys.readouterr()
    assert "not tried  Above the limit" in shown.out
    assert "not tried  A wrong key" in shown.out
    assert "CANARY" not in shown.out + shown.err
