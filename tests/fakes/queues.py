"""Queues of a shop, as ``QUEUE_TASK`` names them."""

from __future__ import annotations

import threading

from django.utils.module_loading import import_string

from giftcards.models import Order

PASSWORD = "CANARY-QUEUE-PASSWORD"
#: The paths that :func:`record` was given.
recorded: list[str] = []
#: What the tasks that :func:`run_at_once` ran have returned.
returned: list[str] = []
#: Set to have :func:`hang` answer.
answers = threading.Event()


def record(path: str) -> None:
    # A worker that is quick finds the order.
    assert Order.objects.exists()
    recorded.append(path)


def run_at_once(path: str) -> None:
    """As Celery does with ``task_always_eager``, and django.tasks with its default backend."""
    returned.append(import_string(path)())


def refuse(path: str) -> None:
    raise ConnectionError(f"redis://:{PASSWORD}@10.0.0.9 refused")


def hang(path: str) -> None:
    answers.wait(60)
