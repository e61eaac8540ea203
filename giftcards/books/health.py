"""Checks of the provider's ledger, for django-health-check: see :mod:`giftcards.watch.health`."""

from __future__ import annotations

from dataclasses import dataclass

from health_check.exceptions import ServiceWarning

from giftcards.watch.health import ConditionCheck


@dataclass
class GiftcardsRefunds(ConditionCheck):
    """Checks that the provider has credited back all promised refunds."""

    condition = "missing"
    failure = ServiceWarning


@dataclass
class GiftcardsCharges(ConditionCheck):
    """Checks that every charge and refund in the provider's ledger belongs to an order here."""

    condition = "unknown"
    failure = ServiceWarning


@dataclass
class GiftcardsBooks(ConditionCheck):
    """Checks that the provider's ledger explains the balance."""

    condition = "gap"
    failure = ServiceWarning


@dataclass
class GiftcardsClosedMonths(ConditionCheck):
    """Checks that closed months still have the figures that were recorded at their closing."""

    condition = "closed_month"
    failure = ServiceWarning


@dataclass
class GiftcardsFunds(ConditionCheck):
    """Checks that the balance covers the orders that are still to be sent."""

    condition = "funds"
    failure = ServiceWarning
