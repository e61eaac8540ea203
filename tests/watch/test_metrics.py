"""The metrics for Prometheus: the page, the command, the collector, the alerts, the dashboard."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import yaml
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text_format

from giftcards.conf import VERSION
from giftcards.delivery.models import Delivery
from giftcards.exceptions import ConfigurationError
from giftcards.models import ApiKey, Order, Product, ProviderState, StatusChange
from giftcards.rules.problems import Problem
from giftcards.simulator import Simulator
from giftcards.statuses import Status
from giftcards.watch.conditions import CONDITIONS, Severity, Standing
from giftcards.watch.metrics import FAMILIES, GiftcardsCollector
from tests.builders import make_guide_order, make_offer, make_order
from tests.conftest import Call
from tests.delivery.mails import make_message
from tests.docs.pages import DOCS, blocks, page, rows, section
from tests.stage import LINE, ago, buy_many, fill_catalogue, record_order, refuse_key, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db

Metrics = dict[tuple[str, str], float]
Scrape = Callable[..., tuple[int, str]]
TOKEN = "a-token-that-nobody-guesses"
TEXT = section(page("monitoring"), "Prometheus")
RULES = DOCS / "giftcards.rules.yml"
DOWN = 'up{job="giftcards"} == 0'
LABELS = {family.name: family.label for family in FAMILIES}


def parsed(text: str) -> Metrics:
    """Return the metrics by name and label value; both formats of Prometheus must agree."""
    both = [
        {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse(text)
            for sample in family.samples
        }
        for parse in (openmetrics, text_format)
    ]
    assert both[0] == both[1]
    return {(name, label[0] if label else ""): value for (name, *label), value in both[0].items()}


@pytest.fixture
def metrics(call: Call) -> Callable[[], Metrics]:
    """Return a function that reads the command's output with ten queries at most."""

    def read() -> Metrics:
        with CaptureQueriesContext(connection) as queries:
            outcome = call("giftcards_metrics")
        assert (outcome.err, outcome.code) == ("", 0)
        # The first scrape of all also makes the row of the state.
        assert len([query for query in queries if "SELECT" in query["sql"]]) <= 10
        return parsed(outcome.out)

    return read


@pytest.fixture
def scrape(settings: Any, set_conf: Callable[..., None]) -> Scrape:
    """Return a function that fetches the documented page and returns its status and text."""
    urls = ModuleType("shop_urls")
    vars(urls).update(path=path, urlpatterns=[])
    exec(blocks(TEXT, "python")[0], vars(urls))
    settings.ROOT_URLCONF = urls
    set_conf(METRICS_TOKEN=TOKEN)

    def fetch(authorization: str | None = f"Bearer {TOKEN}") -> tuple[int, str]:
        headers = {} if authorization is None else {"authorization": authorization}
        answer = Client(headers=headers).get("/metrics")
        assert "no-store" in answer["Cache-Control"]
        return answer.status_code, answer.content.decode()

    return fetch


def of(found: Metrics, name: str) -> dict[str, float]:
    return {label: value for (known, label), value in found.items() if known == name}


def test_a_new_shop_has_no_orders_and_leaves_out_what_it_does_not_know(
    metrics: Callable[[], Metrics],
) -> None:
    found = metrics()
    assert of(found, "giftcards_orders") == dict.fromkeys(Status.values, 0)
    assert of(found, "giftcards_backlog") == dict.fromkeys(
        ("changes", "offers", "messages", "tasks"), 0
    )
    assert of(found, "giftcards_requests_last_minute") == {"": 0}
    assert of(found, "giftcards_build_info") == {VERSION: 1}
    conditions = of(found, "giftcards_condition")
    assert conditions.keys() == CONDITIONS.keys()
    assert {code for code, holds in conditions.items() if holds} == {"worker"}
    unknown = (
        "giftcards_oldest_open_order_seconds",
        "giftcards_sending_seconds",
        "giftcards_storing_seconds",
        "giftcards_balance",
        "giftcards_free_balance",
        "giftcards_catalogue_age_seconds",
    )
    assert [of(found, name) for name in unknown] == [{}] * len(unknown)
    assert {name for name, _label in found} == LABELS.keys() - {*unknown}


