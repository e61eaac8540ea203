"""Queues of a shop, for use as ``QUEUE_TASK``."""

from __future__ import annotations

import threading

from django.utils.module_loading import import_string

from giftcards.models import Order

PASSWORD = "CANARY-QUEUE-PASSWORD"
#: The paths that were passed to :func:`record`.
recorded: list[str] = []
#: The results of the tasks that :func:`run_at_once` ran.
returned: list[str] = []
#: Set this event to make :func:`hang` return.
answers = threading.Event()


def record(path: str) -> None:
    # Even a quick worker finds the order.
    assert Order.objects.exists()
    recorded.append(path)


def run_at_once(path: str) -> None:
    """Run the task at once.

    Celery does this with ``task_always_eager``, and django.tasks with its default backend.
    """
    returned.append(import_string(path)())


def refuse(path: str) -> None:
    raise ConnectionError(f"redis://:{PASSWORD}@10.0.0.9 refused")


def hang(path: str) -> None:
    answers.wait(60)
