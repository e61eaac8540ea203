"""The channel for mail: what it sends, and how it treats the results of the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core import mail

from giftcards.delivery.channels import AddressRefused, Mail, Message, NotTaken
from tests.fakes.mail import SILENT, MailServer

CODE = "CANARY-CODE-1111"
ANYMAIL = "anymail.backends.test.EmailBackend"


def message(**values: str) -> Message:
    named = {
        "kind": "delivered",
        "reference": "cart-1",
        "language": "ar",
        "address": "lina@example.com",
        "subject": "بطاقاتك وصلت",
        "text": f"بطاقاتك: {CODE}",
        "html": f"<p>بطاقاتك: {CODE}</p>",
        "short": "بطاقاتك وصلت",
        "id": "a" * 32,
    }
    return Message(**{**named, **values})


def test_a_mail_says_who_sends_it_and_that_no_program_should_answer(server: MailServer) -> None:
    # The repr of a message does not contain its texts.
    shown = repr(message(link="https://shop.example/cards/token/"))
    assert not any(text in shown for text in (CODE, "lina", "token", "وصلت"))
    named = Mail().send(message())
    [received] = server.received
    sent = received.mail
    assert named == sent["Message-ID"] == f"<{'a' * 32}@shop.example>"
    assert sent["Auto-Submitted"] == "auto-generated"
    assert (sent["From"], sent["To"]) == ("Shop <shop@shop.example>", "lina@example.com")
    assert sent["Reply-To"] is None
    assert sent["Subject"] == "بطاقاتك وصلت"
    parts = [part.get_content().strip() for part in sent.iter_parts()]
    assert parts == [f"بطاقاتك: {CODE}", f"<p>بطاقاتك: {CODE}</p>"]


def test_the_headers_of_a_mail_are_ascii(server: MailServer, settings: Any) -> None:
    settings.GIFTCARDS_DELIVERY = {
        **settings.GIFTCARDS_DELIVERY,
        "FROM_EMAIL": "متجر <shop@متجر.example>",
    }
    named = Mail().send(message())
    head = server.received[0].raw.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert named == f"<{'a' * 32}@xn--pgbep1f.example>"


@pytest.mark.parametrize("text", ["a\r\nBcc: all@example.com", "a\nb\x00c\u2028d", "a\tb"])
def test_a_subject_cannot_add_a_header(text: str, server: MailServer) -> None:
    Mail().send(message(subject=text))
    [received] = server.received
    assert received.mail["Bcc"] is None
    assert received.mail["Subject"].startswith("a ")
    assert received.recipient == "lina@example.com"


@pytest.mark.parametrize(
    "address",
    ["lina@example.com\r\nBcc: all@example.com", "lina", "a@example.com, b@example.com", ""],
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(
    address: str, server: MailServer
) -> None:
    with pytest.raises(AddressRefused):
        Mail().send(message(address=address))
    assert not server.connections


def test_a_backend_that_sent_nothing_and_raised_nothing_counts_as_failed(
    send_through: Callable[..., None],
) -> None:
    send_through(SILENT)
    with pytest.raises(NotTaken):
        Mail().send(message())


def test_the_name_that_a_provider_gives_to_a_mail_is_that_of_anymail(
    send_through: Callable[..., None],
) -> None:
    send_through(ANYMAIL)
    mail.outbox.append(mail.EmailMessage())
    assert Mail().send(message()) == "1"  # the test backend counts


@pytest.mark.parametrize("status", ["rejected", "invalid"])
@pytest.mark.parametrize("is_ignored", [True, False])
def test_a_recipient_whom_the_provider_refuses_is_refused(
    status: str, is_ignored: bool, settings: Any, send_through: Callable[..., None]
) -> None:
    from anymail.message import AnymailRecipientStatus
    from anymail.signals import pre_send

    from giftcards.delivery.channels import Meaning, failure_of

    def answer(message: Any, **_: Any) -> None:
        refused = AnymailRecipientStatus(message_id="1", status=status)
        message.anymail_test_response = {"recipient_status": {"lina@example.com": refused}}

    settings.ANYMAIL = {"IGNORE_RECIPIENT_STATUS": is_ignored}
    send_through(ANYMAIL)
    pre_send.connect(answer)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 (of anymail, or ours)
            Mail().send(message())
    finally:
        pre_send.disconnect(answer)
    assert failure_of(caught.value).meaning is Meaning.REFUSED
