"""Checks for django-health-check, one for each important condition.

Import it only where that is installed: ``pip install "django-giftcards[health]"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from asgiref.sync import sync_to_async
from django.db import Error
from django.utils import translation
from health_check.base import HealthCheck
from health_check.exceptions import HealthCheckException, ServiceUnavailable, ServiceWarning

from giftcards.exceptions import ConfigurationError
from giftcards.watch.conditions import CONDITIONS, Standing


@dataclass
class ConditionCheck(HealthCheck):  # type: ignore[misc]  # untyped
    """A check that fails, with a sentence in English, while a condition holds."""

    #: A key of :data:`~giftcards.watch.conditions.CONDITIONS`.
    condition: ClassVar[str]
    failure: ClassVar[type[HealthCheckException]] = ServiceUnavailable

    async def run(self) -> None:
        # Django closes the connection of the request's thread, so the check runs there. Other
        # threads of django-health-check would keep a broken connection.
        if wrong := await sync_to_async(self._judge)():
            raise self.failure(wrong)

    def _judge(self) -> str:
        try:
            with translation.override(None):
                return CONDITIONS[self.condition].sentence(Standing())
        except Error as error:
            # The error's text may name the server.
            return f"The database did not work ({type(error).__name__})."
        except ConfigurationError as error:
            return str(error)


class GiftcardsWorker(ConditionCheck):
    """Checks that background work goes on."""

    condition = "worker"


class GiftcardsChores(ConditionCheck):
    """Checks that each part of the daily work has ended within the last hour."""

    condition = "chores"
    failure = ServiceWarning


class GiftcardsQueue(ConditionCheck):
    """Checks that no order and no announcement has waited for more than five minutes."""

    condition = "queue"


class GiftcardsPause(ConditionCheck):
    """Checks that requests to the provider are not paused."""

    condition = "paused"


class GiftcardsProvider(ConditionCheck):
    """Checks that the provider has answered within the last minutes, if it was asked."""

    condition = "provider"


class GiftcardsBalance(ConditionCheck):
    """Checks that the balance is not below ``LOW_BALANCE``."""

    condition = "balance"
    failure = ServiceWarning


class GiftcardsKeys(ConditionCheck):
    """Checks that the encryption keys open the newest and the oldest card."""

    condition = "cards"


class GiftcardsApiKeys(ConditionCheck):
    """Checks that all processes have the same API key."""

    condition = "keys"


class GiftcardsAttention(ConditionCheck):
    """Checks that no order needs the attention of staff."""

    condition = "attention"
    failure = ServiceWarning
