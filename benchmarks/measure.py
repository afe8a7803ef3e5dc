"""Timing that survives a shared machine: all parties in turn, medians with quartiles, ratios.

A peer with a spinning thread pool of its own (torch) runs in a child process, so that no pool is
spinning while another party is measured; everything else runs in this process. Between the turns
of two parties all pools are left to fall asleep; a short call is made once before it is timed, so
that no one is charged for a processor that has to wake up.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module, metadata
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

PAUSE = 0.25  # seconds between turns: longer than any pool spins (OpenBLAS: up to 0.2 s)
SHORT = 0.25  # seconds: calls below are made once untimed in every turn


@dataclass
class Party:
    """Somebody who solves the case: `call()` once a repetition; `error` of its answer, if known."""

    name: str
    call: Callable[[], object]
    error: float = float("nan")
    seconds: list[float] = field(default_factory=list)

    def time_once(self) -> None:
        start = time.perf_counter()
        timed = self.call()
        elapsed = time.perf_counter() - start
        self.seconds.append(timed if isinstance(timed, float) else elapsed)

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.percentile(self.seconds, [25, 75])
        return float(low), float(high)


def interleave(parties: Sequence[Party], repetitions: int) -> None:
    """Warm every party up once, then time them in turn."""
    short = []
    for party in parties:
        start = time.perf_counter()
        party.call()
        short.append(time.perf_counter() - start < SHORT)
        time.sleep(PAUSE)
    for _ in range(repetitions):
        for party, warm_up in zip(parties, short, strict=True):
            if warm_up:
                party.call()
            party.time_once()
            time.sleep(PAUSE)


def _serve(connection: Connection, module: str, function: str) -> None:
    solve = getattr(import_module(module), function)
    while (request := connection.recv()) is not None:
        start = time.perf_counter()
        result = solve(**request)
        connection.send((time.perf_counter() - start, result))


class ChildProcess:
    """A peer in a process of its own: `call(**request)` runs module.function(**request) there."""

    def __init__(self, module: str, function: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, module, function), daemon=True)
        self._process.start()

    def call(self, **request: object) -> tuple[float, object]:
        """Seconds inside the child, and what the function returned."""
        self._connection.send(request)
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError("the peer's process died")
        seconds, result = self._connection.recv()
        return seconds, result

    def close(self) -> None:
        self._connection.send(None)
        self._process.join(10)


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes of resident memory that the call adds at its peak, sampled; in a fresh process."""
    import psutil

    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # what is free and held counts as resident
        ctypes.CDLL(None).malloc_trim(0)
    process, peak, stop = psutil.Process(), [0], threading.Event()
    base = process.memory_info().rss

    def sample() -> None:
        while not stop.wait(0.0005):
            peak[0] = max(peak[0], process.memory_info().rss - base)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        call()
    finally:
        stop.set()
        sampler.join()
    return peak[0]


def cpu_name() -> str:
    """The processor, as the system calls it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of the packages, those that are there."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
