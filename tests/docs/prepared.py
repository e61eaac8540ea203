"""A process that is ready to run any page; each page is run in a fork of it."""

from __future__ import annotations

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.docs.settings"

import django
from django.db import connection
from django.test.utils import setup_test_environment

django.setup()
setup_test_environment()
connection.creation.create_test_db(verbosity=0)
