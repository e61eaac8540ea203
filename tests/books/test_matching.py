"""Matching entries with orders, and checking whether promised refunds were credited."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from giftcards.books.models import LedgerEntry
from giftcards.models import ApiKey, Order, StatusChange
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from tests.books.wire import NOON, Books, at, matches, ordered, partly_delivered, read
from tests.builders import make_order, problems
from tests.stage import own_key, prove_key

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

DAY = NOON.date()
TIMES = ("created_at", "sent_at", "finalized_at")


def is_credited(*orders: Order) -> list[bool | None]:
    return [Order.objects.get(pk=order.pk).is_credited for order in orders]


def guess(order: Order, kind: str, amount: int, time: datetime) -> None:
    """Create an entry that was matched with the order by a guess."""
    LedgerEntry.objects.create(
        provider_id=f"{kind} of {order.reference}",
        type=kind,
        amount=amount,
        time=time,
        order=order,
        is_guess=True,
    )


class TestByName:
    def test_an_entry_that_names_an_order_belongs_to_it(self, books: Books) -> None:
        order = partly_delivered(
            reference="cart-1", provider_order_id="ab12", provider_alias="ab13"
        )
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        books.book("REFUND-ORDER", 980, at(9), name="r", objid="ab13")
        read()
        assert matches() == {"c": ("cart-1", False), "r": ("cart-1", False)}
        assert is_credited(order) == [True]

    def test_an_entry_of_somebody_elses_order_belongs_to_none(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        ordered(reference="cart-2", provider_order_id="ab14", sent_at=at(60))
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        books.book("ORDER", 2450, at(60), name="foreign", objid="ff00")
        read()
        assert matches() == {"c": ("cart-1", False), "foreign": (None, False)}

    def test_what_is_charged_twice_belongs_to_the_order_once(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        ordered(reference="cart-2", provider_order_id="ab14", sent_at=at(60))
        for name in ("first", "second"):
            books.book("ORDER", 2450, at(0), name=name, objid="ab12")
        books.book("ORDER", 2450, at(60), name="other", objid="ab14")
        read()
        found = matches()
        assert found.pop("other") == ("cart-2", False)
        assert sorted(found.values(), key=str) == [("cart-1", False), (None, False)]

    def test_a_charge_in_parts_belongs_to_the_order_up_to_its_price(self, books: Books) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        for number in range(6):
            books.book("ORDER", 490, at(number), name=f"c{number}", objid="ab12")
        books.book("ORDER", 2450, at(7), name="whole")
        read()
        assert matches()["whole"] == (None, False)
        assert [order for order, _guess in matches().values()].count("cart-1") == 5

    def test_an_order_that_is_found_later_gets_its_entry_in_the_next_run(
        self, books: Books
    ) -> None:
        books.book("ORDER", 2450, at(0), name="c", objid="ab12")
        read(DAY)
        assert matches() == {"c": (None, False)}
        ordered(reference="cart-1", provider_order_id="ab12")
        read()
        assert matches() == {"c": ("cart-1", False)}

    def test_a_name_takes_no_guess_from_another_order_nor_of_another_type(
        self, books: Books
    ) -> None:
        """The guesses are a month old, so the reading would not make them again."""
        long_ago = at(-30 * 86_400)
        named = ordered(reference="cart-1", provider_order_id="ab12", sent_at=long_ago)
        other = ordered(reference="cart-2", sent_at=long_ago)
        for order in (named, other):
            guess(order, "ORDER", -2450, long_ago)
        guess(other, "REFUND-ORDER", 980, long_ago)
        books.book("REFUND-ORDER", 980, at(0), name="r", objid="ab12")
        read()
        assert matches() == {
            "ORDER of cart-1": ("cart-1", True),
            "ORDER of cart-2": ("cart-2", True),
            "REFUND-ORDER of cart-2": ("cart-2", True),
            "r": ("cart-1", False),
        }

    def test_a_refund_with_a_name_is_judged_beside_one_that_is_guessed(self, books: Books) -> None:
        """Both orders settled before the days that are read."""
        before: dict[str, Any] = {"sent_at": at(-86_400), "finalized_at": at(-86_400)}
        orders = [
            partly_delivered(reference="cart-1", provider_order_id="ab12", **before),
            partly_delivered(reference="cart-2", **before),
        ]
        books.book("REFUND-ORDER", 980, at(0), name="named", objid="ab12")
        books.book("REFUND-ORDER", 980, at(0), name="guessed")
        read(DAY)
        assert matches() == {"named": ("cart-1", False), "guessed": ("cart-2", True)}
        assert is_credited(*orders) == [True, True]


class TestByAmount:
    def test_an_entry_without_a_name_is_guessed_from_amount_and_time(self, books: Books) -> None:
        order = partly_delivered(reference="cart-1")
        ordered(reference="cart-2", quantity=1, sent_at=at(2))
        ordered(reference="cart-3", quantity=2, sent_at=at(3600))
        books.book("ORDER", 2450, at(1), name="c")
        books.book("ORDER", 980, at(3601), name="later")
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        expected = {"c": ("cart-1", True), "later": ("cart-3", True), "r": ("cart-1", True)}
        assert matches() == expected
        assert is_credited(order) == [True]

    def test_a_price_at_placing_is_taken_where_none_is_known_better(self, books: Books) -> None:
        ordered(reference="cart-1", price_per_card=None, price_at_placing=490)
        books.book("ORDER", 2450, at(1), name="c")
        read()
        assert matches() == {"c": ("cart-1", True)}

    @pytest.mark.parametrize(("charges", "refunds"), [(2, 2), (1, 1), (3, 3)])
    def test_of_two_orders_of_the_same_amount_in_the_same_second_only_what_is_too_much_stays_open(
        self, books: Books, charges: int, refunds: int
    ) -> None:
        orders = [partly_delivered(reference=f"cart-{number}") for number in range(2)]
        for number in range(charges):
            books.book("ORDER", 2450, at(1), name=f"c{number}")
        for number in range(refunds):
            books.book("REFUND-ORDER", 980, at(9), name=f"r{number}")
        read()
        for kind, count in (("ORDER", charges), ("REFUND-ORDER", refunds)):
            entries = LedgerEntry.objects.filter(type=kind)
            assert entries.filter(is_guess=True).count() == min(count, 2)
            assert entries.filter(order=None).count() == max(count - 2, 0)
        # It is not known which of the refunds is missing.
        assert is_credited(*orders).count(False) == max(2 - refunds, 0)
        assert is_credited(*orders).count(True) == min(refunds, 2)

    def test_a_guess_gives_way_to_an_entry_that_names_the_order(self, books: Books) -> None:
        order = partly_delivered(reference="cart-1", provider_order_id="ab12")
        books.book("ORDER", 2450, at(1), name="guess")
        books.book("REFUND-ORDER", 980, at(9), name="refund guess")
        books.rows[-1]["_id"] = "refund-guess"
        read()
        assert matches() == {"guess": ("cart-1", True), "refund-guess": ("cart-1", True)}
        books.book("ORDER", 2450, at(2), name="named", objid="ab12")
        books.book("REFUND-ORDER", 980, at(9), name="refund-named", objid="ab12")
        read()
        assert matches() == {
            "guess": (None, False),
            "named": ("cart-1", False),
            "refund-guess": (None, False),
            "refund-named": ("cart-1", False),
        }
        assert is_credited(order) == [True]

    def test_a_guess_gives_way_to_a_better_one(self, books: Books) -> None:
        ordered(reference="cart-1")
        books.book("ORDER", 2450, at(200), name="far")
        read()
        assert matches() == {"far": ("cart-1", True)}
        books.book("ORDER", 2450, at(1), name="near")
        read()
        assert matches() == {"far": (None, False), "near": ("cart-1", True)}

    def test_a_lost_order_gets_no_entry_until_it_is_found(self, books: Books) -> None:
        line = {"quantity": 5, "price_at_placing": 490}
        lost = make_order(Status.UNCONFIRMED, reference="lost", sent_at=at(0), **line)
        ordered(reference="cart-1", sent_at=at(2))
        for number in range(2):
            books.book("ORDER", 2450, at(number), name=f"c{number}")
        read()
        assert sorted(matches().values(), key=str) == [("cart-1", True), (None, False)]
        lost.move(
            Status.HANDLING,
            source=StatusChange.Source.RECOVERY,
            provider_order_id="ab12",
            accepted_at=at(400),
        )
        read()
        assert set(matches().values()) == {("cart-1", True), ("lost", True)}

    @pytest.mark.parametrize(
        ("seconds", "is_found"), [(3 * 3600, True), (12 * 3600, True), (12 * 3600 + 1, False)]
    )
    def test_a_refund_noticed_up_to_twelve_hours_later_is_found(
        self, books: Books, seconds: float, is_found: bool
    ) -> None:
        order = partly_delivered(reference="cart-1", finalized_at=at(9 + seconds))
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        assert matches() == {"r": ("cart-1", True) if is_found else (None, False)}
        assert (is_credited(order) == [True]) is is_found

    def test_names_that_are_no_orders_at_all_are_no_reason_not_to_guess(self, books: Books) -> None:
        for hour in range(4):
            ordered(reference=f"cart-{hour}", quantity=hour + 1, sent_at=at(3600 * hour))
            amount, booked = 490 * (hour + 1), at(3600 * hour + 1)
            books.book("ORDER", amount, booked, name=f"c{hour}", objid=f"transaction-{hour}")
        read()
        assert matches() == {f"c{hour}": (f"cart-{hour}", True) for hour in range(4)}


class TestClock:
    """The provider's clock may be wrong. Its entries show the difference from ours."""

    @pytest.mark.parametrize(
        ("behind", "is_found"), [(2400, True), (7200, True), (7201, False), (-2400, True)]
    )
    def test_charges_that_name_their_order_tell_how_far_it_is_off_up_to_two_hours(
        self, books: Books, behind: float, is_found: bool
    ) -> None:
        ordered(reference="cart-1", provider_order_id="ab12")
        ordered(reference="cart-2", provider_order_id="ab14", quantity=2, sent_at=None)
        ordered(reference="cart-3", quantity=1, sent_at=at(60))
        books.book("ORDER", 2450, at(0 - behind), name="named", objid="ab12")
        books.book("ORDER", 980, at(0), name="unsent", objid="ab14")
        books.book("ORDER", 490, at(60 - behind), name="c")
        read()
        assert matches()["c"] == (("cart-3", True) if is_found else (None, False))

    def test_a_refund_tells_nothing_about_it(self, books: Books) -> None:
        partly_delivered(reference="cart-1", provider_order_id="ab12", finalized_at=at(1800))
        books.book("ORDER", 2450, at(1), name="c")
        books.book("REFUND-ORDER", 980, at(1800), name="r", objid="ab12")
        read()
        assert matches() == {"c": ("cart-1", True), "r": ("cart-1", False)}

    def test_a_charge_of_last_week_tells_nothing_about_it(self, books: Books) -> None:
        early = at(-8 * 86_400)
        ordered(reference="cart-1", provider_order_id="ab12", sent_at=early, created_at=early)
        ahead = early + timedelta(minutes=40)
        books.book("ORDER", 2450, ahead, name="old", objid="ab12")
        read(early.date())
        ordered(reference="cart-2")
        books.book("ORDER", 2450, at(1), name="c")
        read()
        assert matches() == {"old": ("cart-1", False), "c": ("cart-2", True)}

    @pytest.mark.parametrize(
        ("ahead", "seconds", "is_found"),
        [
            (0, -301, False),
            (0, 301, False),
            # If most entries show that the clock is off, an entry with the correct time still
            # matches.
            (-200, 300, True),
            (-200, 301, False),
            (200, -300, True),
            (200, -301, False),
            (200, 500, True),
            (200, 501, False),
        ],
    )
    def test_an_entry_is_found_up_to_five_minutes_off_by_either_clock(
        self, books: Books, ahead: float, seconds: float, is_found: bool
    ) -> None:
        # The object IDs belong to no order, so the tolerance for late entries does not apply.
        for quantity in range(1, 4):
            ordered(reference=f"cart-{quantity}", quantity=quantity)
            objid = f"transaction-{quantity}"
            books.book("ORDER", 490 * quantity, at(ahead), name=f"c{quantity}", objid=objid)
        ordered(reference="cart-5")
        books.book("ORDER", 2450, at(seconds), name="c5", objid="transaction-5")
        read()
        assert matches()["c5"] == (("cart-5", True) if is_found else (None, False))


