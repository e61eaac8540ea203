"""What errors mean, tested with real errors of real clients of failing servers."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import anymail.exceptions
import pytest
import requests
import responses
from anymail.backends.mailgun import EmailBackend as Mailgun
from django.core.mail import EmailMessage as DjangoMessage

from giftcards.delivery.channels import (
    AddressRefused,
    Meaning,
    OutcomeUnknown,
    SlowDown,
    describe,
    failure_of,
)
from tests.fakes.mail import DROP, HANG, Fault, MailServer
from tests.fakes.sockets import Server, read_and_close

pytest_plugins = ["tests.stage_fixtures"]

REFUSED, UNANSWERED = Meaning.REFUSED, Meaning.UNANSWERED
SERVER_AWAY, NOT_SENT = Meaning.SERVER_AWAY, Meaning.NOT_SENT
ADDRESS = "lina@example.com"
MAILGUN = "https://api.mailgun.net/v3/"


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 (it is what the test is about)
        return error
    pytest.fail("it raised nothing")


def send_by_smtp(port: int, *, timeout: float = 30) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@shop.example", ADDRESS, "CANARY"
    mail.set_content("CANARY")
    with smtplib.SMTP("127.0.0.1", port, timeout=timeout) as client:
        client.send_message(mail)


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (Fault("connect", DROP), SERVER_AWAY),
        (Fault("connect", HANG), SERVER_AWAY),
        (Fault("connect", "554 No service"), SERVER_AWAY),
        (Fault("connect", "421 Busy"), SERVER_AWAY),
        (Fault("ehlo", "550 Who are you?"), SERVER_AWAY),
        (Fault("ehlo", DROP), SERVER_AWAY),
        (Fault("mail", "550 5.1.8 Bad sender"), SERVER_AWAY),
        (Fault("mail", "451 Later"), SERVER_AWAY),
        (Fault("mail", DROP), SERVER_AWAY),
        (Fault("rcpt", "550 5.1.1 No such user"), REFUSED),
        (Fault("rcpt", "550 No such user"), REFUSED),
        (Fault("rcpt", "553 5.1.3 Bad address"), REFUSED),
        (Fault("rcpt", "552 5.2.2 Mailbox full"), REFUSED),
        (Fault("rcpt", "550 5.7.1 Relaying denied"), NOT_SENT),
        (Fault("rcpt", "554 5.7.1 Your address is on a list"), NOT_SENT),
        (Fault("rcpt", "530 Log in first"), NOT_SENT),
        (Fault("rcpt", "450 4.2.1 Greylisted"), NOT_SENT),
        (Fault("rcpt", "421 Busy"), NOT_SENT),
        (Fault("rcpt", HANG), SERVER_AWAY),
        (Fault("data", "554 No"), NOT_SENT),
        (Fault("end", "554 5.6.0 Spam"), NOT_SENT),
        (Fault("end", "550 5.1.1 No such user"), REFUSED),
        (Fault("end", "451 Later"), NOT_SENT),
        (Fault("end", DROP), UNANSWERED),
        (Fault("end", HANG), UNANSWERED),
        (Fault("end", "2?? Strange"), UNANSWERED),
        (Fault("end", "251 Perhaps"), UNANSWERED),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, Fault) else value.name,
)
def test_what_a_mail_server_did_tells_whether_the_message_may_have_gone_out(
    fault: Fault, meaning: Meaning
) -> None:
    with MailServer(lambda _number: fault) as server:
        timeout = 0.3 if fault.action == HANG else 30
        error = raised(lambda: send_by_smtp(server.port, timeout=timeout))
    failure = failure_of(error)
    assert failure.meaning is meaning, failure
    if server.received:
        assert meaning is UNANSWERED
    assert failure.error.startswith(type(error).__name__)
    assert not any(word in failure.error for word in ("CANARY", ADDRESS, "user", "list", "fake"))


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (400, NOT_SENT), (401, SERVER_AWAY), (404, NOT_SENT), (422, NOT_SENT), (429, SERVER_AWAY),
        (500, UNANSWERED), (502, UNANSWERED), (503, SERVER_AWAY), (504, UNANSWERED),
    ],
)  # fmt: skip
def test_the_status_of_an_answer_over_http_tells_whether_the_message_may_have_gone_out(
    status: int, meaning: Meaning
) -> None:
    with responses.RequestsMock() as mock:
        mock.post("https://sms.invalid/", status=status, body="CANARY")
        error = raised(lambda: requests.post("https://sms.invalid/").raise_for_status())
    assert failure_of(error).meaning is meaning
    assert failure_of(error).error.startswith(f"HTTPError {status} at ")


def post(url: str) -> None:
    requests.post(url, data="CANARY", timeout=0.3).json()


class TestHttp:
    def test_a_request_that_was_not_answered_may_have_been_carried_out(self) -> None:
        def hang(server: Server, connection: socket.socket) -> None:
            server.read(connection)
            server.stopping.wait(5)

        for script in (hang, read_and_close):
            with Server(script) as server:
                error = raised(lambda url=server.url: post(url))
            assert failure_of(error).meaning is UNANSWERED, error

    def test_an_answer_that_cannot_be_read_may_mean_yes(self) -> None:
        with responses.RequestsMock() as mock:
            mock.post("https://sms.invalid/", body="CANARY")
            error = raised(lambda: post("https://sms.invalid/"))
        assert failure_of(error).meaning is UNANSWERED
        assert "CANARY" not in failure_of(error).error
        # An invalid address is a problem of this message only.
        assert failure_of(raised(lambda: post("no-address"))).meaning is NOT_SENT


@pytest.fixture
def anymail_key(settings: Any) -> None:
    settings.ANYMAIL = {
        "MAILGUN_API_KEY": "key",
        "MAILGUN_SENDER_DOMAIN": "shop.example",
        "REQUESTS_TIMEOUT": 0.3,
    }


@pytest.mark.usefixtures("anymail_key")
class TestAnymail:
    def test_a_provider_that_does_not_answer_may_have_sent_the_message(self) -> None:
        with Server(read_and_close) as server:
            error = raised(lambda: send_by_anymail(f"{server.url}/"))
        assert failure_of(error).meaning is UNANSWERED

    @pytest.mark.parametrize(
        ("status", "meaning"), [(200, UNANSWERED), (400, NOT_SENT), (503, SERVER_AWAY)]
    )
    def test_the_status_of_an_answer_counts(self, status: int, meaning: Meaning) -> None:
        with responses.RequestsMock() as mock:
            mock.post(f"{MAILGUN}shop.example/messages", status=status, body="CANARY")
            error = raised(lambda: send_by_anymail(MAILGUN))
        assert failure_of(error).meaning is meaning
        assert "CANARY" not in failure_of(error).error

    def test_a_recipient_on_the_list_of_refusals_is_refused(self) -> None:
        error = anymail.exceptions.AnymailRecipientsRefused()
        assert failure_of(error).meaning is REFUSED


def send_by_anymail(url: str) -> None:
    mail = DjangoMessage("CANARY", "CANARY", "shop@shop.example", [ADDRESS])
    Mailgun(api_url=url).send_messages([mail])


@pytest.mark.parametrize("send", [send_by_smtp, post, send_by_anymail])
def test_a_port_that_nobody_listens_on_means_that_the_server_is_away(
    send: Callable[[Any], None], closed_port: int, anymail_key: None
) -> None:
    where = closed_port if send is send_by_smtp else f"http://127.0.0.1:{closed_port}/"
    assert failure_of(raised(lambda: send(where))).meaning is SERVER_AWAY


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (AddressRefused("CANARY"), REFUSED),
        (OutcomeUnknown("CANARY"), UNANSWERED),
        (SlowDown(40), SERVER_AWAY),
        (TimeoutError("CANARY"), SERVER_AWAY),
        (RuntimeError("CANARY"), SERVER_AWAY),
        (UnicodeEncodeError("ascii", "CANARY", 0, 1, "CANARY"), NOT_SENT),
        (KeyError("CANARY"), NOT_SENT),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_an_error_of_a_shops_own_channel_has_a_meaning(error: Exception, meaning: Meaning) -> None:
    def fail() -> None:
        raise error

    assert failure_of(raised(fail)).meaning is meaning
    assert "CANARY" not in failure_of(error).error


def test_errors_that_were_raised_from_each_other_in_a_ring_have_a_meaning() -> None:
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert failure_of(first).meaning is SERVER_AWAY
    # An error that was never raised has no file and line.
    assert describe(RuntimeError("CANARY")) == "RuntimeError"
