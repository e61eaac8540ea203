"""Tokens of forms: hashes of what a page has shown, so that a late form decides about nothing."""

from __future__ import annotations

import json
from typing import Any

from django.utils.crypto import salted_hmac

from giftcards.models import Order
from giftcards.rules.states import Status


def token(purpose: str, seen: list[Any]) -> str:
    """A hash of what a page has shown; nobody else can make it up."""
    text = json.dumps(seen, sort_keys=True)
    return salted_hmac(f"giftcards.admin.{purpose}", text, algorithm="sha256").hexdigest()


def state_token(order: Order) -> str:
    """A hash of the state of ``order`` that a form carries: it changes once the state does.

    It covers the attempt to send the order, its status, its id at the provider, the candidates that
    staff were offered, why it is held, and what was paid back or is planned to be. A form that is
    posted late must not decide about another attempt.
    """
    # In other statuses, a claim may be that of a check, which changes nothing that staff decide.
    attempt = order.claim if order.status == Status.UNCONFIRMED else ""
    sent_at = order.sent_at and order.sent_at.isoformat()
    # A held order may have gone on meanwhile, and been held again for the same reason.
    held_for = [order.queued_at.isoformat(), order.problems] if order.is_held else []
    seen = [order.pk, order.status, sent_at, attempt, order.provider_order_id, order.candidates]
    seen += [held_for, f"{order.paid_back_amount:.2f}", f"{order.planned_amount:.2f}"]
    return token("state_token", seen)
