"""Compose messages from an order and a kind of message.

The documentation lists the templates and their variables.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.template.loader import select_template
from django.utils import timezone, translation
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator, capfirst
from django.utils.translation import gettext

from giftcards.delivery.channels import Message
from giftcards.delivery.conf import TO_RECIPIENT, WITH_CARDS, Kind, Mode, conf
from giftcards.delivery.facts import (
    TO_COME,
    Facts,
    Gift,
    PaidBack,
    facts_for_recipient,
    facts_of,
)
from giftcards.delivery.links import expiry, url_of
from giftcards.delivery.models import Delivery
from giftcards.delivery.revealing import MOST_CODES, Code, open_codes
from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import Masked, contained
from giftcards.models import Order
from giftcards.text.display import (
    NO_BREAKS,
    bdi,
    count_text,
    day_text,
    isolated,
    linked,
    moment_text,
    money,
    money_text,
    one_line,
)

_LONGEST_NAME = 80
_FOLDER = "giftcards_delivery/messages"
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_SPACES = re.compile(r"[ \t\r\n]+")
# The Unicode categories of invisible characters, direction marks and line separators. Joiners are
# kept, because Persian words and composed emoji need them.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = {"\u200c", "\u200d"}
# Replaces characters that are not in the alphabet of short messages. A single one of them would
# double the length of the message.
_FOR_SMS = str.maketrans({**dict.fromkeys(NO_BREAKS, " "), "\u2019": "'"})
_DIRECTIONS = {"L": "ltr", "R": "rtl", "AL": "rtl"}
_MARKS = {"ltr": "\u200e", "rtl": "\u200f"}


@dataclass(frozen=True, slots=True)
class Content:
    """The values from which a message is rendered."""

    kind: str
    facts: Facts
    customer_name: str = ""
    gift: Gift | None = None
    refund: PaidBack | None = None
    link: str = field(default="", repr=False)
    link_until: datetime | None = None
    #: The codes that the message itself contains.
    codes: tuple[Code, ...] = ()

    @property
    def greeted(self) -> str:
        """The name of the person who receives the message, or "" if it is unknown."""
        if self.kind not in TO_RECIPIENT:
            return self.customer_name
        return self.gift.name if self.gift else ""


@dataclass(frozen=True, slots=True)
class MessageRow:
    label: str
    value: str


@contained
def compose(delivery: Delivery, token: Masked | None) -> Message:
    """Compose the message for a ``delivery`` with the current facts.

    The message is in the language of the delivery. ``token`` is the token of the link in the
    message. The token is required if :func:`needs_link` is True. Raises
    :exc:`~giftcards.exceptions.ConfigurationError` if a required token or ``SHOP_URL`` is missing,
    or if the encryption keys are unusable. If a template raises an error, the traceback contains no
    secrets.
    """
    order, kind = delivery.order, delivery.kind
    with translation.override(delivery.language):
        facts = facts_for_recipient(order) if kind in TO_RECIPIENT else facts_of(order)
    content = Content(
        kind, facts, order.customer_name, gift=Gift.of(order), refund=_refund(delivery, facts)
    )
    if needs_link(order, kind):
        if token is None or not conf.shop_url:
            raise ConfigurationError(
                "GIFTCARDS_DELIVERY['SHOP_URL'] is not set, so messages cannot link to the cards."
            )
        content = replace(content, link=url_of(token), link_until=expiry())
    elif kind in WITH_CARDS:
        content = replace(content, codes=tuple(open_codes(order)))
    return render(content, language=delivery.language, address=delivery.address)


def needs_link(order: Order, kind: str) -> bool:
    """True if the message has a link to the cards instead of the codes."""
    if kind not in WITH_CARDS:
        return False
    if conf.mode[kind] != Mode.CODES:
        return True
    # Without SHOP_URL, there is no page to link to.
    return order.fulfilled_quantity > MOST_CODES and bool(conf.shop_url)


def render(content: Content, *, language: str, address: str) -> Message:
    kind = content.kind
    with translation.override(language), timezone.override(timezone.get_default_timezone()):
        seen = _without_hidden_characters(content)
        unmarked, plain, rich = (_words(seen, language, form) for form in _FORMS)
        title = _line(_rendered(kind, "subject.txt", unmarked))
        plain |= {"subject": title, "paragraphs": _paragraphs(kind, plain)}
        rich |= {"subject": title, "paragraphs": _paragraphs(kind, rich)}
        return Message(
            kind=kind,
            reference=content.facts.reference,
            language=language,
            address=address,
            subject=title,
            text=Masked(_tidied(_rendered(kind, "message.txt", plain))),
            html=Masked(_rendered(kind, "message.html", rich)),
            short=Masked(_directed(_compact(_rendered(kind, "short.txt", unmarked)))),
            link=content.link,
        )


def _refund(delivery: Delivery, facts: Facts) -> PaidBack | None:
    if delivery.kind != Kind.PAID_BACK:
        return None
    if delivery.refund is not None:
        return PaidBack.of(delivery.refund)
    if not facts.paid_back:
        raise ValueError("The order has no refund to the customer.")
    # If the message was not queued for a certain refund, it is about the latest refund.
    return facts.paid_back[-1]


class _Verbatim(Masked, SafeString):
    """A string that plain-text templates do not escape."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Form:
    """The functions that prepare values for one of three text formats.

    The three formats are text for subjects and short messages, plain text, and HTML.
    """

    foreign: Callable[[str], str]
    amount: Callable[[Decimal], str]
    #: Formats a date that is already in the language of the message.
    date: Callable[[str], str]
    #: Formats text that people copy or click. Nothing is added to this text, not even an invisible
    #: mark.
    exact: Callable[[str], str]
    #: Formats foreign text in a line of its own.
    line: Callable[[str], str]
    #: Formats foreign text that has several lines and may contain addresses to click.
    lines: Callable[[str], str]


