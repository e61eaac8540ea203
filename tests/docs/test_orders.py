"""The pages about orders, against the code."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django_q.models import OrmQ

from giftcards.models import Order, StatusChange
from giftcards.problems import IN_SHORT, WORDINGS, Kind
from giftcards.signals import order_settled
from giftcards.statuses import MOVES, Status
from tests.docs.pages import blocks, code, page, rows, section


def test_every_status_is_documented_by_the_name_that_staff_see() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section(page("orders"), "Statuses"))}
    assert documented == {status.value: str(status.label) for status in Status}


def test_every_move_is_documented() -> None:
    documented = [
        tuple(cell.strip("`") for cell in row[:2]) for row in rows(section(page("orders"), "Moves"))
    ]
    allowed = {(origin.value, target.value) for origin in Status for target in MOVES[origin]}
    assert len(documented) == len(allowed)
    assert set(documented) == allowed


ATTENTION = section(page("orders"), "What needs attention")


def test_every_code_is_in_the_row_of_the_words_that_staff_see() -> None:
    documented = [(name, row[0]) for row in rows(ATTENTION) for name in code(row[1])]
    assert sorted(documented) == sorted((name, str(text)) for name, text in IN_SHORT.items())


def test_every_other_code_stands_in_the_timeline_only() -> None:
    [named] = re.findall(r"^In the timeline only: (.*?)\.$", ATTENTION, re.DOTALL | re.MULTILINE)
    assert sorted(code(named)) == sorted(WORDINGS.keys() - IN_SHORT.keys())


# What the column "ends" says of a kind. Those of the final answer stay until they are ticked off.
ENDS = {
    Kind.SENDING: "sent|decided|known",
    Kind.SEARCH: "known",
    Kind.ANSWER: "next answer|settles|ticked off",
    Kind.LASTING: "ticked off",
    Kind.LEDGER: r"\[ledger\]",
}


def test_every_problem_ends_in_its_row_as_it_does_in_the_code() -> None:
    for _text, names, ends, _remedy in rows(ATTENTION):
        for name in code(names):
            assert re.search(ENDS[WORDINGS[name].kind], ends), name


@pytest.mark.django_db
@pytest.mark.parametrize(("reference", "tasks"), [("cart-7", ["shop.tasks.tell"]), ("test", [])])
def test_the_receiver_queues_a_task_for_an_order_of_the_shop(
    reference: str, tasks: list[str]
) -> None:
    names: dict[str, Any] = {}
    [block] = blocks(section(page("placing"), "Telling your shop"), "python")
    try:
        exec(block, names)
        names["settled"](Order(reference=reference), StatusChange(pk=1))
    finally:
        order_settled.disconnect(dispatch_uid="shop.settled")
    assert [queued.task["func"] for queued in OrmQ.objects.all()] == tasks


def test_the_rule_of_the_page_holds_an_order_of_many_cards() -> None:
    names: dict[str, Any] = {}
    [block] = blocks(section(page("placing"), "Review before buying"), "python")
    exec(block, names)
    assert [bool(names["review"](Order(quantity=quantity))) for quantity in (100, 101)] == [0, 1]
