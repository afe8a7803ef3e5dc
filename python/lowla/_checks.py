"""Checks of scalar arguments; each message names the argument, what it got and what it needs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Literal

AUTO = -1
"""What the backends take for `n_iter="auto"`."""


def integer(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an int, got {type(value).__name__}") from None


def count(name: str, value: object, *, least: int = 0) -> int:
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def rank(k: object, shape: tuple[int, ...]) -> int:
    number = integer("k", k)
    largest = min(shape[-2:])
    if not 1 <= number <= largest:
        of = "A.shape" if len(shape) == 2 else "A.shape[-2:]"
        raise ValueError(f"k must be in 1..min({of}) = {largest}, got {number}")
    return number


def real(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}") from None


def tolerance(tol: object, name: str = "tol") -> float:
    number = real(name, tol)
    if not 0 < number < 1:
        raise ValueError(f"{name} must be in (0, 1), got {number:g}")
    return number


def nonnegative(name: str, value: object) -> float:
    number = real(name, value)
    if not 0 <= number < float("inf"):
        raise ValueError(f"{name} must be a finite number >= 0, got {number:g}")
    return number


def positive(name: str, value: object) -> float:
    number = real(name, value)
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} must be a finite number > 0, got {number:g}")
    return number


def n_iter(value: int | Literal["auto"]) -> int:
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(f"n_iter must be an int or 'auto', got {value!r}")
        return AUTO
    return count("n_iter", value)


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def norm_order(p: object) -> float:
    number = real("p", p)
    if not 1 <= number < float("inf"):
        raise ValueError(f"p must be at least 1 and finite, got {number:g}")
    return number
