"""The check for django-health-check, through its own view, set up as documented."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from django.utils import timezone, translation
from django.utils.module_loading import import_string

from giftcards.books.models import LedgerEntry, MonthClosing
from giftcards.conf import conf
from giftcards.delivery.models import StaffDigest
from giftcards.engine.task_queue import ensure_schedule
from giftcards.keys.keyring import generate_key
from giftcards.models import ApiKey, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.rules.times import today
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Severity
from tests.books.wire import note_ledger
from tests.builders import PARTIAL, make_guide_order, make_order, settle
from tests.conftest import Call
from tests.delivery.mails import ADDRESS, give_up, make_message
from tests.docs.pages import blocks, page, section
from tests.stage import ago

pytest_plugins = ["tests.stage_fixtures"]
pytest.importorskip("health_check", reason="django-health-check is not installed")
pytestmark = pytest.mark.django_db

Monitor = Callable[..., tuple[int, dict[str, str]]]

TEXT = section(page("monitoring"), "django-health-check")
CHECK = "giftcards.watch.health.GiftcardsCondition"


@pytest.fixture
def monitor(settings: Any) -> Monitor:
    """Return a function that fetches the documented page, or one with other conditions.

    It returns the status and each text.
    """
    from health_check.views import HealthCheckView

    urls = ModuleType("shop_urls")
    exec(blocks(TEXT, "python")[1], vars(urls))

    def fetch(*checks: str) -> tuple[int, dict[str, str]]:
        if checks:
            of_conditions = [(CHECK, {"condition": code}) for code in checks]
            view = HealthCheckView.as_view(checks=of_conditions)
            vars(urls)["urlpatterns"] = [path("health/", view)]
        # This assignment clears Django's cache of the URLs of the module.
        settings.ROOT_URLCONF = urls
        answer = Client(headers={"accept-language": "ar"}).get("/health/?format=json")
        return answer.status_code, {
            name.removeprefix("GiftcardsCondition(condition='").removesuffix("')"): said
            for name, said in answer.json().items()
        }

    settings.GIFTCARDS_DELIVERY = {"MODE": "off", "STAFF_EMAILS": ["boss@shop.example"]}
    ensure_schedule()
    ProviderState.objects.note_tick()
    return fetch


def stop_worker() -> None:
    ProviderState.objects.update(last_tick_at=ago(200))


def leave_undone() -> None:
    ProviderState.objects.note_chores("the ledger", {"the ledger": ago(3_610)})
    ProviderState.objects.update(ticking_since=ago(3_610))


def hold_up() -> None:
    make_order(queued_at=ago(310))


def pause() -> None:
    ProviderState.objects.pause(ProviderState.Pause.RATE, detail="Slower.", until=ago(-60))
    ProviderState.objects.update(succeeded_at=ago(9))


def fail() -> None:
    ProviderState.objects.update(outages=3, succeeded_at=ago(310), failure="It broke.")


def spend() -> None:
    ProviderState.objects.update(balance=Decimal("4999.99"), balance_read_at=ago(60))


def lose_key() -> None:
    order = settle("web-1042", PARTIAL)
    StatusChange.objects.update(announced_at=timezone.now())
    order.cards.update(sealed="damaged")


def need_a_person() -> None:
    make_order(Status.DELAYED, problems=[Problem("watch_ended")], due_at=None)


def use_two_keys() -> None:
    ApiKey.objects.create(pk="one", environment="SANDBOX", accepted_at=ago(590))
    ApiKey.objects.create(pk="two", is_refused=False, stopped_at=ago(1))


def leave_mail() -> None:
    make_message(created_at=ago(310))


def give_up_mail() -> None:
    give_up(make_message())


def lack_refund() -> None:
    trouble = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})
    make_guide_order(Status.PARTIALLY_FILLED, is_credited=False, problems=[trouble])


def charge_nobody() -> None:
    note_ledger(read_until=timezone.now())
    LedgerEntry.objects.create(provider_id="odd", type="ORDER", amount=-490, time=ago(1_000))


def order_too_much() -> None:
    ProviderState.objects.update(balance=490, balance_read_at=ago(60))
    make_guide_order(Status.PENDING, price_at_placing=Decimal(490), due_at=ago(-60))


def lose_digest() -> None:
    StaffDigest.objects.create(address="boss@shop.example", failures=1)


def lose_entry() -> None:
    note_ledger(gap=Decimal(-100), breaks=1)


def change_closed_month() -> None:
    MonthClosing.objects.create(
        month=today().replace(day=1), number=1, figures={}, has_changed=True
    )


# By condition: how to cause it, and the beginning of the text of the check.
TROUBLES: dict[str, tuple[Callable[[], None], str]] = {
    "worker": (stop_worker, "Background work has stopped. "),
    "daily_work_overdue": (
        leave_undone,
        "Parts of the daily work have not been completed for more than an hour. The log may show"
        " the reason. Not completed: the ledger.",
    ),
    "queue": (hold_up, "1 order has waited to be sent or checked"),
    "paused": (pause, "The provider asked for fewer requests. Slower."),
    "provider_failing": (
        fail,
        "The provider has not given a usable answer for more than 5 minutes. It broke.",
    ),
    "balance": (spend, "The account balance is 4999.99 DZD"),
    "encryption_keys": (lose_key, "Card 3 of order web-1042: This card cannot be"),
    "api_keys": (
        use_two_keys,
        "Processes with different API keys use this database: one (SANDBOX), two (unknown).",
    ),
    "attention": (need_a_person, "1 order needs attention."),
    "credits_missing": (lack_refund, "1 refund promised but not credited, 980.00 DZD."),
    "ledger_unmatched": (charge_nobody, "1 charge without a matching order, 490.00 DZD."),
    "ledger_gap": (lose_entry, "The ledger does not explain the balance: the gap is -100.00 DZD."),
    "closed_month_changed": (change_closed_month, "1 closed month has changed."),
    "insufficient_funds": (
        order_too_much,
        "The orders that have not been sent yet cost 2450.00 DZD, but the account balance is"
        " 490.00 DZD.",
    ),
    "messages_late": (
        leave_mail,
        "1 message to customers has waited to be sent for more than 5 minutes.",
    ),
    "digests_failed": (lose_digest, "1 digest for staff cannot be sent."),
    "messages_failed": (give_up_mail, "1 message to customers was given up within the last day."),
}


# Conditions that fail along with another one: an order without its refund needs a person, and the
# limit of a low balance is above that of the order.
ALONG = {"credits_missing": {"attention"}, "insufficient_funds": {"balance"}}
# The highest number of queries of checks that make more than two.
QUERIES = {
    "queue": 8,
    "encryption_keys": 5,
    "paused": 3,
    "ledger_unmatched": 3,
    "insufficient_funds": 3,
}


def test_the_documented_page_says_that_all_is_well(monitor: Monitor) -> None:
    status, said = monitor()
    assert status == 200
    assert len(said) == 7
    assert set(said.values()) == {"OK"}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_check_fails_with_the_sentence_of_its_condition_and_no_other_does(
    name: str, monitor: Monitor, call: Call, set_conf: Callable[..., None]
) -> None:
    set_conf(LOW_BALANCE=5000)
    make_trouble, sentence = TROUBLES[name]
    make_trouble()
    # The check makes few queries and no requests.
    with CaptureQueriesContext(connection) as queries:
        monitor(name)
    assert 1 <= len(queries) <= QUERIES.get(name, 2), queries.captured_queries
    with translation.override("fr"):
        status, said = monitor(*TROUBLES)
    failing = {name} | ALONG.get(name, set())
    assert {key for key, text in said.items() if text != "OK"} == failing
    failure = "Unavailable" if CONDITIONS[name].severity == Severity.URGENT else "Warning"
    assert said[name].startswith(f"{failure}: {sentence}")
    assert status == 500
    # The command comes to the same result.
    told = call("giftcards_status", "--fail-on", ",".join(CONDITIONS), "-v0")
    assert all(said[key].partition(": ")[2] in told.err for key in failing)
    assert told.code == 1
    alone = call("giftcards_status", "--fail-on", name, "-v0")
    assert said[name] == f"{failure}: {alone.err.rstrip()}"
    assert ADDRESS not in told.err
    listed = json.loads(call("giftcards_status", "--json").out)["conditions"]
    sentences = {each["code"]: each["sentence"] for each in listed}
    assert sentences[name] == alone.err.rstrip()
    assert sentences.keys() >= failing


def test_every_condition_to_be_alarmed_by_is_tried() -> None:
    # Other conditions cover these, or staff see them on the start page only.
    without = {
        "access_refused",
        "order_problems",
        "orders_unconfirmed",
        "on_hold_price",
        "on_hold_review",
        "old_charges_unmatched",
    }
    without |= {"costs_changed", "products_new", "orders_delayed", "customers_owed"}
    without |= {"reference_refused"}
    # Digests report these to staff.
    without |= {"cards_missing", "links_locked", "cards_not_shown", "reveals_refused"}
    assert TROUBLES.keys() == CONDITIONS.keys() - without


def test_a_condition_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="No installed app has the condition 'wroker'"):
        import_string(CHECK)(condition="wroker")


def test_a_message_that_waits_for_a_short_time_is_no_trouble(monitor: Monitor) -> None:
    make_message(created_at=ago(290))
    give_up(make_message(), 24 * 3600 + 60)
    assert monitor(*TROUBLES)[0] == 200


def test_a_short_disturbance_of_the_provider_is_no_trouble_to_the_check_of_its_answers(
    monitor: Monitor,
) -> None:
    ProviderState.objects.update(outages=9, succeeded_at=ago(290), failure="It broke.")
    assert monitor("provider_failing")[0] == 200


def test_a_database_that_fails_is_named_without_its_address(monitor: Monitor) -> None:
    def refuse(*_args: Any) -> None:
        raise OperationalError("connection to server at db.example failed")

    with connection.execute_wrapper(refuse):
        status, said = monitor("queue")
    assert status == 500
    assert said == {"queue": "Unavailable: The database failed (OperationalError)."}


def test_settings_that_are_wrong_are_named(monitor: Monitor, set_conf: Callable[..., None]) -> None:
    set_conf(LOW_BALANCE="many")
    _status, said = monitor("balance")
    assert said["balance"].startswith("Warning: GIFTCARDS['LOW_BALANCE'] ")


def test_keys_that_are_missing_are_told_without_a_word_of_them(
    monitor: Monitor, set_conf: Callable[..., None]
) -> None:
    lose_key()
    keys = [*conf.encryption_keys, generate_key()]
    set_conf(ENCRYPTION_KEYS=keys[1:])
    status, said = monitor("encryption_keys")
    assert status == 500
    assert not any(key in said["encryption_keys"] for key in keys)
