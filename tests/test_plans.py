"""Query plans on tables with many old rows: each query uses an index.

Counting the queries would not show a missing index, and small tables would not show it either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

import pytest
from django.contrib.admin.templatetags import admin_list
from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from giftcards.books.conditions import missing_refunds, money_in_open_orders
from giftcards.books.exports import order_rows
from giftcards.books.matching import match
from giftcards.books.models import LedgerEntry
from giftcards.books.reading import Position
from giftcards.books.reports import By, report
from giftcards.books.summary import ledger_summary
from giftcards.catalogue import Guest, check_offer, keep_current, offers, reserve
from giftcards.engine import outbox
from giftcards.engine.approvals import (
    approve_price,
    approve_review,
    cancel_order,
    put_on_hold_for_price,
    put_on_hold_for_review,
)
from giftcards.engine.balance import BalanceReader, known_cost
from giftcards.engine.gateway import Gateway
from giftcards.engine.loop import follow, is_work_left
from giftcards.engine.recording import record_answers
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.engine.resolving import release
from giftcards.engine.sweep import check_now, check_settled, sweep
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import check_soon, place_order, reorder_missing
from giftcards.models import (
    Acknowledgement,
    Card,
    CardReveal,
    CustomerRefund,
    Note,
    Order,
    OrderTerm,
    Product,
    ProviderState,
    StatusChange,
)
from giftcards.models.lines import read_lines
from giftcards.models.order_queries import is_held_up
from giftcards.privacy.erasure import erase, find_orders
from giftcards.privacy.person import Person
from giftcards.privacy.retention import purge
from giftcards.rules.problems import Problem
from giftcards.rules.times import day_of
from giftcards.settlement import cancel_refund, record_refund
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from giftcards.text.search_terms import SEARCHED, terms_of
from giftcards.watch.conditions import CONDITIONS, Standing
from giftcards.watch.metrics import as_text
from giftcards.watch.overview import count_final_orders
from tests.books.wire import note_ledger
from tests.books.wire import read as read_books
from tests.builders import answer, claim, make_order
from tests.history import STATISTICS, add_history, analyze, forget_statistics, remove_history
from tests.pages import LEDGER, LIST, SEARCH, START, order_page, read, references, sign_in
from tests.plans import Statement, explained
from tests.stage import LINE, ago, buy_many, fill_catalogue, provider_state, record_order, run_sweep
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_history")]

SOURCE = StatusChange.Source.STAFF
REFUNDS = "/admin/giftcards/customerrefund/"


@pytest.fixture(scope="module")
def _past(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock():
        add_history(3_000)
        user = add_traces()
        add_ledger()
        yield
        LedgerEntry.objects.all().delete()
        CardReveal.objects.all().delete()
        Note.objects.all().delete()
        CustomerRefund.objects.all().delete()
        user.delete()
        remove_history()


@pytest.fixture(scope="module", params=STATISTICS, ids="{} statistics".format)
def _history(request: pytest.FixtureRequest, _past: None, django_db_blocker: Any) -> None:
    with django_db_blocker.unblock():
        analyze()
        if request.param == "none":
            forget_statistics()


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show only some of the rows that a list has read; rendering all of them would be slow."""
    shown = admin_list.results
    monkeypatch.setattr(admin_list, "results", lambda rows: islice(shown(rows), 3))


def add_traces() -> AbstractBaseUser:
    """Add many notes, refunds and revealed codes by one person, and return that person."""
    user = get_user_model().objects.create(username="past")
    Note.objects.bulk_create(
        Note(order_id=key, text="Called.", by="past")
        for key in Order.objects.order_by("pk").values_list("pk", flat=True)[:2_000]
    )
    now = timezone.now()
    CustomerRefund.objects.bulk_create(
        CustomerRefund(
            order_id=key,
            amount=1,
            reference=f"CCP {key}",
            state="cancelled" if key % 500 == 0 else "done",
            executed_at=now - timedelta(minutes=number),
        )
        for number, key in enumerate(Order.objects.order_by("pk").values_list("pk", flat=True))
    )
    CardReveal.objects.bulk_create(
        CardReveal(card_id=key, user=user)
        for key in Card.objects.order_by("pk").values_list("pk", flat=True)[:2_000]
    )
    return user


def _label(chosen: dict[str, str] | str) -> str:
    """Return a test id without times, so that it is the same in each process."""
    if isinstance(chosen, str):
        return chosen.rstrip("/").rpartition("/")[2]
    is_time = re.compile("__(gte|lt)$").search
    return " ".join(name if is_time(name) else f"{name}={chosen[name]}" for name in chosen)


