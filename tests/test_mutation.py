"""The tables of ``make mutation`` name modules and tests that exist."""

from __future__ import annotations

import pytest

from tests.mutation import EQUIVALENT, ROOT, TESTS


@pytest.mark.parametrize("module", TESTS)
def test_a_module_that_is_mutated_exists_and_so_do_its_tests(module: str) -> None:
    assert (ROOT / module).is_file()
    for argument in TESTS[module]:
        assert (ROOT / argument.removeprefix("--deselect=").partition("::")[0]).is_file()


def test_only_changes_of_modules_that_are_mutated_are_explained() -> None:
    assert EQUIVALENT.keys() <= TESTS.keys()
