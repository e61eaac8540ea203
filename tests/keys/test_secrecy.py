"""Masked texts behave like any text, and contained functions do not expose their frames."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from django.template import Context, Template

from giftcards.exceptions import DecryptionError
from giftcards.keys.secrecy import Masked, contained

CODE = "CANARY-<1>"


class TestMasked:
    @pytest.mark.parametrize(
        "show",
        [
            str,
            "{}".format,
            lambda text: f"{text}",
            lambda text: "%s" % text,  # noqa: UP031
            "".join,
            lambda text: text[:],
            lambda text: text.encode().decode(),
            lambda text: json.loads(json.dumps(text)),
            lambda text: json.loads(json.dumps(text, indent=1)),
            lambda text: pickle.loads(pickle.dumps(text)),
        ],
    )
    def test_a_masked_text_is_read_like_any_text(self, show: Callable[[str], str]) -> None:
        assert show(Masked(CODE)) == CODE
        assert {CODE: 1}[Masked(CODE)] == 1

    def test_a_masked_text_is_escaped_by_a_template(self) -> None:
        page = Template("{{ code }} {{ code|safe }}").render(Context({"code": Masked(CODE)}))
        assert page == "CANARY-&lt;1&gt; CANARY-<1>"

    @pytest.mark.parametrize("show", [repr, ascii, "{!r}".format, lambda text: str([text])])
    def test_the_repr_of_a_masked_text_does_not_show_it(self, show: Callable[[str], str]) -> None:
        assert show(Masked(CODE)).strip("[]") == "<masked>"

    def test_a_masked_text_cannot_be_given_attributes(self) -> None:
        with pytest.raises(AttributeError):
            Masked(CODE).note = CODE  # type: ignore[attr-defined]


def frames_of(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _line in traceback.walk_tb(error.__traceback__)]


class TestContained:
    def test_a_contained_function_keeps_its_result_name_and_docstring(self) -> None:
        @contained
        def double(number: int, *, plus: int = 0) -> int:
            """Its docstring."""
            return 2 * number + plus

        assert double(3, plus=1) == 7
        assert (double.__name__, double.__doc__) == ("double", "Its docstring.")

    def test_an_exception_leaves_a_contained_function_without_frames_or_cause(self) -> None:
        @contained
        def fail(how: str) -> None:
            code = CODE + how
            try:
                raise ValueError(code)
            except ValueError as error:
                if how == "cause":
                    raise DecryptionError("told") from error
                raise DecryptionError("told")  # noqa: B904

        for how in ("cause", "context"):
            with pytest.raises(DecryptionError, match=r"^told$") as caught:
                fail(how)
            error = caught.value
            assert (error.__cause__, error.__context__) == (None, None)
            assert frames_of(error)[1:] == ["contain"]
            assert CODE not in "".join(traceback.format_exception(error))

    def test_an_exception_keeps_the_one_that_the_caller_was_handling(self) -> None:
        @contained
        def fail() -> None:
            raise DecryptionError("told")

        try:
            raise KeyError("theirs")
        except KeyError:
            with pytest.raises(DecryptionError) as caught:
                fail()
        assert repr(caught.value.__context__) == "KeyError('theirs')"

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
    def test_an_exception_that_is_not_ours_notes_where_it_was_raised(self, kind: Any) -> None:
        @contained
        def outer() -> None:
            inner()

        @contained
        def inner() -> None:
            raise kind

        with pytest.raises(kind) as caught:
            outer()
        [note] = caught.value.__notes__
        heading, line = note.split("\n")
        assert heading == "Traceback without variables (most recent call last):"
        assert line.strip() == f"{__file__}:{inner.__wrapped__.__code__.co_firstlineno + 2}"  # type: ignore[attr-defined]

    def test_the_arguments_of_a_contained_function_are_in_no_frame(self) -> None:
        @contained
        def fail(_code: str, *, _serial: str) -> None:
            raise DecryptionError("told")

        with pytest.raises(DecryptionError) as caught:
            fail(CODE, _serial=CODE)
        _test, (frame, _line) = traceback.walk_tb(caught.value.__traceback__)
        assert CODE not in repr(frame.f_locals)
