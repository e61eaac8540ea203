"""A code, a serial and the API key are nowhere but where they belong.

Each test looks for canaries in everything that somebody could come to read: the raw database,
exports, logs, error mails, texts of objects. The searcher itself is tested first.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import gc
import json
import os
import pickle
import pprint
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.core import mail, serializers
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.forms.models import model_to_dict
from django.utils import timezone

from giftcards.conf import conf
from giftcards.engine.outbox import announce
from giftcards.engine.recording import record_answers, record_failures
from giftcards.engine.storing_cards import Arrival, store_cards
from giftcards.exceptions import ConfigurationError, DecryptionError, OutcomeUnknown
from giftcards.fulfilment import place_order
from giftcards.keys.keyring import Keyring, Place, generate_key, key_fingerprint
from giftcards.keys.secrecy import CardSecret
from giftcards.models import Card, Order, StatusChange
from giftcards.provider.client import Client
from giftcards.signals import order_finalized
from giftcards.simulator import Simulator
from tests.builders import REFUNDED, answer, claim, make_guide_order, settled
from tests.fakes.sockets import Server, response
from tests.fakes.sockets import answer as answer_with
from tests.leaks import every_log, logged, mailed, raw_database, struck, traces, variables
from tests.stage import ROOT, refuse_key

pytestmark = pytest.mark.django_db

CODES = [CardSecret(f"CANARY-CODE-5d81-{n}", f"CANARY-SERIAL-5d81-{n}") for n in range(3)]
API_KEY = "CANARY-KEY-7f3a9c"

PARTIAL = settled("PARTIALLY_FILLED", CODES)


def record_in_vain() -> Order:
    """Try to record an answer that would move a card that cannot be decrypted."""
    [torn] = claim(make_guide_order())
    texts = dict.fromkeys(("sealed", "identity", "value_fingerprint", "key_fingerprint"), "x")
    Card(order=torn, position=2, **texts).save()
    record_answers([(torn, PARTIAL)], now=timezone.now())
    return torn


@pytest.fixture
def stored() -> Order:
    """An order with three canaries, after every kind of recording."""
    order, odd = claim(make_guide_order(reference="order-1"), make_guide_order())
    record_answers(
        [(order, answer("HANDLING", cards=(CODES[1],))), (odd, PARTIAL)], now=timezone.now()
    )
    record_answers([(order, PARTIAL), (odd, REFUNDED)], now=timezone.now())
    torn = record_in_vain()
    record_failures([(torn, KeyError(CODES[0].value))], now=timezone.now())
    announce()
    assert Card.objects.count() == 7
    return Order.objects.get(reference="order-1")


class TestTheSearcher:
    @pytest.mark.parametrize(
        "text",
        [
            CODES[0].value,
            f"order {CODES[0].serial}, ",
            "canarycode5d810",
            base64.b64encode(CODES[0].value.encode()),
            base64.urlsafe_b64encode(zlib.compress(pickle.dumps(CODES))),
            b"gAAAA:" + base64.b64encode(pickle.dumps({"args": (CODES[0].value,)})).rstrip(b"="),
            zlib.compress(base64.b64encode(API_KEY.encode())),
        ],
    )
    def test_the_searcher_finds_codes_in_packed_and_encoded_texts(self, text: str | bytes) -> None:
        assert traces(text)

    def test_the_searcher_finds_nothing_in_texts_without_codes(self) -> None:
        assert not traces("canary " + base64.b64encode(b"CANARY " * 9).decode())

    def test_the_searcher_finds_packed_codes_in_the_database(self, stored: Order) -> None:
        packed = base64.b64encode(zlib.compress(pickle.dumps(CODES[0]))).decode()
        StatusChange.objects.update(details=[{"code": "found", "parameters": {"order": packed}}])
        assert any(map(traces, raw_database()))


class TestDatabase:
    def test_rows_of_the_database_hold_no_secret(self, stored: Order) -> None:
        values = list(raw_database())
        # The values are those that were recorded, including the reference and the tokens.
        assert "order-1" in values
        assert sum(str(value).startswith("gAAAA") for value in values) == 6
        assert [found for value in values for found in traces(value)] == []

    def test_a_sealed_token_is_not_taken_for_a_packed_code(self, stored: Order) -> None:
        card = stored.cards.get(position=1)
        assert traces(card.sealed) == []
        assert traces(card.value)

    def test_the_record_of_a_refused_key_does_not_hold_the_key(self) -> None:
        refuse_key()
        assert conf.api_key == API_KEY
        assert [found for value in raw_database() for found in traces(value)] == []

    def test_no_secret_is_stored_logged_or_printed_from_placing_to_settling(
        self,
        simulator: Simulator,
        call: Any,
        caplog: pytest.LogCaptureFixture,
        django_capture_on_commit_callbacks: Any,
    ) -> None:
        """Use the real client, the provider's codes as canaries, and every log at full detail."""
        simulator.keys = [API_KEY]
        with every_log(caplog):
            with django_capture_on_commit_callbacks(execute=True):
                place_order(
                    product_id="507f1f77bcf86cd799439011", type_id="TEST_PARTIAL", quantity=4
                )
            outcome = call(
                "giftcards_place", "507f1f77bcf86cd799439011", "type_001", "2", wait=True
            )
        assert outcome.code == 0
        for logger in ("django.db.backends", "giftcards.engine.recording", "urllib3"):
            assert logger in {
                entry.name.removesuffix(".connectionpool") for entry in caplog.records
            }
        codes = [card for order in simulator.orders.values() for card in order.cards]
        assert len(codes) >= 2
        canaries = [API_KEY, *(c.value for c in codes), *(c.value.replace("-", "") for c in codes)]
        pattern = re.compile("|".join(canaries).encode(), re.IGNORECASE)
        places = {
            "database": raw_database(),
            "log": logged(caplog),
            "output": [outcome.out, outcome.err],
        }
        assert {
            place: [found for text in texts for found in traces(text, pattern)]
            for place, texts in places.items()
        } == {"database": [], "log": [], "output": []}