def test_a_busy_shop_tells_the_numbers_that_the_status_tells(
    simulator: Simulator, metrics: Callable[[], Metrics], call: Call
) -> None:
    fill_catalogue()
    buy_many(simulator, 3)
    run_sweep()
    buy_many(simulator, 2, type_id="SIM_NEVER")
    record_order(type_id="type_001", product_id="507f1f77bcf86cd799439011", quantity=2)
    Order.objects.filter(status=Status.PENDING).update(created_at=ago(500))
    StatusChange.objects.update(announced_at=None, announce_at=ago(0))
    ProviderState.objects.update(balance=10_000, balance_read_at=ago(5), last_tick_at=ago(1))
    make_message()
    found, status = metrics(), json.loads(call("giftcards_status", "--json").out)
    assert of(found, "giftcards_orders") == status["orders"]
    # This includes the order of the message.
    assert status["orders"]["FULFILLED"] == 4
    assert of(found, "giftcards_requests_last_minute") == {"": status["requests"]["used"]}
    assert of(found, "giftcards_requests_limit") == {"": status["requests"]["limit"]}
    assert of(found, "giftcards_balance") == {"": float(status["balance"])}
    backlogs = of(found, "giftcards_backlog")
    assert backlogs["changes"] == status["waiting"]["changes"] > 0
    assert backlogs["tasks"] == status["waiting"]["tasks"]
    assert backlogs["messages"] == Delivery.objects.count() == 1
    assert 500 <= found["giftcards_oldest_open_order_seconds", ""] < 560
    assert 0 <= found["giftcards_catalogue_age_seconds", ""] < 60
    assert found["giftcards_free_balance", ""] < 10_000
    standing = Standing()
    wrong = [code for code, each in CONDITIONS.items() if each.judge(standing)]
    held = of(found, "giftcards_condition")
    assert [code for code, holds in held.items() if holds] == wrong


def test_quantiles_are_of_the_orders_of_the_last_ten_minutes(
    metrics: Callable[[], Metrics],
) -> None:
    for seconds in range(1, 101):
        make_guide_order(
            Status.FULFILLED,
            queued_at=ago(200 + seconds),
            sent_at=ago(201),
            accepted_at=ago(200),
            finalized_at=ago(200 - seconds),
        )
    long_ago = {"queued_at": ago(9_000), "sent_at": ago(700), "accepted_at": ago(690)}
    make_guide_order(Status.FULFILLED, **long_ago, finalized_at=ago(601))
    make_guide_order(Status.REJECTED, queued_at=ago(9_000), sent_at=ago(9), finalized_at=ago(9))
    found = metrics()
    for name in ("giftcards_sending_seconds", "giftcards_storing_seconds"):
        assert of(found, name) == pytest.approx({"0.5": 50, "0.9": 90, "0.99": 99}, abs=0.5)


def refuse() -> None:
    refuse_key()


def fail() -> None:
    ProviderState.objects.pause(ProviderState.Pause.OUTAGE, detail="Down.", until=ago(-60))
    ProviderState.objects.update(outages=3, succeeded_at=ago(310))


def stop_worker() -> None:
    ProviderState.objects.update(last_tick_at=ago(200))


def hold_up() -> None:
    make_order(queued_at=ago(310))


def leave_queue_unread() -> None:
    ProviderState.objects.update(queue_waits_since=ago(310))


def leave_mail() -> None:
    make_message(created_at=ago(310))


@pytest.mark.parametrize(
    ("make_trouble", "expected"),
    [
        (refuse, {"paused", "access_refused"}),
        (fail, {"paused", "provider_failing"}),
        (stop_worker, {"worker"}),
        (hold_up, {"queue"}),
        (leave_queue_unread, {"queue"}),
        (leave_mail, {"messages_late"}),
    ],
)
def test_the_conditions_that_hold_are_1(
    make_trouble: Callable[[], None], expected: set[str], metrics: Callable[[], Metrics]
) -> None:
    ProviderState.objects.note_tick()
    make_trouble()
    conditions = of(metrics(), "giftcards_condition")
    assert {code for code, holds in conditions.items() if holds} == expected
    assert set(conditions.values()) <= {0, 1}


