"""`rng=` to a Philox key.

All randomness in lowla is Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) addressed by
(key, stream, row, column): one 64-bit key decides every entry of every sketch.
"""

from __future__ import annotations

import functools
import operator
from typing import TypeAlias

import numpy as np

RngLike: TypeAlias = "int | np.integer | np.random.Generator | np.random.SeedSequence | None"


def philox_key(rng: RngLike) -> int:
    """The 64-bit key of `rng`: the same int always gives the same key, None fresh entropy.

    A Generator is advanced by one draw; a SeedSequence is not changed.
    """
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))
    if rng is None:
        return _first_word(np.random.SeedSequence())
    if isinstance(rng, np.random.SeedSequence):
        return _first_word(rng)
    return _key_of_seed(_seed(rng))


def _first_word(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0])


@functools.lru_cache(maxsize=256)
def _key_of_seed(seed: int) -> int:
    return _first_word(np.random.SeedSequence(seed))


def _seed(rng: object) -> int:
    try:
        if isinstance(rng, bool):
            raise TypeError
        seed = operator.index(rng)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            "rng must be None, an int, a numpy.random.Generator or a numpy.random.SeedSequence, "
            f"got {type(rng).__name__}"
        ) from None
    if seed < 0:
        raise ValueError(f"rng must be a non-negative int, got {seed}")
    return seed