def add_ledger() -> None:
    """Add a ledger with hourly entries until a month ago, some of them without an order here."""
    latest = timezone.now() - timedelta(days=30)
    orders = Order.objects.exclude(provider_order_id=None).order_by("pk")
    rows = list(enumerate(orders.only("provider_order_id")))
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            provider_id=f"past-{order.pk}",
            type="REFUND-ORDER" if number % 10 == 1 else "ORDER",
            amount=-980,
            time=latest - timedelta(hours=number),
            objid=order.provider_order_id,
            order=order if number % 20 else None,
            is_guess=number % 499 == 1,
        )
        for number, order in rows
    )
    LedgerEntry.objects.bulk_create(
        LedgerEntry(
            provider_id=f"past-phone-{number}",
            type="FLEXY",
            amount=-500,
            time=latest - timedelta(hours=number),
        )
        for number, _order in rows[::10]
    )


@pytest.fixture
def open_orders(simulator: Simulator) -> dict[Status, Order]:
    """One or more orders of each open status, each with work to do."""
    fresh, overdue, late, *_ = buy_many(simulator, 5, type_id="SIM_NEVER")
    Order.objects.filter(pk=overdue.pk).update(accepted_at=ago(1_000))
    late.move(Status.DELAYED, source=SOURCE, due_at=ago(1))
    record_order(**LINE)
    return {
        Status.HANDLING: fresh,
        Status.DELAYED: late,
        Status.PLACING: make_order(Status.PLACING, claimed_until=ago(1)),
        Status.UNCONFIRMED: make_order(Status.UNCONFIRMED, sent_at=ago(300), due_at=ago(1)),
    }


def scans(statements: list[Statement], *, but: str | None = None) -> list[Statement]:
    """Return the statements that read a whole table, except those that contain ``but``.

    Tables of the app for messages are left out. They are empty here, and PostgreSQL reads a table
    as a whole if it is known to be empty. The tests in tests/delivery have rows in them.
    """
    assert statements
    accepted = ("giftcards_delivery_",) if but is None else ("giftcards_delivery_", but)
    found = [statement for statement in statements if statement.scans]
    return [one for one in found if not any(text in one.sql for text in accepted)]


@contextmanager
def no_scans(*others: type[Model], but: str | None = None) -> Iterator[list[Statement]]:
    """Collect the statements as ``explained`` does, and check that ``scans`` finds none of them."""
    with explained(*others) as statements:
        yield statements
    assert scans(statements, but=but) == []


def test_a_query_that_reads_a_whole_table_is_detected() -> None:
    with explained() as statements:
        list(Order.objects.filter(failures=9).order_by())
        list(Order.objects.filter(failures=9).order_by("-created_at", "-pk"))
        Order.objects.filter(claim="nobody").update(failures=0)
    assert len(scans(statements)) == 3


def test_the_past_has_the_search_terms_that_its_orders_would_have() -> None:
    rows = Order.objects.filter(reference__startswith="shop-").order_by("pk")[:200]
    for values in rows.values("pk", *SEARCHED):
        terms = OrderTerm.objects.filter(order=values["pk"]).values_list("kind", "term")
        assert set(terms) == terms_of(values)


def test_a_search_for_old_codes_reads_no_whole_table() -> None:
    oldest = Order.objects.order_by("finalized_at").values_list("finalized_at", flat=True)[0]
    Order.objects.update(open_amount=0)
    with no_scans():
        assert purge(settled_before=oldest + timedelta(minutes=20), since=oldest).orders > 10


def test_a_sweep_with_nothing_to_do_reads_no_whole_table() -> None:
    with no_scans():
        run_sweep()


def test_a_sweep_with_every_kind_of_work_reads_no_whole_table(
    open_orders: dict[Status, Order],
) -> None:
    with no_scans():
        run_sweep()
    # The sweep sent an order, looked for the lost one, and gave up waiting for another.
    moved = set(StatusChange.objects.filter(announced_at__isnull=False).values_list("to_status"))
    assert {("PLACING",), ("UNCONFIRMED",), ("DELAYED",)} <= moved
    assert Order.objects.get(pk=open_orders[Status.UNCONFIRMED].pk).due_at > timezone.now()


def test_a_sweep_in_which_orders_settle_reads_no_whole_table(simulator: Simulator) -> None:
    buy_many(simulator, 3)
    with no_scans():
        run_sweep()
    assert not is_work_left()


