"""Brokers of django-q2 that are not the database, as ``broker_class`` names them."""

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
    """Refuses every connection."""

    def enqueue(self, task: str) -> None:
        raise ConnectionError(f"redis://:{PASSWORD}@10.0.0.9 refused")


class Unreachable(Broker):
    """Refuses when it is connected to, as some do."""

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        raise ConnectionError(PASSWORD)


class Hanging(Broker):
    """Answers once :attr:`answers` is set."""

    answers: ClassVar[threading.Event] = threading.Event()

    def enqueue(self, task: str) -> None:
        self.answers.wait(60)


class AtOnce(Broker):
    """A worker takes the task before the caller goes on, and looks for orders."""

    seen: ClassVar[list[set[str]]] = []

    def enqueue(self, task: str) -> None:
        self.seen.append(set(Order.objects.values_list("reference", flat=True)))


@contextmanager
def broker(kind: type[Broker]) -> Iterator[None]:
    """django-q2 uses this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conf, "BROKER_CLASS", f"{kind.__module__}.{kind.__qualname__}")
        yield
