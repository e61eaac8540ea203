"""What tests share leaves the next test what it needs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from django.db import connection

from tests.stage import sharing_database

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_request_that_ends_while_a_copy_takes_the_databases_place_leaves_the_database(
    live_server: Any, tmp_path: Path
) -> None:
    tables = connection.introspection.table_names()
    others = set(threading.enumerate())
    with sharing_database(tmp_path / "copy"):
        urlopen(f"{live_server}/admin/login/").close()
        for thread in set(threading.enumerate()) - others:
            thread.join(60)
    assert connection.introspection.table_names() == tables
