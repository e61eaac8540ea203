"""Channels by which messages reach customers: mail, or one of the shop's own.

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
from django.utils.module_loading import import_string

from giftcards.delivery.conf import conf
from giftcards.display import NO_BREAKS, one_line
from giftcards.models import Order


class AddressRefused(Exception):
    """The address does not exist, or does not take messages: a retry is useless."""


class OutcomeUnknown(Exception):
    """Nobody knows whether the message went out.

    The message is retried after a quarter of an hour, and given up after six such attempts.
    """


@dataclass(frozen=True, slots=True)
class Message:
    """A message, ready to be sent. Its texts may hold codes or a link, and are not in its repr."""

    kind: str
    #: Reference of the order.
    reference: str
    language: str
    address: str = field(repr=False)
    #: One line.
    subject: str = field(repr=False)
    #: The message in plain text.
    text: str = field(repr=False)
    #: The message as an HTML document.
    html: str = field(repr=False)
    #: A sentence or two in plain text, with the link if there is one: for short messages.
    short: str = field(repr=False)
    #: The address of the customer's page; "" if the message has none.
    link: str = field(default="", repr=False)
    #: Idempotency key of 32 letters and digits: the same for each attempt at this message, and for
    #: no other message. A service that gets it can drop repetitions.
    id: str = ""


class Channel:
    """Base class of channels. Each piece of work creates its own instance, without arguments."""

    #: Up to 40 characters; rows keep it, so do not change it.
    name: ClassVar[str]

    def address_of(self, order: Order) -> str:
        """The customer's address on this channel; "" if it does not reach them."""
        raise NotImplementedError

    def recipient_address_of(self, order: Order) -> str:  # noqa: ARG002 (for other channels)
        """The address of a gift's recipient on this channel; "" if it does not reach them."""
        return ""

    def send(self, message: Message) -> str | None:
        """Hand ``message`` over; return its id at the service, if it has one.

        Raises :exc:`AddressRefused` if a retry is useless, and :exc:`OutcomeUnknown` if the message
        may have gone out all the same. After any other error, the method is called again later.

        Set a timeout of 20 s or less on anything that may hang. After a minute, or sooner if the
        worker stops or its time is over, the attempt is not waited for any more: its outcome counts
        as unknown.

        Called in a thread of its own, with the language of the message active.
        """
        raise NotImplementedError


class Mail(Channel):
    """Messages by mail, through Django's mail framework and whatever backend the site uses."""

    name = "mail"

    def address_of(self, order: Order) -> str:
        return order.customer_email

    def recipient_address_of(self, order: Order) -> str:
        return order.recipient_email

    def send(self, message: Message) -> str | None:
        try:
            validate_email(message.address)
        except ValidationError:
            raise AddressRefused from None
        subject = _one_line(message.subject)
        mail = html_mail(message.address, subject, message.text, message.html)
        message_id = _message_id(message, mail.from_email)
        mail.extra_headers["Message-ID"] = message_id
        if mail.send() == 0:
            # The backend sent nothing, and raised nothing.
            raise NotTaken
        # Providers with an API give ids of their own, which anymail reports.
        status = getattr(mail, "anymail_status", None)
        if status is not None and {"rejected", "invalid"}.intersection(status.status or ()):
            raise AddressRefused
        named = getattr(status, "message_id", None)
        return message_id if named is None else str(named)


class NotTaken(Exception):
    """The mail backend sent nothing, and did not say why."""


def html_mail(address: str, subject: str, text: str, html: str) -> EmailMultiAlternatives:
    """A mail from the shop with a text in both forms."""
    mail = EmailMultiAlternatives(subject, text, conf.from_email, [address])
    mail.attach_alternative(html, "text/html")
    # Keeps programs from answering, such as with an absence note.
    mail.extra_headers["Auto-Submitted"] = "auto-generated"
    return mail


def _one_line(text: str) -> str:
    """``text`` without the line breaks and control characters that no header may have."""
    printable = (char if char.isprintable() or char in NO_BREAKS else " " for char in text)
    return one_line("".join(printable))


def _message_id(message: Message, from_email: str) -> str:
    """The Message-ID: the same for each attempt at a message, so that servers drop repetitions."""
    domain = parseaddr(from_email)[1].rpartition("@")[2]
    domain = punycode(domain or urlsplit(conf.base_url).hostname or "localhost")
    return f"<{message.id}@{domain}>" if message.id else make_msgid(domain=domain)


def make_channels() -> list[Channel]:
    """New instances of the channels in ``CHANNELS``, in their order."""
    return [import_string(path)() for path in conf.channels]
