"""Retention: only the codes of old orders are destroyed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from giftcards.books.reports import report
from giftcards.engine.clock import Clock
from giftcards.engine.recording import record_changes
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import CodeDestroyed
from giftcards.models import Card, Order, ProviderState, StatusChange
from giftcards.privacy.retention import Purge, purge, purge_if_due
from giftcards.privacy.rotation import RotationTally, count_left, rotate, verify
from giftcards.rules.problems import Problem
from giftcards.settlement import record_refund
from giftcards.statuses import Status
from tests.builders import CARDS, make_guide_order, settled
from tests.conftest import Call
from tests.stage import messages
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

PERSON = "zoe-the-customer@example.com"


def make_old(days: int = 400, *, cards: int = 3, **values: Any) -> Order:
    finalized_at = timezone.now() - timedelta(days=days)
    order = make_guide_order(Status.PARTIALLY_FILLED, finalized_at=finalized_at, **values)
    if cards:
        store_cards([Arrival(order, CARDS[:cards])])
    return order


def run(**options: Any) -> Purge:
    return purge(settled_before=timezone.now() - timedelta(days=365), **options)


def in_days(days: float) -> datetime:
    return timezone.now() + timedelta(days=days)


def is_destroyed(order: Order) -> bool:
    order.refresh_from_db()
    gone = {card.is_destroyed for card in order.cards.all()}
    assert gone == {order.codes_destroyed_at is not None}
    return gone == {True}


def test_the_codes_of_old_orders_are_destroyed_and_younger_ones_are_kept() -> None:
    old, young = make_old(), make_old(days=300)
    assert run() == Purge(orders=1, cards=3)
    assert (is_destroyed(old), is_destroyed(young)) == (True, False)
    card = old.cards.get(position=1)
    with pytest.raises(CodeDestroyed):
        _ = card.value
    assert run() == Purge()


def test_the_codes_of_a_gift_are_kept_until_it_was_delivered_as_long_ago_as_others() -> None:
    """A gift may be bought and settled up to a year before its delivery."""
    person = {"recipient_email": PERSON}
    ahead, young, old = (
        make_old(reference=f"gift {days}", deliver_at=in_days(days), **person)
        for days in (2, -300, -366)
    )
    assert run() == Purge(orders=1, cards=3)
    assert [is_destroyed(gift) for gift in (ahead, young, old)] == [False, False, True]


def test_nothing_of_a_destroyed_code_is_left_but_the_fingerprint_for_recognising_it() -> None:
    old = make_old()
    run()
    for card in old.cards.all():
        texts = (card.sealed, card.identity, card.serial_fingerprint, card.tail_fingerprint)
        assert texts == ("", "", "", "")
    for text in CARDS[0].value, CARDS[0].serial:
        assert not Card.objects.with_code(text).exists()
        assert Card.objects.newest_with_code(text, 20) == []
    # A later answer does not restore the codes.
    assert store_cards([Arrival(old, [*reversed(CARDS[:3])])]).cards[old.pk] == 3
    assert is_destroyed(old)
    # If a card with the same code is bought later, it is recognised as repeated.
    again = make_old(days=1, cards=1)
    assert [card.is_repeated for card in again.cards.with_repeats()] == [True]


def test_cards_that_come_late_are_kept_and_told_although_the_others_were_destroyed(
    call: Call,
) -> None:
    old = make_old()
    run()
    for _time in range(2):
        record_changes([(old, settled("FULFILLED", CARDS))], now=timezone.now())
    old.refresh_from_db()
    assert "late_cards" in {problem.code for problem in old.open_problems}
    late = old.cards.filter(position__gt=3).order_by("position")
    assert [card.value for card in late] == [secret.value for secret in CARDS[3:]]
    assert old.cards.readable().count() == 2
    status = call("giftcards_status", old.reference).out
    assert "  cards       5 stored, the codes of 3 destroyed\n" in status
    assert dict(run().left_alone) == {"problem": 1}
    Order.objects.update(needs_attention=False)
    assert run() == Purge(orders=1, cards=2)
    assert is_destroyed(old)


def test_codes_that_were_never_announced_are_left_alone() -> None:
    old = make_old()
    StatusChange.objects.create(
        order=old,
        from_status=Status.HANDLING,
        to_status=Status.PARTIALLY_FILLED,
        announce_at=None,
        announce_error="it was given up",
    )
    assert dict(run().left_alone) == {"unannounced": 1}
    StatusChange.objects.update(announced_at=timezone.now())
    assert run().orders == 1


@pytest.mark.parametrize(
    ("reason", "values"),
    [
        ("problem", {"problems": [Problem("surplus_cards", {"received": 3, "announced": 2})]}),
        ("owed", {"sale_price": Decimal(600)}),
        ("not_credited", {"is_credited": False}),
    ],
)
def test_what_is_not_settled_is_left_alone_and_counted(reason: str, values: Any) -> None:
    order = make_old(**values)
    done = run()
    assert (done.orders, dict(done.left_alone)) == (0, {reason: 1})
    order.refresh_from_db()
    assert order.codes_destroyed_at is None


def test_an_order_without_cards_is_looked_at_once_and_again_when_a_card_comes() -> None:
    order = make_old(cards=0)
    assert run(is_dry_run=True) == run() == Purge()
    with CaptureQueriesContext(connection) as queries:
        assert run() == Purge()
    assert len(queries) == 1
    order.refresh_from_db()
    store_cards([Arrival(order, CARDS[:2])])
    assert run() == Purge(orders=1, cards=2)
    assert is_destroyed(order)


def test_an_order_is_left_alone_until_its_refund_is_paid_and_the_books_stay_the_same() -> None:
    order = make_old(sale_price=Decimal(600))
    record_refund(order, amount=1000, reference="R1")
    assert dict(run().left_alone) == {"owed": 1}
    record_refund(order, amount=200, reference="R2")
    day = (timezone.now() - timedelta(days=400)).date()
    start, end = day - timedelta(days=2), day + timedelta(days=2)
    before = report(start, end)
    assert before.total.orders == 1
    assert run().orders == 1
    assert report(start, end) == before


def test_a_dry_run_counts_and_changes_nothing() -> None:
    order = make_old()
    make_old(is_credited=False)
    before = list(Card.objects.order_by("pk").values())
    done = run(is_dry_run=True)
    assert (done.orders, done.cards, dict(done.left_alone)) == (1, 3, {"not_credited": 1})
    assert list(Card.objects.order_by("pk").values()) == before
    assert not is_destroyed(order)


def test_a_purge_goes_through_orders_that_settled_at_the_same_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("giftcards.privacy.retention._BATCH", 2)
    moment = timezone.now() - timedelta(days=400)
    orders = [make_old(is_credited=None if number % 2 else False) for number in range(7)]
    Order.objects.update(finalized_at=moment)
    done = run()
    assert (done.orders, done.left_alone["not_credited"]) == (3, 4)
    assert [is_destroyed(order) for order in orders] == [False, True] * 3 + [False]


def test_a_purge_that_is_stopped_goes_on_with_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("giftcards.privacy.retention._BATCH", 1)
    for _number in range(2):
        make_old()
    answers = iter([True, False])
    done = run(should_continue=lambda: next(answers))
    assert (done.orders, done.is_whole) == (1, False)
    assert run() == Purge(orders=1, cards=3)


class TestBySchedule:
    def test_codes_are_destroyed_once_a_day_after_the_days_of_the_settings(
        self, settings: Any
    ) -> None:
        ProviderState.objects.current()
        old, young = make_old(days=91), make_old(days=89)
        # By default, codes are never destroyed.
        purge_if_due(lambda: True)
        assert not is_destroyed(old)
        settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": 90}
        # If a tick has no time left for the purge, the next tick does it.
        purge_if_due(lambda: False)
        assert not is_destroyed(old)
        purge_if_due(lambda: True)
        assert (is_destroyed(old), is_destroyed(young)) == (True, False)
        late = make_old(days=91)
        purge_if_due(lambda: True)
        assert not is_destroyed(late)
        yesterday = timezone.now() - timedelta(hours=25)
        ProviderState.objects.update(purged_at=yesterday)
        purge_if_due(lambda: True)
        assert is_destroyed(late)

    def test_orders_that_are_left_alone_do_not_keep_it_from_the_others(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": 90}
        ProviderState.objects.current()
        monkeypatch.setattr("giftcards.privacy.retention._BATCH", 2)
        for days in range(400, 390, -1):
            make_old(days=days, cards=0)
        old = make_old(days=91)
        for _tick in range(12):
            answers = iter([True])
            purge_if_due(lambda answers=answers: next(answers, False))
        assert is_destroyed(old)
        # The next search begins with the oldest order again.
        state = ProviderState.objects.get()
        assert (state.purge_place, state.purged_at is None) == (None, False)

    def test_a_clock_that_was_set_ahead_destroys_nothing(self, settings: Any, wall: Wall) -> None:
        settings.GIFTCARDS = {**settings.GIFTCARDS, "CODES_KEPT_DAYS": 365}
        Clock()
        young = make_old(days=1)
        wall.step(400 * 86_400)
        purge_if_due(lambda: True)
        assert not is_destroyed(young)


class TestRotation:
    def test_a_rotation_and_its_proof_pass_over_destroyed_codes(self, settings: Any) -> None:
        make_old()
        make_old(days=1)
        run()
        keys = [Fernet.generate_key().decode(), *settings.GIFTCARDS["ENCRYPTION_KEYS"]]
        settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": keys}
        assert count_left() == 3
        assert rotate(per_second=1e6, on_batch=lambda _tally: None) == RotationTally(done=3)
        assert verify(on_batch=lambda _tally: None) == RotationTally(done=3)
        assert Card.objects.all().try_keys() == {"newest": "", "oldest": ""}


class TestCommand:
    def test_it_says_what_it_destroys_and_what_it_leaves_alone(self, call: Call) -> None:
        make_old()
        make_old(is_credited=False)
        trial = call("giftcards_purge", "--settled-before", "365", "--dry-run")
        assert "3 codes of 1 order would be destroyed." in trial.out
        outcome = call("giftcards_purge", "--settled-before", "365")
        assert "3 codes of 1 order destroyed." in outcome.out
        assert "1 order with money that the provider has not credited back." in outcome.out
        assert outcome.code == 0

    def test_its_json_has_every_reason(self, call: Call) -> None:
        make_old()
        result = json.loads(call("giftcards_purge", "--settled-before", "365", "--json").out)
        core = ("problem", "owed", "not_credited", "unannounced")
        reasons = (*core, "untold")  # the last one is that of giftcards.delivery
        assert result == {"orders": 1, "cards": 3, "left_alone": dict.fromkeys(reasons, 0)}

    @pytest.mark.parametrize("days", ["0", "-1", "1.5", "36501", "٣٦٥", "all"])
    def test_days_that_are_none_are_refused(self, call: Call, days: str) -> None:
        order = make_old()
        assert call("giftcards_purge", "--settled-before", days).code != 0
        assert not is_destroyed(order)


if connection.vendor == "sqlite":

    class TestFiles:
        """Destroyed data does not remain in the files of SQLite."""

        pytestmark = pytest.mark.django_db(transaction=True)

        @pytest.fixture(params=["wal", "delete", "truncate"], autouse=True)
        def _database(
            self,
            request: pytest.FixtureRequest,
            shared_database: str,
            monkeypatch: pytest.MonkeyPatch,
        ) -> Iterator[None]:
            # Most builds of SQLite have this default, but those of Debian do not.
            settings = f"PRAGMA secure_delete = OFF; PRAGMA journal_mode = {request.param};"
            connection = connections["default"]
            monkeypatch.setitem(connection.settings_dict["OPTIONS"], "init_command", settings)
            connection.close()
            connection.ensure_connection()
            # Earlier tests have moved rows with the same fingerprints around in the file.
            connection.connection.execute("VACUUM")
            self.path = Path(shared_database.removeprefix("sqlite:///"))
            # This connection stands for a process that is always running, such as the web server.
            # Without it, the log would be deleted with the last connection.
            with contextlib.closing(sqlite3.connect(self.path)) as other:
                other.execute("SELECT count(*) FROM giftcards_card").fetchall()
                yield

        def held(self, texts: Iterable[str]) -> list[str]:
            """Return those of the texts that a file of the database contains."""
            files = self.path.parent.glob(f"{self.path.name}*")
            content = b"".join(path.read_bytes() for path in files)
            return [each for each in texts if each.encode()[-60:] in content]

        def vacuum(self) -> None:
            """Remove what SQLite may leave in the pages of an index, as the documentation says."""
            opened = connections["default"].connection
            opened.execute("VACUUM")
            opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()

        @pytest.fixture
        def sealed(self) -> list[str]:
            for _number in range(30):
                make_old(customer_email=PERSON, group=PERSON)
            found = list(Card.objects.values_list("sealed", flat=True))
            assert self.held(found) == found
            return found

        @pytest.fixture
        def indexed(self, sealed: list[str]) -> list[str]:
            found = list(Card.objects.values_list("tail_fingerprint", flat=True))
            assert self.held(found) == found
            return found

        def test_not_after_a_purge(self, sealed: list[str], indexed: list[str], call: Call) -> None:
            assert call("giftcards_purge", "--settled-before", "365").code == 0
            assert self.held(sealed) == []
            self.vacuum()
            assert self.held(indexed) == []

        def test_not_after_an_erasure(
            self, sealed: list[str], indexed: list[str], call: Call
        ) -> None:
            assert self.held([PERSON]) == [PERSON]
            assert call("giftcards_customer", PERSON, "--erase", "--yes").code == 0
            assert self.held(sealed) == []
            self.vacuum()
            assert self.held([*indexed, PERSON]) == []

        def test_not_after_a_rotation(
            self, sealed: list[str], indexed: list[str], settings: Any
        ) -> None:
            keys = [Fernet.generate_key().decode(), *settings.GIFTCARDS["ENCRYPTION_KEYS"]]
            settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": keys}
            assert rotate(per_second=1e6, on_batch=lambda _tally: None) == RotationTally(done=90)
            assert self.held(sealed) == []
            self.vacuum()
            assert self.held(indexed) == []

        def test_a_log_that_is_in_use_is_told_of(
            self, sealed: list[str], caplog: pytest.LogCaptureFixture
        ) -> None:
            [mode] = connections["default"].connection.execute("PRAGMA journal_mode").fetchone()
            with contextlib.closing(sqlite3.connect(self.path)) as reader:
                if mode == "wal":
                    # In the other modes, this reader would prevent the purge from writing.
                    reader.execute("BEGIN")
                    reader.execute("SELECT count(*) FROM giftcards_card").fetchall()
                assert run().cards == 90
            warned = any(
                "is still in SQLite's write-ahead log" in each for each in messages(caplog)
            )
            assert warned == (mode == "wal") == bool(self.held(sealed))
