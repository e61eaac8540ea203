"""The sentences that an order's page begins with: one set for each status and situation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone, translation

from giftcards.admin.orders.summary import SummaryInput, summarise
from giftcards.models import Order
from giftcards.rules.problems import Problem
from giftcards.statuses import Status
from giftcards.text.display import day_text
from tests.builders import PRICE, build_guide_order
from tests.pages import plain, text

AT = datetime(2026, 11, 24, 22, 59, tzinfo=UTC)
SOLD = {"sale_price": Decimal(550)}
LOST = Problem("answer_lost")
# This is a quarter of an hour after the time at which the pages are viewed.
LATER = AT + timedelta(hours=1, minutes=15)
PAID = "The customer paid 5 × 550 = 2,750 DA."


@pytest.fixture(autouse=True)
def _in_november(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the time to November 2026, because the sentences leave out the current year."""
    monkeypatch.setattr(timezone, "now", lambda: AT + timedelta(hours=1))


def tell(order: Order, *, shows_costs: bool = True, **more: Any) -> str:
    return text(summarise(SummaryInput(order, shows_costs, **more))).replace("\xa0", " ")


def settled_order(status: Status, **values: Any) -> Order:
    delivered = {Status.FULFILLED: 5, Status.PARTIALLY_FILLED: 3}.get(status, 0)
    quantity = values.get("quantity", 5)
    figures = {"price_per_card": PRICE, "fulfilled_amount": min(delivered, quantity) * PRICE}
    return build_guide_order(status, **{"finalized_at": AT, **SOLD, **figures, **values})


def test_a_partly_delivered_order_says_what_came_what_was_credited_and_what_is_owed() -> None:
    assert tell(settled_order(Status.PARTIALLY_FILLED)) == (
        "3 of 5 cards delivered. The provider credited back 2 × 490 = 980 DA on 24 Nov 23:59."
        " The customer is owed 2 × 550 = 1,100 DA."
    )


def test_the_sentences_leave_out_what_the_provider_charges_for_who_may_not_see_it() -> None:
    order = settled_order(Status.PARTIALLY_FILLED)
    assert tell(order, shows_costs=False) == (
        "3 of 5 cards delivered. The provider credited back the price of 2 cards on 24 Nov 23:59."
        " The customer is owed 2 × 550 = 1,100 DA."
    )
    whole = settled_order(Status.FULFILLED)
    assert tell(whole, shows_costs=False) == "All 5 cards were delivered on 24 Nov 23:59."


def test_a_delivered_order_says_what_it_cost() -> None:
    assert tell(settled_order(Status.FULFILLED)) == (
        "All 5 cards were delivered on 24 Nov 23:59. The provider charged 5 × 490 = 2,450 DA."
    )


def test_an_order_of_one_card_speaks_of_one_card() -> None:
    one = {"quantity": 1, "fulfilled_quantity": 1, "fulfilled_amount": PRICE}
    assert tell(settled_order(Status.FULFILLED, **one)) == (
        "The card was delivered on 24 Nov 23:59. The provider charged 490 DA."
    )
    assert tell(settled_order(Status.REFUNDED, quantity=1)) == (
        "No card was delivered. The provider credited back 490 DA on 24 Nov 23:59."
        " The customer is owed 550 DA."
    )


def test_an_order_that_was_credited_back_owes_the_customer_everything() -> None:
    assert tell(settled_order(Status.REFUNDED)) == (
        "No card was delivered. The provider credited back 5 × 490 = 2,450 DA on 24 Nov 23:59."
        " The customer is owed 5 × 550 = 2,750 DA."
    )


def test_unknown_amounts_are_said_to_be_unknown_and_never_to_be_zero() -> None:
    unknown = {"price_per_card": None, "fulfilled_amount": None, "sale_price": None}
    assert tell(settled_order(Status.FULFILLED, **unknown)) == (
        "All 5 cards were delivered on 24 Nov 23:59. The provider did not report how much it"
        " charged."
    )
    assert tell(settled_order(Status.PARTIALLY_FILLED, **unknown)) == (
        "3 of 5 cards delivered. The provider credited back the price of 2 cards on 24 Nov 23:59."
        " The amount is unknown. The amount owed to the customer is unknown because the order has"
        " no sale amount."
    )


