"""One call of a solver: its backend, its progress, and the facts that become `info`."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from lowla import _backend
from lowla._errors import ConvergenceWarning
from lowla._results import Counts, Flags, Reals, RsvdInfo

if TYPE_CHECKING:
    from typing_extensions import Self

    from lowla._arrays import Matrix
    from lowla._backend import Facts, Monitor

Info = TypeVar("Info")
Callback: TypeAlias = Callable[[RsvdInfo], object]


class Call(ABC, Generic[Info]):
    """Picks the backend for `M`; as a context, times the work and shows a progress bar."""

    def __init__(
        self,
        function: str,
        M: Matrix,
        callback: Callable[[Info], object] | None,
        progress: bool = False,
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        self.name, self.backend = _backend.select_for(function, M.device)
        self.M = M.for_backend(self.name)
        self._function = function
        self._callback = callback
        self._bar = _progress_bar(function) if progress else None
        self._stopped = False
        self._start = time.perf_counter()
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(self.M.current_device())
        if self._bar is not None:
            self._exit.callback(self._bar.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._exit.__exit__(kind, error, trace)

    @property
    def monitor(self) -> Monitor | None:
        """What the backend calls after each outer iteration."""
        return None if self._callback is None and self._bar is None else self._report

    def _report(self, iteration: int, error: float) -> bool:
        if self._bar is not None:
            self._bar.set_postfix_str(f"error {error:.1e}", refresh=False)
            self._bar.update(1)
        if self._callback is not None:
            self._stopped = bool(self._callback(self._so_far(iteration, error)))
        return self._stopped

    @abstractmethod
    def _so_far(self, iteration: int, error: float) -> Info:
        """The info that the callback gets."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def warn(self, message: str) -> None:
        """A ConvergenceWarning, unless the callback asked for the end."""
        if not self._stopped:
            warnings.warn(f"{self._function} {message}", ConvergenceWarning, stacklevel=4)


class RsvdCall(Call[RsvdInfo]):
    """A low-rank factorisation."""

    def __init__(
        self,
        function: str,
        M: Matrix,
        k: int | None,
        tol: float | None,
        callback: Callback | None,
        progress: bool,
    ) -> None:
        super().__init__(function, M, callback, progress)
        self.k = k
        self.tol = tol

    def _so_far(self, iteration: int, error: float) -> RsvdInfo:
        return RsvdInfo(
            k=self.k,
            tol=self.tol,
            rank=self.k or 0,
            error=error,
            error_method="running",
            spectral_error=float("nan"),
            passes=iteration,
            iterations=iteration,
            converged=False,
            method=self._function,
            basis=0,
            backend=self.name,
            seconds=self.seconds,
        )

    def info(self, facts: Facts) -> RsvdInfo:
        """The backend's facts as `info`; warns where the answer is not what was asked."""
        made = info(facts, self.M.shape[:-2], self.k, self.tol, self.name, self._start)
        if made.converged is True or np.all(made.converged):
            return made
        worst = float(np.max(made.error, initial=0.0))
        if not np.isnan(worst):
            asked = "" if self.tol is None else f", asked was tol={self.tol:g}"
            self.warn(f"stopped at a relative error of {worst:.1e}{asked}")
        return made

    def exact(self) -> RsvdInfo:
        """The info of an empty matrix."""
        return self.info(
            {
                "rank": 0,
                "error": 0.0,
                "error_method": "exact",
                "spectral_error": 0.0,
                "passes": 0,
                "iterations": 0,
                "converged": True,
                "method": "direct",
                "basis": 0,
            }
        )


def info(
    facts: Facts,
    stack: tuple[int, ...],
    k: int | None,
    tol: float | None,
    backend: _backend.BackendName,
    start: float,
) -> RsvdInfo:
    """A backend's facts as `RsvdInfo`, for a stack each as an array of its shape."""

    def measured(name: str, kind: type) -> object:
        if not stack:
            return kind(facts[name])
        return np.broadcast_to(np.asarray(facts[name], kind), int(np.prod(stack))).reshape(stack)

    return RsvdInfo(
        k=k,
        tol=tol,
        rank=cast(Counts, measured("rank", int)),
        error=cast(Reals, measured("error", float)),
        error_method=_word(facts["error_method"]),
        spectral_error=cast(Reals, measured("spectral_error", float)),
        passes=cast(Counts, measured("passes", int)),
        iterations=cast(Counts, measured("iterations", int)),
        converged=cast(Flags, measured("converged", bool)),
        method=_word(facts["method"]),
        basis=cast(Counts, measured("basis", int)),
        backend=backend,
        seconds=time.perf_counter() - start,
    )


def _word(value: object) -> str:
    """One word, or the different words of a stack."""
    return value if isinstance(value, str) else ", ".join(sorted(set(cast("list[str]", value))))


class _Bar(Protocol):
    """The part of tqdm's bar that is used here (it has no type hints)."""

    def set_postfix_str(self, s: str, refresh: bool) -> None: ...
    def update(self, n: int) -> None: ...
    def close(self) -> None: ...


def _progress_bar(function: str) -> _Bar:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install 'lowla[plot]'") from error
    return cast(_Bar, tqdm(desc=function, unit=" iterations"))