def test_only_summaries_have_quantiles(call: Call) -> None:
    """``promtool check metrics`` requires this."""
    times = {"queued_at": ago(9), "sent_at": ago(7), "accepted_at": ago(6), "finalized_at": ago(3)}
    make_guide_order(Status.FULFILLED, **times)
    families = list(openmetrics(call("giftcards_metrics").out))
    assert {
        family.name: family.type
        for family in families
        if any("quantile" in sample.labels for sample in family.samples)
    } == {"giftcards_sending_seconds": "summary", "giftcards_storing_seconds": "summary"}


def test_a_clock_that_was_set_back_makes_no_age_negative(metrics: Callable[[], Metrics]) -> None:
    make_order(created_at=ago(-900))
    make_offer()
    Product.objects.update(listed_at=ago(-900))
    found = metrics()
    assert found["giftcards_oldest_open_order_seconds", ""] == 0
    assert found["giftcards_catalogue_age_seconds", ""] == 0


def test_no_label_names_an_order_a_customer_or_a_key(
    simulator: Simulator, metrics: Callable[[], Metrics]
) -> None:
    buy_many(simulator, 2, customer_email="amina@example.com")
    run_sweep()
    ApiKey.objects.create(pk="0123456789abcdef")
    known = {
        "status": {*Status.values},
        "quantile": {"0.5", "0.9", "0.99"},
        "what": {"tasks", "changes", "offers", "messages"},
        "code": {*CONDITIONS},
        "version": {VERSION},
        "": {""},
    }
    for name, label in metrics():
        assert label in known[LABELS[name]]


def test_the_documented_page_tells_what_the_command_prints(scrape: Scrape, call: Call) -> None:
    status, text = scrape()
    assert status == 200
    assert text.endswith("\n# EOF\n")
    assert text == call("giftcards_metrics").out


@pytest.mark.parametrize(
    ("authorization", "settings_token"),
    [
        (None, TOKEN),
        ("", TOKEN),
        (TOKEN, TOKEN),
        (f"Basic {TOKEN}", TOKEN),
        (f"Bearer {TOKEN[:-1]}", TOKEN),
        (f"Bearer {TOKEN}x", TOKEN),
        ("Bearer ", TOKEN),
        ("Bearer \u00e9", TOKEN),
        ("Bearer None", None),
        ("Bearer ", None),
    ],
)
def test_who_has_no_token_learns_nothing_and_costs_no_query(
    authorization: str | None,
    settings_token: str | None,
    scrape: Scrape,
    set_conf: Callable[..., None],
) -> None:
    set_conf(METRICS_TOKEN=settings_token)
    with CaptureQueriesContext(connection) as queries:
        status, text = scrape(authorization)
    assert status == 401
    assert text == "Send the value of METRICS_TOKEN in this header: Authorization: Bearer TOKEN\n"
    assert len(queries) == 0


def test_a_token_that_could_be_guessed_is_refused(
    scrape: Scrape, set_conf: Callable[..., None]
) -> None:
    set_conf(METRICS_TOKEN="too-short")
    status, text = scrape("Bearer too-short")
    assert status == 500
    assert text.startswith("GIFTCARDS['METRICS_TOKEN'] has fewer than 20 characters.")
    assert "too-short" not in text


def away(*_args: Any) -> None:
    raise OperationalError("connection to server at db.example failed")


def test_while_the_database_is_away_no_number_is_told(scrape: Scrape, call: Call) -> None:
    with connection.execute_wrapper(away):
        page, outcome = scrape(), call("giftcards_metrics")
    assert page == (500, "The database failed (OperationalError).\n")
    expected = "The database failed (OperationalError). Nothing was read.\n"
    assert (outcome.out, outcome.err, outcome.code) == ("", expected, 1)


@pytest.fixture
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "giftcards.watch.metrics")


@pytest.mark.usefixtures("without_the_extra")
def test_without_the_extra_the_command_and_the_import_say_what_to_install(call: Call) -> None:
    expected = (
        "giftcards.watch.metrics needs prometheus-client, which is not installed. Run"
        ' `pip install "django-giftcards[metrics]"`.'
    )
    outcome = call("giftcards_metrics")
    assert (outcome.out, outcome.err, outcome.code) == ("", f"{expected}\n", 2)
    with pytest.raises(ConfigurationError) as caught:
        importlib.import_module("giftcards.watch.metrics")
    assert str(caught.value) == expected