class TestExports:
    @pytest.mark.parametrize("file_format", ["json", "jsonl", "xml", "python"])
    @pytest.mark.parametrize("model", [Order, Card, StatusChange])
    def test_serialized_models_hold_no_secret(
        self, stored: Order, file_format: str, model: Any
    ) -> None:
        exported = str(serializers.serialize(file_format, model.objects.all()))
        assert model.objects.first()._meta.label_lower in exported
        assert traces(exported) == []

    def test_a_dump_holds_no_secret_and_is_loaded_as_it_was(self, stored: Order) -> None:
        out = StringIO()
        call_command("dumpdata", "giftcards", stdout=out)
        assert traces(out.getvalue()) == []
        columns = ("pk", "order", "position", "sealed", "identity", "value_fingerprint")
        before = list(Card.objects.order_by("pk").values(*columns))
        Card.objects.all().delete()
        for loaded in serializers.deserialize("json", out.getvalue()):
            loaded.save()
        assert list(Card.objects.order_by("pk").values(*columns)) == before
        # The card was not sealed a second time.
        assert stored.cards.get(position=1).value == CODES[1].value

    def test_querysets_of_values_and_pickled_ones_hold_no_secret(self, stored: Order) -> None:
        assert traces(repr(list(Card.objects.values()))) == []
        assert traces(repr(list(Card.objects.values_list()))) == []
        queryset = Card.objects.select_related("order")
        assert len(queryset) == 7
        assert traces(pickle.dumps(queryset)) == []
        assert traces(pickle.dumps(list(queryset))) == []

    @pytest.mark.parametrize("show", [vars, repr, str, pickle.dumps, model_to_dict, copy.copy])
    def test_an_instance_shows_no_secret_even_after_its_code_was_read(
        self, stored: Order, show: Any
    ) -> None:
        card = stored.cards.get(position=1)
        assert (card.value, card.serial) == (CODES[1].value, CODES[1].serial)
        for instance in (card, card.order, stored, stored.changes.get()):
            assert traces(pickle.dumps(show(instance))) == []
            assert traces(pprint.pformat(show(instance))) == []