def test_comparing_settled_orders_with_their_rows_reads_no_whole_table(
    simulator: Simulator, shorten: Callable[..., None]
) -> None:
    settled = buy_many(simulator, 3)
    run_sweep()
    buy_many(simulator, 6, type_id="SIM_NEVER")
    # Some orders are claimed only when a page of the list contains them.
    shorten(sweep_orders=4)
    Order.objects.filter(finalized_at=None).update(due_at=ago(1))
    Order.objects.filter(pk__in=[order.pk for order in settled]).update(fulfilled_amount=1)
    with no_scans(), Gateway() as gateway:
        assert sweep(gateway).checked == 6
        assert check_settled(Order.objects.get(pk=settled[0].pk), gateway)
    assert Order.objects.filter(needs_attention=True).count() == 3


def test_giving_back_the_id_of_another_order_reads_no_whole_table(
    open_orders: dict[Status, Order],
) -> None:
    held = claim(open_orders[Status.HANDLING], open_orders[Status.DELAYED])
    foreign = answer("HANDLING", quantity=9)
    with no_scans():
        record_answers([(order, foreign) for order in held], now=timezone.now())
    assert Order.objects.exclude(answered_id="").count() == 2


def test_the_waiting_loop_reads_no_whole_table(simulator: Simulator) -> None:
    [order] = buy_many(simulator, 1, type_id="SIM_NEVER")
    Order.objects.filter(pk=order.pk).update(due_at=ago(-60))
    follow(seconds=0)  # what a process does at its start, see below
    assert ProviderState.objects.claim_balance()  # see above
    with no_scans():
        follow(seconds=0.2)


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_sweep_after_the_clock_was_set_reads_no_whole_table(
    open_orders: dict[Status, Order], wall: Wall, seconds: float
) -> None:
    run_sweep()
    wall.step(seconds)
    with no_scans():
        run_sweep()
    assert len(provider_state().clock["steps"]) == 1


def test_renewing_claims_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    claimed = claim(open_orders[Status.HANDLING], open_orders[Status.DELAYED])
    with no_scans():
        assert Order.objects.still_claimed(claimed).update(claimed_until=ago(-60)) == 2


def test_claiming_orders_beside_another_process_reads_no_whole_table(
    open_orders: dict[Status, Order],
) -> None:
    now = timezone.now()
    wanted = list(Order.objects.to_check(now=now, due_by=now))
    wanted[0].move(Status.REFUNDED, source=SOURCE)
    with no_scans():
        claimed = Order.objects.claim(wanted, now=now, due_by=now, until=ago(-60))
    assert len(claimed) == len(wanted) - 1


def test_announcing_changes_again_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    def fail(**_named: Any) -> None:
        raise RuntimeError

    order_finalized.connect(fail)
    try:
        open_orders[Status.HANDLING].move(Status.REFUNDED, source=SOURCE)
        with explained() as statements:
            outbox.announce()
            StatusChange.objects.update(announce_at=ago(1))
            StatusChange.objects.filter(pk__in=[1, 2, 3]).update(announce_at=None)
    finally:
        order_finalized.disconnect(fail)
    del statements[-2:]
    with explained() as again:
        assert outbox.announce() > 0
        list(StatusChange.objects.given_up())
    assert scans(statements + again) == []


def test_checking_an_order_by_hand_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    late = open_orders[Status.DELAYED]
    with no_scans(), Gateway() as gateway:
        assert check_soon(late.reference)
        check_now(late, gateway)


def test_looking_at_the_prices_of_orders_on_hold_reads_no_whole_table(simulator: Simulator) -> None:
    for _order in range(20):
        put_on_hold_for_price(make_order(sale_price=400), price=Decimal(490), ceiling=Decimal(400))
        put_on_hold_for_price(make_order(sale_price=550), price=Decimal(600), ceiling=Decimal(550))
        put_on_hold_for_review(make_order(sale_price=550), objection="Third order today")
    with no_scans(), Gateway() as gateway:
        # The price is read for a different order first, and then by the tick.
        gateway.prices.required_price(LINE["product_id"], LINE["type_id"])
        gateway.prices.look_at_orders_on_hold(lambda: True)
    assert Order.objects.on_hold().count() == 40


def test_reading_the_balance_and_a_refusal_for_want_of_money_read_no_whole_table(
    simulator: Simulator,
) -> None:
    record_order(**{**LINE, "quantity": 2_000}, max_price=1_000_000)
    simulator.price_factor = 1_000
    with explained() as statements:
        run_sweep()
        reader = BalanceReader()
        reader.look_after()
        reader.close(seconds=20)
    # The sum of a day is an exception, because a day is half of these rows. The next test uses
    # less.
    assert scans([one for one in statements if "GROUP BY" not in one.sql]) == []
    assert provider_state().balance == 1_000_000
    assert Order.objects.latest("pk").status == Status.REJECTED


