"""Starting threads, and handling machines that cannot start more threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


def start_thread(
    work: Callable[..., object], *args: object, name: str | None = None
) -> threading.Thread | None:
    """Start a thread that calls ``work`` with ``args``.

    Returns ``None`` if the machine cannot start another thread. The caller then does the work
    itself or postpones the work, so that the worker process continues to run. The thread is a
    daemon thread, so that hanging work does not prevent the process from ending.
    """
    thread = threading.Thread(target=work, args=args, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        logger.error("No more threads can be started: %s.", error)  # noqa: TRY400
        return None
    return thread
