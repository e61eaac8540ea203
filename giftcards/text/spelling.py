"""Normalise spellings, so that different spellings of the same thing are equal.

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
#: The most digits of a phone number, with some room for codes before it.
LONGEST_NUMBER = 18
#: A phone number with fewer digits, not counting the country code, may be part of many others.
TELLING_DIGITS = 8
#: The minimum number of digits of a phone number. Fewer digits are part of too many numbers.
FEWEST_DIGITS = 6
# The number of digits of the shortest phone numbers: landline with its zero, mobile without.
_WHOLE_DIGITS = 9
# The signs that people write between two phone numbers.
_BETWEEN = re.compile(r"[/,;،؛\r\n]")
# A mobile number without its zero. No area code begins like it.
_MOBILE = re.compile(r"[567]\d{8}")
_DIALLED = re.compile(r"[+(\s]*\d[\d\s().\-/]*")
# A phone number among words: it ends with the line, at a dash between spaces, and at other signs.
_AMONG_WORDS = re.compile(r"[+(]*\d(?:(?:[^\S\n]|[().\-/]){0,2}\d)*")
_NATIONAL = re.compile(r"0?([567]\d{8}|[234]\d{7})")
# A number with another country's code: E.164 allows 15 digits at most.
_FOREIGN = re.compile(r"[1-9]\d{6,14}")
# The dashes that programs write for a hyphen.
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))
_IS_ABROAD = re.compile(r"\s*(\+|00)")

# Letters that people confuse, although Unicode does not decompose them to the same.
_SAME_LETTER = str.maketrans(
    {
        # Alef wasla, alef maksura, Persian yeh and kaf, teh marbuta.
        "ٱ": "ا",
        "ى": "ي",
        "ی": "ي",
        "ک": "ك",
        "ة": "ه",
        # Tatweel only makes a word look longer; people often leave out a hamza.
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
# A letter below a hamza is left out with it. Alef maksura becomes alef.
_OTHER_LETTER = str.maketrans({"ؤ": "", "ئ": "", "ى": "ا"})
# Names that many people write without the alef inside; an alef at the beginning stays.
_ALEF_LEFT_OUT = re.compile("رحمان|سليمان|عثمان|لقمان|اسحاق|هارون|اسماعيل|ابراهيم")
# Words that people write before a phone number.
_LABEL = re.compile(
    r"\b(t[eé]l([eé]phone)?|phone|mob(ile)?|gsm|portable|whatsapp|(ال)?(هاتف|نقال|جوال))"
    r"[.:\s]+(?=[+(]*\d)",
    re.IGNORECASE,
)
# Words before the number of an order. Those of the second kind may also belong to its reference.
_NUMBER_SIGN = re.compile(
    r"\b(?:n\s?[°º]|(?:no|num[eé]ro|number|رقم)\b)[\s:.]*(?=\S*\d)", re.IGNORECASE
)
_ORDER_LABEL = re.compile(
    r"^(?:(?:ma |votre |my |your )?(?:commande|cmd|order)|(?:ال)?طلب[يك]?)[\s:.]+(?=\S*\d)",
    re.IGNORECASE,
)
# The words that stand before a code or a serial in the app's messages, and in those of others.
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
    """Return ``text`` for comparisons, without differences in case and Unicode variants."""
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
    """Return :func:`plain` with a single spelling for each Arabic name.

    The function treats these spellings as equal:

    - with and without the letter below a hamza: مسؤول and مسئول;
    - with alef and with alef maksura: رضا and رضى;
    - with and without an alef that many people leave out: رحمان and رحمن.
    """
    spelled = plain(unicodedata.normalize("NFKC", text).translate(_OTHER_LETTER))
    return _ALEF_LEFT_OUT.sub(lambda name: name[0][0] + name[0][1:].replace("ا", ""), spelled)


def tokens(text: str) -> list[str]:
    """Return the parts of ``text`` between spaces, each normalised by :func:`plain`."""
    return [token for part in folded(text).split() if (token := plain(part).replace(" ", ""))]


def words(text: str) -> list[str]:
    """Return the words and numbers in ``text``, each normalised by :func:`plain`."""
    return _WORD.findall(plain(text))


def joined(name: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield each word of ``name``. A word such as "ben" is joined with the following word.

    Each pair contains the number of joined words and the result. For example, ``("karim", "ben",
    "ali")`` yields ``(1, "karim"), (2, "benali"), (1, "ali")``.
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
    """Return the digits in a phone number, without a zero in brackets as in +33 (0) 6."""
    return digits(plain(text).replace("(0)", ""))


def without_label(text: str) -> str:
    """Return ``text`` without a label such as "Tél:" or "n°" before a number."""
    return _NUMBER_SIGN.sub("", _LABEL.sub("", text))


def without_order_label(text: str) -> str:
    """Return ``text`` without a word such as "Commande" or "طلب" before an order number."""
    return _ORDER_LABEL.sub("", text)


def after_code_labels(text: str) -> list[str]:
    """Return the parts of ``text`` that follow a label such as "Code:" or "الرمز:"."""
    return [part for each in _CODE_LABEL.split(text)[1:] if (part := each.strip())]


def is_abroad(text: str) -> bool:
    """True if a phone number has a country code, which follows ``+`` or ``00``."""
    return bool(_IS_ABROAD.match(plain(text).replace("(", "")))


def dialled(text: str) -> str:
    """Return the digits of a phone number with its country code, or "" if there are too few.

    The function ignores spaces, dashes and the script of the digits. Both 0555 12 34 56 and 555 12
    34 56 become 213555123456. The country code of a foreign number is kept.
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
    # Without their zero, landline numbers of Algiers may also begin with 213, but are shorter.
    if number.startswith(COUNTRY) and (len(rest) >= TELLING_DIGITS or is_abroad(text)):
        return COUNTRY + rest
    if number.startswith("0"):
        return COUNTRY + number.removeprefix("0")
    return number


