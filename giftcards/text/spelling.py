"""Normalise spellings, so that equivalent spellings become equal.

The module handles addresses, phone numbers, names and references. Databases fold case in different
ways, and do not support phone numbers or Arabic names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain

#: The country whose phone numbers people write without a country code.
COUNTRY = "213"
#: The maximum number of digits in a phone number, with some room for codes before it.
LONGEST_NUMBER = 18
#: A phone number with fewer digits, not counting the country code, may be part of many others.
TELLING_DIGITS = 8
#: The minimum number of digits of a phone number. Fewer digits are part of too many numbers.
FEWEST_DIGITS = 6
# The number of digits of the shortest phone numbers: landline with its zero, mobile without.
_WHOLE_DIGITS = 9
# The signs that people write between two phone numbers.
_BETWEEN = re.compile(r"[/,;،؛\r\n]")
# A mobile number without its leading zero. Area codes begin with other digits.
_MOBILE = re.compile(r"[567]\d{8}")
_DIALLED = re.compile(r"[+(\s]*\d[\d\s().\-/]*")
# A phone number in a sentence. It ends at a line break, at a dash between spaces, and at any
# character that phone numbers do not contain.
_AMONG_WORDS = re.compile(r"[+(]*\d(?:(?:[^\S\n]|[().\-/]){0,2}\d)*")
_NATIONAL = re.compile(r"0?([567]\d{8}|[234]\d{7})")
# A number with another country's code: E.164 allows 15 digits at most.
_FOREIGN = re.compile(r"[1-9]\d{6,14}")
# The dashes that programs write for a hyphen.
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))
_IS_ABROAD = re.compile(r"\s*(\+|00)")

# Letters that people confuse, but that Unicode does not decompose to the same letter.
_SAME_LETTER = str.maketrans(
    {
        # Alef wasla, alef maksura, Persian yeh and kaf, teh marbuta.
        "ٱ": "ا",
        "ى": "ي",
        "ی": "ي",
        "ک": "ك",
        "ة": "ه",
        # Tatweel only stretches a word, and people often leave out a hamza, so both are removed.
        "ـ": "",
        "ء": "",
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ı": "i",
        "æ": "ae",
        "œ": "oe",
    }
)
# If a hamza has a letter below it, both are removed. Alef maksura becomes alef.
_OTHER_LETTER = str.maketrans({"ؤ": "", "ئ": "", "ى": "ا"})
# Names that many people write without the alef in the middle. An alef at the beginning is kept.
_ALEF_LEFT_OUT = re.compile("رحمان|سليمان|عثمان|لقمان|اسحاق|هارون|اسماعيل|ابراهيم")
# Words that people write before a phone number.
_LABEL = re.compile(
    r"\b(t[eé]l([eé]phone)?|phone|mob(ile)?|gsm|portable|whatsapp|(ال)?(هاتف|نقال|جوال))"
    r"[.:\s]+(?=[+(]*\d)",
    re.IGNORECASE,
)
# Labels before an order number. The words in ``_ORDER_LABEL`` may also be part of the order's
# reference.
_NUMBER_SIGN = re.compile(
    r"\b(?:n\s?[°º]|(?:no|num[eé]ro|number|رقم)\b)[\s:.]*(?=\S*\d)", re.IGNORECASE
)
_ORDER_LABEL = re.compile(
    r"^(?:(?:ma |votre |my |your )?(?:commande|cmd|order)|(?:ال)?طلب[يك]?)[\s:.]+(?=\S*\d)",
    re.IGNORECASE,
)
# Labels before a code or a serial number, in messages from this app and from other senders.
_CODE_LABEL = re.compile(
    r"\b(?:code(?: pin)?|pin(?: code)?|serial(?: (?:number|no\.?))?|s/?n"
    r"|(?:(?:num[eé]ro|n[°º]|no) de )?s[eé]rie"
    r"|(?:ال)?رمز(?: السري)?|(?:ال)?رقم (?:ال)?(?:تسلسلي|سري))"
    r"\s*:",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")
# Some people write these words of names apart, others join them to the next word.
_JOINED = re.compile(
    "abd|abdel|abou|abu|ait|al|bel|ben|bent|bin|bou|el|oum|ould|sid|sidi"
    "|عبد|ابو|ابن|ام|ايت|ال|بن|بنت|بو|سي|سيدي|ولد"
)
_ARTICLE = "ال"
# The minimum number of letters that must remain when a word loses its article.
_FEWEST_LETTERS = 3


def folded(text: str) -> str:
    """Return ``text`` in a form for comparisons.

    Differences in case and between Unicode variants are removed.
    """
    return unicodedata.normalize("NFKC", text).strip().casefold()


def plain(text: str) -> str:
    """Return ``text`` without differences that are irrelevant in a search.

    The result is in lower case, without accents, Arabic vowels, tatweel and invisible characters.
    All forms of alef become one letter. The same applies to all forms of yeh, and to all forms of
    heh at the end of a word. Digits of all scripts become 0 to 9.
    """
    for _time in range(2):
        # Normalising may produce characters that casefold() changes, and the other way round.
        text = unicodedata.normalize("NFKD", text).casefold()
    shown = (_plain_sign(sign) for sign in unicodedata.normalize("NFKD", text))
    return "".join(shown).translate(_SAME_LETTER)


def _plain_sign(sign: str) -> str:
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    if sign.isspace():
        return " "
    return "" if unicodedata.category(sign) in {"Mn", "Cc", "Cf", "Cs"} else sign


def respelled(text: str) -> str:
    """Normalise text with :func:`plain`, and unify spellings of Arabic names.

    The function treats these spellings as equal:

    - with and without the letter below a hamza: مسؤول and مسئول;
    - with alef and with alef maksura: رضا and رضى;
    - with and without an alef that many people leave out: رحمان and رحمن.
    """
    spelled = plain(unicodedata.normalize("NFKC", text).translate(_OTHER_LETTER))
    return _ALEF_LEFT_OUT.sub(lambda name: name[0][0] + name[0][1:].replace("ا", ""), spelled)


def tokens(text: str) -> list[str]:
    """Split ``text`` at spaces, and normalise the parts with :func:`plain`."""
    return [token for part in folded(text).split() if (token := plain(part).replace(" ", ""))]


def words(text: str) -> list[str]:
    """Return the words and numbers in ``text``, normalised by :func:`plain`."""
    return _WORD.findall(plain(text))


def joined(name: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each word of ``name``, joined with the next word if necessary.

    A word such as "ben" is joined with the following word. Each pair contains the number of joined
    words and the result. For example, ``("karim", "ben", "ali")`` yields ``(1, "karim"), (2,
    "benali"), (1, "ali")``.
    """
    for start in range(len(name)):
        end = start
        while end < len(name) - 1 and _JOINED.fullmatch(name[end]):
            end += 1
        yield end + 1 - start, "".join(name[start : end + 1])


