"""Search terms of orders, and interpretations of a search.

Orders can be found by their search terms. The same rules apply to orders and to searches, so that a
search finds all spellings of a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from itertools import chain, groupby
from typing import NamedTuple

from giftcards.text.spelling import (
    COUNTRY,
    FEWEST_DIGITS,
    LONGEST_NUMBER,
    TELLING_DIGITS,
    digits,
    folded,
    is_abroad,
    is_dialled,
    joined,
    numbers,
    phone_digits,
    plain,
    respelled,
    tokens,
    without_article,
    without_label,
    without_order_label,
    words,
)

#: The longest term; a longer text is cut.
LONGEST = 254
# A reference with more numbers than this is random, such as a UUID. Nobody searches for one of its
# numbers.
_MOST_NUMBERS = 5
# The maximum number of words in a search: more words would make the query too large.
_MOST_WORDS = 8
_NUMBER = re.compile(r"\d+")
# The first character of each term for the end of a phone number; no word begins with it.
_BEFORE = "*"


class TermKind(IntEnum):
    """The origin of a term. The database stores these values."""

    REFERENCE = 1
    #: A number in a reference.
    NUMBER = 2
    GROUP = 3
    EMAIL = 4
    #: A phone number without the country code.
    PHONE = 5
    #: A phone number with another country's code. It may look like a number of this country.
    FOREIGN_PHONE = 6
    NAME = 7
    RECIPIENT_EMAIL = 8
    RECIPIENT_NAME = 9
    #: The end of a phone number, without the first 1, 2, 3, … digits. With these terms, a search
    #: finds a number by any six or more consecutive digits.
    PHONE_PART = 10


#: The kinds of terms that two orders of the same customer have in common.
OF_SAME_CUSTOMER = (TermKind.EMAIL, TermKind.PHONE, TermKind.FOREIGN_PHONE)

#: The kinds of terms that name a single order.
NAMING = (TermKind.REFERENCE, TermKind.NUMBER)

#: The kind of a term, and the term.
Term = tuple[TermKind, str]


def _number(text: str) -> str:
    return text.lstrip("0") or "0"


def _named(kind: TermKind, kind_of_number: TermKind) -> Callable[[str], Iterator[Term]]:
    def terms(text: str) -> Iterator[Term]:
        yield from ((kind, token) for token in tokens(text))
        found = _NUMBER.findall(plain(text))
        if len(found) <= _MOST_NUMBERS:
            yield from ((kind_of_number, _number(each)) for each in found)
            # The whole reference, without its dashes.
            if together := "".join(words(text)):
                yield kind, together

    return terms


def _phone(text: str) -> Iterator[Term]:
    found = numbers(text)
    for number in found:
        kind = TermKind.PHONE if number.startswith(COUNTRY) else TermKind.FOREIGN_PHONE
        whole = _number(number.removeprefix(COUNTRY))
        yield kind, whole
        for place in range(1, len(whole) - FEWEST_DIGITS + 1):
            yield TermKind.PHONE_PART, _BEFORE + whole[place:]
    if not found:
        yield from ((TermKind.NAME, token) for token in tokens(text))


def _email(kind: TermKind) -> Callable[[str], Iterator[Term]]:
    def terms(text: str) -> Iterator[Term]:
        if address := folded(text):
            yield kind, address

    return terms


def _name(kind: TermKind) -> Callable[[str], Iterator[Term]]:
    def terms(text: str) -> Iterator[Term]:
        for name in (words(text), words(respelled(text))):
            for word in (*name, *(word for _count, word in joined(name))):
                yield kind, word
                yield kind, without_article(word)

    return terms


_TERMS: Mapping[str, Callable[[str], Iterator[Term]]] = {
    "reference": _named(TermKind.REFERENCE, TermKind.NUMBER),
    "group": _named(TermKind.GROUP, TermKind.GROUP),
    "customer_email": _email(TermKind.EMAIL),
    "customer_phone": _phone,
    "customer_name": _name(TermKind.NAME),
    "recipient_email": _email(TermKind.RECIPIENT_EMAIL),
    "recipient_name": _name(TermKind.RECIPIENT_NAME),
}
#: The columns of an order from which its terms are made.
SEARCHED = tuple(_TERMS)


def terms_of(order: Mapping[str, str]) -> set[Term]:
    """Return the terms of an order.

    ``order`` maps column names to values. Some columns may be missing.
    """
    return {
        (kind, term[:LONGEST])
        for column, terms in _TERMS.items()
        for kind, term in terms(order.get(column, ""))
    }


def terms_of_contact(contact: str) -> set[str]:
    """Return terms for finding orders by an e-mail address or phone number.

    ``contact`` is an address in the form that :func:`folded` returns, or a number in the form that
    :func:`dialled` returns. Each order with this contact has at least one of the terms.
    """
    if "@" not in contact:
        return {_number(contact.removeprefix(COUNTRY))[:LONGEST]}
    # Somebody may have written the address into the field for phone numbers.
    terms = {contact, *(term for kind, term in _phone(contact) if kind != TermKind.PHONE_PART)}
    return {term[:LONGEST] for term in terms}


class Word(NamedTuple):
    """A word of a search.

    An order contains the word if one of its terms is in ``whole``, or begins with a string in
    ``starts``.
    """

    whole: frozenset[str]
    starts: frozenset[str]


#: The words of a search. An order must have all of them.
Reading = tuple[Word, ...]


def readings(text: str) -> list[list[Reading]]:
    """Return the possible interpretations of a search, most literal first.

    The result is a list of lists. In the first list, the text is split only at spaces. One
    interpretation in this list joins adjacent groups of digits into a phone number, and another
    joins the parts of a name. In the second list, all parts are joined, because references can be
    found without their dashes. In the third list, the text is also split at punctuation marks. If
    the text begins with a word for "order", further lists leave out this word. A text without
    letters or digits does not have an interpretation.
    """
    shown = without_label(folded(text))
    found = [_lists(each) for each in dict.fromkeys((shown, without_order_label(shown)))]
    return list(filter(None, chain.from_iterable(found)))


def _lists(text: str) -> Iterator[list[Reading]]:
    parts = text.split()[:_MOST_WORDS]
    apart = [piece for part in parts for piece in ([part] if "@" in part else words(part))]
    yield _read((_with_whole_numbers(parts), _together(parts)))
    yield _read((_as_reference(apart),))
    yield _read((apart, _together(apart)))


def _read(ways: Iterable[Iterable[str]]) -> list[Reading]:
    found = (tuple(filter(None, map(_word_of, way)))[:_MOST_WORDS] for way in ways)
    return [reading for reading in dict.fromkeys(found) if reading]


def _with_whole_numbers(parts: Iterable[str]) -> Iterator[str]:
    """Yield ``parts``, but join the parts of a phone number.

    Adjacent groups of digits are joined if they could form one phone number.
    """
    for is_number, group in groupby(parts, is_dialled):
        pieces = list(group)
        whole = " ".join(pieces)
        is_one = is_number and len(digits(whole)) <= LONGEST_NUMBER
        yield from [whole] if is_one else pieces


def _as_reference(apart: Sequence[str]) -> Iterator[str]:
    """Yield the joined words, such as SUPQ7, unless they form a number."""
    together = "".join(apart)
    if len(apart) > 1 and "@" not in together and not is_dialled(together):
        yield together


def _together(name: Sequence[str]) -> Iterator[str]:
    place = 0
    for start, (count, word) in enumerate(joined(name)):
        if start == place:
            yield word
            place += count


def _word_of(part: str) -> Word | None:
    """Convert a part of a search to a ``Word``, or return ``None``.

    The result is ``None`` if the part has no letters or digits.
    """
    shown = plain(part).replace(" ", "")
    if not words(shown):
        return None
    whole = {shown, folded(part).replace(" ", "")}
    starts = set[str]()
    if is_dialled(shown):
        dialled = phone_digits(part)
        number = _number(dialled)
        whole = {number} if shown.isdecimal() else {shown, number}
        rest = _number(number.removeprefix(COUNTRY))
        if number.startswith(COUNTRY) and (is_abroad(part) or len(rest) >= TELLING_DIGITS):
            # If only a few digits are left, they can only be the beginning of a phone number.
            (whole if len(rest) >= TELLING_DIGITS else starts).add(rest)
        if len(dialled) >= FEWEST_DIGITS:
            starts.add(_BEFORE + dialled)
    else:
        whole.add(respelled(part).replace(" ", ""))
        whole |= {without_article(each) for each in (shown, respelled(part))}
    whole = {term[:LONGEST] for term in whole if term}
    return Word(frozenset(whole), frozenset(whole | starts))
