"""Writing messages: from an order and a kind to the texts that are sent."""

from __future__ import annotations

from giftcards.delivery.channels import Message
from giftcards.delivery.links import address
from giftcards.delivery.models import Delivery
from giftcards.secrecy import Masked


def compose(delivery: Delivery, token: Masked | None) -> Message:
    """The message of ``delivery`` as it is to be sent now, in its language.

    ``token`` is that of the link it hands over; ``None`` if it hands over none.
    """
    link = "" if token is None else address(token)
    text = f"{delivery.get_kind_display()} {link}"
    return Message(
        kind=delivery.kind,
        reference=delivery.order.reference,
        language=delivery.language,
        address=delivery.address,
        subject=str(delivery.get_kind_display()),
        text=text,
        html=text,
        short=text,
        link=link,
    )
