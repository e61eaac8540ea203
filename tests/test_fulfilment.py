"""Placing orders: recorded first, sent once, every ending on record."""

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

from giftcards.exceptions import ReferenceConflict
from giftcards.following import sweep
from giftcards.fulfilment import (
    call_unconfirmed,
    claim,
    give_up,
    place_order,
    record_order,
    send,
    send_due,
    send_now,
    wake_worker,
)
from giftcards.gateway import Gateway
from giftcards.models import Order, ProviderState, StatusChange
from giftcards.recovery import adopt, declare_absent
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from tests.engine import (
    LINE,
    PLACE,
    PRICES,
    PROVIDER,
    PSN,
    ago,
    buy,
    history,
    in_threads,
    make_order,
    messages,
    posts,
    statuses,
)

pytest_plugins = ["tests.engine_fixtures"]

NOT_KNOWN = (
    "Whether it was bought is not known; it is sent again only if it is proven that it was not."
)
DIED = f"The process that was sending the order died. {NOT_KNOWN}"
NOT_STARTED = "The provider has not started on the request"


@pytest.mark.django_db
class TestRecording:
    def test_everything_is_kept(self) -> None:
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
        assert stored.due_at is not None
        assert stored.due_at <= timezone.now()
        assert history(stored) == []

    def test_a_reference_is_made_up(self) -> None:
        assert place_order(**LINE).reference != place_order(**LINE).reference
        assert Order.objects.count() == 2

    def test_the_same_reference_gives_the_same_order(self) -> None:
        first = place_order(**LINE, reference="cart-1", sale_price=550)
        Order.objects.update(status=Status.PLACING)
        again = place_order(**LINE, reference="cart-1", sale_price=600)
        assert again == first
        assert (again.status, again.sale_price) == ("PLACING", Decimal(550))

    @pytest.mark.parametrize(
        "change", [{"quantity": 3}, {"type_id": "type_003"}, {"product_id": "other"}]
    )
    def test_the_same_reference_for_another_line(self, change: dict[str, Any]) -> None:
        place_order(**LINE, reference="cart-1")
        with pytest.raises(ReferenceConflict) as caught, transaction.atomic():
            place_order(**LINE | change, reference="cart-1")
        assert str(caught.value) == (
            f"The reference cart-1 already names an order of 2 × type_001 ({PSN})."
            " Use another reference for another line."
        )
        assert Order.objects.count() == 1

    def test_a_conflict_leaves_the_callers_transaction_usable(self) -> None:
        place_order(**LINE, reference="cart-1")
        with transaction.atomic():
            with pytest.raises(ReferenceConflict):
                place_order(**LINE | {"quantity": 3}, reference="cart-1")
            place_order(**LINE, reference="cart-2")
        assert Order.objects.count() == 2

    def test_other_trouble_is_not_taken_for_a_known_reference(self) -> None:
        def fail(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("INSERT"):
                raise IntegrityError("another constraint")
            return execute(sql, *args)

        expected = pytest.raises(IntegrityError, match="another constraint")
        with connection.execute_wrapper(fail), expected:
            place_order(**LINE)

    def test_letter_case_matters(self) -> None:
        """Some databases would take one for the other."""
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
            ({"sale_price": Decimal("NaN")}, "“NaN” value must be a decimal number."),
            ({"sale_price": Decimal("Infinity")}, "“Infinity” value must be a decimal number."),
            ({"customer_email": "nobody"}, "Enter a valid email address."),
            ({"customer_email": None}, "This must be a text."),
            ({"customer_language": "a b"}, None),
        ],
    )
    def test_values_that_cannot_be_ordered(
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
            (7, "This must be a text."),
            (b"a", "This must be a text."),
        ],
    )
    def test_names_that_cannot_be_ordered(self, name: str, value: Any, message: str) -> None:
        with pytest.raises(ValidationError) as caught:
            place_order(**LINE | {name: value})
        assert caught.value.message_dict[name][0] == message
        assert not Order.objects.exists()

    def test_no_product(self) -> None:
        with pytest.raises(ValidationError) as caught:
            place_order(**LINE | {"product_id": None})
        assert caught.value.message_dict == {"product_id": ["This must be a text."]}