def _isolated(text: str) -> str:
    return _Verbatim(isolated(text))


def _amount(amount: Decimal) -> str:
    return _Verbatim(money_text(amount))


def _line(text: str) -> str:
    """Return ``text`` on one line, without invisible formatting characters.

    Characters that control the direction of text are also removed.
    """
    return one_line("".join(filter(_is_kept, text)))


def _is_kept(char: str) -> bool:
    # Line breaks have a category in _UNSEEN, but are kept because they count as spaces.
    return char in _JOINERS or char.isspace() or unicodedata.category(char) not in _UNSEEN


def _unmarked_amount(amount: Decimal) -> str:
    return _Verbatim(_line(money_text(amount)))


# The form for subjects and short messages. It does not use direction marks, because old programs
# display them as visible characters.
_UNMARKED = _Form(_Verbatim, _unmarked_amount, _line, _Verbatim, _Verbatim, _Verbatim)
_PLAIN = _Form(_isolated, _amount, str, _Verbatim, _isolated, _Verbatim)
# HTML does not need direction marks, because each line is an element with its own direction.
_RICH = _Form(bdi, money, str, Masked, str, linked)
_FORMS = (_UNMARKED, _PLAIN, _RICH)


def _words(content: Content, language: str, form: _Form) -> dict[str, Any]:
    facts, refund = content.facts, content.refund
    gift = content.gift or Gift(address="")
    is_rtl = translation.get_language_bidi()
    last = facts.paid_back[-1] if facts.paid_back else None
    return {
        "kind": content.kind,
        "language": language,
        "direction": "rtl" if is_rtl else "ltr",
        "start": "right" if is_rtl else "left",
        "facts": facts,
        "shop_name": _known(form.foreign, conf.display_name),
        "contact": form.exact(conf.contact),
        "contact_address": conf.contact_address,
        "greeted": _known(form.foreign, content.greeted),
        "customer_name": _known(form.foreign, content.customer_name),
        "is_gift": content.gift is not None,
        "recipient": _known(form.foreign, gift.recipient),
        "gift_lines": [_known(form.line, line) for line in gift.lines],
        "deliver_at": gift.deliver_at and form.date(moment_text(gift.deliver_at)),
        "reference": form.foreign(facts.known_as),
        "product": form.foreign(facts.product),
        "type": _known(form.foreign, facts.type),
        "region": _known(form.foreign, facts.region),
        "instructions": form.lines(facts.instructions) if content.kind in WITH_CARDS else "",
        "owed": _shown(facts.owed, form),
        "to_pay_back": _shown(facts.to_pay_back, form),
        "paid_back": form.amount(facts.paid_back_amount),
        "paid_back_on": last and form.date(moment_text(last.at)),
        "pay_back_by": facts.pay_back_by and form.date(day_text(facts.pay_back_by)),
        "refund": refund and form.amount(refund.amount),
        "is_told_of_money": facts.payback in TO_COME and conf.mode[Kind.PAID_BACK] != Mode.OFF,
        "link": form.exact(content.link),
        "link_until": content.link_until and form.date(moment_text(content.link_until)),
        "codes": [
            replace(code, value=form.exact(code.value), serial=form.exact(code.serial))
            for code in content.codes
        ],
        "rows": _rows(content, form),
    }


def _known(show: Callable[[str], str], text: str) -> str:
    return show(text) if text else ""


def _shown(amount: Decimal | None, form: _Form) -> str | None:
    return None if amount is None else form.amount(amount)


