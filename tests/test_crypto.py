"""Sealing, opening, and the fingerprints by which a card is found without opening it."""

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

from giftcards.cards import CardSecret
from giftcards.crypto import Keyring, generate_key, key_fingerprint
from giftcards.exceptions import DecryptionError

KEY = "bfUQrCyjMRx0Y1lWPZqBlIfCtqFXVC_E5a2gzCTh9vM="
OLD = "x1G3v0Zr0Qp2Xf0mJZ8m0Q3mVd6oX9b1pQ4sJt7uYwE="
SECRET = CardSecret("AAAA-AAAA-AAAA-AAAA", "111111111")
ORDER = "order-1"

DOES_NOT_OPEN = (
    "This card cannot be opened: none of GIFTCARDS['ENCRYPTION_KEYS'] fits,"
    " or the stored text is damaged."
)
OTHER_ORDER = "This card cannot be opened: its stored text belongs to another order."

# Everything a str can hold: emoji, NUL, halves of surrogate pairs.
any_text = st.text(st.characters(exclude_categories=()))


@pytest.fixture
def keyring() -> Keyring:
    return Keyring([KEY])


def failure_of(keyring: Keyring, token: Any, reference: str = ORDER) -> DecryptionError:
    with pytest.raises(DecryptionError) as caught:
        keyring.open(token, reference=reference)
    return caught.value


class TestKeys:
    def test_a_generated_key_seals_and_opens(self) -> None:
        keyring = Keyring([generate_key()])
        assert keyring.open(keyring.seal(SECRET, reference=ORDER), reference=ORDER) == SECRET

    def test_no_key_is_generated_twice(self) -> None:
        assert generate_key() != generate_key()

    def test_keys_come_from_the_settings(self, settings: Any) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [OLD]}
        token = Keyring.from_settings().seal(SECRET, reference=ORDER)
        assert Keyring([OLD]).open(token, reference=ORDER) == SECRET


class TestSealing:
    @given(any_text, any_text, any_text)
    def test_opening_gives_back_what_was_sealed(
        self, value: str, serial: str, reference: str
    ) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(CardSecret(value, serial), reference=reference)
        assert keyring.open(token, reference=reference) == CardSecret(value, serial)
        assert token.isascii()
        assert token.isprintable()

    def test_the_same_card_is_never_sealed_into_the_same_text(self, keyring: Keyring) -> None:
        tokens = {keyring.seal(SECRET, reference=ORDER) for _ in range(3)}
        assert len(tokens) == 3

    @given(st.sampled_from([",", "\\", '"', '", "order": "order-2', "\0"]), any_text)
    def test_no_code_can_pass_for_another_orders(self, quote: str, rest: str) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(CardSecret(quote + rest, rest + quote), reference=ORDER)
        assert str(failure_of(keyring, token, "order-2")) == OTHER_ORDER


class TestNotOpening:
    def test_another_key(self, keyring: Keyring) -> None:
        token = Keyring([OLD]).seal(SECRET, reference=ORDER)
        assert str(failure_of(keyring, token)) == DOES_NOT_OPEN

    def test_a_token_of_another_order(self, keyring: Keyring) -> None:
        token = keyring.seal(SECRET, reference="order-2")
        assert str(failure_of(keyring, token)) == OTHER_ORDER

    @pytest.mark.parametrize("reference", ["", "ORDER-1", "order-1 ", "order-11"])
    def test_a_reference_that_is_nearly_the_same(self, keyring: Keyring, reference: str) -> None:
        token = keyring.seal(SECRET, reference=ORDER)
        assert str(failure_of(keyring, token, reference)) == OTHER_ORDER

    @given(position=st.integers(min_value=0), replacement=st.sampled_from("Aa0_-=+!\0é\ud800"))
    def test_a_damaged_character(self, position: int, replacement: str) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(SECRET, reference=ORDER)
        position %= len(token)
        damaged = token[:position] + replacement + token[position + 1 :]
        # The bits of the last characters that base64 has to spare change nothing.
        if urlsafe_b64decode(token) != _decoded(damaged):
            assert str(failure_of(keyring, damaged)) == DOES_NOT_OPEN

    @given(st.integers(min_value=0, max_value=100))
    def test_a_token_that_was_cut_off(self, length: int) -> None:
        keyring = Keyring([KEY])
        token = keyring.seal(SECRET, reference=ORDER)
        assert str(failure_of(keyring, token[:length])) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        "token",
        ["", "AAAA-AAAA-AAAA-AAAA", "é", "٣", "\ud800", None, memoryview(b"x"), 7, b"", ["x"]],
    )
    def test_what_is_no_token(self, keyring: Keyring, token: object) -> None:
        assert str(failure_of(keyring, token)) == DOES_NOT_OPEN

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
            b'{"value": "A", "serial": "1"}',
            b'{"order": "order-1", "value": "A"}',
            b'{"order": "order-1", "serial": "1"}',
        ],
    )
    def test_a_token_of_our_key_that_holds_no_card(self, keyring: Keyring, content: bytes) -> None:
        assert str(failure_of(keyring, Fernet(KEY).encrypt(content).decode())) == DOES_NOT_OPEN

    def test_the_error_has_no_cause_that_could_hold_a_code(self, keyring: Keyring) -> None:
        error = failure_of(keyring, Fernet(KEY).encrypt(b"AAAA-AAAA").decode())
        assert error.__cause__ is None
        assert error.__context__ is None


def _decoded(token: str) -> bytes | None:
    try:
        return urlsafe_b64decode(token)
    except ValueError:
        return None


class TestRotation:
    def test_the_first_key_seals(self) -> None:
        token = Keyring([KEY, OLD]).seal(SECRET, reference=ORDER)
        assert Keyring([KEY]).open(token, reference=ORDER) == SECRET
        assert str(failure_of(Keyring([OLD]), token)) == DOES_NOT_OPEN

    @pytest.mark.parametrize(
        ("sealing", "opening"),
        [
            ([OLD], [KEY, OLD]),
            # A new key that is rolled out in two steps: first everybody can open it ...
            ([OLD, KEY], [OLD]),
            ([OLD, KEY], [KEY, OLD]),
            # ... and then the first ones begin to seal with it.
            ([KEY, OLD], [OLD, KEY]),
        ],
    )
    def test_every_key_opens(self, sealing: list[str], opening: list[str]) -> None:
        token = Keyring(sealing).seal(SECRET, reference=ORDER)
        assert Keyring(opening).open(token, reference=ORDER) == SECRET

    def test_fingerprints_are_given_under_every_key_the_sealing_one_first(self) -> None:
        both, new, old = Keyring([KEY, OLD]), Keyring([KEY]), Keyring([OLD])
        assert both.identities(SECRET) == new.identities(SECRET) + old.identities(SECRET)
        for name in ("value_fingerprints", "serial_fingerprints"):
            in_both, in_new, in_old = (getattr(ring, name)("A1") for ring in (both, new, old))
            assert in_both == in_new + in_old
            assert in_new != in_old


def hkdf(key: str) -> bytes:
    """RFC 5869 for one block, by hand: no salt, the label of the fingerprints."""
    pseudorandom = hmac.new(bytes(32), urlsafe_b64decode(key), hashlib.sha256).digest()
    return hmac.new(pseudorandom, b"giftcards fingerprints v1\1", hashlib.sha256).digest()


class TestFingerprints:
    """They are stored, so a change of how they are made would make every card unfindable."""

    @pytest.mark.parametrize(
        ("made", "message"),
        [
            (
                Keyring([KEY]).identities(SECRET),
                'card\0["AAAA-AAAA-AAAA-AAAA", "111111111"]',
            ),
            (Keyring([KEY]).value_fingerprints(SECRET.value), "value\0aaaaaaaaaaaaaaaa"),
            (Keyring([KEY]).serial_fingerprints(SECRET.serial), "serial\000111111111"),
        ],
        ids=["identity", "value", "serial"],
    )
    def test_they_are_hmacs_with_a_key_of_their_own(self, made: list[str], message: str) -> None:
        assert made == [hmac.new(hkdf(KEY), message.encode(), hashlib.sha256).hexdigest()]

    def test_a_value_is_not_a_serial(self, keyring: Keyring) -> None:
        assert keyring.value_fingerprints("A1") != keyring.serial_fingerprints("A1")

    @pytest.mark.parametrize(
        "typed",
        [
            "aaaa-bbbb-1234",
            "AAAABBBB1234",
            " AAAA BBBB 1234\n",
            "AAAA\u00a0BBBB\u20131234",
            "aAaA.bBbB.1234",
            "\u200fAAAA-BBBB-1234\u200e",
        ],
    )
    def test_case_spaces_and_dashes_do_not_matter(self, keyring: Keyring, typed: str) -> None:
        stored = keyring.value_fingerprints("AAAA-BBBB-1234")
        assert keyring.value_fingerprints(typed) == stored

    @pytest.mark.parametrize("typed", ["AAAA-BBBB-123", "AAAA-BBBB-12345", "AAAA-BBBB-1Z34", ""])
    def test_another_code_is_another_code(self, keyring: Keyring, typed: str) -> None:
        stored = keyring.value_fingerprints("AAAA-BBBB-1234")
        assert keyring.value_fingerprints(typed) != stored

    def test_codes_of_signs_alone_differ(self, keyring: Keyring) -> None:
        codes = ["", "-", "--", "🎁", "🎁🎁", "\ud800"]
        assert len({keyring.value_fingerprints(code)[0] for code in codes}) == len(codes)

    @given(any_text, any_text, any_text, any_text)
    def test_an_identity_is_of_exactly_one_card(
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
    def test_cards_that_look_alike_are_two(
        self, keyring: Keyring, one: CardSecret, other: CardSecret
    ) -> None:
        assert keyring.identities(one) != keyring.identities(other)

    @given(any_text)
    def test_any_text_can_be_searched_for(self, text: str) -> None:
        keyring = Keyring([KEY])
        for found in (keyring.value_fingerprints(text), keyring.serial_fingerprints(text)):
            assert len(found) == 1
            assert len(found[0]) == 64


class TestKeyFingerprint:
    def test_it_changes_with_the_api_key_and_tells_nothing_of_it(self) -> None:
        found = key_fingerprint("CANARY-KEY-1")
        assert found == key_fingerprint("CANARY-KEY-1")
        assert found != key_fingerprint("CANARY-KEY-2")
        message = b"api key\0CANARY-KEY-1"
        assert found == hmac.new(hkdf(KEY), message, hashlib.sha256).hexdigest()[:16]


def test_what_is_inside_a_token(keyring: Keyring) -> None:
    token = keyring.seal(SECRET, reference=ORDER)
    assert json.loads(Fernet(KEY).decrypt(token)) == {
        "order": "order-1",
        "value": "AAAA-AAAA-AAAA-AAAA",
        "serial": "111111111",
    }
