"""The same computation on different numbers of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import lowla

T = TypeVar("T")


def with_1_2_and_7_threads(compute: Callable[[], T]) -> list[T]:
    """What compute() returns on one thread, two, and more than there are cores."""
    before = lowla.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 7):
            lowla.set_num_threads(threads)
            found.append(compute())
        return found
    finally:
        lowla.set_num_threads(before)
