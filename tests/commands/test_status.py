"""``giftcards_status`` shows one order or the state of the whole shop."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client, modify_settings, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation
from django_q.models import Schedule

from giftcards.conf import conf
from giftcards.engine.recording import record_answers
from giftcards.engine.task_queue import ensure_schedule
from giftcards.keys.keyring import generate_key, key_fingerprint
from giftcards.models import Order, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS
from giftcards.watch.overview import versions
from tests.builders import PARTIAL, claim, make_guide_order, make_order
from tests.conftest import Call
from tests.pages import read, sign_in, text
from tests.stage import PSN, ago, buy
from tests.wall import Wall

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer() -> Client:
    return sign_in("view_providerstate")


NO_SCHEDULE = "There is no schedule for the background work. Run `manage.py giftcards_setup`."
START = (
    "Start a worker: `manage.py giftcards_worker`, `manage.py qcluster` or the worker of your own"
    " task queue."
)
NO_WORKER = f"Background work has not started yet. {START}"
DOWN = (
    "Background work has stopped. The workers have not reported for more than 3 minutes. The last"
    f" worker that reported was celery@web-2. {START}"
)


class TestOverview:
    def test_status_of_a_new_shop_shows_zeros_and_no_worker(self, call: Call) -> None:
        [fingerprint] = conf.keyring().key_fingerprints
        running = ", ".join(f"{name} {number}" for name, number in versions().items())
        assert call("giftcards_status") == (
            "Waiting to be sent            0\n"
            "Being sent                    0\n"
            "Unconfirmed                   0\n"
            "Rejected                      0\n"
            "In progress                   0\n"
            "Delayed                       0\n"
            "Delivered                     0\n"
            "Partly delivered              0\n"
            "Not delivered, credited back  0\n"
            "need attention                0\n"
            "Provider: In service.\n"
            "  last answer     never\n"
            "  last failure    never\n"
            "  last sweep      never\n"
            "  last tick       never\n"
            "  last daily work never\n"
            "  next tick       never\n"
            f"  schedule        {NO_SCHEDULE}\n"
            "  worker          not known\n"
            "  requests        0 of 1200 in the last minute\n"
            "  balance         not read yet\n"
            "  tasks           none waiting\n"
            "  changes         none waiting\n"
            "  given up        0 changes\n"
            "  open orders     none waiting\n"
            f"  encryption key  {fingerprint}, number 1: 0 cards\n"
            f"  versions        {running}\n"
            f"urgent   worker: {NO_WORKER}\n",
            "",
            0,
        )

    def test_status_shows_what_the_provider_page_shows(
        self, call: Call, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        ensure_schedule()
        make_order()
        make_order(type_id="SIM_LOST")
        call("giftcards_poll")
        ProviderState.objects.update(balance=Decimal("88235.9"), balance_read_at=ago(60))
        [old] = conf.keyring().key_fingerprints
        set_conf(ENCRYPTION_KEYS=[generate_key(), *conf.encryption_keys])
        new = conf.keyring().key_fingerprints[0]
        ProviderState.objects.note_tick("celery@web-2")
        shown = call("giftcards_status").out
        assert "This card" not in shown
        own = key_fingerprint(conf.api_key)[:8]
        for line in (
            "  worker          celery@web-2\n",
            f"  encryption key  {new}, number 1: 0 cards\n",
            f"  encryption key  {old}, number 2: 2 cards\n",
            "  balance         88235.90 DZD, read ",
            "  open orders     1 waiting, since ",
            f"  API key         {own} (in the settings), SANDBOX, accepted ",
        ):
            assert line in shown
        found = json.loads(call("giftcards_status", "--json").out)
        assert found["balance"] == "88235.90"
        assert found["provider"]["last_tick_by"] == "celery@web-2"
        assert found["encryption_keys"] == [
            {"key": new, "position": 1, "cards": 0, "has_more": False},
            {"key": old, "position": 2, "cards": 2, "has_more": False},
        ]
        [key] = found["api_keys"]
        assert (key["key"], key["is_own"], key["environment"]) == (own, True, "SANDBOX")
        assert (key["is_refused"], key["refused_at"]) == (False, None)
        assert found["requests"]["used"] > 0
        assert found["waiting"]["oldest_order_at"] is not None
        assert found["next_tick_at"] is not None
        assert found["versions"] == versions()

    def test_status_counts_the_orders_in_each_status(
        self, call: Call, simulator: Simulator
    ) -> None:
        ensure_schedule()
        for type_id in ("type_001", "TEST_PARTIAL", "TEST_PARTIAL", "SIM_LOST"):
            make_order(type_id=type_id)
        call("giftcards_poll")
        state = ProviderState.objects.get()
        assert state.swept_at is not None
        lines = call("giftcards_status").out.splitlines()
        assert "Delivered                     1" in lines
        assert "Partly delivered              2" in lines
        assert "Unconfirmed                   1" in lines
        assert "need attention                1" in lines
        assert f"  last sweep      {state.swept_at.isoformat()}" in lines
        assert lines[-4] == f"The last failure: {state.failure}"
        # There is no warning about the worker.
        assert [line.partition(":")[0] for line in lines[-3:]] == [
            "warning  attention",
            "warning  orders_unconfirmed",
            "warning  cards_missing",
        ]

    def test_status_with_json_prints_the_overview_as_one_object(
        self, call: Call, simulator: Simulator
    ) -> None:
        ensure_schedule()
        make_order(type_id="SIM_LOST")
        call("giftcards_poll")
        out, err, code = call("giftcards_status", "--json")
        assert (err, code) == ("", 0)
        state = ProviderState.objects.get()
        assert state.failed_at is not None
        assert state.swept_at is not None
        assert state.succeeded_at is not None  # the price was told
        told = json.loads(out)
        names = ("next_tick_at", "requests", "waiting", "balance", "balance_read_at")
        names += ("low_balance", "low_balance_since", "encryption_keys", "api_keys", "versions")
        facts = {name: told[name] for name in names}
        assert told == {
            "orders": dict.fromkeys(Status.values, 0) | {"UNCONFIRMED": 1},
            "needing_attention": 1,
            "conditions": [
                {"code": code, "severity": "warning", "sentence": sentence}
                for code, sentence in (
                    ("attention", "1 order needs attention."),
                    ("orders_unconfirmed", "1 order is unconfirmed."),
                )
            ],
            "provider": {
                "pause": None,
                "explanation": "In service.",
                "last_failure": "The provider gave no usable answer"
                " (the connection broke before the answer was complete).",
                "paused_until": None,
                "succeeded_at": state.succeeded_at.isoformat(),
                "failed_at": state.failed_at.isoformat(),
                "swept_at": state.swept_at.isoformat(),
                "last_tick_at": None,
                "last_tick_by": None,
                "chores_ended_at": None,
            },
            "schedule": "ok",
            **facts,
        }

    def test_status_names_cards_that_the_keys_do_not_open(
        self, call: Call, simulator: Simulator, set_conf: Callable[..., None]
    ) -> None:
        order = make_order(reference="web-1042")
        call("giftcards_poll")
        assert order.cards.count() == 2
        keys = conf.encryption_keys
        set_conf(ENCRYPTION_KEYS=[generate_key()])
        troubles = [
            f"Card {position} of order web-1042: This card cannot be decrypted: none of"
            " GIFTCARDS['ENCRYPTION_KEYS'] can decrypt it, or the stored text is damaged."
            for position in (2, 1)
        ]
        outcome = call("giftcards_status")
        assert f"urgent   encryption_keys: {' '.join(troubles)}\n" in outcome.out
        assert outcome.code == 0
        set_conf(ENCRYPTION_KEYS=keys)

    def test_status_does_not_count_many_cards(
        self, call: Call, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An exact count would read the whole index."""
        make_order()
        call("giftcards_poll")
        monkeypatch.setattr("giftcards.watch.overview.MANY_CARDS", 1)
        with CaptureQueriesContext(connection) as queries:
            shown = call("giftcards_status").out
        asked = [it["sql"] for it in queries if re.search(r"FROM .giftcards_card\W", it["sql"])]
        counting = [sql for sql in asked if "COUNT" in sql]
        assert counting
        assert [sql for sql in counting if "LIMIT 2" not in sql] == []
        assert ", number 1: more than 1 card\n" in shown
        [key] = json.loads(call("giftcards_status", "--json").out)["encryption_keys"]
        assert (key["cards"], key["has_more"]) == (1, True)

    def test_status_says_that_there_are_no_encryption_keys(
        self, call: Call, set_conf: Callable[..., None]
    ) -> None:
        set_conf(ENCRYPTION_KEYS=[])
        out, err, code = call("giftcards_status")
        assert "urgent   encryption_keys: GIFTCARDS['ENCRYPTION_KEYS'] is not set." in out
        assert (err, code) == ("", 0)

    def test_status_explains_a_pause(self, call: Call, simulator: Simulator) -> None:
        until = ago(-60)
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=until)
        text = "The provider asked for fewer requests. Slower. Requests will resume automatically."
        assert f"Provider: {text}\n" in call("giftcards_status").out
        provider = json.loads(call("giftcards_status", "--json").out)["provider"]
        assert (provider["pause"], provider["explanation"]) == ("rate", text)
        assert provider["paused_until"] == until.isoformat()

    def test_status_says_that_the_schedule_is_missing_or_paused(self, call: Call) -> None:
        assert json.loads(call("giftcards_status", "--json").out)["schedule"] == NO_SCHEDULE
        ensure_schedule()
        Schedule.objects.update(repeats=0)
        paused = (
            "The schedule for the background work is paused. In the django-q2 admin, set the"
            " schedule's repeats to -1."
        )
        assert f"  schedule        {paused}\n" in call("giftcards_status").out
        assert json.loads(call("giftcards_status", "--json").out)["schedule"] == paused

    @pytest.mark.parametrize("sign", ["last_tick_at", "swept_at"])
    @pytest.mark.parametrize(("seconds", "problem"), [(170, []), (185, [DOWN])])
    def test_status_says_that_the_worker_is_down_after_three_minutes(
        self, sign: str, seconds: float, problem: list[str], call: Call
    ) -> None:
        ensure_schedule()
        ProviderState.objects.current()
        ProviderState.objects.update(**{sign: ago(seconds)}, last_tick_by="celery@web-2")
        conditions = json.loads(call("giftcards_status", "--json").out)["conditions"]
        assert [each["sentence"] for each in conditions] == problem
        assert (f"urgent   worker: {DOWN}" in call("giftcards_status").out) is bool(problem)

    @pytest.mark.parametrize(("last", "is_shown"), [(60, True), (-600, False), (-60, True)])
    def test_the_next_tick_is_not_that_of_a_schedule_that_others_tick_without(
        self, call: Call, last: float, is_shown: bool
    ) -> None:
        ensure_schedule()
        ProviderState.objects.note_tick("giftcards_worker@web-2")
        Schedule.objects.update(next_run=ago(-last))
        assert ("  next tick  " in call("giftcards_status").out) == is_shown
        told = json.loads(call("giftcards_status", "--json").out)
        assert (told["next_tick_at"] is not None) == is_shown

    def test_status_without_django_q_tells_nothing_of_it(self, call: Call) -> None:
        with modify_settings(INSTALLED_APPS={"remove": "django_q"}):
            out = call("giftcards_status").out
            told = json.loads(call("giftcards_status", "--json").out)
        assert out.splitlines()[-1] == f"urgent   worker: {NO_WORKER}"
        for words in ("schedule", "next tick", "django-q2"):
            assert words not in out
        assert (told["schedule"], told["next_tick_at"], told["waiting"]["tasks"]) == (None,) * 3
        assert "django-q2" not in told["versions"]

    def test_status_changes_nothing_asks_nothing_and_with_verbosity_0_prints_nothing(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = buy()
        Order.objects.update(due_at=ago(9))
        before = Order.objects.values().get()
        asked = len(simulator.requests)
        for arguments in ([], [order.reference]):
            assert call("giftcards_status", *arguments).code == 0
            assert call("giftcards_status", *arguments, "-v0") == ("", "", 0)
        assert Order.objects.values().get() == before
        assert len(simulator.requests) == asked


class TestFailOn:
    """Monitors get exit code 1 and a sentence if one of the conditions holds."""

    EVERYTHING = "attention,paused,worker,provider_failing,queue,encryption_keys"

    @pytest.fixture(autouse=True)
    def all_is_well(self) -> None:
        ensure_schedule()
        ProviderState.objects.note_tick()

    def asked(self, call: Call, conditions: str) -> tuple[str, int]:
        """Return the errors and the exit code, after checking that all formats have the same."""
        out, err, code = call("giftcards_status", "--fail-on", conditions)
        assert out.startswith("Waiting to be sent  ")
        shown, *ended = call("giftcards_status", "--fail-on", conditions, "--json")
        assert ended == [err, code]
        assert "orders" in json.loads(shown)
        assert call("giftcards_status", "--fail-on", conditions, "-v0") == ("", err, code)
        return err, code

    def test_fail_on_cards_exits_with_1_if_a_card_does_not_open(self, call: Call) -> None:
        order = make_guide_order(reference="web-1042")
        record_answers([(claim(order)[0], PARTIAL)], now=timezone.now())
        StatusChange.objects.update(announced_at=timezone.now())
        other_key = {**settings.GIFTCARDS, "ENCRYPTION_KEYS": [generate_key()]}
        with override_settings(GIFTCARDS=other_key):
            err, code = self.asked(call, "encryption_keys")
            assert self.asked(call, "attention,paused,worker,queue") == ("", 0)
        assert err.startswith("Card 3 of order web-1042: This card cannot be decrypted:")
        assert code == 1
        assert self.asked(call, "encryption_keys") == ("", 0)

    def test_fail_on_balance_exits_with_1_while_it_is_below_the_limit(
        self, call: Call, set_conf: Callable[..., None]
    ) -> None:
        set_conf(LOW_BALANCE=5000)
        ProviderState.objects.update(balance=Decimal("4999.99"), balance_read_at=ago(60))
        low = "The account balance is 4999.99 DZD, which is below LOW_BALANCE (5000.00).\n"
        assert self.asked(call, "balance") == (low, 1)
        assert self.asked(call, self.EVERYTHING) == ("", 0)
        assert f"warning  balance: {low}" in call("giftcards_status").out
        ProviderState.objects.update(balance=5000)
        assert self.asked(call, "balance") == ("", 0)

    def test_fail_on_balance_says_why_nothing_can_be_said_of_it(
        self, call: Call, set_conf: Callable[..., None]
    ) -> None:
        def said() -> str:
            assert self.asked(call, "balance") == ("", 0)
            return call("giftcards_status", "--fail-on", "balance").out.splitlines()[-1]

        assert said() == "LOW_BALANCE is not set, so the balance is not checked."
        set_conf(LOW_BALANCE=Decimal("0.01"))
        assert said() == "The balance is not known yet."

    def test_status_with_json_tells_the_limit_and_since_when_the_balance_is_low(
        self, call: Call, set_conf: Callable[..., None]
    ) -> None:
        def told() -> list[object]:
            found = json.loads(call("giftcards_status", "--json").out)
            return [found[name] for name in ("balance", "low_balance", "low_balance_since")]

        assert told() == [None, None, None]
        set_conf(LOW_BALANCE=5000)
        since = ago(60)
        ProviderState.objects.update(balance=490, balance_read_at=since, low_balance_since=since)
        assert told() == ["490.00", "5000.00", since.isoformat()]

    def test_fail_on_exits_with_0_when_all_is_well(self, call: Call) -> None:
        make_order(Status.HANDLING, due_at=ago(290))
        make_order(queued_at=ago(290))
        make_order(Status.REFUNDED)
        assert self.asked(call, self.EVERYTHING) == ("", 0)

    def test_fail_on_attention_counts_orders_with_problems_that_nobody_has_acknowledged(
        self, call: Call
    ) -> None:
        problem = Problem("watch_ended")
        for sentence in ("1 order needs attention.\n", "2 orders need attention.\n"):
            make_order(Status.DELAYED, problems=[problem], due_at=None)
            assert self.asked(call, self.EVERYTHING) == (sentence, 1)
            assert self.asked(call, "attention") == (sentence, 1)
        assert self.asked(call, "paused,worker,queue") == ("", 0)
        for order in Order.objects.all():
            assert order.acknowledge(problem, by="amina")
        assert self.asked(call, "attention") == ("", 0)

    def test_fail_on_paused_fails_until_a_minute_after_the_pause(self, call: Call) -> None:
        ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
        sentence = (
            "The provider asked for fewer requests. Slower. Requests will resume automatically.\n"
        )
        assert self.asked(call, "paused") == (sentence, 1)
        assert self.asked(call, "attention,worker,queue") == ("", 0)
        ProviderState.objects.update(paused_until=ago(50))
        assert self.asked(call, "paused") == (sentence, 1)
        ProviderState.objects.update(paused_until=ago(61))
        assert self.asked(call, "paused") == ("", 0)
        # The condition ends at once if staff end the pause.
        ProviderState.objects.update(paused_until=ago(-60))
        assert self.asked(call, "paused") == (sentence, 1)
        ProviderState.objects.resume()
        assert self.asked(call, "paused") == ("", 0)

    def test_in_an_outage_all_that_show_a_pause_agree_and_it_begins_and_ends_once(
        self, call: Call, simulator: Simulator, wall: Wall, viewer: Client
    ) -> None:
        """Two minutes, in which a request succeeds now and then."""
        wall.drive(simulator)
        buy(type_id="SIM_NEVER")
        told, paused_until = [], ago(0)
        for second in range(0, 250, 10):
            simulator.outage = second < 120 and second not in {40, 80}
            Order.objects.filter(due_at__gt=ago(-30)).update(due_at=ago(1))
            call("giftcards_poll", "-v0")
            paused_until = ProviderState.objects.get().paused_until or paused_until
            with wall.still():
                shown, _sentence, code = call("giftcards_status", "--fail-on", "paused", "--json")
                if code == 0 and second > 60:
                    assert timezone.now() >= paused_until + timedelta(minutes=1)
                status = json.loads(shown)["provider"]
                page = text(read(viewer.get(reverse("admin:giftcards_providerstate_changelist"))))
            assert (code == 1) == (status["pause"] == "outage")
            assert (code == 1) == (status["explanation"] != "In service.")
            assert (code == 1) == (
                "Gift cards cannot be sold now: requests to the provider are paused" in page
            )
            told.append(code)
            wall.let_pass(10)
        changes = [step for step, code in enumerate(told) if code != told[step - 1]]
        assert told[-1] == 0
        assert len(changes) == 2

    @pytest.mark.parametrize(
        ("seconds", "outages", "answered", "sentence"),
        [
            (310, 3, True, "for more than 5 minutes. It broke."),
            (310, 3, False, "yet. It broke."),
            # A short disturbance, and a shop that has made hardly any requests for a long time.
            (290, 9, True, ""),
            (310, 2, True, ""),
        ],
    )
    def test_fail_on_provider_fails_if_requests_have_done_nothing_but_fail_for_minutes(
        self, seconds: float, outages: int, answered: bool, sentence: str, call: Call
    ) -> None:
        succeeded_at = ago(seconds) if answered else None
        ProviderState.objects.update(
            outages=outages, succeeded_at=succeeded_at, failure="It broke."
        )
        expected = f"The provider has not given a usable answer {sentence}\n" if sentence else ""
        assert self.asked(call, "provider_failing") == (expected, int(bool(sentence)))
        assert self.asked(call, "attention,paused,worker,queue") == ("", 0)

    def test_fail_on_worker_fails_without_a_recent_sign_of_it(self, call: Call) -> None:
        ProviderState.objects.update(last_tick_at=ago(200), last_tick_by="celery@web-2")
        assert self.asked(call, "worker") == (f"{DOWN}\n", 1)
        ProviderState.objects.update(last_tick_at=None)
        assert self.asked(call, "worker") == (f"{NO_WORKER}\n", 1)
        assert self.asked(call, "attention,paused,queue") == ("", 0)

    def test_fail_on_worker_needs_a_schedule_only_if_no_loop_ticks(self, call: Call) -> None:
        """A loop ticks by itself; sweeps without ticks come from a cluster that nothing watches."""
        Schedule.objects.all().delete()
        assert self.asked(call, "worker") == ("", 0)
        ProviderState.objects.update(last_tick_at=ago(200), swept_at=ago(1))
        assert self.asked(call, "worker") == (f"{NO_SCHEDULE}\n", 1)

    @pytest.mark.parametrize(
        ("status", "late"),
        [
            # The condition also holds while the app tries to send the order again and again.
            (Status.PENDING, {"queued_at": 310, "due_at": -60}),
            (Status.PLACING, {"claimed_until": 310}),
            (Status.UNCONFIRMED, {"due_at": 310}),
            (Status.HANDLING, {"due_at": 310}),
            (Status.DELAYED, {"due_at": 310}),
        ],
    )
    def test_fail_on_queue_fails_for_an_order_that_is_five_minutes_overdue(
        self, status: Status, late: dict[str, float], call: Call
    ) -> None:
        make_order(status, **{name: ago(seconds) for name, seconds in late.items()})
        sentence = "1 order has waited to be sent or checked for more than 5 minutes.\n"
        assert self.asked(call, "queue") == (sentence, 1)
        assert sentence in call("giftcards_status").out
        assert self.asked(call, "attention,paused,worker") == ("", 0)

    def test_fail_on_queue_fails_for_changes_not_announced_for_five_minutes(
        self, call: Call
    ) -> None:
        order = make_order(Status.HANDLING, due_at=ago(-60))
        for _number in range(2):
            order.changes.create(
                from_status="PENDING", to_status="PLACING", source="placing", at=ago(310)
            )
        make_order(Status.DELAYED, due_at=ago(310))
        sentence = (
            "1 order has waited to be sent or checked and 2 status changes have waited to be"
            " announced to your receivers for more than 5 minutes.\n"
        )
        assert self.asked(call, "queue") == (sentence, 1)

    def test_fail_on_queue_fails_for_a_queue_that_no_worker_reads(self, call: Call) -> None:
        make_order(queued_at=ago(310))
        ProviderState.objects.update(queue_waits_since=ago(310))
        sentence = (
            "1 order has waited to be sent or checked for more than 5 minutes. No worker has taken"
            " a task from the queue for more than 5 minutes, so messages are late. Start the"
            " queue's workers, for example with `manage.py qcluster`.\n"
        )
        assert self.asked(call, "queue") == (sentence, 1)

    def test_fail_on_queue_ignores_what_is_up_to_a_person(self, call: Call) -> None:
        make_order(Status.UNCONFIRMED, due_at=None)
        make_order(Status.DELAYED, due_at=None)
        order = make_order(Status.REFUNDED)
        order.changes.create(
            from_status="PENDING",
            to_status="PLACING",
            source="placing",
            at=ago(310),
            announce_at=None,
        )
        assert self.asked(call, "queue") == ("", 0)

    def test_fail_on_reports_several_conditions_together(self, call: Call) -> None:
        ProviderState.objects.update(last_tick_at=ago(200), last_tick_by="celery@web-2")
        make_order(queued_at=ago(310), problems=[Problem("not_sent")])
        waited = "1 order has waited to be sent or checked for more than 5 minutes."
        sentences = f"1 order needs attention. {DOWN} {waited}\n"
        assert self.asked(call, self.EVERYTHING) == (sentences, 1)
        assert self.asked(call, "queue, worker,attention") == (sentences, 1)

    @pytest.mark.parametrize(
        ("conditions", "unknown"),
        [("money", "'money'"), ("queue,,Worker", "'', 'Worker'"), ("", "''")],
    )
    def test_fail_on_refuses_a_condition_that_does_not_exist(
        self, conditions: str, unknown: str, call: Call
    ) -> None:
        assert call("giftcards_status", "--fail-on", conditions) == (
            "",
            f"--fail-on: unknown condition {unknown}. Use one or more of {', '.join(CONDITIONS)},"
            " separated by commas.\n",
            2,
        )

    def test_fail_on_cannot_be_combined_with_one_order(self, call: Call) -> None:
        make_order(reference="cart-1")
        expected = ("", "Use either a reference or --fail-on, which is about all orders.\n", 2)
        assert call("giftcards_status", "cart-1", "--fail-on", "queue") == expected


CONTRADICTING = "The provider's figures contradict each other. See the refund breakdown."
TWO_OF_THREE = {"told": 3, "ordered": 2}


class TestOneOrder:
    def test_status_of_a_settled_order_shows_its_refund_breakdown(
        self, call: Call, simulator: Simulator
    ) -> None:
        order = buy(reference="cart-1", quantity=5, type_id="TEST_PARTIAL")
        call("giftcards_poll")
        assert call("giftcards_status", "cart-1") == (
            "Order cart-1\n"
            "  status      Partly delivered\n"
            f"  provider    {order.provider_order_id}\n"
            f"  line        5 × TEST_PARTIAL ({PSN})\n"
            "  delivered   2 of 5\n"
            "  cards       2 stored, encrypted\n"
            "  refund breakdown\n"
            "    ordered   2450.00 DZD\n"
            "    charged   980.00 DZD\n"
            "    refunded  1470.00 DZD\n",
            "",
            0,
        )

    def test_status_of_an_order_shows_its_group_and_no_provider_id_before_it_is_sent(
        self, call: Call
    ) -> None:
        make_order(reference="cart-1", group="Facture n° 12")
        assert call("giftcards_status", "cart-1").out == (
            "Order cart-1\n"
            "  status      Waiting to be sent\n"
            "  provider    not known yet\n"
            f"  line        2 × type_001 ({PSN})\n"
            "  group       Facture n° 12\n"
            "  delivered   0 of 2\n"
            "  cards       0 stored, encrypted\n"
        )

    def test_status_of_an_order_shows_figures_that_contradict_each_other_in_english(
        self, call: Call
    ) -> None:
        make_order(
            Status.FULFILLED,
            reference="cart-1",
            price_per_card=Decimal(490),
            fulfilled_amount=Decimal(1000),
            problems=[Problem("figures_contradict"), Problem("quantity_differs", TWO_OF_THREE)],
        )
        with translation.override("fr"):
            out, _, code = call("giftcards_status", "cart-1")
        assert out.endswith(
            "    ordered   980.00 DZD\n"
            "    charged   1000.00 DZD\n"
            "    refunded  0.00 DZD\n"
            "    The provider's figures contradict each other.\n"
            f"  attention   figures_contradict: {CONTRADICTING}\n"
            "  attention   quantity_differs: The provider reports 3 cards, but the order is for"
            " 2.\n"
        )
        assert code == 0
        result = json.loads(call("giftcards_status", "cart-1", "--json").out)
        assert result["refund"]["is_consistent"] is False
        assert result["problems"] == [
            {"code": "figures_contradict", "parameters": {}, "text": CONTRADICTING},
            {
                "code": "quantity_differs",
                "parameters": TWO_OF_THREE,
                "text": "The provider reports 3 cards, but the order is for 2.",
            },
        ]

    def test_status_of_an_order_shows_who_acknowledged_a_problem(self, call: Call) -> None:
        problem = Problem("watch_ended")
        order = make_order(Status.DELAYED, reference="cart-1", problems=[problem])
        assert order.acknowledge(problem, by="amina")
        out = call("giftcards_status", "cart-1").out
        assert out.endswith(f"  acknowledged by amina, watch_ended: {problem}\n")
        [entry] = json.loads(call("giftcards_status", "cart-1", "--json").out)["problems"]
        assert (entry["acknowledged_by"], entry["text"]) == ("amina", str(problem))
        assert datetime.fromisoformat(entry["acknowledged_at"]) == order.acknowledgements.get().at

    def test_status_of_an_order_shows_unknown_amounts_as_unknown(self, call: Call) -> None:
        make_order(Status.REFUNDED, reference="cart-1")
        assert call("giftcards_status", "cart-1").out.endswith(
            "    ordered   unknown\n    charged   0.00 DZD\n    refunded  unknown\n"
        )
        refund = json.loads(call("giftcards_status", "cart-1", "--json").out)["refund"]
        assert refund == {
            "ordered_amount": None,
            "charged_amount": "0.00",
            "refunded_quantity": 2,
            "refunded_amount": None,
            "is_consistent": True,
        }

    def test_status_of_a_rejected_order_is_final_and_without_a_refund(self, call: Call) -> None:
        make_order(Status.REJECTED, reference="cart-1")
        result = json.loads(call("giftcards_status", "cart-1", "--json").out)
        assert (result["status"], result["is_final"], result["refund"]) == ("REJECTED", True, None)

    def test_status_of_an_order_that_does_not_exist_is_refused(self, call: Call) -> None:
        make_order()
        for more in ([], ["--json"], ["-v0"]):
            assert call("giftcards_status", "unknown", *more) == (
                "",
                "There is no order 'unknown'. `manage.py giftcards_status` counts the orders, and"
                " the admin lists them.\n",
                2,
            )


def test_status_refuses_a_wrong_limit_of_the_balance(
    call: Call, set_conf: Callable[..., None]
) -> None:
    set_conf(LOW_BALANCE="dinar")
    out, err, code = call("giftcards_status")
    assert (out, code) == ("", 2)
    assert err.startswith("GIFTCARDS['LOW_BALANCE'] must be ")


def test_status_says_that_an_order_on_hold_needs_attention(
    call: Call, simulator: Simulator
) -> None:
    simulator.price_factor = 2
    make_order(reference="cart-1", sale_price=Decimal(550))
    call("giftcards_poll")
    assert "need attention                1" in call("giftcards_status").out.splitlines()
    shown = call("giftcards_status", "cart-1").out
    assert (
        "  attention   price_above: A card costs 980.00 at the provider, but your limit is 550.00."
        " The order is waiting for a decision.\n"
    ) in shown
