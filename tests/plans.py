"""The database's query plans for the statements that a piece of code sends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from django.db import connection
from django.db.models import Model

from tests.history import CORE, OF_MESSAGES

_EXPLAIN = {
    "sqlite": "EXPLAIN QUERY PLAN ",
    "postgresql": "EXPLAIN (FORMAT JSON) ",
    "mysql": "EXPLAIN ",
}


# A plan that reads more rows than this counts as reading the whole table. Only MariaDB reports how
# many rows it expects to read.
MANY = 1_000


class Statement(NamedTuple):
    sql: str
    # The plan's description of each table that is read from end to end, with the index if one is
    # used.
    scans: list[str]


@contextmanager
def explained(*others: type[Model]) -> Iterator[list[Statement]]:
    """Yield a list of the reads and updates of the growing tables, each with its query plan.

    These are the tables that :mod:`tests.history` lists, and the tables of ``others``.
    """
    statements: list[Statement] = []
    tables = [model._meta.db_table for model in (*CORE, *OF_MESSAGES, *others)]

    def explain(
        execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        is_explained = sql.startswith(("SELECT", "UPDATE", "DELETE", "(SELECT"))
        if is_explained and any(table in sql for table in tables):
            execute(_EXPLAIN[connection.vendor] + sql, params, many, context)
            statements.append(Statement(sql, _SCANS[connection.vendor](context["cursor"], tables)))
        return execute(sql, params, many, context)

    # PostgreSQL cannot explain the declaration of a cursor.
    no_cursors = {"DISABLE_SERVER_SIDE_CURSORS": True}
    with mock.patch.dict(connection.settings_dict, no_cursors), connection.execute_wrapper(explain):
        yield statements


def _scans_of_sqlite(cursor: Any, _tables: list[str]) -> list[str]:
    steps = [detail for *_, detail in cursor.fetchall()]
    # Subqueries, such as the sum of what is open, are not tables.
    derived = ("SUBQUERY", "GIFTCARDS_TAKEN")
    scans = [step for step in steps if step.startswith("SCAN ")]
    return [scan for scan in scans if not any(name in scan.upper() for name in derived)]


def _scans_of_postgresql(cursor: Any, tables: list[str]) -> list[str]:
    [(plan,)] = cursor.fetchall()
    nodes = [(json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]]
    scans = []
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        is_whole = node["Node Type"] in {"Seq Scan", "Index Scan", "Index Only Scan"}
        # How PostgreSQL reads a small joined table, such as the users, depends on its statistics.
        if is_whole and "Index Cond" not in node and node["Relation Name"] in tables:
            read = (node["Node Type"], node["Relation Name"], node.get("Index Name", ""))
            scans.append(" ".join(read).strip())
    return scans


def _scans_of_mysql(cursor: Any, _tables: list[str]) -> list[str]:
    columns = [column[0] for column in cursor.description]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return [
        f"{row['type']} {row['table']} {row['key'] or ''}".strip()
        for row in rows
        if not str(row["table"]).startswith("<")
        and (row["type"] in {"ALL", "index"} or int(row["rows"] or 0) > MANY)
    ]


_SCANS: dict[str, Callable[[Any, list[str]], list[str]]] = {
    "sqlite": _scans_of_sqlite,
    "postgresql": _scans_of_postgresql,
    "mysql": _scans_of_mysql,
}
