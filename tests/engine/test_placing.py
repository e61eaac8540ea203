"""Placing orders: an order is recorded first and sent once, and every outcome is recorded."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import responses
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from django_q.conf import Conf
from django_q.models import OrmQ

from giftcards.engine.approvals import approve_price, put_on_hold_for_price
from giftcards.engine.gateway import Gateway
from giftcards.engine.placing import give_up, mark_unconfirmed, send, send_due, send_now
from giftcards.engine.recovering import adopt, declare_absent
from giftcards.engine.task_queue import wake_worker
from giftcards.exceptions import ReferenceConflict
from giftcards.fulfilment import place_order
from giftcards.models import Lease, Order, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.builders import details, ended, make_order, problems
from tests.stage import (
    LINE,
    PLACE,
    PRICES,
    PROVIDER,
    PSN,
    Log,
    Setter,
    Wire,
    ago,
    buy,
    claim_to_send,
    failing,
    fresh,
    history,
    hold_lease,
    in_threads,
    lists,
    messages,
    own_key,
    posts,
    prove_key,
    provider_state,
    record_order,
    run_sweep,
    spend_budget,
    statuses,
)

pytest_plugins = ["tests.stage_fixtures"]

DIED = Problem("sender_died")
A1 = {"provider_order_id": "A1"}
AFTER_ALL = Problem("accepted_after_all", A1)


@pytest.mark.django_db
class TestRecording:
    def test_every_detail_of_a_placed_order_is_stored(self) -> None:
        order = place_order(
            **LINE,
            reference="cart-1",
            sale_price=Decimal("549.90"),
            customer_email="a@example.com",
            customer_language="ar",
        )
        stored = Order.objects.get()
        assert stored == order
        assert (stored.reference, stored.status) == ("cart-1", "PENDING")
        assert (stored.product_id, stored.type_id, stored.quantity) == (PSN, "type_001", 2)
        assert stored.sale_price == Decimal("549.90")
        assert (stored.customer_email, stored.customer_language) == ("a@example.com", "ar")
        assert stored.due_at <= timezone.now()
        assert history(stored) == []

    def test_a_reference_is_made_up_if_none_is_given(self) -> None:
        assert place_order(**LINE).reference != place_order(**LINE).reference
        assert Order.objects.count() == 2

    def test_the_same_reference_gives_the_same_order(self) -> None:
        first = place_order(**LINE, reference="cart-1", sale_price=550)
        Order.objects.update(status=Status.PLACING)
        again = place_order(**LINE, reference="cart-1", sale_price=Decimal("550.00"))
        assert again == first
        assert (again.status, again.sale_price) == ("PLACING", Decimal(550))

    @pytest.mark.parametrize(
        "change", [{"quantity": 3}, {"type_id": "type_003"}, {"product_id": "other"}]
    )
    def test_a_reference_of_another_line_raises_reference_conflict(
        self, change: dict[str, Any]
    ) -> None:
        """The caller's transaction stays usable."""
        place_order(**LINE, reference="cart-1")
        with transaction.atomic():
            with pytest.raises(ReferenceConflict, match="The reference cart-1 is already used for"):
                place_order(**LINE | change, reference="cart-1")
            place_order(**LINE, reference="cart-2")
        assert Order.objects.count() == 2

    def test_another_integrity_error_is_not_taken_for_a_known_reference(self) -> None:
        error = IntegrityError("another constraint")
        with failing("INSERT", error=error), pytest.raises(IntegrityError, match=str(error)):
            place_order(**LINE)

    def test_references_and_ids_that_differ_in_letter_case_are_different(self) -> None:
        """Some databases would treat these values as equal."""
        place_order(**LINE, reference="cart-a")
        assert place_order(**LINE, reference="CART-A").reference == "CART-A"
        assert Order.objects.count() == 2
        for order_id in ("aBc", "AbC"):
            make_order(Status.HANDLING, provider_order_id=order_id)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"quantity": 0}, "Ensure this value is greater than or equal to 1."),
            ({"quantity": -1}, "Ensure this value is greater than or equal to 1."),
            ({"quantity": 2001}, "Ensure this value is less than or equal to 2000."),
            ({"quantity": 10**9}, "Ensure this value is less than or equal to 2000."),
            ({"quantity": 2**70}, "Ensure this value is less than or equal to 2000."),
            ({"quantity": 1.5}, "This must be a whole number."),
            ({"quantity": 2.0}, "This must be a whole number."),
            ({"quantity": True}, "This must be a whole number."),
            ({"quantity": "2"}, "This must be a whole number."),
            ({"quantity": Decimal(2)}, "This must be a whole number."),
            ({"quantity": None}, "This must be a whole number."),
            ({"sale_price": 549.9}, "This must be a decimal number."),
            ({"sale_price": True}, "This must be a decimal number."),
            ({"sale_price": "550"}, "This must be a decimal number."),
            ({"sale_price": -1}, "Ensure this value is greater than or equal to 0."),
            (
                {"sale_price": Decimal("1.005")},
                "Ensure that there are no more than 2 decimal places.",
            ),
            (
                {"sale_price": 10**13},
                "Ensure that there are no more than 12 digits before the decimal point.",
            ),
            (
                {"sale_price": Decimal("999999999999.99")},
                "Ensure that there are no more than 14 digits in total.",
            ),
            ({"sale_price": Decimal("NaN")}, "“NaN” value must be a decimal number."),
            ({"sale_price": Decimal("Infinity")}, "“Infinity” value must be a decimal number."),
            ({"customer_email": "nobody"}, "Enter a valid email address."),
            ({"customer_email": None}, "This must be text."),
            ({"customer_language": "a b"}, None),
        ],
    )
    def test_values_that_cannot_be_ordered_are_refused(
        self, change: dict[str, Any], message: str | None, simulator: Simulator
    ) -> None:
        [name] = change
        with pytest.raises(ValidationError) as caught:
            place_order(**LINE | change)
        plain = "Use letters, digits and punctuation only, without spaces."
        assert caught.value.message_dict[name][0] == (message or plain)
        assert list(caught.value.message_dict) == [name]
        assert not Order.objects.exists()
        assert simulator.requests == []

    @pytest.mark.parametrize("name", ["product_id", "type_id", "reference"])
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("", "This field cannot be blank."),
            ("x" * 101, "Ensure this value has at most 100 characters (it has 101)."),
            ("a b", "Use letters, digits and punctuation only, without spaces."),
            ("a\n", "Use letters, digits and punctuation only, without spaces."),
            ("a\0", "Use letters, digits and punctuation only, without spaces."),
            ("a\u202e", "Use letters, digits and punctuation only, without spaces."),
            ("é", "Use letters, digits and punctuation only, without spaces."),
            (7, "This must be text."),
            (b"a", "This must be text."),
        ],
    )
    def test_names_that_cannot_be_ordered_are_refused(
        self, name: str, value: Any, message: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            place_order(**LINE | {name: value})
        assert caught.value.message_dict[name][0] == message
        assert not Order.objects.exists()

    def test_an_order_without_a_product_is_refused(self) -> None:
        with pytest.raises(TypeError, match="product_type, or as product_id and type_id"):
            place_order(**LINE | {"product_id": None})


@pytest.mark.django_db(transaction=True)
class TestWaking:
    def test_a_placed_order_queues_a_sweep_after_the_commit_and_not_before(
        self, simulator: Simulator
    ) -> None:
        with transaction.atomic():
            order = place_order(**LINE)
            assert not OrmQ.objects.exists()
        [queued] = OrmQ.objects.all()
        task = queued.task
        assert task["func"] == "giftcards.tasks.sweep"
        assert (task["args"], task["kwargs"]) == ((), {})
        assert (task["save"], task["ack_failure"]) == (False, True)
        assert order.reference not in str(task)
        assert fresh(order).status == "PENDING"
        assert simulator.requests == []  # not even now: a worker sends it

    def test_a_placed_order_queues_and_sends_nothing_after_a_rollback(
        self, simulator: Simulator
    ) -> None:
        with transaction.atomic():
            place_order(**LINE)
            transaction.set_rollback(True)
        assert not Order.objects.exists()
        assert not OrmQ.objects.exists()
        run_sweep()
        assert simulator.requests == []

    def test_many_placed_orders_queue_one_sweep(self) -> None:
        for _order in range(3):
            place_order(**LINE)
        assert OrmQ.objects.count() == 1

    def test_a_queued_sweep_that_led_to_nothing_is_queued_again(self) -> None:
        place_order(**LINE)
        hold_lease(Lease.QUEUED_SWEEP, until=ago(0.5))
        place_order(**LINE)
        assert OrmQ.objects.count() == 2

    def test_no_sweep_is_queued_while_the_loop_runs(self) -> None:
        hold_lease(Lease.LOOP, token="other", until=ago(-5))
        place_order(**LINE)
        assert not OrmQ.objects.exists()
        Lease.objects.filter(name=Lease.LOOP).update(until=ago(0.1))
        place_order(**LINE)
        assert OrmQ.objects.count() == 1

    def test_of_four_concurrent_processes_one_queues_the_sweep(self, shared_database: str) -> None:
        assert in_threads(4, wake_worker) == [None] * 4
        assert OrmQ.objects.count() == 1

    def test_in_the_synchronous_mode_of_django_q_no_task_is_queued_or_run(
        self, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
    ) -> None:
        """In this mode, the task would run in the web request and follow the order."""
        monkeypatch.setattr(Conf, "SYNC", True)
        order = place_order(**LINE)
        assert fresh(order).status == "PENDING"
        assert simulator.requests == []
        assert not OrmQ.objects.exists()

    def test_a_task_queue_that_fails_does_not_fail_the_order(
        self, monkeypatch: pytest.MonkeyPatch, caplog: Log
    ) -> None:
        with transaction.atomic():
            order = place_order(**LINE)
            monkeypatch.setattr(OrmQ._meta, "db_table", "no_such_table")
        assert Order.objects.get() == order
        error = "OperationalError" if connection.vendor == "sqlite" else "ProgrammingError"
        assert messages(caplog) == [
            f"Queueing a task failed: {error}. The next tick does the work within about a minute."
        ]


@pytest.mark.django_db(transaction=True)
class TestIntentFirst:
    def test_an_order_is_claimed_and_committed_before_it_is_sent(self, wire: Wire) -> None:
        seen: list[tuple[str, bool]] = []

        def answer(request: object) -> tuple[int, dict[str, str], str]:
            stored = Order.objects.get()
            seen.append((stored.status, connection.in_atomic_block))
            assert stored.sent_at is not None
            assert stored.claimed_until > timezone.now()
            assert history(stored) == ["PLACING"]
            return 200, {}, '{"success": true, "data": {"orderId": "A1"}}'

        wire.add_callback("POST", PLACE, answer)
        buy()
        assert seen == [("PLACING", False)]

    def test_an_order_cannot_be_claimed_inside_a_transaction(self, simulator: Simulator) -> None:
        order = record_order(**LINE, reference=None)
        with pytest.raises(RuntimeError, match="durable atomic block"), transaction.atomic():
            claim_to_send(order)
        assert simulator.requests == []

    @pytest.mark.usefixtures("shared_database")
    def test_concurrent_processes_send_one_order_once(self, simulator: Simulator) -> None:
        pk = record_order(**LINE, reference=None).pk
        # MariaDB may report a deadlock if several processes insert a row that the test before has
        # deleted.
        ProviderState.objects.current()

        def attempt() -> str:
            with Gateway() as gateway:
                return send_now(Order.objects.get(pk=pk), gateway).status

        assert in_threads(4, attempt) == ["HANDLING"] * 4
        assert posts(simulator) == 1

    def test_concurrent_processes_record_one_reference_once(self, shared_database: str) -> None:
        found = in_threads(4, lambda: place_order(**LINE, reference="cart-1").pk)
        assert found == [Order.objects.get().pk] * 4

    @pytest.mark.usefixtures("shared_database")
    def test_concurrent_sweeps_send_each_order_once(self, simulator: Simulator) -> None:
        for _order in range(6):
            make_order()

        results = in_threads(3, send_waiting)
        assert [sum(counts) for counts in zip(*results, strict=True)] == [6, 0]
        assert posts(simulator) == 6


def enveloped(code: str, message: str = "Because.", **details: Any) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message, **details}}


ACCEPTED = (200, '{"success": true, "data": {"orderId": "A1"}}')


def page(status: int, **headers: str) -> dict[str, Any]:
    return {"status": status, "body": "<html>Oops</html>", "headers": headers}


@pytest.mark.django_db
class TestEndings:
    def check(self, order: Order, status: str, *told: Problem, is_over: bool = False) -> None:
        """Check that the order in the database and its history agree.

        If ``is_over`` is True, only the history has the problems.
        """
        stored = Order.objects.get(pk=order.pk)
        assert stored.status == order.status == status
        assert history(stored) == ["PLACING", status]
        last = stored.changes.last()
        assert (details(last), last.source) == (list(told), "placing")
        assert problems(stored) == ([] if is_over else list(told))
        assert stored.claimed_until is None

    def sweep_on(self) -> None:
        for _sweep in range(3):
            run_sweep()

    def test_an_accepted_order_is_in_progress_with_its_id_and_price(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        caplog.set_level(logging.INFO)
        began = timezone.now()
        order = buy()
        self.check(order, "HANDLING")
        [ordered] = simulator.orders.values()
        assert fresh(order).provider_order_id == ordered.id
        assert order.price_per_card == Decimal(490)
        for moment in (order.sent_at, order.accepted_at, order.due_at):
            assert began <= moment <= timezone.now()
        assert order.failures == 0
        accepted = f"Order {order.reference} was accepted as {ordered.id}."
        assert messages(caplog, logging.INFO) == [accepted]

    @pytest.mark.parametrize(("type_id", "price"), [("not-listed", 490), ("type_001", -490)])
    def test_an_order_of_an_unknown_or_impossible_price_is_accepted_without_one(
        self, type_id: str, price: int, wire: Wire
    ) -> None:
        answer = {"success": True, "data": {"types": [{"id": "type_001", "price": price}]}}
        wire.replace("GET", f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}", json=answer)
        wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
        order = buy(type_id=type_id)
        self.check(order, "HANDLING")
        assert order.price_per_card is None

    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            (
                {"json": enveloped("AUTH_UNAVAILABLE"), "status": 503},
                {"reason": "not_started", "provider_code": "AUTH_UNAVAILABLE"},
            ),
            (
                {"json": enveloped("RATE_LIMIT_EXCEEDED"), "status": 429},
                {"reason": "too_many_requests", "provider_code": "RATE_LIMIT_EXCEEDED"},
            ),
            (
                page(429),
                {
                    "reason": "too_many_requests",
                    "detail": "HTTP 429, the answer is not a JSON object",
                },
            ),
        ],
    )
    def test_an_order_that_the_provider_puts_off_is_sent_again_later(
        self, answer: dict[str, Any], why: dict[str, str], wire: Wire
    ) -> None:
        wire.post(PLACE, **answer)
        began = timezone.now()
        order = buy()
        self.check(order, "PENDING", Problem("not_sent", why))
        assert fresh(order).failures == 1
        assert timedelta(seconds=5) <= order.due_at - began < timedelta(seconds=10)
        self.sweep_on()
        wire.assert_call_count(PLACE, 1)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
    def test_an_order_that_did_not_reach_the_provider_waits_to_be_sent_again(
        self, url: str, closed_port: int, set_conf: Setter, caplog: Log
    ) -> None:
        set_conf(BASE_URL=url.format(port=closed_port))
        order = buy()
        why = {"reason": "not_started", "detail": "it could not be reached"}
        self.check(order, "PENDING", Problem("not_sent", why))
        assert messages(caplog) == []

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (3, 40), (6, 300), (2_000_000, 300)]
    )
    def test_an_order_that_cannot_be_sent_is_put_off_longer_each_time(
        self, failures: int, seconds: int, wire: Wire
    ) -> None:
        wire.post(PLACE, json=enveloped("AUTH_UNAVAILABLE"), status=503)
        order = make_order(failures=failures)
        began = timezone.now()
        with Gateway() as gateway:
            assert send(order, gateway) is True
        assert fresh(order).failures == failures + 1
        pause = (order.due_at - began).total_seconds()
        assert seconds <= pause <= seconds * 1.25 + 2

    def test_orders_that_failed_together_are_not_retried_at_the_same_moment(
        self, wire: Wire
    ) -> None:
        wire.post(PLACE, json=enveloped("AUTH_UNAVAILABLE"), status=503)
        pauses = set()
        for order in [buy() for _order in range(4)]:
            pauses.add(order.due_at - order.sent_at)
        assert len(pauses) > 1

    @pytest.mark.parametrize(
        ("retry_after", "seconds"),
        [
            ("30", 30), ("1", 5), ("86400", 900), ("Fri, 01 Jan 2099 00:00:00 GMT", 900),
            ("soon", 5), ("-5", 5), ("", 5),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("status", [429, 503])
    def test_an_order_is_put_off_for_as_long_as_retry_after_asks(
        self, status: int, retry_after: str, seconds: int, wire: Wire
    ) -> None:
        answer = enveloped("RATE_LIMIT_EXCEEDED" if status == 429 else "AUTH_UNAVAILABLE")
        wire.post(PLACE, json=answer, status=status, headers={"Retry-After": retry_after})
        began = timezone.now()
        order = buy()
        assert order.status == "PENDING"
        pause = (order.due_at - began).total_seconds()
        assert seconds - 0.1 <= pause <= seconds + 3
        state = ProviderState.objects.get()
        assert state.pause == ("rate" if status == 429 else "")

    @pytest.mark.parametrize(
        ("code", "message", "status", "told"),
        [
            ("ERR_VALIDATION", "Because.", 400, {"message": "Because."}),
            ("OUT_OF_STOCK", "", 400, {"reason": "out_of_stock"}),
            ("NO_BALANCE", "Because.", 403, {"reason": "no_balance", "message": "Because."}),
            (
                "INSUFFICIENT_BALANCE",
                "x" * 900,
                403,
                {"reason": "no_balance", "message": "x" * 500},
            ),
            ("NOT_FOUND", "No\ntype.", 404, {"message": "No type."}),
            ("NEW_CODE", "Because.", 422, {"message": "Because."}),
        ],
    )
    def test_an_order_that_the_provider_refuses_is_rejected(
        self, code: str, message: str, status: int, told: dict[str, str], wire: Wire, caplog: Log
    ) -> None:
        wire.post(PLACE, json=enveloped(code, message), status=status)
        order = buy()
        refusal = Problem("refused", {**told, "provider_code": code})
        self.check(order, "REJECTED", refusal, is_over=True)
        assert fresh(order).finalized_at is not None
        assert order.due_at is None
        assert messages(caplog) == [f"Order {order.reference} is REJECTED. {refusal}"]
        self.sweep_on()
        wire.assert_call_count(PLACE, 1)

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            # Each answer lacks something different. All other answers are rows of tests/faults.
            ({"body": '{"success": true, "da'}, "the answer is not a JSON object"),
            ({"json": {"success": True}}, "the answer has no data"),
            (
                {"json": {"success": True, "data": {}}},
                "the answer does not contain a usable order id",
            ),
            (page(503, **{"Retry-After": "5"}), "the answer is not a JSON object"),
            ({"json": {"message": "No", "statusCode": 404}, "status": 404}, ""),
            ({"json": enveloped("INTERNAL_ERROR"), "status": 500}, ""),
            ({"body": ConnectionResetError(104, "reset")}, "the connection broke"),
        ],
    )
    def test_an_order_whose_placing_answer_is_lost_is_unconfirmed_and_not_resent(
        self, answer: dict[str, Any], detail: str, wire: Wire, caplog: Log
    ) -> None:
        wire.post(PLACE, **answer)
        order = buy()
        [_, change] = order.changes.all()
        [problem] = details(change)
        assert problem.code == "answer_lost"
        assert detail in str(problem)
        self.check(order, "UNCONFIRMED", problem)
        # The app will soon look for the order at the provider, and does not send it again.
        assert ago(-5) < fresh(order).due_at < ago(-11)
        assert messages(caplog) == [f"Order {order.reference} is UNCONFIRMED. {problem}"]
        self.sweep_on()
        wire.assert_call_count(PLACE, 1)
        assert fresh(order).status == "UNCONFIRMED"

    def test_an_order_without_an_answer_in_time_is_unconfirmed(
        self, simulator: Simulator, shorten: Setter
    ) -> None:
        shorten(request_timeout=1)
        released = threading.Event()
        simulator.on_request = lambda request: request.method == "POST" and released.wait(30)
        order = buy()
        released.set()
        why = {"detail": "no complete answer within 1 s"}
        self.check(order, "UNCONFIRMED", Problem("answer_lost", why))
        assert len(simulator.orders) == 1
        # This is what a card costs if the order was bought.
        assert order.price_per_card == 490

    @pytest.mark.parametrize("name", ["provider_order_id", "provider_alias"])
    def test_an_order_answered_with_an_id_of_another_order_is_unconfirmed(
        self, name: str, wire: Wire, caplog: Log
    ) -> None:
        """Otherwise, both orders would get the same cards."""
        ids = {"provider_order_id": "B1", "provider_alias": "", name: "A1"}
        other = make_order(Status.HANDLING, **ids)
        wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
        order = buy()
        problem = Problem("id_taken", A1)
        self.check(order, "UNCONFIRMED", problem)
        assert fresh(order).provider_order_id is None
        assert messages(caplog) == [f"Order {order.reference} is UNCONFIRMED. {problem}"]
        assert (order.answered_id, order.price_at_placing) == ("A1", 490)
        assert {key: getattr(fresh(other), key) for key in ids} == ids

    @pytest.mark.parametrize("left", [4, 1])
    def test_an_order_stays_pending_without_being_sent_if_the_key_is_wrong(
        self, left: int, simulator: Simulator
    ) -> None:
        simulator.keys = ["another"]
        simulator.lockout = left + 1
        plural = "" if left == 1 else "s"
        order = buy()
        detail = (
            f"The provider refused the API key (INVALID_ACCESS_TOKEN, {left} attempt{plural} left)."
            " Correct GIFTCARDS['API_KEY'] first: further attempts will block this server."
        )
        # The order is unchanged, and only the refused key keeps it back.
        assert (fresh(order).status, problems(order), history(order)) == ("PENDING", [], [])
        assert order.due_at <= timezone.now()
        assert [request.path.split("/")[3] for request in simulator.requests] == ["checkProduct"]
        assert (own_key().is_refused, own_key().refusal) == (True, detail)
        assert provider_state().pause == ""

    def test_an_order_stays_pending_if_the_key_is_revoked_before_it_is_sent(
        self, wire: Wire
    ) -> None:
        wire.post(PLACE, json=enveloped("INVALID_ACCESS_TOKEN"), status=401)
        order = buy()
        why = {"reason": "key_refused", "provider_code": "INVALID_ACCESS_TOKEN"}
        self.check(order, "PENDING", Problem("not_sent", why))
        assert fresh(order).failures == 0
        assert order.due_at <= timezone.now()  # as soon as the key is good again
        assert own_key().is_refused

    @pytest.mark.django_db(transaction=True)
    def test_a_refused_key_is_remembered_even_if_the_order_cannot_be_written(
        self, wire: Wire, shorten: Setter
    ) -> None:
        shorten(database_patience=0)
        wire.post(PLACE, json=enveloped("INVALID_ACCESS_TOKEN"), status=401)

        def posted() -> int:
            return [call.request.method for call in wire.calls].count("POST")

        # Once the request is made, no change of an order can be recorded.
        error = IntegrityError("Failing row contains (CANARY).")
        failure = failing("INSERT", "statuschange", error=error, when=lambda *_: posted())
        orders = [record_order(**LINE, reference=None) for _order in range(2)]
        with failure, Gateway() as gateway:
            assert send(orders[0], gateway)
            assert not send(orders[1], gateway)
        assert statuses() == ["PLACING", "PENDING"]
        assert own_key().is_refused
        assert posted() == 1

    def test_an_order_that_was_put_off_is_sent_at_last(self, simulator: Simulator) -> None:
        # The price and the environment of the key are requested before.
        simulator.rate_limit = 2
        simulator.keys = []
        order = buy()
        assert order.status == "PENDING"
        simulator.rate_limit = 0
        ProviderState.objects.update(paused_until=ago(1))
        with Gateway() as gateway:
            order = send_now(order, gateway)
        assert order.status == "HANDLING"
        assert (order.failures, problems(order)) == (0, [])
        assert history(order) == ["PLACING", "PENDING", "PLACING", "HANDLING"]
        assert posts(simulator) == 2


