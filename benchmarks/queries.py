"""The number of queries that a sweep makes if nothing has changed."""

from __future__ import annotations

from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from benchmarks.stage import accept, configure, say
from giftcards.engine.gateway import Gateway
from giftcards.engine.sweep import sweep
from giftcards.models import Card, Order, StatusChange
from giftcards.provider.client import Client
from giftcards.simulator import Simulator
from tests.builders import PRODUCT


def run(*, is_quick: bool) -> None:
    with Simulator(rate_limit=0) as simulator:
        configure(BASE_URL=simulator.url, REQUESTS_PER_MINUTE=6_000)
        with (
            Client(base_url=simulator.url, api_key="bench", timeout=10) as client,
            Gateway() as ours,
        ):
            for count in (1, 10, 100):
                for model in (StatusChange, Card, Order):
                    model.objects.all().delete()
                ids = [
                    client.place(product_id=PRODUCT, type_id="SIM_NEVER", quantity=2)
                    for _ in range(count)
                ]
                accept(ids, type_id="SIM_NEVER")
                # The first sweep learns which spellings the provider has.
                for _ in range(2):
                    Order.objects.update(due_at=timezone.now())
                    with CaptureQueriesContext(
                        connection,
                    ) as swept:
                        done = sweep(ours)
                assert done.checked == count, done
                with CaptureQueriesContext(connection) as one_by_one:
                    for pk in Order.objects.values_list("pk", flat=True):
                        order = Order.objects.get(pk=pk)
                        client.check(order.provider_order_id or "")
                        order.checked_at = timezone.now()
                        order.save(update_fields=["checked_at"])
                ratio = len(one_by_one) / len(swept)
                say(
                    f"{count:>3} orders: {len(swept)} queries; read and saved one by one:"
                    f" {len(one_by_one)} ({ratio:.1f} × as many)"
                )
