"""The settings of processes that send through the mail server of a test."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403
from tests.fakes.mail import smtp_settings

globals().update(
    smtp_settings(int(os.environ["MAIL_PORT"]), timeout=float(os.environ.get("MAIL_TIMEOUT", "5")))
)
