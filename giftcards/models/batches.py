"""Looking up many rows, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

# For more than 200 keys or names, MariaDB prefers a full table scan to index lookups.
_AT_ONCE = 100


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield ``items`` in lists of 100, each for one query; the last list may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch
