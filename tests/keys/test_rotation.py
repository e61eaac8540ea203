"""Rotating the encryption keys: every card is sealed anew, whatever happens meanwhile."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.recording import record_answers
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card
from giftcards.privacy.rotation import RotationTally, count_left, rotate, verify
from giftcards.statuses import Status
from tests.builders import CARDS, claim, make_guide_order, settled
from tests.conftest import Call
from tests.stage import fresh, use_keys

pytestmark = pytest.mark.django_db

NEW = Fernet.generate_key().decode()


@pytest.fixture
def old(settings: Any) -> str:
    """Seal three cards, put a new key in front, and return the old key."""
    key: str = settings.GIFTCARDS["ENCRYPTION_KEYS"][0]
    store_cards([Arrival(make_guide_order(Status.PARTIALLY_FILLED), CARDS[:3])])
    use_keys(settings, NEW, key)
    return key


def ignore(_tally: RotationTally) -> None:
    pass


def codes() -> list[str]:
    return [card.value for card in Card.objects.select_related("order").order_by("position")]


def test_after_a_rotation_every_card_opens_and_is_found_with_the_new_key_alone(
    settings: Any, old: str
) -> None:
    assert count_left() == 3
    assert rotate(per_second=1e6, on_batch=ignore) == RotationTally(done=3)
    use_keys(settings, NEW)
    assert codes() == [card.value for card in CARDS[:3]]
    assert verify(on_batch=ignore) == RotationTally(done=3)
    found = [Card.objects.with_code(card.value).count() for card in CARDS[:3]]
    found += [Card.objects.with_code(card.serial).count() for card in CARDS[:3]]
    assert found == [1] * 6
    assert Card.objects.with_tail(CARDS[0].value[-4:]).count() == 1
    assert count_left() == 0


def test_a_repeated_answer_adds_no_card_after_a_rotation(settings: Any, old: str) -> None:
    rotate(per_second=1e6, on_batch=ignore)
    use_keys(settings, NEW)
    order = Card.objects.first().order  # type: ignore[union-attr]
    assert store_cards([Arrival(order, CARDS[:3])]).cards[order.pk] == 3


def test_a_card_that_no_key_opens_is_left_as_it_is_and_named(settings: Any, old: str) -> None:
    Card.objects.filter(position=2).update(sealed="gAAAA-damaged")
    before = Card.objects.values().get(position=2)
    done = rotate(per_second=1e6, on_batch=ignore)
    assert (done.done, done.failed) == (2, 1)
    assert done.troubles[0].startswith("Card 2 of order ")
    assert "gAAAA" not in done.troubles[0]
    assert Card.objects.values().get(position=2) == before


@pytest.mark.usefixtures("settings", "old")
def test_a_rotation_that_is_stopped_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("giftcards.privacy.rotation._BATCH", 2)

    def stop(_tally: RotationTally) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rotate(per_second=1e6, on_batch=stop)
    assert count_left() == 1
    assert rotate(per_second=1e6, on_batch=ignore) == RotationTally(done=1)


def test_a_card_that_a_worker_with_old_settings_seals_meanwhile_is_sealed_anew_as_well(
    settings: Any, old: str
) -> None:
    order = Card.objects.first().order  # type: ignore[union-attr]

    def deliver_once(tally: RotationTally) -> None:
        if order.cards.count() == 3:
            use_keys(settings, old, NEW)
            store_cards([Arrival(order, CARDS[:4])])
            use_keys(settings, NEW, old)

    assert rotate(per_second=1e6, on_batch=deliver_once) == RotationTally(done=4)
    use_keys(settings, NEW)
    assert codes() == [card.value for card in CARDS[:4]]


def test_a_worker_that_lacks_the_new_key_records_no_card_twice(settings: Any, old: str) -> None:
    order = make_guide_order(Status.HANDLING)
    store_cards([Arrival(order, CARDS[:2])])
    rotate(per_second=1e6, on_batch=ignore)
    answer = settled("FULFILLED", CARDS)
    use_keys(settings, old)
    [held] = claim(order)
    record_answers([(held, answer)], now=timezone.now())
    assert (fresh(order).status, order.cards.count()) == (Status.HANDLING, 2)
    use_keys(settings, NEW, old)
    [held] = claim(order)
    record_answers([(held, answer)], now=timezone.now())
    order.refresh_from_db()
    stored = [card.value for card in order.cards.order_by("position")]
    assert (order.status, stored) == (Status.FULFILLED, [card.value for card in CARDS])


def test_a_card_that_is_destroyed_during_the_proof_is_not_missed(old: str) -> None:
    rotate(per_second=1e6, on_batch=ignore)
    others = iter([Card.objects.filter(position=2).destroy])

    def destroy_once(execute: Any, sql: str, *args: Any) -> Any:
        if " IN (" in sql:  # the cards, whose keys were read before
            next(others, int)()
        return execute(sql, *args)

    with connection.execute_wrapper(destroy_once):
        assert verify(on_batch=ignore) == RotationTally(done=2)


@pytest.mark.usefixtures("old")
def test_the_proof_counts_the_cards_that_would_be_lost_and_changes_nothing(call: Call) -> None:
    before = list(Card.objects.values())
    outcome = call("giftcards_rotate_keys", "--verify", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["failed"] == 3
    assert "3 cards would be lost without the other keys." in outcome.err
    assert list(Card.objects.values()) == before


def test_the_command_seals_and_then_proves(old: str, call: Call) -> None:
    outcome = call("giftcards_rotate_keys")
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 cards encrypted again with the first key." in outcome.out
    assert "3 cards decrypted with the first key." in call("giftcards_rotate_keys", "--verify").out
    assert "0 cards encrypted again" in call("giftcards_rotate_keys").out


def test_neither_command_nor_troubles_show_a_code_or_a_key(old: str, call: Call) -> None:
    Card.objects.filter(position=2).update(sealed="gAAAA-damaged")
    runs = [call("giftcards_rotate_keys", *args) for args in ((), ("--verify",), ("--json",))]
    said = "".join(run.out + run.err for run in runs)
    for secret in [NEW, old, *(text for card in CARDS for text in (card.value, card.serial))]:
        assert secret not in said


@pytest.mark.parametrize("speed", ["0", "-1", "many"])
def test_a_speed_that_is_none_is_refused(old: str, call: Call, speed: str) -> None:
    outcome = call("giftcards_rotate_keys", "--per-second", speed)
    assert outcome.code != 0
    assert count_left() == 3


def test_a_serial_that_arrives_later_is_sealed_under_the_new_key(settings: Any) -> None:
    key: str = settings.GIFTCARDS["ENCRYPTION_KEYS"][0]
    order = make_guide_order(Status.PARTIALLY_FILLED)
    bare = CardSecret(CARDS[0].value, "")
    store_cards([Arrival(order, [bare])])
    use_keys(settings, NEW, key)
    rotate(per_second=1e6, on_batch=ignore)
    store_cards([Arrival(order, CARDS[:1])])
    card = Card.objects.select_related("order").get()
    expected = (CARDS[0].serial, conf.keyring().key_fingerprints[0])
    assert (card.serial, card.key_fingerprint) == expected