def test_an_amount_that_is_no_product_is_shown_without_arithmetic() -> None:
    paid = {"sale_price": None, "sale_amount": Decimal(2_700)}
    assert tell(settled_order(Status.PARTIALLY_FILLED, **paid)).endswith(
        "The customer is owed 1,080 DA."
    )
    charged = settled_order(Status.FULFILLED, fulfilled_amount=Decimal("2449.50"))
    assert tell(charged).endswith("The provider charged 2,449.50 DA.")


def test_a_customer_who_paid_nothing_is_owed_nothing() -> None:
    assert "owed" not in tell(settled_order(Status.REFUNDED, sale_price=Decimal(0)))


@pytest.mark.parametrize(("name", "named"), [("<a>web-2</a>", ": web-2."), ("", ".")])
def test_missing_cards_that_were_ordered_again_are_named_if_seen_and_not_owed(
    name: str, named: str
) -> None:
    found = tell(settled_order(Status.PARTIALLY_FILLED), was_reordered=True, reordered_as=name)
    assert found.endswith(
        f" The missing cards were ordered again{named} The customer's payment for these cards was"
        " transferred to the new order."
    )
    assert "owed" not in found


@pytest.mark.parametrize("sale_price", [None, Decimal(0)], ids=["unknown", "nothing"])
def test_money_that_is_not_known_went_nowhere(sale_price: Decimal | None) -> None:
    order = settled_order(Status.PARTIALLY_FILLED, sale_price=sale_price)
    assert tell(order, was_reordered=True).endswith(" The missing cards were ordered again.")


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "1 problem needs attention: see below."), (2, "2 problems need attention: see below.")],
)
def test_open_problems_are_counted(count: int, expected: str) -> None:
    problems = [LOST, Problem("not_known")][:count]
    assert tell(settled_order(Status.FULFILLED, problems=problems)).endswith(expected)


def test_a_new_order_is_sent_automatically() -> None:
    assert tell(build_guide_order(Status.PENDING, due_at=AT)) == (
        "The order is recorded. Nothing has been bought yet. The app will send the order"
        " automatically in a moment."
    )


def test_an_order_that_could_not_be_sent_says_when_it_is_tried_again() -> None:
    order = build_guide_order(Status.PENDING, problems=[Problem("not_sent")], due_at=LATER)
    assert tell(order) == (
        "Nothing has been bought yet. The app will try again automatically at 01:14. 1 problem"
        " needs attention: see below."
    )


def test_an_order_on_hold_waits_for_a_decision_about_its_price() -> None:
    above = Problem("price_above", {"price": "570.00", "ceiling": "550.00"})
    order = build_guide_order(Status.PENDING, problems=[above], due_at=None, **SOLD)
    decision = (
        "The cards will be bought only if somebody approves the price, or if the price falls to"
        f" the limit or below it. {PAID}"
    )
    assert tell(order) == (
        f"The order is on hold because a card costs 570 DA, and your limit is 550 DA. {decision}"
    )
    discreet = tell(order, shows_costs=False)
    assert discreet == (
        f"The order is on hold because a card costs more than your limit. {decision}"
    )


def test_an_order_that_is_on_hold_for_review_tells_why_to_everybody() -> None:
    wanted = Problem("review_wanted", {"objection": "Third order today"})
    order = build_guide_order(Status.PENDING, problems=[wanted], due_at=None, **SOLD)
    for shows_costs in (True, False):
        assert tell(order, shows_costs=shows_costs) == (
            "The order is on hold until somebody reviews it. Reason: “Third order today”. The"
            f" cards will be bought only if somebody approves the order. {PAID}"
        )


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (Status.PENDING, {"due_at": None}),
        (Status.PENDING, {"due_at": LATER, "kept_waiting_at": AT}),
        (Status.UNCONFIRMED, {"due_at": LATER, "kept_waiting_at": AT}),
        (Status.DELAYED, {"due_at": LATER}),
    ],
)
def test_staff_read_how_long_a_customer_has_waited(status: Status, values: dict[str, Any]) -> None:
    since = timezone.now() - timedelta(minutes=12, seconds=5)
    told = tell(build_guide_order(status, created_at=since, **values))
    assert "The customer has been waiting for 12 minutes." in told


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (Status.PENDING, {"due_at": LATER}),
        (Status.HANDLING, {"due_at": LATER}),
        (Status.FULFILLED, {"kept_waiting_at": AT}),
    ],
)
def test_nothing_is_said_about_the_wait_for_orders_that_are_not_late(
    status: Status, values: dict[str, Any]
) -> None:
    since = timezone.now() - timedelta(minutes=12)
    assert "waiting" not in tell(build_guide_order(status, created_at=since, **values))


