"""Every figure of a report is computed in SQL and in Python, and both results agree."""

from __future__ import annotations

from dataclasses import fields
from random import Random

import pytest
from django.db import transaction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from giftcards.books.figures import FIGURES, SUMS, Figures, Line, Side, read_sums
from giftcards.models import Order
from tests.books.random_shop import add_books
from tests.laws import examples

pytestmark = pytest.mark.django_db


@given(st.integers(0, 2**32))
@hypothesis_settings(max_examples=examples(25))
def test_in_any_shop_the_sql_of_each_figure_is_its_function_of_each_order(seed: int) -> None:
    with transaction.atomic():
        add_books(12, Random(seed))
        final = Order.objects.filter(finalized_at__isnull=False)
        in_sql = {row.pop("pk"): row for row in final.values("pk").annotate(**SUMS)}
        assert len(in_sql) == final.count() > 0
        for order in final:
            line = Line(order)
            known = {name: figure.of(line) for name, figure in FIGURES.items()}
            # An unknown value is NULL, so that it is left out of sums.
            left_out = {name for name, value in known.items() if value is None}
            row = in_sql[order.pk]
            assert left_out <= {name for name in FIGURES if row[f"sum_of_{name}"] is None}
            found = read_sums(row)
            assert {name: getattr(found, name) for name in FIGURES} == {
                name: value or 0 for name, value in known.items()
            }
        transaction.set_rollback(True)


def test_each_figure_is_declared_once_and_has_a_label_of_its_own() -> None:
    assert list(FIGURES) == [each.name for each in fields(Figures)]
    labels = [str(figure.label) for figure in FIGURES.values()]
    assert len(set(labels)) == len(labels)
    assert {name for name, figure in FIGURES.items() if figure.tells_costs} == {
        name for name, figure in FIGURES.items() if figure.side in {Side.PROVIDER, Side.MARGIN}
    }