def test_what_is_open_and_what_was_spent_is_summed_up_without_reading_a_whole_table(
    open_orders: dict[Status, Order],
) -> None:
    with no_scans():
        in_orders = money_in_open_orders()
        # This is less than 24 hours, because a day is half of these rows.
        spent = known_cost(read_lines(Order.objects.all().settled_lines(ago(70 * 60))))
    assert in_orders.total > 0
    assert spent == 0  # The orders of this past do not say what they were charged.


def test_offers_and_holds_read_no_whole_table_of_orders(
    open_orders: dict[Status, Order], simulator: Simulator
) -> None:
    fill_catalogue()
    line = {"product_id": LINE["product_id"], "type_id": LINE["type_id"], "quantity": 1}
    if connection.vendor == "postgresql":
        # Most of these orders settled within the time for which a stock counts, so a scan would be
        # cheaper.
        connection.cursor().execute("SET LOCAL enable_seqscan = off")
    with no_scans():
        assert offers().filter(product__product_id=line["product_id"]).exists()
        check_offer(**line)
        reserve(reference="cart-1", customer=Guest("visitor 1", "41.100.0.1"), **line)
        place_order(reference="cart-1", **line)
        keep_current(lambda: True)


@pytest.mark.parametrize("chosen", [{}, {"shelf": "yes"}, {"shelf": "no"}], ids=_label)
def test_the_pages_of_products_read_no_whole_table_of_orders(
    boss: Client, open_orders: dict[Status, Order], simulator: Simulator, chosen: dict[str, str]
) -> None:
    fill_catalogue()
    product = Product.objects.get(product_id=LINE["product_id"])
    if connection.vendor == "postgresql":
        # Here, too, a scan would be cheaper on PostgreSQL.
        connection.cursor().execute("SET LOCAL enable_seqscan = off")
    with explained() as statements:
        read(boss.get("/admin/giftcards/product/", chosen))
        read(boss.get(f"/admin/giftcards/product/{product.pk}/change/"))
    # The list shows all products and types, so these tables are read as a whole.
    read_whole = [scan for one in scans(statements) for scan in one.scans]
    assert [scan for scan in read_whole if "giftcards_order" in scan] == []


def test_resolving_a_lost_order_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    other = make_order(Status.UNCONFIRMED, sent_at=ago(300))
    with no_scans():
        assert adopt(open_orders[Status.UNCONFIRMED], "new-id", source=SOURCE)
        assert declare_absent(other, send_again=True, source=SOURCE)
        list(Order.objects.owners(f"id-{number}" for number in range(5)))
        list(Order.objects.sent_as(f"cart-{number}" for number in range(5)))


def test_noting_who_is_kept_waiting_reads_no_whole_table(
    open_orders: dict[Status, Order],
) -> None:
    make_order(due_at=None, created_at=ago(301))
    with no_scans():
        found = list(Order.objects.all().kept_waiting(recorded_by=ago(300)))
        assert all(order.note_wait() for order in found)
    assert {order.status for order in found} >= {Status.PENDING}


def test_passing_over_orders_on_hold_reads_no_whole_table(simulator: Simulator) -> None:
    simulator.price_factor = 2
    orders = [record_order(**LINE, max_price=490) for _order in range(20)]
    run_sweep()
    with no_scans():
        run_sweep()
        assert not is_work_left()
        one, other, third, *_ = Order.objects.filter(pk__in=[order.pk for order in orders])
        assert approve_price(one, 980, by="amina")
        assert cancel_order(other, by="amina")
        Order.objects.filter(pk=third.pk).update(due_at=timezone.now())
        third.refresh_from_db()
        put_on_hold_for_review(third, objection="Third order today")
        assert approve_review(third, by="amina")
        run_sweep()
    assert Order.objects.get(pk=one.pk).status == Status.FULFILLED


def test_ordering_missing_cards_again_by_rule_reads_no_whole_table(
    simulator: Simulator, wall: Wall, set_conf: Callable[..., None]
) -> None:
    set_conf(REORDER_MISSING={"times": 2, "hours": 6})
    for kind in ("TEST_PARTIAL", "TEST_REFUND", "SIM_REJECT"):
        record_order(**{**LINE, "type_id": kind}, max_price=490)
    with no_scans():
        for _sweep in range(2):
            run_sweep()
        on, turn, end = Order.objects.on_hold()
        # One order stays on hold, one is tried again, and one is given up.
        Order.objects.filter(pk=turn.pk).update(send_after=ago(1))
        Order.objects.filter(pk=end.pk).update(send_before=ago(1))
        for _sweep in range(2):
            run_sweep()
        wall.step(-600)
        run_sweep()
    assert on in Order.objects.on_hold()
    assert Order.objects.filter(repeats=turn.pk).exists()
    assert StatusChange.objects.filter(source="clock", to_status="REJECTED").exists()