def test_an_order_that_waits_for_its_turn_says_until_when() -> None:
    at = datetime(timezone.now().year, 11, 24, 12, 30, tzinfo=UTC)
    order = build_guide_order(Status.PENDING, due_at=None, send_after=at, **SOLD)
    said = "The order will be sent automatically on 24 Nov 13:30."
    assert tell(order) == f"{said} {PAID}"


def test_an_order_that_is_proven_absent_is_sent_again() -> None:
    order = build_guide_order(Status.PENDING, due_at=AT)
    assert tell(order, reason=Problem("absent")) == (
        "The provider's list does not contain the order, so the cards were not bought. The app will"
        " send the order automatically in a moment."
    )


def test_an_order_whose_price_was_approved_names_who_approved_it() -> None:
    amounts = {"by": "amina", "price": "570.00", "ceiling": "550.00"}
    approved = Problem("staff_approved", amounts)
    order = build_guide_order(Status.PENDING, due_at=AT)
    assert tell(order, reason=approved) == (
        "amina approved a price of 570 DA per card instead of 550 DA. The app will send the order"
        " automatically in a moment."
    )
    assert "570" not in tell(order, reason=approved, shows_costs=False)


def test_an_order_that_is_being_sent_says_so() -> None:
    assert tell(build_guide_order(Status.PLACING)) == (
        "The order is being sent to the provider now."
    )


def test_an_unconfirmed_order_is_looked_for_or_waits_for_a_person() -> None:
    sent = "The order was sent, but it is not known whether the cards were bought."
    order = build_guide_order(Status.UNCONFIRMED, due_at=LATER)
    assert (
        tell(order)
        == f"{sent} The app will search for the order at the provider automatically at 01:14."
    )
    order.candidates = [{"id": "B1"}]
    assert tell(order) == f"{sent} Somebody has to record what happened to the order."
    assert tell(build_guide_order(Status.UNCONFIRMED, due_at=None)).endswith(
        "Somebody has to record what happened to the order."
    )


def test_what_a_problem_says_is_not_said_above_it_as_well() -> None:
    lost = build_guide_order(Status.UNCONFIRMED, problems=[LOST], due_at=None)
    assert tell(lost) == (
        "It is not yet known whether the cards were bought. Somebody has to record what happened to"
        " the order. 1 problem needs attention: see below."
    )
    ended = [Problem("watch_ended")]
    left = build_guide_order(Status.DELAYED, accepted_at=AT, due_at=None, problems=ended)
    assert tell(left) == (
        "The provider accepted the order on 24 Nov 23:59 and is taking longer than usual. Ask the"
        " customer to wait. 1 problem needs attention: see below."
    )


def test_an_accepted_order_says_since_when_and_that_its_cards_come_automatically() -> None:
    order = build_guide_order(accepted_at=AT, due_at=AT)
    checked = "The app will check the order again automatically in a moment."
    assert tell(order) == (
        "The provider accepted the order on 24 Nov 23:59. The cards will arrive automatically,"
        f" usually within a minute. {checked}"
    )
    order.fulfilled_quantity = 2
    assert tell(order).endswith(f"2 of 5 cards have arrived so far. {checked}")


def test_a_delayed_order_says_when_the_provider_is_asked_next() -> None:
    order = build_guide_order(Status.DELAYED, accepted_at=AT, due_at=LATER, **SOLD)
    assert tell(order) == (
        "The provider accepted the order on 24 Nov 23:59 and is taking longer than usual. Ask the"
        f" customer to wait. The app will check the order again automatically at 01:14. {PAID}"
    )
    order.due_at = LATER + timedelta(days=1)
    assert "The app will check the order again automatically on 26 Nov 01:14." in tell(order)
    order.due_at = None
    left = "The order is no longer checked automatically. Contact the provider's support."
    assert tell(order).endswith(f"{left} {PAID}")


@pytest.mark.parametrize("status", [Status.PENDING, Status.UNCONFIRMED, Status.DELAYED])
def test_an_order_names_no_time_while_nothing_is_done_automatically(status: Status) -> None:
    standstill = "Orders are not sent or checked until background work runs again."
    order = build_guide_order(status, due_at=LATER)
    assert standstill in tell(order, standstill=standstill)
    assert "01:14" not in tell(order, standstill=standstill)
    # Staff have to decide about these orders, so the app waits for nothing.
    order.due_at = None
    assert standstill not in tell(order, standstill=standstill)


