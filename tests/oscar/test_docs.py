"""Checks of the documentation page about django-oscar, which need django-oscar to be installed."""

from __future__ import annotations

import re

from tests.docs.pages import code, options_in, options_of, page, resolve, rows, section

COMMAND = "giftcards_oscar_sync"


def test_every_option_of_the_command_that_is_named_exists() -> None:
    for line in re.findall(rf"{COMMAND}(.*)", page("oscar")):
        assert options_in(line) <= options_of(COMMAND)


def test_every_name_on_the_page_exists() -> None:
    for name in set(re.findall(r"\bgiftcards(?:\.[A-Za-z]\w*)+", page("oscar"))):
        resolve(name)
    functions = [cells[0] for cells in rows(section(page("oscar"), "Before the payment"))]
    for name in (text.partition("(")[0] for cell in functions for text in code(cell)):
        resolve(f"giftcards.oscar.checkout.{name}")


def test_every_block_imports_what_exists() -> None:
    for module, names in re.findall(
        r"^from (giftcards\S*) import (.*)$", page("oscar"), re.MULTILINE
    ):
        for name in names.split(", "):
            resolve(f"{module}.{name}")
