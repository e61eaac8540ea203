"""Sealing and opening of cards, and the fingerprints that find a card without opening it."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from giftcards.conf import conf
from giftcards.exceptions import DecryptionError
from giftcards.keys.keyring import Keyring, Place, Sealed, generate_key, key_fingerprint
from giftcards.keys.secrecy import CardSecret
from giftcards.models.provider import configured_key

pytest_plugins = ["tests.stage_fixtures"]

KEY = "bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM="
OLD = "x1G3v0Zr0Qp2Xf0mJZ8m0Q3mVd6oX9b1pQ4sJt7uYwE="
SECRET = CardSecret("AAAA-AAAA-AAAA-AAAA", "111111111")
PLACE = Place(order=7, reference="order-1", card=2)

DOES_NOT_OPEN = (
    "This card cannot be decrypted: none of GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it,"
    " or the stored text is damaged."
)
OTHER_ORDER = "This card cannot be decrypted: its stored text belongs to another order."
OTHER_CARD = "This card cannot be decrypted: its stored text belongs to another card of the order."
OTHER_FINGERPRINTS = (
    "This card cannot be decrypted: the fingerprints in its row belong to another card."
)

# What is inside a token.
CONTENT = {
    "format": 1,
    "order": 7,
    "reference": "order-1",
    "card": 2,
    "value": "AAAA-AAAA-AAAA-AAAA",
    "serial": "111111111",
}

# Everything a str can hold: emoji, NUL, halves of surrogate pairs.
any_text = st.text(st.characters(exclude_categories=()))


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([KEY])


def failure_of(keyring: Keyring, row: Sealed, place: Place = PLACE) -> DecryptionError:
    with pytest.raises(DecryptionError) as caught:
        keyring.open(row, place=place)
    return caught.value


def row_of(token: Any) -> Sealed:
    """Return a row whose token was replaced."""
    return Keyring([KEY]).seal(SECRET, place=PLACE)._replace(sealed=token)


class TestKeys:
    def test_a_generated_key_seals_and_opens(self) -> None:
        keyring = Keyring([generate_key()])
        assert keyring.open(keyring.seal(SECRET, place=PLACE), place=PLACE) == SECRET

    def test_each_generated_key_is_different(self) -> None:
        assert generate_key() != generate_key()

    def test_the_keyring_takes_its_keys_from_the_settings(self, settings: Any) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [OLD]}
        row = conf.keyring().seal(SECRET, place=PLACE)
        assert Keyring([OLD]).open(row, place=PLACE) == SECRET


class TestSealing:
    @given(any_text, any_text, any_text)
    def test_opening_gives_back_what_was_sealed(
        self, value: str, serial: str, reference: str
    ) -> None:
        keyring, place = Keyring([KEY]), PLACE._replace(reference=reference)
        row = keyring.seal(CardSecret(value, serial), place=place)
        assert keyring.open(row, place=place) == CardSecret(value, serial)
        assert row.sealed.isascii()
        assert row.sealed.isprintable()

    def test_the_same_card_is_never_sealed_into_the_same_text(self, keyring: Keyring) -> None:
        rows = {keyring.seal(SECRET, place=PLACE) for _ in range(3)}
        assert len({row.sealed for row in rows}) == 3
        assert len({row[1:] for row in rows}) == 1

    @given(st.sampled_from([",", "\\", '"', '", "reference": "order-2', "\0"]), any_text)
    def test_no_code_can_make_a_token_pass_for_that_of_another_order(
        self, quote: str, rest: str
    ) -> None:
        keyring = Keyring([KEY])
        row = keyring.seal(CardSecret(quote + rest, rest + quote), place=PLACE)
        other = PLACE._replace(reference="order-2")
        assert str(failure_of(keyring, row, other)) == OTHER_ORDER


class TestNotOpening:
    def test_a_token_of_another_key_does_not_open(self, keyring: Keyring) -> None:
        row = Keyring([OLD]).seal(SECRET, place=PLACE)
        assert str(failure_of(keyring, row)) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            (PLACE._replace(order=8), OTHER_ORDER),
            (PLACE._replace(order=8, reference="order-2"), OTHER_ORDER),
            *(
                (PLACE._replace(reference=reference), OTHER_ORDER)
                for reference in ("", "ORDER-1", "order-1 ", "order-11")
            ),
            (PLACE._replace(card=1), OTHER_CARD),
        ],
        ids=str,
    )
    def test_a_token_that_was_made_for_another_place_does_not_open(
        self, keyring: Keyring, place: Place, message: str
    ) -> None:
        row = keyring.seal(SECRET, place=PLACE)
        assert str(failure_of(keyring, row, place)) == message

    @pytest.mark.parametrize(
        "name", ["identity", "value_fingerprint", "serial_fingerprint", "tail_fingerprint"]
    )
    @pytest.mark.parametrize("other", [CardSecret("BBBB", "222"), CardSecret("BBBB-CCCC", "")])
    def test_a_row_with_a_fingerprint_of_another_card_does_not_open(
        self, keyring: Keyring, name: str, other: CardSecret
    ) -> None:
        row, another = (keyring.seal(secret, place=PLACE) for secret in (SECRET, other))
        renamed = row._replace(**{name: getattr(another, name)})
        assert str(failure_of(keyring, renamed)) == OTHER_FINGERPRINTS

    @given(position=st.integers(min_value=0), replacement=st.sampled_from("Aa0_-=+!\0é\ud800"))
    def test_a_token_with_a_damaged_character_does_not_open(
        self, position: int, replacement: str
    ) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(SECRET, place=PLACE).sealed
        position %= len(token)
        damaged = token[:position] + replacement + token[position + 1 :]
        # Base64 does not use some bits of the last characters, so changing them has no effect.
        if urlsafe_b64decode(token) != _decoded(damaged):
            assert str(failure_of(keyring, row_of(damaged))) == DOES_NOT_OPEN

    @given(st.integers(min_value=0, max_value=100))
    def test_a_token_that_was_cut_off_does_not_open(self, length: int) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(SECRET, place=PLACE).sealed
        assert str(failure_of(keyring, row_of(token[:length]))) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        "token",
        ["", "AAAA-AAAA-AAAA-AAAA", "é", "٣", "\ud800", None, memoryview(b"x"), 7, b"", ["x"]],
    )
    def test_a_text_that_is_no_token_does_not_open(self, keyring: Keyring, token: object) -> None:
        assert str(failure_of(keyring, row_of(token))) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        "content",
        [
            b"AAAA-AAAA-AAAA-AAAA",
            b"",
            b"\xff\xfe\xfd",
            b"null",
            b"[]",
            b'"order value serial"',
            b"{}",
            *(
                json.dumps({**CONTENT, name: value}).encode()
                for name in sorted(CONTENT.keys() - {"format"})
                for value in (None, 1.5, True)
            ),
        ],
    )
    def test_a_token_of_our_key_that_holds_no_card_does_not_open(
        self, keyring: Keyring, content: bytes
    ) -> None:
        row = row_of(Fernet(KEY).encrypt(content).decode())
        assert str(failure_of(keyring, row)) == DOES_NOT_OPEN

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_a_token_of_another_version_does_not_open(
        self, keyring: Keyring, version: object
    ) -> None:
        content = json.dumps({**CONTENT, "format": version}).encode()
        assert str(failure_of(keyring, row_of(Fernet(KEY).encrypt(content).decode()))) == (
            "This card cannot be decrypted: it was encrypted by another version of this app."
        )

    def test_the_error_about_a_token_has_no_cause_that_could_hold_a_code(
        self, keyring: Keyring
    ) -> None:
        error = failure_of(keyring, row_of(Fernet(KEY).encrypt(b"AAAA-AAAA").decode()))
        assert error.__cause__ is None
        assert error.__context__ is None


def _decoded(token: str) -> bytes | None:
    try:
        return urlsafe_b64decode(token)
    except ValueError:
        return None


class TestRotation:
    def test_the_first_encryption_key_seals(self) -> None:
        row = Keyring([KEY, OLD]).seal(SECRET, place=PLACE)
        assert Keyring([KEY]).open(row, place=PLACE) == SECRET
        assert str(failure_of(Keyring([OLD]), row)) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        ("sealing", "opening"),
        [
            ([OLD], [KEY, OLD]),
            # A new key is rolled out in two steps: first, every process can open with it ...
            ([OLD, KEY], [OLD]),
            ([OLD, KEY], [KEY, OLD]),
            # ... and then the first processes begin to seal with it.
            ([KEY, OLD], [OLD, KEY]),
        ],
    )
    def test_every_encryption_key_opens(self, sealing: list[str], opening: list[str]) -> None:
        row = Keyring(sealing).seal(SECRET, place=PLACE)
        assert Keyring(opening).open(row, place=PLACE) == SECRET

    def test_fingerprints_are_given_under_every_key_the_sealing_one_first(self) -> None:
        both, new, old = Keyring([KEY, OLD]), Keyring([KEY]), Keyring([OLD])
        assert both.identities(SECRET) == new.identities(SECRET) + old.identities(SECRET)
        for name in ("value_fingerprints", "serial_fingerprints", "tail_fingerprints"):
            in_both, in_new, in_old = (getattr(ring, name)("A1B2") for ring in (both, new, old))
            assert in_both == in_new + in_old
            assert in_new != in_old


def hkdf(key: str) -> bytes:
    """Return the fingerprint key: RFC 5869 by hand, for one block and without a salt."""
    pseudorandom = hmac.new(bytes(32), urlsafe_b64decode(key), hashlib.sha256).digest()
    return hmac.new(pseudorandom, b"giftcards fingerprints v1\1", hashlib.sha256).digest()


class TestFingerprints:
    """Fingerprints are stored, so a change in their computation would make all cards unfindable."""

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            (Keyring([KEY]).identities(SECRET), 'card\0["AAAA-AAAA-AAAA-AAAA", "111111111"]'),
            (Keyring([KEY]).value_fingerprints(SECRET.value), "value\0aaaaaaaaaaaaaaaa"),
            (Keyring([KEY]).serial_fingerprints(SECRET.serial), "serial\000111111111"),
            (Keyring([KEY]).tail_fingerprints("a-Aa a"), "tail\0aaaa"),
        ],
        ids=["identity", "value", "serial", "tail"],
    )
    def test_fingerprints_are_hmacs_with_a_key_derived_for_them(
        self, made: list[str], message: str
    ) -> None:
        assert made == [hmac.new(hkdf(KEY), message.encode(), hashlib.sha256).hexdigest()]

    def test_a_value_and_a_serial_of_one_text_have_different_fingerprints(
        self, keyring: Keyring
    ) -> None:
        assert keyring.value_fingerprints("A1") != keyring.serial_fingerprints("A1")

    @pytest.mark.parametrize(
        ("spellings", "is_same"),
        [
            (
                [
                    "aaaa-bbbb-1234", "AAAABBBB1234", " AAAA BBBB 1234\n",
                    "AAAA\u00a0BBBB\u20131234", "aAaA.bBbB.1234", "\u200fAAAA-BBBB-1234\u200e",
                    "AAAA-BBBB-١٢٣٤", "AAAA-BBBB-۱۲۳۴", "ＡＡＡＡ－ＢＢＢＢ－１２３４",
                ],
                True,
            ),
            (["AAAA-BBBB-123", "AAAA-BBBB-12345", "AAAA-BBBB-1Z34", ""], False),
        ],
    )  # fmt: skip
    def test_only_case_spaces_dashes_and_the_script_of_digits_do_not_change_the_fingerprint(
        self, keyring: Keyring, spellings: list[str], is_same: bool
    ) -> None:
        stored = keyring.value_fingerprints("AAAA-BBBB-1234")
        for typed in spellings:
            assert (keyring.value_fingerprints(typed) == stored) is is_same, typed

    def test_codes_of_signs_alone_have_different_fingerprints(self, keyring: Keyring) -> None:
        codes = ["", "-", "--", "🎁", "🎁🎁", "\ud800"]
        assert len({keyring.value_fingerprints(code)[0] for code in codes}) == len(codes)

    @given(any_text, any_text, any_text, any_text)
    def test_an_identity_belongs_to_exactly_one_card(
        self, value: str, serial: str, other_value: str, other_serial: str
    ) -> None:
        keyring = Keyring([KEY])
        one, other = CardSecret(value, serial), CardSecret(other_value, other_serial)
        assert (keyring.identities(one) == keyring.identities(other)) is (one == other)
        assert keyring.identities(one) == keyring.identities(CardSecret(value, serial))

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (CardSecret("ab", ""), CardSecret("AB", "")),
            (CardSecret("A-B", ""), CardSecret("AB", "")),
            (CardSecret("A", "B"), CardSecret("B", "A")),
            (CardSecret("A\0B", "C"), CardSecret("A", "B\0C")),
            (CardSecret('A", "B', "C"), CardSecret("A", 'B", "C')),
        ],
    )
    def test_cards_that_look_alike_have_different_identities(
        self, keyring: Keyring, one: CardSecret, other: CardSecret
    ) -> None:
        assert keyring.identities(one) != keyring.identities(other)

    @pytest.mark.parametrize(
        ("code", "tail"),
        [
            ("1234-5678", "5678"),
            ("AAAA-BBBB-12-34", "1234"),
            ("AAAA-BBBB-ab c d", "ABCD"),
            ("1111 2222 3333 ٤٤٤٤", "4444"),
            ("AAAA-BBBB-4444", "٤٤٤٤"),
        ],
    )
    def test_the_last_four_characters_of_a_code_have_a_fingerprint(
        self, keyring: Keyring, code: str, tail: str
    ) -> None:
        row = keyring.seal(CardSecret(code, ""), place=PLACE)
        assert keyring.tail_fingerprints(tail) == [row.tail_fingerprint]
        assert row.tail_fingerprint not in {
            *keyring.value_fingerprints(tail),
            *keyring.serial_fingerprints(tail),
        }

    @pytest.mark.parametrize("code", ["1234567", "1234", "", "12-34-56-7"])
    def test_four_characters_of_a_short_code_have_no_fingerprint(
        self, keyring: Keyring, code: str
    ) -> None:
        row = keyring.seal(CardSecret(code, ""), place=PLACE)
        assert row.tail_fingerprint == ""
        assert keyring.open(row, place=PLACE) == CardSecret(code, "")

    @pytest.mark.parametrize("typed", ["", "123", "12345", "----5", "1-2-3"])
    def test_a_card_is_looked_for_by_exactly_four_characters(
        self, keyring: Keyring, typed: str
    ) -> None:
        assert keyring.tail_fingerprints(typed) == []

    def test_a_fingerprint_of_last_characters_that_was_removed_keeps_the_card_shut(
        self, keyring: Keyring
    ) -> None:
        row = keyring.seal(SECRET, place=PLACE)._replace(tail_fingerprint="")
        assert str(failure_of(keyring, row)) == OTHER_FINGERPRINTS

    @given(any_text)
    def test_any_text_has_a_fingerprint_to_search_by(self, text: str) -> None:
        keyring = Keyring([KEY])
        for found in (keyring.value_fingerprints(text), keyring.serial_fingerprints(text)):
            assert len(found) == 1
            assert len(found[0]) == 64


class TestKeyFingerprint:
    def test_the_key_fingerprint_changes_with_the_api_key_and_does_not_reveal_it(self) -> None:
        found = key_fingerprint("CANARY-KEY-1")
        assert found == key_fingerprint("CANARY-KEY-1")
        assert found != key_fingerprint("CANARY-KEY-2")
        key, message = b"giftcards api key v1", b"CANARY-KEY-1"
        assert found == hmac.new(key, message, hashlib.sha256).hexdigest()[:32]

    def test_the_key_fingerprint_does_not_depend_on_the_encryption_keys(
        self, set_conf: Any
    ) -> None:
        old, new = generate_key(), generate_key()
        found = set()
        for keys in ([old], [old, new], [new, old], [new], []):
            set_conf(ENCRYPTION_KEYS=keys)
            found.add(configured_key())
        assert found == {key_fingerprint(conf.api_key)}

    def test_there_is_no_key_fingerprint_without_an_api_key(self, set_conf: Any) -> None:
        set_conf(API_KEY="")
        assert configured_key() is None


def test_a_token_contains_the_card_and_its_place(keyring: Keyring) -> None:
    row = keyring.seal(SECRET, place=PLACE)
    assert json.loads(Fernet(KEY).decrypt(row.sealed)) == CONTENT
    assert row.identity == keyring.identities(SECRET)[0]
    assert row.value_fingerprint == keyring.value_fingerprints(SECRET.value)[0]
    assert row.serial_fingerprint == keyring.serial_fingerprints(SECRET.serial)[0]
    assert row.tail_fingerprint == keyring.tail_fingerprints("AAAA")[0]


def test_a_missing_serial_has_no_fingerprint(keyring: Keyring) -> None:
    row = keyring.seal(CardSecret("A", ""), place=PLACE)
    assert row.serial_fingerprint == ""
