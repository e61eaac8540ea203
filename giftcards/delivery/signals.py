"""The signal that brings the news of the staff's digests elsewhere, such as to a chat."""

from __future__ import annotations

from giftcards.signals import OutboxSignal

#: Sent with ``items``, a list of :class:`~giftcards.delivery.news.Item`: the news since it was sent
#: last. At most every ``DIGEST_MINUTES``, and even if nobody gets digests by mail. An error of a
#: receiver is logged by class and place, and it is not called again with these items. Set a timeout
#: on anything that may hang.
staff_news = OutboxSignal()
