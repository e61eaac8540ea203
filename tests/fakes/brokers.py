"""Brokers of django-q2 other than the database, for use as ``broker_class``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from django_q.brokers import Broker
from django_q.conf import Conf

from giftcards.models import Order

PASSWORD = "CANARY-BROKER-PASSWORD"


class Down(Broker):
    """A broker that refuses every connection."""

    def enqueue(self, task: str) -> None:
        raise ConnectionError(f"redis://:{PASSWORD}@10.0.0.9 refused")


class Unreachable(Broker):
    """A broker that fails when the connection is made, as some brokers do."""

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        raise ConnectionError(PASSWORD)


class Hanging(Broker):
    """A broker that answers only once :attr:`answers` is set."""

    answers: ClassVar[threading.Event] = threading.Event()

    def enqueue(self, task: str) -> None:
        self.answers.wait(60)


class AtOnce(Broker):
    """A broker whose worker takes the task before the caller continues, and looks for orders."""

    seen: ClassVar[list[set[str]]] = []

    def enqueue(self, task: str) -> None:
        self.seen.append(set(Order.objects.values_list("reference", flat=True)))


@contextmanager
def broker(kind: type[Broker]) -> Iterator[None]:
    """Make django-q2 use this broker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conf, "BROKER_CLASS", f"{kind.__module__}.{kind.__qualname__}")
        yield