def is_dialled(text: str) -> bool:
    """True if ``text`` contains only digits and characters that are common in phone numbers."""
    return bool(_DIALLED.fullmatch(plain(text)))


def is_phone(text: str) -> bool:
    """True if ``text`` looks like an Algerian phone number, or has a country code."""
    text = without_label(text)
    number = phone_digits(text)
    if not is_dialled(text) or len(number) > LONGEST_NUMBER:
        return False
    return is_abroad(text) or bool(_NATIONAL.fullmatch(number.removeprefix(COUNTRY)))


def international_phone(text: str) -> str:
    """Return the phone number ``text`` in E.164 format, or "" if it is not one phone number.

    For example, 0555 12 34 56 becomes +213555123456. An Algerian number can be written in any
    format and script, with or without the country code. A foreign number must have a country code
    after ``+`` or ``00``.
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
    """Return the phone numbers in a phone number field, normalised by :func:`dialled`."""
    parts = [part for part in _BETWEEN.split(text) if digits(part)]
    wholes = [part for part in parts if len(digits(part)) >= _WHOLE_DIGITS]
    # After a short first part, the separator is inside one number: 0555/12.34.56.
    several = wholes if wholes[:1] == parts[:1] else [text]
    return frozenset(map(dialled, several)) - {""}


def contact_of(address: str) -> str:
    """Return an e-mail address or a phone number in a form that can be compared.

    The result is normalised by :func:`folded` or :func:`dialled`, or is "" for any other string. If
    the string contains several numbers, the result is the first number in sorted order.
    """
    return folded(address) if "@" in address else min(numbers(address), default="")


def numbers_among_words(text: str) -> frozenset[str]:
    """Return the phone numbers found in a sentence, each normalised by :func:`dialled`."""
    return frozenset(chain.from_iterable(map(numbers, _AMONG_WORDS.findall(text))))