@pytest.mark.django_db
class TestLateAnswers:
    """The order was taken for lost while its answer was still on the way."""

    def buy_while(
        self,
        wire: Wire,
        happens: Callable[..., bool] = lambda _lost: True,
        *args: Any,
        answer: tuple[int, str] = ACCEPTED,
        **kwargs: Any,
    ) -> Order:
        """Buy an order that is taken for lost before its answer, and call ``happens`` then."""

        def reply(request: object) -> tuple[int, dict[str, str], str]:
            lost = Order.objects.get()
            mark_unconfirmed(lost)
            assert happens(lost, *args, **kwargs)
            status, body = answer
            return status, {}, body

        wire.add_callback("POST", PLACE, reply)
        order = buy()
        wire.assert_call_count(PLACE, 1)
        return fresh(order)

    @pytest.mark.parametrize(
        ("answer", "status", "held"),
        [
            (ACCEPTED, "HANDLING", []),
            ((400, json.dumps(enveloped("OUT_OF_STOCK"))), "REJECTED", []),
            ((503, json.dumps(enveloped("AUTH_UNAVAILABLE"))), "PENDING", ["not_sent"]),
        ],
    )
    def test_a_late_placing_answer_of_an_order_taken_for_lost_is_recorded(
        self, answer: tuple[int, str], status: str, held: list[str], wire: Wire
    ) -> None:
        order = self.buy_while(wire, answer=answer)
        assert (order.status, [problem.code for problem in problems(order)]) == (status, held)
        assert history(order) == ["PLACING", "UNCONFIRMED", status]
        assert order.provider_order_id == ("A1" if status == "HANDLING" else None)

    def test_a_late_placing_answer_without_content_changes_nothing(
        self, wire: Wire, caplog: Log
    ) -> None:
        order = self.buy_while(wire, answer=(500, ""))
        assert (order.status, problems(order)) == ("UNCONFIRMED", [DIED])
        assert history(order) == ["PLACING", "UNCONFIRMED"]
        assert messages(caplog)[-1].startswith(
            f"Order {order.reference} is already UNCONFIRMED, but the attempt to send it ended as"
            " UNCONFIRMED."
        )

    def test_a_late_placing_answer_of_an_earlier_attempt_is_shown_as_a_problem(
        self, wire: Wire, caplog: Log
    ) -> None:
        def overtake(request: object) -> tuple[int, dict[str, str], str]:
            Order.objects.update(claim="another attempt")
            return 200, {}, '{"success": true, "data": {"orderId": "A1"}}'

        wire.add_callback("POST", PLACE, overtake)
        caplog.set_level(logging.INFO)
        order = buy()
        assert (fresh(order).status, order.provider_order_id) == ("PLACING", None)
        assert messages(caplog, logging.INFO) == [
            f"Order {order.reference} was accepted as A1.",
            f"Order {order.reference} is already PLACING. {AFTER_ALL}",
        ]
        assert problems(order) == [AFTER_ALL]

    def test_a_late_acceptance_keeps_an_absent_order_from_being_resent(self, wire: Wire) -> None:
        """The order waits to be sent again, which would buy it twice."""
        source = StatusChange.Source.RECOVERY
        order = self.buy_while(wire, declare_absent, send_again=True, source=source)
        assert (order.status, order.provider_order_id) == ("HANDLING", "A1")
        assert history(order) == ["PLACING", "UNCONFIRMED", "PENDING", "PLACING", "HANDLING"]

    @pytest.mark.parametrize("decision", ["held", "approved"])
    def test_a_late_acceptance_keeps_an_absent_order_that_is_on_hold_from_being_resent(
        self, decision: str, wire: Wire
    ) -> None:
        """Otherwise, an approval of the price, before or after, would buy the order twice."""

        def queue_and_hold(lost: Order) -> bool:
            assert declare_absent(lost, send_again=True, source=StatusChange.Source.RECOVERY)
            put_on_hold_for_price(lost, price=Decimal(600), ceiling=Decimal(550))
            assert fresh(lost).is_on_hold
            return decision == "held" or bool(approve_price(lost, 600, by="amina"))

        order = self.buy_while(wire, queue_and_hold)
        assert (order.status, order.provider_order_id) == ("HANDLING", "A1")
        assert history(order)[-2:] == ["PLACING", "HANDLING"]

    def test_a_late_acceptance_under_a_taken_id_keeps_an_absent_order_from_being_resent(
        self, wire: Wire
    ) -> None:
        def lose_the_id(lost: Order) -> bool:
            make_order(Status.HANDLING, provider_order_id="A1")
            return declare_absent(lost, send_again=True, source=StatusChange.Source.RECOVERY)

        order = self.buy_while(wire, lose_the_id)
        assert (order.status, order.answered_id) == ("UNCONFIRMED", "A1")
        assert [problem.code for problem in problems(order)] == ["id_taken"]

    def test_a_late_answer_without_content_keeps_an_absent_order_from_being_resent(
        self, wire: Wire
    ) -> None:
        sent_at: list[object] = []

        def declare(lost: Order) -> bool:
            sent_at.append(lost.sent_at)
            return declare_absent(lost, send_again=True, source=StatusChange.Source.RECOVERY)

        order = self.buy_while(wire, declare, answer=(500, ""))
        # The app searches for the order at the time at which it was sent.
        assert (order.status, [order.sent_at]) == ("UNCONFIRMED", sent_at)

    def test_a_new_attempt_knows_nothing_of_an_earlier_one(self, wire: Wire) -> None:
        order = make_order(
            absent_since=ago(300),
            candidates=[{"id": "B1"}],
            answered_id="S1",
            checked_at=ago(300),
            is_insisted=True,
        )
        wire.post(PLACE, status=500)
        with Gateway() as gateway:
            send(order, gateway)
        assert fresh(order).status == "UNCONFIRMED"
        assert (order.absent_since, order.candidates, order.answered_id) == (None, [], "")
        assert (order.checked_at, order.is_insisted) == (None, False)

    def test_a_late_acceptance_of_an_order_found_meanwhile_changes_nothing(
        self, wire: Wire, caplog: Log
    ) -> None:
        order = self.buy_while(wire, adopt, "A1", source=StatusChange.Source.RECOVERY)
        assert (order.status, order.provider_order_id) == ("HANDLING", "A1")
        assert problems(order) == []
        # The log says that the order was lost, and nothing after that.
        assert messages(caplog) == [f"Order {order.reference} is UNCONFIRMED. {DIED}"]

    def test_a_late_acceptance_of_a_rejected_order_is_shown_as_a_problem(self, wire: Wire) -> None:
        source = StatusChange.Source.STAFF
        order = self.buy_while(wire, declare_absent, send_again=False, source=source)
        assert order.status == "REJECTED"
        assert problems(order) == [AFTER_ALL]

    def test_a_process_delayed_before_its_claim_does_not_send_the_order_again(
        self, set_conf: Setter
    ) -> None:
        """While this process asked for the price, another process sent the order."""
        set_conf(BASE_URL=PROVIDER)
        prove_key()  # otherwise the other one waits until this one's probe of the key has expired
        asked = []

        def send_it_elsewhere(request: object) -> tuple[int, dict[str, str], str]:
            asked.append(request)
            if len(asked) == 1:
                with Gateway() as gateway:
                    assert send_now(Order.objects.get(), gateway).status == "HANDLING"
            return 200, {}, json.dumps(PRICES)

        with responses.RequestsMock() as wire:
            price = f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}"
            wire.add_callback("GET", price, send_it_elsewhere)
            wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
            buy()
            wire.assert_call_count(PLACE, 1)


