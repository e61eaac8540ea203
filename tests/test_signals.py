"""The signals find their receivers by name, and otherwise behave like Django's signals."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import pytest
from django.dispatch import receiver
from hypothesis import given
from hypothesis import strategies as st

from giftcards.models import Card, Order
from giftcards.signals import OutboxSignal

HERE = "tests.test_signals"


@pytest.fixture
def signal() -> OutboxSignal:
    return OutboxSignal()


def names(signal: OutboxSignal) -> list[str]:
    return [name for name, _ in signal.named_receivers(Order)]


def deliver(**named: Any) -> Any:
    return named


class Shop:
    def deliver(self, **named: Any) -> str:
        return "delivered"


class TestNames:
    def test_a_receiver_is_named_by_its_dispatch_uid(self, signal: OutboxSignal) -> None:
        signal.connect(deliver, dispatch_uid="shop.deliver")
        assert names(signal) == ["shop.deliver"]

    @pytest.mark.parametrize("uid", [None, "", 1, ("shop", object())])
    def test_a_receiver_without_a_text_as_dispatch_uid_is_named_by_its_place(
        self, signal: OutboxSignal, uid: Hashable
    ) -> None:
        signal.connect(deliver, dispatch_uid=uid)
        assert names(signal) == [f"{HERE}.deliver"]

    def test_a_partial_is_named_by_the_function_that_it_wraps(self, signal: OutboxSignal) -> None:
        signal.connect(partial(partial(deliver), code="AAAA"), weak=False)
        assert names(signal) == [f"{HERE}.deliver"]


class TestConnecting:
    def test_a_receiver_connected_twice_is_called_once(self, signal: OutboxSignal) -> None:
        shop = Shop()
        for _time in range(2):
            signal.connect(shop.deliver)
            signal.connect(deliver, dispatch_uid="uid")
        assert names(signal) == [f"{HERE}.Shop.deliver", "uid"]

    def test_the_first_receiver_of_a_dispatch_uid_stays_connected(
        self, signal: OutboxSignal
    ) -> None:
        signal.connect(deliver, dispatch_uid="uid")
        signal.connect(partial(deliver), weak=False, dispatch_uid="uid")
        [(_, call)] = signal.named_receivers(Order)
        assert call(order=1) == {"signal": signal, "sender": Order, "order": 1}

    def test_a_receiver_connected_by_the_decorator_is_named(self, signal: OutboxSignal) -> None:
        @receiver([signal], dispatch_uid="uid")
        def decorated(**named: object) -> None:
            pass

        assert names(signal) == ["uid"]

    @pytest.mark.parametrize(("sender", "count"), [(None, 1), (Order, 1), (Card, 0)])
    def test_a_receiver_of_another_sender_is_not_reached(
        self, signal: OutboxSignal, sender: Any, count: int
    ) -> None:
        signal.connect(deliver, sender=sender)
        assert len(names(signal)) == count
        assert signal.has_listeners(Order) is bool(count)

    def test_a_receiver_that_django_refuses_is_not_connected(
        self, signal: OutboxSignal, settings: Any
    ) -> None:
        settings.DEBUG = True
        with pytest.raises(ValueError, match="keyword arguments"):
            signal.connect(lambda order: None, weak=False)
        assert names(signal) == []

    def test_a_disconnected_receiver_is_not_called(self, signal: OutboxSignal) -> None:
        shop = Shop()
        signal.connect(shop.deliver)
        signal.connect(deliver, dispatch_uid="uid")
        assert signal.disconnect(shop.deliver)
        assert signal.disconnect(dispatch_uid="uid")
        assert not signal.disconnect(deliver)
        assert names(signal) == []


class TestReferences:
    def test_a_weakly_connected_method_is_gone_with_its_object(self, signal: OutboxSignal) -> None:
        shop = Shop()
        signal.connect(shop.deliver)
        assert names(signal) == [f"{HERE}.Shop.deliver"]
        del shop
        gc.collect()
        assert names(signal) == []
        assert not signal.has_listeners(Order)

    def test_a_strongly_connected_method_keeps_its_object(self, signal: OutboxSignal) -> None:
        signal.connect(Shop().deliver, weak=False)
        gc.collect()
        [(_, call)] = signal.named_receivers(Order)
        assert call() == "delivered"

    def test_a_dispatch_uid_is_free_again_when_its_receiver_is_gone(
        self, signal: OutboxSignal
    ) -> None:
        shop = Shop()
        signal.connect(shop.deliver, dispatch_uid="uid")
        del shop
        gc.collect()
        signal.connect(deliver, dispatch_uid="uid")
        assert names(signal) == ["uid"]


def test_sending_a_signal_works_as_in_django(signal: OutboxSignal) -> None:
    def fail(**named: object) -> None:
        raise ValueError("no")

    shop = Shop()
    signal.connect(shop.deliver)
    assert signal.send(Order) == [(shop.deliver, "delivered")]
    signal.connect(fail)
    (_, answer), (_, error) = signal.send_robust(Order)
    assert answer == "delivered"
    assert isinstance(error, ValueError)


class Recorder:
    """A receiver with a method that is a receiver, too; both add their calls to ``calls``."""

    def __init__(self, label: str, calls: list[str]) -> None:
        self._label = label
        self._calls = calls

    def __call__(self, **named: object) -> None:
        self._calls.append(self._label)

    def method(self, **named: object) -> None:
        self._calls.append(f"method of {self._label}")


def receivers_of_each_kind(label: str, calls: list[str]) -> dict[str, Callable[..., Any]]:
    return {
        "object": Recorder(label, calls),
        "partial": partial(Recorder(f"partial {label}", calls)),
        "function": lambda **named: calls.append(f"function {label}"),
    }


numbers = st.integers(0, 2)
kinds = st.sampled_from(["object", "function", "partial", "method"])
senders = st.sampled_from([None, Order, Card])
uids = st.sampled_from([None, "", "a", "b", 0, 1])
steps = st.one_of(
    st.tuples(st.just("connect"), numbers, kinds, senders, st.booleans(), uids),
    st.tuples(st.just("disconnect"), numbers, kinds, senders, uids),
    st.tuples(st.just("forget"), numbers),
)


@given(st.lists(steps, max_size=20))
def test_named_receivers_are_those_that_django_would_call(script: list[tuple[Any, ...]]) -> None:
    signal, calls = OutboxSignal(), list[str]()
    kept = [receivers_of_each_kind(str(number), calls) for number in range(3)]
    for turn, (step, number, *details) in enumerate(script):
        if step == "forget":
            # Receivers that were connected weakly are garbage-collected here.
            kept[number] = receivers_of_each_kind(f"{number} of turn {turn}", calls)
            continue
        kind, *arguments = details
        receivers = kept[number]
        target = receivers["object"].method if kind == "method" else receivers[kind]
        getattr(signal, step)(target, *arguments)
        del receivers, target
    signal.send(Order)
    by_django = calls.copy()
    calls.clear()
    for _name, call in signal.named_receivers(Order):
        call()
    assert calls == by_django
