"""The pages about orders, against the code."""

from __future__ import annotations

import re

from giftcards.problems import PARAMETERS, WORDINGS, Kind
from giftcards.statuses import MOVES, Status
from tests.docs.pages import code, page, rows, section


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


def test_every_code_is_documented_with_its_text_and_its_parameters() -> None:
    documented = rows(section(page("orders"), "What needs attention"))
    assert [row[0].strip("`") for row in documented if row[0].strip("`") not in WORDINGS] == []
    assert len(documented) == len(WORDINGS)
    for name, quoted, parameters, *_ in documented:
        wording = WORDINGS[name.strip("`")]
        text = re.sub(r" ?%\(reason\)s", "", str(wording.text))
        assert quoted.strip('"').rstrip(".") == re.sub(r"%\(\w+\)s", "…", text).rstrip(".")
        assert {*wording.parameters} <= {*code(parameters)} <= {*PARAMETERS}


# The beginning of the column "ends". Problems of the final answer stay until they are ticked off.
ENDS = {
    Kind.SENDING: "when",
    Kind.SEARCH: "with the next look",
    Kind.ANSWER: "with the next answer|ticked off$|when it settles|never shown",
    Kind.LASTING: "ticked off$",
    Kind.LEDGER: r"when the \[ledger\]",
}


def test_every_problem_ends_in_its_row_as_it_does_in_the_code() -> None:
    for name, *cells in rows(section(page("orders"), "What needs attention")):
        kind = WORDINGS[name.strip("`")].kind
        assert kind in {Kind.HISTORY, Kind.CARE} or re.match(ENDS[kind], cells[2]), name
