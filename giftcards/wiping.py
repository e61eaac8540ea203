"""What is deleted is gone from the files of SQLite, too; other databases have means of their own.

Most builds of SQLite mark the place of what is deleted as free and leave it as it is, also where
they move rows about. And the write-ahead log holds pages as they were.
"""

from __future__ import annotations

import logging
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

# How long to wait for those who read (milliseconds): nobody writes meanwhile.
_PATIENCE = 1_000

logger = logging.getLogger(__name__)


def overwrite_deleted(connection: BaseDatabaseWrapper, **_named: object) -> None:
    """Have SQLite overwrite with zeros what is deleted or moved: receiver of a new connection."""
    if connection.vendor == "sqlite":
        # Below Django, where it is no query of whoever needed the connection.
        opened: Any = connection.connection
        opened.execute("PRAGMA secure_delete = ON").close()


def empty_log(using: str) -> None:
    """Have SQLite empty its write-ahead log; a warning is logged if another process is using it.

    Within a transaction, nothing is done: the log is needed.
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