def test_a_scrape_of_the_metrics_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    count_final_orders(lambda: True)
    ProviderState.objects.update(balance=10_000, balance_read_at=ago(5))
    note_ledger(read_until=timezone.now())
    differs = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})
    make_order(Status.REFUNDED, problems=[differs], is_credited=False)
    with no_scans():
        text = as_text()
    assert 'giftcards_orders{status="DELAYED"} 1.0' in text


def test_counting_what_is_held_up_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    with no_scans():
        assert sum(late.count() for late in Order.objects.held_up(timezone.now())) == 8
        assert Order.objects.filter(is_held_up(timezone.now())).count() == 8
        assert Order.objects.unsent().exists()
        assert StatusChange.objects.waiting_since(timezone.now()).count() > 0


def test_releasing_an_adopted_order_reads_no_whole_table(open_orders: dict[Status, Order]) -> None:
    lost = open_orders[Status.UNCONFIRMED]
    assert adopt(lost, "new-id", source=SOURCE)
    with no_scans():
        assert release(lost, by="amina")
        # Recovery checks whether the order has been released.
        assert not adopt(lost, "new-id", source=StatusChange.Source.RECOVERY)


def test_choosing_orders_to_be_checked_reads_a_limited_number_of_rows(
    boss: Client, open_orders: dict[Status, Order]
) -> None:
    chosen = [str(order.pk) for order in open_orders.values()]
    with no_scans(but="LIMIT"):
        boss.post(LIST, {"action": "check_now", "_selected_action": chosen})


def test_using_a_reference_again_reads_no_whole_table() -> None:
    line = {**LINE, "quantity": 1}
    with no_scans():
        place_order(**LINE, reference="twice")
        place_order(**LINE, reference="twice")
        with pytest.raises(ReferenceConflict):
            place_order(**line, reference="twice")


def test_opening_the_newest_and_the_oldest_card_reads_one_row_each() -> None:
    with explained() as statements:
        assert len(Card.objects.all().try_keys()) == 2
    # One statement finds the first and the last card of the key in use and looks for other keys;
    # the other reads these cards.
    assert len(statements) == 2
    # They end after one row of the index.
    assert scans(statements, but="LIMIT 1") == []
    assert all(_is_by_key(scan) or "card_key" in scan for one in statements for scan in one.scans)


def test_erasing_a_customer_reads_through_the_orders_by_key_and_nothing_else_as_a_whole() -> None:
    person = Person.of("amina@example.com")
    order = make_order(Status.FULFILLED, customer_email="Amina@example.com")
    with explained(Acknowledgement) as statements:
        assert erase(person, find_orders(person)[0]).erased == [order.reference]
    found = [statement for statement in scans(statements) if "LIMIT 10000" not in statement.sql]
    assert found == []


def _is_by_key(scan: str) -> bool:
    """Return True if a table is read in the order of its primary key."""
    return scan == "SCAN giftcards_card" or "giftcards_card_pkey" in scan or "PRIMARY" in scan


# The ledger.


def test_reading_and_matching_the_ledger_reads_no_whole_table(simulator: Simulator) -> None:
    simulator.ledger_oddities = ["foreign"]
    buy_many(simulator, 3, type_id="TEST_PARTIAL")
    simulator.ledger_oddities = ["no-objid"]
    buy_many(simulator, 1, type_id="TEST_PARTIAL", quantity=4)
    run_sweep()
    now = timezone.now()
    place = Position(start=now - timedelta(minutes=5), until=now, end=now)
    note_ledger(place=place.as_json(), read_until=place.start)
    # The first and the last of all entries are found at the ends of an index.
    with no_scans(but="LIMIT 1"):
        assert read_books().is_whole
    new = LedgerEntry.objects.exclude(provider_id__startswith="past-")
    assert new.filter(is_guess=True, type="ORDER").count() == 4


def test_what_was_left_open_in_the_ledger_is_tried_again_without_reading_a_whole_table() -> None:
    end = timezone.now() - timedelta(days=40)
    span = (end - timedelta(days=2), end)
    left = LedgerEntry.objects.filter(order=None, time__range=span).exclude(type="FLEXY")
    assert left.exists()
    with no_scans():
        match(end - timedelta(hours=2), end, hold=ProviderState.objects.note_tick)
    assert not left.exists()


