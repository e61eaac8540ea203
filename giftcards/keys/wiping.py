"""Wiping deleted data from the files of SQLite; other databases have means of their own.

By default, most builds of SQLite only mark the place of a deleted or moved row as free. And the
write-ahead log holds old versions of pages.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

# The longest wait for readers (milliseconds): nobody can write meanwhile.
_PATIENCE = 1_000

logger = logging.getLogger(__name__)


def overwrite_deleted(connection: BaseDatabaseWrapper, **_named: object) -> None:
    """Make SQLite zero deleted and moved rows; a receiver of ``connection_created``."""
    if connection.vendor == "sqlite":
        # Bypasses Django, so that it does not count as a query of whoever needed the connection.
        opened: Any = connection.connection
        opened.execute("PRAGMA secure_delete = ON").close()


def empty_log(using: str) -> None:
    """Make SQLite empty its write-ahead log; log a warning if another process is using it.

    Does nothing within a transaction, which needs the log, and for other databases.
    """
    connection = connections[using]
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        return
    with connection.cursor() as cursor:
        patience = cursor.execute("PRAGMA busy_timeout").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        is_in_use = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        cursor.execute(f"PRAGMA busy_timeout = {patience}")
    if is_in_use:
        logger.warning(
            "What was deleted is still in the write-ahead log of SQLite, which another process is"
            " using. It is overwritten in time; or run PRAGMA wal_checkpoint(TRUNCATE)."
        )
