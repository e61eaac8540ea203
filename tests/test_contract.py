"""`make contract`: it finds what differs, and says whether it has asked the provider."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import pytest

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
    "a bare ledger": ({"ledger_oddities": ["bare"]}, ("A booking names",)),
    "no limit": ({"rate_limit": 0}, (LIMIT,)),
    "no lock-out": ({"lockout": 0}, ("A wrong key",)),
}


def tried(**options: Any) -> dict[str, str]:
    """The words by their sentences, of a simulator that settles at once."""
    with Simulator(delay=(0, 0), keys=["simulated"], **options) as simulator:
        provider = Provider(simulator.url, "simulated", pause=0, listed_within=0, is_simulator=True)
        return {sentence: word for word, sentence in try_all(provider)}


@pytest.mark.parametrize(("options", "sentences"), DIFFERENT.values(), ids=DIFFERENT)
def test_exactly_what_the_provider_does_otherwise_differs(
    options: dict[str, Any], sentences: tuple[str, ...]
) -> None:
    results = tried(**options)
    assert len(results) == len(ASSUMPTIONS)
    different = [sentence for sentence, word in results.items() if word == "differs"]
    for found, expected in zip_longest(different, sentences, fillvalue="nothing"):
        assert found.startswith(expected)


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