@pytest.mark.django_db(transaction=True)
class TestWaking:
    def test_nothing_before_the_commit(self, simulator: Simulator) -> None:
        with transaction.atomic():
            order = place_order(**LINE)
            assert not OrmQ.objects.exists()
        [queued] = OrmQ.objects.all()
        task = queued.task
        assert task["func"] == "giftcards.tasks.sweep"
        assert (task["args"], task["kwargs"]) == ((), {})
        assert (task["save"], task["ack_failure"]) == (False, True)
        assert order.reference not in str(task)
        order.refresh_from_db()
        assert order.status == "PENDING"
        assert simulator.requests == []  # not even now: a worker sends it

    def test_nothing_after_a_rollback(self, simulator: Simulator) -> None:
        with transaction.atomic():
            place_order(**LINE)
            transaction.set_rollback(True)
        assert not Order.objects.exists()
        assert not OrmQ.objects.exists()
        with Gateway() as gateway:
            sweep(gateway)
        assert simulator.requests == []

    def test_kicks_are_not_piled_up(self) -> None:
        for _order in range(3):
            place_order(**LINE)
        assert OrmQ.objects.count() == 1

    def test_a_kick_that_led_to_nothing_is_repeated(self) -> None:
        place_order(**LINE)
        ProviderState.objects.update(kicked_at=ago(10.5))
        place_order(**LINE)
        assert OrmQ.objects.count() == 2

    def test_no_kick_while_the_loop_runs(self) -> None:
        ProviderState.objects.create(loop_token="other", loop_until=ago(-5))
        place_order(**LINE)
        assert not OrmQ.objects.exists()
        ProviderState.objects.update(loop_until=ago(0.1))
        place_order(**LINE)
        assert OrmQ.objects.count() == 1

    def test_at_once(self, shared_database: str) -> None:
        assert in_threads(4, wake_worker) == [None] * 4
        assert OrmQ.objects.count() == 1

    def test_in_the_synchronous_mode_of_django_q(
        self, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
    ) -> None:
        """There the task would run in the web request, and follow the order."""
        monkeypatch.setattr(Conf, "SYNC", True)
        order = place_order(**LINE)
        order.refresh_from_db()
        assert order.status == "PENDING"
        assert simulator.requests == []
        assert not OrmQ.objects.exists()

    def test_a_queue_that_fails_does_not_fail_the_order(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with transaction.atomic():
            order = place_order(**LINE)
            monkeypatch.setattr(OrmQ._meta, "db_table", "no_such_table")
        assert Order.objects.get() == order
        assert "Error calling wake_worker in on_commit()" in caplog.text


@pytest.mark.django_db(transaction=True)
class TestIntentFirst:
    def test_the_claim_is_committed_before_the_request(self, wire: responses.RequestsMock) -> None:
        seen: list[tuple[str, bool]] = []

        def answer(request: object) -> tuple[int, dict[str, str], str]:
            stored = Order.objects.get()
            seen.append((stored.status, connection.in_atomic_block))
            assert stored.sent_at is not None
            assert stored.claimed_until is not None
            assert stored.claimed_until > timezone.now()
            assert history(stored) == ["PLACING"]
            return 200, {}, '{"success": true, "data": {"orderId": "A1"}}'

        wire.add_callback("POST", PLACE, answer)
        buy()
        assert seen == [("PLACING", False)]

    def test_not_inside_a_transaction(self, simulator: Simulator) -> None:
        order = record_order(**LINE, reference=None)
        with pytest.raises(RuntimeError, match="durable atomic block"), transaction.atomic():
            claim(order)
        assert simulator.requests == []

    def test_two_processes_send_it_once(self, simulator: Simulator, shared_database: str) -> None:
        pk = record_order(**LINE, reference=None).pk

        def attempt() -> str:
            with Gateway() as gateway:
                return send_now(Order.objects.get(pk=pk), gateway).status

        assert in_threads(4, attempt) == ["HANDLING"] * 4
        assert posts(simulator) == 1

    def test_two_processes_record_it_once(self, shared_database: str) -> None:
        found = in_threads(4, lambda: place_order(**LINE, reference="cart-1").pk)
        assert found == [Order.objects.get().pk] * 4

    def test_two_sweeps_send_each_once(self, simulator: Simulator, shared_database: str) -> None:
        for _order in range(6):
            make_order()

        def attempt() -> tuple[int, int]:
            with Gateway() as gateway:
                return send_due(waiting(), gateway, go_on=lambda: True)

        results = in_threads(3, attempt)
        assert [sum(counts) for counts in zip(*results, strict=True)] == [6, 0]
        assert posts(simulator) == 6


def enveloped(code: str, message: str = "Because.", **details: Any) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": message, **details}}


def page(status: int, **headers: str) -> dict[str, Any]:
    return {"status": status, "body": "<html>Oops</html>", "headers": headers}


UNUSABLE = "The provider gave no usable answer"
ASKED_TOO_OFTEN = "The provider has been asked too often"
REFUSED = "The provider refused the request"


@pytest.mark.django_db
class TestEndings:
    def check(self, order: Order, status: str, detail: str, problem: str) -> None:
        """The order in the database and its history say the same."""
        stored = Order.objects.get(pk=order.pk)
        assert stored.status == order.status == status
        assert history(stored) == ["PLACING", status]
        last = stored.changes.last()
        assert last is not None
        assert (last.detail, last.source) == (detail, "placing")
        assert stored.problem == problem
        assert stored.claimed_until is None

    def sweep_on(self, order: Order) -> None:
        with Gateway() as gateway:
            for _sweep in range(3):
                sweep(gateway)

    def test_accepted(self, simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        began = timezone.now()
        order = buy()
        self.check(order, "HANDLING", "", "")
        [ordered] = simulator.orders.values()
        order.refresh_from_db()
        assert order.provider_order_id == ordered.id
        assert order.price_per_card == Decimal(490)
        for moment in (order.sent_at, order.accepted_at, order.due_at):
            assert moment is not None
            assert began <= moment <= timezone.now()
        assert order.failures == 0
        accepted = f"Order {order.reference} was accepted as {ordered.id}."
        assert messages(caplog, logging.INFO) == [accepted]

    def test_accepted_at_an_unknown_price(self, simulator: Simulator) -> None:
        order = buy(type_id="TEST_PARTIAL")
        self.check(order, "HANDLING", "", "")
        assert order.price_per_card is None

    def test_accepted_at_a_price_that_cannot_be(self, wire: responses.RequestsMock) -> None:
        answer = {"success": True, "data": {"types": [{"id": "type_001", "price": -490}]}}
        wire.replace("GET", f"{PROVIDER}/v3/gift-cards/checkProduct/{PSN}", json=answer)
        wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
        order = buy()
        self.check(order, "HANDLING", "", "")
        assert order.price_per_card is None

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            ({"json": enveloped("AUTH_UNAVAILABLE"), "status": 503}, "AUTH_UNAVAILABLE"),
            ({"json": enveloped("RATE_LIMIT_EXCEEDED"), "status": 429}, "RATE_LIMIT_EXCEEDED"),
            (page(429), "HTTP 429, the answer is not a JSON object"),
        ],
    )
    def test_put_off(
        self, answer: dict[str, Any], detail: str, wire: responses.RequestsMock
    ) -> None:
        wire.post(PLACE, **answer)
        text = ASKED_TOO_OFTEN if answer["status"] == 429 else NOT_STARTED
        began = timezone.now()
        order = buy()
        self.check(order, "PENDING", f"{text} ({detail}).", f"Not sent yet: {text} ({detail}).")
        order.refresh_from_db()
        assert order.failures == 1
        assert order.due_at is not None
        assert timedelta(seconds=5) <= order.due_at - began <= timedelta(seconds=7)
        self.sweep_on(order)
        wire.assert_call_count(PLACE, 1)

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "https://127.0.0.1:{port}"])
    def test_not_reached(
        self,
        url: str,
        closed_port: int,
        set_conf: Callable[..., None],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        set_conf(BASE_URL=url.format(port=closed_port))
        order = buy()
        detail = f"{NOT_STARTED} (it could not be reached)."
        self.check(order, "PENDING", detail, f"Not sent yet: {detail}")
        assert messages(caplog) == []

    @pytest.mark.parametrize(
        ("failures", "seconds"), [(0, 5), (1, 10), (3, 40), (6, 300), (2_000_000, 300)]
    )
    def test_is_put_off_longer_each_time(
        self, failures: int, seconds: int, wire: responses.RequestsMock
    ) -> None:
        wire.post(PLACE, json=enveloped("AUTH_UNAVAILABLE"), status=503)
        order = make_order(failures=failures)
        began = timezone.now()
        with Gateway() as gateway:
            assert send(order, gateway) is True
        order.refresh_from_db()
        assert order.failures == failures + 1
        assert order.due_at is not None
        pause = (order.due_at - began).total_seconds()
        assert seconds <= pause <= seconds * 1.25 + 2

    def test_pauses_differ(self, wire: responses.RequestsMock) -> None:
        wire.post(PLACE, json=enveloped("AUTH_UNAVAILABLE"), status=503)
        pauses = set()
        for order in [buy() for _order in range(4)]:
            assert order.due_at is not None
            assert order.sent_at is not None
            pauses.add(round((order.due_at - order.sent_at).total_seconds(), 1))
        assert len(pauses) > 1

    @pytest.mark.parametrize(
        ("retry_after", "seconds"),
        [
            ("30", 30),
            ("1", 5),
            ("86400", 900),
            ("Fri, 01 Jan 2099 00:00:00 GMT", 900),
            ("soon", 5),
            ("-5", 5),
            ("", 5),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    def test_is_put_off_for_as_long_as_asked(
        self, status: int, retry_after: str, seconds: int, wire: responses.RequestsMock
    ) -> None:
        answer = enveloped("RATE_LIMIT_EXCEEDED" if status == 429 else "AUTH_UNAVAILABLE")
        wire.post(PLACE, json=answer, status=status, headers={"Retry-After": retry_after})
        began = timezone.now()
        order = buy()
        assert order.status == "PENDING"
        assert order.due_at is not None
        pause = (order.due_at - began).total_seconds()
        assert seconds - 0.1 <= pause <= seconds + 3
        state = ProviderState.objects.get()
        assert state.pause == ("rate" if status == 429 else "")

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            ({"json": enveloped("ERR_VALIDATION"), "status": 400}, "ERR_VALIDATION): Because."),
            ({"json": enveloped("OUT_OF_STOCK", ""), "status": 400}, "OUT_OF_STOCK)."),
            ({"json": enveloped("NO_BALANCE"), "status": 403}, "NO_BALANCE): Because."),
            (
                {"json": enveloped("INSUFFICIENT_BALANCE", "x" * 900), "status": 403},
                f"INSUFFICIENT_BALANCE): {'x' * 500}",
            ),
            ({"json": enveloped("NOT_FOUND", "No\ntype."), "status": 404}, "NOT_FOUND): No type."),
            ({"json": enveloped("NEW_CODE"), "status": 422}, "NEW_CODE): Because."),
        ],
    )
    def test_refused(
        self,
        answer: dict[str, Any],
        detail: str,
        wire: responses.RequestsMock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        wire.post(PLACE, **answer)
        order = buy()
        self.check(order, "REJECTED", f"{REFUSED} ({detail}", "")
        order.refresh_from_db()
        assert order.settled_at is not None
        assert order.due_at is None
        assert messages(caplog) == [f"Order {order.reference} was refused: {REFUSED} ({detail}"]
        self.sweep_on(order)
        wire.assert_call_count(PLACE, 1)

    @pytest.mark.parametrize(
        ("answer", "detail"),
        [
            ({"body": '{"success": true, "da'}, "the answer is not a JSON object"),
            ({"body": ""}, "the answer is not a JSON object"),
            (page(200), "the answer is not a JSON object"),
            ({"body": "null"}, "the answer is not a JSON object"),
            ({"body": "[]"}, "the answer is not a JSON object"),
            ({"json": {"success": True}}, "the answer has no data"),
            ({"json": {"success": True, "data": None}}, "the answer has no data"),
            ({"json": {"success": True, "data": {}}}, "the answer names no usable order id"),
            *(
                (
                    {"json": {"success": True, "data": {"orderId": order_id}}},
                    "the answer names no usable order id",
                )
                for order_id in (7, "", "x" * 300, "a/../b", None, True, ["a"])
            ),
            (page(500), "the answer is not a JSON object"),
            (page(502), "the answer is not a JSON object"),
            (page(504), "the answer is not a JSON object"),
            (page(522), "the answer is not a JSON object"),
            (page(503, **{"Retry-After": "5"}), "the answer is not a JSON object"),
            (page(403), "the answer is not a JSON object"),
            ({"json": {"message": "No", "statusCode": 404}, "status": 404}, ""),
            ({"json": enveloped("INTERNAL_ERROR"), "status": 500}, ""),
            ({"json": enveloped("SERVICE_UNAVAILABLE"), "status": 503}, ""),
            ({"json": enveloped("TIMEOUT"), "status": 408}, ""),
            ({"body": ConnectionResetError(104, "reset")}, "the connection broke"),
            (
                {"status": 302, "headers": {"Location": "https://elsewhere.invalid"}},
                "the answer is not a JSON object",
            ),
        ],
    )
    def test_unconfirmed(
        self,
        answer: dict[str, Any],
        detail: str,
        wire: responses.RequestsMock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        wire.post(PLACE, **answer)
        order = buy()
        [_, change] = order.changes.all()
        assert change.detail.startswith(f"{UNUSABLE} (")
        assert detail in change.detail
        self.check(order, "UNCONFIRMED", change.detail, f"{change.detail} {NOT_KNOWN}")
        order.refresh_from_db()
        # It is looked for at the provider soon, not sent again.
        assert order.due_at is not None
        assert ago(-5) < order.due_at < ago(-11)
        assert messages(caplog) == [f"Order {order.reference}: {change.detail} {NOT_KNOWN}"]
        self.sweep_on(order)
        wire.assert_call_count(PLACE, 1)
        order.refresh_from_db()
        assert order.status == "UNCONFIRMED"

    @pytest.mark.parametrize("type_id", ["SIM_LOST", "SIM_ERROR", "SIM_DROP"])
    def test_lost_on_the_wire(self, type_id: str, simulator: Simulator) -> None:
        order = buy(type_id=type_id)
        assert order.status == "UNCONFIRMED"
        self.sweep_on(order)
        assert posts(simulator) == 1

    def test_no_answer_in_time(self, simulator: Simulator, set_conf: Callable[..., None]) -> None:
        set_conf(REQUEST_TIMEOUT=0.2)
        released = threading.Event()
        simulator.on_request = lambda request: request.method == "POST" and released.wait(5)
        order = buy()
        released.set()
        detail = f"{UNUSABLE} (no complete answer within 0.2 s)."
        self.check(order, "UNCONFIRMED", detail, f"{detail} {NOT_KNOWN}")
        assert len(simulator.orders) == 1
        # What it costs if it was bought.
        assert order.price_per_card == 490

    def test_the_id_of_another_order(
        self, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
    ) -> None:
        wire.post(PLACE, json={"success": True, "data": {"orderId": "A1"}})
        first, second = buy(), buy()
        problem = f"The provider answered with the id A1, which is another order's. {NOT_KNOWN}"
        self.check(second, "UNCONFIRMED", problem, problem)
        second.refresh_from_db()
        assert second.provider_order_id is None
        assert messages(caplog) == [f"Order {second.reference}: {problem}"]
        first.refresh_from_db()
        assert (first.status, first.provider_order_id) == ("HANDLING", "A1")

    @pytest.mark.parametrize("left", [4, 1])
    def test_a_wrong_key(self, left: int, simulator: Simulator) -> None:
        simulator.keys = ["another"]
        simulator.lockout = left + 1
        plural = "" if left == 1 else "s"
        order = buy()
        detail = (
            f"The provider refused the API key (INVALID_ACCESS_TOKEN, {left} attempt{plural} left)."
            " Correct GIFTCARDS['API_KEY'] first: asking on gets this server's address blocked."
        )
        order.refresh_from_db()
        # It is as it was: the pause keeps it back.
        assert (order.status, order.problem, history(order)) == ("PENDING", "", [])
        assert order.due_at is not None
        assert order.due_at <= timezone.now()
        assert [request.path.split("/")[3] for request in simulator.requests] == ["checkProduct"]
        state = ProviderState.objects.get()
        assert (state.pause, state.pause_detail) == ("access", detail)

    def test_a_key_that_is_revoked_between_two_requests(self, wire: responses.RequestsMock) -> None:
        wire.post(PLACE, json=enveloped("INVALID_ACCESS_TOKEN"), status=401)
        order = buy()
        [_, change] = order.changes.all()
        self.check(order, "PENDING", change.detail, f"Not sent yet: {change.detail}")
        order.refresh_from_db()
        assert order.failures == 0
        assert order.due_at is not None
        assert order.due_at <= timezone.now()  # as soon as the key is good again
        assert ProviderState.objects.get().pause == "access"

    def test_is_sent_at_last(self, simulator: Simulator) -> None:
        simulator.rate_limit = 1
        simulator.keys = []
        order = buy()
        assert order.status == "PENDING"
        simulator.rate_limit = 0
        ProviderState.objects.update(paused_until=ago(1))
        with Gateway() as gateway:
            order = send_now(order, gateway)
        assert order.status == "HANDLING"
        assert (order.failures, order.problem) == (0, "")
        assert history(order) == ["PLACING", "PENDING", "PLACING", "HANDLING"]
        assert posts(simulator) == 2


@pytest.mark.django_db
class TestLateAnswers:
    """The order was taken for lost while its answer was still on the way."""

    @pytest.mark.parametrize(
        ("answer", "status", "problem"),
        [
            ({"json": {"success": True, "data": {"orderId": "A1"}}}, "HANDLING", ""),
            ({"json": enveloped("OUT_OF_STOCK"), "status": 400}, "REJECTED", ""),
            (
                {"json": enveloped("AUTH_UNAVAILABLE"), "status": 503},
                "PENDING",
                f"Not sent yet: {NOT_STARTED} (AUTH_UNAVAILABLE).",
            ),
        ],
    )
    def test_are_recorded(
        self, answer: dict[str, Any], status: str, problem: str, wire: responses.RequestsMock
    ) -> None:
        def lose(request: object) -> tuple[int, dict[str, str], str]:
            call_unconfirmed(Order.objects.get())
            return answer.get("status", 200), {}, json.dumps(answer["json"])

        wire.add_callback("POST", PLACE, lose)
        order = buy()
        order.refresh_from_db()
        assert (order.status, order.problem) == (status, problem)
        assert history(order) == ["PLACING", "UNCONFIRMED", status]
        assert order.provider_order_id == ("A1" if status == "HANDLING" else None)

    def test_that_say_nothing_change_nothing(
        self, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def lose(request: object) -> tuple[int, dict[str, str], str]:
            call_unconfirmed(Order.objects.get())
            return 500, {}, ""

        wire.add_callback("POST", PLACE, lose)
        order = buy()
        order.refresh_from_db()
        assert (order.status, order.problem) == ("UNCONFIRMED", DIED)
        assert history(order) == ["PLACING", "UNCONFIRMED"]
        assert messages(caplog)[-1].startswith(
            f"Order {order.reference} is UNCONFIRMED by now: that sending it ended as UNCONFIRMED"
        )

    def test_of_an_attempt_that_is_not_the_last(
        self, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
    ) -> None:
        def overtake(request: object) -> tuple[int, dict[str, str], str]:
            Order.objects.update(claim="another attempt")
            return 200, {}, '{"success": true, "data": {"orderId": "A1"}}'

        wire.add_callback("POST", PLACE, overtake)
        caplog.set_level(logging.INFO)
        order = buy()
        order.refresh_from_db()
        assert (order.status, order.provider_order_id) == ("PLACING", None)
        assert messages(caplog, logging.INFO) == [
            f"Order {order.reference} was accepted as A1.",
            f"Order {order.reference} is PLACING by now:"
            " that sending it ended as HANDLING (A1) could not be recorded.",
        ]
        assert order.problem == "The provider accepted it as A1 after all."

    def buy_while(
        self, happens: Callable[..., bool], wire: responses.RequestsMock, *args: Any, **kwargs: Any
    ) -> Order:
        """Buy; before the answer comes, the order is taken for lost, and something ``happens``."""

        def answer(request: object) -> tuple[int, dict[str, str], str]:
            lost = Order.objects.get()
            call_unconfirmed(lost)
            assert happens(lost, *args, **kwargs)
            return 200, {}, '{"success": true, "data": {"orderId": "A1"}}'

        wire.add_callback("POST", PLACE, answer)
        order = buy()
        order.refresh_from_db()
        wire.assert_call_count(PLACE, 1)
        return order

    def test_of_an_order_that_was_taken_for_absent(self, wire: responses.RequestsMock) -> None:
        """It waits to be sent again, which would buy it twice."""
        source = StatusChange.Source.RECOVERY
        order = self.buy_while(declare_absent, wire, send_again=True, source=source)
        assert (order.status, order.provider_order_id) == ("HANDLING", "A1")
        assert history(order) == ["PLACING", "UNCONFIRMED", "PENDING", "PLACING", "HANDLING"]

    def test_of_an_order_that_was_found_meanwhile(
        self, wire: responses.RequestsMock, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = self.buy_while(adopt, wire, "A1", source=StatusChange.Source.RECOVERY)
        assert (order.status, order.provider_order_id, order.problem) == ("HANDLING", "A1", "")
        # That it was lost, and nothing after that.
        assert messages(caplog) == [f"Order {order.reference}: {DIED}"]

    def test_of_an_order_that_is_not_wanted_any_more(self, wire: responses.RequestsMock) -> None:
        source = StatusChange.Source.STAFF
        order = self.buy_while(declare_absent, wire, send_again=False, source=source)
        assert order.status == "REJECTED"
        assert order.problem == "The provider accepted it as A1 after all."
        [*_, last] = order.changes.all()
        assert last.detail.endswith(order.problem)

    def test_a_process_that_stood_still_before_its_claim_sends_nothing(
        self, set_conf: Callable[..., None]
    ) -> None:
        """The order was sent by another one while it asked for the price."""
        set_conf(BASE_URL=PROVIDER)
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
    def test_what_was_sent_is_not_sent_again(self, simulator: Simulator) -> None:
        with Gateway() as gateway:
            order = send_now(record_order(**LINE, reference=None), gateway)
            assert order.status == "HANDLING"
            assert send_now(order, gateway).status == "HANDLING"
        assert posts(simulator) == 1
        assert ProviderState.objects.get().succeeded_at is not None

    @pytest.mark.parametrize("status", [status for status in Status if status != "PENDING"])
    def test_only_what_has_not_been_sent(self, status: Status, simulator: Simulator) -> None:
        order = make_order(status)
        with Gateway() as gateway:
            assert send_now(order, gateway).status == status
        assert simulator.requests == []

    def test_waits_for_the_process_that_is_at_it(self, simulator: Simulator) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(-0.3))
        with Gateway() as gateway:
            assert send_now(order, gateway).status == "PLACING"
        assert timezone.now() >= order.claimed_until
        assert simulator.requests == []

    def test_another_process_was_faster(self, simulator: Simulator) -> None:
        order = make_order()
        Order.objects.update(status=Status.HANDLING, provider_order_id="A1", accepted_at=ago(1))
        with Gateway() as gateway:
            assert send_now(order, gateway).status == "HANDLING"
        assert posts(simulator) == 0

    def test_keeps_to_a_pause(self, simulator: Simulator) -> None:
        ProviderState.objects.pause(
            ProviderState.Pause.RATE, detail="", until=ago(-60), key="irrelevant"
        )
        with Gateway() as gateway:
            assert send_now(make_order(), gateway).status == "PENDING"
        assert simulator.requests == []


def waiting() -> list[Order]:
    return list(Order.objects.filter(status=Status.PENDING).order_by("due_at", "pk"))


@pytest.mark.django_db
class TestSendDue:
    def test_the_oldest_first_and_only_what_is_due(self, simulator: Simulator) -> None:
        late, later = make_order(due_at=ago(5)), make_order(due_at=ago(9))
        unripe = make_order(due_at=ago(-60))
        with Gateway() as gateway:
            assert sweep(gateway).sent == 2
        late.refresh_from_db()
        later.refresh_from_db()
        assert list(simulator.orders) == [later.provider_order_id, late.provider_order_id]
        unripe.refresh_from_db()
        assert unripe.status == "PENDING"

    def test_stops_when_told_to(self, simulator: Simulator) -> None:
        for _order in range(3):
            make_order()
        answers = iter([True, False])
        with Gateway() as gateway:
            assert send_due(waiting(), gateway, go_on=answers.__next__) == (1, 0)
        assert posts(simulator) == 1

    def test_stops_when_the_budget_is_spent(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(REQUESTS_PER_MINUTE=40)
        for _order in range(9):
            make_order()
        with Gateway() as gateway:
            accepted, failed = send_due(waiting(), gateway, go_on=lambda: True)
        # An eighth of it at once, and the price takes one.
        assert (accepted, failed) == (4, 0)
        assert posts(simulator) == 4

    def test_a_refusal_stops_nobody_else(self, simulator: Simulator) -> None:
        for type_id in ("SIM_REJECT", "type_001", "SIM_REJECT", "type_001"):
            make_order(type_id=type_id)
        with Gateway() as gateway:
            assert send_due(waiting(), gateway, go_on=lambda: True) == (2, 2)
        assert statuses() == ["REJECTED", "HANDLING", "REJECTED", "HANDLING"]

    @pytest.mark.parametrize("type_id", ["SIM_LOST", "SIM_ERROR", "SIM_DROP"])
    def test_an_answer_that_is_lost_stops_the_others(
        self, type_id: str, simulator: Simulator
    ) -> None:
        """In an outage, each of them would be lost as well."""
        for each in ("type_001", type_id, "type_001"):
            make_order(type_id=each)
        with Gateway() as gateway:
            assert send_due(waiting(), gateway, go_on=lambda: True) == (1, 1)
        assert statuses() == ["HANDLING", "UNCONFIRMED", "PENDING"]

    @pytest.mark.parametrize("trouble", [{"keys": ["another"]}, {"rate_limit": 1}])
    def test_stops_when_calls_have_to_stop(
        self, trouble: dict[str, Any], simulator: Simulator
    ) -> None:
        vars(simulator).update(trouble)
        for _order in range(3):
            make_order()
        with Gateway() as gateway:
            assert send_due(waiting(), gateway, go_on=lambda: True) == (0, 1)
        assert len([request for request in simulator.requests if request.status != 200]) == 1


@pytest.mark.django_db
class TestGivingUp:
    def test_what_a_dead_process_was_sending(
        self, simulator: Simulator, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(0.1))
        with Gateway() as gateway:
            sweep(gateway)
        order.refresh_from_db()
        assert (order.status, order.problem) == ("UNCONFIRMED", DIED)
        # It is looked for by the next sweep, and never sent by itself.
        assert order.due_at is not None
        assert order.due_at <= timezone.now()
        change = order.changes.get()
        assert (change.source, change.detail) == ("recovery", DIED)
        assert messages(caplog) == [f"Order {order.reference}: {DIED}"]
        with Gateway() as gateway:
            sweep(gateway)
        assert [request.path for request in simulator.requests] == ["/v3/gift-cards/list"]

    def test_not_what_a_living_one_is_sending(self, simulator: Simulator) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(-5))
        with Gateway() as gateway:
            sweep(gateway)
        order.refresh_from_db()
        assert order.status == "PLACING"

    def test_an_answer_that_comes_in_the_last_moment(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(1))

        def answer(execute: Any, sql: str, *args: Any) -> Any:
            if sql.startswith("UPDATE") and waiting:
                waiting.pop().move(Status.REJECTED, source=StatusChange.Source.PLACING)
            return execute(sql, *args)

        waiting, stale = [Order.objects.get()], Order.objects.get()
        with connection.execute_wrapper(answer):
            call_unconfirmed(stale)
        assert history(order) == ["REJECTED"]
        assert messages(caplog) == []

    @pytest.mark.django_db(transaction=True)
    def test_in_two_processes(self, shared_database: str) -> None:
        order = make_order(Status.PLACING, claim="x", claimed_until=ago(1))
        seen = [Order.objects.get() for _process in range(4)]
        assert in_threads(4, lambda: call_unconfirmed(seen.pop())) == [None] * 4
        assert history(order) == ["UNCONFIRMED"]


@pytest.mark.django_db
class TestSendTimeout:
    """An order that could not be sent for too long is rejected: the customer has gone."""

    def test_is_given_up(self, simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
        late = make_order(queued_at=ago(3601), problem="Not sent yet: a reason.")
        intime = make_order(queued_at=ago(3590), due_at=ago(-60))
        with Gateway() as gateway:
            sweep(gateway)
        for order in (late, intime):
            order.refresh_from_db()
        assert [late.status, intime.status] == ["REJECTED", "PENDING"]
        change = late.changes.get()
        assert change.source == "clock"
        assert change.detail == (
            "It could not be sent for 3600 s and was given up. Not sent yet: a reason."
        )
        assert late.problem == ""
        assert posts(simulator) == 0

    def test_the_time_is_a_setting(
        self, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        set_conf(SEND_TIMEOUT=5)
        order = make_order(queued_at=ago(6))
        with Gateway() as gateway:
            sweep(gateway)
        assert history(order) == ["REJECTED"]
        assert posts(simulator) == 0

    def test_also_while_nothing_may_be_sent(self, simulator: Simulator) -> None:
        order = make_order(queued_at=ago(3601))
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="", until=ago(-60), key="")
        with Gateway() as gateway:
            assert sweep(gateway).is_paused
        assert history(order) == ["REJECTED"]

    def test_one_that_was_claimed_meanwhile_goes_on(self) -> None:
        order = make_order(queued_at=ago(3601))
        stale = Order.objects.get()
        assert claim(order)
        give_up(stale)
        assert history(order) == ["PLACING"]
