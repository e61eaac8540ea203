"""Every block of every page runs, and prints the output that the page shows."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest

from tests.docs import scenes
from tests.docs.pages import PAGES, ROOT, all_blocks
from tests.docs.running import run

BLOCKS = [block for page in PAGES for block in all_blocks(page)]


def complaints(page: str) -> list[str]:
    context = multiprocessing.get_context("forkserver")
    # The server is prepared once. Each page is run in a fork of it, which leaves nothing behind.
    context.set_forkserver_preload(["tests.docs.prepared"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(page, theirs))
    process.start()
    theirs.close()
    with ours:
        found: list[str] = ours.recv()
    process.join()
    return found


@pytest.mark.every_row
@pytest.mark.parametrize("page", scenes.PAGES_TO_RUN)
def test_every_block_of_a_page_runs_and_prints_what_is_shown(page: str) -> None:
    found = complaints(page)
    assert not found, "\n".join(found)


# The expected complaint for each line.
WRONG = {
    5: "IndexError: list index out of range",
    9: "AttributeError: module 'giftcards.fulfilment' has no attribute 'place'",
    16: "There is no shop/shelf.py to add this to.",
    20: "1 + 1\n  shown:\n    3\n  printed:\n    2",
    25: "python manage.py giftcards_status cart-1042\n  shown:\n    Order cart-1042\n  printed:",
    27: "python manage.py giftcards_status cart-1042\n  failed:\n    CommandError: There",
    28: "python manage.py giftcards_catalogue\n  shown:\n    0 products read",
    31: "Nothing runs this line",
    38: "python manage.py giftcards_poll --lop\n  failed:\n",
    42: "venv/bin/python manage.py giftcards_status --fail-on nothing\n  failed:\n",
    46: "JSONDecodeError: ",
    49: "Nothing runs or reads a block of 'bash'.",
    58: "No line of a console runs ids.py.",
    64: "There is no 'offers'.",
    69: "No line here prints what is shown.",
    1: "With the settings of the page: ?: (giftcards.E024) ",
}


def test_what_is_wrong_on_a_page_is_told_with_its_line() -> None:
    page = "tests/docs/wrong.md"
    found = {}
    for complaint in complaints(page):
        where, line, text = complaint.split(":", 2)
        assert where == page
        found[int(line)] = text.strip()[: len(WRONG.get(int(line), text))]
    assert found == WRONG


def python_has(word: str) -> bool:
    return any(
        re.search(rf"\b{word}\b", block.text) for block in BLOCKS if block.language == "python"
    )


def test_every_row_of_the_tables_is_of_use() -> None:
    headings = {(block.page, block.heading) for block in BLOCKS}
    lines = [typed for block in BLOCKS for _line, typed, _shown in block.commands()]
    assert scenes.SCENES.keys() <= headings
    assert {scenes.SHOP, *scenes.PAGES_ELSEWHERE} <= {*PAGES}
    assert {*scenes.LINES_ELSEWHERE} == {*map(scenes.line_elsewhere, lines)} - {None}
    unused = [name for name in (*scenes.NAMES, *scenes.ABSENT) if not python_has(name)]
    assert unused == []


ELSEWHERE = [*scenes.LINES_ELSEWHERE.values(), *scenes.ABSENT.values()]


@pytest.mark.parametrize("place", sorted({*ELSEWHERE, *scenes.PAGES_ELSEWHERE.values()}))
def test_what_is_not_run_with_the_pages_is_run_elsewhere(place: str) -> None:
    found = re.fullmatch(r"(tests/\S+\.py|noxfile\.py|\.ci/readme)(?:: (.*))?", place)
    if found:
        assert (found[2] or "def test_") in (ROOT / found[1]).read_text()
    else:
        # A sentence that says why it is not run at all.
        assert re.fullmatch(r"[A-Z].*\.", place)


@pytest.mark.parametrize(("page", "place"), scenes.PAGES_ELSEWHERE.items())
def test_a_page_that_is_followed_elsewhere_is_read_there(page: str, place: str) -> None:
    assert re.search(rf"\b{Path(page).stem}\b", (ROOT / place).read_text())
