"""Problem codes: each has its texts in every language, and the code uses no others."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import translation

import giftcards
from giftcards.rules.problems import (
    AMOUNTS,
    FIELDS,
    IN_SHORT,
    PARAMETERS,
    REASONS,
    WORDINGS,
    Problem,
    history,
    in_english,
    revise,
)
from giftcards.rules.states import Kind
from giftcards.text.display import explained

PACKAGE = Path(giftcards.__file__).parent
LANGUAGES = ("en", "fr", "ar")
LOST = Problem("status_unknown", {"status": "LOST"})
ENDED = Problem("watch_ended")
SURPLUS = Problem("surplus_cards", {"received": 4, "announced": 3})
# Words that do not help staff.
JARGON = re.compile(r"\b(worker|sweep|calls?|claim|receiver|manage\.py|API|process|lease)\b")


def example(code: str, **more: str) -> Problem:
    """Return a problem with a value for each parameter of its texts."""
    return Problem(code, {name: f"<{name}>" for name in WORDINGS[code].parameters} | more)


def placeholders(*texts: Any) -> set[str]:
    return {name for text in texts for name in re.findall(r"%\((\w+)\)s", str(text))}


def strings_passed(*names: str) -> Iterator[str]:
    """Yield the texts in the first arguments of all calls with these names in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name in names and node.args:
                    yield from (
                        leaf.value
                        for leaf in ast.walk(node.args[0])
                        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
                    )


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", WORDINGS)
class TestEachCode:
    def test_each_problem_code_has_a_text_with_its_parameters(
        self, code: str, language: str
    ) -> None:
        problem = example(code)
        with translation.override(language):
            found = problem.explain()
        for name in WORDINGS[code].parameters:
            assert f"<{name}>" in found.text
        assert not placeholders(*found)
        assert "%(" not in "".join(found)

    def test_each_problem_code_is_escaped_and_isolated_on_a_page(
        self, code: str, language: str
    ) -> None:
        with translation.override(language):
            found = explained(example(code, message="<b>no</b>"), shows_costs=True)
        for name in WORDINGS[code].parameters:
            assert f"<bdi>&lt;{name}&gt;</bdi>" in found.text
        # The provider's own English message is only for developers.
        assert "&lt;b&gt;no" not in found.text + found.remedy
        assert "<bdi>&lt;b&gt;no&lt;/b&gt;</bdi>" in found.hint

    def test_each_problem_code_has_texts_of_its_own_in_each_language(
        self, code: str, language: str
    ) -> None:
        wording = WORDINGS[code]
        with translation.override(language):
            found = [str(text) for text in (wording.text, wording.remedy, wording.hint)]
        with translation.override(None):
            english = [str(text) for text in (wording.text, wording.remedy, wording.hint)]
        same = [text for text, original in zip(found, english, strict=True) if text == original]
        assert language == "en" or not any(same)


class TestRegistry:
    def test_the_registry_documents_every_parameter_of_a_problem(self) -> None:
        for code, wording in WORDINGS.items():
            assert not placeholders(wording.remedy, wording.hint), code
            assert wording.parameters <= set(PARAMETERS), code

    def test_the_registry_has_every_problem_code_that_is_used_and_no_other(self) -> None:
        passed = strings_passed("Problem", "Flaw")
        used = {text for text in passed if re.fullmatch(r"[a-z_]+", text)}
        figures = {"figure_unreadable", "figure_negative"}
        assert used | figures == set(WORDINGS)

    def test_every_problem_that_can_hold_tells_staff_what_to_do(self) -> None:
        for code, wording in WORDINGS.items():
            assert wording.remedy or wording.kind is Kind.HISTORY, code

    def test_every_problem_that_can_hold_is_said_in_a_few_words(self) -> None:
        holding = {code for code, wording in WORDINGS.items() if wording.kind is not Kind.HISTORY}
        assert holding == IN_SHORT.keys()
        assert max(len(str(text)) for text in IN_SHORT.values()) <= 28
        assert Problem("of another version").in_short == "needs attention"

    def test_texts_of_problems_for_staff_contain_no_jargon(self) -> None:
        with translation.override(None):
            for wording in WORDINGS.values():
                assert not JARGON.search(f"{wording.text} {wording.remedy}")
            for text in (*REASONS.values(), *FIELDS.values()):
                assert not JARGON.search(str(text))

    def test_every_text_with_an_amount_has_one_without_for_who_may_not_see_costs(self) -> None:
        for code, wording in WORDINGS.items():
            assert bool(wording.discreet) == bool(placeholders(wording.text) & AMOUNTS), code
            used = placeholders(wording.discreet)
            assert used <= wording.parameters - AMOUNTS, code


