"""The signal that brings the news of the staff's digests elsewhere, such as to a chat."""

from __future__ import annotations

from giftcards.signals import OutboxSignal

#: Sent with ``items``, a list of :class:`~giftcards.delivery.digest_items.Item`: the news since the
#: signal was sent last. At most every ``DIGEST_MINUTES``, unless something newly urgent comes, and
#: even if nobody gets digests by mail. A receiver that raises is not called again with these items;
#: only class and place of the error are logged.
staff_news = OutboxSignal()