def without_article(word: str) -> str:
    """Return an Arabic ``word`` without its article."""
    rest = word.removeprefix(_ARTICLE)
    return rest if len(rest) >= _FEWEST_LETTERS else word


def digits(text: str) -> str:
    """Return the digits in ``text`` as 0 to 9, regardless of their script."""
    return "".join(str(unicodedata.decimal(sign)) for sign in text if sign.isdecimal())


def phone_digits(text: str) -> str:
    """Return the digits in a phone number.

    A zero in brackets, as in +33 (0) 6, is left out.
    """
    return digits(plain(text).replace("(0)", ""))


def without_label(text: str) -> str:
    """Return ``text`` without a label such as "Tél:" or "n°" before a number."""
    return _NUMBER_SIGN.sub("", _LABEL.sub("", text))


def without_order_label(text: str) -> str:
    """Return ``text`` without a label before an order number.

    A label is a word such as "Commande" or "طلب".
    """
    return _ORDER_LABEL.sub("", text)


def after_code_labels(text: str) -> list[str]:
    """Return the parts of ``text`` that follow a label such as "Code:".

    Labels in other languages, such as "الرمز:", are also recognised.
    """
    return [part for each in _CODE_LABEL.split(text)[1:] if (part := each.strip())]


def is_abroad(text: str) -> bool:
    """True if a phone number has a country code after ``+`` or ``00``."""
    return bool(_IS_ABROAD.match(plain(text).replace("(", "")))