class TestCredited:
    @pytest.mark.parametrize("objid", ["ab12", ""])
    @pytest.mark.parametrize(
        ("minutes", "amount", "credited"),
        [(14.5, 980, True), (14.5, 490, None), (15.5, 490, False), (14.5, 1470, False)],
    )
    def test_a_part_of_a_refund_is_waited_for_and_more_than_was_promised_is_not(
        self, books: Books, minutes: float, amount: int, credited: bool | None, objid: str
    ) -> None:
        finalized_at = timezone.now() - timedelta(minutes=minutes)
        order = partly_delivered(
            reference="cart-1", provider_order_id="ab12", finalized_at=finalized_at
        )
        books.book("REFUND-ORDER", amount, finalized_at, name="r", objid=objid)
        read()
        if not objid and amount != 980:
            # An amount that was not promised is not matched, so nothing has been credited.
            credited, amount = (False if minutes > 15 else None), 0
        assert is_credited(order) == [credited]
        differs = {"expected": "980.00", "amount": f"{amount}.00"}
        assert problems(order) == (
            [Problem("credit_differs", differs)] if credited is False else []
        )

    def test_refunds_are_judged_from_the_first_day_that_was_read(self, books: Books) -> None:
        midnight = at(-12 * 3600)
        orders = [
            partly_delivered(reference=f"cart-{number}", **dict.fromkeys(TIMES, finalized_at))
            for number, finalized_at in enumerate(
                (at(-9 * 86_400), midnight + timedelta(minutes=5), at(0))
            )
        ]
        read(DAY)
        assert is_credited(*orders) == [None, False, False]

    def test_an_order_that_lacks_its_refund_is_judged_again_by_what_is_known_then(
        self, books: Books
    ) -> None:
        early = at(-6 * 86_400)
        order = partly_delivered(reference="cart-1", **dict.fromkeys(TIMES, early))
        read(early.date())
        assert is_credited(order) == [False]
        Order.objects.filter(pk=order.pk).update(price_per_card=None)
        read()
        assert is_credited(order) == [None]
        assert problems(order) == []

    def test_a_refund_that_never_came_is_missed_after_a_quarter_of_an_hour(
        self, books: Books
    ) -> None:
        old = partly_delivered(reference="cart-1")
        now = timezone.now()
        fresh = partly_delivered(reference="cart-2", finalized_at=now - timedelta(minutes=14))
        nothing_promised = ordered(
            reference="cart-3", status=Status.FULFILLED, finalized_at=at(10), fulfilled_amount=2450
        )
        read()
        assert is_credited(old, fresh, nothing_promised) == [False, None, None]

    def test_a_refund_in_parts_is_credited_once_it_is_whole(self, books: Books) -> None:
        order = partly_delivered(reference="cart-1", provider_order_id="ab12")
        books.book("REFUND-ORDER", 490, at(9), name="r1", objid="ab12")
        read()
        assert is_credited(order) == [False]
        assert [problem.code for problem in problems(order)] == ["credit_differs"]
        books.book("REFUND-ORDER", 490, at(11), name="r2", objid="ab12")
        read()
        assert is_credited(order) == [True]
        assert problems(order) == []

    def test_more_than_was_promised_is_not_as_promised(self, books: Books) -> None:
        order = ordered(
            reference="cart-1",
            status=Status.FULFILLED,
            finalized_at=at(10),
            provider_order_id="ab12",
            fulfilled_amount=2450,
        )
        booked = books.book("REFUND-ORDER", 490, at(9), name="r1", objid="ab12")
        read()
        assert is_credited(order) == [False]
        booked["objid"] = "ff00"
        read()
        assert is_credited(order) == [None]

    def test_a_refund_of_an_unknown_amount_is_not_judged(self, books: Books) -> None:
        order = partly_delivered(reference="cart-1", price_per_card=None)
        read()
        assert is_credited(order) == [None]

    def test_an_order_that_another_account_bought_is_not_looked_for(self, books: Books) -> None:
        prove_key()
        ApiKey.objects.filter(pk=own_key().pk).update(environment="PRODUCTION")
        sandbox = partly_delivered(reference="test", environment="SANDBOX")
        bought = partly_delivered(reference="cart-1", environment="PRODUCTION")
        read()
        assert is_credited(sandbox, bought) == [None, False]

    def test_an_order_that_settles_after_its_entries_were_read_gets_them_later(
        self, books: Books
    ) -> None:
        order = ordered(reference="cart-1")
        books.book("REFUND-ORDER", 980, at(9), name="r")
        read()
        assert matches() == {"r": (None, False)}
        Order.objects.filter(pk=order.pk).update(
            status=Status.PARTIALLY_FILLED,
            fulfilled_quantity=3,
            fulfilled_amount=1470,
            finalized_at=at(4000),
        )
        read()
        assert matches() == {"r": ("cart-1", True)}
        assert is_credited(order) == [True]