def _rows(content: Content, form: _Form) -> list[MessageRow]:
    facts = content.facts
    rows = [*_rows_of_refund(content, form), *_rows_of_receipt(content, form)]
    rows.append(MessageRow(gettext("Product"), form.foreign(facts.product)))
    if facts.type:
        rows.append(MessageRow(gettext("Denomination"), form.foreign(facts.type)))
    if facts.region:
        rows.append(MessageRow(capfirst(gettext("region")), form.foreign(facts.region)))
    rows.append(MessageRow(capfirst(gettext("quantity")), count_text(facts.quantity)))
    if content.kind == Kind.PARTLY_DELIVERED or (content.kind == Kind.RECEIPT and facts.missing):
        rows += [
            MessageRow(gettext("Cards delivered"), count_text(facts.delivered)),
            MessageRow(gettext("Cards missing"), count_text(facts.missing)),
        ]
    if content.kind not in TO_RECIPIENT:
        rows.append(MessageRow(gettext("Ordered on"), moment_text(facts.ordered_at)))
    rows.append(MessageRow(capfirst(gettext("reference")), form.foreign(facts.known_as)))
    return rows


def _rows_of_receipt(content: Content, form: _Form) -> list[MessageRow]:
    facts, gift = content.facts, content.gift
    if content.kind != Kind.RECEIPT or gift is None:
        return []
    rows = [MessageRow(gettext("Gift for"), form.foreign(gift.recipient))]
    if gift.name:
        # The customer may notice a typing error in the address.
        rows.append(MessageRow(capfirst(gettext("e-mail")), form.foreign(gift.address)))
    if gift.deliver_at:
        rows.append(
            MessageRow(capfirst(gettext("to be delivered on")), moment_text(gift.deliver_at))
        )
    if facts.paid is not None:
        rows.append(MessageRow(gettext("Paid"), form.amount(facts.paid)))
    return rows


def _rows_of_refund(content: Content, form: _Form) -> list[MessageRow]:
    refund, left = content.refund, content.facts.to_pay_back
    if refund is None:
        return []
    rows = [
        MessageRow(gettext("Amount"), form.amount(refund.amount)),
        MessageRow(gettext("Paid back on"), moment_text(refund.at)),
    ]
    if refund.method:
        rows.append(MessageRow(gettext("Paid back by"), form.foreign(refund.method)))
    if left:
        rows.append(MessageRow(gettext("Still to be paid back"), form.amount(left)))
    return rows


def _rendered(kind: str, name: str, words: dict[str, Any]) -> str:
    template = select_template([f"{_FOLDER}/{kind}/{name}", f"{_FOLDER}/{name}"])
    return str(template.render(words))


def _paragraphs(kind: str, words: dict[str, Any]) -> list[str]:
    """Return the paragraphs of the body as safe strings.

    The strings are safe because the template has escaped the values.
    """
    body = _rendered(kind, "body.txt", words)
    parts = (_SPACES.sub(" ", part).strip() for part in _BLANK_LINES.split(body))
    return [mark_safe(part) for part in parts if part]  # noqa: S308 (templates escape)


def _without_hidden_characters(content: Content) -> Content:
    facts, gift, refund = content.facts, content.gift, content.refund
    return replace(
        content,
        facts=replace(
            facts,
            product=_name(facts.product),
            type=_name(facts.type),
            region=_name(facts.region),
            instructions="\n".join(map(_line, facts.instructions.splitlines())),
            known_as=_line(facts.known_as),
        ),
        customer_name=_name(content.customer_name),
        gift=gift
        and replace(
            gift,
            address=_line(gift.address),
            name=_name(gift.name),
            message="\n".join(map(_line, gift.lines)),
        ),
        refund=refund and replace(refund, method=_name(refund.method)),
    )


def _name(text: str) -> str:
    return Truncator(_line(text)).chars(_LONGEST_NAME)


def _tidied(text: str) -> str:
    """Replace consecutive blank lines with a single blank line.

    Templates leave several blank lines behind.
    """
    return _BLANK_LINES.sub("\n\n", "\n".join(_lines(text)).strip("\n")) + "\n"


def _compact(text: str) -> str:
    text = "\n".join(filter(None, _lines(text)))
    # Arabic text cannot use the alphabet of short messages, so replacing single characters would
    # not help.
    return text if translation.get_language_bidi() else text.translate(_FOR_SMS)


def _directed(text: str) -> str:
    """Add a direction mark before ``text`` if the text needs one.

    The text needs a mark if its first letter has the opposite direction to the active language.
    """
    direction = "rtl" if translation.get_language_bidi() else "ltr"
    letters = filter(None, (_DIRECTIONS.get(unicodedata.bidirectional(char)) for char in text))
    return text if next(letters, direction) == direction else _MARKS[direction] + text


def _lines(text: str) -> list[str]:
    return [line.strip(" \t\r") for line in text.split("\n")]