def dialled(text: str) -> str:
    """Return the digits of a phone number with its country code.

    The result is "" if there are too few digits. The function ignores spaces, dashes and the script
    of the digits. Both 0555 12 34 56 and 555 12 34 56 become 213555123456. The country code of a
    foreign number is kept.
    """
    number = phone_digits(text)
    if len(number) < FEWEST_DIGITS:
        return ""
    # Nine digits after a "+" may be a whole phone number of a small country.
    if "+" not in text and _MOBILE.fullmatch(number):
        return COUNTRY + number
    number = number.removeprefix("00")
    # Some people also write the zero after the country code, as in +213 0555.
    rest = number.removeprefix(COUNTRY).removeprefix("0")
    # Landline numbers in Algiers may also begin with 213 if they are written without their zero,
    # but they are shorter.
    if number.startswith(COUNTRY) and (len(rest) >= TELLING_DIGITS or is_abroad(text)):
        return COUNTRY + rest
    if number.startswith("0"):
        return COUNTRY + number.removeprefix("0")
    return number


def is_dialled(text: str) -> bool:
    """True if ``text`` contains only characters that phone numbers contain.

    These characters are digits, spaces and the signs ``+``, ``(``, ``)``, ``.``, ``-`` and ``/``.
    At least one digit is required.
    """
    return bool(_DIALLED.fullmatch(plain(text)))


def is_phone(text: str) -> bool:
    """True if ``text`` looks like a phone number.

    The number must be Algerian or have a country code.
    """
    text = without_label(text)
    number = phone_digits(text)
    if not is_dialled(text) or len(number) > LONGEST_NUMBER:
        return False
    return is_abroad(text) or bool(_NATIONAL.fullmatch(number.removeprefix(COUNTRY)))


def international_phone(text: str) -> str:
    """Return a phone number in E.164 format, or "".

    The result is "" if ``text`` is not exactly one phone number. For example, 0555 12 34 56 becomes
    +213555123456. An Algerian number can be written in any format and script, with or without the
    country code. A foreign number must have a country code after ``+`` or ``00``.
    """
    text = plain(without_label(text)).translate(_DASHES).strip()
    if not is_dialled(text):
        return ""
    number, has_code = phone_digits(text), is_abroad(text)
    if has_code:
        number = number.removeprefix("00")
    if number.startswith(COUNTRY) and (found := _NATIONAL.fullmatch(number[len(COUNTRY) :])):
        return f"+{COUNTRY}{found[1]}"
    if has_code:
        # A slash may stand between two numbers.
        is_foreign = not number.startswith(COUNTRY) and "/" not in text
        return f"+{number}" if is_foreign and _FOREIGN.fullmatch(number) else ""
    # A landline number needs its zero: otherwise the digits may begin a longer number.
    is_whole = number.startswith("0") or _MOBILE.fullmatch(number)
    found = _NATIONAL.fullmatch(number) if is_whole else None
    return f"+{COUNTRY}{found[1]}" if found else ""


def numbers(text: str) -> frozenset[str]:
    """Return the phone numbers that a phone number field contains.

    Each number is normalised by :func:`dialled`.
    """
    parts = [part for part in _BETWEEN.split(text) if digits(part)]
    wholes = [part for part in parts if len(digits(part)) >= _WHOLE_DIGITS]
    # If the first part is short, the separator is part of a single number, as in 0555/12.34.56.
    several = wholes if wholes[:1] == parts[:1] else [text]
    return frozenset(map(dialled, several)) - {""}


def contact_of(address: str) -> str:
    """Return an e-mail address or a phone number in a comparable form.

    An address is normalised by :func:`folded`, and a number by :func:`dialled`. If the string
    contains several numbers, they are sorted as text, and the result is the first one. If the
    string does not contain an address or a number, the result is "".
    """
    return folded(address) if "@" in address else min(numbers(address), default="")


def numbers_among_words(text: str) -> frozenset[str]:
    """Return the phone numbers in a sentence.

    Each number is normalised by :func:`dialled`.
    """
    return frozenset(chain.from_iterable(map(numbers, _AMONG_WORDS.findall(text))))