@pytest.mark.django_db
class TestSendNow:
    def test_send_now_does_not_send_an_accepted_order_again(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            order = send_now(record_order(**LINE, reference=None), gateway)
            assert order.status == "HANDLING"
            assert send_now(order, gateway).status == "HANDLING"
        assert posts(simulator) == 1
        assert ProviderState.objects.get().succeeded_at is not None

    @pytest.mark.parametrize("status", [status for status in Status if status != "PENDING"])
    def test_send_now_sends_only_pending_orders(self, status: Status, simulator: Simulator) -> None:
        order = make_order(status)
        with Gateway() as gateway:
            assert send_now(order, gateway).status == status
        assert simulator.requests == []

    def test_send_now_waits_for_the_process_that_is_sending_the_order(
        self, simulator: Simulator
    ) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(-0.3))
        with Gateway() as gateway:
            assert send_now(order, gateway).status == "PLACING"
        assert timezone.now() >= order.claimed_until
        assert simulator.requests == []

    def test_send_now_sends_nothing_during_a_pause(self, simulator: Simulator) -> None:
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
        with Gateway() as gateway:
            assert send_now(make_order(), gateway).status == "PENDING"
        assert simulator.requests == []


def send_waiting(should_continue: Callable[[], bool] = lambda: True) -> tuple[int, int]:
    """Send all waiting orders, oldest first, and return the numbers of accepted and failed ones."""
    waiting = list(Order.objects.filter(status=Status.PENDING).order_by("due_at", "pk"))
    with Gateway() as gateway:
        return send_due(waiting, gateway, should_continue=should_continue)


