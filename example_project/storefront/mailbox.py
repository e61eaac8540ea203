"""The mails that the example has sent, read from the files that the mail backend writes."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

from django.conf import settings
from django.utils.timezone import localtime

# The backend writes this after each mail. If it is missing, a mail is still being written.
_END = b"\n" + b"-" * 79 + b"\n"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as a mail program shows it. It may contain a link to cards, or codes."""

    #: The Message-ID of the mail.
    id: str
    to: str
    subject: str
    at: datetime
    text: str = field(repr=False)
    html: str = field(repr=False)

    @property
    def key(self) -> str:
        """The name of the mail in URLs."""
        return self.id.strip("<>").partition("@")[0]

    @property
    def link(self) -> str:
        """The link to the page with cards; "" if there is none.

        The text of a gift comes before this link, and may contain links of its own.
        """
        shop = str(settings.GIFTCARDS_DELIVERY["SHOP_URL"]).rstrip("/")
        found: list[str] = re.findall(
            rf"^{re.escape(shop)}/cards/[\w-]+/$", self.text, re.MULTILINE
        )
        return found[-1] if found else ""


def read(folder: Path, *, ids: Container[str] | None = None) -> list[Mail]:
    """Return the mails in ``folder``, the newest first; if ``ids`` is given, only those."""
    files = sorted(folder.glob("*.log"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    mails = [_mail(message) for path in reversed(files) for message in _messages(path)]
    return [mail for mail in mails if ids is None or mail.id in ids]


def _messages(path: Path) -> Iterator[EmailMessage]:
    *whole, _rest = path.read_bytes().split(_END)
    for content in reversed(whole):
        yield message_from_bytes(content, policy=policy.default)


def _mail(message: EmailMessage) -> Mail:
    return Mail(
        id=str(message["Message-ID"]),
        to=str(message["To"]),
        subject=str(message["Subject"]),
        at=_moment(str(message["Date"])),
        text=_body(message, "plain"),
        html=_body(message, "html"),
    )


def _moment(date: str) -> datetime:
    # Python reads "-0000", which stands for UTC, as no time zone at all.
    return localtime(parsedate_to_datetime(date.replace("-0000", "+0000")))


def _body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return "" if part is None else str(part.get_content())
