"""How messages reach customers: by mail, or over a channel of the shop's own.

A channel is a class with a ``name``, and with :meth:`Channel.address_of` and :meth:`Channel.send`;
``GIFTCARDS_DELIVERY["CHANNELS"]`` lists the channels in use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from email.utils import make_msgid, parseaddr
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives
from django.core.validators import validate_email
from django.utils.encoding import punycode

from giftcards.delivery.conf import conf
from giftcards.display import NO_BREAKS, one_line
from giftcards.models import Order


class AddressRefused(Exception):
    """The address does not exist, or does not take messages: there is no use in trying again."""


class OutcomeUnknown(Exception):
    """Nobody knows whether the message went out.

    It is tried again after a quarter of an hour, and at most six times.
    """


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
    #: The same for each attempt at the same message, and for no other: 32 letters and digits. A
    #: service that is told of it can leave out repetitions.
    id: str = ""


class Channel:
    """The base of channels. An instance is made for each piece of work, without arguments."""

    #: Up to 40 characters; rows keep it, so do not change it.
    name: ClassVar[str]

    def address_of(self, order: Order) -> str:
        """Where the customer of ``order`` is reached; "" if this channel does not reach them."""
        raise NotImplementedError

    def send(self, message: Message) -> str | None:
        """Hand ``message`` over; return the id by which it is known from then on, if it has one.

        Raises :exc:`AddressRefused` if another attempt is useless, and :exc:`OutcomeUnknown` if the
        message may have gone out all the same. After any other error, it is called again later. So
        set a timeout on anything that may hang, of 20 s or less: after a minute, or sooner where
        the worker's time is over or it is stopped, nobody waits for the end of an attempt any more,
        and it counts as one of which nobody knows how it ended.

        It is called in a thread of its own, in which the language is that of the message.
        """
        raise NotImplementedError


class Mail(Channel):
    """Messages by mail, through Django's mail framework and whatever backend the site uses."""

    name = "mail"

    def address_of(self, order: Order) -> str:
        return order.customer_email

    def send(self, message: Message) -> str | None:
        try:
            validate_email(message.address)
        except ValidationError:
            raise AddressRefused from None
        mail = EmailMultiAlternatives(
            _one_line(message.subject), message.text, conf.from_email, [message.address]
        )
        mail.attach_alternative(message.html, "text/html")
        # No program should answer, such as with an absence note.
        mail.extra_headers["Auto-Submitted"] = "auto-generated"
        message_id = _message_id(message, mail.from_email)
        mail.extra_headers["Message-ID"] = message_id
        if mail.send() == 0:
            # The backend has nothing sent, and raised nothing.
            raise NotTaken
        # Providers with an API give names of their own; anymail says which.
        status = getattr(mail, "anymail_status", None)
        if status is not None and {"rejected", "invalid"}.intersection(status.status or ()):
            raise AddressRefused
        named = getattr(status, "message_id", None)
        return message_id if named is None else str(named)


class NotTaken(Exception):
    """The mail backend sent nothing, and did not say why."""


def _one_line(text: str) -> str:
    """``text`` without the line breaks and control characters that no header may have."""
    printable = (char if char.isprintable() or char in NO_BREAKS else " " for char in text)
    return one_line("".join(printable))


def _message_id(message: Message, from_email: str) -> str:
    """The name of a mail: the same for each attempt, so that mail servers drop repetitions."""
    domain = parseaddr(from_email)[1].rpartition("@")[2]
    domain = punycode(domain or urlsplit(conf.base_url).hostname or "localhost")
    return f"<{message.id}@{domain}>" if message.id else make_msgid(domain=domain)