@pytest.mark.django_db
class TestSendDue:
    def test_orders_that_are_due_are_sent_oldest_first(self, simulator: Simulator) -> None:
        late, later = make_order(due_at=ago(5)), make_order(due_at=ago(9))
        unripe = make_order(due_at=ago(-60))
        assert run_sweep().sent == 2
        assert list(simulator.orders) == [fresh(o).provider_order_id for o in (later, late)]
        assert fresh(unripe).status == "PENDING"

    def test_sending_due_orders_stops_when_told_to(self, simulator: Simulator) -> None:
        for _order in range(3):
            make_order()
        assert send_waiting(iter([True, False]).__next__) == (1, 0)
        assert posts(simulator) == 1

    def test_sending_due_orders_stops_when_the_budget_is_spent(
        self, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        for _order in range(9):
            make_order()
        spend_budget(but=4)
        assert send_waiting() == (4, 0)
        assert posts(simulator) == 4

    @pytest.mark.parametrize(
        ("type_ids", "counts", "expected"),
        [
            (["SIM_REJECT", "type_001"] * 2, (2, 2), ["REJECTED", "HANDLING"] * 2),
            # In an outage, each further order would be lost as well.
            *(
                (["type_001", lost, "type_001"], (1, 1), ["HANDLING", "UNCONFIRMED", "PENDING"])
                for lost in ("SIM_LOST", "SIM_ERROR", "SIM_DROP")
            ),
        ],
    )
    @pytest.mark.usefixtures("simulator")
    def test_a_lost_placing_answer_but_no_rejection_stops_the_sending_of_other_orders(
        self, type_ids: list[str], counts: tuple[int, int], expected: list[str]
    ) -> None:
        for type_id in type_ids:
            make_order(type_id=type_id)
        assert send_waiting() == counts
        assert statuses() == expected

    @pytest.mark.parametrize(
        ("trouble", "failed"), [({"keys": ["another"]}, 0), ({"rate_limit": 2}, 1)]
    )
    def test_sending_due_orders_stops_when_calls_have_to_stop(
        self, trouble: dict[str, Any], failed: int, simulator: Simulator
    ) -> None:
        """The price is requested first, so a wrong key is found out before an order is touched."""
        vars(simulator).update(trouble)
        for _order in range(3):
            make_order()
        assert send_waiting() == (0, failed)
        assert len([request for request in simulator.requests if request.status != 200]) == 1


@pytest.mark.django_db
class TestGivingUp:
    def test_an_order_whose_sender_died_is_unconfirmed_and_not_resent(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(0.1))
        of_a_living_process = make_order(Status.PLACING, claim="y", claimed_until=ago(-30))
        run_sweep()
        assert fresh(of_a_living_process).status == "PLACING"
        assert (fresh(order).status, problems(order)) == ("UNCONFIRMED", [DIED])
        # The app looked for the order at once, and never sends it again by itself.
        assert (lists(simulator), posts(simulator)) == (1, 0)
        change = order.changes.get()
        assert (change.source, details(change)) == ("recovery", [DIED])
        assert messages(caplog) == [f"Order {order.reference} is UNCONFIRMED. {DIED}"]
        run_sweep()
        assert [request.path for request in simulator.requests] == ["/v3/gift-cards/list"]

    def test_an_answer_at_the_last_moment_keeps_an_order_from_being_unconfirmed(
        self, caplog: Log
    ) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(1))

        def answer(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE") and waiting:
                waiting.pop().move(Status.REJECTED, source=StatusChange.Source.PLACING)
            return execute(sql, *args)

        waiting, stale = [Order.objects.get()], Order.objects.get()
        with connection.execute_wrapper(answer):
            mark_unconfirmed(stale)
        assert history(order) == ["REJECTED"]
        assert messages(caplog) == []

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.usefixtures("shared_database")
    def test_concurrent_processes_mark_an_order_unconfirmed_once(self) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(1))
        seen = [Order.objects.get() for _process in range(4)]
        assert in_threads(4, lambda: mark_unconfirmed(seen.pop())) == [None] * 4
        assert history(order) == ["UNCONFIRMED"]