def test_what_the_ledger_lacks_is_found_without_reading_a_whole_table() -> None:
    differs = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})
    make_order(Status.REFUNDED, problems=[differs], is_credited=False)
    left = LedgerEntry.objects.filter(order=None, type="ORDER").latest("time")
    ProviderState.objects.current()
    note_ledger(read_until=left.time + timedelta(hours=1))
    with no_scans():
        found = CONDITIONS["ledger_unmatched"].judge(Standing())
        assert len(missing_refunds()) == 1
    assert found is not None


def test_entries_without_a_name_are_paired_without_reading_a_whole_table() -> None:
    end = timezone.now() - timedelta(days=40)
    rows = LedgerEntry.objects.filter(time__range=(end - timedelta(days=2), end))
    rows.filter(order__isnull=False).update(is_guess=True, objid="")
    rows.filter(order=None).update(objid="")
    LedgerEntry.objects.filter(order__isnull=False, time__lt=end, is_guess=False).update(
        is_guess=True
    )
    with no_scans():
        match(end - timedelta(hours=2), end, hold=ProviderState.objects.note_tick)


def test_a_summary_of_the_ledger_reads_its_days_only() -> None:
    lacking = Order.objects.filter(status=Status.PARTIALLY_FILLED).latest("finalized_at")
    Order.objects.filter(pk=lacking.pk).update(is_credited=False)
    day = day_of(lacking.finalized_at)
    # The first and the last of all entries, and those next to the ends of a day, are found by an
    # index.
    with no_scans(but="LIMIT 1") as statements:
        assert ledger_summary(day - timedelta(days=40), day - timedelta(days=36)).entries > 100
        assert ledger_summary(day, day).promised_not_credited.count == 1
    assert all("giftcards_ledger_newest" in scan for one in statements for scan in one.scans)


# Reports.


@pytest.fixture
def last_year() -> date:
    """A day on which few orders became final."""
    finalized_at = ago(400 * 86_400)
    for number in range(12):
        make_order(Status.FULFILLED, finalized_at=finalized_at, reference=f"last-year-{number}")
    return timezone.localtime(finalized_at).date()


@pytest.mark.parametrize("product_id", ["", LINE["product_id"]])
def test_a_report_reads_the_orders_of_its_period_only(last_year: date, product_id: str) -> None:
    with no_scans():
        for by in By:
            assert report(last_year, last_year, by, product_id=product_id).total.orders == 12


def test_closing_a_month_reads_its_orders_and_its_entries_only(
    boss: Client, last_year: date
) -> None:
    with explained() as statements:
        html = read(boss.get(f"{LIST}report/close/", {"month": f"{last_year:%Y-%m}"}))
    assert "sale=unknown" in html
    # The first and the last of all entries, and those next to the ends of a month, are found by an
    # index. The table of closings is small: it grows by twelve a year.
    left = scans(statements, but="LIMIT 1")
    assert [one for one in left if "monthclosing" not in one.sql] == []


def test_an_export_reads_the_orders_of_its_period_only(
    last_year: date, shorten: Callable[..., None]
) -> None:
    shorten(file_batch=5)
    with no_scans() as statements:
        assert len(list(order_rows(last_year, last_year))) == 13
    assert len(statements) == 3


# The admin.


def _since(column: str, **age: int) -> dict[str, str]:
    now = timezone.now()
    return {f"{column}__gte": str(now - timedelta(**age)), f"{column}__lt": str(now)}


def test_the_list_reads_the_first_orders_only(boss: Client) -> None:
    # The page and the count are limited to a fixed number of rows.
    with no_scans(but="LIMIT") as statements:
        read(boss.get(LIST))
    assert any("giftcards_order_newest" in str(one.scans) for one in statements)


# Each of these filters finds few orders or none.
FEW: list[dict[str, str]] = [
    {"attention": "needed"},
    {"status__exact": "DELAYED"},
    {"product_id": "nothing-like-this"},
    {"environment__exact": "SANDBOX"},
    _since("finalized_at", days=1, minutes=70),
    _since("created_at", days=1, minutes=70),
]
# The parts of the first filter, to which the start page links.
PARTS: list[dict[str, str]] = [
    {"attention": name}
    for name in ("unconfirmed", "other", "on_hold_price", "on_hold_review", "waiting")
]
# Each of these filters finds a large part of the orders here.
MANY: list[dict[str, str]] = [
    {"refund": "owed"},
    {"refund": "owed", "attention": "none"},
    {"refund": "paid"},
    {"sale": "unknown"},
    {"status__exact": "FULFILLED"},
    {"product_id": "product-001"},
    {"environment__exact": "PRODUCTION"},
    _since("finalized_at", days=400),
    _since("created_at", days=400),
]
SEARCHES: list[dict[str, str]] = [
    {"q": "nothing-like-this"},
    {"q": "shop-0000000042"},
    {"q": "id-0000000000000000004"},
    {"q": "customer-000000004"},
    {"q": "recipient-000000005"},
    {"q": "invoice-0000000042"},
    {"q": "invoice-000000004"},
    {"q": "0500-00-00-04"},
    {"q": "00-00-42"},
    {"q": "42"},
    {"q": "n° 42"},
    {"q": "طلب 0000000042"},
    {"q": "SHOP 0000000042"},
]
# Words, or beginnings of words, of a large part of the orders here.
COMMON_SEARCHES: list[dict[str, str]] = [
    {"q": "+213 500 000 04"},
    {"q": "amina 000000004"},
    {"q": "000000004 amina"},
    {"q": "amina"},
    {"q": "amina mohamed"},
    {"q": "a"},
    {"q": "shop 5"},
]


