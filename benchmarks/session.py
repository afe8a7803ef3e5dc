"""What a run of the benchmarks collects, prints, stores and draws."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import lowla
from benchmarks.limits import Limits
from benchmarks.measure import ChildProcess, Party, cpu_name, versions


@dataclass
class Row:
    """One case: ours first, then the peers; the limit in seconds."""

    case: str
    parties: list[Party]
    limit: float
    machine: str = ""
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def ours(self) -> Party:
        return self.parties[0]

    def peers(self) -> dict[str, float]:
        """The peers' times over ours."""
        return {p.name: p.median / self.ours.median for p in self.parties[1:]}

    def text(self) -> str:
        ours = self.ours
        lines = [f"{self.case}"]
        for party in self.parties:
            low, high = party.quartiles
            ratio = "" if party is ours else f"{party.median / ours.median:6.2f} x ours"
            error = f"excess {party.error:9.1e}" if party.error == party.error else " " * 16
            lines.append(
                f"  {party.name:18s} {party.median * 1e3:9.1f} ms  "
                f"[{low * 1e3:.1f}, {high * 1e3:.1f}]  {error}  {ratio}"
            )
        lines.append(
            f"  {'limit':18s} {self.limit * 1e3:9.1f} ms  "
            f"ours is {ours.median / self.limit:.2f} x it  {self.machine}"
        )
        lines += [f"  {name:35s} {value:6.1%}" for name, value in self.extra.items()]
        return "\n".join(lines)

    def data(self) -> dict[str, object]:
        return {
            "case": self.case,
            "limit_seconds": self.limit,
            "machine": self.machine,
            "ours_over_limit": self.ours.median / self.limit,
            "extra": self.extra,
            "parties": [
                {
                    "name": p.name,
                    "median_seconds": p.median,
                    "quartiles": p.quartiles,
                    "over_ours": p.median / self.ours.median,
                    "excess_error": p.error if p.error == p.error else None,
                    "repetitions": len(p.seconds),
                }
                for p in self.parties
            ],
        }


@dataclass
class Session:
    """Rows by table, printed as they come."""

    repetitions: int = 9
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _limits: dict[str, Limits] = field(default_factory=dict)

    def limits(self, dtype: str) -> Limits:
        """The machine's limits for the dtype; its arrays are made once."""
        if dtype not in self._limits:
            self._limits[dtype] = Limits(dtype)
        return self._limits[dtype]

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            print(text, flush=True)

    def torch_process(self, module: str, function: str) -> ChildProcess | None:
        """module.function in a process of its own, where torch is installed."""
        if find_spec("torch") is None:
            self.note("torch is not installed")
            return None
        return ChildProcess(module, function)

    def add(self, table: str, row: Row) -> None:
        self.tables.setdefault(table, []).append(row)
        print(f"[{table}] {row.text()}", flush=True)

    def save(self, path: Path, command: str) -> None:
        data = {
            "command": command,
            "cpu": cpu_name(),
            "threads": lowla.get_num_threads(),
            "versions": versions(
                "lowla",
                "numpy",
                "scipy",
                "numba",
                "scikit-learn",
                "fbpca",
                "torch",
                "pot",
                "ott-jax",
                "regot",
                "cmfrec",
                "skmatter",
            ),
            "notes": self.notes,
            "tables": {name: [row.data() for row in rows] for name, rows in self.tables.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    def plot(self, folder: Path) -> None:
        """One picture a table: time over ours, one group a case, logarithmic."""
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            figure, axes = plt.subplots(figsize=(9, 0.9 + 0.8 * len(rows)), layout="constrained")
            names = list(dict.fromkeys(p.name for row in rows for p in row.parties[1:]))
            height = 0.8 / max(1, len(names))
            for i, party in enumerate(names):
                places, values = [], []
                for j, row in enumerate(rows):
                    for p in row.parties:
                        if p.name == party:
                            places.append(j + (i - (len(names) - 1) / 2) * height)
                            values.append(p.median / row.ours.median)
                axes.barh(places, values, height, label=party)
            axes.axvline(1, color="black", linewidth=1)
            axes.set_yticks(range(len(rows)), [row.case for row in rows])
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.set_xlabel("time / lowla's time (median)")
            axes.legend(loc="best")
            figure.savefig(folder / f"bench_{name.replace(' ', '_')}.png", dpi=110)
            plt.close(figure)