@pytest.mark.django_db
class TestSendTimeout:
    """An order that could not be sent for too long is rejected, because the customer has left."""

    def test_an_order_that_could_not_be_sent_for_an_hour_is_rejected(
        self, simulator: Simulator, caplog: Log
    ) -> None:
        unsent = Problem("not_sent", {"reason": "not_started"})
        late = make_order(queued_at=ago(3601), problems=[unsent])
        intime = make_order(queued_at=ago(3590), due_at=ago(-60))
        run_sweep()
        assert [fresh(late).status, fresh(intime).status] == ["REJECTED", "PENDING"]
        change = late.changes.get()
        assert change.source == "clock"
        assert details(change) == [Problem("given_up", {"seconds": "3600"})]
        assert (ended(change), problems(late)) == ([unsent], [])
        assert posts(simulator) == 0

    @pytest.mark.parametrize(("timeout", "is_paused"), [(5, False), (3600, True)])
    def test_an_order_is_given_up_as_the_setting_says_though_calls_are_paused(
        self, timeout: int, is_paused: bool, simulator: Simulator, set_conf: Setter
    ) -> None:
        set_conf(SEND_TIMEOUT=timeout)
        order = make_order(queued_at=ago(timeout + 1))
        if is_paused:
            ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60))
        assert run_sweep().is_paused is is_paused
        assert history(order) == ["REJECTED"]
        assert posts(simulator) == 0

    def test_an_order_that_was_claimed_meanwhile_is_not_given_up(self) -> None:
        order = make_order(queued_at=ago(3601))
        stale = Order.objects.get()
        assert claim_to_send(order)
        give_up(stale)
        assert history(order) == ["PLACING"]
