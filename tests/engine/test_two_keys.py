"""Orders that were sent with one API key, and processes that have a different key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from giftcards.engine.gateway import Gateway
from giftcards.engine.recovering import declare_absent
from giftcards.models import ApiKey, Order, StatusChange
from giftcards.simulator import Simulator
from giftcards.watch.conditions import CONDITIONS, Standing
from tests.conftest import Call
from tests.stage import Setter, ago, buy, fresh, own_key, posts, run_sweep

pytest_plugins = ["tests.stage_fixtures"]
pytestmark = pytest.mark.django_db


CHECK = ("--database", "default", "--tag", "database", "--fail-level", "WARNING")


@pytest.fixture
def accounts(simulator: Simulator, set_conf: Setter) -> Any:
    """Yield a function that switches to the ``PRODUCTION`` or the ``SANDBOX`` account.

    Each account has a different key and different orders.
    """
    with Simulator(delay=(0, 0), rate_limit=0, key_type="PRODUCTION") as production:
        both = {"SANDBOX": simulator, "PRODUCTION": production}

        def switch(kind: str) -> Simulator:
            # These two addresses stand for a single real one, at which the key decides.
            set_conf(API_KEY=f"key-for-{kind}", BASE_URL=both[kind].url)
            return both[kind]

        yield switch


def lose(provider: Simulator, *, is_bought: bool) -> Order:
    """Return an order whose answer was lost.

    The provider has bought it only if ``is_bought`` is true.
    """
    order = buy(type_id="SIM_LOST" if is_bought else "SIM_DROP")
    assert order.status == "UNCONFIRMED"
    assert len(provider.orders) == is_bought
    return order


def look() -> None:
    """Run three sweeps that look for lost orders, as if minutes had passed since the sending."""
    for _time in range(3):
        passed = timedelta(seconds=90)
        Order.objects.exclude(sent_at=None).update(
            sent_at=F("sent_at") - passed, absent_since=F("absent_since") - passed
        )
        Order.objects.exclude(due_at=None).update(due_at=timezone.now())
        run_sweep()


def problems() -> list[str]:
    return [problem.code for problem in Order.objects.get().open_problems]


@pytest.mark.parametrize(
    ("sent_to", "looked_for_in"), [("PRODUCTION", "SANDBOX"), ("SANDBOX", "PRODUCTION")]
)
def test_the_list_of_another_account_proves_nothing_about_a_lost_order(
    sent_to: str, looked_for_in: str, accounts: Any
) -> None:
    order = lose(accounts(sent_to), is_bought=True)
    other = accounts(looked_for_in)
    look()
    assert (fresh(order).status, order.absent_since, posts(other)) == ("UNCONFIRMED", None, 0)
    assert problems() == ["answer_lost", "other_account"]
    assert order.needs_attention
    assert order.open_problems[1].text == (
        "The order was sent with a different key. With the shop's current key, the app cannot"
        " check whether the cards were bought."
    )
    # The key is put back.
    accounts(sent_to)
    look()
    assert (fresh(order).status, order.problems) == ("FULFILLED", [])


def test_an_order_of_another_account_is_no_candidate(accounts: Any) -> None:
    order = lose(accounts("PRODUCTION"), is_bought=True)
    Order.objects.filter(pk=order.pk).update(type_id="type_001")
    # Somebody buys the same cards in the sandbox.
    sandbox = accounts("SANDBOX")
    with Gateway() as gateway:
        gateway.client.place(product_id=order.product_id, type_id="type_001", quantity=2)
    look()
    assert (fresh(order).status, order.candidates, len(sandbox.orders)) == ("UNCONFIRMED", [], 1)


def test_another_key_of_the_same_environment_proves_nothing_either(
    simulator: Simulator, set_conf: Setter
) -> None:
    order = lose(simulator, is_bought=False)
    set_conf(API_KEY="new-key")
    look()
    assert (fresh(order).status, problems()) == ("UNCONFIRMED", ["answer_lost", "other_account"])


def test_an_order_that_an_earlier_version_has_sent_is_known_by_its_environment(
    accounts: Any,
) -> None:
    order = lose(accounts("SANDBOX"), is_bought=False)
    Order.objects.update(sent_with="")
    accounts("PRODUCTION")
    look()
    assert fresh(order).status == "UNCONFIRMED"
    sandbox = accounts("SANDBOX")
    sandbox.forget_requests()
    look()
    assert (fresh(order).status, posts(sandbox)) == ("UNCONFIRMED", 1)


def test_an_order_proven_absent_in_one_environment_is_not_sent_in_another(accounts: Any) -> None:
    order = lose(accounts("SANDBOX"), is_bought=False)
    assert declare_absent(order, send_again=True, source=StatusChange.Source.RECOVERY)
    production = accounts("PRODUCTION")
    look()
    order.refresh_from_db()
    assert (order.status, posts(production), problems()) == ("PENDING", 0, ["other_environment"])
    sandbox = accounts("SANDBOX")
    Order.objects.update(type_id="type_001")
    look()
    assert (fresh(order).status, posts(sandbox)) == ("FULFILLED", 2)


def test_a_person_may_have_it_sent_in_the_environment_of_the_key_in_use(accounts: Any) -> None:
    order = lose(accounts("SANDBOX"), is_bought=False)
    Order.objects.update(type_id="type_001")
    assert declare_absent(fresh(order), send_again=True, source=StatusChange.Source.STAFF)
    accounts("PRODUCTION")
    look()
    assert (fresh(order).status, order.environment) == ("FULFILLED", "PRODUCTION")


def test_an_order_that_another_account_does_not_know_keeps_its_id(accounts: Any) -> None:
    order = buy(accounts("PRODUCTION") and None)
    accounts("SANDBOX")
    look()
    assert (fresh(order).status, problems()) == ("HANDLING", ["not_known"])
    accounts("PRODUCTION")
    look()
    assert (fresh(order).status, order.problems) == ("FULFILLED", [])


class TestKeysAtWork:
    def test_one_key_is_no_problem(self, simulator: Simulator, call: Call) -> None:
        buy()
        ApiKey.objects.create(pk="earlier", accepted_at=ago(601))
        assert CONDITIONS["api_keys"].sentence(Standing()) == ""
        assert call("giftcards_status", "--fail-on", "api_keys").code == 0
        assert call("check", *CHECK).code == 0

    def test_two_keys_are_told_by_the_check_and_the_status_command(
        self, accounts: Any, call: Call
    ) -> None:
        names = []
        for kind in ("PRODUCTION", "SANDBOX"):
            accounts(kind)
            buy()
            names.append(f"{own_key().pk[:8]} ({kind})")
        told = f"Processes with different API keys use this database: {', '.join(sorted(names))}."
        assert CONDITIONS["api_keys"].sentence(Standing()).startswith(told)
        failed = call("giftcards_status", "--fail-on", "api_keys")
        assert failed.code == 1
        assert told in failed.out + failed.err
        checked = call("check", *CHECK)
        assert "giftcards.W008" in checked.err
        assert told in checked.err
        assert "key-for" not in failed.out + failed.err + checked.err