class TestTexts:
    @pytest.mark.parametrize(
        "thing",
        [CODES[0], CODES, {"cards": CODES}, PARTIAL, (PARTIAL,), Keyring([generate_key()])],
        ids=["card", "cards", "dict", "answer", "answers", "keyring"],
    )
    @pytest.mark.parametrize("show", [str, repr, format, ascii, pprint.pformat, "{}".format])
    def test_texts_of_objects_that_hold_codes_do_not_show_them(self, thing: Any, show: Any) -> None:
        assert traces(show(thing)) == []

    def test_a_card_has_no_dict_to_print(self) -> None:
        assert not hasattr(CODES[0], "__dict__")

    def test_a_keyring_does_not_show_its_keys(self) -> None:
        key = generate_key()
        keyring = Keyring([key])
        for text in (repr(keyring), str(keyring), repr(vars(keyring))):
            assert key not in text

    @pytest.mark.parametrize("reference", ["order-1", "order-2"])
    def test_an_error_when_opening_a_card_does_not_show_its_code(self, reference: str) -> None:
        place = Place(order=1, reference=reference, card=1)
        row = Keyring([generate_key()]).seal(CODES[0], place=place)
        if reference == "order-2":
            row = conf.keyring().seal(CODES[0], place=place)
        with pytest.raises(DecryptionError) as caught:
            conf.keyring().open(row, place=place._replace(reference="order-1"))
        error: BaseException | None = caught.value
        while error is not None:
            assert traces(f"{error!s} {error!r} {error.args} {vars(error)}") == []
            error = error.__cause__ or error.__context__


