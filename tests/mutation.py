"""Mutation testing of the modules that decide about money and purchases: ``make mutation``.

mutmut changes the code of a module in hundreds of small ways, one at a time, and runs the module's
tests each time. A change that no test notices is a survivor. docs/maintaining.md explains how to
read the survivors.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Each module has its own folder in this folder, in which mutmut works.
FOLDER = ROOT / ".mutation"
MUTMUT = Path(sys.executable).parent / "mutmut"

# The tests of each module, as arguments for pytest. Only tests that are fast and written for the
# module are listed.
TESTS: dict[str, tuple[str, ...]] = {
    "giftcards/rules/states.py": ("tests/rules/test_states.py",),
    "giftcards/rules/ceiling.py": ("tests/rules/test_ceiling.py",),
    "giftcards/rules/money.py": ("tests/rules/test_money.py",),
    "giftcards/settlement.py": (
        "tests/test_settlement.py",
        "--deselect=tests/test_settlement.py::TestAtOnce",
    ),
    "giftcards/rules/verdict.py": ("tests/rules/test_verdict.py",),
    "giftcards/rules/identity.py": ("tests/rules/test_identity.py",),
    "giftcards/rules/lost_orders.py": ("tests/rules/test_lost_orders.py",),
    "giftcards/engine/request_budget.py": (
        "tests/engine/test_request_budget.py",
        # These tests simulate whole minutes and take as long as all the others together.
        "--deselect=tests/engine/test_request_budget.py::TestWindow",
    ),
    "giftcards/books/pairing.py": ("tests/books/test_pairing.py",),
    "giftcards/books/matching.py": ("tests/books/test_matching.py", "tests/books/test_expected.py"),
}

# Mutants that survive because no test can distinguish them from the original code: the function and
# the changed line, each with the reason.
EQUIVALENT: dict[str, dict[tuple[str, str], str]] = {
    "giftcards/rules/states.py": {
        ("_statuses_where", "return tuple(None)"): "it is called only while the module is imported",
        (
            "_statuses_where",
            "return tuple(status for status in Status if fits(None))",
        ): "it is called only while the module is imported",
    },
    "giftcards/engine/request_budget.py": {
        (
            "Budget.take",
            "free = RequestSlot.objects.among(numbers).free(now).values_list(flat=True)",
        ): "the number is the first column",
        (
            "Budget.wait_for",
            "free_at += slots[reserve : reserve + 2]",
        ): "they are sorted: the second is not earlier",
    },
    "giftcards/books/matching.py": {
        (
            "_refunding",
            "settled = Order.objects.filter(finalized_at__range=(start, end), )",
        ): "of other orders no refund is expected: they are judged None, as before",
        ("_refunding", 'return settled.order_by("pk")'): "pairing sorts them itself",
        ("_refunding", 'return settled.order_by("finalized_at", )'): "pairing sorts them itself",
        (
            "_Matching.by_name",
            'naming = open_entries.exclude(objid=None).values_list("pk", "objid", "amount")',
        ): "no order has an empty name",
        (
            "_Matching.by_name",
            'naming = open_entries.exclude(objid="XXXX").values_list("pk", "objid", "amount")',
        ): "no order has an empty name",
        (
            "_Matching.by_amount",
            "offset = self._learn_offset() if (offset is None) or True else offset",
        ): "learnt again, it is the same",
        (
            "_Matching._unnamed",
            'rows = entries.order_by("pk").values_list(*_Entry._fields)',
        ): "pairing sorts them itself",
        (
            "_Matching._unnamed",
            'rows = entries.order_by("time", ).values_list(*_Entry._fields)',
        ): "pairing sorts them itself",
        (
            "_Matching._unnamed",
            "for row in rows.filter(time__range=(start, end))",
        ): "open entries are there twice; what is left over by that is paired in the second pass",
        (
            "_Matching._unnamed",
            "for row in rows.filter(is_guess__in=[True], )",
        ): "guesses that are far away are made again as they were",
        (
            "_Matching._learn_offset",
            'latest = charges.order_by("-pk")',
        ): "which charges are the latest matters above 500 of them",
        (
            "_Matching._learn_offset",
            'latest = charges.order_by("-time", )',
        ): "which charges are the latest matters above 500 of them",
        (
            "_Matching._learn_offset",
            "named = latest.filter(is_guess=False)",
        ): "entries without an order have no moment of sending",
        (
            "_Matching.judge",
            "settled = _refunding(start - GRACE, self._end + GRACE)",
        ): "judged within the time of grace, a refund that lacks is None, as before",
        (
            "_Matching.judge",
            "lately = (self._read_until - _LATE_CREDIT, self._read_until + GRACE)",
        ): "what lacks is past its time of grace",
        (
            "_Matching.judge",
            'settled.values_list(flat=True), lacking.values_list("pk", flat=True)',
        ): "the primary key is the first column",
        (
            "_Matching.judge",
            'settled.values_list("pk", flat=True), lacking.values_list(flat=True)',
        ): "the primary key is the first column",
        (
            "_verdict",
            "is_late = order.finalized_at + GRACE < read_until",
        ): "a microsecond of the time of grace",
        (
            "_verdict",
            "return False if is_late or credited >= promised else None",
        ): "equal amounts were returned above",
        (
            "_without_entry",
            "entries = LedgerEntry.objects.filter(type=kind).order_by()",
        ): "entries of other orders remove nothing, and take time",
        (
            "_stretches",
            "if stretches and start < stretches[-1][1] + _NOT_WORTH_A_QUERY:",
        ): "one query or two find the same orders",
        (
            "_stretches",
            "if stretches and start <= stretches[-1][1] - _NOT_WORTH_A_QUERY:",
        ): "one query or two find the same orders",
    },
    "giftcards/books/pairing.py": {
        (
            "_densest",
            "if (end - position, -abs(middle)) >= (most, -abs(best)):",
        ): "of two that are as many and as near to 0, neither is better"
    },
}

_SETTINGS = """
[tool.mutmut]
source_paths = ["giftcards"]
only_mutate = ["{module}"]
also_copy = ["example_project"]
# Tables are made without migrations, which take longer than most tests. The code is not that of the
# project that pytest-django would find.
pytest_add_cli_args = [
    "--hypothesis-profile=mutation",
    "--nomigrations",
    "-p", "no:cacheprovider",
    "-o", "django_find_project=false",
]
pytest_add_cli_args_test_selection = {tests}
# What is written into the log is for people.
do_not_mutate_patterns = ['logger\\.']
use_git_change_detection = false
# A mutant is a loop without end after 15 times as long as its tests take, and a minute.
timeout_constant = 4.0
# Each mutant has a process in which no test has run: hypothesis would refuse to run one again.
process_isolation = "forkserver"
"""
# A mutant with an endless loop also counts as detected.
_KILLED = {"killed", "timeout"}


class Survivor(NamedTuple):
    name: str
    function: str
    # The changed lines, before and after the change.
    before: str
    after: str


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("module", nargs="*", help="the only ones, as in giftcards/rules/money.py")
    parser.add_argument(
        "--survivors", action="store_true", help="test only what survived the last run"
    )
    options = parser.parse_args()
    if unknown := set(options.module) - TESTS.keys():
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}")
    is_clean = True
    for module in options.module or TESTS:
        is_clean &= mutate(module, is_repeated=options.survivors)
    sys.exit(0 if is_clean else 1)


def mutate(module: str, *, is_repeated: bool) -> bool:
    """Test the mutants of ``module`` and print the result; return True if no survivor is new.

    If ``is_repeated`` is true, mutants that a test has already detected are left out.
    """
    began = time.monotonic()
    folder = FOLDER / module.removesuffix(".py").replace("/", ".")
    only = []
    if is_repeated:
        # mutmut has to find out again which test runs which function.
        (folder / "mutants" / "mutmut-stats.json").unlink()
        only = [name for name, result in _results(folder).items() if result != "killed"]
    else:
        _prepare(folder, module)
    log = folder / "mutmut.log"
    with log.open("w") as out:
        done = subprocess.run([MUTMUT, "run", *only], cwd=folder, env=_environment(), stdout=out)
    if done.returncode:
        say(f"{module}: mutmut has failed, see {log}.")
        return False
    known = EQUIVALENT.get(module, {})
    survivors = [_survivor(folder, name) for name in _survivors(folder)]
    reasons = [(each, known.get((each.function, each.after), "")) for each in survivors]
    count, seconds = len(_results(folder)), time.monotonic() - began
    killed = count - len(survivors)
    explained = sum(bool(reason) for _each, reason in reasons)
    say(
        f"{module}: {count} mutants, {killed} killed ({killed / count:.1%}),"
        f" {explained} explained, {seconds:.0f} s"
    )
    for each, reason in reasons:
        say(f"    {each.name}: {reason or 'survived'}\n      - {each.before}\n      + {each.after}")
    return explained == len(survivors)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _prepare(folder: Path, module: str) -> None:
    """Create ``folder`` anew, with settings that let mutmut find the code and the tests."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("giftcards", "tests", "example_project"):
        (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    settings = _SETTINGS.format(module=module, tests=list(TESTS[module]))
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + settings)


