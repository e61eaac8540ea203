"""The provider's ledger, as a fixture for the tests of its readings."""

from __future__ import annotations

import pytest
import responses

from tests.books.wire import Books


@pytest.fixture
def books(wire: responses.RequestsMock) -> Books:
    books = Books()
    books.open(wire)
    return books
