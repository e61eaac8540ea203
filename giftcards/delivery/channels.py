"""How messages reach customers: by mail, or over a channel of the shop's own.

A channel is a class with a ``name``, and with :meth:`Channel.address_of` and :meth:`Channel.send`;
``GIFTCARDS_DELIVERY["CHANNELS"]`` lists the channels in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from django.core.mail import EmailMultiAlternatives

from giftcards.delivery.conf import conf
from giftcards.models import Order


class AddressRefused(Exception):
    """The address does not exist, or does not take messages: there is no use in trying again."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message, ready to be sent. Its texts may hold codes or a link, and are not in its repr."""

    kind: str
    #: Of the order.
    reference: str
    language: str
    address: str = field(repr=False)
    #: One line.
    subject: str = field(repr=False)
    #: The message in plain text.
    text: str = field(repr=False)
    #: The same as an HTML document.
    html: str = field(repr=False)
    #: A sentence or two in plain text, with the link if there is one: for short messages.
    short: str = field(repr=False)
    #: The address of the customer's page; "" if the message has none.
    link: str = field(default="", repr=False)


class Channel:
    """The base of channels. An instance is made for each piece of work, without arguments."""

    #: Up to 40 characters; rows keep it, so do not change it.
    name: ClassVar[str]

    def address_of(self, order: Order) -> str:
        """Where the customer of ``order`` is reached; "" if this channel does not reach them."""
        raise NotImplementedError

    def send(self, message: Message) -> str | None:
        """Hand ``message`` over; return the id by which it is known from then on, if it has one.

        Raises :exc:`AddressRefused` if another attempt is useless. After any other error, it is
        called again later. So set a timeout on anything that may hang: after a minute, the attempt
        counts as one of which nobody knows how it ended.
        """
        raise NotImplementedError


class Mail(Channel):
    """Messages by mail, through Django's mail framework and whatever backend the site uses."""

    name = "mail"

    def address_of(self, order: Order) -> str:
        return order.customer_email

    def send(self, message: Message) -> str | None:
        mail = EmailMultiAlternatives(
            message.subject, message.text, conf.from_email, [message.address]
        )
        mail.attach_alternative(message.html, "text/html")
        mail.send()
        return None
