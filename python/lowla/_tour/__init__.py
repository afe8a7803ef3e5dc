"""`python -m lowla tour`: every kernel on real data, beside the tool one would use instead.

A stop of the tour is a module of this package with a function `visit(out, size) -> Stop`; the
runner visits them in the order of their names, prints one table and writes one page.
"""

from __future__ import annotations

import base64
import html
import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import lowla

Size: TypeAlias = Literal["small", "full"]
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One comparison: our call and the usual tool's on the same input."""

    kernel: str
    input: str
    seconds: float
    error: float
    usual: str
    usual_seconds: float
    usual_error: float


@dataclass(frozen=True)
class Picture:
    file: str
    caption: str


@dataclass(frozen=True)
class Stop:
    title: str
    text: str
    rows: list[Row]
    pictures: list[Picture]


_BUDGET = {"small": 0.1, "full": 1.0}


def timed(work: Callable[[], T], size: Size) -> tuple[T, float]:
    """The result and the shortest time of a call, repeated up to 9 times in a budget of seconds.

    The shortest, because whatever else runs on the machine only ever adds to it.
    """
    time.sleep(0.05)  # the threads of the library timed before go to sleep
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds) < _BUDGET[size] and len(seconds) < 9):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def timed_at_its_best(work: Callable[[], T], size: Size) -> tuple[T, float]:
    """`timed` with BLAS on all threads and on one, whichever is faster.

    A tool that alternates between NumPy's BLAS and SciPy's loses much time to their two thread
    pools on few cores.
    """
    from threadpoolctl import threadpool_limits

    result, seconds = timed(work, size)
    with threadpool_limits(1, user_api="blas"):
        return result, min(seconds, timed(work, size)[1])


def run(out: Path, size: Size) -> list[Stop]:
    """Visit all stops; print the table; write the pictures and index.html to `out`."""
    for library in ("matplotlib", "sklearn"):
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ImportError(f"the tour needs {library}: pip install 'lowla[plot]'") from error
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    stops = [importlib.import_module(f"{__name__}.{name}").visit(out, size) for name in names]
    print(f"lowla {lowla.__version__}, backend {lowla.get_backend()}\n")
    print(table([row for stop in stops for row in stop.rows]))
    print("\ntime: shortest of several calls; error: relative, Frobenius norm; ratio: of the times")
    page = out / "index.html"
    page.write_text(_page(stops, out), encoding="utf-8")
    print(f"pictures and {page} written")
    return stops


_HEADS = ("kernel", "input", "lowla", "error", "usual tool", "its time", "its error", "ratio")
_LEFT = ("kernel", "input", "usual tool")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.kernel,
        row.input,
        _duration(row.seconds),
        f"{row.error:.2e}",
        row.usual,
        _duration(row.usual_seconds),
        f"{row.usual_error:.2e}",
        f"{row.usual_seconds / row.seconds:.1f}x",
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def table(rows: list[Row]) -> str:
    """The rows as aligned text; error is relative, in the Frobenius norm; ratio is of the times."""
    lines = [_HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADS))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = zip(line, widths, _HEADS, strict=True)
        padded = (c.ljust(w) if head in _LEFT else c.rjust(w) for c, w, head in cells)
        return "  ".join(padded).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([aligned(lines[0]), rule, *map(aligned, lines[1:])])


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
       max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p.sub { color: #57606a; margin-top: .25rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th { font-weight: 600; border-bottom-color: #8c959f; } .left { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .9rem; }
"""


def _page(stops: list[Stop], out: Path) -> str:
    sections = "\n".join(_section(stop, out) for stop in stops)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>lowla tour</title><style>{_STYLE}</style></head>
<body>
<h1>lowla tour</h1>
<p class="sub">lowla {lowla.__version__}, backend {lowla.get_backend()},
{lowla.get_num_threads()} threads. Times are the shortest of several calls, the usual tool's with
BLAS on all threads or on one, whichever is faster; errors are relative, in the Frobenius norm;
ratio is the usual tool's time over lowla's.</p>
{sections}
</body>
</html>
"""


def _section(stop: Stop, out: Path) -> str:
    classes = ["left" if head in _LEFT else "" for head in _HEADS]

    def line(tag: str, cells: tuple[str, ...]) -> str:
        filled = zip(cells, classes, strict=True)
        return (
            "<tr>"
            + "".join(f'<{tag} class="{c}">{html.escape(cell)}</{tag}>' for cell, c in filled)
            + "</tr>"
        )

    rows = "\n".join([line("th", _HEADS), *(line("td", _cells(row)) for row in stop.rows)])
    figures = "\n".join(_figure(picture, out) for picture in stop.pictures)
    return f"""<h2>{html.escape(stop.title)}</h2>
<p>{html.escape(stop.text)}</p>
<div class="wide"><table>
{rows}
</table></div>
{figures}"""


def _figure(picture: Picture, out: Path) -> str:
    data = base64.b64encode((out / picture.file).read_bytes()).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
