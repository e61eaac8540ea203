"""A health check for a condition, for django-health-check.

Import this module only if django-health-check is installed: ``pip install
"django-giftcards[health]"``.
"""

from __future__ import annotations

from dataclasses import dataclass

from asgiref.sync import sync_to_async
from django.db import Error
from django.utils import translation
from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from giftcards.exceptions import ConfigurationError
from giftcards.watch.conditions import CONDITIONS, Severity, Standing


@dataclass
class GiftcardsCondition(HealthCheck):  # type: ignore[misc]  # untyped
    """A health check that fails while ``condition`` holds.

    The message is in English. If the condition is not urgent, the check reports a warning.
    """

    #: The code of the condition.
    condition: str

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ValueError(f"No installed app has the condition {self.condition!r}.")

    async def run(self) -> None:
        # Django closes the connection of the request's thread, so the check runs there. Other
        # threads of django-health-check would keep a broken connection.
        if wrong := await sync_to_async(self._judge)():
            is_urgent = CONDITIONS[self.condition].severity == Severity.URGENT
            raise (ServiceUnavailable if is_urgent else ServiceWarning)(wrong)

    def _judge(self) -> str:
        try:
            with translation.override(None):
                return CONDITIONS[self.condition].sentence(Standing())
        except Error as error:
            # The error's text may name the server.
            return f"The database failed ({type(error).__name__})."
        except ConfigurationError as error:
            return str(error)