def _pairs(some: list[dict[str, str]], others: list[dict[str, str]]) -> list[dict[str, str]]:
    """Combine each of ``some`` with each of the ``others`` that uses different keys."""
    pairs = ({**one, **other} for one in some for other in others if not one.keys() & other.keys())
    return list({frozenset(pair.items()): pair for pair in pairs}.values())


WHEN = "9"
ORDERS: list[dict[str, str]] = [{}, {"o": WHEN}, {"o": f"-{WHEN}"}]


def listing(boss: Client, chosen: dict[str, str]) -> list[Statement]:
    """Return the statements of the list in each of its sort orders."""
    with explained() as statements:
        for order in ORDERS:
            read(boss.get(LIST, {**chosen, **order}))
    return statements


@pytest.mark.parametrize(
    "chosen", [*FEW, *PARTS, *SEARCHES, *_pairs(FEW, FEW), *_pairs(FEW, SEARCHES[1:2])], ids=_label
)
def test_filters_and_searches_that_find_few_orders_read_no_whole_table(
    boss: Client, chosen: dict[str, str]
) -> None:
    assert scans(listing(boss, chosen)) == []


@pytest.mark.parametrize(
    "chosen", [*MANY, *COMMON_SEARCHES, *_pairs(MANY, MANY), *_pairs(FEW, MANY)], ids=_label
)
def test_filters_and_searches_that_find_many_orders_read_a_limited_number_of_them(
    boss: Client, chosen: dict[str, str]
) -> None:
    # If many rows match, the table may be read until enough are found.
    assert scans(listing(boss, chosen), but="LIMIT") == []


def test_few_orders_without_a_sale_amount_are_found_by_an_index(boss: Client) -> None:
    Order.objects.filter(finalized_at__lt=ago(7_200)).update(open_amount=0)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE giftcards_order")
    with explained() as statements:
        for period in ({}, _since("finalized_at", minutes=70)):
            read(boss.get(LIST, {"sale": "unknown", **period}))
    # MariaDB cannot update its statistics in a transaction. It expects many rows, and may read up
    # to the limit.
    but = "LIMIT" if connection.vendor == "mysql" else None
    assert scans(statements, but=but) == []


@pytest.mark.parametrize("status", [Status.FULFILLED, Status.PARTIALLY_FILLED, Status.REJECTED])
def test_the_page_of_an_order_reads_no_whole_table(boss: Client, status: Status) -> None:
    order, other = Order.objects.filter(status=status)[:2]
    Order.objects.filter(pk=order.pk).update(repeats=other, group="cart")
    with no_scans():
        read(boss.get(order_page(order)))
        read(boss.get(order_page(other)))
        read(boss.get(order_page(order, "fingerprint")))


def test_the_orders_of_one_customer_are_found_without_reading_a_whole_table(boss: Client) -> None:
    customer = {"customer_email": "amina@example.com", "customer_phone": "0550 12 34 56"}
    orders = [make_order(**customer) for _number in range(3)]
    with no_scans():
        shown = read(boss.get(order_page(orders[1])))
        listed = read(boss.get(LIST, {"customer_of": orders[1].pk}))
    assert "Possible duplicate" in shown
    assert references(listed) == [orders[2].reference, orders[0].reference]


def test_finding_a_card_reads_no_whole_table(boss: Client) -> None:
    with no_scans():
        read(boss.post(SEARCH, {"secret": "AAAA-BBBB"}))
        read(boss.post(SEARCH, {"secret": "BBBB"}))


def test_the_start_page_reads_no_whole_table(
    boss: Client, open_orders: dict[Status, Order]
) -> None:
    # The page reads a limited number of the orders with problems.
    with no_scans(but="LIMIT"):
        html = read(boss.get(START))
    assert "1 delayed order" in html


