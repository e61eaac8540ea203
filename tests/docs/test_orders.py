"""Compare the pages about orders with the code."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django_q.models import OrmQ

from giftcards.models import Order, StatusChange
from giftcards.rules.problems import IN_SHORT, WORDINGS
from giftcards.rules.states import FINAL, STATES, Kind, Status
from giftcards.signals import order_finalized
from tests.docs.pages import blocks, code, page, rows, section

STATUSES = [(row[0].strip("`"), *row[1:]) for row in rows(section(page("orders"), "Statuses"))]


def test_every_status_is_documented_by_the_name_that_staff_see() -> None:
    documented = {name: shown for name, shown, *_ in STATUSES}
    assert documented == {status.value: str(status.label) for status in Status}


def test_every_status_is_documented_as_final_if_no_move_leaves_it() -> None:
    documented = {name for name, _shown, meaning, *_ in STATUSES if meaning.endswith(" Final.")}
    assert documented == set(FINAL)


def test_customers_are_told_the_same_of_statuses_with_the_same_news() -> None:
    told = {(news, words) for name, *_, words in STATUSES if (news := STATES[name].customer_news)}
    assert len(told) == len({news for news, _ in told}) == len({words for _, words in told})


def test_every_move_is_documented() -> None:
    documented = [
        tuple(cell.strip("`") for cell in row[:2]) for row in rows(section(page("orders"), "Moves"))
    ]
    allowed = {
        (origin.value, target.value) for origin in Status for target in STATES[origin].moves_to
    }
    assert len(documented) == len(allowed)
    assert set(documented) == allowed


ATTENTION = section(page("orders"), "What needs attention")


def test_every_code_is_in_the_row_of_the_words_that_staff_see() -> None:
    documented = [(name, row[0]) for row in rows(ATTENTION) for name in code(row[1])]
    assert sorted(documented) == sorted((name, str(text)) for name, text in IN_SHORT.items())


def test_every_other_code_stands_in_the_timeline_only() -> None:
    sentence = r"^These codes appear only in the timeline: (.*?)\.$"
    [named] = re.findall(sentence, ATTENTION, re.DOTALL | re.MULTILINE)
    assert sorted(code(named)) == sorted(WORDINGS.keys() - IN_SHORT.keys())


# The content of the column "ends" for each kind of problem. Problems of the final answer stay until
# they are acknowledged.
ENDS = {
    Kind.SENDING: "sent|decided|known",
    Kind.SEARCH: "known",
    Kind.ANSWER: "next answer|settles|acknowledged",
    Kind.LASTING: "acknowledged",
    Kind.LEDGER: r"\[ledger\]",
}


def test_every_problem_ends_in_its_row_as_it_does_in_the_code() -> None:
    for _text, names, ends, _remedy in rows(ATTENTION):
        for name in code(names):
            assert re.search(ENDS[WORDINGS[name].kind], ends), name


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("order", "tasks"),
    [
        (Order(reference="cart-7"), ["shop.tasks.tell"]),
        (Order(reference="repetition", repeats=Order(reference="cart-7")), ["shop.tasks.tell"]),
        (Order(reference="test"), []),
    ],
    ids=["of the shop", "for missing cards of the shop", "of the self-test"],
)
def test_the_receiver_queues_a_task_for_an_order_of_the_shop(
    order: Order, tasks: list[str]
) -> None:
    names: dict[str, Any] = {}
    [block] = blocks(section(page("placing"), "Notifying your shop"), "python")
    try:
        exec(block, names)
        names["settled"](order, StatusChange(pk=1))
    finally:
        order_finalized.disconnect(dispatch_uid="shop.settled")
    assert [queued.task["func"] for queued in OrmQ.objects.all()] == tasks


def test_the_rule_of_the_page_holds_an_order_of_many_cards() -> None:
    names: dict[str, Any] = {}
    [block] = blocks(section(page("placing"), "Review before buying"), "python")
    exec(block, names)
    assert [bool(names["review"](Order(quantity=quantity))) for quantity in (100, 101)] == [0, 1]
