"""Settings of the processes that the crash tests start, and that die at a given step."""

from __future__ import annotations

import json
import os

from example_project.settings import *  # noqa: F403
from example_project.settings import GIFTCARDS, INSTALLED_APPS

DEBUG = False
INSTALLED_APPS = [*INSTALLED_APPS, "tests.crash"]
GIFTCARDS = {**GIFTCARDS, **json.loads(os.environ["CRASH_CONF"])}