def test_a_credit_that_becomes_somebody_elses_is_missed(books: Books) -> None:
    order = partly_delivered(reference="cart-1", provider_order_id="ab12")
    booked = books.book("REFUND-ORDER", 980, at(9), name="r", objid="ab12")
    books.book("ORDER", 2450, at(0), name="c", objid="ab12")
    read()
    assert is_credited(order) == [True]
    booked["objid"] = "ff00"
    read()
    assert matches()["r"] == (None, False)
    assert is_credited(order) == [False]


def test_an_entry_that_changes_loses_its_order_and_finds_another(books: Books) -> None:
    ordered(reference="cart-1")
    ordered(reference="cart-2", quantity=1, sent_at=at(60))
    booked = books.book("ORDER", 2450, at(1), name="c")
    read()
    assert matches() == {"c": ("cart-1", True)}
    booked["amount"] = 490
    booked["time"] = at(60).isoformat()
    assert read().changed_days == {DAY: 1}
    assert matches() == {"c": ("cart-2", True)}
    assert LedgerEntry.objects.get().amount == -490


def test_an_order_that_loses_its_entry_long_after_it_settled_lacks_its_refund(books: Books) -> None:
    early = at(-6 * 86_400)
    times = dict.fromkeys(TIMES, early)
    order, other = (ordered(Status.REFUNDED, **times) for _order in range(2))
    late = books.book("REFUND-ORDER", 2450, at(0), name="late", objid=order.provider_order_id)
    read()
    assert is_credited(order) == [True]
    late["objid"] = other.provider_order_id
    read()
    assert is_credited(order, other) == [False, True]
