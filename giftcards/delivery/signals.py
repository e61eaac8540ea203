"""The signal with news for staff; a receiver can show the news in a chat, for example."""

from __future__ import annotations

from giftcards.signals import OutboxSignal

#: The signal is sent with ``items``, the news since the last signal: a list of
#: :class:`~giftcards.delivery.digest_items.Item`. The signal is sent at most every
#: 30 minutes, or sooner for urgent news, even if nobody gets digests by mail. A receiver
#: that raises an error is not called again with the same items. Only the class and place of the
#: error are logged.
staff_news = OutboxSignal()