def _results(folder: Path) -> dict[str, str]:
    """Return the result of each mutant, by its name."""
    lines = _mutmut(folder, "results", "--all=true").splitlines()
    return dict(line.strip().split(": ", 1) for line in lines)


def _survivors(folder: Path) -> list[str]:
    return [name for name, result in _results(folder).items() if result not in _KILLED]


def _environment() -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": "sqlite://:memory:", "GIFTCARDS_TESTS_REQUIRE_ALL": ""}


def _mutmut(folder: Path, *args: str) -> str:
    return subprocess.run(
        [MUTMUT, *args], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def _survivor(folder: Path, name: str) -> Survivor:
    """Return the change of a mutant.

    ``name`` is, for example, ``giftcards.rules.money.x_payment_breakdown__mutmut_1``.
    """
    lines = _mutmut(folder, "show", name).splitlines()
    mangled = name.rpartition(".")[2].rpartition("__mutmut_")[0]
    function = mangled.removeprefix("x").removeprefix("_").strip("ǁ").replace("ǁ", ".")
    before, after = (
        " ".join(
            line[1:].strip() for line in lines if re.match(rf"{re.escape(sign)}(?!\{sign})", line)
        )
        for sign in "-+"
    )
    return Survivor(name, function, before, after)


if __name__ == "__main__":
    main()