class TestProblem:
    def test_problems_with_the_same_code_and_parameters_are_equal(self) -> None:
        again = Problem("status_unknown", {"status": "LOST"})
        assert {LOST, again} == {LOST}
        assert Problem("status_unknown", {"status": "OTHER"}) != LOST
        assert LOST.key == again.key

    def test_a_problem_is_stored_as_json(self) -> None:
        stored = json.loads(json.dumps(SURPLUS.as_dict()))
        assert stored == {"code": "surplus_cards", "parameters": {"received": 4, "announced": 3}}
        assert Problem.of(stored) == SURPLUS

    @pytest.mark.parametrize(
        "entry",
        [
            {"code": "of_another_release", "parameters": {"a": 1}},
            {"code": "choose", "parameters": {}},
            {"code": "choose"},
            {},
        ],
    )
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_a_problem_of_another_version_is_a_neutral_sentence(
        self, entry: dict[str, Any], language: str
    ) -> None:
        problem = Problem.of(entry)
        with translation.override(language):
            assert problem.code in problem.text
            assert (problem.remedy, problem.hint) == ("", "")
        assert str(problem).startswith("Somebody has to check this order.")

    def test_a_problem_of_an_unknown_code_is_lasting(self) -> None:
        assert Problem("of_another_release").kind is Kind.LASTING

    def test_a_problem_quotes_the_providers_own_message(self) -> None:
        problem = Problem("refused", {"message": "50% off: %(x)s", "provider_code": "NEW"})
        words = "The provider's message: “50% off: %(x)s”"
        assert problem.text == "The provider refused the order, so nothing was bought."
        assert problem.hint == f"{words} Technical detail: NEW."
        assert str(problem) == f"{problem.text} {words} (NEW)"

    @pytest.mark.parametrize(
        ("language", "name"), [("en", "Delivered"), ("fr", "Livrée"), ("ar", "مُسلَّم")]
    )
    def test_a_problem_tells_a_status_in_words_and_developers_as_it_was(
        self, language: str, name: str
    ) -> None:
        parameters = {"status": "FULFILLED", "delivered": 2, "ordered": 5, "cards": 2}
        with translation.override(language):
            found = Problem("not_whole", parameters).explain()
        assert f" {name} " in found.text
        assert "FULFILLED" not in found.text + found.remedy
        assert "FULFILLED" in found.hint

    def test_a_problem_gives_its_reason_in_the_readers_language(self) -> None:
        problem = Problem("not_sent", {"reason": "key_refused", "detail": "HTTP 401"})
        with translation.override("fr"):
            assert problem.text.endswith("Le fournisseur n’accepte pas la clé de la boutique.")
            assert "HTTP 401" in problem.hint
            assert str(problem) == (
                "The order has not been sent to the provider yet. The provider does not accept the"
                " shop's key. (HTTP 401)"
            )

    def test_a_problem_names_a_figure_in_the_readers_language(self) -> None:
        problem = Problem("figure_unreadable", {"field": "price_per_card", "fault": "not_a_number"})
        with translation.override("fr"):
            assert "prix par carte" in problem.text
        assert Problem("figure_unreadable", {"field": "totalPages"}).text.endswith(": totalPages.")


TICKED = {
    **LOST.as_dict(),
    "acknowledged_by": "amina",
    "acknowledged_at": "2026-11-25T02:00:00+00:00",
}


class TestRevising:
    def test_revising_keeps_problems_of_other_kinds(self) -> None:
        entries = [LOST.as_dict(), SURPLUS.as_dict()]
        assert revise(entries, ends={Kind.ANSWER}) == [SURPLUS.as_dict()]
        assert revise(entries, ends={Kind.SENDING}) == entries

    def test_a_problem_that_holds_on_keeps_its_tick_and_its_place(self) -> None:
        entries = [TICKED, SURPLUS.as_dict()]
        revised = revise(entries, ends={Kind.ANSWER}, new=[ENDED, LOST, ENDED])
        assert revised == [*entries, ENDED.as_dict()]

    def test_revising_problems_changes_no_list_in_place(self) -> None:
        entries = [TICKED]
        revise(entries, ends={Kind.ANSWER}, new=[ENDED])
        assert entries == [TICKED]

    def test_the_history_keeps_problems_that_ended(self) -> None:
        before, after = [LOST.as_dict(), SURPLUS.as_dict()], [SURPLUS.as_dict(), ENDED.as_dict()]
        told = history(before, after, [ENDED])
        assert told == [ENDED.as_dict(), {**LOST.as_dict(), "ended": True}]
        assert in_english(told) == f"{ENDED} Earlier: {LOST}"