class TestLogs:
    def test_recording_answers_logs_no_secret_at_any_level(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with every_log(caplog):
            record_answers([(claim(make_guide_order())[0], PARTIAL)], now=timezone.now())
            record_in_vain()
            list(Card.objects.all().with_code(CODES[0].value))
        assert "giftcards_card" in caplog.text
        assert "could not be recorded: DecryptionError" in caplog.text
        assert [found for text in logged(caplog) for found in traces(text)] == []


class TestErrorMails:
    def test_an_error_mail_shows_local_variables_in_general(self) -> None:
        code = str(CODES[0].value)
        with pytest.raises(ZeroDivisionError) as caught:
            _ = 1 / (len(code) - len(code))
        assert traces(mailed(caught.value))

    def test_the_error_mail_of_a_failed_recording_holds_no_secret(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connection is lost half-way, so that no part of the recording catches the error."""
        monkeypatch.setattr(connection, "is_usable", lambda: False)
        held = claim(make_guide_order(), make_guide_order())
        answers = [(order, PARTIAL) for order in held]

        def gone(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            if "giftcards_card" in sql and sql.startswith("INSERT"):
                gone_for_good.append(sql)
            if gone_for_good:
                raise DatabaseError("server closed the connection unexpectedly")
            return execute(sql, params, many, context)

        gone_for_good: list[str] = []
        with (
            connection.execute_wrapper(gone),
            pytest.raises(DatabaseError, match="server closed the connection") as caught,
        ):
            record_answers(answers, now=timezone.now())
        connection.needs_rollback = False
        text = mailed(caught.value)
        # The report contains the frames, and the variables of the frames that may show them.
        for name in ("record_answers", "_record_batch", "store_cards", "OrderAnswer("):
            assert name in text
        assert traces(text) == []

    def test_the_error_mail_of_a_card_that_does_not_open_holds_no_secret(
        self, stored: Order, settings: Any
    ) -> None:
        card = stored.cards.get(position=1)
        elsewhere = Place(order=card.order_id, reference="order-2", card=1)
        other = conf.keyring().seal(CODES[0], place=elsewhere)
        Card.objects.filter(pk=card.pk).update(sealed=other.sealed)
        card.refresh_from_db()
        with pytest.raises(DecryptionError) as caught:
            _ = card.value
        text = mailed(caught.value)
        assert "belongs to another order" in text
        assert traces(text) == []

    def test_a_code_in_the_error_of_a_receiver_is_neither_logged_nor_mailed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def deliver(order: Order, **_: Any) -> None:
            code = order.cards.get(position=1).value
            raise OutcomeUnknown(f"{code} could not be mailed")

        record_answers([(claim(make_guide_order())[0], PARTIAL)], now=timezone.now())
        order_finalized.connect(deliver)
        try:
            with every_log(caplog):
                announce()
        finally:
            order_finalized.disconnect(deliver)
        assert "deliver: OutcomeUnknown at " in caplog.text
        assert [found for text in logged(caplog) for found in traces(text)] == []
        assert mail.outbox == []


@pytest.mark.parametrize("keys", [["not a key"], [API_KEY], "CANARY-KEY-as-a-string"])
def test_errors_about_wrong_keys_do_not_quote_them(keys: Any, settings: Any) -> None:
    settings.GIFTCARDS = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": keys, "API_KEY": f"{API_KEY}\n"}
    for read in (lambda: conf.encryption_keys, lambda: conf.api_key, conf.keyring):
        with pytest.raises(ConfigurationError, match="GIFTCARDS") as caught:
            read()
        error = caught.value
        assert error.__traceback__ is not None
        # Leave out the frame of this test, which contains the keys.
        text = mailed(error.with_traceback(error.__traceback__.tb_next))
        assert "GIFTCARDS" in text
        assert traces(text) == []


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, list[str]]]:
    """The reports of each scenario, by the place where they are made."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.reporting_process"],
        cwd=ROOT,
        env={**os.environ, "GIFTCARDS_API_KEY": API_KEY},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return found


@pytest.mark.cluster  # a process that takes ten seconds
class TestReports:
    """Reports of errors by Sentry, with its default settings, and by Django's error mail."""

    def test_reports_show_a_code_that_is_not_masked(self, reports: Any) -> None:
        report = reports["a_code_in_the_open"]
        assert all(any(map(traces, report[place])) for place in ("sentry", "mail"))

    @pytest.mark.parametrize(
        ("scenario", "told"),
        [
            ("a_search_fails", "server closed the connection"),
            ("the_session_fails", "server closed the connection"),
            ("the_user_fails", "server closed the connection"),
            ("a_card_of_another_order_is_read", "belongs to another order"),
            ("a_card_with_the_name_of_another_is_read", "belong to another card"),
            ("a_page_of_the_shop_fails", "<masked>"),
            ("cards_cannot_be_stored", "server closed the connection"),
            ("a_task_ends_while_an_order_is_sent", "transport.py:"),
            ("a_task_ends_while_an_answer_is_read", "transport.py:"),
            ("a_page_with_a_revealed_code_fails", "Missing staticfiles manifest entry"),
            ("a_password_cannot_be_checked", "server closed the connection"),
            ("a_reveal_cannot_be_recorded", "server closed the connection"),
            (
                "the_page_of_a_customer_fails",
                "A page for a customer could not be shown: OperationalError.",
            ),
            ("a_card_of_a_customer_does_not_open", "cannot be shown to the customer"),
            ("encryption_keys_are_wrong", "is not a Fernet key"),
            ("a_task_ends_while_a_receiver_handles_an_error", "TimeoutException at "),
            ("an_announcement_ends_while_a_receiver_handles_an_error", "Interrupted while calling"),
            ("a_receiver_leaves_with_a_message", "Interrupted while calling"),
        ],
    )
    def test_reports_of_our_failures_hold_no_secret(
        self, reports: Any, scenario: str, told: str
    ) -> None:
        report = reports[scenario]
        for place in ("sentry", "mail"):
            assert any(told in unescape(text) for text in report[place]), place
        assert {
            place: [found for text in texts for found in traces(text)]
            for place, texts in report.items()
        } == {"sentry": [], "mail": [], "printed": []}

    def test_a_posted_code_is_reported_without_its_value(self, reports: Any) -> None:
        [event] = map(json.loads, reports["the_session_fails"]["sentry"])
        assert event["request"]["data"] == {"secret": "[Filtered]"}
        mails = [unescape(mail) for mail in reports["the_session_fails"]["mail"]]
        assert any("secret = '********************'" in mail for mail in mails)

    def test_a_report_by_others_on_the_page_of_a_customer_does_not_show_what_was_posted(
        self, reports: Any
    ) -> None:
        """The report contains the address of the page, which shows nothing without the PIN."""
        report = reports["code_of_the_shop_complains_on_the_page_of_a_customer"]
        events = map(json.loads, report["sentry"])
        [request] = [event["request"] for event in events if "request" in event]
        assert request["data"] == {"token": "[Filtered]", "password": "[Filtered]"}

    def test_traces_and_reports_of_a_shop_that_cuts_links_out_hold_none(self, reports: Any) -> None:
        report = reports["a_trace_is_made_of_the_page_of_a_customer"]
        events = [json.loads(event) for event in report["sentry"]]
        assert {event.get("type", "error") for event in events} == {"error", "transaction"}
        requests = [event["request"]["url"] for event in events if "request" in event]
        assert requests
        assert all(url.endswith("/cards/…/") for url in requests)
        assert [found for text in report["sentry"] for found in traces(text)] == []

    def test_variables_of_frames_hold_no_link_if_a_shop_cuts_links_out(self, reports: Any) -> None:
        report = reports["code_of_the_shop_fails_before_the_page_of_a_customer"]
        events = [json.loads(event) for event in report["sentry"]]
        [failed] = [event["exception"]["values"][-1] for event in events if "exception" in event]
        assert failed["value"] == "2 things of cards"
        names = {name for frame in failed["stacktrace"]["frames"] for name in frame["vars"]}
        assert {"callback_kwargs", "known", "where", "request"} <= names
        assert [found for text in report["sentry"] for found in traces(text)] == []

    def test_the_row_of_a_failed_task_says_which_receiver_was_told(self, reports: Any) -> None:
        [row] = reports["a_task_ends_while_a_receiver_handles_an_error"]["printed"]
        assert row.startswith("Interrupted while calling order_finalized __main__.hang_after")
        assert "django_q.exceptions.TimeoutException" in row


def leaks(work: Callable[[], object], moments: int = 200) -> dict[int, list[bytes]]:
    """Return the canaries that are found if ``work`` is interrupted, by the moment."""
    work()  # what is imported and cached once is no part of it
    _, length = struck(work)
    found = {}
    for at in range(1, length + 1, max(length // moments, 1)):
        error, _ = struck(work, at)
        found[at] = [trace for text in variables(error) for trace in traces(text)]
    assert len(found) >= min(length, moments)
    # An interruption of close() leaves a socket open, which the traceback keeps alive. Collect it
    # now, because its warning would otherwise appear in a later test.
    del error
    gc.collect()
    return {at: traced for at, traced in found.items() if traced}


# Python does not propagate an interruption inside a destructor, and one inside close() leaves the
# socket open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestInterruptions:
    """Interruptions at any moment, by Ctrl-C or by django-q2's time-out of a task."""

    def test_a_code_in_a_local_variable_is_found_at_an_interruption(self) -> None:
        def work() -> str:
            return json.dumps([str(CODES[0].value)], indent=1)

        assert leaks(work)

    def test_an_interruption_of_sealing_or_opening_shows_no_secret(self) -> None:
        place = Place(order=1, reference="order-1", card=1)

        def work() -> None:
            keyring = conf.keyring()
            row = keyring.seal(CODES[0], place=place)
            assert keyring.open(row, place=place) == CODES[0]
            with contextlib.suppress(DecryptionError):
                keyring.open(row, place=place._replace(card=2))
            with contextlib.suppress(DecryptionError):
                keyring.open(row._replace(identity=""), place=place)

        assert leaks(work) == {}

    def test_an_interruption_of_a_search_shows_no_secret(self, stored: Order) -> None:
        def work() -> None:
            assert len(Card.objects.all().with_code(CODES[0].value)) == 2
            assert stored.cards.get(position=1).value == CODES[1].value

        assert leaks(work) == {}

    def test_an_interruption_of_fingerprinting_the_api_key_shows_no_secret(self) -> None:
        assert leaks(lambda: key_fingerprint(conf.api_key)) == {}

    def test_an_interruption_of_matching_cards_shows_no_secret(self, stored: Order) -> None:
        bare = [CardSecret(secret.value, "") for secret in CODES]
        assert leaks(lambda: store_cards([Arrival(stored, bare)])) == {}

    @pytest.mark.parametrize(
        "call",
        [
            lambda client: client.check("A1"),
            lambda client: client.place(product_id="p", type_id="t", quantity=1),
        ],
        ids=["a question", "an order"],
    )
    def test_an_interruption_of_a_request_shows_no_secret(
        self, call: Callable[[Client], object]
    ) -> None:
        card = {"value": CODES[0].value, "serial": CODES[0].serial}
        data = {"orderId": "A1", "status": "FULFILLED", "cards": [card]}
        body = json.dumps({"success": True, "data": data}).encode()

        def work() -> None:
            with Client(base_url=server.url, api_key=conf.api_key, timeout=5) as client:
                call(client)

        with Server(answer_with(response(body))) as server:
            assert leaks(work) == {}
        assert all(f"X-Access-Token: {API_KEY}\r\n".encode() in sent for sent in server.requests)