def test_the_page_of_the_provider_reads_no_whole_table(
    boss: Client, open_orders: dict[Status, Order]
) -> None:
    with explained() as statements:
        html = read(boss.get("/admin/giftcards/providerstate/"))
    assert "Oldest open order" in html
    # No worker is running, so the page says what this prevents.
    assert "order is waiting to be sent" in html
    # The page reads the first card of each key, and opens the newest and the oldest card.
    assert scans(statements, but="LIMIT 1") == []
    assert all(_is_by_key(scan) or "card_key" in scan for one in statements for scan in one.scans)


def test_ordering_missing_cards_again_reads_no_whole_table() -> None:
    order = make_order(Status.PARTIALLY_FILLED)
    browser = sign_in(superuser=True)
    with no_scans():
        read(browser.get(order_page(order, "reorder")))
        assert reorder_missing(order, by="amina") == reorder_missing(order, by="amina")
        assert set(order.parts) == set(Order.objects.filter(pk=order.pk).with_reorders())


def test_revealing_a_card_and_finding_who_has_reads_no_whole_table(boss: Client) -> None:
    card = Card.objects.filter(order__status=Status.FULFILLED)[0]
    with no_scans():
        read(boss.get("/admin/giftcards/cardreveal/", {"q": card.order.reference}))
        read(boss.get(reverse("admin:giftcards_card_ask", args=[card.pk])))
        # These cards hold no real codes, so the page shows none, but the row is written.
        read(boss.post(reverse("admin:giftcards_card_reveal", args=[card.pk]), {"reason": "x"}))


def _reads_first_rows(statement: Statement) -> bool:
    """Return True if an index leads to the few rows read, although the plan expects more."""
    return statement.sql.endswith(("LIMIT 1", "LIMIT 100")) and all(
        "giftcards_ledger_" in scan for scan in statement.scans
    )


@pytest.mark.parametrize(
    ("address", "chosen"),
    [
        (LEDGER, {"order": "guessed"}),
        (LEDGER, {"order": "charged"}),
        (LEDGER, {"order": "credited"}),
        (LEDGER, {"order": "unknown"}),
        (LEDGER, {"order": "unknown", "period": "week"}),
        (LEDGER, {"order": "charged", "type": "ORDER", "period": "week"}),
        (LEDGER, {"type": "BONUS"}),
        (LEDGER, {"type": "FLEXY", "period": "today"}),
        (LEDGER, {"period": "today"}),
        (LEDGER, {"period": "2025-01"}),
        (LEDGER, {"q": "entry-0042-FLEXY"}),
        (LEDGER, {"q": "FLEXY-0042"}),
        (LEDGER, {"q": "shop-0000000042"}),
        (LEDGER, {"q": "shop-0000000042", "order": "guessed"}),
        (REFUNDS, {"q": "nothing-like-this"}),
        (REFUNDS, {"q": "shop-0000000042"}),
        (REFUNDS, {"state__exact": "created"}),
        (REFUNDS, {"state__exact": "cancelled"}),
        (REFUNDS, {"state__exact": "cancelled", **_since("executed_at", minutes=10)}),
        (REFUNDS, _since("executed_at", minutes=10)),
    ],
    ids=_label,
)
def test_a_filter_or_a_search_of_the_ledger_or_the_refunds_reads_no_whole_table(
    boss: Client, address: str, chosen: dict[str, str]
) -> None:
    with explained() as statements:
        read(boss.get(address, chosen))
    assert [each for each in scans(statements) if not _reads_first_rows(each)] == []


# If a search finds several refunds, a database may also read them in the order of the list.
@pytest.mark.parametrize(
    ("address", "chosen"),
    [
        (LEDGER, {}),
        (LEDGER, {"type": "ORDER"}),
        (REFUNDS, {}),
        (REFUNDS, {"q": "CCP 42"}),
        (REFUNDS, {"state__exact": "done"}),
        (REFUNDS, _since("executed_at", days=400)),
    ],
    ids=_label,
)
def test_the_ledger_and_the_list_of_the_refunds_read_a_limited_number_of_rows(
    boss: Client, address: str, chosen: dict[str, str]
) -> None:
    with no_scans(but="LIMIT"):
        read(boss.get(address, chosen))


def test_paying_a_customer_back_reads_no_whole_table(boss: Client) -> None:
    order = make_order(Status.REJECTED, sale_price=550, open_amount=1_100)
    with no_scans():
        read(boss.get(order_page(order, "pay_back")))
        refund = record_refund(order, amount=550, reference="R1")
        read(boss.get(reverse("admin:giftcards_refund_cancel", args=[refund.pk])))
        cancel_refund(refund, by="amina")
        read(boss.get(order_page(order)))
