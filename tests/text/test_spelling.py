"""Different spellings of the same thing match, and different things do not."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from giftcards.text.search_terms import OF_SAME_CUSTOMER, Word, readings, terms_of
from giftcards.text.spelling import (
    dialled,
    folded,
    international_phone,
    is_phone,
    numbers,
    plain,
    tokens,
    words,
)
from tests.laws import examples

TEXTS = st.text(max_size=30)
NATIONAL = st.from_regex(r"[567][0-9]{8}|[234][0-9]{7}", fullmatch=True)
NAMES = st.text(
    st.sampled_from("abcdefgzéèüçñÀÔابتثجحخدذرزسشصضطظعغفقكلمنهويأإآىةؤئ"), min_size=2, max_size=12
)


@given(TEXTS)
@settings(max_examples=examples(100))
def test_what_is_plain_stays_plain(text: str) -> None:
    assert plain(plain(text)) == plain(text)


@given(TEXTS)
@settings(max_examples=examples(100))
def test_a_plain_text_does_not_depend_on_case_and_composition(text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert plain(unicodedata.normalize(form, text)) == plain(text)
    assert tokens(folded(text)) == tokens(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("أحمد إبراهيم آمال", "احمد ابراهيم امال"),
        ("مُحَمَّد", "محمد"),
        ("محـــمد", "محمد"),
        ("فاطمة", "فاطمه"),
        ("مصطفى", "مصطفي"),
        ("علی", "علي"),
        ("٠١٢٣ ۴۵۶", "0123 456"),
        ("ZOÉ Œuvre Ångström", "zoe oeuvre angstrom"),
        ("İstanbul ırmak", "istanbul irmak"),
        ("ﻣﺤﻤﺪ", "محمد"),
        ("a\u200db\u200f", "ab"),
    ],
)
def test_what_people_do_not_mind_is_the_same(one: str, other: str) -> None:
    assert plain(one) == plain(other)


@pytest.mark.parametrize(("one", "other"), [("علي", "عالي"), ("سعيد", "شعيد"), ("ali", "aly")])
def test_what_people_tell_apart_is_different(one: str, other: str) -> None:
    assert plain(one) != plain(other)


def spelled(number: str, style: int) -> str:
    """Return a national number in one of the ways that people write it."""
    spaced = " ".join(number[start : start + 2] for start in range(0, len(number), 2))
    arabic = number.translate({ord("0") + digit: chr(0x660 + digit) for digit in range(10)})
    return (
        f"0{number}",
        f"0{spaced}",
        f"+213 {spaced}",
        f"00213{number}",
        f"+213 (0) {number.replace('5', '5-')}",
        f"213{number}",
        f"\u0660{arabic}",
        f"(0{number[:2]}) {number[2:]}",
    )[style]


@given(NATIONAL, st.integers(0, 7), st.integers(0, 7))
@settings(max_examples=examples(100))
def test_a_phone_number_has_one_term_and_is_found_in_any_spelling(
    number: str, stored: int, typed: int
) -> None:
    terms = terms_of({"customer_phone": spelled(number, stored)})
    assert {term for kind, term in terms if kind in OF_SAME_CUSTOMER} == {number}
    for label in ("", "Tél: ", "هاتف: "):
        assert is_phone(label + spelled(number, typed))
        found = of(label + spelled(number, typed))
        assert any(number in word.whole for word, *rest in found if not rest)


@given(NATIONAL, NATIONAL)
@settings(max_examples=examples(100))
def test_two_numbers_are_never_one(one: str, other: str) -> None:
    assert (dialled(f"0{one}") == dialled(f"0{other}")) == (one == other)


@given(st.from_regex(r"\+(33|1|44)[1-9][0-9]{8}", fullmatch=True))
@settings(max_examples=examples(100))
def test_a_foreign_number_keeps_its_code(number: str) -> None:
    terms = terms_of({"customer_phone": number})
    [term] = [term for kind, term in terms if kind in OF_SAME_CUSTOMER]
    assert term == number[1:]
    assert terms_of({"customer_phone": f"00{number[1:]}"}) == terms
    assert numbers(number) == {number[1:]}


@given(NATIONAL, st.integers(0, 7))
@settings(max_examples=examples(100))
def test_a_number_of_this_country_has_one_international_form(number: str, style: int) -> None:
    form = f"+213{number}"
    assert international_phone(spelled(number, style)) == international_phone(form) == form


@given(st.from_regex(r"[1-9][0-9]{6,14}", fullmatch=True), st.sampled_from(["+", "+ ", "00"]))
@settings(max_examples=examples(100))
def test_a_number_with_the_code_of_another_country_stays_as_it_is(number: str, code: str) -> None:
    assume(not number.startswith("213"))
    assert international_phone(code + number) == f"+{number}"


@given(TEXTS | st.from_regex(r"[+(]{0,2}[0-9٠-٩ ./()-]{1,25}", fullmatch=True))
@settings(max_examples=examples(200))
def test_an_international_form_is_its_own_and_has_the_digits_that_were_typed(text: str) -> None:
    form = international_phone(text)
    assert form == "" or re.fullmatch(r"\+[1-9][0-9]{6,14}", form)
    assert international_phone(form) == form
    if form:
        assert {form.removeprefix("+")} == numbers(text)


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("٠٥٥٠ ١٢ ٣٤ ٥٦", "+213550123456"),
        ("\u202a+213 550–12–34–56\u202c", "+213550123456"),
        ("0550/12.34.56", "+213550123456"),
        ("+213 (0) 21 23 45 67", "+21321234567"),
        ("Tél : 021.23.45.67", "+21321234567"),
        ("+33 (0) 6 12 34 56 78", "+33612345678"),
        # Two numbers, and numbers with other text.
        ("0550123456 / 0661123456", ""),
        ("+33612345678/9", ""),
        ("0550123456 Amina", ""),
        ("0550+123456", ""),
        # Numbers that are too short, too long, or of no operator of this country.
        ("055012345", ""),
        ("05501234567", ""),
        ("0850123456", ""),
        ("+213 850 12 34 56", ""),
        ("021 23 45 6", ""),
        ("+1234567890123456", ""),
        ("+0550123456", ""),
        # A landline number without its zero and a foreign number without its code are ambiguous.
        ("21 23 45 67", ""),
        ("33612345678", ""),
        ("", ""),
        ("664743441x", ""),
    ],
)
def test_what_is_no_whole_number_has_no_international_form(typed: str, form: str) -> None:
    assert international_phone(typed) == form


def finds(column: str, value: str, typed: str) -> bool:
    """Return True if a search for ``typed`` finds an order with this value."""
    terms = {term for _kind, term in terms_of({column: value})}
    return any(
        all(any(term.startswith(start) for term in terms for start in word.starts) for word in way)
        for way in of(typed)
    )


@given(NATIONAL, st.integers(0, 7), st.data())
@settings(max_examples=examples(100))
def test_a_phone_number_is_found_by_any_six_digits_in_a_row(
    number: str, stored: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(number) - 6))
    typed = number[start : data.draw(st.integers(start + 6, len(number)))]
    for each in (typed, f"{typed[:2]} {typed[2:]}"):
        assert finds("customer_phone", spelled(number, stored), each)
    other = str(10**6 - 1 - int(typed[:6])).zfill(6)
    assert finds("customer_phone", f"0{number}", other) == (other in f"0{number}")
    assert not finds("customer_phone", f"0{number}", typed[1:6] if start else "x")


@pytest.mark.parametrize(
    ("value", "typed", "is_found"),
    [
        ("رؤوف", "رءوف", True),
        ("رؤوف", "رئوف", True),
        ("رءوف", "رؤوف", True),
        ("عائشة", "عايشه", True),
        ("عائشة", "عاءشة", True),
        ("فاطمة الزهراء", "الزهرا", True),
        ("ليلى", "ليلا", True),
        ("ليلا", "ليلى", True),
        ("رضا بن علي", "رضى علي", True),
        ("ليلى", "ليلي", True),
        ("عبد الرحمان", "عبدالرحمن", True),
        ("عبد الرحمن", "رحمان", True),
        ("سليمان", "سليما", True),
        ("علي", "علا", False),
        ("حسان", "حسن", False),
        ("علي", "ء", False),
    ],
)
def test_a_name_is_found_whatever_the_form_of_its_hamza_and_alef(
    value: str, typed: str, is_found: bool
) -> None:
    assert finds("customer_name", value, typed) == is_found


@given(st.lists(NAMES, min_size=1, max_size=4), st.randoms())
@settings(max_examples=examples(100))
def test_a_name_is_found_by_any_of_its_words_in_any_order(name: list[str], random: object) -> None:
    terms = {term for _kind, term in terms_of({"customer_name": " ".join(name)})}
    wanted = sorted(name, key=lambda _word: random.random())  # type: ignore[attr-defined]
    assert any(
        all(word.whole & terms for word in reading) for reading in of(" ".join(wanted).upper())
    )
    for word in words(wanted[0]):
        assert word in terms


@given(st.from_regex(r"[A-Za-z]{1,6}[-_/#.]?0{0,4}[1-9][0-9]{0,6}", fullmatch=True))
@settings(max_examples=examples(100))
def test_a_reference_is_found_in_any_case_and_by_its_number(reference: str) -> None:
    terms = {term for _kind, term in terms_of({"reference": reference})}
    number = "".join(filter(str.isdecimal, reference))
    together = "".join(filter(str.isalnum, reference))
    numbers_alone = (number, f"#{number}", number.lstrip("0"))
    for typed in (reference.lower(), reference.upper(), together, *numbers_alone):
        assert any(all(word.whole & terms for word in reading) for reading in of(typed))


@given(TEXTS)
@settings(max_examples=examples(100))
def test_any_text_can_be_read(text: str) -> None:
    for reading in of(text):
        assert reading
        assert all(word.whole and word.starts >= word.whole for word in reading)
    assert bool(of(text)) == bool(words(text))


def test_a_random_reference_has_no_numbers() -> None:
    reference = "550e8400-e29b-41d4-a716-446655440000"
    assert terms_of({"reference": reference}) == {(1, reference)}


def of(text: str) -> list[tuple[Word, ...]]:
    return [reading for ways in readings(text) for reading in ways]
