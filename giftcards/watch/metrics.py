"""Metrics for Prometheus: a collector and a view.

Requests to the view must include a token. Import this module only if prometheus-client is
installed: ``pip install "django-giftcards[metrics]"``. All values are read from the database, so
every process reports the same values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from math import ceil

from django.contrib.auth.decorators import login_not_required
from django.db import Error, transaction
from django.db.models import Max, Value
from django.db.models.expressions import Combinable
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from giftcards.conf import VERSION, conf
from giftcards.engine.balance import Commitments, money_in_open_orders
from giftcards.engine.task_queue import tasks_in_queue
from giftcards.exceptions import ConfigurationError
from giftcards.keys.secrecy import contained
from giftcards.models import Product, ProviderState
from giftcards.models.lines import Kind
from giftcards.models.scalars import number_of, read_at_once, value_of
from giftcards.watch.conditions import Standing, signs, which_hold
from giftcards.watch.overview import (
    FinalOrders,
    Pace,
    backlogs,
    ends_of_cards,
    oldest,
    open_orders,
    taken_slots,
    try_keys,
)

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
    from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import Collector
except ImportError:
    raise ConfigurationError(
        "giftcards.watch.metrics needs prometheus-client, which is not installed. Run"
        ' `pip install "django-giftcards[metrics]"`.'
    ) from None

_QUANTILES = (0.5, 0.9, 0.99)
# The metrics of a family, keyed by the value of their label; the key is "" without a label.
Values = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Family:
    """Metrics with the same name: gauges, or the quantiles of a summary."""

    name: str
    help: str
    #: The name of the label that tells the metrics apart, if there are several.
    label: str = ""

    def metric(self, values: Values) -> Metric:
        if self.label == "quantile":
            # A summary may leave out the sum and the count, which are unknown here.
            summary = SummaryMetricFamily(self.name, self.help)
            for value, number in values.items():
                summary.add_sample(self.name, {self.label: value}, number)
            return summary
        gauge = GaugeMetricFamily(self.name, self.help, labels=[self.label] if self.label else [])
        for value, number in values.items():
            gauge.add_metric([value] if self.label else [], number)
        return gauge


#: The names must not change, because dashboards and alerts of shops use them.
FAMILIES = (
    Family("giftcards_orders", "Orders by status.", "status"),
    Family(
        "giftcards_oldest_open_order_seconds",
        "Time since the oldest open order was recorded. Absent if there are no open orders.",
    ),
    Family(
        "giftcards_sending_seconds",
        "Time from recording or releasing an order until the provider accepted it, for orders"
        " sent in the last ten minutes.",
        "quantile",
    ),
    Family(
        "giftcards_storing_seconds",
        "Time from acceptance until the cards were stored, for orders that became final in the"
        " last ten minutes.",
        "quantile",
    ),
    Family("giftcards_requests_last_minute", "Requests to the provider in the last minute."),
    Family(
        "giftcards_requests_limit", "The maximum number of requests per minute, from the settings."
    ),
    Family("giftcards_balance", "The balance of the account, as last read."),
    Family("giftcards_free_balance", "The balance minus the cost of open orders and reservations."),
    Family("giftcards_backlog", "The number of items that wait for a worker, by kind.", "what"),
    Family(
        "giftcards_catalogue_age_seconds",
        "Time since the list of products was last read. Absent before the first reading.",
    ),
    Family("giftcards_condition", "1 if the condition holds, else 0.", "code"),
    Family(
        "giftcards_build_info",
        "Always 1. The label contains the version of django-giftcards.",
        "version",
    ),
)


class GiftcardsCollector(Collector):
    """A collector of the metrics, for a registry of prometheus-client.

    Each scrape reads the values from the database, and leaves out unknown values. A scrape fails if
    the database does not work.
    """

    def describe(self) -> Iterator[Metric]:
        """Return the metric families without values.

        Therefore, a registry can register the collector without reading the database.
        """
        return (family.metric({}) for family in FAMILIES)

    def collect(self) -> list[Metric]:
        values = _read()
        return [family.metric(values[family.name]) for family in FAMILIES]


def _read() -> dict[str, Values]:
    standing = Standing()
    state, pace = standing.state, Pace.read()
    final = FinalOrders.counted(state)
    account = Commitments.read(state, final.later())
    lines = account.lines
    standing.keep(money_in_open_orders, account.in_open_orders)
    single = {
        "requests": number_of(taken_slots()),
        "listed_at": value_of(Product.objects.all(), Max("listed_at")),
    }
    numbers, waiting, found, ends = read_at_once(
        single, backlogs() | _tasks(), signs(standing), ends_of_cards()
    )
    standing.keep(try_keys, try_keys(ends))
    return {
        "giftcards_orders": final.with_others([*lines[Kind.OPEN], *lines[Kind.FINAL]]),
        "giftcards_oldest_open_order_seconds": _age(oldest(open_orders(lines[Kind.OPEN]))),
        "giftcards_sending_seconds": _quantiles(pace.sending),
        "giftcards_storing_seconds": _quantiles(pace.storing),
        "giftcards_requests_last_minute": {"": numbers["requests"]},
        "giftcards_requests_limit": {"": conf.requests_per_minute},
        "giftcards_balance": _if_known(state.balance),
        "giftcards_free_balance": _if_known(account.free),
        "giftcards_backlog": waiting,
        "giftcards_catalogue_age_seconds": _age(numbers["listed_at"]),
        "giftcards_condition": {
            code: int(holds) for code, holds in which_hold(standing, found).items()
        },
        "giftcards_build_info": {VERSION: 1},
    }


def _tasks() -> dict[str, Combinable]:
    """Return an expression for the number of tasks in the queue, if known."""
    tasks = tasks_in_queue()
    if tasks is None:
        return {}
    is_apart = tasks.db != ProviderState.objects.all().db
    return {"tasks": Value(tasks.count()) if is_apart else number_of(tasks)}


def _if_known(amount: Decimal | None) -> Values:
    return {} if amount is None else {"": float(amount)}


def _age(moment: datetime | None) -> Values:
    # The moment is in the future if the clock was set back.
    return {} if moment is None else {"": max((timezone.now() - moment).total_seconds(), 0)}


def _quantiles(ranked: Sequence[float]) -> Values:
    last = len(ranked)
    return {f"{share:g}": ranked[ceil(share * last) - 1] for share in _QUANTILES if ranked}


def as_text() -> str:
    """Return the metrics in the OpenMetrics format."""
    registry = CollectorRegistry()
    registry.register(GiftcardsCollector())
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()


@never_cache
@require_safe
@login_not_required
@transaction.non_atomic_requests
def metrics(request: HttpRequest) -> HttpResponse:
    """Return the metrics. This function is a view for ``urls.py``.

    Requests must include the token in ``METRICS_TOKEN``.
    """
    try:
        if not _has_token(request):
            # The text is for the person who sets Prometheus up.
            text = "Send the value of METRICS_TOKEN in this header: Authorization: Bearer TOKEN"
            return _plain(text, 401, {"WWW-Authenticate": "Bearer"})
        return HttpResponse(as_text(), content_type=CONTENT_TYPE_LATEST)
    except Error as error:
        # The error's text may name the server.
        return _plain(f"The database failed ({type(error).__name__}).", 500)
    except ConfigurationError as error:
        return _plain(str(error), 500)


@contained
def _has_token(request: HttpRequest) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    wanted = conf.metrics_token
    if wanted is None or scheme.lower() != "bearer":
        return False
    return constant_time_compare(given, wanted)


def _plain(text: str, status: int, headers: Mapping[str, str] | None = None) -> HttpResponse:
    answer = HttpResponse(f"{text}\n", status=status, headers=dict(headers or {}))
    answer["Content-Type"] = "text/plain; charset=utf-8"
    return answer
