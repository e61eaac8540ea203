"""Checks of messages to customers, for django-health-check: see :mod:`giftcards.watch.health`."""

from __future__ import annotations

from dataclasses import dataclass

from health_check.exceptions import ServiceWarning

from giftcards.watch.health import ConditionCheck


@dataclass
class GiftcardsMail(ConditionCheck):
    """Check that no message to a customer has waited for more than five minutes."""

    condition = "mail"


@dataclass
class GiftcardsUntold(ConditionCheck):
    """Check that no message to a customer was given up within the last day."""

    condition = "untold"
    failure = ServiceWarning


@dataclass
class GiftcardsDigests(ConditionCheck):
    """Check that digests for staff are sent."""

    condition = "digests"
    failure = ServiceWarning
