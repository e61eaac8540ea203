"""The signal by which a shop passes on to its chat what staff are told by digest."""

from __future__ import annotations

from giftcards.signals import OutboxSignal

# Sent with ``items``, a list of giftcards.delivery.news.Item: what is new since it was sent last,
# at most every ``DIGEST_MINUTES``, whoever gets digests by mail. The error of a receiver is logged
# by class and place, and not retried. Set a timeout on anything that may hang.
staff_news = OutboxSignal()
