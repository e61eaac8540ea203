"""What the tests of the admin's pages share."""

from __future__ import annotations

import pytest
from django.test import Client

from tests.pages import sign_in


@pytest.fixture
def boss() -> Client:
    """The browser of a superuser."""
    return sign_in(superuser=True)
