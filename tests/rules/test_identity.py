"""The check that an answer is about our order: everything it says about the line must match."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giftcards.rules.identity import find_difference, line_of
from giftcards.rules.problems import Problem
from tests.builders import PRODUCT, TYPE, answer

LINE = (PRODUCT, TYPE, 5)
NAMED = {"product_id": PRODUCT, "type_id": TYPE, "quantity": 5}
SENT_AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize("left_out", [(), *[(name,) for name in NAMED], tuple(NAMED)])
def test_parts_of_the_line_that_an_answer_leaves_out_make_no_difference(
    left_out: tuple[str, ...],
) -> None:
    named = {name: value for name, value in NAMED.items() if name not in left_out}
    told = answer(**named)
    assert find_difference(told, LINE, sent_at=SENT_AT) is None
    assert (line_of(told) == LINE) is (left_out == ())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"quantity": 4}, Problem("quantity_differs", {"told": 4, "ordered": 5})),
        ({"quantity": 0}, Problem("quantity_differs", {"told": 0, "ordered": 5})),
        ({"product_id": PRODUCT.upper()}, Problem("line_differs", {"field": "product"})),
        ({"type_id": "type_002"}, Problem("line_differs", {"field": "type"})),
    ],
)
def test_an_answer_with_another_product_type_or_quantity_is_of_another_order(
    changes: dict[str, Any], problem: Problem
) -> None:
    assert find_difference(answer(**{**NAMED, **changes}), LINE) == problem


@pytest.mark.parametrize("sign", [-1, 1])
def test_an_answer_more_than_two_hours_off_the_sending_is_of_another_order(sign: int) -> None:
    """Up to two hours are accepted, because a time without a time zone is off by whole hours."""
    near = answer(**NAMED, created_at=SENT_AT + sign * timedelta(hours=2))
    far = answer(**NAMED, created_at=SENT_AT + sign * (timedelta(hours=2) + SECOND))
    assert find_difference(near, LINE, sent_at=SENT_AT) is None
    differs = Problem("line_differs", {"field": "time"})
    assert find_difference(far, LINE, sent_at=SENT_AT) == differs
    assert find_difference(far, LINE) is None


texts = st.sampled_from(["", PRODUCT, TYPE, "CANARY-CODE-1234"])


@given(texts, texts, st.none() | st.integers(-1, 6))
def test_a_difference_quotes_no_text_of_the_answer(
    product_id: str, type_id: str, quantity: int | None
) -> None:
    told = answer(product_id=product_id, type_id=type_id, quantity=quantity)
    found = find_difference(told, LINE)
    assert found is None or "CANARY" not in f"{found.as_dict()} {found}"
    fits = product_id in {"", PRODUCT} and type_id in {"", TYPE} and quantity in {None, 5}
    assert (found is None) is fits