def test_an_open_order_without_a_sale_amount_says_nothing_of_a_payment() -> None:
    assert "paid" not in tell(build_guide_order(Status.DELAYED, due_at=LATER))
    paid = tell(build_guide_order(Status.DELAYED, due_at=LATER, sale_amount=Decimal(2_700)))
    assert paid.endswith("The customer paid 2,700 DA.")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (None, "The order was rejected. Nothing was bought."),
        (
            Problem("refused", {"reason": "out_of_stock"}),
            "The provider refused the order, so nothing was bought. The card is out of stock.",
        ),
        (
            Problem("given_up", {"seconds": "3600"}),
            (
                "The order was rejected because it could not be sent within 3600 seconds. Nothing"
                " was bought."
            ),
        ),
        (
            Problem("staff_cancelled", {"by": "karim"}),
            "karim cancelled the order. Nothing was bought.",
        ),
    ],
)
def test_a_rejected_order_says_why_and_owes_everything(
    reason: Problem | None, expected: str
) -> None:
    order = build_guide_order(Status.REJECTED, **SOLD)
    assert tell(order, reason=reason) == (f"{expected} The customer is owed 5 × 550 = 2,750 DA.")


@pytest.mark.parametrize("language", ["en", "fr", "ar"])
@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("quantity", [1, 2, 3, 11, 100])
def test_every_status_has_sentences_in_every_language(
    status: Status, language: str, quantity: int
) -> None:
    delivered = {Status.FULFILLED: quantity, Status.PARTIALLY_FILLED: 1}.get(status, 0)
    order = build_guide_order(
        status, quantity=quantity, fulfilled_quantity=delivered, problems=[LOST], **SOLD
    )
    for shows_costs in (True, False):
        with translation.override(language):
            found = tell(order, shows_costs=shows_costs)
        assert found.endswith(".")
        assert "%(" not in found


@pytest.mark.parametrize(
    ("settled", "language", "said"),
    [
        (
            timedelta(0),
            "en",
            "The customer is owed 2 × 550 = 1,100 DA. The refund is due by {day}.",
        ),
        (timedelta(days=9), "en", "The refund is overdue. It was due by {day}."),
        (timedelta(0), "fr", "Remboursement promis au plus tard le {day}."),
        (timedelta(0), "ar", "آخر أجل لإعادة المبلغ إلى الزبون: {day}."),
    ],
)
def test_staff_read_by_when_the_customer_was_promised_the_money(
    settled: timedelta, language: str, said: str, settings: Any
) -> None:
    order = settled_order(Status.PARTIALLY_FILLED)
    order.finalized_at = timezone.now() - settled
    assert "promised" not in tell(order)
    settings.GIFTCARDS = {**settings.GIFTCARDS, "REFUND_DAYS": 3}
    with translation.override(language):
        day = plain(day_text(timezone.localdate(order.finalized_at) + timedelta(days=3)))
        assert said.format(day=day) in plain(tell(order))


def test_arithmetic_is_isolated_and_runs_from_left_to_right_in_arabic() -> None:
    with translation.override("ar"):
        found = summarise(SummaryInput(settled_order(Status.PARTIALLY_FILLED), shows_costs=True))
    assert (
        '<span class="giftcards-money"><bdi class="giftcards-money" dir="ltr">2 × 490</bdi> = '
        '<bdi class="giftcards-money"><span class="giftcards-whole" dir="ltr">980</span>'
        "\xa0دج</bdi></span>"
    ) in found


def test_what_others_have_written_is_escaped() -> None:
    order = build_guide_order(Status.REJECTED)
    cancelled = Problem("staff_cancelled", {"by": "<b>no</b>"})
    found = summarise(SummaryInput(order, shows_costs=True, reason=cancelled))
    assert "<bdi>&lt;b&gt;no&lt;/b&gt;</bdi>" in found


def test_the_providers_own_english_is_left_to_developers() -> None:
    refused = Problem("refused", {"message": "Not today."})
    found = tell(build_guide_order(Status.REJECTED, **SOLD), reason=refused)
    assert found.startswith(
        "The provider refused the order, so nothing was bought. The customer is"
    )