def test_a_registry_of_the_shop_takes_the_collector_without_a_query() -> None:
    registry = CollectorRegistry(auto_describe=True)
    with CaptureQueriesContext(connection) as queries:
        registry.register(GiftcardsCollector())
    assert len(queries) == 0
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(GiftcardsCollector())
    assert registry.get_sample_value("giftcards_orders", {"status": "PENDING"}) == 0


def test_a_scrape_makes_as_many_queries_with_many_orders_as_with_few(
    simulator: Simulator, metrics: Callable[[], Metrics]
) -> None:
    metrics()  # makes the rows of which there is one
    ProviderState.objects.update(balance=10_000, balance_read_at=ago(5))
    differs = Problem("credit_differs", {"expected": "980.00", "amount": "0.00"})
    counts = []
    for number in (1, 4):
        buy_many(simulator, number)
        run_sweep()
        buy_many(simulator, number, type_id="SIM_NEVER")
        for _ in range(number):
            record_order(**LINE)
            make_order(Status.REFUNDED, problems=[differs], is_credited=False)
        with CaptureQueriesContext(connection) as queries:
            metrics()
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 10


def test_the_page_names_each_family_and_its_label() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows(TEXT) if len(row) == 3}
    assert documented == LABELS


def queries_of_rules() -> list[str]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["expr"] for rule in group["rules"] if rule["expr"] != DOWN]


def queries_of_dashboard() -> list[str]:
    dashboard = json.loads((DOCS / "giftcards.dashboard.json").read_text())
    [_datasource, instance] = dashboard["templating"]["list"]
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [instance["definition"], *panels]


@pytest.mark.parametrize("read", [queries_of_rules, queries_of_dashboard])
def test_each_query_names_metrics_labels_and_values_that_exist(
    read: Callable[[], list[str]],
) -> None:
    known = {"status": {*Status.values}, "code": {*CONDITIONS}, "quantile": {"0.5", "0.9", "0.99"}}
    named = set()
    for query in read():
        found = re.findall(r"\b(giftcards_\w+)(?:\{([^}]*)\})?", query)
        assert found, query
        for name, matchers in found:
            named.add(name)
            for label, values in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
                if label != "instance":
                    assert label == LABELS[name]
                    assert {*values.split("|")} <= known[label], query
    assert named <= LABELS.keys()
    assert read is queries_of_rules or named == LABELS.keys()


def test_the_alerts_cover_each_condition_that_a_person_has_to_act_on() -> None:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    told = {
        rule["alert"]: {*re.findall(r'code=~"([^"]*)"', rule["expr"])[0].split("|")}
        for rule in group["rules"]
        if "code=" in rule["expr"]
    }
    urgent = {code for code, each in CONDITIONS.items() if each.severity is Severity.URGENT}
    # A pause that a person has to end is "access_refused"; other pauses end by themselves.
    assert told["GiftcardsUrgent"] == urgent - {"paused"}
    # "attention" covers problems with orders; owing money to customers is daily work in every shop.
    without = {
        "order_problems",
        "orders_unconfirmed",
        "on_hold_price",
        "on_hold_review",
        "customers_owed",
        "cards_missing",
    }
    # Digests report these to staff, because the shop's software works correctly.
    without |= {"links_locked", "reveals_refused"}
    warnings = {code for code, each in CONDITIONS.items() if each.severity is Severity.WARNING}
    assert told["GiftcardsToDo"] == warnings - without


def test_a_rule_is_about_each_shop_of_the_documented_job_that_does_not_answer() -> None:
    """Otherwise the metrics of one shop would hide that another one is down."""
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    [alert] = [rule["alert"] for rule in group["rules"] if rule["expr"] == DOWN]
    assert alert == "GiftcardsShopDown"
    assert "- job_name: giftcards\n" in TEXT


def test_the_rules_are_what_prometheus_reads() -> None:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert rule["labels"]["severity"] in {"critical", "warning"}
    # If Prometheus is installed, its own tool checks the rules, too.
    if promtool := shutil.which("promtool"):
        subprocess.run([promtool, "check", "rules", str(RULES)], check=True)
